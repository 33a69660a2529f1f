"""Networks for the benches of recovery, trained here: on Fashion-MNIST and MNIST, kept in a folder once trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from prunus.lab import data as datasets
from prunus.lab import models
from prunus.lab.data import Dataset
from prunus.lab.predicting import predict
from prunus.lab.recipe import TrainingSection
from prunus.lab.train import Phase, calibration_batches, fit


class SmallVgg(nn.Sequential):
    """Six convolutions with BatchNorm in pairs, each pair at half the size of the one before."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128)) -> None:
        layers: list[nn.Module] = []
        channels = 1
        for width in widths:
            for _ in range(2):
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class _Inverted(nn.Module):
    """Widen, a depthwise convolution, narrow; with a shortcut where shapes allow one."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        inner = 3 * channels
        self.widen = nn.Sequential(nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.SiLU())
        depthwise = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(inner), nn.SiLU())
        self.narrow = nn.Sequential(nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width))
        self.has_shortcut = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, h, w) to (n, width, h / stride, w / stride), rounded up."""
        y: Tensor = self.narrow(self.depthwise(self.widen(x)))
        return x + y if self.has_shortcut else y


class SmallMobile(nn.Sequential):
    """Inverted residuals with SiLU, of a share of the width."""

    def __init__(self, share: float = 1.0) -> None:
        a, b, c = (round(share * width) for width in (24, 40, 80))
        stem = [nn.Conv2d(1, a, 3, 1, 1, bias=False), nn.BatchNorm2d(a), nn.SiLU()]
        shape = [(a, a, 1), (a, b, 2), (b, b, 1), (b, c, 2), (c, c, 1)]
        blocks = [_Inverted(channels, width, stride) for channels, width, stride in shape]
        super().__init__(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 10))


@dataclass(frozen=True)
class Setting:
    """A network, its data, and how it is trained."""

    make: Callable[[], nn.Module]
    data: str
    epochs: int
    lr: float = 0.1
    shift: int = 0


def _of_catalogue(name: str, **arguments: int) -> Callable[[], nn.Module]:
    return lambda: models.create(name, **arguments)


SETTINGS = {
    "resnet20": Setting(_of_catalogue("resnet20", in_channels=1, image_size=28), "fashion-mnist", 8, 0.2, 2),
    "vgg": Setting(SmallVgg, "fashion-mnist", 5, 0.1, 2),
    "mobile": Setting(SmallMobile, "fashion-mnist", 6, 0.1, 2),
    "lenet": Setting(_of_catalogue("lenet"), "mnist", 5, 0.05),
    "lenet5-caffe": Setting(_of_catalogue("lenet5-caffe"), "mnist", 6, 0.05),
}


@dataclass(frozen=True)
class Trained:
    """A trained network and its data."""

    model: nn.Module
    data: Dataset

    def samples(self, count: int = 256) -> list[Tensor]:
        """Return so many training images in batches of 64, without labels."""
        return [images for images, _ in calibration_batches(self.data, 64, count // 64)]


def trained(name: str, seed: int, cache: Path, folder: Path | None) -> Trained:
    """Return a network trained with a seed, from the cache if it is there."""
    setting = SETTINGS[name]
    data = datasets.load(setting.data, folder=folder)
    torch.manual_seed(seed)
    model = setting.make()
    file = cache / f"{name}-{seed}.safetensors"
    if file.exists():
        load_model(model, file)
        return Trained(model.eval(), data)
    section = TrainingSection(epochs=setting.epochs, lr=setting.lr)
    fit(model, data, Phase("train", section, cache / file.stem, seed, shift=setting.shift), accelerator="cpu")
    save_model(model, str(file))
    return Trained(model.eval(), data)


def correct(model: nn.Module, data: Dataset, split: str) -> Tensor:
    """Return which images of a split are classified right."""
    images = getattr(data, split)
    return predict(model, images, mean=data.mean, std=data.std).argmax(1) == images.labels
