"""One cell of `inference.py`: every runtime in its fastest way, checked to compute the same, timed in turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from _inference_runtimes import Call, Way, as_tensor
from prunus.measuring.latency import interleaved
from prunus.measuring.receipt import Latency
from prunus.proving.verification import difference

SAME = 1e-4  # of the largest output
CHOOSING_SECONDS = 0.15  # for each way, before those that count are timed


@dataclass(frozen=True)
class Timed:
    """A runtime in its fastest way.

    Attributes:
        way: which that was.
        difference: of its outputs to PyTorch's, as a part of the largest.
        median_us: of one call.
        p10_us: a tenth of the turns took less.
        p90_us: a tenth of the turns took more.
    """

    way: str
    difference: float
    median_us: float
    p10_us: float
    p90_us: float


@dataclass(frozen=True)
class Cell:
    """What was measured of one model and batch size.

    Attributes:
        subject: the network.
        sparsity: what it was pruned to.
        batch: samples in a call.
        nonzeros: weight -> how many of its entries are not zero, and how many there are.
        runtimes: those that were timed.
        refused: why others were not.
    """

    subject: str
    sparsity: float
    batch: int
    nonzeros: dict[str, tuple[int, int]]
    runtimes: dict[str, Timed]
    refused: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return dataclasses.asdict(self)


def measure(
    model: nn.Module,
    batch: Tensor,
    runtimes: Mapping[str, Mapping[str, Way]],
    threads: int,
    *,
    seconds: float,
    burst_us: float,
) -> tuple[dict[str, Timed], dict[str, str]]:
    """Build every way, drop those that compute something else, and time the fastest of each runtime.

    A turn is a burst of calls, as many as take about `burst_us` microseconds: in turns of one call, each runtime would
    find its weights thrown out of the caches by the others, and look slower than in use.

    Args:
        model: in eval mode.
        batch: what it is called with.
        runtimes: runtime -> way -> what builds its call.
        threads: for those that can be told.
        seconds: for each runtime that is timed.
        burst_us: 0 for turns of one call.

    Returns:
        The times, and for the runtimes that have none the reasons.
    """
    built, differences, refused = _build_all(model, batch, runtimes, threads)
    if not built:
        return {}, refused
    with torch.inference_mode():
        counts = {}
        for name in {name: None for name, _ in built}:
            tried = interleaved({key: built[key] for key in built if key[0] == name}, seconds=CHOOSING_SECONDS)
            fastest = min(tried, key=lambda key: tried[key].median)
            counts[fastest] = max(1, round(burst_us / tried[fastest].median))
        found = interleaved({key: _burst(built[key], count) for key, count in counts.items()}, seconds=seconds)
    return {key[0]: _timed(key[1], differences[key], found[key], counts[key]) for key in counts}, refused


def _timed(way: str, apart: float, turn: Latency, calls: int) -> Timed:
    return Timed(way, apart, turn.median / calls, turn.p10 / calls, turn.p90 / calls)


def _build_all(
    model: nn.Module, batch: Tensor, runtimes: Mapping[str, Mapping[str, Way]], threads: int
) -> tuple[dict[tuple[str, str], Call], dict[tuple[str, str], float], dict[str, str]]:
    """Return the calls and how far their outputs are off, by (runtime, way), and why a runtime has none."""
    with torch.inference_mode():
        expected = model(batch)
    built: dict[tuple[str, str], Call] = {}
    differences: dict[tuple[str, str], float] = {}
    refused: dict[str, str] = {}
    for name, ways in runtimes.items():
        reasons = []
        for way, build in ways.items():
            try:
                call = build(model, batch, threads)
                with torch.inference_mode():
                    apart = difference([expected], [as_tensor(call())])
            except Exception as error:  # whatever a runtime raises, the others go on
                reasons.append(f"{way}: {type(error).__name__}: {str(error)[:200]}")
                continue
            if apart <= SAME:
                built[name, way], differences[name, way] = call, apart
            else:
                reasons.append(f"{way}: its outputs differ by {apart:.1e} of the largest")
        if reasons and all(key[0] != name for key in built):
            refused[name] = "; ".join(dict.fromkeys(reasons))
    return built, differences, refused


def _burst(call: Call, count: int) -> Callable[[], None]:
    def turn() -> None:
        for _ in range(count):
            call()

    return turn
