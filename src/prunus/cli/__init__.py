"""The `prunus` command: thin calls into the library, one small file for each command."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Group, Parameter

from prunus import __version__
from prunus.cli import mistakes, terminal
from prunus.cli.help import PlainHelp, shown

__all__ = ["COMMANDS", "app", "main", "run_command"]

# In the order of the road, as the help lists them: command -> its module, and the argument that may be left out.
COMMANDS = {
    "run": ("run", "SETTING"),
    "prune": ("prune", ""),
    "recover": ("recover", ""),
    "shrink": ("shrink", "FILE"),
    "explain": ("explain", "FILE"),
    "quantize": ("quantize", "FILE"),
    "search": ("search", "FILE"),
    "pack": ("pack", "FILE"),
    "unpack": ("pack", ""),
    "compile": ("compile", "FILE"),
    "export": ("export", "FILE"),
    "measure": ("compare", "FILE"),
    "compare": ("compare", ""),
    "report": ("run", ""),
    "ls": ("ls", "KIND"),
    "doctor": ("doctor", ""),
}
MISTAKE = 2
STOPPED = 130  # 128 + the number of SIGINT, as shells have it
_DEBUG = "--debug"

app = App(
    name="prunus",
    help="""Make a PyTorch model smaller by pruning, and prove what that saved.

    For example:
      prunus run lenet
      prunus prune --weights in.safetensors --sparsity 0.9 --out out.safetensors
      prunus shrink --model lenet --weights out.safetensors --out small.prunus
      prunus compare dense.safetensors pruned.safetensors --model lenet

    'prunus COMMAND --help' tells everything about a command. With --debug anywhere, or PRUNUS_DEBUG=1 in the
    environment, an error shows its whole traceback.
    """,
    help_format="plaintext",
    help_formatter=PlainHelp(),
    version=f"prunus {__version__}",
    # The last of an option given twice counts, so that an alias can be overridden.
    default_parameter=Parameter(negative=(), allow_repeating=True, show_default=shown),
    group_parameters=Group.create_default_parameters("Options"),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    exit_on_error=False,
    print_error=False,
)
for position, (command, (module, optional)) in enumerate(COMMANDS.items()):
    app.command(f"prunus.cli.{module}:{command}", sort_key=position, help_formatter=PlainHelp(optional))
for flag, text in (("--help", "Show this text and end."), ("--version", "Print the version and end.")):
    app[flag].group, app[flag].help = "Options", text


def run_command(words: Sequence[str]) -> int:
    """Run a command line.

    Args:
        words: what follows `prunus`; ``--debug`` may stand anywhere before ``--``.

    Returns:
        The exit code: 0, 1 where nobody reads the output any more, 2 for a mistake, 130 after ctrl-C.

    Raises:
        Exception: a fault of prunus itself, or any error with ``--debug``.
    """
    end = words.index("--") if "--" in words else len(words)
    tokens = [word for word in words[:end] if word != _DEBUG] + [*words[end:]]
    debug = _DEBUG in words[:end] or os.environ.get("PRUNUS_DEBUG", "0") not in ("", "0")
    if not tokens or tokens[0] not in COMMANDS:
        app.resolved_commands()  # or their list would not say what each does
    try:
        app(tokens)
        sys.stdout.flush()
    except BrokenPipeError:  # Python would complain when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        again = f"; what is done is kept. To go on, give the same command again: {shlex.join(['prunus', *words])}"
        terminal.say(f"Stopped{again if tokens[:1] == ['run'] else '.'}")
        return STOPPED
    except CycloptsError as error:
        terminal.say(f"Error: {mistakes.of_usage(error)}")
        return MISTAKE
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        if debug or not mistakes.is_clear(error):
            raise
        terminal.say(f"Error: {mistakes.in_words(error)}")
        return MISTAKE
    return 0


def main() -> None:
    """Run the command line and end the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # any name can be printed anywhere
    sys.exit(run_command(sys.argv[1:]))
