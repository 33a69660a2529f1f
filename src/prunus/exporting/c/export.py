"""From a model to checked C files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus import files
from prunus.compiling.batch import read_net
from prunus.compiling.building import refuse_complex
from prunus.compiling.toolchain import MissingCompilerError, compiler
from prunus.copying import copy_model
from prunus.errors import CompileError
from prunus.exporting.c import checking
from prunus.exporting.c.identifiers import check_path
from prunus.exporting.c.source import CSource, write
from prunus.forward import undisturbed
from prunus.graph import ExampleInputs, call_arguments
from prunus.graph.samples import call_of_size
from prunus.proving.verification import check_numbers, depends_on_chance, difference, outputs, random_like
from prunus.supported import unwrap
from prunus.tables import count, pairs

# The largest difference to the model, relative to the largest output: sums in another order; for 16 bits, the model's.
_TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
# How many times its own rounding a model's outputs may be off where that is more.
_ROUNDINGS = 4
# Further off is no rounding.
_MOST_ROUNDING = 1e-2
# Samples that a file is held against the model on.
_SAMPLES = 4


@dataclass(frozen=True)
class CFacts:
    """What C files take, and how near they are to the model.

    Attributes:
        bytes: of both files' text.
        constant_bytes: of the constant arrays: flash, beside the code.
        code_bytes: of the code, as this machine's compiler builds it for this machine with -Os; None: not measured.
        ram_bytes: of the static buffers, beside the caller's arrays and the stack.
        difference: the largest to the model's outputs on random inputs, relative to the largest; None: not checked.
        name: what the function is called after.
        in_8_bits: whether weights that 8 bits hold exactly are int8; else all are float32.
        checked: by which compiler it was built to be checked, or why it was not.
    """

    bytes: int
    constant_bytes: int
    code_bytes: int | None
    ram_bytes: int
    difference: float | None
    name: str
    in_8_bits: bool
    checked: str

    def __str__(self) -> str:
        rows = [
            ("function", self.name),
            ("weights", "int8, or float32" if self.in_8_bits else "float32"),
            ("flash for constants, bytes", count(self.constant_bytes)),
            ("code here with -Os, bytes", count(self.code_bytes)),
            ("RAM for buffers, bytes", count(self.ram_bytes)),
            ("checked", self.checked),
        ]
        return str(pairs(rows))


def write_c(model: nn.Module, example_inputs: ExampleInputs, path: Path, in_8_bits: bool = False) -> CFacts:
    """Write a model as C, `path` and a header beside it, after it was built and held against the model.

    Args:
        model: on the CPU; it is left as it was.
        example_inputs: what it takes, the batch first; one sample suffices.
        path: of the ``.c`` file.
        in_8_bits: whether weights that int8 with a scale for each output channel holds exactly are stored so, as those
            of `prunus.quantizing.with_rounded_weights`.

    Raises:
        ValueError: the path does not end in .c.
        GraphError: the model can't be traced.
        CompileError: it can't become C, or what was written computes something else; no file is written.
    """
    check_path(path)
    source, batch = _translated(model, example_inputs, path.stem, in_8_bits)
    apart, code, checked_by = _checked(model, example_inputs, source, batch or _SAMPLES)
    with files.whole_file(path) as one, files.whole_file(path.with_suffix(".h")) as other:
        one.write_text(source.source, encoding="utf-8")
        other.write_text(source.header, encoding="utf-8")
    size = len(source.source.encode()) + len(source.header.encode())
    return CFacts(size, source.constant_bytes, code, source.static_bytes, apart, source.name, in_8_bits, checked_by)


def translate(model: nn.Module, example_inputs: ExampleInputs, stem: str = "net", in_8_bits: bool = False) -> CSource:
    """Return a model as C, unchecked.

    Args:
        model: see `write_c`, as the following.
        example_inputs: what it takes.
        stem: what the files are called, without their suffixes.
        in_8_bits: likewise.

    Raises:
        ValueError, GraphError, CompileError: see `write_c`.
    """
    return _translated(model, example_inputs, stem, in_8_bits)[0]


def _translated(
    model: nn.Module, example_inputs: ExampleInputs, stem: str, in_8_bits: bool
) -> tuple[CSource, int | None]:
    """Return a model as C, and the only batch that the model takes, if it doesn't take any."""
    args, kwargs = call_arguments(example_inputs, 1)
    inner = unwrap(model)
    refuse_complex({**dict(inner.named_parameters()), **dict(inner.named_buffers())}, (*args, *kwargs.values()))
    net, graph = read_net(model, example_inputs)
    if net.integers:
        raise CompileError(
            f"the input {next(iter(net.integers))!r} is of whole numbers, but C takes floating point; export the part "
            "of the model behind what makes them such"
        )
    names = _output_names(model, graph.args, graph.kwargs)
    return write(net, stem, in_8_bits, names), graph.batch


def c_cost(model: nn.Module, example_inputs: ExampleInputs) -> tuple[int, int]:
    """Return what a model takes as C: bytes of flash for constants (the code comes on top), and of RAM for buffers.

    Args:
        model: see `write_c`, as the following.
        example_inputs: what it takes.

    Raises:
        ValueError, GraphError, CompileError: see `write_c`.

    >>> c_cost(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(1, 4))
    (92, 12)
    """
    source = translate(model, example_inputs)
    return source.constant_bytes, source.static_bytes


def _output_names(model: nn.Module, args: Sequence[Tensor], kwargs: Mapping[str, Tensor]) -> list[str] | None:
    """Return the keys of a model that returns a dict of tensors; None for one that doesn't."""
    try:
        with undisturbed(model), torch.no_grad():
            result: Any = model(*args, **kwargs)
    except Exception as error:
        raise CompileError(
            f"it can't run its example inputs: {type(error).__name__}: {str(error)[:200]}; give inputs that it takes"
        ) from error
    if not isinstance(result, Mapping) or not all(isinstance(value, Tensor) for value in result.values()):
        return None
    return [str(key) for key in result]


def _checked(
    model: nn.Module, example_inputs: ExampleInputs, source: CSource, samples: int
) -> tuple[float | None, int | None, str]:
    """Return the largest difference to the model, bytes of code, and how both were found.

    Raises:
        CompileError: the compiler refuses what was written, it computes something else, or the model draws random
            numbers.
    """
    try:
        host = compiler()
    except MissingCompilerError as error:
        return None, None, str(error)
    args, kwargs = random_like(*call_of_size(example_inputs, samples))
    ran = checking.run(source, [_flat(value) for value in (*args, *kwargs.values())], host)
    if ran.outputs is None:
        return None, ran.code_bytes, f"what {host.version} builds does not run on this machine"
    expected = outputs(model, args, kwargs)
    check_numbers(expected, CompileError)
    apart = _apart(expected, ran.outputs)
    limit = _limit(model, args, kwargs, expected, apart)
    if not apart <= limit:
        raise CompileError(
            f"the C computes something else: on random inputs its outputs differ from the model's by {apart:.1e} of "
            f"the largest, more than the {limit:.0e} that rounding explains; no file was written"
        )
    return apart, ran.code_bytes, host.version


def _limit(
    model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], expected: list[Tensor], apart: float
) -> float:
    """Return how far outputs may be apart: where they are farther than usual, as far as the model's own rounding is."""
    usual = max(_TOLERANCES.get(value.dtype, 0.0) for value in expected)
    if apart <= usual or not all(value.dtype == torch.float32 for value in expected):
        return usual
    if depends_on_chance(model, args, kwargs):
        raise CompileError(
            "in eval mode too its outputs depend on random numbers, so the C can't be checked; switch what draws them "
            "off, as F.dropout with training=self.training does"
        )
    with undisturbed(model):
        exact = copy_model(model).double()
    wide = outputs(exact, *pytree.tree_map(lambda value: value.double(), (args, kwargs)))
    return max(usual, min(_ROUNDINGS * difference(wide, expected), _MOST_ROUNDING))


def _apart(expected: list[Tensor], actual: checking.Arrays) -> float:
    return difference(
        expected, [torch.tensor(array).reshape(v.shape) for array, v in zip(actual, expected, strict=True)]
    )


def _flat(value: Tensor) -> numpy.ndarray[Any, numpy.dtype[numpy.float32]]:
    array: numpy.ndarray[Any, numpy.dtype[numpy.float32]] = value.float().reshape(len(value), -1).numpy()
    return array
