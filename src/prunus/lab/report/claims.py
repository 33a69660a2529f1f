"""Verdicts on two models that a receipt's figures justify: on accuracy, bytes and time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from prunus.measuring.overview import grid, latency, settings
from prunus.measuring.receipt import Accuracy, Latency, ModelFacts, PairedTest, Receipt

# the usual level: a difference is significant if chance alone gives one as large with a probability below 5%
SIGNIFICANCE = 0.05
# two sizes or times closer than this are the same: headers and clocks vary as much from run to run
SAME_SIZE = 0.001
SAME_TIME = 0.02
# a 90th percentile this many times the 10th indicates a busy machine
UNSTEADY = 1.5

# the runtimes that skip zeros, in floating point and in 8 bits, and those that do not
PROGRAM, PROGRAM_IN_8_BITS = PROGRAMS = ("prunus", "prunus-int8")
# the model of a run whose accuracy was measured in 8 bits
QUANTIZED = "quantized"
DENSE_RUNTIMES = ("torch", "torch-compile", "onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8")

# for a normal distribution: the distance of the 10th from the 90th percentile in standard deviations,
_P10_TO_P90 = 2.563
# the standard error of a median divided by that of a mean, sqrt(pi / 2),
_MEDIAN_TO_MEAN = 1.2533
# and the number of standard deviations that holds 95%
_Z95 = 1.96


@dataclass(frozen=True)
class SpeedChange:
    """The latency of two models with the same threads and batch.

    Attributes:
        runtime: the runtime of the second model.
        threads, batch: the setting, as in the receipt.
        before, after: the latency of the first and the second model.
        against: the runtime of the first model.
        models: the names of the two.
    """

    runtime: str
    threads: str
    batch: str
    before: Latency
    after: Latency
    against: str
    models: tuple[str, str]

    @property
    def factor(self) -> float:
        """The time after, as a multiple of the time before; below 1 is faster."""
        return self.after.median / self.before.median

    @property
    def verdict(self) -> Literal["same", "faster", "slower"]:
        """`same` if the medians' 95% intervals overlap or the medians differ by less than 2%."""
        before, after = median_interval(self.before), median_interval(self.after)
        overlap = before[0] <= after[1] and after[0] <= before[1]
        if overlap or abs(self.factor - 1) < SAME_TIME:
            return "same"
        return "faster" if self.factor < 1 else "slower"

    @property
    def variation(self) -> float:
        """The ratio of the 90th to the 10th percentile, for the model whose calls varied more."""
        return max(time.p90 / time.p10 for time in (self.before, self.after))


@dataclass(frozen=True)
class AccuracyChange:
    """The accuracy of two models, with their paired test if there is one."""

    before: Accuracy
    after: Accuracy
    test: PairedTest | None

    @property
    def difference(self) -> float:
        """Accuracy after minus accuracy before."""
        return self.test.difference if self.test else self.after.top1 - self.before.top1

    @property
    def verdict(self) -> Literal["same", "better", "worse"]:
        """`same` if chance explains the difference: p >= 0.05, or without a test, overlapping intervals."""
        if self.test:
            significant = self.test.p_value < SIGNIFICANCE
        else:
            significant = self.before.ci95[1] < self.after.ci95[0] or self.after.ci95[1] < self.before.ci95[0]
        if not significant:
            return "same"
        return "better" if self.difference > 0 else "worse"


def size_verdict(before: int, after: int) -> Literal["same", "smaller", "larger"]:
    """Compare two sizes in bytes; `same` within 0.1%, by which the headers of files alone can differ."""
    if abs(after - before) < SAME_SIZE * before:
        return "same"
    return "smaller" if after < before else "larger"


def speed_changes(first: ModelFacts, last: ModelFacts) -> list[SpeedChange]:
    """Return the change in every setting measured for both models, in the order of the last model."""
    return [
        SpeedChange(runtime, threads, batch, before, after, runtime, (first.name, last.name))
        for runtime, threads, batch, after in settings(last)
        if (before := latency(first, runtime, threads, batch)) is not None and before.median > 0
    ]


def program_changes(receipt: Receipt) -> list[SpeedChange]:
    """Hold the fastest program that is as accurate as the last model against what is fastest without one.

    A program in 8 bits counts where the accuracy of its model was measured in 8 bits. Against it stand, in each
    setting, the first model and all that are as accurate as the last one, in every runtime that does not skip zeros;
    those in 8 bits count whether or not their accuracy was measured so, which favours them.
    """
    last = receipt.models[-1]
    models = [model for model in receipt.models if _as_accurate(receipt, model, last)]
    programs = [(last, PROGRAM), *((model, PROGRAM_IN_8_BITS) for model in models if model.name == QUANTIZED)]
    changes = []
    for threads, batch in grid(models):
        others = _times([(model, name) for model in models for name in DENSE_RUNTIMES], threads, batch)
        if not others:
            continue
        against = min(others, key=lambda key: others[key].median)
        changes += [
            SpeedChange(runtime, threads, batch, others[against], after, against[1], (against[0], name))
            for (name, runtime), after in _times(programs, threads, batch).items()
        ]
    return changes


def fastest_programs(changes: list[SpeedChange]) -> list[SpeedChange]:
    """Return of `program_changes` the fastest program in each setting."""
    by_setting: dict[tuple[str, str], SpeedChange] = {}
    for change in sorted(changes, key=lambda change: change.after.median):
        by_setting.setdefault((change.threads, change.batch), change)
    return [change for change in changes if by_setting[change.threads, change.batch] is change]


def unmeasured(receipt: Receipt) -> list[str]:
    """Return the dense runtimes in which the first model has no time."""
    return [name for name in DENSE_RUNTIMES if not receipt.models[0].latency_us.get(name)]


def _times(pairs: list[tuple[ModelFacts, str]], threads: str, batch: str) -> dict[tuple[str, str], Latency]:
    """Return model's name, runtime -> latency in a setting, where it was measured."""
    return {
        (model.name, runtime): time
        for model, runtime in pairs
        if (time := latency(model, runtime, threads, batch)) is not None and time.median > 0
    }


def _as_accurate(receipt: Receipt, model: ModelFacts, last: ModelFacts) -> bool:
    """Tell whether a model is not measurably less accurate than the last; the first counts in any case."""
    if model is last or model is receipt.models[0]:
        return True
    change = accuracy_change(receipt, model, last)
    return change is not None and change.verdict != "better"


def dense_changes(first: ModelFacts, last: ModelFacts) -> list[SpeedChange]:
    """Return `speed_changes` without those of programs, unless there are no others.

    A comparison of programs of the sparse and the dense model means little, since nobody would run the latter.
    """
    changes = speed_changes(first, last)
    return [change for change in changes if change.runtime not in PROGRAMS] or changes


def median_interval(time: Latency) -> tuple[float, float]:
    """Return the 95% interval of a median, in microseconds, from the spread and number of its calls.

    median ± 1.96 · 1.2533 · sigma / sqrt(runs), with sigma = (p90 - p10) / 2.563

    This assumes independent calls with normally distributed times. On a busy machine they are neither, so the interval
    is too narrow: see `UNSTEADY`.

    Source: McGill, Tukey and Larsen, "Variations of box plots", The American Statistician 32 (1978), which computes
    sigma from the quartiles instead.

    >>> low, high = median_interval(Latency(100, 95, 105, 100))
    >>> round(low, 2), round(high, 2)
    (99.04, 100.96)
    """
    sigma = (time.p90 - time.p10) / _P10_TO_P90
    half_width = _Z95 * _MEDIAN_TO_MEAN * sigma / math.sqrt(time.runs)
    return time.median - half_width, time.median + half_width


def unsteady(changes: list[SpeedChange]) -> bool:
    """Return whether single calls varied so much in a setting that its verdict needs a warning."""
    return any(change.variation > UNSTEADY for change in changes)


def without_reason(first: ModelFacts, last: ModelFacts, changes: list[SpeedChange]) -> bool:
    """Return whether both models do the same multiply-adds, in runtimes that do not skip zeros."""
    dense = all(change.runtime in DENSE_RUNTIMES for change in changes)
    return last.macs is not None and last.macs == first.macs and dense


def accuracy_change(receipt: Receipt, first: ModelFacts, last: ModelFacts) -> AccuracyChange | None:
    """Return the change of accuracy from one model to another; None if one was not tested."""
    if first.accuracy is None or last.accuracy is None:
        return None
    return AccuracyChange(first.accuracy, last.accuracy, paired_test(receipt, first.name, last.name))


def paired_test(receipt: Receipt, first: str, second: str) -> PairedTest | None:
    """Return the paired test of two models, with the difference second minus first."""
    for test in receipt.comparisons:
        if (test.first, test.second) == (first, second):
            return test
        if (test.second, test.first) == (first, second):
            return _turned(test)
    return None


def zeros(model: ModelFacts) -> int:
    """Return the number of zero parameters."""
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
