"""Whether a program computes what its model does at other sizes than those it was traced with.

torch.export notes on which conditions of sizes a trace depends, such as ``x.shape[0] <= 10`` or that a size is even.
Most are true for all sizes, or the model itself refuses the sizes for which they are not. For each of the others there
is a size at which model and program are run here, and compared.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import SymInt, Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from prunus.forward import undisturbed
from prunus.graph.exported.module import ExportedModule

# The sizes at which conditions are looked at; beyond the first few a model is not run.
_BATCHES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 16, 17, 33)
HUGE = (10_007, 1_000_003)  # too large to run
_MOST_RUNS = 6
# The largest difference, relative to the largest output, that other kernels for another size make.
_TOLERANCES = {
    torch.float64: 1e-8,
    torch.complex128: 1e-8,
    torch.float32: 1e-4,
    torch.complex64: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
# What the conditions call that torch.export writes.
_CALLED: dict[str, Any] = {call.__name__: call for call in (abs, bool, float, int, math, max, min, round)}

# The sizes of each input, those by position first.
Sizes: TypeAlias = tuple[tuple[int, ...], ...]


def sizes_of(program: ExportedProgram) -> list[tuple[int | SymInt, ...]]:
    """Return the sizes of a program's inputs, in order; a free size is symbolic."""
    names = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    return [tuple(values[name].shape) for name in names]


def conditions(program: ExportedProgram) -> list[str]:
    """Return the conditions on sizes that a program was traced under, each once, in torch.export's order."""
    return list(dict.fromkeys(getattr(program, "_guards_code", None) or ()))


def batch_is_free(
    program: ExportedProgram, model: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]
) -> bool:
    """Tell whether a program that was traced with a free batch computes what the model does for any.

    Args:
        program: traced with these inputs, their first dimensions free.
        model: what it was traced of.
        args: the inputs by position.
        kwargs: the inputs by name.
    """
    batch = [*args, *kwargs.values()][0].shape[0]
    traced = sizes_of(program)
    places = [place for place, value in enumerate((*args, *kwargs.values())) if value.shape[0] == batch]
    if any(isinstance(traced[place][0], int) for place in places):
        return False
    names = {str(traced[place][0]) for place in places}
    trial = Trial.of(program, model, args, kwargs)
    others, choices, huge = (
        [dict.fromkeys(names, size) for size in sizes] for sizes in ((batch + 1, 2 * batch, 3 * batch), _BATCHES, HUGE)
    )
    if not any(map(trial.foresees, others)) and not any(map(trial.takes, others)):
        return False
    single, largest = choices[0], choices[-1]
    # torch.export takes any free size for more than one without a note, and a condition such as `size == 2` may stand
    # for one that small sizes don't tell.
    return trial.agrees(choices, huge) and trial.same_at(single) and (trial.foresees(largest) or trial.same_at(largest))


@dataclass(frozen=True)
class Trial:
    """A model and a program traced of it, to be compared at other sizes.

    Attributes:
        program, model: these.
        args, kwargs: what the program was traced with.
        traced: the sizes of each input, the free ones symbolic.
    """

    program: ExportedProgram
    model: nn.Module
    args: tuple[Tensor, ...]
    kwargs: Mapping[str, Tensor]
    traced: list[tuple[int | SymInt, ...]]

    @classmethod
    def of(
        cls, program: ExportedProgram, model: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]
    ) -> Trial:
        """Prepare a comparison."""
        return cls(program, model, args, kwargs, sizes_of(program))

    def agrees(self, choices: Sequence[Mapping[str, int]], huge: Sequence[Mapping[str, int]]) -> bool:
        """Tell whether program and model agree where the program's conditions don't hold.

        Args:
            choices: symbol of a free size -> size: what may be run, the cheapest first.
            huge: likewise, what is too large to run.
        """
        open_conditions = conditions(self.program)
        chosen = []
        for sizes in choices:
            failed = [condition for condition in open_conditions if not self._holds(condition, sizes)]
            if failed:
                chosen.append(sizes)
                open_conditions = [condition for condition in open_conditions if condition not in failed]
        if any(not self._holds(condition, sizes) for condition in open_conditions for sizes in huge):
            return False
        return len(chosen) <= _MOST_RUNS and all(map(self.same_at, chosen))

    def foresees(self, sizes: Mapping[str, int]) -> bool:
        """Tell whether all conditions hold that the program was traced under."""
        return all(self._holds(condition, sizes) for condition in conditions(self.program))

    def takes(self, sizes: Mapping[str, int]) -> bool:
        """Tell whether the model takes inputs of these sizes."""
        return outputs(self.model, *resized(self.args, self.kwargs, self._shapes(sizes))) is not None

    def same_at(self, sizes: Mapping[str, int]) -> bool:
        """Tell whether program and model give the same at other sizes, or the model refuses these.

        A model that calls other functions where a condition of the program fails is another one, whether or not these
        inputs show it. Inputs are random, as copies of a few samples seldom show what only some do; where these give
        NaN, copies.
        """
        copies = resized(self.args, self.kwargs, self._shapes(sizes))
        args, kwargs = _random_like(copies)
        with NotedCalls() as noted:
            expected = outputs(self.model, args, kwargs)
        if expected is not None and not self.foresees(sizes) and noted.called != self._called:
            return False
        if expected is None or any(isinstance(value, Tensor) and _has_nan(value) for value in expected):
            args, kwargs = copies
            expected = outputs(self.model, args, kwargs)
        if expected is None:
            return True
        return self._module is None or same(outputs(self._module, args, kwargs), expected)

    @functools.cached_property
    def _called(self) -> list[str]:
        """The functions that the model calls at the sizes of the trace."""
        with NotedCalls() as noted:
            outputs(self.model, self.args, self.kwargs)
        called: list[str] = noted.called
        return called

    @functools.cached_property
    def _module(self) -> ExportedModule | None:
        """What runs the program; None where it is read, but never run."""
        try:
            return ExportedModule.from_program(self.program)
        except ValueError:
            return None

    def _holds(self, condition: str, sizes: Mapping[str, int]) -> bool:
        """Evaluate a condition that torch.export wrote, such as ``L['x'].size()[0] <= 10``."""
        leaves = iter([torch.empty(shape, device="meta") for shape in self._shapes(sizes)])
        named = _by_argument(self.model, tuple(next(leaves) for _ in self.args), {k: next(leaves) for k in self.kwargs})
        try:
            return bool(eval(condition, {"__builtins__": {}, **_CALLED}, {"L": named}))
        except (ZeroDivisionError, NameError):  # what it calls is not known: model and program are compared
            return False
        except Exception:  # it asks for something other than sizes
            return True

    def _shapes(self, sizes: Mapping[str, int]) -> Sizes:
        """Return the sizes of each input where the free ones have these values, the others those of the trace."""
        inputs = (*self.args, *self.kwargs.values())
        return tuple(
            tuple(sizes.get(str(size), now) for size, now in zip(shape, value.shape, strict=True))
            for shape, value in zip(self.traced, inputs, strict=True)
        )


class NotedCalls(TorchFunctionMode):
    """Notes which of PyTorch's functions are called.

    Args:
        floating_point: whether only those are noted that give a tensor of floating point numbers.
    """

    def __init__(self, *, floating_point: bool = False) -> None:
        super().__init__()
        self.called: list[str] = []
        self._floating_point = floating_point

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", repr(func))
        if not self._floating_point:  # before it is called: one that fails, and is caught, is noted too
            self.called.append(name)
        result = func(*args, **(kwargs or {}))
        if self._floating_point and isinstance(result, Tensor) and result.is_floating_point():
            self.called.append(name)
        return result


def _by_argument(model: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> dict[str, Any]:
    return dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)


def resized(
    args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor], shapes: Sizes
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return inputs of other sizes, made by going round the entries that they have."""
    values = [_resized(value, shape) for value, shape in zip((*args, *kwargs.values()), shapes, strict=True)]
    return tuple(values[: len(args)]), dict(zip(kwargs, values[len(args) :], strict=True))


def _resized(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    for dim, size in enumerate(shape):
        if size != value.shape[dim]:
            value = value.index_select(dim, torch.arange(size, device=value.device) % value.shape[dim])
    return value


def _random_like(call: tuple[tuple[Tensor, ...], dict[str, Tensor]]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return normal numbers of the mean and the deviation of each floating point input; others stay."""
    generator = torch.Generator().manual_seed(0)

    def drawn(value: Tensor) -> Tensor:
        if not value.is_floating_point() or value.is_meta or not value.numel():
            return value
        wide = value.double()
        deviation = float(wide.std(correction=0)) or 1.0
        numbers = torch.randn(value.shape, generator=generator, dtype=torch.float64) * deviation + float(wide.mean())
        return numbers.to(value.device, value.dtype)

    args, kwargs = call
    return tuple(map(drawn, args)), {name: drawn(value) for name, value in kwargs.items()}


def _has_nan(value: Tensor) -> bool:
    return value.is_floating_point() and not value.is_meta and bool(value.isnan().any())


def outputs(model: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> list[Any] | None:
    """Return the leaves of what a model gives, whose buffers stay as they are; None where it raises."""
    try:
        with undisturbed(model), torch.no_grad():
            copies = {name: value.clone() for name, value in kwargs.items()}
            return list(pytree.tree_leaves(model(*(value.clone() for value in args), **copies)))
    except Exception:
        return None


def same(got: list[Any] | None, expected: list[Any]) -> bool:
    """Tell whether two lists of outputs are equal up to rounding; on the meta device, of the same shapes."""
    if got is None or len(got) != len(expected):
        return False
    return all(map(_same, got, expected))


def _same(got: Any, expected: Any) -> bool:
    if not isinstance(got, Tensor) or not isinstance(expected, Tensor):
        return type(got) is type(expected) and bool(got == expected)
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    if got.is_meta or not got.numel():
        return True
    tolerance = _TOLERANCES.get(got.dtype, 0.0)
    largest = float(torch.nan_to_num(expected.abs().double(), 0.0, 0.0, 0.0).max()) if tolerance else 0.0
    return bool(torch.isclose(got, expected, rtol=0.0, atol=tolerance * largest, equal_nan=True).all())
