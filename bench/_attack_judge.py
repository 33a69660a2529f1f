"""Holds a smaller model against the masked one, without any of prunus' own checks.

Both run in float64 where they can. Every element of every output must be within rounding of the largest of that output;
whole numbers and booleans must be equal. Where one is not, its distance is compared with how far the masked model's own
output moves when its weights and inputs move by a tenth of that rounding, six times: up to 20 times as far is rounding
that a steep function has made larger, or a tie (an argmax between two equals, a sign of zero). These are counted as
`ties`, not as wrong. Where the masked model gives NaN nothing is asked: `shrink` takes zero times infinity for zero.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from _attack_subject import KINDS, Argument, Subject, in_dtype

# What rounding may make of an output, relative to its largest element, by the model's dtype.
ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
SAMPLES = 40  # of each kind
PERTURBATIONS, AMPLIFIED = 6, 20

Call = tuple[tuple[Tensor, ...], dict[str, Tensor]]


@dataclass
class Verdict:
    """What was seen of a smaller model.

    Attributes:
        wrong: how it differs; "" if it does not.
        size: how it differs at a size or with an argument that its `checked` does not list; "" if it does not.
        lost: batches, sizes and arguments that the masked model takes and it does not.
        ties: elements that differ by no more than amplified rounding.
    """

    wrong: str = ""
    size: str = ""
    lost: list[str] = field(default_factory=list)
    ties: int = 0


class DiffersError(Exception):
    """An output that is not the masked model's."""


class FailsError(Exception):
    """The smaller model raises on an input that the masked one takes."""


class NotTakenError(Exception):
    """The masked model raises on an input."""


def judge(reference: nn.Module, smaller: nn.Module, subject: Subject, seed: int) -> Verdict:
    """Compare on samples of all kinds, other batches, sizes and arguments; then take a step in training mode."""
    verdict = Verdict()
    generator = torch.Generator().manual_seed(seed)
    try:
        for kind in KINDS:
            if subject.dtype in (torch.float16, torch.bfloat16) and kind == "x100":
                continue  # mostly infinities
            inputs = subject.inputs(kind, SAMPLES, generator)
            try:
                verdict.ties += _compare(reference, smaller, inputs, subject.dtype)
            except (
                FailsError,
                NotTakenError,
            ) as error:  # the batch may be written into a forward: then in the example's
                if isinstance(error, FailsError) and not verdict.lost:
                    verdict.lost.append(f"a batch of {SAMPLES}: {error}")
                for part in _parts(inputs, subject.batch):
                    verdict.ties += _compare(reference, smaller, part, subject.dtype)
        for batch in (1, 5):
            try:
                verdict.ties += _compare(reference, smaller, subject.inputs("normal", batch, generator), subject.dtype)
            except FailsError as error:
                verdict.lost.append(f"a batch of {batch}: {error}")
            except NotTakenError:
                continue
        _same_dtypes(reference, smaller, subject.inputs("normal", subject.batch if verdict.lost else 2, generator))
        _same_attributes(reference, smaller, subject.unchanged)
    except (DiffersError, FailsError) as error:
        verdict.wrong = str(error)
        return verdict
    _elsewhere(reference, smaller, subject, generator, verdict)  # NotTakenError escapes: the network does not run
    if subject.trains and not verdict.wrong:
        inputs = subject.inputs("normal", subject.batch if verdict.lost else 4, generator)
        verdict.wrong = in_training(reference, smaller, inputs, same=subject.same_in_training)
    return verdict


def compare_loaded(reference: nn.Module, loaded: nn.Module, subject: Subject, seed: int) -> str:
    """Return how a model from a file differs from the masked one; "" if it does not."""
    generator = torch.Generator().manual_seed(seed)
    try:
        for kind in ("normal", "x10"):
            _compare(reference, loaded, subject.inputs(kind, SAMPLES, generator), subject.dtype)
    except (DiffersError, FailsError) as error:
        return str(error)
    return ""


def in_training(reference: nn.Module, smaller: nn.Module, inputs: Call, *, same: bool = False) -> str:
    """Return how a forward and backward in training mode fails where the masked model's does not; else "".

    Args:
        reference: the masked model.
        smaller: what is judged.
        inputs: of both.
        same: whether the outputs have to be the same too.
    """
    try:
        expected = _forward_backward(reference, inputs)
    except Exception:  # whatever the network does in training; then nothing is asked of the smaller one
        return ""
    try:
        outputs = _forward_backward(smaller, inputs)
    except Exception as error:
        return f"fails in training mode: {_line(error)}"
    for one, other in zip(expected, outputs, strict=True) if same else ():
        apart = float((one - other).abs().max()) if one.shape == other.shape else float("inf")
        if apart > 1e-4 * max(1.0, float(one.abs().max())):
            return f"differs by {apart:.1e} in training mode"
    return ""


def _forward_backward(model: nn.Module, inputs: Call) -> list[Tensor]:
    model = copy.deepcopy(model).train()
    args, kwargs = inputs
    tensors = _leaves(
        model(*(value.clone() for value in args), **{key: value.clone() for key, value in kwargs.items()})
    )
    losses = [
        (value * value.conj()).real.sum() for value in tensors if isinstance(value, Tensor) and value.requires_grad
    ]
    if losses:
        torch.stack([loss.double() for loss in losses]).sum().backward()
    return [value.detach() for value in tensors if isinstance(value, Tensor)]


def _elsewhere(
    reference: nn.Module, smaller: nn.Module, subject: Subject, generator: torch.Generator, verdict: Verdict
) -> None:
    for arguments in subject.sizes:
        _at_size(reference, smaller, subject, arguments, generator, verdict)
    for argument in subject.others:
        _with_argument(reference, smaller, subject, argument, generator, verdict)


def _at_size(
    reference: nn.Module,
    smaller: nn.Module,
    subject: Subject,
    arguments: tuple[Argument, ...],
    generator: torch.Generator,
    verdict: Verdict,
) -> None:
    shapes = [argument.shape for argument in arguments]
    try:
        for kind in ("normal", "x10"):
            verdict.ties += _compare(reference, smaller, subject.inputs(kind, 12, generator, arguments), subject.dtype)
    except NotTakenError:
        return
    except FailsError as error:
        verdict.lost.append(f"samples of {shapes}: {error}")
    except DiffersError as error:
        text = f"at samples of {shapes}: {error}"
        if lists_size(getattr(smaller, "checked", None), shapes):
            verdict.wrong = text
        else:
            verdict.size = text


def _with_argument(
    reference: nn.Module,
    smaller: nn.Module,
    subject: Subject,
    argument: tuple[str, Any],
    generator: torch.Generator,
    verdict: Verdict,
) -> None:
    """Compare with an argument that the example does not give; switches must not go wrong."""
    name, value = argument
    args, kwargs = subject.inputs("normal", subject.batch if verdict.lost else 12, generator)
    value = in_dtype(value, torch.float64) if isinstance(value, Tensor) else value
    try:
        verdict.ties += _compare(reference, smaller, (args, {**kwargs, name: value}), subject.dtype)
    except NotTakenError:
        return
    except FailsError as error:
        verdict.lost.append(f"{name}={value}: {error}")
    except DiffersError as error:
        text = f"with {name}={value}: {error}"
        if isinstance(value, bool) or f"{name}={value}" in smaller.checked.arguments:
            verdict.wrong = text
        else:
            verdict.size = text


def lists_size(checked: Any, shapes: list[tuple[int, ...]]) -> bool:
    """Return whether a result's `checked` names a size; with or without the batch."""
    sizes = checked.get("sizes") if isinstance(checked, Mapping) else getattr(checked, "sizes", None)
    if not sizes:
        return False
    listed = {tuple(shape) for shape in _shapes(sizes)}
    listed |= {shape[1:] for shape in listed}
    return all(shape in listed for shape in shapes)


def _shapes(tree: Any) -> list[Any]:
    if isinstance(tree, Mapping):
        return _shapes(list(tree.values()))
    if isinstance(tree, (list, tuple)) and tree and all(isinstance(value, int) for value in tree):
        return [tree]
    return [shape for value in tree for shape in _shapes(value)] if isinstance(tree, (list, tuple, set)) else []


def _same_dtypes(reference: nn.Module, smaller: nn.Module, inputs: Call) -> None:
    """Run both as they are; outputs must have the same number types."""
    expected, values = (
        [value.dtype for value in _run(model, inputs) if isinstance(value, Tensor)] for model in (reference, smaller)
    )
    if expected != values:
        raise DiffersError(f"outputs of {values}, not {expected}")


def _same_attributes(reference: nn.Module, smaller: nn.Module, paths: tuple[str, ...]) -> None:
    for path in paths:
        owner, _, name = path.rpartition(".")
        try:
            before = getattr(reference.get_submodule(owner), name)
            after = getattr(smaller.get_submodule(owner), name, None)
        except AttributeError:
            continue  # a graph has no such module, and so no attribute that lies
        if after is not None and after != before:
            raise DiffersError(f"attribute {path} is {after}, not {before}")


def _compare(reference: nn.Module, smaller: nn.Module, inputs: Call, dtype: torch.dtype) -> int:
    """Compare outputs; return how many elements differ within amplified rounding.

    Raises:
        DiffersError: an element, a shape or a number is another.
        FailsError: the smaller model raises where the masked one does not.
        NotTakenError: the masked one raises.
    """
    wide_inputs = (
        tuple(in_dtype(value, torch.float64) for value in inputs[0]),
        {
            key: in_dtype(value, torch.float64) if isinstance(value, Tensor) else value
            for key, value in inputs[1].items()
        },
    )
    models = [in_dtype(copy.deepcopy(model), torch.float64) for model in (reference, smaller)]
    try:
        expected, values = (_run(model, wide_inputs) for model in models)
    except Exception:  # a number type is typed into one of the forwards: both run as they are
        models, wide_inputs = [reference, smaller], inputs
        try:
            expected = _run(reference, inputs)
        except Exception as error:
            raise NotTakenError(_line(error)) from error
        try:
            values = _run(smaller, inputs)
        except Exception as error:
            raise FailsError(f"raises {_line(error)}") from error
    return _compare_outputs(expected, values, (models[0], wide_inputs), dtype)


def _parts(inputs: Call, batch: int) -> list[Call]:
    args, kwargs = inputs
    return [
        (
            tuple(value[start : start + batch] for value in args),
            {k: v[start : start + batch] for k, v in kwargs.items()},
        )
        for start in range(0, SAMPLES - batch + 1, batch)
    ]


def _compare_outputs(expected: list[Any], values: list[Any], again: tuple[nn.Module, Call], dtype: torch.dtype) -> int:
    rounding, smallest = ROUNDING[dtype], torch.finfo(dtype).tiny
    if len(expected) != len(values):
        raise DiffersError(f"{len(values)} outputs, not {len(expected)}")
    ties, spread = 0, None
    for place, (left, right) in enumerate(zip(expected, values, strict=True)):
        if not isinstance(left, Tensor):
            if left != right:
                raise DiffersError(f"output {place} is {right!r}, not {left!r}")
            continue
        if left.shape != right.shape:
            raise DiffersError(f"output {place} has shape {tuple(right.shape)}, not {tuple(left.shape)}")
        apart = _apart(left, right)
        finite = left[left.isfinite()].abs().double() if left.dtype != torch.bool else torch.ones(1)
        largest = float(finite.max()) if len(finite) else 0.0
        exact = not (left.is_floating_point() or left.is_complex())
        bad = (apart > (0.0 if exact else rounding * largest + smallest)) & ~left.isnan()
        if bad.any():
            spread = spread or _spread(*again, expected, rounding / 10)
            still = bad & ~(apart <= AMPLIFIED * spread[place])
            if still.any():
                share = float(still.double().mean())
                raise DiffersError(
                    f"{share:.0%} of output {place} differ, by up to {float(apart[still].max()):.1e} of {largest:.1e}"
                )
            ties += int(bad.sum())
    return ties


def _spread(model: nn.Module, inputs: Call, expected: list[Any], relative: float) -> list[Tensor]:
    """Return how far each output moves when all parameters and inputs move a little."""
    generator = torch.Generator().manual_seed(0)

    def moved(value: Tensor) -> Tensor:
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
            return value
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        return (value * (1 + relative * noise)).to(value.dtype)

    spread = [
        torch.zeros(value.shape, dtype=torch.float64) if isinstance(value, Tensor) else None for value in expected
    ]
    for _ in range(PERTURBATIONS):
        other = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.copy_(moved(parameter))
        args, kwargs = inputs
        call = tuple(moved(value) for value in args), {key: moved(value) for key, value in kwargs.items()}
        for place, value in enumerate(_run(other, call)):
            if isinstance(value, Tensor) and value.shape == expected[place].shape:
                spread[place] = torch.maximum(spread[place], _apart(expected[place], value))
    return spread


def _apart(left: Tensor, right: Tensor) -> Tensor:
    """Return the distance of each element; 0 where both are NaN or the same infinity, infinite where one is."""
    wide = torch.complex128 if left.is_complex() or right.is_complex() else torch.float64
    left, right = left.detach().to(wide), right.detach().to(wide)
    same = (left == right) | (left.isnan() & right.isnan())
    distance = (left - right).abs()
    return torch.where(same, 0.0, torch.where(distance.isfinite(), distance, torch.inf))


def _run(model: nn.Module, inputs: Call) -> list[Any]:
    args, kwargs = inputs
    with torch.no_grad():
        return _leaves(
            model(
                *_pytree.tree_map_only(Tensor, torch.clone, args), **_pytree.tree_map_only(Tensor, torch.clone, kwargs)
            )
        )


def _leaves(tree: Any) -> list[Any]:
    return _pytree.tree_leaves(dict(tree) if isinstance(tree, Mapping) else tree)


def _line(error: BaseException) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"
