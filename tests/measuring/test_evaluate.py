from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from prunus.lab.data import Images, normalise
from prunus.lab.predicting import predict
from prunus.measuring.evaluate import accuracy, calibration_error, mcnemar, paired_interval, paired_test, wilson

MEAN, STD = (0.2, 0.4), (0.5, 0.3)


def images(num: int, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (num, 2, 4, 4), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.randint(0, 3, (num,), generator=generator))


def random_case(num: int, classes: int, seed: int, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, classes, generator=generator) * scale, torch.randint(classes, (num,), generator=generator)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**31), st.sampled_from([0.0, 1.0, 20.0]))
def test_accuracy_against_plain_python(num: int, classes: int, seed: int, scale: float):
    logits, labels = random_case(num, classes, seed, scale)
    found = accuracy(logits, labels)
    hits, loss, bins = [0] * classes, 0.0, [[0, 0.0, 0.0] for _ in range(15)]
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        top = max(row)
        shares = [math.exp(value - top) for value in row]
        right = row.index(top) == label
        hits[label] += right
        loss += math.log(sum(shares)) - (row[label] - top)
        confidence = max(shares) / sum(shares)
        held = bins[max(0, math.ceil(confidence * 15) - 1)]
        held[0] += 1
        held[1] += right
        held[2] += confidence
    sizes = [labels.tolist().count(label) for label in range(classes)]
    assert (found.correct, found.total, found.top1) == (sum(hits), num, sum(hits) / num)
    assert found.per_class == tuple(h / s if s else None for h, s in zip(hits, sizes, strict=True))
    assert found.nll == pytest.approx(loss / num, abs=1e-12)
    assert found.ece == pytest.approx(sum(abs(right - mean) for _, right, mean in bins) / num, abs=1e-9)
    assert found.ci95[0] <= found.top1 <= found.ci95[1]


@pytest.mark.parametrize("seed", range(3))
def test_figures_against_torch_and_torchmetrics(seed: int):
    logits, labels = random_case(2000, 10, seed)
    logits[torch.arange(2000), labels] += 1.5
    found = accuracy(logits, labels)
    assert found.nll == pytest.approx(F.cross_entropy(logits.double(), labels).item(), abs=1e-12)
    ece = multiclass_calibration_error(logits.softmax(1), labels, num_classes=10, n_bins=15, norm="l1")
    assert found.ece == pytest.approx(ece.item(), abs=1e-5)
    per_class = multiclass_accuracy(logits, labels, num_classes=10, average=None)
    assert found.per_class == pytest.approx(per_class.tolist(), abs=1e-6)
    assert found.top1 == pytest.approx((logits.argmax(1) == labels).double().mean().item())


def test_a_calibration_error_by_hand():
    # bin 13 of 15 holds 0.8 and 0.85 (one right), bin 15 holds 0.95 (right)
    confidence, right = torch.tensor([0.81, 0.85, 0.95]), torch.tensor([True, False, True])
    assert calibration_error(confidence, right) == pytest.approx((abs(1 - 1.66) + abs(1 - 0.95)) / 3, abs=1e-6)
    # an edge belongs to the bin below: 0.5 and 0.4 share one of two bins, and their gaps cancel
    assert calibration_error(torch.tensor([0.5, 0.4]), torch.tensor([True, False]), 2) == pytest.approx(0.05)
    assert calibration_error(torch.tensor([1.0]), torch.tensor([True])) == 0


def test_perfect_confidence_and_extreme_logits():
    found = accuracy(torch.tensor([[3e38, -3e38], [-3e38, 3e38]]), torch.tensor([0, 1]))
    assert (found.top1, found.nll, found.ece) == (1.0, 0.0, 0.0)
    assert accuracy(torch.tensor([[3e38, -3e38]]), torch.tensor([1])).nll == pytest.approx(6e38)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype):
    logits, labels = random_case(50, 4, 7)
    logits = logits.to(dtype)
    assert accuracy(logits, labels.to(torch.int32)) == accuracy(logits.double(), labels)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(3), torch.zeros(3).long(), "logits must be floating, of shape"),
        (torch.zeros(3, 2).long(), torch.zeros(3).long(), "got torch.int64"),
        (torch.zeros(0, 2), torch.zeros(0).long(), r"with an image; got torch.float32 of shape \(0, 2\)"),
        (torch.zeros(3, 2), torch.zeros(2).long(), r"labels must be integers of shape \(3,\), got .* \(2,\)"),
        (torch.zeros(3, 2), torch.zeros(3), "got torch.float32"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), r"labels must be in \[0, 2\).*got 0 to 2"),
        (torch.zeros(3, 2), torch.tensor([0, -1, 1]), "got -1 to 1"),
        (torch.tensor([[0, 1], [math.nan, 0], [math.inf, 0]]), torch.zeros(3).long(), "2 of 3 .* first image 1"),
    ],
)
def test_what_does_not_fit_is_refused(logits: Tensor, labels: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        accuracy(logits, labels)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_against_scipy(case: tuple[int, int]):
    correct, total = case
    expected = stats.binomtest(correct, total).proportion_ci(0.95, "wilson")
    assert wilson(correct, total) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= wilson(correct, total)[0] <= correct / total <= wilson(correct, total)[1] <= 1


def test_wilson_has_the_published_interval():
    # 81 of 263: 0.2553 to 0.3662 (Newcombe, "Two-sided confidence intervals for the single proportion", 1998, method 3)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 3000), st.integers(0, 3000))
def test_mcnemar_against_scipy(only_first: int, only_second: int):
    if only_first + only_second == 0:
        assert mcnemar(0, 0) == 1.0
    else:
        expected = stats.binomtest(only_first, only_first + only_second).pvalue
        assert mcnemar(only_first, only_second) == pytest.approx(
            expected, rel=1e-9, abs=1e-290
        )  # where scipy underflows
    assert mcnemar(only_first, only_second) == mcnemar(only_second, only_first)


@pytest.mark.parametrize(("smaller", "larger"), [(0, 1), (0, 7), (1, 7), (3, 3), (3, 4), (11, 30)])
def test_mcnemar_against_exact_fractions(smaller: int, larger: int):
    num = smaller + larger
    tail = Fraction(sum(math.comb(num, i) for i in range(smaller + 1)), 2**num)
    assert mcnemar(smaller, larger) == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-12)


def test_mcnemar_of_very_many_images():
    expected = stats.binomtest(499_000, 1_000_000).pvalue
    assert mcnemar(499_000, 501_000) == pytest.approx(expected, rel=1e-6)
    assert mcnemar(0, 5000) == 0.0  # below the smallest float


def test_the_paired_interval_has_the_published_bounds():
    # ci.prop.ps(.05, 12, 4, 26, 6) of Bonett's R package statpsych, whose difference is that of f10 - f01
    assert paired_interval(4, 26, 48) == pytest.approx((0.2548067, 0.6251933), abs=5e-8)


@st.composite
def paired_counts(draw: st.DrawFn) -> tuple[int, int, int]:
    total = draw(st.integers(1, 12_000))
    only_first = draw(st.integers(0, total))
    return only_first, draw(st.integers(0, total - only_first)), total


@settings(deadline=None, max_examples=100)
@given(paired_counts())
def test_the_paired_interval_holds_the_difference_and_turns_with_it(counts: tuple[int, int, int]):
    only_first, only_second, total = counts
    low, high = paired_interval(only_first, only_second, total)
    assert -1 <= low <= (only_second - only_first) / total <= high <= 1
    assert paired_interval(only_second, only_first, total) == pytest.approx((-high, -low), abs=1e-12)


def test_the_paired_interval_covers_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    p, q, total, tries = 0.03, 0.05, 300, 2000
    draws = torch.multinomial(torch.tensor([p, q, 1 - p - q]), total * tries, replacement=True, generator=generator)
    draws = draws.view(tries, total)
    counts = zip((draws == 0).sum(1).tolist(), (draws == 1).sum(1).tolist(), strict=True)
    covered = 0
    for only_first, only_second in counts:
        low, high = paired_interval(only_first, only_second, total)
        covered += low <= q - p <= high
    assert 0.93 < covered / tries < 0.98


def test_a_paired_test_by_hand():
    first = torch.tensor([True] * 10 + [False] * 10)
    second = torch.tensor([True] * 8 + [False] * 2 + [True] * 9 + [False])
    found = paired_test("dense", first, "pruned", second)
    assert (found.first, found.second, found.only_first, found.only_second) == ("dense", "pruned", 2, 9)
    assert found.difference == 7 / 20
    assert found.p_value == pytest.approx(2 * (1 + 11 + 55) / 2**11)


def test_models_that_are_right_on_the_same_images_are_not_told_apart():
    right = torch.tensor([True, False, True])
    found = paired_test("a", right, "b", right.clone())
    assert (found.difference, found.p_value) == (0.0, 1.0)
    assert found.ci95[0] < 0 < found.ci95[1]


def test_a_paired_test_needs_the_same_images():
    right = torch.tensor([True, False])
    with pytest.raises(ValueError, match="2 for 'a', 3 for 'b'"):
        paired_test("a", right, "b", torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"what 'b' got right must be a bool tensor.*torch.int64 of shape \(2,\)"):
        paired_test("a", right, "b", right.long())
    with pytest.raises(ValueError, match="what 'a' got right"):
        paired_test("a", right[:0], "b", right[:0])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop, self.fc = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Dropout(), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.norm(self.conv(x))).flatten(1))


@pytest.mark.parametrize("batch_size", [1, 7, 20, 1000])
def test_predictions_are_the_models_in_order(batch_size: int):
    model, split = Net().train(), images(20)
    model.drop.eval()
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    found = predict(model, split, mean=MEAN, std=STD, batch_size=batch_size)
    assert found.dtype == torch.float32
    assert not found.is_inference()
    assert [module.training for module in model.children()] == [True, True, False, True]
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    pixels = split.images.float() / 255
    shifted = (pixels - torch.tensor(MEAN).view(1, 2, 1, 1)) / torch.tensor(STD).view(1, 2, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(found, model.eval()(shifted))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_predictions_use_the_models_dtype(dtype: torch.dtype):
    model, split = Net().to(dtype), images(5)
    found = predict(model, split, mean=MEAN, std=STD)
    with torch.no_grad():
        expected = model.eval()(normalise(split.images, MEAN, STD, dtype))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float())


def test_what_cannot_be_predicted_is_told_and_the_mode_restored():
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).train()
    with pytest.raises(ValueError, match="device is meta, but the model is on cpu"):
        predict(model, images(2), mean=MEAN, std=STD, device="meta")
    with pytest.raises(ValueError, match="batch_size of at least 1 and an image; got 0 and 2"):
        predict(model, images(2), mean=MEAN, std=STD, batch_size=0)
    flat = nn.Sequential(nn.Flatten(0), nn.ReLU()).train()
    with pytest.raises(ValueError, match=r"logits of shape \(2, classes\), got \(64,\)"):
        predict(flat, images(2), mean=MEAN, std=STD)
    assert flat.training
    assert flat[1].training


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_predictions_on_cuda():
    model, split = Net(), images(9)
    expected = predict(model, split, mean=MEAN, std=STD)
    found = predict(model.cuda(), split, mean=MEAN, std=STD)
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-2)
