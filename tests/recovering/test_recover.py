"""Recovering pruned models: errors against the dense model, masks held, and nothing written before all is solved."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
import prunus.recovering
from prunus.errors import MaskError
from prunus.recovering.fitting import Fitting


class Residual(nn.Module):
    """Two blocks whose shortcuts are computed after what they are added to, and a classifier with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.shortcut, self.last = nn.Conv2d(8, 16, 1, stride=2), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 2, 8, 8) to (n, 5)."""
        x = torch.relu_(self.norm(self.stem(x)))
        x = F.relu(x + self.first(x))
        x = F.relu(self.second(x) + self.shortcut(x))
        return self.last(x.mean((2, 3)))


def images(count: int = 96, seed: int = 0) -> Tensor:
    """Return smooth random images: neighbours are alike, so that what a removed weight did can be made up for."""
    noise = torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
    return F.avg_pool2d(noise, 3, 1, 1) * 3


def residual(seed: int = 0) -> Residual:
    """Return a residual net whose BatchNorm has seen data."""
    torch.manual_seed(seed)
    model = Residual()
    for _ in range(10):
        model(images())
    return model.eval()


def apart(model: nn.Module, dense: nn.Module, inputs: Tensor) -> float:
    """Return the squared difference of outputs, relative to the variance of the dense model's."""
    with torch.no_grad():
        wanted = dense(inputs)
        return float((model(inputs) - wanted).square().mean() / wanted.var(unbiased=False))


@pytest.mark.parametrize("choose", [False, True])
def test_a_residual_net_gives_nearly_what_the_dense_one_gives_on_other_samples(choose: bool) -> None:
    dense, pruned, model, others = residual(), residual(), residual(), images(200, seed=9)
    masks = prunus.prune(pruned, 0.6, scope="uniform")
    result = prunus.recover(model, masks, list(images().split(16)), choose=choose)
    assert result.masks.num_pruned == masks.num_pruned
    assert (result.masks == masks) is not choose
    result.masks.check(model)
    assert apart(model, dense, others) < 0.4 * apart(pruned, dense, others)
    assert [layer.name for layer in result.layers] == [
        "stem.weight", "first.weight", "shortcut.weight", "second.weight", "last.weight",
    ]  # fmt: skip
    assert all(layer.after <= layer.before for layer in result.layers)
    held_out = images()[3::4]
    assert result.before == pytest.approx(_relative(pruned, dense, held_out), rel=1e-4)
    assert result.after == pytest.approx(_relative(model, dense, held_out), rel=1e-4)


def _relative(model: nn.Module, dense: nn.Module, inputs: Tensor) -> float:
    with torch.no_grad():
        wanted = dense(inputs)
        return float((model(inputs) - wanted).square().sum() / (wanted - wanted.mean()).square().sum())


@pytest.mark.parametrize("choose", [False, True])
def test_no_pruned_weight_is_negative_zero(choose: bool) -> None:
    """Which a file would have to hold, bit by bit."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 5)).eval()
    masks = prunus.prune(copy.deepcopy(model), 0.8)
    recovery = prunus.recover(model, masks, [torch.randn(64, 40), torch.randn(64, 40)], choose=choose)
    recovery.masks.check(model)
    for parameter in model.parameters():
        assert not torch.signbit(parameter[parameter == 0]).any()


def test_choosing_wins_at_high_sparsity() -> None:
    dense, others = residual(), images(200, seed=9)
    masks = prunus.prune(residual(), 0.85, scope="uniform")
    errors = []
    for choose in (False, True):
        model = residual()
        prunus.recover(model, masks, list(images().split(16)), choose=choose)
        errors.append(apart(model, dense, others))
    assert errors[1] < 0.7 * errors[0]


def test_a_linear_layer_gets_the_ridge_solution_toward_its_dense_weights() -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 3, bias=False).double()
    dense, inputs = model.weight.detach().clone(), torch.randn(40, 6, dtype=torch.float64) @ torch.randn(6, 6).double()
    masks = prunus.Masks({"weight": torch.rand(3, 6) < 0.5})
    result = prunus.recover(model, masks, list(inputs.split(10)))
    fitted = inputs[torch.arange(40) % 4 != 3]  # a quarter is held out
    gram, strength = fitted.T @ fitted, result.layers[0].strength
    ridge = strength * gram.diagonal().mean()
    for row in range(3):
        kept = masks["weight"][row].nonzero().flatten()
        right = gram[kept] @ dense[row] + ridge * dense[row, kept]
        exact = torch.linalg.solve(gram[kept][:, kept] + ridge * torch.eye(len(kept), dtype=torch.float64), right)
        torch.testing.assert_close(model.weight[row, kept].detach(), exact, rtol=1e-4, atol=1e-5)


def test_a_bias_takes_up_the_mean_of_what_is_missing() -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    dense, inputs = copy.deepcopy(model), torch.randn(80, 6) + 2
    masks = prunus.Masks({"weight": torch.rand(3, 6) < 0.5})
    prunus.recover(model, masks, list(inputs.split(10)))
    fitted = inputs[torch.arange(80) % 4 != 3]
    torch.testing.assert_close(model(fitted).mean(0), dense(fitted).mean(0), rtol=1e-4, atol=1e-4)


def test_a_pruned_model_and_the_dense_one_give_the_same_as_the_dense_one_alone() -> None:
    dense, pruned, model = residual(), residual(), residual()
    masks = prunus.prune(pruned, 0.5)
    first = prunus.recover(model, masks, list(images().split(16)))
    before = copy.deepcopy(dense.state_dict())
    second = prunus.recover(pruned, masks, list(images().split(16)), dense=dense)
    assert str(first) == str(second)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(pruned.state_dict()[name], value)
    assert all(torch.equal(dense.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("pattern", ["2:4", "block-2x4", "inputs-4"])
def test_a_chosen_pattern_is_kept(pattern: str) -> None:
    def make() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 8))

    model, pruned = make(), make()
    masks = prunus.prune(pruned, 0.5, pattern=pattern, scope="uniform")
    mixing = torch.randn(16, 16)
    inputs = torch.randn(200, 16) @ mixing
    result = prunus.recover(model, masks, list(inputs.split(20)), choose=pattern)
    assert result.masks != masks
    for name, mask in result.masks.items():
        assert mask.sum() == masks[name].sum()
        if pattern == "2:4":
            assert bool((mask.view(len(mask), -1, 4).sum(2) == 2).all())
        else:
            height = 2 if pattern == "block-2x4" else 1
            blocks = mask.view(len(mask) // height, height, -1, 4).float().mean((1, 3))
            assert bool(((blocks == 0) | (blocks == 1)).all())
    other = make()
    prunus.recover(other, masks, list(inputs.split(20)))
    fresh = torch.randn(200, 16) @ mixing
    assert apart(model, make(), fresh) < apart(other, make(), fresh) < apart(pruned, make(), fresh)


def test_channels_that_go_stay_zero_and_can_be_cut() -> None:
    dense, model, pruned = residual(), residual(), residual()
    example = images(2)
    masks = prunus.prune(pruned, 0.4, pattern="channel", example_inputs=example)
    prunus.recover(model, masks, list(images().split(16)))
    masks.check(model)
    others = images(200, seed=9)
    assert apart(model, dense, others) < 0.5 * apart(pruned, dense, others)
    smaller = prunus.shrink(model, example, masks)
    assert sum(p.numel() for p in smaller.parameters()) < 0.7 * sum(p.numel() for p in dense.parameters())
    torch.testing.assert_close(smaller(others), model(others), rtol=1e-4, atol=1e-4)


def test_training_toward_the_dense_model_lowers_the_error_and_holds_the_masks() -> None:
    dense, model, other = residual(), residual(), residual()
    masks = prunus.prune(residual(), 0.8, scope="uniform")
    model.first.weight.requires_grad_(False)
    plain = prunus.recover(other, masks, list(images().split(16)))
    said: list[tuple[str, float]] = []
    trained = prunus.recover(
        model, masks, list(images().split(16)), minutes=0.05, progress=lambda what, share: said.append((what, share))
    )
    assert trained.after < plain.after
    trained.masks.check(model)
    assert [parameter.requires_grad for parameter in model.parameters()] == [
        name != "first.weight" for name, _ in model.named_parameters()
    ]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert said[0] == ("refitting stem.weight", 0.0)
    assert said[-1] == ("distilling", 1.0)
    assert apart(model, dense, images(50, seed=9)) < 1


def test_the_model_stays_the_module_it_was() -> None:
    model = residual().train()
    identities = {name: id(value) for name, value in model.state_dict(keep_vars=True).items()}
    random = torch.get_rng_state()
    prunus.recover(model, prunus.prune(residual(), 0.5), list(images().split(16)))
    assert model.training
    assert {name: id(value) for name, value in model.state_dict(keep_vars=True).items()} == identities
    assert torch.equal(torch.get_rng_state(), random)


def test_nothing_is_written_before_all_is_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    model = residual()
    masks = prunus.prune(residual(), 0.5)
    before = copy.deepcopy(model.state_dict())
    fitted: list[str] = []
    solve = Fitting.fitted

    def fails_at_the_last(self: Fitting, pattern: Any) -> Any:
        fitted.append("")
        if len(fitted) == 5:
            raise KeyboardInterrupt
        return solve(self, pattern)

    monkeypatch.setattr(Fitting, "fitted", fails_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        prunus.recover(model, masks, list(images().split(16)))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_batches_may_be_pairs_or_mappings_or_one_alone() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(4, 3), nn.Linear(6, 3)

        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            return self.left(one) * self.right(other)

    torch.manual_seed(0)
    samples = torch.randn(40, 4)
    model, pruned = nn.Linear(4, 3), nn.Linear(4, 3)
    masks = prunus.Masks({"weight": torch.tensor([[True, True, False, False]] * 3)})
    results = []
    for batches in ([samples], [(samples, torch.zeros(40))], [[samples, "no label"]]):
        pruned.load_state_dict(model.state_dict())
        results.append(prunus.recover(pruned, masks, batches).after)
    assert results[0] == results[1] == results[2]
    named = Named()
    both = prunus.Masks({f"{name}.weight": torch.rand(3, size) < 0.6 for name, size in (("left", 4), ("right", 6))})
    related = samples @ torch.randn(4, 6)
    parts = zip(related.split(10), samples.split(10), strict=True)
    result = prunus.recover(named, both, [{"other": other, "one": one} for other, one in parts])
    assert result.after < result.before


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_recovered_in_their_own(dtype: torch.dtype) -> None:
    dense, model, pruned = residual().to(dtype), residual().to(dtype), residual().to(dtype)
    masks = prunus.prune(pruned, 0.6, scope="uniform")
    prunus.recover(model, masks, [batch.to(dtype) for batch in images().split(16)])
    assert {value.dtype for value in model.parameters()} == {dtype}
    others = images(100, seed=9).to(dtype)
    assert apart(model, dense, others) < 0.5 * apart(pruned, dense, others)


class Counting(nn.Module):
    """Counts its calls in a buffer, and halves its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last_calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 16) to (n, 4)."""
        self.calls += 1
        self.last_calls = self.last_calls + 1
        x.mul_(0.5)
        return self.last(F.relu(self.first(x))) * (self.calls + self.last_calls).clamp(2, 50) / 2


def test_what_a_forward_writes_into_buffers_and_inputs_does_not_count() -> None:
    torch.manual_seed(0)
    model, mixing = Counting(), torch.randn(16, 16)
    dense, pruned = copy.deepcopy(model), copy.deepcopy(model)
    masks = prunus.prune(pruned, 0.6, scope="uniform")
    samples = [torch.randn(32, 16) @ mixing for _ in range(4)]  # of which one batch is held out
    kept = [batch.clone() for batch in samples]
    result = prunus.recover(model, masks, samples, minutes=0.01)
    assert float(model.calls) == float(model.last_calls) == 0
    assert all(torch.equal(*pair) for pair in zip(samples, kept, strict=True))

    def outputs(own: nn.Module) -> Tensor:
        inputs = torch.cat(samples)[3::4] * 0.5
        return own.last(F.relu(own.first(inputs))).detach()  # type: ignore[operator]

    wanted = outputs(dense)
    errors = [
        float((outputs(own) - wanted).square().sum() / (wanted - wanted.mean()).square().sum())
        for own in (pruned, model)
    ]
    assert result.before == pytest.approx(errors[0], rel=1e-4)
    assert result.after == pytest.approx(errors[1], rel=1e-4)
    assert result.after < 0.7 * result.before


def test_whole_channels_stay_removed_when_masks_are_chosen() -> None:
    dense, example = residual(), images(2)
    masks = prunus.prune(residual(), 0.4, pattern="channel", example_inputs=example)
    model = residual()
    assert prunus.recover(model, masks, BATCHES, choose=True).masks == masks
    # more zeros within the channels that stay
    more = prunus.Masks({n: m & (torch.rand(m.shape) < 0.6) if m.ndim > 1 else m for n, m in masks.items()})
    chosen = prunus.recover(residual(), more, BATCHES, choose=True).masks
    assert chosen != more
    for name, mask in chosen.items():
        assert mask.sum() == more[name].sum()
        assert not bool((mask & ~masks[name]).any())
    assert sum(p.numel() for p in prunus.shrink(model, example, masks).parameters()) < 0.7 * sum(
        p.numel() for p in dense.parameters()
    )


class Sum(nn.Module):
    """Two layers of one input, added and scaled by a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.other, self.norm = nn.Linear(8, 4), nn.Linear(8, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 8) to (n, 4)."""
        return self.norm(self.first(x)) + self.other(x)


def test_a_layer_makes_up_for_what_the_other_term_of_a_sum_lacks() -> None:
    torch.manual_seed(0)
    model = Sum()
    model(torch.randn(64, 8) * 2)
    model.eval()
    masks = prunus.Masks({"other.weight": torch.rand(4, 8) < 0.3})
    result = prunus.recover(model, masks, list(torch.randn(96, 8).split(16)))
    assert result.before > 0.1
    assert result.after < 1e-3  # the first layer alone could give all of it


class Fixed(nn.Module):
    """Filters that are a buffer and a plain attribute, a norm behind a sequence, and grouped, transposed layers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", torch.randn(4, 2, 3, 3))
        self.more = torch.randn(4, 4, 1, 1)
        self.grouped, self.up = nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.ConvTranspose2d(8, 6, 2, 2)
        self.tokens, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(16), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 2, 4, 4) to (n, 16, 3)."""
        x = F.conv2d(F.conv2d(x, self.filters, padding=1), self.more)
        x = F.avg_pool2d(F.relu(self.up(F.relu(self.grouped(x)))), 2)
        return self.last(F.relu(self.norm(self.tokens(x.flatten(2).transpose(1, 2)))))


def test_only_parameters_are_refitted_and_norms_of_positions_stay_by_themselves() -> None:
    torch.manual_seed(0)
    model = Fixed()
    model(images(64)[:, :, :4, :4])
    model.eval()
    dense, pruned = copy.deepcopy(model), copy.deepcopy(model)
    masks = prunus.prune(pruned, 0.5, scope="uniform")
    result = prunus.recover(model, masks, [images(96)[:, :, :4, :4]])
    assert [layer.name for layer in result.layers] == ["grouped.weight", "up.weight", "tokens.weight", "last.weight"]
    assert all(layer.after < layer.before for layer in result.layers)
    assert torch.equal(model.filters, dense.filters)
    others = images(200, seed=9)[:, :, :4, :4]
    assert apart(model, dense, others) < 0.5 * apart(pruned, dense, others)


def test_a_model_that_was_tuned_after_pruning_is_not_made_worse() -> None:
    torch.manual_seed(0)
    dense, mixing = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)), torch.randn(8, 8)
    model = copy.deepcopy(dense)
    masks = prunus.prune(model, 0.5)
    inputs = torch.randn(400, 8) @ mixing
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        F.mse_loss(model(inputs), dense(inputs).detach()).backward()
        optimizer.step()
        masks.apply(model)
    tuned = copy.deepcopy(model)
    result = prunus.recover(model, masks, [inputs[:12]], dense=dense)
    assert not result.better
    assert "the model was only pruned" in str(result).replace("\n", " ")
    assert result.after == result.before
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), tuned.parameters(), strict=True))


class Recurrent(nn.Module):
    """An LSTM, a layer used twice, and a last one."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.twice, self.last = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, length, 4) to (n, length, 2)."""
        x, _ = self.lstm(x)
        return self.last(F.relu(self.twice(F.relu(self.twice(x)))))


def test_what_can_not_be_refitted_is_pruned_and_named() -> None:
    torch.manual_seed(0)
    model = Recurrent()
    masks = prunus.prune(copy.deepcopy(model), 0.5)
    result = prunus.recover(model, masks, list(torch.randn(40, 5, 4).split(10)))
    assert set(result.not_refitted) == {"lstm.weight_ih_l0", "lstm.weight_hh_l0", "twice.weight"}
    assert "Not refitted: lstm.weight_ih_l0" in str(result).replace("\n", " ")
    assert [layer.name for layer in result.layers] == ["last.weight"]
    masks.check(model)


def test_attention_is_refitted_too() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    pruned, dense = copy.deepcopy(model), copy.deepcopy(model)
    masks = prunus.prune(pruned, 0.5, scope="uniform")
    mixing = torch.randn(16, 16) * 0.4
    result = prunus.recover(model, masks, list((torch.randn(120, 6, 16) @ mixing).split(20)))
    assert {layer.name for layer in result.layers} >= {"self_attn.in_proj_weight", "self_attn.out_proj.weight"}
    others = torch.randn(100, 6, 16) @ mixing
    assert apart(model, dense, others) < 0.6 * apart(pruned, dense, others)


def test_long_rows_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    make = nn.Sequential(nn.Conv1d(12, 6, 4), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 13, 5, bias=False))
    masks = prunus.prune(copy.deepcopy(make), 0.7, scope="uniform")
    samples = torch.cumsum(torch.randn(160, 12, 16), 2) * 0.3
    whole, parts, chosen = (copy.deepcopy(make) for _ in range(3))
    pruned = copy.deepcopy(make)
    masks.apply(pruned)
    prunus.recover(whole, masks, list(samples.split(20)))
    monkeypatch.setattr(prunus.recovering.fitting, "MOST_INPUTS", 20)
    monkeypatch.setattr(prunus.recovering.fitting, "MOST_PART", 8)
    prunus.recover(parts, masks, list(samples.split(20)))
    result = prunus.recover(chosen, masks, list(samples.split(20)), choose=True)
    masks.check(parts)
    result.masks.check(chosen)
    assert result.masks.num_pruned == masks.num_pruned
    assert result.masks != masks
    errors = [apart(model, make, samples) for model in (pruned, whole, parts, chosen)]
    assert errors[2] < 0.6 * errors[0]
    assert errors[3] < errors[0]


def _with_nan() -> nn.Module:
    model = residual()
    with torch.no_grad():
        model.last.bias.fill_(torch.nan)
    return model


GOOD = prunus.Masks({"first.weight": torch.arange(8 * 8 * 9).view(8, 8, 3, 3) % 2 == 0})
OFTEN = prunus.Masks({"first.weight": torch.arange(8 * 8 * 9).view(8, 8, 3, 3) % 40 != 0})
RARELY = prunus.Masks({"first.weight": torch.arange(8 * 8 * 9).view(8, 8, 3, 3) % 40 == 0})
BATCHES = list(images().split(16))


class Detached(Residual):
    """Gives no gradients."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 2, 8, 8) to (n, 5)."""
        with torch.no_grad():
            return super().forward(x)


class Branching(Residual):
    """Chooses by the values of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 2, 8, 8) to (n, 5)."""
        return torch.cond(x.sum() > 0, super().forward, super().forward, (x,))


class Deciding(Residual):
    """Gives classes alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 2, 8, 8) to (n,)."""
        return super().forward(x).argmax(1)


@pytest.mark.parametrize(
    ("make", "masks", "batches", "options", "kind", "message"),
    [
        (residual, GOOD, images(), {}, TypeError, "one batch is"),
        (residual, GOOD, [3.0], {}, TypeError, "a batch must be a tensor"),
        (residual, GOOD, [], {}, ValueError, "held no batch"),
        (residual, GOOD, [images(1)], {}, ValueError, "at least two samples"),
        (residual, GOOD, [images(4), images(4)[:, :, :6]], {}, ValueError, "samples of one shape"),
        (residual, GOOD, [images(4), {"x": images(4)}], {}, ValueError, "the same arguments"),
        (residual, GOOD, BATCHES, {"minutes": -1}, ValueError, "minutes must be"),
        (Detached, GOOD, BATCHES, {"minutes": 0.01}, ValueError, "leave minutes out"),
        (residual, GOOD, BATCHES, {"choose": "channel"}, ValueError, "whole channels"),
        (residual, GOOD, BATCHES, {"choose": "3:2"}, ValueError, "0 < n < m"),
        (residual, GOOD, BATCHES, {"choose": "block-2x4"}, ValueError, "not of pattern block-2x4"),
        (residual, RARELY, BATCHES, {"choose": "2:4"}, ValueError, "not of pattern 2:4"),
        (residual, GOOD, [images(0), images(8)], {}, TypeError, "a batch must be a tensor"),
        (Branching, GOOD, BATCHES, {}, ValueError, "control flow"),
        (residual, OFTEN, BATCHES, {"choose": "2:4"}, ValueError, "not of pattern 2:4"),
        (residual, GOOD, BATCHES, {"choose": 3}, TypeError, "choose must be True, False"),
        (residual, GOOD, BATCHES, {"dense": residual().double()}, ValueError, "names, shapes, types"),
        (residual, GOOD, BATCHES, {"dense": residual().state_dict()}, TypeError, "dense must be"),
        (residual, GOOD, [batch.int() for batch in BATCHES], {}, ValueError, "can't run"),
        (Deciding, GOOD, BATCHES, {}, ValueError, "no floating-point numbers"),
        (residual, GOOD, BATCHES, {"choose": "2:5"}, ValueError, "not of pattern 2:5"),
        (residual, GOOD, BATCHES, {"dense": nn.Linear(2, 2)}, ValueError, "the same model before"),
        (residual, {"nothing": torch.ones(2, dtype=torch.bool)}, BATCHES, {}, MaskError, "no parameter 'nothing'"),
        (residual, {"last.weight": torch.ones(5, 16, dtype=torch.bool)}, BATCHES, {}, MaskError, "prune nothing"),
        (residual, {}, BATCHES, {}, MaskError, "prune nothing"),
        (_with_nan, GOOD, BATCHES, {}, ValueError, "not all finite"),
        (residual, GOOD, [batch * torch.nan for batch in BATCHES], {}, ValueError, "not all finite"),
    ],
)
def test_what_can_not_be_recovered_is_refused_and_left_alone(
    make: Callable[[], nn.Module],
    masks: Any,
    batches: Any,
    options: dict[str, Any],
    kind: type[Exception],
    message: str,
) -> None:
    model = make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(kind, match=message):
        prunus.recover(model, masks, batches, **options)
    assert all(
        torch.equal(model.state_dict()[name].nan_to_num(9), value.nan_to_num(9)) for name, value in before.items()
    )


def test_the_dense_weights_have_to_be_somewhere() -> None:
    model = residual()
    masks = prunus.prune(model, 0.5)
    with pytest.raises(ValueError, match="the model is pruned already"):
        prunus.recover(model, masks, BATCHES)
    with pytest.raises(ValueError, match="dense is the model itself"):
        prunus.recover(model, masks, BATCHES, dense=model)
    holder = nn.Sequential(model)
    with pytest.raises(MaskError, match="no parameter"):
        prunus.recover(holder, masks, BATCHES, dense=model)
    with pytest.raises(ValueError, match="shares tensors with it"):
        prunus.recover(model, masks, BATCHES, dense=copy.copy(model))
    with pytest.raises(ValueError, match="dense is pruned by the masks as well"):
        prunus.recover(model, masks, BATCHES, dense=copy.deepcopy(model))
