"""What a file says of its model, and the model made of it: a name of `prunus.models`, a graph, or weights only."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from prunus.errors import PackError
from prunus.packing import layout
from prunus.packing.dtypes import check
from prunus.packing.errors import DamagedError
from prunus.packing.layout import Entry
from prunus.supported import problem

if TYPE_CHECKING:
    from prunus.graph import ExampleInputs
    from prunus.graph.exported import ExportedModule

# Models of this package -> the layers whose outputs are its widths, the first and the last layer.
_LAYERS = {
    "lenet": ("conv1", "conv2", "conv4", "fc"),
    "lenet5": ("conv1", "conv2", "fc1", "fc2", "fc3"),
    "lenet5-caffe": ("conv1", "conv2", "fc1", "fc2"),
    "lenet-300-100": ("fc1", "fc2", "fc3"),
    "resnet20": ("stage1.0.conv1", "stage2.0.conv1", "stage3.0.conv1", "fc"),
}
# What is asked of a model's function when a file names it; the file decides none of the rest.
_ARGUMENTS = ("num_classes", "in_channels", "image_size", "widths", "shortcut")
_IMAGE_SIZES = range(1, 513)


class Described(NamedTuple):
    """A model as a file holds it.

    Attributes:
        kind: "model", "graph" or "weights".
        header: what the file's header says.
        entries: the tensors, in order.
        tensors: the same, by name; a tied one once.
        batch: the only number of samples that the model's code takes; None where that is free, or not known.
    """

    kind: str
    header: dict[str, Any]
    entries: list[Entry]
    tensors: dict[str, Tensor]
    batch: int | None = None


def describe(model: nn.Module, example_inputs: ExampleInputs | None, *, weights_only: bool) -> Described:
    """Say all of a model that a file needs.

    Raises:
        ValueError: the model is not one of `prunus.models`, and there are no example inputs to trace it with.
        GraphError: it can't be traced.
        TypeError: its state dict holds something that can't be stored.
    """
    if weights_only:
        return _by_weights(model)
    named = _named(model)
    if named is not None:
        return named
    return _by_graph(model, example_inputs)


def _by_graph(model: nn.Module, example_inputs: ExampleInputs | None) -> Described:
    from prunus.graph.exported import ExportedModule

    if not isinstance(model, ExportedModule):
        if example_inputs is None:
            raise ValueError(
                f"a {type(model).__name__} is not one of prunus.models, so its file needs its graph: give "
                "example_inputs to trace it with, or weights_only=True for a file that only loads into a model"
            )
        exported, batch = _traced(model, example_inputs)
    else:
        exported, batch = model, None
    tensors, state = exported.tensors(), exported.state_dict()
    tied, _ = _untie(tensors | state)
    unsaved = [name for name in tensors if name not in state]
    return _by_tensors("graph", {"graph": exported.to_document()}, tensors, tied, unsaved)._replace(batch=batch)


def _traced(model: nn.Module, example_inputs: ExampleInputs) -> tuple[ExportedModule, int | None]:
    """Return a model as its graph, and the number of samples that its code pins the batch to."""
    from prunus.graph.exported import ExportedModule
    from prunus.graph.open_sizes import trace_open

    graph = trace_open(model, example_inputs)
    why = ""
    if graph.batch is not None:
        samples = "1 sample" if graph.batch == 1 else f"{graph.batch} samples"
        why = f"the forward of {type(model).__name__} pins the batch: it takes {samples}, as the example had"
    return ExportedModule.from_program(graph.program, why), graph.batch


def _by_weights(model: nn.Module) -> Described:
    state = model.state_dict()
    tied, tensors = _untie({name: check(name, value) for name, value in state.items()})
    return _by_tensors("weights", {}, tensors, tied, [])


def _by_tensors(
    kind: str, header: dict[str, Any], tensors: Mapping[str, Any], tied: dict[str, str], unsaved: list[str]
) -> Described:
    checked = {name: check(name, value) for name, value in tensors.items()}
    entries = [Entry.of(name, tensor) for name, tensor in checked.items()]
    told = header | layout.to_header(entries)
    told |= {key: value for key, value in (("tied", tied), ("unsaved", unsaved)) if value}
    return Described(kind, told, entries, checked)


def _untie(state: Mapping[str, Tensor]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return which names stand for the tensor of an earlier name, and the tensors of the other names."""
    tied: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    first: dict[tuple[object, ...], str] = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device)
        if tensor.numel() and first.setdefault(place, name) != name:
            tied[name] = first[place]
        else:
            tensors[name] = tensor
    return tied, tensors


def _named(model: nn.Module) -> Described | None:
    """Describe a model by the name and arguments it can be made of; None where there are none."""
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    if any(map(problem, state.values())):
        return None
    if any(_is_hooked(module) for module in model.modules()) or _untie(state)[0]:
        return None
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in _LAYERS:
        default = _on_meta(name, {})
        if type(default) is not type(model) or not all(f"{layer}.weight" in shapes for layer in _LAYERS[name]):
            continue
        for arguments in _guesses(name, shapes):
            try:
                same = _structure(_on_meta(name, arguments)) == _structure(model)
            except ValueError:
                continue
            if same:
                return _by_name(name, arguments, state)
    return None


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _by_name(name: str, arguments: dict[str, Any], state: Mapping[str, Tensor]) -> Described:
    from prunus.lab import models

    defaults = inspect.signature(models.MODELS[name]).parameters
    told = {key: value for key, value in arguments.items() if value != defaults[key].default}
    header: dict[str, Any] = {"model": name} | ({"arguments": told} if told else {})
    entries = [Entry.of(key, check(key, tensor)) for key, tensor in state.items()]
    usual = _entries_of_name(header)
    if [entry.dtype for entry in entries] != [entry.dtype for entry in usual]:
        header["dtypes"] = [layout.type_name(entry.dtype) for entry in entries]
        floats = {entry.dtype for entry in entries if entry.dtype.is_floating_point}
        if len(floats) == 1:
            short = {key: value for key, value in header.items() if key != "dtypes"}
            short["dtype"] = layout.type_name(floats.pop())
            header = short if _entries_of_name(short) == entries else header
    return Described("model", header, entries, dict(state))


def _guesses(name: str, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[dict[str, Any]]:
    """Return the arguments that may have made a model of these shapes, the likeliest first."""
    *layers, last = _LAYERS[name]
    from prunus.lab import models

    defaults = inspect.signature(models.MODELS[name]).parameters
    first = next(iter(shapes.values()))
    arguments: dict[str, Any] = {
        "num_classes": shapes[f"{last}.weight"][0],
        "widths": tuple(shapes[f"{layer}.weight"][0] for layer in layers),
    }
    if "shortcut" in defaults:
        padded = not any(".shortcut." in key for key in shapes)
        arguments["shortcut"] = "padded" if padded else "projected"
    sizes = itertools.chain([defaults["image_size"].default], _IMAGE_SIZES)
    for size in sizes if len(first) == 2 or f"{layers[0]}.bias" in shapes else itertools.islice(sizes, 1):
        if len(first) > 2:
            yield arguments | {"in_channels": first[1], "image_size": size}
        elif first[1] % size**2 == 0:
            yield arguments | {"in_channels": first[1] // size**2, "image_size": size}


def _on_meta(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    from prunus.lab import models

    with torch.device("meta"):
        return models.create(name, **arguments)


def _structure(model: nn.Module) -> list[object]:
    modules = [(name, type(module), module.extra_repr()) for name, module in model.named_modules()]
    return [*modules, *((name, tensor.shape) for name, tensor in model.state_dict().items())]


def entries_of(header: Mapping[str, Any]) -> list[Entry]:
    """Return the tensors that a file's header tells of.

    Raises:
        PackError: it tells none, or what no tensors can be.
    """
    return _entries_of_name(header) if "model" in header else layout.from_header(header)


def _entries_of_name(header: Mapping[str, Any]) -> list[Entry]:
    made = [Entry.of(name, tensor) for name, tensor in _of_name(header).state_dict().items()]
    if "dtypes" in header:
        dtypes = header["dtypes"]
        if not isinstance(dtypes, list) or len(dtypes) != len(made):
            raise DamagedError("its header does not give a number type for each tensor")
        return [entry._replace(dtype=layout.dtype_of(each)) for entry, each in zip(made, dtypes, strict=True)]
    if "dtype" in header:
        dtype = layout.dtype_of(header["dtype"])
        return [entry._replace(dtype=dtype) if entry.dtype.is_floating_point else entry for entry in made]
    return made


def _of_name(header: Mapping[str, Any]) -> nn.Module:
    """Make the model that a header names, without memory for its weights."""
    name, arguments = header["model"], header.get("arguments", {})
    if not isinstance(name, str) or name not in _LAYERS:
        raise PackError(f"it holds the model {name!r:.60}, which this prunus does not have; upgrade prunus")
    if not isinstance(arguments, dict) or not set(arguments) <= set(_ARGUMENTS):
        raise DamagedError(f"its header gives {arguments!r:.60} as arguments of the model {name!r}")
    numbers = [arguments.get("num_classes"), arguments.get("in_channels"), arguments.get("image_size")]
    widths = arguments.get("widths", [])
    for value in (*numbers, *(widths if isinstance(widths, list) else [])):
        if isinstance(value, int) and value > 1 << 30:
            raise DamagedError(f"its header makes a model of width {value}")
    try:
        return _on_meta(name, arguments)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise DamagedError(f"its header names a model that can't be made ({error})") from error


def state_of(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a file's tensors: tied ones under all their names, constants of the graph left out.

    Raises:
        DamagedError: the header ties or leaves out what is not there.
    """
    tied, unsaved = header.get("tied", {}), header.get("unsaved", [])
    if not isinstance(tied, dict) or not all(
        isinstance(of, str) and of in tensors and name not in tensors for name, of in tied.items()
    ):
        raise DamagedError("its header ties tensors that are not there")
    if not isinstance(unsaved, list) or not all(isinstance(name, str) and name in tensors for name in unsaved):
        raise DamagedError("its header leaves out tensors that are not there")
    state = {name: tensor for name, tensor in tensors.items() if name not in unsaved}
    return state | {name: tensors[of] for name, of in tied.items()}


def make(header: Mapping[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """Return the model that a header tells of, in eval mode, with these tensors as its own.

    Args:
        header: of a file.
        tensors: the file's, each under its own name.

    Raises:
        PackError: the file holds weights only, or a graph that can't be.
    """
    if "model" in header:
        model = _of_name(header)
        try:
            model.load_state_dict(tensors, assign=True)
        except RuntimeError as error:  # parameters of a number type that can't be trained
            raise DamagedError(f"its tensors can't be those of its model ({error})") from error
        return model.eval()
    if "graph" not in header:
        raise PackError(
            "it holds weights only; give load a model to put them into, or read_tensors to have them as they are"
        )
    from prunus.graph.exported import ExportedModule

    if not isinstance(header["graph"], dict):
        raise DamagedError("its graph is no JSON object")
    try:
        exported: nn.Module = ExportedModule.from_document(header["graph"], tensors)
    except ValueError as error:
        raise PackError(f"its graph can't be used: {error}") from error
    return exported.eval()
