"""`prunus shrink`: a pruned model without the channels that are zero, so really smaller."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from prunus.cli import options, subjects, terminal
from prunus.cli.explain import with_inputs
from prunus.cli.pack import Force, check_free

if TYPE_CHECKING:
    from torch import Tensor, nn

Weights: TypeAlias = Annotated[Path, typer.Option(metavar="FILE", help="The pruned weights: a .safetensors file.")]
Masks: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The masks that 'prunus prune --masks' wrote; otherwise the file's own zeros."),
]
Out: TypeAlias = Annotated[
    Path,
    typer.Option(metavar="FILE", help="Where it goes: .prunus, which loads without the model's code, or .safetensors."),
]

_SUFFIXES = (".prunus", ".safetensors")


def shrink(
    weights: Weights,
    model: Annotated[str, options.MODEL],
    out: Out,
    masks: Masks = None,
    arg: options.Arguments = None,
    shape: options.Shape = None,
    force: Force = False,
) -> None:
    """Remove the channels, neurons and heads that are zero.

    The smaller model has the same outputs, which is checked on random inputs before anything is written. Zeros
    between weights that matter stay: only whole channels can go.

    \b
    Examples:
      prunus prune --model lenet --weights dense.safetensors --sparsity 0.5 \\
          --pattern channel --out pruned.safetensors
      prunus shrink --model lenet --weights pruned.safetensors --out small.prunus
    """
    from prunus import shrinking
    from prunus.pruning import masks as masking

    _check_suffix(out)
    check_free(out, force)
    subject = subjects.named(None, model, weights, ())
    found = None if masks is None else masking.Masks.load(masks)
    network, inputs = with_inputs(subject, arg or [], shape)
    smaller = shrinking.shrink(network, inputs, found)
    _write(out, smaller, inputs)
    if found is not None:
        found.apply(network)
    terminal.show_table(("layer", "before", "after", "parameters", "left"), _rows(network, smaller), names=3)
    console = terminal.lines()
    for sentence in ("", *_sentences(network, smaller, weights, out)):
        console.print(terminal.printable(sentence))


def _check_suffix(out: Path) -> None:
    if out.suffix not in _SUFFIXES:
        raise ValueError(f"--out must end in .prunus or .safetensors, which tells the format; got {str(out)!r}")


def _write(out: Path, smaller: nn.Module, inputs: Tensor) -> None:
    from prunus import files
    from prunus import packing as packing

    if subjects.is_packed(out):
        packing.save(smaller, out, example_inputs=inputs)
    else:
        files.save_tensors(out, smaller.state_dict())


def _rows(before: nn.Module, after: nn.Module) -> Iterator[tuple[str, ...]]:
    """Yield a row for each weight of two dimensions or more, one for all the rest, and one for all."""
    left = dict(after.named_parameters())
    rest = {"before": 0, "after": sum(p.numel() for name, p in left.items() if p.ndim < 2)}
    for name, parameter in before.named_parameters():
        if parameter.ndim < 2:
            rest["before"] += parameter.numel()
            continue
        new = left.get(name)
        numel = 0 if new is None else new.numel()
        yield name, _shape(parameter), "" if new is None else _shape(new), f"{parameter.numel():,}", f"{numel:,}"
    if rest["before"] or rest["after"]:
        yield "biases and norms", "", "", f"{rest['before']:,}", f"{rest['after']:,}"
    yield "all of them", "", "", f"{_count(before):,}", f"{_count(after):,}"


def _sentences(before: nn.Module, after: nn.Module, weights: Path, out: Path) -> Iterator[str]:
    from prunus.graph.exported import ExportedModule

    old, new = _count(before), _count(after)
    if new < old:
        yield f"The model has {new:,} parameters in the place of {old:,} ({new / old:.1%}), and the same outputs."
    else:
        yield _why_nothing(before)
    yield from _checks(after)
    yield f"{str(out)!r} has {out.stat().st_size:,} bytes, {str(weights)!r} has {weights.stat().st_size:,}."
    if isinstance(after, ExportedModule) and after.why:
        yield f"It is kept as its graph, not in its own class: {after.why}."
    if subjects.is_packed(out):
        yield f"To have it back, without its code: prunus.load({str(out)!r})"
    elif new < old:
        yield (
            "The file holds weights only, and they don't fit the model as its code makes it; a .prunus file would "
            "tell the model too."
        )


def _checks(after: nn.Module) -> Iterator[str]:
    checked = getattr(after, "checked", None)
    if checked is None:
        return
    sizes = [" and ".join("x".join(map(str, shape)) or "one number" for shape in shapes) for shapes in checked.sizes]
    others = f"; other sizes too: {', '.join(sizes[1:])}" if sizes[1:] else ""
    yield (
        f"Checked: each operation by itself, and the outputs of {checked.samples} random samples of {sizes[0]}{others}."
    )
    if checked.batch is not None:
        yield f"The model's code fixes the batch to {checked.batch}, so the smaller model takes no other."


def _why_nothing(model: nn.Module) -> str:
    zeros = sum(int((parameter == 0).sum()) for parameter in model.parameters() if parameter.ndim > 1)
    if not zeros:
        return (
            "Nothing could be removed: no weight is zero. Prune first: prunus prune --pattern channel; "
            "'prunus explain' tells which channels can go."
        )
    return (
        f"Nothing could be removed, and the {zeros:,} zeros stay: a channel goes only when all weights that make it, "
        "or all that take it on, are zero. 'prunus explain' tells of each layer what can go; "
        "'prunus prune --pattern channel' prunes whole channels, and 'prunus pack' stores scattered zeros in few bytes."
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
