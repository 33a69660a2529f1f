"""The stages that make the finetuned model smaller and faster: shrink, pack, compile."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from prunus import packing as pack
from prunus.compiling import Program, compile, load_program
from prunus.errors import CompileError, GraphError
from prunus.lab.data import normalise
from prunus.lab.run_folder import Seconds, restore_packed, store_packed, vouch, vouched
from prunus.machine import cores
from prunus.shrinking import shrink

if TYPE_CHECKING:
    from prunus.lab.stages import Road

# The file of the packed model, the result of a run.
RESULT = "model.prunus"

# The file of its program.
PROGRAM = "compiled.program"


def make(road: Road, finetuned: nn.Module, made_from: str) -> dict[str, nn.Module]:
    """Return the shrunk and the packed model, each loaded from its file.

    Both are `.prunus` files, which hold the graph of a model with any widths.

    Args:
        road: the stages of the run.
        finetuned: the model to make smaller; it is not changed.
        made_from: its fingerprint.
    """
    shrunk_from = road.made_from(made_from, "shrink")
    packed_from = road.made_from(shrunk_from, road.recipe.pack)
    example = normalise(road.data.validation.images[:1], road.data.mean, road.data.std).to(road.device)

    def smaller() -> nn.Module:
        shrunk = shrink(finetuned, example)
        _say_removed(road, finetuned, shrunk)
        return shrunk

    shrunk = _stage(road, "shrunk", road.folder / "shrunk.prunus", shrunk_from, example, smaller)
    bits = road.recipe.pack.codebook_bits
    packed = _stage(road, "packed", road.folder / RESULT, packed_from, example, lambda: shrunk, bits)
    return {"shrunk": shrunk, "packed": packed}


def _stage(
    road: Road,
    name: str,
    path: Path,
    made_from: str,
    example: Tensor,
    make: Callable[[], nn.Module],
    bits: int | None = None,
) -> nn.Module:
    model = restore_packed(path, made_from)
    if model is not None:
        road.say(f"{name}: done before, read from {path}")
        return model.to(road.device)
    road.check_takes_over(path, vouched(path) in (None, made_from))
    road.say(f"{name}: {_DESCRIPTIONS[name]}")
    began = time.monotonic()
    store_packed(path, make(), made_from, example, bits)
    Seconds(road.folder)[name] = time.monotonic() - began
    return pack.load(path).to(road.device)


_DESCRIPTIONS = {
    "shrunk": "removing channels that provably can't matter",
    "packed": "writing the result as one small file",
}


def compiled(road: Road, packed: nn.Module, made_from: str) -> Program | None:
    """Return the packed model as a program that skips its zeros, and save it.

    Args:
        road: the stages of the run.
        packed: the model to compile.
        made_from: the finetuned model's fingerprint.

    Returns:
        None if there is no compiler, or the model has an operation that programs don't support; the run says why.
    """
    measure = road.recipe.measure
    path = road.folder / PROGRAM
    batch, threads = max(measure.batch_sizes), min(max(measure.threads), cores())
    parts = road.made_from(road.made_from(made_from, "shrink"), road.recipe.pack)
    fingerprint = road.made_from(parts, f"compile {batch} {threads}")
    stored = vouched(path)
    road.check_takes_over(path, stored in (None, fingerprint))
    began = time.monotonic()
    try:
        if stored == fingerprint:
            road.say(f"compiled: done before, read from {path}")
            return load_program(path, max_bytes=sys.maxsize)  # safe, since this run wrote it
        road.say("compiled: compiling the result to a program that skips zeros")
        example = normalise(road.data.validation.images[:batch], road.data.mean, road.data.std)
        program = compile(packed, example, threads=threads)
    except (CompileError, GraphError) as error:
        road.say(f"compiled: left out: {error}")
        return None
    program.save(path)
    vouch(path, fingerprint)
    Seconds(road.folder)["compiled"] = time.monotonic() - began
    return program


def _say_removed(road: Road, before: nn.Module, after: nn.Module) -> None:
    was, now = (sum(parameter.numel() for parameter in model.parameters()) for model in (before, after))
    if now == was:
        road.say("shrunk: nothing to remove: every channel still carries weights that are not zero")
    else:
        road.say(f"shrunk: {was - now:,} of {was:,} parameters removed")
