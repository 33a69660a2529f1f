"""Distillation: all weights that stay are trained to give what the dense model gives, on the same samples."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunus.proving.verification import tensors
from prunus.pruning.masks import Masks
from prunus.recovering.batches import Samples
from prunus.recovering.comparing import buffers_restored, output_error

_LEARNING_RATE = 1e-3
# So often the error on held-out samples is looked at, and the best weights are kept.
_CHECKS = 20
# Features are what these layers give.
_FEATURES = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


def distil(
    model: nn.Module,
    dense: nn.Module,
    samples: Samples,
    masks: Masks,
    minutes: float,
    progress: Callable[[float], None],
) -> None:
    """Train a pruned model's parameters toward the dense model's outputs and features, in place, the masks held.

    The loss is the squared error of each output, and of what each norm gives, relative to its mean square: no labels
    are needed. Both models stay in eval mode. After each part of the time the error of the outputs on held-out samples
    is taken, and at the end the weights with the lowest are kept: those from before if none was lower.

    Source: Hinton et al., "Distilling the knowledge in a neural network", 2015, with the features of Romero et al.,
    "FitNets: hints for thin deep nets", ICLR 2015.

    Args:
        model: the pruned model; it is in eval mode.
        dense: the dense one; it is in eval mode.
        samples: the batches.
        masks: which weights stay.
        minutes: how long to train.
        progress: called with the share of the time that has passed.

    Raises:
        ValueError: no output has a gradient.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    flags = [parameter.requires_grad for parameter in parameters]
    optimizer = torch.optim.Adam(parameters, lr=_LEARNING_RATE)
    best, state = output_error(model, dense, samples), _state(model)
    began = time.monotonic()
    passed, checked, step = 0.0, 0, 0
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        while passed < 1:
            optimizer.param_groups[0]["lr"] = _LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * passed))
            _step(model, dense, samples, samples.fitted[step % len(samples.fitted)], optimizer)
            masks.apply(model)
            step += 1
            passed = (time.monotonic() - began) / (60 * minutes)
            if passed >= min(1.0, (checked + 1) / _CHECKS):
                checked += 1
                error = output_error(model, dense, samples)
                if error < best:
                    best, state = error, _state(model)
                progress(min(1.0, passed))
    finally:
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag)
            parameter.grad = None
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), state, strict=True):
                parameter.copy_(value)


def _step(model: nn.Module, dense: nn.Module, samples: Samples, batch: list[Tensor], optimizer: Any) -> None:
    args, kwargs = samples.call(batch)
    with torch.no_grad(), buffers_restored(dense), _features(dense) as wanted:
        targets = [*tensors(dense(*args, **kwargs)), *wanted]
    args, kwargs = samples.call(batch)  # the forward may have written into the others
    with torch.enable_grad(), buffers_restored(model), _features(model) as given:
        outputs = tensors(model(*args, **kwargs))
        outputs = [*outputs, *given]
        terms = [_relative(*pair) for pair in zip(outputs, targets, strict=True) if _counts(*pair)]
        if not terms:
            raise ValueError("no output of the model has a gradient, so it can't be trained; leave minutes out")
        loss = torch.stack(terms).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _counts(output: Tensor, target: Tensor) -> bool:
    return target.is_floating_point() and output.shape == target.shape and output.requires_grad


def _relative(output: Tensor, target: Tensor) -> Tensor:
    wide = target.float()
    return (output.float() - wide).square().mean() / wide.square().mean().clamp_min(1e-12)


@contextlib.contextmanager
def _features(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what norms give."""
    features: list[Tensor] = []
    modules = [module for module in model.modules() if isinstance(module, _FEATURES)]
    hooks = [module.register_forward_hook(lambda module, inputs, output: features.append(output)) for module in modules]
    try:
        yield features
    finally:
        for hook in hooks:
            hook.remove()


def _state(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]
