"""The models that a search tries: pruned, refitted, smaller, in 8 bits, scored; each is kept in a file if wanted."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from inspect import signature
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from prunus.copying import copy_model
from prunus.files import checksum_of, content_hash, load_with_metadata, save_tensors
from prunus.forward import tensors_by_name
from prunus.graph import ExampleInputs, trace
from prunus.graph.samples import inputs_of, of_size
from prunus.measuring import costs  # noqa: F401  # enters the units
from prunus.proving.verification import tensors
from prunus.pruning import prune
from prunus.pruning.budgets import COSTS
from prunus.pruning.masks import Masks
from prunus.pruning.patterns import Channels, Pattern
from prunus.pruning.stats import Batch
from prunus.pruning.targets import Selector
from prunus.quantizing import Quantizer, Scales, quantize
from prunus.recovering import recover
from prunus.shrinking import shrink
from prunus.supported import unwrap

Progress: TypeAlias = Callable[[str, float], None]
Train: TypeAlias = Callable[[nn.Module, Masks], None]

_WEIGHT, _MASK, _ENTRY = "weights.", "masks.", "trial"


@dataclass(frozen=True)
class Settings:
    """How models are made.

    Attributes:
        unit: what costs are told in.
        pattern: what is removed together.
        include, exclude: what is pruned, as `prune`.
        quantized: whether they compute in 8 bits.
        minutes: how long they are distilled.
        example_inputs: inputs that they are traced and timed with.
    """

    unit: str
    pattern: Pattern
    include: tuple[Selector, ...]
    exclude: tuple[Selector, ...]
    quantized: bool
    minutes: float
    example_inputs: ExampleInputs

    @property
    def counts_onnx(self) -> bool:
        """Whether bytes are those of a file of ONNX: a packed file holds no numbers of 8 bits."""
        return self.quantized and self.unit == "bytes"


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
    cost: float


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
        dense_score, dense_cost: of the model that was given; its cost is that of a file of ONNX where those of 8 bits
            are.
        trials: what was tried, in order.
        failures: scope and sparsity or target -> why no model could be made.
        stage: which scope is tried now, of how many.
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
        self.failures: dict[str, str] = {}
        self.stage = (0, 1)
        self._dense, self._batches = copy_model(model).eval(), batches
        self._evaluate, self._train = evaluate, train
        self._folder = None if folder is None else Path(folder)
        self._progress = progress or (lambda what, share: None)
        self._tell("scoring the model")
        self.dense_score = evaluate(copy_model(self._dense))
        if math.isnan(self.dense_score):
            raise ValueError("evaluate gives NaN for the model itself; are its weights and the data finite?")
        self.dense_cost = self._cost(self._dense, None)
        self._base = "" if folder is None else self._fingerprint()

    def candidate(self, scope: str, sparsity: float | str) -> Candidate | None:
        """Return a model pruned to a sparsity or a target; None if it can't be made, `failures` tells why."""
        asked = sparsity if isinstance(sparsity, str) else f"{sparsity:.2%}"
        self._tell(f"{asked}, scope {scope}")
        file = self._file(scope, asked)
        if file is not None and file.exists():
            return self._read(file)
        model = copy_model(self._dense)
        try:
            masks = self._pruned(model, scope, sparsity)
        except ValueError as error:
            self.failures[f"{scope}, {asked}"] = str(error)
            return None
        if self._train is not None:
            self._train(model, masks)
            masks.apply(model.eval())
        return self._finished(model, masks, scope, asked, file)

    def unpruned(self) -> Candidate | None:
        """Return the given model in 8 bits; None if it can't be quantised."""
        return self._finished(copy_model(self._dense), Masks({}), "none", "unpruned", None)

    def _pruned(self, model: nn.Module, scope: str, sparsity: float | str) -> Masks:
        """Prune a copy of the model, refit it, and return its masks."""
        pattern = self.settings.pattern
        masks = prune(
            copy_model(self._dense),
            sparsity,
            scope=scope,
            pattern=pattern,
            include=self.settings.include,
            exclude=self.settings.exclude,
            data=self._batches,
            example_inputs=self.settings.example_inputs,
        )
        choose = False if isinstance(pattern, Channels) else pattern
        return recover(model, masks, self._batches, choose=choose, minutes=self.settings.minutes).masks

    def _finished(self, model: nn.Module, masks: Masks, scope: str, asked: str, file: Path | None) -> Candidate | None:
        try:
            small, scales = self._made(model, masks)
            cost = self._cost(small, scales)
        except ValueError as error:
            self.failures[f"{scope}, {asked}"] = str(error)
            return None
        score = self._score(small, scales)
        trial = Trial(scope, asked, -math.inf if math.isnan(score) else score, cost)
        if file is not None:
            kept = {_WEIGHT + name: value for name, value in tensors_by_name(model).items()}
            kept |= {_MASK + name: mask for name, mask in masks.items()}
            header = {_ENTRY: json.dumps(asdict(trial))}
            save_tensors(file, kept, header | {"checksum": checksum_of(kept, header)})
        self.trials.append(trial)
        return Candidate(trial, small, masks, scales)

    def _read(self, file: Path) -> Candidate:
        """Return a model that was made before; its score is not taken anew."""
        try:
            kept, metadata = load_with_metadata(file)
            header = {_ENTRY: metadata[_ENTRY]}
            if metadata != header | {"checksum": checksum_of(kept, header)}:
                raise ValueError("its checksum is wrong, so it was damaged or changed")
            trial = Trial(**json.loads(header[_ENTRY]))
            model = copy_model(self._dense)
            with torch.no_grad():
                for name, value in tensors_by_name(model).items():
                    value.copy_(kept[_WEIGHT + name])
            masks = Masks({name.removeprefix(_MASK): own for name, own in kept.items() if name.startswith(_MASK)})
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{str(file)!r} holds no model of this search: {error}; delete it, or name another"
            ) from error
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

    def _cost(self, model: nn.Module, scales: Scales | None) -> float:
        example = self.settings.example_inputs
        if self.settings.counts_onnx:
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
        example = [[list(value.shape), str(value.dtype)] for value in tensors(self.settings.example_inputs)]
        own = self.settings
        facts = [str(own.pattern), str(own.include), str(own.exclude), own.unit, own.quantized, own.minutes]
        hashes = [content_hash(tensors_by_name(self._dense)), content_hash(samples)]
        return json.dumps([*facts, *hashes, example, str(self._dense), self._train is not None])


def example_of(model: nn.Module, batches: Sequence[Batch]) -> ExampleInputs:
    """Return one sample of the first batch as the model takes it; the whole batch where the model's code fixes it.

    Raises:
        TypeError: a batch is not made of tensors.
        ValueError: there is no batch.
        GraphError: the model can't be traced.
    """
    if not batches:
        raise ValueError("batches held no batch; give batches of the model's inputs")
    named = dict(_named(batches[0]))
    if not named or not all(isinstance(value, Tensor) and value.ndim for value in named.values()):
        raise TypeError(
            f"a batch must be a tensor, a pair (inputs, labels) or a mapping, got {type(batches[0]).__name__}"
        )
    names = [name for name in signature(unwrap(model).forward).parameters if name in named]
    whole: ExampleInputs = {name: named[name] for name in names} if names else tuple(named.values())
    return whole if trace(model, whole).batch is not None else of_size(whole, 1)


def _named(batch: Any) -> list[tuple[str, Tensor]]:
    inputs = inputs_of(batch)
    return list(inputs.items()) if isinstance(inputs, Mapping) else [("", inputs)]
