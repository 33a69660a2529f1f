"""A made-up but consistent run: a real LeNet-shaped state, masks by magnitude, figures computed from both."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor

from prunus import files
from prunus.machine import Machine
from prunus.measuring.receipt import (
    Accuracy,
    BreakEven,
    BreakEvenPoint,
    Check,
    DataFacts,
    Latency,
    LayerFacts,
    ModelFacts,
    PairedTest,
    Receipt,
)
from prunus.pruning.masks import Masks

SHAPES = {
    "conv1.weight": (20, 1, 5, 5),
    "conv1.bias": (20,),
    "conv2.weight": (50, 20, 5, 5),
    "conv2.bias": (50,),
    "conv4.weight": (166, 50, 4, 4),
    "conv4.bias": (166,),
    "fc.weight": (10, 166),
    "fc.bias": (10,),
}
# how often a weight is used for one 28x28 image: the positions of each convolution's output
USES = {"conv1": 24 * 24, "conv2": 8 * 8, "conv4": 1, "fc": 1}
RECIPE = {
    "name": "lenet",
    "seeds": [0],
    "model": {"name": "lenet", "arguments": {}},
    "data": {"name": "mnist", "fallback": "mnist-5k", "shift": 1},
    "prune": {"sparsity": 0.2, "criterion": "magnitude", "pattern": "unstructured", "scope": "global"},
    "finetune": {"epochs": 2},
}
NUM_TEST = 2000


def lenet_state(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) / max(1, torch.Size(shape[1:]).numel()) ** 0.5
        for name, shape in SHAPES.items()
    }


def magnitude_masks(state: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    weights = {name: value for name, value in state.items() if name.endswith("weight")}
    joined = torch.cat([value.abs().flatten() for value in weights.values()])
    cut = joined.sort().values[round(sparsity * len(joined)) - 1]
    return {name: value.abs() > cut for name, value in weights.items()}


def masked(state: dict[str, Tensor], masks: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value * masks[name] if name in masks else value for name, value in state.items()}


def machine() -> Machine:
    return Machine("A processor", 2, 2, 8 * 2**30, "Linux 6.1")


def model(name: str, parameters: int, nonzero: int, **changes: Any) -> ModelFacts:
    """Return a model without layers, of the given counts."""
    sizes, macs = changes.pop("sizes", {}), changes.get("macs")
    changes = {"nonzero_macs": macs} | changes
    sparsity = 1 - nonzero / parameters if parameters else 0.0
    return ModelFacts(name, parameters, nonzero, sparsity, layers=(), bytes=sizes, **changes)


def latencies(
    found: dict[tuple[str, str], Latency], runtime: str = "torch"
) -> dict[str, dict[str, dict[str, Latency]]]:
    """Return latencies by (threads, batch) as a receipt holds them."""
    by_threads: dict[str, dict[str, Latency]] = {}
    for (threads, batch), measured in found.items():
        by_threads.setdefault(threads, {})[batch] = measured
    return {runtime: by_threads} if by_threads else {}


def accuracy_of(correct: int, total: int) -> Accuracy:
    """Return an accuracy with Wilson's interval, in its closed form."""
    share, z = correct / total, 1.959964
    centre, spread = share + z * z / (2 * total), z * (share * (1 - share) / total + z * z / (4 * total**2)) ** 0.5
    low, high = ((centre + sign * spread) / (1 + z * z / total) for sign in (-1, 1))
    return Accuracy(
        share, correct, total, (max(0.0, low), min(1.0, high)), (), nll=2.7 * (1 - share), ece=0.3 * (1 - share)
    )


def predictions(wrong: int, seed: int, labels: Tensor) -> Tensor:
    """Return predictions of which the given number are wrong, at the front of a fixed shuffle."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(99))
    guesses = labels.clone()
    which = torch.cat([order[: wrong // 2], order[100 + seed * 50 :][: wrong - wrong // 2]])
    guesses[which] = (labels[which] + torch.randint(1, 10, (len(which),), generator=generator)) % 10
    return guesses


def accuracy(guesses: Tensor, labels: Tensor) -> Accuracy:
    measured = accuracy_of(int((guesses == labels).sum()), len(labels))
    per_class = tuple((guesses[labels == digit] == digit).double().mean().item() for digit in range(10))
    return dataclasses.replace(measured, per_class=per_class)


def paired(first: str, second: str, guesses: dict[str, Tensor]) -> PairedTest:
    from scipy.stats import binomtest

    right = {name: guesses[name] == guesses["labels"] for name in (first, second)}
    only_first = int((right[first] & ~right[second]).sum())
    only_second = int((right[second] & ~right[first]).sum())
    total = len(guesses["labels"])
    apart = only_first + only_second
    difference = (only_second - only_first) / total
    spread = 1.96 * (apart / total - difference**2) ** 0.5 / total**0.5
    p_value = binomtest(only_first, apart).pvalue if apart else 1.0
    return PairedTest(
        first, second, only_first, only_second, difference, (difference - spread, difference + spread), p_value
    )


def latency(factor: float = 1.0, runs: int = 200) -> dict[str, dict[str, dict[str, Latency]]]:
    base = {"1": {"1": 152.0, "64": 6110.0}, "2": {"1": 148.0, "64": 3890.0}}
    return {
        "torch": {
            threads: {
                batch: Latency(factor * time, factor * time * 0.97, factor * time * 1.06, runs)
                for batch, time in by_batch.items()
            }
            for threads, by_batch in base.items()
        }
    }


def facts(
    name: str, state: dict[str, Tensor], measured: Accuracy | None = None, factor: float | None = 1.0
) -> ModelFacts:
    layers = tuple(layer(key, value) for key, value in state.items() if value.dim() > 1)
    blob = safetensors.torch.save({key: value.contiguous() for key, value in state.items()})
    parameters = sum(value.numel() for value in state.values())
    nonzero = sum(int(value.count_nonzero()) for value in state.values())
    return ModelFacts(
        name=name,
        parameters=parameters,
        nonzero=nonzero,
        sparsity=1 - nonzero / parameters,
        layers=layers,
        macs=sum(item.macs or 0 for item in layers),
        nonzero_macs=sum(item.nonzero_macs or 0 for item in layers),
        bytes={"safetensors": len(blob), "gzip": len(gzip.compress(blob, 6))},
        accuracy=measured,
        latency_us=latency(factor) if factor else {},
        peak_memory_bytes=3_400_000,
        seconds=12.5,
    )


def layer(key: str, value: Tensor) -> LayerFacts:
    nonzero = int(value.count_nonzero())
    uses = USES[key.partition(".")[0]]
    sparsity = 1 - nonzero / value.numel()
    return LayerFacts(key, tuple(value.shape), value.numel(), nonzero, sparsity, uses * value.numel(), uses * nonzero)


class MadeUpRun:
    """Everything a run folder holds; `write` puts it on disk."""

    def __init__(self, sparsity: float = 0.2, num_test: int = NUM_TEST) -> None:
        dense, drift = lenet_state(0), lenet_state(1)
        self.masks = magnitude_masks(dense, sparsity)
        tuned = {name: value + 0.15 * drift[name] for name, value in dense.items()}
        self.states = {
            "dense": dense,
            "pruned": masked(dense, self.masks),
            "finetuned": masked(tuned, self.masks),
        }
        labels = torch.randint(0, 10, (num_test,), generator=torch.Generator().manual_seed(5))
        wrong = {"dense": num_test // 120, "pruned": num_test // 90, "finetuned": num_test // 125}
        self.guesses = {name: predictions(number, at, labels) for at, (name, number) in enumerate(wrong.items())}
        self.guesses["labels"] = labels
        factors = {"dense": 1.0, "pruned": 1.01, "finetuned": 0.98}
        self.receipt = Receipt(
            prunus="0.1.0",
            torch="2.13.0",
            machine=machine(),
            recipe=RECIPE,
            recipe_hash="0123456789abcdef",
            seed=0,
            data=DataFacts("mnist", "a mirror", 55_000, 5_000, num_test, "ab" * 32),
            models=tuple(
                facts(name, state, accuracy(self.guesses[name], labels), factors[name])
                for name, state in self.states.items()
            ),
            comparisons=tuple(paired(*names, self.guesses) for names in (("dense", "pruned"), ("dense", "finetuned"))),
            checks=(Check("zeros stay", "largest |w| where the mask is False", 0.0, 0.0, passed=True),),
        )

    def made_smaller(self) -> Receipt:
        """Return the receipt with the models that shrinking and packing give: conv4 with 100 of its 166 channels."""
        state = self.states["finetuned"]
        smaller = state | {
            "conv4.weight": state["conv4.weight"][:100],
            "conv4.bias": state["conv4.bias"][:100],
            "fc.weight": state["fc.weight"][:, :100],
        }
        labels, guesses = self.guesses["labels"], self.guesses["finetuned"]
        packed = {"dense": 560_000, "pruned": 470_000, "finetuned": 471_000, "shrunk": 290_000, "packed": 290_000}
        new = (facts(name, smaller, accuracy(guesses, labels), 0.7) for name in ("shrunk", "packed"))
        models = tuple(
            dataclasses.replace(
                each,
                bytes=each.bytes | {"packed": packed[each.name]},
                latency_us=each.latency_us | {"onnxruntime": latency(0.6)["torch"]},
            )
            for each in (*self.receipt.models, *new)
        )
        alike = dict.fromkeys(("finetuned", "shrunk", "packed"), guesses) | {"labels": labels}
        tests = tuple(paired(*names, alike) for names in (("finetuned", "shrunk"), ("shrunk", "packed")))
        against = tuple(paired("dense", name, self.guesses | alike) for name in ("shrunk", "packed"))
        return dataclasses.replace(
            self.receipt, models=models, comparisons=(*self.receipt.comparisons, *tests, *against)
        )

    def with_programs(self) -> Receipt:
        """Return that receipt with the ends of the road timed in more runtimes, and a break-even curve."""
        smaller = self.made_smaller()
        factors = {
            "dense": {"torch-compile": 0.5, "openvino": 0.4, "prunus": 0.8},
            "packed": {"torch-compile": 0.4, "openvino": 0.3, "prunus": 0.2},
        }
        models = tuple(
            dataclasses.replace(
                each,
                latency_us=each.latency_us
                | {name: latency(factor)["torch"] for name, factor in factors.get(each.name, {}).items()},
            )
            for each in smaller.models
        )
        # the time falls with the density from 3,000 µs, and OpenVINO takes 1,200: 60% would have to go
        points = tuple(
            BreakEvenPoint(s, round(160_206 - s * 159_960), Latency(3000 * (1 - s), 2900 * (1 - s), 3100 * (1 - s), 99))
            for s in (0.0, 0.5, 0.9)
        )
        dense = {"torch": Latency(6000, 5900, 6100, 99), "openvino": Latency(1200, 1190, 1250, 99)}
        curve = BreakEven(1, 64, dense, points, 0.6, ("latency in torch-compile: it needs a C++ compiler",))
        return dataclasses.replace(smaller, models=models, break_even=curve)

    def with_controls(self) -> Receipt:
        """Return the receipt with three controls, one of them better than the result."""
        labels = self.guesses["labels"]
        guesses = self.guesses | {
            name: predictions(wrong, seed, labels)
            for name, wrong, seed in (("random", 60, 3), ("small-dense", 20, 4), ("dense-longer", 2, 5))
        }
        controls = tuple(
            facts(name, self.states["pruned"], accuracy(guesses[name], labels), None)
            for name in ("random", "small-dense", "dense-longer")
        )
        tests = tuple(paired(control.name, "finetuned", guesses) for control in controls)
        return dataclasses.replace(self.receipt, controls=controls, comparisons=self.receipt.comparisons + tests)

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        self.receipt.save(folder / "receipt.json")
        (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
        for name, state in self.states.items():
            files.save_tensors(folder / f"{name}.safetensors", state)
        Masks(self.masks).save(folder / "masks.safetensors")
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log_lines()))
        files.write_json(folder / "sensitivity.json", sensitivity())
        changed = (self.guesses["dense"] != self.guesses["finetuned"]).nonzero().flatten()[:24]
        images = torch.randint(0, 256, (len(changed), 1, 28, 28), generator=torch.Generator().manual_seed(2))
        files.save_tensors(
            folder / "predictions.safetensors",
            self.guesses | {"changed_index": changed, "changed_images": images.to(torch.uint8)},
        )
        return folder


def log_lines() -> list[dict[str, object]]:
    phases = [("train", 5, 0.0, 0.9), ("finetune", 2, 0.2, 0.985)]
    return [
        {
            "phase": phase,
            "epoch": epoch,
            "epochs": epochs,
            "loss": 0.3 / (epoch + 1) * (1 if phase == "train" else 0.2),
            "train_accuracy": start + (0.995 - start) * epoch / epochs,
            "validation_accuracy": start + (0.99 - start) * epoch / epochs,
            "lr": 0.1,
            "sparsity": sparsity,
            "seconds": 4.0,
        }
        for phase, epochs, sparsity, start in phases
        for epoch in range(1, epochs + 1)
    ]


def sensitivity() -> dict[str, object]:
    sparsities = [0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99]
    curves = {
        name: [0.99 - drop * sparsity**6 for sparsity in sparsities]
        for name, drop in (
            ("all layers", 0.88),
            ("conv1.weight", 0.6),
            ("conv2.weight", 0.4),
            ("conv4.weight", 0.2),
            ("fc.weight", 0.1),
        )
    }
    return {"split": "validation", "total": 5000, "sparsities": sparsities, "curves": curves}
