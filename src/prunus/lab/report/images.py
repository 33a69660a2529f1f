"""The page's images: kernels of the first layer, and test images whose prediction changed."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from prunus.lab.report import pixels
from prunus.lab.report.blocks import Gallery, Picture, Pictures
from prunus.lab.report.folder import Predictions
from prunus.measuring import spell
from prunus.pruning.masks import Masks

DRAWN_KERNELS = 40
# the largest width of a row of kernels in pixels
ROW_WIDTH = 960
SMALLEST_CELL, LARGEST_CELL = 2, 14


def kernels(weights: Mapping[str, Mapping[str, Tensor]], masks: Masks) -> Pictures | None:
    """Draw the first masked layer's kernels in each model; None if its weights can't be drawn as images.

    Args:
        weights: the state dict of each model, the dense one first.
        masks: in the order of the model's layers.
    """
    name = next(iter(masks), None)
    if name is None or (planes := as_planes(masks[name])) is None:
        return None
    side = planes.shape[2]
    cell = max(SMALLEST_CELL, min(LARGEST_CELL, ROW_WIDTH // (10 * side) - 1))
    columns = max(1, ROW_WIDTH // (side * cell + 2 + max(2, cell // 2)))
    lives = planes[: min(DRAWN_KERNELS, 2 * columns)]
    drawn = {model: _planes_of(state[name])[: len(lives)] for model, state in weights.items()}
    scale = max(_full_colour(values) for values in drawn.values()) or 1.0
    size = spell.shape(lives.shape[1:])
    removed = int((~lives).sum())
    gone = f"; {spell.count(removed)} of {spell.plural(lives.numel(), 'weight')} removed"
    what = f"{spell.plural(len(lives), 'kernel')} of {size} weights of {spell.plain(name)}"
    pictures = []
    for model, values in drawn.items():
        mask = None if model == "dense" else lives
        caption = spell.plain(model) + (gone if mask is not None else "")
        image = pixels.kernels(values.float(), mask, scale, _columns(len(lives), columns), cell)
        pictures.append(Picture(pixels.data_uri(image), f"{what} in {caption}", caption))
    part = f" The first {len(lives)} of {spell.count(len(planes))} are drawn." if len(planes) > len(lives) else ""
    return Pictures(tuple(pictures), f"{spell.plain(name)}, kernels of {size}.{part}")


def as_planes(weight: Tensor) -> Tensor | None:
    """Return a layer's weights as (kernels, height, width); None if they can't be drawn as images.

    A convolution has a kernel per pair of output and input channel; the rows of a linear layer are images if the number
    of its inputs is a square.
    """
    if weight.dim() == 4 and weight.shape[2] * weight.shape[3] > 1:
        return weight.flatten(0, 1)
    side = math.isqrt(weight.shape[1]) if weight.dim() == 2 else 0
    if side > 1 and side * side == weight.shape[1]:
        return weight.reshape(len(weight), side, side)
    return None


def changes(predictions: Predictions) -> Gallery | None:
    """Show the test images whose prediction differs between the dense and the finetuned model, broken ones first."""
    before, after = predictions.classes.get("dense"), predictions.classes.get("finetuned")
    if before is None or after is None or not len(predictions.changed_index):
        return None
    pictures = []
    for index, image in zip(predictions.changed_index.tolist(), predictions.changed_images, strict=True):
        label, was, now = int(predictions.labels[index]), int(before[index]), int(after[index])
        verdict = "fixed" if now == label else "broken" if was == label else "still wrong"
        words = f"label {label}: {was} → {now}"
        alt = f"Test image {index} of class {label}: dense said {was}, finetuned says {now}, {verdict}"
        pictures.append(Picture(pixels.data_uri(pixels.photo(image)), alt, words, verdict))
    pictures.sort(key=lambda picture: ("broken", "fixed", "still wrong").index(picture.verdict))
    number = int((before != after).sum())
    return Gallery(tuple(pictures), f"Label, and prediction dense → finetuned; {len(pictures)} of {number} are shown.")


def changes_in_words(predictions: Predictions) -> str:
    """Say for how many test images the prediction changed, and whether it became right or wrong."""
    before, after = predictions.classes.get("dense"), predictions.classes.get("finetuned")
    if before is None or after is None:
        return "The predictions do not hold both a dense and a finetuned model, so nothing can be compared."
    differ, total = before != after, spell.plural(len(predictions.labels), "test image")
    broken = int((differ & (before == predictions.labels)).sum())
    fixed = int((differ & (after == predictions.labels)).sum())
    number = int(differ.sum())
    if not number:
        return f"None of {total} got another answer from finetuned than from dense."
    return (
        f"Accuracy counts only how many answers are right. {spell.count(number)} of {total} got another answer from "
        f"finetuned than from dense: {spell.count(broken)} right before and wrong now, {spell.count(fixed)} the other "
        f"way round, {spell.count(number - broken - fixed)} wrong both times."
    )


def _full_colour(values: Tensor) -> float:
    """Return the 98th percentile of |w|, so that a single large weight does not make all others pale."""
    sizes = values.float().abs().flatten()
    return float(sizes.kthvalue(max(1, round(0.98 * len(sizes)))).values)


def _columns(number: int, limit: int) -> int:
    """Return the number of tiles per row, at most `limit`, with rows as equal as possible."""
    rows = -(-number // limit)
    return -(-number // rows)


def _planes_of(weight: Tensor) -> Tensor:
    planes = as_planes(weight)
    assert planes is not None
    return planes
