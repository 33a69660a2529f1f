"""The page's sections, each from what the run's folder holds; what it lacks is said in its place."""

from __future__ import annotations

import json
from collections.abc import Mapping

from torch import Tensor

from prunus.lab.report import (
    drawing,
    figures_accuracy,
    figures_cost,
    figures_time,
    figures_weights,
    images,
    page_tables,
    spell,
)
from prunus.lab.report.blocks import Code, Part, Section, section
from prunus.lab.report.folder import Left, Run
from prunus.measuring.receipt import ModelFacts, Receipt
from prunus.pruning.masks import Masks


def sections(run: Run) -> list[Section]:
    """Return the sections of a run's page, in reading order."""
    made = [
        accuracy(run),
        training(run),
        size(run),
        weights(run),
        kernels(run),
        answers(run),
        sensitivity(run),
        speed(run),
        controls(run.receipt),
        layers(run.receipt),
        facts(run),
    ]
    return [part for part in made if part is not None]


def accuracy(run: Run) -> Section:
    """How often the models are right, and what a difference is worth."""
    receipt = run.receipt
    tested = [model for model in (*receipt.models, *receipt.controls) if model.accuracy]
    lead = (
        "Each mark is the share of test images a model gets right. The bar around it is the 95% interval: with 95% "
        "confidence the accuracy on all such images lies on the bar. No choice in the run was made by the test images."
    )
    if not tested:
        return section("accuracy", "Accuracy", lead, missing=["Accuracy was not measured."])
    parts = [figures_accuracy.accuracy(receipt), figures_accuracy.per_class(receipt), page_tables.paired_tests(receipt)]
    return section("accuracy", "Accuracy", lead, parts)


def training(run: Run) -> Section:
    """What happened epoch by epoch."""
    lead = (
        "Loss and accuracy while the network learned, was pruned and learned again. Validation images are never "
        "trained on, and are not the test images above."
    )
    if isinstance(run.log, Left):
        return section("training", "Learning", lead, missing=[_missing("The learning curves", run.log)])
    return section("training", "Learning", lead, [figures_accuracy.training(run.log)])


def size(run: Run) -> Section:
    """Parameters and bytes."""
    lead = (
        "A weight set to zero is still a number in the file. Shrinking takes out the channels that no longer matter; "
        "packing, or a compressor, writes the zeros that stay in few bits."
    )
    drawn = figures_cost.sizes(run.receipt)
    road = [page_tables.road(run.receipt), figures_cost.road(run.receipt)]
    parts = [*road, figures_cost.parameters(run.receipt), figures_cost.widths(run.receipt), drawn]
    missing = [] if drawn else ["Bytes were not measured."]
    return section("size", "Parameters and bytes", lead, parts, missing)


def weights(run: Run) -> Section:
    """Which weights went, and from which layers."""
    lead = "What the masks took away: bars in grey are the dense network's weights that were removed."
    states = {name: state for name, state in run.weights.items() if not isinstance(state, Left)}
    missing = [
        _missing(f"The weights of {name}", state) for name, state in run.weights.items() if isinstance(state, Left)
    ]
    parts: list[drawing.Figure] = []
    if isinstance(run.masks, Left):
        missing.append(_missing("The weight histograms", run.masks))
    elif "dense" in states and run.masks:
        parts = _weight_figures(run.receipt, states, _of_weights(run.masks))
    last = _last_whole(run.receipt)
    if last and last.layers:
        parts.append(figures_weights.layer_sparsity(run.receipt, last))
    return section("weights", "Which weights went", lead, parts, missing)


def kernels(run: Run) -> Section | None:
    """The first pruned layer's kernels before and after; None where the model has no layer that can be looked at."""
    title = "The first pruned layer, before and after"
    lead = (
        "Each tile is one kernel: the pattern of light and dark that one unit of the layer looks for. "
        "Blue weights are positive, orange ones negative, white is near zero; dark crossed squares were removed."
    )
    states = {name: state for name, state in run.weights.items() if not isinstance(state, Left)}
    if isinstance(run.masks, Left):
        return section("kernels", title, lead, missing=[_missing("The kernels", run.masks)])
    if "dense" not in states:
        return section(
            "kernels", title, lead, missing=["The kernels: left out, because there are no dense weights to draw."]
        )
    drawn = images.kernels(states, _of_weights(run.masks))
    return section("kernels", title, lead, [drawn]) if drawn else None


def answers(run: Run) -> Section:
    """The test images on which pruning and finetuning changed the prediction."""
    title = "Answers that changed"
    lead = "Accuracy counts only how many answers are right. These are test images that got another answer than before."
    if isinstance(run.predictions, Left):
        return section("answers", title, lead, missing=[_missing("The changed answers", run.predictions)])
    return section("answers", title, images.changes_in_words(run.predictions), [images.changes(run.predictions)])


def sensitivity(run: Run) -> Section:
    """How much more could go."""
    title, found = "How much more could go", run.sensitivity
    if isinstance(found, Left):
        lead = "How accuracy falls when each layer alone is pruned further and further."
        return section("sensitivity", title, lead, missing=[_missing("The sensitivity curve", found)])
    lead = (
        f"Each line prunes one layer of the dense network alone by {spell.plain(found.criterion)}, unstructured, at "
        "once and without any training after it; the dashed line prunes all together. Where a line falls, that layer "
        f"was needed. Measured on {spell.plural(found.total, f'{spell.plain(found.split)} image')}, never on test "
        "images."
    )
    reached = None if isinstance(run.masks, Left) else run.masks.sparsity
    if reached is not None:
        lead += (
            " The dotted line marks only how sparse this run's result is: its method may be another, and it may have "
            "been trained since, so its accuracy can't be read off these lines."
        )
    return section("sensitivity", title, lead, [figures_accuracy.sensitivity(found, reached)])


def speed(run: Run) -> Section:
    """Time of a call."""
    lead = (
        "The time of one call, all models measured in turns on the same machine. The axis starts at "
        "zero, so that twice as long looks twice as long."
    )
    drawn = figures_time.latency(run.receipt)
    parts = [drawn, page_tables.latencies(run.receipt), figures_time.break_even(run.receipt)]
    return section("speed", "Speed", lead, parts, [] if drawn else ["Speed was not measured."])


def controls(receipt: Receipt) -> Section:
    """What the result has to beat."""
    lead = "A pruned network is worth something only if simpler ways to the same size do worse."
    missing = [] if receipt.controls else ["No control was run; controls=true in the recipe runs them."]
    parts = [page_tables.controls(receipt)] if receipt.controls else []
    return section("controls", "Controls", lead, parts, missing)


def layers(receipt: Receipt) -> Section:
    """Every layer in figures."""
    lead = "Every weight with two or more dimensions; biases and norms are only in the totals."
    table = page_tables.layers(receipt)
    return section("layers", "Layer by layer", lead, [table], [] if table else ["No layer was measured."])


def facts(run: Run) -> Section:
    """How all of this was measured, so that it can be measured again."""
    receipt = run.receipt
    tables = [page_tables.quality(receipt), page_tables.costs(receipt), page_tables.checks(receipt)]
    parts: list[Part | None] = [*tables, page_tables.facts(receipt)]
    missing = []
    if not isinstance(run.recipe, Left):
        parts.append(Code(run.recipe, "The recipe: prunus run recipe.yaml does it again"))
    elif receipt.recipe:
        parts.append(Code(json.dumps(receipt.recipe, indent=2, ensure_ascii=False), "The recipe, from the receipt"))
    else:
        missing.append(_missing("The recipe", run.recipe))
    lead = "Everything on this page is drawn from receipt.json and the files beside it."
    return section("facts", "How this was measured", lead, parts, missing)


def _weight_figures(receipt: Receipt, states: Mapping[str, Mapping[str, Tensor]], masks: Masks) -> list[drawing.Figure]:
    look = drawing.marks(receipt)
    colour = look["dense"].colour if "dense" in look else drawing.COLOURS[0]
    return [figures_weights.spread(receipt, states, masks), figures_weights.by_layer(states["dense"], masks, colour)]


def _of_weights(masks: Masks) -> Masks:
    """Return the masks of weights; whole channels also have masks of biases and norms, which no histogram is of."""
    return Masks({name: mask for name, mask in masks.items() if mask.ndim > 1}) or masks


def _last_whole(receipt: Receipt) -> ModelFacts | None:
    """Return the last model whose layers are as large as the first's: in a shrunk one, what went is no zero."""
    if not receipt.models:
        return None
    shapes = [{layer.name: layer.shape for layer in model.layers} for model in receipt.models]
    whole = [model for model, found in zip(receipt.models, shapes, strict=True) if found == shapes[0]]
    return whole[-1] if len(whole) > 1 else receipt.models[-1]


def _missing(what: str, left: Left) -> str:
    return f"{what}: left out, because {left.reason}."
