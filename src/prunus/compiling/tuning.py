"""Which way each contraction is computed: the fastest by measurement on this machine, remembered for the next time."""

from __future__ import annotations

import ctypes
import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from prunus.compiling import cache, storing, toolchain
from prunus.compiling.codegen import source
from prunus.compiling.codegen.numbers import Numbers
from prunus.compiling.codegen.source import Trial
from prunus.compiling.codegen.variants import Variant, variants
from prunus.compiling.engine import Engine, Trials
from prunus.compiling.layout import Mode
from prunus.compiling.net import Contract, Net
from prunus.compiling.planning import Plan, plan
from prunus.compiling.toolchain import Target
from prunus.machine import machine

# Part of what is remembered: whatever changes the kernels makes old measurements worthless.
_VERSION = 5

# How many ways of computing a contraction are tried, and in how many rounds.
_MOST_TRIED = 4
_ROUNDS = 5

# What one measurement should last at least, and all those of one trial at most, in seconds.
_LEAST_SECONDS = 50e-6
_MOST_SECONDS = 0.05

# Threads that share each step wait for each other after each: it has to pay.
_WORTH_SHARING = 0.9


@dataclass(frozen=True)
class Choice:
    """How a program is laid out and computed.

    Attributes:
        block: samples of a block.
        chosen: (mode, number of the output) -> how that contraction is computed.
        most_single: remainders of up to this many samples run one by one, larger ones as another block.
    """

    block: int
    chosen: Mapping[tuple[str, int], Variant]
    most_single: int


def plans_for(net: Net, block: int, target: Target, numbers: Numbers) -> list[Plan]:
    """Return a net laid out in blocks and singly."""
    vector = target.bytes // numbers.bytes
    first = plan(net, Mode(vector, block), numbers.bytes)
    return [first, plan(net, Mode(vector, 1), numbers.bytes, first.size)]


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
        (each.mode.name, operation.output): _variants(operation, each, target, numbers)[0]
        for each in plans_for(net, vector, target, numbers)
        for operation in each.net.operations
        if isinstance(operation, Contract)
    }
    return Choice(vector, chosen, vector // 4)


def measured(net: Net, target: Target, numbers: Numbers, batch: int, say: Callable[[str], None]) -> Choice:
    """Choose by measurement, or return what was measured before for the same net on the same machine.

    Args:
        net: what is computed.
        target: what is built for.
        numbers: what is computed in.
        batch: samples that are usual in a call: a block is no larger.
        say: called with a line of text before each measurement.
    """
    compiler = toolchain.compiler()
    own = machine().processor
    key = storing.digest(net, _VERSION, target, numbers, batch, own, compiler, *toolchain.own_flags())
    remembered = cache.private_folder() / f"{key}.json"
    found = _read(remembered, net, target, numbers, batch)
    if found is not None:
        return found
    if not net.operations:
        return by_rule(net, target, numbers)
    found = min(
        (_tuned(net, block, target, numbers, say) for block in _blocks(net, target, numbers, batch)),
        key=lambda each: each[1],
    )[0]
    cache.write(remembered, json.dumps(_to_json(found), allow_nan=False).encode())
    return found


def _blocks(net: Net, target: Target, numbers: Numbers, batch: int) -> list[int]:
    """Return sizes of blocks worth trying: larger ones than a vector where most of the work are matrices."""
    vector = target.bytes // numbers.bytes
    macs = [(each.macs, math.prod(each.grid)) for each in net.operations if isinstance(each, Contract)]
    matrices = sum(count for count, positions in macs if positions == 1)
    if matrices * 2 < sum(count for count, _ in macs):
        return [vector]
    return [vector * lanes for lanes in (1, 2, 4) if lanes == 1 or vector * lanes <= batch]


def _variants(operation: Contract, each: Plan, target: Target, numbers: Numbers) -> list[Variant]:
    return variants(operation, each.mode, target.registers, target.bytes // numbers.bytes)


def _tuned(net: Net, block: int, target: Target, numbers: Numbers, say: Callable[[str], None]) -> tuple[Choice, float]:
    """Return the best choice for one size of blocks, and the seconds it takes for each sample of a block."""
    plans = plans_for(net, block, target, numbers)
    trials = [_trials(each, target, numbers) for each in plans]
    say(f"trying {sum(map(len, trials))} kernels in blocks of {block}")
    texts = [source.write_trials(each, numbers) for each in trials]
    with ThreadPoolExecutor() as pool:  # the compiler is a process of its own
        libraries = list(pool.map(lambda text: toolchain.build(text.text, target), texts))
    best: dict[tuple[str, int], tuple[float, Variant | None]] = {}
    for each, text, library in zip(trials, texts, libraries, strict=True):
        seconds = _interleaved(Trials(library, text, numbers.bytes), len(each))
        for (plan_, operation, variant), taken in zip(each, seconds, strict=True):
            key = plan_.mode.name, operation.output
            best[key] = min(best.get(key, (math.inf, variant)), (taken, variant), key=lambda pair: pair[0])
    in_block, singly = (
        sum(taken for (mode, _), (taken, _) in best.items() if mode == each.mode.name) for each in plans
    )
    most_single = min(int(in_block / max(singly, 1e-9)), block - 1)
    chosen = {key: variant for key, (_, variant) in best.items() if variant is not None}
    return Choice(block, chosen, most_single), in_block / block


def _trials(each: Plan, target: Target, numbers: Numbers) -> list[Trial]:
    """Return the operations of a plan, contractions in several ways."""
    found: list[Trial] = []
    for operation in each.net.operations:
        if isinstance(operation, Contract):
            found += [(each, operation, way) for way in _variants(operation, each, target, numbers)[:_MOST_TRIED]]
        else:
            found.append((each, operation, None))
    return found


def _interleaved(trials: Trials, count: int) -> list[float]:
    """Return the least seconds that each trial took, over rounds in random orders."""
    once = [trials.seconds(trial, 1) for trial in range(count)]  # and it warms up
    once = [min(before, trials.seconds(trial, 1)) for trial, before in enumerate(once)]
    times = [max(1, math.ceil(_LEAST_SECONDS / max(taken, 1e-7))) for taken in once]
    best = list(once)
    order = list(range(count))
    shuffle = random.Random(0).shuffle
    for round_ in range(_ROUNDS):
        shuffle(order)
        for trial in order:
            if (round_ + 1) * times[trial] * once[trial] <= _MOST_SECONDS:
                best[trial] = min(best[trial], trials.seconds(trial, times[trial]))
    return best


def shares_steps(make: Callable[[bool], Engine], inputs: Sequence[int], outputs: Sequence[int]) -> bool:
    """Tell whether threads that share the steps of one sample are faster than one that computes it alone.

    Args:
        make: of whether they share -> the engine.
        inputs: numbers of one sample of each input.
        outputs: likewise.
    """
    # large enough for either dtype
    arrays = [torch.zeros(size, dtype=torch.float64, device="cpu") for size in (*inputs, *outputs)]
    addresses = [array.data_ptr() for array in arrays]
    given = (ctypes.c_void_p * len(inputs))(*addresses[: len(inputs)])
    found = (ctypes.c_void_p * len(outputs))(*addresses[len(inputs) :])
    taken = {False: math.inf, True: math.inf}
    engines = {share: make(share) for share in taken}
    for _ in range(4 * _ROUNDS):
        for share, engine in engines.items():
            start = time.perf_counter()
            engine.run(given, found, 1)
            taken[share] = min(taken[share], time.perf_counter() - start)
    return taken[True] < _WORTH_SHARING * taken[False]


def _to_json(choice: Choice) -> dict[str, object]:
    chosen = [[mode, number, *_fields(variant)] for (mode, number), variant in choice.chosen.items()]
    return {"block": choice.block, "chosen": chosen, "most_single": choice.most_single}


def _fields(variant: Variant) -> Sequence[object]:
    return variant.rows, variant.tile, variant.width, variant.outer, variant.chains, variant.parts


def _read(path: Path, net: Net, target: Target, numbers: Numbers, batch: int) -> Choice | None:
    """Return what was remembered; None where nothing was, it can't be read, or it is not among what can be chosen."""
    try:
        tree = json.loads(cache.read(path) or b"null")
        told = {
            (mode, number): Variant(rows, tuple(tile), width, outer, chains, parts)
            for mode, number, rows, tile, width, outer, chains, parts in tree["chosen"]
        }
        block, most_single = int(tree["block"]), int(tree["most_single"])
        if block not in _blocks(net, target, numbers, batch) or most_single not in range(block):
            return None
        chosen = {}
        for each in plans_for(net, block, target, numbers):
            for operation in each.net.operations:
                if isinstance(operation, Contract):
                    offered, key = _variants(operation, each, target, numbers), (each.mode.name, operation.output)
                    chosen[key] = offered[offered.index(told[key])]
        return Choice(block, chosen, most_single)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
