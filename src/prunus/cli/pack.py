"""`prunus pack` and `prunus unpack`: a model as one small file, and its weights back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import prunus
from prunus.cli import outputs, terminal
from prunus.cli.options import File, Force
from prunus.cli.subjects import OneModel, Packed

if TYPE_CHECKING:
    from prunus.packing import PackFacts

_OTHERS = {"safetensors": "as safetensors", "gzip": "through gzip -9", "zstd": "through zstd -19"}


def pack(
    file: Packed = None,
    /,
    *,
    source: OneModel = OneModel(),
    out: File,
    codebook_bits: Annotated[int | None, Parameter(metavar="K")] = None,
    force: Force = False,
) -> None:
    """Pack a model into a small file that loads without its class.

    Zeros are left out, and what stays is coded by how often it occurs; every bit comes back, unless --codebook-bits is
    given. A model of your own is traced, which takes the --shape of one of its inputs.

    For example:
      prunus pack --weights sparse.safetensors --model lenet --out lenet.prunus
      prunus pack --weights cnn.safetensors --model my_models:cnn \\
          --shape 3,32,32 --codebook-bits 5 --out cnn.prunus
      python -c "import prunus; model = prunus.load('cnn.prunus')"

    Args:
        out: Where the packed model goes: a .prunus file.
        codebook_bits: Let the weights of each layer share at most 2^K values, K from 1 to 8; otherwise every bit is
            kept.
    """
    from prunus.packing.sizes import sizes

    outputs.check_free(force, out)
    subject, network = source.load_trained(file)
    facts = prunus.save(network, out, source.inputs(subject, network), codebook_bits=codebook_bits)
    terminal.show_table(("tensor", "shape", "coding", "nonzero", "bytes"), _rows(facts), names=3)
    stored = sizes(network.state_dict())
    others = [f"{stored.bytes[name]:,} {how}" for name, how in _OTHERS.items() if name in stored.bytes]
    terminal.show(
        "",
        f"{str(out)!r} has {facts.bytes:,} bytes; the same model has {', '.join(others)}.",
        *stored.notes,
        f"To have it back: prunus.load({str(out)!r})",
    )


def unpack(
    file: File,
    /,
    *,
    out: File,
    max_bytes: Annotated[int | None, Parameter(metavar="N")] = None,
    force: Force = False,
) -> None:
    """Unpack the weights of a .prunus file into a safetensors file.

    For example:
      prunus unpack lenet.prunus --out lenet.safetensors

    Args:
        file: A .prunus file.
        out: Where the weights go: a .safetensors file, a plain state dict.
        max_bytes: How much memory the tensors may take; otherwise 16 MiB or 2,000 times the file, the larger.
    """
    from prunus import files

    outputs.check_free(force, out)
    tensors = prunus.packing.read_tensors(file, max_bytes=max_bytes)
    files.save_tensors(out, tensors)
    before, after = file.stat().st_size, out.stat().st_size
    count = terminal.plural(len(tensors), "tensor")
    terminal.show(f"{str(out)!r} has {count} in {after:,} bytes; {str(file)!r} has {before:,}.")


def _rows(facts: PackFacts) -> Iterator[tuple[str, ...]]:
    for tensor in facts.tensors:
        shape = terminal.by_x(tensor.shape)
        yield tensor.name, shape, tensor.coding, f"{tensor.nonzero:,}", f"{tensor.bytes:,.0f}"
    yield "header", "", facts.kind, "", f"{facts.header_bytes:,}"
    yield "all of it", "", "", f"{sum(tensor.nonzero for tensor in facts.tensors):,}", f"{facts.bytes:,}"
