"""What operations make of constants: element by element, and by moving, pooling and reducing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_
from typing import Any

import torch
from torch import Tensor, fx

from prunus.graph.calls import results_of
from prunus.graph.coupling import Value
from prunus.graph.coupling.arithmetic import reduced_dims
from prunus.graph.coupling.values import varying
from prunus.graph.operations import Family, Trait
from prunus.shrinking.finding.content import Content, any_over, common_shape, content, together
from prunus.shrinking.finding.contents import Contents, Reading, content_rule, filled
from prunus.shrinking.finding.operation import Operation, node_shape, rank_of


@content_rule(Family.SAME)
def same(reading: Reading, operation: Operation) -> Contents:
    """Give what it was given, maybe in another dtype; a dropout that is always on leaves zeros only."""
    source = operation.node.args[0]
    assert isinstance(source, fx.Node)
    if source in reading.distributions:
        reading.distributions.add(operation.node)
    incoming = reading.single(source)
    if incoming is None:
        return None
    varies = incoming.varies
    if operation.get("train"):
        if "alpha_dropout" in operation.name:
            return None
        varies = varies | (incoming.numbers != 0)
    value = operation.node.meta["val"]
    if isinstance(value, (list, tuple)):
        return [content(varies, incoming.numbers.to(value[0].dtype)), *[None] * (len(value) - 1)]
    return content(varies, incoming.numbers.to(value.dtype))


@content_rule(Family.MIX)
def mixed(reading: Reading, operation: Operation) -> Contents:
    """Note what sums to one."""
    if operation.row.has(Trait.SUMS_TO_ONE) and operation["dim"] in (-1, operation.num_dims - 1):
        reading.distributions.add(operation.node)
    return None


@content_rule(Family.ELEMENTWISE)
def elementwise(reading: Reading, operation: Operation) -> Contents:
    """Constants make constants, and so does a factor of zero or a mask that is a constant."""
    if operation.fills is not None:
        return filled(operation)
    if operation.hangs_on_sizes:
        return None
    decided = _product if operation.row.has(Trait.FACTOR) else _DECIDED.get(operation.name)
    if decided is None and all(reading.single(node) is None for node in operation.tensors):
        return None
    contents = {node: reading.content(node) for node in operation.tensors}
    numbers = operation.compute({node: item.numbers for node, item in contents.items()})
    if decided is not None:
        varies = decided([_operand(contents, argument, operation) for argument in operation.arguments.values()][:3])
    else:
        first, *others = (item.varies for item in contents.values())
        varies = reduce(or_, others, first)
    return content(*together(varies, numbers))


def _operand(contents: dict[fx.Node, Content], argument: Any, operation: Operation) -> Content:
    if isinstance(argument, fx.Node):
        return contents[argument]
    number = torch.tensor(argument) if isinstance(argument, (bool, int, float)) else torch.tensor(torch.nan)
    shape = [1] * operation.num_dims
    return Content(torch.zeros(shape, dtype=torch.bool), number.reshape(shape))


def _product(operands: Sequence[Content]) -> Tensor:
    first, second = operands[:2]
    return (first.varies | second.varies) & ~first.is_zero & ~second.is_zero


def _sum_with_product(operands: Sequence[Content]) -> Tensor:
    return operands[0].varies | _product(operands[1:3])


def _choice(condition: Content, one: Content, other: Content) -> Tensor:
    chosen = torch.where(condition.numbers.bool(), one.varies, other.varies)
    return condition.varies | chosen


_DECIDED: dict[str, Callable[[Sequence[Content]], Tensor]] = {
    "addcmul": _sum_with_product,
    "where": lambda operands: _choice(*operands),
    "masked_fill": lambda operands: _choice(operands[1], operands[2], operands[0]),
}


@content_rule(Family.PRELU)
def prelu(reading: Reading, operation: Operation) -> Contents:
    """Constants make constants, with one slope a channel or one for all."""
    incoming, slope = reading.single(operation["self"]), reading.single(operation["weight"])
    if incoming is None or slope is None or not slope.is_fixed:
        return None
    numbers = incoming.numbers
    slopes = slope.numbers
    if slopes.ndim and numbers.ndim > 1:
        slopes = slopes.reshape([1, -1, *[1] * (numbers.ndim - 2)])
    numbers = torch.where(numbers >= 0, numbers, numbers * slopes)
    return content(*together(incoming.varies, numbers))


@content_rule(Family.GLU)
def glu(reading: Reading, operation: Operation) -> Contents:
    """Multiply one half by the sigmoid of the other."""
    incoming = reading.single(operation["self"])
    if incoming is None:
        return None
    dim, shape = operation["dim"], node_shape(operation["self"])
    first, second = (
        Content(varies, numbers)
        for varies, numbers in zip(
            stretched(incoming.varies, dim, shape).chunk(2, dim),
            stretched(incoming.numbers, dim, shape).chunk(2, dim),
            strict=True,
        )
    )
    gate = Content(second.varies, second.numbers.sigmoid())
    numbers = first.numbers * gate.numbers
    return content(_product([first, gate]).expand(numbers.shape), numbers)


def stretched(tensor: Tensor, dim: int, shape: Sequence[int]) -> Tensor:
    """Return a tensor at full length along one dimension."""
    sizes = list(tensor.shape)
    sizes[dim] = shape[dim]
    return tensor.expand(sizes)


@content_rule(Family.MOVE, Family.INDEX)
def moved(reading: Reading, operation: Operation) -> Contents:
    """Run the operation on what is known of the elements."""
    data, *others = operation.tensors
    incoming = reading.single(data)
    if incoming is None:
        return None
    if not operation.row.has(Trait.LIKE_ANOTHER) and not all(reading.is_constant(other) for other in others):
        return None
    tensors = {other: reading.content(other).numbers.expand(node_shape(other)) for other in others}
    shape = node_shape(data)
    varies, numbers = (
        operation.compute(tensors | {data: item.expand(shape)}) for item in (incoming.varies, incoming.numbers)
    )
    return content(varies, numbers)


@content_rule(Family.PARTS)
def parted(reading: Reading, operation: Operation) -> Contents:
    """Cut what is known into the same pieces."""
    (data,) = operation.tensors
    incoming = reading.single(data)
    if incoming is None:
        return None
    shape = node_shape(data)
    pieces = [operation.compute({data: item.expand(shape)}) for item in (incoming.varies, incoming.numbers)]
    return [content(varies, numbers) for varies, numbers in zip(*pieces, strict=True)]


@content_rule(Family.JOIN)
def joined(reading: Reading, operation: Operation) -> Contents:
    """Put what is known beside each other; along positions only what all pieces have in common counts."""
    if all(reading.single(node) is None for node in operation.tensors):
        return None
    contents = {node: reading.content(node) for node in operation.tensors}
    shapes = {node: node_shape(node) for node in contents}
    if operation.row.along == "dim":
        dim = operation["dim"] % operation.num_dims
        rest = [common_shape(item.varies, item.numbers) for item in contents.values()]
        sizes = [max(own) for own in zip(*rest, strict=True)]
        shapes = {
            node: torch.Size([*sizes[:dim], node_shape(node)[dim], *sizes[dim + 1 :]]) for node in operation.tensors
        }
    varies = operation.compute({node: item.varies.expand(shapes[node]) for node, item in contents.items()})
    numbers = operation.compute({node: item.numbers.expand(shapes[node]) for node, item in contents.items()})
    channels = channel_dims(reading, operation.node)
    dims = [dim for dim in range(varies.ndim) if dim not in channels]
    return content(any_over(varies, dims).expand(varies.shape), numbers)


def channel_dims(reading: Reading, node: fx.Node) -> list[int]:
    """Return the dimensions along which a tensor has channels."""
    value = reading.coupling.values.get(node)
    return varying(reading.coupling.classes(value.labels)) if isinstance(value, Value) else []


@content_rule(Family.PAD)
def padded(reading: Reading, operation: Operation) -> Contents:
    """Add channels that are constants; at new positions only what it holds already counts as the same."""
    (data,) = operation.tensors
    incoming, shape = reading.content(data), node_shape(data)
    varies, numbers = incoming.varies, incoming.numbers
    pads = list(operation["pad"])
    is_constant = operation.get("mode", "constant") == "constant"
    filler = operation.get("value") or 0
    channels = channel_dims(reading, operation.node)
    for dim, (before, after) in enumerate(zip(pads[-2::-2], pads[-1::-2], strict=True), len(shape) - len(pads) // 2):
        if before == after == 0:
            continue
        if dim not in channels:
            even = _even(Content(varies, numbers), [dim])
            varies, numbers = even.varies, even.numbers
            varies = varies | (numbers != filler) if is_constant else varies
        elif not is_constant or hangs_on(before) or hangs_on(after):
            return None
        else:
            one_dim = [0, 0] * (len(shape) - 1 - dim) + [before, after]
            varies = torch.nn.functional.pad(stretched(varies, dim, shape), one_dim, value=False)
            numbers = torch.nn.functional.pad(stretched(numbers, dim, shape), one_dim, value=filler)
    return content(*together(varies, numbers))


def hangs_on(number: Any) -> bool:
    """Tell whether a number is a size of the inputs."""
    return isinstance(number, fx.Node)


def _even(incoming: Content, dims: Sequence[int]) -> Content:
    """Return a content with size 1 along some dimensions: what differs along them counts as varying."""
    varies, numbers = incoming.varies, incoming.numbers
    for dim in dims:
        first = numbers.narrow(dim, 0, 1)
        varies = varies | (numbers != first)
        varies, numbers = any_over(varies, [dim]), first
    return Content(varies, numbers)


@content_rule(Family.WINDOW)
def resized(reading: Reading, operation: Operation) -> Contents:
    """Pool or interpolate: what is the same at all positions stays, but for zeros that are mixed in."""
    source = operation.node.args[0]
    assert isinstance(source, fx.Node)
    incoming = reading.single(source)
    if incoming is None:
        return None
    rank = incoming.varies.ndim
    even = _even(incoming, range(rank - operation.row.spatial_dims(rank), rank))
    if _mixes_zeros(operation):
        even = Content(even.varies | (even.numbers != 0), even.numbers)
    return with_others(operation, content(*together(even.varies, even.numbers)))


def _mixes_zeros(operation: Operation) -> bool:
    if not operation.row.has(Trait.PADS_ZEROS) or "padding" not in operation.arguments:
        return operation.row.has(Trait.PADS_ZEROS)
    padding = operation.get("padding") or 0
    return bool(operation.get("divisor_override")) or any(padding if isinstance(padding, (list, tuple)) else [padding])


def with_others(operation: Operation, first: Content | None) -> Contents:
    """Return what is known of an operation's first output, and nothing of the others if it has several."""
    value = operation.node.meta["val"]
    return [first, *[None] * (len(value) - 1)] if isinstance(value, (list, tuple)) else first


@content_rule(Family.REDUCE)
def reduced(reading: Reading, operation: Operation) -> Contents:
    """The mean or maximum of equal numbers is that number, their sum only where they are zero."""
    if isinstance(operation.get("other"), fx.Node):
        return elementwise(reading, operation)
    incoming = reading.single(operation.tensors[0])
    if incoming is None or not operation.row.traits & (Trait.EQUAL | Trait.ZERO):
        return None
    dims = dims_of(operation)
    even = _even(incoming, dims)
    if not operation.row.has(Trait.EQUAL):
        even = Content(even.varies | (even.numbers != 0), even.numbers)
    varies, numbers = together(even.varies, even.numbers)
    if not operation.get("keepdim"):
        varies, numbers = varies.squeeze(dims), numbers.squeeze(dims)
    return with_others(operation, content(varies, numbers.to(results_of(operation.node)[0].dtype)))


def dims_of(operation: Operation) -> tuple[int, ...]:
    """Return the dimensions that an operation reduces."""
    return tuple(reduced_dims(operation.get("dim"), rank_of(operation.tensors[0])))


@content_rule(Family.EMBEDDING)
def embedded(reading: Reading, operation: Operation) -> Contents:
    """A column of a table that holds the same number in every row is a constant."""
    table = reading.single(operation["weight"])
    if table is None or not table.is_fixed:
        return None
    numbers = table.numbers.expand(node_shape(operation["weight"]))
    shape = [1] * (operation.num_dims - 1) + [numbers.shape[1]]
    return content((numbers != numbers[:1]).any(0).reshape(shape), numbers[0].reshape(shape))
