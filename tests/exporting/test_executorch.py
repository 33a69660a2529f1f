"""Files for ExecuTorch: run by its own runtime on XNNPACK, in 8 bits where scales say so, and refused in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import prunus
from prunus.errors import ExportError
from prunus.exporting import executorch
from prunus.lab import models
from prunus.quantizing.integer_graph import integer_module
from prunus.quantizing.quantizer import rounding_of
from quantized_nets import apart, images, residual
from without_extras import run_without_extras

installed = pytest.mark.skipif(find_spec("executorch") is None, reason="executorch is not installed")


def run(path: Path, *inputs: Tensor) -> list[Tensor]:
    """Return what ExecuTorch makes of a file."""
    from executorch.runtime import Runtime

    return list(Runtime.get().load_program(path).load_method("forward").execute(list(inputs)))


def rounded(model: nn.Module, scales: prunus.Scales, inputs: Tensor) -> Tensor:
    """Return what the model gives as it is rounded."""
    with torch.no_grad(), prunus.Quantizer(model, scales):
        result: Tensor = model(inputs)
    return result


class Mixed(nn.Module):
    """What XNNPACK takes in 8 bits in its own ways: pooled, concatenated, moved, grouped, and in front of SiLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, stride=2)
        self.wide, self.deep = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.last = nn.Linear(16 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 2, 8, 8) to (n, 5)."""
        x = F.relu6(self.stem(x))
        x = torch.cat([F.max_pool2d(x, 2), self.down(x).relu()], 1)
        x = F.silu(self.deep(F.silu(self.wide(x))))
        return self.last(x.permute(0, 2, 3, 1).flatten(1))


class Rows(nn.Module):
    """One-dimensional convolutions, one of them in front of GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(2, 8, 3, padding=1), nn.Conv1d(8, 8, 3, stride=2)
        self.last = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 2, 8, 8) to (n, 5)."""
        return self.last(F.gelu(self.second(self.first(x.flatten(2)).relu())).mean(2))


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


@installed
def test_a_file_is_run_by_executorch_with_any_batch_up_to_the_examples(tmp_path: Path) -> None:
    model = residual().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    facts = prunus.export(model, tmp_path / "net.pte", images(6))
    assert facts.format == "pte"
    assert facts.difference is not None
    assert facts.difference < 1e-5
    assert model.training, "it is left as it was"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert str(Path(__file__).parents[1]).encode() not in (tmp_path / "net.pte").read_bytes()
    model.eval()
    for count in (1, 2, 6):
        x = images(count, seed=7)
        torch.testing.assert_close(run(tmp_path / "net.pte", x)[0], model(x).detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError):
        run(tmp_path / "net.pte", images(7))


@installed
def test_inputs_by_name_go_in_the_examples_order(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(6, 4), nn.Linear(3, 4)

        def forward(self, a: Tensor, *, b: Tensor) -> dict[str, Tensor]:
            return {"sum": self.left(a) + self.right(b), "a": a.sum(1)}

    model, a, b = made(Two), torch.randn(3, 6), torch.randn(3, 3)
    prunus.export(model, tmp_path / "net.pte", {"b": b, "a": a})
    for result, expected in zip(run(tmp_path / "net.pte", b, a), model(a, b=b).values(), strict=True):
        torch.testing.assert_close(result, expected.detach())


@installed
@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("kind", [residual, lambda: made(Mixed), lambda: made(Rows)], ids=["residual", "mixed", "rows"])
def test_a_file_in_8_bits_gives_the_rounded_outputs(kind: Any, activations: Any, tmp_path: Path) -> None:
    model = kind()
    scales = prunus.quantize(model, [images()], activations=activations)
    facts = prunus.export(model, tmp_path / "net.pte", images(48), scales=scales)
    assert facts.difference is not None
    assert facts.difference < 0.01
    x = images(48, seed=7)
    wanted = rounded(model, scales, x)
    assert apart(run(tmp_path / "net.pte", x)[0], wanted) < 1e-3
    assert apart(run(tmp_path / "net.pte", x)[0], wanted) < apart(model(x).detach(), wanted)


@installed
@pytest.mark.parametrize(("name", "shape"), [("lenet", (1, 28, 28)), ("resnet20", (3, 32, 32))])
def test_all_weights_are_in_8_bits_and_no_layer_computes_in_float(
    name: str, shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = models.create(name).eval()
    scales = prunus.quantize(model, [torch.randn(32, *shape)])
    programs: list[Any] = []
    lowered = executorch.lowered
    monkeypatch.setattr(executorch, "lowered", lambda program: programs.append(lowered(program)) or programs[-1])
    facts = prunus.export(model, tmp_path / "net.pte", torch.randn(3, *shape), scales=scales)
    assert facts.state_bytes is not None
    assert facts.bytes < 0.31 * facts.state_bytes
    main = programs[0].exported_program().graph_module
    outside = {str(node.target) for node in main.graph.nodes if node.op == "call_function"}
    assert not [target for target in outside if "convolution" in target or "linear" in target or "quant" in target]
    layers = [node for graph in delegated(main) for node in graph.nodes if is_layer(node)]
    assert len(layers) == sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in model.modules())
    for layer in layers:
        value, weight = (str(argument.target) for argument in layer.args[:2])
        assert "dequantize_per" in value
        assert "dequantize_per_channel" in weight


def delegated(main: fx.GraphModule) -> Iterator[fx.Graph]:
    for node in main.graph.nodes:
        if node.op == "get_attr":
            yield getattr(main, str(node.target)).original_module.graph


def is_layer(node: fx.Node) -> bool:
    return node.op == "call_function" and ("convolution" in str(node.target) or "aten.linear" in str(node.target))


@installed
def test_what_executorch_can_not_hold_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, 6).sum(1)

    with pytest.raises(ExportError, match=r"\(Odd\) can't be exported to ExecuTorch: .*bessel_j0"):
        prunus.export(Odd(), tmp_path / "net.pte", torch.randn(2, 3))
    with pytest.raises(ExportError, match="can't run a batch of 1"):
        prunus.export(Fixed(), tmp_path / "net.pte", torch.randn(2, 6))
    broken = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.constant_(broken[2].weight, math.nan)
    with pytest.raises(ValueError, match="NaN alone"):
        prunus.export(broken, tmp_path / "net.pte", torch.randn(2, 3))
    assert not list(tmp_path.iterdir())


@installed
def test_a_file_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = residual()
    scales = prunus.quantize(model, [images()])
    adapt = executorch.for_xnnpack

    def wrong(module: Any) -> Any:
        with torch.no_grad():
            module.get_buffer("last.weight_int8").neg_()
        return adapt(module)

    monkeypatch.setattr(executorch, "for_xnnpack", wrong)
    with pytest.raises(ExportError, match="what was exported computes something else: for a batch of 1"):
        prunus.export(model, tmp_path / "net.pte", images(2), scales=scales)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("kind", [residual, lambda: made(Mixed), lambda: made(Rows)], ids=["residual", "mixed", "rows"])
def test_what_xnnpack_reads_computes_what_the_whole_numbers_do(kind: Any, activations: Any) -> None:
    model = kind()
    scales = prunus.quantize(model, [images()], activations=activations)
    x = images(48, seed=7)
    with torch.no_grad():
        wanted = integer_module(rounding_of(model, scales))(x)
        module = executorch.for_xnnpack(integer_module(rounding_of(model, scales)))
        found = module(x)
    assert apart(found, wanted) < 2e-4, "layers without 8 bits behind them read values rounded once more"
    kinds = {node.args[-1] for node in module.graph.nodes if "quantize_per_tensor.default" in str(node.target)}
    assert kinds == {torch.int8}


def test_without_executorch_its_extra_is_named(tmp_path: Path) -> None:
    done = run_without_extras(f"""
import prunus, torch
prunus.export(torch.nn.Linear(3, 2), {str(tmp_path / "net.pte")!r}, torch.randn(2, 3))
""")
    assert done.stderr.splitlines()[-1] == (
        "prunus.extras.MissingExtraError: exporting to ExecuTorch needs the package 'executorch', which is not "
        "installed; install it with: pip install 'prunus[executorch]'"
    )
    assert not list(tmp_path.iterdir())
