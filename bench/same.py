"""Does another version of prunus give the same results? Record them with one, compare with the other.

    python bench/same.py record FOLDER [--jobs 2] [--only NAME ...]
    python bench/same.py compare OLD NEW

For each network of the tests' zoo it records digests of the masks of `prune` (single weights, n:m, channels), of the
smaller model's parameters and outputs, and of the outputs of what `load` makes of a saved file; and the outputs of the
compiled program (untuned, one thread) and of the exported C, built by the system's compiler. Digests have to be equal;
programs and C may differ by rounding, at most 1e-5 of the largest output. A refusal is recorded by its type and its
first words. `compare` prints one line for each difference, and how many results agree.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import hashlib
import json
import multiprocessing
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import prunus

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from zoo import ZOO, Case

ROUNDING = 1e-5


def digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return a checksum of names, shapes, dtypes and every bit."""
    total = hashlib.sha256()
    for name, tensor in tensors:
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        total.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def outputs(model: Callable[..., Any], case: Case) -> list[Tensor]:
    """Run a model on five samples."""
    args, kwargs = case.arguments(5)
    with torch.no_grad():
        found = model(*args, **kwargs)
    leaves = pytree.tree_leaves(dict(found) if hasattr(found, "items") else found)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def numbered(tensors: Iterable[Tensor]) -> list[tuple[str, Tensor]]:
    """Name tensors by their place."""
    return [(str(place), tensor) for place, tensor in enumerate(tensors)]


class Recording:
    """The results of one network: texts, and the numbers that may differ by rounding.

    Args:
        case: the network.
        folder: for files that are made on the way.
    """

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.folder = case, folder
        self.texts: dict[str, str] = {}
        self.numbers: dict[str, Tensor] = {}

    def run(self) -> None:
        """Record all of them."""
        for pattern, sparsity in (("unstructured", 0.6), ("2:4", 0.5), ("channel", 0.3)):
            self._note(f"prune {pattern}", lambda p=pattern, s=sparsity: digest(self._prune(p, s)[1].items()))
        self._note("shrink", self._shrink)
        self._note("pack", self._pack)
        self._note("compile", self._compile)
        self._note("C", self._export)

    def _note(self, what: str, result: Callable[[], str]) -> None:
        try:
            self.texts[what] = result()
        except (ValueError, TypeError) as error:  # how prunus refuses
            words = str(error).split(', "')[0]  # what follows is the place of a source file
            self.texts[what] = f"{type(error).__name__}: {words[:60]}"

    def _prune(self, pattern: str, sparsity: float) -> tuple[nn.Module, prunus.Masks]:
        model = self.case.make()
        inputs = self.case.example_inputs if pattern == "channel" else None
        scope = "global" if pattern == "unstructured" else "uniform"
        return model, prunus.prune(model, sparsity, pattern=pattern, scope=scope, example_inputs=inputs)

    def _shrink(self) -> str:
        model, _ = self._prune("channel", 0.3)
        smaller = prunus.shrink(model, self.case.example_inputs)
        return f"{digest(smaller.state_dict().items())} {digest(numbered(outputs(smaller, self.case)))}"

    def _pack(self) -> str:
        model, _ = self._prune("unstructured", 0.6)
        path = self.folder / "model.prunus"
        prunus.save(model, path, example_inputs=self.case.example_inputs)
        return digest(numbered(outputs(prunus.load(path), self.case)))

    def _compile(self) -> str:
        model, _ = self._prune("unstructured", 0.6)
        program = prunus.compile(model, self.case.example_inputs, threads=1, tune=False)
        results = outputs(program, self.case)
        self.numbers |= {f"program {name}": value.clone() for name, value in numbered(results)}
        return f"{len(results)} outputs"

    def _export(self) -> str:
        model, _ = self._prune("unstructured", 0.6)
        path = self.folder / "network.c"
        prunus.export(model, path, self.case.example_inputs)
        args, kwargs = self.case.arguments(1)
        expected = outputs(model, self.case)
        results = run_c(path, [*args, *kwargs.values()], [value.numel() for value in expected])  # enough for one sample
        self.numbers |= {f"C {name}": value for name, value in numbered(results)}
        return f"{len(results)} outputs"


def run_c(path: Path, inputs: list[Tensor], sizes: list[int]) -> list[Tensor]:
    """Build exported C with the system's compiler, and run it on one sample."""
    library = path.with_suffix(".so")
    command = ["cc", "-O1", "-std=c99", "-shared", "-fPIC", str(path), "-lm", "-o", str(library)]
    subprocess.run(command, check=True, timeout=600)
    results = [torch.zeros(size) for size in sizes]
    given = [value.contiguous() for value in inputs]
    arguments = [ctypes.c_void_p(value.data_ptr()) for value in (*given, *results)]
    ctypes.CDLL(str(library))[f"{path.stem}_run"](*arguments)
    return results


def record_one(name: str) -> tuple[str, dict[str, str], dict[str, Tensor]]:
    """Record the results of one network of the zoo."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        recording = Recording(ZOO[name], Path(folder))
        recording.run()
    return name, recording.texts, recording.numbers


def record(folder: Path, names: list[str], jobs: int) -> None:
    """Record the results of networks into `results.json` and `numbers.safetensors`."""
    texts: dict[str, dict[str, str]] = {}
    numbers: dict[str, Tensor] = {}
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for done, future in enumerate(as_completed([pool.submit(record_one, name) for name in names]), 1):
            name, own, values = future.result()
            texts[name] = own
            numbers |= {f"{name}: {what}": value.contiguous() for what, value in values.items()}
            print(
                f"{done} of {len(names)}: {name}: {', '.join(what for what in own if 'Error' in own[what])}", flush=True
            )
    (folder / "results.json").write_text(json.dumps(dict(sorted(texts.items())), indent=1) + "\n")
    save_file(numbers, folder / "numbers.safetensors")


def compare(old: Path, new: Path) -> int:
    """Print what differs between two recordings; return how many results do."""
    texts = [json.loads((folder / "results.json").read_text()) for folder in (old, new)]
    agree: collections.Counter[str] = collections.Counter()
    differ = 0
    for name in sorted(texts[0]):
        for what, before in texts[0][name].items():
            after = texts[1].get(name, {}).get(what, "nothing")
            if before == after:
                agree[what] += 1
            else:
                differ += 1
                print(f"{name}, {what}: {before} became {after}")
    numbers = [load_file(folder / "numbers.safetensors") for folder in (old, new)]
    for name, value in numbers[0].items():
        other = numbers[1].get(name)
        if other is None or other.shape != value.shape:
            differ += 1
            print(f"{name}: {tuple(value.shape)} became {None if other is None else tuple(other.shape)}")
            continue
        apart = float((value.double() - other.double()).abs().max() / value.double().abs().max().clamp(min=1e-30))
        if not apart <= ROUNDING:
            differ += 1
            print(f"{name}: apart by {apart:.1e}")
    print(f"{len(texts[0])} networks; equal: {dict(agree)}; different: {differ}")
    return differ


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recorder = commands.add_parser("record")
    recorder.add_argument("folder", type=Path)
    recorder.add_argument("--jobs", type=int, default=2)
    recorder.add_argument("--only", nargs="*")
    comparer = commands.add_parser("compare")
    comparer.add_argument("old", type=Path)
    comparer.add_argument("new", type=Path)
    options = parser.parse_args()
    if options.command == "compare":
        sys.exit(1 if compare(options.old, options.new) else 0)
    record(options.folder, options.only or list(ZOO), options.jobs)


if __name__ == "__main__":
    main()
