"""The C of a layer's sums: each weight times what it reads.

Where each weight is used once, its place is told while it is used. Else the places of an output's weights are told
once, into a small static array, before its positions are computed. Zero padding takes no memory: where a window
reaches over the edge, what is outside is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prunus.compiling.kernels.writing import Writer, sum_of, times
from prunus.exporting.c.layer import Edge, Layer
from prunus.exporting.c.loops import loop, term
from prunus.exporting.c.storage import FAR


def once(write: Writer, layer: Layer) -> None:
    """Write the sum of one position: the places are told while it is formed."""
    write("float sum = 0;")

    def source(place: str) -> str:
        return f"{layer.source}[{sum_of(layer.reading.steps.base, place)}]"

    step, columns = layer.reading.steps.channel, layer.stored.shape[1]
    if layer.stored.kind == "dense":
        with loop(write, "i", columns):
            at = sum_of(term("o", columns, layer.outputs), term("i", 1, columns))
            write(f"sum += {layer.prefix}_weight[{at}] * {source(term('i', step, columns))};")
    else:
        with _places(write, layer, f"{layer.prefix}_count[{layer.number}]"):
            write(f"sum += *weight++ * {source(times('place', step))};")
    layer.finish(write, "sum")


def dense(write: Writer, layer: Layer) -> None:
    """Write the sum at each position over all weights, without those that a window has over the edge."""
    (height, width), (down, right) = layer.kernel, layer.tap_steps
    channels = layer.channels
    with layer.loops(write):
        layer.corner(write)
        for edge in layer.edges:
            _limits(write, edge)
        write("float sum = 0;")
        with loop(write, "c", channels), _taps(write, layer, "i", height), _taps(write, layer, "j", width):
            weight = sum_of(
                term("o", layer.stored.shape[1], layer.outputs),
                term("c", height * width, channels),
                _tap(layer, "i", width, height),
                _tap(layer, "j", 1, width),
            )
            channel = term("c", layer.reading.steps.channel, channels)
            source = sum_of("corner", channel, _tap(layer, "i", down, height), _tap(layer, "j", right, width))
            write(f"sum += {layer.prefix}_weight[{weight}] * {layer.source}[{source}];")
        layer.finish(write, "sum")


def sparse(write: Writer, layer: Layer) -> None:
    """Write where the weights of an output read, then the sum at each position."""
    is_mask = layer.stored.kind == "mask"
    write("long count = 0;" if is_mask else f"const long count = {layer.prefix}_count[{layer.number}];")
    with _places(write, layer, "count"):
        _note(write, layer, "count" if is_mask else "k")
        if is_mask:
            write("++count;")
    with layer.loops(write):
        layer.corner(write)
        write("float sum = 0;")
        total = f"sum += weight[k] * {layer.source}[corner + offsets[k]];"
        if layer.edges:
            _sparse_padded(write, layer.edges, total)
        else:
            write(f"for (long k = 0; k < count; ++k) {total}")
        layer.finish(write, "sum")
    write("weight += count;")


def _note(write: Writer, layer: Layer, index: str) -> None:
    """Write how the place of a weight becomes what it reads, from the corner of a window."""
    (height, width), channels = layer.kernel, layer.channels
    row = f"place / {width}" if width > 1 else "place"
    row = "" if height == 1 else f"{row} % {height}" if channels > 1 else row
    column = "" if width == 1 else f"place % {width}" if channels * height > 1 else "place"
    channel = "" if channels == 1 else f"place / {height * width}" if height * width > 1 else "place"
    steps = (layer.reading.steps.channel, *layer.tap_steps)
    terms = [times(name, step) for name, step in zip((channel, row, column), steps, strict=True) if name]
    write(f"offsets[{index}] = {sum_of(*terms)};")
    if layer.edges:
        write(f"rows[{index}] = {row or 0};", f"columns[{index}] = {column or 0};")
    sizes = (channels, height, width)
    farthest = sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
    layer.file.scratch.hold(layer.stored.most, farthest, max(height, width) if layer.edges else None)


@contextmanager
def _places(write: Writer, layer: Layer, count: str) -> Iterator[None]:
    """Write a loop over an output's weights, so many, in which `place` is the column of each."""
    stored = layer.stored
    if stored.kind == "mask":
        columns = stored.shape[1]
        with (
            write.block(f"for (long place = 0; place < {columns}; ++place, ++bit)"),
            write.block(f"if ({layer.prefix}_mask[bit >> 3] >> (bit & 7) & 1)"),
        ):
            yield
        return
    assert stored.places is not None
    if stored.kind == "gaps":
        write("long place = 0;")
    with write.block(f"for (long k = 0; k < {count}; ++k)"):
        if stored.kind == "places":
            write("const long place = *at++;")
        else:
            if bool((stored.places == FAR).any()):
                write(f"for (; *gap == {FAR}; ++gap) place += {FAR};")
            write("place += *gap++;")
        yield


def _sparse_padded(write: Writer, edges: list[Edge], total: str) -> None:
    """Write a fast loop for windows inside, and one that looks at each element for those over the edge."""
    places = [(f"{edge.corner} + {times(f'{edge.places}[k]', edge.gap)}", edge.side) for edge in edges]
    is_there = " && ".join(f"{place} >= 0 && {place} < {side}" for place, side in places)
    if any(edge.reach > edge.side for edge in edges):  # every window reaches over
        write("for (long k = 0; k < count; ++k)", f"    if ({is_there})", f"        {total}")
        return
    inside = [f"{edge.corner} >= 0 && {edge.corner} <= {edge.side - edge.reach}" for edge in edges]
    with write.block(f"if ({' && '.join(inside)})"):
        write(f"for (long k = 0; k < count; ++k) {total}")
    with write.block("else"):
        write("for (long k = 0; k < count; ++k)", f"    if ({is_there})", f"        {total}")


def _limits(write: Writer, edge: Edge) -> None:
    """Write from which to before which row (or column) of the kernel a window is inside."""
    first, last = f"-{edge.corner}", f"{edge.side} - {edge.corner}"
    if edge.gap > 1:
        first, last = (f"({limit} + {edge.gap - 1}) / {edge.gap}" for limit in (first, last))
    write(f"const long {edge.tap}_first = {edge.corner} < 0 ? {first} : 0;")
    write(f"const long {edge.tap}_last = {edge.side} - {edge.corner} < {edge.reach} ? {last} : {edge.size};")


@contextmanager
def _taps(write: Writer, layer: Layer, name: str, size: int) -> Iterator[None]:
    """Loop over rows (or columns) of the kernel, those that are inside."""
    if _has_edge(layer, name):
        with write.block(f"for (long {name} = {name}_first; {name} < {name}_last; ++{name})"):
            yield
    else:
        with loop(write, name, size):
            yield


def _tap(layer: Layer, name: str, step: int, size: int) -> str:
    return times(name, step) if _has_edge(layer, name) else term(name, step, size)


def _has_edge(layer: Layer, name: str) -> bool:
    return any(edge.tap == name for edge in layer.edges)
