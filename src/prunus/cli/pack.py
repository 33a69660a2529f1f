"""`prunus pack`: weights and what their model is, as one small file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from prunus.cli import options, subjects, terminal

if TYPE_CHECKING:
    from torch import nn

    from prunus.packing import PackFacts

Weights: TypeAlias = Annotated[Path, typer.Option(metavar="FILE", help="The weights to pack: a .safetensors file.")]
Out: TypeAlias = Annotated[Path, typer.Option(metavar="FILE", help="Where the packed model goes: a .prunus file.")]
Bits: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="K", help="Let the weights of each layer share at most 2^K values, K from 1 to 8. Otherwise lossless."
    ),
]
Force: TypeAlias = Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")]


def pack(
    weights: Weights,
    model: Annotated[str, options.MODEL],
    out: Out,
    arg: options.Arguments = None,
    shape: options.Shape = None,
    bits: Bits = None,
    force: Force = False,
) -> None:
    """Pack a model into a small file that loads without its class.

    Zeros are left out, and what stays is coded by how often it occurs; every bit comes back, unless --bits is given.
    A model of your own is traced, which takes the --shape of one of its inputs.

    \b
    Examples:
      prunus pack --weights sparse.safetensors --model lenet --out lenet.prunus
      prunus pack --weights cnn.safetensors --model my_models:cnn \\
          --shape 3,32,32 --bits 5 --out cnn.prunus
      python -c "import prunus; model = prunus.load('cnn.prunus')"
    """
    from prunus import packing as packing
    from prunus.lab import factory, models
    from prunus.packing import checkpoints

    check_free(out, force)
    arguments = factory.parse_arguments(arg or ())
    network = subjects.make(model, arguments)
    checkpoints.load_into(network, checkpoints.read(weights))
    inputs = subjects.example_inputs(shape, [model], arguments, network)
    if inputs is None and model not in models.MODELS:
        raise ValueError(f"a model of your own is traced, which takes an input; give the --shape of one for {model!r}")
    facts = packing.save(network, out, example_inputs=inputs, bits=bits)
    _tell(facts, network, out)


def check_free(target: Path, force: bool) -> None:
    """Raise OSError if a file can't be written there, or is there already and must not be replaced."""
    if target.is_dir():
        raise IsADirectoryError(f"{str(target)!r} is a directory; give the name of a file in it")
    if target.exists() and not force:
        raise FileExistsError(f"{str(target)!r} is there already; give another name, or --force to replace it")


def _tell(facts: PackFacts, network: nn.Module, out: Path) -> None:
    terminal.show_table(("tensor", "shape", "coding", "nonzero", "bytes"), _rows(facts), names=3)
    console = terminal.lines()
    for sentence in ("", *_sentences(facts, network, out)):
        console.print(terminal.printable(sentence))


def _rows(facts: PackFacts) -> Iterator[tuple[str, ...]]:
    for tensor in facts.tensors:
        shape = "x".join(map(str, tensor.shape))
        yield tensor.name, shape, tensor.coding, f"{tensor.nonzero:,}", f"{tensor.bytes:,.0f}"
    yield "header", "", facts.kind, "", f"{facts.header_bytes:,}"
    yield "all of it", "", "", f"{sum(tensor.nonzero for tensor in facts.tensors):,}", f"{facts.bytes:,}"


def _sentences(facts: PackFacts, network: nn.Module, out: Path) -> Iterator[str]:
    from prunus.packing.sizes import sizes

    found = sizes(network.state_dict())
    others = [f"{found.bytes[name]:,} {told}" for name, told in _OTHERS.items() if name in found.bytes]
    yield f"{str(out)!r} has {facts.bytes:,} bytes; the same model has {', '.join(others)}."
    yield from found.notes
    yield f"To have it back: prunus.load({str(out)!r})"


_OTHERS = {"safetensors": "as safetensors", "gzip": "through gzip -9", "zstd": "through zstd -19"}
