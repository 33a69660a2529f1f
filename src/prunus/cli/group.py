"""The group all commands are in: a user's mistake becomes one clear line and exit code 2, ctrl-C exit code 130."""

from __future__ import annotations

from typing import Any

import typer
import typer.core

from prunus.cli.terminal import say
from prunus.extras import EXTRA_OF

MISTAKE = 2
STOPPED = 130  # 128 + the number of SIGINT, as shells have it
_DEBUG = "--debug"
# By name, since the commands are known without importing what they need.
_CLEAR_RUNTIME_ERRORS = ("prunus.lab.run_folder.RunLockedError", "prunus.lab.train.processes.RankError")


class Command(typer.core.TyperCommand):
    """A command whose help calls its arguments by their names alone, without Python's types and braces."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the pieces of the usage line."""
        arguments = [parameter for parameter in self.get_params(ctx) if parameter.param_type_name == "argument"]
        return ["[OPTIONS]", *(_named(a) if a.required else f"[{_named(a)}]" for a in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """List arguments, then options."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            name, told = parameter.get_help_record(ctx) or ("", "")
            if parameter.param_type_name == "argument":
                sections["Arguments"].append((_named(parameter), told))
            elif name:
                sections["Options"].append((name, told))
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def _named(argument: Any) -> str:
    return f"{argument.metavar}{'...' if argument.nargs == -1 else ''}"


class Commands(typer.core.TyperGroup):
    """Runs a command; `--debug` may stand anywhere and lets the whole traceback through."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move `--debug` to the front, where the group's own options are."""
        ends = args.index("--") if "--" in args else len(args)
        if _DEBUG in args[:ends]:
            args = [_DEBUG, *(arg for place, arg in enumerate(args) if arg != _DEBUG or place >= ends)]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # whoever read the output has had enough: typer ends quietly
        except KeyboardInterrupt:
            say("Stopped.")
            raise typer.Exit(STOPPED) from None
        except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
            if ctx.params.get("debug") or not _is_clear(error):
                raise
            say(f"Error: {explain(error)}")
            raise typer.Exit(MISTAKE) from error


def _is_clear(error: Exception) -> bool:
    """Tell a RuntimeError that says what the user may do from all others: those are faults, ours or PyTorch's."""
    kind = type(error)
    return not isinstance(error, RuntimeError) or f"{kind.__module__}.{kind.__name__}" in _CLEAR_RUNTIME_ERRORS


def explain(error: Exception) -> str:
    r"""Return what an error says as one line; as several only where it lists several problems.

    >>> explain(ValueError("the recipe can't be used:\n  seeds: none given"))
    "the recipe can't be used: seeds: none given"
    """
    if isinstance(error, ModuleNotFoundError) and error.name and (extra := EXTRA_OF.get(error.name)):
        return f"the package {error.name!r} is not installed; install it with: pip install 'prunus[{extra}]'"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{str(error.filename)!r}: {error.strerror}"
    lines = str(error).splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines) if len(lines) <= 2 else "\n".join(lines)
