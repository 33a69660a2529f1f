"""A run as stages; each is skipped if its result exists.

train -> prune -> finetune -> shrink -> quantize -> pack -> compile -> controls -> measure -> report
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus import pruning
from prunus.copying import copy_model
from prunus.extras import require
from prunus.lab import controls, models, quantized, reducing, report, train
from prunus.lab import data as datasets
from prunus.lab.data import Dataset
from prunus.lab.proof import Evidence, prove
from prunus.lab.recipe import PruneSection, Recipe, Section, TrainingSection, fingerprint
from prunus.lab.run_folder import (
    RecipeChangedError,
    RunLockedError,
    Seconds,
    claim,
    locked,
    made_from_of,
    restore,
    store,
)
from prunus.measuring.receipt import Receipt
from prunus.pruning import scopes
from prunus.pruning.masks import Masks
from prunus.registry import unknown_name

__all__ = ["RecipeChangedError", "RunLockedError", "SeedRun", "run"]

_log = logging.getLogger("prunus")


@dataclass(frozen=True)
class SeedRun:
    """The finished run of one seed."""

    seed: int
    folder: Path
    receipt: Receipt
    report: Path


def run(
    recipe: Recipe,
    out: Path,
    *,
    data_folder: Path | None = None,
    download: bool = True,
    accelerator: str = "auto",
    redo: bool = False,
    say: Callable[[str], None] = _log.info,
) -> list[SeedRun]:
    """Run a recipe, each seed in its own folder `out/seed-N`; stages whose results exist are skipped.

    Args:
        recipe: the recipe to run.
        out: the folder for the results.
        data_folder: a folder with the data; by default it is searched for, then downloaded.
        download: whether data may be downloaded.
        accelerator: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        redo: whether to overwrite a run of another recipe.
        say: called with a line of text when a stage begins or is skipped.

    Raises:
        RunLockedError: another process is using the folder.
        RecipeChangedError: the folder holds a run of another recipe or other data, and `redo` is not set.
        ValueError: the data is damaged or unavailable, the recipe does not fit it, or there is no such accelerator.
        MissingExtraError: a package that a stage needs is not installed.
    """
    require("constriction", "packing the result")  # checked before anything is trained
    device = _device(accelerator)
    shape = models.input_shape(recipe.model.name, **recipe.model.arguments)  # checked before anything is downloaded
    data = datasets.load(recipe.data.name, folder=data_folder, fallback=recipe.data.fallback, download=download)
    if data.input_shape != shape:
        raise ValueError(
            f"model {recipe.model.name!r} takes images of (channels, height, width) {shape}, but {data.name!r} has "
            f"{data.input_shape}; set model.arguments.in_channels and model.arguments.image_size"
        )
    finished = []
    for seed in recipe.seeds:
        folder = out / f"seed-{seed}"
        alone = recipe.model_copy(update={"seeds": (seed,)})
        with locked(folder):
            claim(folder, alone, redo=redo)
            road = Road(alone, seed, folder, data, device, redo, say)
            receipt = road.go()
            page = report.write_page(folder)
        finished.append(SeedRun(seed, folder, receipt, page))
    return finished


@dataclass(frozen=True)
class Road:
    """The stages of the run of one seed, in order."""

    recipe: Recipe
    seed: int
    folder: Path
    data: Dataset
    device: torch.device
    redo: bool
    say: Callable[[str], None]

    def go(self) -> Receipt:
        """Run every stage that has no result yet, and return the receipt."""
        recipe = self.recipe
        trained = self.made_from(recipe.model, recipe.train)
        dense = self.stage("dense", self.folder, trained, self.new_model(), lambda model: self._train(model))
        pruned, masks, finetuned = self.prune_and_finetune(dense, recipe.prune, self.folder, trained)
        made_from = self.finetuned_from(trained, recipe.prune)
        smaller = reducing.make(self, finetuned, made_from)
        program = reducing.compiled(self, smaller["packed"], made_from)
        others = controls.make(self, dense, finetuned, trained) if recipe.controls else {}
        rounded = quantized.make(self, smaller["shrunk"], made_from)
        ends = {"shrunk": smaller["shrunk"], **rounded, "packed": smaller["packed"]}
        models = {"dense": dense, "pruned": pruned, "finetuned": finetuned} | ends
        evidence = Evidence(models, masks, others, program)
        receipt = prove(recipe, self.seed, self.folder, self.data, evidence, self.say)
        for state in self.folder.rglob("*.state.safetensors"):  # only needed to continue a killed run
            state.unlink()
        return receipt

    def made_from(self, *parts: Section | str | None) -> str:
        """Return the fingerprint of a result: of seed, device, data, and settings or fingerprints it depends on."""
        data = [self.recipe.data.model_dump(mode="json"), self.data.checksum]
        settings = [part.model_dump(mode="json") if isinstance(part, Section) else part for part in parts]
        return fingerprint([self.seed, self.device.type, self.recipe.devices, data, settings])

    def finetuned_from(self, trained: str, section: PruneSection) -> str:
        """Return the fingerprint of the finetuned model of `prune_and_finetune`, from that of the dense model."""
        return self.made_from(self.made_from(trained, section), self.recipe.finetune)

    def prune_and_finetune(
        self, dense: nn.Module, section: PruneSection, folder: Path, trained: str, prefix: str = ""
    ) -> tuple[nn.Module, Masks, nn.Module]:
        """Run the stages from a dense model to a finetuned one; `prefix` begins the names of a control's files."""
        path = folder / f"{prefix}masks.safetensors"
        made_from = self.made_from(trained, section)
        pruned = self.stage(
            f"{prefix}pruned",
            folder,
            made_from,
            copy_model(dense),
            lambda model: self._prune(model, section, path, made_from),
            beside=[path],
        )
        masks = Masks.load(path).to(self.device)
        finetuned = self.stage(
            f"{prefix}finetuned",
            folder,
            self.finetuned_from(trained, section),
            copy_model(pruned),
            lambda model: self.fit(model, self.recipe.finetune, f"{prefix}finetune", folder, masks=masks).seconds,
        )
        return pruned, masks, finetuned

    def stage(
        self,
        name: str,
        folder: Path,
        made_from: str,
        model: nn.Module,
        make: Callable[[nn.Module], float],
        beside: Sequence[Path] = (),
    ) -> nn.Module:
        """Return a stage's model: read if a result with the same fingerprint exists, otherwise made and stored.

        Args:
            name: the name of the result's file.
            folder: the folder of that file.
            made_from: the fingerprint of everything it depends on.
            model: the model that the stage starts from; changed in place.
            make: does the stage's work on the model, and returns the seconds it took.
            beside: further files that `make` writes, with the same fingerprint.
        """
        path = folder / f"{name}.safetensors"
        if restore(path, model, made_from, beside):
            self.say(f"{name}: done before, read from {path}")
            return model
        self.check_takes_over(path, *(made_from_of(file) == made_from for file in (path, *beside) if file.is_file()))
        Seconds(self.folder)[name] = make(model)
        store(path, model, made_from)
        return model

    def check_takes_over(self, path: Path, *ours: bool) -> None:
        """Check that a stage's files are this run's, or that `redo` allows to overwrite them.

        Raises:
            RecipeChangedError: they are of other settings, and `redo` is not set.
        """
        if not self.redo and not all(ours):
            raise RecipeChangedError(
                f"{str(path)!r} was made from other data or settings, or on another kind of device, than this run's "
                f"(data: {self.data.source}; device: {self.device.type}); give another folder with --out, or --redo to "
                "make it again"
            )

    def new_model(self) -> nn.Module:
        """Create the recipe's model, initialised from the seed."""
        return self.seeded(self.recipe.model.arguments)

    def seeded(self, arguments: dict[str, Any]) -> nn.Module:
        """Create the recipe's model with other arguments, initialised from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return models.create(self.recipe.model.name, **arguments).to(self.device)

    def fit(
        self,
        model: nn.Module,
        section: TrainingSection,
        name: str,
        folder: Path,
        *,
        prune: PruneSection | None = None,
        masks: Masks | None = None,
    ) -> train.Fit:
        """Train a model in place for one phase; with `redo`, a state of other settings is deleted."""
        epochs = f"{section.epochs} epoch" + ("" if section.epochs == 1 else "s")
        self.say(f"{name}: {epochs}" + (", the zeros are kept" if masks else ""))
        phase = train.Phase(name, section, folder, self.seed, self.recipe.data.shift, self.recipe.devices, prune)
        fit = functools.partial(train.fit, model, self.data, phase, masks=masks, accelerator=self.device.type)
        try:
            return fit()
        except train.StateError:
            if not self.redo:
                raise
            phase.state_path.unlink(missing_ok=True)
            return fit()

    def _train(self, model: nn.Module) -> float:
        self.say(f"data: {self.data.name}, {self.data.source}")
        return self.fit(model, self.recipe.train, "train", self.folder).seconds

    def _prune(self, model: nn.Module, section: PruneSection, path: Path, made_from: str) -> float:
        name = path.name.removesuffix("masks.safetensors") + "prune"
        method = f"{section.criterion}, {section.pattern}, {section.scope}, {section.schedule}"
        what = "multiply-adds" if section.channels and section.channels.budget == "macs" else "weights"
        self.say(f"{name}: {100 * section.sparsity:.4g}% of the {what} go ({method})")
        if section.training is None:
            train.forget(path.parent, name)  # an earlier, gradual one
            began = time.monotonic()
            masks: Masks | None = self._prune_at_once(model, section)
            seconds = time.monotonic() - began
        else:
            fitted = self.fit(model, section.training, name, path.parent, prune=section)
            masks, seconds = fitted.masks, fitted.seconds
        assert masks is not None
        in_order = {parameter: masks[parameter] for parameter, _ in model.named_parameters() if parameter in masks}
        Masks(in_order).save(path, made_from)
        return seconds

    def _prune_at_once(self, model: nn.Module, section: PruneSection) -> Masks:
        criterion = train.criterion_of(section, self.seed)
        size, count = self.recipe.train.batch_size, section.calibration_batches
        needed = criterion.needs or scopes.resolve(section.scope).needs_curves
        batches = train.calibration_batches(self.data, size, count, self.device) if needed else None
        return pruning.prune(
            model,
            section.sparsity,
            criterion=criterion,
            pattern=section.pattern,
            scope=section.scope,
            include=section.include,
            exclude=section.exclude,
            data=batches,
            **train.channel_options(section, self.data, self.device),
        )


def _device(accelerator: str) -> torch.device:
    """Return the device of the models, after checking that there is such an accelerator."""
    if accelerator not in ("auto", "cpu", "cuda"):
        raise unknown_name("accelerator", accelerator, ("auto", "cpu", "cuda"))
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("accelerator 'cuda' was asked for, but PyTorch sees no GPU; use 'cpu', or see prunus doctor")
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
