"""prunus makes a PyTorch model really smaller and really faster by pruning, and proves it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunus import data, models, pack, torch_prune
    from prunus.criteria import criterion
    from prunus.masks import MaskError, Masks, plain_state_dict
    from prunus.measuring import compare, measure
    from prunus.pack import PackError, load, save
    from prunus.pruning import Pruner, prune
    from prunus.receipt import Receipt
    from prunus.stats import Stats

__version__ = "0.1.0"

__all__ = [
    "MaskError",
    "Masks",
    "PackError",
    "Pruner",
    "Receipt",
    "Stats",
    "compare",
    "criterion",
    "data",
    "load",
    "measure",
    "models",
    "pack",
    "plain_state_dict",
    "prune",
    "save",
    "torch_prune",
]

# Public name -> its module, loaded on first use: so the command line answers `--help` without loading torch.
_MODULE_OF = {
    "MaskError": "prunus.masks",
    "Masks": "prunus.masks",
    "PackError": "prunus.pack",
    "Pruner": "prunus.pruning",
    "Receipt": "prunus.receipt",
    "Stats": "prunus.stats",
    "compare": "prunus.measuring",
    "criterion": "prunus.criteria",
    "load": "prunus.pack",
    "measure": "prunus.measuring",
    "plain_state_dict": "prunus.masks",
    "prune": "prunus.pruning",
    "save": "prunus.pack",
}
_MODULES = ("data", "models", "pack", "torch_prune")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"prunus.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'prunus' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
