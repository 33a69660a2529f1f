"""What several test files share."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

# the networks register themselves when they are imported, so the search for doctests must not import them again
collect_ignore_glob = ["support/zoo*.py"]

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Each of the dtypes that prunus prunes."""
    found = request.param
    assert isinstance(found, torch.dtype)
    return found


@pytest.fixture(scope="session", autouse=True)
def own_cache_of_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Build kernels into one cache of this test run, without optimisation: what they compute does not depend on it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "programs"
    folder.mkdir(mode=0o700, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNUS_CACHE", str(folder))
        patch.setenv("CFLAGS", "-O0 -pipe")
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread, in processes of tests too: with tensors this small, more cost than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def rare_garbage_collection() -> Iterator[None]:
    """Let the garbage collector pass over what was imported, and look for new garbage a thirtieth as often.

    Tracing makes many small objects: with Python's thresholds collection took 6% of the time of its tests.
    """
    gc.collect()
    gc.freeze()
    before = gc.get_threshold()
    gc.set_threshold(20_000, 10, 10)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def ten_rounds() -> Iterator[None]:
    """Time models for ten rounds, not half a second each: how many there are changes nothing but the figures."""
    from prunus.measuring.latency import clock

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "_MAX_RUNS", 10)
        yield


class Network(nn.Module):
    """A convolution and two linear layers, whose shapes fit every pattern."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.hidden = nn.Linear(8 * 4 * 4, 24)
        self.head = nn.Linear(24, 8)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.conv(images)).relu().flatten(1)
        head: Tensor = self.head(self.hidden(features).relu())
        return head


@pytest.fixture
def make_network() -> Callable[[int], Network]:
    """Make the network from a seed, without touching the global random state."""

    def make(seed: int = 0) -> Network:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return Network()

    return make


@pytest.fixture
def network(make_network: Callable[[int], Network]) -> Network:
    """A network of 3,552 prunable weights in three layers."""
    return make_network(0)


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    """Two batches the network takes: images and labels."""
    generator = torch.Generator().manual_seed(5)
    return [
        (torch.randn(6, 4, 6, 6, generator=generator), torch.randint(0, 8, (6,), generator=generator)) for _ in range(2)
    ]
