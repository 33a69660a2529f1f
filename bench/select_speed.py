"""Time a global magnitude pruning beside torch.nn.utils.prune.global_unstructured, and measure its memory.

    python bench/select_speed.py [--weights 184549376] [--sparsity 0.2] [--repeats 5] [--out runs/bench/select.json]

The model is 11 linear layers, of 4096x4096 float32 weights unless --weights asks for fewer. Every side prunes the same
weights, in a process of its own, and its time is that of the whole call, masks applied. Peak memory is the process's
resident memory at its highest, read from Linux's counter, above what it was before the first call. Masks belong to the
result: bools for prunus.prune; for torch's interface floats, which keep the product of weights and masks beside the
weights besides. Which weights were chosen is compared one by one.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_nn_utils_prune

import prunus
from prunus import torch_prune
from prunus.files import load_tensors, save_tensors, write_json
from prunus.machine import machine

NUM_LAYERS = 11
LEAST_TIMES_FASTER = 30
MOST_MEMORY = 0.3  # of the model's bytes, above the model and its masks


def build(weights: int, seed: int) -> nn.Sequential:
    """Return the layers with about so many weights in all, drawn from a normal distribution."""
    width = max(1, math.isqrt(weights // NUM_LAYERS))
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(NUM_LAYERS)))
    generator = torch.Generator().manual_seed(seed)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02, generator=generator)
    return model


def prunus_prune(model: nn.Sequential, sparsity: float) -> list[Tensor]:
    """Prune with prunus and return the masks."""
    return list(prunus.prune(model, sparsity=sparsity, scope="global").values())


def global_unstructured(library: Any) -> Callable[[nn.Sequential, float], list[Tensor]]:
    """Return a function that prunes with one of the two libraries of this interface and returns the masks."""

    def prune(model: nn.Sequential, sparsity: float) -> list[Tensor]:
        pairs = [(layer, "weight") for layer in model]
        library.global_unstructured(pairs, pruning_method=library.L1Unstructured, amount=sparsity)
        return [mask for layer in model for mask in layer.buffers()]

    return prune


SIDES = {
    "torch.nn.utils.prune": global_unstructured(torch_nn_utils_prune),
    "prunus.torch_prune": global_unstructured(torch_prune),
    "prunus.prune": prunus_prune,
}


@dataclass(frozen=True)
class Run:
    """What one side took; bytes are those of the first call."""

    side: str
    seconds: list[float]
    model_bytes: int
    mask_bytes: int
    peak_bytes: int

    @property
    def median(self) -> float:
        """The median of the seconds."""
        return statistics.median(self.seconds)

    @property
    def peak_above_masks(self) -> float:
        """The peak above the model and its masks, in units of the model."""
        return (self.peak_bytes - self.mask_bytes) / self.model_bytes


def resident(counter: str) -> int:
    """Return a counter of this process's resident memory in bytes: VmRSS is now, VmHWM the most since its reset."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(counter):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {counter}; this benchmark reads Linux's memory counters")


def reset_peak() -> None:
    """Begin to count VmHWM anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def run_here(side: str, arguments: argparse.Namespace, masks_path: Path) -> Run:
    """Measure one side in this process, and leave its masks in a file."""
    SIDES[side](build(10_000, seed=1), arguments.sparsity)  # imports, threads
    seconds, sizes = [], []
    repeats = arguments.repeats if side.startswith("prunus") else arguments.torch_repeats
    for _ in range(repeats):
        model = build(arguments.weights, arguments.seed)
        gc.collect()
        reset_peak()
        before = resident("VmRSS")
        began = time.perf_counter()
        masks = SIDES[side](model, arguments.sparsity)
        seconds.append(time.perf_counter() - began)
        sizes.append((resident("VmHWM") - before, sum(mask.nbytes for mask in masks)))
    model_bytes = 4 * sum(mask.numel() for mask in masks)
    save_tensors(masks_path, {str(index): mask.bool() for index, mask in enumerate(masks)})
    (peak, mask_bytes), *_ = sizes
    return Run(side, seconds, model_bytes, mask_bytes, peak)


def run_apart(side: str, masks_path: Path) -> Run:
    """Measure one side in a process of its own, called as this one was."""
    command = [sys.executable, *sys.argv, "--one", side, "--masks", str(masks_path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def compare(first: Path, second: Path, model: nn.Sequential) -> dict[str, Any]:
    """Count the weights that only one side pruned, and say whether these have one magnitude: ties at the threshold."""
    masks, others = load_tensors(first), load_tensors(second)
    differing = [
        parameter.detach()[masks[str(index)] != others[str(index)]].abs()
        for index, parameter in enumerate(model.parameters())
    ]
    magnitudes = set(torch.cat(differing).tolist())
    pruned = [sum(int((~mask).sum()) for mask in found.values()) for found in (masks, others)]
    return {
        "pruned": pruned,
        "differing": sum(len(found) for found in differing),
        "same_but_for_ties": pruned[0] == pruned[1] and len(magnitudes) <= 1,
    }


def show(runs: list[Run], same: dict[str, dict[str, Any]]) -> None:
    """Print the table and what it says of the limits."""
    print(f"{'':22}{'seconds':>9}{'least - most':>16}{'faster':>9}{'peak/model':>12}{'less masks':>12}  same weights")
    for run in runs:
        spread = f"{min(run.seconds):.2f} - {max(run.seconds):.2f}"
        verdict = same.get(run.side)
        words = "" if verdict is None else f"{verdict['same_but_for_ties']} ({verdict['differing']} ties differ)"
        print(
            f"{run.side:22}{run.median:9.3f}{spread:>16}{runs[0].median / run.median:8.1f}x"
            f"{run.peak_bytes / run.model_bytes:12.2f}{run.peak_above_masks:12.2f}  {words}"
        )
    faster = runs[0].median / runs[-1].median
    print(f"\nprunus.prune is {faster:.1f} times faster; asked for: at least {LEAST_TIMES_FASTER}")
    print(
        f"its peak above the model and its masks is {runs[-1].peak_above_masks:.2f} of the model's bytes; "
        f"asked for: at most {MOST_MEMORY}"
    )


def main() -> None:
    """Measure every side, compare the choices, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=NUM_LAYERS * 4096**2, help="in all 11 layers, about")
    parser.add_argument("--sparsity", type=float, default=0.2)
    parser.add_argument("--repeats", type=int, default=5, help="of both sides of prunus")
    parser.add_argument("--torch-repeats", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/select.json"))
    parser.add_argument("--one", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--masks", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(dataclasses.asdict(run_here(arguments.one, arguments, arguments.masks))))
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = {side: Path(folder) / f"{side}.safetensors" for side in SIDES}
        runs = [run_apart(side, path) for side, path in paths.items()]
        model = build(arguments.weights, arguments.seed)
        first, *others = SIDES
        same = {side: compare(paths[first], paths[side], model) for side in others}
    show(runs, same)
    settings = {name: value for name, value in vars(arguments).items() if name not in ("out", "one", "masks")}
    rows = [{**dataclasses.asdict(run), "median": run.median, "peak_above_masks": run.peak_above_masks} for run in runs]
    system = {"torch": torch.__version__, **dataclasses.asdict(machine())}
    write_json(arguments.out, {"settings": settings, "machine": system, "sides": rows, "compared_with_torch": same})


if __name__ == "__main__":
    main()
