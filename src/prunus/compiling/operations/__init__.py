"""The operations of a net: one class each, which holds all there is to know of it."""

from __future__ import annotations

from collections.abc import Mapping

from prunus.compiling.net import Operation
from prunus.compiling.operations.contract import Contract
from prunus.compiling.operations.depthwise import QuantizedDepthwise
from prunus.compiling.operations.elementwise import Elementwise
from prunus.compiling.operations.join import Join
from prunus.compiling.operations.lookup import Lookup
from prunus.compiling.operations.normalize import Normalize
from prunus.compiling.operations.pool import Pool
from prunus.compiling.operations.quantized import Dequantize, Quantize, QuantizedContract, Regroup, UnitContract
from prunus.compiling.operations.reduce import Reduce
from prunus.compiling.operations.words import QuantizedFunction, QuantizedMean, QuantizedProduct

__all__ = [
    "KINDS",
    "Contract",
    "Dequantize",
    "Elementwise",
    "Join",
    "Lookup",
    "Normalize",
    "Pool",
    "Quantize",
    "QuantizedContract",
    "QuantizedDepthwise",
    "QuantizedFunction",
    "QuantizedMean",
    "QuantizedProduct",
    "Reduce",
    "Regroup",
    "UnitContract",
]

# What a file calls each.
KINDS: Mapping[str, type[Operation]] = {
    kind.__name__.lower(): kind
    for kind in (
        *(Contract, Elementwise, Join, Lookup, Normalize, Pool, Reduce),
        *(Quantize, Dequantize, Regroup, QuantizedContract, QuantizedDepthwise),
        *(QuantizedMean, QuantizedProduct, QuantizedFunction),
    )
}
