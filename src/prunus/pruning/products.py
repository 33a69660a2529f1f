"""Layers that are linear in their weight, as a product of matrices: rows of inputs times rows of weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Size, Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from prunus.graph.calls import CalledOperation
from prunus.graph.operations import Family

# So many numbers of a layer's inputs are in memory at a time as rows: 256 MB of float32.
_MOST_ELEMENTS = 1 << 26


@dataclass(frozen=True)
class LinearMap:
    """What a layer does with its input and its weight: a product of matrices, or a convolution.

    As matrices, the weight is (groups, outputs, inputs), where the inputs of a convolution are those at all places of
    its kernel, and the layer's input is (groups, positions, inputs): one row for each position of the output.

    Attributes:
        kernel: the size of the kernel; empty for a product of matrices.
        stride, padding, dilation, output_padding: one number for each dimension of the kernel.
        groups: how many groups of inputs and outputs meet only each other.
        transposed: whether the convolution is transposed.
    """

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False

    def rows(self, weight: Tensor) -> Tensor:
        """Return a weight, or its mask, as (groups, outputs, inputs)."""
        if not self.transposed:
            return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)
        inputs, outputs = weight.shape[0] // self.groups, weight.shape[1]
        flipped = weight.reshape(self.groups, inputs, outputs, -1).flip(3)
        return flipped.transpose(1, 2).reshape(self.groups, outputs, -1)

    def weight(self, rows: Tensor, shape: Size) -> Tensor:
        """Return (groups, outputs, inputs) in a weight's own shape: what `rows` does, undone."""
        if not self.transposed:
            return rows.reshape(shape)
        inputs, outputs = shape[0] // self.groups, shape[1]
        apart = rows.reshape(self.groups, outputs, inputs, -1)
        return apart.transpose(1, 2).flip(3).reshape(shape)

    def positions(self, output: Tensor) -> Tensor:
        """Return an output of the layer, its batch first, as (groups, positions, outputs)."""
        if not self.kernel:
            return output.reshape(1, -1, output.shape[-1])
        apart = output.reshape(len(output), self.groups, output.shape[1] // self.groups, -1)
        return apart.permute(1, 0, 3, 2).flatten(1, 2)

    def across(self, values: Tensor) -> Tensor:
        """Return one number for each output channel, shaped to be combined with an output."""
        return values.view(-1, *[1] * len(self.kernel))

    def outputs(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """Return what the layer makes of its input, without a bias."""
        if not self.kernel:
            return F.linear(inputs, weight)
        return torch.convolution(inputs, weight, None, *self._settings)

    def correlate(self, inputs: Tensor, outputs: Tensor, weight: Tensor) -> Tensor:
        """Return outputs^T inputs in the weight's shape: the gradient of sum(outputs * layer(inputs)) by the weight."""
        if not self.kernel:
            return outputs.reshape(-1, outputs.shape[-1]).T @ inputs.reshape(-1, inputs.shape[-1])
        settings: Any = self._settings
        of_weight = [False, True, False]
        return torch.ops.aten.convolution_backward(outputs, inputs, weight, None, *settings, of_weight)[1]  # type: ignore[no-any-return]

    @property
    def _settings(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups

    def patches(self, inputs: Tensor) -> Iterator[Tensor]:
        """Yield the input, its batch first, as (groups, positions, inputs), some samples at a time."""
        if not self.kernel:
            yield inputs.reshape(1, -1, inputs.shape[-1])
            return
        length = max(1, _MOST_ELEMENTS // (inputs[0].numel() * math.prod(self.kernel)))
        for samples in inputs.split(length):  # type: ignore[no-untyped-call]
            yield self._patches(samples)

    def _patches(self, inputs: Tensor) -> Tensor:
        stride = self.stride
        if self.transposed:
            inputs, stride = self._spread(inputs), tuple(1 for _ in stride)
        else:
            inputs = F.pad(inputs, [size for size in reversed(self.padding) for _ in range(2)])
        spans = [dilation * (size - 1) for size, dilation in zip(self.kernel, self.dilation, strict=True)]
        counts = [
            (size - span - 1) // step + 1 for size, span, step in zip(inputs.shape[2:], spans, stride, strict=True)
        ]
        places = []
        for offsets in itertools.product(*map(range, self.kernel)):
            starts = [offset * dilation for offset, dilation in zip(offsets, self.dilation, strict=True)]
            cut = [
                slice(start, start + step * (count - 1) + 1, step)
                for start, step, count in zip(starts, stride, counts, strict=True)
            ]
            places.append(inputs[(slice(None), slice(None), *cut)].flatten(2))
        channels = inputs.shape[1] // self.groups
        apart = torch.stack(places, 2).view(len(inputs), self.groups, channels * len(places), -1)
        return apart.permute(1, 0, 3, 2).flatten(1, 2)

    def _spread(self, inputs: Tensor) -> Tensor:
        """Put zeros between and around the input, so that a plain convolution does what the transposed one does."""
        for dim, step in enumerate(self.stride, start=2):
            apart = torch.zeros_like(inputs).unsqueeze(dim + 1).repeat_interleave(step, dim + 1)
            apart.select(dim + 1, 0).copy_(inputs)
            inputs = apart.flatten(dim, dim + 1).narrow(dim, 0, (inputs.shape[dim] - 1) * step + 1)
        around: list[int] = []
        settings = zip(self.kernel, self.padding, self.dilation, self.output_padding, strict=True)
        for size, padding, dilation, more in reversed(list(settings)):
            before = dilation * (size - 1) - padding
            around += [before, before + more]
        return F.pad(inputs, around)


def of_module(module: nn.Module, inputs: Tensor) -> tuple[LinearMap, Tensor]:
    """Return what a Linear or a convolution does, and its input with a batch, padded where the layer pads otherwise.

    Args:
        module: the layer; of a subclass, what the class of PyTorch does.
        inputs: what its forward got.
    """
    if not isinstance(module, _ConvNd):
        return LinearMap(), inputs
    inputs = batched(inputs, module.weight)
    zeros = tuple(0 for _ in module.kernel_size)
    more = tuple(module.output_padding) if isinstance(module, _ConvTransposeNd) else zeros
    if isinstance(module.padding, str) or module.padding_mode != "zeros":
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        inputs, padding = F.pad(inputs, module._reversed_padding_repeated_twice, mode=mode), zeros
    else:
        padding = tuple(module.padding)
    transposed = isinstance(module, _ConvTransposeNd)
    return LinearMap(
        module.kernel_size, module.stride, padding, module.dilation, more, module.groups, transposed
    ), inputs


def of_call(call: CalledOperation, inputs: Tensor, weight: Tensor) -> tuple[LinearMap, Tensor]:
    """Return what an operation of the families LINEAR and CONVOLUTION does, and its input with a batch, padded."""
    if call.family is Family.LINEAR:
        return LinearMap(), inputs
    inputs, kernel = batched(inputs, weight), tuple(weight.shape[2:])
    stride, dilation, more = (_each(call.get(name, 0), kernel) for name in ("stride", "dilation", "output_padding"))
    padding = call.get("padding", 0)
    if isinstance(padding, str):
        spans = [step * (size - 1) if padding == "same" else 0 for size, step in zip(kernel, dilation, strict=True)]
        inputs = F.pad(inputs, [size for span in reversed(spans) for size in (span // 2, span - span // 2)])
        padding = 0
    transposed = "transpose" in call.name or bool(call.get("transposed"))
    groups = int(call["groups"])
    return LinearMap(kernel, stride, _each(padding, kernel), dilation, more, groups, transposed), inputs


def batched(inputs: Tensor, weight: Tensor) -> Tensor:
    """Return the input of a convolution with a batch: a single sample may come without."""
    return inputs if inputs.ndim == weight.ndim else inputs.unsqueeze(0)


def _each(value: Any, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Return one number for each dimension of a kernel; operations may name one for all."""
    numbers = [int(value)] if isinstance(value, int) else [int(number) for number in value]
    return tuple(numbers * len(kernel) if len(numbers) == 1 else numbers)
