"""Search: the most accurate model within a target, or the one that costs least above a floor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from prunus.pruning import Global
from prunus.searching import Found, SearchError, search

CENTRES = torch.randn(4, 16, generator=torch.Generator().manual_seed(3))


def drawn(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Return points around four centres, and which centre each belongs to."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    return CENTRES[labels] + 0.9 * torch.randn(count, 16, generator=generator), labels


SAMPLES = list(drawn(1, 96)[0].split(32))
VALIDATION = drawn(2, 800)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 4))
    inputs, labels = drawn(0, 2000)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    inputs, labels = VALIDATION
    return float((model(inputs).argmax(1) == labels).double().mean())


def nonzero(model: nn.Module) -> int:
    return sum(int(parameter.count_nonzero()) for parameter in model.parameters())


def test_the_best_of_all_scopes_within_a_target(trained: nn.Module) -> None:
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    found = search(trained, SAMPLES, evaluate=accuracy, target="400 parameters", scopes=["uniform", "global"])
    assert nonzero(found.model) == found.cost <= 400 < found.dense_cost == nonzero(trained)
    assert found.score == accuracy(found.model) == max(trial.score for trial in found.trials)
    assert [trial.scope for trial in found.trials] == ["uniform", "global"]
    assert found.failures == {}
    assert found.dense_score == accuracy(trained)
    found.masks.check(found.model)
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert "400 parameters" in str(found)


def test_the_least_that_keeps_a_floor(trained: nn.Module) -> None:
    floor = accuracy(trained) - 0.02
    found = search(trained, SAMPLES, evaluate=accuracy, floor=floor, minimise="parameters", scopes=["global"])
    assert accuracy(found.model) == found.score >= floor
    keeping = [trial for trial in found.trials if trial.score >= floor]
    assert found.cost == nonzero(found.model) == min(trial.cost for trial in keeping)
    below = [trial.cost for trial in found.trials if trial.score < floor]
    assert max(below) < found.cost < 1.3 * max(below)  # the next smaller one does not keep it


def test_another_scope_counts_only_where_it_keeps_less(trained: nn.Module) -> None:
    floor = accuracy(trained) - 0.02
    alone = {
        scope: search(trained, SAMPLES, evaluate=accuracy, floor=floor, minimise="MACs", scopes=[scope]).cost
        for scope in ("uniform", "global")
    }
    both = search(trained, SAMPLES, evaluate=accuracy, floor=floor, minimise="MACs", scopes=["uniform", "global"])
    assert both.cost <= 1.06 * min(alone.values())


@pytest.mark.parametrize("quantized", [False, True])
def test_whole_channels_and_8_bits(trained: nn.Module, quantized: bool, tmp_path: Path) -> None:
    found = search(
        trained,
        SAMPLES,
        evaluate=accuracy,
        target="4 kB" if not quantized else "6 kB",
        pattern="channel",
        scopes=["uniform"],
        quantized=quantized,
    )
    assert found.model[0].out_features < 48 or found.model[2].out_features < 32
    example = SAMPLES[0][:1]
    if not quantized:
        assert found.scales is None
        assert prunus.save(found.model, tmp_path / "small.prunus", example).bytes == found.cost <= 4000
        return
    assert found.scales is not None
    prunus.export(found.model, tmp_path / "small.onnx", example, scales=found.scales)
    assert (tmp_path / "small.onnx").stat().st_size == found.cost <= 6000
    quantizer = prunus.Quantizer(found.model, found.scales)
    assert accuracy(found.model) == found.score
    quantizer.remove()


def test_8_bits_alone_may_keep_the_floor(trained: nn.Module) -> None:
    """Where pruning can't, the dense model in 8 bits is what was found."""
    found = search(
        trained,
        SAMPLES,
        evaluate=accuracy,
        floor=accuracy(trained) - 0.004,
        minimise="bytes",
        quantized=True,
        pattern="2:4",
    )
    assert found.scales is not None
    assert found.score >= accuracy(trained) - 0.004
    assert found.cost == min(trial.cost for trial in found.trials if trial.score >= accuracy(trained) - 0.004)


def test_a_fixed_pattern_below_the_floor_is_not_returned(trained: nn.Module) -> None:
    """Patterns of n:m make one model only, which costs less than the dense one in 8 bits and scores less."""

    def evaluate(model: nn.Module) -> float:
        return 0.0 if nonzero(model) < 0.9 * nonzero(trained) else 1.0

    settings: dict[str, Any] = {"evaluate": evaluate, "floor": 0.5, "minimise": "parameters", "pattern": "2:4"}
    found = search(trained, SAMPLES, scopes=["global"], quantized=True, **settings)
    assert found.score == 1.0
    assert [trial.score for trial in found.trials] == [1.0, 0.0]
    with pytest.raises(SearchError, match=r"none of 1 models keeps the floor of 0\.5"):
        search(trained, SAMPLES, scopes=["global"], **settings)


def test_a_search_goes_on_where_it_was_interrupted(trained: nn.Module, tmp_path: Path) -> None:
    scored = 0

    def interrupted_after(count: int) -> Callable[[nn.Module], float]:
        def evaluate(model: nn.Module) -> float:
            nonlocal scored
            scored += 1
            if scored > count:
                raise KeyboardInterrupt
            return accuracy(model)

        return evaluate

    settings: dict[str, Any] = {
        "target": "400 parameters",
        "scopes": ["uniform", "global", "erk"],
        "folder": tmp_path,
    }
    with pytest.raises(KeyboardInterrupt):
        search(trained, SAMPLES, evaluate=interrupted_after(3), **settings)
    assert len(list(tmp_path.iterdir())) == 2
    scored = 0
    found = search(trained, SAMPLES, evaluate=interrupted_after(10), **settings)
    assert scored == 2  # the model itself, and the third scope's
    whole = search(trained, SAMPLES, evaluate=accuracy, **settings | {"folder": None})
    assert found.trials == whole.trials
    for name, value in found.model.state_dict().items():
        torch.testing.assert_close(value, whole.model.state_dict()[name], rtol=0, atol=0)


def test_a_folder_is_of_one_model_and_its_samples(trained: nn.Module, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"target": "400 parameters", "scopes": ["uniform"], "folder": tmp_path}
    search(trained, SAMPLES, evaluate=accuracy, **settings)
    search(trained, SAMPLES[:2], evaluate=accuracy, **settings)
    assert len(list(tmp_path.iterdir())) == 2
    search(trained, SAMPLES, evaluate=accuracy, **settings, example_inputs=SAMPLES[0])
    assert len(list(tmp_path.iterdir())) == 3
    for file in tmp_path.iterdir():
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"holds no model of this search: its checksum is wrong.*delete it"):
        search(trained, SAMPLES, evaluate=accuracy, **settings)


def test_what_trains_on_keeps_the_masks(trained: nn.Module) -> None:
    inputs, labels = drawn(0, 400)

    def train(model: nn.Module, masks: prunus.Masks) -> None:
        optimizer = torch.optim.SGD(model.train().parameters(), 0.05)
        for _ in range(10):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()

    settings: dict[str, Any] = {"evaluate": accuracy, "target": "200 parameters", "scopes": ["global"]}
    plain, further = search(trained, SAMPLES, **settings), search(trained, SAMPLES, train=train, **settings)
    assert further.cost <= 200
    assert any(not torch.equal(a, b) for a, b in zip(plain.model.parameters(), further.model.parameters(), strict=True))
    assert not further.model.training


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "either a target, such as .* or a floor"),
        ({"target": "1 kB", "floor": 0.9}, ValueError, "either a target"),
        ({"target": "900 MB"}, ValueError, "is within '900 MB' already"),
        ({"target": "some"}, ValueError, "neither a number"),
        ({"floor": "high"}, TypeError, "floor must be a number"),
        ({"floor": 0.9, "minimise": "byte"}, ValueError, "unknown unit to minimise 'byte'; did you mean 'bytes'"),
        ({"floor": 0.9, "minimise": "us in openvin"}, ValueError, "unknown runtime 'openvin'; did you mean 'openvino'"),
        ({"target": "90"}, ValueError, "target says what may be left, with a unit, .* got '90'"),
        ({"target": "0.9"}, ValueError, "target says what may be left, with a unit"),
        ({"target": 200_000}, TypeError, "target must be text with a unit"),
        ({"target": "9 us in onnxruntime", "quantized": True}, ValueError, "onnxruntime does not compute in 8 bits"),
        ({"floor": 0.9, "evaluate": lambda model: float("nan")}, ValueError, "evaluate gives NaN for the model itself"),
        ({"floor": 0.9, "scopes": [Global()]}, TypeError, "scopes must be names"),
        ({"floor": 0.9, "scopes": []}, ValueError, "scopes must be names"),
        ({"floor": 0.9, "scopes": ["global", "glob"]}, ValueError, "unknown scope 'glob'; did you mean 'global'"),
        ({"floor": 0.9, "evaluate": lambda model: None}, TypeError, "evaluate must return a number"),
        ({"floor": 0.9, "evaluate": 3}, TypeError, "evaluate must be a function"),
        ({"floor": 1.1}, SearchError, r"the model itself scores 0\.\d+, below the floor of 1\.1"),
        ({"target": "10 parameters"}, SearchError, "no model could be made: .* can't be reached"),
    ],
)
def test_what_can_not_be_searched_for(trained: nn.Module, options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        search(trained, SAMPLES, **{"evaluate": accuracy} | options)


@pytest.mark.parametrize("batches", [SAMPLES[0], {"x": SAMPLES[0]}, [], ["text"]])
def test_what_is_no_batches(trained: nn.Module, batches: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="batch"):
        search(trained, batches, evaluate=accuracy, floor=0.5)


def test_a_score_that_is_not_a_number_counts_as_the_worst(trained: nn.Module) -> None:
    def evaluate(model: nn.Module) -> float:
        return float("nan") if nonzero(model) < 500 else accuracy(model)

    found = search(trained, SAMPLES, evaluate=evaluate, floor=0.1, minimise="parameters", scopes=["global"])
    assert found.cost >= 500
    assert any(trial.score == float("-inf") for trial in found.trials)


def test_a_scope_that_fails_is_told_beside_what_was_found(trained: nn.Module) -> None:
    """Patterns of n:m leave a scope nothing to spread."""
    found = search(
        trained, SAMPLES, evaluate=accuracy, floor=0.1, minimise="parameters", pattern="2:4", scopes=["erk", "global"]
    )
    assert list(found.failures) == ["erk, 50.00%"]
    assert "nothing to spread" in str(found)


def test_channels_of_a_coarse_model_are_found_though_few_sparsities_can_be_met() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    found = search(
        model, [torch.randn(64, 8)], evaluate=lambda own: 1.0, floor=0.5, minimise="parameters", pattern="channel"
    )
    assert found.model[0].out_features == 1


def test_8_bits_that_are_within_the_target_need_no_pruning(trained: nn.Module) -> None:
    whole = search(trained, SAMPLES, evaluate=accuracy, target="30 kB", quantized=True)
    assert [trial.asked for trial in whole.trials] == ["unpruned"]
    assert whole.cost <= 30_000
    assert nonzero(whole.model) == nonzero(trained)


def test_a_batch_that_the_code_fixes() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 24), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.last(F.relu(self.first(x.reshape(16, 6))))
            return y

    torch.manual_seed(0)
    batches = [torch.randn(16, 6) for _ in range(4)]
    found = search(Fixed().eval(), batches, evaluate=lambda own: 1.0, target="60% MACs", scopes=["least_error"])
    assert found.cost <= 0.6 * found.dense_cost
    assert found.model(batches[0]).shape == (16, 3)


def test_there_is_none(trained: nn.Module) -> None:
    """A score that falls with the first weight that goes."""
    with pytest.raises(SearchError, match=r"none of \d+ models keeps the floor of -3: the best, .*%"):
        search(trained, SAMPLES, evaluate=lambda model: nonzero(model) - nonzero(trained), floor=-3, scopes=["global"])


def test_two_inputs_by_name() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(8, 12), nn.Linear(8, 12)
            self.head = nn.Linear(12, 3)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            y: Tensor = self.head(F.relu(self.left(left) + self.right(right)))
            return y

    torch.manual_seed(0)
    model = Two().eval()
    batches = [{"left": torch.randn(8, 8), "right": torch.randn(8, 8)} for _ in range(3)]
    expected = model(**batches[2])
    found: Found = search(
        model,
        batches,
        evaluate=lambda own: -float((own(**batches[2]) - expected).detach().square().mean()),
        target="60% MACs",
        pattern="channel",
    )
    assert found.cost <= 0.6 * found.dense_cost
    assert found.model.head.in_features < 12
