"""prunus makes a PyTorch model really smaller and really faster by pruning, and proves it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from prunus.criteria import criterion
from prunus.masks import MaskError, Masks, plain_state_dict
from prunus.pruning import Pruner, prune
from prunus.stats import Stats

if TYPE_CHECKING:
    from prunus import data, models, torch_prune
    from prunus.measure import compare, measure
    from prunus.receipt import Receipt

__version__ = "0.1.0"

__all__ = [
    "MaskError",
    "Masks",
    "Pruner",
    "Receipt",
    "Stats",
    "compare",
    "criterion",
    "data",
    "measure",
    "models",
    "plain_state_dict",
    "prune",
    "torch_prune",
]

# Found on first use, so that `import prunus` stays quick; None stands for the module itself.
_LATER = {
    "Receipt": ("prunus.receipt", "Receipt"),
    "compare": ("prunus.measure", "compare"),
    "measure": ("prunus.measure", "measure"),
    "data": ("prunus.data", None),
    "models": ("prunus.models", None),
    "torch_prune": ("prunus.torch_prune", None),
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'prunus' has no attribute {name!r}")
    module, attribute = _LATER[name]
    found = importlib.import_module(module)
    value = found if attribute is None else getattr(found, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
