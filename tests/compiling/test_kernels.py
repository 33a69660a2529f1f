"""Every way in which a contraction may be computed gives the same, whatever its shape and what follows it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.compiling import tuning
from prunus.compiling.kernels.variants import Variant
from sparse_models import close, sparse


class Residual(nn.Module):
    """A sum with what a convolution read, before the activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.last = nn.Conv2d(8, 4, 3, padding=1, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the sum, then a stride."""
        x = self.first(images).relu()
        found: Tensor = self.last((self.second(x) + x).relu())
        return found


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "pooled": (lambda: nn.Sequential(nn.Conv2d(2, 8, 5), nn.ReLU(), nn.MaxPool2d(2)), (2, 14, 28)),
    "averaged": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Sigmoid(), nn.AvgPool2d(3, 2)), (2, 9, 18)),
    "residual": (Residual, (3, 10, 13)),
    "matrices": (lambda: nn.Sequential(nn.Linear(600, 16), nn.GELU(), nn.Linear(16, 8), nn.Linear(8, 3)), (600,)),
    "tokens": (lambda: nn.Sequential(nn.Linear(12, 8), nn.SiLU(), nn.Linear(8, 4)), (9, 12)),
}


@pytest.mark.parametrize("sparsity", [0.0, 0.8])
@pytest.mark.parametrize("name", list(NETS))
def test_every_variant_computes_the_same(name: str, sparsity: float, monkeypatch: pytest.MonkeyPatch) -> None:
    make, shape = NETS[name]
    torch.manual_seed(0)
    model, inputs = sparse(make(), sparsity), torch.randn(11, *shape)
    offered = tuning.variants
    seen: set[Variant] = set()
    for place in range(6):

        def chosen(*given: object, place: int = place) -> list[Variant]:
            found = offered(*given)  # type: ignore[arg-type]
            last = found[min(place, len(found) - 1)]
            seen.add(last)
            return [last]

        monkeypatch.setattr(tuning, "variants", chosen)
        program = prunus.compile(model, inputs, tune=False)
        close(program(inputs), model(inputs))
        close(program(inputs[:1]), model(inputs[:1]))
    assert len(seen) > 4
