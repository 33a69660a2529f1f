"""LeNet, and two variants of the pruning literature."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from prunus.lab.models.catalogue import layer_widths, model, whole_number


class LeNet(nn.Module):
    """Three convolutions and one linear layer: the LeNet of this project's first experiment.

    With the default arguments, by hand (weights + biases):

        conv1   20 x   1 x 5 x 5 + 20     =     520      28 -> 24, pooled to 12
        conv2   50 x  20 x 5 x 5 + 50     =  25,050      12 -> 8, pooled to 4
        conv4  166 x  50 x 4 x 4 + 166    = 132,966       4 -> 1
        fc      10 x 166         + 10     =   1,670
                                            160,206 parameters, 159,960 of them weights
    """

    def __init__(self, num_classes: int, in_channels: int, image_size: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        first, second, third = widths
        side = pooled_twice(image_size) - 3
        self.conv1 = nn.Conv2d(in_channels, first, kernel_size=5)
        self.conv2 = nn.Conv2d(first, second, kernel_size=5)
        self.conv4 = nn.Conv2d(second, third, kernel_size=4)
        self.fc = nn.Linear(third * side * side, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, channels, size, size) to logits (n, classes)."""
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.conv4(x))
        logits: Tensor = self.fc(x.flatten(1))
        return logits


class LeNet5(nn.Module):
    """The classic LeNet-5, with ReLU and max-pooling in place of the sigmoids and trained pooling of 1998.

    With the default arguments, by hand (weights + biases):

        conv1    6 x  1 x 5 x 5 + 6      =    156      28 -> 28 (2 pixels of padding), pooled to 14
        conv2   16 x  6 x 5 x 5 + 16     =  2,416      14 -> 10, pooled to 5
        fc1    120 x 400        + 120    = 48,120
        fc2     84 x 120        + 84     = 10,164
        fc3     10 x 84         + 10     =    850
                                           61,706 parameters, 61,470 of them weights
    """

    def __init__(self, num_classes: int, in_channels: int, image_size: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        first, second, third, fourth = widths
        side = pooled_twice(image_size + 4)
        self.conv1 = nn.Conv2d(in_channels, first, kernel_size=5, padding=2)
        self.conv2 = nn.Conv2d(first, second, kernel_size=5)
        self.fc1 = nn.Linear(second * side * side, third)
        self.fc2 = nn.Linear(third, fourth)
        self.fc3 = nn.Linear(fourth, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, channels, size, size) to logits (n, classes)."""
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        x = F.relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


class LeNet5Caffe(nn.Module):
    """The LeNet-5 that came with Caffe, which most pruning papers mean: no ReLU after the convolutions.

    With the default arguments, by hand (weights + biases):

        conv1   20 x  1 x 5 x 5 + 20     =     520      28 -> 24, pooled to 12
        conv2   50 x 20 x 5 x 5 + 50     =  25,050      12 -> 8, pooled to 4
        fc1    500 x 800        + 500    = 400,500
        fc2     10 x 500        + 10     =   5,010
                                           431,080 parameters, 430,500 of them weights
    """

    def __init__(self, num_classes: int, in_channels: int, image_size: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        first, second, third = widths
        side = pooled_twice(image_size)
        self.conv1 = nn.Conv2d(in_channels, first, kernel_size=5)
        self.conv2 = nn.Conv2d(first, second, kernel_size=5)
        self.fc1 = nn.Linear(second * side * side, third)
        self.fc2 = nn.Linear(third, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, channels, size, size) to logits (n, classes)."""
        x = F.max_pool2d(self.conv1(images), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(x)
        return logits


def pooled_twice(size: int) -> int:
    """Return the side of a square image after two 5x5 convolutions, each followed by 2x2 pooling.

    >>> pooled_twice(28)
    4
    """
    return ((size - 4) // 2 - 4) // 2


@model("lenet")
def lenet(
    num_classes: int = 10, in_channels: int = 1, image_size: int = 28, widths: tuple[int, ...] = (20, 50, 166)
) -> LeNet:
    """LeNet with conv1, conv2, conv4 and fc: 160,206 parameters.

    Args:
        num_classes: number of logits.
        in_channels: channels of an image.
        image_size: height and width of an image in pixels, at least 28.
        widths: output channels of conv1, conv2 and conv4.
    """
    return LeNet(
        whole_number("num_classes", num_classes),
        whole_number("in_channels", in_channels),
        whole_number("image_size", image_size, least=28, why="two poolings must leave 4x4 pixels for conv4"),
        layer_widths(widths, ("conv1", "conv2", "conv4")),
    )


@model("lenet5")
def lenet5(
    num_classes: int = 10, in_channels: int = 1, image_size: int = 28, widths: tuple[int, ...] = (6, 16, 120, 84)
) -> LeNet5:
    """LeNet-5 as in the textbooks, with ReLU and max-pooling: 61,706 parameters.

    Args:
        num_classes: number of logits.
        in_channels: channels of an image.
        image_size: height and width of an image in pixels, at least 12.
        widths: outputs of conv1, conv2, fc1 and fc2.

    Source: LeCun et al., "Gradient-based learning applied to document recognition", Proceedings of the IEEE 86, 1998.
    """
    return LeNet5(
        whole_number("num_classes", num_classes),
        whole_number("in_channels", in_channels),
        whole_number("image_size", image_size, least=12, why="two poolings must leave a pixel for fc1"),
        layer_widths(widths, ("conv1", "conv2", "fc1", "fc2")),
    )


@model("lenet5-caffe")
def lenet5_caffe(
    num_classes: int = 10, in_channels: int = 1, image_size: int = 28, widths: tuple[int, ...] = (20, 50, 500)
) -> LeNet5Caffe:
    """LeNet-5 as in Caffe and most pruning papers, no ReLU after the convolutions: 431,080 parameters.

    Args:
        num_classes: number of logits.
        in_channels: channels of an image.
        image_size: height and width of an image in pixels, at least 16.
        widths: outputs of conv1, conv2 and fc1.

    Source: Han et al., "Learning both weights and connections for efficient neural networks", NeurIPS 2015, table 1.
    """
    return LeNet5Caffe(
        whole_number("num_classes", num_classes),
        whole_number("in_channels", in_channels),
        whole_number("image_size", image_size, least=16, why="two poolings must leave a pixel for fc1"),
        layer_widths(widths, ("conv1", "conv2", "fc1")),
    )
