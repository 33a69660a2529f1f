"""`prunus prune`: prune anybody's weights, from a file to a file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from prunus.cli import options, subjects, terminal

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunus.packing.checkpoints import Checkpoint
    from prunus.pruning.criteria import Criterion
    from prunus.pruning.masks import Masks

Weights: TypeAlias = Annotated[Path, typer.Option(metavar="FILE", help="The weights to prune: a .safetensors file.")]
Sparsity: TypeAlias = Annotated[
    float, typer.Option(metavar="S", help="The fraction of the weights to remove, in [0, 1).")
]
Out: TypeAlias = Annotated[
    Path, typer.Option(metavar="FILE", help="Where the pruned weights go, under the same names and in the same dtypes.")
]
CriterionName: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="How much a weight matters; see 'prunus ls criteria'. With options: random:seed=3."
    ),
]
PatternName: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What is removed together; see 'prunus ls patterns'. With options: channel:round_to=8,budget=macs.",
    ),
]
ScopeName: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="How the sparsity is spread over the layers; see 'prunus ls scopes'. With options: global:min_kept=16.",
    ),
]
MasksFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--masks", metavar="FILE", help="Where the masks go, to keep the zeros while training goes on."),
]
Force: TypeAlias = Annotated[bool, typer.Option("--force", help="Replace files that are there already.")]

# Where prunus.files keeps, among others, what a run knows its own results by: it is not true of what is made of them.
_OWN_ENTRY = "prunus"


def prune(
    weights: Weights,
    sparsity: Sparsity,
    out: Out,
    model: Annotated[str | None, options.MODEL] = None,
    arg: options.Arguments = None,
    criterion: CriterionName = "magnitude",
    pattern: PatternName = "unstructured",
    scope: ScopeName = "global",
    include: options.Include = None,
    exclude: options.Exclude = None,
    shape: options.Shape = None,
    masks_file: MasksFile = None,
    force: Force = False,
) -> None:
    """Prune the weights in a file, and write them to another.

    With --model, the weights of its linear, convolution, attention and recurrent layers are pruned. Without,
    only names and shapes are known: every floating-point tensor of two or more dimensions counts, embeddings
    too, biases never.

    --pattern channel prunes whole channels, neurons and heads, with all that other layers couple with them. It reads
    the model's graph, so it needs --model, and the --shape of one input if the model is your own.

    \b
    Examples:
      prunus prune --weights in.safetensors --sparsity 0.9 --out out.safetensors
      prunus prune --model my_models:cnn --weights cnn.safetensors \\
          --sparsity 0.5 --pattern 2:4 --arg width=64 --out cnn-24.safetensors
      prunus prune --model lenet --weights in.safetensors \\
          --sparsity 0.5 --pattern channel --out channels.safetensors
    """
    from prunus import pruning
    from prunus.packing import checkpoints
    from prunus.pruning import method, patterns

    _check_free([out] if masks_file is None else [out, masks_file], force)
    chosen = method.check_method(sparsity, criterion, pattern, scope)
    _refuse_data(chosen.criterion)
    by_channel = isinstance(chosen.pattern, patterns.Channels)
    _check_for_channels(by_channel, model, shape)
    checkpoint = checkpoints.read(weights)
    network = _network(checkpoint, model, arg or ())
    inputs = _inputs(network, str(model), arg or (), shape) if by_channel else None
    masks = pruning.prune(
        network,
        sparsity,
        criterion=criterion,
        pattern=pattern,
        scope=scope,
        include=include or _by_default(model),
        exclude=exclude or (),
        example_inputs=inputs,
    )
    checkpoints.apply_masks(masks, checkpoint.tensors, network)
    header = {key: text for key, text in checkpoint.header.items() if key != _OWN_ENTRY}
    checkpoints.save(out, checkpoint.tensors, header)
    if masks_file is not None:
        masks.save(masks_file)
    terminal.show_table(("layer", "shape", "weights", "pruned", "sparsity"), _rows(masks, by_channel), names=2)
    closing = list(_sentences(checkpoint, out, masks_file))
    if by_channel:
        by_macs = isinstance(chosen.pattern, patterns.Channels) and chosen.pattern.budget == "macs"
        closing[1:1] = _of_channels(str(model), arg or (), shape, out, by_macs)
    console = terminal.lines()
    for sentence in ("", *closing):
        console.print(terminal.printable(sentence))


def _check_free(targets: Sequence[Path], force: bool) -> None:
    if len({target.absolute() for target in targets}) < len(targets):
        raise ValueError(f"--out and --masks are the same file, {str(targets[0])!r}; give two")
    for target in targets:
        if target.is_dir():
            raise IsADirectoryError(f"{str(target)!r} is a directory; give the name of a file in it")
        if target.exists() and not force:
            raise FileExistsError(f"{str(target)!r} is there already; give another name, or --force to replace it")


def _refuse_data(criterion: Criterion) -> None:
    if criterion.needs:
        raise ValueError(
            f"criterion {criterion.name!r} needs data, which a file of weights does not have; prune in Python: "
            f"prunus.prune(model, sparsity, criterion={criterion.name!r}, data=batches), or choose another criterion"
        )


def _network(checkpoint: Checkpoint, source: str | None, settings: Sequence[str]) -> nn.Module:
    from prunus.lab import factory
    from prunus.packing import checkpoints

    arguments = factory.parse_arguments(settings)
    if source is None:
        if arguments:
            raise ValueError(f"--arg is for what makes the model, but there is no --model; got {', '.join(settings)}")
        return checkpoints.as_module(checkpoint.tensors)
    network = subjects.make(source, arguments)
    checkpoints.load_into(network, checkpoint)
    return network


def _by_default(source: str | None) -> tuple[type[nn.Module], ...]:
    """What is pruned where the user names nothing: the engine chooses by class, which a bare file does not tell."""
    from torch import nn

    return (nn.Module,) if source is None else ()


def _check_for_channels(by_channel: bool, source: str | None, shape: str | None) -> None:
    if by_channel and source is None:
        raise ValueError(
            "pattern 'channel' has to see how layers are coupled, which a file of weights does not tell; say which "
            "model it is of with --model"
        )
    if shape is not None and not by_channel:
        raise ValueError("--shape is for --pattern channel, which runs the model; other patterns look at weights only")


def _inputs(network: nn.Module, source: str, settings: Sequence[str], shape: str | None) -> Tensor:
    from prunus.lab import factory

    inputs = subjects.example_inputs(shape, [source], factory.parse_arguments(settings), network)
    if inputs is None:
        raise ValueError(
            f"pattern 'channel' reads the model's graph, which takes an input; give the --shape of one for {source!r}"
        )
    return inputs


def _of_channels(source: str, settings: Sequence[str], shape: str | None, out: Path, by_macs: bool) -> Iterator[str]:
    """Say how zeros that are whole channels become a smaller model."""
    if by_macs:
        yield "The sparsity asked for is that of the multiply-adds; of the weights, the table tells it."
    words = ["prunus", "shrink", "--model", source]
    words += [word for setting in settings for word in ("--arg", setting)]
    words += ["--shape", shape] if shape is not None else []
    words += ["--weights", str(out), "--out", str(out.with_suffix(".prunus"))]
    yield f"To remove the channels, so that it gets smaller and faster: {shlex.join(words)}"


def _sentences(checkpoint: Checkpoint, out: Path, masks_file: Path | None) -> Iterator[str]:
    before, after = checkpoint.num_bytes, out.stat().st_size
    yield (
        f"{str(out)!r} has {after:,} bytes, {str(checkpoint.path)!r} had {before:,}: zeros alone make a file neither "
        "smaller nor faster, since a zero is stored and multiplied like any other number."
    )
    if checkpoint.num_masks:
        masks = terminal.plural(checkpoint.num_masks, "mask")
        yield f"The input held {masks} of torch.nn.utils.prune, applied here; the output is that of a plain model."
    if masks_file is not None:
        yield f"To keep the zeros while training goes on, after each step: Masks.load({str(masks_file)!r}).apply(model)"


def _rows(masks: Masks, by_channel: bool) -> Iterator[tuple[str, ...]]:
    """Yield a row for each weight; where whole channels went, one for all biases and norms together."""
    rest = {name: mask for name, mask in masks.items() if by_channel and mask.ndim < 2}
    for name, mask in masks.items():
        if name not in rest:
            shape = "x".join(map(str, mask.shape))
            yield _row(name, shape, mask.numel(), mask.numel() - int(mask.count_nonzero()))
    if rest:
        pruned = sum(mask.numel() - int(mask.count_nonzero()) for mask in rest.values())
        yield _row("biases and norms", "", sum(mask.numel() for mask in rest.values()), pruned)
    yield _row("all of them", "", masks.num_weights, masks.num_pruned)


def _row(name: str, shape: str, weights: int, pruned: int) -> tuple[str, ...]:
    return name, shape, f"{weights:,}", f"{pruned:,}", f"{pruned / max(weights, 1):.1%}"
