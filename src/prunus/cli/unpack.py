"""`prunus unpack`: the weights of a packed model, as plain safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from prunus.cli import terminal
from prunus.cli.pack import Force, check_free

Packed: TypeAlias = Annotated[Path, typer.Argument(metavar="FILE", help="A .prunus file.", show_default=False)]
Out: TypeAlias = Annotated[
    Path, typer.Option(metavar="FILE", help="Where the weights go: a .safetensors file, a plain state dict.")
]
MaxBytes: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="How much memory the tensors may take; otherwise 16 MiB or 2,000 times the file, the larger."
    ),
]


def unpack(packed: Packed, out: Out, max_bytes: MaxBytes = None, force: Force = False) -> None:
    """Unpack the weights of a .prunus file into a safetensors file.

    \b
    Examples:
      prunus unpack lenet.prunus --out lenet.safetensors
    """
    from prunus import files
    from prunus import packing as packing

    check_free(out, force)
    tensors = packing.read_tensors(packed, max_bytes=max_bytes)
    files.save_tensors(out, tensors)
    before, after = packed.stat().st_size, out.stat().st_size
    terminal.lines().print(
        terminal.printable(
            f"{str(out)!r} has {terminal.plural(len(tensors), 'tensor')} in {after:,} bytes; "
            f"{str(packed)!r} has {before:,}."
        )
    )
