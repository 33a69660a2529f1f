"""What another program makes of a model held against the model, on random inputs of two batch sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from prunus.errors import ExportError
from prunus.graph import ExampleInputs, call_arguments
from prunus.proving.verification import check_numbers, depends_on_chance, difference, outputs, random_like

Call: TypeAlias = tuple[tuple[Tensor, ...], dict[str, Tensor]]
Run: TypeAlias = Callable[..., list[Tensor]]

# The batches on which a file is held against the model: the batch must be free, and one sample a batch too.
BATCHES = (1, 3)
# The largest difference, relative to the largest output, that another program's kernels may make.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def compare(model: nn.Module, run: Run, example_inputs: ExampleInputs) -> float:
    """Return the largest relative difference to the model on random inputs of two batch sizes.

    Raises:
        ExportError: it is larger than other kernels explain, or the model gives nothing that can be compared.
    """
    worst = 0.0
    for size in BATCHES:
        args, kwargs = random_like(*of_size(call_arguments(example_inputs), size))
        expected = running("the model", size, lambda: outputs(model, args, kwargs))  # noqa: B023 - called at once
        actual = running("what was exported", size, lambda: run(*args, **kwargs))  # noqa: B023
        apart = difference(expected, actual)
        limit = max((TOLERANCES.get(value.dtype, 0.0) for value in expected), default=0.0)
        check_numbers(expected, ExportError)
        if not apart <= limit and depends_on_chance(model, args, kwargs):
            raise ExportError(
                f"the model ({type(model).__name__}) draws random numbers in eval mode, so its file can't be checked; "
                "switch off what draws them, as F.dropout with training=self.training does"
            )
        if not apart <= limit:
            raise ExportError(
                f"what was exported computes something else: its outputs for a batch of {size} differ from the model's "
                f"by {apart:.1e} of the largest, more than the {limit:.0e} that rounding explains; no file was written"
            )
        worst = max(worst, apart)
    return worst


def check_runs(model: nn.Module, example_inputs: ExampleInputs) -> None:
    """Make sure that a model runs on its example inputs.

    Raises:
        ExportError: it does not.
    """
    try:
        outputs(model, *call_arguments(example_inputs, 1))
    except Exception as error:
        raise ExportError(
            f"the model ({type(model).__name__}) can't run its example inputs: {type(error).__name__}: "
            f"{str(error)[:300]}; give inputs that it takes"
        ) from error


def running(what: str, size: int, call: Callable[[], list[Tensor]]) -> list[Tensor]:
    """Return what a call gives.

    Raises:
        ExportError: it fails; the message says on which batch, and what to do.
    """
    try:
        return call()
    except Exception as error:
        raise ExportError(
            f"{what} can't run a batch of {size}: {type(error).__name__}: {str(error)[:300]}; a file for other "
            "programs has to take any batch: let the forward ask its input for the size (x.shape[0], or -1 in a "
            "reshape), or keep the example's batch in a .prunus file, by prunus.save"
        ) from error


def of_size(call: Call, size: int) -> Call:
    """Return a call with so many samples, made by going round those it has."""

    def cut(value: Tensor) -> Tensor:
        return value[torch.arange(size, device=value.device) % len(value)]

    args, kwargs = call
    return tuple(map(cut, args)), {name: cut(value) for name, value in kwargs.items()}
