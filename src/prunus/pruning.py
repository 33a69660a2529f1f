"""Score, pool, spread, pick, expand: `prune` at once, `Pruner` along a schedule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus import criteria, patterns, schedules, scopes, select, stats
from prunus.criteria import Criterion
from prunus.masks import MaskError, Masks
from prunus.patterns import Pattern
from prunus.schedules import Schedule
from prunus.scopes import Scope
from prunus.scoring import LayerScores
from prunus.stats import Batch, Loss, Stats
from prunus.targets import Selector, Target, resolve, unwrap


def check_sparsity(value: object) -> float:
    """Return a sparsity as a float, or say what is wrong with it.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not in [0, 1).

    >>> check_sparsity(20)
    Traceback (most recent call last):
    ...
    ValueError: sparsity must be in [0, 1), got 20; did you mean 0.2?
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"sparsity must be a number in [0, 1), got {value!r}")
    if not 0 <= value < 1:
        hint = f"; did you mean {value / 100:g}?" if 1 < value < 100 else ""
        raise ValueError(f"sparsity must be in [0, 1), got {value:g}{hint}")
    return float(value)


@dataclass(frozen=True)
class Method:
    """What is removed and how: one entry of each axis, checked against each other."""

    criterion: Criterion
    pattern: Pattern
    scope: Scope


def check_method(
    sparsity: float,
    criterion: str | criteria.Score | Criterion = "magnitude",
    pattern: str | Pattern = "unstructured",
    scope: str | Scope = "global",
    schedule: str | Schedule = "one_shot",
) -> Method:
    """Look the names up and refuse combinations that can't reach the sparsity.

    Raises:
        ValueError: a name is unknown, or the combination makes no sense.
        TypeError: an argument is neither a name nor what the name would stand for.
    """
    sparsity = check_sparsity(sparsity)
    method = Method(criteria.resolve(criterion), patterns.resolve(pattern), scopes.resolve(scope))
    schedules.resolve(schedule)
    only = method.pattern.only_sparsity
    if only is not None and abs(sparsity - only) > 1e-9:
        raise ValueError(
            f"pattern {method.pattern.name} removes exactly {only:g} of the weights, got sparsity {sparsity:g}; "
            f"write sparsity {only:g}, or choose another pattern"
        )
    if only is not None and method.scope is scopes.erk:
        raise ValueError(
            f"pattern {method.pattern.name} gives every layer the same sparsity, so scope 'erk' has nothing to "
            "spread; use scope 'uniform'"
        )
    return method


def prune(
    model: nn.Module,
    sparsity: float,
    *,
    criterion: str | criteria.Score | Criterion = "magnitude",
    pattern: str | Pattern = "unstructured",
    scope: str | Scope = "global",
    include: Sequence[Selector] = (),
    exclude: Sequence[Selector] = (),
    masks: Mapping[str, Tensor] | None = None,
    data: Iterable[Batch] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    min_kept: int = 1,
) -> Masks:
    """Set the least important weights of a model to zero, in place, and return the masks.

    The model stays the module it was: same class, same state_dict keys, dense tensors with zeros in them.

    Args:
        model: any module; wrappers of DistributedDataParallel and torch.compile are looked through.
        sparsity: the fraction of the targeted weights to remove, in [0, 1); met exactly, as
            round(sparsity * number of units).
        criterion: how much a weight matters: a name (`prunus ls criteria`) or `(weight, stats) -> scores`.
        pattern: what goes together: ``"unstructured"``, ``"2:4"``, ``"block-4x4"``.
        scope: how the budget is spread: ``"global"``, ``"uniform"``, ``"erk"``.
        include: parameters, modules, patterns or classes to prune; by default every weight of a Linear,
            convolution, attention or recurrent layer.
        exclude: what to leave alone, likewise.
        masks: earlier masks; what they prune stays pruned and counts towards the sparsity.
        data: batches for criteria that need data: `(inputs, targets)` for ``"gradient"``, inputs suffice for
            ``"activation"``.
        loss: `(outputs, targets) -> scalar`, for ``"gradient"`` with data; without data the gradients that the
            last backward pass left are used.
        seed: for criteria that draw random numbers.
        min_kept: how many units each layer keeps at least; 0 allows a layer to be emptied.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument is out of range, a selector matches nothing, weights are NaN, or the sparsity
            can't be reached; the model was not changed.

    >>> model = nn.Linear(10, 10)
    >>> prune(model, sparsity=0.25)
    Masks(1 parameters, 25 of 100 weights pruned)
    """
    method = check_method(sparsity, criterion, pattern, scope)
    targets = resolve(model, include, exclude)
    found = find_masks(
        model, targets, method, sparsity, masks=masks, data=data, loss=loss, seed=seed, min_kept=min_kept
    )
    found.apply(model)
    return found


def find_masks(
    model: nn.Module,
    targets: Mapping[str, Target],
    method: Method,
    sparsity: float,
    *,
    masks: Mapping[str, Tensor] | None = None,
    data: Iterable[Batch] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    min_kept: int = 1,
) -> Masks:
    """Find the masks that `prune` would apply; the model is not changed. Arguments and errors as there."""
    earlier = _check_masks(masks, targets)
    for name, target in targets.items():
        method.pattern.check(name, target.parameter.shape)
    known = _gather(model, targets, method.criterion, data, loss, seed)
    layers = [
        LayerScores(name, target.parameter, method.criterion, method.pattern, known[name], earlier.get(name), min_kept)
        for name, target in targets.items()
    ]
    budget = _budget(layers, sparsity)
    try:
        spread = method.scope(layers, budget)
        _check_spread(layers, spread, budget)
        found = {
            layer.name: _mask(layer, remove, spread.near) for layer, remove in zip(layers, spread.remove, strict=True)
        }
    except select.NanScoresError as error:
        raise _nan_error(layers) from error
    return Masks({**(masks or {}), **found})


def _mask(layer: LayerScores, remove: int, near: select.Threshold | None) -> Tensor:
    keep = select.pick(layer, remove, near).logical_not_()
    layer.release()
    mask = layer.pattern.expand(keep, layer.shape)
    return mask if layer.mask is None else mask & layer.mask


def _nan_error(layers: Sequence[LayerScores]) -> ValueError:
    for layer in layers:
        for piece in layer.chunks():
            if torch.isnan(piece).any():
                return layer.nan_error()
    raise AssertionError("selection met NaN where there is none")


def _budget(layers: Sequence[LayerScores], sparsity: float) -> int:
    """Return how many units go, after checking that so many can."""
    total = sum(layer.count for layer in layers)
    fewest, most = sum(layer.fewest for layer in layers), sum(layer.most for layer in layers)
    budget = round(sparsity * total)
    if budget == 0 and sparsity > 0:
        raise ValueError(
            f"sparsity {sparsity:g} of {total:,} units rounds to none, so nothing would be pruned; the least that "
            f"removes one is {0.5 / total:.3g}"
        )
    if budget < fewest:
        raise ValueError(
            f"sparsity {sparsity:g} is below the {fewest / total:.6g} that the given masks have already; pruned "
            "weights stay pruned, so give a higher sparsity or no masks"
        )
    if budget > most:
        raise ValueError(
            f"sparsity {sparsity:g} can't be reached: it removes {budget:,} of {total:,} units, but only {most:,} may "
            "go, since every layer keeps at least one unit (min_kept=1); give a lower sparsity, or min_kept=0"
        )
    return budget


def _check_spread(layers: Sequence[LayerScores], spread: scopes.Spread, budget: int) -> None:
    """Hold a scope, which may be the user's own, to its contract."""
    within = all(layer.fewest <= remove <= layer.most for layer, remove in zip(layers, spread.remove, strict=True))
    if sum(spread.remove) != budget or not within:
        raise ValueError(
            f"the scope must remove {budget:,} units in all within each layer's bounds, but it spread "
            f"{dict(zip((layer.name for layer in layers), spread.remove, strict=True))}"
        )


def _check_masks(masks: Mapping[str, Tensor] | None, targets: Mapping[str, Target]) -> dict[str, Tensor]:
    given = Masks(masks or {})
    fitting = {}
    for name, target in targets.items():
        if name in given:
            if given[name].shape != target.parameter.shape:
                raise MaskError(
                    f"the mask of {name!r} has shape {tuple(given[name].shape)}, the parameter "
                    f"{tuple(target.parameter.shape)}; these masks belong to another model"
                )
            fitting[name] = given[name].to(target.parameter.device)
    if given and not fitting:
        raise MaskError(
            f"none of the given masks ({', '.join(list(given)[:3])}, ...) is for a parameter that is pruned here "
            f"({', '.join(list(targets)[:3])}, ...)"
        )
    return fitting


def _gather(
    model: nn.Module,
    targets: Mapping[str, Target],
    criterion: Criterion,
    data: Iterable[Batch] | None,
    loss: Loss | None,
    seed: int,
) -> dict[str, Stats]:
    gradients: dict[str, Tensor] = {}
    norms: dict[str, Tensor] = {}
    if criterion.needs == "gradient":
        if (data is None) != (loss is None):
            raise ValueError(f"criterion {criterion.name!r} needs data and loss together, got only one of them")
        if data is None or loss is None:
            gradients = stats.stored_gradients(targets)
        else:
            gradients = stats.gradients(model, targets, data, loss)
    elif criterion.needs == "input_norm":
        if data is None:
            raise ValueError(f"criterion {criterion.name!r} needs data: pass data=batches of inputs")
        norms = stats.input_norms(model, targets, data)
    return {name: Stats(name, seed, gradients.get(name), norms.get(name)) for name in targets}


class Pruner:
    """Prunes a model step by step along a schedule, while the user's own loop trains it.

    Call `step` once after each `optimizer.step()`. From step `begin` to step `begin + steps` the sparsity rises
    along the schedule; after that the masks are kept. Weights once pruned stay pruned.

    Args:
        model: as `prune`; it stays the plain module it was.
        sparsity: the final sparsity, in [0, 1).
        steps: over how many steps the sparsity rises; it is reached exactly at the last.
        schedule: ``"cubic"``, ``"linear"``, ``"geometric"``, ``"one_shot"``, or `(progress, sparsity) -> fraction`.
        begin: how many steps pass before the first weight goes.
        every: re-select each so many steps; by default a hundredth of `steps`, at least 1.
        masks: masks to start from.
        criterion, pattern, scope, include, exclude, data, loss, seed, min_kept: as `prune`.

    Raises:
        TypeError, ValueError: as `prune`, when it is made: before any training was spent.

    >>> model = nn.Linear(10, 10)
    >>> pruner = Pruner(model, sparsity=0.5, steps=4)
    >>> for _ in range(4):
    ...     pruner.step()  # after loss.backward() and optimizer.step()
    >>> pruner.sparsity
    0.5
    """

    def __init__(
        self,
        model: nn.Module,
        sparsity: float,
        *,
        steps: int,
        schedule: str | Schedule = "cubic",
        begin: int = 0,
        every: int | None = None,
        criterion: str | criteria.Score | Criterion = "magnitude",
        pattern: str | Pattern = "unstructured",
        scope: str | Scope = "global",
        include: Sequence[Selector] = (),
        exclude: Sequence[Selector] = (),
        masks: Mapping[str, Tensor] | None = None,
        data: Iterable[Batch] | None = None,
        loss: Loss | None = None,
        seed: int = 0,
        min_kept: int = 1,
    ) -> None:
        self.method = check_method(sparsity, criterion, pattern, scope, schedule)
        self.schedule = schedules.resolve(schedule)
        self.target_sparsity = float(sparsity)
        self.steps = _whole("steps", steps, least=1)
        self.begin = _whole("begin", begin, least=0)
        self.every = max(1, self.steps // 100) if every is None else _whole("every", every, least=1)
        self.targets = resolve(model, include, exclude)
        self.num_steps = 0
        self._model = unwrap(model)
        self._options: dict[str, Any] = {"data": data, "loss": loss, "seed": seed, "min_kept": min_kept}
        earlier = _check_masks(masks, self.targets)
        self._check_target(earlier, min_kept)
        ones = {name: torch.ones_like(t.parameter, dtype=torch.bool) for name, t in self.targets.items()}
        self.masks = Masks({**(masks or {}), **ones, **earlier})
        self.masks.apply(self._model)

    @property
    def sparsity(self) -> float:
        """The fraction of the targeted weights that is pruned now."""
        return self.masks.sparsity

    @property
    def finished(self) -> bool:
        """Whether the final sparsity is reached."""
        return self.num_steps >= self.begin + self.steps

    def step(self) -> None:
        """Count one training step: prune further where it is due, and keep what is pruned at zero.

        Raises:
            ValueError: weights or scores are NaN, or the criterion's gradients are missing; the masks are as before.
        """
        passed = self.num_steps + 1 - self.begin
        if 0 < passed <= self.steps and (passed % self.every == 0 or passed in (1, self.steps)):
            self._prune(passed / self.steps)
        self.num_steps += 1
        self.masks.apply(self._model)

    def _prune(self, progress: float) -> None:
        wanted = self.target_sparsity * min(max(self.schedule(progress, self.target_sparsity), 0.0), 1.0)
        if progress >= 1:
            wanted = self.target_sparsity
        elif round(wanted * self._num_units) <= self._num_removed_units:
            return  # the schedule has not come to the next unit yet
        found = find_masks(self._model, self.targets, self.method, wanted, masks=self.masks, **self._options)
        self.masks = _from_first_rank(found)

    @property
    def _num_units(self) -> int:
        return sum(self.method.pattern.num_units(t.parameter.shape) for t in self.targets.values())

    @property
    def _num_removed_units(self) -> int:
        pool = self.method.pattern.pool
        gone = (torch.where(self.masks[name], 0.0, -torch.inf) for name in self.targets)
        return sum(int(torch.count_nonzero(pool(scores) == -torch.inf)) for scores in gone)

    def _check_target(self, earlier: Mapping[str, Tensor], min_kept: int) -> None:
        """Refuse a final sparsity that the last step could not reach."""
        method = self.method
        for name, target in self.targets.items():
            method.pattern.check(name, target.parameter.shape)
        _budget(
            [
                LayerScores(name, t.parameter, method.criterion, method.pattern, Stats(), earlier.get(name), min_kept)
                for name, t in self.targets.items()
            ],
            self.target_sparsity,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return what `load_state_dict` needs to go on from here: tensors only."""
        state = {f"masks.{name}": mask for name, mask in self.masks.items()}
        return {"num_steps": torch.tensor(self.num_steps), **state}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a saved state; the masks are applied to the model.

        Raises:
            ValueError: the state is not of a Pruner of this model; nothing was changed.
        """
        masks = Masks({key.removeprefix("masks."): mask for key, mask in state.items() if key.startswith("masks.")})
        if "num_steps" not in state or masks.keys() != self.masks.keys():
            raise ValueError(
                f"this state is not of a Pruner of these parameters: it has {', '.join(list(state)[:4]) or 'nothing'}, "
                f"expected num_steps and masks for {', '.join(list(self.masks)[:4])}"
            )
        masks.apply(self._model)
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        self.masks = Masks({name: mask.to(parameters[name].device) for name, mask in masks.items()})
        self.num_steps = int(state["num_steps"])


def _whole(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def _from_first_rank(masks: Masks) -> Masks:
    """Under data-parallel training let every process have the masks of the first, to the bit."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return masks
    for mask in masks.values():
        as_bytes = mask.to(torch.uint8)
        distributed.broadcast(as_bytes, src=0)
        mask.copy_(as_bytes != 0)
    return masks
