"""`prunus shrink`: a pruned model without the channels that are zero, so really smaller."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import prunus
from prunus.cli import outputs, subjects, terminal
from prunus.cli.options import File, Force
from prunus.cli.subjects import OneModel, Packed

if TYPE_CHECKING:
    from torch import nn

_SUFFIXES = (".prunus", ".safetensors")


def shrink(
    file: Packed = None,
    /,
    *,
    source: OneModel = OneModel(),
    masks: File | None = None,
    out: File,
    force: Force = False,
) -> None:
    """Remove the channels, neurons and heads that are zero.

    The smaller model has the same outputs, which is checked on random inputs before anything is written. Zeros
    between weights that matter stay: only whole channels can go.

    For example:
      prunus prune --model lenet --weights dense.safetensors --sparsity 0.5 \\
          --pattern channel --out pruned.safetensors
      prunus shrink --model lenet --weights pruned.safetensors --out small.prunus

    Args:
        masks: The masks that 'prunus prune --masks' wrote; otherwise the model's own zeros.
        out: Where it goes: .prunus, which loads without the model's code, or .safetensors.
    """
    from prunus import files

    if out.suffix not in _SUFFIXES:
        raise ValueError(f"--out must end in .prunus or .safetensors, which tells the format; got {str(out)!r}")
    outputs.check_free(force, out)
    mask = None if masks is None else prunus.Masks.load(masks)
    subject, network = source.load_trained(file)
    inputs = source.inputs(subject, network)
    smaller = prunus.shrink(network, inputs, mask)
    if subjects.is_packed(out):
        prunus.save(smaller, out, example_inputs=inputs)
    else:
        files.save_tensors(out, smaller.state_dict())
    if mask is not None:
        mask.apply(network)
    rows = [
        (row.name, *row.shapes, *(f"{count:,}" for count in row.counts))
        for row in outputs.with_totals(_rows(network, smaller))
    ]
    terminal.show_table(("layer", "before", "after", "parameters", "left"), rows, names=3)
    terminal.show("", *_sentences(network, smaller, subject.weights, out))


def _rows(before: nn.Module, after: nn.Module) -> Iterator[outputs.Row]:
    """Yield a row for each parameter; one that went whole, or came instead of others, has one shape only."""
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    for name in {**old, **new}:
        both = old.get(name), new.get(name)
        shapes = tuple("" if tensor is None else terminal.by_x(tensor.shape) for tensor in both)
        counts = tuple(0 if tensor is None else tensor.numel() for tensor in both)
        yield outputs.Row(name, shapes, counts, minor=all(tensor is None or tensor.ndim < 2 for tensor in both))


def _sentences(before: nn.Module, after: nn.Module, path: Path | None, out: Path) -> Iterator[str]:
    from prunus.graph.exported import ExportedModule

    old, new = (sum(parameter.numel() for parameter in model.parameters()) for model in (before, after))
    if new < old:
        yield f"The model has {new:,} parameters in the place of {old:,} ({new / old:.1%}), and the same outputs."
    else:
        yield _why_nothing(before)
    yield from _checks(after)
    was = "" if path is None else f", {str(path)!r} has {path.stat().st_size:,}"
    yield f"{str(out)!r} has {out.stat().st_size:,} bytes{was}."
    if isinstance(after, ExportedModule) and after.why:
        yield f"It is kept as its graph, not in its own class: {after.why}."
    if subjects.is_packed(out):
        yield f"To have it back, without its code: prunus.load({str(out)!r})"
    elif new < old:
        yield (
            "The file holds weights only, and they don't fit the model as its code makes it; a .prunus file would "
            "tell the model too."
        )


def _checks(model: nn.Module) -> Iterator[str]:
    checked = getattr(model, "checked", None)
    if checked is None:
        return
    sizes = [" and ".join(terminal.by_x(shape) or "one number" for shape in shapes) for shapes in checked.sizes]
    others = f"; other sizes too: {', '.join(sizes[1:])}" if sizes[1:] else ""
    operations = "each operation by itself, and " if checked.operations else ""
    yield f"Checked: {operations}the outputs of {checked.samples} random samples of {sizes[0]}{others}."
    settings = [argument for argument in checked.arguments if "=" in argument]
    if settings:
        yield f"Also tried with: {', '.join(settings)}."
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
