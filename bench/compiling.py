"""Time compiling: the kernels once, then networks of several sizes, and the memory it takes.

    python bench/compiling.py [--sparsity 0.9] [NAME ...]

First the kernels are built, into a cache of this run; then each network is compiled in a process of its own, in which
nothing was timed before. ResNets are those of the package transformers, for one image of 224x224, with random weights.
Prints seconds, and the peak memory of the process with what it needs before it compiles.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMES = ("lenet", "lenet5-caffe", "resnet20", "resnet18", "resnet50")
DEPTHS = {
    "resnet18": {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"},
    "resnet50": {},
}


def compile_one(name: str, sparsity: float) -> str:
    """Prune and compile a network, and return a row of the table."""
    import torch
    import torch.export

    import prunus

    torch.manual_seed(0)
    if name in DEPTHS:
        from transformers import ResNetConfig, ResNetForImageClassification

        model = ResNetForImageClassification(ResNetConfig(num_labels=1000, **DEPTHS[name]))
        images = torch.randn(1, 3, 224, 224)
    else:
        model, images = prunus.models.create(name), torch.randn(1, *prunus.models.input_shape(name))
    prunus.prune(model.eval(), sparsity)
    start = time.perf_counter()
    torch.export.export(torch.nn.Linear(2, 2), (torch.randn(1, 2),))
    imported, before = time.perf_counter() - start, _peak()
    start = time.perf_counter()
    program = prunus.compile(model, images)
    whole = time.perf_counter() - start
    parts = [f"{program.seconds[part]:6.2f}" for part in ("trace", "tune", "assemble", "check")]
    return f"{name:14s}{imported:8.2f}{whole:9.2f}  {' '.join(parts)}{_peak():9.2f}{before:9.2f}"


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Build the kernels, then compile each network in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(compile_one(chosen.names[0], chosen.sparsity))
        return
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PRUNUS_CACHE": folder}
        command = [sys.executable, __file__, "--one", "--sparsity", str(chosen.sparsity)]
        start = time.perf_counter()
        subprocess.run([*command, "lenet"], env=environment, check=True, stdout=subprocess.DEVNULL)
        print(f"kernels built, and LeNet compiled, in {time.perf_counter() - start:.1f} s")
        parts = " ".join(f"{part:>6s}" for part in ("trace", "tune", "assem.", "check"))
        print(f"{'':14s}{'import':>8s}{'compile':>9s}  {parts}{'GB':>9s}{'before':>9s}")
        for name in chosen.names or NAMES:
            for choice in Path(folder).glob("*.json"):
                choice.unlink()
            subprocess.run([*command, name], env=environment, check=True)


if __name__ == "__main__":
    main()
