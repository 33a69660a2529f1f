"""The stage that finds scales for 8 bits, and the shrunk model as they round it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from torch import nn

from prunus.copying import copy_model
from prunus.lab import train
from prunus.lab.run_folder import Seconds, vouch, vouched
from prunus.quantizing import Quantizer, Scales, quantize

if TYPE_CHECKING:
    from prunus.lab.stages import Road

# The file of the scales.
SCALES = "scales.safetensors"
NAME = "quantized"

_BATCH = 64


def make(road: Road, shrunk: nn.Module, made_from: str) -> dict[str, nn.Module]:
    """Return the shrunk model as it is rounded to 8 bits, if the recipe asks for it.

    The scales are found on training images, as the images that accuracy is chosen and tested by are others.

    Args:
        road: the stages of the run.
        shrunk: the model to quantise; it is not changed.
        made_from: its fingerprint.
    """
    section = road.recipe.quantize
    if section is None:
        return {}
    path, fingerprint = road.folder / SCALES, road.made_from(made_from, "shrink", section)
    if vouched(path) == fingerprint:
        road.say(f"{NAME}: done before, read from {path}")
        scales = Scales.load(path)
    else:
        road.check_takes_over(path, vouched(path) in (None, fingerprint))
        road.say(f"{NAME}: finding scales for 8 bits on {section.samples} training images")
        began = time.monotonic()
        ((images, _),) = train.calibration_batches(road.data, section.samples, 1, road.device)
        batches = list(torch.split(images, _BATCH))
        scales = quantize(shrunk, batches, ranges=section.ranges, activations=section.activations)
        scales.save(path)
        vouch(path, fingerprint)
        Seconds(road.folder)[NAME] = time.monotonic() - began
    rounded = copy_model(shrunk)
    Quantizer(rounded, scales)
    return {NAME: rounded}
