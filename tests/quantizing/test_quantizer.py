"""Fake quantisation in the user's own loop: it trains, holds zeros, and goes without a trace."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from prunus.errors import GraphError, MaskError, ScalesError
from quantized_nets import apart, images, residual


def trained(model: nn.Module, steps: int, target: Tensor) -> list[float]:
    """Train toward a target, and return the losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    losses = []
    for _ in range(steps):
        loss = F.mse_loss(model(images()), target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_it_trains_holds_zeros_and_goes_without_a_trace() -> None:
    model = residual()
    masks = prunus.prune(model, 0.5)
    scales = prunus.quantize(model, [images()])
    attributes, names = set(vars(model)), list(model.state_dict())
    mean = model.norm.running_mean.clone()
    with torch.no_grad():
        target = model(images()) + 0.5
    with prunus.Quantizer(model, scales):
        model.train()
        losses = trained(model, 40, target)
    assert losses[-1] < losses[0] / 2
    masks.check(model)
    assert torch.equal(model.norm.running_mean, mean)
    assert (set(vars(model)), list(model.state_dict())) == (attributes, names)
    model.eval()
    with torch.no_grad():
        wanted = model(images())
        with prunus.Quantizer(model, scales):
            assert 0 < apart(model(images()), wanted) < 0.02


def test_masks_may_be_given() -> None:
    model = residual()
    masks = prunus.prune(copy.deepcopy(model), 0.7)
    scales = prunus.quantize(model, [images()])
    quantizer = prunus.Quantizer(model, scales, masks)
    trained(model, 3, torch.zeros(96, 5))
    quantizer.remove()
    quantizer.remove()
    masks.check(model)
    with pytest.raises(MaskError):
        prunus.Quantizer(model, scales, {"other": torch.ones(3, dtype=torch.bool)})


def test_a_copy_of_the_model_is_a_plain_one_of_its_own_weights() -> None:
    model = residual()
    scales = prunus.quantize(model, [images()])
    with torch.no_grad():
        wanted = model(images())
        with prunus.Quantizer(model, scales):
            twin = copy.deepcopy(model)
            model.last.weight.zero_()
        assert torch.equal(twin(images()), wanted)
        with prunus.Quantizer(twin, scales):
            assert 0 < apart(twin(images()), wanted) < 0.02


def test_what_reads_the_graph_of_a_rounded_model_says_to_remove_it_first() -> None:
    model = residual()
    scales = prunus.quantize(model, [images()])
    with prunus.Quantizer(model, scales):
        for call in (
            lambda: prunus.quantize(model, [images()]),
            lambda: prunus.shrink(model, images()),
            lambda: prunus.Quantizer(nn.Sequential(model), scales),
        ):
            with pytest.raises(GraphError, match=r"has a prunus\.Quantizer, .* call its remove\(\) first"):
                call()


def test_numbers_that_are_none_stay_so() -> None:
    model = residual()
    scales = prunus.quantize(model, [images()])
    with torch.no_grad(), prunus.Quantizer(model, scales):
        assert bool(model(images() * torch.nan).isnan().all())
        model.first.weight[0, 0, 0, 0] = torch.nan
        assert bool(model(images()).isnan().any())


def test_a_forward_that_counts_its_calls_in_a_buffer_works() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 2)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.last(x)

    model, data = Counts(), torch.randn(32, 4)
    scales = prunus.quantize(model, [data])
    with torch.no_grad():
        wanted = model(data)
        with prunus.Quantizer(model, scales):
            assert 0 < apart(model(data), wanted) < 0.01


def test_arguments_may_be_given_by_position_and_by_name() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(3, 4), nn.Linear(2, 4)

        def forward(self, x: Tensor, y: Tensor, *, scale: float = 1.0) -> Tensor:
            return (self.left(x) + self.right(y)) * scale

    model = Two()
    x, y = torch.randn(16, 3), torch.randn(16, 2)
    with prunus.Quantizer(model, prunus.quantize(model, [{"x": x, "y": y}])), torch.no_grad():
        first = model(x, y)
        assert torch.equal(model(x, y=y), first)
        assert torch.equal(model(y=y, x=x), first)
        with pytest.raises(ValueError, match="scale"):
            model(x, y, scale=2.0)  # the graph was read without it


def test_models_and_scales_that_do_not_fit_are_refused() -> None:
    model = residual()
    scales = prunus.quantize(model, [images()])
    with pytest.raises(ScalesError, match="belong to another model, or to one of other sizes, than this Sequential"):
        prunus.Quantizer(nn.Sequential(nn.Conv2d(2, 8, 3)), scales)
    with pytest.raises(TypeError, match=r"what prunus\.quantize returned, got dict"):
        prunus.Quantizer(model, {})  # type: ignore[arg-type]
    with prunus.Quantizer(model, scales), pytest.raises(ValueError, match="has a Quantizer already"):
        prunus.Quantizer(model, scales)


def test_a_module_that_runs_a_graph_gets_its_own_forward_back() -> None:
    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return self.last(torch.cat([y[:, 3:], y[:, :3]], 1).relu())

    model = Shuffled()
    prunus.prune(model, 0.333, pattern="channel", example_inputs=torch.randn(2, 4))
    smaller = prunus.shrink(model, torch.randn(2, 4))
    data = torch.randn(64, 4)
    with torch.no_grad():
        wanted = smaller(data)
        with prunus.Quantizer(smaller, prunus.quantize(smaller, [data])):
            assert 0 < apart(smaller(data), wanted) < 0.01
        assert torch.equal(smaller(data), wanted)


def test_zeros_of_layers_that_stay_in_float_are_held_too() -> None:
    model = residual()
    masks = prunus.prune(model, 0.5)
    scales = prunus.quantize(model, [images()], in_float=["last", "first"])
    with prunus.Quantizer(model, scales):
        trained(model, 5, torch.zeros(96, 5))
        for name in ("last.weight", "first.weight"):
            assert not bool((dict(model.named_parameters())[name].detach()[~masks[name]] != 0).any())
        with torch.no_grad():
            before = model(images())
    masks.check(model)
    with prunus.Quantizer(model, scales), torch.no_grad():
        assert torch.equal(model(images()), before)


def test_a_model_that_makes_constants_is_trained_where_it_is() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x * torch.tensor([1.0, 2.0, 3.0, 4.0], device=x.device))

    model = Constant()
    data = torch.randn(32, 4)
    with torch.no_grad():
        wanted = model(data)
        with prunus.Quantizer(model, prunus.quantize(model, [data])):
            assert 0 < apart(model(data), wanted) < 0.01


def test_what_momentum_of_before_moves_is_zero_again_in_the_end() -> None:
    model = residual()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model(images()).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    masks = prunus.prune(model, 0.5)
    quantizer = prunus.Quantizer(model, prunus.quantize(model, [images()]))
    optimizer.step()
    with pytest.raises(MaskError, match="not zero any more"):
        masks.check(model)
    quantizer.remove()
    masks.check(model)
