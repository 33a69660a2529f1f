"""The times in a receipt: of one call, and the sparsity at which a program that skips zeros becomes the fastest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from prunus.files import strict_json
from prunus.measuring.consistency import between, close, counts, require


@dataclass(frozen=True)
class Latency:
    """Microseconds of a call: median, 10th and 90th percentile of `runs` calls."""

    median: float
    p10: float
    p90: float
    runs: int

    def __post_init__(self) -> None:
        counts(self, "runs", least=1)
        require(
            0 < self.p10 <= self.median <= self.p90,
            f"p10, median, p90 must be above 0 and rise, got {self.p10}, {self.median}, {self.p90}",
        )


@dataclass(frozen=True)
class BreakEvenPoint:
    """A copy of the dense model, pruned to `sparsity` of its prunable weights, as a program that skips zeros."""

    sparsity: float
    nonzero: int
    latency_us: Latency

    def __post_init__(self) -> None:
        counts(self, "nonzero")
        require(0 <= self.sparsity < 1, f"sparsity must be in [0, 1), got {self.sparsity}")


@dataclass(frozen=True)
class BreakEven:
    """The times of programs that skip zeros at rising sparsities, and of the dense model in other runtimes.

    All were timed in turns in one run. `dense_us` maps a runtime to the dense model's time, `points` rise in sparsity.
    `sparsity` is where the program becomes as fast as the fastest of `dense_us`, see `crossing`; None if it never does.
    `in_8_bits` and `sparsity_in_8_bits` are likewise of programs in 8 bits, whose zeros lie in blocks; empty if they
    were not timed. `notes` says what was left out and why.
    """

    threads: int
    batch: int
    dense_us: dict[str, Latency]
    points: tuple[BreakEvenPoint, ...]
    sparsity: float | None
    notes: tuple[str, ...] = ()
    in_8_bits: tuple[BreakEvenPoint, ...] = field(default=(), metadata=strict_json.MAY_LACK)
    sparsity_in_8_bits: float | None = field(default=None, metadata=strict_json.MAY_LACK)

    def __post_init__(self) -> None:
        counts(self, "threads", "batch", least=1)
        require(bool(self.dense_us), "dense_us must hold at least one runtime, got none")
        require(bool(self.points), "points must hold at least one, got none")
        self._check(self.points, self.sparsity, "sparsity")
        self._check(self.in_8_bits, self.sparsity_in_8_bits, "sparsity_in_8_bits")

    def _check(self, points: tuple[BreakEvenPoint, ...], sparsity: float | None, name: str) -> None:
        for before, after in pairwise(points):
            rises = before.sparsity < after.sparsity and before.nonzero >= after.nonzero
            require(
                rises,
                f"points must rise in sparsity and never in nonzero, got {before.sparsity} ({before.nonzero}) before "
                f"{after.sparsity} ({after.nonzero})",
            )
        expected = crossing([point.sparsity for point in points], self.ratios(points)) if points else None
        if expected is None or sparsity is None:
            require(sparsity == expected, f"{name} must be the points' crossing {expected}, got {sparsity}")
        else:
            between(name, sparsity, 0, 1)
            close(name, sparsity, "the points' crossing", expected)

    @property
    def fastest(self) -> str:
        """The runtime in which the dense model is fastest."""
        return min(self.dense_us, key=lambda runtime: self.dense_us[runtime].median)

    def ratios(self, points: Sequence[BreakEvenPoint]) -> list[float]:
        """Return the time of each point as a multiple of the dense model's in its fastest runtime."""
        fastest = self.dense_us[self.fastest].median
        return [point.latency_us.median / fastest for point in points]


def crossing(sparsities: Sequence[float], ratios: Sequence[float]) -> float | None:
    """Return the sparsity above which the ratios are at most 1, linearly interpolated; None if the last is above 1.

    If the ratios cross 1 more than once because of noise, the last crossing counts.

    >>> crossing([0.0, 0.5, 0.9], [2.0, 1.5, 0.5])
    0.7
    >>> crossing([0.0, 0.5], [0.9, 0.4]), crossing([0.0, 0.5], [3.0, 2.0])
    (0.0, None)
    """
    above = [at for at, ratio in enumerate(ratios) if ratio > 1]
    if not above:
        return sparsities[0]
    last = above[-1]
    if last == len(ratios) - 1:
        return None
    share = (ratios[last] - 1) / (ratios[last] - ratios[last + 1])
    return sparsities[last] + share * (sparsities[last + 1] - sparsities[last])
