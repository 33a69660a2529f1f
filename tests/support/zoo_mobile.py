"""Networks of grouped and depthwise convolutions, gates and channel shuffles."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_case import case, floats
from zoo_cnn import conv_norm_relu


def head(width: int) -> list[nn.Module]:
    """Pool, and classify into ten."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]


class ResNeXtBlock(nn.Module):
    """A bottleneck whose middle convolution has `groups` groups."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + x)


@case("resnext", "cnn", floats(3, 12, 12))
def resnext() -> nn.Module:
    return nn.Sequential(conv_norm_relu(3, 32), ResNeXtBlock(32, 8), ResNeXtBlock(32, 8), *head(32))


@case("few-groups", "cnn", floats(3, 12, 12))
def few_groups() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(32, 24, 3, padding=1, groups=4),
        nn.ReLU(),
        *head(24),
    )


@case("depthwise-separable", "cnn", floats(3, 12, 12))
def depthwise_separable() -> nn.Module:
    return nn.Sequential(
        conv_norm_relu(3, 16),
        conv_norm_relu(16, 16, groups=16),
        nn.Sequential(nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32), nn.ReLU6()),
        conv_norm_relu(32, 32, stride=2, groups=32),
        nn.Conv2d(32, 32, 1),
        nn.ReLU(),
        *head(32),
    )


@case("depthwise-multiplier", "cnn", floats(3, 12, 12))
def depthwise_multiplier() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, groups=16),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 24, 1),
        nn.ReLU(),
        *head(24),
    )


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from all channels' means."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))
        return x * F.hardsigmoid(self.fc2(gate))


class InvertedResidual(nn.Module):
    """Expand, filter each channel, excite, project (MobileNetV3)."""

    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.use_shortcut = stride == 1 and inputs == outputs
        self.block = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(),
            nn.Conv2d(hidden, hidden, 5, stride, padding=2, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(),
            SqueezeExcite(hidden, hidden // 4),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.use_shortcut else self.block(x)


@case("inverted-residual-se", "cnn", floats(3, 16, 16))
def inverted_residual_se() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, padding=1),
        nn.Hardswish(),
        InvertedResidual(16, 48, 16),
        InvertedResidual(16, 64, 24, stride=2),
        InvertedResidual(24, 64, 24),
        *head(24),
    )


class ShuffleUnit(nn.Module):
    """Grouped 1x1, shuffle, depthwise, grouped 1x1, and the input added (ShuffleNet v1)."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.reduce = nn.Conv2d(width, width // 2, 1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.filter = nn.Conv2d(width // 2, width // 2, 3, padding=1, groups=width // 2, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.expand = nn.Conv2d(width // 2, width, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(width)

    def shuffle(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.size()
        x = x.view(batch, self.groups, channels // self.groups, height, width)
        return x.transpose(1, 2).contiguous().view(batch, channels, height, width)

    def forward(self, x: Tensor) -> Tensor:
        out = self.shuffle(F.relu(self.bn1(self.reduce(x))))
        out = self.bn3(self.expand(self.bn2(self.filter(out))))
        return F.relu(x + out)


@case("shufflenet-v1", "cnn", floats(3, 12, 12))
def shufflenet_v1() -> nn.Module:
    return nn.Sequential(conv_norm_relu(3, 48), ShuffleUnit(48, 3), ShuffleUnit(48, 3), *head(48))


class ShuffleSplitUnit(nn.Module):
    """Half of the channels go through, the other half are worked on, and both are shuffled (ShuffleNet v2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, worked = x.chunk(2, dim=1)
        out = torch.cat((kept, self.branch(worked)), dim=1)
        batch, channels, height, width = out.shape
        return out.reshape(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, -1, height, width)


@case("shufflenet-v2", "cnn", floats(3, 12, 12))
def shufflenet_v2() -> nn.Module:
    return nn.Sequential(
        conv_norm_relu(3, 32), ShuffleSplitUnit(32), ShuffleSplitUnit(32), conv_norm_relu(32, 32), *head(32)
    )


@case("glu-chunk", "cnn", floats(3, 12, 12))
class GatedCNN(nn.Module):
    """Half of a layer's outputs gate the other half: once by chunk, once by F.glu."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 48, 3, stride=2, padding=1)
        self.fc = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.conv1(x).chunk(2, dim=1)
        x = value * torch.sigmoid(gate)
        x = F.glu(self.conv2(x), dim=1)
        return self.fc(x.mean((2, 3)))


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, LayerNorm over channels last, two linear layers, layer scale, residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        out = self.dwconv(x).permute(0, 2, 3, 1)
        out = self.pwconv2(F.gelu(self.pwconv1(self.norm(out))))
        out = (self.gamma * out).permute(0, 3, 1, 2)
        return x + out


@case("convnext-block", "cnn", floats(3, 16, 16))
def convnext_block() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 24, 4, stride=4), ConvNeXtBlock(24), ConvNeXtBlock(24), *head(24))
