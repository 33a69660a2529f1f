"""Random small convolutional networks, as a hypothesis strategy: branches, sums, concats, splits, groups, any head.

    @given(random_nets())
    def test_shrink_keeps_outputs(drawn: Drawn) -> None:
        model = drawn.make()
        ...

What is drawn is a tree of plain values (`Drawn`), which hypothesis can shrink and print; the network is built from it.
Every stage takes maps of some number of channels to maps of another, so any chain of stages is a network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from zoo_case import randomise

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,  # not zero at zero
    "tanh": nn.Tanh,
    "hardswish": nn.Hardswish,
    "mish": nn.Mish,
    "none": nn.Identity,
}
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "instance": lambda width: nn.InstanceNorm2d(width, affine=True),
    "none": lambda width: nn.Identity(),
}
CHANNELS, SIZE, CLASSES = 3, 6, 5  # of the inputs, (n, 3, 6, 6), and the outputs


@dataclass(frozen=True)
class Unit:
    """Convolution, norm, activation; `groups` is "one", "two" or "each", where the widths allow."""

    width: int
    kernel: int = 3
    groups: str = "one"
    norm: str = "batch"
    activation: str = "relu"
    bias: bool = True
    padding: bool = True


@dataclass(frozen=True)
class Stage:
    """What is done to a map: "chain", "residual", "concat", "split", "gate", "shuffle", "excite" or "pool" of units."""

    kind: str
    units: tuple[Unit, ...]


@dataclass(frozen=True)
class Drawn:
    """A drawn network.

    Attributes:
        stages: in order.
        head: "flatten", "mean" or "adaptive"; a linear layer follows.
        hidden: the width of a linear layer before the last one; 0 for none.
        seed: of all weights.
    """

    stages: tuple[Stage, ...]
    head: str
    hidden: int
    seed: int

    def make(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """Build it, in eval mode, the same one each time; biases and running statistics are no default values."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = RandomNet(self)
        return randomise(model, self.seed).to(dtype).eval()

    def example_inputs(self, batch: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
        """Images it takes."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        return torch.randn(batch, CHANNELS, SIZE, SIZE, generator=generator, dtype=dtype)


def units() -> st.SearchStrategy[Unit]:
    """Any unit."""
    return st.builds(
        Unit,
        width=st.sampled_from([4, 6, 8]),
        kernel=st.sampled_from([1, 3]),
        groups=st.sampled_from(["one", "two", "each"]),
        norm=st.sampled_from(list(NORMS)),
        activation=st.sampled_from(list(ACTIVATIONS)),
        bias=st.booleans(),
        padding=st.booleans(),
    )


def stages() -> st.SearchStrategy[Stage]:
    """Any stage of one to three units."""
    return st.builds(
        Stage, kind=st.sampled_from(list(STAGES)), units=st.lists(units(), min_size=1, max_size=3).map(tuple)
    )


def random_nets(max_stages: int = 4) -> st.SearchStrategy[Drawn]:
    """Any network of one to `max_stages` stages."""
    return st.builds(
        Drawn,
        stages=st.lists(stages(), min_size=1, max_size=max_stages).map(tuple),
        head=st.sampled_from(["flatten", "mean", "adaptive"]),
        hidden=st.sampled_from([0, 6]),
        seed=st.integers(0, 2**16),
    )


class Block(nn.Module):
    """A stage: takes `width_in` channels to `width` channels."""

    width: int


class Chain(Block):
    """One unit after the other."""

    def __init__(self, units: tuple[Unit, ...], width_in: int, keep_size: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for unit in units:
            layers += self.layers(unit, width_in, keep_size)
            width_in = unit.width
        self.layer = nn.Sequential(*layers)
        self.width = width_in

    @staticmethod
    def layers(unit: Unit, width_in: int, keep_size: bool) -> list[nn.Module]:
        groups = {"one": 1, "two": 2, "each": width_in}[unit.groups]
        if width_in % groups or unit.width % groups:
            groups = 1
        padding = unit.kernel // 2 if unit.padding or keep_size else 0
        convolution = nn.Conv2d(width_in, unit.width, unit.kernel, padding=padding, groups=groups, bias=unit.bias)
        return [AtLeast(unit.kernel), convolution, NORMS[unit.norm](unit.width), ACTIVATIONS[unit.activation]()]

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class AtLeast(nn.Module):
    """Double a map that has become too small for the next kernel, or for the statistics of its pixels."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size + 1

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=2.0) if x.shape[-1] < self.size else x


class Residual(Block):
    """Input plus branch; the input is projected where the widths differ."""

    def __init__(self, units: tuple[Unit, ...], width_in: int) -> None:
        super().__init__()
        self.branch = Chain(units, width_in, keep_size=True)
        self.width = self.branch.width
        self.shortcut = nn.Identity() if self.width == width_in else nn.Conv2d(width_in, self.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = same_size(x)
        return self.branch(x) + self.shortcut(x)


class Concat(Block):
    """Input and branches side by side."""

    def __init__(self, units: tuple[Unit, ...], width_in: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(Chain((unit,), width_in, keep_size=True) for unit in units)
        self.width = width_in + sum(unit.width for unit in units)

    def forward(self, x: Tensor) -> Tensor:
        x = same_size(x)
        return torch.cat([x, *(branch(x) for branch in self.branches)], dim=1)


class Split(Block):
    """The first channels pass, the others go through a branch; both are joined in the other order."""

    def __init__(self, units: tuple[Unit, ...], width_in: int) -> None:
        super().__init__()
        self.sizes = [width_in // 2, width_in - width_in // 2]
        self.branch = Chain(units, self.sizes[1], keep_size=True)
        self.width = self.sizes[0] + self.branch.width

    def forward(self, x: Tensor) -> Tensor:
        passing, worked = torch.split(same_size(x), self.sizes, dim=1)
        return torch.cat((self.branch(worked), passing), dim=1)


class Gate(Block):
    """Half of a chain's outputs, times the other half's sigmoid."""

    def __init__(self, units: tuple[Unit, ...], width_in: int) -> None:
        super().__init__()
        self.both = Chain(units, width_in)
        self.width = self.both.width // 2

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.both(x).chunk(2, dim=1)
        return value * torch.sigmoid(gate)


class Shuffle(Block):
    """A chain whose outputs change places, as between grouped convolutions."""

    def __init__(self, units: tuple[Unit, ...], width_in: int) -> None:
        super().__init__()
        self.before = Chain(units, width_in)
        self.width = self.before.width

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        batch, channels, height, width = x.shape
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


class Excite(Block):
    """A chain, each of whose channels is scaled by what the means of all say."""

    def __init__(self, units: tuple[Unit, ...], width_in: int) -> None:
        super().__init__()
        self.before = Chain(units, width_in)
        self.width = self.before.width
        self.squeeze = nn.Linear(self.width, 4)
        self.scale = nn.Linear(4, self.width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        scale = torch.sigmoid(self.scale(torch.relu(self.squeeze(x.mean(dim=(2, 3))))))
        return x * scale[:, :, None, None]


class Pool(Block):
    """A chain, then the largest or the mean of neighbouring pixels, at the same size."""

    def __init__(self, units: tuple[Unit, ...], width_in: int) -> None:
        super().__init__()
        self.before = Chain(units, width_in)
        self.width = self.before.width
        self.pool = nn.MaxPool2d(3, 1, padding=1) if len(units) % 2 else nn.AvgPool2d(3, 1, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.before(x))


def same_size(x: Tensor) -> Tensor:
    """Bring a map to the inputs' size, so that branches fit together whatever their kernels."""
    return nn.functional.interpolate(x, size=(SIZE, SIZE)) if x.shape[-1] != SIZE else x


STAGES: dict[str, Callable[[tuple[Unit, ...], int], Block]] = {
    "chain": Chain,
    "residual": Residual,
    "concat": Concat,
    "split": Split,
    "gate": Gate,
    "shuffle": Shuffle,
    "excite": Excite,
    "pool": Pool,
}


class RandomNet(nn.Module):
    """The stages, and a head."""

    def __init__(self, drawn: Drawn) -> None:
        super().__init__()
        self.stages = nn.Sequential()
        width = CHANNELS
        for stage in drawn.stages:
            block = STAGES[stage.kind](stage.units, width)
            self.stages.append(block)
            width = block.width
        self.head = drawn.head
        features = {"flatten": width * SIZE * SIZE, "mean": width, "adaptive": width * 4}[drawn.head]
        self.hidden = nn.Linear(features, drawn.hidden) if drawn.hidden else nn.Identity()
        self.fc = nn.Linear(drawn.hidden or features, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(x)
        if self.head == "flatten":
            x = same_size(x).flatten(1)
        elif self.head == "mean":
            x = x.mean(dim=(2, 3))
        else:
            x = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.fc(torch.relu(self.hidden(x)))
