"""Accuracy, loss and calibration from logits, and tests of the difference between two models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor, nn

from prunus.forward import run, undisturbed
from prunus.measuring.changes import Changes
from prunus.measuring.receipt import Accuracy, PairedTest

# the standard normal's 97.5% quantile
_Z95 = 1.959963984540054
_ECE_BINS = 15  # as in Guo et al.
# So many of the images that were lost are listed.
_LISTED = 24


def accuracy(logits: Tensor, labels: Tensor) -> Accuracy:
    """Compare logits with labels.

    Args:
        logits: floating, of shape (images, classes).
        labels: integer, of shape (images,), each in [0, classes).

    Returns:
        top1 with Wilson's 95% interval, the accuracy of each class (None for one without images), the mean negative
        log-likelihood in nats, and the expected calibration error. If several logits are the largest, the first counts.

    Raises:
        ValueError: shapes, dtypes or labels are wrong, there is no image, or a logit is NaN or infinite.

    >>> result = accuracy(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0]))
    >>> result.top1, result.per_class
    (0.5, (0.5, None))
    """
    _check_logits(logits, labels)
    labels = labels.to(logits.device)
    log_p = logits.double().log_softmax(dim=1)
    confidence, predicted = log_p.exp().max(dim=1).values, logits.argmax(dim=1)
    right = predicted == labels
    num_classes = logits.shape[1]
    in_class = labels.bincount(minlength=num_classes).tolist()
    right_in_class = labels[right].bincount(minlength=num_classes).tolist()
    correct, total = int(right.sum()), len(labels)
    return Accuracy(
        top1=correct / total,
        correct=correct,
        total=total,
        ci95=wilson(correct, total),
        per_class=tuple(hits / size if size else None for hits, size in zip(right_in_class, in_class, strict=True)),
        nll=max(0.0, -float(log_p.gather(1, labels[:, None].long()).mean())),
        ece=calibration_error(confidence, right),
    )


def _check_logits(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or not logits.is_floating_point() or 0 in logits.shape:
        raise ValueError(
            f"logits must be floating, of shape (images, classes), with an image; "
            f"got {logits.dtype} of shape {tuple(logits.shape)}"
        )
    if labels.shape != logits.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels must be integers of shape ({len(logits)},), got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(f"labels must be in [0, {logits.shape[1]}), the number of classes; got {low} to {high}")
    bad = (~logits.isfinite()).any(dim=1).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"logits must be finite; {len(bad)} of {len(logits)} images have a NaN or an infinity, first image "
            f"{int(bad[0])}: the model has diverged, or its dtype overflows"
        )


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95% score interval for a proportion.

    (p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.

    >>> [round(bound, 4) for bound in wilson(81, 263)]
    [0.2553, 0.3662]
    """
    p, z2 = correct / total, _Z95**2
    centre = p + z2 / (2 * total)
    spread = _Z95 * math.sqrt(p * (1 - p) / total + z2 / (4 * total**2))
    low, high = ((centre + sign * spread) / (1 + z2 / total) for sign in (-1, 1))
    # At the ends the bound is exactly 0 or 1; rounding would change its last bit.
    return (0.0 if correct == 0 else low, 1.0 if correct == total else high)


def calibration_error(confidence: Tensor, right: Tensor, num_bins: int = _ECE_BINS) -> float:
    """Return the expected calibration error: |accuracy - confidence|, averaged over bins of confidence.

    sum over bins of |images in the bin| / |images| * |accuracy of the bin - mean confidence of the bin|, where bin
    m of M holds the confidences in ((m-1)/M, m/M].

    Args:
        confidence: the probability of the predicted class, of shape (images,), each in [0, 1].
        right: whether the prediction is right, bool of the same shape.
        num_bins: the number of equal-width bins.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, eq. 3.

    >>> calibration_error(torch.tensor([0.75, 0.75]), torch.tensor([True, False]))
    0.25
    """
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64, device=confidence.device)
    which = torch.bucketize(confidence.double(), edges[1:-1])  # edges belong to the bin below, as in the paper
    gaps = torch.zeros(num_bins, dtype=torch.float64, device=confidence.device)
    gaps.index_add_(0, which, right.double() - confidence.double())
    return float(gaps.abs().sum() / len(confidence))


def paired_test(first: str, first_correct: Tensor, second: str, second_correct: Tensor) -> PairedTest:
    """Test whether two models differ, from the images that only one of them got right.

    The p-value is that of McNemar's exact test: if the models are equally good, each of the two is right on such an
    image with probability 1/2; p is the two-sided probability of a split at least as uneven.
    The 95% interval of the difference is Bonett and Price's adjusted Wald interval.

    Args:
        first: the first model's name.
        first_correct: which images it got right, bool of shape (images,).
        second: the second model's name.
        second_correct: the same for the second model, in the same order of images.

    Returns:
        The difference is the second's accuracy minus the first's. If no image distinguishes the models, p is 1.

    Raises:
        ValueError: the tensors are not bool, or not of the same one-dimensional, non-empty shape.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
        Psychometrika 1947; Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial
        proportions based on paired data", J. Educ. Behav. Stat. 2012.

    >>> right = torch.tensor([True, True, False])
    >>> paired_test("dense", right, "pruned", right).p_value
    1.0
    """
    for name, right in ((first, first_correct), (second, second_correct)):
        if right.dtype != torch.bool or right.ndim != 1 or right.numel() == 0:
            kind = f"{right.dtype} of shape {tuple(right.shape)}"
            raise ValueError(f"what {name!r} got right must be a bool tensor of shape (images,), got {kind}")
    if first_correct.shape != second_correct.shape:
        counts = f"{len(first_correct)} for {first!r}, {len(second_correct)} for {second!r}"
        raise ValueError(f"a paired test needs the same images for both models, got {counts}")
    second_correct = second_correct.to(first_correct.device)
    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((second_correct & ~first_correct).sum())
    total = len(first_correct)
    return PairedTest(
        first=first,
        second=second,
        only_first=only_first,
        only_second=only_second,
        difference=(only_second - only_first) / total,
        ci95=paired_interval(only_first, only_second, total),
        p_value=mcnemar(only_first, only_second),
    )


@dataclass(frozen=True)
class Tested:
    """What models made of labelled samples: accuracies by name, the first held against each other, and what changed."""

    accuracies: Mapping[str, Accuracy]
    comparisons: tuple[PairedTest, ...]
    changes: tuple[Changes, ...]


def tested(models: Mapping[str, nn.Module], data: Iterable[tuple[Tensor, Tensor]]) -> Tested:
    """Classify labelled samples by all models, in eval mode; batches are read once.

    Args:
        models: name -> a model that gives logits of shape (samples, classes).
        data: batches of inputs and labels.

    Raises:
        TypeError: a batch is no pair of tensors, or a model returns no tensor.
        ValueError: there is none, or logits and labels don't fit, see `accuracy`.
    """
    logits: dict[str, list[Tensor]] = {name: [] for name in models}
    labels: list[Tensor] = []
    for batch in data:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not all(isinstance(v, Tensor) for v in batch):
            raise TypeError(f"data must hold pairs of inputs and labels, got a {type(batch).__name__}")
        labels.append(batch[1].cpu())
        for name, model in models.items():
            logits[name].append(_logits(name, model, batch[0]))
    if not labels:
        raise ValueError("data holds no batch of inputs and labels; give a list or a DataLoader that has some")
    all_labels, outputs = torch.cat(labels), {name: torch.cat(parts) for name, parts in logits.items()}
    accuracies = {name: accuracy(of_model, all_labels) for name, of_model in outputs.items()}
    answers = {name: of_model.argmax(1) for name, of_model in outputs.items()}
    first, *others = answers
    correct = {name: answer == all_labels for name, answer in answers.items()}
    comparisons = tuple(paired_test(first, correct[first], name, correct[name]) for name in others)
    return Tested(accuracies, comparisons, changes(answers, all_labels))


def _logits(name: str, model: nn.Module, inputs: Tensor) -> Tensor:
    with undisturbed(model), torch.inference_mode():
        output = run(name, model, (inputs,), "data")
    if not isinstance(output, Tensor):
        raise TypeError(f"model {name!r} must return logits of shape (samples, classes), got {type(output).__name__}")
    return output.float().cpu()


def changes(predicted: Mapping[str, Tensor], labels: Tensor) -> tuple[Changes, ...]:
    """Return what changed from the first model to each other one.

    Args:
        predicted: name -> the class that a model gives for each image, of shape (images,).
        labels: of the same shape.

    >>> answers = {"dense": torch.tensor([0, 1, 1]), "pruned": torch.tensor([0, 1, 0])}
    >>> (found,) = changes(answers, torch.tensor([0, 1, 1]))
    >>> found.flipped, found.worst_class, found.worst_loss, found.lost
    (1, 1, 0.5, (2,))
    """
    (first, answers), *others = predicted.items()
    labels = labels.to(answers.device)
    wrong = sum((of_other.to(labels.device) != labels).long() for _, of_other in others)
    return tuple(
        _changes(first, answers, second, of_second.to(labels.device), labels, wrong) for second, of_second in others
    )


def _changes(
    first: str, before: Tensor, second: str, after: Tensor, labels: Tensor, times_wrong: Tensor | int
) -> Changes:
    right, still = before == labels, after == labels
    flipped, total = int((before != after).sum()), len(labels)
    classes = sorted(set(labels.tolist()))

    def loss(label: int) -> tuple[int, int, int]:
        of_class = labels == label
        return int((right & ~still & of_class).sum()), int((still & ~right & of_class).sum()), int(of_class.sum())

    losses = {label: loss(label) for label in classes}
    worst = max(classes, key=lambda label: (losses[label][0] - losses[label][1]) / losses[label][2])
    lost, gained, size = losses[worst]
    low, high = paired_interval(gained, lost, size, NormalDist().inv_cdf(1 - 0.025 / len(classes)))
    images = (right & ~still).nonzero().flatten()
    often = images[torch.as_tensor(times_wrong)[images].argsort(descending=True, stable=True)]
    return Changes(
        first,
        second,
        flipped,
        total,
        wilson(flipped, total),
        worst,
        (lost - gained) / size,
        (low, high),
        tuple(often[:_LISTED].tolist()),
    )


def paired_interval(only_first: int, only_second: int, total: int, z: float = _Z95) -> tuple[float, float]:
    """Return Bonett and Price's interval for the second proportion minus the first, from paired data; 95% by default.

    With one image added for each model: p = (only + 1) / (n + 2), and q - p ± z sqrt((p + q - (q - p)^2) / (n + 2)),
    cut to [-1, 1].
    """
    p, q = ((only + 1) / (total + 2) for only in (only_first, only_second))
    spread = z * math.sqrt((p + q - (q - p) ** 2) / (total + 2))
    return max(-1.0, q - p - spread), min(1.0, q - p + spread)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return McNemar's exact two-sided p-value: twice the smaller tail of Binomial(only_first + only_second, 1/2)."""
    num, smaller = only_first + only_second, min(only_first, only_second)
    # The tail is its largest term times 1 + r1 (1 + r2 (...)), where r are the quotients of neighbouring terms.
    log_largest = math.lgamma(num + 1) - math.lgamma(smaller + 1) - math.lgamma(num - smaller + 1) - num * math.log(2)
    series, term = 1.0, 1.0
    for hits in range(smaller, 0, -1):
        term *= hits / (num - hits + 1)
        series += term
        if term < 1e-17 * series:
            break
    return min(1.0, 2 * math.exp(log_largest) * series)
