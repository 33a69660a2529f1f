"""Which parameters get a gradient: in the model, and in what is made of its graph by each road."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import prunus
from prunus.graph import trace
from prunus.graph.exported import ExportedModule


class Layers(nn.Module):
    """Three layers, a scale and a buffer, and the forward that it is given."""

    def __init__(self, run: Callable[[Layers, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.tensor([0.5, 2.0, 1.0, -1.0]))
        self.register_buffer("kept", torch.zeros(4))
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


ARRANGEMENTS: dict[str, Callable[[Layers, Tensor], Tensor]] = {}


def arrangement(run: Callable[[Layers, Tensor], Tensor]) -> Callable[[Layers, Tensor], Tensor]:
    ARRANGEMENTS[run.__name__] = run
    return run


@arrangement
def everything_with_gradients(m: Layers, x: Tensor) -> Tensor:
    return m.c(m.b(m.a(x)) * m.scale)


@arrangement
def the_first_layer_without(m: Layers, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = m.a(x)
    return m.b(y)


@arrangement
def one_of_two_branches(m: Layers, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = m.a(x)
    return m.b(x) * y + m.c(y)


@arrangement
def several_results(m: Layers, x: Tensor) -> Tensor:
    with torch.no_grad():
        first, second = m.a(x).chunk(2, 1)
        pieces = m.c(x).split(2, 1)
    return m.b(torch.cat([first, second], 1)) + torch.cat(pieces, 1)


@arrangement
def detached_by_hand(m: Layers, x: Tensor) -> Tensor:
    return m.b(m.a(x).detach())


@arrangement
def detached_in_place(m: Layers, x: Tensor) -> Tensor:
    return m.b(m.a(x).detach_())


@arrangement
def switched_by_calls(m: Layers, x: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    y = m.a(x)
    torch.set_grad_enabled(True)
    return m.b(y)


@torch.no_grad()
def _frozen(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x).relu()


@arrangement
def by_a_decorator(m: Layers, x: Tensor) -> Tensor:
    return m.c(_frozen(m.b, m.a(x)))


@torch.inference_mode()
def _inference(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x)


@arrangement
def by_inference_mode(m: Layers, x: Tensor) -> Tensor:
    return m.b(_inference(m.a, x).clone())


@arrangement
def inference_mode_off(m: Layers, x: Tensor) -> Tensor:
    with torch.inference_mode(False):
        y = m.a(x)
    return m.b(y)


@arrangement
def gradients_within_no_gradients(m: Layers, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = m.a(x)
        with torch.enable_grad():
            z = m.b(y)
        w = m.c(z)
    return z + w


@arrangement
def no_gradients_within_gradients_within_no_gradients(m: Layers, x: Tensor) -> Tensor:
    with torch.no_grad(), torch.enable_grad():
        y = m.a(x)
        with torch.no_grad():
            z = m.b(y)
        return y + m.c(z)


@arrangement
def a_tensor_made_without(m: Layers, x: Tensor) -> Tensor:
    with torch.no_grad():
        made = torch.ones(4)
        made += m.scale
    return m.b(x) * made


@arrangement
def a_tensor_made_without_and_written_with(m: Layers, x: Tensor) -> Tensor:
    with torch.no_grad():
        made = torch.zeros(4)
    made = made + m.a(x)
    made += m.scale
    return m.b(made)


@arrangement
def written_in_place_after(m: Layers, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = m.a(x)
    y *= m.scale
    return m.b(y)


@arrangement
def a_buffer_written_without(m: Layers, x: Tensor) -> Tensor:
    with torch.no_grad():
        m.kept.copy_(m.scale * 2)
    return m.b(x) * m.kept


@arrangement
def a_view_taken_without(m: Layers, x: Tensor) -> Tensor:
    y = m.a(x)
    with torch.no_grad():
        z = y.view(-1, 2, 2).transpose(1, 2)
    return m.b(z.flatten(1)) + m.c(y)


@arrangement
def the_parameter_itself(m: Layers, x: Tensor) -> Tensor:
    with torch.no_grad():
        scale, y = m.scale, m.a(x)
    return y * scale


@arrangement
def autocast_off_in_it(m: Layers, x: Tensor) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        y = m.a(x)
    return m.b(y)


@arrangement
def it_in_autocast_off(m: Layers, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        y = m.a(x)
        with torch.no_grad():
            y = m.b(y)
        return m.c(y)


@arrangement
def gradients_in_autocast_off_in_it(m: Layers, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = m.a(x)
        with torch.autocast("cpu", enabled=False):
            with torch.enable_grad():
                z = m.b(y)
            w = m.c(z)
    return z + w


class Swish(torch.autograd.Function):
    """Has a backward of its own, and switches gradients in its forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = x * x.sigmoid()
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        sigmoid = x.sigmoid()
        return grads[0] * (sigmoid + x * sigmoid * (1 - sigmoid))


@arrangement
def a_function_with_its_own_backward(m: Layers, x: Tensor) -> Tensor:
    y = Swish.apply(m.a(x))
    with torch.no_grad():
        z = m.c(x)
    return m.b(y) + z


@arrangement
def recomputed_by_a_checkpoint(m: Layers, x: Tensor) -> Tensor:
    y = checkpoint(lambda x: m.a(x).relu(), x + 0 * m.scale, use_reentrant=True)
    return m.b(y)


# torch.export itself leaves no sign of these, or takes them for something else.
LOST_BY_TORCH_EXPORT = (
    "by_inference_mode",
    "a_function_with_its_own_backward",
    "recomputed_by_a_checkpoint",
    "it_in_autocast_off",
    "gradients_in_autocast_off_in_it",
)


def gradients(module: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    module.zero_grad()
    module(x).square().sum().backward()
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def roads(model: Layers, x: Tensor, folder: Path) -> dict[str, nn.Module]:
    prunus.save(model, folder / "model.prunus", example_inputs=x)
    return {
        "saved": prunus.load(folder / "model.prunus").train(),
        "traced": ExportedModule.from_program(trace(model, x).program).train(),
        "exported": ExportedModule.from_program(torch.export.export(model.eval(), (x,), strict=False)).train(),
    }


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_the_same_parameters_get_the_same_gradients(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Layers(ARRANGEMENTS[name]), torch.randn(3, 4)
    expected = gradients(model, x)
    made = roads(model, x, tmp_path)
    if name in LOST_BY_TORCH_EXPORT:
        del made["exported"]
    for road, module in made.items():
        for _ in range(2):
            found = gradients(module, x)
        assert {name for name, value in found.items() if value is None} == {
            name for name, value in expected.items() if value is None
        }, road
        for parameter, value in expected.items():
            if value is not None:
                torch.testing.assert_close(found[parameter], value, msg=f"{road}: {parameter}")


def test_the_callers_switches_do_not_matter() -> None:
    model, x = Layers(one_of_two_branches), torch.randn(3, 4)
    expected = {name for name, value in gradients(model, x).items() if value is None}
    switches = torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)
    for switch in switches:
        with switch:
            graph = trace(model, x)
        module = ExportedModule.from_program(graph.program)
        assert {name for name, value in gradients(module, x).items() if value is None} == expected
        assert module(x).dtype == torch.float32
    assert torch.is_grad_enabled()


def under_autocast(m: Layers, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = m.a(x)
    return m.b(y.float())


def under_autocast_in_it(m: Layers, x: Tensor) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        y = m.a(x)
    return m.b(y.float())


def written_through(m: Layers, x: Tensor) -> Tensor:
    y = m.a(x)
    with torch.no_grad():
        y.mul_(2)
    return m.b(y)


def written_through_a_view(m: Layers, x: Tensor) -> Tensor:
    y = m.a(x)
    with torch.no_grad():
        y.view(-1, 2, 2)[:, 0].mul_(2)
    return m.b(y)


def a_parameter_written(m: Layers, x: Tensor) -> Tensor:
    with torch.no_grad():
        m.scale.clamp_(0, 1)
    return m.b(x) * m.scale


UNSAID = [
    (under_autocast, "under torch.autocast"),
    (under_autocast_in_it, "under torch.autocast"),
    (written_through, "in place under torch.no_grad"),
    (written_through_a_view, "in place under torch.no_grad"),
    (a_parameter_written, "in place under torch.no_grad"),
]


@pytest.mark.parametrize(("run", "message"), UNSAID, ids=lambda value: getattr(value, "__name__", ""))
def test_what_a_flat_graph_would_lose_is_read_but_never_run(
    run: Callable[[Layers, Tensor], Tensor], message: str, tmp_path: Path
) -> None:
    model, x = Layers(run), torch.randn(3, 4)
    assert trace(model, x).nodes
    with pytest.raises(ValueError, match=message):
        prunus.save(model, tmp_path / "model.prunus", example_inputs=x)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=message):
        ExportedModule.from_program(torch.export.export(model.eval(), (x,), strict=False))


def test_tracing_leaves_torch_as_it_was() -> None:
    before = torch.inference_mode.__enter__, torch.autograd.Function.apply
    trace(Layers(by_inference_mode), torch.randn(3, 4))
    assert (torch.inference_mode.__enter__, torch.autograd.Function.apply) == before
    with torch.inference_mode():
        assert torch.ones(1).is_inference()


class HardCoded(nn.Module):
    """Has a layer frozen by no_grad, and a forward that hard-codes a size, so that it can only be shrunk as a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.hidden, self.last = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.frozen(x).relu()
        z = self.hidden(y).view(-1, 6, 1).relu()
        found: Tensor = self.last(z.flatten(1))
        return found


def test_a_graph_that_was_shrunk_leaves_frozen_what_was() -> None:
    model = HardCoded().eval()
    model.hidden.weight.data[:, 5:] = 0
    model.last.weight.data[:, 3:] = 0
    x = torch.randn(5, 4)
    small = prunus.shrink(model, x)
    assert isinstance(small, ExportedModule)
    assert small.get_parameter("frozen.weight").shape == (5, 4)
    found = gradients(small.train(), x)
    assert {name for name, value in found.items() if value is None} == {"frozen.weight", "frozen.bias"}
