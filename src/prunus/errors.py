"""Errors beside ValueError and TypeError; each says what was given, what was expected and what to do."""

from __future__ import annotations


class GraphError(ValueError):
    """A model whose graph can't be read, or holds something unknown; the message says what and where."""


class MaskError(ValueError):
    """Masks that don't fit the model they are used with, or a file that holds none."""


class ChannelError(ValueError):
    """A sparsity that whole channels can't meet; the message says what stands in the way. Nothing was changed."""


class ShrinkError(ValueError):
    """A model that could not be shrunk to one with the same outputs; it was left as it was."""


class PackError(ValueError):
    """A file that can't be read as a `.prunus` file; the message says why and what to do."""


class CheckpointError(ValueError):
    """A file of weights that can't be used here; the message says why and what to do."""


class CompileError(ValueError):
    """A model that can't become a program, or a program that computes something else; the message says what and why."""


class ProgramError(ValueError):
    """A program's file that can't be read, or inputs that a program doesn't take."""


class NonFiniteError(ProgramError):
    """Weights that a program leaves out would have met an infinity or NaN; the message says in which layer."""


class ExportError(ValueError):
    """A model that can't be exported, or whose file computes something else; no file was written."""


class ReceiptError(ValueError):
    """A receipt that contradicts itself, or a file that holds none; the message names the file and the field."""


class DataError(ValueError):
    """Data that can't be used as it is; the message says which file, what is wrong and what to do."""


class UnavailableError(DataError):
    """A data set is in none of the folders and could not be downloaded; only this makes `data.load` use a fallback."""
