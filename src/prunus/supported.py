"""Which modules and tensors prunus supports, and why it can't use the others."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

# Where torch.compile and Lightning Fabric keep the module they wrap.
_WRAPPED = ("_orig_mod", "_original_module")


def check_module(model: object) -> nn.Module:
    """Return the model if it is a torch.nn.Module written in Python.

    Raises:
        TypeError: it is not a module, or it is a TorchScript module.
    """
    if not isinstance(model, nn.Module):
        kind = model.__name__ if isinstance(model, type) else type(model).__name__
        hint = ""
        if isinstance(model, torch.export.ExportedProgram):
            hint = "; convert it with prunus.graph.exported.ExportedModule.from_program(program)"
        elif isinstance(model, type) and issubclass(model, nn.Module):
            hint = f"; give an instance, as {kind}(...) makes"
            kind = f"the class {kind}"
        raise TypeError(f"model must be a torch.nn.Module, got {kind}{hint}")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            f"model is a TorchScript module ({type(model).__name__}), whose code can be neither read nor changed; give "
            "the torch.nn.Module that it was made from"
        )
    return model


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's own module from inside the wrappers of data-parallel training, torch.compile and Fabric.

    Raises:
        TypeError: it is not a module, or it is a TorchScript module, whose code can't be read.
    """
    while True:
        check_module(model)
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
            continue
        inner = next((inner for name in _WRAPPED if (inner := model._modules.get(name)) is not None), None)
        if inner is None:
            return model
        model = inner


def problem(tensor: Tensor) -> str | None:
    """Return why a tensor is not a dense array of numbers, as the end of a sentence; None if it is one.

    A tensor on the meta device counts as one: only its values are missing.
    """
    if is_lazy(tensor):
        return "is not initialised yet; run the model once on an example input first"
    if tensor.is_nested:
        return "is a nested tensor; expected a dense one, as torch.nested.to_padded_tensor gives"
    if tensor.layout != torch.strided:
        return f"has layout {tensor.layout}; expected a dense tensor, as its to_dense() gives"
    if tensor.is_quantized:
        return f"is quantized ({tensor.dtype}); expected a tensor of plain numbers, as its dequantize() gives"
    return None


def check_values(name: str, tensor: Tensor) -> None:
    """Check that a tensor is a dense array of numbers and holds values.

    Raises:
        ValueError: it is on the meta device, or not a dense array of numbers.
    """
    reason = problem(tensor)
    if reason is None and tensor.is_meta:
        reason = "is on the meta device and holds no values; load its weights first"
    if reason is not None:
        raise ValueError(f"{name!r} {reason}")


def problems(model: nn.Module) -> Iterator[str]:
    """Yield the reasons why a model's graph can't be read, as far as they show without running it."""
    for name, module in model.named_modules():
        place = f"module {name!r} ({type(module).__name__})" if name else f"the model ({type(module).__name__})"
        if isinstance(module, torch.jit.ScriptModule):
            yield f"{place} is a TorchScript module, whose code can't be read; use the torch.nn.Module it was made from"
        packed = next((key for key, value in vars(module).items() if isinstance(value, torch.ScriptObject)), None)
        if packed is not None:
            yield (
                f"{place} keeps weights that torch.ao.quantization packed, which can't be read; give the model "
                "from before it was quantized"
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        reason = problem(tensor)
        if reason is not None:
            yield f"{name!r} {reason}"
