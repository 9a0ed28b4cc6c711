"""A user's own module and data set: run under profile `strict`, the same bits as outside, sentences for mistakes."""

from __future__ import annotations

import inspect
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.strict_host import Host
from workers.trainer.source import build, load_class

SOURCE = '''
"""A model and its data, as a user keeps them in one file."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import Dataset


@dataclass
class Shape:
    channels: int = 8
    classes: int = 3


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return x + torch.relu(self.norm(self.conv(x)))


class Net(nn.Module):
    def __init__(self, depth, *, dropout=0.1):
        super().__init__()
        shape = Shape()
        self.stem = nn.Conv2d(1, shape.channels, 3)
        self.blocks = nn.ModuleList(Block(shape.channels) for _ in range(depth))
        self.rnn = nn.LSTM(26 * 26, 32, batch_first=True)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(32, shape.classes)

    def forward(self, x):
        x = self.stem(x) / math.sqrt(2)
        for block in self.blocks:
            x = block(x)
        return self.head(self.drop(self.rnn(x.flatten(2))[0].mean(1)))


class Waves(Dataset):
    """Noise is drawn in __getitem__: the order of the draws is part of the result."""

    def __init__(self, rows):
        self.phase = torch.linspace(0, 6, rows)

    def __len__(self):
        return len(self.phase)

    def __getitem__(self, index):
        grid = torch.arange(784.0).reshape(1, 28, 28) / 50
        return torch.sin(grid + self.phase[index]) + 0.1 * torch.randn(1, 28, 28), index % 3
'''


def textbook(model_class: Any, dataset_class: Any, threads: int) -> list[str]:
    """Six iterations by the plain loop; the losses to the last bit."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, dataset = model_class(depth=2), dataset_class(rows=48)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(dataset, 16, shuffle=True, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(2):
        for x, y in loader:
            loss = nn.CrossEntropyLoss()(model(x), y)
            losses.append(loss.item().hex())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return losses


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """The same source as an ordinary module of this process."""
    module = types.ModuleType("outside")
    monkeypatch.setitem(sys.modules, "outside", module)
    exec(SOURCE, vars(module))
    threads = torch.get_num_threads()
    yield module
    torch.set_num_threads(threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_source_trains_under_strict_with_the_same_bits_as_outside(
    host: Host, folder: Path, outside: types.ModuleType, threads: int
) -> None:
    program = f"""
import json, os, torch
from typing import Any
from torch import nn
from torch.utils.data import DataLoader, Dataset
from workers.trainer.source import build, load_class
{inspect.getsource(textbook)}
source = {SOURCE.encode()!r}
model, dataset = load_class(source, "Net", nn.Module), load_class(source, "Waves", Dataset)
losses = textbook(lambda **kwargs: build(model, kwargs), lambda **kwargs: build(dataset, kwargs), {threads})
print(json.dumps([losses, len(os.listdir("/proc/self/task"))]))
"""
    outcome = host.run(program, folder)
    assert outcome.status == 0, outcome.said
    losses, running = json.loads(outcome.said)
    assert losses == textbook(outside.Net, outside.Waves, threads)
    assert len(set(losses)) == 6
    assert running >= threads  # the OpenMP pool was made after the profile went up


def test_nothing_is_run_outside_the_profile(tmp_path: Path) -> None:
    source = f"open({str(tmp_path / 'ran')!r}, 'w')"
    with pytest.raises(RuntimeError, match="under the sandbox profile strict only"):
        load_class(source.encode(), "Net", nn.Module)
    with pytest.raises(RuntimeError, match="under the sandbox profile strict only"):
        build(nn.ReLU, {})
    assert list(tmp_path.iterdir()) == []


def problems(host: Host, source: str, base: str = "nn.Module", name: str = "Net", kwargs: dict[str, Any] | None = None) -> Any:
    """What the child is told about this source: its problems, the line, and what reached the log."""
    program = f"""
import json, sys
from torch import nn
from torch.utils.data import Dataset
from workers.trainer.source import SourceProblem, build, load_class
try:
    build(load_class({source.encode()!r}, {name!r}, {base}, "mine.py"), {kwargs or {}!r})
except SourceProblem as problem:
    sys.stderr.flush()
    print(json.dumps([[(p.pointer, p.code, p.detail) for p in problem.problems], problem.line]))
"""
    outcome = host.run(program, None)
    assert outcome.status == 0, outcome.said
    log, _, said = outcome.said.strip().rpartition("\n")
    return *json.loads(said), log


NET = "from torch import nn\nclass Net(nn.Module):\n"
DATA = "from torch.utils.data import Dataset\nclass Net(Dataset):\n"
FORWARD = "    def forward(self, x): return x\n"

MISTAKES = {
    "syntax": ("class Net(\n  x = (", "nn.Module", ("/id", "mine.py, line 2: '(' was never closed"), 2),
    "null byte": ("x = 1\0", "nn.Module", ("/id", "null bytes"), None),
    "nesting": ("x = " + "(" * 1000, "nn.Module", ("/id", "too many nested parentheses"), 1),
    "encoding": ("# coding: nothing\n", "nn.Module", ("/id", "unknown encoding"), None),
    "running": ("x = 1\n\ny = x / 0", "nn.Module", ("/id", "the source failed at mine.py, line 3: ZeroDivisionError"), 3),
    "exit": ("import sys\nsys.exit(3)", "nn.Module", ("/id", "mine.py, line 2: SystemExit: 3"), 2),
    "import": ("import pandas_of_mine", "nn.Module", ("/id", "No module named 'pandas_of_mine'"), 1),
    "forbidden": ("import socket\nsocket.socket()", "nn.Module", ("/id", "mine.py, line 2: PermissionError"), 2),
    "no such class": (
        NET.replace("Net", "Nett") + FORWARD,
        "nn.Module",
        ("/class", 'no class "Net"; did you mean "Nett"?'),
        None,
    ),
    "no class": ("x = 1", "nn.Module", ("/class", "it defines no class"), None),
    "other classes": ("class Alpha: pass\nclass Beta: pass", "nn.Module", ("/class", "it has Alpha, Beta"), None),
    "no class but a function": ("def Net(): pass", "nn.Module", ("/class", '"Net" in mine.py is not a class'), None),
    "not a module": ("class Net: pass", "nn.Module", ("/class", 'class "Net" does not inherit torch.nn.Module'), None),
    "not a data set": (NET + FORWARD, "Dataset", ("/class", "does not inherit torch.utils.data.Dataset"), None),
    "the base itself": (
        "from torch.nn import Module as Net",
        "nn.Module",
        ("/class", "does not inherit torch.nn.Module"),
        None,
    ),
    "no forward": (NET + "    pass", "nn.Module", ("/class", "Net does not define forward"), None),
    "no super": (
        NET + "    def __init__(self): pass\n" + FORWARD,
        "nn.Module",
        ("/class", "does not call super().__init__()"),
        None,
    ),
    "super too late": (
        NET + "    def __init__(self):\n        self.a = nn.ReLU()\n" + FORWARD,
        "nn.Module",
        ("", "Net.__init__ failed at mine.py, line 4: AttributeError: cannot assign module before Module.__init__() call"),
        4,
    ),
    "a layer's own complaint": (
        NET + "    def __init__(self):\n        super().__init__()\n        self.a = nn.Conv2d(3, 4, 3, groups=2)\n" + FORWARD,
        "nn.Module",
        ("", "mine.py, line 5: ValueError: in_channels must be divisible by groups"),
        5,
    ),
    "no length": (DATA + "    def __getitem__(self, i): return i", "Dataset", ("/class", "Net does not define __len__"), None),
    "nothing at all": (DATA + "    pass", "Dataset", ("/class", "does not define __len__ and __getitem__"), None),
    "no rows": (
        DATA + "    def __len__(self): return 0\n    def __getitem__(self, i): return i",
        "Dataset",
        ("/class", "Net is empty"),
        None,
    ),
    "length that fails": (
        DATA + "    def __len__(self): return self.n\n    def __getitem__(self, i): return i",
        "Dataset",
        ("/class", "Net.__len__ failed at mine.py, line 3: AttributeError"),
        3,
    ),
    "length that is none": (
        DATA + "    def __len__(self): return -1\n    def __getitem__(self, i): return i",
        "Dataset",
        ("/class", "Net.__len__ gives no length: ValueError"),
        None,
    ),
    "iterable": (
        "from torch.utils.data import IterableDataset\nclass Net(IterableDataset):\n    def __iter__(self): yield 1",
        "Dataset",
        ("/class", "Net is an IterableDataset, which has no length"),
        None,
    ),
}


@pytest.mark.parametrize(("source", "base", "expected", "line"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_in_a_sentence(
    host: Host, source: str, base: str, expected: tuple[str, str], line: int | None
) -> None:
    [(pointer, _, detail)], at, _ = problems(host, source, base)
    assert pointer == expected[0]
    assert expected[1] in detail
    assert at == line


def test_every_argument_that_does_not_fit_is_told_at_once(host: Host) -> None:
    source = NET + "    def __init__(self, width, depth=1): super().__init__()\n" + FORWARD
    found, _, _ = problems(host, source, kwargs={"dept": 2, "a/b": 3})
    assert found == [
        ["/kwargs/dept", "unknown_field", 'Net takes no argument "dept"; did you mean "depth"?'],
        ["/kwargs/a~1b", "unknown_field", 'Net takes no argument "a/b"; it takes width, depth'],
        ["/kwargs/width", "missing", 'Net needs the argument "width"'],
    ]


def test_the_log_has_the_traceback_with_the_users_lines(host: Host) -> None:
    deep = "    def __init__(self):\n        super().__init__()\n        self.deep()\n    def deep(self):\n        1 / 0\n"
    _, line, log = problems(host, NET + deep + FORWARD)
    assert line == 7
    assert 'File "mine.py", line 5, in __init__' in log
    assert "    1 / 0" in log


def test_want_of_memory_is_not_told_as_a_mistake(host: Host, folder: Path) -> None:
    program = """
from torch import nn
from workers.trainer.source import load_class
load_class(b"import torch\\nx = torch.ones(10**11)", "Net", nn.Module)
"""
    outcome = host.run(program, folder)
    assert "RuntimeError: [enforce fail at alloc_cpu" in outcome.said
    assert "SourceProblem" not in outcome.said


def test_errors_of_others_pass_through_user_errors(host: Host, folder: Path) -> None:
    program = """
from workers.trainer.source import user_errors
with user_errors("/model", "Net.forward"):
    raise LookupError("of the loop's own")
"""
    assert "\nLookupError: of the loop's own" in host.run(program, folder).said
