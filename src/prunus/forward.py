"""Run a model without changing it: check example inputs, make batches of them, restore all state after a forward."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from prunus.copying import own_attributes, without_computed
from prunus.supported import check_values, unwrap

Inputs: TypeAlias = Tensor | tuple[Tensor, ...]


def check_models(models: Mapping[str, nn.Module]) -> None:
    """Check that the argument is a non-empty mapping from names to modules.

    Raises:
        TypeError: `models` is not a mapping, or a value is not a Module.
        ValueError: the mapping is empty, or a name is not a non-empty text.
    """
    if not isinstance(models, Mapping):
        kind = type(models).__name__
        raise TypeError(f"models must be a mapping such as {{'dense': model}}, got {kind}")
    if not models:
        raise ValueError("models is empty; give at least one, such as {'dense': model}")
    for name, model in models.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"a model's name must be a non-empty text, got {name!r}")
        if not isinstance(model, nn.Module):
            raise TypeError(f"model {name!r} must be a torch.nn.Module, got {type(model).__name__}")


def check_inputs(models: Mapping[str, nn.Module], example_inputs: Inputs) -> tuple[Tensor, ...]:
    """Return the example inputs as a tuple, after checking them.

    Raises:
        TypeError: they are neither a tensor nor a tuple of tensors.
        ValueError: they have no common batch dimension, no sample, or are on another device than a model.
    """
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    if not inputs or not all(isinstance(value, Tensor) for value in inputs):
        kinds = ", ".join(type(value).__name__ for value in inputs)
        raise TypeError(f"example_inputs must be a tensor or a tuple of tensors, got ({kinds})")
    sizes = [value.shape[0] if value.ndim else None for value in inputs]
    if len(set(sizes)) != 1 or not sizes[0]:
        shapes = ", ".join(str(tuple(value.shape)) for value in inputs)
        raise ValueError(
            f"example_inputs must share their first dimension, the batch, and hold a sample; got the shapes {shapes}"
        )
    for name, model in models.items():
        _check_device(name, model, inputs)
    return inputs


def _check_device(name: str, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    devices = devices_of(model)
    for value in inputs:
        if devices and value.device not in devices:
            expected = ", ".join(sorted(map(str, devices)))
            raise ValueError(
                f"example_inputs are on {value.device}, model {name!r} is on {expected}; "
                f"move them there: example_inputs.to({expected.split(',')[0]!r})"
            )


def devices_of(model: nn.Module) -> set[torch.device]:
    """Return the devices that hold the model's parameters and buffers."""
    return {tensor.device for tensor in (*model.parameters(), *model.buffers())}


def batch_of(inputs: tuple[Tensor, ...], size: int) -> tuple[Tensor, ...]:
    """Return `size` samples by repeating the samples of `inputs` in order: contiguous copies on the same device.

    >>> batch_of((torch.tensor([[1], [2]]),), 3)[0].tolist()
    [[1], [2], [1]]
    """
    order = torch.arange(size) % len(inputs[0])
    return tuple(value.detach()[order.to(value.device)].contiguous() for value in inputs)


def run(name: str, model: nn.Module, inputs: tuple[Tensor, ...], source: str = "example_inputs") -> Any:
    """Call the model; the error of a failed call names the model, the batch, and the argument it is from.

    Raises:
        ValueError: the model raised; the cause is chained.
    """
    try:
        return model(*inputs)
    except Exception as error:
        shapes = ", ".join(f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}" for value in inputs)
        raise ValueError(
            f"model {name!r} can't run a batch of {len(inputs[0])}, made from {source} ({shapes}): "
            f"{type(error).__name__}: {error}; give inputs and batch sizes that the model accepts"
        ) from error


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Within this context, the model is in eval mode and its buffers are copies; on leaving, its state is restored.

    Restored are every module's training flag, every buffer (the originals are never written to), the attributes that
    its classes add, such as results of an earlier forward, and the random state of the CPU and of the model's devices.
    """
    with without_computed(model), _attributes_restored(model), _in_eval_mode(model):
        yield


@contextlib.contextmanager
def _attributes_restored(model: nn.Module) -> Iterator[None]:
    """Restore attributes and the contents of their lists, dicts and sets: a trace would leave its tensors in them."""
    before = [(module, own_attributes(module)) for module in model.modules()]
    contents = [
        (value, value.copy()) for _, own in before for value in own.values() if isinstance(value, (dict, list, set))
    ]
    try:
        yield
    finally:
        for module, own in before:
            vars(module).update(own)
            for name in own_attributes(module).keys() - own.keys():
                del vars(module)[name]
        for value, content in contents:
            value.clear()
            value.extend(content) if isinstance(value, list) else value.update(content)


@contextlib.contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    modules = list(model.modules())
    training = [module.training for module in modules]
    buffers = [dict(module._buffers) for module in modules]
    copies = {id(buffer): buffer.detach().clone() for own in buffers for buffer in own.values() if buffer is not None}
    cuda = [device for device in devices_of(model) if device.type == "cuda"]
    try:
        _eval(model)
        for module, own in zip(modules, buffers, strict=True):
            for name, buffer in own.items():
                module._buffers[name] = None if buffer is None else copies[id(buffer)]
        with torch.random.fork_rng(cuda):
            yield
    finally:
        for module, own, flag in zip(modules, buffers, training, strict=True):
            for name in module._buffers.keys() - own.keys():  # registered by the forward
                del module._buffers[name]
            for name, buffer in own.items():
                module._buffers[name] = buffer
            module.training = flag


def _eval(model: nn.Module) -> None:
    try:
        model.eval()
    except NotImplementedError:  # a module of torch.export refuses: it keeps the mode it was traced in
        for module in model.modules():
            module.training = False


def unique_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters by name; tied ones, and different objects over the same memory, appear once.

    Raises:
        ValueError: a parameter has no values yet (a lazy module, the meta device), or is sparse.
    """
    named_by_memory: dict[object, tuple[str, nn.Parameter]] = {}
    for name, parameter in unwrap(model).named_parameters():
        check_values(name, parameter)
        named_by_memory.setdefault(_memory(parameter), (name, parameter))
    return dict(named_by_memory.values())


def tensors_by_name(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name, tied ones under each of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _memory(parameter: nn.Parameter) -> object:
    address = parameter.data_ptr()
    # Empty tensors, and subclasses that wrap other tensors, have no address of their own.
    return (address, parameter.dtype, parameter.shape, parameter.stride()) if address else id(parameter)
