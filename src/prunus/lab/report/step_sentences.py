"""Sentences on what shrinking and packing saved, each by itself, and on what they did not."""

from __future__ import annotations

from prunus.lab.report import cost_sentences, spell, steps
from prunus.lab.report.claims import SpeedChange
from prunus.lab.report.steps import PACKED, Step
from prunus.measuring.receipt import Receipt


def packed(receipt: Receipt) -> str:
    """Say how large the file is that a run is for, beside the files it could have been; empty where there is none."""
    whole = steps.step(receipt, "together")
    size = steps.stored(whole.after) if whole else None
    if whole is None or size is None:
        return ""
    first, dense = spell.plain(whole.before.name), whole.before.bytes
    beside = [
        f"{spell.smaller(dense[form], size)} than {first} {how} ({spell.count(dense[form])})"
        for form, how in (("safetensors", "as a plain file"), (PACKED, "packed alike"))
        if dense.get(form)
    ]
    than = f": {' and '.join(beside)}" if beside else ""
    return f"The result is one file of {spell.count(size)} bytes{than}."


def shrinking(receipt: Receipt) -> str:
    """Say what shrinking took out; empty where the run has no such step."""
    step = steps.step(receipt, "shrink")
    if step is None or step.after.parameters > step.before.parameters:
        return ""
    before, after = step.before, step.after
    if after.parameters == before.parameters:
        zeros = after.parameters - after.nonzero
        lie = (
            f"the {spell.plural(zeros, 'zero')} lie scattered in channels that other weights keep alive"
            if zeros
            else "no weight is zero"
        )
        return f"Shrinking found nothing to remove: {lie}. It saved no parameter, no multiply-add and no time."
    gone = before.parameters - after.parameters
    said = [
        f"Shrinking took out {spell.count(gone)} of {spell.plural(before.parameters, 'parameter')} "
        f"({spell.percent(gone / before.parameters)}), in whole channels{_layers(step)}."
    ]
    saved = [_saved("multiply-adds of one input", before.macs, after.macs)]
    saved.append(_saved("bytes of the plain file", before.bytes.get("safetensors"), after.bytes.get("safetensors")))
    said += [f"That leaves {spell.listing(found)}."] if (found := [each for each in saved if each]) else []
    said += [_timed(step)] if step.times else []
    return " ".join(said)


def packing(receipt: Receipt) -> str:
    """Say what packing did to the file; empty where the run has no such step."""
    step = steps.step(receipt, "pack")
    size = steps.stored(step.after) if step else None
    if step is None or size is None:
        return ""
    plain = step.before.bytes.get("safetensors")
    said = ["Packing changes the file only: what is computed, and how fast, stays as it was."]
    bits = _bits(receipt)
    if bits is not None:
        said = [f"Packing let the weights of each layer share at most {2**bits} values, so the model computes others."]
    if plain:
        zstd = step.before.bytes.get("zstd")
        other = f"; zstd -19 makes {spell.count(zstd)} of it" if zstd else ""
        said.append(f"It made {spell.count(size)} bytes of {spell.count(plain)}, {spell.change(plain, size)}{other}.")
    alone = [
        f"{spell.count(model.bytes[PACKED])} of {name} ({what})"
        for name, what in (("dense", "nothing pruned"), ("finetuned", "nothing shrunk"))
        for model in receipt.models
        if model.name == name and PACKED in model.bytes
    ]
    said += [f"By itself, packing makes {spell.listing(alone)}."] if alone else []
    return " ".join(said)


def _layers(step: Step) -> str:
    """List the widths that changed: ``": conv1 20 → 8 and conv2 50 → 3"``."""
    before = {layer.name: layer.shape[0] for layer in step.before.layers}
    changed = [
        f"{spell.plain(layer.name.removesuffix('.weight'))} {before[layer.name]} → {layer.shape[0]}"
        for layer in step.after.layers
        if layer.name in before and before[layer.name] != layer.shape[0]
    ]
    if not changed:
        return ""
    shown = changed if len(changed) <= _LISTED else [*changed[: _LISTED - 1], f"{len(changed) - _LISTED + 1} more"]
    return f": {spell.listing(shown)}"


def _saved(what: str, before: int | None, after: int | None) -> str:
    if before is None or after is None:
        return ""
    return f"{spell.count(after)} {what} instead of {spell.count(before)} ({spell.change(before, after)})"


def _timed(step: Step) -> str:
    told = [change for change in step.times if change.verdict != "same"]
    same = [change for change in step.times if change.verdict == "same"]
    said = []
    if told:
        said.append(f"It made a call {spell.listing([f'{change.verdict} {_times(change)}' for change in told])}.")
    if same:
        said.append(f"No difference in time can be told {spell.listing([_times(change) for change in same])}.")
    if told and cost_sentences.unsteady(told):
        said.append("Single calls varied widely, so measure again on a quiet machine before relying on it.")
    return " ".join(said)


def _times(change: SpeedChange) -> str:
    before, after = (spell.microseconds(time.median) for time in (change.before, change.after))
    setting = f"{spell.threads(change.threads)}, batch {spell.plain(change.batch)}"
    return f"in {spell.runtime(change.runtime)} ({before} → {after}, {setting})"


def _bits(receipt: Receipt) -> int | None:
    section = receipt.recipe.get("pack")
    bits = section.get("bits") if isinstance(section, dict) else None
    return bits if isinstance(bits, int) else None


# more layers than this are summed up
_LISTED = 6
