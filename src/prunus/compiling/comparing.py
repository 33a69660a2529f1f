"""A program held against its model on random inputs, before it is handed out."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import nn

from prunus.compiling.engine import ALL_SINGLY
from prunus.compiling.mixed_program import MixedProgram
from prunus.compiling.program import Program
from prunus.compiling.tuning import Choice
from prunus.errors import CompileError
from prunus.graph import ExampleInputs
from prunus.graph.samples import call_of_size
from prunus.proving.verification import (
    check_numbers,
    difference,
    distance,
    outputs,
    random_like,
    rounding_limit,
    tensors,
)

# The largest difference to the model, relative to its largest output, that sums in another order explain.
_TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-10}
# If a block of samples would take longer than this, a program is compared with its model on one partial block.
_SLOW_SECONDS = 1.0


@dataclass(frozen=True)
class Expected:
    """What a program has to compute.

    Attributes:
        model: in eval mode; with its numbers rounded where the program's are.
        unrounded: the model in floating point, where the program is in 8 bits; else None.
    """

    model: nn.Module
    unrounded: nn.Module | None = None

    def difference(self, program: Program, example: ExampleInputs, choice: Choice) -> float:
        """Return the largest difference on random inputs: one sample, and a whole block with a partial one.

        Where the model is slow, only the partial block.

        Raises:
            CompileError: as `difference_for`.
        """
        if program.fixed_batch is not None:
            return self.difference_for(program.fixed_batch, program, example)
        start = time.perf_counter()
        single = self.difference_for(1, program, example)
        is_slow = (time.perf_counter() - start) * choice.block > _SLOW_SECONDS
        if choice.most_single == ALL_SINGLY:
            return max(single, self.difference_for(2, program, example))
        partial = max(2, choice.most_single + 1)
        return max(single, self.difference_for(partial if is_slow else choice.block + partial, program, example))

    def difference_for(self, size: int, program: Program | MixedProgram, example: ExampleInputs) -> float:
        """Return the largest difference for a batch of random inputs, relative to the largest output.

        Of a program in 8 bits the root of the mean squared difference, relative to that of the outputs.

        Raises:
            CompileError: it is larger than rounding explains, or the model can't run such a batch.
        """
        args, kwargs = random_like(*call_of_size(example, size))
        try:
            expected = outputs(self.model, args, kwargs)
        except Exception as error:
            raise CompileError(
                f"the model can't run a batch of {size}, but a program takes any: {type(error).__name__}: "
                f"{str(error)[:200]}; take the batch from the input, as in x.reshape(x.shape[0], -1)"
            ) from error
        actual = tensors(program(*args, **kwargs))
        check_numbers(expected, CompileError)
        if self.unrounded is None:
            apart, limit = difference(expected, actual), _TOLERANCES[program.dtype]
        else:
            limit = math.sqrt(rounding_limit(expected, outputs(self.unrounded, args, kwargs)))
            apart = math.sqrt(distance(expected, actual))
        if not apart <= limit:
            raise CompileError(
                f"the program computes something else than the model: for a batch of {size} its outputs differ by "
                f"{apart:.1e} of {'the largest' if self.unrounded is None else 'their root mean square'}, more than "
                f"the {limit:.0e} that rounding explains; the model may depend on the batch or on chance, else please "
                "report it"
            )
        return apart
