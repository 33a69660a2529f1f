"""Images with labels, and datasets of three splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from prunus.errors import DataError


@dataclass(frozen=True, eq=False)
class Images:
    """Images and their labels, in memory.

    Attributes:
        images: uint8, shape (n, channels, height, width).
        labels: int64, shape (n,).

    Raises:
        DataError: the numbers of labels and images differ, or a tensor has another dtype or number of dimensions.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        for name, tensor, dtype, dimensions in (
            ("images", self.images, torch.uint8, 4),
            ("labels", self.labels, torch.int64, 1),
        ):
            if tensor.dtype != dtype or tensor.dim() != dimensions:
                raise DataError(
                    f"{name} must be {dtype} with {dimensions} dimensions, "
                    f"got {tensor.dtype} of shape {tuple(tensor.shape)}"
                )
        if len(self.images) != len(self.labels):
            raise DataError(f"there are {len(self.images)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Images({len(self)} of {' x '.join(map(str, self.input_shape))})"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def take(self, index: Tensor) -> Images:
        """Return a copy of the images with these indices, in their order."""
        return Images(self.images.index_select(0, index), self.labels.index_select(0, index))

    def to(self, device: torch.device | str) -> Images:
        """Return the same images on a device; not a copy if they are there already."""
        return Images(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A set of images in fixed splits for training, validation and one final test.

    Attributes:
        name: its name for `load`; that of the fallback if it was used.
        source: where it was loaded from, in words.
        checksum: the checksum of the uncompressed data, see `checksum_of`.
        num_classes: labels are 0 to num_classes - 1.
        mean: per channel, of the training split's pixels divided by 255.
        std: the standard deviation of the same.
        train: the split for training.
        validation: the split for all choices.
        test: the split for one final test.
    """

    name: str
    source: str
    checksum: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Images
    validation: Images
    test: Images

    @classmethod
    def from_splits(
        cls, name: str, source: str, checksum: str, num_classes: int, *, train: Images, validation: Images, test: Images
    ) -> Self:
        """Create a dataset whose mean and std are those of the training split.

        Raises:
            DataError: a split has a label outside 0 to num_classes - 1.
        """
        for split_name, split in (("train", train), ("validation", validation), ("test", test)):
            check_labels(split.labels, num_classes, f"split {split_name!r} of {name!r}")
        mean, std = pixel_statistics(train.images)
        return cls(name, source, checksum, num_classes, mean, std, train, validation, test)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return self.train.input_shape


def check_labels(labels: Tensor, num_classes: int, origin: str) -> None:
    """Check that labels are in 0 to num_classes - 1.

    Raises:
        DataError: one is not; the message has the first such label and its index.
    """
    outside = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(outside):
        first = int(outside[0])
        raise DataError(
            f"{origin} has label {int(labels[first])} at index {first}, expected 0 to {num_classes - 1} "
            f"({len(outside)} of {len(labels)} labels are outside)"
        )


def pixel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of uint8 images (n, c, h, w), as fractions of 255.

    They are computed from a histogram, so they are the same on every machine.

    >>> pixel_statistics(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    ((0.5,), (0.5,))
    """
    values = torch.arange(256, dtype=torch.float64)
    means, deviations = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].flatten(), minlength=256).double().cpu()
        mean = (counts @ values / counts.sum()).item()
        variance = (counts @ (values - mean).square() / counts.sum()).item()
        means.append(mean / 255)
        deviations.append(variance**0.5 / 255)
    return tuple(means), tuple(deviations)
