"""Values <-> symbols: bit patterns, split into fields that are coded one by one.

A float's sign, exponent and mantissa are fields. The exponents of weights are not evenly distributed, so they are coded
with a frequency table, together with the first bits of the mantissa if that saves bits: most weights that survived
pruning are near the threshold. The other bits of the mantissa are nearly random and are coded as such, unless their
bytes are not random, as in rounded numbers. Whole numbers are coded byte by byte. If there are few distinct values,
they are listed, and their indices are coded.

Only bits count, so -0.0, NaN and its payload are values like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prunus.packing.coder import PIECE, WIDEST, Decoder, Encoder, Symbols
from prunus.packing.errors import DamagedError
from prunus.packing.frequencies import EarlierTables, FrequencyTable, code_bits, fewest

Patterns: TypeAlias = NDArray[Any]  # unsigned integers of one to eight bytes
Pieces: TypeAlias = Callable[[], Iterable[Patterns]]

# At most this many bits of the mantissa are coded together with the exponent.
_MAX_JOINED = 3
# More distinct values than this are not listed: the list costs more than it saves.
_MAX_LISTED = 1 << 8
_SAMPLE = 1 << 12

_CONSTANT, _UNIFORM, _NEW_TABLE, _EARLIER_TABLE = range(4)
_NUM_MODES = 4
_MODE_BITS = 2


@dataclass(frozen=True)
class Kind:
    """The layout of the bits of a number.

    Attributes:
        size: the number of bytes.
        exponent: the number of bits of the exponent, 0 for integers.
        mantissa: the number of bits of the mantissa.
    """

    size: int
    exponent: int = 0
    mantissa: int = 0

    @property
    def max_joined(self) -> int:
        """The largest number of mantissa bits coded with the exponent: those outside whole bytes."""
        return min(_MAX_JOINED, self.mantissa % 8)

    def spans(self, joined: int, whole: bool) -> list[tuple[int, int]]:
        """Return the fields as (shift, width).

        Args:
            joined: the number of mantissa bits that are coded with the exponent.
            whole: whether the rest of the mantissa is split into fields as wide as possible, instead of bytes.
        """
        if not self.exponent:
            return _bytes(8 * self.size)
        rest = self.mantissa - joined
        head = (rest, self.exponent + joined)
        return [(self.exponent + self.mantissa, 1), head, *(_wide(rest) if whole else _bytes(rest))]


def _bytes(width: int) -> list[tuple[int, int]]:
    return [(shift, min(8, width - shift)) for shift in range(0, width, 8)][::-1]


def _wide(width: int) -> list[tuple[int, int]]:
    return [(shift, min(WIDEST, width - shift)) for shift in range(0, width, WIDEST)][::-1]


@dataclass(frozen=True)
class Field:
    """One field and its coding: as a constant, as random bits, or with a frequency table, new or used before."""

    shift: int
    width: int
    mode: int
    constant: int = 0
    earlier: int = 0
    table: FrequencyTable | None = None

    def of(self, patterns: Patterns) -> Patterns:
        """Extract this field of the patterns."""
        one = patterns.dtype.type
        symbols: Patterns = (patterns >> one(self.shift)) & one((1 << self.width) - 1)
        return symbols


@dataclass(frozen=True)
class ValuePlan:
    """The coding of values.

    Attributes:
        bits: the estimated number of bits, including tables.
        joined, whole: as in `Kind.spans`.
        fields: the fields, in order.
        listed: the distinct values if they are listed; then the fields are those of the list.
        choice: the field of the index of a value in the list.
    """

    bits: float
    joined: int
    whole: bool
    fields: tuple[Field, ...]
    listed: Patterns | None = None
    choice: Field | None = None

    @property
    def coding(self) -> str:
        """The name of the coding in tables."""
        return "listed" if self.listed is not None else "fields"


def plan(pieces: Pieces, kind: Kind, tables: EarlierTables) -> ValuePlan:
    """Find the coding of values with the fewest bits.

    Args:
        pieces: returns the values in pieces, each time it is called; at least one value.
        kind: the layout of their bits.
        tables: the tables written before, which can be used again.
    """
    by_fields = _plan_fields(pieces, kind, tables)
    distinct = _distinct(pieces)
    if distinct is None:
        return by_fields
    values, counts = distinct
    listed = _plan_fields(lambda: [values], kind, tables)
    width = max(1, (len(values) - 1).bit_length())
    padded = np.zeros(1 << width, np.int64)
    padded[: len(values)] = counts
    cost, choice = _plan_field(0, width, padded, tables)
    total = listed.bits + cost + math.log2(_MAX_LISTED)
    if total >= by_fields.bits:
        return by_fields
    return ValuePlan(total, listed.joined, listed.whole, listed.fields, values, choice)


def _plan_fields(pieces: Pieces, kind: Kind, tables: EarlierTables) -> ValuePlan:
    joined = kind.max_joined
    fine = [(shift, width, np.zeros(1 << width, np.int64)) for shift, width in kind.spans(joined, whole=False)]
    if kind.exponent and joined:
        fine.append((kind.mantissa - kind.mantissa % 8, kind.mantissa % 8, np.zeros(1 << kind.mantissa % 8, np.int64)))
    for values in pieces():
        for shift, width, counts in fine:
            counts += np.bincount(Field(shift, width, 0).of(values).astype(np.int64), minlength=1 << width)
    counted = {(shift, width): counts for shift, width, counts in fine}
    plans = [_plan_spans(kind, num_joined, counted, tables) for num_joined in range(joined + 1)]
    return min(plans, key=lambda plan: plan.bits)


def _plan_spans(
    kind: Kind, joined: int, counted: dict[tuple[int, int], NDArray[np.int64]], tables: EarlierTables
) -> ValuePlan:
    """Plan with `joined` mantissa bits in the field of the exponent, from the counts of the narrowest fields."""
    spans = kind.spans(joined, whole=False)
    plans = [_plan_field(shift, width, _counts(counted, shift, width), tables) for shift, width in spans]
    bits = sum(cost for cost, _ in plans)
    fields = tuple(field for _, field in plans)
    whole = bool(kind.exponent) and all(field.mode == _UNIFORM for field in fields[2:])
    if whole:
        fields = (*fields[:2], *(Field(shift, width, _UNIFORM) for shift, width in _wide(kind.mantissa - joined)))
        bits -= _MODE_BITS * (len(plans) - len(fields))
    return ValuePlan(bits + _MODE_BITS + 1, joined, whole, fields)


def _counts(counted: dict[tuple[int, int], NDArray[np.int64]], shift: int, width: int) -> NDArray[np.int64]:
    """Return the counts of a field from those of a wider one that holds it."""
    for (start, length), counts in counted.items():
        if start == shift and length >= width:  # its low bits
            return np.asarray(counts.reshape(-1, 1 << width).sum(axis=0))
        if start < shift and start + length == shift + width:  # its high bits
            return np.asarray(counts.reshape(1 << width, -1).sum(axis=1))
    raise AssertionError(f"no counts for the {width} bits from {shift} on")


def _plan_field(shift: int, width: int, counts: NDArray[np.int64], tables: EarlierTables) -> tuple[float, Field]:
    present = np.flatnonzero(counts)
    if len(present) == 1:
        return _MODE_BITS + width, Field(shift, width, _CONSTANT, constant=int(present[0]))
    choices = [(float(width * counts.sum()), Field(shift, width, _UNIFORM))]
    if code_bits(counts, counts.astype(np.float64)) < choices[0][0]:
        table = FrequencyTable.fitted(counts, width)
        choices.append((table.own_bits + table.bits(counts), Field(shift, width, _NEW_TABLE, table=table)))
        earlier = tables.of(width)
        if earlier:
            cost, place = fewest(earlier, counts)
            reused = Field(shift, width, _EARLIER_TABLE, earlier=place, table=earlier[place])
            choices.append((cost + math.log2(len(earlier)), reused))
    cost, best = min(choices, key=lambda choice: choice[0])
    return cost + _MODE_BITS, best


def _distinct(pieces: Pieces) -> tuple[Patterns, NDArray[np.int64]] | None:
    """Return the distinct values with their counts; None if there are too many to list."""
    counts: dict[int, int] = {}
    for values in pieces():
        if len(np.unique(values[:_SAMPLE])) > _MAX_LISTED:
            return None
        distinct, repeats = np.unique(values, return_counts=True)
        for value, count in zip(distinct.tolist(), repeats.tolist(), strict=True):
            counts[value] = counts.get(value, 0) + count
        if len(counts) > _MAX_LISTED:
            return None
        dtype = values.dtype
    order = sorted(counts)
    return np.array(order, dtype), np.array([counts[value] for value in order], np.int64)


def write_plan(encoder: Encoder, plan: ValuePlan, kind: Kind, tables: EarlierTables) -> None:
    """Write the coding of the values, and the list of distinct ones; new tables are added to `tables`."""
    encoder.number(int(plan.listed is not None), 2)
    if plan.listed is not None:
        encoder.number(len(plan.listed) - 1, _MAX_LISTED)
    _write_fields(encoder, plan, kind, tables)
    if plan.listed is not None and plan.choice is not None:
        for field in plan.fields:
            _write_field(encoder, field, field.of(plan.listed))
        _write_mode(encoder, plan.choice, tables)


def read_plan(decoder: Decoder, kind: Kind, tables: EarlierTables) -> ValuePlan:
    """Read what `write_plan` wrote."""
    is_listed = decoder.number(2)
    count = decoder.number(_MAX_LISTED) + 1 if is_listed else 0
    plan = _read_fields(decoder, kind, tables)
    if not is_listed:
        return plan
    listed = _read_values(decoder, plan.fields, kind, count)
    choice = _read_mode(decoder, 0, max(1, (count - 1).bit_length()), tables)
    return replace(plan, listed=listed, choice=choice)


def _write_fields(encoder: Encoder, plan: ValuePlan, kind: Kind, tables: EarlierTables) -> None:
    if kind.exponent:
        encoder.number(plan.joined, kind.max_joined + 1)
        encoder.number(int(plan.whole), 2)
    for field in plan.fields:
        _write_mode(encoder, field, tables)


def _read_fields(decoder: Decoder, kind: Kind, tables: EarlierTables) -> ValuePlan:
    joined = decoder.number(kind.max_joined + 1) if kind.exponent else 0
    whole = bool(decoder.number(2)) if kind.exponent else False
    fields = tuple(_read_mode(decoder, shift, width, tables) for shift, width in kind.spans(joined, whole))
    return ValuePlan(0, joined, whole, fields)


def _write_mode(encoder: Encoder, field: Field, tables: EarlierTables) -> None:
    encoder.number(field.mode, _NUM_MODES)
    if field.mode == _CONSTANT:
        encoder.number(field.constant, 1 << field.width)
    elif field.mode == _EARLIER_TABLE:
        encoder.number(field.earlier, len(tables.of(field.width)))
    elif field.mode == _NEW_TABLE and field.table is not None:
        field.table.write(encoder)
        tables.add(field.table)


def _read_mode(decoder: Decoder, shift: int, width: int, tables: EarlierTables) -> Field:
    mode = decoder.number(_NUM_MODES)
    if mode == _CONSTANT:
        return Field(shift, width, mode, constant=decoder.number(1 << width))
    if mode == _UNIFORM:
        return Field(shift, width, mode)
    if mode == _NEW_TABLE:
        table = FrequencyTable.read(decoder, width)
        tables.add(table)
        return Field(shift, width, mode, table=table)
    earlier = tables.of(width)
    if not earlier:
        raise DamagedError("it refers to a frequency table that does not exist")
    return Field(shift, width, mode, table=earlier[decoder.number(len(earlier))])


def write_values(encoder: Encoder, plan: ValuePlan, values: Patterns) -> None:
    """Write one piece of the values."""
    if plan.listed is not None and plan.choice is not None:
        _write_field(encoder, plan.choice, np.searchsorted(plan.listed, values))
        return
    for field in plan.fields:
        _write_field(encoder, field, field.of(values))


def read_values(decoder: Decoder, plan: ValuePlan, kind: Kind, count: int) -> Patterns:
    """Read one piece of the values."""
    if plan.listed is None or plan.choice is None:
        return _read_values(decoder, plan.fields, kind, count)
    choices = _read_field(decoder, plan.choice, count)
    if count and int(choices.max()) >= len(plan.listed):
        raise DamagedError("it refers to a value that is not listed")
    return plan.listed[choices]


def _read_values(decoder: Decoder, fields: Iterable[Field], kind: Kind, count: int) -> Patterns:
    values = np.zeros(count, f"u{kind.size}")
    one = values.dtype.type
    for field in fields:
        values |= _read_field(decoder, field, count).astype(values.dtype) << one(field.shift)
    return values


def _write_field(encoder: Encoder, field: Field, symbols: NDArray[Any]) -> None:
    if field.mode == _UNIFORM:
        encoder.uniform(symbols, field.width)
    elif field.table is not None:
        encoder.table(symbols.astype(np.int32) - field.table.low, field.table.frequencies)


def _read_field(decoder: Decoder, field: Field, count: int) -> Symbols:
    if field.mode == _UNIFORM:
        return decoder.uniform(count, field.width)
    if field.table is not None:
        return decoder.table(count, field.table.frequencies) + np.int32(field.table.low)
    return np.full(count, field.constant, np.int32)


def in_pieces(values: Patterns) -> Iterator[Patterns]:
    """Return views of the pieces of an array."""
    return (values[at : at + PIECE] for at in range(0, len(values), PIECE))
