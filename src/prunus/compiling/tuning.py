"""Which way each contraction is computed: the fastest by measurement on this machine, remembered for the next time."""

from __future__ import annotations

import ctypes
import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunus.compiling import cache, planning, storing, toolchain
from prunus.compiling.assembling import assemble
from prunus.compiling.engine import ALL_SINGLY, Engine, Trials
from prunus.compiling.kernels.calls import CallWriter
from prunus.compiling.kernels.library import Library
from prunus.compiling.kernels.numbers import Numbers
from prunus.compiling.kernels.variants import Variant, variants
from prunus.compiling.kernels.writing import Constants
from prunus.compiling.layout import Mode
from prunus.compiling.net import Net, Operation
from prunus.compiling.operations import Contract
from prunus.compiling.planning import Plan
from prunus.compiling.toolchain import Target
from prunus.machine import machine

# Part of what is remembered: whatever changes the kernels makes old measurements worthless.
_VERSION = 12

# How many ways of computing a contraction are tried.
_MOST_TRIED = 4

# A contraction with more multiply-adds is tried on some of its tiles: about a millisecond.
_MOST_MACS = 3e7

# One measurement lasts at least this long; a variant that has been timed for longer than the second is not timed again.
_LEAST_SECONDS = 50e-6
_MOST_SECONDS = 0.01
# One round per entry; a variant slower than the best by more than this factor sits it out.
_HOPELESS = 2.0, 1.2, 1.2, 1.2, 1.2, 1.2

# Blocks whose values take less than this many bytes stay in a cache.
_LARGE = 1 << 20
_FEWEST_ROUNDS_OF_BLOCKS = 2
_WORTH_SINGLY = 0.97

# Threads that share each step wait for each other after each: it has to pay.
_WORTH_SHARING = 0.9
# Both ways are timed in so many rounds at least; further ones begin only within so many seconds.
_FEWEST_ROUNDS, _MOST_ROUNDS = 4, 20
_TRYING_SECONDS = 0.3


@dataclass(frozen=True)
class Choice:
    """How a program is laid out and computed.

    Attributes:
        block: samples of a block.
        chosen: (mode, number of the output) -> how that contraction is computed.
        most_single: remainders of up to this many samples run one by one, larger ones as another block; `ALL_SINGLY`:
            there are no blocks.
    """

    block: int
    chosen: Mapping[tuple[str, int], Variant]
    most_single: int


def plans_for(net: Net, block: int, target: Target, numbers: Numbers) -> list[Plan]:
    """Return a net laid out in blocks and singly."""
    vector = target.bytes // numbers.bytes
    first = planning.plan(net, Mode(vector, block), numbers.bytes)
    return [first, planning.plan(net, Mode(vector, 1), numbers.bytes, first.size)]


def workspace_bytes(net: Net, target: Target, numbers: Numbers, batch: int) -> int:
    """Return how much memory a call on one thread takes where the largest blocks are chosen that are tried.

    Raises:
        CompileError: it is more than can be addressed.
    """
    largest = max(_blocks(net, target, numbers, batch))
    return plans_for(net, largest, target, numbers)[-1].size * numbers.bytes


def by_rule(net: Net, target: Target, numbers: Numbers) -> Choice:
    """Choose without measuring: what needs the fewest cycles by count, a block being one vector."""
    vector = target.bytes // numbers.bytes
    chosen = {
        (plan.mode.name, operation.output): variants(operation, plan, target.registers)[0]
        for plan in plans_for(net, vector, target, numbers)
        for operation in plan.net.operations
        if isinstance(operation, Contract)
    }
    return Choice(vector, chosen, vector // 4)


def measured(
    net: Net, target: Target, numbers: Numbers, batch: int, library: Library, say: Callable[[str], None]
) -> Choice:
    """Choose by measurement, or return what was measured before for the same net on the same machine.

    Args:
        net: what is computed.
        target: what is built for.
        numbers: what is computed in.
        batch: samples that are usual in a call: a block is no larger.
        library: the kernels.
        say: called with a line of text before each measurement.
    """
    own = machine().processor
    key = storing.digest(net, _VERSION, target, numbers, batch, own, *toolchain.own_flags())
    remembered = cache.private_folder() / f"{key}.json"
    choice = _read(remembered, net, target, numbers, batch)
    if choice is not None:
        return choice
    if not net.operations:
        return by_rule(net, target, numbers)
    choice = min(
        (_tuned(net, block, target, numbers, library, say) for block in _blocks(net, target, numbers, batch)),
        key=lambda tuned: tuned[1],
    )[0]
    choice = _without_blocks_if_faster(choice, net, target, numbers, library, say)
    cache.write(remembered, json.dumps(_to_json(choice), allow_nan=False).encode())
    return choice


def _blocks(net: Net, target: Target, numbers: Numbers, batch: int) -> list[int]:
    """Return sizes of blocks worth trying: larger ones than a vector where most of the work are matrices."""
    vector = target.bytes // numbers.bytes
    layers = [operation for operation in net.operations if isinstance(operation, Contract)]
    macs = [(layer.macs, math.prod(layer.grid)) for layer in layers]
    matrices = sum(count for count, positions in macs if positions == 1)
    if matrices * 2 < sum(count for count, _ in macs):
        return [vector]
    return [vector * lanes for lanes in (1, 2, 4) if lanes == 1 or vector * lanes <= batch]


def _tuned(
    net: Net, block: int, target: Target, numbers: Numbers, library: Library, say: Callable[[str], None]
) -> tuple[Choice, float]:
    """Return the best choice for one size of blocks, and the seconds it takes for each sample of a block."""
    plans = plans_for(net, block, target, numbers)
    trials = Trials(library, plans[-1].size * numbers.bytes)
    chosen: dict[tuple[str, int], Variant] = {}
    totals = []
    for plan in plans:
        variant_of, total = _tuned_in_mode(plan, target, numbers, trials, say)
        chosen |= {(plan.mode.name, output): variant for output, variant in variant_of.items()}
        totals.append(total)
    in_block, singly = totals
    most_single = min(int(in_block / max(singly, 1e-9)), block - 1)
    return Choice(block, chosen, most_single), in_block / block


def _tuned_in_mode(
    plan: Plan, target: Target, numbers: Numbers, trials: Trials, say: Callable[[str], None]
) -> tuple[dict[int, Variant], float]:
    """Return the best variant of each contraction by its output's number, and the seconds of all operations."""
    total, chosen = 0.0, {}
    best_of: dict[object, tuple[Variant, float]] = {}  # layers that are alike -> their best variant, seconds a weight
    for number, operation in enumerate(plan.net.operations):
        say(f"trying kernels in {plan.mode.name} mode: operation {number + 1} of {len(plan.net.operations)}")
        writer = CallWriter(plan, Constants(), numbers, saturates=trials.saturates, most_macs=_MOST_MACS)
        if not isinstance(operation, Contract):
            total += sum(_timed(operation, [None], writer, trials))
            continue
        ways, weights = variants(operation, plan, target.registers)[:_MOST_TRIED], max(operation.nonzero, 1)
        key = *_timing_key(operation, plan), *ways
        if key not in best_of:
            seconds = _timed(operation, ways, writer, trials)
            best_of[key] = ways[seconds.index(min(seconds))], min(seconds) / weights
        chosen[operation.output], seconds_a_weight = best_of[key]
        total += seconds_a_weight * weights
    return chosen, total


def _timing_key(contract: Contract, plan: Plan) -> tuple[object, ...]:
    """Return a key, of shapes and about how many weights are zero: of contractions that share it one is timed.

    How the zeros lie shows in the order of their variants.
    """
    density = round(math.log2(max(contract.nonzero, 1) / contract.num_weights))
    fields = contract.weight.shape, contract.groups, contract.grid, contract.pool, contract.output in plan.along
    return (
        contract.computes_in_words,
        density,
        *fields,
        plan.layouts[contract.source.value],
        plan.taps[contract.output].steps,
    )


def _timed(operation: Operation, ways: Sequence[Variant | None], writer: CallWriter, trials: Trials) -> list[float]:
    """Return the seconds that each call of some ways to compute an operation takes."""
    calls = [call for way in ways for call in operation.calls(writer, way)]
    trials.prepare(calls, writer.constants.data)
    return [seconds / call.fraction for seconds, call in zip(_interleaved(trials, len(calls)), calls, strict=True)]


def _interleaved(trials: Trials, count: int) -> list[float]:
    """Return the least seconds that each call took, over rounds in random orders."""
    if count == 0:
        return []
    trials.seconds(0, 1)  # so that none of them is the first to read its source
    best = [trials.seconds(trial, 1) for trial in range(count)]
    spent = list(best)
    shuffle = random.Random(0).shuffle
    for hopeless in _HOPELESS:
        limit = hopeless * min(best)
        order = [trial for trial in range(count) if best[trial] <= limit and spent[trial] < _MOST_SECONDS]
        shuffle(order)
        for trial in order:
            times = max(1, math.ceil(_LEAST_SECONDS / max(best[trial], 1e-7)))
            seconds = trials.seconds(trial, times)
            best[trial] = min(best[trial], seconds)
            spent[trial] += times * seconds
    return best


def _without_blocks_if_faster(
    choice: Choice, net: Net, target: Target, numbers: Numbers, library: Library, say: Callable[[str], None]
) -> Choice:
    """Return a choice without blocks where a block of samples takes longer than the same samples one by one.

    Blocks may not fit the caches where single samples do. Timing single operations, whose inputs are cached, does not
    show it.
    """
    plans = plans_for(net, choice.block, target, numbers)
    if plans[0].size * numbers.bytes < _LARGE:
        return choice
    say("trying samples one by one")
    engine = Engine(
        library, assemble(plans, choice.chosen, numbers, saturates=library.saturates), 1, choice.most_single
    )
    ways = [lambda: engine.set_most_single(choice.most_single), lambda: engine.set_most_single(ALL_SINGLY)]
    in_blocks, singly = _best_seconds(engine, ways, _zeros(net, choice.block), choice.block, _FEWEST_ROUNDS_OF_BLOCKS)
    return replace(choice, most_single=ALL_SINGLY) if singly < _WORTH_SINGLY * in_blocks else choice


def _best_seconds(
    engine: Engine, ways: Sequence[Callable[[], None]], call: _Call, batch: int, fewest_rounds: int
) -> list[float]:
    """Return the least seconds that a call takes, after an engine was switched in each of some ways, in turns."""
    best = [math.inf for _ in ways]
    begin = time.perf_counter()
    for number in range(_MOST_ROUNDS):
        if number >= fewest_rounds and time.perf_counter() - begin > _TRYING_SECONDS:
            break
        for place, switch in enumerate(ways):
            switch()
            start = time.perf_counter()
            engine.run(call.inputs, call.outputs, batch)
            best[place] = min(best[place], time.perf_counter() - start)
    return best


@dataclass(frozen=True)
class _Call:
    """Arrays of a call, and where they lie, as C takes them."""

    arrays: Sequence[Tensor]
    inputs: Any
    outputs: Any


def _zeros(net: Net, batch: int) -> _Call:
    """Return the inputs and outputs of a call, of any type: zeros."""
    shapes = [shape for _, shape in net.inputs.values()]
    sizes = [batch * math.prod(shape) for shape in (*shapes, *(view.index.shape for view in net.outputs))]
    arrays = [torch.zeros(size, dtype=torch.float64, device="cpu") for size in sizes]
    inputs, outputs = arrays[: len(shapes)], arrays[len(shapes) :]
    places = [(ctypes.c_void_p * len(group))(*[array.data_ptr() for array in group]) for group in (inputs, outputs)]
    return _Call(arrays, *places)


def is_sharing_faster(engine: Engine, net: Net) -> bool:
    """Tell whether threads that share the steps of one sample are faster than one that computes it alone.

    Args:
        engine: is switched both ways while it is timed; the caller sets which one stays.
        net: what it computes.
    """
    ways = [lambda: engine.set_share_steps(False), lambda: engine.set_share_steps(True)]
    alone, shared = _best_seconds(engine, ways, _zeros(net, 1), 1, _FEWEST_ROUNDS)
    return shared < _WORTH_SHARING * alone


def _to_json(choice: Choice) -> dict[str, object]:
    chosen = [[mode, number, *_fields(variant)] for (mode, number), variant in choice.chosen.items()]
    return {"block": choice.block, "chosen": chosen, "most_single": choice.most_single}


def _fields(variant: Variant) -> Sequence[object]:
    return variant.rows, variant.tile, variant.width, variant.outer, variant.parts


def _read(path: Path, net: Net, target: Target, numbers: Numbers, batch: int) -> Choice | None:
    """Return what was remembered; None where nothing was, it can't be read, or it is not among what can be chosen."""
    try:
        tree = json.loads(cache.read(path) or b"null")
        remembered = {
            (mode, number): Variant(rows, tuple(tile), width, outer, parts)
            for mode, number, rows, tile, width, outer, parts in tree["chosen"]
        }
        block, most_single = int(tree["block"]), int(tree["most_single"])
        if block not in _blocks(net, target, numbers, batch) or most_single not in (*range(block), ALL_SINGLY):
            return None
        chosen = {}
        for plan in plans_for(net, block, target, numbers):
            for operation in plan.net.operations:
                if isinstance(operation, Contract):
                    offered, key = variants(operation, plan, target.registers), (plan.mode.name, operation.output)
                    chosen[key] = offered[offered.index(remembered[key])]
        return Choice(block, chosen, most_single)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
