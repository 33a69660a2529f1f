"""Arithmetic element by element, reductions and norms: the operations that unify labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prunus.graph.coupling.calls import Call
from prunus.graph.coupling.reader import Reader, rule
from prunus.graph.coupling.values import Value, along, compact, inert
from prunus.graph.operations import Family


@rule(Family.ELEMENTWISE)
def elementwise(reader: Reader, call: Call) -> Value:
    """Combine tensors element by element: what meets goes together."""
    return combined(reader, call, call.values, call.shape)


def combined(reader: Reader, call: Call, values: Sequence[Value], shape: torch.Size) -> Value:
    """Return the value of an element by element combination of some values.

    A parameter beside channels goes where they go. What has no channels and a real size along a dimension of channels
    keeps them from going.
    """
    activations = [value for value in values if not value.sources]
    parameters = [value for value in values if value.sources]
    labelled = [value for value in activations if value.labelled]
    if not labelled:
        return _without_channels(reader, parameters, activations, shape)
    labels = labelled[0].labels.expand(shape)
    for value in labelled[1:]:
        spread = value.labels.expand(shape)
        reader.join(labels, spread)
        labels = _merged(labels, spread)
    for value in activations:
        real = [len(shape) - value.labels.ndim + dim for dim, size in enumerate(value.shape) if size > 1]
        if value.is_filled and set(reader.varying(labels)) <= set(real):
            reader.join(labels, value.labels.expand(shape))
        elif not value.labelled:
            reader.need(labels, real, "it meets a tensor that can't be cut", call.node)
    for value in parameters:
        reader.bind(value, labels)
    return Value(labels)


def _without_channels(
    reader: Reader, parameters: Sequence[Value], activations: Sequence[Value], shape: torch.Size
) -> Value:
    """Combine parameters with each other, or with what has no channels."""
    if any(not value.is_filled and value.shape.numel() > 1 for value in activations) or not parameters:
        for value in parameters:
            reader.bind(value, inert(shape))
        is_filled = not parameters and len(activations) == 1 and activations[0].is_filled
        return Value(activations[0].labels, is_filled=True) if is_filled else Value(inert(shape))
    sources = [source.moved(source.indices().expand(shape)) for value in parameters for source in value.sources]
    if len(parameters) == 1 and parameters[0].shape == shape:
        return Value(inert(shape), parameters[0].sources)
    return Value(inert(shape), tuple(sources))


def _merged(first: Tensor, second: Tensor) -> Tensor:
    """Return the labels of elements that meet: an atom if there is one."""
    return first if bool((compact(first) >= 0).all()) else torch.where(first >= 0, first, second)


@rule(Family.PRELU)
def prelu(reader: Reader, call: Call) -> Value:
    """One slope a channel, or one for all."""
    value, weight = call["self"], call["weight"]
    slope = weight.labels if weight.labels.ndim else weight.labels.reshape(1)
    if weight.sources and slope.numel() > 1:
        _bind_channels(reader, weight, value.labels, 1)
        return Value(value.labels)
    return combined(reader, call, [value, weight], call.shape)


@rule(Family.GLU)
def glu(reader: Reader, call: Call) -> Value:
    """Gate one half with the other: the halves go together."""
    labels = reader.promote(call["self"])
    first, second = labels.chunk(2, call["dim"])
    reader.join(first, second)
    return Value(first)


@rule(Family.MIX)
def mixing(reader: Reader, call: Call) -> Value | list[Value]:
    """Mix along one dimension: channels along it have to stay."""
    labels = reader.promote(call.values[0])
    reader.need(labels, [call["dim"]], f"{call.name} runs over it", call.node)
    if len(call.shapes) == 1:
        return Value(labels)
    return [Value(labels.narrow(call["dim"], 0, 1).expand(shape)) for shape in call.shapes]


@rule(Family.REDUCE)
def reducing(reader: Reader, call: Call) -> Value | list[Value]:
    """Reduce over dimensions: channels along them have to stay, the others go through."""
    if call.get("other") is not None and isinstance(call["other"], Value):  # max and min of two tensors
        return elementwise(reader, call)
    labels = reader.promote(call.values[0])
    reduced = reduced_dims(call.get("dim"), labels.ndim)
    reader.need(labels, reduced, f"{call.name} runs over it", call.node)
    differ = reader.varying(labels)
    if differ and set(differ) <= set(reduced):  # all channels end in one number; else they end in one for each head
        reader.keep(labels, f"{call.name} runs over it")
        labels = inert(labels.shape)
    for dim in reversed(reduced):
        labels = labels.narrow(dim, 0, 1) if call.get("keepdim") else labels.select(dim, 0)
    outputs = [Value(labels.expand(shape)) for shape in call.shapes]
    return outputs if call.has_several else outputs[0]


def reduced_dims(dims: int | Sequence[int] | None, rank: int) -> list[int]:
    """Return the dimensions that the argument ``dim`` of a reduction names, in order: all for None or an empty list."""
    named = [dims] if isinstance(dims, int) else list(dims or range(rank))
    return sorted({dim % rank for dim in named}) if rank else []


@rule(Family.CHANNEL_NORM)
def channel_norm(reader: Reader, call: Call) -> Value:
    """Scale and shift each channel by itself."""
    labels = reader.promote(call["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call.get(name) is not None:
            _bind_channels(reader, call[name], labels, 1)
    return Value(labels)


@rule(Family.LAYER_NORM)
def layer_norm(reader: Reader, call: Call) -> Value:
    """Normalise over the last dimensions: what goes there changes all the others."""
    labels = reader.promote(call["input"])
    dims = range(labels.ndim - len(call["normalized_shape"]), labels.ndim)
    reader.need(labels, dims, f"{call.name} normalises over it", call.node)
    for name in ("weight", "bias"):
        if call.get(name) is not None and call[name].sources:
            reader.bind(call[name], labels)
    return Value(labels)


@rule(Family.GROUP_NORM)
def group_norm(reader: Reader, call: Call) -> Value:
    """Normalise over groups of channels: a group goes whole."""
    labels = reader.promote(call["input"])
    channels = reader.vector(labels, 1)
    if channels is not None:
        groups = channels.reshape(call["num_groups"], -1)
        reader.join(groups, groups[:, :1].expand_as(groups))
    for name in ("weight", "bias"):
        if call.get(name) is not None:
            _bind_channels(reader, call[name], labels, 1)
    return Value(labels)


def _bind_channels(reader: Reader, parameter: Value, labels: Tensor, dim: int) -> None:
    """Tie a vector with one element a channel to the channels."""
    moved = tuple(source.moved(along(source.indices(), dim, labels.shape)) for source in parameter.sources)
    reader.bind(Value(inert(labels.shape), moved), labels)
