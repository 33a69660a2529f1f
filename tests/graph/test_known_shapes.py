"""Shapes that a trace takes over, held against those that torch.export derives itself."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_impls import get_fast_op_impls
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from prunus.graph import known_shapes, trace
from prunus.graph.known_shapes import shapes_known
from prunus.graph.tracing import tracing

LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "a slice": lambda x: x[:, :, 1:, ::2],
    "transposed": lambda x: x.transpose(1, 3).contiguous().transpose(1, 3),
}
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
NORM = torch.ops.aten._native_batch_norm_legit_no_training.default


def described(call: Any, source: Tensor, *others: Tensor | None, known: bool, free: bool) -> list[Any]:
    """Return what torch's tracer holds the results of a call for; sizes that hang on the batch as text."""
    mode = FakeTensorMode(shape_env=ShapeEnv() if free else None)
    dims = [DimDynamic.DYNAMIC, *[DimDynamic.STATIC] * (source.ndim - 1)]
    fake = mode.from_tensor(source, symbolic_context=StatelessSymbolicContext(dims) if free else None)
    fakes = [None if other is None else mode.from_tensor(other, static_shapes=True) for other in others]
    with mode, shapes_known() if known else contextlib.nullcontext():
        results = call(fake, *fakes)
    results = results if isinstance(results, tuple) else (results,)
    return [(str(r.shape), str(r.stride()), r.dtype, r.device, r.storage_offset()) for r in results]


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("operation", known_shapes._ELEMENTWISE, ids=str)
def test_activations_have_the_shape_that_torch_derives(operation: Any, layout: str, free: bool) -> None:
    for dtype in DTYPES:
        source = LAYOUTS[layout](torch.zeros(2, 3, 5, 6, dtype=dtype))
        derived, known = (described(operation, source, known=known, free=free) for known in (False, True))
        assert known == derived


@pytest.mark.parametrize("operation", [torch.ops.aten.sigmoid.default, torch.ops.aten.tanh.default], ids=str)
def test_what_gives_another_type_is_derived(operation: Any) -> None:
    ((*_, dtype, _, _),) = described(operation, torch.zeros(2, 3, dtype=torch.int64), known=True, free=True)
    assert dtype == torch.float32


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("affine", [False, True])
def test_a_batch_norm_has_the_shape_that_torch_derives(affine: bool, layout: str, free: bool) -> None:
    for dtype in DTYPES:
        for own in {dtype, torch.float32}:
            source = LAYOUTS[layout](torch.zeros(2, 3, 5, 6, dtype=dtype))
            weights = [torch.ones(3, dtype=own) if affine else None] * 2
            statistics = [torch.ones(3, dtype=own)] * 2
            derived, known = (
                described(lambda *given: NORM(*given, 0.1, 1e-5), source, *weights, *statistics, known=known, free=free)
                for known in (False, True)
            )
            assert known == derived


@pytest.mark.parametrize("sizes", [(4, 3, 3, 3), (3, 4, 3, 3), (3, 3, 4, 3), (3, 3, 3, 4)])
def test_a_batch_norm_of_other_sizes_is_refused_as_by_torch(sizes: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match="must match"):
        described(
            lambda *given: NORM(*given, 0.1, 1e-5),
            torch.zeros(2, 3, 5, 6),
            *map(torch.ones, sizes),
            known=True,
            free=True,
        )


class Steps(nn.Module):
    """A layer of each kind, and an activation that writes over its input."""

    def __init__(self) -> None:
        super().__init__()
        kinds = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU, nn.Tanh)
        blocks = [
            (nn.Conv2d(place + 1, place + 2, 1), nn.BatchNorm2d(place + 2), kind()) for place, kind in enumerate(kinds)
        ]
        self.steps = nn.Sequential(*(layer for block in blocks for layer in block), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(x)


def test_a_trace_is_the_one_that_torch_makes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def read() -> list[tuple[str, str, str]]:
        nodes = trace(Steps().eval(), torch.zeros(1, 1, 4, 4)).nodes
        return [(str(node.target), str(node.args), str(node.meta.get("val"))) for node in nodes]

    known = read()
    monkeypatch.setattr(known_shapes, "_ELEMENTWISE", ())
    monkeypatch.setattr(known_shapes, "_NORM", None)
    assert known == read()


def test_torchs_table_is_left_as_it_was() -> None:
    before = dict(get_fast_op_impls())
    with tracing(), contextlib.suppress(ValueError):
        assert NORM in get_fast_op_impls()
        raise ValueError
    assert get_fast_op_impls() == before
