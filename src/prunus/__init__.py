"""prunus makes a PyTorch model really smaller and really faster by pruning, and proves it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunus import packing, torch_prune
    from prunus.compiling import Program, compile, load
    from prunus.errors import (
        ChannelError,
        CompileError,
        ExportError,
        GraphError,
        MaskError,
        NonFiniteError,
        PackError,
        ProgramError,
        ScalesError,
        SearchError,
        ShrinkError,
    )
    from prunus.exporting import export
    from prunus.lab import data, models
    from prunus.measuring import compare, measure
    from prunus.measuring.receipt import Receipt
    from prunus.packing import save
    from prunus.permuting import Permutation, permute
    from prunus.pruning import Pruner, prune
    from prunus.pruning.criteria import criterion
    from prunus.pruning.masks import Masks, plain_state_dict
    from prunus.pruning.stats import Stats
    from prunus.quantizing import Quantizer, Scales, quantize
    from prunus.recovering import Recovery, recover
    from prunus.searching import search
    from prunus.shrinking import shrink
    from prunus.shrinking.explaining import Explanation, explain

__version__ = "0.2.0"

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
    "Permutation",
    "Program",
    "ProgramError",
    "Pruner",
    "Quantizer",
    "Receipt",
    "Recovery",
    "Scales",
    "ScalesError",
    "SearchError",
    "ShrinkError",
    "Stats",
    "compare",
    "compile",
    "criterion",
    "data",
    "explain",
    "export",
    "load",
    "measure",
    "models",
    "packing",
    "permute",
    "plain_state_dict",
    "prune",
    "quantize",
    "recover",
    "save",
    "search",
    "shrink",
    "torch_prune",
]

# Public name -> its module, loaded on first use: so the command line answers `--help` without loading torch.
_MODULE_OF = {
    "ChannelError": "prunus.errors",
    "CompileError": "prunus.errors",
    "Explanation": "prunus.shrinking.explaining",
    "ExportError": "prunus.errors",
    "GraphError": "prunus.errors",
    "MaskError": "prunus.errors",
    "Masks": "prunus.pruning.masks",
    "NonFiniteError": "prunus.errors",
    "PackError": "prunus.errors",
    "Permutation": "prunus.permuting",
    "Program": "prunus.compiling",
    "ProgramError": "prunus.errors",
    "Pruner": "prunus.pruning",
    "Quantizer": "prunus.quantizing",
    "Receipt": "prunus.measuring.receipt",
    "Recovery": "prunus.recovering",
    "Scales": "prunus.quantizing",
    "ScalesError": "prunus.errors",
    "SearchError": "prunus.errors",
    "ShrinkError": "prunus.errors",
    "Stats": "prunus.pruning.stats",
    "compare": "prunus.measuring",
    "compile": "prunus.compiling",
    "criterion": "prunus.pruning.criteria",
    "explain": "prunus.shrinking.explaining",
    "export": "prunus.exporting",
    "load": "prunus.compiling",
    "measure": "prunus.measuring",
    "permute": "prunus.permuting",
    "plain_state_dict": "prunus.pruning.masks",
    "prune": "prunus.pruning",
    "quantize": "prunus.quantizing",
    "recover": "prunus.recovering",
    "save": "prunus.packing",
    "search": "prunus.searching",
    "shrink": "prunus.shrinking",
}
_MODULES = {
    "data": "prunus.lab.data",
    "models": "prunus.lab.models",
    "packing": "prunus.packing",
    "torch_prune": "prunus.torch_prune",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'prunus' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
