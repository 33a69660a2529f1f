"""A tensor <-> symbols: which entries are nonzero, and their values, each in the cheapest way."""

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
from prunus.packing.positions import Bitmap, Gaps, Mask, Positions
from prunus.packing.structure import LEAST_COLUMNS, MEASURED, Rows, promise
from prunus.packing.tables import KnownTables
from prunus.packing.values import Kind, Patterns, Plan

# How a tensor is coded; a mode's number in the file is its place here.
MODES = ("same", "lzma", "zero", "dense", "bitmap", "rows", "columns", "gaps")
TOLD = {"rows": "bitmap by rows", "columns": "bitmap by columns"}

# The rows' bitmap is tried where it may save this fraction: it takes ten times as long as the plain one.
_LEAST_PROMISE = 0.01
_ALWAYS_TRIED = 1 << 16
# Positions within this of each other cost the same, and the faster way is taken.
_TIE = 1.0005
# Zeros among the values, instead of left out, are tried in tensors up to this size, or with few zeros.
_SMALL = 1 << 16
_FEW_ZEROS = 0.02
# Repeats are looked for by a fast look at the beginning. LZMA does better than that look, by up to this factor: in a
# long tensor that has repeats to speak of the look finds some, and in a short one LZMA is tried soon: it takes no time.
_PROBE = 1 << 16
_SHORT = 1 << 14
_BETTER = {True: 1.5, False: 1.05}
_MOST_LZMA = 1 << 24
# Raw LZMA: all parameters are here and none in the file, and reading it takes this much memory.
_LZMA = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 20, "lc": 0, "lp": 0, "pb": 2, "nice_len": 273, "depth": 0}]


class Form(NamedTuple):
    """What is known of a tensor beside its entries.

    Attributes:
        kind: of its numbers.
        size: how many numbers, those of complex ones counted twice.
        rows: its first dimension, if it has two or more; otherwise 1.
    """

    kind: Kind
    size: int
    rows: int

    @property
    def num_bytes(self) -> int:
        """The bytes of all entries."""
        return self.size * self.kind.size

    def columns(self, mode: str) -> int:
        """Return the entries of a row of the matrix that is coded; 1 where its rows don't matter."""
        if mode not in ("rows", "columns"):
            return 1
        return self.size // self.rows if mode == "rows" else self.rows

    def fits(self, mode: str) -> bool:
        """Tell whether a tensor of this form can be coded so."""
        if mode not in ("rows", "columns"):
            return True
        columns = self.columns(mode)
        return self.rows > 1 and LEAST_COLUMNS <= columns <= PIECE and self.size > columns

    def slices(self, mode: str) -> Iterator[slice]:
        """Return the pieces that are coded one after another, of whole rows."""
        columns = self.columns(mode)
        step = max(1, PIECE // columns) * columns
        return (slice(at, min(at + step, self.size)) for at in range(0, self.size, step))


@dataclass
class Coded:
    """What is known about tensors that were written or read before.

    Attributes:
        tables: frequency tables, which can be used again.
        forms: of all tensors.
        places: digest and size -> which tensor; only the writer keeps it.
    """

    tables: KnownTables
    forms: list[Form]
    places: dict[tuple[bytes, Form], int]

    @classmethod
    def nothing(cls) -> Coded:
        """Return what is known before the first tensor."""
        return cls(KnownTables(), [], {})


def write_tensor(encoder: Encoder, bits: Patterns, form: Form, digest: bytes, coded: Coded) -> str:
    """Write one tensor.

    Args:
        encoder: takes it.
        bits: its entries, flat.
        form: of it.
        digest: of its entries, by which the same one is known again.
        coded: what was written before; this tensor joins it.

    Returns:
        In words, how it was coded.
    """
    place = coded.places.setdefault((digest, form), len(coded.forms))
    num_before = len(coded.forms)
    coded.forms.append(form)
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
    plan = _best(bits, form, num_nonzero, coded.tables)
    repeats = _repeats(bits, plan.bits)
    if repeats is not None:
        _write_mode(encoder, "lzma")
        encoder.number(len(repeats), form.num_bytes)
        encoder.raw(repeats)
        return "lzma"
    _write(encoder, bits, form, num_nonzero, plan, coded.tables)
    return f"{TOLD.get(plan.mode, plan.mode)}, {plan.of_values.coding}"


def read_tensor(decoder: Decoder, form: Form, coded: Coded, tensors: list[Patterns]) -> Patterns:
    """Read one tensor that `write_tensor` wrote.

    Args:
        decoder: gives it.
        form: of it.
        coded: what was read before; this tensor joins it.
        tensors: all that were read before.
    """
    coded.forms.append(form)
    if not form.size:
        return _zeros(form)
    mode = MODES[decoder.number(len(MODES))]
    if not form.fits(mode):
        raise DamagedError("a tensor is coded in a way that its shape does not allow")
    if mode == "same":
        return _read_same(decoder, form, coded, tensors)
    if mode == "zero":
        return _zeros(form)
    if mode == "lzma":
        return _read_repeats(decoder, form)
    if mode == "dense":
        return _read_dense(decoder, form, coded.tables)
    return _read_sparse(decoder, form, mode, coded.tables)


class _Plan(NamedTuple):
    bits: float
    mode: str
    positions: Positions | None
    of_values: Plan


def _best(bits: Patterns, form: Form, num_nonzero: int, tables: KnownTables) -> _Plan:
    def nonzero() -> Iterator[Patterns]:
        for piece in form.slices("gaps"):
            part = bits[piece]
            yield part[part != 0]

    zeros = form.size - num_nonzero
    plans = []
    if zeros:
        of_values = values.plan(nonzero, form.kind, tables)
        mode, positions = _best_positions(bits, form, num_nonzero)
        plans.append(_Plan(positions.bits + of_values.bits, mode, positions, of_values))
    if form.size <= _SMALL or zeros <= _FEW_ZEROS * form.size:
        of_all = values.plan(lambda: values.in_pieces(bits), form.kind, tables)
        plans.append(_Plan(of_all.bits, "dense", None, of_all))
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
        if form.size > _ALWAYS_TRIED and promise(mask, form.size // form.rows) < _LEAST_PROMISE * plain:
            return best
        for mode in filter(form.fits, ("rows", "columns")):
            columns = form.columns(mode)
            first = _first(mask, form, mode, max(1, MEASURED // columns))
            rows = Rows.measured(first, num_nonzero, form.size, columns)
            if rows.bits < best[1].bits:
                best = mode, rows
    return best


def _ordered(entries: NDArray[Any], form: Form, mode: str) -> NDArray[Any]:
    """Return the entries in the order they are coded in: the matrix, or its transpose."""
    return entries.reshape(form.rows, -1).T.reshape(-1) if mode == "columns" else entries


def _first(mask: Mask, form: Form, mode: str, num_rows: int) -> Mask:
    """Return the first rows that are coded, flat."""
    matrix = mask.reshape(form.rows, -1)
    return (matrix[:, :num_rows].T if mode == "columns" else matrix[:num_rows]).reshape(-1)


def _restored(entries: Patterns, form: Form, mode: str) -> Patterns:
    return entries.reshape(-1, form.rows).T.reshape(-1) if mode == "columns" else entries


def _write(encoder: Encoder, bits: Patterns, form: Form, num_nonzero: int, plan: _Plan, tables: KnownTables) -> None:
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


def _read_dense(decoder: Decoder, form: Form, tables: KnownTables) -> Patterns:
    plan = values.read_plan(decoder, form.kind, tables)
    entries = _zeros(form)
    for piece in form.slices("dense"):
        entries[piece] = values.read_values(decoder, plan, form.kind, piece.stop - piece.start)
    return entries


def _read_sparse(decoder: Decoder, form: Form, mode: str, tables: KnownTables) -> Patterns:
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
        raise DamagedError(f"a tensor does not have the {num_nonzero} nonzero entries it is said to have")
    return _restored(entries, form, mode)


def _read_positions(decoder: Decoder, form: Form, mode: str, num_nonzero: int) -> Positions:
    if mode == "gaps":
        return Gaps.read_plan(decoder, num_nonzero, form.size)
    if mode == "bitmap":
        return Bitmap.of(num_nonzero, form.size)
    return Rows(num_nonzero, form.size, form.columns(mode))


def _read_same(decoder: Decoder, form: Form, coded: Coded, tensors: list[Patterns]) -> Patterns:
    if not tensors:
        raise DamagedError("a tensor is said to be that of an earlier one, but it is the first")
    place = decoder.number(len(tensors))
    if coded.forms[place] != form:
        raise DamagedError("a tensor is said to be that of an earlier one, which has another shape")
    return tensors[place].copy()


def _repeats(bits: Patterns, limit: float) -> bytes | None:
    """Return the entries through LZMA, where that takes fewer bits than the limit; a quick look says if it may."""
    if not 32 <= bits.nbytes <= _MOST_LZMA:
        return None
    data = bits.tobytes()
    probe = zlib.compress(data[:_PROBE], 1)
    if 8 * len(probe) * (len(data) / min(len(data), _PROBE)) > _BETTER[len(data) <= _SHORT] * limit:
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
