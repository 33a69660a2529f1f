"""MNIST and Fashion-MNIST: 70,000 grey images of 28x28 pixels in 10 classes each."""

from __future__ import annotations

from pathlib import Path

from prunus.lab.data.catalogue import dataset
from prunus.lab.data.idx_sets import IdxSet, load_idx_set
from prunus.lab.data.images import Dataset

MNIST = IdxSet(
    name="mnist",
    sha256={
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
)

FASHION_MNIST = IdxSet(
    name="fashion-mnist",
    sha256={
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    mirrors=(
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    system=(Path("/usr/share/datasets/fashion-mnist"),),  # Debian's package dataset-fashion-mnist
)


@dataset("mnist")
def mnist(folder: Path | None, download: bool) -> Dataset:
    """Handwritten digits, 28x28: 55,000 to train on, 5,000 to choose by, 10,000 to test on.

    Source: Yann LeCun and Corinna Cortes, from NIST's databases; CC BY-SA 3.0.
    """
    return load_idx_set(MNIST, folder, download)


@dataset("fashion-mnist")
def fashion_mnist(folder: Path | None, download: bool) -> Dataset:
    """Pieces of clothing, 28x28: 55,000 to train on, 5,000 to choose by, 10,000 to test on.

    Source: Xiao et al., "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms", 2017; MIT.
    """
    return load_idx_set(FASHION_MNIST, folder, download)
