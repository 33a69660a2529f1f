"""README's snippets and commands run; `make docs` executes every other page. Here is what neither of them sees."""

import importlib
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts]

# What makes a run short: a small net on small digits, and one way of timing it.
SHORT = "model.name=lenet-300-100 data.name=digits train.epochs=1 finetune.epochs=1 measure.runtimes=[torch]"
SHORT += " measure.batch_sizes=[1] measure.threads=[1] measure.sensitivity=false measure.break_even=false"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 26 * 26, 10))
    batches = [(torch.randn(4, 1, 28, 28), torch.randint(10, (4,))) for _ in range(10)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    names = {"model": model, "batches": batches, "optimizer": optimizer, "loss_function": nn.functional.cross_entropy}
    snippets = blocks(README, "python")
    for snippet in snippets:
        exec(compile(snippet, str(README), "exec"), names)
    assert snippets
    masks = prunus.load(tmp_path / "masks.safetensors", expect=prunus.Masks)
    assert round(masks.sparsity, 3) == 0.9
    masks.check(model)


def test_the_readmes_prunus_commands_run(tmp_path: Path) -> None:
    lines = [line for block in blocks(README, "console") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("prunus ")]
    assert ["prunus", "run", "lenet"] in commands
    for command in commands:
        short = [*SHORT.split(), "--no-download"] if command[1] == "run" else []
        done = subprocess.run(
            [sys.executable, "-m", *command, *short], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "runs/lenet/seed-0/report.html").is_file()


@pytest.mark.parametrize("target", ["run", "test", "check", "docs"])
def test_make_targets_exist(target: str) -> None:
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert any(f"make {target}" in page.read_text(encoding="utf-8") for page in (README, ROOT / "CONTRIBUTING.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_in_pages_is_executed(page: Path) -> None:
    assert not blocks(page, r"(?:python|pycon|py)"), f"{page.name}: write {{code-cell}}, which make docs executes"


def test_every_public_name_is_in_the_api() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.parent.name == "api")
    documented = set(re.findall(r"^\.\. (?:auto|py:)\w+:: (?:prunus\.)?(\w+)", text, re.MULTILINE))
    documented |= {name for name, _ in inspect.getmembers(importlib.import_module("prunus.errors"), inspect.isclass)}
    assert set(prunus.__all__) <= documented


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.stem)
def test_links_and_pictures_exist(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing
