"""What a program does, step by step: kernel, nonzeros, multiply-adds, share of the time."""

from __future__ import annotations

from dataclasses import dataclass

from prunus.compiling import tuning
from prunus.compiling.engine import ALL_SINGLY, Engine
from prunus.compiling.kernels.numbers import DOUBLE, FLOAT
from prunus.compiling.net import Operation
from prunus.compiling.operations import Contract
from prunus.compiling.planning import Plan
from prunus.compiling.program import Parts

_ROUNDS = 5


@dataclass(frozen=True)
class StepFacts:
    """One step of a program.

    Attributes:
        name: of the layer it comes from.
        operation: what it is, such as ``contract`` or ``pool``.
        shape: (channels, height, width) of what it makes.
        kernel: how it is computed; empty for all but contractions.
        weights, nonzero: how many weights it has, and how many are not zero.
        macs: multiply-adds for one sample, zeros left out.
        microseconds: for one sample.
        share: of the time of all steps, in [0, 1].
    """

    name: str
    operation: str
    shape: tuple[int, int, int]
    kernel: str
    weights: int
    nonzero: int
    macs: int
    microseconds: float
    share: float


@dataclass(frozen=True)
class Profile:
    """A program's steps where samples are computed in blocks, and where they are computed one by one.

    Attributes:
        block: samples in a block.
        in_blocks, singly: the steps of each.
        most_single: so many samples beside whole blocks are computed one by one; `ALL_SINGLY`: all are.
    """

    block: int
    in_blocks: tuple[StepFacts, ...]
    singly: tuple[StepFacts, ...]
    most_single: int

    def __str__(self) -> str:
        heads = (
            f"In blocks of {self.block} samples:",
            f"One by one (up to {self.most_single} samples beside whole blocks):",
        )
        if self.most_single == ALL_SINGLY:
            return "\n".join(["One by one (all samples, which is faster than in blocks):", *_table(self.singly)])
        return "\n".join(
            line
            for head, steps in zip(heads, (self.in_blocks, self.singly), strict=True)
            for line in (head, *_table(steps))
        )


def profile(parts: Parts, engine: Engine) -> Profile:
    """Time each step in both modes, on zeros, each by itself, and tell what it computes."""
    numbers = DOUBLE if parts.dtype.itemsize == 8 else FLOAT
    plans = tuning.plans_for(parts.net, parts.choice.block, parts.target, numbers)
    in_blocks, singly = (_steps(plan, parts, engine) for plan in plans)
    return Profile(parts.choice.block, in_blocks, singly, parts.choice.most_single)


def _steps(plan: Plan, parts: Parts, engine: Engine) -> tuple[StepFacts, ...]:
    operations = plan.net.operations
    seconds = [0.0] * len(operations)
    for call, operation in enumerate(engine.operations_of(plan.mode.single)):
        if operation is not None:
            seconds[operation] += min(engine.step_seconds(plan.mode.single, call, 3) for _ in range(_ROUNDS))
    taken = [duration * 1e6 / plan.mode.block for duration in seconds]
    total = sum(taken) or 1.0
    return tuple(
        _facts(operation, plan, parts, microseconds, microseconds / total)
        for operation, microseconds in zip(operations, taken, strict=True)
    )


def _facts(operation: Operation, plan: Plan, parts: Parts, microseconds: float, share: float) -> StepFacts:
    kind = type(operation).__name__.lower()
    if not isinstance(operation, Contract):
        return StepFacts(operation.name, kind, operation.box, "", 0, 0, 0, microseconds, share)
    kernel = str(parts.choice.chosen[plan.mode.name, operation.output])
    counts = operation.num_weights, operation.nonzero, operation.macs
    return StepFacts(operation.name, operation.kind, operation.box, kernel, *counts, microseconds, share)


def _table(steps: tuple[StepFacts, ...]) -> list[str]:
    head = ("step", "operation", "makes", "nonzero", "multiply-adds", "us/sample", "share", "kernel")
    rows = [head] + [
        (
            step.name,
            step.operation,
            "x".join(map(str, step.shape)),
            f"{step.nonzero:,} of {step.weights:,}" if step.weights else "",
            f"{step.macs:,}" if step.macs else "",
            f"{step.microseconds:.2f}",
            f"{100 * step.share:.0f}%",
            step.kernel,
        )
        for step in steps
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    right = (3, 4, 5, 6)
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
