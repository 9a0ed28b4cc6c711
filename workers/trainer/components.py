"""Between a component of a spec and the live object that torch made of it: what its constructor said, what it holds now."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from torch import nn
from torch.optim import Optimizer

from jobs.catalog import catalog
from jobs.spec import Component, SpecProblem


def argument_problem(pointer: str, component: Component, error: Exception) -> SpecProblem:
    """The constructor's own words, at the argument they name."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    words = text.lower().replace("_", " ")
    named = next((n for n in component.arguments() if _names(n.lower().replace("_", " "), words)), None)
    return SpecProblem(f"{pointer}/{named}" if named else pointer, "invalid_argument", f"{component.type}: {text}")


def _names(argument: str, words: str) -> bool:
    # torch says "beta" of betas and "epsilon" of eps; a name as short as `p` must be the whole word.
    pattern = rf"\b{re.escape(argument)}\b" if len(argument) < 3 else rf"\b{re.escape(argument.rstrip('s'))}"
    return re.search(pattern, words) is not None


def live_arguments(section: str, component: Component, value: Any) -> dict[str, Any]:
    """Every argument of a component as the live object `value` has it (an optimizer's defaults, a module's attributes)."""
    known = catalog().section(section)[component.type].arguments
    defaults = value.defaults if isinstance(value, Optimizer) else vars(value)
    # MultiStepLR keeps its list of milestones as a Counter.
    defaults = {k: sorted(v.elements()) if isinstance(v, Counter) else v for k, v in defaults.items()}
    given = component.arguments()
    buffers = dict(value.named_buffers()) if isinstance(value, nn.Module) else {}
    return {
        name: buffers.get(name, defaults.get(name, given.get(name, argument.default)))
        for name, argument in known.items()
        if argument.refused is None
    }
