"""Networks with a zero of each kind, and how many parameters are left when all goes that can't matter.

The count is a formula of the layers' sizes, written by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGES = (3, 8, 8)
ROWS = (6,)
TOKENS = (5, 8)
SEQUENCE = (5, 6)


class Net(nn.Module):
    """Layers, parameters and buffers by name, and a forward that uses them."""

    def __init__(self, forward: Callable[..., Tensor], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            elif isinstance(part, nn.Parameter):
                self.register_parameter(name, part)
            else:
                self.register_buffer(name, part)
        self.body = forward

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.body(self, *inputs)


@dataclass(frozen=True)
class ZeroCase:
    """A network with zeros.

    Attributes:
        name: what is zero in it.
        make: builds it, in eval mode, double, with random numbers for all that is not zero.
        shape: of one sample of its inputs; () for indices of a table.
        exact: how many parameters are left.
    """

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    exact: int

    def inputs(self, num_samples: int, seed: int = 0) -> Tensor:
        """Return random inputs."""
        generator = torch.Generator().manual_seed(seed)
        if not self.shape:
            return torch.randint(0, 10, (num_samples, 5), generator=generator)
        return torch.randn(num_samples, *self.shape, generator=generator, dtype=torch.float64)


CASES: dict[str, ZeroCase] = {}


def zero_case(name: str, shape: tuple[int, ...], exact: int) -> Callable[[Callable[[], nn.Module]], None]:
    """Enter the decorated function as a case."""

    def enter(make: Callable[[], nn.Module]) -> None:
        CASES[name] = ZeroCase(name, make, shape, exact)

    return enter


@torch.no_grad()
def random_numbers(model: nn.Module) -> nn.Module:
    """Fill a model's parameters and statistics with random numbers, none of them zero, as double, in eval mode."""
    generator = torch.Generator().manual_seed(2)
    model = model.double().eval()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * 0.5 + 0.1)
    return model


def zero(tensor: Tensor, *places: int | slice) -> None:
    """Set rows of a tensor to zero."""
    for place in places:
        tensor.data[place] = 0


def _conv(inputs: int, outputs: int, kernel: int = 1, groups: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, groups=groups, bias=bias)


def _pooled(*layers: nn.Module) -> list[nn.Module]:
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()]


# Scales of norms.


@zero_case("batch norm: scale and shift zero", IMAGES, (3 * 5 * 9 + 5) + 2 * 5 + (5 * 4 * 9 + 4) + (4 * 3 + 3))
def _() -> nn.Module:
    layers = _pooled(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    model = random_numbers(nn.Sequential(*layers, nn.Linear(4, 3)))
    for tensor in (model[1].weight, model[1].bias):
        zero(tensor, 1, 4, 6)
    return model


@zero_case(
    "batch norm: scale zero, shift not, no padding behind", IMAGES, (3 * 5 * 9) + 2 * 5 + (5 * 4 + 4) + (4 * 3 + 3)
)
def _() -> nn.Module:
    layers = _pooled(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.SiLU(), _conv(8, 4))
    model = random_numbers(nn.Sequential(*layers, nn.Linear(4, 3)))
    zero(model[1].weight, 1, 4, 6)
    return model


@zero_case(
    "batch norm: scale zero, shift below zero, padding behind", IMAGES, 3 * 5 + 2 * 5 + (5 * 4 * 9 + 4) + (4 * 3 + 3)
)
def _() -> nn.Module:
    layers = _pooled(_conv(3, 8, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    model = random_numbers(nn.Sequential(*layers, nn.Linear(4, 3)))
    zero(model[1].weight, 1, 4, 6)
    model[1].bias.data[[1, 4, 6]] = -0.3
    return model


@zero_case(
    "batch norm: shift above zero, padding behind (stays)", IMAGES, 3 * 8 + 2 * 8 + (8 * 4 * 9 + 4) + (4 * 3 + 3)
)
def _() -> nn.Module:
    layers = _pooled(_conv(3, 8, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    model = random_numbers(nn.Sequential(*layers, nn.Linear(4, 3)))
    zero(model[1].weight, 1, 4, 6)
    return model


def _residual(net: Net, x: Tensor) -> Tensor:
    x = net.stem(x)
    y = net.norm2(net.conv2(torch.relu(net.norm1(net.conv1(x)))))
    return net.head(torch.relu(x + y).mean((2, 3)))


@zero_case(
    "batch norm at the end of a residual branch", IMAGES, 3 * 4 + 4 + 4 * 2 * 9 + 2 * 2 + 2 * 4 * 9 + 2 * 4 + 4 * 3 + 3
)
def _() -> nn.Module:
    model = random_numbers(
        Net(
            _residual,
            stem=_conv(3, 4),
            conv1=nn.Conv2d(4, 6, 3, padding=1, bias=False),
            norm1=nn.BatchNorm2d(6),
            conv2=nn.Conv2d(6, 4, 3, padding=1, bias=False),
            norm2=nn.BatchNorm2d(4),
            head=nn.Linear(4, 3),
        )
    )
    zero(model.norm2.weight, 1, 2, 3)  # so only the first output of conv2 matters, which takes two channels
    zero(model.conv2.weight, (0, slice(2, 6)))
    return model


@zero_case("layer norm: scale zero", ROWS, (6 * 8 + 8) + 2 * 8 + (8 * 3 + 3))
def _() -> nn.Module:
    model = random_numbers(nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)))
    zero(model[1].weight, 1)  # the norm takes the mean over all of them
    return model


@zero_case("group norm: scale zero in a group", IMAGES, (3 * 6 + 6) + 2 * 6 + (6 * 3 + 3))
def _() -> nn.Module:
    model = random_numbers(nn.Sequential(*_pooled(_conv(3, 8), nn.GroupNorm(4, 8)), nn.Linear(8, 3)))
    zero(model[1].weight, 2, 3)
    return model


# Factors.


@zero_case("depthwise kernels", IMAGES, (3 * 5 + 5) + (5 * 9) + 2 * 5 + (5 * 4 + 4) + (4 * 3 + 3))
def _() -> nn.Module:
    depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    layers = _pooled(_conv(3, 8), nn.ReLU6(), depthwise, nn.BatchNorm2d(8), nn.ReLU6(), _conv(8, 4))
    model = random_numbers(nn.Sequential(*layers, nn.Linear(4, 3)))
    zero(model[2].weight, 0, 3, 7)
    return model


@zero_case("depthwise with two kernels a channel", IMAGES, (3 * 3 + 3) + 6 * 9 + 6 + (6 * 3 + 3))
def _() -> nn.Module:
    model = random_numbers(nn.Sequential(*_pooled(_conv(3, 4), _conv(4, 8, 3, groups=4)), nn.Linear(8, 3)))
    zero(model[1].weight, 2, 3)
    return model


def _gated(net: Net, x: Tensor) -> Tensor:
    return net.head(torch.relu(net.first(x) * net.gate))


for _name, _gate, _exact in (
    ("gate: a parameter", nn.Parameter(torch.ones(8)), 5),
    ("gate: a buffer", torch.ones(8), 0),
    ("gate: a mask of bools", torch.ones(8, dtype=torch.bool), 0),
):

    @zero_case(_name, ROWS, (6 * 5 + 5) + (5 * 3 + 3) + _exact)
    def _(gate: Tensor = _gate) -> nn.Module:
        own = nn.Parameter(gate.clone()) if isinstance(gate, nn.Parameter) else gate.clone()
        model = random_numbers(Net(_gated, first=nn.Linear(6, 8), head=nn.Linear(8, 3), gate=own))
        zero(model.gate, 1, 2, 6)
        return model


@zero_case("gate: masked_fill and where by a buffer", ROWS, (6 * 3 + 3) + (3 * 3 + 3))
def _() -> nn.Module:
    def masked(net: Net, x: Tensor) -> Tensor:
        x = net.first(x).masked_fill(net.out, 0.0)
        return net.head(torch.where(net.stay, x, torch.full_like(x, 0.7)))

    out, stay = torch.zeros(8, dtype=torch.bool), torch.ones(8, dtype=torch.bool)
    out[[0, 5]], stay[[2, 3, 7]] = True, False
    return random_numbers(Net(masked, first=nn.Linear(6, 8), head=nn.Linear(8, 3), out=out, stay=stay))


@zero_case("gate computed by layers, always zero", IMAGES, (3 * 6 + 6) + (6 * 2 + 2) + (2 * 6 + 6) + (6 * 3 + 3))
def _() -> nn.Module:
    def excited(net: Net, x: Tensor) -> Tensor:
        x = net.first(x)
        gate = F.hardsigmoid(net.up(torch.relu(net.down(x.mean((2, 3))))))
        return net.head((x * gate[:, :, None, None]).mean((2, 3)))

    layers = {"first": _conv(3, 8), "down": nn.Linear(8, 2), "up": nn.Linear(2, 8), "head": nn.Linear(8, 3)}
    model = random_numbers(Net(excited, **layers))
    zero(model.up.weight, 1, 4)
    model.up.bias.data[[1, 4]] = -3.5
    model.down.weight.data[:, [1, 4]] = 0
    return model


@zero_case("GLU: one half zero", ROWS, (6 * 6 + 6) + (3 * 3 + 3))
def _() -> nn.Module:
    model = random_numbers(nn.Sequential(nn.Linear(6, 8), nn.GLU(), nn.Linear(4, 3)))
    zero(model[0].weight, 1)
    zero(model[0].bias, 1)
    return model


def _transformed(net: Net, x: Tensor) -> Tensor:
    x = net.stem(x)
    return net.head(x + net.scale * net.second(F.gelu(net.first(net.norm(x)))))


@zero_case("layer scale", ROWS, (6 * 8 + 8) + 16 + (8 * 5 + 5) + (5 * 8 + 8) + 8 + (8 * 3 + 3))
def _() -> nn.Module:
    model = _mlp(8)
    zero(model.scale, slice(1, 8))
    zero(model.second.weight, (0, slice(5, 16)))
    return model


@zero_case("ReZero: a whole branch times zero", ROWS, (6 * 8 + 8) + 16 + (8 * 1 + 1) + (1 * 8 + 8) + 1 + (8 * 3 + 3))
def _() -> nn.Module:
    model = _mlp(1)
    zero(model.scale, 0)
    return model


def _mlp(num_scales: int) -> nn.Module:
    layers = {"stem": nn.Linear(6, 8), "norm": nn.LayerNorm(8), "first": nn.Linear(8, 16), "second": nn.Linear(16, 8)}
    return random_numbers(Net(_transformed, **layers, head=nn.Linear(8, 3), scale=nn.Parameter(torch.ones(num_scales))))


@zero_case("shortcut padded with channels of zeros", IMAGES, (3 * 4 + 4) + (4 * 5 * 9) + 2 * 5 + (5 * 3 + 3))
def _() -> nn.Module:
    def shortcut(net: Net, x: Tensor) -> Tensor:
        x = net.stem(x)
        padded = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return net.head(torch.relu(padded + net.norm(net.conv(x))).mean((2, 3)))

    conv = nn.Conv2d(4, 8, 3, 2, 1, bias=False)
    model = random_numbers(Net(shortcut, stem=_conv(3, 4), conv=conv, norm=nn.BatchNorm2d(8), head=nn.Linear(8, 3)))
    zero(model.norm.weight, 0, 1, 3, 7)  # of these, 0, 1 and 7 are padding in the shortcut
    return model


# Attention.


class _Attention(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.heads, self.fused = 4, fused

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        query, key, value = (
            layer(x).view(batch, tokens, self.heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        if self.fused:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            mixed = torch.softmax(query @ key.transpose(-1, -2) * 0.5, -1) @ value
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, -1))


_TWO_HEADS = 3 * (8 * 4 + 4) + (4 * 8 + 8)

for _bias in (0.0, 0.4):
    _what = "the same for all tokens" if _bias else "zero"

    @zero_case(f"attention: the values of two of four heads are {_what}", TOKENS, _TWO_HEADS)
    def _(bias: float = _bias) -> nn.Module:
        return _dead_heads(random_numbers(_Attention(fused=False)), bias)

    @zero_case(f"fused attention: the values of two of four heads are {_what}", TOKENS, _TWO_HEADS)
    def _(bias: float = _bias) -> nn.Module:
        return _dead_heads(random_numbers(_Attention(fused=True)), bias)

    @zero_case(f"nn.MultiheadAttention: the values of two of four heads are {_what}", TOKENS, _TWO_HEADS)
    def _(bias: float = _bias) -> nn.Module:
        layer = nn.MultiheadAttention(8, 4, batch_first=True)
        model = random_numbers(Net(lambda net, x: net.layer(x, x, x)[0], layer=layer))
        zero(model.layer.in_proj_weight, slice(16 + 2, 16 + 6))
        model.layer.in_proj_bias.data[16 + 2 : 16 + 6] = bias
        return model


def _dead_heads(model: nn.Module, bias: float) -> nn.Module:
    zero(model.value.weight, slice(2, 6))
    model.value.bias.data[2:6] = bias
    return model


# Tables and recurrent layers.

for _number in (0.0, 0.7):

    @zero_case(f"embedding: columns of {_number:g}", (), 10 * 4 + (4 * 4 + 4) + (4 * 3 + 3))
    def _(number: float = _number) -> nn.Module:
        layers = {"table": nn.Embedding(10, 6), "first": nn.Linear(6, 4), "head": nn.Linear(4, 3)}
        model = random_numbers(Net(lambda net, x: net.head(torch.tanh(net.first(net.table(x)))), **layers))
        model.table.weight.data[:, 2:4] = number
        return model


for _kind, _gates in ((nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)):

    @zero_case(f"{_kind.__name__}: units of zeros", SEQUENCE, _gates * (5 * 6 + 5 * 5 + 2 * 5) + (5 * 3 + 3))
    def _(kind: type[nn.RNNBase] = _kind, gates: int = _gates) -> nn.Module:
        layer = kind(6, 8, batch_first=True)
        model = random_numbers(Net(lambda net, x: net.head(net.layer(x)[0]), layer=layer, head=nn.Linear(8, 3)))
        return _zero_units(model, gates)

    _both = _gates * (2 * (5 * 6 + 5 * 5 + 2 * 5) + 2 * (5 * 10 + 5 * 5 + 2 * 5))

    @zero_case(f"{_kind.__name__} of two layers, both ways: units of zeros", SEQUENCE, _both + (10 * 3 + 3))
    def _(kind: type[nn.RNNBase] = _kind, gates: int = _gates) -> nn.Module:
        layer = kind(6, 8, 2, batch_first=True, bidirectional=True)
        model = random_numbers(Net(lambda net, x: net.head(net.layer(x)[0]), layer=layer, head=nn.Linear(16, 3)))
        return _zero_units(model, gates)


def _zero_units(model: nn.Module, gates: int) -> nn.Module:
    for parameter in model.layer.parameters():
        parameter.data.view(gates, 8, -1)[:, :3] = 0
    return model


# Groups.


def _grouped(groups: int, alive: tuple[int, ...]) -> nn.Sequential:
    """Return a network whose grouped layer of 40 outputs feeds only some of them on."""
    layers = _pooled(_conv(3, 40), nn.ReLU(), _conv(40, 40, 3, groups=groups), nn.ReLU())
    model = random_numbers(nn.Sequential(*layers, nn.Linear(40, 5)))
    zero(model[6].weight.T, *(index for index in range(40) if index not in alive))
    assert isinstance(model, nn.Sequential)
    return model


@zero_case("groups: one of 40 outputs in four groups", IMAGES, (3 * 10 + 10) + (1 * 10 * 9 + 1) + (1 * 5 + 5))
def _() -> nn.Module:
    return _grouped(4, (17,))


@zero_case(
    "groups: one output of each of four, at other places", IMAGES, (3 * 40 + 40) + (4 * 10 * 9 + 4) + (4 * 5 + 5)
)
def _() -> nn.Module:
    return _grouped(4, (3, 17, 26, 38))


@zero_case("groups: a whole group of two", IMAGES, (3 * 20 + 20) + (20 * 20 * 9 + 20) + (20 * 5 + 5))
def _() -> nn.Module:
    return _grouped(2, tuple(range(20, 40)))


@zero_case("groups: a whole group of four", IMAGES, (3 * 30 + 30) + (30 * 10 * 9 + 30) + (30 * 5 + 5))
def _() -> nn.Module:
    return _grouped(4, (*range(10), *range(20, 40)))


@zero_case("groups: some feed nothing, others are constant", IMAGES, (3 * 32 + 32) + (36 * 8 * 9 + 36) + (36 * 5 + 5))
def _() -> nn.Module:
    model = _grouped(4, (*range(9), *range(11, 40)))  # 9 and 10 of the first two groups feed nothing
    zero(model[2].weight, 23, 37)  # two of the others are constant, with a bias
    for row in (range(10), range(10, 20), range(20, 30), range(30, 40)):  # of each group two inputs: dead or constant
        first = row[0] + row[0] // 10
        model[2].weight.data[list(row), first % 10] = 0
    zero(model[0].weight, 5, 15, 25, 35)
    return model


@zero_case("groups: transposed", IMAGES, (3 * 24 + 24) + (24 * 2 * 9 + 6) + (6 * 5 + 5))
def _() -> nn.Module:
    transposed = nn.ConvTranspose2d(40, 20, 3, groups=4)
    model = random_numbers(nn.Sequential(*_pooled(_conv(3, 40), nn.ReLU(), transposed, nn.ReLU()), nn.Linear(20, 5)))
    zero(model[6].weight.T, *(index for index in range(20) if index not in (1, 2, 6, 7, 16)))
    zero(model[2].weight, 1, 2, 3, 11, 12, 33, 34, 35, 36)  # a group has three or two outputs alive, and eight inputs
    return model
