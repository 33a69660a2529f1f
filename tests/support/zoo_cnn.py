"""Convolutional networks: plain, residual, dense, transposed, U-Net, 1-D and 3-D, and their norms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_case import case, floats, together


def conv_norm_relu(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """The usual 3x3 unit."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


@case("plain-cnn", "cnn", floats(3, 16, 16))
class PlainCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(32 * 4 * 4, 48)
        self.fc2 = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = torch.flatten(x, 1)
        return self.fc2(F.relu(self.fc1(x)))


@case("flatten-3x3", "cnn", floats(3, 12, 12))
class FlattenView(nn.Module):
    """The number of features is typed into `forward`, as in the oldest tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.Tanh()
        )
        self.classifier = nn.Linear(24 * 3 * 3, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = x.view(-1, 24 * 3 * 3)
        return self.classifier(x)


@case("conv-bn", "cnn", floats(3, 16, 16))
def conv_bn() -> nn.Module:
    return nn.Sequential(
        conv_norm_relu(3, 16),
        conv_norm_relu(16, 32, stride=2),
        conv_norm_relu(32, 32),
        nn.AvgPool2d(8),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


@case("global-average-pooling", "cnn", floats(3, 16, 16))
class GlobalAveragePooling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, bias=True)
        self.norm = nn.BatchNorm2d(16)
        self.conv = nn.Conv2d(16, 32, 3, stride=2)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm(self.stem(x)), 0.1)
        x = F.gelu(self.conv(x))
        return self.fc(x.mean(dim=(2, 3)))


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


def residual_net(*blocks: nn.Module) -> nn.Module:
    """A stem of 16 channels, blocks that end with 32 or 16 channels, and a head."""
    width = next(
        module.num_features for module in reversed(list(blocks[-1].modules())) if hasattr(module, "num_features")
    )
    return nn.Sequential(conv_norm_relu(3, 16), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(width, 10))


@case("residual-identity", "cnn", floats(3, 12, 12))
def residual_identity() -> nn.Module:
    return residual_net(BasicBlock(16, 16, 1, nn.Identity()), BasicBlock(16, 16, 1, nn.Identity()))


@case("residual-projection", "cnn", floats(3, 12, 12))
def residual_projection() -> nn.Module:
    projection = nn.Sequential(nn.Conv2d(16, 32, 1, 2, bias=False), nn.BatchNorm2d(32))
    return residual_net(BasicBlock(16, 32, 2, projection), BasicBlock(32, 32, 1, nn.Identity()))


class PaddedShortcut(nn.Module):
    """Every second pixel, and zero channels on both sides (option A of the ResNet paper)."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra // 2))


@case("residual-padded", "cnn", floats(3, 12, 12))
def residual_padded() -> nn.Module:
    return residual_net(
        BasicBlock(16, 16, 1, nn.Identity()),
        BasicBlock(16, 32, 2, PaddedShortcut(16)),
        BasicBlock(32, 32, 1, nn.Identity()),
    )


class DenseLayer(nn.Module):
    """Norm, activation, convolution; what comes out is appended to what came in."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 2 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * growth)
        self.conv2 = nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.norm1(x)))
        out = self.conv2(F.relu(self.norm2(out)))
        return torch.cat([x, out], 1)


@case("densenet", "cnn", floats(3, 12, 12))
def densenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        DenseLayer(16, 8),
        DenseLayer(24, 8),
        nn.Sequential(nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 1), nn.AvgPool2d(2)),
        DenseLayer(16, 8),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


@case("autoencoder", "cnn", floats(3, 16, 16))
class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 16, 4, stride=2, padding=1, groups=4),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 3, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.decoder(self.encoder(x)))


@case("unet", "cnn", floats(1, 16, 16))
class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1 = conv_norm_relu(1, 8)
        self.down2 = conv_norm_relu(8, 16)
        self.bottom = conv_norm_relu(16, 32)
        self.up2 = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.merge2 = conv_norm_relu(32, 16)
        self.up1 = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(16, 8, 1))
        self.merge1 = conv_norm_relu(16, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.bottom(F.max_pool2d(second, 2))
        x = self.merge2(torch.cat([self.up2(x), second], dim=1))
        x = self.merge1(torch.cat([first, self.up1(x)], dim=1))
        return self.head(x)


@case("cnn-1d", "cnn", floats(4, 32))
def cnn_1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 16, 5, padding=2),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(16, 32, 3, padding=2, dilation=2),
        nn.ELU(),
        nn.AdaptiveAvgPool1d(4),
        nn.Flatten(),
        nn.Linear(32 * 4, 10),
    )


@case("cnn-3d", "cnn", floats(1, 8, 8, 8))
def cnn_3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1),
        nn.BatchNorm3d(8),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(8, 16, 3, padding=1),
        nn.SiLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


@case("group-norm-cnn", "cnn", floats(3, 12, 12))
def group_norm_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.GroupNorm(32, 32),
        nn.ReLU(),
        nn.Conv2d(32, 24, 3, padding=1),
        nn.GroupNorm(1, 24),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24 * 4, 10),
    )


@case("instance-norm-cnn", "cnn", floats(3, 12, 12))
def instance_norm_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.InstanceNorm2d(16, affine=True),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.InstanceNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 3, 3, padding=1),
    )


@case("prelu-net", "cnn", floats(3, 12, 12))
def prelu_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.PReLU(16),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.PReLU(),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


@case("two-inputs", "cnn", together(floats(3, 12, 12), floats(6, seed=7)))
class TwoInputs(nn.Module):
    """An image and a few numbers about it, joined before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2)
        self.bn = nn.BatchNorm2d(16)
        self.facts = nn.Linear(6, 16)
        self.hidden = nn.Linear(16 + 16, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, image: Tensor, facts: Tensor) -> Tensor:
        seen = F.relu(self.bn(self.conv(image))).amax(dim=(2, 3))
        known = torch.tanh(self.facts(facts))
        return self.head(F.relu(self.hidden(torch.cat((seen, known), dim=-1))))


@case("dict-output", "cnn", floats(3, 12, 12))
class DictOutput(nn.Module):
    """Two heads over one trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(conv_norm_relu(3, 16), conv_norm_relu(16, 32, stride=2))
        self.labels = nn.Linear(32, 10)
        self.boxes = nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {"labels": self.labels(features.mean((-2, -1))), "boxes": self.boxes(features)}
