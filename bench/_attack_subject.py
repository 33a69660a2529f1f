"""What an attack on `shrink` is made of: a seeded draw, a small network, its inputs, and zeros in its weights."""

from __future__ import annotations

import random
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import prunus

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from zoo_case import randomise  # noqa: F401  (the families fill their weights with it)

# Scales and shapes of the numbers that a model is compared on.
KINDS = ("normal", "x10", "x100", "x0.1", "uniform", "sparse", "constant")


class Draw(random.Random):
    """Random choices of one case, the same each time it is run; `generator` draws its tensors."""

    def __init__(self, family: str, index: int, seed: int) -> None:
        number = zlib.crc32(f"{family}:{index}:{seed}".encode())
        super().__init__(number)
        self.index = index
        self.generator = torch.Generator().manual_seed(number)

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.random() < probability

    def normal(self, *shape: int) -> Tensor:
        """Draw normal numbers."""
        return torch.randn(shape, generator=self.generator)


@dataclass(frozen=True)
class Argument:
    """One input of a model.

    Attributes:
        shape: of one sample, without the batch.
        high: integers in [low, high) are drawn; 0 for floating point.
        low: the smallest integer.
        boolean: True or False is drawn.
        imaginary: complex numbers are drawn.
        ascending: the integers of a sample are sorted, as positions are.
    """

    shape: tuple[int, ...]
    high: int = 0
    low: int = 0
    boolean: bool = False
    imaginary: bool = False
    ascending: bool = False

    def draw(self, kind: str, batch: int, generator: torch.Generator) -> Tensor:
        """Draw a batch of one of `KINDS`; integers cover their range, except that "constant" repeats one a sample."""
        shape = (batch, *self.shape)
        if self.boolean:
            return torch.rand(shape, generator=generator) < 0.5
        if self.high:
            return self._integers(kind, shape, generator)
        values = _numbers(kind, shape, generator)
        if self.imaginary:
            return torch.complex(values, _numbers(kind, shape, generator))
        return values

    def _integers(self, kind: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        span = self.high - self.low
        if kind == "constant":
            values = torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1)) % span
            return (values + self.low).expand(shape).contiguous()
        count = torch.Size(shape).numel()
        whole = torch.arange(-(-count // span) * span) % span  # so that every integer comes up, if there is room
        values = whole[torch.randperm(len(whole), generator=generator)][:count].view(shape) + self.low
        return values.sort(dim=-1).values if self.ascending else values


def _numbers(kind: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "uniform":
        return torch.rand(shape, generator=generator, dtype=torch.float64) * 6 - 3
    if kind == "sparse":
        return normal * (torch.rand(shape, generator=generator) < 0.1)
    if kind == "constant":
        return torch.linspace(-4, 4, shape[0], dtype=torch.float64).view(-1, *[1] * (len(shape) - 1)).expand(shape)
    return normal * {"normal": 1.0, "x10": 10.0, "x100": 100.0, "x0.1": 0.1}[kind]


@dataclass
class Subject:
    """A network to attack `shrink` with, in eval mode.

    Attributes:
        model: the network.
        arguments: what it takes, in order.
        names: the arguments' keywords; () if they are positional.
        sizes: other shapes of the arguments that it may take.
        others: values of arguments that the example does not give; the model is run with each of them, too.
        unchanged: paths of public attributes ("layer.steps") whose values must stay.
        dtype: of its floating-point tensors.
        trains: whether it may be compared in training mode at all.
        same_in_training: whether a right result gives the masked model's outputs in training mode too: no norm by the
            batch, no random numbers.
        masking: a way of masking to use; "" draws one.
        batch: of the example that `shrink` is given.
        note: what was drawn beside the attempt's name, for the reader.
    """

    model: nn.Module
    arguments: tuple[Argument, ...]
    names: tuple[str, ...] = ()
    sizes: tuple[tuple[Argument, ...], ...] = ()
    others: tuple[tuple[str, Any], ...] = ()
    unchanged: tuple[str, ...] = ()
    dtype: torch.dtype = torch.float32
    trains: bool = True
    same_in_training: bool = False
    masking: str = ""
    batch: int = 2
    note: str = ""

    def inputs(
        self, kind: str, batch: int, generator: torch.Generator, arguments: Sequence[Argument] = ()
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Draw `(args, kwargs)` of the model's dtype."""
        values = tuple(
            in_dtype(argument.draw(kind, batch, generator), self.dtype) for argument in arguments or self.arguments
        )
        return ((), dict(zip(self.names, values, strict=True))) if self.names else (values, {})

    def example(self, generator: torch.Generator) -> Any:
        """Draw example inputs as `shrink` takes them; only the lower half of all integers comes up in them."""
        half = tuple(
            replace(argument, high=max(argument.low + 1, (argument.high + argument.low) // 2))
            if argument.high
            else argument
            for argument in self.arguments
        )
        args, kwargs = self.inputs("normal", self.batch, generator, half)
        return kwargs or args


Builder = Callable[[Draw], Subject]
FAMILIES: dict[str, dict[str, Builder]] = {}


def attempt(family: str, name: str) -> Callable[[Builder], Builder]:
    """Register the function below as a way to make networks of a family."""

    def register(builder: Builder) -> Builder:
        assert name not in FAMILIES.setdefault(family, {}), f"two attempts of {family} are called {name!r}"
        FAMILIES[family][name] = builder
        return builder

    return register


def build(family: str, index: int, seed: int) -> tuple[str, Subject, Draw]:
    """Make the network of a case; its attempts are taken in turn."""
    draw = Draw(family, index, seed)
    names = list(FAMILIES[family])
    name = names[index % len(names)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw.randrange(2**31))
        subject = FAMILIES[family][name](draw)
    subject.batch = draw.choice([1, 2, 2, 3])
    subject.model = in_dtype(subject.model, subject.dtype).eval()
    return name, subject, draw


def in_dtype(value: Any, dtype: torch.dtype) -> Any:
    """Return a module or tensor with floating point in a dtype, and complex numbers in the one of that precision."""
    to_complex = {torch.float64: torch.complex128}.get(dtype, torch.complex64)

    def converted(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(to_complex)
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    return value._apply(converted) if isinstance(value, nn.Module) else converted(value)


# Ways to put zeros into a model, by how often they are drawn.
MASKINGS = {"lines": 6, "channel": 2, "magnitude": 1, "random": 1}


def masking(subject: Subject, draw: Draw) -> str:
    """Return how a subject is masked."""
    return subject.masking or draw.choices(list(MASKINGS), weights=list(MASKINGS.values()))[0]


def draw_masks(model: nn.Module, how: str, draw: Draw) -> dict[str, Tensor]:
    """Draw masks by parameter name: "nothing", whole "lines", by "magnitude" or at "random"."""
    if how == "nothing":
        return {}
    if how == "lines":
        return _lines(model, draw)
    masks = {}
    sparsity = draw.choice([0.5, 0.9, 0.97])
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            scores = parameter.detach().abs().double()
            if how == "random":
                scores = torch.rand(parameter.shape, generator=draw.generator, dtype=torch.float64)
            masks[name] = scores > torch.quantile(scores.flatten(), sparsity)
    return masks


def _lines(model: nn.Module, draw: Draw) -> dict[str, Tensor]:
    """Mask whole rows and columns, most of them at indices that a literal would name: the first, the last, or any."""
    masks: dict[str, Tensor] = {}
    rows, columns = draw.choice([(0.4, 0.1), (0.2, 0.3), (0.0, 0.5), (0.6, 0.0)])
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if parameter.dim() < 2:
            continue
        mask = torch.ones(parameter.shape, dtype=torch.bool)
        dead = _chosen(parameter.shape[0], rows, draw)
        mask[dead] = False
        mask[:, _chosen(parameter.shape[1], columns, draw)] = False
        masks[name] = mask
        bias = parameters.get(name.removesuffix("weight") + "bias")
        if name.endswith("weight") and bias is not None and bias.shape == dead.shape and draw.chance(0.5):
            masks[name.removesuffix("weight") + "bias"] = ~dead
    return masks


def _chosen(length: int, share: float, draw: Draw) -> Tensor:
    chosen = torch.rand(length, generator=draw.generator) < share
    if share and draw.chance(0.3):
        chosen = torch.arange(length).roll(draw.randrange(length)) < length * share
    return chosen


def prune_channels(model: nn.Module, example: Any, draw: Draw) -> None:
    """Zero whole channels in place, as before `shrink`; another sparsity is tried where one can't be met."""
    scope = draw.choice(["uniform", "global"])
    sparsities = draw.sample([0.25, 0.3, 0.4, 0.5, 0.6, 0.7], 6)
    for place, sparsity in enumerate(sparsities):
        try:
            prunus.prune(model, sparsity, pattern="channel", scope=scope, example_inputs=example)
            return
        except prunus.ChannelError as error:
            if place == len(sparsities) - 1 or "can't be met within" not in str(error):
                raise
