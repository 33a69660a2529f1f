"""Which elements of its arguments an operation needs for the elements of its results that matter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from prunus.graph.coupling import Value
from prunus.graph.coupling.values import compact
from prunus.graph.operations import Family, Trait
from prunus.shrinking.finding.content import Content, along_channels, any_over, together
from prunus.shrinking.finding.content_rules import dims_of
from prunus.shrinking.finding.contractions import Contraction, contraction_of, meets, reduced
from prunus.shrinking.finding.liveness import Sweep, need_rule
from prunus.shrinking.finding.operation import Operation, node_shape, rank_of
from prunus.shrinking.finding.product_rules import merged_channels, weight_place
from prunus.shrinking.finding.weights import num_outputs


def _mattering(matters: Tensor | list[Tensor | None]) -> list[Tensor]:
    """Return what matters of each result of which anything does."""
    return [own for own in (matters if isinstance(matters, list) else [matters]) if own is not None]


@need_rule(Family.SAME)
def same(sweep: Sweep, operation: Operation, matters: Any) -> None:
    """The same elements."""
    first = matters[0] if isinstance(matters, list) else matters
    if first is not None:
        sweep.push(operation.tensors[0], first)


@need_rule(Family.ELEMENTWISE, Family.PRELU)
def elementwise(sweep: Sweep, operation: Operation, matters: Tensor) -> None:
    """The same elements of all arguments, but not what is multiplied by zero or masked out."""
    if operation.row.fills is not None:  # of a number, or of what a tensor holds
        value = operation.get("value")
        if isinstance(value, fx.Node):
            sweep.fitted(value, matters)
        return
    unneeded = _unneeded(sweep, operation)
    for node in operation.tensors:
        sweep.fitted(node, matters & ~unneeded[node] if node in unneeded else matters)


def _unneeded(sweep: Sweep, operation: Operation) -> dict[fx.Node, Tensor]:
    """Return argument -> which elements of the result do not depend on it, as another argument is a constant."""
    if operation.row.has(Trait.FACTOR):
        first, second = operation.node.args[:2]
    elif operation.name == "addcmul":
        first, second = operation.node.args[1:3]
    elif operation.name == "where" and len(operation.node.args) == 3:
        condition, one, other = operation.node.args
        return _not_chosen(sweep, condition, one, other)
    elif operation.name == "masked_fill":
        source, condition, filler = operation.node.args[:3]
        return _not_chosen(sweep, condition, filler, source)
    else:
        return {}
    if first is second:
        return {}
    zeros = [_zero(sweep, factor) for factor in (first, second)]
    unneeded = {}
    if zeros[1] is not None and isinstance(first, fx.Node):
        unneeded[first] = zeros[1]
    if zeros[0] is not None and isinstance(second, fx.Node):  # where both are zero, the second has to stay so
        unneeded[second] = zeros[0] if zeros[1] is None else zeros[0] & ~zeros[1]
    if operation.name == "addcmul" and operation.node.args[0] in unneeded:
        del unneeded[operation.node.args[0]]  # type: ignore[arg-type]
    return unneeded


def _zero(sweep: Sweep, argument: Any) -> Tensor | None:
    if isinstance(argument, fx.Node):
        incoming = sweep.reading.single(argument)
        return None if incoming is None else incoming.is_zero
    return torch.tensor(True) if argument == 0 else None


def _not_chosen(sweep: Sweep, condition: Any, one: Any, other: Any) -> dict[fx.Node, Tensor]:
    incoming = sweep.reading.single(condition)
    if incoming is None or one is other or condition is one or condition is other:
        return {}
    numbers = incoming.numbers.bool()
    masks = ((one, ~incoming.varies & ~numbers), (other, ~incoming.varies & numbers))
    return {node: mask for node, mask in masks if isinstance(node, fx.Node)}


@need_rule(Family.GLU)
def glu(sweep: Sweep, operation: Operation, matters: Tensor) -> None:
    """The same elements of both halves."""
    source, dim = operation["self"], operation["dim"]
    half = matters if matters.shape[dim] == 1 else torch.cat([matters, matters], dim)
    sweep.push(source, half)


@need_rule(Family.MOVE, Family.PARTS, Family.JOIN, Family.INDEX)
def moved(sweep: Sweep, operation: Operation, matters: Any) -> None:
    """The elements whose labels a result that matters has."""
    coupling = sweep.reading.coupling
    values = coupling.values[operation.node]
    listed = list(zip(values, matters, strict=False)) if isinstance(values, list) else [(values, matters)]
    atoms = torch.zeros(len(coupling.class_of), dtype=torch.bool)
    present = torch.zeros(len(coupling.class_of), dtype=torch.bool)
    for value, own in listed:
        if not isinstance(value, Value) or own is None:
            continue
        labels = compact(value.labels)
        labels, own = together(labels, own)
        needed = labels[own]
        atoms[needed[needed >= 0]] = True
        present[labels[labels >= 0]] = True
    for source in operation.tensors:
        argument = coupling.values.get(source)
        if not isinstance(argument, Value) or argument.sources:
            continue
        labels = compact(argument.labels)
        kept = labels >= 0
        inside = labels.clamp(min=0)
        follows = operation.family is not Family.INDEX or bool(present[inside[kept]].all())
        sweep.push(source, ~kept | atoms[inside] if follows else torch.ones_like(kept))


@need_rule(Family.PAD)
def padded(sweep: Sweep, operation: Operation, matters: Tensor) -> None:
    """What was there before; all along a dimension that is padded by copies."""
    source, pads = operation.tensors[0], list(operation["pad"])
    is_constant = operation.get("mode", "constant") == "constant"
    shape = node_shape(source)
    for dim, (before, after) in enumerate(zip(pads[-2::-2], pads[-1::-2], strict=True), len(shape) - len(pads) // 2):
        if matters.shape[dim] == 1 or before == after == 0:
            continue
        if is_constant and isinstance(before, int) and isinstance(after, int) and before >= 0 and after >= 0:
            matters = matters.narrow(dim, before, shape[dim])
        else:
            matters = any_over(matters, [dim])
    sweep.push(source, matters)


@need_rule(Family.WINDOW)
def resized(sweep: Sweep, operation: Operation, matters: Any) -> None:
    """The same channels, at all positions."""
    first = operation.num_dims - operation.row.spatial_dims(operation.num_dims)
    for own in _mattering(matters):
        sweep.push(operation.tensors[0], any_over(own, range(first, own.ndim)))
    for other in operation.tensors[1:]:
        sweep.push(other, torch.ones([1] * rank_of(other), dtype=torch.bool))


@need_rule(Family.REDUCE)
def reduced_over(sweep: Sweep, operation: Operation, matters: Any) -> None:
    """All along the dimensions that are reduced."""
    if isinstance(operation.get("other"), fx.Node):
        elementwise(sweep, operation, matters)
        return
    dims = dims_of(operation)
    for own in _mattering(matters):
        if not operation.get("keepdim"):
            for dim in dims:
                own = own.unsqueeze(dim)
        sweep.push(operation.tensors[0], any_over(own, dims))


@need_rule(Family.MIX)
def mixed(sweep: Sweep, operation: Operation, matters: Any) -> None:
    """All along the dimension that is mixed."""
    for own in _mattering(matters):
        sweep.push(operation.tensors[0], any_over(own, [operation["dim"] % own.ndim]))


@need_rule(Family.CHANNEL_NORM)
def channel_norm(sweep: Sweep, operation: Operation, matters: Any) -> None:
    """The same channels, but for those whose scale is zero."""
    own = _scaled(sweep, operation, matters, 1)
    if own is not None:
        across = operation.get("training") or operation.get("use_input_stats")
        across = across or operation.get("running_mean") is None
        dims = [dim for dim in range(own.ndim) if dim != 1] if across else []
        sweep.push(operation["input"], any_over(own, dims))


@need_rule(Family.LAYER_NORM)
def layer_norm(sweep: Sweep, operation: Operation, matters: Any) -> None:
    """All that is normalised together."""
    lead = operation.num_dims - len(operation["normalized_shape"])
    own = _scaled(sweep, operation, matters, lead)
    if own is not None:
        sweep.push(operation["input"], any_over(own, range(lead, own.ndim)))


@need_rule(Family.GROUP_NORM)
def group_norm(sweep: Sweep, operation: Operation, matters: Any) -> None:
    """Whole groups of channels, at all positions."""
    own = _scaled(sweep, operation, matters, 1)
    if own is not None:
        size, groups = operation.shape[1], operation["num_groups"]
        by_group = along_channels(own, 1, size).reshape(groups, -1)
        channels = by_group.any(1, keepdim=True).expand_as(by_group).reshape(-1)
        sweep.push(operation["input"], channels.reshape([1, -1, *[1] * (own.ndim - 2)]))


def _scaled(sweep: Sweep, operation: Operation, matters: Any, dim: int) -> Tensor | None:
    """Return which elements matter before a norm's scale."""
    own: Tensor = matters[0] if isinstance(matters, list) else matters
    weight = operation.get("weight")
    if own is None or weight is None or not sweep.reading.is_constant(weight):
        return own
    scale = sweep.reading.content(weight).numbers.expand(node_shape(weight)) != 0
    own = own & scale.reshape([*[1] * dim, *scale.shape, *[1] * (own.ndim - dim - scale.ndim)])
    return own if bool(own.any()) else None


@need_rule(Family.LINEAR, Family.MATMUL, Family.ADDMM, Family.EINSUM)
def contracted(sweep: Sweep, operation: Operation, matters: Tensor) -> None:
    """What is multiplied by something that is not zero for a result that matters."""
    product = contraction_of(operation)
    place = None if product is None else weight_place(sweep.reading, product)
    if product is None:
        sweep.push_all(operation.node)
        return
    if product.bias is not None:
        sweep.fitted(product.bias, matters)
    if place is None:
        _both_factors(sweep, product, matters)
        return
    (weight, own), (source, letters) = product.factors[place], product.factors[1 - place]
    counts = sweep.reading.may_count(weight).expand(node_shape(weight))
    inside = "".join(letter for letter in letters if letter in product.out or letter in own)
    reached = meets(matters, product.out, counts, own, inside)
    sizes = iter(reached.shape)
    reached = reached.reshape([next(sizes) if letter in inside else 1 for letter in letters])
    sweep.push(source, reached)
    summed = [letter for letter in product.summed if letter in letters]
    for use in sweep.reading.uses.get(operation.node, ()):
        row = product.out.find(next((letter for letter in own if letter not in summed), ""))
        if row >= 0:
            sweep.outputs[id(use)] = along_channels(matters, row, operation.shape[row])
        if use.inputs is not None and summed:
            whole = Content(reached, torch.zeros(reached.shape))
            sweep.keep(use, merged_channels(whole, letters, summed, node_shape(source)).isnan())


def _both_factors(sweep: Sweep, product: Contraction, matters: Tensor) -> None:
    """Two activations: what goes into a result that matters; channels that are summed over stay unless one is zero."""
    for (node, letters), (other, others) in (product.factors, product.factors[::-1]):
        sweep.push(node, reduced(matters, product.out, letters))
        for letter in product.summed:
            if letter not in letters:
                continue
            dim, size = letters.index(letter), node_shape(node)[letters.index(letter)]
            counts = along_channels(sweep.reading.may_count(node), dim, size)
            if letter in others:
                counts = counts & along_channels(sweep.reading.may_count(other), others.index(letter), size)
            for classes in sweep.classes(node):
                if classes is not None:
                    along = classes.movedim(dim, 0)
                    sweep.leak(along.expand(size, *along.shape[1:])[counts])


@need_rule(Family.ATTENTION)
def attended(sweep: Sweep, operation: Operation, matters: Any) -> None:
    """Of the heads that matter all queries and keys, of the values the same elements, of all tokens."""
    own = matters[0] if isinstance(matters, list) else matters
    if own is None:
        return
    heads = any_over(own, [own.ndim - 2, own.ndim - 1])
    tokens = any_over(own, [own.ndim - 2])
    if operation.get("enable_gqa") and heads.shape[-3] > 1:
        heads, tokens = (any_over(mask, [own.ndim - 3]) for mask in (heads, tokens))
    for name, mask in (("query", heads), ("key", heads), ("value", tokens)):
        sweep.push(operation[name], mask)
    for name in ("query", "key"):
        for classes in sweep.classes(operation[name]):
            if classes is not None:
                sweep.leak(classes)
    mask = operation.get("attn_mask")
    if isinstance(mask, fx.Node):
        sweep.push(mask, torch.ones([1] * rank_of(mask), dtype=torch.bool))


@need_rule(Family.CONVOLUTION)
def convolved(sweep: Sweep, operation: Operation, matters: Tensor) -> None:
    """The inputs that a kernel takes to an output that matters."""
    uses = sweep.reading.uses.get(operation.node, [])
    if len(uses) != 1:
        sweep.push_all(operation.node)
        return
    (use,) = uses
    dim = 1 if operation.num_dims == rank_of(operation["weight"]) else 0
    outputs = along_channels(matters, dim, num_outputs(use, sweep.reading.carries(use)))
    reached = sweep.consume(use, outputs)
    shape = [1] * operation.num_dims
    shape[dim] = -1
    sweep.push(operation["input"], reached.reshape(shape))


@need_rule(Family.RECURRENT)
def recurring(sweep: Sweep, operation: Operation, matters: Any) -> None:
    """Units that matter need the inputs and the units that their weights take."""
    uses = sweep.reading.uses.get(operation.node, [])
    if not uses:
        sweep.push_all(operation.node)
        return
    class_of = sweep.reading.coupling.class_of
    inputs = None
    while True:
        before = int(sweep.alive.sum())
        for use in reversed(uses):
            assert use.outputs is not None
            reached = sweep.consume(use, sweep.alive[class_of[use.outputs]])
            if use.inputs is None or use in uses[: 2 * (2 if operation["bidirectional"] else 1) : 2]:
                inputs = reached if inputs is None else inputs | reached
        if int(sweep.alive.sum()) == before:
            break
    source = operation["input"]
    assert inputs is not None
    sweep.push(source, inputs.reshape([1] * (rank_of(source) - 1) + [-1]))
    states = operation["hx"] if isinstance(operation["hx"], (list, tuple)) else [operation["hx"]]
    for state in states:
        sweep.push(state, torch.ones([1] * rank_of(state), dtype=torch.bool))
