"""All kernels, built once for each machine and number type, and found by their names."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from prunus.compiling import toolchain
from prunus.compiling.kernels import arguments, contraction, depthwise, dots, rows, words
from prunus.compiling.kernels.numbers import FLOAT, Numbers, apply_functions, functions, scalar_types, vector_types
from prunus.compiling.kernels.squares import every_other, transpose
from prunus.compiling.toolchain import Target

# Into how many libraries the kernels of contractions are put, so that several compilers work at once and it can be
# said how far they are.
_SHARES = 8
# The same for kernels of 8 bits, whose numbers are rounded as each operation says, never fused: then all processors
# come to the same.
_WORD_SHARES = 4
_NOT_FUSED = '#pragma STDC FP_CONTRACT OFF\n#ifndef __clang__\n#pragma GCC optimize ("fp-contract=off")\n#endif\n'


@dataclass(frozen=True)
class Library:
    """Built kernels.

    Attributes:
        addresses: of each kernel, by its name.
        runner: the library that runs programs, of any number type.
        saturates: whether products of 8 bits are added in pairs of 16 bits, which some weights would exceed.
    """

    addresses: Mapping[str, int]
    runner: ctypes.CDLL
    saturates: bool = False


def library(target: Target, numbers: Numbers, say: Callable[[str], None]) -> Library:
    """Return all kernels for vectors of a target, built if they have not been.

    Args:
        target: what is built for.
        numbers: what is computed in.
        say: called with a line of text if they have to be built, and as each part is.

    Raises:
        MissingCompilerError: they have to be built, and there is no compiler.
        CompileError: the compiler refuses them, or the cache can't be written.
    """
    texts = _texts(target, numbers)
    built = toolchain.build([_runner(), *(text for text, _ in texts)], target, say)
    return Library(_addresses(built[1:], texts), built[0])


def with_words(floats: Library, target: Target, say: Callable[[str], None]) -> Library:
    """Return a library with the kernels of 8 bits besides, built if they have not been.

    Args:
        floats: that of float32.
        target: what is built for.
        say: as of `library`.

    Raises:
        MissingCompilerError, CompileError: as `library`.
    """
    texts = _word_texts(target)
    built = toolchain.build([text for text, _ in texts], target, say)
    saturates = bool(ctypes.c_int32.in_dll(built[0], "words_saturate").value)
    return Library({**floats.addresses, **_addresses(built, texts)}, floats.runner, saturates)


def _addresses(built: list[ctypes.CDLL], texts: list[tuple[str, list[str]]]) -> dict[str, int]:
    return {
        name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
        for library, (_, kernels) in zip(built, texts, strict=True)
        for name in kernels
    }


def sources(target: Target, numbers: Numbers, names: AbstractSet[str]) -> list[str]:
    """Return the C of some kernels in two files, and of what runs a program in a third, for a library of its own.

    Args:
        target: what it will be built for.
        numbers: what is computed in.
        names: the kernels that must be in it.
    """
    vector, registers = target.bytes // numbers.bytes, target.registers
    head = _head(numbers, contraction.widths(vector))
    tiles = [tile for tile in contraction.kernels(vector, registers) if tile.name in names]
    text = "\n".join([head, *(contraction.text(tile, numbers, registers) for tile in tiles)])
    own = (
        _word_texts(target) if not names.isdisjoint(name for _, known in _word_texts(target) for name in known) else []
    )
    return [_others(head, numbers, vector)[0], text, *(words for words, _ in own), _runner()]


@lru_cache(maxsize=8)
def _texts(target: Target, numbers: Numbers) -> list[tuple[str, list[str]]]:
    """Return the C of each library, and the names of its kernels."""
    vector, registers = target.bytes // numbers.bytes, target.registers
    tiles = contraction.kernels(vector, registers)
    head = _head(numbers, contraction.widths(vector))
    shares = [tiles[share::_SHARES] for share in range(_SHARES)]
    texts = [
        ("\n".join([head, *(contraction.text(tile, numbers, registers) for tile in share)]), [t.name for t in share])
        for share in shares
    ]
    return [_others(head, numbers, vector), *texts]


@lru_cache(maxsize=8)
def _word_texts(target: Target) -> list[tuple[str, list[str]]]:
    """Return the C of each library of 8 bits, and the names of its kernels."""
    vector = target.bytes // FLOAT.bytes
    head = "\n".join([_NOT_FUSED, _head(FLOAT, [vector]), words.head(vector), words.MASKED_MACRO])
    tiles = words.kernels(target.registers)
    others = words.others(vector) + words.dot() + words.columns(vector)
    by_channel = "\n".join([*(depthwise.tiled(across, vector) for across in words.DEPTHWISE_ACROSS), depthwise.dot()])
    texts = [
        (f"{head}\n{others}", _names(others)),
        ("\n".join([head, depthwise.head(vector), by_channel]), _names(by_channel)),
    ]
    for share in (tiles[share::_WORD_SHARES] for share in range(_WORD_SHARES)):
        texts.append(("\n".join([head, *(words.tiled(tile, vector) for tile in share)]), [t.name for t in share]))
    return texts


def _others(head: str, numbers: Numbers, vector: int) -> tuple[str, list[str]]:
    """Return the C of everything but kernels with tiles, and its names."""
    one_by_one = [dots.special(), *(dots.by_numbers(narrow) for narrow in (True, False))]
    one_by_one += [dots.by_columns(w, narrow) for w in contraction.widths(vector)[:2] for narrow in (True, False)]
    looping = [text for width in (1, vector) for text in rows.kernels(numbers, width, contraction.widths(vector))]
    resource = [_resource("tape.c").replace("\nvoid run_tape", f"\n{apply_functions(numbers, vector)}\nvoid run_tape")]
    parts = [
        head,
        f"enum {{ WIDTH = {vector} }};\ntypedef vec{vector} vec;\ntypedef loose{vector} loose;\n",
        f"#define SPLAT splat{vector}\n",
        transpose(vector),
        every_other(vector),
        *resource,
        _resource("transfer.c"),
        *one_by_one,
        *looping,
    ]
    return "\n".join(parts), [name for text in parts for name in _names(text)]


def _names(text: str) -> list[str]:
    """Return the names of the kernels that a text defines."""
    return [line.partition("(")[0].removeprefix("void ") for line in text.splitlines() if line.startswith("void ")]


def _head(numbers: Numbers, widths: list[int]) -> str:
    return "\n".join(
        [
            "#include <math.h>\n#include <stdint.h>\n",
            # of two numbers beside each other, what exp and log are called is taken by other functions of math.h
            "#define exp2 exp_of_2\n#define log2 log_of_2\n",
            scalar_types(numbers),
            _resource("frame.h"),
            "".join(kind.typedef() for kind in arguments.ALL),
            "#define CONSTANTS(type, field) ((const type *)(frame->constants + a->field))",
            "#define WORK ((real *)frame->work)\n",
            *(vector_types(numbers, width) for width in widths),
            *(functions(numbers, width) for width in (1, *widths)),
            *(contraction.finish(numbers, width) for width in widths),
        ]
    )


def _runner() -> str:
    return _resource("frame.h") + _resource("runner.c")


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
