"""The `prunus` command: thin calls into the library, one small file for each command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from prunus.cli import compare, compile, doctor, explain, export, ls, measure, pack, prune, report, run, shrink, unpack
from prunus.cli.group import STOPPED, Command, Commands

__all__ = ["app", "main"]

app = typer.Typer(
    name="prunus",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help reads the same at a terminal, in a pipe and in a log
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for command in (
    run.run,
    prune.prune,
    shrink.shrink,
    explain.explain,
    pack.pack,
    unpack.unpack,
    compile.compile,
    export.export,
    measure.measure,
    compare.compare,
    report.report,
    ls.ls,
    doctor.doctor,
):
    app.command(cls=Command)(command)


def _version(wanted: bool) -> None:
    if wanted:
        from prunus import __version__

        typer.echo(f"prunus {__version__}")
        raise typer.Exit


@app.callback()
def _prunus(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="PRUNUS_DEBUG", help="Show the whole traceback of an error.")
    ] = False,
) -> None:
    """Make a PyTorch model smaller by pruning, and prove what that saved.

    \b
    Examples:
      prunus run lenet
      prunus prune --weights in.safetensors --sparsity 0.9 --out out.safetensors
      prunus shrink --model lenet --weights out.safetensors --out small.prunus
      prunus compare dense.safetensors pruned.safetensors --model lenet

    'prunus COMMAND --help' tells everything about a command.
    """


def main() -> None:
    """Run the command line and end the process with its exit code: 0, 2 for a mistake, 130 after ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # any name can be printed anywhere
    try:
        app(prog_name="prunus")
    except KeyboardInterrupt:  # before a command had begun
        sys.exit(STOPPED)
