"""`prunus explain`: which channels of a model can go, which do, and why the others stay."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from prunus.cli import options, subjects, terminal

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunus.cli.subjects import Subject

Weights: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="The weights of --model, a .safetensors file; otherwise as the factory made them."
    ),
]
Masks: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The masks that 'prunus prune --masks' wrote; otherwise the model's own zeros."),
]
PatternName: TypeAlias = Annotated[
    str, typer.Option(metavar="NAME", help="As 'prunus prune' has it, such as channel:round_to=8.")
]
ScopeName: TypeAlias = Annotated[
    str, typer.Option(metavar="NAME", help="As 'prunus prune' has it, such as global:min_kept=8.")
]


def explain(
    packed: options.Packed = None,
    model: Annotated[str | None, options.MODEL] = None,
    weights: Weights = None,
    masks: Masks = None,
    arg: options.Arguments = None,
    shape: options.Shape = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    pattern: PatternName = "channel",
    scope: ScopeName = "global",
) -> None:
    """Explain which channels of a model can go, and why.

    For each layer: how many channels, heads or groups it has, how many go when the model is shrunk as it is
    now, how many stay, and why: what they are coupled with, and what protects them.

    \b
    Examples:
      prunus explain --model resnet20
      prunus explain --model lenet --weights pruned.safetensors
      prunus explain --model my_models:cnn --shape 3,32,32 \\
          --exclude 'head.*' --pattern channel:round_to=8
      prunus explain small.prunus
    """
    from prunus.pruning import masks as masking
    from prunus.shrinking import explaining

    subject = subjects.named(packed, model, weights, arg or ())
    found = None if masks is None else masking.Masks.load(masks)
    network, inputs = with_inputs(subject, arg or [], shape)
    explanation = explaining.explain(
        network,
        inputs,
        masks=found,
        include=include or (),
        exclude=exclude or (),
        pattern=pattern,
        scope=scope,
    )
    if explanation.layers:
        terminal.show_table(explaining.HEADERS, explanation.rows(), names=2, words=1)
        typer.echo()
    else:
        typer.echo("No layer of this model has channels.")
    terminal.lines().print(explanation.total())


def with_inputs(subject: Subject, settings: list[str], shape: str | None) -> tuple[nn.Module, Tensor]:
    """Return a subject's model and an input for it, which the reading of its graph takes.

    Raises:
        ValueError: no shape is known; or as `subjects.load`.
    """
    from prunus.lab import factory

    arguments = factory.parse_arguments(settings)
    network = subjects.load(subject, arguments)
    packed = subject.weights if subject.source is None else None
    inputs = subjects.example_inputs(shape, [subject.source], arguments, network, packed)
    if inputs is None:
        raise ValueError(
            f"channels are read off the model's graph, which takes an input; give the --shape of one for "
            f"{subject.source or str(subject.weights)!r}"
        )
    return network, inputs
