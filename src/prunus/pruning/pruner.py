"""Prune a model step by step along a schedule, while it is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from prunus.errors import MaskError
from prunus.graph import ExampleInputs
from prunus.pruning import budgets, by_layer, criteria, least_error
from prunus.pruning.at_once import families_of, masks_within, shares_of
from prunus.pruning.channels import ChannelFamilies
from prunus.pruning.criteria import Criterion
from prunus.pruning.finding import (
    check_data,
    check_reachable,
    earlier_masks,
    find_masks,
    from_first_rank,
    other_masks,
)
from prunus.pruning.masks import Masks
from prunus.pruning.options import whole
from prunus.pruning.patterns import Channels, Pattern, num_gone
from prunus.pruning.schedules import Schedule, Shape
from prunus.pruning.scopes import Scope, Spreading
from prunus.pruning.stats import Batch
from prunus.pruning.targets import Selector, Target, named
from prunus.supported import unwrap


class Pruner:
    """Prunes a model step by step along a schedule, while the user's own loop trains it.

    Call `step` once after each `optimizer.step()`. The sparsity rises along the schedule for `steps` steps; after that
    the masks stay the same. Pruned weights stay pruned. With pattern ``"channel"`` the model's graph is read once, when
    the Pruner is created.

    Args:
        model: as `prune`; it stays a plain module.
        sparsity: the final sparsity, in [0, 1), those of the layers, or a target, as `prune`. What a target takes is
            found when the Pruner is created, and again at the last step, with the weights that training left.
        steps: the number of steps over which the sparsity rises; it is reached exactly at the last one.
        schedule: ``"cubic"``, ``"linear"``, ``"geometric"``, ``"one_shot"``, or `(progress, sparsity) -> fraction`;
            with options ``Cubic(begin=1000, every=50)``, ``Linear(...)``, ``Geometric(...)``: the number of steps
            before the first weight is pruned, and between two updates of the masks.
        masks: masks to start from.
        criterion, pattern, scope, include, exclude, data, example_inputs: as `prune`.

    Raises:
        TypeError, ValueError: as `prune`, when the Pruner is created, so before any training.

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
        sparsity: float | str | Mapping[str, float],
        *,
        steps: int,
        schedule: str | Shape | Schedule = "cubic",
        criterion: str | criteria.Score | Criterion = "magnitude",
        pattern: str | Pattern = "unstructured",
        scope: str | Spreading | Scope = "global",
        include: Sequence[Selector] = (),
        exclude: Sequence[Selector] = (),
        masks: Mapping[str, Tensor] | None = None,
        data: Iterable[Batch] | None = None,
        example_inputs: ExampleInputs | None = None,
    ) -> None:
        axes = (criterion, pattern, scope, schedule)
        self._target = sparsity if isinstance(sparsity, str) else None
        fraction = budgets.start(pattern, sparsity) if isinstance(sparsity, str) else sparsity
        self.method, targets = by_layer.check(unwrap(model), fraction, axes, include, exclude)
        self.steps = whole("steps", steps, least=1)
        self.begin = self.method.schedule.begin
        self.every = self.method.schedule.every or max(1, self.steps // 100)
        self.num_steps = 0
        self._model, self._data, self._example_inputs = unwrap(model), data, example_inputs
        self._channels: ChannelFamilies | None = None
        if isinstance(self.method.pattern, Channels):
            self._channels = families_of(model, example_inputs, self.method, include, exclude, sparsity)
            targets = self._channels.targets
        self._names = tuple(targets)
        check_data(self.method, data)
        _check_rereadable(data)
        if self._target is None:
            self._check(masks)
        shares = shares_of(sparsity, self._model, self.method, example_inputs)
        self.method = least_error.measured(self.method, model, targets, masks=masks, data=data, shares=shares)
        if self._target is not None:
            whole_channels = self._channels is not None
            self._target = budgets.absolute(self._target, self._model, whole_channels, example_inputs)
            final = from_first_rank(self._met(targets, masks))
            self.method = replace(self.method, sparsity=self._sparsity_of(final))
        elif self.method.scope.has_curves:
            final = find_masks(self._model, targets, self.method, self.method.sparsity, masks=masks, data=data)
        if self.method.scope.has_curves:
            self.method = least_error.settled(self.method, targets, final)
        self.method.schedule.fraction(1.0, self.method.sparsity)
        ones = {name: torch.ones_like(target.parameter, dtype=torch.bool) for name, target in targets.items()}
        self.masks = Masks({**other_masks(masks, targets), **ones, **earlier_masks(masks, targets)})
        if self._channels is not None:  # masks of all parameters that channels touch, from the start
            self._channels.rehearse(self.method)
            self.masks = self._channels.masks(self.masks)
        self.masks.apply(self._model)

    @property
    def sparsity(self) -> float:
        """The fraction of the targeted weights that is pruned now."""
        return Masks({name: self.masks[name] for name in self._names}).sparsity

    @property
    def finished(self) -> bool:
        """Whether the final sparsity is reached."""
        return self.num_steps >= self.begin + self.steps

    def step(self) -> None:
        """Count one training step: prune further if the schedule says so, and set pruned weights to zero again.

        In data-parallel training every process has to call it, and all use the masks of the first process.

        Raises:
            ValueError: weights or scores are NaN, the criterion's gradients are missing, or with the weights as trained
                the target can't be reached; the masks did not change.
        """
        passed = self.num_steps + 1 - self.begin
        if 0 < passed <= self.steps and (passed % self.every == 0 or passed in (1, self.steps)):
            self._prune(passed)
        self.num_steps += 1
        self.masks.apply(self._model)

    def _met(self, targets: Mapping[str, Target], masks: Mapping[str, Tensor] | None) -> Masks:
        """Return masks that meet the target with the present weights."""
        assert self._target is not None
        own = (self._channels, targets, masks, self._data, self._example_inputs)
        return masks_within(self._target, self._model, self.method, *own)

    def _sparsity_of(self, masks: Masks) -> float:
        if self._channels is not None:
            return self._channels.sparsity(masks)
        own = [masks[name] for name in self._names]
        units = sum(self.method.pattern.num_units(mask.shape) for mask in own)
        return sum(num_gone(self.method.pattern, mask) for mask in own) / units

    def _prune(self, passed: int) -> None:
        """Prune to the schedule's sparsity after `passed` of its steps; at the last one to the target, if it is one."""
        method = self.method
        if self._target is not None and passed == self.steps:
            self.masks.apply(self._model)
            final = self.masks
            with contextlib.suppress(budgets.WithinError):  # then no more has to go
                final = self._met(named(self._model, self._names), self.masks)
            self.masks = from_first_rank(final)
            return
        sparsity = method.sparsity
        if passed < self.steps:
            sparsity *= method.schedule.fraction(passed / self.steps, method.sparsity)
        if self._channels is not None:
            last = passed == self.steps
            if last or sparsity > self._channels.sparsity(self.masks):
                masks = self._channels.find(
                    self._model,
                    method,
                    sparsity,
                    masks=self.masks,
                    data=self._data,
                    precision="met" if last else "on the way",
                )
                self.masks = from_first_rank(masks)
            return
        num_units = sum(method.pattern.num_units(self.masks[name].shape) for name in self._names)
        if round(sparsity * num_units) <= round(self._sparsity_of(self.masks) * num_units):
            return  # the schedule has not reached the next unit yet
        targets = named(self._model, self._names)
        self.masks = from_first_rank(
            find_masks(self._model, targets, method, sparsity, masks=self.masks, data=self._data)
        )

    def _check(self, masks: Mapping[str, Tensor] | None) -> None:
        """Raise ValueError if the final sparsity can't be reached from these masks."""
        if self._channels is not None:
            self._channels.check(self.method.sparsity, masks)
        else:
            check_reachable(named(self._model, self._names), self.method, masks)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state for `load_state_dict`: tensors only."""
        state = {f"masks.{name}": mask for name, mask in self.masks.items()}
        if self._target is not None:  # of what the model cost at first
            facts = [budgets.parse(self._target).amount, self.method.sparsity]
            state["target"] = torch.tensor(facts, dtype=torch.float64)
        return {"num_steps": torch.tensor(self.num_steps), **state}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a saved state; its masks are applied to the model.

        Raises:
            ValueError: the state is not that of a Pruner of this model; nothing was changed.
            TypeError: the state is not a mapping, or a mask in it is not a bool tensor.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be what state_dict() returned, got {type(state).__name__}")
        masks = Masks({key.removeprefix("masks."): mask for key, mask in state.items() if key.startswith("masks.")})
        unlike = ("target" in state) != (self._target is not None)
        if "num_steps" not in state or masks.keys() != self.masks.keys() or unlike:
            raise MaskError(
                f"this state is not that of a Pruner of these parameters: it has "
                f"{', '.join(list(state)[:4]) or 'nothing'}, expected num_steps and masks for "
                f"{', '.join(list(self.masks)[:4])}"
            )
        if self._target is not None:
            amount, sparsity = state["target"].tolist()
            self._target = budgets.written(amount, budgets.parse(self._target).unit)
            self.method = replace(self.method, sparsity=sparsity)
        else:
            self._check(masks)
        num_steps = int(state["num_steps"])
        masks.apply(self._model)
        self.masks = Masks({name: masks[name].to(mask.device) for name, mask in self.masks.items()})
        self.num_steps = num_steps


def _check_rereadable(data: Iterable[Batch] | None) -> None:
    if isinstance(data, Iterator):
        raise TypeError(
            f"Pruner reads the data again at each update, but a {type(data).__name__} can be read only once; "
            "give a list of batches or a DataLoader"
        )
