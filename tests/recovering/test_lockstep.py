"""Two models run side by side: what each of them gives is what its own forward gives, on every network of the zoo."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn

import prunus
from prunus.forward import undisturbed
from prunus.graph import trace
from prunus.graph.tracing import fused_attention_off
from prunus.proving.verification import tensors
from prunus.recovering.lockstep import Lockstep
from zoo import ZOO, randomise


def named(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name."""
    own = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: value.detach() for name, value in own}


def run(model: nn.Module, other: nn.Module, inputs: object) -> tuple[list[Tensor], list[Tensor], int]:
    """Run two models in lockstep; return their outputs, and how many results are still held."""
    graph = trace(model, inputs)  # type: ignore[arg-type]
    batch = [*graph.args, *graph.kwargs.values()]
    lockstep = Lockstep(graph, named(model), named(other), [batch])
    order: list[fx.Node] = []
    with fused_attention_off():
        lockstep.run(order.append)
    assert len(order) == len(set(order))
    results = next(iter(reversed(graph.nodes))).args[0]
    pairs = [lockstep.read(0, node) for node in results if isinstance(node, fx.Node)]  # type: ignore[union-attr]
    return [first for first, _ in pairs], [second for _, second in pairs], len(lockstep.values[0][0])


@pytest.mark.parametrize("name", ZOO)
def test_both_models_give_what_their_forwards_give(name: str) -> None:
    case = ZOO[name]
    model, other = case.make(), randomise(case.make(), seed=2)
    args, kwargs = case.arguments()
    with undisturbed(model), undisturbed(other), torch.no_grad():
        firsts, seconds, held = run(model, other, case.example_inputs)
        for own, outputs in ((model, firsts), (other, seconds)):
            expected = tensors(own(*copy.deepcopy(args), **copy.deepcopy(kwargs)))
            assert len(expected) == len(outputs)
            for one, two in zip(expected, outputs, strict=True):
                torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-4)
    assert held <= 12 + len(firsts)  # inputs, outputs, sizes: not every operation's result


def test_what_is_written_over_and_read_again_is_run_in_order() -> None:
    class Tangled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            z = y.view(-1, 2, 2)
            x.mul_(2)
            z.add_(1)
            return self.second(x) + y

    torch.manual_seed(0)
    model, other = Tangled(), Tangled()
    inputs = torch.randn(3, 4)
    firsts, seconds, _ = run(model, other, inputs.clone())
    torch.testing.assert_close(firsts[0], model(inputs.clone()))
    torch.testing.assert_close(seconds[0], other(inputs.clone()))
    masks = prunus.Masks({"second.weight": torch.eye(4, dtype=torch.bool)})
    samples = torch.randn(40, 4)
    kept = samples.clone()
    result = prunus.recover(model, masks, list(samples.split(10)))
    assert torch.equal(samples, kept)
    assert result.after <= result.before
