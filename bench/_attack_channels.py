"""Forwards that address channels by literal index or move channels, and the networks around them.

Each attempt is an operation on dimension 1, put between two layers; which layers, norms and activations is drawn. An
operation is made for a number of channels, which is what its author had before anything was cut.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from _attack_subject import Argument, Draw, Subject, attempt, randomise

Operation = Callable[[Tensor], Tensor]
Maker = Callable[[int, Draw], Operation]
LITERAL: dict[str, Maker] = {}
MOVES: dict[str, Maker] = {}
ACTIVATIONS: tuple[Operation, ...] = (torch.relu, torch.sigmoid, torch.tanh, F.gelu, F.hardswish, lambda y: y)


class Indexed(nn.Module):
    """An operation with a tensor of literal indices, factors or flags as a buffer called `table`."""

    def __init__(self, table: Tensor, apply: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.apply_table = apply

    def forward(self, y: Tensor) -> Tensor:
        return self.apply_table(y, self.table)


class Around(nn.Module):
    """Layer, norm, operation, activation, layer; the operation twice if asked, a residual if widths allow."""

    def __init__(self, layout: str, width: int, operation: Operation, draw: Draw) -> None:
        super().__init__()
        layer, norm = LAYOUTS[layout]
        self.before = layer(5, width)
        self.norm = norm(width) if draw.chance(0.4) else nn.Identity()
        self.operation = operation
        self.first, self.second = draw.choice(ACTIVATIONS), draw.choice(ACTIVATIONS)
        self.early, self.residual = draw.chance(0.5), draw.chance(0.2)
        self.pre = layer(width, width) if self.residual else nn.Identity()
        shape = {"features": (), "tokens": (6,), "maps": (4, 4)}[layout]
        with torch.no_grad():
            middle = operation(torch.randn(2, width, *shape)).shape[1]
        self.residual = self.residual and middle == width
        self.after = layer(middle, 6)
        self.hide_inside = self.hide_outside = _same

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.before(x))
        if self.early:
            y = self.first(y)
        y = y + self.operation(self.pre(y)) if self.residual else self.operation(y)
        y = self.after(self.second(self.hide_inside(y)))
        return self.hide_outside(y)


def _same(y: Tensor) -> Tensor:
    return y


LAYOUTS = {
    "features": (nn.Linear, nn.BatchNorm1d),
    "tokens": (lambda a, b: nn.Conv1d(a, b, 1), nn.BatchNorm1d),
    "maps": (lambda a, b: nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d),
}
SHAPES = {"features": (5,), "tokens": (5, 6), "maps": (5, 4, 4)}


def around(make: Maker, draw: Draw, layouts: tuple[str, ...] = tuple(LAYOUTS)) -> Subject:
    """Put an operation between two layers of a drawn layout and width."""
    layout = draw.choice(layouts)
    width = draw.choice([8, 12, 16])
    model = Around(layout, width, make(width, draw), draw)
    randomise(model, draw.randrange(10_000))
    dtype = draw.choice([torch.float32, torch.float64])
    return Subject(model, (Argument(SHAPES[layout]),), names=draw.choice([(), (), ("x",)]), dtype=dtype)


def register(
    into: dict[str, Maker], family: str, name: str, layouts: tuple[str, ...] = tuple(LAYOUTS)
) -> Callable[[Maker], Maker]:
    """Add an operation to a table, and as an attempt to a family."""

    def add(make: Maker) -> Maker:
        if len(layouts) == len(LAYOUTS):
            into[name] = make
        attempt(family, name)(lambda draw: around(make, draw, layouts))
        return make

    return add


def written(y: Tensor, write: Callable[[Tensor], object]) -> Tensor:
    """Return a copy that something was written into."""
    y = y.clone()
    write(y)
    return y


def set_zero(y: Tensor) -> Tensor:
    """Zero the first two in place."""
    y[:, :2] = 0
    return y


def set_last(y: Tensor) -> None:
    """Overwrite the last by the first."""
    y[:, -1] = y[:, 0]


def halve(y: Tensor) -> None:
    """Halve the first four in place."""
    y[:, :4] *= 0.5


def per_channel(table: Tensor, y: Tensor) -> Tensor:
    """Return a vector of a number a channel so that it meets the channels of y."""
    return table.view(1, -1, *[1] * (y.dim() - 2))


for _name, _operation in {
    "y[:, :2] = 0": lambda y: written(y, set_zero),
    "y[:, :2] = 0 in place": lambda y: set_zero(y),
    "y[:, :4] *= .5": lambda y: written(y, halve),
    "y[:, -1] = y[:, 0]": lambda y: written(y, set_last),
    "cat of a scaled part": lambda y: torch.cat([y[:, :4] * 0.5, y[:, 4:]], 1),
    "cat of an activated part": lambda y: torch.cat([y[:, :3].tanh(), y[:, 3:]], 1),
    "y[:, 3]": lambda y: y[:, 3].unsqueeze(1),
    "y[:, ::2]": lambda y: y[:, ::2],
    "y[:, 1::3]": lambda y: y[:, 1::3],
    "y[:, [0, 3, 5]]": lambda y: y[:, [0, 3, 5]],
    "y[:, -2:]": lambda y: y[:, -2:],
    "y[:, 2:6]": lambda y: y[:, 2:6],
    "y[:, :3] + y[:, 3:6]": lambda y: y[:, :3] + y[:, 3:6],
    "y * y[:, 2:3]": lambda y: y * y[:, 2:3],
    "narrow": lambda y: y.narrow(1, 1, 5),
    "split [3, 5, rest]": lambda y: torch.cat(
        [-part if n == 1 else part for n, part in enumerate(y.split([3, 5, y.shape[1] - 8], 1))], 1
    ),
    "split 4": lambda y: sum(part * (n + 1) for n, part in enumerate(y.split(4, 1))),
    "unbind": lambda y: torch.stack(y.unbind(1)[1:4], 1),
    "select twice": lambda y: torch.stack([y.select(1, 0), y.select(1, -1)], 1),
    "index_select": lambda y: y.index_select(1, torch.tensor([1, 4, 6, 7])),
    "index_add": lambda y: y.index_add(1, torch.tensor([0, 2]), y[:, :2]),
    "index_fill": lambda y: y.index_fill(1, torch.tensor([1, 5]), 0.5),
    "index_copy": lambda y: y.index_copy(1, torch.tensor([6, 0]), y[:, 2:4]),
    "take_along_dim": lambda y: y.take_along_dim(torch.tensor([2, 0, 1]).view(1, 3, *[1] * (y.dim() - 2)), 1),
    "slice_scatter": lambda y: y.slice_scatter(torch.zeros_like(y[:, :3]), 1, 2, 5),
    "select_scatter": lambda y: y.select_scatter(y[:, 0] * 2, 1, 4),
    "where arange < 3": lambda y: torch.where(per_channel(torch.arange(y.shape[1]), y) < 3, y, 0 * y),
    "times arange": lambda y: y * per_channel(torch.arange(y.shape[1]), y),
    "times linspace": lambda y: y * per_channel(torch.linspace(0, 1, y.shape[1]).to(y.dtype), y),
    "cumsum": lambda y: y.cumsum(1),
    "diff": lambda y: y.diff(dim=1),
    "divided by width": lambda y: y.sum(1, keepdim=True) / y.shape[1],
    "mean": lambda y: y - y.mean(1, keepdim=True),
    "padded": lambda y: F.pad(y, (0, 0) * (y.dim() - 2) + (1, 2), value=0.3),
    "tril of products": lambda y: (
        torch.einsum("bc...,bd...->bcd", y, y)
        .tril()
        .flatten(1)[:, :9]
        .reshape(y.shape[0], 9, *[1] * (y.dim() - 2))
        .expand(-1, -1, *y.shape[2:])
    ),
}.items():
    register(LITERAL, "literal", _name)(lambda width, draw, operation=_operation: operation)


@register(LITERAL, "literal", "index buffer")
def _(width: int, draw: Draw) -> Operation:
    return Indexed(torch.tensor([0, 2, 3, 7]), lambda y, table: y[:, table])


@register(LITERAL, "literal", "masked_fill by a mask of channels")
def _(width: int, draw: Draw) -> Operation:
    return Indexed(torch.arange(width) % 3 == 0, lambda y, table: y.masked_fill(per_channel(table, y), 0.25))


@register(LITERAL, "literal", "boolean index")
def _(width: int, draw: Draw) -> Operation:
    return Indexed(torch.arange(width) % 3 != 1, lambda y, table: y[:, table])


@register(LITERAL, "literal", "factors in a buffer")
def _(width: int, draw: Draw) -> Operation:
    return Indexed((torch.arange(width) % 4).float(), lambda y, table: y * per_channel(table, y))


@register(LITERAL, "literal", "factors as a tensor of the forward")
def _(width: int, draw: Draw) -> Operation:
    factors = [float(n % 4) for n in range(width)]
    return lambda y: y * per_channel(torch.tensor(factors, dtype=y.dtype), y)


@register(LITERAL, "literal", "scatter_add by a buffer")
def _(width: int, draw: Draw) -> Operation:
    def apply(y: Tensor, table: Tensor) -> Tensor:
        index = per_channel(table, y).expand_as(y)
        return torch.zeros_like(y[:, :4]).scatter_add(1, index, y)

    return Indexed(torch.arange(width) % 4, apply)


@register(LITERAL, "literal", "loop over channels")
def _(width: int, draw: Draw) -> Operation:
    return lambda y: torch.stack([y[:, channel] * (channel + 1) for channel in range(y.shape[1])], 1)


def shuffled(y: Tensor, groups: int) -> Tensor:
    """Shuffle channels between groups by view and transpose."""
    return y.reshape(y.shape[0], groups, -1, *y.shape[2:]).transpose(1, 2).reshape(y.shape)


for _name, _operation in {
    "channel shuffle by view": lambda y: shuffled(y, 2),
    "channel shuffle of 4 groups": lambda y: shuffled(y, 4),
    "roll 1": lambda y: y.roll(1, 1),
    "roll -3": lambda y: torch.roll(y, -3, 1),
    "flip": lambda y: y.flip(1),
    "repeat_interleave": lambda y: y.repeat_interleave(2, 1),
    "tile": lambda y: y.repeat(1, 2, *[1] * (y.dim() - 2)),
    "expand and flatten": lambda y: y.unsqueeze(2).expand(-1, -1, 2, *y.shape[2:]).flatten(1, 2),
    "chunk and swap": lambda y: torch.cat(y.chunk(2, 1)[::-1], 1),
    "cat with itself": lambda y: torch.cat([y, y.flip(1)], 1),
    "minus its roll": lambda y: y - y.roll(2, 1),
    "plus its flip": lambda y: y + y.flip(1),
    "interleave halves": lambda y: torch.stack(y.chunk(2, 1), 2).flatten(1, 2),
    "glu": lambda y: F.glu(y, 1),
    "swapped gate": lambda y: y.chunk(2, 1)[1] * torch.sigmoid(y.chunk(2, 1)[0]),
    "unflatten and sum": lambda y: y.unflatten(1, (4, -1)).sum(1),
    "unflatten and max": lambda y: y.unflatten(1, (-1, 4)).amax(2),
    "unfold": lambda y: y.unfold(1, 4, 4).movedim(-1, 2).flatten(1, 2),
    "rotate half": lambda y: torch.cat([-y[:, y.shape[1] // 2 :], y[:, : y.shape[1] // 2]], 1),
    "rotate pairs": lambda y: torch.stack([-y[:, 1::2], y[:, ::2]], 2).flatten(1, 2),
    "batch and channels exchanged twice": lambda y: y.transpose(0, 1).flip(0).transpose(0, 1),
}.items():
    register(MOVES, "moves", _name)(lambda width, draw, operation=_operation: operation)

for _name, _operation in {
    "nn.ChannelShuffle": lambda: nn.ChannelShuffle(2),
    "nn.ChannelShuffle of 4 groups": lambda: nn.ChannelShuffle(4),
    "pixel shuffle and back": lambda: nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2)),
    "pixel shuffle": lambda: nn.Sequential(nn.PixelShuffle(2), nn.AvgPool2d(2)),
    "pixel unshuffle": lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.Upsample(scale_factor=2)),
    "im2col": lambda: nn.Sequential(nn.Unfold(3, padding=1), nn.Unflatten(2, (4, 4))),
    "channels through a linear of positions": lambda: nn.Sequential(
        nn.Flatten(2), nn.Linear(16, 16), nn.Unflatten(2, (4, 4))
    ),
}.items():
    register(MOVES, "moves", _name, ("maps",))(lambda width, draw, module=_operation: module())


@register(MOVES, "moves", "permuted index buffer")
def _(width: int, draw: Draw) -> Operation:
    return Indexed(torch.randperm(width), lambda y, table: y[:, table])


@register(MOVES, "moves", "permuted by index_select")
def _(width: int, draw: Draw) -> Operation:
    return Indexed(torch.randperm(width), lambda y, table: y.index_select(1, table))


@register(MOVES, "moves", "permuted by a list of the forward")
def _(width: int, draw: Draw) -> Operation:
    order = torch.randperm(width).tolist()
    return lambda y: y[:, order]


@register(MOVES, "moves", "permuted by a matrix of constants")
def _(width: int, draw: Draw) -> Operation:
    return Indexed(torch.eye(width)[torch.randperm(width)], lambda y, table: torch.einsum("bc...,cd->bd...", y, table))


@register(MOVES, "moves", "grouped convolutions with a shuffle")
def _(width: int, draw: Draw) -> Operation:
    first, second = nn.Conv1d(width, width, 1, groups=4), nn.Conv1d(width, width, 1, groups=2)

    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = first, second

        def forward(self, y: Tensor) -> Tensor:
            z = self.second(shuffled(torch.relu(self.first(y.flatten(2) if y.dim() > 2 else y.unsqueeze(2))), 4))
            return z.reshape(y.shape)

    return Grouped()
