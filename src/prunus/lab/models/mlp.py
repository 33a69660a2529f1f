"""Networks of linear layers only."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from prunus.lab.models.catalogue import layer_widths, model, whole_number


class LeNet300100(nn.Module):
    """Three linear layers with ReLU between them.

    With the default arguments, by hand (weights + biases):

        fc1  300 x 784 + 300  = 235,500
        fc2  100 x 300 + 100  =  30,100
        fc3   10 x 100 + 10   =   1,010
                                266,610 parameters, 266,200 of them weights
    """

    def __init__(self, num_classes: int, in_channels: int, image_size: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        first, second = widths
        self.fc1 = nn.Linear(in_channels * image_size * image_size, first)
        self.fc2 = nn.Linear(first, second)
        self.fc3 = nn.Linear(second, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, channels, size, size) to logits (n, classes)."""
        x = F.relu(self.fc1(images.flatten(1)))
        x = F.relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


@model("lenet-300-100")
def lenet_300_100(
    num_classes: int = 10, in_channels: int = 1, image_size: int = 28, widths: tuple[int, ...] = (300, 100)
) -> LeNet300100:
    """LeNet-300-100, two hidden linear layers: 266,610 parameters.

    Args:
        num_classes: number of logits.
        in_channels: channels of an image.
        image_size: height and width of an image in pixels.
        widths: outputs of fc1 and fc2.

    Source: LeCun et al., "Gradient-based learning applied to document recognition", Proceedings of the IEEE 86, 1998.
    """
    return LeNet300100(
        whole_number("num_classes", num_classes),
        whole_number("in_channels", in_channels),
        whole_number("image_size", image_size),
        layer_widths(widths, ("fc1", "fc2")),
    )
