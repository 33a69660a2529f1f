"""Networks whose output depends on tokens, integers, masks, sizes and arguments that the example does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from _attack_channels import LITERAL, MOVES, Operation
from _attack_subject import Argument, Draw, Subject, attempt, randomise

VOCABULARY, LENGTH, WIDTH = 24, 6, 8


class Tokens(nn.Module):
    """Embedding, two layers with something between them that also sees the tokens or the second input, a head."""

    def __init__(self, between: Callable[..., Tensor], operation: Operation, width_after: int = WIDTH) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.position = nn.Embedding(LENGTH, WIDTH)
        self.between = between
        self.operation = operation
        self.head = nn.Linear(width_after, 5)

    def forward(self, tokens: Tensor, *more: Tensor) -> Tensor:
        y = torch.relu(self.mix(self.embed(tokens)))
        return self.head(self.between(self, y, tokens, *more))

    def act(self, y: Tensor) -> Tensor:
        """Apply the operation to the channels, which lie last here."""
        return self.operation(y.movedim(-1, 1)).movedim(1, -1)


def act_or_not(condition: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Apply the operation where a condition of tokens and other inputs holds."""

    def between(net: Tokens, y: Tensor, tokens: Tensor, *more: Tensor) -> Tensor:
        return torch.where(condition(tokens, *more).unsqueeze(-1), net.act(y), y)

    return between


def rows(y: Tensor) -> Tensor:
    """Return the numbers of the samples, to index with."""
    return torch.arange(y.shape[0])


def one_hot_added(net: Tokens, y: Tensor, tokens: Tensor) -> Tensor:
    """Add a one-hot code of as many numbers as there are channels."""
    return y + F.one_hot(tokens % WIDTH, WIDTH).to(y.dtype)


TOKEN = Argument((LENGTH,), high=VOCABULARY)
POSITION = Argument((), high=LENGTH)
CHANNEL = Argument((), high=WIDTH)
PER_TOKEN = Argument((LENGTH,), boolean=True)

# What is done between the layers, and what the network takes beside the tokens.
TOKENS: dict[str, tuple[Callable[..., Tensor], tuple[Argument, ...]]] = {
    "one token acts": (act_or_not(lambda tokens: tokens == 23), ()),
    "tokens above acts": (act_or_not(lambda tokens: tokens > 20), ()),
    "three tokens act": (act_or_not(lambda tokens: torch.isin(tokens, torch.tensor([13, 17, 23]))), ()),
    "a pair acts": (act_or_not(lambda tokens: (tokens == 20) & (tokens.roll(1, 1) > 12)), ()),
    "acts if any token": (act_or_not(lambda tokens: (tokens == 22).any(1, keepdim=True)), ()),
    "padding is masked": (lambda net, y, tokens: y.masked_fill((tokens == 23).unsqueeze(-1), 0.0), ()),
    "mean over real tokens": (
        lambda net, y, t: (y * (t < 20).unsqueeze(-1)).sum(1) / (t < 20).sum(1, keepdim=True).clamp(min=1),
        (),
    ),
    "one-hot of tokens": (one_hot_added, ()),
    "token as a channel": (lambda net, y, tokens: y.gather(2, (tokens % WIDTH).unsqueeze(-1)).expand_as(y), ()),
    "token as a factor": (lambda net, y, tokens: y * (tokens.unsqueeze(-1) - 11).clamp(min=0).to(y.dtype), ()),
    "token compared with arange": (lambda net, y, tokens: y * (torch.arange(WIDTH) < tokens.unsqueeze(-1) - 12), ()),
    "second table": (lambda net, y, tokens: y + net.position(tokens.clamp(max=LENGTH - 1)), ()),
    "bucketize": (lambda net, y, tokens: y + net.position(torch.bucketize(tokens, torch.tensor([12, 15, 18, 21]))), ()),
    "token at a position": (lambda net, y, tokens, position: y[rows(y), position], (POSITION,)),
    "position counts": (act_or_not(lambda tokens, position: (position > 3).unsqueeze(1)), (POSITION,)),
    "position embedded": (lambda net, y, tokens, position: y + net.position(position).unsqueeze(1), (POSITION,)),
    "position in the channels": (lambda net, y, tokens, channel: y * y[rows(y), :, channel].unsqueeze(-1), (CHANNEL,)),
    "channels below a number": (
        lambda net, y, tokens, channel: y * (torch.arange(WIDTH) < channel.view(-1, 1, 1)),
        (CHANNEL,),
    ),
    "length masked": (
        lambda net, y, tokens, length: y * (torch.arange(LENGTH) <= length.unsqueeze(1)).unsqueeze(-1),
        (POSITION,),
    ),
    "boolean mask": (lambda net, y, tokens, mask: y.masked_fill(mask.unsqueeze(-1), 0.0), (PER_TOKEN,)),
    "boolean mask acts": (act_or_not(lambda tokens, mask: mask.all(1, keepdim=True)), (PER_TOKEN,)),
    "boolean per channel": (
        lambda net, y, tokens, mask: y.masked_fill(mask.unsqueeze(1), 0.0),
        (Argument((WIDTH,), boolean=True),),
    ),
    "boolean scaled": (lambda net, y, tokens, mask: y * (1 + mask.unsqueeze(-1).to(y.dtype)), (PER_TOKEN,)),
}


def tokens_subject(name: str, draw: Draw) -> Subject:
    """Make a network of `TOKENS`, with a literal or a move where it acts."""
    between, more = TOKENS[name]
    operations = [LITERAL["y[:, :2] = 0"], LITERAL["cat of a scaled part"], LITERAL["factors in a buffer"]]
    operations += [MOVES["roll 1"], MOVES["flip"], MOVES["chunk and swap"], MOVES["channel shuffle by view"]]
    model = Tokens(between, draw.choice(operations)(WIDTH, draw))
    randomise(model, draw.randrange(10_000))
    return Subject(model, (TOKEN, *more), dtype=draw.choice([torch.float32, torch.float64]))


for _name in TOKENS:
    attempt("tokens", _name)(lambda draw, name=_name: tokens_subject(name, draw))


class Sized(nn.Module):
    """A convolutional network with something of its own between its layers that may look at the size."""

    def __init__(self, between: Callable[..., Tensor], draw: Draw, dimensions: int) -> None:
        super().__init__()
        layer = nn.Conv2d if dimensions == 2 else nn.Conv1d
        self.first = layer(3, 8, 3, padding=1)
        self.norm = (nn.BatchNorm2d if dimensions == 2 else nn.BatchNorm1d)(8) if draw.chance(0.5) else nn.Identity()
        self.between = between
        self.second = layer(8, 8, 3, padding=1)
        self.last = layer(8, 4, 1)
        self.position = nn.Parameter(torch.randn(1, 8, *[24] * dimensions))
        self.recurrent = nn.GRU(8, 8, batch_first=True)
        self.pooled = draw.chance(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.between(self, torch.relu(self.norm(self.first(x))))
        y = self.last(torch.relu(self.second(y)))
        return y.flatten(2).mean(2) if self.pooled else y


def scaled_first(y: Tensor) -> Tensor:
    """Double the first three channels."""
    return torch.cat([y[:, :3] * 2, y[:, 3:]], 1)


SIZES: dict[str, Callable[..., Tensor]] = {
    "literal in large batches": lambda net, y: scaled_first(y) if y.shape[0] > 30 else y,
    "roll in single samples": lambda net, y: y.roll(1, 1) if y.shape[0] == 1 else y,
    "fully convolutional": lambda net, y: y,
    "literal above 8": lambda net, y: scaled_first(y) if y.shape[-1] > 8 else y,
    "roll above 8": lambda net, y: y.roll(1, 1) if y.shape[-1] > 8 else y,
    "literal below 8": lambda net, y: scaled_first(y) if y.shape[-1] < 8 else y,
    "scaled by the size": lambda net, y: y * y.shape[-1] / 8,
    "channels up to the size": lambda net, y: torch.cat([y[:, : y.shape[-1] // 4] * 3, y[:, y.shape[-1] // 4 :]], 1),
    "channel shuffle by the size": lambda net, y: (
        y.reshape(y.shape[0], y.shape[-1] // 4, -1, *y.shape[2:]).transpose(1, 2).reshape(y.shape)
    ),
    "adaptive pool": lambda net, y: nn.functional.adaptive_avg_pool1d(y.flatten(2), 4).reshape(
        *y.shape[:2], *[4 if y.dim() == 3 else 2] * (y.dim() - 2)
    ),
    "position table": lambda net, y: y + net.position[(slice(None), slice(None), *(slice(0, n) for n in y.shape[2:]))],
    "interpolated table": lambda net, y: y + F.interpolate(net.position, size=y.shape[2:]),
    "interpolated": lambda net, y: F.interpolate(F.interpolate(y, scale_factor=2.0), size=y.shape[2:]),
    "softmax over positions": lambda net, y: y * torch.softmax(y.flatten(2), 2).reshape(y.shape),
    "layer norm over all": lambda net, y: F.layer_norm(y, y.shape[1:]),
    "arange over positions": lambda net, y: y + torch.arange(y.shape[-1]) / 8,
    "cumulative": lambda net, y: y.cumsum(-1),
    "padded to 16": lambda net, y: F.pad(y, (0, max(0, 16 - y.shape[-1]))),
    "flip of positions": lambda net, y: y.flip(-1),
    "max over positions": lambda net, y: y - y.flatten(2).amax(2).reshape(*y.shape[:2], *[1] * (y.dim() - 2)),
    "recurrent": lambda net, y: net.recurrent(y.flatten(2).transpose(1, 2))[0].transpose(1, 2).reshape(y.shape),
    "attention over positions": lambda net, y: (
        F.scaled_dot_product_attention(*[y.flatten(2).transpose(1, 2)] * 3).transpose(1, 2).reshape(y.shape)
    ),
    "stride by the size": lambda net, y: (
        F.avg_pool1d(y.flatten(2), y.shape[-1] // 4).reshape(*y.shape[:2], 4, -1)
        if y.dim() == 4
        else F.avg_pool1d(y, y.shape[-1] // 4)
    ),
    "literal where the mean is large": lambda net, y: torch.where(
        y.flatten(1).mean(1).view(-1, *[1] * (y.dim() - 1)) > 3, scaled_first(y), y
    ),
}


def sized_subject(name: str, draw: Draw) -> Subject:
    """Make a network of `SIZES` for maps or sequences, that is shown one size and tried at others."""
    dimensions = draw.choice([1, 2])
    model = Sized(SIZES[name], draw, dimensions)
    randomise(model, draw.randrange(10_000))
    shapes = [(3, *[size] * dimensions) for size in (8, 12, 16, 24, 4)]
    if dimensions == 2:
        shapes.append((3, 8, 12))
    return Subject(
        model,
        (Argument(shapes[0]),),
        sizes=tuple((Argument(shape),) for shape in shapes[1:]),
        dtype=draw.choice([torch.float32, torch.float64]),
    )


for _name in SIZES:
    attempt("sizes", _name)(lambda draw, name=_name: sized_subject(name, draw))


class Switched(nn.Module):
    """Two layers with something between them that a further argument, which the example does not give, chooses."""

    def __init__(self, between: Callable[..., Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 12)
        self.between = between

    def run(self, x: Tensor, setting: Any) -> Tensor:
        """Return the outputs."""
        return self.last(self.between(torch.relu(self.first(x)), setting))


class OfSwitch(Switched):
    """Takes a switch."""

    def forward(self, x: Tensor, setting: bool = False) -> Tensor:
        return self.run(x, setting)


class OfNumber(Switched):
    """Takes a whole number."""

    def forward(self, x: Tensor, setting: int = 0) -> Tensor:
        return self.run(x, setting)


class OfName(Switched):
    """Takes a name."""

    def forward(self, x: Tensor, setting: str = "plain") -> Tensor:
        return self.run(x, setting)


class OfTensor(Switched):
    """Takes another input."""

    def forward(self, x: Tensor, setting: Tensor | None = None) -> Tensor:
        return self.run(x, setting)


# The class, what it does between its layers, and the values that the example does not give.
ARGUMENTS: dict[str, tuple[type[Switched], Callable[..., Tensor], tuple[Any, ...]]] = {
    "flip where asked": (OfSwitch, lambda y, on: y.flip(1) if on else y, (True,)),
    "literal where asked": (OfSwitch, lambda y, on: torch.cat([y[:, :4] * 2, y[:, 4:]], 1) if on else y, (True,)),
    "literal unless asked": (OfSwitch, lambda y, on: y if on else torch.cat([y[:, :4] * 2, y[:, 4:]], 1), (True,)),
    "mean where asked": (OfSwitch, lambda y, on: y - y.mean(1, keepdim=True) if on else y, (True,)),
    "doubled where asked": (OfSwitch, lambda y, on: y * 2 if on else y, (True,)),
    "rolled by a number": (OfNumber, lambda y, turns: y.roll(turns, 1), (1, 3)),
    "times a number": (OfNumber, lambda y, factor: y * (factor + 1), (1, 3)),
    "flip by name": (OfName, lambda y, name: y.flip(1) if name == "flip" else y, ("flip",)),
    "doubled by name": (OfName, lambda y, name: y * 2 if name == "double" else y, ("double",)),
    "gate of an input": (OfTensor, lambda y, gate: y if gate is None else y * gate, (torch.arange(12.0),)),
    "scaled by an input": (OfTensor, lambda y, scale: y if scale is None else y * scale, (torch.tensor(3.0),)),
}


def arguments_subject(name: str, draw: Draw) -> Subject:
    """Make a network of `ARGUMENTS`."""
    kind, between, values = ARGUMENTS[name]
    model = randomise(kind(between), draw.randrange(10_000))
    others = tuple(("setting", value) for value in values)
    return Subject(model, (Argument((6,)),), dtype=draw.choice([torch.float32, torch.float64]), others=others)


for _name in ARGUMENTS:
    attempt("arguments", _name)(lambda draw, name=_name: arguments_subject(name, draw))
