"""Which literals an operation that moves elements may have once some are gone: guesses, each to be proven."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from prunus.graph.calls import hint, written_arguments
from prunus.graph.operations import Family
from prunus.graph.rewriting.extents import cut_shape, indices
from prunus.graph.rewriting.moving import Move


@dataclass(frozen=True)
class Scaled:
    """A size that hangs on the batch, such as batch times heads.

    Attributes:
        node: what computes it in the original graph.
        old: what it is for the example inputs.
        new: what it is for them after the cut.
    """

    node: fx.Node
    old: int
    new: int


@dataclass(frozen=True)
class Candidate:
    """An operation that may do: arguments by name that are not the original's."""

    target: Any
    changes: dict[str, Any]

    @property
    def numbers(self) -> dict[str, Any]:
        """The changes with a number for each size."""
        return {name: _concrete(value) for name, value in self.changes.items()}


def _concrete(value: Any) -> Any:
    if isinstance(value, list):
        return [_concrete(entry) for entry in value]
    if isinstance(value, Scaled):
        return value.new
    return int(hint(value.meta["val"])) if isinstance(value, fx.Node) else value


Fit: TypeAlias = Callable[[Move], Iterator[dict[str, Any]]]
_FITS: dict[str, Fit] = {}


def candidates(move: Move) -> Iterator[Candidate]:
    """Yield the operations that may do, the original's own arguments first."""
    yield Candidate(move.node.target, {})
    if move.row.family is Family.PARTS:
        yield from _split(move)
    elif move.row.name in _FITS:
        for changes in _FITS[move.row.name](move):
            yield Candidate(move.node.target, changes)


def _fits(*names: str) -> Callable[[Fit], Fit]:
    def enter(fit: Fit) -> Fit:
        for name in names:
            _FITS[name] = fit
        return fit

    return enter


def left_of(move: Move) -> list[int]:
    """Return what is left of the shape of an operation's first result."""
    return cut_shape(move.outputs[0].shape, move.kept[0])


def fitted_sizes(sizes: list[Any], old: list[int], new: list[int]) -> list[Any]:
    """Return sizes as they are after the cut.

    Args:
        sizes: as they are written: numbers, -1, or nodes.
        old: what they are for the example inputs.
        new: what they are for them after the cut.
    """
    fitted: list[Any] = []
    for size, before, after in zip(sizes, old, new, strict=True):
        if before == after or (isinstance(size, int) and size == -1):
            fitted.append(size)
        else:
            fitted.append(Scaled(size, before, after) if isinstance(size, fx.Node) else after)
    return fitted


@_fits("view", "reshape", "expand", "_unsafe_view", "view_copy", "broadcast_to", "unflatten")
def _sizes(move: Move) -> Iterator[dict[str, Any]]:
    arguments = written_arguments(move.node)
    name = next(name for name in ("size", "shape", "sizes") if name in arguments)
    sizes = list(arguments[name])
    old, new = list(move.outputs[0].shape), left_of(move)
    first = 0
    if name == "sizes":
        first = int(arguments["dim"]) % len(move.carriers[0].shape)
    last = first + len(sizes)
    yield {name: fitted_sizes(sizes, old[first:last], new[first:last])}


def _along(move: Move) -> tuple[Tensor, int]:
    """Return which indices of the input stay along the dimension an operation names, bool, and that dimension."""
    (source, *_) = move.carriers
    dim = int(move.arguments.get("dim", 0)) % len(source.shape)
    mask = move.masks[id(source)][dim]
    return (torch.ones(source.shape[dim], dtype=torch.bool) if mask is None else mask), dim


def _count(stays: Tensor, bound: Any, default: int) -> int:
    """Return how many indices stay before a bound, which counts from the end where it is negative."""
    place = default if bound is None else int(bound)
    place = max(0, min(len(stays), place + len(stays) if place < 0 else place))
    return int(stays[:place].sum())


@_fits("slice")
def _slice(move: Move) -> Iterator[dict[str, Any]]:
    stays, _ = _along(move)
    start, end = move.arguments["start"], move.arguments["end"]
    first, last = _count(stays, start, 0), _count(stays, end, len(stays))
    for step in range(int(move.arguments["step"]), 0, -1):
        for shift in range(step):
            yield {"start": first + shift, "end": last, "step": step}


@_fits("narrow")
def _narrow(move: Move) -> Iterator[dict[str, Any]]:
    stays, _ = _along(move)
    start, length = int(move.arguments["start"]), int(move.arguments["length"])
    start = start + len(stays) if start < 0 else start
    first = _count(stays, start, 0)
    yield {"start": first, "length": _count(stays, start + length, len(stays)) - first}


@_fits("select")
def _select(move: Move) -> Iterator[dict[str, Any]]:
    stays, _ = _along(move)
    yield {"index": min(_count(stays, move.arguments["index"], 0), int(stays.sum()) - 1)}


@_fits("roll")
def _roll(move: Move) -> Iterator[dict[str, Any]]:
    """As many are rolled over the end as stay of those that were."""
    (source,) = move.carriers
    shifts = []
    for shift, dim in zip(move.arguments["shifts"], move.arguments["dims"], strict=False):
        mask, size = move.masks[id(source)][dim], source.shape[dim]
        over = int(shift) % size
        shifts.append(shift if mask is None else int(mask[size - over :].sum()))
    if len(shifts) == len(move.arguments["shifts"]):
        yield {"shifts": shifts}


@_fits("channel_shuffle", "native_channel_shuffle")
def _shuffle(move: Move) -> Iterator[dict[str, Any]]:
    channels = left_of(move)[1]
    for groups in range(channels, 0, -1):
        if channels % groups == 0:
            yield {"groups": groups}


@_fits("repeat_interleave")
def _repeats(move: Move) -> Iterator[dict[str, Any]]:
    """Repeat what stays as often as before, where each index has a count of its own."""
    repeats = next((helper for helper in move.helpers if helper.contents is not None), None)
    stays, _ = _along(move)
    if repeats is not None and repeats.contents is not None and repeats.contents.numel() == len(stays):
        left = repeats.contents[stays]
        yield {"repeats": left, "output_size": int(left.sum())}


@_fits("index_select", "index")
def _index(move: Move) -> Iterator[dict[str, Any]]:
    """Pick by the places that the picked have after the cut."""
    named = {"index": move.arguments["index"]} if "index" in move.arguments else None
    picks = list(named.values()) if named else list(move.arguments["indices"])
    places = [place for place, entry in enumerate(picks) if entry is not None]
    if len(places) != 1 or picks[places[0]].contents is None or picks[places[0]].contents.ndim != 1:
        return
    index = picks[places[0]].contents
    (source,) = move.carriers
    dim = int(move.arguments["dim"]) % len(source.shape) if named else places[0]
    if index.dtype not in (torch.int64, torch.int32):
        return
    size = source.shape[dim]
    stays = torch.zeros(size, dtype=torch.bool)
    stays[indices(move.masks[id(source)][dim], size)] = True
    picked = index.long()[indices(move.kept[0][dim], move.outputs[0].shape[dim])] % size
    if not bool(stays[picked].all()):
        return
    fresh = (stays.cumsum(0) - 1)[picked].to(index.dtype)
    if named:
        yield {"index": fresh}
    else:
        picks[places[0]] = fresh
        yield {"indices": picks}


def _split(move: Move) -> Iterator[Candidate]:
    """Cut into pieces of the sizes that are left of them."""
    rank = len(move.carriers[0].shape)
    if len(move.outputs[0].shape) < rank:  # pieces without the dimension that was cut, as unbind's
        return
    along = move.row.along
    dim = int(move.arguments[along] if isinstance(along, str) else along or 0) % rank
    sizes = []
    for piece, masks in zip(move.outputs, move.kept, strict=True):
        mask = masks[dim]
        sizes.append(piece.shape[dim] if mask is None else int(mask.sum()))
    if "split_size" in move.arguments and isinstance(move.arguments["split_size"], int):
        yield Candidate(move.node.target, {"split_size": sizes[0]})
    changes = {"self": move.carriers[0], "split_sizes": sizes, "dim": dim}
    yield Candidate(torch.ops.aten.split_with_sizes.default, changes)
