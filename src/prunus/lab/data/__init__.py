"""Small datasets, MNIST and similar ones, loaded by name, and batches of them.

    data = prunus.data.load("mnist", fallback="mnist-5k")
    for images, labels in prunus.data.batches(data.train, 128, mean=data.mean, std=data.std, shift=2):
        ...

A new dataset is one decorated function, in its own file, which is imported here.
"""

import logging
from pathlib import Path

from prunus.errors import DataError, UnavailableError
from prunus.lab.data import mnist, packaged  # noqa: F401 (importing them enters their datasets)
from prunus.lab.data.batching import batches, normalise, shift_images
from prunus.lab.data.catalogue import DATASETS, dataset
from prunus.lab.data.images import Dataset, Images

__all__ = [
    "DATASETS",
    "DataError",
    "Dataset",
    "Images",
    "UnavailableError",
    "batches",
    "dataset",
    "load",
    "names",
    "normalise",
    "shift_images",
]

LOG = logging.getLogger("prunus")


def names() -> list[str]:
    """Return the names of all datasets, sorted.

    >>> names()
    ['digits', 'fashion-mnist', 'mnist', 'mnist-5k']
    """
    return sorted(DATASETS)


def load(name: str, *, folder: Path | str | None = None, fallback: str | None = None, download: bool = True) -> Dataset:
    """Load a dataset into memory.

    Its files are searched for in `folder`, in the folder of the environment variable PRUNUS_DATA (in both, first in a
    subfolder with the dataset's name), in the user's cache, and in the folders of the system's packages. Otherwise they
    are downloaded into the cache. The splits are fixed: the same images on every machine.

    Args:
        name: a name of `names`.
        folder: a folder that may have the files.
        fallback: the dataset to load, with a warning, if this one is neither found nor downloaded. Damaged files are
            still an error.
        download: whether to try the mirrors.

    Raises:
        UnknownNameError: a name is unknown.
        UnavailableError: the set was not found, not downloaded, and there is no fallback.
        DataError: it was found but can't be used.
        MissingExtraError: the set comes with a package that is not installed.

    >>> load("digits").input_shape
    (1, 28, 28)
    """
    loader = DATASETS[name]
    substitute = DATASETS[fallback] if fallback is not None else None
    place = Path(folder) if folder is not None else None
    try:
        return loader(place, download)
    except UnavailableError as error:
        if substitute is None or fallback == name:
            raise
        LOG.warning("%s; using %r instead", error, fallback)
        return substitute(place, download)
