"""Optional packages: imported where used, and a missing one says how to get it."""

from __future__ import annotations

import importlib.metadata
import math
import re
import tomllib
from pathlib import Path

import pytest

from prunus.extras import EXTRA_OF, MissingExtraError, require
from without_extras import run_without_extras

ROOT = Path(__file__).parent.parent


def test_what_is_installed_is_imported() -> None:
    assert require("math", "a test") is math
    assert require("os.path", "a test").join("a", "b") == str(Path("a") / "b")


def test_a_missing_package_names_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRA_OF, "no_such_package", "report")
    with pytest.raises(MissingExtraError) as caught:
        require("no_such_package.part", "drawing the report")
    assert str(caught.value) == (
        "drawing the report needs the package 'no_such_package', which is not installed; "
        "install it with: pip install 'prunus[report]'"
    )
    assert isinstance(caught.value, ImportError)


def test_a_package_no_extra_is_known_for_points_at_all_of_them() -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'prunus\[all\]'"):
        require("no_such_package", "a test")


def test_a_part_that_an_installed_package_lacks_is_not_called_a_missing_package() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"json\.no_such_part") as caught:
        require("json.no_such_part", "a test")
    assert not isinstance(caught.value, MissingExtraError)


def test_an_installed_package_that_lacks_something_itself_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_installed.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency") as caught:
        require("half_installed", "a test")
    assert not isinstance(caught.value, MissingExtraError)


def test_every_module_is_in_the_extra_it_is_said_to_be_in() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    distributions = importlib.metadata.packages_distributions()
    for module, extra in EXTRA_OF.items():
        if module not in distributions and extra not in extras["all"][0]:
            continue  # what only some have installed
        brought = {re.split(r"[><=]", requirement)[0] for requirement in extras[extra]}
        installed_by = {name.lower().replace("_", "-") for name in distributions[module]}
        assert installed_by & brought, f"extra {extra!r} does not bring {module!r}"


def test_importing_and_pruning_need_no_extra() -> None:
    done = run_without_extras("""
import prunus, torch
masks = prunus.prune(torch.nn.Linear(10, 10), 0.2)
print(masks.num_pruned, *sorted(set(sys.modules) & {"numpy", "safetensors", "yaml", "pydantic", "rich"}))
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["20", "numpy", "safetensors"]
