"""Every topology of the tests' zoo through the whole road: shrink, channel pruning, training, file, ONNX Runtime.

    python bench/topologies.py [--only NAME ...] [--write docs/topologies.md]

For each network:

- shrink: random masks over all weights at 50, 90 and 99%, biases not zero; the largest difference of an output from
  the masked model's, relative to the largest output, in float64 and in float32;
- channels: `prune(..., pattern="channel")` at 30, 50 and 70%, then `shrink`: how much of the targeted weights went, or
  why it could not be met;
- at the middle one that could be met: one training step, `save`, `load` in a fresh process that has not the class, and
  ONNX Runtime, each against the shrunk model.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import prunus
from prunus.files import save_tensors, write_json, write_text
from prunus.graph import call_arguments
from prunus.graph.exported import ExportedModule
from prunus.machine import machine
from prunus.proving import verification
from prunus.pruning.channels import ChannelFamilies

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from zoo import ZOO, Case

SPARSITIES = (0.5, 0.9, 0.99)
TARGETS = (0.3, 0.5, 0.7)
LIMITS = {torch.float64: 1e-10, torch.float32: 1e-5}

# Reads files and says how far what they give is from what is expected; knows nothing of the classes.
READER = """
import json, sys
from pathlib import Path
import torch, prunus
from prunus.files import load_tensors
from prunus.proving import verification
found = {}
for path in sorted(Path(sys.argv[1]).glob("*.prunus")):
    tensors = load_tensors(path.with_suffix(".safetensors"))
    args = tuple(tensors[key] for key in sorted(tensors) if key.startswith("arg"))
    kwargs = {key[3:]: tensor for key, tensor in tensors.items() if key.startswith("kw:")}
    expected = [tensors[key] for key in sorted(tensors) if key.startswith("out")]
    try:
        model = prunus.load(path)
        found[path.stem] = verification.difference(expected, verification.outputs(model, args, kwargs))
    except Exception as error:
        found[path.stem] = f"{type(error).__name__}: {error}"
assert "transformers" not in sys.modules and "zoo" not in sys.modules
print(json.dumps(found))
"""


@dataclass
class Row:
    """What was found for one network."""

    name: str
    parameters: int
    shrunk: dict[str, float] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    channels: dict[str, Any] = field(default_factory=dict)
    kind: str = ""
    step: str = ""
    loaded: Any = None
    onnx: Any = None


def look(case: Case, folder: Path) -> Row:
    """Take a network through all of it."""
    model = case.make()
    row = Row(case.name, count(model))
    for dtype in LIMITS:
        for sparsity in SPARSITIES:
            key = f"{str(dtype).removeprefix('torch.')} {sparsity:g}"
            row.shrunk[key], row.left[key] = shrink_difference(case, dtype, sparsity)
    done: dict[float, nn.Module] = {}
    for target in TARGETS:
        pruned = case.make()
        try:
            channels = ChannelFamilies(pruned, case.example_inputs)
            masks = prunus.prune(pruned, target, pattern="channel", scope="uniform", example_inputs=case.example_inputs)
        except prunus.ChannelError as error:
            row.channels[f"{target:g}"] = str(error)
            continue
        row.channels[f"{target:g}"] = channels.sparsity(masks)
        done[target] = prunus.shrink(pruned, case.example_inputs)
    if done:
        smaller = done.get(0.5, next(iter(done.values())))
        row.kind = "graph" if isinstance(smaller, ExportedModule) else "class"
        use(row, case, smaller, folder)
    return row


def shrink_difference(case: Case, dtype: torch.dtype, sparsity: float) -> tuple[float, int]:
    """Return how far the shrunk model's outputs are from the masked one's on new inputs, and its parameters."""
    model = case.make().to(dtype)
    generator = torch.Generator().manual_seed(round(1000 * sparsity))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter *= torch.rand(parameter.shape, generator=generator) >= sparsity
    args, kwargs = (converted(inputs, dtype) for inputs in call_arguments(case.inputs(3)))
    example = kwargs or args
    smaller = prunus.shrink(model, example)
    return verification.difference(
        verification.outputs(model, args, kwargs), verification.outputs(smaller, args, kwargs)
    ), count(smaller)


def use(row: Row, case: Case, smaller: nn.Module, folder: Path) -> None:
    """Train a step, save for another process, run in ONNX Runtime."""
    args, kwargs = case.arguments(3)
    expected = verification.outputs(smaller, args, kwargs)
    trained = copy.deepcopy(smaller).train()
    optimizer = torch.optim.SGD(trained.parameters(), lr=1e-3)
    before = [parameter.detach().clone() for parameter in trained.parameters()]
    outputs = [leaf for leaf in verification._leaves(trained(*args, **kwargs)) if leaf.is_floating_point()]
    sum(leaf.square().mean() for leaf in outputs).backward()
    optimizer.step()
    moved = sum(not torch.equal(a, b) for a, b in zip(before, trained.parameters(), strict=True))
    row.step = f"{moved} of {len(before)}"
    path = folder / f"{case.name}.prunus"
    prunus.save(smaller, path, example_inputs=case.example_inputs)
    tensors = {f"arg{index}": value for index, value in enumerate(args)}
    tensors |= {f"kw:{name}": value for name, value in kwargs.items()}
    tensors |= {f"out{index:02}": value for index, value in enumerate(expected)}
    save_tensors(path.with_suffix(".safetensors"), tensors)
    try:
        row.onnx = prunus.export(smaller, folder / f"{case.name}.onnx", case.example_inputs).difference
    except ValueError as error:
        row.onnx = str(error)


def converted(inputs: Any, dtype: torch.dtype) -> Any:
    """Return inputs with their floating-point tensors in another dtype."""

    def one(value: Tensor) -> Tensor:
        return value.to(dtype) if value.is_floating_point() else value

    return {k: one(v) for k, v in inputs.items()} if isinstance(inputs, dict) else tuple(one(v) for v in inputs)


def count(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def fresh(folder: Path) -> dict[str, Any]:
    """Load all files in a process of their own."""
    import json

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READER, str(folder)], capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def lines(rows: list[Row]) -> list[str]:
    """Return the table as Markdown."""
    header = (
        "network",
        "parameters",
        "shrink, float64",
        "shrink, float32",
        "30%",
        "50%",
        "70%",
        "stays its class",
        "trains",
        "loads anew",
        "ONNX Runtime",
    )
    table = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    notes = []
    for row in rows:
        worst = [max(v for k, v in row.shrunk.items() if k.startswith(dtype)) for dtype in ("float64", "float32")]
        cells = [row.name, f"{row.parameters:,}", *(f"{value:.0e}" for value in worst)]
        for target, found in row.channels.items():
            cells.append(f"{found:.1%}" if isinstance(found, float) else "-")
            if not isinstance(found, float):
                notes.append(f"- {row.name} at {float(target):.0%}: {found}")
        cells += [{"class": "yes", "graph": "no", "": "-"}[row.kind], row.step or "-", said(row.loaded), said(row.onnx)]
        table.append(f"| {' | '.join(cells)} |")
    return [*table, "", *(["Not met:", "", *notes] if notes else [])]


def said(found: Any) -> str:
    """Return a difference as text."""
    return "-" if found is None else f"{found:.0e}" if isinstance(found, float) else f"no: {found}"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--write", type=Path, help="a Markdown file for the table")
    parser.add_argument("--json", type=Path, default=Path("bench-topologies.json"))
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    with tempfile.TemporaryDirectory(prefix="prunus-") as name:
        for case in ZOO.values():
            if chosen.only is None or case.name in chosen.only:
                rows.append(look(case, Path(name)))
                print(rows[-1], flush=True)
        for case_name, found in fresh(Path(name)).items():
            next(row for row in rows if row.name == case_name).loaded = found
    table = lines(rows)
    print("\n".join(table))
    write_json(chosen.json, {"machine": str(machine()), "rows": [vars(row) for row in rows]})
    if chosen.write:
        write_text(chosen.write, "\n".join([*INTRODUCTION, *table]) + "\n")


INTRODUCTION = [
    "# Tested networks",
    "",
    "Made by `python bench/topologies.py --write docs/topologies.md`; the networks are in `tests/support/zoo*.py`:",
    "small, with random weights, biases and running statistics.",
    "",
    "- *shrink*: random masks at 50, 90 and 99% over all weights; the worst relative difference of an output from the",
    "  masked model's.",
    '- *30%, 50%, 70%*: the share of the targeted weights that `pattern="channel"` removed when asked for that much.',
    "- *stays its class*: whether the model at 50% is an instance of its own class, or its exported graph.",
    "- *trains*: parameters that one step in train mode changed. Frozen tables and unused ones stay.",
    "- *loads anew*, *ONNX Runtime*: relative difference of the outputs in a fresh process without the class, and in",
    "  ONNX Runtime.",
    "",
]


if __name__ == "__main__":
    main()
