"""Sums of products: linear, matmul, einsum, convolution, attention. Weights couple what they consume and make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prunus.graph.coupling.arithmetic import combined
from prunus.graph.coupling.calls import Call
from prunus.graph.coupling.reader import Reader, rule
from prunus.graph.coupling.uses import Product, Use
from prunus.graph.coupling.values import Value, along, first_along, inert
from prunus.graph.letters import einsum_terms, letter_sizes, matmul_letters, row_letters
from prunus.graph.operations import Family

# The letter of what is summed over.
_SUMMED = "+"


@dataclass(frozen=True, eq=False)
class Operand:
    """A factor of a product, with a letter for each of its dimensions."""

    value: Value
    letters: str

    @property
    def is_weight(self) -> bool:
        """Whether it is a parameter."""
        return bool(self.value.sources)

    def size(self, letter: str) -> int:
        """Return the size of the dimension with this letter, 1 where there is none."""
        return self.value.shape[self.letters.index(letter)] if letter in self.letters else 1


@rule(Family.LINEAR)
def linear(reader: Reader, call: Call) -> Value:
    """Y = x W^T + b."""
    value = call["input"]
    lead = row_letters(value.labels.ndim - 1)
    product = contract(reader, call, [(value, f"{lead}i"), (call["weight"], "oi")], f"{lead}o", call["bias"])
    return plus_bias(reader, call, product, call["bias"])


@rule(Family.MATMUL)
def matmul(reader: Reader, call: Call) -> Value:
    """Multiply matrices, with batches before them that broadcast."""
    first, second = call.values
    left, right, out = matmul_letters(first.labels.ndim, second.labels.ndim)
    return contract(reader, call, [(first, left), (second, right)], out)


@rule(Family.ADDMM)
def addmm(reader: Reader, call: Call) -> Value:
    """A matrix product plus something."""
    bias, first, second = call.values
    left, right, out = matmul_letters(first.labels.ndim, second.labels.ndim)
    product = contract(reader, call, [(first, left), (second, right)], out, bias)
    if bias.sources:
        return plus_bias(reader, call, product, bias)
    return combined(reader, call, [bias, product], call.shape)


@rule(Family.EINSUM)
def einsum(reader: Reader, call: Call) -> Value:
    """Any product of one or two tensors, by its equation."""
    terms = einsum_terms(call["equation"], [value.labels.ndim for value in call.values])
    if terms is not None:
        expanded, out = terms
        return contract(reader, call, list(zip(call.values, expanded, strict=True)), out)
    for value in call.values:
        reader.keep(reader.promote(value), "an einsum of its kind is not followed")
    return Value(inert(call.shape))


@rule(Family.ATTENTION)
def attention(reader: Reader, call: Call) -> Value:
    """softmax(q k^T) v: heads go whole."""
    query, key, value = call["query"], call["key"], call["value"]
    if call.get("enable_gqa"):
        key, value = (_repeated(shared, query.shape[-3]) for shared in (key, value))
    lead = row_letters(query.labels.ndim - 2)
    if call.get("scale") is None:
        for scaled in (query, key):
            reader.need(scaled.labels, [-1], "attention scales by its size", call.node)
    scores = contract(reader, call, [(query, f"{lead}td"), (key, f"{lead}sd")], f"{lead}ts")
    mask = call.get("attn_mask")
    if mask is not None:
        scores = combined(reader, call, [scores, mask], scores.shape)
    return contract(reader, call, [(scores, f"{lead}ts"), (value, f"{lead}sd")], f"{lead}td")


def _repeated(value: Value, heads: int) -> Value:
    return replace(value, labels=value.labels.repeat_interleave(heads // value.shape[-3], -3))


def contract(
    reader: Reader, call: Call, factors: Sequence[tuple[Value, str]], out: str, bias: Value | None = None
) -> Value:
    """Note what a product of two tensors couples, and return the labels of its result.

    Args:
        reader: what is known so far.
        call: the operation.
        factors: the tensors with a letter for each dimension; letters in both but not in `out` are summed over.
        out: the letters of the result.
        bias: a parameter that is added to the result.
    """
    operands = [Operand(value, letters) for value, letters in factors]
    if all(operand.is_weight for operand in operands):  # a weight that is computed from weights
        operands = [Operand(Value(reader.promote(operand.value)), operand.letters) for operand in operands]
    sizes = letter_sizes((operand.value.shape, operand.letters) for operand in operands)
    macs = math.prod(sizes.values()) / reader.graph.num_samples
    summed = [letter for letter in sizes if letter not in out]
    merged = [_merge(operand, summed) for operand in operands]
    shared = [letter for letter in out if all(letter in operand.letters for operand in merged)]
    for operand in merged:
        _simplify(reader, operand, shared)
    vectors = [_vectors(reader, operand) for operand in merged]
    if summed:
        _join_summed(reader, merged, vectors)
    _join_shared(reader, merged, vectors, shared)
    shape = torch.Size([sizes[letter] for letter in out])
    labels = _outputs(reader, merged, vectors, out, shared, shape)
    weight = next((operand for operand in merged if operand.is_weight), None)
    if weight is None:
        reader.products.append(Product(call.node, labels, macs))
    else:
        _note_use(reader, call, weight, merged, vectors, macs, bias)
    return Value(labels)


def _merge(operand: Operand, summed: Sequence[str]) -> Operand:
    """Give the dimension that is summed over its own letter; several are brought to one, in the same order in both."""
    own = [letter for letter in summed if letter in operand.letters]
    if len(own) < 2:
        return Operand(operand.value, operand.letters.replace(own[0], _SUMMED) if own else operand.letters)
    lead = [letter for letter in operand.letters if letter not in own]
    order = [operand.letters.index(letter) for letter in [*lead, *own]]
    value = operand.value
    sizes = [value.shape[dim] for dim in order[: len(lead)]]

    def moved(tensor: Tensor) -> Tensor:
        return tensor.permute(order).reshape(*sizes, -1)

    sources = tuple(source.moved(moved(source.indices().expand(value.shape))) for source in value.sources)
    return Operand(Value(moved(value.labels), sources), "".join(lead) + _SUMMED)


def _simplify(reader: Reader, operand: Operand, shared: Sequence[str]) -> None:
    """Join an activation's labels until they differ along one dimension at most: heads go whole."""
    if operand.is_weight:
        return
    labels = operand.value.labels
    differ = [operand.letters[dim] for dim in reader.varying(labels)]
    if len(differ) < 2:
        return
    keep = next((letter for letter in differ if letter in shared), None)
    if keep is None and _SUMMED in differ:
        reader.keep(labels, "it is summed over together with another dimension of channels")
        return
    keep = keep or differ[-1]
    for dim, letter in enumerate(operand.letters):
        if letter != keep and letter in differ:
            reader.join(labels, labels.narrow(dim, 0, 1).expand_as(labels))


def _vectors(reader: Reader, operand: Operand) -> dict[str, Tensor]:
    """Return the atoms along each letter; an activation has them along one letter at most."""
    if operand.is_weight:
        (source, *others) = operand.value.sources
        axes = {letter: reader.axis(source, dim) for dim, letter in enumerate(operand.letters)}
        return {letter: atoms for letter, atoms in axes.items() if atoms is not None and not others}
    labels = operand.value.labels
    differ = reader.varying(labels)
    if not differ:  # one class for all of it: nothing of it can go
        reader.keep_only(labels)
        return {}
    if len(differ) > 1:
        return {}
    return {operand.letters[differ[0]]: first_along(labels, differ)}


def _join_summed(reader: Reader, operands: Sequence[Operand], vectors: Sequence[dict[str, Tensor]]) -> None:
    first, second = (atoms.get(_SUMMED) for atoms in vectors)
    weights = [operand.is_weight for operand in operands]
    if first is not None and second is not None:
        reader.join(first, second)
        if not any(weights):
            reader.leak(first)
        return
    reader.keep(
        first if first is not None else second, "it is multiplied with what no layer makes, such as the model's input"
    )


def _join_shared(
    reader: Reader, operands: Sequence[Operand], vectors: Sequence[dict[str, Tensor]], shared: Sequence[str]
) -> None:
    for letter in shared:
        first, second = (atoms.get(letter) for atoms in vectors)
        if first is not None and second is not None:
            reader.join(first, second)
        elif first is not None and operands[1].size(letter) > 1:
            reader.keep(first, "it meets a tensor that can't be cut")
        elif second is not None and operands[0].size(letter) > 1:
            reader.keep(second, "it meets a tensor that can't be cut")


def _outputs(
    reader: Reader,
    operands: Sequence[Operand],
    vectors: Sequence[dict[str, Tensor]],
    out: str,
    shared: Sequence[str],
    shape: torch.Size,
) -> Tensor:
    """Return the result's labels, which run along one letter: a shared one, an activation's own, or a weight's."""
    activations = [index for index, operand in enumerate(operands) if not operand.is_weight]
    weights = [index for index, operand in enumerate(operands) if operand.is_weight]
    ordered = [
        *((index, letter) for letter in shared for index in (*activations, *weights)),
        *((index, letter) for index in (*activations, *weights) for letter in operands[index].letters),
    ]
    chosen: tuple[Tensor, str] | None = None
    for index, letter in ordered:
        atoms = vectors[index].get(letter)
        if atoms is None or letter == _SUMMED:
            continue
        if chosen is None:
            chosen = atoms, letter
        elif letter != chosen[1]:
            reader.keep(atoms, "it is made beside other channels")
    if chosen is None:
        return inert(shape)
    return along(chosen[0], out.index(chosen[1]), shape)


def _note_use(
    reader: Reader,
    call: Call,
    weight: Operand,
    operands: Sequence[Operand],
    vectors: Sequence[dict[str, Tensor]],
    macs: float,
    bias: Value | None,
) -> None:
    own = [letter for letter in weight.letters if letter != _SUMMED]
    (source,) = weight.value.sources[:1]
    if len(own) != 1 or len(weight.letters) != 2 or len(weight.value.sources) > 1:
        for operand, atoms in zip(operands, vectors, strict=True):
            if not operand.is_weight:
                reader.keep(atoms.get(_SUMMED), "it is multiplied with a parameter that is no matrix")
                reader.leak(atoms.get(_SUMMED))
        return
    index = operands.index(weight)
    reader.uses.append(
        Use(
            call.node,
            source,
            (weight.letters.index(own[0]), weight.letters.index(_SUMMED)),
            inputs=vectors[index].get(_SUMMED),
            outputs=vectors[index].get(own[0]),
            macs=macs,
            bias=bias.sources[0] if bias is not None and bias.sources else None,
        )
    )


def plus_bias(reader: Reader, call: Call, product: Value, bias: Value | None) -> Value:
    """Add a bias to a product: a parameter goes with what it is added to, one that is computed is a sum like any."""
    if bias is None:
        return product
    if not bias.sources:
        return combined(reader, call, [product, bias], call.shape)
    reader.bind(bias, product.labels)
    return product
