"""Tensor <-> symbols: the positions of nonzero entries, and their values, each in the coding with the fewest bits."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunus.packing import values
from prunus.packing.coder import PIECE, Decoder, Encoder
from prunus.packing.errors import DamagedError
from prunus.packing.frequencies import EarlierTables
from prunus.packing.positions import Bitmap, Gaps, Mask, Positions
from prunus.packing.row_bitmap import MEASURED, MIN_COLUMNS, RowBitmap, promise
from prunus.packing.values import Kind, Patterns, ValuePlan

# The ways to code a tensor; the number of a mode in the file is its index here.
MODES = ("same", "lzma", "zero", "dense", "bitmap", "rows", "columns", "gaps")
_CODING_NAMES = {"rows": "bitmap by rows", "columns": "bitmap by columns"}

# The bitmap by rows, ten times as slow as the plain one, is tried if it may save this fraction of the bits.
_MIN_PROMISE = 0.01
_ALWAYS_TRIED = 1 << 16
# Gaps are used instead of a bitmap up to this many times its bits, since they are faster.
_TIE = 1.0005
# Coding zeros among the values is tried for tensors up to this size, or with few zeros.
_SMALL = 1 << 16
_FEW_ZEROS = 0.02
# LZMA is tried if zlib, on the beginning of a tensor, comes within this factor of the limit: for a short tensor, for
# which LZMA takes no time, and for a long one.
_PROBE = 1 << 16
_SHORT = 1 << 14
_LZMA_FACTORS = {"short": 1.5, "long": 1.05}
_MOST_LZMA = 1 << 24
# Raw LZMA: its parameters are here, not in the file; decoding needs memory of the size of the dictionary.
_LZMA = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 20, "lc": 0, "lp": 0, "pb": 2, "nice_len": 273, "depth": 0}]


class Form(NamedTuple):
    """The properties of a tensor that its coding depends on.

    Attributes:
        kind: the layout of the bits of its numbers.
        size: the number of its numbers; a complex one counts as two.
        rows: its first dimension if it has two or more, otherwise 1.
    """

    kind: Kind
    size: int
    rows: int

    @property
    def num_bytes(self) -> int:
        """The number of bytes of all entries."""
        return self.size * self.kind.size

    def columns(self, mode: str) -> int:
        """Return the number of entries of a row of the coded matrix; 1 if the mode does not use rows."""
        if mode not in ("rows", "columns"):
            return 1
        return self.size // self.rows if mode == "rows" else self.rows

    def fits(self, mode: str) -> bool:
        """Return whether a tensor of this form can be coded in this mode."""
        if mode not in ("rows", "columns"):
            return True
        columns = self.columns(mode)
        return self.rows > 1 and MIN_COLUMNS <= columns <= PIECE and self.size > columns

    def slices(self, mode: str) -> Iterator[slice]:
        """Return the pieces, of whole rows, that are coded one after another."""
        columns = self.columns(mode)
        step = max(1, PIECE // columns) * columns
        return (slice(at, min(at + step, self.size)) for at in range(0, self.size, step))


@dataclass
class EarlierTensors:
    """The tensors of a file that were written or read before.

    Attributes:
        tables: their frequency tables, which can be used again.
        forms: the form of each tensor.
        places: digest and form -> index of the tensor; used only for writing.
    """

    tables: EarlierTables
    forms: list[Form]
    places: dict[tuple[bytes, Form], int]

    @classmethod
    def none(cls) -> EarlierTensors:
        """Return the state before the first tensor."""
        return cls(EarlierTables(), [], {})


def write_tensor(encoder: Encoder, bits: Patterns, form: Form, digest: bytes, earlier: EarlierTensors) -> str:
    """Write one tensor.

    Args:
        encoder: the encoder of the file.
        bits: the bits of the entries, flat.
        form: the form of the tensor.
        digest: a digest of the entries, by which equal tensors are recognized.
        earlier: the tensors written before; this one is added.

    Returns:
        The coding, in words.
    """
    num_before = len(earlier.forms)
    place = earlier.places.setdefault((digest, form), num_before)
    earlier.forms.append(form)
    if not form.size:
        return "empty"
    if place < num_before:
        _write_mode(encoder, "same")
        encoder.number(place, num_before)
        return "same"
    num_nonzero = sum(int(np.count_nonzero(bits[piece])) for piece in form.slices("zero"))
    if not num_nonzero:
        _write_mode(encoder, "zero")
        return "zero"
    plan = _best(bits, form, num_nonzero, earlier.tables)
    repeats = _repeats(bits, plan.bits)
    if repeats is not None:
        _write_mode(encoder, "lzma")
        encoder.number(len(repeats), form.num_bytes)
        encoder.raw(repeats)
        return "lzma"
    _write(encoder, bits, form, num_nonzero, plan, earlier.tables)
    return f"{_CODING_NAMES.get(plan.mode, plan.mode)}, {plan.of_values.coding}"


def read_tensor(decoder: Decoder, form: Form, earlier: EarlierTensors, tensors: list[Patterns]) -> Patterns:
    """Read one tensor that `write_tensor` wrote.

    Args:
        decoder: the decoder of the file.
        form: the form of the tensor.
        earlier: the tensors read before; this one is added.
        tensors: the bits of all tensors read before.
    """
    earlier.forms.append(form)
    if not form.size:
        return _zeros(form)
    mode = MODES[decoder.number(len(MODES))]
    if not form.fits(mode):
        raise DamagedError("a tensor is coded in a way that its shape does not allow")
    if mode == "same":
        return _read_same(decoder, form, earlier, tensors)
    if mode == "zero":
        return _zeros(form)
    if mode == "lzma":
        return _read_repeats(decoder, form)
    if mode == "dense":
        return _read_dense(decoder, form, earlier.tables)
    return _read_sparse(decoder, form, mode, earlier.tables)


class _TensorPlan(NamedTuple):
    bits: float
    mode: str
    positions: Positions | None
    of_values: ValuePlan


def _best(bits: Patterns, form: Form, num_nonzero: int, tables: EarlierTables) -> _TensorPlan:
    def nonzero() -> Iterator[Patterns]:
        for piece in form.slices("gaps"):
            part = bits[piece]
            yield part[part != 0]

    zeros = form.size - num_nonzero
    plans = []
    if zeros:
        of_values = values.plan(nonzero, form.kind, tables)
        mode, positions = _best_positions(bits, form, num_nonzero)
        plans.append(_TensorPlan(positions.bits + of_values.bits, mode, positions, of_values))
    if form.size <= _SMALL or zeros <= _FEW_ZEROS * form.size:
        of_all = values.plan(lambda: values.in_pieces(bits), form.kind, tables)
        plans.append(_TensorPlan(of_all.bits, "dense", None, of_all))
    return min(plans, key=lambda plan: plan.bits)


def _best_positions(bits: Patterns, form: Form, num_nonzero: int) -> tuple[str, Positions]:
    def masks() -> Iterator[Mask]:
        return (bits[piece] != 0 for piece in form.slices("gaps"))

    best: tuple[str, Positions] = "bitmap", Bitmap.of(num_nonzero, form.size)
    if 2 * num_nonzero <= form.size:
        gaps = Gaps.of(num_nonzero, form.size).fitted(masks)
        if gaps.bits < best[1].bits * _TIE:
            best = "gaps", gaps
    plain = best[1].bits
    if form.fits("rows") or form.fits("columns"):
        mask = bits != 0
        if form.size > _ALWAYS_TRIED and promise(mask, form.size // form.rows) < _MIN_PROMISE * plain:
            return best
        for mode in filter(form.fits, ("rows", "columns")):
            columns = form.columns(mode)
            first = _first(mask, form, mode, max(1, MEASURED // columns))
            rows = RowBitmap.measured(first, num_nonzero, form.size, columns)
            if rows.bits < best[1].bits:
                best = mode, rows
    return best


def _ordered(entries: NDArray[Any], form: Form, mode: str) -> NDArray[Any]:
    """Return the entries in the order of coding: of the matrix, or of its transpose."""
    return entries.reshape(form.rows, -1).T.reshape(-1) if mode == "columns" else entries


def _first(mask: Mask, form: Form, mode: str, num_rows: int) -> Mask:
    """Return the first rows of the coded matrix, flat."""
    matrix = mask.reshape(form.rows, -1)
    return (matrix[:, :num_rows].T if mode == "columns" else matrix[:num_rows]).reshape(-1)


def _restored(entries: Patterns, form: Form, mode: str) -> Patterns:
    return entries.reshape(-1, form.rows).T.reshape(-1) if mode == "columns" else entries


def _write(
    encoder: Encoder, bits: Patterns, form: Form, num_nonzero: int, plan: _TensorPlan, tables: EarlierTables
) -> None:
    _write_mode(encoder, plan.mode)
    if plan.positions is not None:
        encoder.number(num_nonzero - 1, form.size)
    if isinstance(plan.positions, Gaps):
        plan.positions.write_plan(encoder)
    values.write_plan(encoder, plan.of_values, form.kind, tables)
    ordered = _ordered(bits, form, plan.mode)
    for piece in form.slices(plan.mode):
        part = ordered[piece]
        if plan.positions is not None:
            mask = part != 0
            plan.positions.write(encoder, mask)
            part = part[mask]
        values.write_values(encoder, plan.of_values, part)


def _write_mode(encoder: Encoder, mode: str) -> None:
    encoder.number(MODES.index(mode), len(MODES))


def _read_dense(decoder: Decoder, form: Form, tables: EarlierTables) -> Patterns:
    plan = values.read_plan(decoder, form.kind, tables)
    entries = _zeros(form)
    for piece in form.slices("dense"):
        entries[piece] = values.read_values(decoder, plan, form.kind, piece.stop - piece.start)
    return entries


def _read_sparse(decoder: Decoder, form: Form, mode: str, tables: EarlierTables) -> Patterns:
    num_nonzero = decoder.number(form.size) + 1
    positions = _read_positions(decoder, form, mode, num_nonzero)
    plan = values.read_plan(decoder, form.kind, tables)
    entries = _zeros(form)
    left = num_nonzero
    for piece in form.slices(mode):
        part = entries[piece]
        where = positions.read(decoder, len(part))
        count = int(np.count_nonzero(where)) if where.dtype == np.bool_ else len(where)
        left -= count
        if left < 0:
            break
        part[where] = values.read_values(decoder, plan, form.kind, count)
    if left:
        raise DamagedError(f"a tensor should have {num_nonzero} nonzero entries, but has another number of them")
    return _restored(entries, form, mode)


def _read_positions(decoder: Decoder, form: Form, mode: str, num_nonzero: int) -> Positions:
    if mode == "gaps":
        return Gaps.read_plan(decoder, num_nonzero, form.size)
    if mode == "bitmap":
        return Bitmap.of(num_nonzero, form.size)
    return RowBitmap(num_nonzero, form.size, form.columns(mode))


def _read_same(decoder: Decoder, form: Form, earlier: EarlierTensors, tensors: list[Patterns]) -> Patterns:
    if not tensors:
        raise DamagedError("a tensor should equal an earlier one, but it is the first")
    place = decoder.number(len(tensors))
    if earlier.forms[place] != form:
        raise DamagedError("a tensor should equal an earlier one, which has another shape")
    return tensors[place].copy()


def _repeats(bits: Patterns, limit: float) -> bytes | None:
    """Return the entries compressed by LZMA if that takes fewer bits than the limit; zlib predicts whether it does."""
    if not 32 <= bits.nbytes <= _MOST_LZMA:
        return None
    data = bits.tobytes()
    probe = zlib.compress(data[:_PROBE], 1)
    factor = _LZMA_FACTORS["short" if len(data) <= _SHORT else "long"]
    if 8 * len(probe) * (len(data) / min(len(data), _PROBE)) > factor * limit:
        return None
    packed = lzma.compress(data, lzma.FORMAT_RAW, filters=_LZMA)
    return packed if 8 * len(packed) < limit and len(packed) < len(data) else None


def _read_repeats(decoder: Decoder, form: Form) -> Patterns:
    packed = decoder.raw(decoder.number(form.num_bytes))
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA)
    try:
        data = unpacker.decompress(packed, form.num_bytes)
    except (lzma.LZMAError, EOFError) as error:
        raise DamagedError("a tensor's LZMA stream is broken") from error
    if len(data) != form.num_bytes:
        raise DamagedError(f"a tensor's LZMA stream gives {len(data)} bytes instead of {form.num_bytes}")
    return np.frombuffer(bytearray(data), f"<u{form.kind.size}").astype(f"u{form.kind.size}", copy=False)


def _zeros(form: Form) -> Patterns:
    return np.zeros(form.size, f"u{form.kind.size}")
