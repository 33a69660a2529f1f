"""Networks that do more in training, whose attributes equal the sizes of layers, or whose numbers are not float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from _attack_channels import LITERAL, MOVES, around
from _attack_subject import Argument, Draw, Subject, attempt, randomise


class Trained(nn.Module):
    """Two convolutions and a head; what is done in training is a function of the network and its maps."""

    def __init__(self, branch: Callable[..., Any], draw: Draw) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.auxiliary = nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 5))
        self.attached = nn.Linear(8, 5)
        self.dropout = nn.Dropout(0.3)
        self.branch = branch
        self.mean = nn.Parameter(torch.zeros(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Any:
        y = torch.relu(self.norm(self.first(x)))
        return self.branch(self, y)

    def end(self, y: Tensor) -> Tensor:
        """Return the classes' scores."""
        return self.head(torch.relu(self.second(y)).mean((2, 3)))


def auxiliary_heads(net: Trained, y: Tensor) -> Any:
    """Return a second output in training, as GoogLeNet does."""
    return (net.end(y), net.auxiliary(y)) if net.training else net.end(y)


def noisy(net: Trained, y: Tensor) -> Tensor:
    """Add noise in training."""
    return net.end(y + torch.randn_like(y) * 0.1 if net.training else y)


def stochastic_depth(net: Trained, y: Tensor) -> Tensor:
    """Drop a branch of a sample at random in training."""
    branch = torch.relu(net.second(y))
    if net.training:
        branch = branch * (torch.rand(y.shape[0], 1, 1, 1) < 0.8)
    return net.end(y + branch)


def caches(net: Trained, y: Tensor) -> Tensor:
    """Keep an auxiliary loss as an attribute in training."""
    if net.training:
        net.loss = net.attached(y.mean((2, 3))).square().mean()
    return net.end(y)


TRAINING: dict[str, Callable[..., Any]] = {
    "auxiliary head": auxiliary_heads,
    "auxiliary linear": lambda net, y: (net.end(y), net.attached(y.mean((2, 3)))) if net.training else net.end(y),
    "auxiliary in a dict": lambda net, y: (
        {"out": net.end(y), "aux": net.auxiliary(y)} if net.training else {"out": net.end(y)}
    ),
    "auxiliary added": lambda net, y: net.end(y) + (net.attached(y.mean((2, 3))) if net.training else 0),
    "auxiliary in eval only": lambda net, y: net.end(y) if net.training else net.end(y) + net.attached(y.mean((2, 3))),
    "dropout": lambda net, y: net.end(net.dropout(y)),
    "dropout of channels": lambda net, y: net.end(F.dropout2d(y, 0.3, net.training)),
    "alpha dropout": lambda net, y: net.end(F.feature_alpha_dropout(y, 0.3, net.training)),
    "noise": noisy,
    "noise of a literal shape": lambda net, y: net.end(y + torch.randn(1, 8, 1, 1).to(y.dtype) if net.training else y),
    "stochastic depth": stochastic_depth,
    "cached loss": caches,
    "literal in training": lambda net, y: net.end(torch.cat([y[:, :4] * 0.5, y[:, 4:]], 1) if net.training else y),
    "literal in eval": lambda net, y: net.end(y if net.training else torch.cat([y[:, :4] * 0.5, y[:, 4:]], 1)),
    "literal size in training": lambda net, y: net.end(y.view(-1, 8, 4, 4) if net.training else y),
    "parameter in training": lambda net, y: net.end(y - net.mean.view(1, -1, 1, 1) if net.training else y),
    "mixed samples": lambda net, y: net.end(0.7 * y + 0.3 * y.flip(0) if net.training else y),
    "detached in training": lambda net, y: net.end(y.detach() if net.training else y),
    "no branch": lambda net, y: net.end(y),
}


def training_subject(name: str, draw: Draw) -> Subject:
    """Make a network of `TRAINING`, left in either mode."""
    model = randomise(Trained(TRAINING[name], draw), draw.randrange(10_000))
    return Subject(model, (Argument((3, 4, 4)),), dtype=draw.choice([torch.float32, torch.float64]))


for _name in TRAINING:
    attempt("training", _name)(lambda draw, name=_name: training_subject(name, draw))


class Branching(nn.Module):
    """Two layers, and in training a function of the channels between, as a second output or in place of them."""

    def __init__(self, function: Callable[[Tensor], Tensor], *, beside: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 5)
        self.function, self.beside = function, beside

    def forward(self, x: Tensor) -> Any:
        y = torch.relu(self.first(x))
        if self.training and self.beside:
            return self.last(y), self.function(y)
        return self.last(self.function(y) if self.training else y)


BRANCHES: dict[str, Callable[[Tensor], Tensor]] = {
    "one channel": lambda y: y[:, 3:4].expand_as(y),
    "some channels halved": lambda y: torch.cat([y[:, :4] * 0.5, y[:, 4:]], 1),
    "channels rolled": lambda y: y.roll(5, 1),
    "channels flipped": lambda y: y.flip(1),
    "channels less their mean": lambda y: y - y.mean(1, keepdim=True),
    "channels doubled": lambda y: 2 * y,
}


def branching_subject(name: str, beside: bool, draw: Draw) -> Subject:
    """Make a network whose outputs in training are to stay the same too."""
    model = randomise(Branching(BRANCHES[name], beside=beside), draw.randrange(10_000))
    return Subject(model, (Argument((6,)),), dtype=torch.float64, same_in_training=True)


for _name in BRANCHES:
    for _beside in (False, True):
        attempt("training", f"{_name}, {'beside' if _beside else 'instead'}")(
            lambda draw, name=_name, beside=_beside: branching_subject(name, beside, draw)
        )


@dataclass
class Config:
    """Settings, as published models keep them."""

    width: int = 8
    image_size: int = 8


class Attributes(nn.Module):
    """A network of width 8 whose settings are 8, too; how it uses them is a function."""

    def __init__(self, use: Callable[..., Tensor], draw: Draw) -> None:
        super().__init__()
        self.image_size = self.num_classes = self.patch_size = self.steps = self.period = self.max_length = 8
        self.width = self.scale = 8
        self.config = Config()
        self.settings = {"width": 8, "size": 8}
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 8)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        y = self.use(self, torch.relu(self.first(x)))
        return self.head(torch.relu(self.second(y)).mean((2, 3)))


def steps(net: Attributes, y: Tensor) -> Tensor:
    """Add a tenth as often as the attribute says."""
    for _ in range(net.steps):
        y = y + 0.1 * y.tanh()
    return y


# How an attribute is used, and which must keep its value.
ATTRIBUTES: dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    "image size as a factor": (lambda net, y: y / net.image_size, ("image_size",)),
    "image size of a view": (lambda net, y: y.view(-1, net.width, net.image_size, net.image_size), ("image_size",)),
    "image size checked": (lambda net, y: y if y.shape[-1] == net.image_size else y * 0, ("image_size",)),
    "classes": (lambda net, y: y + net.num_classes, ("num_classes",)),
    "patch": (lambda net, y: F.avg_pool2d(y, net.patch_size).expand_as(y) + y, ("patch_size",)),
    "steps": (steps, ("steps",)),
    "period": (lambda net, y: y + (torch.arange(y.shape[-1]) * 3 % net.period).to(y.dtype), ("period",)),
    "maximum length": (lambda net, y: y[:, :, : net.max_length], ("max_length",)),
    "scale": (lambda net, y: y * net.scale**-0.5, ("scale",)),
    "width as a view": (lambda net, y: y.reshape(-1, net.width, 64).reshape(-1, net.width, 8, 8), ("image_size",)),
    "width as a view and a scale": (lambda net, y: y.reshape(-1, net.width, 8, 8) * net.width**-0.5, ("image_size",)),
    "config": (lambda net, y: y / net.config.image_size, ("config",)),
    "config width": (lambda net, y: y.reshape(-1, net.config.width, 8, 8), ()),
    "dict": (lambda net, y: y.reshape(-1, net.settings["width"], 64).unflatten(2, (8, 8)) / net.settings["size"], ()),
    "unused": (
        lambda net, y: y,
        ("image_size", "num_classes", "patch_size", "steps", "period", "max_length", "settings"),
    ),
    "normalised by a size": (lambda net, y: F.layer_norm(y, (net.image_size,)), ("image_size",)),
    "fold": (lambda net, y: y.unfold(2, net.patch_size, net.patch_size).squeeze(2).transpose(2, 3), ("patch_size",)),
}


def attributes_subject(name: str, draw: Draw) -> Subject:
    """Make a network of `ATTRIBUTES`."""
    use, unchanged = ATTRIBUTES[name]
    model = randomise(Attributes(use, draw), draw.randrange(10_000))
    dtype = draw.choice([torch.float32, torch.float64])
    return Subject(model, (Argument((3, 8, 8)),), unchanged=unchanged, dtype=dtype)


for _name in ATTRIBUTES:
    attempt("attributes", _name)(lambda draw, name=_name: attributes_subject(name, draw))


class Complex(nn.Module):
    """Linear layers, complex or real, around a function of complex numbers."""

    def __init__(self, use: Callable[..., Tensor], layer: torch.dtype, last: torch.dtype, in_pairs: bool) -> None:
        super().__init__()
        self.first = nn.Linear(5, 8, dtype=layer)
        self.phase = nn.Parameter(torch.randn(8, dtype=torch.complex64))
        self.register_buffer("turn", torch.polar(torch.ones(8), torch.linspace(0, 3, 8)))
        self.last = nn.Linear(8, 4, dtype=last)
        self.use = use
        self.in_pairs = in_pairs

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.use(self, self.first(x)))
        return torch.view_as_real(y) if y.is_complex() and self.in_pairs else y


REAL, COMPLEX = torch.float32, torch.complex64
# What is done, the numbers of the first and the last layer, whether the input is complex.
NUMBERS: dict[str, tuple[Callable[..., Tensor], torch.dtype, torch.dtype, bool]] = {
    "complex layers": (lambda net, z: z * z.abs(), COMPLEX, COMPLEX, True),
    "complex product": (lambda net, z: z * net.phase, COMPLEX, COMPLEX, True),
    "complex constant": (lambda net, z: z * net.turn, COMPLEX, COMPLEX, True),
    "complex number": (lambda net, z: z * (0.3 + 0.7j) + 1j, COMPLEX, COMPLEX, True),
    "magnitude": (lambda net, z: z.abs(), COMPLEX, REAL, True),
    "real part": (lambda net, z: torch.relu(z.real), COMPLEX, REAL, True),
    "imaginary part": (lambda net, z: torch.relu(z.imag), COMPLEX, REAL, True),
    "angle": (lambda net, z: torch.angle(z + 3), COMPLEX, REAL, True),
    "from real": (lambda net, y: torch.complex(y, y.flip(1)), REAL, COMPLEX, False),
    "turned": (lambda net, y: (y * net.turn).real + (y * net.turn).imag, REAL, REAL, False),
    "phase": (lambda net, y: (torch.relu(y) * net.phase).imag, REAL, REAL, False),
    "viewed as pairs": (
        lambda net, y: torch.view_as_real(torch.view_as_complex(y.view(-1, 4, 2)) * net.turn[:4]).flatten(1),
        REAL,
        REAL,
        False,
    ),
    "polar": (lambda net, y: torch.polar(torch.relu(y), y).real, REAL, REAL, False),
    "fourier": (lambda net, y: torch.fft.fft(y, dim=1).real, REAL, REAL, False),
    "fourier and back": (
        lambda net, y: torch.fft.irfft(torch.fft.rfft(y, dim=1) * net.turn[:5], n=8, dim=1),
        REAL,
        REAL,
        False,
    ),
    "conjugate": (lambda net, z: torch.conj(z) * z.flip(1), COMPLEX, COMPLEX, True),
}


def complex_subject(name: str, draw: Draw) -> Subject:
    """Make a network of `NUMBERS`."""
    use, first, last, imaginary = NUMBERS[name]
    model = Complex(use, first, last, draw.chance(0.2))
    return Subject(model, (Argument((5,), imaginary=imaginary),), dtype=draw.choice([torch.float32, torch.float64]))


for _name in NUMBERS:
    attempt("complex", _name)(lambda draw, name=_name: complex_subject(name, draw))


def other_dtype(dtype: torch.dtype, draw: Draw) -> Subject:
    """Make a network with a literal, a move or neither, of another number type."""
    makers = [*LITERAL.values(), *MOVES.values(), *[lambda width, draw: lambda y: y] * 20]
    subject = around(draw.choice(makers), draw)
    subject.dtype = dtype
    return subject


for _dtype in (torch.float64, torch.float16, torch.bfloat16):
    attempt("complex", str(_dtype).removeprefix("torch."))(lambda draw, dtype=_dtype: other_dtype(dtype, draw))
