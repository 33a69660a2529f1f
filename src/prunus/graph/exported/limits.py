"""Which constants a document may give to an operation, where PyTorch takes them without a look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prunus.graph.exported.arguments import DocumentError

# Arguments that choose a way of computing by number: (least, most). PyTorch's kernels take any other number for one of
# these, or leave the result as the memory was. No model computes them, so they must be constants.
_CHOICES = {
    "reduction": (0, 2),
    "interpolation_mode": (0, 2),
    "padding_mode": (0, 2),
    "compute_mode": (0, 2),
}
# Sizes of windows and steps between them: loops run over them. Above any image or sound.
_WINDOWS = ("kernel_size", "stride", "dilation", "padding", "output_padding")
LARGEST_WINDOW = 1 << 24
# Scales beside a size: kernels read by the scales what was sized by the size. `torch.nn.functional.interpolate` gives
# one of them.
_SCALES = ("scales", "scales_d", "scales_h", "scales_w")
# Sizes of a result. A tensor of so many elements takes 8 GiB; views take none, so theirs are free.
_SIZES = ("size", "output_size", "repeats", "steps", "n", "m", "window_length", "num_classes")
_MOST_ELEMENTS = 1 << 31
_VIEWS = ("_unsafe_view", "broadcast_to", "expand", "unfold", "view")


def check_constants(name: str, values: Mapping[str, Any]) -> None:
    """Refuse constants that an operation can't be given.

    Args:
        name: of the operation.
        values: its arguments by name; a node stands for what is known only when it runs.

    Raises:
        DocumentError: one is out of range.
    """
    if name.startswith("arange."):
        start, end, step = (
            values.get(argument, default) for argument, default in (("start", 0), ("end", 0), ("step", 1))
        )
        if all(type(value) in (int, float) for value in (start, end, step)) and step:
            _check_size("end", abs((end - start) / step))
    for argument, value in values.items():
        if argument in _CHOICES:
            _check_choice(argument, value)
        elif argument in _WINDOWS:
            _check_window(argument, value)
        elif argument in _SIZES and name.partition(".")[0] not in _VIEWS:
            _check_size(argument, value)
        elif argument in _SCALES and value is not None:
            raise DocumentError(f"argument {argument!r} must be null: the size tells the scale, got {value!r:.30}")


def _check_choice(argument: str, value: Any) -> None:
    least, most = _CHOICES[argument]
    if value is not None and not (type(value) is int and least <= value <= most):
        raise DocumentError(f"argument {argument!r} must be a constant from {least} to {most}, got {value!r:.30}")


def _check_window(argument: str, value: Any) -> None:
    least = -LARGEST_WINDOW if argument == "padding" else 0  # padding by less than nothing cuts
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if type(number) is int and not least <= number <= LARGEST_WINDOW:
            raise DocumentError(f"argument {argument!r} must be from {least} to {LARGEST_WINDOW:,}, got {value!r:.60}")


def _check_size(argument: str, value: Any) -> None:
    count = 1.0
    for number in value if isinstance(value, (list, tuple)) else [value]:
        count *= abs(number) if type(number) in (int, float) else 1
    if count > _MOST_ELEMENTS:
        raise DocumentError(f"argument {argument!r} is {value!r:.60}: more than {_MOST_ELEMENTS:,} elements")
