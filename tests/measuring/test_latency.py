from __future__ import annotations

import gc
import subprocess
import sys
import time
from itertools import pairwise

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from prunus import exporting
from prunus.errors import ExportError
from prunus.machine import cores
from prunus.measuring.latency import interleaved, latencies, timings

QUICK = {"seconds": 0.002, "min_runs": 2}


class Recorder(nn.Module):
    """Notes each call: its name, batch, PyTorch's threads, and the modes."""

    def __init__(self, name: str, log: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.name, self.note = name, log.append  # what a measurement calls is left as it was, lists included
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        assert not self.training
        assert x.is_contiguous()
        self.note((self.name, len(x), torch.get_num_threads()))
        return self.fc(x)


def test_every_cell_is_timed_and_no_setting_leaks():
    log: list[tuple[str, int, int]] = []
    models = {name: Recorder(name, log).train() for name in "ab"}
    inputs = torch.randn(2, 3)
    before = torch.get_num_threads(), torch.get_rng_state()
    found = latencies(models, inputs, batch_sizes=(1, 5), threads=(1, 2), **QUICK)
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert gc.isenabled()
    assert all(model.training for model in models.values())
    for name in "ab":
        assert {threads: set(cells) for threads, cells in found[name]["torch"].items()} == {
            "1": {"1", "5"},
            "2": {"1", "5"},
        }
        for threads in (1, 2):
            for batch in (1, 5):
                cell = found[name]["torch"][str(threads)][str(batch)]
                calls = log.count((name, batch, threads))
                assert calls >= cell.runs + 3  # and the warm-up
                assert 0 < cell.p10 <= cell.median <= cell.p90


def test_models_take_turns_in_changing_order():
    log: list[str] = []
    found = interleaved({name: lambda name=name: log.append(name) for name in "abc"}, seconds=0.001, min_runs=50)
    log = log[9:]  # the warm-up
    rounds = [tuple(log[i : i + 3]) for i in range(0, len(log), 3)]
    assert len(rounds) == found["a"].runs == found["b"].runs == found["c"].runs >= 50
    assert {tuple(sorted(turn)) for turn in rounds} == {("a", "b", "c")}
    assert len(set(rounds)) == 6
    again: list[str] = []
    interleaved({name: lambda name=name: again.append(name) for name in "abc"}, seconds=0.001, min_runs=50)
    assert again[9:159] == log[:150]  # the order is the seed's


def test_with_several_threads_a_turn_begins_with_calls_that_are_not_timed():
    waits = iter([0.0] * 3 + [0.01, 0.01, 0.01, 0.0] * 5)
    found = interleaved({"net": lambda: time.sleep(next(waits))}, seconds=0.001, min_runs=5, threads=2)["net"]
    assert found.runs == 5
    assert found.median < 5000  # the slow calls, of 10,000 µs, came before it


def test_figures_are_microseconds():
    found = interleaved({"short": lambda: time.sleep(0.001), "long": lambda: time.sleep(0.004)}, seconds=0.05)
    assert 1000 <= found["short"].p10 < 4000 <= found["long"].p10
    assert found["short"].runs == found["long"].runs >= 10


def test_time_is_bounded_unless_the_fewest_runs_take_longer():
    start = time.perf_counter()
    found = interleaved({"slow": lambda: time.sleep(0.02)}, seconds=0.001, min_runs=4)
    assert found["slow"].runs == 4
    assert time.perf_counter() - start < 30  # all 10,000 runs would take 200 s


def test_token_ids_and_several_inputs():
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(10, 4)

        def forward(self, tokens: Tensor, scale: Tensor) -> Tensor:
            assert tokens.dtype == torch.int64
            return self.words(tokens).sum(1) * scale

    inputs = (torch.tensor([[1, 2], [3, 9]]), torch.ones(2, 1))
    found = latencies({"words": Words()}, inputs, batch_sizes=[7], threads=[1], **QUICK)
    assert set(found["words"]["torch"]["1"]) == {"7"}


def test_the_default_is_one_thread_and_all_cores():
    found = latencies({"net": nn.Linear(2, 2)}, torch.ones(1, 2), batch_sizes=[1], **QUICK)
    assert set(found["net"]["torch"]) == {"1", str(cores())}


def test_a_model_that_takes_one_batch_size_only_is_told_before_any_timing():
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(2, 6)

    log: list[tuple[str, int, int]] = []
    with pytest.raises(ValueError, match=r"model 'fixed' can't run a batch of 64, made from example_inputs"):
        latencies({"free": Recorder("free", log), "fixed": Fixed()}, torch.ones(4, 3), batch_sizes=(4, 64))
    assert len(log) <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threads": [0]}, r"threads must be whole numbers above 0, got \[0\]"),
        ({"threads": []}, "threads must be"),
        ({"batch_sizes": (1, -2)}, r"batch_sizes must be whole numbers above 0, got \(1, -2\)"),
        ({"batch_sizes": (1.5,)}, "batch_sizes must be"),
        ({"batch_sizes": (True,)}, "batch_sizes must be"),
        ({"min_runs": 0}, "min_runs must be"),
        ({"seconds": 0}, "seconds must be above 0, got 0"),
        ({"seconds": float("nan")}, "seconds must be above 0, got nan"),
    ],
)
def test_wrong_numbers_are_refused(arguments: dict[str, object], message: str):
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match=message):
        latencies({"net": nn.Linear(2, 2)}, torch.ones(1, 2), **{"threads": [1], **arguments})
    assert torch.get_num_threads() == before


def test_no_call_is_refused():
    with pytest.raises(ValueError, match="calls is empty"):
        interleaved({})


def test_rising_percentiles_of_random_times():
    samples = [x / 1e6 for x in (900, 1500, 1200, 2600)]
    waits = iter(samples * 100)
    cell = interleaved({"net": lambda: time.sleep(next(waits))}, seconds=0.001, min_runs=12)["net"]
    assert all(low <= high for low, high in pairwise((cell.p10, cell.median, cell.p90)))
    assert cell.p90 > cell.p10


class Double(nn.Module):
    """Notes PyTorch's threads and the batch; multiplies by a weight."""

    def __init__(self, weight: float, log: list[tuple[int, int]]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.note = log.append  # not the list: torch.export puts copies of lists back

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_inference_mode_enabled():
            self.note((torch.get_num_threads(), len(x)))
        return x * self.weight


def test_onnx_runtime_takes_turns_with_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each runtime runs each model in each cell, on its own weights, threads and batch."""
    ran: list[tuple[str, int, int]] = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, data: bytes, options: object, **kwargs: object) -> None:
            super().__init__(data, options, **kwargs)
            assert (options.inter_op_num_threads, kwargs["providers"]) == (1, ["CPUExecutionProvider"])
            assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
            assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
            self.threads = options.intra_op_num_threads

        def run(self, names: object, feeds: dict[str, object]) -> list[object]:
            outputs: list[object] = super().run(names, feeds)
            (given,) = feeds.values()
            ran.append((f"{float(outputs[0][0, 0] / given[0, 0]):g}", self.threads, len(given)))
            return outputs

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    log: list[tuple[int, int]] = []
    models = {"twice": Double(2.0, log), "thrice": Double(3.0, log).train()}
    found = latencies(
        models, torch.ones(1, 3), batch_sizes=(1, 4), threads=(1, 2), runtimes=("torch", "onnxruntime"), **QUICK
    )
    cells = [(threads, batch) for threads in (1, 2) for batch in (1, 4)]
    for name, weight in (("twice", "2"), ("thrice", "3")):
        assert found[name].keys() == {"torch", "onnxruntime"}
        for threads, batch in cells:
            torch_cell = found[name]["torch"][str(threads)][str(batch)]
            onnx_cell = found[name]["onnxruntime"][str(threads)][str(batch)]
            assert torch_cell.runs == onnx_cell.runs, "they take turns"
            # and the warm-up, and the call that is held against PyTorch; with threads, three before each timed one
            calls = onnx_cell.runs * (1 if threads == 1 else 4)
            assert ran.count((weight, threads, batch)) == calls + 3 + 1
    assert set(log) == set(cells)
    assert models["thrice"].training


def test_a_runtime_alone() -> None:
    log: list[tuple[int, int]] = []
    found = latencies({"net": Double(2.0, log)}, torch.ones(1, 3), threads=[1], runtimes=["onnxruntime"], **QUICK)
    assert found["net"].keys() == {"onnxruntime"}
    assert found["net"]["onnxruntime"]["1"].keys() == {"1", "64"}


def test_what_onnx_runtime_can_not_run_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    models = {"branches": Branches(), "linear": nn.Linear(3, 2)}
    settings = {"batch_sizes": [1], "threads": [1], **QUICK}
    found = timings(models, torch.ones(1, 3), runtimes=("torch", "onnxruntime"), **settings)
    assert found["branches"].latency_us.keys() == {"torch"}
    (note,) = found["branches"].notes
    assert note.startswith("latency in onnxruntime: the graph of the model (Branches) can't be traced")
    assert found["linear"].latency_us.keys() == {"torch", "onnxruntime"}
    assert found["linear"].notes == ()

    def differs(*_: object) -> object:
        raise ExportError("what was exported computes something else")

    monkeypatch.setattr(exporting, "to_onnx", differs)
    (note,) = timings({"net": nn.Linear(3, 2)}, torch.ones(1, 3), runtimes=["onnxruntime"], **settings)["net"].notes
    assert note == "latency in onnxruntime: what was exported computes something else"


def test_without_the_extra_it_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = timings(
        {"net": nn.Linear(3, 2)},
        torch.ones(1, 3),
        batch_sizes=[1],
        threads=[1],
        runtimes=("torch", "onnxruntime"),
        **QUICK,
    )["net"]
    assert found.latency_us.keys() == {"torch"}
    assert found.notes[0].endswith("pip install 'prunus[export]'")


@pytest.mark.parametrize(
    ("runtimes", "message"),
    [
        (["torch", "onnx"], r"unknown runtime 'onnx'; did you mean 'onnxruntime'\?"),
        ([], "runtimes is empty; give at least one of torch, torch-compile, onnxruntime, .*, prunus-int8, or all"),
    ],
)
def test_unknown_runtimes_are_refused(runtimes: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        latencies({"net": nn.Linear(2, 2)}, torch.ones(1, 2), runtimes=runtimes)


def test_timing_pytorch_alone_loads_nothing_more() -> None:
    loaded = "sorted({'onnx', 'onnxruntime', 'prunus.graph'} & set(sys.modules))"
    code = f"import sys, prunus.measuring.latency; print({loaded})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_work_is_waited_for():
    model = nn.Sequential(*[nn.Linear(4096, 4096) for _ in range(8)]).cuda()
    found = latencies({"net": model}, torch.randn(1, 4096, device="cuda"), batch_sizes=(1, 4096))
    (cells,) = found["net"]["torch"].values()
    assert cells["4096"].median > 2 * cells["1"].median
