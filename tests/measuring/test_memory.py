from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunus.measuring.memory import peak_memory


@pytest.mark.parametrize(("width", "hidden", "out"), [(100, 300, 10), (10, 50, 400)])
@pytest.mark.parametrize("batch", [1, 64])
def test_a_perceptron_by_hand(width: int, hidden: int, out: int, batch: int):
    """Sequential holds one value: ReLU's input beside its output, then that beside the last output."""
    model = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out))
    expected = 4 * batch * max(2 * hidden, hidden + out)
    assert peak_memory(model, (torch.randn(batch, width),)) == expected


def test_what_is_held_on_to_adds_up():
    class Dense(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x * i for i in range(5)])

    for dtype, size in ((torch.float32, 4), (torch.float64, 8), (torch.bfloat16, 2)):
        assert peak_memory(Dense(), (torch.ones(1000, 10, dtype=dtype),)) == 2 * 5 * 10_000 * size


def test_memory_that_is_given_back_does_not_count_twice():
    class Loop(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(20):
                x = x.neg()
            return x

    assert peak_memory(Loop(), (torch.ones(1000),)) == 2 * 4000


def test_a_forward_in_place_takes_nothing():
    assert peak_memory(nn.ReLU(inplace=True), (torch.ones(1000),)) == 0


def test_the_warm_up_fills_caches_first():
    class Cached(nn.Module):
        cache: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.cache is None:
                self.cache = torch.ones(10_000)
            return x.neg()

    assert peak_memory(Cached(), (torch.ones(10),)) == 40


def test_scratch_memory_of_a_kernel_is_in_it():
    model = nn.Conv2d(8, 8, 3)
    image = torch.randn(4, 8, 32, 32)
    assert peak_memory(model, (image,)) >= 4 * 4 * 8 * 30 * 30


def test_training_state_is_left_alone_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]):
    model = nn.BatchNorm1d(3).train()
    peak_memory(model, (torch.randn(4, 3),))
    assert model.training
    assert int(model.num_batches_tracked) == 0
    assert capfd.readouterr() == ("", "")


def test_an_unknown_device_has_no_figure():
    assert peak_memory(nn.Linear(2, 2, device="meta"), (torch.ones(1, 2, device="meta"),)) is None


def test_a_failing_model_is_named():
    with pytest.raises(ValueError, match="model 'net' can't run a batch of 1"):
        peak_memory(nn.Linear(2, 2), (torch.ones(1, 3),), name="net")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_perceptron_on_cuda():
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 128)).cuda()
    found = peak_memory(model, (torch.randn(64, 256, device="cuda"),))
    assert found is not None
    assert found >= 4 * 64 * 2 * 512
