"""Recipes: the shipped ones load, text and back, hashes, and one clear line for every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import prunus
from prunus.lab import recipe
from prunus.lab.recipe import Recipe, build, fingerprint, load, names
from prunus.pruning.criteria import CRITERIA
from prunus.pruning.patterns import Channels, Inputs
from prunus.pruning.schedules import SCHEDULES
from prunus.pruning.scopes import SCOPES
from prunus.registry import UnknownNameError
from without_extras import run_without_extras

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))


def problems(*overrides: str) -> list[str]:
    """Return what is said to be wrong with the recipe `lenet` under these overrides."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load("lenet", overrides)
    assert type(caught.value) is ValueError
    first, *lines = str(caught.value).split("\n")
    assert first == "recipe 'lenet' can't be used:"
    assert all(line.startswith("  ") for line in lines)
    return [line.removeprefix("  ") for line in lines]


def text_of(name: str) -> str:
    return (ROOT / "recipes" / f"{name}.yaml").read_text()


def test_the_shipped_recipes_are_listed() -> None:
    assert names() == SHIPPED
    assert {"lenet", "lenet-95", "lenet5-caffe-98", "resnet20-fashion-90"} <= set(SHIPPED)


@pytest.mark.parametrize("name", names())
def test_every_shipped_recipe_loads_by_name_and_by_path(name: str) -> None:
    found = load(name)
    assert found.name == name
    assert found.description.endswith(".")
    assert load(ROOT / "recipes" / f"{name}.yaml") == load(str(ROOT / "recipes" / f"{name}.yaml")) == found
    assert build(found.model_dump()) == build(found.model_dump(mode="json")) == found


def test_lenet_is_the_experiment_of_the_source() -> None:
    found = load("lenet")
    assert (found.model.name, found.data.name, found.data.fallback) == ("lenet", "mnist", "mnist-5k")
    assert found.prune.sparsity == 0.2
    chosen = (found.prune.criterion, found.prune.pattern, found.prune.scope, found.prune.schedule)
    assert chosen == ("magnitude", "unstructured", "global", "one_shot")


overrides = st.fixed_dictionaries(
    {},
    optional={
        "seeds": st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3, unique=True),
        "description": st.text(max_size=20),
        "controls": st.booleans(),
        "train.lr": st.floats(1e-8, 1e3),
        "train.epochs": st.integers(0, 10**6),
        "data.shift": st.integers(0, 8),
        "prune.sparsity": st.floats(0.01, 0.99),
        "prune.criterion": st.sampled_from(sorted(CRITERIA)),
        "prune.scope": st.sampled_from(sorted(SCOPES)),
        "prune.include": st.lists(st.sampled_from(["conv1", "conv*", "fc.weight", "Conv2d"]), max_size=3),
        "model.arguments.num_classes": st.integers(2, 20),
        "measure.threads": st.lists(st.integers(1, 64), max_size=3),
    },
)


@given(overrides)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_recipe_written_as_yaml_is_read_back_equal(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = load("lenet", [f"{key}={value!r}" for key, value in changes.items() if not isinstance(value, (bool, str))])
    found = found.model_copy(update={key: value for key, value in changes.items() if isinstance(value, bool)})
    if "description" in changes:
        found = found.model_copy(update={"description": changes["description"]})
    (tmp_path / "r.yaml").write_text(found.yaml(), encoding="utf-8")
    back = load(tmp_path / "r.yaml")
    assert back == found
    assert back.hash == found.hash


def test_the_hash_is_that_of_all_settings_but_the_description() -> None:
    found = load("lenet")
    assert found.hash == load("lenet", ["description=another"]).hash
    assert len(found.hash) == 16
    leaves = [
        *[
            "name=other",
            "seeds=[1]",
            "devices=2",
            "controls=true",
            "data.shift=1",
            "data.fallback=null",
            "train.lr=0.2",
        ],
        *["prune.sparsity=0.21", "finetune.epochs=5", "measure.threads=[1]", "model.arguments={num_classes: 11}"],
        *[
            "pack.codebook_bits=4",
            "prune.criterion=lamp",
            "prune.exclude=[conv1]",
            "prune.scope=erk",
            "train.optimizer=adamw",
        ],
    ]
    hashes = [load("lenet", [leaf]).hash for leaf in leaves]
    assert len({found.hash, *hashes}) == len(leaves) + 1


def test_the_hash_does_not_depend_on_how_a_setting_is_written(tmp_path: Path) -> None:
    found = load("lenet")
    assert load("lenet", ["prune.sparsity=2e-1", "train.lr=0.10", "seeds=[ 0 ]", "prune.include=[]"]).hash == found.hash
    backwards = dict(reversed(found.model_dump(mode="json").items()))
    assert build(backwards).hash == found.hash
    # to the digit, so that an earlier run is known again: sha256sum of {"a":true,"b":[1,2.5,null,"\\u00fc"]}
    assert fingerprint({"b": [1, 2.5, None, "ü"], "a": True}) == "1b907841ff67ec53"


def test_a_recipe_cant_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load("lenet").name = "other"  # type: ignore[misc]


def test_2_of_4_is_written_as_it_is() -> None:
    found = load(
        "lenet",
        ["prune.pattern=2:4", "prune.sparsity=0.5", "prune.exclude=conv1", "model.arguments={widths: [20, 48, 168]}"],
    )
    assert found.prune.pattern == "2:4"
    assert found.prune.exclude == ("conv1",)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("prune.sparsity=20", "prune.sparsity: sparsity must be in [0, 1), got 20; did you mean 0.2?"),
        ("prune.sparsity=1", "prune.sparsity: sparsity must be in [0, 1), got 1"),
        ("prune.sparsity=-0.1", "prune.sparsity: sparsity must be in [0, 1), got -0.1"),
        ("prune.sparsity=.nan", "prune.sparsity: sparsity must be in [0, 1), got nan"),
        ("prune.sparsity=half", "prune.sparsity: must be a number, got 'half'"),
        ("prune.sparsity=true", "prune.sparsity: must be a number, got true"),
        ("prune.sparsity='0.5'", "prune.sparsity: must be a number, got '0.5'"),
        ("prune.sparsity=", "prune.sparsity: must be a number, got nothing"),
        (
            "prune.sparsty=0.5",
            "unknown prune setting 'sparsty'; did you mean 'sparsity'? (known: calibration_batches, c",
        ),
        ("prun.sparsity=0.5", "unknown setting 'prun'; did you mean 'prune'? (known: controls, data, description, "),
        ("sparsity=0.5", "unknown setting 'sparsity'; did you mean 'prune.sparsity'?"),
        ("epochs=3", "unknown setting 'epochs'; did you mean 'train.epochs' or 'prune.training.epochs' or 'finetune"),
        ("zzz=3", "unknown setting 'zzz' (known: controls, data, "),
        (
            "prune.pattern=2:4",
            "prune: pattern 2:4 removes exactly 0.5 of the weights, got sparsity 0.2; write sparsity 0.5",
        ),
        ("prune.pattern=blok", "prune: unknown pattern 'blok'; did you mean 'block-4x4'?"),
        ("prune.scope=golbal", "prune: unknown scope 'golbal'; did you mean 'global'?"),
        ("prune.criterion=magnitud", "prune: unknown criterion 'magnitud'; did you mean 'magnitude'?"),
        ("prune.schedule=cubc", "prune: unknown schedule 'cubc'; did you mean 'cubic'?"),
        (
            "prune.schedule=cubic",
            "prune: schedule cubic prunes while the model trains: give it a training section of at",
        ),
        (
            "prune.training.epochs=3",
            "prune: schedule one_shot prunes at once and takes no training: leave training out",
        ),
        (
            "prune.include=[conv9]",
            "model 'lenet' can't be pruned like this: unknown layer in include 'conv9'; did you me",
        ),
        (
            "prune.sparsity=0.99999",
            "model 'lenet' can't be pruned like this: sparsity 0.99999 can't be reached: it remov",
        ),
        ("prune.pattern=block-1x8", None),
        ("prune.pattern=inputs-4:depthwise=all", "prune: depthwise must be 'dense' or 'columns', got 'all'"),
        ("prune.pattern=block:round_to=8", "prune: unknown option of pattern 'block': 'round_to' (known: none)"),
        ("prune.pattern={channel: {round_to: 0}}", "prune: round_to must be at least 1, got 0"),
        ("prune.pattern={channel: {budget: bytes}}", "prune: budget must be 'parameters' or 'macs', got 'bytes'"),
        ("pack.codebook_bits=9", "pack.codebook_bits: must be at most 8, got 9"),
        ("pack.codebook_bits=4.0", "pack.codebook_bits: must be a whole number, got 4.0"),
        ("pack.bit=4", "unknown pack setting 'bit' (known: codebook_bits)"),
        ("prune.include=[5]", "prune.include.0: must be text, got 5"),
        ("prune=5", "prune: must be a group of settings, got 5"),
        ("prune=", "prune: must be a group of settings, got nothing"),
        ("model=lenet", "model: must be a group of settings, got 'lenet'"),
        ("model.name=lenett", "model: unknown model 'lenett'; did you mean 'lenet'? (known: "),
        ("model.arguments.width=3", "model: unknown argument (of model 'lenet') 'width'; did you mean 'widths'?"),
        ("model.arguments.num_classes=ten", "model: num_classes must be a whole number of at least 1, got 'ten'"),
        ("model.arguments.name=x", "model: model 'lenet' can't be made with {'name': 'x'}: "),
        ("model.arguments=5", "model.arguments: must be a group of settings, got 5"),
        ("data.name=mnst", "data.name: unknown dataset 'mnst'; did you mean 'mnist'?"),
        ("data.fallback=mnst", "data.fallback: unknown dataset 'mnst'; did you mean 'mnist'?"),
        ("data.shift=9", "data.shift: must be at most 8, got 9"),
        ("train.epochs=-1", "train.epochs: must be at least 0, got -1"),
        ("train.epochs=1.5", "train.epochs: must be a whole number, got 1.5"),
        ("train.epochs=five", "train.epochs: must be a whole number, got 'five'"),
        ("train.epochs=true", "train.epochs: must be a whole number, got true"),
        ("train.batch_size=0", "train.batch_size: must be at least 1, got 0"),
        ("train.lr=0", "train.lr: must be above 0, got 0"),
        ("train.lr=.inf", "train.lr: must be a finite number, got inf"),
        ("train.lr=fast", "train.lr: must be a number, got 'fast'"),
        ("train.momentum=1", "train.momentum: must be below 1, got 1"),
        ("train.weight_decay=-1", "train.weight_decay: must be at least 0, got -1"),
        ("train.optimizer=adm", "train.optimizer: must be 'sgd' or 'adamw', got 'adm'"),
        ("train=", "train: must be a group of settings, got nothing"),
        ("seeds=[0, 0]", "seeds: give one or more seeds that differ from each other, got [0, 0]"),
        ("seeds=[]", "seeds: give one or more seeds that differ from each other, got []"),
        ("seeds=0", "seeds: must be a list, such as [1, 2], got 0"),
        ("seeds=[a]", "seeds.0: must be a whole number, got 'a'"),
        ("seeds=[-1]", "seeds.0: must be at least 0, got -1"),
        ("seeds=[9223372036854775808]", "seeds.0: must be below 9.22337e+18, got 9223372036854775808"),
        ("seeds.0=3", None),
        ("devices=0", "devices: must be at least 1, got 0"),
        ("controls=yes", "controls: must be true or false, got 'yes'"),
        ("name=Bad Name", "name: must be of lower-case letters, digits, '.', '_' and '-', got 'Bad Name'"),
        ("name=../up", "name: must be of lower-case letters, digits, '.', '_' and '-', got '../up'"),
        ("name=", "name: must be text, got nothing"),
        (
            "measure.runtimes=[tensorrt]",
            "measure.runtimes.0: must be 'torch', 'torch-compile', 'onnxruntime', 'onnxruntime-int8', 'openvino', 'ope",
        ),
        (
            "measure.runtimes=[]",
            "measure.runtimes: give at least one of torch, torch-compile, onnxruntime, onnxruntime-int8, openvino, op",
        ),
        ("measure.threads=[0]", "measure.threads.0: must be at least 1, got 0"),
        (f"name={'x' * 90}!", f"name: must be of lower-case letters, digits, '.', '_' and '-', got '{'x' * 59}..."),
    ],
)
def test_a_bad_override_gives_one_clear_line(override: str, expected: str | None) -> None:
    if override == "prune.pattern=block-1x8":
        assert load("lenet", [override]).prune.pattern == "block-1x8"
        return
    if override == "seeds.0=3":
        assert problems(override) == ["seeds: must be a list, such as [1, 2], got {'0': 3}"]
        return
    assert expected is not None
    (line,) = problems(override)
    assert line.startswith(expected)


def test_every_problem_is_listed() -> None:
    assert [line.partition(":")[0] for line in problems("prune.sparsity=20", "train.epochs=x", "foo=1")] == [
        "train.epochs",
        "prune.sparsity",
        "unknown setting 'foo' (known",
    ]
    with pytest.raises(
        ValueError, match=r"^the settings can't be used:\n  model: is missing\n  data: is missing\n"
    ) as caught:
        build({"name": "x"}, "the settings")
    assert len(str(caught.value).split("\n")) == 6


def test_every_schedule_loads_with_training_and_one_shot_without() -> None:
    for schedule in SCHEDULES:
        extra = [] if schedule == "one_shot" else ["prune.training.epochs=2"]
        assert load("lenet", [f"prune.schedule={schedule}", *extra]).prune.schedule == schedule
    assert problems("prune.schedule=cubic", "prune.training.epochs=0")[0].startswith(
        "prune: schedule cubic prunes whil"
    )


def test_n_of_m_that_the_model_cant_hold_is_refused_before_any_training() -> None:
    (line,) = problems("prune.pattern=2:4", "prune.sparsity=0.5")
    assert line.startswith(
        "model 'lenet' can't be pruned like this: pattern 2:4 needs the inputs (dimension 1) to be a mu"
    )
    assert problems("prune.pattern=2:4", "prune.sparsity=0.9")[0].startswith("prune: pattern 2:4 removes exactly 0.5")


def test_whole_channels_that_cant_go_are_refused_before_any_training() -> None:
    found = load("lenet-channels")
    assert (found.prune.sparsity, found.prune.channels) == (0.5, Channels())
    # by hand: only conv4 has 64 outputs or more, and 64 of its 166 leave 102 * (800 + 10) of 159,960 weights to go
    with pytest.raises(ValueError, match=r"model 'lenet' can't be pruned like this: .*0\.5"):
        load("lenet-channels", ["prune.sparsity=0.9", "prune.pattern={channel: {round_to: 64}}"])


def test_loading_leaves_the_random_state_alone() -> None:
    state = torch.get_rng_state()
    load("resnet20-fashion-90")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"must hold settings such as 'name: lenet', got nothing$"),
        (b"- 1\n- 2", r"must hold settings such as 'name: lenet', got \[1, 2\]$"),
        (b"hello", r"must hold settings such as 'name: lenet', got 'hello'$"),
        (b"name: [", r"is not valid YAML: line 1, column 8: "),
        (b"name: a\nname: b", r"is not valid YAML: line 2, column 1: the key 'name' appears twice$"),
        (
            bytes(range(256)),
            r"is not a text file in UTF-8 \('utf-8' codec can't decode byte 0x80 in position 128: inval",
        ),
        ("name: ü".encode("utf-16"), r"is not a text file in UTF-8 "),
        (b"name: x", r"can't be used:\n  model: is missing\n"),
    ],
)
def test_files_that_hold_no_recipe_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"recipe {str(path)!r} ")


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "r.yml").write_text(text_of("lenet"), encoding="utf-8-sig")
    assert load(str(tmp_path / "r.yml")) == load("lenet")


def test_recipes_that_are_not_there_are_told() -> None:
    with pytest.raises(UnknownNameError) as unknown:
        load("lenett")
    assert str(unknown.value) == (
        "unknown recipe 'lenett'; did you mean 'lenet'? (known: "
        + ", ".join(SHIPPED)
        + "); a file's name ends in .yaml"
    )
    for missing in ("no/such.yaml", Path("lenet"), ROOT):
        with pytest.raises(FileNotFoundError) as absent:
            load(missing)
        assert str(absent.value) == f"no recipe file at {str(missing)!r}; shipped recipes: {', '.join(SHIPPED)}"


def test_without_the_extra_it_is_said_how_to_get_it() -> None:
    done = run_without_extras("import prunus.lab.recipe")
    assert "MissingExtraError: reading settings needs the package 'yaml', which is not installed" in done.stderr
    assert "pip install 'prunus[train]'" in done.stderr


def test_a_registered_method_may_be_named_in_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CRITERIA, "_entries", dict(CRITERIA._entries))
    prunus.criterion("own")(lambda weight, stats: weight)
    assert isinstance(load("lenet", ["prune.criterion=own"]), Recipe)
    assert recipe.load("lenet").prune.criterion == "magnitude"


@pytest.mark.parametrize("key", ["a.b", "prune.sparsity", ".", "..", "x.", "prune.x.y", ""])
@pytest.mark.parametrize("group", [None, "prune", "train"])
def test_an_unknown_setting_may_have_dots_in_its_name(key: str, group: str | None) -> None:
    tree = {key: 1} if group is None else {group: {key: 1}}
    with pytest.raises(ValueError, match="unknown"):
        recipe.build({"name": "it", **tree})


@pytest.mark.parametrize("written", ["inputs-4:depthwise=columns", "{inputs-4: {depthwise: columns}}"])
def test_blocks_of_inputs_may_have_options(written: str) -> None:
    assert load("lenet", [f"prune.pattern={written}"]).prune.method().pattern == Inputs(4, depthwise="columns")
