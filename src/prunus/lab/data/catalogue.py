"""The registry of datasets, and the checksum of a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from prunus.lab.data.images import Dataset
from prunus.registry import Registry

# (folder the user named or None, whether downloading is allowed) -> the dataset
Loader = Callable[[Path | None, bool], Dataset]

DATASETS = Registry[Loader]("dataset")


def dataset(name: str) -> Callable[[Loader], Loader]:
    """Register the decorated function, which loads a dataset, as `name`.

    The function takes the folder that the user named, or None, and whether it may download. It raises
    `UnavailableError` if the data is in no folder, and another `DataError` if it is damaged.

    Raises:
        ValueError: the name is taken.
    """
    return DATASETS.register(name)


def checksum_of(files: Mapping[str, str]) -> str:
    r"""Return the checksum of a set of files: the SHA-256 of what `sha256sum` prints for them, sorted by name.

    Args:
        files: file name -> SHA-256 of the uncompressed content, in hex.

    For MNIST unpacked into a folder, `sha256sum t10k-* train-* | sha256sum` gives the same.

    >>> checksum_of({"digits.csv": "00ff"}) == hashlib.sha256(b"00ff  digits.csv\n").hexdigest()
    True
    """
    lines = [f"{digest}  {name}\n" for name, digest in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
