"""Sentences on accuracy, and on what a difference between two models is worth."""

from __future__ import annotations

from prunus.lab.report import claims, spell
from prunus.lab.report.claims import AccuracyChange
from prunus.measuring.receipt import Accuracy, ModelFacts, Receipt

# with fewer test images it is worth saying what a single one weighs
FEW_IMAGES = 2000


def accuracy(receipt: Receipt, first: ModelFacts, last: ModelFacts) -> str:
    """Say how accuracy went from the first model to the last, and whether chance explains it."""
    change = claims.accuracy_change(receipt, first, last)
    if change is None:
        return "Accuracy was not measured in both models."
    road = f"{with_interval(change.before)} → {with_interval(change.after)}"
    images = spell.plural(change.after.total, "test image")
    said = f"{road} on {images} (in brackets: 95% intervals). The difference is {difference(change)}."
    return said + _doubt(receipt, first, last, change)


def accuracy_in_short(receipt: Receipt, first: ModelFacts, last: ModelFacts) -> str:
    """Say the same in a few words, without a full stop."""
    change = claims.accuracy_change(receipt, first, last)
    if change is None:
        return "accuracy was not measured"
    if change.verdict == "same":
        return "accuracy did not measurably change"
    return f"accuracy is {change.verdict} by {_unsigned(change.difference)} points"


def on_the_way(receipt: Receipt, first: ModelFacts, model: ModelFacts) -> str:
    """Say where a model between the first and the last stood; empty where its accuracy was not measured."""
    if model.accuracy is None:
        return ""
    alike = _alike(receipt, model)
    if alike is not None:
        return f"{spell.plain(model.name)} gets the same test images right as {spell.plain(alike.name)}."
    change = claims.accuracy_change(receipt, first, model)
    against = f" Its difference to {spell.plain(first.name)} is {difference(change)}." if change else ""
    return f"{spell.plain(model.name)} reaches {with_interval(model.accuracy)}.{against}"


def _alike(receipt: Receipt, model: ModelFacts) -> ModelFacts | None:
    """Return the model before this one if a paired test found not one image that tells the two apart."""
    names = [each.name for each in receipt.models]
    before = receipt.models[names.index(model.name) - 1]
    test = claims.paired_test(receipt, before.name, model.name)
    return before if test is not None and test.only_first == test.only_second == 0 else None


def control(receipt: Receipt, model: ModelFacts, last: ModelFacts) -> str:
    """Say how a control did beside the last model."""
    name = spell.plain(last.name)
    size = f"{spell.count(model.nonzero)} of {spell.plural(model.parameters, 'parameter')} nonzero"
    change = claims.accuracy_change(receipt, model, last)
    if change is None:
        return f"{spell.plain(model.name)} ({size}) was not tested beside {name}."
    meaning = {
        "same": "these images can't tell the two apart",
        "better": f"{name} does better than this control",
        "worse": f"the control does better than {name}",
    }[change.verdict]
    reached = f"{spell.plain(model.name)} ({size}) reaches {with_interval(change.before)}"
    return f"{reached}. {name} differs from it by {difference(change)}: {meaning}."


def difference(change: AccuracyChange) -> str:
    """Spell a difference with what it rests on, and whether it is more than chance."""
    gap = f"{spell.points(change.difference)} points"
    if change.test is None:
        how = "overlap" if change.verdict == "same" else "lie apart"
        return f"{gap} (no paired test was made; the 95% intervals {how})"
    if change.test.only_first == change.test.only_second == 0:
        return f"{gap}, since both get the same images right"
    bounds, tested = spell.points_interval(change.test.ci95), spell.p_value(change.test.p_value)
    told = "can't be told from chance" if change.verdict == "same" else "is more than chance"
    return f"{gap} {bounds}, which {told} (paired test, {tested})"


def with_interval(measured: Accuracy) -> str:
    """Spell an accuracy and its 95% interval.

    >>> with_interval(Accuracy(0.9921, 9921, 10000, (0.99018, 0.99366), (), 0.02, 0.01))
    '99.21% [99.02, 99.37]'
    """
    return f"{spell.percent(measured.top1, 2)} {spell.interval(measured.ci95)}"


def _doubt(receipt: Receipt, first: ModelFacts, last: ModelFacts, change: AccuracyChange) -> str:
    """Say how large a loss the figures leave open, and what else could explain a gain."""
    said = ""
    if change.verdict == "same" and change.test and change.test.ci95[0] < 0:
        said += f" A loss of up to {_unsigned(change.test.ci95[0])} points would fit these figures too."
    if 0 < change.after.total < FEW_IMAGES:
        said += f" One test image weighs {_unsigned(1 / change.after.total)} points here."
    epochs = _extra_epochs(receipt)
    if change.verdict == "better" and epochs:
        trained = f"trained for {spell.plural(epochs, 'epoch')} more than {spell.plain(first.name)}"
        said += f" {spell.plain(last.name)} was also {trained}, which can be the reason."
    return said


def _extra_epochs(receipt: Receipt) -> int:
    """Return for how many epochs the run trained after the first model: while pruning, and to finetune."""
    prune = receipt.recipe.get("prune")
    sections = (prune.get("training") if isinstance(prune, dict) else None, receipt.recipe.get("finetune"))
    epochs = [section.get("epochs") for section in sections if isinstance(section, dict)]
    return sum(number for number in epochs if isinstance(number, int))


def _unsigned(difference: float) -> str:
    return spell.points(abs(difference)).lstrip("+")
