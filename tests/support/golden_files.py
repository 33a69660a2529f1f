"""Write the golden files of a version, once: they must load for ever, so those that are there are left as they are.

    python tests/support/golden_files.py

Beside each file, `golden.json` holds the inputs, the outputs that the model gave, and a checksum of all tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import prunus
from prunus.files import content_hash

GOLDEN = Path(__file__).parents[1] / "packing" / "golden"
# Name -> shape and dtype of an input, and below what its whole numbers lie.
Inputs = dict[str, tuple[list[int], str, int]]


class Block(nn.Module):
    """A layer of attention over a free length, between a tied embedding and head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.head = nn.Linear(8, 11)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 8), persistent=False)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return two outputs by name."""
        x = self.layer(self.embedding(tokens) * self.scale)
        return {"logits": self.head(x[:, 0]), "largest": x.amax((1, 2))}


class Kinds(nn.Module):
    """Arguments of most kinds: numbers of sizes, constants, dtypes, texts, several results, and two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.gru = nn.GRU(4, 3, batch_first=True)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor, shift: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return a nested structure."""
        y = nn.functional.gelu(self.norm(self.conv(x)), approximate="tanh").transpose(1, 2)
        states, last = self.gru(self.drop(y))
        first, second = states.masked_fill(states < -0.5, -math.inf).softmax(1).split([1, 2], 2)
        ones = torch.ones(x.shape[0], 1, dtype=x.dtype, device=x.device)
        return last[0] + shift * ones, [torch.einsum("bti,btj->bij", first, second), y.double().std((1, 2))]


class Weights(nn.Module):
    """Number types, and the ways in which tensors are coded."""

    def __init__(self) -> None:
        super().__init__()
        dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
        for dtype in dtypes:
            sparse = torch.randn(20, 30) * (torch.rand(20, 30) < 0.3)
            self.register_buffer(f"of_{str(dtype).removeprefix('torch.')}", sparse.to(dtype))
        self.register_buffer("codebook", torch.randint(-3, 3, (40, 30), dtype=torch.int8))
        self.register_buffer("waves", torch.complex(torch.randn(50), torch.zeros(50)))
        self.register_buffer("rows", (torch.rand(40, 50) < torch.rand(40, 1) ** 4).float())
        self.register_buffer("columns", (torch.rand(50, 40) < torch.rand(1, 40) ** 4).float())
        self.register_buffer("few", torch.randn(5000) * (torch.rand(5000) < 0.01))
        self.register_buffer("table", torch.arange(1000) % 37)
        self.register_buffer("again", torch.arange(1000) % 37)
        self.register_buffer("mask", torch.ones(32, 32, dtype=torch.bool).tril())
        self.register_buffer("unsigned", torch.arange(5, dtype=torch.uint8))
        self.register_buffer("zeros", torch.zeros(7, 2))
        self.register_buffer("nothing", torch.zeros(0, 3))
        self.register_buffer("number", torch.tensor(-7))
        self.tied = nn.Linear(3, 3)
        self.other = self.tied


class Operations(nn.Module):
    """Each operation that a program has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2, bias=False)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return an activation, a distribution and a reduction."""
        y = nn.functional.leaky_relu(self.conv(x), 0.1)
        y = torch.clamp(self.grouped(y) + y, -0.5, 2.0) * torch.arange(4.0)[:, None, None]
        pooled = nn.functional.max_pool2d(torch.cat([y, y.flip(1).sigmoid()], 1), 3, 2, padding=1)
        tokens = self.norm(nn.functional.pad(pooled.flatten(2), (0, 2), value=0.25))
        return {"activation": y, "scores": self.head(tokens[:, :4].flatten(1)).softmax(1), "means": y.mean((2, 3))}


def inputs_of(shapes: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return inputs that need no random numbers."""
    inputs = {}
    for name, (shape, dtype, below) in shapes.items():
        numbers = torch.arange(math.prod(shape))
        values = numbers * 7 % below if below else (numbers * 0.37).sin()
        inputs[name] = values.to(getattr(torch, dtype)).reshape(shape)
    return inputs


def outputs_of(model: Callable[..., Any], shapes: Mapping[str, Any]) -> list[list[float]]:
    """Return all numbers that a model gives, each output flat."""
    with torch.no_grad():
        return [leaf.flatten().tolist() for leaf in pytree.tree_leaves(model(**inputs_of(shapes)))]


def lenet() -> nn.Module:
    """Return a network of which two weights in a hundred are left."""
    model = prunus.models.create("lenet5-caffe")
    prunus.prune(model, 0.98, scope="uniform")
    return model


def lenet5() -> nn.Module:
    """Return a small convolutional network."""
    return prunus.models.create("lenet5", widths=(3, 4, 9, 8))


def residual() -> nn.Module:
    """Return a small residual network whose norms have seen data."""
    model = prunus.models.create("resnet20", widths=(2, 3, 4), shortcut="projected")
    model(torch.randn(16, 3, 32, 32))
    return model


def main() -> None:
    """Write the files that are missing, and what they hold."""
    images: Inputs = {"images": ([2, 1, 28, 28], "float32", 0)}
    cases: dict[str, tuple[Any, Inputs, dict[str, Any]]] = {
        "pruned": (lenet, images, {}),
        "residual": (residual, {"images": ([2, 3, 32, 32], "float32", 0)}, {}),
        "block": (Block, {"tokens": ([2, 5], "int64", 11)}, {}),
        "kinds": (Kinds, {"x": ([2, 2, 6], "float32", 0), "shift": ([2, 3], "float32", 0)}, {}),
        "codebook": (lenet5, images, {"codebook_bits": 3}),
        "bfloat16": (lambda: lenet5().bfloat16(), {"images": ([2, 1, 28, 28], "bfloat16", 0)}, {}),
        "weights": (Weights, {}, {"weights_only": True}),
    }
    GOLDEN.mkdir(exist_ok=True)
    listed = GOLDEN / "golden.json"
    golden: dict[str, Any] = json.loads(listed.read_text()) if listed.is_file() else {}
    for name, (make, shapes, options) in cases.items():
        path = GOLDEN / f"{name}.prunus"
        if path.name in golden:
            continue
        torch.manual_seed(0)
        model = make().eval()
        prunus.save(model, path, tuple(inputs_of(shapes).values()) or None, **options)
        expected = outputs_of(prunus.load(path) if "codebook_bits" in options else model, shapes) if shapes else []
        content = content_hash(prunus.packing.read_tensors(path))
        golden[path.name] = {"inputs": shapes, "outputs": expected, "content": content}
    if "masks.safetensors" not in golden:
        masks = prunus.Masks(
            {"conv.weight": torch.arange(60).reshape(5, 12) % 3 == 0, "fc.weight": torch.arange(7) > 3}
        )
        masks.save(GOLDEN / "masks.safetensors")
        golden["masks.safetensors"] = {name: mask.int().flatten().tolist() for name, mask in masks.items()}
    if "operations.program" not in golden:
        torch.manual_seed(0)
        model, shapes = Operations().eval(), {"x": ([2, 2, 8, 7], "float32", 0)}
        prunus.prune(model, 0.5)
        program = prunus.compile(model, tuple(inputs_of(shapes).values()), tune=False)
        program.save(GOLDEN / "operations.program")
        golden["operations.program"] = {"inputs": shapes, "outputs": outputs_of(model, shapes)}
    listed.write_text(json.dumps(golden, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
