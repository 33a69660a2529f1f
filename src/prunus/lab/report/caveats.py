"""Caveats: what a reader must know before relying on a receipt's figures, and no table shows."""

from __future__ import annotations

from collections.abc import Iterator

from prunus.lab.report import claims
from prunus.measuring import spell
from prunus.measuring.overview import everything
from prunus.measuring.receipt import ModelFacts, Receipt

# with fewer test images, a caveat says what a single one weighs
FEW_IMAGES = 2000


def caveats(receipt: Receipt) -> list[tuple[str, str]]:
    """Return the caveats as (topic, sentence) pairs; a receipt of plain figures has none."""
    sentences: list[tuple[str, str]] = []
    if len(receipt.models) > 1:
        first, last = receipt.models[0], receipt.models[-1]
        sentences += [("Zeros", sentence) for sentence in _zeros(receipt, first, last)]
        sentences += [("Speed", sentence) for sentence in _speed(receipt, first, last)]
        sentences += [("Accuracy", sentence) for sentence in _accuracy(receipt, first, last)]
        sentences += [("Control", sentence) for sentence in _controls(receipt, last)]
    sentences += [("Note", note) for note in _notes(receipt)]
    failed = [check for check in receipt.checks if not check.passed]
    return sentences + [
        ("Check failed", f"{check.name}: {check.what}: {check.value:g}, limit {check.limit:g}.") for check in failed
    ]


def _zeros(receipt: Receipt, first: ModelFacts, last: ModelFacts) -> Iterator[str]:
    if claims.only_zeroed(first, last):
        yield "A zero is stored and multiplied like any other number, but for packed files and programs of prunus."
    by_name = {model.name: model for model in receipt.models}
    before, after = by_name.get("finetuned"), by_name.get("shrunk")
    if before and after and before.parameters == after.parameters:
        yield (
            f"Shrinking found nothing to remove: the {spell.plural(claims.zeros(after), 'zero')} lie scattered in "
            "channels that other weights keep alive."
        )
    section = receipt.recipe.get("pack")
    bits = section.get("codebook_bits") if isinstance(section, dict) else None
    if isinstance(bits, int) and "packed" in by_name:
        yield f"Packing let the weights of each layer share at most {2**bits} values, so the model computes others."


def _speed(receipt: Receipt, first: ModelFacts, last: ModelFacts) -> Iterator[str]:
    dense, programs = claims.dense_changes(first, last), claims.program_changes(receipt)
    changes = [*dense, *programs]
    missing = claims.unmeasured(receipt)
    if programs and missing:
        names = spell.listing([spell.runtime(name) for name in missing])
        yield f"{first.name} was not timed in {names}, so nothing is said about being faster than there."
    if claims.unsteady(changes):
        widest = spell.ratio(max(change.variation for change in changes))
        yield (
            f"Single calls varied up to {widest}-fold (10th to 90th percentile), which can hide a difference or make "
            "one up: measure again on a quiet machine before relying on this."
        )
    if any(change.verdict != "same" for change in dense) and claims.without_reason(first, last, dense):
        yield "Both models do the same multiply-adds, so pruning is no reason for a difference in time between them."


def _accuracy(receipt: Receipt, first: ModelFacts, last: ModelFacts) -> Iterator[str]:
    change = claims.accuracy_change(receipt, first, last)
    if change is None:
        return
    if change.test is None:
        yield "No paired test was made: a difference counts where the 95% intervals lie apart."
    elif change.verdict == "same" and change.test.ci95[0] < 0:
        yield f"A loss of up to {_unsigned(change.test.ci95[0])} points would fit these figures too."
    if change.after.total < FEW_IMAGES:
        yield f"One test image weighs {_unsigned(1 / change.after.total)} points here."
    epochs = _extra_epochs(receipt)
    if change.verdict == "better" and epochs:
        extra = f"{spell.plural(epochs, 'epoch')} more than {first.name}"
        yield f"{last.name} was also trained for {extra}, which can be the reason for the gain."


def _controls(receipt: Receipt, last: ModelFacts) -> Iterator[str]:
    for control in receipt.controls:
        change = claims.accuracy_change(receipt, control, last)
        if change is None:
            yield f"{control.name} was not tested beside {last.name}."
        elif change.verdict == "worse":
            yield f"The control {control.name} does better than {last.name}."
        elif change.verdict == "same":
            yield f"The test images can't tell {last.name} from the control {control.name}."


def _notes(receipt: Receipt) -> list[str]:
    """Return each note once, with the models that have it."""
    names_of: dict[str, list[str]] = {}
    for model in everything(receipt):
        uncounted = (
            [f"not counted among the multiply-adds: {spell.listing(model.uncounted)}"] if model.uncounted else []
        )
        for note in (*model.notes, *uncounted):
            names_of.setdefault(note, []).append(model.name)
    for note in receipt.break_even.notes if receipt.break_even else ():
        names_of.setdefault(note, []).append("the break-even curve")
    return [f"{spell.listing(names)}: {note.rstrip('.')}." for note, names in names_of.items()]


def _extra_epochs(receipt: Receipt) -> int:
    """Return the number of epochs after the first model: while pruning, and for finetuning."""
    prune = receipt.recipe.get("prune")
    sections = (prune.get("training") if isinstance(prune, dict) else None, receipt.recipe.get("finetune"))
    epochs = [section.get("epochs") for section in sections if isinstance(section, dict)]
    return sum(number for number in epochs if isinstance(number, int))


def _unsigned(difference: float) -> str:
    return spell.points(abs(difference)).lstrip("+")
