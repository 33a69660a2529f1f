"""What all commands share: help, version, mistakes in usage, errors of the library, ctrl-C, --debug."""

from __future__ import annotations

import io
import json
import re

import pytest

import prunus
from command_line import Command, refused
from prunus.cli import COMMANDS, app, ls, terminal
from prunus.cli.mistakes import in_words
from prunus.extras import MissingExtraError
from prunus.lab.run_folder import RunLockedError
from prunus.lab.train import RankError


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


@pytest.mark.parametrize("columns", [80, 100, 200])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_plain_and_fits_the_terminal(
    command: Command, monkeypatch: pytest.MonkeyPatch, name: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    result = command(*name.split(), "--help")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert widest(result.stdout) <= min(columns, 100)
    assert result.stdout.isascii()


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "doctor"])
def test_help_has_an_example_that_starts_as_the_command_does(command: Command, name: str) -> None:
    examples = command(name, "--help").stdout.partition("For example:\n")[2].partition("\n\n")[0].splitlines()
    assert examples
    assert any(line.startswith(f"  prunus {name}") for line in examples)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_and_option_is_described_and_the_usage_names_what_may_be_left_out(
    command: Command, name: str
) -> None:
    shown = command(name, "--help").stdout
    collection = app[name].assemble_argument_collection(parse_docstring=True).filter_by(show=True)
    assert [argument.name for argument in collection if not argument.parameter.help] == []
    optional = [argument.name for argument in collection if argument.index is not None and not argument.required]
    usage = shown.partition("\n\n")[0]
    assert [label.rstrip(".") for label in re.findall(r"\[([A-Z.]+)\]", usage) if label != "OPTIONS"] == optional
    assert "ARGS" not in usage


def test_options_show_their_defaults_but_not_empty_ones(command: Command) -> None:
    shown = command("measure", "--help").stdout
    assert re.findall(r"\[default: ([^]]+)\]", " ".join(shown.split())) == ["1,64", "torch", "cpu"]
    assert command("unpack", "--help").stdout.count("[required]") == 2


def test_the_help_lists_every_command_with_what_it_does(command: Command) -> None:
    listed = dict(re.findall(r"^  (\w+) +(.+\.)$", command("--help").stdout.partition("Commands:")[2], re.MULTILINE))
    assert list(listed) == list(COMMANDS)
    assert not [told for told in listed.values() if told.endswith("..")]  # none is cut short at 80 columns


def test_no_command_at_all_shows_the_help(command: Command) -> None:
    assert "Commands:" in command().output


def test_the_version(command: Command) -> None:
    assert command("--version").stdout == f"prunus {prunus.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["meassure"], 'Unknown command "meassure". Did you mean "measure"?'),
        (["ls", "--jsn"], "Unknown option: --jsn. Did you mean --json?"),
        (["prune", "--sparsty", "0.5"], "Did you mean --sparsity?"),
        (["prune", "--sparsity", "0.5", "--weights", "a"], "--out is missing. See prunus prune --help"),
        (["prune", "--weights"], "--weights needs a value."),
        (["run"], "RECIPE is missing. See prunus run --help"),
        (["compare"], "ITEM is missing."),
        (["run", "lenet", "--devices", "two"], 'Invalid value for --devices: unable to convert "two" into int.'),
        (["compile", "--cores", "0"], 'Invalid value "0" for --cores. Must be > 0.'),
        (
            ["prune", "--weights", "a", "--out", "b", "--sparsity", "half"],
            "Invalid value for --sparsity: it takes a number in [0, 1), or LAYER=S,LAYER=S",
        ),
        (["run", "lenet", "--accelerator", "gpu"], 'Choose from: "auto", "cpu", "cuda". Did you mean "cpu"?'),
        (["measure", "--shape", "3x2"], "Invalid value for --shape: it takes whole numbers above 0 with commas"),
        (["ls", "[bold]", "[/]"], "unexpected argument '[/]'."),
        (["[/bold]"], 'Unknown command "[/bold]".'),
        (["ls", "--no-json"], "Unknown option: --no-json."),
    ],
)
def test_a_mistake_in_usage_names_what_was_meant(command: Command, arguments: list[str], told: str) -> None:
    message = refused(command(*arguments))
    assert told in message
    assert message.endswith(" --help")


def test_the_last_of_an_option_given_twice_counts(command: Command) -> None:
    assert "'schedule'" in refused(command("ls", "--json", "a", "schedule"))
    assert json.loads(command("ls", "scopes", "--json", "a", "--json", "-").stdout)


class StrangeError(OSError):
    pass


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a [bold]b[/] c"), "a [bold]b[/] c"),
        (TypeError("[/]"), "[/]"),
        (ValueError(), "ValueError"),
        (ValueError("the recipe can't be used:\n  seeds: none"), "the recipe can't be used: seeds: none"),
        (ValueError("clear \x1b[2J screen"), "clear \\x1b[2J screen"),
        (PermissionError(13, "Permission denied", "a b"), "'a b': Permission denied"),
        (StrangeError("lost"), "lost"),
        (MissingExtraError("this needs more"), "this needs more"),
        (RankError("process 1 of 2 failed"), "process 1 of 2 failed"),
        (RunLockedError("at work"), "at work"),
        (ModuleNotFoundError("No module named 'yaml'", name="yaml"), "pip install 'prunus[train]'"),
    ],
)
def test_an_error_of_the_library_is_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    def fail(kind: str) -> dict[str, str]:
        raise error

    monkeypatch.setattr(ls, "entries", fail)
    assert line in refused(command("ls", "models"))
    for shown in (command("--debug", "ls", "models"), command("ls", "models", "--debug")):
        assert shown.exception is error
    monkeypatch.setenv("PRUNUS_DEBUG", "1")
    assert command("ls", "models").exception is error


def test_several_problems_keep_their_lines() -> None:
    assert in_words(ValueError("two things:\n  one\n  two")) == "two things:\n  one\n  two"


@pytest.mark.parametrize("error", [AssertionError("can't be"), RuntimeError("out of memory"), NotImplementedError()])
def test_a_fault_of_prunus_itself_is_not_hidden(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(kind: str) -> dict[str, str]:
        raise error

    monkeypatch.setattr(ls, "entries", fail)
    assert command("ls", "models").exception is error


def test_ctrl_c_ends_any_command_with_130(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(kind: str) -> dict[str, str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(ls, "entries", stop)
    result = command("ls", "models")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "Stopped.\n")


def test_debug_after_two_dashes_is_an_argument(command: Command) -> None:
    assert "unknown kind '--debug'" in refused(command("ls", "--", "--debug"))


def test_an_option_says_the_same_in_every_command() -> None:
    helps: dict[str, set[str | None]] = {}
    for name in COMMANDS:
        for argument in app[name].assemble_argument_collection(parse_docstring=True):
            helps.setdefault(argument.name, set()).add(argument.parameter.help)
    shared = ("--model", "--arg", "--shape", "--input", "--json", "--device", "--threads", "--batch-sizes", "--include")
    assert {option: len(helps[option]) for option in shared} == dict.fromkeys(shared, 1)


@pytest.mark.parametrize(
    "text", ["plain", "ünï 重", "two\nlines", "a\tb", "\x00\x07\x1b]0;title\x07", "\u202eright", "\ud800"]
)
def test_what_is_printed_can_not_steer_the_terminal(text: str) -> None:
    shown = terminal.printable(text)
    assert all(character.isprintable() or character == "\n" for character in shown)
    if text.replace("\n", "").isprintable():
        assert shown == text


class Terminal(io.StringIO):
    """A terminal that takes colours, as far as a program can tell."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [40, 80, 300])
def test_a_terminal_gets_lines_that_fit_it(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", shown := Terminal())
    terminal.show_lists({"first": {"name": "word " * 50}, "second": {"other": "[bold]as it is[/]"}})
    terminal.show_table(["layer", "weights"], [["a" * 30, "1,000"]])
    terminal.prose().print("word " * 50)
    text = re.sub(r"\x1b\[\d*m", "", shown.getvalue())
    assert widest(text) <= columns
    assert widest(text[text.index("1,000") :]) <= 100  # prose is not wider than reads well
    assert "[bold]as it is[/]" in " ".join(text.split())
    assert "\x1b[1m" in shown.getvalue()  # headings stand out


def test_a_pipe_gets_each_row_on_one_line_and_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", shown := io.StringIO())
    terminal.show_lists({"list": {"name": "word " * 500}})
    terminal.show_table(["layer", "weights"], [["a" * 300, "1,000"]])
    lines = shown.getvalue().splitlines()
    assert lines[0].split() == ["name", *["word"] * 500]
    assert lines[2].split() == ["a" * 300, "1,000"]
    assert "\x1b" not in shown.getvalue()
