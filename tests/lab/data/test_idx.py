"""The IDX reader against five lines of struct, and every way a file can be damaged."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import random
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.errors import DataError
from prunus.lab.data.idx import parse, read
from tiny_sets import idx_bytes


def by_struct(content: bytes, dimensions: int) -> np.ndarray | None:
    """What a whole IDX file of unsigned bytes holds, None for any other bytes."""
    length = 4 + 4 * dimensions
    if len(content) < length or content[:4] != bytes([0, 0, 8, dimensions]):
        return None
    shape = struct.unpack(f">{dimensions}I", content[4:length])
    whole = math.prod(shape) == len(content) - length > 0
    return np.frombuffer(content[length:], np.uint8).reshape(shape) if whole else None


def agrees_with_struct(content: bytes, dimensions: int, file: bytes) -> None:
    expected = by_struct(content, dimensions)
    if expected is None:
        with pytest.raises(DataError):
            parse(io.BytesIO(file), dimensions, "the file")
    else:
        values, digest = parse(io.BytesIO(file), dimensions, "the file")
        assert values.dtype == torch.uint8
        assert np.array_equal(values.numpy(), expected)
        assert digest == hashlib.sha256(content).hexdigest()


idx_files = st.tuples(st.integers(1, 3), st.randoms(use_true_random=False)).flatmap(
    lambda drawn: st.lists(st.integers(0, 5), min_size=drawn[0], max_size=drawn[0]).map(
        lambda shape: idx_bytes(np.frombuffer(drawn[1].randbytes(math.prod(shape)), np.uint8).reshape(shape))
    )
)


@given(content=idx_files, dimensions=st.integers(1, 3), packed=st.booleans())
@settings(deadline=None, max_examples=200)
def test_a_whole_file_is_read_exactly(content: bytes, dimensions: int, packed: bool) -> None:
    agrees_with_struct(content, dimensions, gzip.compress(content, mtime=0) if packed else content)


@given(
    content=idx_files,
    cut=st.integers(0, 40),
    tail=st.binary(max_size=3),
    place=st.integers(0, 15),
    value=st.integers(0, 255),
    packed=st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_a_changed_file_is_read_exactly_or_refused(
    content: bytes, cut: int, tail: bytes, place: int, value: int, packed: bool
) -> None:
    changed = bytearray(content[: max(0, len(content) - cut)] + tail)
    if place < len(changed):
        changed[place] = value
    whole = bytes(changed)
    for dimensions in (1, 3):
        agrees_with_struct(whole, dimensions, gzip.compress(whole, mtime=0) if packed else whole)


@given(content=st.binary(max_size=80) | st.binary(max_size=60).map(lambda tail: b"\0\0\x08\x01\0\0\0" + tail))
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_read_exactly_or_refused(content: bytes) -> None:
    if content[:2] != b"\x1f\x8b":
        agrees_with_struct(content, 1, content)


@given(seed=st.integers(0, 2**32), flips=st.integers(1, 4), cut=st.integers(0, 30))
@settings(deadline=None, max_examples=200)
def test_damaged_gzip_gives_the_original_or_an_error(seed: int, flips: int, cut: int) -> None:
    original = idx_bytes(np.arange(60) % 7)
    damaged = bytearray(gzip.compress(original, mtime=0))
    source = random.Random(seed)
    for _ in range(flips):
        damaged[source.randrange(2, len(damaged))] ^= 1 << source.randrange(8)
    try:
        values, _ = parse(io.BytesIO(bytes(damaged[: len(damaged) - cut])), 1, "the file")
    except DataError:
        return
    assert values.tolist() == (np.arange(60) % 7).tolist()  # a flip may hit what gzip ignores, such as the time stamp


def images_file() -> bytes:
    return idx_bytes(np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", DataError, "an IDX header takes 16 bytes, got 0"),
        (images_file()[:9], DataError, "an IDX header takes 16 bytes, got 9"),
        (images_file()[:-1], DataError, "declares 2 x 3 x 4 bytes, but is truncated: it can hold no more than 23"),
        (images_file() + b"\0", DataError, "declares 2 x 3 x 4 bytes, but more follow"),
        (b"<!DOCTYPE html>", DataError, "starts with the bytes 3c 21 44 4f, expected 00 00 08 03"),
        (idx_bytes(np.zeros(30)), DataError, "00 00 08 01, expected 00 00 08 03: .* in 3 dimensions"),
        (b"\0\0\x0d\x03" + images_file()[4:], DataError, "00 00 0d 03, expected 00 00 08 03"),
        (b"\0\0\x08\x03" + bytes(12), DataError, "declares 0 x 0 x 0 bytes, so it is empty"),
        (gzip.compress(images_file(), mtime=0)[:-9], DataError, "gzip stream is incomplete"),
        (
            gzip.compress(images_file()[:-1], mtime=0),
            DataError,
            "only 23 follow the header; remove it or replace it",
        ),
        (gzip.compress(images_file() + b"!", mtime=0), DataError, "but more follow"),
        (
            gzip.compress(images_file(), mtime=0)[:-8] + bytes(8),
            DataError,
            r"damaged gzip file \(CRC check failed",
        ),
        (b"\x1f\x8b\x08" + bytes(30), DataError, "damaged gzip file"),
    ],
)
def test_each_damage_has_its_own_error_that_names_the_file(
    tmp_path: Path, content: bytes, error: type[DataError], message: str
) -> None:
    path = tmp_path / "broken"
    path.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        read(path, 3)
    assert type(caught.value) is error
    assert str(path) in str(caught.value)


def test_what_is_no_file_is_unreadable(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing-here"):
        with pytest.raises(DataError, match="can't be read"):
            read(path, 3)


def test_content_decides_what_is_gzip_not_the_name(tmp_path: Path) -> None:
    for name, content in (("plain.gz", images_file()), ("packed", gzip.compress(images_file(), mtime=0))):
        (tmp_path / name).write_bytes(content)
        assert read(tmp_path / name, 3)[0].flatten().tolist() == list(range(24))


def peak_of_refusing(content: bytes, error: type[DataError]) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(error):
            parse(io.BytesIO(content), 3, "hostile")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(2**20, 25, 40), (2**32 - 1,) * 3, (1, 2**31, 1)])
@pytest.mark.parametrize("packed", [False, True])
def test_a_header_that_declares_gigabytes_takes_no_memory(shape: tuple[int, ...], packed: bool) -> None:
    content = struct.pack(">HBB3I", 0, 8, 3, *shape) + bytes(1000)
    assert peak_of_refusing(gzip.compress(content, mtime=0) if packed else content, DataError) < 200_000


def test_a_decompression_bomb_is_read_no_further_than_its_header_says() -> None:
    bomb = gzip.compress(images_file() + bytes(50_000_000), compresslevel=1, mtime=0)
    assert peak_of_refusing(bomb, DataError) < 1_000_000
