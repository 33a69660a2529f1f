"""Datasets published as four IDX files: found or downloaded, read, checked, split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from prunus.data import idx
from prunus.data.catalogue import checksum_of
from prunus.data.download import download
from prunus.data.errors import ChecksumError, CountMismatchError, UnavailableError
from prunus.data.folders import VARIABLE, cache_folder, existing, find
from prunus.data.images import Dataset, Images, check_labels
from prunus.data.splits import hold_out

TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class IdxSet:
    """What is known of a published set.

    Attributes:
        name: of the dataset, and of its folder.
        sha256: file name -> sha256 of the uncompressed file in hex, for the files in `TRAIN` and `TEST`.
        mirrors: URLs that `<file>.gz` is put behind.
        system: folders where a system's packages install it.
        num_classes: labels are 0 to num_classes - 1.
        validation: how many of the training images are held out to choose by.
    """

    name: str
    sha256: Mapping[str, str]
    mirrors: tuple[str, ...] = ()
    system: tuple[Path, ...] = ()
    num_classes: int = 10
    validation: int = 5_000


def load_idx_set(published: IdxSet, folder: Path | None, allow_download: bool) -> Dataset:
    """Load a published set from the first place that has it; see `folders.find` for the places.

    Raises:
        UnavailableError: it is in no place, and downloading is not allowed or failed.
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
    found: dict[str, str] = {}
    train = _read_pair(folder, TRAIN, published.num_classes, found)
    test = _read_pair(folder, TEST, published.num_classes, found)
    for file, digest in found.items():
        if digest != published.sha256[file]:
            raise ChecksumError(
                f"{existing(folder, file)} is a sound IDX file but not the published one of {published.name!r}: the "
                f"sha256 of its uncompressed bytes is {digest}, expected {published.sha256[file]}; "
                "take it away or put the published one in its place"
            )
    stay, held_out = hold_out(train.labels, published.validation)
    return Dataset.from_splits(
        published.name,
        source,
        checksum_of(found),
        published.num_classes,
        train=train.take(stay),
        validation=train.take(held_out),
        test=test,
    )


def _read_pair(folder: Path, files: tuple[str, str], num_classes: int, found: dict[str, str]) -> Images:
    images = _read_file(folder, files[0], 3, found)
    labels = _read_file(folder, files[1], 1, found).long()
    if len(images) != len(labels):
        raise CountMismatchError(
            f"{existing(folder, files[0])} holds {len(images)} images but {files[1]} beside it {len(labels)} labels; "
            "they are not of the same set"
        )
    check_labels(labels, num_classes, str(existing(folder, files[1])))
    return Images(images.unsqueeze(1), labels)


def _read_file(folder: Path, file: str, dimensions: int, found: dict[str, str]) -> Tensor:
    path = existing(folder, file)
    assert path is not None, "find and download see to it that every file is there"
    values, found[file] = idx.read(path, dimensions)
    return values
