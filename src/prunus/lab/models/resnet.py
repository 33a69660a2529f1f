"""Residual networks for CIFAR."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from prunus.lab.models.catalogue import ArgumentError, layer_widths, model, whole_number
from prunus.registry import unknown_name


class PaddedShortcut(nn.Module):
    """The paper's option A: take every second pixel and add channels of zeros; no parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        if out_channels < in_channels:
            raise ArgumentError(
                f"shortcut 'padded' can only add channels, but the widths go from {in_channels} to {out_channels}; "
                "let them grow, or choose shortcut='projected'"
            )
        self.stride = stride
        self.added = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, out_channels, h / stride, w / stride), rounded up."""
        before = self.added // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.added - before))


class ProjectedShortcut(nn.Sequential):
    """The paper's option B: a 1x1 convolution with batch norm, where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
        )


SHORTCUTS = {"padded": PaddedShortcut, "projected": ProjectedShortcut}


class Block(nn.Module):
    """Two 3x3 convolutions whose result is added to the input."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        same_shape = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same_shape else SHORTCUTS[shortcut](in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, out_channels, h / stride, w / stride), rounded up."""
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + self.shortcut(x))


class ResNet(nn.Module):
    """A 3x3 convolution, three stages of blocks, the second and third at half the size, and one linear layer.

    The network has 6 × `blocks` + 2 layers with weights. Its weights fit images of any size.
    """

    def __init__(self, num_classes: int, in_channels: int, widths: tuple[int, ...], blocks: int, shortcut: str) -> None:
        super().__init__()
        first, second, third = widths
        self.conv = nn.Conv2d(in_channels, first, kernel_size=3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(first)
        self.stage1 = stage(first, first, 1, blocks, shortcut)
        self.stage2 = stage(first, second, 2, blocks, shortcut)
        self.stage3 = stage(second, third, 2, blocks, shortcut)
        self.fc = nn.Linear(third, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, channels, height, width) to logits (n, classes)."""
        x = F.relu(self.bn(self.conv(images)))
        x = self.stage3(self.stage2(self.stage1(x)))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


def stage(in_channels: int, out_channels: int, stride: int, blocks: int, shortcut: str) -> nn.Sequential:
    """Chain blocks, of which the first changes the shape."""
    changing = Block(in_channels, out_channels, stride, shortcut)
    return nn.Sequential(changing, *(Block(out_channels, out_channels, 1, shortcut) for _ in range(blocks - 1)))


@model("resnet20")
def resnet20(
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: int = 32,
    widths: tuple[int, ...] = (16, 32, 64),
    shortcut: str = "padded",
) -> ResNet:
    """ResNet-20 for small images, with shortcuts free of parameters (option A): 269,722 parameters, 268,336 weights.

    The paper says 0.27M. With shortcut="projected" (option B) there are 272,474. The convolutions start from
    He's initialisation.

    Args:
        num_classes: number of logits.
        in_channels: channels of an image.
        image_size: height and width of an image in pixels; the weights don't depend on it.
        widths: channels of the three stages.
        shortcut: "padded" (the paper's option A) or "projected" (its option B).

    Source: He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2 and table 6.
    """
    if shortcut not in SHORTCUTS:
        raise unknown_name("shortcut", shortcut, SHORTCUTS)
    whole_number("image_size", image_size)
    return ResNet(
        whole_number("num_classes", num_classes),
        whole_number("in_channels", in_channels),
        layer_widths(widths, ("stage1", "stage2", "stage3")),
        blocks=3,
        shortcut=shortcut,
    )
