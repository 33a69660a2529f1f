"""Networks in which channels can't matter for another reason than a row or column of zeros, and some that do."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from _attack_channels import shuffled
from _attack_subject import Argument, Draw, Subject, attempt, randomise

Maker = Callable[[Draw], tuple[nn.Module, tuple[Argument, ...]]]
WIDTH = 8
MAPS, TOKENS, FEATURES = Argument((3, 4, 4)), Argument((5, WIDTH)), Argument((5,))


class Function(nn.Module):
    """A function of this module, whose layers it holds, and of an input."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module | nn.Parameter | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            if isinstance(layer, Tensor) and not isinstance(layer, nn.Parameter):
                self.register_buffer(name, layer)
            else:
                setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def some(length: int, draw: Draw) -> Tensor:
    """Draw which of a number of channels are meant: none, some, or all."""
    return torch.rand(length, generator=draw.generator) < draw.choice([0.3, 0.6, 0.6, 1.0])


def pair(middle: nn.Module, draw: Draw, width: int = WIDTH) -> nn.Module:
    """Put a module between convolutions and classes."""
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), nn.ReLU(), middle, nn.ReLU(), nn.Conv2d(width, 4, 1))


@torch.no_grad()
def zero(tensor: Tensor, chosen: Tensor) -> None:
    """Set chosen rows to zero."""
    tensor[chosen] = 0


def norm(draw: Draw, with_shift: bool, layer: nn.Module) -> nn.Module:
    """Zero factors of a norm, and its shifts if asked."""
    model = randomise(pair(nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), layer), draw), draw.randrange(9999))
    chosen = some(WIDTH, draw)
    zero(layer.weight, chosen)
    if with_shift:
        zero(layer.bias, chosen)
    return model


def gated(draw: Draw, gate: Tensor, function: Callable[..., Tensor]) -> nn.Module:
    """Multiply a branch by a gate that has zeros."""
    branch = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
    model = randomise(pair(Function(function, branch=branch, gate=gate), draw), draw.randrange(9999))
    zero(gate.data if isinstance(gate, nn.Parameter) else gate, some(len(gate), draw))
    return model


def grouped(draw: Draw, chain: int, shuffle: bool) -> nn.Module:
    """Chain grouped convolutions in which inputs and outputs are dead in other places of each group."""
    width = draw.choice([8, 12, 24])
    layers: list[nn.Module] = [nn.Conv2d(3, width, 1), nn.ReLU()]
    convolutions = []
    for _ in range(chain):
        groups = draw.choice([g for g in (2, 3, 4, 6, 8, 12) if width % g == 0])
        convolutions.append(nn.Conv2d(width, width, draw.choice([1, 3]), padding="same", groups=groups))
        layers += [convolutions[-1], nn.BatchNorm2d(width) if draw.chance(0.4) else nn.Identity(), nn.ReLU()]
        if shuffle:
            layers.append(Function(lambda net, y, g=groups: shuffled(y, g)))
    model = randomise(nn.Sequential(*layers, nn.Conv2d(width, 4, 1)), draw.randrange(9999))
    with torch.no_grad():
        for convolution in convolutions:
            convolution.weight[some(width, draw)] = 0
            per_group = convolution.weight.view(convolution.groups, -1, *convolution.weight.shape[1:])
            per_group[
                torch.rand(per_group.shape[:3:2], generator=draw.generator).unsqueeze(1).expand(per_group.shape[:3])
                < 0.3
            ] = 0
            if draw.chance(0.4):
                per_group[draw.randrange(convolution.groups)] = 0
    return model


def duplicates(
    draw: Draw, layer: Callable[[int, int], nn.Module], activation: nn.Module, middle: nn.Module
) -> nn.Module:
    """Make some neurons equal to others, in weights and biases, or in weights only."""
    first, last = layer(3, 12), layer(12, 4)
    model = randomise(nn.Sequential(first, middle, activation, last), draw.randrange(9999))
    with torch.no_grad():
        source = torch.randint(12, (12,), generator=draw.generator)
        first.weight.copy_(first.weight[source])
        if draw.chance(0.7):
            first.bias.copy_(first.bias[source])
        if isinstance(middle, nn.BatchNorm2d) and draw.chance(0.7):
            for tensor in (middle.weight, middle.bias, middle.running_mean, middle.running_var):
                tensor.copy_(tensor[source])
    return model


def attention(draw: Draw, part: int, constant: bool) -> nn.Module:
    """Zero queries, keys or values of some heads of an attention; `constant` leaves the biases."""
    layer = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
    model = randomise(
        Function(lambda net, y: net.last(net.layer(y, y, y)[0] + y), layer=layer, last=nn.Linear(8, 4)),
        draw.randrange(9999),
    )
    heads = some(4, draw).repeat_interleave(2)
    with torch.no_grad():
        layer.in_proj_weight.view(3, WIDTH, WIDTH)[part][heads] = 0
        if not constant:
            layer.in_proj_bias.view(3, WIDTH)[part][heads] = 0
    return model


def recurrent(draw: Draw, kind: type[nn.RNNBase], gates: int) -> nn.Module:
    """Zero all gates of some units, with their biases or without."""
    layer = kind(WIDTH, WIDTH, batch_first=True)
    model = randomise(
        Function(lambda net, y: net.last(net.layer(y)[0]), layer=layer, last=nn.Linear(8, 4)), draw.randrange(9999)
    )
    units, biases = some(WIDTH, draw).repeat(gates), draw.chance(0.7)
    with torch.no_grad():
        for parameter in layer.parameters():
            if biases or parameter.dim() == 2:
                parameter[units] = 0
    return model


def embedding(draw: Draw) -> nn.Module:
    """Zero columns of a table, or make them constant."""
    table = nn.Embedding(9, WIDTH)
    model = randomise(nn.Sequential(table, nn.Linear(WIDTH, 6), nn.ReLU(), nn.Linear(6, 4)), draw.randrange(9999))
    with torch.no_grad():
        table.weight[:, some(WIDTH, draw)] = draw.choice([0.0, 0.5])
    return model


def depthwise(draw: Draw) -> nn.Module:
    """Zero kernels of a depthwise convolution, with their biases or without."""
    layer = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
    model = randomise(pair(nn.Sequential(layer, nn.BatchNorm2d(WIDTH)), draw), draw.randrange(9999))
    chosen = some(WIDTH, draw)
    zero(layer.weight, chosen)
    if draw.chance(0.5):
        zero(layer.bias, chosen)
    return model


def factor(*shape: int) -> nn.Parameter:
    """Make a parameter that `randomise` fills."""
    return nn.Parameter(torch.ones(shape))


DEAD: dict[str, Maker] = {
    "batch norm of zeros": lambda d: (norm(d, True, nn.BatchNorm2d(WIDTH)), (MAPS,)),
    "batch norm of zero factors": lambda d: (norm(d, False, nn.BatchNorm2d(WIDTH)), (MAPS,)),
    "instance norm of zeros": lambda d: (norm(d, True, nn.InstanceNorm2d(WIDTH, affine=True)), (MAPS,)),
    "group norm of zeros": lambda d: (norm(d, True, nn.GroupNorm(4, WIDTH)), (MAPS,)),
    "depthwise kernels": lambda d: (depthwise(d), (MAPS,)),
    "gate": lambda d: (gated(d, factor(WIDTH, 1, 1), lambda net, y: net.branch(y) * net.gate), (MAPS,)),
    "gate of a residual": lambda d: (
        gated(d, factor(WIDTH, 1, 1), lambda net, y: y + net.branch(y) * net.gate),
        (MAPS,),
    ),
    "gate in a buffer": lambda d: (gated(d, torch.ones(WIDTH, 1, 1), lambda net, y: net.branch(y) * net.gate), (MAPS,)),
    "gate of one number": lambda d: (gated(d, factor(1), lambda net, y: y + net.branch(y) * net.gate), (MAPS,)),
    "gate squared": lambda d: (gated(d, factor(WIDTH, 1, 1), lambda net, y: net.branch(y) * net.gate**2), (MAPS,)),
    "gate through a sigmoid": lambda d: (
        gated(d, factor(WIDTH, 1, 1), lambda net, y: net.branch(y) * torch.sigmoid(net.gate)),
        (MAPS,),
    ),
    "gate added first": lambda d: (
        gated(d, factor(WIDTH, 1, 1), lambda net, y: net.branch(y + 1) * (net.gate + 0.5)),
        (MAPS,),
    ),
    "gate as a divisor": lambda d: (
        gated(d, factor(WIDTH, 1, 1), lambda net, y: net.branch(y) / (1 + net.gate)),
        (MAPS,),
    ),
    "gate as an exponent": lambda d: (
        gated(d, factor(WIDTH, 1, 1), lambda net, y: (net.branch(y).abs() + 1) ** net.gate),
        (MAPS,),
    ),
    "gate of positions": lambda d: (gated(d, factor(4, 1), lambda net, y: net.branch(y) * net.gate), (MAPS,)),
    "gate compared": lambda d: (
        gated(d, factor(WIDTH, 1, 1), lambda net, y: torch.maximum(net.branch(y), net.gate)),
        (MAPS,),
    ),
    "gate as a condition": lambda d: (
        gated(d, factor(WIDTH, 1, 1), lambda net, y: torch.where(net.gate > 0, net.branch(y), y)),
        (MAPS,),
    ),
    "grouped": lambda d: (grouped(d, 1, False), (MAPS,)),
    "two grouped": lambda d: (grouped(d, 2, False), (MAPS,)),
    "three grouped with shuffles": lambda d: (grouped(d, 3, True), (MAPS,)),
    "duplicate neurons": lambda d: (duplicates(d, nn.Linear, nn.Tanh(), nn.Identity()), (Argument((3,)),)),
    "duplicate channels": lambda d: (
        duplicates(d, lambda a, b: nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(12)),
        (MAPS,),
    ),
    "duplicates before a softmax": lambda d: (
        duplicates(d, nn.Linear, nn.Softmax(-1), nn.Identity()),
        (Argument((3,)),),
    ),
    "duplicates before a norm": lambda d: (duplicates(d, nn.Linear, nn.ReLU(), nn.LayerNorm(12)), (Argument((3,)),)),
    "queries of zero": lambda d: (attention(d, 0, d.chance(0.5)), (TOKENS,)),
    "keys of zero": lambda d: (attention(d, 1, d.chance(0.5)), (TOKENS,)),
    "values of zero": lambda d: (attention(d, 2, False), (TOKENS,)),
    "constant values": lambda d: (attention(d, 2, True), (TOKENS,)),
    "LSTM units": lambda d: (recurrent(d, nn.LSTM, 4), (TOKENS,)),
    "GRU units": lambda d: (recurrent(d, nn.GRU, 3), (TOKENS,)),
    "RNN units": lambda d: (recurrent(d, nn.RNN, 1), (TOKENS,)),
    "embedding columns": lambda d: (embedding(d), (Argument((5,), high=9),)),
}


def dead_subject(name: str, draw: Draw) -> Subject:
    """Make a network of `DEAD`; in half of the cases nothing else is masked."""
    model, arguments = DEAD[name](draw)
    masking = draw.choice(["nothing", "lines"])
    return Subject(model, arguments, dtype=draw.choice([torch.float32, torch.float64]), masking=masking)


for _name in DEAD:
    attempt("dead", _name)(lambda draw, name=_name: dead_subject(name, draw))


class Overflow(nn.Module):
    """A channel times zero that is infinite for large inputs: then the masked model's own output is NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 4)
        self.gate = factor(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.exp(F.softplus(self.first(x)) * 3) * self.gate)


@attempt("dead", "zero times what overflows")
def _(draw: Draw) -> Subject:
    model = randomise(Overflow(), draw.randrange(9999))
    zero(model.gate.data, some(WIDTH, draw))
    return Subject(model, (FEATURES,))
