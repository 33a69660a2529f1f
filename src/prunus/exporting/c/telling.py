"""What a C file says of its steps in comments."""

from __future__ import annotations

from prunus.compiling.net import Operation
from prunus.compiling.operations import Contract
from prunus.compiling.operations.contract import text_of
from prunus.exporting.c.storage import FAR, Stored


def comment(number: int, operation: Operation, stored: Stored | None = None) -> str:
    """Return the comment over a step's function."""
    if isinstance(operation, Contract):
        lines = [f"Step {number}, {operation.name}: {operation.describe()}."]
        lines += [] if stored is None else [_weights(operation, stored)]
    else:
        lines = [f"Step {number}, {operation.name}: {operation.describe()} -> {text_of(operation.box)}."]
    return comment_of(lines)


def comment_of(lines: list[str]) -> str:
    """Return lines as a comment of C; what a name holds can't end it."""
    return "/* " + "\n * ".join(line.replace("*/", "* /") for line in lines) + " */"


def _weights(contract: Contract, stored: Stored) -> str:
    size, number = contract.weight.size, stored.weights.itemsize
    if not stored.nonzero:
        return f"All of its {size:,} weights are zero: only its biases are stored."
    lost = contract.nonzero - stored.nonzero if stored.scales is not None else 0
    small = f" ({lost:,} more were rounded to zero)" if lost > 0 else ""
    dense = size * number + (0 if stored.scales is None else stored.scales.nbytes)
    beside = f" instead of {dense:,}" if stored.bytes < dense else ""
    type_ = "float" if stored.scales is None else "int8 with a scale for each output"
    sizes = f"{stored.nonzero:,} of {size:,} weights are not zero{small}: {stored.bytes:,} bytes{beside}"
    return f"{sizes},\n * as {type_}, {_storage(stored)}."


def _storage(stored: Stored) -> str:
    if stored.kind == "dense":
        return "dense"
    if stored.kind == "mask":
        return "with a bit for each place that tells whether there is one"
    assert stored.places is not None
    bits = 8 * stored.places.itemsize
    if stored.kind == "places":
        return f"each with its place in {bits} bits"
    far = f" ({FAR}: so far without a weight)" if bool((stored.places == FAR).any()) else ""
    return f"each with its distance from the one before in {bits} bits{far}"


def shape_of(shape: tuple[int, ...]) -> str:
    """Return a sample's shape.

    >>> shape_of((1, 28, 28)), shape_of(())
    ('1x28x28', '1')
    """
    return "x".join(map(str, shape)) or "1"
