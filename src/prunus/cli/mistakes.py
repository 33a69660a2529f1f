"""What is said of a user's mistake: one clear line."""

from __future__ import annotations

from cyclopts import CoercionError, CycloptsError, MissingArgumentError, Token, UnknownOptionError, UnusedCliTokensError

from prunus.extras import EXTRA_OF

# By name, since the commands are known without importing what they need.
_CLEAR_RUNTIME_ERRORS = ("prunus.lab.run_folder.RunLockedError", "prunus.lab.train.processes.RankError")


def of_usage(error: CycloptsError) -> str:
    """Return what is wrong with the words of a command, and where to look up the right ones."""
    message = _of_argument(error) or str(error)
    end = "" if message[-1] in ".?" else "."
    return f"{message}{end} See {' '.join(['prunus', *(error.command_chain or ()), '--help'])}"


def _of_argument(error: CycloptsError) -> str | None:
    """Return what is wrong, where cyclopts's own sentence is less clear."""
    unused = error.unused_tokens or []
    if isinstance(error, UnusedCliTokensError):
        return f"unexpected argument {unused[0]!r}"
    if isinstance(error, CoercionError) and error.token is None and error.argument is not None:
        return f"Invalid value for {error.argument.name}: {error}"
    if not isinstance(error, MissingArgumentError) or error.argument is None or error.app is None:
        return None
    if error.keyword is not None:
        return f"{error.keyword} needs a value"
    unknown = next((token for token in unused if token.startswith("-")), None)
    if unknown is None:
        return f"{error.argument.name} is missing"
    options = error.app.assemble_argument_collection()  # what is missing may have been meant by it
    token = Token(keyword=unknown.partition("=")[0])
    return str(UnknownOptionError(token=token, argument_collection=options, verbose=False))


def is_clear(error: Exception) -> bool:
    """Tell a RuntimeError that says what the user may do from all others: those are faults, ours or PyTorch's."""
    kind = type(error)
    return not isinstance(error, RuntimeError) or f"{kind.__module__}.{kind.__name__}" in _CLEAR_RUNTIME_ERRORS


def in_words(error: Exception) -> str:
    r"""Return what an error says as one line; as several only where it lists several problems.

    >>> in_words(ValueError("the recipe can't be used:\n  seeds: none"))
    "the recipe can't be used: seeds: none"
    """
    if isinstance(error, ModuleNotFoundError) and error.name and (extra := EXTRA_OF.get(error.name)):
        return f"the package {error.name!r} is not installed; install it with: pip install 'prunus[{extra}]'"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{str(error.filename)!r}: {error.strerror}"
    lines = str(error).splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines) if len(lines) <= 2 else "\n".join(lines)
