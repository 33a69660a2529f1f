from __future__ import annotations

import gc
import time
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from prunus.latency import interleaved, latencies
from prunus.machine import cores

QUICK = {"seconds": 0.002, "min_runs": 2}


class Recorder(nn.Module):
    """Notes each call: its name, batch, PyTorch's threads, and the modes."""

    def __init__(self, name: str, log: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.name, self.log = name, log
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        assert not self.training
        assert x.is_contiguous()
        self.log.append((self.name, len(x), torch.get_num_threads()))
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


def test_figures_are_microseconds():
    found = interleaved({"short": lambda: time.sleep(0.001), "long": lambda: time.sleep(0.004)}, seconds=0.05)
    assert 1000 <= found["short"].p10 < 4000 <= found["long"].p10
    assert found["short"].runs == found["long"].runs >= 10


def test_time_is_bounded_unless_the_fewest_runs_take_longer():
    start = time.perf_counter()
    found = interleaved({"slow": lambda: time.sleep(0.02)}, seconds=0.001, min_runs=4)
    assert found["slow"].runs == 4
    assert time.perf_counter() - start < 1


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_work_is_waited_for():
    model = nn.Sequential(*[nn.Linear(4096, 4096) for _ in range(8)]).cuda()
    found = latencies({"net": model}, torch.randn(1, 4096, device="cuda"), batch_sizes=(1, 4096))
    (cells,) = found["net"]["torch"].values()
    assert cells["4096"].median > 2 * cells["1"].median
