"""The sections of the page; a section without its file says why it is left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor

from prunus.lab.report import (
    drawing,
    figures_accuracy,
    figures_cost,
    figures_time,
    figures_weights,
    images,
    receipt_tables,
    savings,
)
from prunus.lab.report.blocks import Code, PageSection, Pairs, Part, section
from prunus.lab.report.folder import LeftOut, Run
from prunus.measuring import overview, spell
from prunus.measuring.receipt import ModelFacts, Receipt
from prunus.pruning.masks import Masks

T = TypeVar("T")


def sections(run: Run) -> list[PageSection]:
    """Return the sections of a run's page, in reading order."""
    parts = [
        accuracy(run.receipt),
        training(run),
        size(run.receipt),
        weights(run),
        kernels(run),
        answers(run),
        sensitivity(run),
        speed(run.receipt),
        controls(run.receipt),
        layers(run.receipt),
        facts(run),
    ]
    return [part for part in parts if part is not None]


def accuracy(receipt: Receipt) -> PageSection:
    """The accuracy of the models, and paired tests."""
    lead = (
        "Each mark is the share of test images a model gets right. The bar around it is the 95% interval: with 95% "
        "confidence the accuracy on all such images lies on the bar. No choice in the run was made by the test images."
    )
    if not any(model.accuracy for model in overview.everything(receipt)):
        return section("accuracy", "Accuracy", lead, missing=["Accuracy was not measured."])
    drawn = figures_accuracy.accuracy(receipt), figures_accuracy.per_class(receipt)
    return section(
        "accuracy", "Accuracy", lead, [*drawn, receipt_tables.paired_tests(receipt), receipt_tables.changes(receipt)]
    )


def training(run: Run) -> PageSection:
    """Loss, accuracy and sparsity per epoch."""
    lead = (
        "Loss and accuracy while the network learned, was pruned and learned again. Validation images are never "
        "trained on, and are not the test images above."
    )
    return _drawn(
        "training", "Learning", lead, "The learning curves", run.log, lambda log: [figures_accuracy.training(log)]
    )


def size(receipt: Receipt) -> PageSection:
    """Parameters and bytes."""
    lead = (
        "A weight set to zero is still a number in the file. Shrinking takes out the channels that no longer matter; "
        "packing, or a compressor, writes the zeros that stay in few bits."
    )
    drawn = figures_cost.sizes(receipt)
    parts = [
        savings.road(receipt),
        figures_cost.parameters(receipt),
        figures_cost.widths(receipt),
        drawn,
        overview.sizes(receipt),
    ]
    return section("size", "Parameters and bytes", lead, parts, [] if drawn else ["Bytes were not measured."])


def weights(run: Run) -> PageSection:
    """The removed weights: histograms, and sparsity per layer."""
    lead = "What the masks took away: bars in grey are the dense network's weights that were removed."
    states = _states(run)
    missing = [
        _missing(f"The weights of {name}", state) for name, state in run.weights.items() if isinstance(state, LeftOut)
    ]
    parts: list[drawing.Figure] = []
    if isinstance(run.masks, LeftOut):
        missing.append(_missing("The weight histograms", run.masks))
    elif "dense" in states and run.masks:
        masks, mark = _of_weights(run.masks), drawing.marks(run.receipt).get("dense")
        colour = mark.colour if mark else drawing.COLOURS[0]
        parts = [
            figures_weights.spread(run.receipt, states, masks),
            figures_weights.by_layer(states["dense"], masks, colour),
        ]
    last = _last_whole(run.receipt)
    if last and last.layers:
        parts.append(figures_weights.layer_sparsity(run.receipt, last))
    return section("weights", "Which weights went", lead, parts, missing)


def kernels(run: Run) -> PageSection | None:
    """The first pruned layer's kernels before and after; None if it can't be drawn as images."""
    title = "The first pruned layer, before and after"
    lead = (
        "Each tile is one kernel: the pattern of light and dark that one unit of the layer looks for. "
        "Blue weights are positive, orange ones negative, white is near zero; dark crossed squares were removed."
    )
    states, dense = _states(run), run.weights["dense"]
    for content in (run.masks, dense):
        if isinstance(content, LeftOut):
            return section("kernels", title, lead, missing=[_missing("The kernels", content)])
    assert not isinstance(run.masks, LeftOut)
    drawn = images.kernels(states, _of_weights(run.masks))
    return section("kernels", title, lead, [drawn]) if drawn else None


def answers(run: Run) -> PageSection:
    """The test images on which pruning and finetuning changed the prediction."""
    title, predictions = "Answers that changed", run.predictions
    lead = "Accuracy counts only how many answers are right. These are test images that got another answer than before."
    if not isinstance(predictions, LeftOut):
        lead = images.changes_in_words(predictions)
    return _drawn("answers", title, lead, "The changed answers", predictions, lambda changed: [images.changes(changed)])


def sensitivity(run: Run) -> PageSection:
    """The sensitivity of the layers to further pruning."""
    curves, reached = run.sensitivity, None if isinstance(run.masks, LeftOut) else run.masks.sparsity
    lead = "How accuracy falls when each layer alone is pruned further and further."
    if not isinstance(curves, LeftOut):
        lead = (
            f"Each line prunes one layer of the dense network alone by {spell.plain(curves.criterion)}, unstructured, "
            "at once and without any training after it; the dashed line prunes all together. Measured on "
            f"{spell.plural(curves.total, f'{spell.plain(curves.split)} image')}, never on test images."
        )
    if reached is not None:
        lead += (
            " The dotted line marks only how sparse this run's result is: its method may be another, and it may have "
            "been trained since, so its accuracy can't be read off these lines."
        )
    title, what = "How much more could go", "The sensitivity curve"
    return _drawn(
        "sensitivity", title, lead, what, curves, lambda drawn: [figures_accuracy.sensitivity(drawn, reached)]
    )


def speed(receipt: Receipt) -> PageSection:
    """The time of a call."""
    lead = (
        "The time of one call, all models measured in turns on the same machine. The axis starts at "
        "zero, so that twice as long looks twice as long."
    )
    drawn = figures_time.latency(receipt)
    parts = [
        drawn,
        receipt_tables.speed(receipt),
        overview.latencies(receipt),
        figures_time.break_even(receipt),
        receipt_tables.break_even(receipt),
    ]
    return section("speed", "Speed", lead, parts, [] if drawn else ["Speed was not measured."])


def controls(receipt: Receipt) -> PageSection:
    """The controls, which the result has to beat."""
    lead = "A pruned network is worth something only if simpler ways to the same size do worse."
    missing = [] if receipt.controls else ["No control was run; controls=true in the recipe runs them."]
    return section("controls", "Controls", lead, [receipt_tables.controls(receipt)], missing)


def layers(receipt: Receipt) -> PageSection:
    """The figures of every layer."""
    lead = "Every weight with two or more dimensions; biases and norms are only in the totals."
    table = receipt_tables.layers(receipt)
    return section("layers", "Layer by layer", lead, [table], [] if table else ["No layer was measured."])


def facts(run: Run) -> PageSection:
    """The conditions of the measurement, so that it can be repeated."""
    receipt, missing = run.receipt, []
    recipe: Part | None = None
    if not isinstance(run.recipe, LeftOut):
        recipe = Code(run.recipe, "The recipe: prunus run recipe.yaml does it again")
    elif receipt.recipe:
        recipe = Code(json.dumps(receipt.recipe, indent=2, ensure_ascii=False), "The recipe, from the receipt")
    else:
        missing = [_missing("The recipe", run.recipe)]
    parts = [
        overview.contents(receipt),
        overview.work(receipt),
        receipt_tables.checks(receipt),
        Pairs(receipt_tables.facts(receipt)),
        recipe,
    ]
    lead = "Everything on this page is drawn from receipt.json and the files beside it."
    return section("facts", "How this was measured", lead, parts, missing)


def _drawn(
    id: str, title: str, lead: str, what: str, content: T | LeftOut, draw: Callable[[T], Sequence[Part | None]]
) -> PageSection:
    """Return a section drawn from a file's content, or the reason why it is left out."""
    if isinstance(content, LeftOut):
        return section(id, title, lead, missing=[_missing(what, content)])
    return section(id, title, lead, draw(content))


def _states(run: Run) -> dict[str, Mapping[str, Tensor]]:
    return {name: state for name, state in run.weights.items() if not isinstance(state, LeftOut)}


def _of_weights(masks: Masks) -> Masks:
    """Return the masks of weights, without those of biases and norms, which whole channels have too."""
    return Masks({name: mask for name, mask in masks.items() if mask.ndim > 1}) or masks


def _last_whole(receipt: Receipt) -> ModelFacts | None:
    """Return the last model whose layers are as large as the first's, so not a shrunk one, whose zeros are gone."""
    if not receipt.models:
        return None
    shapes = [{layer.name: layer.shape for layer in model.layers} for model in receipt.models]
    whole = [model for model, layers in zip(receipt.models, shapes, strict=True) if layers == shapes[0]]
    return whole[-1] if len(whole) > 1 else receipt.models[-1]


def _missing(what: str, left: LeftOut) -> str:
    return f"{what}: left out, because {left.reason}."
