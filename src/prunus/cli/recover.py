"""`prunus recover`: a pruned model's accuracy back, from samples without labels."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import prunus
from prunus.cli import outputs, terminal
from prunus.cli.options import File, Force, Name
from prunus.cli.prune import OWN_ENTRY
from prunus.cli.subjects import Maker

if TYPE_CHECKING:
    from torch import Tensor

    from prunus.packing.checkpoints import Checkpoint
    from prunus.pruning.stats import Batch
    from prunus.recovering import Progress

_BATCH = 64


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
    batches = _batches(calibrate, samples, next(network.parameters()).detach())
    with _shown() as progress:
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


def _batches(calibrate: str, count: int, like: Tensor) -> list[Batch]:
    """Return so many samples in batches; floating-point ones in the dtype of a tensor.

    Raises:
        ValueError: it is neither a data set nor a file of samples.
    """
    if count < 2:
        raise ValueError(f"--samples must be at least 2, since some are held out to measure errors on; got {count}")
    tensors = _samples(calibrate, count)
    cast = [value.to(like.dtype) if value.is_floating_point() else value for value in tensors.values()]
    starts = range(0, min(count, len(cast[0])), _BATCH)
    parts = [[value[start : min(start + _BATCH, count)] for value in cast] for start in starts]
    return [part[0] if len(part) == 1 else dict(zip(tensors, part, strict=True)) for part in parts]


def _samples(calibrate: str, count: int) -> dict[str, Tensor]:
    from prunus import files
    from prunus.lab import data

    if calibrate in data.DATASETS:
        from prunus.lab.train import calibration_batches

        ((images, _),) = calibration_batches(data.load(calibrate), count, 1)
        return {"": images}
    path = Path(calibrate)
    if not path.is_file() or path.suffix != ".safetensors":
        raise ValueError(
            f"--calibrate takes a .safetensors file of samples, or a data set: {', '.join(data.names())}; got "
            f"{calibrate!r}"
        )
    tensors = files.load_tensors(path)
    if (
        not tensors
        or len({value.shape[:1] for value in tensors.values()}) != 1
        or not next(iter(tensors.values())).ndim
    ):
        shapes = ", ".join(f"{name} {terminal.by_x(value.shape)}" for name, value in list(tensors.items())[:4])
        raise ValueError(
            f"{calibrate!r} must hold a tensor for each argument of the model's forward, with as many samples in each "
            f"along the first dimension; it holds {shapes or 'nothing'}"
        )
    return tensors


@contextlib.contextmanager
def _shown() -> Iterator[Progress]:
    """Show on a terminal what is being done."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("reading the model's graph", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)


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
