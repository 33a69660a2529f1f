"""The demanded graph: every operation computes the original's result restricted to what is kept, value by value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from prunus.graph import rewriting, trace
from prunus.graph.coupling import Coupling, couple
from prunus.graph.kept import Kept, keep
from prunus.graph.rewriting import Demanded, RewriteError
from prunus.packing import load, save
from prunus.pruning.channels.masking import masks_of

pytestmark = pytest.mark.usefixtures("one_thread")

ORDER = [3, 1, 2, 0, 5, 4, 7, 6, 11, 8, 9, 10]


class Between(nn.Module):
    """A convolution, a function of its 12 channels, and a convolution."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], outputs: int = 12) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 12, 1), nn.Conv2d(outputs, 5, 1)
        self.function = function
        self.register_buffer("order", torch.tensor(ORDER))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(torch.sigmoid(self.first(x)), self.order))


def zeroed(y: Tensor, order: Tensor) -> Tensor:
    y = y.clone()
    y[:, ::2] = 0
    return y


def written(y: Tensor, order: Tensor) -> Tensor:
    y = y.clone()
    y[:, 1:5] *= 2
    y[:, 3:5] = y[:, 8:10]
    y[:, 2] += y[:, 7]
    return y


def written_through_views(y: Tensor, order: Tensor) -> Tensor:
    y = y.clone()
    view = y[:, ::3]
    view.add_(1)
    view[:, :, 1:3].mul_(2)
    return y + 1


def counted(y: Tensor, order: Tensor) -> Tensor:
    counts = torch.tensor([1, 2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1])
    return y.repeat_interleave(counts, 1, output_size=16)


def diagonal(y: Tensor, order: Tensor) -> Tensor:
    return y.reshape(y.shape[0], 3, 4, 4, 4).diagonal(0, 1, 2).permute(0, 3, 1, 2)


def grid(y: Tensor, order: Tensor) -> Tensor:
    return y.view(-1, 3, 4, 4, 4).transpose(1, 2).reshape(-1, 12, 4, 4)


# fmt: off
FUNCTIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "channel_shuffle": (lambda y, order: F.channel_shuffle(y, 3), 12),
    "ChannelShuffle": (lambda y, order: nn.ChannelShuffle(4)(y), 12),
    "roll": (lambda y, order: torch.roll(y, 5, 1), 12),
    "roll of two dimensions": (lambda y, order: torch.roll(y, (-5, 1), (1, 2)), 12),
    "flip": (lambda y, order: y.flip(1), 12),
    "index of a buffer": (lambda y, order: y[:, order], 12),
    "index of a list": (lambda y, order: y[:, ORDER], 12),
    "index of a part of a buffer": (lambda y, order: y[:, order[:6]], 6),
    "two indices of one buffer": (lambda y, order: y[:, order][:, order], 12),
    "index that is added too": (lambda y, order: y[:, order] + order.sum(), 12),
    "index_select": (lambda y, order: torch.index_select(y, 1, order), 12),
    "gather": (lambda y, order: torch.gather(y, 1, order[None, :, None, None].expand(y.shape)), 12),
    "take_along_dim": (lambda y, order: torch.take_along_dim(y, order[None, :, None, None], 1), 12),
    "every other": (lambda y, order: y[:, ::2], 6),
    "every third from the second": (lambda y, order: y[:, 1::3], 4),
    "slice": (lambda y, order: y[:, 2:-2], 8),
    "slices scaled and joined": (lambda y, order: torch.cat([y[:, :4] * 0.5, y[:, 4:]], 1), 12),
    "narrow": (lambda y, order: y.narrow(1, 3, 6), 6),
    "select": (lambda y, order: torch.stack([y[:, 3], y.select(1, -5)], 1), 2),
    "repeat_interleave": (lambda y, order: y.repeat_interleave(2, 1), 24),
    "repeat_interleave of counts": (counted, 16),
    "repeat": (lambda y, order: y.repeat(1, 2, 1, 1), 24),
    "tile": (lambda y, order: y.tile(1, 2, 1, 1), 24),
    "pixel_shuffle": (lambda y, order: F.pixel_shuffle(y, 2), 3),
    "pixel_unshuffle": (lambda y, order: F.pixel_unshuffle(y, 2), 48),
    "unfold": (lambda y, order: y.unfold(1, 3, 3).mean(4), 4),
    "chunk into uneven pieces": (lambda y, order: torch.cat(torch.chunk(y, 5, 1)[::-1], 1), 12),
    "tensor_split": (lambda y, order: torch.cat(torch.tensor_split(y, [2, 7], 1)[::-1], 1), 12),
    "hsplit": (lambda y, order: torch.cat(torch.hsplit(y, 3)[::-1], 1), 12),
    "pad of channels": (lambda y, order: F.pad(y, (0, 0, 0, 0, 2, 3)), 17),
    "pad and crop of channels": (lambda y, order: F.pad(y, (0, 0, 0, 0, -2, 3)), 13),
    "pad by reflection": (lambda y, order: F.pad(y, (1, 1, 2, 0), mode="reflect"), 12),
    "rot90": (lambda y, order: y.rot90(1, (1, 2)).rot90(-1, (1, 2)), 12),
    "diagonal": (diagonal, 3),
    "grid": (grid, 12),
    "tril": (lambda y, order: y.tril(), 12),
    "group_norm": (lambda y, order: F.group_norm(y, 4), 12),
    "glu": (lambda y, order: F.glu(y, 1), 6),
    "zeros beside": (lambda y, order: torch.cat([y, y.new_zeros(y.shape[0], 4, 4, 4)], 1), 16),
    "einsum": (lambda y, order: torch.einsum("...chw,...chw->...chw", y, y), 12),
    "every other set to zero": (zeroed, 12),
    "slices written": (written, 12),
    "written through views": (written_through_views, 12),
}
# fmt: on


def inputs(batch: int) -> Tensor:
    return torch.randn(batch, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(batch))


def prune_at_random(model: nn.Module, seed: int) -> Kept:
    """Prune random channels of a model, and return what is left of it."""
    coupling = couple(trace(model, inputs(2)))
    generator = torch.Generator().manual_seed(seed)
    gone = coupling.removable & (torch.rand(coupling.num_classes, generator=generator) < 0.4)
    masks_of(coupling, keep(coupling, gone).gone).apply(model)
    return keep(couple(coupling.graph), gone)


def model_of(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    function, outputs = FUNCTIONS[name]
    return Between(function, outputs).double().eval()


def run(graph: fx.Graph, tensors: list[Any]) -> dict[fx.Node, Any]:
    """Compute all nodes of a graph; a tensor that is written to later is copied as it was when it was made."""
    held: dict[fx.Node, Any] = {}
    seen: dict[fx.Node, Any] = {}
    inputs_ = iter(tensors)
    for node in graph.nodes:
        if node.op == "placeholder":
            held[node] = next(inputs_)
        elif node.op == "call_function":
            held[node] = node.target(*fx.map_arg(node.args, held.get), **fx.map_arg(node.kwargs, held.get))
        seen[node] = held[node].clone() if isinstance(held.get(node), Tensor) else held.get(node)
    return seen


def original_values(coupling: Coupling, x: Tensor) -> dict[fx.Node, Any]:
    graph = coupling.graph
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    return run(
        graph.program.graph,
        [graph.tensor(graph.tensors[n.name]) if n.name in graph.tensors else x for n in placeholders],
    )


def demanded_values(demanded: Demanded, x: Tensor) -> dict[fx.Node, Any]:
    placeholders = [node for node in demanded.graph.nodes if node.op == "placeholder"]
    return run(
        demanded.graph,
        [demanded.tensors[demanded.names[n.name]] if n.name in demanded.names else x for n in placeholders],
    )


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_every_value_is_the_originals_restricted(name: str) -> None:
    lost = 0
    for seed in range(3):
        pruned = model_of(name, seed)
        kept = prune_at_random(pruned, seed)
        demanded = rewriting.demanded(kept, {}, {})
        lost += int(kept.gone.sum())
        module = demanded.module("a test")
        for batch in (1, 2, 5):
            assert torch.allclose(module(inputs(batch)), pruned(inputs(batch)), rtol=0, atol=1e-12)
        whole, cut = original_values(kept.coupling, inputs(6)), demanded_values(demanded, inputs(6))
        compared = 0
        for node, origin in demanded.origin.items():
            if isinstance(cut[node], Tensor) and node not in demanded.renumbered:
                wanted = demanded.restricted(node, whole[origin])
                assert torch.allclose(cut[node].to(wanted.dtype), wanted, rtol=0, atol=1e-12), (seed, origin)
                compared += 1
        assert compared > 4
    assert lost > 0


@pytest.mark.parametrize("name", ["channel_shuffle", "diagonal", "every other", "index of a part of a buffer"])
def test_what_was_moved_saves_and_loads(name: str, tmp_path: Path) -> None:
    pruned = model_of(name, 0)
    kept = prune_at_random(pruned, 0)
    module = rewriting.demanded(kept, {}, {}).module("a test")
    save(module, tmp_path / "module.prunus")
    assert torch.equal(load(tmp_path / "module.prunus")(inputs(3)), module(inputs(3)))
    assert module.state_dict().keys() == pruned.state_dict().keys()


def test_the_graph_that_was_read_stays() -> None:
    kept = prune_at_random(model_of("channel_shuffle", 0), 0)
    before = str(kept.coupling.graph.program.graph)
    shapes = [node.meta["val"].shape for node in kept.coupling.graph.nodes if isinstance(node.meta.get("val"), Tensor)]
    demanded = rewriting.demanded(kept, {}, {})
    after = [node.meta["val"].shape for node in kept.coupling.graph.nodes if isinstance(node.meta.get("val"), Tensor)]
    assert str(kept.coupling.graph.program.graph) == before
    assert shapes == after
    assert [str(node.target) for node in demanded.moved] == ["aten.index_select.default"]


def test_shuffles_and_rolls_that_still_fit_keep_their_operation() -> None:
    model = Between(lambda y, order: F.channel_shuffle(y, 3)).double()
    coupling = couple(trace(model, inputs(2)))
    gone = torch.zeros(coupling.num_classes, dtype=torch.bool)
    gone[coupling.axis_classes(("first.weight", (0,)))[8:]] = True  # the third of three groups
    demanded = rewriting.demanded(keep(coupling, gone), {}, {})
    (shuffle,) = [node for node in demanded.graph.nodes if "shuffle" in str(node.target)]
    assert shuffle.args[1] == 2
    assert not demanded.moved
    kept = prune_at_random(model_of("roll", 1), 1)
    assert not rewriting.demanded(kept, {}, {}).moved


def test_an_index_in_a_buffer_is_renumbered_there_unless_it_serves_anything_else() -> None:
    kept = prune_at_random(model_of("index of a buffer", 0), 0)
    demanded = rewriting.demanded(kept, {}, {})
    assert demanded.replaced == {"order"}
    left = (~kept.gone[kept.coupling.axis_classes(("first.weight", (0,)))]).nonzero().flatten().tolist()
    assert [left[place] for place in demanded.tensors["order"].tolist()] == [place for place in ORDER if place in left]
    kept = prune_at_random(model_of("index that is added too", 0), 0)
    demanded = rewriting.demanded(kept, {}, {})
    assert demanded.tensors["order"].tolist() == ORDER
    assert set(demanded.added) == {"kept_indices"}


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.twice, self.again, self.last = (nn.Linear(*s) for s in ((3, 6), (6, 6), (6, 6), (6, 2)))
            self.again.weight = self.twice.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.again(torch.relu(self.twice(torch.relu(self.first(x)))))))

    model = Tied()
    coupling = couple(trace(model, torch.randn(2, 3)))
    gone = torch.zeros(coupling.num_classes, dtype=torch.bool)
    gone[coupling.axis_classes((coupling.uses[1].weight.name, (0,)))[:2]] = True
    module = rewriting.demanded(keep(coupling, gone), {}, {}).module("a test")
    state = module.state_dict()
    assert state["twice.weight"].shape == state["again.weight"].shape == (4, 4)
    assert module.get_parameter("twice.weight") is module.get_parameter("again.weight")


def stale(y: Tensor, order: Tensor) -> Tensor:
    y = y.clone()
    view = y[:, ::3]
    y.add_(1)
    return view


def overlapping(y: Tensor, order: Tensor) -> Tensor:
    y = y.clone()
    some, others = y[:, ::2], y[:, ::3]
    some.add_(1)
    return torch.cat([others, y], 1)


@pytest.mark.parametrize(("function", "outputs"), [(stale, 4), (overlapping, 16)])
def test_views_that_a_copy_can_not_stand_for_are_refused(function: Any, outputs: int) -> None:
    reasons = []
    for seed in range(4):
        torch.manual_seed(seed)
        pruned = Between(function, outputs).double()
        kept = prune_at_random(pruned, seed)
        try:
            module = rewriting.demanded(kept, {}, {}).module("a test")
        except RewriteError as error:
            reasons.append(str(error))
        else:
            assert torch.allclose(module(inputs(3)), pruned(inputs(3)), rtol=0, atol=1e-12)
    assert reasons
    assert all("it writes to memory that is read through" in reason for reason in reasons)
    assert all("test_rewriting.py" in reason for reason in reasons)


def test_sets_that_do_not_fit_together_are_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    coupling = couple(trace(model, torch.randn(2, 3)))
    kept = keep(coupling, torch.zeros(coupling.num_classes, dtype=torch.bool))
    gone = kept.gone.clone()
    gone[coupling.axis_classes(("0.weight", (0,)))[:2]] = True  # against the reason they have to stay
    left = {"0.weight": {0: torch.arange(2, 6)}, "0.bias": {0: torch.arange(2, 6)}}
    with pytest.raises(RewriteError, match=r"layer_norm can't be computed .* must stay whole; in module '1'"):
        rewriting.demanded(Kept(coupling, gone, left), {}, {})


class Wide(nn.Module):
    """Joins, flattens and rolls large maps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.third, self.last = nn.Conv2d(128, 32, 1), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = torch.roll(torch.cat([y, self.second(y)], 1), 3, 2)
        return self.last(self.third(y).flatten(2).transpose(1, 2)).mean(1)


def test_the_proof_takes_no_memory_for_large_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Wide().to("meta")
    coupling = couple(trace(model, torch.zeros(1, 3, 128, 128, device="meta")))
    generator = torch.Generator().manual_seed(0)
    kept = keep(coupling, coupling.removable & (torch.rand(coupling.num_classes, generator=generator) < 0.5))
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for tensor in pytree.tree_leaves(result):
                if isinstance(tensor, Tensor) and not tensor.is_meta:
                    largest = max(largest, tensor.untyped_storage().nbytes())
            return result

    with Watch():
        demanded = rewriting.demanded(kept, {}, {})
    assert not demanded.moved
    assert largest < 1 << 23  # the joined map with a number for each element is 32 MB


def two_sizes(y: Tensor, order: Tensor) -> Tensor:
    size = y.shape[0] * 12
    return y.reshape(size, 4, 4).reshape(-1, 12, 4, 4) * (torch.ones(size, dtype=y.dtype).sum() / y.shape[0])


def test_a_size_that_serves_two() -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        pruned = Between(two_sizes).double().eval()
        kept = prune_at_random(pruned, seed)
        module = rewriting.demanded(kept, {}, {}).module("a test")
        for batch in (1, 2, 5):
            assert torch.allclose(module(inputs(batch)), pruned(inputs(batch)), rtol=0, atol=1e-12)


def test_columns_of_other_groups_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 2, 1))
    coupling = couple(trace(model, torch.randn(2, 3, 4, 4)), "counted")
    gone = torch.zeros(coupling.num_classes, dtype=torch.bool)
    gone[coupling.axis_classes(("0.weight", (0,)))[[1, 6]]] = True
    kept = keep(coupling, gone)
    rewriting.demanded(kept, {}, {})
    columns = {name: own.flip(0) for name, own in kept.columns.items()}
    assert columns
    with pytest.raises(RewriteError, match="its outputs would meet other inputs than before"):
        rewriting.demanded(replace(kept, columns=columns), {}, {})
