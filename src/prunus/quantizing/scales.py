"""Scales: how weights and activations map to 8 bits. They are kept beside the model, never in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunus.errors import ScalesError
from prunus.files import checksum_of, load_with_metadata, save_tensors
from prunus.graph import ExampleInputs, Graph
from prunus.graph.kept import Kept
from prunus.quantizing import cutting
from prunus.quantizing.planning import Plan, graph_hash, plan
from prunus.quantizing.rounded_graph import channel_dim
from prunus.quantizing.rounding import LIMITS, Activations, ValueScale
from prunus.tables import ABSENT, Table, percent

_KIND = "scales"
# A sample of more numbers is a forged one: it would take 4 GB.
_MOST_NUMBERS = 2**30


@dataclass(frozen=True)
class Input:
    """What a model takes: enough to read its graph again.

    Attributes:
        name: of the forward's argument; empty for one by position.
        shape: of one sample.
        dtype: such as ``"float32"``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class LayerScales:
    """How a layer computes in 8 bits.

    Attributes:
        weight: one scale for each output channel, in float32: of the weight with the BatchNorm behind it folded in.
        correction: what is added to the bias of each output channel, since rounded weights shift its mean; float32.
        error: the squared error of what the layer gives on held-out samples, relative to the variance of what it gives
            in float; all layers before it are rounded too.
    """

    weight: Tensor
    correction: Tensor
    error: float


@dataclass(frozen=True, eq=False)
class Scales:
    """How weights and activations of one model map to 8 bits, as `quantize` found.

    Attributes:
        values: key of an operation or input -> how its result maps to 8 bits. A key is module path, operation and use,
            such as ``layer1.0/add#0``; ``/x`` is the forward's argument x.
        layers: key of a layer -> its weight's scales and what corrects its bias.
        factors: key of a value -> what each of its channels is multiplied by before it is rounded, where
            equalisation moves scales between layers.
        in_float: key of a layer that stays in float -> why.
        activations: ``"uint8"`` with zero points, or ``"int8"`` without.
        inputs: what the model takes.
        batch: the number of samples that the model's code fixes; None where it takes any.
        graph: a hash of the graph they belong to.
        error: the squared error of the model's outputs on held-out samples, relative to the variance of the outputs in
            float.
    """

    values: Mapping[str, ValueScale]
    layers: Mapping[str, LayerScales]
    in_float: Mapping[str, str]
    activations: Activations
    inputs: tuple[Input, ...]
    batch: int | None
    graph: str
    error: float
    factors: Mapping[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Scales({len(self.layers)} layers, {len(self.values)} values, {len(self.in_float)} layers in float)"

    def __str__(self) -> str:
        rows = [(key, "int8", percent(layer.error)) for key, layer in self.layers.items()]
        rows += [(key, f"float: {reason}", ABSENT) for key, reason in self.in_float.items()]
        caption = (
            "squared errors on held-out samples, relative to the variance of what the model gives in float; its "
            f"outputs: {percent(self.error)}."
        )
        return str(Table(("layer", "weights", "error"), tuple(rows), caption, words=(1,)))

    def example(self, model: nn.Module) -> ExampleInputs:
        """Return a batch of zeros, as the model takes them."""
        like = next((value for value in model.parameters() if value.is_floating_point()), torch.empty(0))

        def zeros(entry: Input) -> Tensor:
            dtype = getattr(torch, entry.dtype)
            dtype = like.dtype if dtype.is_floating_point else dtype
            return torch.zeros(self.batch or 2, *entry.shape, dtype=dtype, device=like.device)

        if any(not entry.name for entry in self.inputs):
            return tuple(map(zeros, self.inputs))
        return {entry.name: zeros(entry) for entry in self.inputs}

    def plan_for(self, graph: Graph) -> Plan:
        """Return what of a graph gets 8 bits.

        Raises:
            ScalesError: the scales belong to another model.
        """
        if graph_hash(graph) != self.graph:
            raise ScalesError(
                "these scales belong to another model, or to one of other sizes, than this "
                f"{type(graph.model).__name__}; call prunus.quantize for it"
            )
        own = plan(graph, self.in_float)
        if not self._has_keys_of(own):
            raise ScalesError("these scales were made by another version of prunus; call prunus.quantize again")
        for key, layer in own.layers.items():
            num_outputs, num_scales = graph.tensor(layer.layer.weight).shape[0], len(self.layers[key].weight)
            if num_scales != num_outputs:
                raise ScalesError(f"{key} has {num_outputs} output channels, and the scales have {num_scales}")
        by_key = {own.keys[node]: node for node in own.values}
        for key, factors in self.factors.items():
            value = by_key[key].meta["val"]
            if len(factors) != value.shape[channel_dim(value)]:
                raise ScalesError(f"{key} has another number of channels than the scales, which have {len(factors)}")
        return own

    def _has_keys_of(self, own: Plan) -> bool:
        return own.layers.keys() == self.layers.keys() and {own.keys[node] for node in own.values} == self.values.keys()

    def for_graph(self, graph: Graph) -> Scales:
        """Return the scales under a graph's own keys, which are others where a packed file lost the module paths.

        Raises:
            ScalesError: as `plan_for`.
        """
        if graph_hash(graph) != self.graph or self._has_keys_of(plan(graph, self.in_float)):
            return self
        return cutting.renamed(self, graph)

    def cut_along(self, kept: Kept, smaller: nn.Module) -> Scales:
        """Return the scales of a smaller model; `prunus.shrink` calls this.

        Raises:
            ScalesError: the scales are not of the model that `kept` is about, or can't be cut.
        """
        return cutting.cut(self, kept, smaller)

    def save(self, path: Path | str) -> None:
        """Write the scales as a safetensors file, whole or not at all."""
        tensors: dict[str, Tensor] = {}
        for key, value in self.values.items():
            tensors[f"{key}:scale"] = torch.tensor(value.scale, dtype=torch.float32)
            tensors[f"{key}:zero_point"] = torch.tensor(value.zero_point, dtype=torch.int32)
        for key, layer in self.layers.items():
            tensors[f"{key}:weight"], tensors[f"{key}:correction"] = layer.weight, layer.correction
        for key, factors in self.factors.items():
            tensors[f"{key}:factors"] = factors
        facts = {
            "in_float": dict(self.in_float),
            "activations": self.activations,
            "inputs": [[entry.name, list(entry.shape), entry.dtype] for entry in self.inputs],
            "batch": self.batch,
            "graph": self.graph,
            "error": self.error,
            "errors": {key: layer.error for key, layer in self.layers.items()},
            "values": list(self.values),
        }
        header = {"kind": _KIND, "facts": json.dumps(facts)}
        save_tensors(path, tensors, header | {"checksum": checksum_of(tensors, header)})

    @classmethod
    def load(cls, path: Path | str) -> Scales:
        """Read scales that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ScalesError: the file is not a safetensors file, is damaged, or does not hold scales.
        """
        try:
            tensors, metadata = load_with_metadata(path)
            header = {"kind": metadata.get("kind", ""), "facts": metadata.get("facts", "")}
            if header["kind"] != _KIND:
                raise ValueError("its header tells of no scales")
            if metadata != header | {"checksum": checksum_of(tensors, header)}:
                raise ValueError("its checksum is wrong, so the file was damaged or changed")
            return _read(json.loads(header["facts"]), tensors)
        except FileNotFoundError:
            raise
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
            raise ScalesError(f"{str(path)!r} does not hold scales: {error}") from error


def _read(facts: Any, tensors: Mapping[str, Tensor]) -> Scales:
    """Return what a file says, after a look at each number.

    Raises:
        ValueError, KeyError, TypeError: it is not what `Scales.save` writes.
    """
    kind = facts["activations"]
    if kind not in LIMITS:
        raise ValueError(f"there are no activations of {kind!r}")
    values = {str(key): _value(tensors, str(key), kind) for key in facts["values"]}
    layers = {str(key): _layer(tensors, str(key), float(error)) for key, error in facts["errors"].items()}
    factors = {
        name.removesuffix(":factors"): _positive(tensor, name, 1)
        for name, tensor in tensors.items()
        if name.endswith(":factors")
    }
    if len(tensors) != 2 * len(values) + 2 * len(layers) + len(factors) or not factors.keys() <= values.keys():
        raise ValueError("it holds tensors that belong to no value and no layer")
    inputs = tuple(_input(name, shape, dtype) for name, shape, dtype in facts["inputs"])
    batch = None if facts["batch"] is None else _size(facts["batch"])
    if any((batch or 2) * math.prod(entry.shape) > _MOST_NUMBERS for entry in inputs):
        raise ValueError("it asks for a larger example than fits 4 GB")
    in_float = {str(key): str(reason) for key, reason in facts["in_float"].items()}
    return Scales(values, layers, in_float, kind, inputs, batch, str(facts["graph"]), float(facts["error"]), factors)


def _input(name: Any, shape: Any, dtype: Any) -> Input:
    if not isinstance(getattr(torch, str(dtype), None), torch.dtype):
        raise ValueError(f"an input is of {dtype!r}")
    sizes = tuple(map(_size, shape))
    if math.prod(sizes) > _MOST_NUMBERS:
        raise ValueError(f"a sample has shape {sizes}")
    return Input(str(name), sizes, str(dtype))


def _size(value: Any) -> int:
    if type(value) is not int or not 0 < value <= _MOST_NUMBERS:
        raise ValueError(f"{value!r} is no size")
    return value


def _value(tensors: Mapping[str, Tensor], key: str, kind: str) -> ValueScale:
    scale, zero_point = float(_positive(tensors[f"{key}:scale"], key, 0)), int(tensors[f"{key}:zero_point"])
    low, high = LIMITS[kind]
    if not low <= zero_point <= high or (kind == "int8" and zero_point):
        raise ValueError(f"the zero point of {key!r} is {zero_point}")
    return ValueScale(scale, zero_point)


def _layer(tensors: Mapping[str, Tensor], key: str, error: float) -> LayerScales:
    weight, correction = tensors[f"{key}:weight"], tensors[f"{key}:correction"]
    if correction.shape != weight.shape or correction.dtype != torch.float32 or not bool(correction.isfinite().all()):
        raise ValueError(f"the correction of {key!r} is not one finite number for each channel")
    return LayerScales(_positive(weight, key, 1), correction, error if math.isfinite(error) else math.nan)


def _positive(tensor: Tensor, key: str, ndim: int) -> Tensor:
    if tensor.dtype != torch.float32 or tensor.ndim != ndim or not bool(((tensor > 0) & tensor.isfinite()).all()):
        raise ValueError(f"{key!r} is not positive numbers in float32")
    return tensor
