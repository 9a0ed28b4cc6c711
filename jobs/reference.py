"""Writes docs/reference.md from the catalog: every class with its arguments, and why what is refused is refused.

`python -m jobs.reference`, which `make catalog` runs. A drift test compares the stored page with a fresh one.
"""

from __future__ import annotations

import inspect
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from jobs.arguments import WORDS
from jobs.catalog import DATASETS, LISTS, SECTIONS, Argument, Entry, catalog
from jobs.entry_schemas import KINDS
from jobs.examples import example
from jobs.supplement import MAX_SIZE

PATH = Path(__file__).resolve().parents[1] / "docs" / "reference.md"

TITLES = {
    "losses": "Losses",
    "optimizers": "Optimizers",
    "lr_schedulers": "Schedulers",
    "layers": "Layers",
    "operations": "Operations of a Graph",
    "initializers": "Initialisers",
    "metrics": "Metrics",
}
HEAD = """# Reference

Everything that a spec may name, of torch {torch} and torchmetrics {torchmetrics}. Made by `make catalog` from the catalog that
the service itself checks specs against; `GET /v1/catalog/<section>` gives the same with a JSON Schema and a job that runs for
each. What the classes compute is in torch's and torchmetrics' own documentation; [every-class.md](every-class.md) shows each at
work.

An argument without a default must be given, unless it is *inferred* from the data, the layer before or the length of the run. A
whole number of a layer lies between -{largest:,} and {largest:,} where nothing else is said.
"""


def text() -> str:
    """The whole page."""
    found = catalog()
    head = HEAD.format(torch=found.torch_version, torchmetrics=found.torchmetrics_version, largest=MAX_SIZE)
    parts = [head, *(part for section in SECTIONS for part in _section(section)), *_datasets()]
    return "\n".join(parts)


def _section(section: str) -> Iterator[str]:
    entries = catalog().section(section).values()
    yield f"## {TITLES[section]}\n"
    yield f"{inspect.getdoc(KINDS[section])}\n"
    for entry in entries:
        if entry.refused is None:
            yield "\n".join(_entry(entry)) + "\n"
    yield from _refusals(
        "Arguments that no spec gives", ((a.refused, n) for e in entries if not e.refused for n, a in e.arguments.items())
    )
    yield from _refusals("Classes that no spec names", ((entry.refused, entry.name) for entry in entries))


def _entry(entry: Entry) -> Iterator[str]:
    yield f"### {entry.name}\n"
    yield f"{entry.summary}. {_calls(entry)}".strip()
    usable = entry.usable().values()
    yield from ["", *(f"* `{argument.name}`: {described(argument)}" for argument in usable)] if usable else []
    made = example(entry.section, entry.name)
    if made is not None and len(made.component) > 1:
        yield f"\nExample: `{json.dumps(made.component)}`"


def _calls(entry: Entry) -> str:
    """What it is called with and what it gives, where that is not one thing."""
    if entry.forward:
        return f"Its `inputs`: {', '.join(entry.forward)}."
    least, most = entry.inputs
    takes = "" if (least, most) == (1, 1) else f"Takes {least if least == most else f'{least} to {most}'} inputs. "
    named = [output for output in entry.outputs if not output.isdigit()]
    return takes + (f"Gives `{'`, `'.join(named)}` too." if named else "")


def described(argument: Argument) -> str:
    """An argument's forms, bounds or choices, and its default."""
    forms = " or ".join(_form(argument, form) for form in argument.forms)
    if argument.inferred:
        return f"{forms}; *inferred*"
    return forms if argument.required else f"{forms}; default `{json.dumps(argument.default)}`"


def _form(argument: Argument, form: str) -> str:
    if form in {"string", "layer", "layers"} and argument.choices:
        return " or ".join(f'"{choice}"' for choice in argument.choices)
    words = WORDS[form]
    if form in LISTS and argument.length is not None:
        words = words.replace("a list of", f"a list of {argument.length}")
    numbers = form in LISTS or form in {"integer", "number"}
    return words + (_bounds(argument) if numbers else "")


def _bounds(argument: Argument) -> str:
    named = (("from", argument.minimum), ("above", argument.above), ("to", argument.maximum), ("below", argument.below))
    return "".join(f" {word} {_written(bound)}" for word, bound in named if bound is not None)


def _written(bound: float) -> str:
    return f"{bound:,.0f}" if abs(bound) >= 10_000 else f"{bound:g}"


def _refusals(title: str, found: Iterator[tuple[str | None, str]]) -> Iterator[str]:
    """Names under the reason they share, in the order of the catalog."""
    names: dict[str, dict[str, None]] = defaultdict(dict)
    for reason, name in found:
        if reason is not None:
            names[reason][name] = None
    if names:
        yield f"### {title}\n"
        yield "\n".join(f"* {', '.join(f'`{name}`' for name in alike)}: {reason}" for reason, alike in names.items()) + "\n"


def _datasets() -> Iterator[str]:
    yield "## Built-in data sets\n"
    yield "| name | rows | one input | task | classes |\n|---|---|---|---|---|"
    for name, row in DATASETS.items():
        yield f"| {name} | {row['rows']} | {tuple(row['input_shape'])} | {row['task']} | {row['classes'] or ''} |"
    yield ""


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
