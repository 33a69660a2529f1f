"""Which elements each output of a pooling takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunus.compiling.lowering.reader import Call
from prunus.compiling.net import Windows


def of(call: Call, sides: Sequence[int], dims: int) -> tuple[Windows, Windows]:
    """Return the windows of a pooling along the height and width of what it reads.

    Raises:
        CompileError: windows differ in a way that can't be told by rows and columns.
    """
    if call.name.startswith("adaptive"):
        sizes = _sizes(call["output_size"], dims)
        windows = [
            _adaptive(side, side if size is None else size) for side, size in zip(sides[-dims:], sizes, strict=True)
        ]
    else:
        kernel, padding = _sizes(call["kernel_size"], dims), _sizes(call["padding"], dims)
        stride = _sizes(call["stride"], dims) if call["stride"] not in (None, []) else kernel
        dilation = _sizes(call.get("dilation", 1), dims)
        if call.get("divisor_override") is not None:
            raise call.refuse("only without a divisor of its own")
        counts = bool(call.get("count_include_pad", True))
        windows = [
            _sliding(side, *numbers, ceil=bool(call["ceil_mode"]), counts=counts)
            for side, *numbers in zip(sides[-dims:], kernel, stride, padding, dilation, strict=True)
        ]
    rows = windows[0] if dims == 2 else Windows((0,), (1,), 1, (1,))
    return rows, windows[-1]


def _adaptive(side: int, size: int) -> Windows:
    starts = tuple(i * side // size for i in range(size))
    stops = tuple(-(-(i + 1) * side // size) for i in range(size))
    return Windows(starts, stops, 1, tuple(stop - start for start, stop in zip(starts, stops, strict=True)))


def _sliding(side: int, kernel: int, stride: int, padding: int, dilation: int, *, ceil: bool, counts: bool) -> Windows:
    reach = dilation * (kernel - 1) + 1
    room = side + 2 * padding - reach
    count = (-(-room // stride) if ceil else room // stride) + 1
    if ceil and (count - 1) * stride >= side + padding:  # a window that would begin in the padding at the far side
        count -= 1
    starts, stops, divisors = [], [], []
    for i in range(count):
        first = i * stride - padding
        last = first + reach
        divisors.append(min(last, side + padding) - first)
        start = first if first >= 0 else first + -(first // dilation) * dilation
        starts.append(start)
        stops.append(min(last, side))
        if not counts:
            divisors[-1] = stops[-1] - start
    return Windows(tuple(starts), tuple(stops), dilation, tuple(divisors))


def _sizes(sizes: Any, dims: int) -> list[Any]:
    numbers = [sizes] if sizes is None or isinstance(sizes, int) else list(sizes)
    return numbers * dims if len(numbers) == 1 else numbers
