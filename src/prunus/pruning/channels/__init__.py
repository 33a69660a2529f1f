"""Pruning whole channels, neurons and heads: coupled scores, budgets in parameters or multiply-adds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

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

# How far from the sparsity asked for the result may be, as a fraction of the whole: channels come in steps.
TOLERANCE = 0.02

# A model of few families has large channels; there this many single steps are tried to come nearer to the budget.
_MOST_TOUCHED = 24
_TOUCHES = 12


@dataclass(frozen=True, eq=False)
class Units:
    """The channels of one family as a scope sees a layer: one score each, and bounds on how many may go."""

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
        """How many channels there are."""
        return len(self.family.classes)

    def chunks(self) -> Iterator[Tensor]:
        """Yield the scores."""
        yield self.scores

    def sample(self, stride: int) -> Tensor:
        """Return every `stride`-th score."""
        return self.scores[::stride]


_BY_DEFAULT = Channels()


class ChannelFamilies:
    """The channels of a model, read off its graph once, and found again and again as the model trains.

    Args:
        model: any module that torch.export can trace.
        example_inputs: a tensor, a tuple of tensors, or argument names with tensors; the batch comes first.
        include, exclude: as `prune`: channels that these layers make are pruned, or protected.
        pattern: what the sparsity is a fraction of, and what widths are multiples of.
        min_kept: how many channels each layer keeps at least.

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
                "pattern 'channel' has to see what the model's channels are coupled with; give example_inputs, such as "
                "example_inputs=torch.zeros(1, 3, 224, 224)"
            )
        self.coupling = couple(trace(model, example_inputs))
        self.targets = _targets(model, self.coupling, include, exclude)
        self.round_to, self.budget = pattern.round_to, pattern.budget
        self.min_kept = max(1, min_kept)
        excluded = set(_targets(model, self.coupling, include, ())) - set(self.targets)
        self.families = [protected(family, set(self.targets), excluded) for family in families(self.coupling)]
        self.cost = Cost(self.coupling, pattern.budget, list(self.targets))

    def check(self, sparsity: float, masks: Mapping[str, Tensor] | None = None) -> None:
        """Refuse a sparsity that whole channels can't reach.

        Raises:
            ChannelError: they can't; the message says how far they go and what is protected.
        """
        most = torch.zeros(self.coupling.num_classes, dtype=torch.bool)
        for units in self._units(None, masks):
            most[units.family.classes[: self._rounded(units.count, units.most)]] = True
        self._check_within(sparsity, self.cost.removed(most))

    def find(
        self,
        model: nn.Module,
        method: Method,
        sparsity: float,
        *,
        masks: Mapping[str, Tensor] | None = None,
        data: Iterable[Batch] | None = None,
        strict: bool = True,
    ) -> Masks:
        """Find the masks that remove so much by whole channels; the model is not changed.

        Args:
            model: the model the channels are of, with the weights it has now.
            method: how.
            sparsity: how much goes now, the method's or less.
            masks: as `prune`.
            data: as `prune`.
            strict: whether to refuse a sparsity that can't be met within two points; on the way to another it may be.

        Raises:
            ChannelError: the sparsity can't be met, or the channels to go could not be cut out of the model.
            TypeError, ValueError: as `prune`.
        """
        self.check(sparsity, masks)
        check_data(method.criterion, data)
        scores = unit_scores(unwrap(model), self.coupling, self.families, method.criterion, data)
        units = self._units(scores, masks)
        gone = self._search(units, method, sparsity, strict=strict)
        check_cut(self.coupling, gone)
        return masks_of(self.coupling, gone, masks)

    def plan(self, method: Method, sparsity: float) -> Tensor:
        """Return which classes would go if all channels mattered alike, bool per class: it needs no weights.

        Raises:
            ChannelError: the sparsity can't be met.
        """
        self.check(sparsity)
        return self._search(self._units(None, None), method, sparsity, strict=True)

    def rehearse(self, method: Method) -> None:
        """Refuse a model out of which channels could not be cut; it needs no weights.

        Raises:
            ChannelError: they could not; the message names the operation, its module and its line.
        """
        check_cut(self.coupling, self._search(self._units(None, None), method, method.sparsity, strict=False))

    def sparsity(self, masks: Mapping[str, Tensor]) -> float:
        """Return the fraction of the budget that masks remove by whole channels."""
        return self.cost.removed(gone_of_masks(self.coupling, masks))

    def masks(self, masks: Mapping[str, Tensor]) -> Masks:
        """Return masks of every parameter that channels touch, with what the given ones prune."""
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

    def _search(self, units: list[Units], method: Method, sparsity: float, *, strict: bool) -> Tensor:
        """Return the classes to go: the number of channels is searched for that meets the budget best."""
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
        if strict:  # on the way to another sparsity the scope's own counts are kept: what goes now can't come back
            tried = [self._nearer(units, counts, sparsity) for counts in options]
        best = min(tried, key=lambda option: option[0])
        if strict and best[0] > TOLERANCE:
            reachable = sorted({round(self.cost.removed(self._gone(units, counts)), 3) for counts in options})
            raise ChannelError(
                f"sparsity {sparsity:g} can't be met within {TOLERANCE:g}: whole channels remove "
                f"{' or '.join(f'{value:.3f}' for value in reachable)} of the {self.budget}, as they come in "
                f"steps{self._steps()}; give one of these{', or a smaller round_to' if self.round_to > 1 else ''}"
            )
        return self._gone(units, best[1])

    def _counts(self, units: list[Units], method: Method, count: int) -> list[int]:
        """Return how many channels each family loses when so many go in all."""
        spread = method.scope.spread(units, count)
        return [self._rounded(unit.count, remove) for unit, remove in zip(units, spread.remove, strict=True)]

    def _gone(self, units: list[Units], counts: Sequence[int]) -> Tensor:
        """Return the classes that go when each family loses so many: those of the lowest scores."""
        gone = torch.zeros(self.coupling.num_classes, dtype=torch.bool)
        for unit, remove in zip(units, counts, strict=True):
            order = unit.scores.argsort(stable=True)
            gone[unit.family.classes[order[:remove]]] = True
        return gone

    def _rounded(self, count: int, remove: int) -> int:
        """Return how many of a family go so that a multiple of `round_to` stays; none where there are fewer."""
        if self.round_to == 1 or count < self.round_to:
            return remove if self.round_to == 1 else 0
        stay = max(self.round_to, round((count - remove) / self.round_to) * self.round_to)
        return max(0, count - stay)

    def _nearer(self, units: list[Units], counts: list[int], sparsity: float) -> tuple[float, list[int]]:
        """Come nearer to the budget, where channels are large: a family loses one more, another one less.

        Returns:
            How far from the budget it ends, and the counts.
        """
        nearest = self._miss(units, counts, sparsity), counts
        if len(units) > _MOST_TOUCHED:
            return nearest
        step = self.round_to
        singles = [{index: change} for index in range(len(units)) for change in (step, -step)]
        pairs = [{one: step, other: -step} for one in range(len(units)) for other in range(len(units)) if one != other]
        for _ in range(_TOUCHES):
            if nearest[0] <= TOLERANCE / 4:
                break
            before = nearest
            for moves in (singles, pairs):
                tried = [self._moved(units, nearest[1], move) for move in moves]
                misses = [(self._miss(units, each, sparsity), each) for each in tried if each]
                nearest = min([nearest, *misses], key=lambda option: option[0])
                if nearest[0] < before[0]:
                    break
            if nearest[0] == before[0]:
                break
        return nearest

    def _moved(self, units: list[Units], counts: list[int], move: Mapping[int, int]) -> list[int] | None:
        """Return the counts after a move, None where it leaves a family's bounds."""
        new = list(counts)
        for index, change in move.items():
            new[index] = self._rounded(units[index].count, counts[index] + change)
            if not units[index].fewest <= counts[index] + change <= units[index].most:
                return None
        return new

    def _miss(self, units: list[Units], counts: Sequence[int], sparsity: float) -> float:
        """Return how far from the budget it ends when each family loses so many."""
        return abs(self.cost.removed(self._gone(units, counts)) - sparsity)

    def _check_within(self, sparsity: float, most: float) -> None:
        if sparsity > most + TOLERANCE:
            widths = f" and widths in multiples of round_to={self.round_to}" if self.round_to > 1 else ""
            hint = "give a smaller round_to, as narrower layers stay whole; " if self.round_to > 1 else ""
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
        """Say how layers lose their channels whose weights are computed at each forward."""
        model = self.coupling.graph.model
        for name, _ in model.named_parameters():
            path = name.rpartition(".")[0]
            if plain := made_plain_by(model.get_submodule(path), name):
                layer = path.split(PARAMETRIZATIONS)[0].strip(".") or type(model).__name__
                return (
                    f"; weights that are computed at each forward, as of layer {layer!r}, keep their channels: make "
                    f"them plain with torch.nn.utils.{plain}"
                )
        return ""

    def _steps(self) -> str:
        wide = [family for family in self.families if not family.reason and family.width > 1]
        return f" ({wide[0].name!r} by {wide[0].width})" if wide else ""


def _targets(
    model: nn.Module, coupling: Coupling, include: Sequence[Selector], exclude: Sequence[Selector]
) -> dict[str, Target]:
    """Return the weights the sparsity speaks of: those that multiply activations, tables of embeddings left aside."""
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
