"""`prunus explain`: which channels of a model can go, which do, and why the others stay."""

from __future__ import annotations

import prunus
from prunus.cli import terminal
from prunus.cli.options import Channels, File
from prunus.cli.subjects import OneModel, Packed


def explain(
    file: Packed = None,
    /,
    *,
    source: OneModel = OneModel(),
    masks: File | None = None,
    choice: Channels = Channels(),
) -> None:
    """Explain which channels of a model can go, and why.

    For each layer: how many channels, heads or groups it has, how many go when the model is shrunk as it is
    now, how many stay, and why: what they are coupled with, and what protects them.

    For example:
      prunus explain --model resnet20
      prunus explain --model lenet --weights pruned.safetensors
      prunus explain --model my_models:cnn --shape 3,32,32 \\
          --exclude 'head.*' --pattern channel:round_to=8
      prunus explain small.prunus

    Args:
        masks: The masks that 'prunus prune --masks' wrote; otherwise the model's own zeros.
    """
    mask = None if masks is None else prunus.Masks.load(masks)
    subject, network = source.load(file)
    explanation = prunus.explain(network, source.inputs(subject, network), masks=mask, **vars(choice))
    terminal.show(str(explanation))
