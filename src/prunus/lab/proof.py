"""The measuring stage: measure all models of a run on the same test images and in turns, and write the receipt."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

import prunus
from prunus import packing as pack
from prunus.compiling import Program
from prunus.errors import ExportError, GraphError
from prunus.exporting.c import c_cost
from prunus.extras import MissingExtraError
from prunus.files import save_tensors, write_json
from prunus.lab import checks, predicting, quantized
from prunus.lab.data import Dataset, normalise
from prunus.lab.recipe import Recipe
from prunus.lab.reducing import RESULT
from prunus.lab.run_folder import Seconds
from prunus.measuring import evaluate, facts, machine
from prunus.measuring.break_even import break_even
from prunus.measuring.latency import OPENVINO, PRUNUS, PRUNUS_INT8, RUNTIMES, TORCH, TORCH_COMPILE, timings
from prunus.measuring.latency.runtimes import LeftOutError
from prunus.measuring.receipt import BreakEven, Check, DataFacts, Embedded, ModelFacts, PairedTest, Receipt
from prunus.measuring.sensitivity import SPARSITIES, sensitivity
from prunus.pruning import criteria
from prunus.pruning.masks import Masks
from prunus.quantizing import Scales

# The largest number of images with changed predictions that the report shows.
SHOWN_CHANGES = 24

# The number of test images in one call of the program, to limit memory.
PREDICTED_AT_ONCE = 1000

# Runtimes that quantise a model themselves; only there a quantised model is timed.
IN_8_BITS = tuple(name for name, runtime in RUNTIMES.items() if runtime.in_8_bits)

# Runtimes in which only the first and the last model are timed: preparing each takes seconds, and the models in between
# would add little. In 8 bits the pruned and the shrunk model are timed too: they may be what is fastest without prunus.
ENDS_ONLY = (TORCH_COMPILE, OPENVINO, PRUNUS, PRUNUS_INT8)
_OF_SHRUNK = "weights and multiply-adds are those of the shrunk model, in 8 bits"

# The controls that went through all stages: the name of their last stage ends like that of the run.
ROADS = ("random",)


@dataclass(frozen=True)
class Evidence:
    """The results of a run: the models in the order of its stages, masks, controls, and a program if there is one."""

    models: dict[str, nn.Module]
    masks: Masks
    controls: dict[str, nn.Module] = field(default_factory=dict)
    program: Program | None = None


def prove(
    recipe: Recipe, seed: int, folder: Path, data: Dataset, evidence: Evidence, say: Callable[[str], None]
) -> Receipt:
    """Measure all models, write `predictions`, `sensitivity` and the receipt into the folder, and return the receipt.

    If the folder has a receipt of the same recipe and data, it is read instead. The test images are used here and not
    before.
    """
    path = folder / "receipt.json"
    device = next(evidence.models["dense"].parameters()).device
    if path.is_file():
        earlier = Receipt.load(path)
        if _is_of(earlier, recipe, data, device) and (folder / "predictions.safetensors").is_file():
            say(f"measure: done before, read from {path}")
            return earlier
    path.unlink(missing_ok=True)  # it is written last, so if there is one, the other files are complete
    say("measure: test accuracy, sizes and times of all models")
    everything = evidence.models | evidence.controls
    logits = {
        name: predicting.predict(model, data.test, mean=data.mean, std=data.std) for name, model in everything.items()
    }
    _write_predictions(folder / "predictions.safetensors", logits, data)
    if recipe.measure.sensitivity:
        say("measure: how sensitive each layer is, on validation data")
        _write_sensitivity(folder / "sensitivity.json", recipe, data, evidence.models["dense"])
    measured = _facts(recipe, folder, data, evidence, logits)
    curve, notes = _break_even(recipe, data, evidence.models["dense"], device, say)
    measured["dense"] = replace(measured["dense"], notes=(*measured["dense"].notes, *notes))
    receipt = Receipt(
        prunus=prunus.__version__,
        torch=torch.__version__,
        machine=machine(),
        recipe=recipe.model_dump(mode="json"),
        recipe_hash=recipe.hash,
        seed=seed,
        device=device.type,
        data=_data_facts(data),
        models=tuple(measured[name] for name in evidence.models),
        comparisons=_comparisons(logits, data, evidence),
        changes=evaluate.changes({name: logits[name].argmax(1) for name in evidence.models}, data.test.labels),
        checks=(
            *checks.checks(recipe, evidence.models, evidence.masks, logits, _example(data, device)),
            *_program_checks(evidence.program, data, logits["packed"]),
        ),
        controls=tuple(measured[name] for name in evidence.controls),
        break_even=curve,
    )
    receipt.save(path)
    return receipt


def _program_checks(program: Program | None, data: Dataset, expected: Tensor) -> tuple[Check, ...]:
    """Run the program on the test images, and compare its logits with those of the packed model."""
    if program is None:
        return ()
    images = normalise(data.test.images.cpu(), data.mean, data.std)
    logits = torch.cat([program(batch) for batch in torch.split(images, PREDICTED_AT_ONCE)])
    return (checks.program_equals_packed(expected.cpu(), logits),)


def _is_of(receipt: Receipt, recipe: Recipe, data: Dataset, device: torch.device) -> bool:
    checksum = receipt.data.checksum if receipt.data is not None else ""
    return (receipt.recipe_hash, checksum, receipt.device) == (recipe.hash, data.checksum, device.type)


def _facts(
    recipe: Recipe, folder: Path, data: Dataset, evidence: Evidence, logits: dict[str, Tensor]
) -> dict[str, ModelFacts]:
    device = next(evidence.models["dense"].parameters()).device
    example = _example(data, device)
    everything = evidence.models | evidence.controls
    threads, left_out = _threads(recipe, device)
    # the other runtimes run on the CPU, so their times can't be compared with those of an accelerator
    runtimes = recipe.measure.runtimes if device.type == "cpu" else (TORCH,)
    road = list(evidence.models)
    scales = {}
    plain = dict(everything)
    if quantized.NAME in everything:
        plain[quantized.NAME] = everything["shrunk"]
        scales[quantized.NAME] = Scales.load(folder / quantized.SCALES)
    times = timings(
        plain,
        example,
        batch_sizes=recipe.measure.batch_sizes,
        threads=threads,
        runtimes=runtimes,
        only={name: _timed_in(name, road, everything) for name in runtimes},
        scales=scales,
    )
    seconds = Seconds(folder)
    embedded, not_embedded = _embedded(everything[road[-1]], example)
    complete = {}
    for name, model in plain.items():
        measured = facts(model, example, name=name, batch_size=max(recipe.measure.batch_sizes))
        if name == quantized.NAME:
            sizes, note = _int8_size(model, folder, example)
            measured = replace(measured, bytes={}, peak_memory_bytes=None, notes=(_OF_SHRUNK, note))
        else:
            packed = (folder / RESULT).stat().st_size if name == "packed" else _packed_size(model, example)
            sizes = {"packed": packed}
        complete[name] = replace(
            measured,
            bytes=measured.bytes | sizes,
            accuracy=evaluate.accuracy(logits[name], data.test.labels),
            latency_us=times[name].latency_us,
            seconds=seconds[f"{name}-finetuned" if name in ROADS else name],
            notes=(*measured.notes, *left_out, *times[name].notes, *(not_embedded if name == road[-1] else ())),
            embedded=embedded if name == road[-1] else None,
        )
    return complete


def _int8_size(model: nn.Module, folder: Path, example: Tensor) -> tuple[dict[str, int], str]:
    """Return the bytes of a model in ONNX with weights of 8 bits, and a note; none where that can't be written."""
    from prunus.exporting import to_onnx

    try:
        data, _ = to_onnx(model, example, Scales.load(folder / quantized.SCALES))
    except (MissingExtraError, ExportError, GraphError) as error:
        return {}, f"file in ONNX: {error}"
    return {"onnx, int8": len(data)}, "its file is in ONNX"


def _timed_in(runtime: str, road: Sequence[str], everything: Mapping[str, nn.Module]) -> list[str]:
    """Return the models that are timed in a runtime; in 8 bits the shrunk model is timed as its own scales round it."""
    if runtime not in IN_8_BITS and runtime not in ENDS_ONLY:
        return [name for name in everything if name != quantized.NAME]
    timed = [road[0], road[-1]]
    if runtime in IN_8_BITS:
        timed.append(quantized.NAME if quantized.NAME in everything else "shrunk")
        timed += ["finetuned"] if runtime not in ENDS_ONLY else []
    return [name for name in road if name in timed]


def _embedded(model: nn.Module, example: Tensor) -> tuple[Embedded | None, tuple[str, ...]]:
    """Return the bytes of a model in C, or a note why it can't be exported."""
    try:
        return Embedded(*c_cost(model, example)), ()
    except (GraphError, ValueError) as error:
        return None, (f"C for microcontrollers: {error}",)


def _break_even(
    recipe: Recipe, data: Dataset, dense: nn.Module, device: torch.device, say: Callable[[str], None]
) -> tuple[BreakEven | None, tuple[str, ...]]:
    """Return the break-even curve if the recipe asks for it, or a note why it could not be measured."""
    if not recipe.measure.break_even or device.type != "cpu":
        return None, ()
    say("measure: the sparsity above which a program that skips zeros is faster")
    section = recipe.prune
    try:
        curve = break_even(
            dense,
            _example(data, device),
            runtimes=(TORCH, *recipe.measure.runtimes),
            include=section.include,
            exclude=section.exclude,
        )
    except LeftOutError as error:
        return None, (f"break-even curve: {error}",)
    return curve, ()


def _example(data: Dataset, device: torch.device) -> Tensor:
    return normalise(data.validation.images[:1].to(device), data.mean, data.std)


def _packed_size(model: nn.Module, example: Tensor) -> int:
    """Return the bytes of a model as a lossless `.prunus` file."""
    with tempfile.TemporaryDirectory(prefix="prunus-") as folder:
        return pack.save(model, Path(folder) / RESULT, example_inputs=example).bytes


def _threads(recipe: Recipe, device: torch.device) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the recipe's numbers of threads that PyTorch can use here, and a note on the others."""
    most = torch.get_num_threads()
    if device.type != "cpu":
        return (most,), ()
    fitting = tuple(count for count in recipe.measure.threads if count <= most)
    left_out = [str(count) for count in recipe.measure.threads if count > most]
    note = f"latency with {', '.join(left_out)} threads: PyTorch uses at most {most} here"
    return fitting or (most,), (note,) if left_out else ()


def _comparisons(logits: dict[str, Tensor], data: Dataset, evidence: Evidence) -> tuple[PairedTest, ...]:
    """Test the first model against every other, each against the one before it, and the last against the controls."""
    correct = {name: of_model.argmax(1) == data.test.labels for name, of_model in logits.items()}
    first, *others = evidence.models
    pairs = [
        *((first, name) for name in others),
        *pairwise(others),
        *((others[-1], name) for name in evidence.controls),
    ]
    return tuple(evaluate.paired_test(a, correct[a], b, correct[b]) for a, b in pairs)


def _data_facts(data: Dataset) -> DataFacts:
    sizes = len(data.train), len(data.validation), len(data.test)
    return DataFacts(data.name, data.source, *sizes, data.checksum)


def _write_predictions(path: Path, logits: dict[str, Tensor], data: Dataset) -> None:
    predicted = {name: of_model.argmax(1) for name, of_model in logits.items()}
    changed = (predicted["dense"] != predicted["finetuned"]).nonzero().flatten()
    changed = changed[_evenly(len(changed), SHOWN_CHANGES)]
    extra = {
        "labels": data.test.labels,
        "changed_index": changed,
        "changed_images": data.test.images[changed],
    }
    save_tensors(path, {**predicted, **extra})


def _write_sensitivity(path: Path, recipe: Recipe, data: Dataset, dense: nn.Module) -> None:
    split = data.validation.take(_evenly(len(data.validation), recipe.measure.sensitivity_images))

    def score(model: nn.Module) -> float:
        logits = predicting.predict(model, split, mean=data.mean, std=data.std)
        return float((logits.argmax(1) == split.labels).double().mean())

    section = recipe.prune
    # a criterion that needs data would make the curve depend on the choice of the data
    criterion = section.criterion if criteria.resolve(section.criterion).needs is None else "magnitude"
    curves = sensitivity(dense, score, include=section.include, exclude=section.exclude, criterion=criterion)
    content = {
        "criterion": criterion,
        "split": "validation",
        "total": len(split),
        "sparsities": list(SPARSITIES),
        "curves": curves,
    }
    write_json(path, content)


def _evenly(count: int, limit: int) -> Tensor:
    """Return at most `limit` indices at even distances, since a split may be sorted by class."""
    chosen = min(count, limit)
    return torch.arange(chosen) * count // max(chosen, 1)
