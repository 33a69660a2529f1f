"""prunus makes a PyTorch model really smaller and really faster by pruning, and proves it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunus import data, models, pack, torch_prune
    from prunus.channels import ChannelError
    from prunus.criteria import criterion
    from prunus.explaining import Explanation, explain
    from prunus.exporting import ExportError, export
    from prunus.graph import GraphError
    from prunus.masks import MaskError, Masks, plain_state_dict
    from prunus.measuring import compare, measure
    from prunus.pack import PackError, load, save
    from prunus.pruning import Pruner, prune
    from prunus.receipt import Receipt
    from prunus.runtime import CompileError, NonFiniteError, Program, ProgramError, compile, load_program
    from prunus.shrinking import ShrinkError, shrink
    from prunus.stats import Stats

__version__ = "0.1.0"

__all__ = [
    "ChannelError",
    "CompileError",
    "Explanation",
    "ExportError",
    "GraphError",
    "MaskError",
    "Masks",
    "NonFiniteError",
    "PackError",
    "Program",
    "ProgramError",
    "Pruner",
    "Receipt",
    "ShrinkError",
    "Stats",
    "compare",
    "compile",
    "criterion",
    "data",
    "explain",
    "export",
    "load",
    "load_program",
    "measure",
    "models",
    "pack",
    "plain_state_dict",
    "prune",
    "save",
    "shrink",
    "torch_prune",
]

# Public name -> its module, loaded on first use: so the command line answers `--help` without loading torch.
_MODULE_OF = {
    "ChannelError": "prunus.channels",
    "CompileError": "prunus.runtime",
    "Explanation": "prunus.explaining",
    "ExportError": "prunus.exporting",
    "GraphError": "prunus.graph",
    "MaskError": "prunus.masks",
    "Masks": "prunus.masks",
    "NonFiniteError": "prunus.runtime",
    "PackError": "prunus.pack",
    "Program": "prunus.runtime",
    "ProgramError": "prunus.runtime",
    "Pruner": "prunus.pruning",
    "Receipt": "prunus.receipt",
    "ShrinkError": "prunus.shrinking",
    "Stats": "prunus.stats",
    "compare": "prunus.measuring",
    "compile": "prunus.runtime",
    "criterion": "prunus.criteria",
    "explain": "prunus.explaining",
    "export": "prunus.exporting",
    "load": "prunus.pack",
    "load_program": "prunus.runtime",
    "measure": "prunus.measuring",
    "plain_state_dict": "prunus.masks",
    "prune": "prunus.pruning",
    "save": "prunus.pack",
    "shrink": "prunus.shrinking",
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
