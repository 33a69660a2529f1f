"""How figures are spelled, the same at the terminal and in the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

# what stands in a table where nothing was measured
ABSENT = "\N{EN DASH}"
LEAST_P = 0.001
MINUS = "\N{MINUS SIGN}"

Units = tuple[tuple[str, int], ...]
_TIMES: Units = ((" µs", 1), (" ms", 10**3), (" s", 10**6))
_COUNTS: Units = (("", 1), (" k", 10**3), (" M", 10**6), (" G", 10**9), (" T", 10**12))


def count(number: int) -> str:
    """Spell a count.

    >>> count(160206)
    '160,206'
    """
    return f"{number:,}"


def percent(fraction: float, digits: int = 1) -> str:
    """Spell a fraction as a percentage, with more digits where fewer would claim none or all.

    >>> percent(0.2), percent(0.99967), percent(1.0)
    ('20.0%', '99.97%', '100.0%')
    """
    while digits < 6 and fraction not in (0, 1) and round(fraction * 100, digits) in (0, 100):
        digits += 1
    return f"{fraction * 100:.{digits}f}%"


def change(before: int, after: int) -> str:
    """Spell by how much one count is below or above another.

    >>> change(1000, 750), change(1000, 1100), change(10, 10)
    ('25.0% fewer', '10.0% more', 'as many')
    """
    if before == after:
        return "as many"
    if not before:
        return "instead of none"
    return f"{percent(abs(after - before) / before)} {'fewer' if after < before else 'more'}"


def signed_percent(before: float, after: float) -> str:
    """Spell a change as a signed percentage.

    >>> signed_percent(100, 75), signed_percent(100, 110), signed_percent(3, 3)
    ('−25.0%', '+10.0%', 'none')
    """
    if not before:
        return "new" if after else "none"
    if before == after:
        return "none"
    change = (after - before) / before
    return f"{'+' if change > 0 else MINUS}{percent(abs(change))}"


def threads(number: str) -> str:
    """Spell a number of threads as a receipt holds it.

    >>> threads("1"), threads("2"), threads("all")
    ('1 thread', '2 threads', 'all threads')
    """
    return plural(int(number), "thread") if number.isdecimal() else f"{plain(number)} threads"


def smaller(before: int, after: int) -> str:
    """Spell by how much one file is smaller or larger than another, to be followed by "than".

    >>> smaller(1000, 750), smaller(1000, 1100)
    ('25.0% smaller', '10.0% larger')
    """
    return f"{percent(abs(after - before) / before)} {'larger' if after > before else 'smaller'}"


def runtime(name: str) -> str:
    """Spell the name of a runtime.

    >>> runtime("torch"), runtime("onnxruntime"), runtime("prunus"), runtime("mine")
    ('PyTorch', 'ONNX Runtime', 'prunus', 'mine')
    """
    spelled = {
        "torch": "PyTorch",
        "torch-compile": "torch.compile",
        "onnxruntime": "ONNX Runtime",
        "openvino": "OpenVINO",
    }
    return spelled.get(name, plain(name))


def interval(ci95: tuple[float, float], digits: int = 2) -> str:
    """Spell an interval of fractions in percent, without the sign.

    >>> interval((0.99018, 0.99366))
    '[99.02, 99.37]'
    """
    low, high = ci95
    return f"[{low * 100:.{digits}f}, {high * 100:.{digits}f}]"


def points(difference: float) -> str:
    """Spell the difference of two fractions in percentage points, signed.

    >>> points(0.0004), points(-0.01), points(0.0)
    ('+0.04', '−1.00', '0.00')
    """
    rounded = round(difference * 100, 2)
    return f"{rounded:+.2f}".replace("-", MINUS) if rounded else "0.00"


def points_interval(ci95: tuple[float, float]) -> str:
    """Spell an interval of differences in percentage points.

    >>> points_interval((-0.001, 0.0019))
    '[−0.10, +0.19]'
    """
    return f"[{points(ci95[0])}, {points(ci95[1])}]"


def p_value(probability: float) -> str:
    """Spell the p-value of a test.

    >>> p_value(0.6123), p_value(0.0123), p_value(0.00001), p_value(1.0)
    ('p = 0.61', 'p = 0.012', 'p < 0.001', 'p = 1')
    """
    return f"p < {LEAST_P}" if probability < LEAST_P else f"p = {probability:.2g}"


def microseconds(value: float) -> str:
    """Spell a duration given in microseconds, with three digits.

    >>> microseconds(153.2), microseconds(1530), microseconds(2_100_000)
    ('153 µs', '1.53 ms', '2.1 s')
    """
    return _scaled(value, _TIMES)


def time_unit(microseconds: float) -> tuple[str, int]:
    """Return the unit a time is spelled in, and how many microseconds it has.

    >>> time_unit(1530)
    (' ms', 1000)
    """
    return _unit(microseconds, _TIMES)


def spread(median: float, p10: float, p90: float) -> str:
    """Spell a time in microseconds and its spread in one unit.

    >>> spread(1530, 1488, 1612)
    '1.53 [1.49, 1.61] ms'
    """
    unit, size = _unit(median, _TIMES)
    numbers = [f"{_three_digits(value / size):,.10g}" for value in (median, p10, p90)]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]{unit}"


def ratio(value: float) -> str:
    """Spell how many times one figure is another.

    >>> ratio(0.984), ratio(1.8), ratio(31.7), ratio(0.0042)
    ('0.98', '1.80', '32', '0.0042')
    """
    if value < 0.1:
        return f"{value:.2g}"
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}"


def span(values: Sequence[float]) -> str:
    """Spell the range of several ratios.

    >>> span([0.984, 1.03, 1.0]), span([2.0, 2.001])
    ('0.98 to 1.03', '2.00')
    """
    low, high = ratio(min(values)), ratio(max(values))
    return low if low == high else f"{low} to {high}"


def compact(number: int) -> str:
    """Spell a large count in three digits.

    >>> compact(950), compact(2071600), compact(4_100_000_000)
    ('950', '2.07 M', '4.1 G')
    """
    return _scaled(number, _COUNTS)


def shape(sizes: Sequence[int]) -> str:
    """Spell a tensor's shape.

    >>> shape((20, 1, 5, 5))
    '20×1×5×5'
    """
    return "\N{MULTIPLICATION SIGN}".join(map(str, sizes)) or "scalar"


def plural(number: int, noun: str) -> str:
    """Spell a count and its noun.

    >>> plural(1, "thread"), plural(1000, "image")
    ('1 thread', '1,000 images')
    """
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def listing(parts: list[str]) -> str:
    """Join the parts of a list in a sentence.

    >>> listing(["a"]), listing(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def plain(text: str) -> str:
    """Return text from a file with what is not printable replaced, so that a terminal only shows it.

    >>> plain("conv1" + chr(27) + "[2J")
    'conv1�[2J'
    """
    return "".join(character if character.isprintable() else "�" for character in text)


def _scaled(value: float, units: Units) -> str:
    unit, size = _unit(value, units)
    return f"{_three_digits(value / size):,.10g}{unit}"


def _unit(value: float, units: Units) -> tuple[str, int]:
    *smaller, largest = units
    return next((pair for pair in smaller if _three_digits(value / pair[1]) < 1000), largest)


def _three_digits(value: float) -> float:
    if value == 0:
        return 0.0
    return round(value, 2 - math.floor(math.log10(abs(value))))
