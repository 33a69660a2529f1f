"""Every kind of layer that torch has, each in a small network."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from _attack_subject import Argument, Draw, Subject, attempt, randomise

WIDTH = 8


class Between(nn.Module):
    """Two layers of the layout around the one that is tried; some of them return tuples."""

    def __init__(self, layout: str, middle: nn.Module, draw: Draw) -> None:
        super().__init__()
        layer, shape = LAYOUTS[layout]
        self.first = layer(5, WIDTH)
        self.middle = middle
        self.relu_before = draw.chance(0.5)
        with torch.no_grad():
            width = self.inner(torch.randn(2, *shape)).shape[-1 if layout in ("features", "tokens") else 1]
        self.last = layer(width, 4)

    def inner(self, x: Tensor) -> Tensor:
        """Return what the last layer takes."""
        y = self.first(x)
        y = self.middle(torch.relu(y) if self.relu_before else y)
        return y[0] if isinstance(y, tuple) else y

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.inner(x)))


LAYOUTS: dict[str, tuple[Callable[[int, int], nn.Module], tuple[int, ...]]] = {
    "features": (nn.Linear, (5,)),
    "tokens": (nn.Linear, (6, 5)),  # channels last
    "sequence": (lambda a, b: nn.Conv1d(a, b, 1), (5, 8)),
    "maps": (lambda a, b: nn.Conv2d(a, b, 3, padding=1), (5, 4, 4)),
    "volumes": (lambda a, b: nn.Conv3d(a, b, 1), (5, 4, 4, 4)),
}


class Calls(nn.Module):
    """A function of some modules and an input."""

    def __init__(self, function: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, y: Tensor) -> Tensor:
        return self.function(self, y)


class Weights(nn.Module):
    """Weights as parameters or buffers of this module, used by a function."""

    def __init__(self, function: Callable[..., Tensor], *shapes: tuple[int, ...], buffers: bool = False) -> None:
        super().__init__()
        self.function = function
        for name, shape in zip("abc", shapes, strict=False):
            if buffers:
                self.register_buffer(name, torch.randn(shape))
            else:
                self.register_parameter(name, nn.Parameter(torch.randn(shape)))

    def forward(self, y: Tensor) -> Tensor:
        return self.function(self, y)


def tied() -> nn.Module:
    """Two layers of one weight."""
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight = first.weight
    return nn.Sequential(first, nn.ReLU(), second)


def shared() -> nn.Module:
    """One layer, three times."""
    layer = nn.Linear(8, 8)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Tanh(), layer)


def cross(net: Calls, y: Tensor) -> Tensor:
    """Attend from the first tokens to all."""
    return net.attention(y[:, :3], y, y, need_weights=False)[0]


MAPS: dict[str, Callable[[], nn.Module]] = {
    "ReflectionPad2d": lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(8, 8, 3)),
    "ReplicationPad2d": lambda: nn.Sequential(nn.ReplicationPad2d(1), nn.Conv2d(8, 8, 3)),
    "CircularPad2d": lambda: nn.Sequential(nn.CircularPad2d(1), nn.Conv2d(8, 8, 3)),
    "ZeroPad2d": lambda: nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(8, 8, 3)),
    "ConstantPad2d": lambda: nn.Sequential(nn.ConstantPad2d(1, 0.7), nn.Conv2d(8, 8, 3)),
    "padding_mode reflect": lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
    "padding_mode circular": lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
    "padding_mode replicate": lambda: nn.Conv2d(8, 8, 3, padding="same", padding_mode="replicate"),
    "padding same": lambda: nn.Conv2d(8, 8, 4, padding="same"),
    "dilation": lambda: nn.Conv2d(8, 8, 3, padding=2, dilation=2),
    "stride": lambda: nn.Conv2d(8, 8, 3, stride=2),
    "BatchNorm2d": lambda: nn.BatchNorm2d(8),
    "BatchNorm2d without affine": lambda: nn.BatchNorm2d(8, affine=False),
    "BatchNorm2d without statistics": lambda: nn.BatchNorm2d(8, track_running_stats=False),
    "GroupNorm 2": lambda: nn.GroupNorm(2, 8),
    "GroupNorm 4": lambda: nn.Sequential(nn.Conv2d(8, 8, 1), nn.GroupNorm(4, 8)),
    "GroupNorm 8": lambda: nn.GroupNorm(8, 8),
    "GroupNorm 1 without affine": lambda: nn.GroupNorm(1, 8, affine=False),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(8),
    "InstanceNorm2d affine": lambda: nn.InstanceNorm2d(8, affine=True),
    "InstanceNorm2d with statistics": lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(3),
    "LayerNorm of maps": lambda: nn.LayerNorm([8, 4, 4]),
    "PReLU of 1": lambda: nn.PReLU(),
    "PReLU of channels": lambda: nn.PReLU(8),
    "RReLU": lambda: nn.RReLU(),
    "GLU": lambda: nn.GLU(1),
    "Softmax2d": lambda: nn.Softmax2d(),
    "grouped convolution": lambda: nn.Conv2d(8, 12, 3, padding=1, groups=4),
    "depthwise convolution": lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8),
    "depthwise with multiplier": lambda: nn.Conv2d(8, 16, 3, padding=1, groups=8),
    "grouped to depthwise": lambda: nn.Sequential(
        nn.Conv2d(8, 8, 1, groups=2), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
    ),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(8, 6, 3),
    "ConvTranspose2d grouped": lambda: nn.ConvTranspose2d(8, 12, 2, stride=2, groups=4),
    "ConvTranspose2d depthwise": lambda: nn.ConvTranspose2d(8, 8, 3, padding=1, output_padding=0, groups=8),
    "MaxPool2d": lambda: nn.MaxPool2d(2),
    "MaxPool2d with padding": lambda: nn.MaxPool2d(3, 1, padding=1, ceil_mode=True),
    "AvgPool2d with padding": lambda: nn.AvgPool2d(3, 1, padding=1, count_include_pad=False),
    "LPPool2d": lambda: nn.LPPool2d(2, 2),
    "FractionalMaxPool2d": lambda: nn.AdaptiveMaxPool2d(3),
    "AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2d(2),
    "max unpool": lambda: Calls(lambda net, y: F.max_unpool2d(*F.max_pool2d(y, 2, return_indices=True), 2)),
    "Upsample bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "PixelShuffle": lambda: nn.PixelShuffle(2),
    "PixelUnshuffle": lambda: nn.PixelUnshuffle(2),
    "Unfold and Fold": lambda: nn.Sequential(nn.Unfold(2, stride=2), nn.Fold((4, 4), 2, stride=2)),
    "Unfold and linear": lambda: Calls(
        lambda net, y: net.linear(F.unfold(y, 2, stride=2).transpose(1, 2)).transpose(1, 2).unflatten(2, (2, 2)),
        linear=nn.Linear(32, 8),
    ),
    "Flatten and linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(128, 32), nn.Unflatten(1, (8, 2, 2))),
    "weight_norm": lambda: parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1)),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, padding=1)),
    "old weight_norm": lambda: nn.utils.weight_norm(nn.Conv2d(8, 8, 1)),
    "grid_sample": lambda: Calls(
        lambda net, y: F.grid_sample(
            y,
            F.affine_grid(
                torch.eye(2, 3, dtype=y.dtype).expand(y.shape[0], 2, 3) * 0.8,
                [y.shape[0], 1, 4, 4],
                align_corners=False,
            ),
            align_corners=False,
        )
    ),
    "squeeze and excite": lambda: Calls(
        lambda net, y: y * torch.sigmoid(net.up(torch.relu(net.down(y.mean((2, 3), keepdim=True))))),
        down=nn.Conv2d(8, 4, 1),
        up=nn.Conv2d(4, 8, 1),
    ),
    "Dropout2d": lambda: nn.Dropout2d(0.2),
}
TOKENS: dict[str, Callable[[], nn.Module]] = {
    "LayerNorm": lambda: nn.LayerNorm(8),
    "LayerNorm without affine": lambda: nn.LayerNorm(8, elementwise_affine=False),
    "RMSNorm": lambda: nn.RMSNorm(8),
    "GLU of tokens": lambda: nn.GLU(),
    "LSTM": lambda: nn.LSTM(8, 8, batch_first=True),
    "LSTM of 2 layers": lambda: nn.LSTM(8, 6, num_layers=2, batch_first=True),
    "LSTM bidirectional": lambda: nn.LSTM(8, 6, bidirectional=True, batch_first=True),
    "LSTM with projection": lambda: nn.LSTM(8, 8, proj_size=4, batch_first=True),
    "GRU": lambda: nn.GRU(8, 8, batch_first=True),
    "GRU bidirectional": lambda: nn.GRU(8, 6, bidirectional=True, num_layers=2, batch_first=True),
    "RNN": lambda: nn.RNN(8, 8, batch_first=True),
    "RNN relu without bias": lambda: nn.RNN(8, 8, nonlinearity="relu", bias=False, batch_first=True),
    "LSTMCell": lambda: Calls(
        lambda net, y: net.cell(y[:, 1], net.cell(y[:, 0]))[0].unsqueeze(1), cell=nn.LSTMCell(8, 8)
    ),
    "GRUCell": lambda: Calls(lambda net, y: net.cell(y[:, 1], net.cell(y[:, 0])).unsqueeze(1), cell=nn.GRUCell(8, 8)),
    "self-attention": lambda: Calls(
        lambda net, y: net.attention(y, y, y)[0], attention=nn.MultiheadAttention(8, 2, batch_first=True)
    ),
    "self-attention with bias tokens": lambda: Calls(
        lambda net, y: net.attention(y, y, y)[0],
        attention=nn.MultiheadAttention(8, 4, add_bias_kv=True, batch_first=True),
    ),
    "cross-attention": lambda: Calls(cross, attention=nn.MultiheadAttention(8, 2, batch_first=True)),
    "cross-attention of other widths": lambda: Calls(
        lambda net, y: net.attention(y, net.key(y), net.key(y))[0],
        attention=nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True),
        key=nn.Linear(8, 6),
    ),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
    "TransformerEncoderLayer norm first": lambda: nn.TransformerEncoderLayer(
        8, 2, 16, norm_first=True, activation="gelu", batch_first=True
    ),
    "TransformerDecoderLayer": lambda: Calls(
        lambda net, y: net.layer(y, y[:, :3]), layer=nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
    ),
    "tied weights": tied,
    "shared module": shared,
    "functional linear": lambda: Weights(
        lambda net, y: F.linear(torch.relu(F.linear(y, net.a)), net.b), (8, 8), (6, 8)
    ),
    "matrix product": lambda: Weights(lambda net, y: torch.relu(y @ net.a) @ net.b, (8, 8), (8, 6)),
    "einsum": lambda: Weights(lambda net, y: torch.einsum("btc,cd->btd", y, net.a), (8, 8)),
    "weights as buffers": lambda: Weights(lambda net, y: torch.relu(y @ net.a) @ net.b, (8, 8), (8, 6), buffers=True),
    "computed weight": lambda: Weights(lambda net, y: F.linear(y, net.a * torch.sigmoid(net.b)), (6, 8), (6, 8)),
    "scaled by a parameter": lambda: Weights(lambda net, y: y * net.a + net.b, (8,), (8,)),
    "mixed over tokens": lambda: Calls(lambda net, y: net.mix(y.transpose(1, 2)).transpose(1, 2), mix=nn.Linear(6, 6)),
    "Linear with weight_norm": lambda: parametrizations.weight_norm(nn.Linear(8, 8)),
    "Linear with spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(8, 8)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(8, 8)),
}
FEATURES: dict[str, Callable[[], nn.Module]] = {
    "Bilinear": lambda: Calls(lambda net, y: net.layer(y, y), layer=nn.Bilinear(8, 8, 6)),
    "CosineSimilarity": lambda: Calls(
        lambda net, y: F.cosine_similarity(y.unsqueeze(1), net.layer(y).unflatten(1, (3, 8)), dim=2),
        layer=nn.Linear(8, 24),
    ),
    "PairwiseDistance": lambda: Calls(
        lambda net, y: F.pairwise_distance(y, net.layer(y)).unsqueeze(1) + y, layer=nn.Linear(8, 8)
    ),
    "cdist": lambda: Weights(lambda net, y: torch.cdist(y, net.a), (6, 8)),
    "normalize": lambda: Calls(lambda net, y: F.normalize(y, dim=1)),
    "Softmax": lambda: nn.Softmax(1),
    "Softmin": lambda: nn.Softmin(1),
    "LogSoftmax": lambda: nn.LogSoftmax(1),
    "Hardtanh": lambda: nn.Hardtanh(-0.2, 0.4),
    "Threshold": lambda: nn.Threshold(0.1, 0.3),
    "Maxout": lambda: Calls(lambda net, y: net.layer(y).unflatten(1, (4, 3)).amax(2), layer=nn.Linear(8, 12)),
    "BatchNorm1d": lambda: nn.BatchNorm1d(8),
    "AlphaDropout": lambda: nn.AlphaDropout(0.2),
    "Identity": lambda: nn.Identity(),
    "highway": lambda: Calls(
        lambda net, y: torch.sigmoid(net.gate(y)) * torch.relu(net.layer(y)) + (1 - torch.sigmoid(net.gate(y))) * y,
        gate=nn.Linear(8, 8),
        layer=nn.Linear(8, 8),
    ),
    "experts": lambda: Calls(
        lambda net, y: (torch.softmax(net.gate(y), 1).unsqueeze(2) * net.layer(y).unflatten(1, (3, 4))).sum(1),
        gate=nn.Linear(8, 3),
        layer=nn.Linear(8, 12),
    ),
}
SEQUENCE: dict[str, Callable[[], nn.Module]] = {
    "causal Conv1d": lambda: nn.Sequential(nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(8, 8, 3)),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(8, 6, 3, groups=2),
    "ReflectionPad1d": lambda: nn.ReflectionPad1d(2),
    "ReplicationPad1d": lambda: nn.ReplicationPad1d(2),
    "LPPool1d": lambda: nn.LPPool1d(2, 2),
    "AdaptiveMaxPool1d": lambda: nn.AdaptiveMaxPool1d(3),
    "InstanceNorm1d": lambda: nn.InstanceNorm1d(8, affine=True),
}
VOLUMES: dict[str, Callable[[], nn.Module]] = {
    "Conv3d": lambda: nn.Conv3d(8, 6, 3, padding=1),
    "BatchNorm3d": lambda: nn.BatchNorm3d(8),
    "ConvTranspose3d": lambda: nn.ConvTranspose3d(8, 6, 2, stride=2),
    "MaxPool3d": lambda: nn.MaxPool3d(2),
    "ReplicationPad3d": lambda: nn.ReplicationPad3d(1),
}
TABLES = (
    ("maps", MAPS),
    ("tokens", TOKENS),
    ("features", FEATURES),
    ("sequence", SEQUENCE),
    ("volumes", VOLUMES),
)


def layer_subject(layout: str, make: Callable[[], nn.Module], draw: Draw) -> Subject:
    """Put a layer between two others."""
    model = Between(layout, make().eval(), draw)
    randomise(model, draw.randrange(10_000))
    return Subject(model, (Argument(LAYOUTS[layout][1]),), dtype=draw.choice([torch.float32, torch.float64]))


for _layout, _table in TABLES:
    for _name, _make in _table.items():
        attempt("layers", _name)(lambda draw, layout=_layout, make=_make: layer_subject(layout, make, draw))


class Bag(nn.Module):
    """Bags of embeddings, summed or averaged."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(12, 8, mode=mode)
        self.middle = nn.Linear(8, 8)
        self.last = nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last(torch.relu(self.middle(self.bag(tokens))))


for _mode in ("sum", "mean", "max"):
    attempt("layers", f"EmbeddingBag {_mode}")(
        lambda draw, mode=_mode: Subject(randomise(Bag(mode), draw.randrange(10_000)), (Argument((4,), high=12),))
    )
