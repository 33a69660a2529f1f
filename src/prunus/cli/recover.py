"""`prunus recover`: a pruned model's accuracy back, from samples without labels."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import prunus
from prunus.cli import calibration, outputs, terminal
from prunus.cli.options import File, Force, Name
from prunus.cli.prune import OWN_ENTRY
from prunus.cli.subjects import Maker

if TYPE_CHECKING:
    from torch import Tensor

    from prunus.packing.checkpoints import Checkpoint


def recover(
    *,
    weights: File,
    masks: File,
    calibrate: Annotated[str, Parameter(metavar="SAMPLES")],
    out: File,
    source: Maker = Maker(),
    dense: File | None = None,
    choose: Name | None = None,
    new_masks: File | None = None,
    samples: Annotated[int, Parameter(metavar="N")] = 256,
    minutes: Annotated[float, Parameter(metavar="M")] = 0.0,
    force: Force = False,
) -> None:
    """Get a pruned model's accuracy back, from samples without labels.

    The weights that stay are refitted, layer by layer, so that the pruned model gives what the dense one gives.

    For example:
      prunus prune --model lenet --weights dense.safetensors --sparsity 0.9 \\
          --out pruned.safetensors --masks masks.safetensors
      prunus recover --model lenet --weights dense.safetensors \\
          --masks masks.safetensors --calibrate mnist --out recovered.safetensors
      prunus recover --model my_models:cnn --weights pruned.safetensors \\
          --dense cnn.safetensors --masks masks.safetensors \\
          --calibrate images.safetensors --choose unstructured \\
          --new-masks new.safetensors --out recovered.safetensors

    Args:
        weights: The weights from before pruning; or the pruned ones, with --dense.
        masks: The masks that 'prunus prune --masks' wrote.
        calibrate: The samples: a data set that 'prunus ls data' lists, whose training images are normalised as
            'prunus run' does; or a .safetensors file with one tensor, or one for each argument of the model's forward.
        out: Where the recovered weights go, under the same names and in the same dtypes.
        dense: The weights from before pruning, where --weights are the pruned ones.
        choose: Choose as many weights in each layer anew, which helps most at high sparsity: unstructured, or, such as
            2:4, the pattern that the masks are of.
        new_masks: Where the masks go that were chosen; needed with --choose.
        samples: So many samples are used; a quarter of them is held out to measure errors on.
        minutes: Train so long afterwards toward the dense model's outputs, on the same samples.
    """
    from prunus.packing import checkpoints

    outputs.check_free(force, out, *([] if new_masks is None else [new_masks]))
    read = {path.resolve() for path in (weights, masks, Path(calibrate), *([] if dense is None else [dense]))}
    for target in (out, *([] if new_masks is None else [new_masks])):
        if target.resolve() in read:
            raise ValueError(f"{str(target)!r} is read by this command, so it can't be written; give another name")
    if source.model is None:
        raise ValueError("the layers' inputs are read off a run of the model; say which it is with --model")
    if (choose is None) != (new_masks is None):
        raise ValueError("--choose makes new masks, and --new-masks says where they go; give both or neither")
    checkpoint = checkpoints.read(weights)
    network, teacher = source.make(source.model), None
    checkpoints.load_into(network, checkpoint)
    if dense is not None:
        teacher = source.make(source.model)
        checkpoints.load_into(teacher, checkpoints.read(dense))
    batches = calibration.batches(calibrate, samples, next(network.parameters()).detach())
    with calibration.shown() as progress:
        result = prunus.recover(
            network,
            prunus.Masks.load(masks),
            batches,
            dense=teacher,
            choose=False if choose is None else choose,
            minutes=minutes,
            progress=progress,
        )
    _save(checkpoint, network.state_dict(), out)
    if new_masks is not None:
        result.masks.save(new_masks)
    terminal.show(str(result), "", *_sentences(out, new_masks or masks, source))


def _save(checkpoint: Checkpoint, state: Mapping[str, Tensor], out: Path) -> None:
    """Write the tensors that the checkpoint had, in its own dtypes."""
    from prunus.packing import checkpoints

    tensors = {name: state[name].to(tensor.dtype).clone() for name, tensor in checkpoint.tensors.items()}
    checkpoints.save(out, tensors, {key: text for key, text in checkpoint.header.items() if key != OWN_ENTRY})


def _sentences(out: Path, masks: Path, source: Maker) -> Iterator[str]:
    yield f"{str(out)!r} holds the recovered weights, with the zeros of {str(masks)!r}."
    packed = shlex.join(
        ["prunus", "pack", *source.words(), "--weights", str(out), "--out", str(out.with_suffix(".prunus"))]
    )
    yield f"To pack them into a small file: {packed}"
