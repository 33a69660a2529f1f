"""What a newcomer needs to start: MNIST and friends, loaded by name, and batches of them.

    data = prunus.data.load("mnist", fallback="mnist-5k")
    for images, labels in prunus.data.batches(data.train, 128, mean=data.mean, std=data.std, shift=2):
        ...

A new dataset is one decorated function, in a file of its own that is imported here.
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

    A set of files is looked for in `folder`, in the folder that the environment variable PRUNUS_DATA names (in both,
    first in a folder of the dataset's name, then directly), in the user's cache and where the system's packages put
    it. Then it is downloaded into the cache. The splits are fixed: the same images on every machine.

    Args:
        name: one that `names` gives.
        folder: where the files may be.
        fallback: the dataset to load, with a notice, where this one can be neither found nor downloaded. Damaged
            files are an error all the same.
        download: whether to try the mirrors.

    Raises:
        UnknownNameError: a name is not known.
        UnavailableError: the set was not found, not downloaded, and there is no fallback.
        DataError: it was found but can't be used; each kind of damage has its own subclass.
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
        LOG.warning("%s; using %r in its place", error, fallback)
        return substitute(place, download)
