"""The items of a user's Dataset as named arrays: what torch's own default_collate makes of them, or a sentence."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from workers.trainer.fields import InvalidData
from workers.trainer.items import BLOCK_ROWS, Items


class Rows(Dataset[Any]):
    def __init__(self, item: Callable[[int], Any], rows: int = 5) -> None:
        self._item, self._rows = item, rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> Any:
        return self._item(index)


def read(item: Callable[[int], Any], rows: int = 5) -> dict[str, Any]:
    (block,) = Items(Rows(item, rows)).blocks(range(rows))
    return block


Point = namedtuple("Point", ["image", "label"])


@pytest.mark.parametrize(
    "item",
    [
        lambda i: (torch.full((2, 3), i / 3), i % 2),
        lambda i: [np.full(4, i, np.int16), np.float32(i)],
        lambda i: {"x": torch.tensor(i), "mask": i > 2, "weight": i / 7},
        lambda i: (torch.arange(6).reshape(2, 3).t() + i, torch.tensor(i, dtype=torch.float16)),
        lambda i: (np.int64(i), np.bool_(i % 2)),
    ],
)
def test_they_are_what_default_collate_gives(item: Callable[[int], Any]) -> None:
    found = read(item)
    batch = default_collate([item(i) for i in range(5)])
    named = batch if isinstance(batch, dict) else dict(zip("xy", batch, strict=True))
    assert list(found) == list(named)
    for name, values in named.items():
        assert torch.from_numpy(found[name]).dtype == values.dtype
        assert torch.equal(torch.from_numpy(found[name]), values)


def test_fields_are_named_by_the_item() -> None:
    assert list(read(lambda i: Point(torch.zeros(2), i))) == ["image", "label"]
    assert list(read(lambda _: torch.zeros(2))) == ["x"]
    assert read(lambda i: torch.tensor([i], dtype=torch.bfloat16))["x"].dtype == np.float32


def test_a_buffer_that_is_filled_again_is_copied() -> None:
    buffer = torch.zeros(2)
    assert read(lambda i: buffer.fill_(i))["x"][:, 0].tolist() == [0, 1, 2, 3, 4]


def test_blocks_are_bounded() -> None:
    rows = BLOCK_ROWS + 3
    assert [len(block["x"]) for block in Items(Rows(lambda i: i, rows)).blocks(range(rows))] == [BLOCK_ROWS, 3]
    large = Items(Rows(lambda i: torch.full((2**20,), float(i)), 5))
    assert [block["x"][:, 0].tolist() for block in large.blocks(range(5))] == [[0, 1], [2, 3], [4]]


def grown(index: int) -> Tensor:
    return torch.zeros(3 if index < 3 else 4)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (grown, "row 4 (Rows[3]): x has the shape (4,), but the first item's (3,)"),
        (lambda i: (torch.zeros(2), i if i < 2 else i / 2), "row 3 (Rows[2]): y is float64, but the first item's is int64"),
        (lambda i: {"x": i} if i else {"x": i, "y": i}, "row 2 (Rows[1]): it has the fields x, but the first item x, y"),
        (lambda i: (i, i, i), "row 1 (Rows[0]): it is a tuple of 3; an item is x, (x, y) or a dict of named fields"),
        (lambda i: {"Image": i}, "a field cannot be called 'Image'"),
        (lambda _: {}, "it has 0 fields"),
        (lambda _: "text", "x is a str"),
        (lambda i: ((i, i), i), "x is a tuple"),
        (lambda _: None, "x is a NoneType"),
        (lambda _: np.array(["a"]), "x holds elements of type str"),
        (lambda _: np.array([None]), "x holds elements of type object"),
        (lambda _: 10**30, "x holds elements of type object"),
        (lambda _: torch.zeros(2, dtype=torch.complex64), "x is a tensor of another kind (torch.complex64"),
        (lambda _: torch.eye(3).to_sparse(), "torch.sparse_coo"),
        (lambda _: torch.zeros(0), "x has the shape (0,)"),
        (lambda _: torch.zeros([1] * 16), "fewer than 16 dimensions"),
    ],
)
def test_what_cannot_be_stacked_is_told_with_its_row(item: Callable[[int], Any], said: str) -> None:
    with pytest.raises(InvalidData) as caught:
        read(item)
    (problem,) = caught.value.problems
    assert (problem.pointer, problem.code) == ("/dataset/class", "invalid_data")
    assert said in problem.detail
