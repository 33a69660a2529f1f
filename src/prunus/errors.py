"""The named errors of prunus, all of them ValueErrors; each says what was given, what was expected and what to do."""

from __future__ import annotations


class GraphError(ValueError):
    """A model whose graph can't be read or holds an unknown operation; the message names it and where it is."""


class MaskError(ValueError):
    """Masks that don't fit their model, or a file that holds no masks."""


class ChannelError(ValueError):
    """A sparsity that removing whole channels can't meet; the message says why. The model was not changed."""


class ShrinkError(ValueError):
    """A model that could not be shrunk to one with the same outputs; it was not changed."""


class PackError(ValueError):
    """A file that can't be read as a `.prunus` file; the message says why and what to do."""


class CheckpointError(ValueError):
    """A file of weights that can't be read or doesn't fit the model; the message says why and what to do."""


class CompileError(ValueError):
    """A model that can't be compiled, or a program whose outputs differ from the model's; the message says why."""


class ProgramError(ValueError):
    """A program's file that can't be read, or inputs that the program doesn't accept."""


class NonFiniteError(ProgramError):
    """An infinity or NaN in the inputs would have met a pruned weight; the message names the layer."""


class ExportError(ValueError):
    """A model that can't be exported, or whose export computes other outputs; no file was written."""


class ScalesError(ValueError):
    """Scales that don't fit their model, or a file that holds no scales."""


class SearchError(ValueError):
    """There is no model within the target, or none that keeps the floor; the message tells the nearest one."""


class ReceiptError(ValueError):
    """A receipt that contradicts itself, or a file that holds no receipt; the message names the file and the field."""


class DataError(ValueError):
    """Data that can't be used; the message names the file and says what is wrong and what to do."""


class UnavailableError(DataError):
    """A data set that is in no folder and can't be downloaded; only this error makes `data.load` use a fallback."""
