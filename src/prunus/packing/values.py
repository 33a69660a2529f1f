"""Values <-> symbols: bit patterns, split into fields that are coded one by one.

A float's sign, exponent and mantissa are fields. The exponents of weights are far from evenly spread, so they are coded
by a frequency table, together with the first bits of the mantissa where that pays: a weight that survived pruning is
seldom far from the threshold. What is left of the mantissa is close to random and is taken as it is, unless its bytes
turn out to be not, as in numbers that were rounded. Whole numbers are coded byte by byte. Where there are few distinct
values, these are listed, and what is coded is which.

Only bits are looked at, so -0.0, NaN and its payload are values like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prunus.packing.coder import PIECE, WIDEST, Decoder, Encoder, Symbols
from prunus.packing.errors import DamagedError
from prunus.packing.tables import KnownTables, Table, code_bits, fewest

Patterns: TypeAlias = NDArray[Any]  # unsigned whole numbers, of one to eight bytes
Pieces: TypeAlias = Callable[[], Iterable[Patterns]]

# Up to so many bits of the mantissa may go with the exponent.
_MOST_JOINED = 3
# More distinct values than these are not worth listing: a table of them costs more than it saves.
_MOST_LISTED = 1 << 8
_SAMPLE = 1 << 12

_CONSTANT, _UNIFORM, _NEW_TABLE, _KNOWN_TABLE = range(4)
_NUM_MODES = 4
_MODE_BITS = 2


@dataclass(frozen=True)
class Kind:
    """How the bits of a number are laid out.

    Attributes:
        size: bytes of a number.
        exponent: bits of the exponent, 0 for numbers that are no floats.
        mantissa: bits of the mantissa.
    """

    size: int
    exponent: int = 0
    mantissa: int = 0

    @property
    def most_joined(self) -> int:
        """How many bits of the mantissa may go with the exponent: those that are not part of a whole byte."""
        return min(_MOST_JOINED, self.mantissa % 8)

    def spans(self, joined: int, whole: bool) -> list[tuple[int, int]]:
        """Return the fields as (shift, width).

        Args:
            joined: how many bits of the mantissa go with the exponent.
            whole: whether the rest of the mantissa is taken in pieces as wide as possible, instead of in bytes.
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
    """One field and how it is coded: as a constant, as bits that could be any, or by a table."""

    shift: int
    width: int
    mode: int
    constant: int = 0
    known: int = 0
    table: Table | None = None

    def of(self, patterns: Patterns) -> Patterns:
        """Return this field of the patterns."""
        one = patterns.dtype.type
        found: Patterns = (patterns >> one(self.shift)) & one((1 << self.width) - 1)
        return found


@dataclass(frozen=True)
class Plan:
    """How values are coded, and what that takes.

    Attributes:
        bits: an estimate, the tables included.
        joined, whole: as of `Kind.spans`.
        fields: as they follow one another.
        listed: the distinct values, where they are listed; then the fields are those of the list.
        choice: which of the listed a value is.
    """

    bits: float
    joined: int
    whole: bool
    fields: tuple[Field, ...]
    listed: Patterns | None = None
    choice: Field | None = None

    @property
    def coding(self) -> str:
        """What tables call it."""
        return "listed" if self.listed is not None else "fields"


def plan(pieces: Pieces, kind: Kind, tables: KnownTables) -> Plan:
    """Find how values take the fewest bits.

    Args:
        pieces: gives the values anew each time, piece by piece; at least one value.
        kind: what they are.
        tables: those written before, which can be used again.
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
    total = listed.bits + cost + math.log2(_MOST_LISTED)
    if total >= by_fields.bits:
        return by_fields
    return Plan(total, listed.joined, listed.whole, listed.fields, values, choice)


def _plan_fields(pieces: Pieces, kind: Kind, tables: KnownTables) -> Plan:
    joined = kind.most_joined
    fine = [(shift, width, np.zeros(1 << width, np.int64)) for shift, width in kind.spans(joined, whole=False)]
    if kind.exponent and joined:
        fine.append((kind.mantissa - kind.mantissa % 8, kind.mantissa % 8, np.zeros(1 << kind.mantissa % 8, np.int64)))
    for values in pieces():
        for shift, width, counts in fine:
            counts += np.bincount(Field(shift, width, 0).of(values).astype(np.int64), minlength=1 << width)
    counted = {(shift, width): counts for shift, width, counts in fine}
    plans = [_plan_spans(kind, each, counted, tables) for each in range(joined + 1)]
    return min(plans, key=lambda found: found.bits)


def _plan_spans(
    kind: Kind, joined: int, counted: dict[tuple[int, int], NDArray[np.int64]], tables: KnownTables
) -> Plan:
    """Plan with `joined` bits beside the exponent, from the counts of the finest split."""
    found = []
    for shift, width in kind.spans(joined, whole=False):
        found.append(_plan_field(shift, width, _counts(counted, shift, width), tables))
    bits = sum(cost for cost, _ in found)
    fields = tuple(each for _, each in found)
    whole = bool(kind.exponent) and all(each.mode == _UNIFORM for each in fields[2:])
    if whole:
        fields = (*fields[:2], *(Field(shift, width, _UNIFORM) for shift, width in _wide(kind.mantissa - joined)))
        bits -= _MODE_BITS * (len(found) - len(fields))
    return Plan(bits + _MODE_BITS + 1, joined, whole, fields)


def _counts(counted: dict[tuple[int, int], NDArray[np.int64]], shift: int, width: int) -> NDArray[np.int64]:
    """Return the counts of a field from those of a wider one that holds it."""
    for (start, length), counts in counted.items():
        if start == shift and length >= width:  # its low bits
            return np.asarray(counts.reshape(-1, 1 << width).sum(axis=0))
        if start < shift and start + length == shift + width:  # its high bits
            return np.asarray(counts.reshape(1 << width, -1).sum(axis=1))
    raise AssertionError(f"no counts for the {width} bits from {shift} on")


def _plan_field(shift: int, width: int, counts: NDArray[np.int64], tables: KnownTables) -> tuple[float, Field]:
    present = np.flatnonzero(counts)
    if len(present) == 1:
        return _MODE_BITS + width, Field(shift, width, _CONSTANT, constant=int(present[0]))
    choices = [(float(width * counts.sum()), Field(shift, width, _UNIFORM))]
    if code_bits(counts, counts.astype(np.float64)) < choices[0][0]:
        table = Table.fitted(counts, width)
        choices.append((table.own_bits + table.bits(counts), Field(shift, width, _NEW_TABLE, table=table)))
        known = tables.of(width)
        if known:
            cost, place = fewest(known, counts)
            reused = Field(shift, width, _KNOWN_TABLE, known=place, table=known[place])
            choices.append((cost + math.log2(len(known)), reused))
    cost, best = min(choices, key=lambda choice: choice[0])
    return cost + _MODE_BITS, best


def _distinct(pieces: Pieces) -> tuple[Patterns, NDArray[np.int64]] | None:
    """Return the distinct values with their counts; None where there are many."""
    found: dict[int, int] = {}
    for values in pieces():
        if len(np.unique(values[:_SAMPLE])) > _MOST_LISTED:
            return None
        for value, count in zip(*(each.tolist() for each in np.unique(values, return_counts=True)), strict=True):
            found[value] = found.get(value, 0) + count
        if len(found) > _MOST_LISTED:
            return None
        dtype = values.dtype
    order = sorted(found)
    return np.array(order, dtype), np.array([found[value] for value in order], np.int64)


def write_plan(encoder: Encoder, plan: Plan, kind: Kind, tables: KnownTables) -> None:
    """Write how the values are coded, and what is the same for all of them; new tables join `tables`."""
    encoder.number(int(plan.listed is not None), 2)
    if plan.listed is not None:
        encoder.number(len(plan.listed) - 1, _MOST_LISTED)
    _write_fields(encoder, plan, kind, tables)
    if plan.listed is not None and plan.choice is not None:
        for each in plan.fields:
            _write_field(encoder, each, each.of(plan.listed))
        _write_mode(encoder, plan.choice, tables)


def read_plan(decoder: Decoder, kind: Kind, tables: KnownTables) -> Plan:
    """Read what `write_plan` wrote."""
    is_listed = decoder.number(2)
    count = decoder.number(_MOST_LISTED) + 1 if is_listed else 0
    found = _read_fields(decoder, kind, tables)
    if not is_listed:
        return found
    listed = _read_values(decoder, found.fields, kind, count)
    choice = _read_mode(decoder, 0, max(1, (count - 1).bit_length()), tables)
    return Plan(0, found.joined, found.whole, found.fields, listed, choice)


def _write_fields(encoder: Encoder, plan: Plan, kind: Kind, tables: KnownTables) -> None:
    if kind.exponent:
        encoder.number(plan.joined, kind.most_joined + 1)
        encoder.number(int(plan.whole), 2)
    for each in plan.fields:
        _write_mode(encoder, each, tables)


def _read_fields(decoder: Decoder, kind: Kind, tables: KnownTables) -> Plan:
    joined = decoder.number(kind.most_joined + 1) if kind.exponent else 0
    whole = bool(decoder.number(2)) if kind.exponent else False
    fields = tuple(_read_mode(decoder, shift, width, tables) for shift, width in kind.spans(joined, whole))
    return Plan(0, joined, whole, fields)


def _write_mode(encoder: Encoder, each: Field, tables: KnownTables) -> None:
    encoder.number(each.mode, _NUM_MODES)
    if each.mode == _CONSTANT:
        encoder.number(each.constant, 1 << each.width)
    elif each.mode == _KNOWN_TABLE:
        encoder.number(each.known, len(tables.of(each.width)))
    elif each.mode == _NEW_TABLE and each.table is not None:
        each.table.write(encoder)
        tables.add(each.table)


def _read_mode(decoder: Decoder, shift: int, width: int, tables: KnownTables) -> Field:
    mode = decoder.number(_NUM_MODES)
    if mode == _CONSTANT:
        return Field(shift, width, mode, constant=decoder.number(1 << width))
    if mode == _UNIFORM:
        return Field(shift, width, mode)
    if mode == _NEW_TABLE:
        table = Table.read(decoder, width)
        tables.add(table)
        return Field(shift, width, mode, table=table)
    known = tables.of(width)
    if not known:
        raise DamagedError("it refers to a table of frequencies that is not there")
    return Field(shift, width, mode, table=known[decoder.number(len(known))])


def write_values(encoder: Encoder, plan: Plan, values: Patterns) -> None:
    """Write one piece of the values."""
    if plan.listed is not None and plan.choice is not None:
        _write_field(encoder, plan.choice, np.searchsorted(plan.listed, values))
        return
    for each in plan.fields:
        _write_field(encoder, each, each.of(values))


def read_values(decoder: Decoder, plan: Plan, kind: Kind, count: int) -> Patterns:
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
    for each in fields:
        values |= _read_field(decoder, each, count).astype(values.dtype) << one(each.shift)
    return values


def _write_field(encoder: Encoder, each: Field, symbols: NDArray[Any]) -> None:
    if each.mode == _UNIFORM:
        encoder.uniform(symbols, each.width)
    elif each.table is not None:
        encoder.table(symbols.astype(np.int32) - each.table.low, each.table.frequencies)


def _read_field(decoder: Decoder, each: Field, count: int) -> Symbols:
    if each.mode == _UNIFORM:
        return decoder.uniform(count, each.width)
    if each.table is not None:
        return decoder.table(count, each.table.frequencies) + np.int32(each.table.low)
    return np.full(count, each.constant, np.int32)


def in_pieces(values: Patterns) -> Iterator[Patterns]:
    """Return an array piece by piece, as views."""
    return (values[at : at + PIECE] for at in range(0, len(values), PIECE))
