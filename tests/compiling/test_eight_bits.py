"""Programs in 8 bits: bit for bit what a slow reference computes, and close to the model as PyTorch rounds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import prunus
from integer_reference import computed
from prunus import files
from prunus.compiling import toolchain, tuning
from prunus.compiling.building import assembled, kernels_of
from prunus.compiling.kernels.numbers import FLOAT
from prunus.compiling.kernels.variants import variants
from prunus.compiling.net import Pointwise
from prunus.compiling.operations import Contract, Join, Quantize, QuantizedContract, Regroup
from prunus.compiling.program import Program, parts_of
from prunus.errors import CompileError, ProgramError, ScalesError


class Net(nn.Module):
    """Layers by name, and a function of them and the input."""

    def __init__(self, forward: Callable[[nn.ModuleDict, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.function = nn.ModuleDict(layers), forward

    def forward(self, x: Tensor) -> Tensor:
        """Compute the function."""
        return self.function(self.layers, x)


def residual(net: nn.ModuleDict, x: Tensor) -> Tensor:
    x = F.relu(net["a"](x))
    y = net["c"](F.relu(net["b"](x)))
    return net["d"](F.relu(y + x).mean((2, 3)))


def strided(net: nn.ModuleDict, x: Tensor) -> Tensor:
    x = F.relu(net["a"](x))
    return net["d"](F.relu(net["b"](x) + net["c"](x)).flatten(1))


def joined(net: nn.ModuleDict, x: Tensor) -> Tensor:
    x = F.relu6(net["a"](x))
    x = torch.cat([F.max_pool2d(x, 3, 1, 1), net["b"](x)], 1)
    return net["d"](F.max_pool2d(x, 2).flatten(1))


def shuffled(net: nn.ModuleDict, x: Tensor) -> Tensor:
    x = F.relu(net["a"](x))
    x = x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
    return net["d"](F.silu(net["b"](x[:, 1:])).amax((2, 3)))


def padded(net: nn.ModuleDict, x: Tensor) -> Tensor:
    x = F.relu(net["a"](x))
    y = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
    return net["d"](F.relu(y + net["b"](x)).mean((2, 3)))


def grouped(net: nn.ModuleDict, x: Tensor) -> Tensor:
    x = F.hardswish(net["a"](x))
    return net["d"](F.relu(net["c"](F.relu(net["b"](x)))).mean((2, 3)))


NETS = {
    "residual": (
        Net(
            residual,
            a=nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)),
            b=nn.Conv2d(16, 12, 3, padding=1),
            c=nn.Conv2d(12, 16, 3, padding=1),
            d=nn.Linear(16, 5),
        ),
        (3, 9, 11),
    ),
    "strided": (
        Net(
            strided,
            a=nn.Conv2d(1, 8, 5, padding=2),
            b=nn.Conv2d(8, 20, 3, stride=2, padding=1),
            c=nn.Conv2d(8, 20, 1, stride=2),
            d=nn.Linear(20 * 16, 10),
        ),
        (1, 8, 8),
    ),
    "joined": (
        Net(
            joined,
            a=nn.Conv2d(2, 6, 3, padding=1),
            b=nn.Conv2d(6, 5, 3, padding=2, dilation=2),
            d=nn.Linear(11 * 16, 7),
        ),
        (2, 8, 9),
    ),
    "shuffled": (
        Net(shuffled, a=nn.Conv2d(3, 16, 3), b=nn.Conv2d(15, 9, 1), d=nn.Linear(9, 4)),
        (3, 10, 10),
    ),
    "padded": (
        Net(
            padded,
            a=nn.Conv2d(1, 8, 3, padding=1),
            b=nn.Conv2d(8, 16, 3, stride=2, padding=1),
            d=nn.Linear(16, 3),
        ),
        (1, 16, 16),
    ),
    "grouped": (
        Net(
            grouped,
            a=nn.Conv2d(4, 16, 3, padding=1),
            b=nn.Conv2d(16, 16, 3, padding=1, groups=2),
            c=nn.Conv2d(16, 16, 3, padding=1, groups=16),
            d=nn.Linear(16, 3),
        ),
        (4, 7, 7),
    ),
    "rows": (
        nn.Sequential(nn.Conv1d(3, 10, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(130, 33), nn.ReLU6()),
        (3, 13),
    ),
    "columns": (
        nn.Sequential(
            *(nn.Conv2d(4, 8, (3, 1)), nn.ReLU(), nn.Conv2d(8, 8, (3, 1)), nn.ReLU(), nn.MaxPool2d((2, 1))),
            *(nn.Conv2d(8, 5, (3, 1)), nn.ReLU6(), nn.Flatten(), nn.Linear(5 * 31, 4)),
        ),
        (4, 70, 1),
    ),
    "cut off": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
        (3, 9, 9),
    ),
    "matrices": (
        nn.Sequential(nn.Linear(37, 50), nn.ReLU(), nn.Linear(50, 21), nn.Tanh(), nn.Linear(21, 3)),
        (37,),
    ),
}


def drawn(name: str, sparsity: float = 0.7) -> tuple[nn.Module, tuple[int, ...], prunus.Scales]:
    """Return a pruned network with other numbers than at its start, the shape of a sample, and scales."""
    model, shape = NETS[name]
    torch.manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            layer.reset_parameters()
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_var.uniform_(0.5, 2)
            layer.running_mean.normal_()
    model.eval()
    prunus.prune(model, sparsity)
    batches = [torch.randn(32, *shape) for _ in range(4)]
    return model, shape, prunus.quantize(model, batches, max_error=1e9)


def reference(program: Program, x: Tensor) -> Tensor:
    """Return what the slow reference makes of one input."""
    net = parts_of(program).net
    (output,) = computed(net, {next(iter(net.inputs)): x.numpy()})
    return torch.from_numpy(output)


# the others have activations or layers in floating point, whose last bits the reference does not know
@pytest.mark.parametrize("name", [name for name in NETS if name not in ("shuffled", "grouped", "matrices", "cut off")])
@pytest.mark.parametrize("target", ["native", "scalar"])
def test_every_bit_is_that_of_the_reference(name: str, target: str) -> None:
    model, shape, scales = drawn(name)
    program = prunus.compile(model, torch.randn(4, *shape), scales=scales, target=target, threads=1)
    for batch in (1, 3, 16, 37):
        x = 2 * torch.randn(batch, *shape)
        assert torch.equal(program(x), reference(program, x).reshape(batch, -1))


@pytest.mark.parametrize("name", NETS)
def test_close_to_the_rounded_model(name: str) -> None:
    model, shape, scales = drawn(name)
    program = prunus.compile(model, torch.randn(4, *shape), scales=scales, tune=False)
    assert program.difference is not None
    assert program.difference < 0.05
    x = torch.randn(64, *shape)
    with torch.no_grad():
        plain = model(x)
        with prunus.Quantizer(model, scales):
            rounded = model(x)
    error = (program(x) - rounded).square().mean().sqrt()
    assert error <= 1.5 * (rounded - plain).square().mean().sqrt() + 1e-6


@pytest.mark.parametrize("name", ["residual", "strided", "joined", "rows", "columns", "cut off"])
def test_all_layers_are_computed_in_8_bits(name: str) -> None:
    model, shape, scales = drawn(name)
    program = prunus.compile(model, torch.randn(4, *shape), scales=scales, tune=False)
    layers = [operation for operation in parts_of(program).net.operations if isinstance(operation, Contract)]
    assert len(layers) == sum(isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Linear)) for m in model.modules())
    assert all(isinstance(layer, QuantizedContract) for layer in layers)


def test_only_the_borders_are_in_floating_point() -> None:
    model, shape, scales = drawn("strided")
    program = prunus.compile(model, torch.randn(4, *shape), scales=scales, tune=False)
    kinds = [type(operation) for operation in parts_of(program).net.operations]
    assert kinds[0] is Quantize
    assert set(kinds[1:]) <= {QuantizedContract, Regroup}


def test_a_shortcut_that_pads_channels_is_copied_in_words() -> None:
    model, shape, scales = drawn("padded")
    program = prunus.compile(model, torch.randn(4, *shape), scales=scales, tune=False)
    operations = parts_of(program).net.operations
    first, second = (n for n, each in enumerate(operations) if isinstance(each, QuantizedContract) and each.box[1] > 1)
    assert [type(operation) for operation in operations[first + 1 : second]] == [Join]
    assert isinstance(operations[second], QuantizedContract)
    assert operations[second].residual is not None


@pytest.mark.parametrize("name", ["residual", "strided", "rows", "joined"])
def test_every_way_to_compute_a_layer_gives_the_same_bits(name: str) -> None:
    model, shape, scales = drawn(name, sparsity=0.5)
    program = prunus.compile(model, torch.randn(4, *shape), scales=scales, tune=False, threads=1)
    parts = parts_of(program)
    kernels = kernels_of(parts.net, parts.target, FLOAT, lambda _: None)
    x = torch.randn(2 * parts.choice.block + 3, *shape)
    expected = reference(program, x).reshape(len(x), -1)
    tried = set()
    for plan in tuning.plans_for(parts.net, parts.choice.block, parts.target, FLOAT):
        for operation in plan.net.operations:
            if not isinstance(operation, QuantizedContract):
                continue
            for way in variants(operation, plan, parts.target.registers)[:12]:
                chosen = {**parts.choice.chosen, (plan.mode.name, operation.output): way}
                choice = replace(parts.choice, chosen=chosen)
                other = Program(parts, assembled(parts.net, choice, parts.target, FLOAT, kernels, 1))
                assert torch.equal(other(x), expected), (operation.name, plan.mode.name, str(way))
                tried.add((plan.mode.name, way))
    assert len(tried) > 15


def test_products_that_exceed_16_bits_are_exact() -> None:
    """Without VNNI, pairs of products are added in 16 bits, where they would be cut off."""
    layer = nn.Linear(8, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0] * 8, [-1.0] * 8, [1.0, -1.0] * 4, [1.0, 0.25] * 4]))
    x = torch.cat([torch.full((40, 8), 10.0), torch.zeros(40, 8), 10 * torch.rand(40, 8)])
    scales = prunus.quantize(layer, list(x.split(30)), ranges="minmax", max_error=1e9)
    program = prunus.compile(layer, x[:2], scales=scales)
    assert torch.equal(program(x), reference(program, x).reshape(len(x), -1))
    assert program(x[:1])[0, 0] == pytest.approx(80, rel=1e-2)
    assert program(x[:1])[0, 1] == pytest.approx(-80, rel=1e-2)


class Branches(nn.Module):
    """A convolution, and what may follow it, in front of a layer that adds up channels."""

    def __init__(self, first: nn.Conv2d, ending: str) -> None:
        super().__init__()
        self.first, self.ending = first, ending
        self.second = nn.Conv2d(first.out_channels, first.out_channels, 1)
        self.last = nn.Conv2d(first.out_channels, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the three."""
        x = F.relu(self.first(x))
        if self.ending == "pool":
            x = F.max_pool2d(x, (min(2, x.shape[2]), min(2, x.shape[3])))
        if self.ending == "sum":
            x = F.relu(x + self.second(x))
        return self.last(x)


SIDES = st.tuples(st.integers(1, 12), st.integers(1, 19))


@settings(max_examples=30, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    more=SIDES,
    ending=st.sampled_from(["", "pool", "sum"]),
    low=st.floats(-3, 0),
    sparsity=st.sampled_from([0.0, 0.5, 0.9]),
    seed=st.integers(0, 5),
)
@example((1, 1), (1, 3), (1, 3), (0, 0), (4, 2), "", 0.0, 0.0, 3)
@example((1, 8), (1, 3), (1, 3), (0, 0), (4, 2), "sum", 0.0, 0.0, 3)
def test_any_convolution_is_that_of_the_reference(
    channels: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    more: tuple[int, int],
    ending: str,
    low: float,
    sparsity: float,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    first = nn.Conv2d(*channels, kernel, stride, padding)
    model = Branches(first, ending).eval()
    with torch.no_grad():
        first.weight *= torch.rand_like(first.weight) >= sparsity
        first.weight[0, 0] = 1  # a layer of zeros only stays in floating point
    sides = [side + extra for side, extra in zip(kernel, more, strict=True)]
    batches = [low + (3 - low) * torch.rand(8, channels[0], *sides) for _ in range(3)]
    scales = prunus.quantize(model, batches, max_error=1e9)
    program = prunus.compile(model, batches[0], scales=scales, tune=False, threads=1)
    for x in (batches[0][:1], torch.cat(batches)):
        assert torch.equal(program(x), reference(program, x))


def test_a_saved_program_computes_the_same(tmp_path: Path) -> None:
    model, shape, scales = drawn("residual")
    program = prunus.compile(model, torch.randn(4, *shape), scales=scales)
    program.save(tmp_path / "net.program")
    again = prunus.load(tmp_path / "net.program", expect=Program)
    x = torch.randn(21, *shape)
    assert torch.equal(again(x), program(x))
    kinds = [step.operation for step in again.profile().singly]
    assert kinds.count("conv") == 3
    assert kinds[0] == "quantize"


def test_a_file_of_8_bits_in_float64_is_refused(tmp_path: Path) -> None:
    model, shape, scales = drawn("residual")
    prunus.compile(model, torch.randn(4, *shape), scales=scales, tune=False).save(tmp_path / "net.program")
    tensors, metadata = files.load_with_metadata(tmp_path / "net.program")
    header = {"program": metadata["program"].replace('"float32"', '"float64"')}
    header["checksum"] = files.checksum_of(tensors, header)
    files.save_tensors(tmp_path / "forged.program", tensors, header)
    with pytest.raises(ProgramError, match="8 bits and float64"):
        prunus.load(tmp_path / "forged.program", expect=Program)


def test_a_library_computes_the_same(tmp_path: Path) -> None:
    model, shape, scales = drawn("strided")
    program = prunus.compile(model, torch.randn(4, *shape), scales=scales)
    facts = prunus.export(program, tmp_path / "net.so")
    assert facts.difference == 0


def test_infinities_and_nan_are_told_where_that_is_asked() -> None:
    model, shape, scales = drawn("residual")
    x = torch.randn(3, *shape)
    strict = prunus.compile(model, x, scales=scales, nonfinite="raise", tune=False)
    assert torch.equal(strict(x), prunus.compile(model, x, scales=scales, tune=False)(x))
    x[1, 0, 2, 3] = torch.nan
    with pytest.raises(prunus.errors.NonFiniteError):
        strict(x)


def test_threads_share_the_work() -> None:
    model, shape, scales = drawn("residual")
    x = torch.randn(37, *shape)
    alone, shared = (prunus.compile(model, x[:4], scales=scales, threads=threads) for threads in (1, 2))
    for batch in (1, 37):
        assert torch.equal(alone(x[:batch]), shared(x[:batch]))


def test_mistakes_are_told() -> None:
    model, shape, scales = drawn("residual")
    x = torch.randn(2, *shape)
    with pytest.raises(TypeError, match=r"scales must be what prunus\.quantize returned, got dict"):
        prunus.compile(model, x, scales={})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"computes in 8 bits and torch\.float32, not in torch\.float64"):
        prunus.compile(model, x, scales=scales, dtype=torch.float64)
    with pytest.raises(ScalesError):
        prunus.compile(nn.Sequential(nn.Conv2d(3, 4, 3)), x, scales=scales)
    with pytest.raises(ValueError, match="give either scales or fallback"):
        prunus.compile(model, x, scales=scales, fallback=True)
    signed = prunus.quantize(model, [x, x, x, x], activations="int8", max_error=1e9)
    with pytest.raises(ScalesError, match="programs compute with uint8"):
        prunus.compile(model, x, scales=signed)


def test_a_program_that_computes_something_else_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    from prunus.compiling.lowering import borders

    model, shape, scales = drawn("matrices")
    monkeypatch.setattr(borders, "in_words", lambda weight, right=borders.in_words: right(-1.0 * weight))
    with pytest.raises(CompileError, match="computes something else than the model"):
        prunus.compile(model, torch.randn(2, *shape), scales=scales)


def test_what_saturates_is_told_by_the_kernels_that_were_built() -> None:
    model, shape, scales = drawn("matrices")
    net = parts_of(prunus.compile(model, torch.randn(2, *shape), scales=scales)).net
    scalar = kernels_of(net, toolchain.target("scalar"), FLOAT, lambda _: None)
    assert not scalar.saturates
    try:
        avx2 = toolchain.target("avx2")
    except CompileError:
        pytest.skip("this machine has no AVX2")
    assert kernels_of(net, avx2, FLOAT, lambda _: None).saturates


BAD = [
    ({"box": (4, 1, 1)}, "makes"),
    ({"bias": numpy.full(16, 2.0**31)}, "32 bits"),
    ({"bias": numpy.full(16, 0.5)}, "whole numbers"),
    ({"weight": "too large"}, "weights"),
    ({"units": numpy.zeros(16)}, "units"),
    ({"units": numpy.full(16, 1e30)}, "32 bits"),
    ({"low": 9, "high": 3}, "limits"),
    ({"zero": 256}, "zero point"),
    ({"residual_scale": float("nan")}, "scale"),
    ({"activation": Pointwise("exp")}, "no kernel of 8 bits"),
    ({"pool": ("max", 2, 2)}, "no kernel of 8 bits"),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_a_contraction_that_a_file_got_wrong_is_refused(fields: dict[str, object], message: str) -> None:
    model, shape, scales = drawn("residual")
    net = parts_of(prunus.compile(model, torch.randn(2, *shape), scales=scales, tune=False)).net
    layer = next(operation for operation in net.operations if isinstance(operation, QuantizedContract))
    layer.check()
    if fields.get("weight") == "too large":
        fields = {"weight": numpy.full(layer.weight.shape, 2.0**31)}
    with pytest.raises(ProgramError, match=message):
        replace(layer, **fields).check()  # type: ignore[arg-type]


def test_what_puts_words_together_is_checked() -> None:
    model, shape, scales = drawn("strided")
    net = parts_of(prunus.compile(model, torch.randn(2, *shape), scales=scales, tune=False)).net
    regroup = next(operation for operation in net.operations if isinstance(operation, Regroup))
    outside = regroup.picks.copy()
    outside.flat[0] = 10**6
    for fields in ({"picks": outside}, {"picks": regroup.picks[..., :3]}, {"zero": -1}):
        with pytest.raises(ProgramError):
            replace(regroup, **fields).check()  # type: ignore[arg-type]
