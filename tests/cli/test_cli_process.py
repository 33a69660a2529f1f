"""`prunus` as a process of its own: exit codes, streams, signals, pipes, encodings, and what it imports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import TINY

PRUNUS = [sys.executable, "-m", "prunus"]
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("PRUNUS_")} | {
    "OMP_NUM_THREADS": "1"
}


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["ls"], ["prune", "--help"], ["prune", "--sparsty"]])
def test_help_and_lists_import_nothing_heavy(words: list[str]) -> None:
    program = (
        "import sys, prunus.cli; prunus.cli.run_command(sys.argv[1:]); print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in done.stderr.splitlines()}
    assert "cyclopts" in imported
    heavy = {"torch", "numpy", "safetensors", "pydantic", "lightning_fabric", "plotly", "jinja2"}
    assert not imported & (heavy | {"sklearn", "scipy", "mlxtend", "torchmetrics", "zstandard", "markdown_it"})


def test_a_mistake_goes_to_standard_error_with_code_2_in_any_encoding(tmp_path: Path) -> None:
    name = b"[/] \xff \xc3\xbc.safetensors"  # no UTF-8, then a letter that ASCII does not have
    command = [*PRUNUS, "prune", "--sparsity", "0.5", "--out", "o", "--weights"]
    environment = ENVIRONMENT | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command, name], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"Error: no file at '[/] \\udcff \\xfc.safetensors'; expected a .safetensors file\n"


def test_a_reader_that_has_enough_ends_the_command_without_a_word() -> None:
    with subprocess.Popen(
        [*PRUNUS, "ls", "criteria"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) in (0, 1)


def test_ctrl_c_in_a_run_ends_it_cleanly_with_what_is_done_kept(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY.replace("epochs: 2", "epochs: 1000"))
    command = ["run", "tiny.yaml", "--out", "my runs", "--accelerator", "cpu"]
    with subprocess.Popen(
        [*PRUNUS, *command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        # a shell starts what runs in the background with SIGINT ignored, and that is inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stderr is not None
        assert next(line for line in process.stderr if line.startswith("train 2/1000"))
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == (
        "Stopped; what is done is kept. To go on, give the same command again: "
        "prunus run tiny.yaml --out 'my runs' --accelerator cpu"
    )
    assert (tmp_path / "my runs" / "seed-0" / "train.state.safetensors").is_file()
