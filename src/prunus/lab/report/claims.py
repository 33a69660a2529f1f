"""What a receipt's figures justify saying about two models: a verdict with the figures it rests on."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

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
class SizeChange:
    """One format's bytes in two models."""

    format: str
    before: int
    after: int

    @property
    def relative(self) -> float:
        """The change as a fraction of the size before; negative where the file shrank."""
        return (self.after - self.before) / self.before

    @property
    def verdict(self) -> Literal["same", "smaller", "larger"]:
        """`same` within 0.1%, which a file's header alone can differ by."""
        if abs(self.relative) < SAME_SIZE:
            return "same"
        return "smaller" if self.after < self.before else "larger"


@dataclass(frozen=True)
class SpeedChange:
    """The latency of two models in one setting: a runtime, a number of threads and a batch size."""

    runtime: str
    threads: str
    batch: str
    before: Latency
    after: Latency

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
class Overtaking(SpeedChange):
    """From a model in the fastest of the runtimes that multiply by zeros, `against`, to a program that skips them."""

    against: str


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
            told = self.test.p_value < SIGNIFICANCE
        else:
            told = self.before.ci95[1] < self.after.ci95[0] or self.after.ci95[1] < self.before.ci95[0]
        if not told:
            return "same"
        return "better" if self.difference > 0 else "worse"


def size_changes(first: ModelFacts, last: ModelFacts) -> list[SizeChange]:
    """Return the change of every format measured in both models, in the order of the last one's."""
    return [
        SizeChange(form, first.bytes[form], after) for form, after in last.bytes.items() if first.bytes.get(form, 0) > 0
    ]


def speed_changes(first: ModelFacts, last: ModelFacts) -> list[SpeedChange]:
    """Return the change in every setting measured in both models, in the order of the last one's."""
    return [
        SpeedChange(runtime, threads, batch, before, after)
        for runtime, threads, batch, after in settings(last)
        if (before := latency(first, runtime, threads, batch)) is not None and before.median > 0
    ]


def overtakings(model: ModelFacts, compiled: ModelFacts) -> list[Overtaking]:
    """Return how the program of one model stands beside another, or the same, in its fastest dense runtime.

    Threads and batch are the same for both.
    """
    found = []
    for runtime, threads, batch, after in settings(compiled):
        times = [
            (before.median, name, before)
            for name in DENSE_RUNTIMES
            if (before := latency(model, name, threads, batch)) is not None
        ]
        if runtime == PROGRAM and times:
            _, against, before = min(times, key=lambda time: time[0])
            found.append(Overtaking(runtime, threads, batch, before, after, against))
    return found


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


def settings(model: ModelFacts) -> list[tuple[str, str, str, Latency]]:
    """Return every (runtime, threads, batch, latency) of a model."""
    return [
        (runtime, threads, batch, measured)
        for runtime, by_threads in model.latency_us.items()
        for threads, by_batch in by_threads.items()
        for batch, measured in by_batch.items()
    ]


def timed(receipt: Receipt) -> list[ModelFacts]:
    """Return the models and controls that were timed."""
    return [model for model in (*receipt.models, *receipt.controls) if model.latency_us]


def grid(models: list[ModelFacts]) -> list[tuple[str, str]]:
    """Return every (threads, batch) that any of the models was timed in."""
    return list(dict.fromkeys(setting[1:3] for model in models for setting in settings(model)))


def latency(model: ModelFacts, runtime: str, threads: str, batch: str) -> Latency | None:
    """Return a model's latency in a setting, None where it was not measured."""
    return model.latency_us.get(runtime, {}).get(threads, {}).get(batch)


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


def zero_fraction(model: ModelFacts) -> float:
    """Return the fraction of all parameters that are zero, biases and norms counted in."""
    return zeros(model) / model.parameters if model.parameters else 0.0


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
