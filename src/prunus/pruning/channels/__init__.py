"""Prune whole channels, neurons and heads, with budgets in parameters or multiply-adds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Size, Tensor, nn

from prunus.errors import ChannelError
from prunus.graph import ExampleInputs, trace
from prunus.graph.coupling import Coupling, couple
from prunus.pruning.channels.families import Cost, Family, families, protected
from prunus.pruning.channels.masking import gone_of_masks, masks_of
from prunus.pruning.channels.rehearsal import check_cut
from prunus.pruning.channels.scoring import unit_scores
from prunus.pruning.finding import check_data
from prunus.pruning.masks import Masks
from prunus.pruning.method import Method
from prunus.pruning.patterns import Channels
from prunus.pruning.stats import Batch
from prunus.pruning.targets import PARAMETRIZATIONS, Selector, Target, made_plain_by, select
from prunus.supported import unwrap

__all__ = ["ChannelError", "ChannelFamilies", "Family"]

Precision: TypeAlias = Literal["met", "near", "on the way"]

# The tolerance for a sparsity, as a fraction of the whole: single channels are steps of the sparsity.
TOLERANCE = 0.02

# In models of at most this many families, channels are large; this many rounds of single steps come nearer the budget.
_MAX_REFINED_FAMILIES = 24
_MAX_REFINEMENTS = 12


@dataclass(frozen=True, eq=False)
class Units:
    """The channels of one family as the layer of a scope: one score each, and bounds on how many are removed."""

    family: Family
    scores: Tensor
    shape: Size
    fewest: int
    most: int

    @property
    def name(self) -> str:
        """The family's name."""
        return self.family.name

    @property
    def count(self) -> int:
        """The number of channels."""
        return len(self.family.classes)

    def chunks(self) -> Iterator[Tensor]:
        """Yield the scores."""
        yield self.scores

    def sample(self, stride: int) -> Tensor:
        """Return every `stride`-th score."""
        return self.scores[::stride]


_BY_DEFAULT = Channels()


class ChannelFamilies:
    """The channels of a model: its graph is read once, masks are found again whenever it has trained further.

    Args:
        model: any module that torch.export can trace.
        example_inputs: a tensor, a tuple of tensors, or argument names with tensors; the batch comes first.
        include, exclude: as `prune`: channels that these layers produce are pruned, or protected.
        pattern: the budget, and the number that widths are multiples of.
        min_kept: the least number of channels that each layer keeps.

    Raises:
        GraphError: the graph can't be read.
        TypeError, ValueError: an argument is wrong.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs | None,
        *,
        include: Sequence[Selector] = (),
        exclude: Sequence[Selector] = (),
        pattern: Channels = _BY_DEFAULT,
        min_kept: int = 1,
    ) -> None:
        if example_inputs is None:
            raise ValueError(
                "pattern 'channel' has to trace the model to see which channels are coupled; give example_inputs, such "
                "as example_inputs=torch.zeros(1, 3, 224, 224)"
            )
        self.coupling = couple(trace(model, example_inputs))
        self.targets = _targets(model, self.coupling, include, exclude)
        self.round_to, self.budget = pattern.round_to, pattern.budget
        self.min_kept = max(1, min_kept)
        excluded = set(_targets(model, self.coupling, include, ())) - set(self.targets)
        self.families = [protected(family, set(self.targets), excluded) for family in families(self.coupling)]
        self.cost = Cost(self.coupling, pattern.budget, list(self.targets))

    def check(self, sparsity: float, masks: Mapping[str, Tensor] | None = None) -> None:
        """Check that removing whole channels can reach a sparsity.

        Raises:
            ChannelError: it can't; the message names the highest sparsity and the protected layers.
        """
        self._check_within(sparsity, self.most(masks))

    def most(self, masks: Mapping[str, Tensor] | None = None) -> float:
        """Return the highest fraction of the budget that may be removed."""
        most = torch.zeros(self.coupling.num_classes, dtype=torch.bool)
        for units in self._units(None, masks):
            most[units.family.classes[: self._rounded(units.count, units.most)]] = True
        return self.cost.removed(most)

    def find(
        self,
        model: nn.Module,
        method: Method,
        sparsity: float,
        *,
        masks: Mapping[str, Tensor] | None = None,
        data: Iterable[Batch] | None = None,
        precision: Precision = "met",
    ) -> Masks:
        """Find masks of whole channels for a sparsity; the model is not changed.

        Args:
            model: the model of these channels, with its present weights.
            method: criterion and scope.
            sparsity: the fraction of the budget to remove now: the method's or less.
            masks: as `prune`.
            data: as `prune`.
            precision: "met": a sparsity that can't be met within two points is an error; "near": as near as single
                channels bring it; "on the way": what the scope says, since removals on the way to another are final.

        Raises:
            ChannelError: the sparsity can't be met, or the channels can't be removed from the model.
            TypeError, ValueError: as `prune`.
        """
        self.check(sparsity, masks)
        check_data(method, data)
        scores = unit_scores(unwrap(model), self.coupling, self.families, method.criterion, data)
        units = self._units(scores, masks)
        gone = self._search(units, method, sparsity, precision)
        check_cut(self.coupling, gone, trained=precision == "met")  # other steps must not take seconds
        return masks_of(self.coupling, gone, masks)

    def plan(self, method: Method, sparsity: float) -> Tensor:
        """Return which classes go if all channels have the same score, bool per class; weights are not needed.

        Raises:
            ChannelError: the sparsity can't be met.
        """
        self.check(sparsity)
        return self._search(self._units(None, None), method, sparsity, "met")

    def rehearse(self, method: Method) -> None:
        """Check that channels can be removed from the model; weights are not needed.

        Raises:
            ChannelError: they can't; the message names the operation, its module and its line.
        """
        check_cut(self.coupling, self._search(self._units(None, None), method, method.sparsity, "on the way"))

    def sparsity(self, masks: Mapping[str, Tensor]) -> float:
        """Return the fraction of the budget that masks remove by whole channels."""
        return self.cost.removed(gone_of_masks(self.coupling, masks))

    def masks(self, masks: Mapping[str, Tensor]) -> Masks:
        """Return masks of every parameter that has channels; the weights that `masks` prune are pruned."""
        return masks_of(self.coupling, torch.zeros(self.coupling.num_classes, dtype=torch.bool), masks)

    def _units(self, scores: list[Tensor] | None, masks: Mapping[str, Tensor] | None) -> list[Units]:
        earlier = gone_of_masks(self.coupling, masks or {})
        units = []
        for index, family in enumerate(self.families):
            if family.reason or len(family.classes) < 2:
                continue
            gone = earlier[family.classes]
            own = torch.zeros(len(family.classes)) if scores is None else scores[index]
            shape = self.coupling.graph.tensor(family.name).shape
            fewest = int(gone.sum())
            most = max(len(family.classes) - self.min_kept, fewest)
            units.append(Units(family, own.masked_fill(gone, -torch.inf), shape, fewest, most))
        if not units:
            raise ChannelError(f"no channel of this model may go: {self._why()}")
        return units

    def _search(self, units: list[Units], method: Method, sparsity: float, precision: Precision) -> Tensor:
        """Return the classes to remove: searches for the number of channels that meets the budget best."""
        low, high = sum(unit.fewest for unit in units), sum(unit.most for unit in units)
        while low < high:
            middle = (low + high) // 2
            if self.cost.removed(self._gone(units, self._counts(units, method, middle))) < sparsity:
                low = middle + 1
            else:
                high = middle
        starts = sum(unit.fewest for unit in units)
        options = [self._counts(units, method, count) for count in (low, low - 1) if count >= starts]
        tried = [(self._miss(units, counts, sparsity), counts) for counts in options]
        if precision != "on the way":
            tried = [self._nearer(units, counts, sparsity) for counts in options]
        best = min(tried, key=lambda option: option[0])
        if precision == "met" and best[0] > TOLERANCE:
            reachable = sorted({round(self.cost.removed(self._gone(units, counts)), 3) for counts in options})
            raise ChannelError(
                f"sparsity {sparsity:g} can't be met within {TOLERANCE:g}: whole channels remove "
                f"{' or '.join(f'{value:.3f}' for value in reachable)} of the {self.budget}, in "
                f"steps{self._steps()}; give one of these{', or a smaller round_to' if self.round_to > 1 else ''}"
            )
        return self._gone(units, best[1])

    def _counts(self, units: list[Units], method: Method, count: int) -> list[int]:
        """Return how many channels each family loses if `count` are removed in total."""
        spread = method.scope.spread(units, count)
        return [self._rounded(unit.count, remove) for unit, remove in zip(units, spread.remove, strict=True)]

    def _gone(self, units: list[Units], counts: Sequence[int]) -> Tensor:
        """Return the classes that are removed if each family loses so many: those with the lowest scores."""
        gone = torch.zeros(self.coupling.num_classes, dtype=torch.bool)
        for unit, remove in zip(units, counts, strict=True):
            order = unit.scores.argsort(stable=True)
            gone[unit.family.classes[order[:remove]]] = True
        return gone

    def _rounded(self, count: int, remove: int) -> int:
        """Return how many channels to remove so that a multiple of `round_to` stays; none if there are fewer."""
        if self.round_to == 1 or count < self.round_to:
            return remove if self.round_to == 1 else 0
        stay = max(self.round_to, round((count - remove) / self.round_to) * self.round_to)
        return max(0, count - stay)

    def _nearer(self, units: list[Units], counts: list[int], sparsity: float) -> tuple[float, list[int]]:
        """Come nearer to the budget if channels are large: a family loses one more, another one less.

        Returns:
            The distance from the budget, and the counts.
        """
        nearest = self._miss(units, counts, sparsity), counts
        if len(units) > _MAX_REFINED_FAMILIES:
            return nearest
        step = self.round_to
        singles = [{index: change} for index in range(len(units)) for change in (step, -step)]
        pairs = [{one: step, other: -step} for one in range(len(units)) for other in range(len(units)) if one != other]
        for _ in range(_MAX_REFINEMENTS):
            if nearest[0] <= TOLERANCE / 4:
                break
            before = nearest
            for moves in (singles, pairs):
                moved = [self._moved(units, nearest[1], move) for move in moves]
                misses = [(self._miss(units, option, sparsity), option) for option in moved if option]
                nearest = min([nearest, *misses], key=lambda option: option[0])
                if nearest[0] < before[0]:
                    break
            if nearest[0] == before[0]:
                break
        return nearest

    def _moved(self, units: list[Units], counts: list[int], move: Mapping[int, int]) -> list[int] | None:
        """Return the counts after a move; None if one is outside its family's bounds."""
        new = list(counts)
        for index, change in move.items():
            new[index] = self._rounded(units[index].count, counts[index] + change)
            if not units[index].fewest <= counts[index] + change <= units[index].most:
                return None
        return new

    def _miss(self, units: list[Units], counts: Sequence[int], sparsity: float) -> float:
        """Return the distance from the budget if each family loses so many channels."""
        return abs(self.cost.removed(self._gone(units, counts)) - sparsity)

    def _check_within(self, sparsity: float, most: float) -> None:
        if sparsity > most + TOLERANCE:
            widths = f" and widths in multiples of round_to={self.round_to}" if self.round_to > 1 else ""
            hint = "give a smaller round_to, as narrower layers keep all their channels; " if self.round_to > 1 else ""
            raise ChannelError(
                f"sparsity {sparsity:g} can't be reached by whole channels: with {self.min_kept} of each layer kept"
                f"{widths}, at most {most:.3f} of the {self.budget} can go; {hint}{self._why()}"
            )

    def _why(self) -> str:
        reasons: dict[str, list[str]] = {}
        for family in self.families:
            if family.reason:
                reasons.setdefault(family.name, []).append(family.reason)
        stay = [f"{name!r} ({' and '.join(texts)})" for name, texts in reasons.items()]
        others = " and others" if len(stay) > 4 else ""
        return (f"these have to stay: {', '.join(stay[:4])}{others}" if stay else "") + self._computed()

    def _computed(self) -> str:
        """Say how to make a weight plain that is computed at each forward; empty if there is none."""
        model = self.coupling.graph.model
        for name, _ in model.named_parameters():
            path = name.rpartition(".")[0]
            if plain := made_plain_by(model.get_submodule(path), name):
                layer = path.split(PARAMETRIZATIONS)[0].strip(".") or type(model).__name__
                return (
                    f"; weights that are computed at each forward, such as of layer {layer!r}, keep their channels: "
                    f"make them plain with torch.nn.utils.{plain}"
                )
        return ""

    def _steps(self) -> str:
        wide = [family for family in self.families if not family.reason and family.width > 1]
        return f" ({wide[0].name!r} by {wide[0].width})" if wide else ""


def _targets(
    model: nn.Module, coupling: Coupling, include: Sequence[Selector], exclude: Sequence[Selector]
) -> dict[str, Target]:
    """Return the weights that the sparsity is a fraction of: all that multiply activations, without embeddings."""
    if include:
        return select(model, include, exclude)
    everything = select(model, [name for name, _ in unwrap(model).named_parameters()])
    used = {use.weight.name for use in coupling.uses}
    names = [
        name
        for name, target in everything.items()
        if used & set(target.aliases) and not any(isinstance(module, nn.Embedding) for module in target.modules)
    ]
    if not names:
        raise ChannelError("nothing to prune: no parameter of this model multiplies an activation")
    return select(model, names, exclude)
