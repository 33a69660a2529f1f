"""What a case of the zoo is: a small network of one topology, the inputs it takes, and the way it is registered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
MOST = 8  # inputs are cut from a batch of this size, so that row i is the same in every batch


@dataclass(frozen=True)
class Case:
    """A network of one topology, in eval mode, with random weights, biases and running statistics.

    Attributes:
        name: its name in `ZOO`.
        make: make the network, the same one each time.
        inputs: batch size -> what the network takes; row i is the same whatever the batch size.
        family: "cnn", "transformer", "rnn" or "transformers" (of the package of that name).
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int], Inputs]
    family: str

    @property
    def example_inputs(self) -> Inputs:
        """The inputs at batch 2."""
        return self.inputs(2)

    def arguments(self, batch: int = 2) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Return the inputs as `(args, kwargs)` of a call."""
        return as_arguments(self.inputs(batch))


ZOO: dict[str, Case] = {}


def case(
    name: str, family: str, inputs: Callable[[int], Inputs]
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Register the function (or class) below, which makes a network without arguments."""

    def register(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = build()
            return randomise(model, seed=1).eval()

        assert name not in ZOO, f"two cases are called {name!r}"
        ZOO[name] = Case(name, make, inputs, family)
        return build

    return register


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Fill parameters and running statistics so that nothing is zero, one, or equal by accident; in place.

    Weights are normal with variance 1 / fan-in, biases normal with deviation 0.3, norms' and layer scales' weights
    lie in [0.5, 1.5], as do running variances; running means are normal with deviation 0.3.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, deviation: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * deviation)

    def around_one(tensor: Tensor) -> None:
        tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))

    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            normal(parameter, (parameter.numel() / parameter.shape[0]) ** -0.5)
        elif "bias" in name:
            normal(parameter, 0.3)
        else:
            around_one(parameter)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            normal(buffer, 0.3)
        elif name.endswith("running_var"):
            around_one(buffer)
    return model


def as_arguments(inputs: Inputs) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return inputs as `(args, kwargs)` of a call."""
    if isinstance(inputs, dict):
        return (), inputs
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def floats(*shape: int, seed: int = 2) -> Callable[[int], Tensor]:
    """Inputs of normal numbers; the shape is one sample's."""
    return lambda batch: torch.randn(MOST, *shape, generator=torch.Generator().manual_seed(seed))[:batch]


def tokens(length: int, vocabulary: int, seed: int = 3) -> Callable[[int], Tensor]:
    """Inputs of token numbers below the size of the vocabulary."""
    return lambda batch: torch.randint(vocabulary, (MOST, length), generator=torch.Generator().manual_seed(seed))[
        :batch
    ]


def together(*parts: Callable[[int], Tensor]) -> Callable[[int], Inputs]:
    """Several positional inputs."""
    return lambda batch: tuple(part(batch) for part in parts)


def named(**parts: Callable[[int], Tensor]) -> Callable[[int], Inputs]:
    """Inputs by name."""
    return lambda batch: {name: part(batch) for name, part in parts.items()}
