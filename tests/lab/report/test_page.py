"""The page: whole, escaped, the same each time, and honest about what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import plotly.offline
import pytest
import torch

import made_up
from prunus import files
from prunus.lab import report
from prunus.lab.report import drawing, receipt_tables
from prunus.lab.report.caveats import caveats
from prunus.lab.report.outcome import headline
from prunus.pruning.masks import Masks

FIGURES = {
    "accuracy",
    "per-class",
    "training",
    "parameters",
    "bytes",
    "weights",
    "weights-by-layer",
    "layer-sparsity",
    "sensitivity",
    "latency",
}


PLOTLY = plotly.offline.get_plotlyjs()


class Page(HTMLParser):
    """The elements of a page, the text outside scripts and styles, and the figures' JSON."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.figures: dict[str, dict[str, object]] = {}
        self._inside: tuple[str, dict[str, str | None]] = ("", {})
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = (tag, dict(attrs))

    def handle_data(self, data):
        tag, attributes = self._inside
        if tag == "script" and "data-for" in attributes:
            self.figures[str(attributes["data-for"])] = json.loads(data)
        elif tag not in ("script", "style"):
            self.text += data

    def handle_endtag(self, tag):
        self._inside = ("", {})

    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.elements if "id" in attributes]


def written(folder: Path) -> Page:
    return read(report.write_page(folder))


def read(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    assert text.count(PLOTLY) <= 1
    return Page(text.replace(PLOTLY, ""))  # five million characters that no test looks at


@pytest.fixture(scope="module")
def path(run: made_up.MadeUpRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a whole run, for tests that only read it."""
    return report.write_page(run.write(tmp_path_factory.mktemp("runs") / "lenet" / "seed-0"))


@pytest.fixture(scope="module")
def page(path: Path) -> Page:
    return read(path)


def test_the_page_lies_in_the_folder_and_holds_every_figure(path, page):
    assert path.name == "report.html"
    assert (path.parent / "receipt.json").is_file()
    assert set(page.figures) == FIGURES
    assert len(page.ids()) == len(set(page.ids()))


def test_a_run_that_shrank_and_packed_shows_its_road(run, folder):
    smaller = run.made_smaller()
    smaller.save(folder / "receipt.json")
    page = written(folder)
    assert set(page.figures) == FIGURES | {"widths"}
    for model, bars in zip(smaller.models, page.figures["bytes"]["data"], strict=True):
        assert bars["x"] == [model.bytes[form] for form in ("safetensors", "gzip", "packed")]
    before, after = page.figures["widths"]["data"]
    assert (before["x"], after["x"]) == ([20, 50, 166, 10], [20, 50, 100, 10])
    # the zeros of whole layers are those of the last model that still has them whole
    assert page.figures["layer-sparsity"]["data"][0]["x"] == [
        100 * layer.sparsity for layer in smaller.models[2].layers
    ]
    assert "What each step saved" in page.text
    assert headline(smaller) in page.text


def test_several_runtimes_are_drawn_by_setting_and_the_break_even_as_a_curve(run, folder):
    programs = run.with_programs()
    programs.save(folder / "receipt.json")
    page = written(folder)
    assert set(page.figures) == FIGURES | {"widths", "break-even"}
    drawn = page.figures["latency"]
    assert len(drawn["data"]) == 4 * (5 + 5 + 2 + 2 + 2)  # settings x models of each runtime
    rows = drawn["layout"]["yaxis"]["categoryarray"]
    assert rows[:6] == [f"PyTorch: {name}" for name in ("dense", "pruned", "finetuned", "shrunk", "packed")] + [
        "ONNX Runtime: dense"
    ]
    assert rows[-2:] == ["prunus: dense", "prunus: packed"]
    titles = [note["text"] for note in drawn["layout"]["annotations"]]
    assert titles == [f"{threads}, batch {batch}" for threads in ("1 thread", "2 threads") for batch in (1, 64)]
    last = next(trace for trace in drawn["data"] if trace["y"] == ["prunus: packed"])
    assert last["x"] == [pytest.approx(0.2 * 152)]
    curve, eager, best = page.figures["break-even"]["data"]
    assert curve["x"] == pytest.approx([0, 50, 90])
    assert curve["y"] == pytest.approx([3.0, 1.5, 0.3])
    assert (eager["y"], best["y"]) == ([6.0, 6.0], [1.2, 1.2])
    (line,) = page.figures["break-even"]["layout"]["shapes"]
    assert line["x0"] == line["x1"] == pytest.approx(60)
    assert "the break-even curve: latency in torch-compile: it needs a C++ compiler." in page.text
    assert "prunus: packed" in page.text
    for table in receipt_tables.all_tables(programs):
        assert all(cell in page.text for row in table.rows for cell in row)


def test_masks_of_whole_channels_are_drawn_by_their_weights(run, folder):
    biases = {"conv1.bias": torch.ones(20, dtype=torch.bool)}
    Masks(run.masks | biases).save(folder / "masks.safetensors")
    titles = [note["text"] for note in written(folder).figures["weights-by-layer"]["layout"]["annotations"]]
    assert len(titles) == 4
    assert not any("bias" in title for title in titles)


def test_the_page_shows_the_outcome_every_table_and_every_caveat(page, receipt):
    assert headline(receipt) in page.text
    for topic, sentence in caveats(receipt):
        assert topic + sentence in page.text
    for table in receipt_tables.all_tables(receipt):
        assert table.caption in page.text
        assert all(cell in page.text for row in (table.columns, *table.rows) for cell in row)


def test_nothing_is_fetched(page):
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,")), (tag, attributes)


def test_figures_and_images_are_told_in_words(page):
    plots = [attributes for _, attributes in page.elements if attributes.get("class") == "plot"]
    assert {plot["id"] for plot in plots} == FIGURES
    assert all(plot["role"] == "img" and len(plot["aria-label"] or "") > 20 for plot in plots)
    assert all(len(attributes["alt"] or "") > 10 for tag, attributes in page.elements if tag == "img")


def test_the_page_is_little_more_than_its_script(path):
    assert path.stat().st_size < len(PLOTLY.encode()) + 300_000


def test_large_layers_do_not_make_a_large_page(folder):
    generator = torch.Generator().manual_seed(0)
    large = {f"block{at}.weight": torch.randn(256, 256, 3, 3, generator=generator) for at in range(2)}
    masks = {name: weight.abs() > 1 for name, weight in large.items()}
    for name in ("dense", "pruned", "finetuned"):
        files.save_tensors(folder / f"{name}.safetensors", large)
    Masks(masks).save(folder / "masks.safetensors")
    size = report.write_page(folder).stat().st_size
    assert size < len(PLOTLY.encode()) + 600_000


def test_the_same_folder_gives_the_same_bytes_in_another_process(path):
    first = path.read_bytes()
    code = f"from prunus.lab import report; report.write_page({str(path.parent)!r})"
    path.unlink()
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    assert path.read_bytes() == first


def test_the_page_does_not_name_its_folder(path):
    assert str(path.parents[2]) not in path.read_text(encoding="utf-8")


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}"


def test_hostile_names_stay_text(run, folder, page, receipt):
    layers = [replace(layer, name=f"{HOSTILE}{layer.name}") for layer in receipt.models[-1].layers]
    models = (receipt.models[0], replace(receipt.models[-1], name=HOSTILE, layers=tuple(layers)))
    data = replace(receipt.data, name=HOSTILE, source=HOSTILE)
    recipe = {"name": HOSTILE, "description": HOSTILE}
    hostile = replace(receipt, models=models, comparisons=(), recipe=recipe, data=data, prunus=HOSTILE)
    hostile.save(folder / "receipt.json")
    (folder / "recipe.yaml").write_text(f"name: {HOSTILE}")
    renamed = {f"{HOSTILE}{name}": mask for name, mask in run.masks.items()}
    Masks(renamed).save(folder / "masks.safetensors")
    for name, state in run.states.items():
        files.save_tensors(folder / f"{name}.safetensors", {f"{HOSTILE}{key}": value for key, value in state.items()})
    curves = {HOSTILE: [0.9, 0.8], "all layers": [0.9, 0.5]}
    sensitivity = {"split": HOSTILE, "total": 10, "sparsities": [0.0, 0.5], "curves": curves}
    files.write_json(folder / "sensitivity.json", sensitivity)
    found = written(folder)
    assert set(found.figures) == FIGURES
    assert scripts(found) == scripts(page)
    assert not [attributes for _, attributes in found.elements if any(name.startswith("on") for name in attributes)]
    assert HOSTILE in found.text
    # plotly reads <b>, <a href> and the like in texts: no figure may bring a tag of its own
    assert "<img" not in json.dumps(found.figures)
    assert "<script" not in json.dumps(found.figures)


def scripts(page: Page) -> int:
    return sum(tag == "script" for tag, _ in page.elements)


@pytest.mark.parametrize(
    ("name", "lost", "said"),
    [
        ("log.jsonl", {"training"}, "The learning curves: left out, because"),
        ("sensitivity.json", {"sensitivity"}, "The sensitivity curve: left out, because"),
        ("masks.safetensors", {"weights", "weights-by-layer"}, "The weight histograms: left out, because"),
        ("dense.safetensors", {"weights", "weights-by-layer"}, "The weights of dense: left out, because"),
        ("finetuned.safetensors", set(), "The weights of finetuned: left out, because"),
        ("predictions.safetensors", set(), "The changed answers: left out, because"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_what_is_missing_or_damaged_is_said_and_the_rest_stays(folder, name, lost, said, damage):
    if damage == "missing":
        (folder / name).unlink()
        reason = f"there is no {name} in the run's folder"
    else:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        reason = f"{name} is damaged"
    page = written(folder)
    assert set(page.figures) == FIGURES - lost
    assert f"{said} {reason}" in page.text


def test_a_missing_recipe_is_taken_from_the_receipt(folder):
    (folder / "recipe.yaml").unlink()
    assert "The recipe, from the receipt" in written(folder).text


def test_only_a_receipt_still_gives_a_page(folder):
    for path in folder.iterdir():
        if path.name != "receipt.json":
            path.unlink()
    page = written(folder)
    assert set(page.figures) == {"accuracy", "per-class", "parameters", "bytes", "layer-sparsity", "latency"}


def test_a_receipt_of_bare_models_gives_a_page(tmp_path, receipt):
    bare = tuple(made_up.model(name, 10, nonzero) for name, nonzero in (("dense", 10), ("pruned", 8)))
    replace(receipt, models=bare, comparisons=(), data=None, recipe={}, checks=()).save(tmp_path / "receipt.json")
    page = written(tmp_path)
    assert set(page.figures) == {"parameters"}
    for said in ("Accuracy was not measured.", "Bytes were not measured.", "Speed was not measured."):
        assert said in page.text
    for meaningless in (", seed 0", "Seed", "Recipe's hash", "test accuracy"):
        assert meaningless not in page.text


def test_notes_and_what_was_not_counted_are_on_the_page(folder, receipt):
    noted = replace(receipt.models[1], notes=("zstd is not installed",), uncounted=("aten::fft",))
    replace(receipt, models=(receipt.models[0], noted, receipt.models[2])).save(folder / "receipt.json")
    text = written(folder).text
    assert "pruned: zstd is not installed." in text
    assert "pruned: not counted among the multiply-adds: aten::fft." in text


def test_the_device_is_among_the_facts(folder, receipt):
    assert "Models ran on" + "cpu" in written(folder).text
    replace(receipt, device="cuda").save(folder / "receipt.json")
    assert "Models ran on" + "cuda" in written(folder).text


def test_the_accuracy_interval_and_the_test_images_are_described_as_they_are(page):
    assert "with 95% confidence the accuracy on all such images lies on the bar" in page.text
    assert "No choice in the run was made by the test images" in page.text


@pytest.mark.parametrize(("kept", "said"), [({}, "magnitude"), ({"criterion": "lamp"}, "lamp")])
def test_the_sensitivity_curve_names_its_method(folder, kept, said):
    files.write_json(folder / "sensitivity.json", made_up.sensitivity() | kept)
    page = written(folder)
    assert f"by {said}, unstructured, at once and without any training after it" in page.text
    assert "marks only how sparse this run's result is" in page.text
    (annotation,) = page.figures["sensitivity"]["layout"]["annotations"]
    assert annotation["text"] == "this run's sparsity"


def test_the_page_says_when_medians_are_told_apart(page):
    assert "at least 2% apart" in page.text
    assert "medians can differ where bars overlap" in page.text


@pytest.mark.parametrize("number", [0, 1])
def test_fewer_than_two_models_give_a_page(tmp_path, receipt, number):
    few = replace(receipt, models=receipt.models[:number], comparisons=())
    few.save(tmp_path / "receipt.json")
    assert headline(few) in written(tmp_path).text


def test_masks_of_another_model_are_not_drawn(folder):
    Masks({"conv1.weight": torch.ones(3, 3, dtype=torch.bool)}).save(folder / "masks.safetensors")
    page = written(folder)
    assert set(page.figures) == FIGURES - {"weights", "weights-by-layer"}
    assert "masks.safetensors is damaged, or not of the form that prunus run writes" in page.text


def test_controls_are_shown_with_what_they_are(run, folder):
    run.with_controls().save(folder / "receipt.json")
    page = written(folder)
    assert "the weights to remove were drawn at random" in page.text
    names = [trace["y"] for trace in page.figures["accuracy"]["data"]]
    assert names == [["dense"], ["pruned"], ["finetuned"], ["random"], ["small-dense"], ["dense-longer"]]


def test_the_figures_show_the_receipts_numbers(page, receipt):
    figures = page.figures
    finetuned = receipt.models[-1]
    top1 = figures["accuracy"]["data"][2]
    assert top1["x"] == [100 * finetuned.accuracy.top1]
    assert top1["x"][0] - top1["error_x"]["arrayminus"][0] == pytest.approx(100 * finetuned.accuracy.ci95[0])
    assert figures["parameters"]["data"][0]["x"] == [160_206, 128_214, 128_214]
    assert figures["parameters"]["data"][1]["x"] == [0, 31_992, 31_992]
    assert figures["layer-sparsity"]["data"][0]["x"] == [100 * layer.sparsity for layer in finetuned.layers]
    removed = next(trace for trace in figures["weights"]["data"] if trace["name"] == "removed")
    assert sum(removed["y"]) == 31_992
    dense, pruned = (
        next(trace for trace in figures["weights"]["data"] if trace["name"] == name) for name in ("dense", "pruned")
    )
    assert dense["y"] == pruned["y"]  # what pruning leaves of the dense weights is what the pruned model has
    assert len(figures["training"]["data"][0]["x"]) == 7


def test_a_model_has_one_colour_in_all_figures(page, receipt):
    figures = page.figures
    for at, model in enumerate(receipt.models):
        colour = drawing.marks(receipt)[model.name].colour
        assert figures["accuracy"]["data"][at]["marker"]["color"] == colour
        assert figures["per-class"]["data"][at]["marker"]["color"] == colour
        assert figures["bytes"]["data"][at]["marker"]["color"] == colour
        assert figures["parameters"]["data"][0]["marker"]["color"][at] == colour


def test_of_an_epoch_that_ran_twice_the_later_line_counts(folder):
    line = made_up.log_lines()[-1] | {"loss": 0.125}
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    losses = written(folder).figures["training"]["data"][0]["y"]
    assert len(losses) == 7
    assert losses[-1] == 0.125


def test_no_receipt_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no receipt\.json in .* prunus run lenet"):
        report.write_page(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_receipt_is_an_error(folder):
    (folder / "receipt.json").write_text('{"schema": 1')
    with pytest.raises(ValueError, match="receipt"):
        report.write_page(folder)
    assert not (folder / "report.html").exists()
