"""Programs in files: operations and weights, for which kernels are chosen anew where they are loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunus import files
from prunus.compiling import storing, toolchain, tuning
from prunus.compiling.building import MOST_THREADS, NONFINITE, assembled, checked_threads, has_words, kernels_of
from prunus.compiling.checking import check, num_bytes_to_plan
from prunus.compiling.kernels.numbers import DOUBLE, FLOAT
from prunus.compiling.program import Parts, Program
from prunus.errors import ProgramError
from prunus.files import strict_json
from prunus.graph.exported.structure import PLAIN, Structure
from prunus.machine import cores

# A program that takes whole numbers, or computes with them, is in a format of its own: earlier versions would take them
# for floating point, or know no such operations.
_FORMAT, _INTEGER_FORMAT, _OLD_FORMAT = "prunus program 2", "prunus program 3", "prunus program 1"
_FORMAT_OF_8_BITS = "prunus program 4"
_FORMATS = (_FORMAT, _INTEGER_FORMAT, _FORMAT_OF_8_BITS)
_DEEPEST = 20
_NO_STRUCTURE = f"its outputs must be a tensor, tuple, list or dict, at most {_DEEPEST} deep in each other"

# Without `max_bytes`, a program may take so many bytes, or so many times its file: a weight that is not zero takes 8
# bytes there, and one in a thousand may be left.
_ALWAYS = 384 << 20
_TIMES = 1000


def save(parts: Parts, threads: int, path: Path | str) -> None:
    """Write a program's net and what it needs to be built: whole or not at all.

    Raises:
        ProgramError: the outputs are arranged in a class that a file can't hold.
    """
    tree, tensors = storing.encode(parts.net)
    settings = {
        "format": _FORMAT_OF_8_BITS if has_words(parts.net) else _INTEGER_FORMAT if parts.net.integers else _FORMAT,
        "net": tree,
        "structure": _structure_to_json(parts.structure),
        "dtype": "float64" if parts.dtype == torch.float64 else "float32",
        "threads": threads,
        "batch": parts.batch,
        "fixed_batch": parts.fixed_batch,
        "nonfinite": parts.nonfinite,
    }
    header = {"program": json.dumps(settings)}
    files.save_tensors(path, tensors, header | {"checksum": files.checksum_of(tensors, header)})


def load_program(
    path: Path | str,
    *,
    threads: int | None = None,
    target: str = "native",
    tune: bool = True,
    max_bytes: int | None = None,
) -> Program:
    """Read a program that `Program.save` wrote, and build it for this machine; the second time that costs nothing.

    No code is in the file, and what it tells is checked before anything is built: it may come from anywhere.

    Args:
        path: the file.
        threads: the most that a call may use; None: as many as when it was saved, and no more than there are cores.
        target: as in `prunus.compile`.
        tune: as in `prunus.compile`.
        max_bytes: how much memory its weights, its indices and the workspace of one thread may take; without, 384 MiB
            or 1,000 times the file, whichever is more, so that a small file can't ask for all memory there is.

    Raises:
        FileNotFoundError: there is no such file.
        ProgramError: it holds no program, or a damaged one, or needs more memory than allowed.
        ValueError: threads or target are wrong.
        CompileError: it can't be built here.
    """
    chosen = None if threads is None else checked_threads(threads)
    try:
        tensors, metadata = files.load_with_metadata(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"no program at {str(path)!r}; Program.save writes one") from None
    except ValueError as error:
        raise ProgramError(f"{str(path)!r} holds no program: {error}") from error
    wanted = toolchain.target(target)
    memory = _Memory(Path(path).stat().st_size, max_bytes)
    try:
        with storing.as_program_errors():
            header = _header(tensors, metadata)
            memory.take(storing.num_bytes(header["net"], tensors))
            net = storing.decode(header["net"], tensors)
            check(net)
            if has_words(net) and header["dtype"] != "float32":
                raise ProgramError("it computes in 8 bits and float64, which no program does")
            memory.take(num_bytes_to_plan(net))
            numbers = DOUBLE if header["dtype"] == "float64" else FLOAT
            memory.take(tuning.workspace_bytes(net, wanted, numbers, header["batch"]))
            structure = _structure(header["structure"])
            if structure.num_leaves != len(net.outputs):
                raise ProgramError(f"it has {len(net.outputs)} outputs, but the structure of {structure.num_leaves}")
    except ProgramError as error:
        raise ProgramError(f"{str(path)!r} can't be loaded: {error}") from error
    dtype = torch.float64 if header["dtype"] == "float64" else torch.float32
    count = min(header["threads"], cores()) if chosen is None else chosen
    kernels = kernels_of(net, wanted, numbers, lambda _: None)
    choice = (
        tuning.measured(net, wanted, numbers, header["batch"], kernels, lambda _: None)
        if tune
        else tuning.by_rule(net, wanted, numbers)
    )
    engine = assembled(net, choice, wanted, numbers, kernels, count, header["nonfinite"])
    batch, fixed = header["batch"], header["fixed_batch"]
    return Program(Parts(net, choice, wanted, structure, dtype, None, batch, fixed, header["nonfinite"], {}), engine)


class _Memory:
    """What a program takes, held against what its file may ask for, before any of it is taken."""

    def __init__(self, file_size: int, max_bytes: int | None) -> None:
        self._file_size, self._taken = file_size, 0
        self._limit = max(_ALWAYS, _TIMES * file_size) if max_bytes is None else max_bytes

    def take(self, num_bytes: int) -> None:
        """Count what is taken next.

        Raises:
            ProgramError: it is too much.
        """
        self._taken += num_bytes
        if self._taken > self._limit:
            raise ProgramError(
                f"it takes {self._taken:,} bytes of memory or more, over the limit of {self._limit:,} for a file of "
                f"{self._file_size:,} bytes; if you trust it, give max_bytes={2 * self._taken}"
            )


def _header(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> dict[str, Any]:
    """Return what the JSON text of a program's file holds, whose numbers and names are in range.

    Raises:
        ProgramError: it is damaged, or of no program.
    """
    text = metadata.get("program", "null")
    try:
        header = strict_json.parse(text)
    except strict_json.FieldError as error:
        raise ProgramError(f"its header can't be read ({error})") from error
    if isinstance(header, dict) and header.get("format") == _OLD_FORMAT:
        raise ProgramError("it was written by prunus 0.1, whose programs are not read any more; compile the model anew")
    if not isinstance(header, dict) or header.get("format") not in _FORMATS:
        raise ProgramError(f"it is in none of the formats {', '.join(map(repr, _FORMATS))}; Program.save writes one")
    if metadata.get("checksum") != files.checksum_of(tensors, {"program": text}):
        raise ProgramError("what it holds is not what was written; copy it anew")
    limits = {"threads": MOST_THREADS, "batch": 2**31}
    numbers = all(type(header.get(name)) is int and 0 < header[name] <= most for name, most in limits.items())
    fixed = header.get("fixed_batch", 0)
    numbers = numbers and (fixed is None or (type(fixed) is int and 0 < fixed <= limits["batch"]))
    if header.get("dtype") not in ("float32", "float64") or header.get("nonfinite") not in NONFINITE or not numbers:
        raise ProgramError(
            "its header has a dtype, threads, batch, fixed_batch or nonfinite that no program has; copy it anew"
        )
    return header


def _structure_to_json(structure: Structure) -> Any:
    if structure.kind == "leaf":
        return "*"
    if structure.kind not in PLAIN:
        raise ProgramError(
            "the model returns its outputs in a class of its own, which a program's file can't hold; return a tensor, "
            "tuple, list or dict"
        )
    children = [_structure_to_json(child) for child in structure.children]
    return {"kind": structure.kind, "children": children, "keys": list(structure.keys)}


def _structure(tree: Any, depth: int = 0) -> Structure:
    if tree == "*":
        return Structure()
    if depth > _DEEPEST or not isinstance(tree, dict) or tree.get("kind") not in PLAIN:
        raise ProgramError(_NO_STRUCTURE)
    children, keys = tree.get("children"), tree.get("keys")
    if not isinstance(children, list) or not isinstance(keys, list):
        raise ProgramError(_NO_STRUCTURE)
    if tree["kind"] == "dict" and (
        len(keys) != len(children)
        or not all(isinstance(key, (str, int)) for key in keys)
        or len(set(keys)) != len(keys)
    ):
        raise ProgramError(_NO_STRUCTURE)
    structures = tuple(_structure(child, depth + 1) for child in children)
    return Structure(tree["kind"], structures, tuple(keys) if tree["kind"] == "dict" else ())
