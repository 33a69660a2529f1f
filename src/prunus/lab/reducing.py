"""The stages that make the finetuned model really smaller and faster: shrink, then pack, then compile."""

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

# The packed model's file is what a run is for, so it has a name of its own.
RESULT = "model.prunus"

# The program that it was compiled to.
PROGRAM = "compiled.program"


def make(road: Road, finetuned: nn.Module, made_from: str) -> dict[str, nn.Module]:
    """Return the shrunk model and the packed one, each as its file gives it back.

    Both are `.prunus` files, since those hold the graph of a smaller model, whatever widths it has.

    Args:
        road: the run they belong to.
        finetuned: what is made smaller; it is left as it was.
        made_from: its fingerprint.
    """
    shrunk_from = road.made_from(made_from, "shrink")
    packed_from = road.made_from(shrunk_from, road.recipe.pack)
    example = normalise(road.data.validation.images[:1], road.data.mean, road.data.std).to(road.device)

    def smaller() -> nn.Module:
        found = shrink(finetuned, example)
        _tell(road, finetuned, found)
        return found

    shrunk = _stage(road, "shrunk", road.folder / "shrunk.prunus", shrunk_from, example, smaller)
    bits = road.recipe.pack.bits
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
    found = vouched(path)
    road.check_takes_over(path, found in (None, made_from))
    road.say(f"{name}: {_DOES[name]}")
    began = time.monotonic()
    store_packed(path, make(), made_from, example, bits)
    Seconds(road.folder)[name] = time.monotonic() - began
    return pack.load(path).to(road.device)


_DOES = {
    "shrunk": "channels that provably can't matter are taken out",
    "packed": "the result becomes one small file",
}


def compiled(road: Road, packed: nn.Module, made_from: str) -> Program | None:
    """Return the packed model as a program that skips its zeros, which is kept in a file.

    Args:
        road: the run it belongs to.
        packed: what is compiled.
        made_from: the finetuned model's fingerprint.

    Returns:
        None where there is no compiler, or the model holds an operation that programs don't know; the run says why.
    """
    measure = road.recipe.measure
    path = road.folder / PROGRAM
    batch, threads = max(measure.batch_sizes), min(max(measure.threads), cores())
    parts = road.made_from(road.made_from(made_from, "shrink"), road.recipe.pack)
    fingerprint = road.made_from(parts, f"compile {batch} {threads}")
    found = vouched(path)
    road.check_takes_over(path, found in (None, fingerprint))
    began = time.monotonic()
    try:
        if found == fingerprint:
            road.say(f"compiled: done before, read from {path}")
            return load_program(path, max_bytes=sys.maxsize)  # this run wrote it
        road.say("compiled: the result becomes a program that skips the zeros")
        example = normalise(road.data.validation.images[:batch], road.data.mean, road.data.std)
        program = compile(packed, example, threads=threads)
    except (CompileError, GraphError) as error:
        road.say(f"compiled: left out: {error}")
        return None
    program.save(path)
    vouch(path, fingerprint)
    Seconds(road.folder)["compiled"] = time.monotonic() - began
    return program


def _tell(road: Road, before: nn.Module, after: nn.Module) -> None:
    was, now = (sum(parameter.numel() for parameter in model.parameters()) for model in (before, after))
    if now == was:
        road.say("shrunk: nothing to remove: every channel still carries weights that are not zero")
    else:
        road.say(f"shrunk: {was - now:,} of {was:,} parameters are gone")
