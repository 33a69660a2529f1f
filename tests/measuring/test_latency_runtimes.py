"""Each runtime runs the model it was given, computes what PyTorch computes, and leaves nothing behind."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import types
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.measuring import latency
from prunus.measuring.latency import latencies, timings

QUICK = {"seconds": 0.002, "min_runs": 2}
ONE_CELL = {"batch_sizes": [2], "threads": [1], **QUICK}

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler, and there is none"
)


class Eager(nn.Module):
    """Counts the calls that no compiler runs."""

    def __init__(self, note: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.fc, self.note = nn.Linear(3, 2), note

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self.note(x)
        return self.fc(x).relu()


class CompileError(ValueError):
    """Stands for that of `prunus.compiling`."""


Compile = Callable[..., Callable[..., object]]


@pytest.fixture
def fake_runtime(monkeypatch: pytest.MonkeyPatch) -> Callable[[Compile], None]:
    """Put a compiler of one's own in the place of `prunus.compiling`."""

    def put(compile: Compile) -> None:
        module = types.ModuleType("prunus.compiling")
        module.__dict__.update(compile=compile, CompileError=CompileError)
        monkeypatch.setitem(sys.modules, "prunus.compiling", module)

    return put


@needs_compiler
def test_torch_compile_runs_compiled_code_and_leaves_nothing_behind() -> None:
    from torch._dynamo import config as dynamo
    from torch._inductor import config as inductor

    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        compiled.append(1)
        return graph.forward

    mine = torch.compile(lambda x: x + 1, backend=backend)
    mine(torch.ones(3))
    before = inductor.get_config_copy(), dynamo.get_config_copy(), torch.get_num_threads()
    calls: list[Tensor] = []
    model = Eager(calls.append)
    found = latencies({"net": model}, torch.randn(1, 3), runtimes=["torch-compile"], **ONE_CELL)
    assert found["net"]["torch-compile"]["1"]["2"].runs >= 2
    assert len(calls) == 2  # to see whether it takes the batch, and to hold the compiled one against it
    assert (inductor.get_config_copy(), dynamo.get_config_copy(), torch.get_num_threads()) == before
    mine(torch.ones(3))
    assert len(compiled) == 1, "what a user has compiled stays compiled"
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_without_a_working_compiler_torch_compile_is_left_out() -> None:
    from torch._inductor import config

    with config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        # a SiLU is made of C++ here, where a Linear alone would be a call of a library
        found = timings({"net": nn.SiLU()}, torch.randn(1, 3), runtimes=["torch", "torch-compile"], **ONE_CELL)
    assert found["net"].latency_us.keys() == {"torch"}
    (note,) = found["net"].notes
    assert note.startswith("latency in torch-compile: it needs a C++ compiler, and found none that works; install g++")


def test_what_torch_compile_would_cut_in_two_is_left_out() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    (note,) = timings({"net": Branches()}, torch.ones(1, 3), runtimes=["torch-compile"], **ONE_CELL)["net"].notes
    assert note.startswith("latency in torch-compile: Unsupported")
    assert "TORCHDYNAMO_VERBOSE" not in note


def test_openvino_takes_turns_and_has_the_threads_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    compiled: list[tuple[int, str, int]] = []

    class Core(openvino.Core):
        def compile_model(self, model: object, device: str, hints: dict[str, object]) -> object:
            made = super().compile_model(model, device, hints)
            threads, precision = (made.get_property(f"INFERENCE_{name}") for name in ("NUM_THREADS", "PRECISION_HINT"))
            assert str(made.get_property("PERFORMANCE_HINT")).endswith("LATENCY")
            compiled.append((threads, precision.get_type_name(), made.inputs[0].shape[0]))
            return made

    monkeypatch.setattr(openvino, "Core", Core)
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    inputs = torch.randn(2, 1, 6, 6)
    found = latencies(
        {"net": model}, inputs, batch_sizes=(1, 4), threads=(1, 2), runtimes=("torch", "openvino"), **QUICK
    )["net"]
    assert compiled == [(threads, "f32", batch) for threads in (1, 2) for batch in (1, 4)]
    assert [[cell.runs for cell in cells.values()] for cells in found["openvino"].values()] == [
        [cell.runs for cell in cells.values()] for cells in found["torch"].values()
    ]
    if affinity is not None:
        assert os.sched_getaffinity(0) == affinity  # else what is timed next would be bound to the same core


def test_without_openvino_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = timings({"net": nn.Linear(3, 2)}, torch.ones(1, 3), runtimes=("torch", "openvino"), **ONE_CELL)["net"]
    assert found.latency_us.keys() == {"torch"}
    assert found.notes == (
        "latency in openvino: timing a model in OpenVINO needs the package 'openvino', which is not installed; "
        "install it with: pip install 'prunus[openvino]'",
    )


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "prunus"])
def test_eight_bits_are_timed_beside_float_and_verified(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(runtime)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)).eval()
    inputs, names = torch.randn(2, 2, 6, 6), (runtime, f"{runtime}-int8")
    found = timings({"net": model}, inputs, runtimes=names, **ONE_CELL)["net"]
    assert found.notes == ()
    assert found.latency_us.keys() == set(names)
    assert "forward" not in vars(model)

    import prunus.compiling.lowering.borders
    import prunus.exporting.quantized

    whole = prunus.exporting.quantized.in_integers

    def wrong(model: nn.Module, scales: prunus.Scales) -> nn.Module:
        module = whole(model, scales)
        module.get_buffer("4.weight_int8").neg_()
        return module

    monkeypatch.setattr(prunus.exporting.quantized, "in_integers", wrong)
    in_words = prunus.compiling.lowering.borders.in_words
    monkeypatch.setattr(prunus.compiling.lowering.borders, "in_words", lambda weight: in_words(-1.0 * weight))
    found = timings({"net": model}, inputs, runtimes=names, **ONE_CELL)["net"]
    assert found.latency_us.keys() == {runtime}
    assert "computes something else" in found.notes[0]


def test_a_model_that_takes_several_inputs_is_timed_in_8_bits() -> None:
    pytest.importorskip("onnxruntime")

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.left, self.right = nn.Embedding(9, 4), nn.Linear(4, 3), nn.Linear(2, 3)

        def forward(self, tokens: Tensor, x: Tensor) -> Tensor:
            return self.left(self.table(tokens)) + self.right(x)

    inputs = (torch.tensor([3, 4]), torch.randn(2, 2))
    found = timings({"net": Two()}, inputs, runtimes=["onnxruntime-int8"], **ONE_CELL)["net"]
    assert found.notes == ()
    assert found.latency_us.keys() == {"onnxruntime-int8"}


def test_all_stands_for_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    installed = ("torch", "torch-compile", "prunus", "prunus-int8")
    assert latency.check_runtimes(["all"]) == latency.check_runtimes("all") == installed
    assert latency.check_runtimes(["openvino", "all"]) == ("openvino", *installed)


def test_a_program_of_prunus_is_made_for_the_cell_and_held_against_the_model(
    fake_runtime: Callable[[Compile], None],
) -> None:
    asked: list[tuple[int, tuple[int, ...]]] = []
    ran: list[Tensor] = []

    def compile(model: nn.Module, example_inputs: tuple[Tensor, ...], *, threads: int) -> Callable[..., object]:
        asked.append((threads, tuple(example_inputs[0].shape)))
        weight = model.weight.detach().clone()

        def program(x: Tensor) -> Tensor:
            ran.append(x)
            return x @ weight.T + model.bias.detach()

        return program

    fake_runtime(compile)
    inputs = torch.randn(1, 3)
    found = latencies(
        {"net": nn.Linear(3, 2)}, inputs, batch_sizes=(1, 4), threads=(1, 2), runtimes=["prunus"], **QUICK
    )
    assert asked == [(threads, (batch, 3)) for threads in (1, 2) for batch in (1, 4)]
    assert found["net"].keys() == {"prunus"}
    timed = [x for x in ran if torch.equal(x, inputs.repeat(len(x), 1))]
    assert len(timed) == len(ran) - 4  # one of each cell was on random inputs


def test_what_computes_something_else_or_nothing_is_left_out(fake_runtime: Callable[[Compile], None]) -> None:
    def compile(model: nn.Module, example_inputs: tuple[Tensor, ...], *, threads: int) -> Callable[..., object]:
        if isinstance(model, nn.Identity):
            raise CompileError("aten.alias has no rule; write one")
        return lambda x: x * model.weight * model.off

    fake_runtime(compile)

    class Scaled(nn.Module):
        def __init__(self, off: float) -> None:
            super().__init__()
            self.weight, self.off = nn.Parameter(torch.tensor(2.0)), off

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight

    models = {"near": Scaled(1 + 5e-5), "far": Scaled(1 + 2e-4), "none": nn.Identity()}
    found = timings(models, torch.ones(1, 3), runtimes=("torch", "prunus"), **ONE_CELL)
    assert found["near"].notes == ()
    assert [found[name].latency_us.keys() for name in models] == [{"torch", "prunus"}, {"torch"}, {"torch"}]
    (note,) = found["far"].notes
    assert note.startswith("latency in prunus: its outputs differ from PyTorch's by 2.0e-04")
    assert found["none"].notes == ("latency in prunus: CompileError: aten.alias has no rule; write one",)


def test_some_runtimes_may_time_some_models_only(fake_runtime: Callable[[Compile], None]) -> None:
    fake_runtime(lambda model, example_inputs, *, threads: model)
    models = {name: nn.Linear(3, 2) for name in "abc"}
    found = timings(models, torch.ones(1, 3), runtimes=("torch", "prunus"), only={"prunus": ["a", "c"]}, **ONE_CELL)
    timed = [list(found[name].latency_us) for name in "abc"]
    assert timed == [["torch", "prunus"], ["torch"], ["torch", "prunus"]]
    with pytest.raises(ValueError, match="unknown runtime 'prunes'; did you mean 'prunus'"):
        timings(models, torch.ones(1, 3), only={"prunes": ["a"]})
    with pytest.raises(ValueError, match=r"unknown model 'd' \(known: a, b, c\)"):
        timings(models, torch.ones(1, 3), only={"prunus": ["d"]})
