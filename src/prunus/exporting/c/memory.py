"""Where values lie in the static memory: one that is needed no more makes room for another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy

from prunus.compiling.net import Net, Operation, is_whole


@dataclass(frozen=True)
class Span:
    """A piece of memory: so many numbers, needed from one step to another, both included."""

    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Memory:
    """Where the values of a net lie.

    Attributes:
        places: value -> where in the static memory it begins, in numbers.
        size: numbers of the static memory.
        direct: value -> number of the output whose array it is computed in.
    """

    places: Mapping[int, int]
    size: int
    direct: Mapping[int, int]


def arrange(net: Net) -> Memory:
    """Give each value that an operation makes a place.

    The caller's arrays hold the inputs, and those outputs that are all of a value. What is computed element by
    element takes the place of what it is computed from, if that is not read later.
    """
    direct = _direct(net)
    last = {view.value: step for step, operation in enumerate(net.operations) for view in operation.views}
    last |= {view.value: len(net.operations) for view in net.outputs}
    held: dict[int, int] = {}  # value -> the value whose memory it takes over, or itself
    spans: dict[int, Span] = {}
    for step, operation in enumerate(net.operations):
        number = operation.output
        if number in direct:
            continue
        end = last.get(number, step)
        before = next((value for value in _replaceable(operation) if value in held and last[value] == step), None)
        held[number] = number if before is None else held[before]
        size = int(numpy.prod(operation.box))
        if before is None:
            spans[number] = Span(size, step, end)
        else:  # the value whose place it takes may be larger
            taken = spans[held[number]]
            spans[held[number]] = Span(max(size, taken.size), taken.first, end)
    starts, total = place(list(spans.values()))
    start_of = dict(zip(spans, starts, strict=True))
    return Memory({number: start_of[holder] for number, holder in held.items()}, total, direct)


def place(spans: Sequence[Span]) -> tuple[list[int], int]:
    """Return where each piece of memory begins, and how much there is in all: first fit, in the better of two orders.

    >>> place([Span(4, 0, 1), Span(2, 1, 2), Span(4, 2, 3)])
    ([0, 4, 0], 6)
    """
    by_age = sorted(range(len(spans)), key=lambda number: (spans[number].first, -spans[number].size))
    by_size = sorted(range(len(spans)), key=lambda number: (-spans[number].size, spans[number].first))
    return min((_first_fit(spans, order) for order in (by_size, by_age)), key=lambda layout: layout[1])


def _first_fit(spans: Sequence[Span], order: Sequence[int]) -> tuple[list[int], int]:
    starts: dict[int, int] = {}
    for number in order:
        span = spans[number]
        start = 0
        for other in sorted(starts, key=starts.__getitem__):
            apart = spans[other].last < span.first or span.last < spans[other].first
            if not apart and starts[other] < start + span.size:
                start = max(start, starts[other] + spans[other].size)
        starts[number] = start
    return [starts[number] for number in range(len(spans))], max((starts[e] + spans[e].size for e in starts), default=0)


def _direct(net: Net) -> dict[int, int]:
    direct: dict[int, int] = {}
    computed = {operation.output for operation in net.operations}
    for number, view in enumerate(net.outputs):
        if view.value in computed and view.value not in direct and is_whole(view, net.boxes[view.value]):
            direct[view.value] = number
    return direct


def _replaceable(operation: Operation) -> list[int]:
    """Return values whose place the output may take: what is read of them is all of them, in their own order."""
    views = operation.overwritable
    in_order = {id(view): is_whole(view, operation.box) for view in views}
    values = dict.fromkeys(view.value for view in views)
    return [value for value in values if all(in_order[id(view)] for view in views if view.value == value)]
