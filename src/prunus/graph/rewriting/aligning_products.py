"""Products and recurrent layers: what is summed over, the groups and the heads of what stays must fit together."""

from __future__ import annotations

import torch

from prunus.graph.coupling import Value
from prunus.graph.letters import einsum_terms, matmul_letters, row_letters
from prunus.graph.operations import Family
from prunus.graph.rewriting.aligning import ANY, Fit, Literals, all_whole, checks
from prunus.graph.rewriting.extents import alike, indices


@checks(Family.LINEAR)
def _linear(fit: Fit) -> None:
    value = fit.call["input"]
    lead = row_letters(len(value.shape) - 1)
    fit.letters(value, f"{lead}i")
    fit.letters(fit.call["weight"], "oi" if len(fit.call["weight"].shape) == 2 else "i")
    fit.letters(fit.outputs[0], f"{lead}o" if len(fit.call["weight"].shape) == 2 else lead)
    fit.letters(fit.call["bias"], "o")


@checks(Family.MATMUL, Family.ADDMM)
def _matmul(fit: Fit) -> None:
    *bias, first, second = fit.call.values
    left, right, out = matmul_letters(len(first.shape), len(second.shape))
    summed = out
    if fit.call.name == "addbmm":
        summed = out[-2:]
    fit.letters(first, left)
    fit.letters(second, right)
    fit.letters(fit.outputs[0], summed)
    for value in bias:
        fit.letters(value, summed[len(summed) - len(value.shape) :])


@checks(Family.EINSUM)
def _einsum(fit: Fit) -> Literals | None:
    values = fit.call.values
    followed = einsum_terms(fit.call["equation"], [value.labels.ndim for value in values])
    if followed is None:
        return all_whole(fit)
    terms, out = followed
    for value, term in zip((*fit.call.values, fit.outputs[0]), (*terms, out), strict=True):
        fit.letters(value, term)
    for value, term, other in zip(fit.call.values, terms, reversed(terms), strict=True):
        fit.whole(value, [dim for dim, letter in enumerate(term) if letter not in other and letter not in out])
    return None


@checks(Family.ATTENTION)
def _attention(fit: Fit) -> None:
    query, key, value = fit.call["query"], fit.call["key"], fit.call["value"]
    lead = row_letters(len(query.shape) - 2)
    grouped = bool(fit.call.get("enable_gqa")) and key.shape[-3] != query.shape[-3]
    shared = lead[:-1] + "h" if grouped else lead  # heads of keys and values
    if fit.call.get("scale") is None:
        fit.whole(query, [-1])
    for tensor, letters in ((query, f"{lead}td"), (key, f"{shared}sd"), (value, f"{shared}se")):
        fit.letters(tensor, letters)
    fit.letters(fit.outputs[0], f"{lead}te")
    mask = fit.call.get("attn_mask")
    if isinstance(mask, Value):
        scores = f"{lead}ts"
        fit.letters(mask, scores[len(scores) - len(mask.shape) :])
    if grouped:
        _check_shared_heads(fit, query, key)


def _check_shared_heads(fit: Fit, query: Value, key: Value) -> None:
    """Raise unless each head that stays reads the keys it read before."""
    heads = indices(fit.masks(query)[-3], query.shape[-3])
    shared = indices(fit.masks(key)[-3], key.shape[-3])
    reads = heads // (query.shape[-3] // key.shape[-3])
    if len(heads) % len(shared) or not torch.equal(reads, shared.repeat_interleave(len(heads) // len(shared))):
        raise fit.error("the heads that are left would read the keys of other heads")


@checks(Family.CONVOLUTION)
def _convolution(fit: Fit) -> Literals:
    """Check each output's inputs: those of its group, before and after."""
    call, (out,) = fit.call, fit.outputs
    value, weight = call["input"], call["weight"]
    dim = 1 if len(value.shape) == len(weight.shape) else 0
    letters = ANY * (dim + 1)
    for tensor in (value, out):
        fit.whole(tensor, [place for place in range(len(tensor.shape)) if place != dim])
    fit.whole(weight, range(2, len(weight.shape)))
    rows, columns = (indices(fit.masks(weight)[place], weight.shape[place]) for place in (0, 1))
    by_row = fit.extents.kept.columns.get(weight.sources[0].name) if weight.sources else None
    of_row = columns if by_row is None else by_row[rows]
    ins, outs = (indices(fit.masks(tensor)[dim], tensor.shape[dim]) for tensor in (value, out))
    fit.letters(call["bias"], "o")
    fit.letters(out, letters[:dim] + "o" + ANY * (len(out.shape) - dim - 1))
    transposed = "transpose" in call.name or bool(call.get("transposed"))
    near, far = (ins, outs) if transposed else (outs, ins)  # along the weight's first and second dimension
    groups, width = call["groups"], weight.shape[1]
    left = len(far) // len(columns)
    fits = torch.equal(rows, near) and len(far) == left * len(columns) and len(near) % left == 0
    if fits:
        before = (rows // (weight.shape[0] // groups) * width)[:, None] + of_row
        after = far.reshape(left, -1).repeat_interleave(len(near) // left, 0)
        fits = torch.equal(before, after)
    if not fits:
        raise fit.error("its outputs would meet other inputs than before")
    return {"groups": left} if left != groups else {}


@checks(Family.RECURRENT)
def _recurrent(fit: Fit) -> Literals | None:
    call = fit.call
    sequence, parameters = call["input"], call["params"]
    states = call["hx"] if isinstance(call["hx"], (list, tuple)) else [call["hx"]]
    per_cell, directions = 4 if call["has_biases"] else 2, 2 if call["bidirectional"] else 1
    if len(parameters) != per_cell * directions * call["num_layers"]:
        return all_whole(fit)
    hidden = fit.masks(parameters[1])[1]
    rows = None if hidden is None else hidden.repeat(call.row.gates)
    wide = None if hidden is None else hidden.repeat(directions)
    for place, parameter in enumerate(parameters):
        masks = fit.masks(parameter)
        first = place % per_cell == 0
        columns = (fit.masks(sequence)[-1] if place < per_cell * directions else wide) if first else hidden
        if not alike(masks[0], rows) or (len(masks) > 1 and not alike(masks[1], columns)):
            raise fit.error("its weights would keep other hidden units, or other inputs, than it has")
    ends = [(fit.outputs[0], wide), *((state, hidden) for state in (*states, *fit.outputs[1:]))]
    for tensor, mask in ends:
        fit.whole(tensor, range(len(tensor.shape) - 1))
        if not alike(fit.masks(tensor)[-1], mask):
            raise fit.error("its states would keep other hidden units than its weights")
    fit.whole(sequence, range(len(sequence.shape) - 1))
    return None
