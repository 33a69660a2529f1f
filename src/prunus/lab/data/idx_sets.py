"""Datasets published as four IDX files: find or download, read, check and split them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from prunus.errors import DataError, UnavailableError
from prunus.lab.data import idx
from prunus.lab.data.catalogue import checksum_of
from prunus.lab.data.download import download
from prunus.lab.data.folders import VARIABLE, cache_folder, existing, find
from prunus.lab.data.images import Dataset, Images, check_labels
from prunus.lab.data.splits import hold_out

TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
IMAGE_FILES = (TRAIN[0], TEST[0])


@dataclass(frozen=True)
class IdxSet:
    """A published dataset.

    Attributes:
        name: the name of the dataset and of its folder.
        sha256: file name -> SHA-256 of the uncompressed file in hex, for the files in `TRAIN` and `TEST`.
        mirrors: URLs to which `<file>.gz` is appended.
        system: folders in which a system's packages install it.
        num_classes: labels are 0 to num_classes - 1.
        validation: the number of training images held out for validation.
    """

    name: str
    sha256: Mapping[str, str]
    mirrors: tuple[str, ...] = ()
    system: tuple[Path, ...] = ()
    num_classes: int = 10
    validation: int = 5_000


def load_idx_set(published: IdxSet, folder: Path | None, allow_download: bool) -> Dataset:
    """Load a published set from the first folder that has it, in the order of `folders.find`.

    Raises:
        UnavailableError: it is in no folder, and downloading is not allowed or failed.
        DataError: it was found, but a file is missing, damaged or not the published one.
    """
    files = (*TRAIN, *TEST)
    place = find(published.name, files, folder, published.system)
    if place is None:
        path, source = _download(published, allow_download)
    else:
        path, source = place.path, f"{place.path} ({place.described})"
    return _read(published, path, source)


def _download(published: IdxSet, allowed: bool) -> tuple[Path, str]:
    cache = cache_folder(published.name)
    try:
        if not allowed:
            raise UnavailableError("downloading is not allowed")
        hosts = download(published.name, published.sha256, published.mirrors, cache)
    except UnavailableError as error:
        raise UnavailableError(
            f"dataset {published.name!r} is in none of the folders, and {error}; put its four files into a folder "
            f"and name it by `folder` or {VARIABLE}"
        ) from error
    return cache, f"{cache} (downloaded from {hosts})"


def _read(published: IdxSet, folder: Path, source: str) -> Dataset:
    paths = {file: _path(folder, file) for file in (*TRAIN, *TEST)}
    contents = {file: idx.read(path, 3 if file in IMAGE_FILES else 1) for file, path in paths.items()}
    values = {file: content for file, (content, _) in contents.items()}
    digests = {file: digest for file, (_, digest) in contents.items()}
    train = _pair(paths, values, TRAIN, published.num_classes)
    test = _pair(paths, values, TEST, published.num_classes)
    for file, digest in digests.items():
        _check_digest(published, paths[file], digest, published.sha256[file])
    stay, held_out = hold_out(train.labels, published.validation)
    return Dataset.from_splits(
        published.name,
        source,
        checksum_of(digests),
        published.num_classes,
        train=train.take(stay),
        validation=train.take(held_out),
        test=test,
    )


def _path(folder: Path, file: str) -> Path:
    path = existing(folder, file)
    assert path is not None, "find and download check that every file exists"
    return path


def _pair(paths: Mapping[str, Path], values: Mapping[str, Tensor], files: tuple[str, str], num_classes: int) -> Images:
    images, labels = values[files[0]].unsqueeze(1), values[files[1]].long()
    if len(images) != len(labels):
        raise DataError(
            f"{paths[files[0]]} holds {len(images)} images but {paths[files[1]].name} beside it {len(labels)} labels; "
            "they are of different sets"
        )
    check_labels(labels, num_classes, str(paths[files[1]]))
    return Images(images, labels)


def _check_digest(published: IdxSet, path: Path, actual: str, expected: str) -> None:
    if actual != expected:
        raise DataError(
            f"{path} is a valid IDX file but not the published one of {published.name!r}: the sha256 of its "
            f"uncompressed bytes is {actual}, expected {expected}; put the published files into a folder named "
            f"{published.name!r}, or remove these"
        )
