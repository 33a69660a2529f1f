"""`prunus prune`: prune anybody's weights, from a file to a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from prunus.cli import options, subjects, terminal

if TYPE_CHECKING:
    from torch import nn

    from prunus.checkpoints import Checkpoint
    from prunus.criteria import Criterion
    from prunus.masks import Masks

Weights: TypeAlias = Annotated[Path, typer.Option(metavar="FILE", help="The weights to prune: a .safetensors file.")]
Sparsity: TypeAlias = Annotated[
    float, typer.Option(metavar="S", help="The fraction of the weights to remove, in [0, 1).")
]
Out: TypeAlias = Annotated[
    Path, typer.Option(metavar="FILE", help="Where the pruned weights go, under the same names and in the same dtypes.")
]
CriterionName: TypeAlias = Annotated[
    str, typer.Option(metavar="NAME", help="How much a weight matters; see 'prunus ls criteria'.")
]
PatternName: TypeAlias = Annotated[
    str, typer.Option(metavar="NAME", help="What is removed together; see 'prunus ls patterns'.")
]
ScopeName: TypeAlias = Annotated[
    str, typer.Option(metavar="NAME", help="How the sparsity is spread over the layers; see 'prunus ls scopes'.")
]
Include: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LAYER",
        help="Prune only this: a parameter, a module, a pattern such as 'encoder.*', or a class such as Linear. "
        "Repeatable.",
    ),
]
Exclude: TypeAlias = Annotated[
    list[str] | None, typer.Option(metavar="LAYER", help="Leave this alone, named likewise. Repeatable.")
]
Seed: TypeAlias = Annotated[int, typer.Option(metavar="N", help="For criteria that draw random numbers.")]
MinKept: TypeAlias = Annotated[
    int, typer.Option(metavar="N", help="How many weights, or blocks, every layer keeps at least.")
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
    include: Include = None,
    exclude: Exclude = None,
    seed: Seed = 0,
    min_kept: MinKept = 1,
    masks_file: MasksFile = None,
    force: Force = False,
) -> None:
    """Prune the weights in a file, and write them to another.

    With --model, the weights of its linear, convolution, attention and recurrent layers are pruned. Without,
    only names and shapes are known: every floating-point tensor of two or more dimensions counts, embeddings
    too, biases never.

    \b
    Examples:
      prunus prune --weights in.safetensors --sparsity 0.9 --out out.safetensors
      prunus prune --model my_models:cnn --weights cnn.safetensors \\
          --sparsity 0.5 --pattern 2:4 --arg width=64 --out cnn-24.safetensors
    """
    from prunus import checkpoints, method, pruning

    _check_free([out] if masks_file is None else [out, masks_file], force)
    _refuse_data(method.check_method(sparsity, criterion, pattern, scope).criterion)
    checkpoint = checkpoints.read(weights)
    network = _network(checkpoint, model, arg or ())
    masks = pruning.prune(
        network,
        sparsity,
        criterion=criterion,
        pattern=pattern,
        scope=scope,
        include=include or _by_default(model),
        exclude=exclude or (),
        seed=seed,
        min_kept=min_kept,
    )
    checkpoints.apply_masks(masks, checkpoint.tensors, network)
    header = {key: text for key, text in checkpoint.header.items() if key != _OWN_ENTRY}
    checkpoints.save(out, checkpoint.tensors, header)
    if masks_file is not None:
        masks.save(masks_file)
    _tell(masks, checkpoint, out, masks_file)


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
    from prunus import checkpoints, factory

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


def _tell(masks: Masks, checkpoint: Checkpoint, out: Path, masks_file: Path | None) -> None:
    headers = ("layer", "shape", "weights", "pruned", "sparsity")
    terminal.show_table(headers, _rows(masks), names=2)
    console = terminal.lines()
    for sentence in ("", *_sentences(checkpoint, out, masks_file)):
        console.print(terminal.printable(sentence))


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


def _rows(masks: Masks) -> Iterator[tuple[str, ...]]:
    for name, mask in masks.items():
        pruned = mask.numel() - int(mask.count_nonzero())
        yield (
            name,
            "x".join(map(str, mask.shape)),
            f"{mask.numel():,}",
            f"{pruned:,}",
            f"{pruned / max(mask.numel(), 1):.1%}",
        )
    yield "all of them", "", f"{masks.num_weights:,}", f"{masks.num_pruned:,}", f"{masks.sparsity:.1%}"
