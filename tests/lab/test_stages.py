"""Whole runs on small data: the folder, going on after a kill, refusals, controls, and the experiment itself."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import prunus
from prunus.compiling import load_program
from prunus.files import load_tensors
from prunus.lab import models, recipe, stages
from prunus.lab.predicting import predict
from prunus.measuring.latency import runtimes
from prunus.measuring.receipt import Receipt
from prunus.pruning.masks import Masks

KILLED = Path(__file__).parents[1] / "support" / "killed_run.py"

TINY = {
    "name": "tiny",
    "model": {"name": "lenet-300-100", "arguments": {"widths": [24, 12]}},
    "data": {"name": "digits", "shift": 1},
    "train": {"epochs": 3, "lr": 0.1},
    "prune": {"sparsity": 0.5, "schedule": "cubic", "training": {"epochs": 2, "lr": 0.05}},
    "finetune": {"epochs": 2, "lr": 0.02},
    "measure": {"runtimes": ["torch"], "batch_sizes": [1], "threads": [1], "sensitivity_images": 50},
}
# What a test changes in it that is about other things than training and measuring.
QUICK = {
    "train": {"epochs": 1},
    "prune": {"sparsity": 0.5},
    "finetune": {"epochs": 0},
    "measure": {"sensitivity": False, "runtimes": ["torch"], "batch_sizes": [1], "threads": [1]},
}


def tiny(**changes: object) -> recipe.Recipe:
    return recipe.build({**TINY, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> stages.SeedRun:
    (seed_run,) = stages.run(tiny(), tmp_path_factory.mktemp("runs") / "tiny")
    return seed_run


def result_bytes(folder: Path) -> dict[str, bytes]:
    """What has to be equal to the bit between two runs of one recipe: weights, masks, predictions, packed files."""
    found = [*folder.rglob("*.safetensors"), *folder.rglob("*.prunus")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(found)}


def test_a_run_leaves_what_the_architecture_lists(finished: stages.SeedRun) -> None:
    names = {path.name for path in finished.folder.iterdir() if not path.name.startswith(".")}
    assert names >= {
        "recipe.yaml", "dense.safetensors", "pruned.safetensors", "masks.safetensors", "finetuned.safetensors",
        "shrunk.prunus", "shrunk.json", "model.prunus", "model.json",
        "log.jsonl", "seconds.json", "predictions.safetensors", "sensitivity.json", "receipt.json", "report.html",
    }  # fmt: skip
    assert not list(finished.folder.rglob("*.state.safetensors"))
    assert not list(finished.folder.rglob("*.part"))
    assert finished.report == finished.folder / "report.html"


def test_the_files_load_into_a_plain_model_and_agree_with_the_receipt(finished: stages.SeedRun) -> None:
    model = models.create("lenet-300-100", widths=(24, 12))
    model.load_state_dict(load_tensors(finished.folder / "finetuned.safetensors"))
    masks = Masks.load(finished.folder / "masks.safetensors")
    masks.check(model)
    num_weights = 784 * 24 + 24 * 12 + 12 * 10
    nonzero = sum(int((parameter != 0).sum()) for parameter in model.parameters())
    receipt = Receipt.load(finished.folder / "receipt.json")
    assert masks.num_pruned == round(0.5 * num_weights)
    by_name = {facts.name: facts for facts in receipt.models}
    assert list(by_name) == ["dense", "pruned", "finetuned", "shrunk", "packed"]
    assert by_name["finetuned"].nonzero == nonzero
    assert by_name["dense"].bytes["safetensors"] == by_name["finetuned"].bytes["safetensors"]
    assert all(check.passed for check in receipt.checks)


def test_the_packed_file_is_the_finetuned_model_without_what_cannot_matter(finished: stages.SeedRun) -> None:
    tuned = models.create("lenet-300-100", widths=(24, 12))
    tuned.load_state_dict(load_tensors(finished.folder / "finetuned.safetensors"))
    loaded = prunus.load(finished.folder / "model.prunus")
    images = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded(images), tuned.eval()(images))
    # by hand: a pixel or a hidden unit is no channel of its own that could go unless all its weights are zero
    alive = [(tuned.get_submodule(f"fc{n}").weight != 0).any(1) & (tuned.get_submodule(f"fc{n + 1}").weight != 0).any(0)
             for n in (1, 2)]  # fmt: skip
    widths = [loaded.fc1.weight.shape[0], loaded.fc2.weight.shape[0]]
    assert widths == [int(width.sum()) for width in alive]
    facts = finished.receipt.models[-1]
    assert facts.name == "packed"
    assert facts.bytes["packed"] == (finished.folder / "model.prunus").stat().st_size
    assert all(found.bytes["packed"] > 0 for found in finished.receipt.models)
    assert facts.embedded is not None
    assert facts.embedded.ram_bytes >= 4 * sum(widths)  # both lie there at once
    assert 0 < facts.embedded.flash_bytes < facts.bytes["safetensors"]
    assert finished.receipt.models[0].embedded is None


def test_the_program_in_the_folder_computes_what_the_packed_model_does(finished: stages.SeedRun) -> None:
    images = torch.randn(70, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    program = load_program(finished.folder / "compiled.program")
    expected = prunus.load(finished.folder / "model.prunus")(images)
    torch.testing.assert_close(
        program(images), expected.detach(), rtol=0, atol=1e-4 * float(expected.detach().abs().max())
    )
    (check,) = (check for check in finished.receipt.checks if check.name == "program equals packed")
    assert check.value < 1e-5


def test_a_finished_run_is_read_where_no_program_can_be_built(
    finished: stages.SeedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path / "empty"))  # the kernels that were built would do for any model
    said: list[str] = []
    (again,) = stages.run(tiny(), finished.folder.parent, say=said.append)
    assert again.receipt == finished.receipt
    assert any(line.startswith("compiled: left out: the C compiler that CC names") for line in said)


def test_accuracy_in_the_receipt_is_that_of_the_stored_weights(finished: stages.SeedRun) -> None:
    predictions = load_tensors(finished.folder / "predictions.safetensors")
    for facts in finished.receipt.models:
        assert facts.accuracy is not None
        correct = int((predictions[facts.name] == predictions["labels"]).sum())
        assert (facts.accuracy.correct, facts.accuracy.total) == (correct, len(predictions["labels"]))
    pair = next(test for test in finished.receipt.comparisons if (test.first, test.second) == ("dense", "finetuned"))
    first, second = (predictions[name] == predictions["labels"] for name in ("dense", "finetuned"))
    assert (pair.only_first, pair.only_second) == (int((first & ~second).sum()), int((second & ~first).sum()))


def test_sensitivity_has_a_curve_for_each_layer_and_starts_at_the_dense_accuracy(finished: stages.SeedRun) -> None:
    found = json.loads((finished.folder / "sensitivity.json").read_text())
    assert found["split"] == "validation"
    assert found["total"] == 50
    assert set(found["curves"]) == {"all layers", "fc1.weight", "fc2.weight", "fc3.weight"}
    starts = {curve[0] for curve in found["curves"].values()}
    assert len(starts) == 1
    assert found["curves"]["all layers"][-1] < found["curves"]["all layers"][0]


def test_a_second_start_does_nothing_again(finished: stages.SeedRun) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.glob("*.safetensors")}
    said: list[str] = []
    (again,) = stages.run(tiny(), finished.folder.parent, say=said.append)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again.receipt == finished.receipt
    assert sum("done before" in line for line in said) == 7


def test_another_recipe_is_refused_and_redo_keeps_what_both_share(finished: stages.SeedRun, tmp_path: Path) -> None:
    folder = tmp_path / "seed-0"
    shutil.copytree(finished.folder, folder)
    changed = tiny(finetune={"epochs": 1, "lr": 0.02})
    before = result_bytes(folder)
    with pytest.raises(stages.RecipeChangedError, match=r"finetune\.epochs: 2 -> 1"):
        stages.run(changed, tmp_path)
    assert result_bytes(folder) == before
    stages.run(changed, tmp_path, redo=True)
    after = result_bytes(folder)
    assert after["pruned.safetensors"] == before["pruned.safetensors"]
    assert after["finetuned.safetensors"] != before["finetuned.safetensors"]
    stages.run(tiny(), tmp_path, redo=True)
    assert result_bytes(folder) == before


def test_a_folder_takes_one_process_at_a_time(tmp_path: Path) -> None:
    from prunus.lab.run_folder import locked

    with locked(tmp_path / "seed-0"), pytest.raises(stages.RunLockedError, match="another prunus run"):
        stages.run(tiny(), tmp_path)


def test_more_seeds_join_the_first_and_differ_from_it(finished: stages.SeedRun, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "seed-0")
    both = stages.run(tiny(seeds=[0, 1]), tmp_path)
    assert both[0].receipt == finished.receipt
    weights = [load_tensors(seed_run.folder / "dense.safetensors")["fc1.weight"] for seed_run in both]
    assert not torch.equal(*weights)


def test_controls_are_trained_and_have_the_sizes_they_claim(tmp_path: Path) -> None:
    (found,) = stages.run(
        tiny(prune=TINY["prune"] | {"sparsity": 0.8}, controls=True, finetune={"epochs": 1}, measure=QUICK["measure"]),
        tmp_path,
    )
    controls = {facts.name: facts for facts in found.receipt.controls}
    finetuned = found.receipt.models[2]
    assert set(controls) == {"random", "small-dense", "dense-longer"}
    assert controls["random"].nonzero == finetuned.nonzero
    assert controls["dense-longer"].nonzero == controls["dense-longer"].parameters == finetuned.parameters
    assert 0.8 * finetuned.nonzero < controls["small-dense"].parameters <= finetuned.nonzero
    phases = [json.loads(line) for line in (found.folder / "controls" / "log.jsonl").read_text().splitlines()]
    assert sum(line["phase"].startswith("small-dense") for line in phases) == 3 + 2 + 1
    assert sum(line["phase"].startswith("dense-longer") for line in phases) == 2 + 1


def test_a_run_killed_again_and_again_ends_with_the_same_bytes(finished: stages.SeedRun, tmp_path: Path) -> None:
    """The kills fall into every phase and what comes after; bench/kill.py does this at length."""
    file, out = tmp_path / "tiny.yaml", tmp_path / "killed"
    file.write_text(tiny().yaml())
    done = subprocess.run([sys.executable, KILLED, file, out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert result_bytes(out / "seed-0") == result_bytes(finished.folder)


def test_whole_channels_make_a_narrower_model_that_is_what_was_asked_for(tmp_path: Path) -> None:
    channels = {"sparsity": 0.4, "pattern": "channel", "schedule": "linear", "training": {"epochs": 1, "lr": 0.02}}
    (found,) = stages.run(tiny(**QUICK | {"prune": channels, "finetune": {"epochs": 1, "lr": 0.02}}), tmp_path)
    by_name = {facts.name: facts for facts in found.receipt.models}
    dense, shrunk = by_name["dense"], by_name["shrunk"]
    loaded = prunus.load(found.folder / "model.prunus")
    weights = [parameter for name, parameter in loaded.named_parameters() if name.endswith("weight")]
    assert sum(weight.numel() for weight in weights) == pytest.approx(0.6 * (784 * 24 + 24 * 12 + 12 * 10), rel=0.04)
    assert shrunk.parameters < 0.65 * dense.parameters
    assert shrunk.macs is not None
    assert dense.macs is not None
    assert shrunk.macs < 0.65 * dense.macs
    assert {check.name: check.passed for check in found.receipt.checks} == dict.fromkeys(
        (
            "zeros kept",
            "plain model",
            "sparsity met",
            "shrunk equals masked",
            "packed loads back",
            "program equals packed",
        ),
        True,
    )


def test_runtimes_are_timed_and_those_that_cost_seconds_at_the_ends_of_the_road(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ["torch", "onnxruntime", "prunus"]
    for name in wanted:  # which of them a model is timed in is the question here, not what they do
        monkeypatch.setitem(runtimes.RUNTIMES, name, runtimes.Runtime(runtimes.eager))
    measure = {"sensitivity": False, "batch_sizes": [2], "threads": [1], "runtimes": wanted, "break_even": True}
    (found,) = stages.run(tiny(**QUICK | {"train": {"epochs": 0}, "measure": measure}), tmp_path)
    for facts in found.receipt.models:
        timed = wanted if facts.name in ("dense", "packed") else wanted[:2]
        found_in = {runtime: list(times["1"]) for runtime, times in facts.latency_us.items()}
        assert found_in == {runtime: ["2"] for runtime in timed}
    curve = found.receipt.break_even
    assert curve is not None
    assert (curve.threads, curve.batch, set(curve.dense_us)) == (1, 64, {"torch", "onnxruntime"})
    assert curve.points[0].nonzero == found.receipt.models[0].nonzero


def test_a_quantised_model_is_tested_and_timed_in_8_bits_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "onnxruntime-int8"):
        monkeypatch.setitem(runtimes.RUNTIMES, name, runtimes.Runtime(runtimes.eager))
    measure = QUICK["measure"] | {"runtimes": ["torch", "onnxruntime", "onnxruntime-int8"]}
    asked = tiny(**QUICK | {"measure": measure, "quantize": {"samples": 32}})
    (found,) = stages.run(asked, tmp_path)
    by_name = {facts.name: facts for facts in found.receipt.models}
    assert list(by_name) == ["dense", "pruned", "finetuned", "shrunk", "quantized", "packed"]
    rounded, shrunk = by_name["quantized"], by_name["shrunk"]
    assert set(rounded.latency_us) == {"onnxruntime-int8"}
    in_8_bits = [name for name, facts in by_name.items() if "onnxruntime-int8" in facts.latency_us]
    assert in_8_bits == ["dense", "finetuned", "quantized", "packed"]
    assert (rounded.parameters, rounded.macs) == (shrunk.parameters, shrunk.macs)
    assert rounded.bytes["onnx, int8"] < shrunk.bytes["safetensors"] / 2
    assert rounded.accuracy is not None
    assert shrunk.accuracy is not None
    assert rounded.accuracy.nll != shrunk.accuracy.nll
    assert abs(rounded.accuracy.top1 - shrunk.accuracy.top1) < 0.1
    scales = prunus.load(found.folder / "scales.safetensors", expect=prunus.Scales)
    model = prunus.load(found.folder / "shrunk.prunus")
    digits = prunus.data.load("digits")
    with prunus.Quantizer(model, scales):
        logits = predict(model, digits.test, mean=digits.mean, std=digits.std)
    assert int((logits.argmax(1) == digits.test.labels).sum()) == rounded.accuracy.correct
    written = (found.folder / "scales.safetensors").stat().st_mtime_ns
    (found.folder / "receipt.json").unlink()
    stages.run(asked, tmp_path)
    assert (found.folder / "scales.safetensors").stat().st_mtime_ns == written


def test_a_codebook_is_asked_for_in_the_recipe(tmp_path: Path) -> None:
    (found,) = stages.run(tiny(**QUICK, pack={"codebook_bits": 3}), tmp_path)
    weight = prunus.load(found.folder / "model.prunus").fc1.weight
    assert len(weight[weight != 0].unique()) <= 8
    shrunk, packed = found.receipt.models[-2:]
    assert packed.bytes["packed"] < shrunk.bytes["packed"] / 3
    assert all(check.passed for check in found.receipt.checks)


@pytest.mark.parametrize(
    ("section", "nonzero"),
    [({"sparsity": 0.2}, 128_214), ({"sparsity": 0.95}, 160_206 - round(0.95 * 159_960))],
)
def test_the_experiment_has_the_published_counts(section: dict[str, float], nonzero: int, tmp_path: Path) -> None:
    lenet = recipe.load("lenet").model_dump(mode="json")
    lenet |= {
        "data": {"name": "digits"},
        "prune": section,
        "train": {"epochs": 0},
        "finetune": {"epochs": 1},
        "measure": QUICK["measure"],
    }
    (found,) = stages.run(recipe.build(lenet), tmp_path)
    counts = [(facts.parameters, facts.nonzero) for facts in found.receipt.models]
    assert counts[:3] == [(160_206, 160_206), (160_206, nonzero), (160_206, nonzero)]
    assert counts[3] == counts[4]


def test_a_model_that_does_not_take_the_images_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    colour = tiny(model={"name": "resnet20"})
    with pytest.raises(ValueError, match=r"\(3, 32, 32\).*'digits' has \(1, 28, 28\)"):
        stages.run(colour, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unknown_model_is_refused_before_data_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'lenet'"):
        stages.run(tiny(model={"name": "lenett"}, data={"name": "mnist"}), tmp_path, data_folder=tmp_path / "nowhere")
