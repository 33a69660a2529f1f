"""Convert a model to the header and tensors of a file, and back: with its graph, or as weights only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from prunus.errors import PackError
from prunus.packing import layout
from prunus.packing.dtypes import check
from prunus.packing.errors import DamagedError
from prunus.packing.layout import Entry, Listing

if TYPE_CHECKING:
    from prunus.graph import ExampleInputs
    from prunus.graph.exported import ExportedModule


class Described(NamedTuple):
    """A model as header and tensors of a file.

    Attributes:
        kind: "graph" or "weights".
        header: the header of the file.
        entries: name, type and shape of the tensors, in order.
        tensors: the tensors by name; a tied one once.
        batch: the only batch size that the model's code accepts; None if it accepts any, or it is not known.
    """

    kind: str
    header: dict[str, Any]
    entries: list[Entry]
    tensors: dict[str, Tensor]
    batch: int | None = None


def describe(model: nn.Module, example_inputs: ExampleInputs | None, *, weights_only: bool) -> Described:
    """Return header and tensors of a model.

    Raises:
        ValueError: there are no example inputs to trace the model with, and it is not an ExportedModule.
        GraphError: it can't be traced.
        TypeError: its state dict holds something that can't be stored.
    """
    if weights_only:
        return _described("weights", {}, model.state_dict())
    exported, batch = _exported(model, example_inputs)
    return _described("graph", {"graph": exported.to_document()}, exported.tensors())._replace(batch=batch)


def _described(kind: str, header: dict[str, Any], tensors: Mapping[str, Any]) -> Described:
    checked = {name: check(name, value) for name, value in tensors.items()}
    listing = Listing.of(checked)
    stored = {entry.name: checked[entry.name] for entry in listing.entries}
    return Described(kind, layout.to_header(listing) | header, listing.entries, stored)


def _exported(model: nn.Module, example_inputs: ExampleInputs | None) -> tuple[ExportedModule, int | None]:
    """Return a model as its graph, and the only batch size that its code accepts, if there is one."""
    from prunus.graph.exported import ExportedModule
    from prunus.graph.open_sizes import trace_open

    if isinstance(model, ExportedModule):
        return model, None
    if example_inputs is None:
        raise ValueError(
            f"a file holds the graph of its model, for which this {type(model).__name__} must be traced: give "
            "example_inputs, such as a batch of its data, or weights_only=True for a file of weights only, which can "
            "only be loaded into a model"
        )
    graph = trace_open(model, example_inputs)
    why = ""
    if graph.batch is not None:
        samples = "1 sample" if graph.batch == 1 else f"{graph.batch} samples"
        why = f"the forward of {type(model).__name__} pins the batch: it takes {samples}, as the example had"
    return ExportedModule.from_program(graph.program, why), graph.batch


def state_of(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a file's tensors: all but the constants of its graph.

    Args:
        header: the header of the file.
        tensors: all tensors of the file, in order, tied ones under each of their names.

    Raises:
        DamagedError: the graph does not say which tensors are constants.
    """
    from prunus.graph.exported.document import BUFFER, CONSTANT

    graph = header.get("graph", {"kinds": BUFFER * len(tensors)})
    kinds = graph.get("kinds") if isinstance(graph, dict) else None
    if not isinstance(kinds, str) or len(kinds) != len(tensors):
        raise DamagedError("its graph does not say the kind of each tensor")
    return {name: tensor for (name, tensor), kind in zip(tensors.items(), kinds, strict=True) if kind != CONSTANT}


def make(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return the model of a file, in eval mode, whose parameters and buffers are these tensors.

    Args:
        header: the header of the file.
        tensors: all tensors of the file, in order, tied ones under each of their names.

    Raises:
        PackError: the file holds weights only, or an invalid graph.
    """
    if "graph" not in header:
        raise PackError(
            "it holds weights only; give load a model to load them into, or use read_tensors to get the state dict"
        )
    from prunus.graph.exported import ExportedModule

    try:
        return ExportedModule.from_document(header["graph"], tensors).eval()
    except ValueError as error:
        raise PackError(f"its graph can't be used: {error}") from error
