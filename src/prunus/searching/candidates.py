"""The models that a search tries: pruned, refitted, smaller, in 8 bits, scored; each is kept in a file if wanted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from inspect import Signature
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from prunus.copying import copy_model
from prunus.files import content_hash, load_with_metadata, save_tensors
from prunus.forward import tensors_by_name
from prunus.graph import ExampleInputs
from prunus.measuring import costs  # noqa: F401  # enters the units
from prunus.pruning import prune
from prunus.pruning.budgets import COSTS
from prunus.pruning.masks import Masks
from prunus.pruning.patterns import Channels, Pattern
from prunus.pruning.stats import Batch
from prunus.quantizing import Quantizer, Scales, quantize
from prunus.recovering import recover
from prunus.shrinking import shrink

Progress: TypeAlias = Callable[[str, float], None]
Train: TypeAlias = Callable[[nn.Module, Masks], None]

_WEIGHT, _MASK, _ENTRY = "weights.", "masks.", "trial"


@dataclass(frozen=True)
class Settings:
    """How models are made.

    Attributes:
        unit: what costs are told in.
        pattern: what is removed together.
        quantized: whether they compute in 8 bits.
        minutes: how long they are distilled.
        example_inputs: inputs that they are traced and timed with.
    """

    unit: str
    pattern: Pattern
    quantized: bool
    minutes: float
    example_inputs: ExampleInputs


@dataclass(frozen=True)
class Trial:
    """One model that was tried.

    Attributes:
        scope: how its sparsity was spread.
        asked: the sparsity or the target that it was pruned to.
        score: of the finished model.
        cost: of the finished model, in the search's unit.
    """

    scope: str
    asked: str
    score: float
    cost: int


@dataclass(frozen=True, eq=False)
class Candidate:
    """A finished model: pruned, smaller where channels went, with scales if it is to compute in 8 bits."""

    trial: Trial
    model: nn.Module
    masks: Masks
    scales: Scales | None


class Workshop:
    """Makes models, scores them, and remembers what was tried.

    Attributes:
        settings: how models are made.
        dense_score, dense_cost: of the model that was given.
        trials: what was tried, in order.
        stage: which scope is tried now, of how many.
        reason: why the last model could not be made.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: list[Batch],
        settings: Settings,
        evaluate: Callable[[nn.Module], float],
        train: Train | None,
        folder: Path | str | None,
        progress: Progress | None,
    ) -> None:
        self.settings = settings
        self.trials: list[Trial] = []
        self.stage, self.reason = (0, 1), ""
        self._dense, self._batches = copy_model(model).eval(), batches
        self._evaluate, self._train = evaluate, train
        self._folder = None if folder is None else Path(folder)
        self._progress = progress or (lambda what, share: None)
        self._tell("scoring the model")
        self.dense_score = evaluate(copy_model(self._dense))
        self.dense_cost = self._cost(self._dense, None)
        self._base = self._fingerprint()

    def candidate(self, scope: str, sparsity: float | str) -> Candidate | None:
        """Return a model pruned to a sparsity or a target; None if it can't be pruned so, `reason` tells why."""
        asked = sparsity if isinstance(sparsity, str) else f"{sparsity:.2%}"
        self._tell(f"{asked}, scope {scope}")
        file = self._file(scope, asked)
        if file is not None and file.exists():
            return self._read(file)
        model = copy_model(self._dense)
        try:
            masks = prune(
                copy_model(self._dense),
                sparsity,
                scope=scope,
                pattern=self.settings.pattern,
                data=self._batches,
                example_inputs=self.settings.example_inputs,
            )
        except ValueError as error:
            self.reason = str(error)
            return None
        choose = False if isinstance(self.settings.pattern, Channels) else self.settings.pattern
        masks = recover(model, masks, self._batches, choose=choose, minutes=self.settings.minutes).masks
        if self._train is not None:
            self._train(model, masks)
            masks.apply(model.eval())
        return self._finished(model, masks, scope, asked, file)

    def unpruned(self, floor: float) -> Candidate | None:
        """Return the given model in 8 bits, if it keeps a floor."""
        candidate = self._finished(copy_model(self._dense), Masks({}), "none", "unpruned", None)
        return candidate if candidate.trial.score >= floor else None

    def _finished(self, model: nn.Module, masks: Masks, scope: str, asked: str, file: Path | None) -> Candidate:
        small, scales = self._made(model, masks)
        trial = Trial(scope, asked, self._score(small, scales), self._cost(small, scales))
        if file is not None:
            tensors = {_WEIGHT + name: value for name, value in tensors_by_name(model).items()}
            tensors |= {_MASK + name: mask for name, mask in masks.items()}
            save_tensors(file, tensors, {_ENTRY: json.dumps(asdict(trial))})
        self.trials.append(trial)
        return Candidate(trial, small, masks, scales)

    def _read(self, file: Path) -> Candidate:
        """Return a model that was made before; its score is not taken anew."""
        tensors, metadata = load_with_metadata(file)
        try:
            trial = Trial(**json.loads(metadata[_ENTRY]))
            model = copy_model(self._dense)
            with torch.no_grad():
                for name, value in tensors_by_name(model).items():
                    value.copy_(tensors[_WEIGHT + name])
            masks = Masks({name.removeprefix(_MASK): own for name, own in tensors.items() if name.startswith(_MASK)})
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{str(file)!r} does not hold a model of this search: {error}; delete it") from error
        self.trials.append(trial)
        small, scales = self._made(model, masks)
        return Candidate(trial, small, masks, scales)

    def _made(self, model: nn.Module, masks: Masks) -> tuple[nn.Module, Scales | None]:
        """Return the model without the channels that went, and its scales."""
        small = model
        if isinstance(self.settings.pattern, Channels) and masks:
            small = shrink(model, self.settings.example_inputs, masks)
        return small, quantize(small, self._batches) if self.settings.quantized else None

    def _score(self, model: nn.Module, scales: Scales | None) -> float:
        copied = copy_model(model)
        if scales is not None:
            Quantizer(copied, scales)
        return self._evaluate(copied)

    def _cost(self, model: nn.Module, scales: Scales | None) -> int:
        example = self.settings.example_inputs
        if scales is not None and self.settings.unit == "bytes":
            from prunus.exporting import to_onnx

            return len(to_onnx(model, example, scales)[0])
        return COSTS[self.settings.unit].cost(model, Masks({}), False, example)

    def _tell(self, what: str) -> None:
        at, count = self.stage
        self._progress(what, at / count)

    def _file(self, scope: str, asked: str) -> Path | None:
        if self._folder is None:
            return None
        key = hashlib.sha256(json.dumps([self._base, scope, asked]).encode()).hexdigest()
        return self._folder / f"{key[:20]}.safetensors"

    def _fingerprint(self) -> str:
        """Return a hash of all that a model is made from, but for what `evaluate` and `train` do."""
        samples = {f"{at}.{name}": value for at, batch in enumerate(self._batches) for name, value in _named(batch)}
        facts = [str(self.settings.pattern), self.settings.unit, self.settings.quantized, self.settings.minutes]
        hashes = [content_hash(tensors_by_name(self._dense)), content_hash(samples)]
        return json.dumps([*facts, *hashes])


def first_sample(batches: Sequence[Batch], signature: Signature) -> ExampleInputs:
    """Return one sample of the first batch as the model takes it.

    Raises:
        ValueError: there is no batch.
    """
    if not batches:
        raise ValueError("batches held no batch; give batches of the model's inputs")
    first = batches[0]
    inputs = first[0] if isinstance(first, (tuple, list)) else first
    if isinstance(inputs, Mapping):
        return {name: inputs[name][:1] for name in signature.parameters if name in inputs}
    return inputs[:1] if isinstance(inputs, Tensor) else inputs


def _named(batch: Any) -> list[tuple[str, Tensor]]:
    inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
    return list(inputs.items()) if isinstance(inputs, Mapping) else [("", inputs)]
