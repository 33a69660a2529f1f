"""A compiled model: callable on tensors and arrays of any batch size."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import Tensor

from prunus.compiling.engine import Engine
from prunus.compiling.net import Net
from prunus.compiling.toolchain import Target
from prunus.compiling.tuning import Choice
from prunus.errors import NonFiniteError, ProgramError
from prunus.graph.exported.structure import Structure

if TYPE_CHECKING:
    from prunus.compiling.profiling import Profile

_HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Parts:
    """What a program is made of.

    Attributes:
        net: its operations.
        choice: how they are computed.
        target: what they were chosen for.
        structure: how the outputs are arranged.
        dtype: what it computes in.
        difference: the largest difference to the model that was found before it was handed out, relative to the largest
            output; None for a program from a file.
        batch: samples that are usual in a call: what it was tuned for.
        fixed_batch: the only number of samples that a call may have; None: any.
        nonfinite: ``ignore`` or ``raise``: see `prunus.compile`.
        seconds: what making it took, by part: ``trace``, ``build`` (kernels, once), ``tune``, ``assemble``, ``check``.
    """

    net: Net
    choice: Choice
    target: Target
    structure: Structure
    dtype: torch.dtype
    difference: float | None
    batch: int
    fixed_batch: int | None
    nonfinite: str
    seconds: Mapping[str, float]


class Program:
    """A model as machine code that skips the zeros. It computes on the CPU, without gradients.

    Call it as the model: with tensors or numpy arrays whose first dimension is the batch, of any size. Numpy arrays
    give numpy arrays. Several threads may call it at once: it releases the GIL while it computes.
    """

    def __init__(self, parts: Parts, engine: Engine) -> None:
        self._parts, self._engine = parts, engine
        self._inputs = list(parts.net.inputs.items())
        self._shapes = [view.index.shape for view in parts.net.outputs]
        self._numpy_dtype = numpy.float64 if parts.dtype == torch.float64 else numpy.float32
        self._pointers = ctypes.c_void_p * len(self._inputs), ctypes.c_void_p * len(self._shapes)
        self._layers = {operation.output + 1: operation.name for operation in parts.net.operations}
        plain = (
            parts.fixed_batch is None and len(self._inputs) == len(self._shapes) == 1 and parts.structure.kind == "leaf"
        )
        self._only = torch.Size(self._inputs[0][1][1]) if plain else None  # shape of a sample of the only input
        # shape of the last input, and an output of the matching shape, which is never written to
        self._last: tuple[torch.Size | None, Tensor] = None, torch.empty(0)
        self._integers = {name: getattr(torch, kind) for name, kind in parts.net.integers.items()}
        self._only_dtype = self._integers.get(self._inputs[0][0], parts.dtype)

    @property
    def threads(self) -> int:
        """How many threads a call may use."""
        return self._engine.threads

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self._parts.dtype

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size it takes, where the model's code holds the number of samples; None if it takes any."""
        return self._parts.fixed_batch

    @property
    def nonfinite(self) -> str:
        """What it does where weights that it leaves out would meet an infinity or NaN, ``ignore`` or ``raise``."""
        return self._parts.nonfinite

    @property
    def difference(self) -> float | None:
        """The largest difference to the model when it was compiled, relative to the largest output."""
        return self._parts.difference

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that making it took, by ``trace``, ``build`` (the kernels), ``tune``, ``assemble`` and ``check``."""
        return dict(self._parts.seconds)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the outputs of a batch.

        Args:
            *args: the model's inputs, (batch, ...): tensors on the CPU, or numpy arrays.
            **kwargs: those given by name.

        Returns:
            What the model returns, in the dtype of the first floating point input, else the program's.

        Raises:
            TypeError: an input is missing, unknown, or no tensor or array.
            ProgramError: an input has another shape, dtype or device than the program takes, or not `fixed_batch`
                samples; or an index is outside the table that it looks up.
            NonFiniteError: with ``nonfinite="raise"``, a layer with weights was to read an infinity or NaN.
        """
        if self._only is not None and len(args) == 1 and not kwargs:
            output = self._quickly(args[0])
            if output is not None:
                return output
        return self._call(args, kwargs)

    def _quickly(self, value: Any) -> Tensor | None:
        """Compute the usual: a tensor of the input's dtype to a tensor; None where it is anything else."""
        if type(value) is not Tensor or value.dtype is not self._only_dtype or not value.is_cpu:
            return None
        shape, like = self._last
        if value.shape != shape:
            shape = value.shape
            if not len(shape) or not shape[0] or shape[1:] != self._only:
                return None
            like = torch.empty((shape[0], *self._shapes[0]), dtype=self._parts.dtype, device="cpu")
            self._last = shape, like
        if not value.is_contiguous() or value.is_neg():
            return None
        output = torch.empty_like(like)  # cheaper than torch.empty, whose arguments Python has to pack
        refused = self._engine.call(value.data_ptr(), output.data_ptr(), shape[0])
        if refused:
            raise self._refused(refused)
        return output

    def _call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        values = args if not kwargs and len(args) == len(self._inputs) else self._bound(args, kwargs)
        tensors = [self._tensor(value, *entry) for value, entry in zip(values, self._inputs, strict=True)]
        batch = tensors[0].shape[0]
        if len(tensors) > 1 and any(tensor.shape[0] != batch for tensor in tensors):
            raise ProgramError(f"inputs must be of one batch size, got {[tensor.shape[0] for tensor in tensors]}")
        if self._parts.fixed_batch not in (None, batch):
            raise ProgramError(
                f"the program takes batches of {self._parts.fixed_batch} only, as the model's code holds the number of "
                f"samples; got {batch}"
            )
        results = [torch.empty((batch, *shape), dtype=self._parts.dtype, device="cpu") for shape in self._shapes]
        if batch:
            inputs, outputs = self._pointers
            refused = self._engine.run(
                inputs(*[tensor.data_ptr() for tensor in tensors]),
                outputs(*[tensor.data_ptr() for tensor in results]),
                batch,
            )
            if refused:
                raise self._refused(refused)
        like = next((v for v, (name, _) in zip(values, self._inputs, strict=True) if name not in self._integers), None)
        return self._arranged(results, like, as_arrays=isinstance(values[0], numpy.ndarray))

    def _refused(self, output: int) -> ProgramError | NonFiniteError:
        if output < 0:
            return ProgramError(
                f"layer {self._layers[-output]!r} was to look up a row that its table does not have: a number of an "
                "input is negative or too large"
            )
        return NonFiniteError(
            f"what layer {self._layers[output]!r} reads is not finite: it holds an infinity or NaN, which zero weights "
            "turn into NaN in PyTorch but not in a program; compare with the model, or compile with nonfinite='ignore'"
        )

    def profile(self) -> Profile:
        """Return what each step computes, how, and how much of the time it takes: it is measured now.

        >>> print(program.profile())  # doctest: +SKIP
        """
        from prunus.compiling.profiling import profile

        return profile(self._parts, self._engine)

    def save(self, path: Path | str) -> None:
        """Write the program to a file that `prunus.load` reads: whole or not at all.

        The file holds operations and weights, no machine code: where it is loaded, kernels are chosen for that machine.

        Raises:
            ProgramError: the model's outputs are arranged in a class that a file can't hold.
        """
        from prunus.compiling.saving import save

        save(self._parts, self._engine.threads, path)

    def __reduce__(self) -> Any:
        raise TypeError("a program is not pickled; write it with Program.save, read it with prunus.load")

    def __repr__(self) -> str:
        batch = self.fixed_batch or "batch"
        inputs = ", ".join(f"{name}: ({batch}, {', '.join(map(str, shape))})" for name, (_, shape) in self._inputs)
        steps = len(self._parts.net.operations)
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return f"Program({inputs}; {steps} steps, {self._parts.target.name}, {self._parts.dtype}, {threads})"

    def _bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        names = [name for name, _ in self._inputs]
        by_name = dict(zip(names, args, strict=False))
        unknown = [name for name in kwargs if name not in names or name in by_name]
        missing = [name for name in names if name not in by_name and name not in kwargs]
        if unknown or missing or len(args) > len(names):
            raise TypeError(f"the program takes the inputs {', '.join(names)}, got {_given(len(args), kwargs)}")
        return [{**by_name, **kwargs}[name] for name in names]

    def _tensor(self, value: Any, name: str, expected: tuple[int, tuple[int, ...]]) -> Tensor:
        if isinstance(value, numpy.ndarray):
            value = _from_numpy(value)
        elif not isinstance(value, Tensor):
            raise TypeError(f"input {name!r} must be a tensor or a numpy array, got {type(value).__name__}")
        if value.shape[1:] != expected[1] or value.ndim == 0:
            sides = ", ".join(map(str, expected[1]))
            raise ProgramError(f"input {name!r} must be of the shape (batch, {sides}), got {tuple(value.shape)}")
        if value.layout != torch.strided:
            raise ProgramError(f"input {name!r} is {value.layout}; give {name}.to_dense()")
        if value.dtype != self._integers.get(name, self._parts.dtype) or value.device.type != "cpu":
            value = self._converted(value, name)
        tensor: Tensor = value.contiguous().resolve_neg()
        return tensor

    def _converted(self, value: Tensor, name: str) -> Tensor:
        if value.device.type != "cpu":
            raise ProgramError(f"input {name!r} is on {value.device}; a program computes on the CPU: give {name}.cpu()")
        if name in self._integers:
            raise ProgramError(f"input {name!r} must be of {self._integers[name]}, got {value.dtype}; convert it")
        if value.dtype not in (*_HALVES, torch.float32 if self._parts.dtype == torch.float64 else None):
            raise ProgramError(
                f"input {name!r} must be of {self._parts.dtype} (16 bits will do), got {value.dtype}; convert it, or "
                "compile with another dtype"
            )
        return value.to(self._parts.dtype)

    def _arranged(self, results: list[Tensor], like: Any, *, as_arrays: bool) -> Any:
        """Return results in the model's structure, in the dtype of the first input of floating point numbers."""
        if as_arrays:
            arrays = [tensor.numpy() for tensor in results]
            wanted = like.dtype if isinstance(like, numpy.ndarray) else arrays[0].dtype
            return self._parts.structure.build(iter([array.astype(wanted, copy=False) for array in arrays]))
        dtype = like.dtype if isinstance(like, Tensor) else self._parts.dtype
        return self._parts.structure.build(iter([tensor.to(dtype) for tensor in results]))


def parts_of(program: Program) -> Parts:
    """Return what a program is made of."""
    return program._parts


def shares_steps(program: Program) -> bool:
    """Tell whether threads share the steps of a call where it has fewer blocks of samples than threads."""
    return program._engine.share_steps


def _given(count: int, names: Iterable[str]) -> str:
    """Say what a call was given, in words."""
    return " and ".join([f"{count} by position", *map(repr, sorted(names))])


def _from_numpy(array: numpy.ndarray) -> Tensor:
    """Return an array as a tensor: a copy where PyTorch has no tensor for it as it lies in memory."""
    plain = array.flags.writeable and array.dtype.isnative and all(stride >= 0 for stride in array.strides)
    return torch.from_numpy(array if plain else array.astype(array.dtype.newbyteorder("="), copy=True, order="C"))
