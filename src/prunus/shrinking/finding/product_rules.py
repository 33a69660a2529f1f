"""What products with weights, and of two tensors, make of constants."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunus.graph.coupling import Value
from prunus.graph.letters import row_letters
from prunus.graph.operations import Family
from prunus.proving.verification import widened
from prunus.shrinking.finding.content import Content, channel_numbers, content, together
from prunus.shrinking.finding.contents import Contents, Reading, content_rule
from prunus.shrinking.finding.contractions import Contraction, contraction_of, meets, reduced
from prunus.shrinking.finding.operation import Operation, node_shape, rank_of
from prunus.shrinking.finding.recurrence import zero_units
from prunus.shrinking.finding.weights import applied, matrix, num_inputs, produced


@content_rule(Family.LINEAR, Family.MATMUL, Family.ADDMM, Family.EINSUM)
def contracted(reading: Reading, operation: Operation) -> Contents:
    """A sum into which no varying term goes is a constant."""
    product = contraction_of(operation)
    if product is None:
        return None
    (first, left), (second, right) = product.factors
    if reading.single(first) is None and reading.single(second) is None:
        return None
    weight = weight_place(reading, product)
    if weight is not None:
        numbers = _input_constants(product, reading.single(product.factors[1 - weight][0]), 1 - weight)
        reading.constants |= {id(use): numbers for use in reading.uses.get(operation.node, ()) if numbers is not None}
    if weight is not None and set(product.summed) <= set(product.factors[weight][1]):
        return _times_weight(reading, product, weight)
    if first in reading.distributions and product.summed == [left[-1]]:
        return _weighted_mean(reading.content(second), right, product.summed[0], product.out)
    varies = meets(reading.may_count(first), left, reading.may_count(second), right, product.out)
    return _plus(reading, product, varies, torch.zeros_like(varies, dtype=operation.node.meta["val"].dtype))


def _times_weight(reading: Reading, product: Contraction, place: int) -> Content | None:
    (weight, own), (source, letters) = product.factors[place], product.factors[1 - place]
    incoming = reading.single(source)
    counts = reading.may_count(weight).expand(node_shape(weight))
    numbers = reading.content(weight).numbers
    if incoming is None:
        varies = reduced(counts, own, product.out)
        if bool(varies.all()):
            return None
        return _plus(reading, product, varies, torch.zeros(varies.shape, dtype=numbers.dtype))
    varies = meets(incoming.varies, letters, counts, own, product.out)
    if bool(varies.all()):
        return None
    shape = node_shape(source)
    sizes = [shape[dim] if letter in product.summed else -1 for dim, letter in enumerate(letters)]
    equation = f"{letters},{own}->{product.out}"
    values = incoming.numbers.to(numbers.dtype).expand(sizes)
    sums = torch.einsum(equation, values, numbers.expand(node_shape(weight)))
    return _plus(reading, product, varies, sums * product.scale)


def _plus(reading: Reading, product: Contraction, varies: Tensor, numbers: Tensor) -> Content | None:
    if product.bias is not None:
        incoming = reading.content(product.bias)
        varies, numbers = varies | incoming.varies, numbers + product.bias_scale * incoming.numbers
    return content(*together(varies, numbers))


def _weighted_mean(incoming: Content, letters: str, summed: str, out: str) -> Content | None:
    """Return a mean of numbers, weighted with weights that sum to one: of equal numbers it is that number."""
    dim = letters.index(summed)
    first = incoming.numbers.narrow(dim, 0, 1)
    varies = incoming.varies | (incoming.numbers != first)
    return content(reduced(varies, letters, out), _placed(first, letters, out))


def _placed(numbers: Tensor, letters: str, out: str) -> Tensor:
    """Return numbers with the dimensions that a result has, in its order; what it has not has size 1 and goes."""
    own = [letter for letter in letters if letter in out]
    numbers = numbers.squeeze([place for place, letter in enumerate(letters) if letter not in out])
    numbers = numbers.permute([own.index(letter) for letter in out if letter in own])
    sizes = iter(numbers.shape)
    return numbers.reshape([next(sizes) if letter in own else 1 for letter in out])


@content_rule(Family.ATTENTION)
def attended(reading: Reading, operation: Operation) -> Contents:
    """The values of a head that are the same for all tokens are what attention gives; with a mask, zeros only."""
    incoming = reading.single(operation["value"])
    if incoming is None or operation.get("dropout_p"):
        return None
    if operation.get("enable_gqa"):
        times = operation.shape[-3] // node_shape(operation["value"])[-3]
        incoming = Content(*(_repeated(tensor, times) for tensor in (incoming.varies, incoming.numbers)))
    letters = row_letters(incoming.varies.ndim - 2) + "sd"
    result = _weighted_mean(incoming, letters, "s", letters.replace("s", "t"))
    if result is not None and operation.get("attn_mask") is not None:
        result = content(*together(result.varies | (result.numbers != 0), result.numbers))
    return result


def _repeated(tensor: Tensor, times: int) -> Tensor:
    return tensor.repeat_interleave(times, -3) if tensor.shape[-3] > 1 else tensor


@content_rule(Family.CONVOLUTION)
def convolved(reading: Reading, operation: Operation) -> Contents:
    """An output is a constant if no varying input reaches it; across padding no constant but zero reaches it evenly."""
    uses = reading.uses.get(operation.node, [])
    if len(uses) != 1 or not all(reading.is_constant(node) for node in operation.tensors[1:]):
        return None
    (use,) = uses
    source = operation["input"]
    dim = 1 if operation.num_dims == rank_of(operation["weight"]) else 0
    carries = reading.carries(use)
    numbers = channel_numbers(reading.single(source), dim, num_inputs(use, carries))
    reading.constants[id(use)] = numbers
    varies = produced(use, carries, numbers.isnan() | (numbers != 0) if pads(operation) else numbers.isnan())
    if bool(varies.all()):
        return None
    weight = widened(matrix(reading.coupling, use))
    numbers = numbers.nan_to_num().to(weight.dtype)
    sums = applied(use, weight.flatten(2).sum(2), numbers)
    if operation["bias"] is not None:
        sums = sums + widened(reading.content(operation["bias"]).numbers)
    shape = [1] * operation.num_dims
    shape[dim] = -1
    dtype = operation.node.meta["val"].dtype
    return content(varies.reshape(shape), sums.to(dtype).reshape(shape))


def pads(operation: Operation) -> bool:
    """Tell whether a convolution mixes in zeros, so that a constant does not reach its edges evenly."""
    padding: Any = operation["padding"]
    if "transpose" in operation.name or operation.get("transposed"):
        return True
    return padding == "same" if isinstance(padding, str) else any(map(bool, padding))


@content_rule(Family.RECURRENT)
def recurring(reading: Reading, operation: Operation) -> Contents:
    """A hidden unit whose candidate state is zero stays at its first state, zero."""
    units = zero_units(reading, operation)
    if units is None:
        return None
    for use, zero in units.inputs.items():
        reading.constants[use] = torch.where(zero, 0.0, torch.nan).double()
    dtype = operation.node.meta["val"][0].dtype
    last = torch.cat(units.by_cell[-units.directions :])
    states = torch.stack(units.by_cell)[:, None] if operation.num_dims == 3 else torch.stack(units.by_cell)
    masks = [last.reshape([1] * (operation.num_dims - 1) + [-1]), *[states] * (len(operation.node.meta["val"]) - 1)]
    return [content(~mask, torch.zeros(mask.shape, dtype=dtype)) for mask in masks]


def weight_place(reading: Reading, product: Contraction) -> int | None:
    """Return which factor is a weight; None where both are activations."""
    values = [reading.coupling.values.get(node) for node, _ in product.factors]
    places = [place for place, value in enumerate(values) if isinstance(value, Value) and value.sources]
    constant = [place for place, (node, _) in enumerate(product.factors) if reading.is_constant(node)]
    return next((place for place in (*places, *constant) if place in constant), None)


def _input_constants(product: Contraction, incoming: Content | None, place: int) -> Tensor | None:
    """Return what the inputs of a weight hold, in the order of its columns."""
    source, letters = product.factors[place]
    summed = [letter for letter in product.summed if letter in letters]
    if incoming is None or not summed:
        return None
    return merged_channels(incoming, letters, summed, node_shape(source))


def merged_channels(incoming: Content, letters: str, summed: list[str], shape: torch.Size) -> Tensor:
    """Return what each combination of the indices of several dimensions holds, as `channel_numbers`."""
    lead = [dim for dim, letter in enumerate(letters) if letter not in summed]
    order = [*(letters.index(letter) for letter in summed), *lead]
    sizes = [shape[dim] if letter in summed else -1 for dim, letter in enumerate(letters)]
    varies, numbers = (
        tensor.expand(sizes).permute(order).flatten(0, len(summed) - 1)
        for tensor in (incoming.varies, incoming.numbers)
    )
    return channel_numbers(Content(varies, numbers), 0, varies.shape[0])
