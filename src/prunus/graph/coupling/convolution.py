"""Convolutions: of any number of dimensions, transposed or not, with groups."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.graph.coupling.calls import Call
from prunus.graph.coupling.contraction import plus_bias
from prunus.graph.coupling.reader import Reader, rule
from prunus.graph.coupling.uses import Grouping, Use
from prunus.graph.coupling.values import Source, Value, along, inert
from prunus.graph.macs import convolution_macs
from prunus.graph.operations import Family


@rule(Family.CONVOLUTION)
def convolution(reader: Reader, call: Call) -> Value:
    """Couple input channels with the weight's inputs, and make channels of its outputs."""
    weight = call["weight"]
    labels = reader.promote(call["input"])
    transposed = "transpose" in call.name or bool(call.get("transposed"))
    dim = 1 if labels.ndim == weight.labels.ndim else 0
    groups = call["groups"]
    if len(weight.sources) != 1:  # computed from parameters, or from the input
        for value in (call["input"], weight):
            reader.keep(reader.promote(value), "it meets a weight that is computed")
        return Value(inert(call.shape))
    (source,) = weight.sources
    order = (1, 0) if transposed else (0, 1)
    channels = reader.vector(labels, dim)
    if channels is not None and not reader.varying(channels):
        reader.keep_only(channels)
        channels = None
    if groups == 1:
        inputs, outputs = _dense(reader, source, order, channels)
    else:
        inputs, outputs = _grouped(reader, source, order, channels, groups, transposed)
    result = Value(inert(call.shape) if outputs is None else along(outputs, dim, call.shape))
    bias = call["bias"]
    if bias is not None:
        moved = tuple(own.moved(along(own.indices(), dim, call.shape)) for own in bias.sources)
        across = Value(along(bias.labels, dim, call.shape), moved, is_filled=bias.is_filled)
        result = plus_bias(reader, call, result, across)
    first_bias = bias.sources[0] if bias is not None and bias.sources else None
    macs = convolution_macs(call["input"].shape, weight.shape, call.shape, transposed) / reader.graph.num_samples
    reader.uses.append(Use(call.node, source, order, inputs, outputs, groups, macs, first_bias))
    return result


def _dense(
    reader: Reader, source: Source, order: tuple[int, int], channels: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    outputs = reader.axis(source, order[0])
    inputs = reader.axis(source, order[1])
    if channels is None or inputs is None:
        reader.keep(inputs, "its input comes from no layer, such as the model's input")
        reader.keep(channels, "it meets a weight that is computed")
        return None, outputs
    reader.join(channels, inputs)
    return inputs, outputs


def _grouped(
    reader: Reader, source: Source, order: tuple[int, int], channels: Tensor | None, groups: int, transposed: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Make channels of a grouped convolution, and note what its groups may lose.

    The weight of a convolution is (outputs, inputs / groups, ...), of a transposed one (inputs, outputs / groups, ...).
    """
    if channels is not None and reader.groups == "counted" and source.ids is None:
        return _counted(reader, source, channels, groups, transposed)
    return _alike(reader, source, channels, groups, transposed)


def _alike(
    reader: Reader, source: Source, channels: Tensor | None, groups: int, transposed: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Whole groups go where there are many of them, else the same place in each; one of them keeps the others alike."""
    whole, partial = reader.axis(source, 0), reader.axis(source, 1)
    if channels is None or whole is None or partial is None:
        for atoms in (whole, partial, channels):
            reader.keep(atoms, "its input comes from no layer, such as the model's input")
        return None, None
    if transposed:
        reader.join(channels, whole)
    per_group = len(channels) // groups if not transposed else len(partial)
    by_group, own = channels.reshape(groups, -1), whole.reshape(groups, -1)
    if groups >= per_group:
        reader.join(by_group, by_group[:, :1].expand_as(by_group))
        reader.join(own, by_group[:, :1].expand_as(own))
        reader.keep(partial, "whole groups go instead")
        return (
            (channels, whole) if not transposed else (channels, by_group[:, :1].expand(groups, len(partial)).flatten())
        )
    reader.join(by_group, by_group[:1].expand_as(by_group))
    reader.join(own, own[:1].expand_as(own))
    if transposed:
        return channels, partial.repeat(groups)
    reader.join(by_group[0], partial)
    return channels, whole


def _counted(
    reader: Reader, source: Source, channels: Tensor, groups: int, transposed: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Let groups lose different channels; where the weight is used again, the same ones."""
    whole = reader.axis(source, 0)
    assert whole is not None
    earlier = next((grouping for grouping in reader.groupings if grouping.weight == source.name), None)
    if not transposed:
        inputs, outputs = channels, whole
    else:
        reader.join(channels, whole)
        first = reader.partition.add(groups * source.shape[1])
        inputs, outputs = channels, torch.arange(first, len(reader.partition))
    if earlier is not None and (earlier.groups, earlier.transposed) == (groups, transposed):
        reader.join(earlier.inputs, inputs)
        reader.join(earlier.outputs, outputs)
    else:
        reader.groupings.append(Grouping(source.name, groups, inputs, outputs, transposed))
    return inputs, outputs


def settle_groupings(reader: Reader) -> None:
    """Keep the channels of a grouped convolution whose weight is used in another way too."""
    names = [grouping.weight for grouping in reader.groupings]
    for grouping in reader.groupings:
        name = grouping.weight
        ways = {use.groups for use in reader.uses if use.weight.name == name}
        other_axes = [dims for parameter, dims in reader.axes if parameter == name and dims != (0,)]
        if name in reader.bindings or other_axes or len(ways) > 1 or names.count(name) > 1 or name in reader.elements:
            for atoms in (grouping.inputs, grouping.outputs):
                reader.keep(atoms, "its weight is used in other ways too")
