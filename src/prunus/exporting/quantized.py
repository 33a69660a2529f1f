"""A model in 8 bits for other programs, and what was written held against the model as it is rounded."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from prunus.copying import copy_model
from prunus.errors import ExportError
from prunus.exporting.comparing import BATCHES, compare, of_size, running
from prunus.forward import undisturbed
from prunus.graph import ExampleInputs, Graph, call_arguments, trace
from prunus.graph.exported import ExportedModule
from prunus.proving.verification import check_numbers, distance, outputs, random_like, rounding_limit
from prunus.quantizing import Quantizer, Scales
from prunus.quantizing.integer_graph import integer_module
from prunus.quantizing.quantizer import rounding_of


def in_integers(model: nn.Module, scales: Scales) -> ExportedModule:
    """Return a model that computes with whole numbers of 8 bits what the model does as scales round it.

    Raises:
        TypeError: `scales` is something else.
        ScalesError: they belong to another model.
        ExportError: the model is not in float32.
    """
    check_scales(scales)
    dtypes = {value.dtype for value in model.parameters() if value.is_floating_point()} - {torch.float32}
    if dtypes:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise ExportError(
            f"the model is in {names}, and files in 8 bits are for models in float32: export a copy, such as "
            "copy.deepcopy(model).float()"
        )
    with torch.no_grad():
        return integer_module(rounding_of(model, scales))


def check_scales(scales: object) -> Scales:
    """Return scales, unless they are something else.

    Raises:
        TypeError: they are.
    """
    if not isinstance(scales, Scales):
        raise TypeError(f"scales must be what prunus.quantize returned, got {type(scales).__name__}")
    return scales


def arranged(model: nn.Module, scales: Scales, example_inputs: ExampleInputs) -> ExampleInputs:
    """Return inputs by name or by position, as the samples were given that scales were found on."""
    args, kwargs = call_arguments(example_inputs, 1)
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    return dict(bound.arguments) if all(entry.name for entry in scales.inputs) else bound.args


def compare_rounded(
    model: nn.Module, scales: Scales, run: Callable[..., list[Tensor]], example_inputs: ExampleInputs
) -> float:
    """Return how far what was written is from the rounded model, on random inputs of two batch sizes.

    Returns:
        The largest root of the mean squared difference, relative to that of the outputs.

    Raises:
        ExportError: the difference is larger than numbers halfway between two whole ones explain.
    """
    with undisturbed(model):
        rounded = copy_model(model)
    Quantizer(rounded, scales)
    worst = 0.0
    for size in BATCHES:
        args, kwargs = random_like(*of_size(call_arguments(example_inputs), size))
        plain = running("the model", size, lambda: outputs(model, args, kwargs))  # noqa: B023
        expected = running("the rounded model", size, lambda: outputs(rounded, args, kwargs))  # noqa: B023
        actual = running("what was exported", size, lambda: run(*args, **kwargs))  # noqa: B023
        check_numbers(expected, ExportError)
        apart, limit = distance(expected, actual), rounding_limit(expected, plain)
        if not apart <= limit:
            raise ExportError(
                f"what was exported computes something else: for a batch of {size} its outputs differ from the rounded "
                f"model's by {apart:.1e} of their mean square, more than the {limit:.1e} that rounding explains; no "
                "file was written"
            )
        worst = max(worst, apart)
    return math.sqrt(worst)


def traced(
    model: nn.Module,
    scales: Scales | None,
    inputs: ExampleInputs,
    adapt: Callable[[ExportedModule], ExportedModule] | None = None,
) -> tuple[Graph, ExampleInputs]:
    """Return the graph to write, and the inputs as it takes them.

    Args:
        model: any module.
        scales: of the model; None for a graph in float.
        inputs: of the model.
        adapt: what writes the model in 8 bits as a format wants it.
    """
    if scales is None:
        return trace(model, inputs), inputs
    whole = in_integers(model, scales)
    inputs = arranged(model, scales, inputs)
    return trace(whole if adapt is None else adapt(whole), inputs), inputs


def difference_of(
    model: nn.Module, scales: Scales | None, run: Callable[..., list[Tensor]], inputs: ExampleInputs
) -> float:
    """Return how far what was written is from the model, or with scales from the rounded one; it raises as those do."""
    return compare(model, run, inputs) if scales is None else compare_rounded(model, scales, run, inputs)
