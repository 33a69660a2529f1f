"""What a model costs once it is pruned: bytes of its file, parameters, multiply-adds; for targets in these units."""

from __future__ import annotations

import inspect
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from prunus.copying import copy_model
from prunus.forward import undisturbed, unique_parameters
from prunus.graph import ExampleInputs
from prunus.measuring.macs import count_macs, num_nonzero
from prunus.packing import save
from prunus.pruning.budgets import COSTS
from prunus.pruning.masks import Masks
from prunus.shrinking import shrink
from prunus.supported import unwrap


@COSTS.register("bytes")
def file_bytes(model: nn.Module, masks: Masks, whole_channels: bool, example_inputs: ExampleInputs | None) -> int:
    """Return the bytes of the file that `save` writes of a pruned model, without what it costs to load it."""
    if example_inputs is None:
        raise ValueError("a target in bytes is that of a file, which holds the model's graph; give example_inputs")
    pruned = _pruned(model, masks, whole_channels, example_inputs)
    with tempfile.TemporaryDirectory(prefix="prunus-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the batch is fixed is said where the file is kept
        return save(pruned, Path(folder) / "model.prunus", example_inputs=example_inputs).bytes


@COSTS.register("parameters")
def parameters(model: nn.Module, masks: Masks, whole_channels: bool, example_inputs: ExampleInputs | None) -> int:
    """Return how many parameters are left: those that are not zero, or all of a model whose channels were cut out."""
    left = unique_parameters(_pruned(model, masks, whole_channels, example_inputs)).values()
    return sum(value.numel() if whole_channels else num_nonzero(value) for value in left)


@COSTS.register("MACs")
def macs(model: nn.Module, masks: Masks, whole_channels: bool, example_inputs: ExampleInputs | None) -> int:
    """Return the multiply-adds of one sample that are left: those by weights that are not zero, or all likewise."""
    if example_inputs is None:
        raise ValueError("multiply-adds are counted in a run of the model; give example_inputs")
    pruned = _pruned(model, masks, whole_channels, example_inputs)
    counted = count_macs(pruned, _first(pruned, example_inputs))
    return counted.total if whole_channels else counted.nonzero


def _pruned(model: nn.Module, masks: Masks, whole_channels: bool, example_inputs: ExampleInputs | None) -> nn.Module:
    with undisturbed(model):
        pruned = copy_model(unwrap(model))
    masks.apply(pruned)
    if whole_channels and masks and example_inputs is not None:
        return shrink(pruned, example_inputs)
    return pruned


def _first(model: nn.Module, example_inputs: ExampleInputs) -> tuple[Tensor, ...]:
    """Return one sample of the inputs, in the order of the forward's arguments."""
    if isinstance(example_inputs, Mapping):
        names = inspect.signature(model.forward).parameters
        values = [example_inputs[name] for name in names if name in example_inputs]
    else:
        values = [example_inputs] if isinstance(example_inputs, torch.Tensor) else list(example_inputs)
    return tuple(value[:1] for value in values)
