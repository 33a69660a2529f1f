"""The small digits that come with scikit-learn, brought to MNIST's size: no download needed."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from prunus.lab.data.catalogue import dataset
from prunus.lab.data.images import Dataset, Images
from prunus.lab.data.packaged import read_table
from prunus.lab.data.splits import hold_out


@dataset("digits")
def digits(folder: Path | None, download: bool) -> Dataset:
    """Small handwritten digits, 8x8 enlarged to 28x28: 1,257 to train on, 180 to choose by, 360 to test on.

    A set to try things with in seconds; `folder` and `download` play no part.

    Source: scikit-learn's load_digits; Alpaydin and Kaynak, "Optical recognition of handwritten digits", 1998;
    CC BY 4.0.
    """
    table = read_table("sklearn", "scikit-learn", "datasets/data/digits.csv.gz", columns=8 * 8 + 1)
    everything = Images(enlarge(table.pixels.view(-1, 1, 8, 8)), table.labels)
    rest, test = hold_out(everything.labels, 360)
    stay, validation = hold_out(everything.labels[rest], 180)
    return Dataset.from_splits(
        "digits",
        table.source,
        table.checksum,
        10,
        train=everything.take(rest[stay]),
        validation=everything.take(rest[validation]),
        test=everything.take(test),
    )


def enlarge(images: Tensor) -> Tensor:
    """Bring 8x8 images with values 0 to 16 to 28x28 with values 0 to 255.

    Each pixel becomes a square of 3x3, and 2 pixels of 0 go around. Every model for MNIST then takes them, a digit is
    about as large as there, and nothing is lost: ``[..., 2:26:3, 2:26:3]`` holds the 64 values.
    """
    bright = (images.float() * (255 / 16)).round().to(images.dtype)
    return F.pad(bright.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3), (2, 2, 2, 2))
