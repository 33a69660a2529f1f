"""What norms make of constants, and of scales that are zero."""

from __future__ import annotations

import torch

from prunus.graph.operations import Family
from prunus.shrinking.finding.content import Content, content, together
from prunus.shrinking.finding.content_rules import stretched, with_others
from prunus.shrinking.finding.contents import Contents, Reading, content_rule
from prunus.shrinking.finding.operation import Operation, node_shape


@content_rule(Family.CHANNEL_NORM)
def channel_norm(reading: Reading, operation: Operation) -> Contents:
    """With running statistics constants make constants; a channel with a scale of zero is its shift."""
    by_statistics = operation.get("training") or operation.get("use_input_stats")
    by_statistics = by_statistics or operation.get("running_mean") is None
    scaled = _scaled_by_zero(reading, operation, 1)
    if by_statistics or not all(reading.is_constant(node) for node in operation.tensors[1:]):
        return with_others(operation, scaled)
    source = operation["input"]
    incoming, shape = reading.content(source), node_shape(source)
    _, numbers = together(incoming.varies, incoming.numbers)
    tensors = {node: reading.content(node).numbers.expand(node_shape(node)) for node in operation.tensors[1:]}
    if float(tensors[operation["running_var"]].min()) + operation["eps"] <= 0:
        return None
    result = operation.compute(tensors | {source: stretched(numbers, 1, shape)})
    numbers = result[0] if isinstance(result, (list, tuple)) else result
    weight = operation.get("weight")
    varies = incoming.varies
    if weight is not None:
        varies = varies & (tensors[weight] != 0).reshape([1, -1, *[1] * (len(shape) - 2)])
    return with_others(operation, content(varies.expand(numbers.shape), numbers))


def _scaled_by_zero(reading: Reading, operation: Operation, dim: int) -> Content | None:
    """Return what a norm gives where its scale is zero: its shift. All else varies."""
    weight, bias = operation.get("weight"), operation.get("bias")
    if weight is None or not reading.is_constant(weight) or (bias is not None and not reading.is_constant(bias)):
        return None
    num_dims = operation.num_dims
    scale = reading.content(weight).numbers.expand(node_shape(weight))
    shift = torch.zeros_like(scale) if bias is None else reading.content(bias).numbers.expand(node_shape(bias))
    behind = num_dims - dim - scale.ndim
    shape = [*[1] * dim, *scale.shape, *[1] * behind]
    return content((scale != 0).reshape(shape), shift.reshape(shape))


@content_rule(Family.LAYER_NORM)
def layer_norm(reading: Reading, operation: Operation) -> Contents:
    """An element with a scale of zero is its shift."""
    return _scaled_by_zero(reading, operation, operation.num_dims - len(operation["normalized_shape"]))


@content_rule(Family.GROUP_NORM)
def group_norm(reading: Reading, operation: Operation) -> Contents:
    """A channel with a scale of zero is its shift."""
    return _scaled_by_zero(reading, operation, 1)
