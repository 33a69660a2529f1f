"""Batches against a loop over images and arithmetic written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import prunus.lab.data.batching
from prunus.lab.data import Images, batches, normalise, shift_images

MEAN, STD = (0.25, 0.5, 0.75), (0.1, 0.2, 0.4)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def random_images(count: int, channels: int = 3, height: int = 6, width: int = 5, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)
    return Images(images, torch.randint(0, 10, (count,), generator=generator))


def shift_one(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """Move one image (channels, height, width) pixel by pixel."""
    moved = np.zeros_like(image)
    _, height, width = image.shape
    for row, column in itertools.product(range(height), range(width)):
        if 0 <= row - down < height and 0 <= column - right < width:
            moved[:, row, column] = image[:, row - down, column - right]
    return moved


@given(
    count=st.integers(0, 5),
    channels=st.integers(1, 3),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    data=st.data(),
)
@settings(deadline=None, max_examples=100)
def test_shifting_is_what_a_loop_over_pixels_does(
    count: int, channels: int, height: int, width: int, data: st.DataObject
) -> None:
    images = random_images(count, channels, height, width).images
    moves = st.lists(st.integers(-6, 6), min_size=count, max_size=count)
    down, right = data.draw(moves), data.draw(moves)
    shifted = shift_images(images, torch.tensor(down, dtype=torch.int64), torch.tensor(right, dtype=torch.int64))
    assert shifted.shape == images.shape
    for image, moved, rows, columns in zip(images, shifted, down, right, strict=True):
        assert np.array_equal(moved.numpy(), shift_one(image.numpy(), rows, columns))


def test_shifting_an_image_that_is_a_view_with_gaps() -> None:
    images = random_images(4, height=6, width=6).images.transpose(2, 3)[::2]
    ones = torch.ones(2, dtype=torch.int64)
    for image, moved in zip(images, shift_images(images, ones, -ones), strict=True):
        assert np.array_equal(moved.numpy(), shift_one(image.numpy(), 1, -1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_normalising_rounds_the_exact_value_once(dtype: torch.dtype) -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 3, 1, 1)
    pixels = images.numpy().astype(np.float64) / 255
    exact = (pixels - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    found = normalise(images, MEAN, STD, dtype)
    assert found.dtype == dtype
    last_place = torch.finfo(dtype).eps / 2
    # the three operations' own roundings, up to 10 / 2 in size because std is as small as 0.1
    computing = 16 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    assert (np.abs(found.double().numpy() - exact) <= np.abs(exact) * last_place * 1.01 + computing).all()
    assert images.dtype == torch.uint8
    assert int(images[0, 0, 15, 15]) == 255, "the input is left alone"


def test_normalised_training_images_have_mean_zero_and_deviation_one() -> None:
    split = random_images(50)
    mean, std = prunus.lab.data.images.pixel_statistics(split.images)
    assert np.allclose(mean, (split.images.numpy() / 255).mean(axis=(0, 2, 3)), atol=1e-12)
    assert np.allclose(std, (split.images.numpy() / 255).std(axis=(0, 2, 3)), atol=1e-12)
    x = normalise(split.images, mean, std, torch.float64)
    assert torch.allclose(x.mean(dim=(0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-7)
    assert torch.allclose(x.std(dim=(0, 2, 3), unbiased=False), torch.ones(3, dtype=torch.float64), atol=1e-7)


def by_hand(image: Tensor, down: int = 0, right: int = 0) -> Tensor:
    moved = torch.from_numpy(shift_one(image.numpy(), down, right))
    return (moved.float() / 255 - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (8, 4), (3, 5), (1, 1), (0, 4)])
def test_batches_cover_the_split_once_in_its_order(count: int, batch_size: int) -> None:
    split = random_images(count)
    found = list(batches(split, batch_size, mean=MEAN, std=STD))
    sizes = [len(labels) for _, labels in found]
    assert sizes == [min(batch_size, count - start) for start in range(0, count, batch_size)]
    place = 0
    for images, labels in found:
        assert images.shape[1:] == split.input_shape
        for image, label in zip(images, labels, strict=True):
            assert torch.equal(image, by_hand(split.images[place]))
            assert label == split.labels[place]
            place += 1
    assert place == count


def test_order_chooses_and_repeats() -> None:
    split = random_images(6)
    order = torch.tensor([5, 0, 0, 3])
    images, labels = next(batches(split, 10, mean=MEAN, std=STD, order=order))
    assert torch.equal(labels, split.labels[order])
    assert torch.equal(images, torch.stack([by_hand(split.images[index]) for index in order]))


@pytest.mark.parametrize("block_values", [1, 1000, 2**20])
def test_shifts_come_from_the_generator_alone(monkeypatch: pytest.MonkeyPatch, block_values: int) -> None:
    monkeypatch.setattr(prunus.lab.data.batching, "BLOCK_VALUES", block_values)
    split = random_images(23)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(4))
    down, right = torch.randint(-2, 3, (2, 23), generator=torch.Generator().manual_seed(9)).tolist()
    generator = torch.Generator().manual_seed(9)
    state = torch.get_rng_state()
    found = list(batches(split, 5, mean=MEAN, std=STD, order=order, shift=2, generator=generator))
    assert torch.equal(torch.get_rng_state(), state), "torch's global generator is left alone"
    assert len(found) == 5
    for place, image in enumerate(torch.cat([images for images, _ in found])):
        assert torch.equal(image, by_hand(split.images[order[place]], down[place], right[place]))


def test_a_generators_state_continues_where_it_was_and_does_not_depend_on_the_batch_size() -> None:
    split = random_images(30)
    passes = []
    for batch_size in (7, 30):
        generator = torch.Generator().manual_seed(1)
        for _ in batches(split, batch_size, mean=MEAN, std=STD, shift=2, generator=generator):
            pass
        resumed = torch.Generator()
        resumed.set_state(generator.get_state())
        second = batches(split, batch_size, mean=MEAN, std=STD, shift=2, generator=resumed)
        passes.append(torch.cat([images for images, _ in second]))
    assert torch.equal(passes[0], passes[1])


def test_every_shift_comes_about_equally_often() -> None:
    white = Images(torch.full((5000, 1, 9, 9), 255, dtype=torch.uint8), torch.zeros(5000, dtype=torch.int64))
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(5, 5)
    for images, _ in batches(white, 500, mean=(0.0,), std=(1.0,), shift=2, generator=generator):
        rows, columns = images[:, 0].sum(2), images[:, 0].sum(1)
        down = (rows == 0).float() @ torch.tensor([1.0] * 4 + [0.0] + [-1.0] * 4)
        right = (columns == 0).float() @ torch.tensor([1.0] * 4 + [0.0] + [-1.0] * 4)
        for move in torch.stack((down, right), 1).long() + 2:
            counts[move[0], move[1]] += 1
    expected = 5000 / 25
    assert ((counts - expected).square() / expected).sum() < 51.2  # chi-square, 24 degrees: exceeded once in 1,000


def test_without_shift_the_generator_is_not_used() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    list(batches(random_images(4), 2, mean=MEAN, std=STD, generator=generator))
    assert torch.equal(generator.get_state(), before)


def test_what_is_shifted_in_is_a_black_pixel_not_the_mean() -> None:
    white = Images(torch.full((40, 1, 5, 5), 255, dtype=torch.uint8), torch.zeros(40, dtype=torch.int64))
    images, _ = next(batches(white, 40, mean=(0.5,), std=(0.25,), shift=1, generator=torch.Generator().manual_seed(0)))
    assert images.unique().tolist() == [-2.0, 2.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_batches_come_in_the_dtype_asked_for(dtype: torch.dtype) -> None:
    split = random_images(4)
    images, labels = next(batches(split, 4, mean=MEAN, std=STD, dtype=dtype))
    assert torch.equal(images, normalise(split.images, MEAN, STD, dtype))
    assert labels.dtype == torch.int64


def test_a_batch_may_be_changed_without_changing_the_data() -> None:
    split = random_images(8)
    before = split.images.clone()
    for images, labels in batches(split, 3, mean=MEAN, std=STD):
        images.zero_()
        labels.zero_()
    assert torch.equal(split.images, before)
    assert split.labels.sum() > 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 2.0}, ValueError, "batch_size"),
        ({"shift": -1}, ValueError, "shift must be a whole number from 0 to 4 for images of 5 pixels, got -1"),
        ({"shift": 5}, ValueError, "got 5"),
        ({"order": torch.tensor([0, 6])}, ValueError, "order must hold indices from 0 to 5, got 0 to 6"),
        ({"order": torch.tensor([-1])}, ValueError, "got -1 to -1"),
        ({"order": torch.tensor([0.0])}, TypeError, "order must be int64"),
        ({"order": torch.tensor([[0]])}, TypeError, r"of shape \(1, 1\)"),
        ({"mean": (0.5,)}, ValueError, "one number for each of 3 channels"),
        ({"std": (0.1, 0.0, 0.1)}, ValueError, "std must be above 0"),
        ({"std": (0.1, float("nan"), 0.1)}, ValueError, "std must be above 0"),
        ({"dtype": torch.int32}, TypeError, "dtype must be one of torch.float16"),
    ],
)
def test_mistakes_are_refused_when_called_not_at_the_first_batch(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    settings = {"batch_size": 2, "mean": MEAN, "std": STD} | change
    with pytest.raises(error, match=message):
        batches(random_images(6), **settings)


def test_normalise_refuses_what_is_not_pixels() -> None:
    with pytest.raises(TypeError, match=r"images must be uint8, got torch\.float32"):
        normalise(torch.zeros(1, 1, 2, 2), (0.0,), (1.0,))
    with pytest.raises(ValueError, match="images must have 4 dimensions"):
        normalise(torch.zeros(2, 2, dtype=torch.uint8), (0.0,), (1.0,))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_a_gpu_are_those_of_the_cpu() -> None:
    split = random_images(50)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    found = []
    for device in ("cpu", "cuda"):
        generator = torch.Generator().manual_seed(2)
        settings = {"mean": MEAN, "std": STD, "order": order, "shift": 2, "generator": generator}
        found.append(list(batches(split, 8, device=device, **settings)))
    for (images, labels), (gpu_images, gpu_labels) in zip(*found, strict=True):
        assert gpu_images.is_cuda
        assert gpu_labels.is_cuda
        torch.testing.assert_close(gpu_images.cpu(), images)
        assert torch.equal(gpu_labels.cpu(), labels)
