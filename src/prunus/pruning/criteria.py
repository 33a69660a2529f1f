"""Criteria: how much a weight matters. Weights with higher scores stay."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from prunus.pruning import options
from prunus.pruning.stats import Loss, Stats
from prunus.registry import Registry

Need: TypeAlias = Literal["gradient", "input_norm", "curvature"]
ON_INPUTS: tuple[Need, ...] = ("input_norm", "curvature")  # what only layers have whose inputs are known
Score: TypeAlias = Callable[[Tensor, Stats], Tensor]


@dataclass(frozen=True)
class Criterion:
    """A scoring function and its properties.

    Attributes:
        name: its name in errors and receipts.
        score: `(weight, stats) -> scores` of the weight's shape; pure.
        needs: the field of `Stats` it reads, None if it needs only the weight.
        elementwise: whether a weight's score depends only on that weight and its gradient, so that scores can be
            computed in pieces, without holding those of a whole layer in memory.
        additive: whether scores are parts of one quantity, such as the loss, so that sums over weights of different
            layers can be compared.
        loss: ``(outputs, targets) -> scalar``, for a criterion that needs gradients: these are the mean over the data;
            without a loss they are those of the last backward pass.
    """

    name: str
    score: Score
    needs: Need | None = None
    elementwise: bool = False
    additive: bool = False
    loss: Loss | None = None

    def __post_init__(self) -> None:
        if self.needs not in (None, *get_args(Need)):
            raise ValueError(f"needs must be None or one of {', '.join(get_args(Need))}, got {self.needs!r}")
        if self.loss is not None and not callable(self.loss):
            raise TypeError(f"loss must be a function (outputs, targets) -> scalar, got {self.loss!r}")

    def with_loss(self, loss: Loss) -> Criterion:
        """Return the same criterion with a loss.

        Raises:
            TypeError: it is not a function.
        """
        return Criterion(self.name, self.score, self.needs, self.elementwise, self.additive, loss)

    def __call__(self, weight: Tensor, stats: Stats) -> Tensor:
        """Return the scores of a weight."""
        return self.score(weight, stats)


CRITERIA = Registry[Criterion]("criterion")


def criterion(
    name: str, *, needs: Need | None = None, elementwise: bool = False, additive: bool = False
) -> Callable[[Score], Score]:
    """Register the decorated function as the criterion `name`; arguments as in `Criterion`."""

    def enter(score: Score) -> Score:
        CRITERIA.register(name)(Criterion(name, score, needs, elementwise, additive))
        return score

    return enter


def resolve(chosen: str | Score | Criterion) -> Criterion:
    """Return the criterion of that name, or one made of a scoring function.

    Raises:
        ValueError: the name is unknown.
        TypeError: it is neither a name nor a function of two arguments.
    """
    if isinstance(chosen, Criterion):
        return chosen
    if isinstance(chosen, str):
        name, settings = options.split(chosen)
        entry = CRITERIA[name]
        return options.make("criterion", name, _WITH_OPTIONS.get(entry.name), settings) if settings else entry
    options.function("criterion", chosen, "(weight, stats) -> scores")
    return Criterion(getattr(chosen, "__name__", type(chosen).__name__), chosen)


@criterion("magnitude", elementwise=True)
def magnitude(weight: Tensor, stats: Stats) -> Tensor:
    """Score a weight by its absolute value: ``score = |w|``.

    Source: Han et al., "Learning both weights and connections for efficient neural networks", NeurIPS 2015.

    >>> magnitude(torch.tensor([1.0, -2.0]), Stats())
    tensor([1., 2.])
    """
    return weight.abs()


@criterion("lamp")
def lamp(weight: Tensor, stats: Stats) -> Tensor:
    """Score a weight by its share of the weights that remain when all smaller ones are removed first.

    ``score(u) = w_u^2 / sum of w_v^2`` over the weights v of this layer with ``|w_v| >= |w_u|``

    Scores of different layers are comparable, so a global scope over them also decides the sparsity of each layer.

    Args:
        weight: any shape, without NaN.
        stats: unused; the score needs no data.

    Returns:
        Scores in [0, 1] (0 only for a zero weight), of the weight's shape; float32, float64 for a float64 weight.

    Source: Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", ICLR 2021, eq. 4.

    >>> lamp(torch.tensor([1.0, -2.0]), Stats())
    tensor([0.2000, 1.0000])
    """
    ordered, order = weight.abs().flatten().sort()
    squared = ordered.double().square_()  # the squares and their running sum may exceed the range of float32
    left = squared.flip(0).cumsum(0).flip(0)  # from each position to the largest
    left = left[torch.searchsorted(ordered, ordered)]  # equal weights share the position of the first of them
    scores = torch.empty(weight.numel(), dtype=_wide(weight), device=weight.device)
    scores[order] = torch.where(left > 0, squared / left, 0.0).to(scores.dtype)
    return scores.view(weight.shape)


class Random(Criterion):
    """Score a weight by a random number in [0, 1), drawn from the seed and the layer's name.

    The numbers do not depend on other layers, the device or earlier draws. Random pruning is the control that every
    method has to beat.

    Args:
        seed: any whole number.

    Raises:
        TypeError: the seed is not a whole number.

    >>> same = [Random(1)(torch.zeros(2, 2), Stats("fc")) for _ in range(2)]
    >>> torch.equal(*same)
    True
    """

    def __init__(self, seed: int = 0) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed must be a whole number, got {seed!r}")
        super().__init__("random", functools.update_wrapper(functools.partial(_drawn, seed=seed), _drawn))


def _drawn(weight: Tensor, stats: Stats, seed: int) -> Tensor:
    """Score a weight by a random number in [0, 1): the control that every method has to beat."""
    digest = hashlib.sha256(f"{seed}/{stats.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    return torch.rand(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)


@criterion("gradient", needs="gradient", elementwise=True, additive=True)
def gradient(weight: Tensor, stats: Stats) -> Tensor:
    """Score a weight by the first-order change of the loss when it is removed: ``score = |g w|``.

    Source: Molchanov et al., "Pruning convolutional neural networks for resource efficient inference", ICLR 2017,
    eq. 5, for single weights.

    >>> gradient(torch.tensor([1.0, -2.0]), Stats(gradient=torch.tensor([3.0, 1.0])))
    tensor([3., 2.])
    """
    assert stats.gradient is not None
    return (stats.gradient * weight.to(_wide(weight))).abs()


@criterion("activation", needs="input_norm")
def activation(weight: Tensor, stats: Stats) -> Tensor:
    """Score a weight by its absolute value times the l2 norm of its input feature: ``score = |w| * ||x||_2``.

    Source: Sun et al., "A simple and effective pruning approach for large language models" (Wanda), ICLR 2024, eq. 1.

    >>> activation(torch.tensor([[1.0, -2.0]]), Stats(input_norm=torch.tensor([[5.0, 1.0]])))
    tensor([[5., 2.]])
    """
    assert stats.input_norm is not None
    return weight.to(_wide(weight)).abs() * stats.input_norm


@criterion("obs", needs="curvature")
def obs(weight: Tensor, stats: Stats) -> Tensor:
    """Score a weight by how much its layer's squared error grows when it is removed and its row is refitted.

    ``score = w^2 / [H^-1]_jj``, H being the second moments of the layer's inputs.

    Source: Hassibi and Stork, "Second order derivatives for network pruning: optimal brain surgeon", NeurIPS 1992,
    eq. 5, for each layer by itself, as in Frantar and Alistarh, "Optimal brain compression", NeurIPS 2022.

    >>> obs(torch.tensor([[1.0, -2.0]]), Stats(curvature=torch.tensor([[5.0, 1.0]])))
    tensor([[5., 4.]])
    """
    assert stats.curvature is not None
    return (weight.to(stats.curvature.dtype).square() * stats.curvature).to(_wide(weight))


class Gradient(Criterion):
    """Score a weight by the first-order change of a loss when it is removed, see `gradient`.

    Args:
        loss: ``(outputs, targets) -> scalar``, over the data passed to `prune`; without loss and data, the gradients
            are those of the last backward pass.

    Raises:
        TypeError: the loss is not a function.
    """

    def __init__(self, loss: Loss | None = None) -> None:
        super().__init__("gradient", gradient, "gradient", elementwise=True, additive=True, loss=loss)


CRITERIA.register("random")(Random())
_WITH_OPTIONS: dict[str, Callable[..., Criterion]] = {"random": Random, "gradient": Gradient}


def _wide(weight: Tensor) -> torch.dtype:
    """Half-precision weights are scored in float32, since their squares and products may overflow."""
    return torch.promote_types(weight.dtype, torch.float32)
