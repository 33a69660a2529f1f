"""Sparsities that are given by hand, one for each layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from prunus.pruning import scopes, targets
from prunus.pruning.method import Method, check_method, check_sparsity
from prunus.pruning.patterns import Channels, Inputs, Pattern
from prunus.pruning.scopes import Layer, Scope
from prunus.pruning.targets import Selector, Target


@dataclass(frozen=True)
class ByLayer:
    """A scope that removes from each layer what was asked for; on the way there, the same share of that.

    Attributes:
        counts: how many units each parameter loses in the end, by its name.
    """

    counts: Mapping[str, int]

    def __call__(self, layers: Sequence[Layer], budget: int) -> tuple[int, ...]:
        """Spread a budget of at most the sum of the counts.

        Raises:
            ValueError: a layer can't lose what it should in the end.
        """
        for layer in layers:
            if not layer.fewest <= self.counts[layer.name] <= layer.most:
                raise ValueError(
                    f"{layer.name!r} would lose {self.counts[layer.name]:,} of its units, but {layer.fewest:,} are "
                    f"pruned already and {layer.most:,} may be, given min_kept; give it another sparsity"
                )
        share = budget / max(1, sum(self.counts.values()))
        return scopes.apportion([self.counts[layer.name] * share for layer in layers], budget, layers)


def check(
    model: nn.Module,
    sparsity: float | Mapping[str, float],
    axes: Sequence[Any],
    include: Sequence[Selector],
    exclude: Sequence[Selector],
) -> tuple[Method, dict[str, Target]]:
    """Return a method, and the parameters that it prunes; none where it removes whole channels.

    Args:
        model: the model.
        sparsity: a fraction; or selectors, as `include` takes them, to fractions: of several that match a parameter the
            last counts, and what none matches is left alone.
        axes: criterion, pattern, scope, and perhaps a schedule, as `method.check_method` takes them.
        include: as `prune`.
        exclude: as `prune`.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: one is out of range, a selector matches nothing, nothing is pruned, or the method has a scope or a
            pattern that sparsities by layer can't go with.
    """
    if not isinstance(sparsity, Mapping):
        method = check_method(sparsity, *axes)
        whole = isinstance(method.pattern, Channels)
        return method, {} if whole else prunable(model, method.pattern, include, exclude)
    fractions = {selector: check_sparsity(value) for selector, value in sparsity.items()}
    methods = [check_method(fraction, *axes) for fraction in dict.fromkeys(fractions.values()) if fraction]
    if not methods:
        raise ValueError(f"the sparsities of the layers prune nothing: {dict(sparsity)}")
    method = methods[0]
    if isinstance(method.pattern, Channels):
        raise ValueError(
            "pattern 'channel' takes one sparsity, since channels are coupled over layers; got one for each layer"
        )
    if method.scope.spreading is not scopes.global_:
        raise ValueError("sparsities of layers leave a scope nothing to spread; give one sparsity, or leave scope out")
    everything = prunable(model, method.pattern, include, exclude, fractions)
    chosen = {
        name: fraction
        for selector, fraction in fractions.items()
        for name in targets.matching(everything, selector, "sparsity")
    }
    pruned = {name: target for name, target in everything.items() if chosen.get(name)}
    sizes = {name: method.pattern.num_units(target.parameter.shape) for name, target in pruned.items()}
    counts = {name: round(chosen[name] * size) for name, size in sizes.items()}
    if not any(counts.values()):
        raise ValueError(f"the sparsities of the layers prune nothing: {dict(sparsity)}")
    scope = Scope(ByLayer(counts), method.scope.min_kept)
    return replace(method, sparsity=sum(counts.values()) / sum(sizes.values()), scope=scope), pruned


def prunable(
    model: nn.Module,
    pattern: Pattern,
    include: Sequence[Selector] = (),
    exclude: Sequence[Selector] = (),
    fractions: Iterable[Selector] = (),
) -> dict[str, Target]:
    """Return the parameters that a pattern prunes: without depthwise convolutions, where it leaves them dense.

    Args:
        model: the model.
        pattern: what is removed together.
        include: as `prune`.
        exclude: as `prune`.
        fractions: the selectors of sparsities by layer.

    Raises:
        TypeError, ValueError: as `targets.resolve`, or a selector names only what stays dense.
    """
    chosen = targets.resolve(model, include, exclude)
    if not isinstance(pattern, Inputs) or pattern.depthwise != "dense":
        return chosen
    dense = [name for name, target in chosen.items() if targets.is_depthwise(target)]
    why = f"pattern {pattern.name} leaves depthwise convolutions dense; write {pattern.name}:depthwise=columns"
    named = (include,) if isinstance(include, str | type) else include
    return targets.left_out(chosen, dense, [*named, *fractions], why)
