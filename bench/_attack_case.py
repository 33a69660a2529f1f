"""One case of the attack from its network to its outcome, with a time limit."""

from __future__ import annotations

import copy
import math
import os
import signal
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

import _attack_channels  # noqa: F401  (each of these modules registers its families)
import _attack_dead  # noqa: F401
import _attack_hidden  # noqa: F401
import _attack_inputs  # noqa: F401
import _attack_layers  # noqa: F401
import _attack_modules  # noqa: F401
import prunus
import prunus.graph.exported
from _attack_collections import try_optimizer
from _attack_judge import NotTakenError, compare_loaded, judge
from _attack_subject import FAMILIES, Draw, Subject, build, draw_masks, masking, prune_channels

SAVED_EVERY = 8  # of the results are written to a file and read again
TRAINING_MODE = 0.2  # of the models are in training mode when they are shrunk


@dataclass
class Outcome:
    """What came of a case.

    Attributes:
        family: of the attempt.
        index: of the case; with the seed it says all.
        attempt: what was tried.
        masking: how zeros came into the model.
        result: "equal", "refused", "wrong", "size" (differs at a size that was not checked), "raw" (another error than
            one of prunus), "slow" (over the time limit), "crash", or "broken" (the network itself does not run).
        why: of all but "equal".
        seconds: of the processor in `shrink`; 0 if it was not reached or failed.
        before: number of parameters.
        after: number of parameters of the result; 0 without one.
        zeroed: channel pruning changed weights that `shrink` then refused.
        ties: elements that differ within amplified rounding.
        lost: batches and sizes that the result does not take and the model does.
        kind: the result's class: "own" or "graph".
        saved: "", "equal", or why there is no file.
        note: what was drawn beside the attempt's name.
    """

    family: str
    index: int
    attempt: str = ""
    masking: str = ""
    result: str = "broken"
    why: str = ""
    seconds: float = 0.0
    before: int = 0
    after: int = 0
    zeroed: bool = False
    ties: int = 0
    lost: list[str] = field(default_factory=list)
    kind: str = ""
    saved: str = ""
    note: str = ""


class TooSlow(BaseException):
    """The time limit of a case is over; nothing that catches Exception catches it."""


class EndedError(Exception):
    """A result that ends a case early: "wrong", "refused", ..., and why."""

    def __init__(self, result: str, why: str) -> None:
        super().__init__(why)
        self.result = result


def run_case(family: str, index: int, seed: int, limit: float) -> dict[str, Any]:
    """Run a case and return its `Outcome` as a dict."""
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operation rounds in its own way
    outcome = Outcome(family, index)
    with warnings.catch_warnings(), time_limit(limit):
        warnings.simplefilter("ignore")
        try:
            _run(outcome, seed)
        except TooSlow:
            outcome.result, outcome.why = "slow", f"over {limit:g} s"
        except EndedError as found:
            outcome.result, outcome.why = found.result, str(found)[:400]
        except NotTakenError as error:
            outcome.result, outcome.why = "broken", f"the network itself raises {error}"
        except Exception as error:  # a fault of this bench, or of the network
            outcome.result, outcome.why = "broken", _described(error)
    return asdict(outcome)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TooSlow in what runs inside after so many seconds."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _run(outcome: Outcome, seed: int) -> None:
    outcome.attempt, subject, draw = build(outcome.family, outcome.index, seed)
    outcome.before, outcome.note = _size(subject.model), subject.note
    if outcome.family == "optimizers":
        with _refusals(""):
            _, smaller, wrong = try_optimizer(outcome.attempt, subject, draw)
        outcome.after, outcome.result, outcome.why = _size(smaller), "wrong" if wrong else "equal", wrong
        return
    outcome.masking = masking(subject, draw)
    reference, smaller = _shrunk(outcome, subject, draw)
    outcome.after = _size(smaller)
    outcome.kind = "graph" if isinstance(smaller, prunus.graph.exported.ExportedModule) else "own"
    verdict = judge(reference.eval(), copy.deepcopy(smaller).eval(), subject, draw.randrange(2**31))
    outcome.ties, outcome.lost = verdict.ties, verdict.lost
    outcome.result = "wrong" if verdict.wrong else "size" if verdict.size else "equal"
    outcome.why = verdict.wrong or verdict.size
    if outcome.result == "equal" and outcome.index % SAVED_EVERY == SAVED_EVERY // 2:
        outcome.saved = _saved(reference, smaller, subject, draw)


def _shrunk(outcome: Outcome, subject: Subject, draw: Draw) -> tuple[nn.Module, nn.Module]:
    """Mask and shrink; return the masked model and the smaller one.

    Raises:
        EndedError: `prune` or `shrink` refused, failed, or changed what it should not.
    """
    model, example = subject.model, subject.example(draw.generator)
    masks: dict[str, Tensor] | None = None
    if outcome.masking == "channel":
        before = copy.deepcopy(model.state_dict())
        try:
            with _refusals("prune"):
                prune_channels(model, example, draw)
        except EndedError:
            if not _same_state(model, before):
                raise EndedError("wrong", "prune raised, but changed the model") from None
            raise
        reference = copy.deepcopy(model)
    else:
        masks = draw_masks(model, outcome.masking, draw)
        reference = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in reference.named_parameters():
                parameter.mul_(masks.get(name, torch.ones((), dtype=torch.bool)))
        if draw.chance(0.5):
            model, masks = copy.deepcopy(reference), None
    model.train(draw.chance(TRAINING_MODE))
    before = copy.deepcopy(model.state_dict())
    try:
        with _refusals("shrink"):
            start = time.process_time()
            smaller = prunus.shrink(model, example, masks)
            outcome.seconds = round(time.process_time() - start, 4)
    except EndedError as found:
        outcome.zeroed = outcome.masking == "channel" and found.result == "refused"
        raise
    if not _same_state(model, before):
        raise EndedError("wrong", "shrink changed the model")
    return reference, smaller


def _saved(reference: nn.Module, smaller: nn.Module, subject: Subject, draw: Draw) -> str:
    """Write the result to a file, read it, and compare; return "equal", or why it was refused."""
    with TemporaryDirectory(prefix="prunus-") as folder:
        path = Path(folder) / "model.prunus"
        try:
            with _refusals("save and load"):
                prunus.save(copy.deepcopy(smaller).eval(), path, example_inputs=subject.example(draw.generator))
                loaded = prunus.load(path)
        except EndedError as found:
            if found.result == "refused":
                return f"refused: {found}"
            raise
        wrong = compare_loaded(reference, loaded, subject, draw.randrange(2**31))
    if wrong:
        raise EndedError("wrong", f"after save and load: {wrong}")
    return "equal"


@contextmanager
def _refusals(step: str) -> Iterator[None]:
    """Turn what is raised inside into EndedError: "refused" if prunus raised a ValueError or TypeError, else "raw"."""
    try:
        yield
    except Exception as error:
        refused = isinstance(error, (ValueError, TypeError)) and _raised_by_prunus(error)
        raise EndedError("refused" if refused else "raw", f"{step}: {_described(error)}".removeprefix(": ")) from error


def _raised_by_prunus(error: Exception) -> bool:
    """Return whether a line of prunus says `raise`, not one of torch or a slip like int(None)."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    own = Path(prunus.__file__).parent in Path(last.filename).parents
    return type(error).__module__.startswith("prunus.") or (own and (last.line or "").startswith("raise"))


def _described(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "prunus" in frame.filename]
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{where}"


def _same_state(model: nn.Module, before: dict[str, Tensor]) -> bool:
    after = model.state_dict()
    return list(after) == list(before) and all(torch.equal(after[key], value) for key, value in before.items())


def _size(model: nn.Module) -> int:
    return sum(math.prod(parameter.shape) for parameter in model.parameters())


def cases(families: list[str], count: int) -> list[tuple[str, int]]:
    """Spread a number of cases evenly over families, in turns."""
    return [(families[place % len(families)], place // len(families)) for place in range(count)]


def all_families() -> list[str]:
    """Return the names of all families."""
    return sorted(FAMILIES)
