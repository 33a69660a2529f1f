"""Tensors to symbols and back, to the bit, for every number type and shape; and what they cost."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunus.packing import dtypes
from prunus.packing.coder import Decoder, Encoder
from prunus.packing.layout import Entry
from prunus.packing.positions import bernoulli_bits
from prunus.packing.tensors import EarlierTensors, read_tensor, write_tensor

DTYPES = sorted(dtypes.KINDS, key=str)


def through(*tensors: Tensor) -> tuple[list[Tensor], bytes, list[str]]:
    """Return the tensors as they come back, the bytes between, and how each was coded."""
    entries = [Entry.of(str(place), tensor) for place, tensor in enumerate(tensors)]
    encoder, coded, codings = Encoder(), EarlierTensors.none(), []
    for entry, tensor in zip(entries, tensors, strict=True):
        bits = dtypes.patterns(tensor)
        codings.append(write_tensor(encoder, bits, entry.form, hashlib.sha256(bits.tobytes()).digest(), coded))
    data = encoder.finish()
    decoder, coded = Decoder(data), EarlierTensors.none()
    read: list[dtypes.Patterns] = []
    for entry in entries:
        read.append(read_tensor(decoder, entry.form, coded, read))
    back = [dtypes.tensor_of(bits, entry.dtype, entry.shape) for entry, bits in zip(entries, read, strict=True)]
    return back, data, codings


def raw(tensor: Tensor) -> bytes:
    plain = tensor.detach().contiguous()
    return bytes(plain.reshape(-1).view(torch.uint8).numpy()) if plain.numel() else b""


def assert_same(back: Tensor, tensor: Tensor) -> None:
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert raw(back) == raw(tensor)


def random_bits(dtype: torch.dtype, shape: tuple[int, ...], sparsity: float, seed: int) -> Tensor:
    """Return a tensor of random bits: infinities, NaN of any payload, subnormal numbers and all; a bool is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    count = math.prod(shape)
    data = torch.randint(256, (count, dtype.itemsize), dtype=torch.uint8, generator=generator)
    data *= (torch.rand(count, 1, generator=generator) >= sparsity).to(torch.uint8)
    if dtype == torch.bool:
        data &= 1
    return data.flatten().view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple)


@given(st.sampled_from(DTYPES), SHAPES, st.floats(0, 1), st.integers(0, 99))
@settings(deadline=None, max_examples=150)
def test_every_bit_of_every_type_comes_back(
    dtype: torch.dtype, shape: tuple[int, ...], sparsity: float, seed: int
) -> None:
    tensor = random_bits(dtype, shape, sparsity, seed)
    (back,), _, _ = through(tensor)
    assert_same(back, tensor)


def pruned(shape: tuple[int, ...], sparsity: float, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator) * 0.05
    threshold = weight.abs().flatten().kthvalue(max(1, int(sparsity * weight.numel()))).values
    return torch.where(weight.abs() <= threshold, 0.0, weight).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("sparsity", [0, 0.01, 0.3, 0.5, 0.9, 0.99, 0.9999])
def test_pruned_weights_come_back_with_what_is_zero_but_for_its_sign(dtype: torch.dtype, sparsity: float) -> None:
    weight = pruned((70, 130), sparsity)
    weight[3, 4:8] = torch.tensor([-0.0, math.nan, math.inf, 1e-40])
    (back,), _, _ = through(weight.to(dtype))
    assert_same(back, weight.to(dtype))


@pytest.mark.parametrize("sparsity", [0.2, 0.8, 0.95, 0.99, 0.999])
def test_weights_without_structure_cost_no_more_than_their_positions_and_values(sparsity: float) -> None:
    weight = pruned((400, 500), sparsity)
    _, data, _ = through(weight)
    bits = dtypes.patterns(weight)
    values = bits[bits != 0]
    exponents = np.bincount(values >> 23)
    entropy = sum(-n * math.log2(n / len(values)) for n in exponents.tolist() if n) + 23 * len(values)
    entropy += bernoulli_bits(len(values), bits.size)
    assert len(data) <= 1.01 * entropy / 8 + 60


def test_rows_and_columns_of_unlike_density_cost_less_than_one_density_for_all() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.rand(300, 1, generator=generator) ** 3, torch.rand(1, 200, generator=generator) ** 3
    stays = torch.rand(300, 200, generator=generator) < rows * columns
    (back,), data, (coding,) = through(stays.float())
    assert torch.equal(back, stays.float())
    assert coding.startswith("bitmap by ")
    num_stays = int(stays.sum())
    assert 8 * len(data) < 0.85 * bernoulli_bits(num_stays, stays.numel())
    probabilities = (rows * columns).double()
    ideal = -torch.where(stays, probabilities.log2(), (1 - probabilities).log2()).sum().item()
    assert 8 * len(data) < 1.15 * ideal  # the source's own entropy, of which the coder knows nothing


def test_the_way_is_taken_that_fits_the_tensor() -> None:
    generator = torch.Generator().manual_seed(0)
    few_zeros = torch.rand(1000, generator=generator)
    repeated = torch.randn(50, generator=generator).repeat(20)
    levels = torch.randint(-8, 8, (5000,), generator=generator).float()
    tensors = {
        "zero": torch.zeros(100, 100),
        "dense, fields": few_zeros,
        "lzma": repeated,
        "same": few_zeros.clone(),
        "gaps, fields": pruned((100_000,), 0.999),
        "bitmap, listed": levels * 0.0137,
        "empty": torch.zeros(0, 3),
    }
    back, _, codings = through(*tensors.values())
    assert codings == list(tensors)
    for found, tensor in zip(back, tensors.values(), strict=True):
        assert_same(found, tensor)


def test_counters_masks_and_ones_cost_a_few_bytes() -> None:
    counters = [torch.tensor(1234) for _ in range(50)]
    ones = [torch.ones(64) for _ in range(50)]
    _, data, _ = through(*counters, *ones, torch.zeros(64), torch.ones(1, 1, 256, 256, dtype=torch.bool).tril())
    assert len(data) < 400


def test_numbers_that_were_rounded_cost_what_is_left_of_them() -> None:
    weight = pruned((100, 100), 0.1)
    rounded = weight.bfloat16().float()
    assert len(through(rounded)[1]) < 1.02 * len(through(rounded.bfloat16())[1]) + 30


def test_large_tensors_of_several_pieces_come_back() -> None:
    for tensor in (pruned((1 << 12, 700), 0.98), pruned((700, 1 << 12), 0.5), torch.ones(3_000_001).bool()):
        (back,), _, _ = through(tensor)
        assert_same(back, tensor)
    rows = torch.zeros(2000, 1500)
    rows[::7, ::3] = 1.5
    (back,), _, (coding,) = through(rows)
    assert_same(back, rows)
    assert coding.startswith("bitmap by ") or coding == "lzma"


def test_views_that_are_not_contiguous_or_conjugated_are_stored_as_they_read() -> None:
    weight = pruned((30, 40), 0.5)
    complex_weight = torch.complex(weight, weight.flip(0))
    for tensor in (weight.T, weight[::2, 1::3], complex_weight.conj(), complex_weight.conj().imag):
        (back,), _, _ = through(tensor)
        assert torch.equal(back, tensor)
