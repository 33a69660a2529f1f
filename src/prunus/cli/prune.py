"""`prunus prune`: prune anybody's weights, from a file to a file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import prunus
from prunus.cli import outputs, terminal
from prunus.cli.options import File, Force, Scored, Sparsity
from prunus.cli.subjects import Source, Subject

if TYPE_CHECKING:
    from torch import nn

    from prunus.packing.checkpoints import Checkpoint
    from prunus.pruning.patterns import Channels

# Where prunus.files keeps, among others, what a run knows its own results by: it is not true of what is made of them.
OWN_ENTRY = "prunus"


def prune(
    *,
    weights: File,
    sparsity: Sparsity,
    out: File,
    source: Source = Source(),
    choice: Scored = Scored(),
    masks: File | None = None,
    force: Force = False,
) -> None:
    """Prune the weights in a file, and write them to another.

    With --model, the weights of its linear, convolution, attention and recurrent layers are pruned. Without,
    only names and shapes are known: every floating-point tensor of two or more dimensions counts, embeddings
    too, biases never.

    --pattern channel prunes whole channels, neurons and heads, with all that other layers couple with them. It reads
    the model's graph, so it needs --model, and the --shape of one input if the model is your own.

    For example:
      prunus prune --weights in.safetensors --sparsity 0.9 --out out.safetensors
      prunus prune --model my_models:cnn --weights cnn.safetensors \\
          --sparsity 0.5 --pattern 2:4 --arg width=64 --out cnn-24.safetensors
      prunus prune --model lenet --weights in.safetensors \\
          --sparsity 0.5 --pattern channel --out channels.safetensors
      prunus prune --model lenet --weights in.safetensors \\
          --sparsity '50 kB' --out small.safetensors

    Args:
        weights: The weights to prune: a .safetensors file.
        sparsity: The fraction of the weights to remove, in [0, 1); or of single layers, as in conv1=0.5,fc*=0.95: of
            several that match, the last counts, and what none matches is left alone. A target says what may be left:
            '200 kB' or KiB of the packed file, '1.2M parameters', '30% MACs', '2 ms' or '300 us in openvino-int8'.
        out: Where the pruned weights go, under the same names and in the same dtypes.
        masks: Where the masks go, to keep the zeros while training goes on.
    """
    from prunus.packing import checkpoints
    from prunus.pruning.budgets import needs_inputs

    outputs.check_free(force, out, *([] if masks is None else [masks]))
    if out.suffix == ".prunus":
        raise ValueError(
            f"--out is a file of weights, such as {str(out.with_suffix('.safetensors'))!r}; 'prunus pack' makes a "
            f".prunus file of it; got {str(out)!r}"
        )
    channels = _checked(sparsity, choice, source)
    checkpoint = checkpoints.read(weights)
    network = _network(checkpoint, source)
    runs = channels is not None or (isinstance(sparsity, str) and needs_inputs(sparsity))
    inputs = source.inputs(Subject(str(source.model), source.model, weights), network) if runs else None
    settings = vars(choice) | {"include": choice.include or _by_default(source)}
    pruned = prunus.prune(network, sparsity, example_inputs=inputs, **settings)
    checkpoints.apply_masks(pruned, checkpoint.tensors, network)
    header = {key: text for key, text in checkpoint.header.items() if key != OWN_ENTRY}
    checkpoints.save(out, checkpoint.tensors, header)
    if masks is not None:
        pruned.save(masks)
    rows = _rows(pruned, channels is not None)
    terminal.show_table(("layer", "shape", "weights", "pruned", "sparsity"), rows, names=2)
    terminal.show("", *_sentences(checkpoint, out, masks, *_of_channels(channels, source, out)))
    if isinstance(sparsity, str) and channels is None:
        words = ["prunus", "pack", *source.words(), "--weights", str(out), "--out", str(out.with_suffix(".prunus"))]
        terminal.show(f"The target of {sparsity} is met by the packed model: {shlex.join(words)}")


def _checked(sparsity: float | str | dict[str, float], choice: Scored, source: Source) -> Channels | None:
    """Return the pattern if it takes whole channels.

    Raises:
        ValueError: a method is unknown, or needs what a file of weights does not have; an option would have no effect.
    """
    from prunus.pruning import budgets
    from prunus.pruning.method import check_method
    from prunus.pruning.patterns import Channels

    limit = budgets.parse(sparsity) if isinstance(sparsity, str) else None
    if limit is not None and source.model is None:
        raise ValueError(f"--sparsity {limit.text!r} needs the model; name it with --model")
    largest = max(sparsity.values()) if isinstance(sparsity, dict) else sparsity
    if isinstance(largest, str):
        largest = budgets.start(choice.pattern, largest)
    method = check_method(largest, choice.criterion, choice.pattern, choice.scope)
    channels = method.pattern if isinstance(method.pattern, Channels) else None
    if method.criterion.needs:
        name = method.criterion.name
        raise ValueError(
            f"criterion {name!r} needs data, which a file of weights does not have; prune in Python: "
            f"prunus.prune(model, sparsity, criterion={name!r}, data=batches), or choose another criterion"
        )
    if method.scope.needs_curves:
        raise ValueError(
            "scope 'least_error' needs data, which a file of weights does not have; 'prunus search' has some, or prune "
            "in Python: prunus.prune(model, sparsity, scope='least_error', data=batches)"
        )
    if channels and source.model is None:
        raise ValueError(
            "pattern 'channel' has to see how layers are coupled, which a file of weights does not tell; say which "
            "model it is of with --model"
        )
    if not (channels or limit) and (source.shape or source.input):
        raise ValueError(
            "--shape and --input are for --pattern channel and targets, which run the model; other patterns look at "
            "weights only"
        )
    if source.arg and source.model is None:
        raise ValueError(f"--arg is for what makes the model, but there is no --model; got {', '.join(source.arg)}")
    return channels


def _network(checkpoint: Checkpoint, source: Source) -> nn.Module:
    from prunus.packing import checkpoints

    if source.model is None:
        return checkpoints.as_module(checkpoint.tensors)
    network = source.make(source.model)
    checkpoints.load_into(network, checkpoint)
    return network


def _by_default(source: Source) -> tuple[type[nn.Module], ...]:
    """What is pruned where the user names nothing: the engine chooses by class, which a bare file does not tell."""
    from torch import nn

    return (nn.Module,) if source.model is None else ()


def _of_channels(channels: Channels | None, source: Source, out: Path) -> Iterator[str]:
    """Say how zeros that are whole channels become a smaller model."""
    if channels is not None:
        if channels.budget == "macs":
            yield "The sparsity asked for is that of the multiply-adds; of the weights, the table tells it."
        files = ["--weights", str(out), "--out", str(out.with_suffix(".prunus"))]
        command = shlex.join(["prunus", "shrink", *source.words(), *files])
        yield f"To remove the channels, so that it gets smaller and faster: {command}"


def _sentences(checkpoint: Checkpoint, out: Path, masks: Path | None, *of_channels: str) -> Iterator[str]:
    before, after = checkpoint.num_bytes, out.stat().st_size
    yield (
        f"{str(out)!r} has {after:,} bytes, {str(checkpoint.path)!r} had {before:,}: zeros alone make a file neither "
        "smaller nor faster, since a zero is stored and multiplied like any other number."
    )
    yield from of_channels
    if checkpoint.num_masks:
        count = terminal.plural(checkpoint.num_masks, "mask")
        yield f"The input held {count} of torch.nn.utils.prune, applied here; the output is that of a plain model."
    if masks is not None:
        yield f"To keep the zeros while training goes on, after each step: Masks.load({str(masks)!r}).apply(model)"


def _rows(masks: prunus.Masks, by_channel: bool) -> Iterator[tuple[str, ...]]:
    """Yield a row for each weight; where whole channels went, one for all biases and norms together."""
    rows = (
        outputs.Row(
            name,
            (terminal.by_x(mask.shape),),
            (mask.numel(), mask.numel() - int(mask.count_nonzero())),
            minor=by_channel and mask.ndim < 2,
        )
        for name, mask in masks.items()
    )
    for name, shapes, (weights, pruned), _ in outputs.with_totals(rows):
        yield name, *shapes, f"{weights:,}", f"{pruned:,}", f"{pruned / max(weights, 1):.1%}"
