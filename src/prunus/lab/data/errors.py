"""What can be wrong with data: one class for each kind of trouble, all of them `DataError`."""

from __future__ import annotations


class DataError(ValueError):
    """Data that can't be used as it is; the message says which file, what is wrong and what to do."""


class UnreadableError(DataError):
    """A file can't be opened, is not a file, or its compression is damaged."""


class MagicError(DataError):
    """A file does not start as an IDX file of the expected kind does."""


class TruncatedError(DataError):
    """A file ends before what its header declares, or declares nothing."""


class ExcessError(DataError):
    """A file holds more than its header declares, or declares more than any set of images needs."""


class CountMismatchError(DataError):
    """There are more images than labels, or fewer."""


class LabelRangeError(DataError):
    """A label names no class of the set."""


class MissingFileError(DataError):
    """A folder that was named does not exist, or holds some of a set's files but not all."""


class ChecksumError(DataError):
    """A file is sound but not the published one."""


class UnavailableError(DataError):
    """A set is in none of the folders and could not be downloaded; only this makes `load` use a fallback."""
