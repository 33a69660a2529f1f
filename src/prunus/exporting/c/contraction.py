"""The C of a convolution or a linear layer: its arrays, and one loop over its outputs."""

from __future__ import annotations

import numpy

from prunus.compiling.kernels.writing import Writer
from prunus.exporting.c import sums
from prunus.exporting.c.arrays import ctype
from prunus.exporting.c.layer import Layer
from prunus.exporting.c.loops import loop
from prunus.exporting.c.storage import Stored


def body(layer: Layer) -> str:
    """Return the lines of a layer's function, and enter its arrays."""
    write = Writer(depth=1)
    _enter_arrays(layer)
    _point(write, layer.stored, layer.prefix)
    with loop(write, "o", layer.outputs):
        if not layer.stored.nonzero:
            with layer.loops(write):
                layer.finish(write, "0")
        elif layer.reading.one:
            sums.once(write, layer)
        elif layer.stored.kind == "dense":
            sums.dense(write, layer)
        else:
            sums.sparse(write, layer)
    return write.text()


def _enter_arrays(layer: Layer) -> None:
    stored, constants = layer.stored, layer.file.constants
    if stored.nonzero:
        arrays = {"weight": stored.weights, stored.kind: stored.places, "count": stored.counts, "scale": stored.scales}
        for name, array in arrays.items():
            if array is not None:
                constants.add(f"{layer.prefix}_{name}", array)
    if layer.has_bias:
        constants.add(f"{layer.prefix}_bias", layer.contract.bias.astype(numpy.float32))


def _point(write: Writer, stored: Stored, prefix: str) -> None:
    """Write pointers that run through the arrays, from the first output to the last."""
    if not stored.nonzero or stored.kind == "dense":
        return
    write(f"const {ctype(stored.weights)} *weight = {prefix}_weight;")
    if stored.kind == "mask":
        write("long bit = 0;")
    else:
        assert stored.places is not None
        name = {"places": "at", "gaps": "gap"}[stored.kind]
        write(f"const {ctype(stored.places)} *{name} = {prefix}_{stored.kind};")
