"""Histograms, thresholds and images against numpy, brute force and Pillow."""

from __future__ import annotations

import base64
import io

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from made_up import MadeUpRun
from prunus.lab.report import distributions, images, pixels
from prunus.lab.report.distributions import Bins
from prunus.lab.report.folder import Predictions
from prunus.pruning.masks import Masks


@settings(deadline=None, max_examples=50)
@given(
    values=st.lists(st.sampled_from([0.0, 1e-8, 0.5]) | st.floats(-3, 3, width=16), max_size=60),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    limit=st.floats(0.1, 4),
    number=st.integers(1, 40),
)
def test_histogram_counts_every_weight_once(values, dtype, limit, number):
    weights = torch.tensor(values, dtype=dtype)
    found = distributions.histogram([weights[:7], weights[7:]], Bins(limit, number))
    assert found.zeros == sum(value == 0 for value in weights.tolist())
    assert found.outside == sum(abs(value) > np.float32(limit) for value in weights.tolist())
    assert sum(found.counts) + found.zeros + found.outside == len(values)


def test_histogram_agrees_with_numpy():
    weights = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    expected, _ = np.histogram(weights.numpy(), bins=120, range=(-2.0, 2.0))
    assert distributions.histogram([weights], Bins(2.0, 120)).counts == tuple(expected.tolist())


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.9])
def test_bins_have_an_edge_at_the_threshold(threshold):
    found = distributions.bins(1.0, threshold)
    edges = np.linspace(-found.limit, found.limit, found.number + 1)
    assert found.limit >= 1.0
    assert np.abs(edges - threshold).min() < 1e-9
    assert np.abs(edges + threshold).min() < 1e-9


def test_a_threshold_too_small_to_draw_leaves_the_bins_alone():
    assert distributions.bins(1.0, 1e-6) == distributions.bins(1.0)


@pytest.mark.parametrize("outlier", [3.0, 1e4])
def test_drawn_range_leaves_out_at_most_one_weight_in_a_thousand(outlier):
    weights = torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    weights[5] = outlier
    limit = distributions.drawn_limit([weights[:300], weights[300:]])
    assert (weights.abs() > limit).double().mean() <= 0.001
    assert distributions.drawn_limit([torch.zeros(4)]) == 1.0


@settings(deadline=None, max_examples=60)
@given(data=st.data(), values=st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=12))
def test_cut_is_the_largest_removed_and_the_smallest_kept(data, values):
    lives = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    split = data.draw(st.integers(0, len(values)))
    dense = {"a": torch.tensor(values[:split]), "b": torch.tensor(values[split:])}
    masks = Masks({"a": torch.tensor(lives[:split]).bool(), "b": torch.tensor(lives[split:]).bool()})
    found = distributions.cut(dense, masks)
    removed = [abs(value) for value, alive in zip(values, lives, strict=True) if not alive]
    kept = [abs(value) for value, alive in zip(values, lives, strict=True) if alive]
    if not removed or not kept:
        assert found is None
    else:
        assert found is not None
        assert (found.largest_removed, found.smallest_kept) == (max(removed), min(kept))
        assert found.clean == (max(removed) <= min(kept))


def test_global_magnitude_has_one_threshold_that_splits_the_weights():
    run = MadeUpRun()
    found = distributions.cut(run.states["dense"], Masks(run.masks))
    assert found is not None
    assert found.clean
    below = sum(int((run.states["dense"][name].abs() < found.middle).sum()) for name in run.masks)
    assert below == 31_992


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_is_read_back_by_pillow(channels):
    image_module = pytest.importorskip("PIL.Image")
    pixels_in = torch.randint(0, 256, (5, 7, channels), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    with image_module.open(io.BytesIO(pixels.png(pixels_in))) as image:
        image.load()
        assert image.size == (7, 5)
        assert (np.asarray(image).reshape(5, 7, channels) == pixels_in.numpy()).all()


def test_data_uri_holds_the_png():
    image = torch.zeros(2, 2, 1, dtype=torch.uint8)
    head, _, body = pixels.data_uri(image).partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body) == pixels.png(image)


def test_kernels_show_sign_and_removal():
    weights = torch.tensor([[[1.0, -1.0], [0.0, 0.5]]])
    mask = torch.tensor([[[True, True], [True, False]]])
    drawn = pixels.kernels(weights, mask, scale=1.0, columns=4, cell=10)
    assert drawn.shape == (22, 22, 4)  # two cells of 10 pixels, and a line around them
    at = {
        name: tuple(drawn[y, x, :3].tolist())
        for name, (y, x) in {"positive": (3, 6), "negative": (3, 16), "zero": (13, 6), "removed": (13, 17)}.items()
    }
    assert at == {
        "positive": pixels.POSITIVE,
        "negative": pixels.NEGATIVE,
        "zero": (255, 255, 255),
        "removed": pixels.REMOVED,
    }
    assert (drawn[..., 3] == 255).all()


def test_tiles_stand_in_rows_and_the_gap_is_transparent():
    drawn = pixels.kernels(torch.ones(5, 2, 2), None, scale=1.0, columns=3, cell=4)
    assert drawn.shape == (2 * 10 + 2, 3 * 10 + 2 * 2, 4)
    opaque = (drawn[..., 3] == 255).sum().item()
    assert opaque == 5 * 10 * 10


def test_photos_are_thinned_out():
    assert pixels.photo(torch.zeros(3, 224, 100, dtype=torch.uint8)).shape == (56, 25, 3)
    assert pixels.photo(torch.zeros(1, 28, 28, dtype=torch.uint8)).shape == (28, 28, 1)
    assert pixels.photo(torch.zeros(5, 8, 8, dtype=torch.uint8)).shape == (8, 8, 1)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((20, 1, 5, 5), (20, 5, 5)),
        ((16, 3, 3, 3), (48, 3, 3)),
        ((300, 784), (300, 28, 28)),
        ((10, 166), None),
        ((8, 4, 1, 1), None),
        ((8, 4, 3), None),
    ],
)
def test_layers_that_can_be_looked_at(shape, expected):
    planes = images.as_planes(torch.zeros(shape))
    assert (None if planes is None else tuple(planes.shape)) == expected


def test_only_some_kernels_of_a_wide_layer_are_drawn():
    weights = {name: {"conv": torch.randn(512, 512, 3, 3)} for name in ("dense", "pruned", "finetuned")}
    drawn = images.kernels(weights, Masks({"conv": torch.rand(512, 512, 3, 3) > 0.5}))
    assert drawn is not None
    assert sum(len(picture.uri) for picture in drawn.pictures) < 100_000
    assert "of 262,144 are drawn" in drawn.note


def test_changed_answers_are_told_apart():
    labels = torch.tensor([0, 1, 2, 3, 4])
    dense = torch.tensor([0, 9, 2, 9, 4])
    finetuned = torch.tensor([9, 1, 2, 8, 4])  # broken, fixed, the same, wrong both times, the same
    index = torch.tensor([0, 1, 3])
    found = Predictions(
        labels, {"dense": dense, "finetuned": finetuned}, index, torch.zeros(3, 1, 4, 4).to(torch.uint8)
    )
    assert "3 of 5 test images" in images.changes_in_words(found)
    assert "1 right before and wrong now, 1 the other way round, 1 wrong both times" in images.changes_in_words(found)
    gallery = images.changes(found)
    assert gallery is not None
    assert [(picture.caption, picture.verdict) for picture in gallery.pictures] == [
        ("label 0: 0 → 9", "broken"),
        ("label 1: 9 → 1", "fixed"),
        ("label 3: 9 → 8", "still wrong"),
    ]


def test_no_changed_answer_is_said():
    same = torch.tensor([1, 2])
    found = Predictions(same, {"dense": same, "finetuned": same}, torch.tensor([]).long(), torch.zeros(0, 1, 4, 4))
    assert images.changes(found) is None
    assert images.changes_in_words(found) == "None of 2 test images got another answer from finetuned than from dense."
