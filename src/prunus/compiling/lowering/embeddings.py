"""What looks up rows of tables: embeddings."""

from __future__ import annotations

import numpy
from torch import Tensor

from prunus.compiling.lowering.arguments import activation_of, numbers_of
from prunus.compiling.lowering.reader import Activation, Call, Reader, rule
from prunus.compiling.net import View
from prunus.compiling.operations.lookup import MOST_ROWS, Lookup


@rule("embedding")
def embedding(reader: Reader, call: Call) -> Activation:
    """Take a row of a table for each number."""
    table = call["weight"]
    if not isinstance(table, Tensor):
        raise call.refuse("its table depends on the inputs")
    rows, width = table.shape
    if rows > MOST_ROWS:
        raise call.refuse(f"its table has {rows:,} rows; a program tells no more than {MOST_ROWS:,} apart")
    view = reader.view(call, activation_of(call, "indices"))
    shape, count = view.index.shape, view.index.size
    flat = View(view.value, view.index.reshape(-1))
    operation = Lookup(reader.title(call), reader.next_value(), (width, 1, count), numbers_of(table), flat)
    places = numpy.arange(width * count, dtype=numpy.int64).reshape(width, count)
    return reader.make(operation, places.T.reshape(*shape, width))
