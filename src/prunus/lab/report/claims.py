"""What a receipt's figures justify saying about two models: verdicts on accuracy, bytes and time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from prunus.measuring.overview import latency, settings
from prunus.measuring.receipt import Accuracy, Latency, ModelFacts, PairedTest, Receipt

# the usual level: a difference is told from chance where chance alone would give one as large in fewer than 5% of tries
SIGNIFICANCE = 0.05
# two sizes or times closer than this are called the same: headers and clocks differ by as much from run to run
SAME_SIZE = 0.001
SAME_TIME = 0.02
# a 90th percentile this many times the 10th is the mark of a machine with other work to do
UNSTEADY = 1.5

# the runtime that skips zeros, and those in which a zero takes as long as any other number
PROGRAM = "prunus"
DENSE_RUNTIMES = ("torch", "torch-compile", "onnxruntime", "openvino")

# of a normal distribution: the 10th and 90th percentile lie this many standard deviations apart,
_P10_TO_P90 = 2.563
# a median varies this much more than a mean: sqrt(pi / 2),
_MEDIAN_TO_MEAN = 1.2533
# and 95% lie within this many standard deviations
_Z95 = 1.96


@dataclass(frozen=True)
class SpeedChange:
    """The latency of two models with the same threads and batch.

    Attributes:
        runtime: what the second model ran in.
        threads, batch: the setting, as the receipt spells it.
        before, after: the latency of the first and the second model.
        against: what the first model ran in.
    """

    runtime: str
    threads: str
    batch: str
    before: Latency
    after: Latency
    against: str

    @property
    def factor(self) -> float:
        """The time after, as a multiple of the time before; below 1 is faster."""
        return self.after.median / self.before.median

    @property
    def verdict(self) -> Literal["same", "faster", "slower"]:
        """`same` where the medians' 95% intervals overlap or the medians lie within 2%."""
        before, after = median_interval(self.before), median_interval(self.after)
        overlap = before[0] <= after[1] and after[0] <= before[1]
        if overlap or abs(self.factor - 1) < SAME_TIME:
            return "same"
        return "faster" if self.factor < 1 else "slower"

    @property
    def variation(self) -> float:
        """How many times the 10th percentile the 90th is, in the model whose calls varied more."""
        return max(time.p90 / time.p10 for time in (self.before, self.after))


@dataclass(frozen=True)
class AccuracyChange:
    """The accuracy of two models, with the paired test between them where there is one."""

    before: Accuracy
    after: Accuracy
    test: PairedTest | None

    @property
    def difference(self) -> float:
        """Accuracy after minus accuracy before."""
        return self.test.difference if self.test else self.after.top1 - self.before.top1

    @property
    def verdict(self) -> Literal["same", "better", "worse"]:
        """`same` where chance explains the difference: p >= 0.05, or without a test overlapping intervals."""
        if self.test:
            apart = self.test.p_value < SIGNIFICANCE
        else:
            apart = self.before.ci95[1] < self.after.ci95[0] or self.after.ci95[1] < self.before.ci95[0]
        if not apart:
            return "same"
        return "better" if self.difference > 0 else "worse"


def size_verdict(before: int, after: int) -> Literal["same", "smaller", "larger"]:
    """Compare two sizes in bytes; `same` within 0.1%, which a file's header alone can differ by."""
    if abs(after - before) < SAME_SIZE * before:
        return "same"
    return "smaller" if after < before else "larger"


def speed_changes(first: ModelFacts, last: ModelFacts) -> list[SpeedChange]:
    """Return the change in every setting measured in both models, in the order of the last one's."""
    return [
        SpeedChange(runtime, threads, batch, before, after, runtime)
        for runtime, threads, batch, after in settings(last)
        if (before := latency(first, runtime, threads, batch)) is not None and before.median > 0
    ]


def program_changes(model: ModelFacts, compiled: ModelFacts) -> list[SpeedChange]:
    """Return how the program of one model stands beside another, or the same, in its fastest dense runtime."""
    changes = []
    for runtime, threads, batch, after in settings(compiled):
        times = {name: time for name in DENSE_RUNTIMES if (time := latency(model, name, threads, batch)) is not None}
        if runtime == PROGRAM and times:
            against = min(times, key=lambda name: times[name].median)
            changes.append(SpeedChange(runtime, threads, batch, times[against], after, against))
    return changes


def dense_changes(first: ModelFacts, last: ModelFacts) -> list[SpeedChange]:
    """Return `speed_changes` without those of the program, unless there are no others.

    How much the program of a sparse model is faster than that of the dense one says little: nobody would run the
    latter.
    """
    changes = speed_changes(first, last)
    return [change for change in changes if change.runtime != PROGRAM] or changes


def median_interval(time: Latency) -> tuple[float, float]:
    """Return the 95% interval of a median, in microseconds, from the spread and number of its calls.

    median ± 1.96 · 1.2533 · sigma / sqrt(runs), with sigma = (p90 - p10) / 2.563

    This takes the calls as independent and about normal. Calls on a busy machine are neither, so its interval is
    too narrow: see `UNSTEADY`.

    Source: McGill, Tukey and Larsen, "Variations of box plots", The American Statistician 32 (1978), which takes
    sigma from the quartiles instead.

    >>> low, high = median_interval(Latency(100, 95, 105, 100))
    >>> round(low, 2), round(high, 2)
    (99.04, 100.96)
    """
    sigma = (time.p90 - time.p10) / _P10_TO_P90
    half_width = _Z95 * _MEDIAN_TO_MEAN * sigma / math.sqrt(time.runs)
    return time.median - half_width, time.median + half_width


def unsteady(changes: list[SpeedChange]) -> bool:
    """Return whether single calls varied so much in some setting that its verdict needs a warning."""
    return any(change.variation > UNSTEADY for change in changes)


def without_reason(first: ModelFacts, last: ModelFacts, changes: list[SpeedChange]) -> bool:
    """Return whether both models do the same multiply-adds, in runtimes that multiply by zeros like by any number."""
    dense = all(change.runtime in DENSE_RUNTIMES for change in changes)
    return last.macs is not None and last.macs == first.macs and dense


def accuracy_change(receipt: Receipt, first: ModelFacts, last: ModelFacts) -> AccuracyChange | None:
    """Return the change of accuracy from one model to another, None where one was not tested."""
    if first.accuracy is None or last.accuracy is None:
        return None
    return AccuracyChange(first.accuracy, last.accuracy, paired_test(receipt, first.name, last.name))


def paired_test(receipt: Receipt, first: str, second: str) -> PairedTest | None:
    """Return the paired test of two models, turned so that its difference is second minus first."""
    for test in receipt.comparisons:
        if (test.first, test.second) == (first, second):
            return test
        if (test.second, test.first) == (first, second):
            return _turned(test)
    return None


def zeros(model: ModelFacts) -> int:
    """Return how many parameters are zero."""
    return model.parameters - model.nonzero


def only_zeroed(first: ModelFacts, last: ModelFacts) -> bool:
    """Return whether the last model is as large as the first, with more zeros."""
    return last.parameters == first.parameters and zeros(last) > zeros(first)


def _turned(test: PairedTest) -> PairedTest:
    low, high = test.ci95
    return replace(
        test,
        first=test.second,
        second=test.first,
        only_first=test.only_second,
        only_second=test.only_first,
        difference=-test.difference,
        ci95=(-high, -low),
    )
