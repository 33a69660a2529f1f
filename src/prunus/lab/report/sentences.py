"""A receipt in plain words: what was saved, what was not, and why. Every sentence follows from its figures."""

from __future__ import annotations

from prunus.lab.report import accuracy_sentences, claims, cost_sentences, program_sentences, spell, step_sentences
from prunus.measuring.receipt import ModelFacts, Receipt


def words(receipt: Receipt) -> list[str]:
    """Return what was saved and what was not, and why, in plain sentences.

    The first model of the receipt is compared with the last one; what lies between them and the controls follow.
    """
    return [sentence for _, sentence in paragraphs(receipt)]


def headline(receipt: Receipt) -> str:
    """Return the outcome in two sentences."""
    if not receipt.models:
        return "This receipt holds no model."
    first, last = receipt.models[0], receipt.models[-1]
    if len(receipt.models) == 1:
        return cost_sentences.contents(last)
    gone = cost_sentences.removed_in_short(first, last)
    accuracy = accuracy_sentences.accuracy_in_short(receipt, first, last)
    size = cost_sentences.file_in_short(first, last)
    speed = program_sentences.in_short(first, last) or cost_sentences.speed_in_short(first, last)
    return f"{gone}; {accuracy}. {size}, and {speed}."


def paragraphs(receipt: Receipt) -> list[tuple[str, str]]:
    """Return the words as (topic, sentence) pairs."""
    if not receipt.models:
        return [("Models", "This receipt holds no model.")]
    last = receipt.models[-1]
    found = _compared(receipt) if len(receipt.models) > 1 else _alone(last)
    found += [("Control", accuracy_sentences.control(receipt, model, last)) for model in receipt.controls]
    found += [("Note", note) for note in _notes(receipt)]
    return found + ([("Checks", _checks(receipt))] if receipt.checks else [])


def _compared(receipt: Receipt) -> list[tuple[str, str]]:
    first, last = receipt.models[0], receipt.models[-1]
    found = [
        ("Parameters", cost_sentences.removed(first, last)),
        ("Shrunk", step_sentences.shrinking(receipt)),
        ("Packed", step_sentences.packed(receipt)),
        ("Packing", step_sentences.packing(receipt)),
        ("Plain file" if step_sentences.packed(receipt) else "File", cost_sentences.file(first, last)),
        ("Compressed", cost_sentences.compressed(first, last)),
        ("Speed", cost_sentences.speed(first, last)),
        ("Program", program_sentences.program(first, last)),
        ("Break-even", program_sentences.break_even(receipt)),
        ("Microcontroller", program_sentences.embedded(last)),
        ("Arithmetic", cost_sentences.arithmetic(first, last)),
        ("Accuracy", accuracy_sentences.accuracy(receipt, first, last)),
    ]
    found += [("On the way", accuracy_sentences.on_the_way(receipt, first, m)) for m in receipt.models[1:-1]]
    return [(topic, sentence) for topic, sentence in found if sentence]


def _alone(model: ModelFacts) -> list[tuple[str, str]]:
    found = [("Parameters", cost_sentences.contents(model))]
    if model.bytes:
        sizes = [f"{spell.count(size)} bytes as {spell.plain(form)}" for form, size in model.bytes.items()]
        found.append(("File", f"It takes {spell.listing(sizes)}."))
    several = len(model.latency_us) > 1
    times = [
        f"{spell.microseconds(time.median)} {f'in {spell.runtime(runtime)} ' if several else ''}with "
        f"{cost_sentences.setting(threads, batch)}"
        for runtime, threads, batch, time in claims.settings(model)
    ]
    if times:
        found.append(("Speed", f"One call takes {spell.listing(times)} (medians)."))
    if model.accuracy:
        images = spell.plural(model.accuracy.total, "test image")
        reached = accuracy_sentences.with_interval(model.accuracy)
        found.append(("Accuracy", f"Its accuracy is {reached} on {images}."))
    found.append(("Compared", "Only one model was measured, so this says nothing about what pruning saves."))
    return found


def _notes(receipt: Receipt) -> list[str]:
    notes: dict[str, list[str]] = {}
    for model in (*receipt.models, *receipt.controls):
        for note in (*model.notes, *_uncounted(model)):
            notes.setdefault(spell.plain(note), []).append(spell.plain(model.name))
    for note in receipt.break_even.notes if receipt.break_even else ():
        notes.setdefault(spell.plain(note), []).append("the break-even curve")
    return [f"{spell.listing(names)}: {note.rstrip('.')}." for note, names in notes.items()]


def _uncounted(model: ModelFacts) -> list[str]:
    if not model.uncounted:
        return []
    return [f"not counted among the multiply-adds: {spell.listing(list(model.uncounted))}"]


def _checks(receipt: Receipt) -> str:
    failed = [check for check in receipt.checks if not check.passed]
    if not failed:
        passed = spell.listing([spell.plain(check.name) for check in receipt.checks])
        return f"Every check passed: {passed}."
    found = [f"{spell.plain(c.name)} ({spell.plain(c.what)}: {c.value:g}, limit {c.limit:g})" for c in failed]
    return f"{len(failed)} of {spell.plural(len(receipt.checks), 'check')} failed: {spell.listing(found)}."
