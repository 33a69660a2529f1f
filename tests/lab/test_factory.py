"""Models from what a user types: names, package.module:factory, arguments."""

import json
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from prunus.lab import factory
from prunus.lab.factory import create, parse_arguments
from prunus.lab.models import LeNet

MODULE = """
from torch import nn

class Holder:
    @staticmethod
    def make(outputs=1):
        return nn.Linear(2, outputs)

ready = nn.Linear(2, 1)
number = 3

def fails(): raise KeyError("boom")
def silent(): raise ValueError
def ends(): raise SystemExit("enough")
def returns_text(): return "text"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("made_here", "made_broken", "made_package", "made_package.inner"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "made_here.py").write_text(MODULE)
    (tmp_path / "made_broken.py").write_text("import no_such_module_at_all")
    (tmp_path / "made_package").mkdir()
    (tmp_path / "made_package" / "inner.py").write_text("from torch import nn\ndef make(): return nn.Identity()")
    return tmp_path


def test_a_name_makes_a_model_of_prunus() -> None:
    model = create("lenet", {"num_classes": 7})
    assert isinstance(model, LeNet)
    assert model.fc.out_features == 7


def test_a_factory_in_the_current_folder_is_called_with_its_arguments() -> None:
    model = create("made_here:Holder.make", {"outputs": 5})
    assert isinstance(model, nn.Linear)
    assert model.weight.shape == (5, 2)


def test_a_package_in_the_current_folder_is_found() -> None:
    assert isinstance(create("made_package.inner:make"), nn.Identity)


def test_a_model_that_is_there_already_is_copied_so_that_two_do_not_share_weights() -> None:
    first, second = create("made_here:ready"), create("made_here:ready")
    with torch.no_grad():
        first.weight.fill_(1.0)
        second.weight.fill_(2.0)
    assert first.weight.flatten().tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("source", "arguments", "error", "told"),
    [
        ("lenett", {}, ValueError, r"unknown model 'lenett'; did you mean 'lenet'\?.*package\.module:factory"),
        ("", {}, ValueError, "unknown model ''"),
        ("lenet", {"num_clases": 3}, ValueError, "did you mean 'num_classes'"),
        (":", {}, ValueError, "not of the form package.module:factory"),
        ("made_here:", {}, ValueError, "not of the form"),
        (":ready", {}, ValueError, "not of the form"),
        ("made here:ready", {}, ValueError, "not of the form"),
        ("made_here:ready:twice", {}, ValueError, "not of the form"),
        ("made_hre:ready", {}, ValueError, "no module 'made_hre': it is neither in the current folder"),
        ("made_package.outer:make", {}, ValueError, "no module 'made_package.outer'"),
        ("made_broken:make", {}, ValueError, "importing 'made_broken' failed: ModuleNotFoundError.*no_such_module"),
        ("made_here:redy", {}, ValueError, r"unknown name \(in made_here\) 'redy'; did you mean 'ready'"),
        ("made_here:Holder.mak", {}, ValueError, "did you mean 'make'"),
        ("made_here:ready", {"outputs": 2}, ValueError, "is a model, not a factory.*outputs"),
        ("made_here:number", {}, TypeError, "is of type int"),
        ("made_here:returns_text", {}, TypeError, r"made_here:returns_text\(\) returned an object of type str"),
        ("made_here:fails", {}, ValueError, r"made_here:fails\(\) failed: KeyError: 'boom'"),
        ("made_here:silent", {}, ValueError, r"made_here:silent\(\) failed: ValueError$"),
        ("made_here:ends", {}, ValueError, "failed: SystemExit: enough"),
        ("made_here:Holder.make", {"outptus": 2}, ValueError, r"make\(outptus=2\) failed: TypeError.*outptus"),
    ],
)
def test_what_can_not_be_made_is_explained(
    source: str, arguments: dict[str, object], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        create(source, arguments)


def test_a_module_with_an_error_of_syntax_is_named(folder: Path) -> None:
    (folder / "made_wrong.py").write_text("def make(:")
    with pytest.raises(factory.FactoryError, match="importing 'made_wrong' failed: SyntaxError"):
        create("made_wrong:make")


def test_arguments_are_json_or_python_or_text() -> None:
    given_texts = ["a=1", "b=1e-3", "c=true", "d=False", "e=null", "f=None", "g=[1, 2]", "h=(1, 2)", "i=relu", "j='7'"]
    assert parse_arguments([*given_texts, "k=", "l=x=y", "m=7 8"]) == {
        "a": 1, "b": 1e-3, "c": True, "d": False, "e": None, "f": None, "g": [1, 2], "h": (1, 2), "i": "relu",
        "j": "7", "k": "", "l": "x=y", "m": "7 8",
    }  # fmt: skip


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=50)
@given(JSON)
def test_any_json_value_arrives(value: object) -> None:
    assert parse_arguments([f"key={json.dumps(value)}"]) == {"key": value}


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_any_text_is_read_without_running_it(text: str) -> None:
    assert parse_arguments([f"key={text}"]).keys() == {"key"}


@pytest.mark.parametrize("setting", ["", "=", "=1", "key", "a.b=1", "1a=2", "a b=1"])
def test_an_argument_without_a_proper_key_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match="not of the form key=value"):
        parse_arguments([setting])


def test_an_argument_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'a' is given twice: 1 and '2'"):
        parse_arguments(["a=1", "a=2"])
