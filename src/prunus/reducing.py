"""The stages that make the finetuned model really smaller: shrink, which takes channels out of it, then pack."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from prunus import pack
from prunus.data import normalise
from prunus.run_folder import Seconds, packed_from, restore_packed, store_packed
from prunus.shrinking import shrink

if TYPE_CHECKING:
    from prunus.stages import Road

# The packed model's file is what a run is for, so it has a name of its own.
RESULT = "model.prunus"


def make(road: Road, finetuned: nn.Module, made_from: str) -> dict[str, nn.Module]:
    """Return the shrunk model and the packed one, each as its file gives it back.

    Both are `.prunus` files, since those tell the widths, or the graph, that a smaller model has.

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
    found = packed_from(path)
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


def _tell(road: Road, before: nn.Module, after: nn.Module) -> None:
    was, now = (sum(parameter.numel() for parameter in model.parameters()) for model in (before, after))
    if now == was:
        road.say("shrunk: nothing to remove: every channel still carries weights that are not zero")
    else:
        road.say(f"shrunk: {was - now:,} of {was:,} parameters are gone")
