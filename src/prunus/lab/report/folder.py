"""Read a run's folder; a missing or damaged file becomes the reason why its section is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from prunus import files
from prunus.files import strict_json
from prunus.measuring.receipt import Receipt
from prunus.pruning.masks import Masks

T = TypeVar("T")

# the models whose weights `prunus run` keeps, in the order of its stages
SAVED_MODELS = ("dense", "pruned", "finetuned")


@dataclass(frozen=True)
class LeftOut:
    """The reason why something is left out of the page."""

    reason: str


@dataclass(frozen=True)
class Epoch:
    """One line of log.jsonl."""

    phase: str
    epoch: int
    loss: float
    train_accuracy: float
    validation_accuracy: float
    sparsity: float


@dataclass(frozen=True)
class Sensitivity:
    """sensitivity.json: the accuracy on `total` images of `split`, per curve and sparsity.

    `criterion` is the criterion of pruning: magnitude if the file does not name it.
    """

    split: str
    total: int
    sparsities: tuple[float, ...]
    curves: Mapping[str, tuple[float, ...]]
    criterion: str


@dataclass(frozen=True)
class Predictions:
    """predictions.safetensors: the predicted classes of each model, and images on which two models differ."""

    labels: Tensor
    classes: Mapping[str, Tensor]
    changed_index: Tensor
    changed_images: Tensor


@dataclass(frozen=True)
class Run:
    """A run's folder: the receipt, and for each other file its content or the reason why it is left out."""

    receipt: Receipt
    recipe: str | LeftOut
    weights: Mapping[str, Mapping[str, Tensor] | LeftOut]
    masks: Masks | LeftOut
    log: tuple[Epoch, ...] | LeftOut
    sensitivity: Sensitivity | LeftOut
    predictions: Predictions | LeftOut


def read(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        FileNotFoundError: there is no receipt.json.
        ValueError: receipt.json is damaged or of another schema.
    """
    path = folder / "receipt.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no receipt.json in {str(folder)!r}; expected the folder of a finished run, such as prunus run writes: "
            "prunus run lenet"
        )
    receipt = Receipt.load(path)
    weights = {name: _content(folder / f"{name}.safetensors", files.load_tensors) for name in SAVED_MODELS}
    return Run(
        receipt=receipt,
        recipe=_content(folder / "recipe.yaml", lambda path: path.read_text(encoding="utf-8")),
        weights=weights,
        masks=_content(folder / "masks.safetensors", lambda path: _masks(path, weights)),
        log=_content(folder / "log.jsonl", _log),
        sensitivity=_content(folder / "sensitivity.json", _sensitivity),
        predictions=_content(folder / "predictions.safetensors", _predictions),
    )


def _content(path: Path, parse: Callable[[Path], T]) -> T | LeftOut:
    if not path.is_file():
        return LeftOut(f"there is no {path.name} in the run's folder")
    try:
        return parse(path)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RuntimeError,
    ):  # RuntimeError: also of deep nesting
        return LeftOut(f"{path.name} is damaged, or not of the form that prunus run writes")


def _masks(path: Path, weights: Mapping[str, Mapping[str, Tensor] | LeftOut]) -> Masks:
    masks = Masks.load(path)
    for state in weights.values():
        for name, mask in masks.items():
            if not isinstance(state, LeftOut) and state[name].shape != mask.shape:
                raise ValueError(f"the mask of {name!r} does not belong to these weights")
    return masks


def _log(path: Path) -> tuple[Epoch, ...]:
    """Read the log; of two lines for an epoch, which was interrupted and repeated, the later one counts."""
    lines = [strict_json.parse(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    epochs = {
        (str(line["phase"]), int(line["epoch"])): Epoch(
            phase=str(line["phase"]),
            epoch=int(line["epoch"]),
            **{name: float(line[name]) for name in ("loss", "train_accuracy", "validation_accuracy", "sparsity")},
        )
        for line in lines
    }
    if not epochs:
        raise ValueError("the log holds no line")
    return tuple(epochs.values())


def _sensitivity(path: Path) -> Sensitivity:
    tree: dict[str, Any] = strict_json.parse(path.read_text(encoding="utf-8"))
    sparsities = tuple(float(value) for value in tree["sparsities"])
    curves = {str(name): tuple(float(value) for value in curve) for name, curve in tree["curves"].items()}
    if not sparsities or not curves or any(len(curve) != len(sparsities) for curve in curves.values()):
        raise ValueError("a curve needs one value per sparsity")
    criterion = str(tree.get("criterion", "magnitude"))
    return Sensitivity(str(tree["split"]), int(tree["total"]), sparsities, curves, criterion)


def _predictions(path: Path) -> Predictions:
    tensors = files.load_tensors(path)
    labels, index, images = (tensors.pop(name) for name in ("labels", "changed_index", "changed_images"))
    fits = all(classes.shape == labels.shape for classes in tensors.values())
    if labels.dim() != 1 or images.dim() != 4 or len(index) != len(images) or not fits:
        raise ValueError("the shapes do not belong together")
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(labels):
        raise ValueError("an index lies outside the test set")
    return Predictions(labels, tensors, index, images)
