"""Trained networks for `inference.py`: pruning an untrained one would spread its zeros as no real network's are."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from prunus.files import load_tensors, save_tensors
from prunus.lab import data as datasets
from prunus.lab.data import Dataset, Images
from prunus.lab.recipe import TrainingSection
from prunus.lab.train import Phase, fit

RESNET_IMAGES = 10_000  # of the training split; a few minutes on two cores, and enough to be far from noise
WIDTH = 1024


@dataclass(frozen=True)
class Subject:
    """What is timed: how its model comes about, and the shape of one sample.

    Attributes:
        make: makes the untrained model.
        shape: of one sample, without the batch.
        epochs: of training; 0 leaves the weights as `make` made them.
        lr: the peak of the learning rate.
        data: loads what it is trained on, from a folder or wherever prunus finds it.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    epochs: int = 0
    lr: float = 0.05
    data: Callable[[Path | None], Dataset] | None = None


def mnist(folder: Path | None) -> Dataset:
    """Return MNIST, or the 5,000 images of it that come with a package."""
    return datasets.load("mnist", folder=folder, fallback="mnist-5k")


def colour_images(folder: Path | None) -> Dataset:
    """Return 32x32 images of three channels, made of Fashion-MNIST's or MNIST's by padding and repeating."""
    grey = datasets.load("fashion-mnist", folder=folder, fallback="mnist")
    splits = {
        name: Images(F.pad(split.images, [2] * 4).repeat(1, 3, 1, 1), split.labels)
        for name, split in (
            ("train", grey.train.take(torch.arange(min(RESNET_IMAGES, len(grey.train))))),
            ("validation", grey.validation),
            ("test", grey.test),
        )
    }
    return Dataset.from_splits(grey.name, grey.source, grey.checksum, grey.num_classes, **splits)


SUBJECTS: dict[str, Subject] = {
    "lenet5-caffe": Subject(lambda: prunus.models.create("lenet5-caffe"), (1, 28, 28), 3, data=mnist),
    "lenet-300-100": Subject(lambda: prunus.models.create("lenet-300-100"), (1, 28, 28), 3, data=mnist),
    "resnet20": Subject(lambda: prunus.models.create("resnet20"), (3, 32, 32), 2, lr=0.1, data=colour_images),
    # Its zeros lie at random, and no data has to tell where, so it needs no training.
    "linear": Subject(lambda: nn.Linear(WIDTH, WIDTH), (WIDTH,)),
}


def trained(name: str, work: Path, folder: Path | None) -> nn.Module:
    """Return a subject's dense model in eval mode; its trained weights are kept in `work` for the next time."""
    subject = SUBJECTS[name]
    torch.manual_seed(0)
    model = subject.make().eval()
    if subject.data is None:
        return model
    path = work / f"{name}.safetensors"
    if path.is_file():
        model.load_state_dict(load_tensors(path))
        return model
    section = TrainingSection(epochs=subject.epochs, lr=subject.lr)
    with tempfile.TemporaryDirectory() as place:
        found = fit(model, subject.data(folder), Phase(name, section, Path(place), seed=0), accelerator="cpu")
    print(f"{name}: trained to a validation accuracy of {found.history[-1]['validation_accuracy']:.2%}")
    save_tensors(path, model.state_dict())
    return model.eval()


def pruned(name: str, dense: nn.Module, sparsity: float) -> nn.Module:
    """Return a copy pruned in one shot: by magnitude over all layers, or at random where nothing was trained."""
    model = copy.deepcopy(dense)
    if sparsity:
        criterion = "magnitude" if SUBJECTS[name].data is not None else "random"
        prunus.prune(model, sparsity, criterion=criterion)
    return model.eval()


def samples(name: str, batch: int) -> Tensor:
    """Return a batch of normal numbers, which is what normalised images are to a kernel."""
    return torch.randn(batch, *SUBJECTS[name].shape, generator=torch.Generator().manual_seed(batch))


def nonzeros(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return of each pruned weight how many of its entries are not zero, and how many there are."""
    return {
        name: (int(parameter.count_nonzero()), parameter.numel())
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1
    }
