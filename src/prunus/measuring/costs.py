"""What a model costs once it is pruned: bytes of its file, parameters, multiply-adds, time; for targets in these."""

from __future__ import annotations

import functools
import tempfile
import warnings
from pathlib import Path

from torch import nn

from prunus.copying import copy_model
from prunus.forward import undisturbed, unique_parameters
from prunus.graph import ExampleInputs
from prunus.graph.samples import in_order
from prunus.measuring.latency import RUNTIMES, timings
from prunus.measuring.macs import count_macs, num_nonzero
from prunus.packing import save
from prunus.pruning.budgets import COSTS, TIME, Unit
from prunus.pruning.masks import Masks
from prunus.shrinking import shrink
from prunus.supported import unwrap

# A time is measured for so many seconds; medians of the same model differ by a few hundredths.
_SECONDS = 0.5
_NEAR, _RESERVE = 0.05, 0.02
# One channel of a hundred: each step of the search takes seconds, and finer ones are within what times differ by.
_FINEST = 5e-3


def file_bytes(model: nn.Module, masks: Masks, whole_channels: bool, example_inputs: ExampleInputs | None) -> int:
    """Return the bytes of the file that `save` writes of a pruned model, without what it costs to load it."""
    if example_inputs is None:
        raise ValueError("a target in bytes is that of a file, which holds the model's graph; give example_inputs")
    pruned = _pruned(model, masks, whole_channels, example_inputs)
    with tempfile.TemporaryDirectory(prefix="prunus-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the batch is fixed is said where the file is kept
        return save(pruned, Path(folder) / "model.prunus", example_inputs=example_inputs).bytes


def parameters(model: nn.Module, masks: Masks, whole_channels: bool, example_inputs: ExampleInputs | None) -> int:
    """Return how many parameters are left: those that are not zero, or all of a model whose channels were cut out."""
    left = unique_parameters(_pruned(model, masks, whole_channels, example_inputs)).values()
    return sum(value.numel() if whole_channels else num_nonzero(value) for value in left)


def macs(model: nn.Module, masks: Masks, whole_channels: bool, example_inputs: ExampleInputs | None) -> int:
    """Return the multiply-adds of one sample that are left: those by weights that are not zero, or all likewise."""
    if example_inputs is None:
        raise ValueError("multiply-adds are counted in a run of the model; give example_inputs")
    pruned = _pruned(model, masks, whole_channels, example_inputs)
    inputs = in_order(pruned, example_inputs)  # whole, as a model's code may fix the batch
    counted = count_macs(pruned, inputs)
    return round((counted.total if whole_channels else counted.nonzero) / len(inputs[0]))


def macs_by_parameter(model: nn.Module, example_inputs: ExampleInputs | None) -> dict[str, float]:
    """Return the multiply-adds of the example by each parameter; times are about in proportion to them."""
    if example_inputs is None:
        raise ValueError("multiply-adds are counted in a run of the model; give example_inputs")
    counted = count_macs(unwrap(model), in_order(model, example_inputs)).layers
    return {name: float(macs[0]) for name, macs in counted.items() if macs is not None}


def microseconds(
    runtime: str, model: nn.Module, masks: Masks, whole_channels: bool, example_inputs: ExampleInputs | None
) -> float:
    """Return the median time of a call with the example's batch on one thread, in a runtime.

    Raises:
        ValueError: there is no example, or the model can't run in the runtime; the message says why.
    """
    if example_inputs is None:
        raise ValueError("time is that of a call with an example's batch; give example_inputs")
    pruned = _pruned(model, masks, whole_channels, example_inputs).eval()
    inputs = in_order(pruned, example_inputs)
    size = len(inputs[0])
    models = {"model": pruned}
    timed = timings(models, inputs, batch_sizes=(size,), threads=(1,), runtimes=(runtime,), seconds=_SECONDS)["model"]
    if timed.notes:
        raise ValueError(f"the model can't be timed: {timed.notes[0]}")
    return round(timed.latency_us[runtime]["1"][str(size)].median, 1)


def _pruned(model: nn.Module, masks: Masks, whole_channels: bool, example_inputs: ExampleInputs | None) -> nn.Module:
    with undisturbed(model):
        pruned = copy_model(unwrap(model))
    masks.apply(pruned)
    if whole_channels and masks and example_inputs is not None:
        return shrink(pruned, example_inputs)
    return pruned


COSTS.register("bytes")(Unit(file_bytes))
COSTS.register("parameters")(Unit(parameters))
COSTS.register("MACs")(Unit(macs, shares=macs_by_parameter))
for _runtime in RUNTIMES:
    COSTS.register(TIME + _runtime)(
        Unit(functools.partial(microseconds, _runtime), _NEAR, _FINEST, _RESERVE, macs_by_parameter)
    )
