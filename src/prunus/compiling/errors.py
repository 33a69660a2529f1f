"""What can go wrong while a model becomes a program."""

from __future__ import annotations


class CompileError(ValueError):
    """A model that can't become a program, or a program that computes something else; the message says what and why."""


class MissingCompilerError(CompileError):
    """There is no C compiler that works; the message says how to get one."""


class ProgramError(ValueError):
    """A program's file that can't be read, or inputs that a program doesn't take."""


class NonFiniteError(ProgramError):
    """Weights that a program leaves out would have met an infinity or NaN; the message says in which layer."""
