"""The documents are executed: every Python snippet runs, every command line does what it says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_snippets_run_in_order(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 26 * 26, 10))
    batches = [(torch.randn(4, 1, 28, 28), torch.randint(10, (4,))) for _ in range(10)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    names = {"model": model, "batches": batches, "optimizer": optimizer, "loss_function": nn.functional.cross_entropy}
    for snippet in blocks(document, "python"):
        exec(compile(snippet, str(document), "exec"), names)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_the_readme_has_the_two_commands_and_snippets_to_run() -> None:
    text = "\n".join(blocks(ROOT / "README.md", "console"))
    assert "make run" in text
    assert "make test" in text
    assert len(blocks(ROOT / "README.md", "python")) >= 2
    assert not re.findall(r"^[A-Z_]{5,}$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)  # a gap


def test_the_readmes_make_targets_exist() -> None:
    for command in ("run", "test", "check"):
        done = subprocess.run(["make", "--dry-run", command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.timeout(600)
def test_the_readmes_prunus_commands_run_as_written(tmp_path: Path) -> None:
    """All of them in one folder, in order; data is not downloaded and the phases are made short."""
    lines = "".join(blocks(ROOT / "README.md", "console")).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("prunus ")]
    assert {command[1] for command in commands} >= {"run", "prune", "compare", "ls", "doctor"}
    for command in commands:
        if command[1] == "run":
            short = ["seeds=[0]", "train.epochs=1", "finetune.epochs=1"]
            short += ["measure.batch_sizes=[1]", "measure.threads=[1]", "measure.sensitivity=false"]
            short += ["measure.runtimes=[torch,onnxruntime]", "measure.break_even=false"]
            gradual = ["prune.training.epochs=1"] if command[2] == "lenet-95" else []
            command += ["--no-download", *short, *gradual]
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


def test_links_and_pictures_in_the_documents_exist() -> None:
    for document in [*DOCUMENTS, ROOT / "CONTRIBUTING.md"]:
        targets = re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8"))
        local = [target for target in targets if "://" not in target]
        missing = [target for target in local if not (document.parent / target).exists()]
        assert not missing, f"{document.name} points to {missing}"
