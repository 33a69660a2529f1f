"""Format a receipt's figures as text, the same for the terminal and the page."""

from __future__ import annotations

from collections.abc import Sequence

from prunus.measuring.receipt import Accuracy, Latency
from prunus.tables import ABSENT as ABSENT
from prunus.tables import COUNTS, TIMES, scaled, three_digits, unit
from prunus.tables import count as count
from prunus.tables import microseconds as microseconds
from prunus.tables import percent as percent
from prunus.tables import plain as plain
from prunus.tables import shape as shape

LEAST_P = 0.001
MINUS = "\N{MINUS SIGN}"

RUNTIMES = {
    "torch": "PyTorch",
    "torch-compile": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "onnxruntime-int8": "ONNX Runtime int8",
    "openvino": "OpenVINO",
    "openvino-int8": "OpenVINO int8",
    "prunus-int8": "prunus int8",
}


def signed_percent(before: float, after: float) -> str:
    """Format a change as a signed percentage.

    >>> signed_percent(100, 75), signed_percent(100, 110), signed_percent(3, 3)
    ('−25.0%', '+10.0%', 'same')
    """
    if before == after:
        return "same"
    if not before:
        return "new"
    change = (after - before) / before
    return f"{'+' if change > 0 else MINUS}{percent(abs(change))}"


def setting(threads: str, batch: str) -> str:
    """Format the numbers of threads and samples of a latency, which are texts in a receipt.

    >>> setting("1", "64"), setting("all", "1")
    ('1 thread, batch 64', 'all threads, batch 1')
    """
    spelled = plural(int(threads), "thread") if threads.isdecimal() else f"{plain(threads)} threads"
    return f"{spelled}, batch {plain(batch)}"


def runtime(name: str) -> str:
    """Return the usual name of a runtime.

    >>> runtime("torch"), runtime("onnxruntime"), runtime("prunus"), runtime("mine")
    ('PyTorch', 'ONNX Runtime', 'prunus', 'mine')
    """
    return RUNTIMES.get(name, plain(name))


def accuracy(measured: Accuracy | None) -> str:
    """Format an accuracy and its 95% interval.

    >>> accuracy(Accuracy(0.9921, 9921, 10000, (0.99018, 0.99366), (), 0.02, 0.01))
    '99.21% [99.02, 99.37]'
    """
    if measured is None:
        return ABSENT
    low, high = measured.ci95
    return f"{percent(measured.top1, 2)} [{low * 100:.2f}, {high * 100:.2f}]"


def points(difference: float) -> str:
    """Format the difference of two fractions in percentage points, signed.

    >>> points(0.0004), points(-0.01), points(0.0)
    ('+0.04', '−1.00', '0.00')
    """
    rounded = round(difference * 100, 2)
    return f"{rounded:+.2f}".replace("-", MINUS) if rounded else "0.00"


def points_interval(ci95: tuple[float, float]) -> str:
    """Format an interval of differences in percentage points.

    >>> points_interval((-0.001, 0.0019))
    '[−0.10, +0.19]'
    """
    return f"[{points(ci95[0])}, {points(ci95[1])}]"


def p_value(probability: float) -> str:
    """Format the p-value of a test.

    >>> p_value(0.6123), p_value(0.0123), p_value(0.00001), p_value(1.0)
    ('0.61', '0.012', '< 0.001', '1')
    """
    return f"< {LEAST_P}" if probability < LEAST_P else f"{probability:.2g}"


def time_unit(microseconds: float) -> tuple[str, int]:
    """Return the unit to format a time in, and its length in microseconds.

    >>> time_unit(1530)
    (' ms', 1000)
    """
    return unit(microseconds, TIMES)


def latency(measured: Latency | None) -> str:
    """Format a median time and its 10th and 90th percentile in one unit.

    >>> latency(Latency(1530, 1488, 1612, 100))
    '1.53 [1.49, 1.61] ms'
    """
    if measured is None:
        return ABSENT
    name, size = time_unit(measured.median)
    median, low, high = (
        f"{three_digits(value / size):,.10g}" for value in (measured.median, measured.p10, measured.p90)
    )
    return f"{median} [{low}, {high}]{name}"


def ratio(value: float) -> str:
    """Format the ratio of two figures.

    >>> ratio(0.984), ratio(1.8), ratio(31.7), ratio(0.0042)
    ('0.98', '1.80', '32', '0.0042')
    """
    if value < 0.1:
        return f"{value:.2g}"
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}"


def span(values: Sequence[float]) -> str:
    """Format the range of several ratios.

    >>> span([0.984, 1.03, 1.0]), span([2.0, 2.001])
    ('0.98 to 1.03', '2.00')
    """
    low, high = ratio(min(values)), ratio(max(values))
    return low if low == high else f"{low} to {high}"


def compact(number: int) -> str:
    """Format a large count with three significant digits.

    >>> compact(950), compact(2071600), compact(4_100_000_000)
    ('950', '2.07 M', '4.1 G')
    """
    return scaled(number, COUNTS)


def plural(number: int, noun: str) -> str:
    """Format a count and its noun.

    >>> plural(1, "thread"), plural(1000, "image")
    ('1 thread', '1,000 images')
    """
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def listing(parts: Sequence[str]) -> str:
    """Join texts to a list in a sentence.

    >>> listing(["a"]), listing(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
