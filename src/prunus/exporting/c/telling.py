"""What a C file says of its steps in comments."""

from __future__ import annotations

from prunus.compiling.net import Box, Combine, Contract, Join, Map, Normalize, Operation, Pool, Reduce
from prunus.exporting.c.storage import FAR, Stored


def comment(number: int, operation: Operation, stored: Stored | None = None) -> str:
    """Return the comment over a step's function."""
    if isinstance(operation, Contract):
        lines = [f"Step {number}, {operation.name}: {_contraction(operation)}."]
        lines += [] if stored is None else [_weights(operation, stored)]
    else:
        lines = [f"Step {number}, {operation.name}: {_what(operation)} -> {_box(operation.box)}."]
    return comment_of(lines)


def comment_of(lines: list[str]) -> str:
    """Return lines as a comment of C; what a name holds can't end it."""
    return "/* " + "\n * ".join(line.replace("*/", "* /") for line in lines) + " */"


def _what(operation: Operation) -> str:
    told = {Map: "of each element", Combine: "of two", Join: "copies", Pool: "over windows", Reduce: "over elements"}
    if isinstance(operation, Map):
        name = operation.pointwise.function
    elif isinstance(operation, Join):
        return "copies, put together"
    else:
        assert isinstance(operation, (Combine, Pool, Reduce, Normalize))
        name = operation.function
    return f"{name} {told.get(type(operation), 'of rows')}"


def _contraction(contract: Contract) -> str:
    _, _, height, width = contract.weight.shape
    source: Box = contract.source.index.shape
    if contract.kind == "linear":
        positions = contract.grid[1]
        parts = [
            f"linear, {source[0]} -> {len(contract.weight)}" + (f" at {positions} positions" if positions > 1 else "")
        ]
    else:
        parts = [f"convolution of {height}x{width}, {_box(source)} -> {_box((len(contract.weight), *contract.grid))}"]
    for name, pair, usual in (
        ("stride", contract.stride, 1),
        ("padding", contract.padding, 0),
        ("dilation", contract.dilation, 1),
    ):
        if pair != (usual, usual):
            parts.append(f"{name} {pair[0]}x{pair[1]}")
    parts += [f"{contract.groups} groups"] if contract.groups > 1 else []
    parts += ["a value added"] if contract.residual is not None else []
    parts += [contract.activation.function] if contract.activation is not None else []
    if contract.pool is not None:
        kind, *size = contract.pool
        parts.append(f"{'maximum' if kind == 'max' else 'average'} of each {size[0]}x{size[1]} -> {_box(contract.box)}")
    return ", ".join(parts)


def _weights(contract: Contract, stored: Stored) -> str:
    size, number = contract.weight.size, stored.weights.itemsize
    if not stored.nonzero:
        return f"All of its {size:,} weights are zero: only its biases are stored."
    lost = contract.nonzero - stored.nonzero if stored.scales is not None else 0
    small = f" ({lost:,} more were rounded to zero)" if lost > 0 else ""
    dense = size * number + (0 if stored.scales is None else stored.scales.nbytes)
    beside = f" instead of {dense:,}" if stored.bytes < dense else ""
    type_ = "float" if stored.scales is None else "int8 with a scale for each output"
    told = f"{stored.nonzero:,} of {size:,} weights are not zero{small}: {stored.bytes:,} bytes{beside}"
    return f"{told},\n * as {type_}, {_storage(stored)}."


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


def _box(box: Box) -> str:
    """Return a shape without dimensions of 1 at its end.

    >>> _box((10, 1, 1)), _box((1, 28, 28))
    ('10', '1x28x28')
    """
    height, width = box[1:]
    return str(box[0]) if height * width == 1 else f"{box[0]}x{height}x{width}"


def shape_of(shape: tuple[int, ...]) -> str:
    """Return a sample's shape.

    >>> shape_of((1, 28, 28)), shape_of(())
    ('1x28x28', '1')
    """
    return "x".join(map(str, shape)) or "1"
