"""Reads files with random damage. `python -m tests.trainer.exported.mutating SEED COUNT FILE...`

Prints the number of each mutation before it is read, so that a process that dies tells by which, and at the end one JSON line:
{"refused", "accepted"} and the other exceptions, which are all mistakes of the reader.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.trainer.exported.forging import Records, edited, records, write
from workers.trainer.exported.operators import operators
from workers.trainer.exported.problem import UnreadableProgram
from workers.trainer.exported.program import read
from workers.trainer.exported.run import warm_up

MEMORY = 6 * 1024**3  # bytes of address space, most of it torch's own libraries
NUMBERS: list[Any] = [
    0,
    1,
    -1,
    2,
    3,
    7,
    16,
    255,
    2**16,
    2**20,
    2**31 - 1,
    2**31,
    -(2**31),
    2**40,
    2**63 - 1,
    -(2**63),
    2**64,
    0.5,
    -1e308,
]
OTHERS = [
    None,
    True,
    False,
    "",
    "input",
    "Infinity",
    [],
    {},
    [1, 2, 3],
    {"as_none": True},
    {"as_int": -1},
    {"as_tensor": {"name": "input"}},
]


def places(value: Any, found: list[tuple[Any, Any]]) -> None:
    """All (container, key) pairs inside a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found.append((value, key))
        places(inner, found)


def damage(document: Any, chance: random.Random) -> None:
    """One small change somewhere: another number, another value, one missing, one from elsewhere, two swapped."""
    found: list[tuple[Any, Any]] = []
    places(document, found)
    numbers = [(c, k) for c, k in found if isinstance(c[k], (int, float)) and not isinstance(c[k], bool)]
    container, key = chance.choice(numbers if numbers and chance.random() < 0.4 else found)
    match chance.randrange(5):
        case 0 | 1:
            container[key] = chance.choice(NUMBERS if isinstance(container[key], (int, float)) else NUMBERS + OTHERS)
        case 2:
            del container[key]
        case 3:
            other, place = chance.choice(found)
            container[key] = json.loads(json.dumps(other[place]))
        case _:
            if isinstance(container, list) and len(container) > 1:
                other = chance.randrange(len(container))
                container[key], container[other] = container[other], container[key]


def operator_damage(nodes: list[dict[str, Any]], chance: random.Random) -> None:
    """A step becomes a call of any allowed operator, its arguments under the names that this one has."""
    node = chance.choice(nodes)
    node["target"], operator = chance.choice(list(operators().items()))
    for item, parameter in zip(node["inputs"], operator.parameters, strict=False):
        item["name"] = parameter.name


def mutated(good: Records, chance: random.Random) -> Records:
    """A copy with one to three pieces of damage, nearly all of it in the graph."""
    changed = dict(good)
    name = chance.choice(["models/train.json"] * 8 + ["models/eval.json", "data/weights/train_weights_config.json"])
    for _ in range(chance.randint(1, 3)):
        with edited(changed, name) as document:
            graph = document.get("graph_module", {}).get("graph", {}) if isinstance(document, dict) else {}
            nodes = graph.get("nodes") if isinstance(graph, dict) else None
            if isinstance(nodes, list) and nodes and chance.random() < 0.8:
                if chance.random() < 0.4 and all(isinstance(n, dict) and isinstance(n.get("inputs"), list) for n in nodes):
                    operator_damage([n for n in nodes if all(isinstance(i, dict) for i in n["inputs"])] or nodes, chance)
                else:
                    damage(nodes, chance)
            else:
                damage(document, chance)
    return changed


def main(seed: int, count: int, paths: list[Path]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warm_up()
    goods = [records(path) for path in paths]
    seen: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "mutated.pt2"
        for number in range(seed, seed + count):
            print(number, flush=True)
            chance = random.Random(number)
            write(target, mutated(chance.choice(goods), chance))
            began = time.process_time()
            try:
                read(target)
                seen["accepted"] += 1
            except UnreadableProgram:
                seen["refused"] += 1
            except Exception as error:
                seen[f"{number}: {type(error).__name__}: {error}"[:300]] += 1
            slowest = max(slowest, time.process_time() - began)
    print(json.dumps({"outcomes": seen, "slowest_seconds": slowest}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
