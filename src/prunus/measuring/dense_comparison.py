"""A program beside the dense runtimes: where one of them stays faster, it is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from prunus.errors import CompileError
from prunus.measuring import spell
from prunus.measuring.latency import PRUNUS, PRUNUS_INT8, RUNTIMES, TORCH_COMPILE, timings
from prunus.measuring.times import Latency

if TYPE_CHECKING:
    from prunus.quantizing import Scales

_DENSE = tuple(name for name in RUNTIMES if name not in (TORCH_COMPILE, PRUNUS, PRUNUS_INT8))


@dataclass(frozen=True)
class DenseComparison:
    """The time of one call of a model's program, and in each dense runtime.

    Attributes:
        batch: samples of a call.
        threads: that it may use.
        program_us: of the program.
        dense_us: runtime -> of the same model, zeros included.
        notes: which runtimes are missing, and why.
    """

    batch: int
    threads: int
    program_us: Latency
    dense_us: Mapping[str, Latency]
    notes: tuple[str, ...] = ()

    @property
    def fastest(self) -> str:
        """The dense runtime in which a call is fastest."""
        return min(self.dense_us, key=lambda runtime: self.dense_us[runtime].median)

    def __str__(self) -> str:
        own, other = self.program_us.median, self.dense_us[self.fastest].median
        setting = f"{spell.plural(self.batch, 'sample')} on {spell.plural(self.threads, 'thread')}"
        runtimes = spell.listing([spell.runtime(name) for name in self.dense_us])
        dense = f"{spell.runtime(self.fastest)}, the fastest of {runtimes}, takes {spell.microseconds(other)}"
        said = f"For {setting} the program takes {spell.microseconds(own)}; {dense}"
        if own <= other:
            return f"{said}: {spell.ratio(other / own)} times as long."
        return f"{said}, which is less: use that, or prune more."


def compare_with_dense(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
    *,
    batch: int,
    threads: int,
    seconds: float = 0.5,
    scales: Scales | None = None,
) -> DenseComparison:
    """Time a model's program, and PyTorch, ONNX Runtime and OpenVINO where they are installed, also in 8 bits.

    Args:
        model: as pruned; every runtime gets the same zeros.
        example_inputs: a tensor or tuple of tensors; the samples are repeated to make a batch.
        batch: samples of a call.
        threads: that a call may use.
        seconds: of timing for each runtime.
        scales: of the model; the program then computes in 8 bits, and runtimes in 8 bits round by the same.

    Raises:
        TypeError, ValueError: as `prunus.measuring.latency.timings`.
        CompileError: the model can't become a program.
    """
    own = PRUNUS if scales is None else PRUNUS_INT8
    runtimes = [name for name in _DENSE if RUNTIMES[name].installed]
    timing = timings(
        {"model": model},
        example_inputs,
        batch_sizes=(batch,),
        threads=(threads,),
        runtimes=(*runtimes, own),
        scales={} if scales is None else {"model": scales},
        seconds=seconds,
    )["model"]
    times = {runtime: of[str(threads)][str(batch)] for runtime, of in timing.latency_us.items()}
    if own not in times:
        raise CompileError("; ".join(timing.notes))
    program = times.pop(own)
    return DenseComparison(batch, threads, program, times, timing.notes)
