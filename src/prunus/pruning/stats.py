"""Statistics for criteria: gradients, input norms and curvatures of each weight, from passes over data."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from prunus.graph.samples import inputs_of
from prunus.pruning import products
from prunus.pruning.moments import MOST_INPUTS, Moments, damped, inverse_diagonal
from prunus.pruning.products import LinearMap
from prunus.pruning.targets import Target

Batch: TypeAlias = Any  # a tensor, a tuple (inputs, targets), or a mapping of keyword arguments
Loss: TypeAlias = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Stats:
    """Statistics of one weight, for its scores.

    Attributes:
        name: the parameter's name in the model.
        gradient: the loss's gradient, of the weight's shape; None unless the criterion needs it.
        input_norm: the l2 norm of the input feature that each weight multiplies, of a shape that broadcasts to the
            weight's; None unless the criterion needs it.
        curvature: 1 / [H^-1]_jj of the input feature j that each weight multiplies, H being the second moments of the
            layer's input, of a shape that broadcasts to the weight's; None unless the criterion needs it.
    """

    name: str = ""
    gradient: Tensor | None = None
    input_norm: Tensor | None = None
    curvature: Tensor | None = None


def gradients(model: nn.Module, targets: Mapping[str, Target], data: Iterable[Batch], loss: Loss) -> dict[str, Tensor]:
    """Return the mean gradient of `loss(outputs, targets)` over the batches, for each target.

    The model runs in eval mode, so its buffers do not change; nor do its `.grad` fields, its training flags and torch's
    random state. A batch that is not a pair (inputs, targets) is passed to the loss as a whole.

    Raises:
        ValueError: there is no batch, the loss is not one number, or it does not depend on a target.
    """
    parameters = {name: target.parameter for name, target in targets.items()}
    sums = {name: torch.zeros_like(p, dtype=_wide(p.dtype)) for name, p in parameters.items()}
    num_batches = 0
    with _undisturbed(model), _requiring_grad(parameters.values()), torch.enable_grad(), _differentiable(model):
        for batch in data:
            value = loss(forward(model, batch), _target_of(batch))
            _check_loss(value)
            of_batch = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, of_batch, strict=True):
                if gradient is None:
                    raise ValueError(
                        f"the loss does not depend on {name!r}, so it has no gradient to be scored by; exclude it"
                    )
                sums[name] += gradient
            num_batches += 1
    _check_not_empty(num_batches)
    return {name: total / num_batches for name, total in sums.items()}


def stored_gradients(targets: Mapping[str, Target]) -> dict[str, Tensor]:
    """Return the `.grad` of each target from the last backward pass.

    Raises:
        ValueError: a target has no `.grad`.
    """
    stored = {name: target.parameter.grad for name, target in targets.items()}
    missing = [name for name, gradient in stored.items() if gradient is None]
    if missing:
        raise ValueError(
            f"criterion 'gradient' found no .grad on {', '.join(missing[:3])}; pass data=batches and "
            "criterion=Gradient(loss), or call it after loss.backward() and before optimizer.zero_grad()"
        )
    return {name: gradient.detach().to_dense() for name, gradient in stored.items() if gradient is not None}


def input_norms(model: nn.Module, targets: Mapping[str, Target], data: Iterable[Batch]) -> dict[str, Tensor]:
    """Return, for each target, the l2 norm over all batches and positions of the feature that each weight multiplies.

    A weight of a convolution multiplies one channel at one offset of the kernel, so its norm is over all positions of
    the output, including the values of the padding. The model runs as for `gradients`.

    Raises:
        ValueError: there is no batch; a target is not the weight of a Linear or a convolution, or its module
            is never called by the model's forward.
    """
    squares: dict[str, Tensor] = {}

    def add(name: str, module: nn.Module, *args: Any, **kwargs: Any) -> None:
        sums = _squared_features(module, *args, **kwargs)
        squares[name] = squares[name] + sums if name in squares else sums

    _run(model, targets, data, add)
    _check_called(targets, squares)
    return {name: total.sqrt() for name, total in squares.items()}


# So many numbers of second moments are in memory at a time: 1 GB in float64.
_MOST_MOMENTS = 1 << 27
# The share of the mean diagonal that is added to the diagonal, as in SparseGPT (arXiv:2301.00774).
_DAMPING = 1e-2


def curvatures(model: nn.Module, targets: Mapping[str, Target], data: Iterable[Batch]) -> dict[str, Tensor]:
    """Return, for each target, 1 / [H^-1]_jj of the feature j that each weight multiplies, H = X^T X + damping.

    H is over all batches and positions, X the layer's inputs as rows, see `products.LinearMap`. Features of more than
    `moments.MOST_INPUTS` inputs are taken in parts, as if these were uncorrelated. The layers are taken some at a time,
    a pass over the data for each, so that their moments fit in memory; the model runs as for `gradients`.

    Raises:
        ValueError: as `input_norms`.
    """
    results: dict[str, Tensor] = {}
    for name, linear, of_parts in moments(model, targets, data):
        inverse = torch.cat([inverse_diagonal(damped(own.gram, _DAMPING)) for own in of_parts], 1)
        weight = targets[name].parameter
        rows = inverse.reciprocal().unsqueeze(1).expand(linear.rows(weight).shape)
        results[name] = linear.weight(rows, weight.shape)
    return results


def moments(
    model: nn.Module, targets: Mapping[str, Target], data: Iterable[Batch]
) -> Iterator[tuple[str, LinearMap, list[Moments]]]:
    """Yield, for each target, its name, what its layer does, and the moments of its inputs, in parts of longer rows.

    As many layers as fit in memory are taken at a time, with a pass over the data for each; the model runs as for
    `gradients`.

    Raises:
        ValueError: as `input_norms`.
    """
    batches = list(data) if isinstance(data, Iterator) else data
    for chosen in _in_passes(targets) if targets else ():
        of_layers: dict[str, tuple[LinearMap, list[Moments]]] = {}

        def add(name: str, module: nn.Module, input: Tensor, *_: Any, of_layers: Any = of_layers, **__: Any) -> None:
            linear, inputs = products.of_module(module, input.detach())
            for piece in linear.patches(inputs):
                parts = piece.split(MOST_INPUTS, dim=2)  # type: ignore[no-untyped-call]
                _, of_parts = of_layers.setdefault(name, (linear, [Moments() for _ in parts]))
                for part, own in zip(parts, of_parts, strict=True):
                    own.add([part])

        _run(model, chosen, batches, add)
        _check_called(chosen, of_layers)
        for name, (linear, of_parts) in of_layers.items():
            yield name, linear, of_parts


def _in_passes(targets: Mapping[str, Target]) -> Iterator[dict[str, Target]]:
    """Yield the targets in parts, of which the second moments fit in memory together."""
    chosen: dict[str, Target] = {}
    total = 0
    for name, target in targets.items():
        inputs = target.parameter.numel() // max(1, len(target.parameter))
        size = inputs * min(inputs, MOST_INPUTS)
        if chosen and total + size > _MOST_MOMENTS:
            yield chosen
            chosen, total = {}, 0
        chosen[name] = target
        total += size
    yield chosen


def _run(model: nn.Module, targets: Mapping[str, Target], data: Iterable[Batch], note: Callable[..., None]) -> None:
    """Run a model on all batches, and note each call of a target's layers: name, module, and what it was called with.

    Raises:
        ValueError: there is no batch, or a target is not the weight of a Linear or a convolution.
    """
    for target in targets.values():
        _check_linear_in_weight(target)
    num_batches = 0
    with _undisturbed(model), _watching(targets, note), torch.no_grad():
        for batch in data:
            forward(model, batch)
            num_batches += 1
    _check_not_empty(num_batches)


def _check_called(targets: Iterable[str], called: Container[str]) -> None:
    missing = [name for name in targets if name not in called]
    if missing:
        raise ValueError(f"the modules of {', '.join(missing)} were never called on the data; exclude them")


def _check_not_empty(num_batches: int) -> None:
    if num_batches == 0:
        raise ValueError(
            "data held no batch; give batches that can be read again, such as a list or a DataLoader "
            "(a generator is used up after one reading)"
        )


def _check_loss(value: object) -> None:
    if not isinstance(value, Tensor) or value.numel() != 1:
        result = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"the loss must be one number, a tensor of one element, got {result}; take its mean or sum")
    if not value.requires_grad:
        raise ValueError("the loss does not depend on the model's weights; compute it from the model's outputs")


def is_linear_in_weight(target: Target) -> bool:
    """Tell whether a target is the weight of Linear or convolution layers, whose inputs are known."""
    linear = all(isinstance(module, (nn.Linear, _ConvNd)) for module in target.modules)
    return linear and target.attribute == "weight"


def _check_linear_in_weight(target: Target) -> None:
    for module in target.modules:
        if not is_linear_in_weight(target):
            raise ValueError(
                f"this criterion knows the inputs of Linear and convolution weights only, but {target.name!r} "
                f"belongs to {type(module).__name__}; exclude it or use another criterion"
            )


@contextmanager
def _watching(targets: Mapping[str, Target], note: Callable[..., None]) -> Iterator[None]:
    hooks = []
    for name, target in targets.items():
        for module in target.modules:

            def called(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name) -> None:
                note(name, module, *args, **kwargs)

            hooks.append(module.register_forward_pre_hook(called, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _squared_features(module: nn.Module, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Sum the squares of the input feature that each weight multiplies, in a shape that broadcasts to the weight's.

    Linear and convolution layers are linear in their weight. So for squared inputs, the derivative of the sum of the
    outputs with respect to a weight is the sum of the squares of all inputs that it multiplies: for every stride,
    padding, dilation and group.
    """
    squared = input.detach().to(_wide(input.dtype)).square()
    if isinstance(module, nn.Linear):
        return squared.reshape(-1, squared.shape[-1]).sum(0, keepdim=True)
    assert isinstance(module, _ConvNd)
    weight = torch.ones_like(module.weight, dtype=squared.dtype, requires_grad=True)
    bias = torch.zeros_like(module.bias, dtype=squared.dtype) if module.bias is not None else None
    # torch's own forward, since that of a subclass need not be linear in the weight
    convolution: Any = next(kind for kind in type(module).__mro__ if kind.__module__ == _ConvNd.__module__)
    with torch.enable_grad(), torch.autocast(squared.device.type, enabled=False), _replaced(module, weight, bias):
        total = convolution.forward(module, squared, *args, **kwargs).sum()
    return torch.autograd.grad(total, weight)[0]


@contextmanager
def _replaced(module: nn.Module, weight: Tensor, bias: Tensor | None) -> Iterator[None]:
    # entries of the instance's __dict__ take precedence over its parameters, which are not changed
    module.__dict__["weight"], module.__dict__["bias"] = weight, bias
    try:
        yield
    finally:
        del module.__dict__["weight"], module.__dict__["bias"]


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode; restore its training flags and torch's random state afterwards."""
    flags = {module: module.training for module in model.modules()}
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    model.eval()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        for module, training in flags.items():
            module.training = training


def _differentiable(model: nn.Module) -> AbstractContextManager[None]:
    # cuDNN can't differentiate a recurrent layer in eval mode; torch's own kernels can
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    return torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext()


@contextmanager
def _requiring_grad(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def forward(model: nn.Module, batch: Batch) -> Any:
    """Call a model on a batch, without the targets that may be beside the inputs."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(inputs_of(batch))


def _target_of(batch: Batch) -> Any:
    if isinstance(batch, (tuple, list)):
        if len(batch) != 2:
            raise ValueError(f"a batch must be (inputs, targets) or a mapping, got a sequence of {len(batch)}")
        return batch[1]
    return batch


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
