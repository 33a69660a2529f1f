"""The contract of every pattern, n:m against sorting each group, blocks against loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Size, Tensor, nn

import prunus
from axes import PATTERN_NAMES, SINGLE_WEIGHT_PATTERNS
from prunus.pruning import patterns
from prunus.pruning.patterns import PATTERNS, Block, Inputs, NofM, Pattern, Unstructured, num_gone, resolve
from prunus.registry import UnknownNameError

pytestmark = pytest.mark.usefixtures("one_thread")


shapes = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 4).map(lambda groups: 4 * groups)),
    st.tuples(st.integers(1, 5), st.integers(1, 13)),
    st.tuples(st.integers(1, 5), st.sampled_from([3, 4, 8]), st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 12)),
    st.just(()),
)


any_pattern = pytest.mark.parametrize("pattern", [resolve(example) for example in PATTERN_NAMES], ids=PATTERN_NAMES)


def holds(pattern: Pattern, shape: Size) -> bool:
    try:
        pattern.check("weight", shape)
    except ValueError:
        return False
    return True


def scores_of(shape: Size, seed: int, distinct: int = 10**6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, distinct, tuple(shape), generator=generator).double() / distinct


def owners(pattern: Pattern, shape: Size) -> Tensor:
    """Return for each weight the number of its unit."""
    return pattern.expand(torch.arange(pattern.num_units(shape)), shape)


@any_pattern
@given(shape=shapes, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_units_cover_each_weight_once(pattern: Pattern, shape: tuple[int, ...], seed: int) -> None:
    assume(holds(pattern, Size(shape)))
    owner = owners(pattern, Size(shape))
    assert owner.shape == shape
    assert set(owner.flatten().tolist()) == set(range(pattern.num_units(Size(shape))))

    scores = scores_of(Size(shape), seed)
    units = pattern.pool(scores)
    assert units.shape == (pattern.num_units(Size(shape)),)
    for index, unit in enumerate(units.tolist()):
        own = scores[owner == index]
        assert unit == math.inf or own.min() - 1e-9 <= unit <= own.max() + 1e-9


@any_pattern
@given(shape=shapes, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_what_is_gone_stays_gone_and_nothing_else_is(pattern: Pattern, shape: tuple[int, ...], seed: int) -> None:
    assume(holds(pattern, Size(shape)))
    scores = scores_of(Size(shape), seed)
    mask = scores_of(Size(shape), seed + 1) > 0.7
    units = pattern.pool(scores.masked_fill(~mask, -torch.inf))
    owner = owners(pattern, Size(shape))
    emptied = {index for index in range(len(units)) if not mask[owner == index].any()}
    gone = set((units == -torch.inf).nonzero().flatten().tolist())
    assert gone <= emptied
    if pattern.only_sparsity is None:
        assert gone == emptied
    assert num_gone(pattern, mask) == len(gone)


@pytest.mark.parametrize("pattern", [resolve(name) for name in SINGLE_WEIGHT_PATTERNS], ids=SINGLE_WEIGHT_PATTERNS)
@given(shape=shapes, seed=st.integers(0, 99), distinct=st.sampled_from([1, 2, 10**6]), share=st.floats(0.05, 0.95))
@settings(deadline=None, max_examples=40)
def test_masks_are_exact_and_made_of_whole_units_ties_included(
    pattern: Pattern, shape: tuple[int, ...], seed: int, distinct: int, share: float
) -> None:
    assume(holds(pattern, Size(shape)) and len(shape) in (1, 2, 4))
    sparsity = pattern.only_sparsity or share
    num_units = pattern.num_units(Size(shape))
    removed = round(sparsity * num_units)
    assume(0 < removed < num_units)
    layer = nn.Module()
    layer.weight = nn.Parameter(scores_of(Size(shape), seed, distinct))
    mask = prunus.prune(layer, sparsity, pattern=pattern, include="weight")["weight"]
    owner = owners(pattern, Size(shape))
    units = [mask[owner == index] for index in range(num_units)]
    assert all(unit.all() or not unit.any() for unit in units)
    assert sum(not unit.any() for unit in units) == removed
    if isinstance(pattern, NofM):
        kept_in_groups = mask.movedim(1, -1).reshape(-1, pattern.m).sum(1)
        assert (kept_in_groups == pattern.n).all()


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (3, 8), (4, 5)])
@pytest.mark.parametrize("shape", [(6, 40), (5, 40, 3, 3), (3, 40, 2)], ids=str)
def test_n_of_m_keeps_the_n_largest_of_each_group(n: int, m: int, shape: tuple[int, ...]) -> None:
    layer = nn.Module()
    layer.weight = nn.Parameter(torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(n)).float())
    before = layer.weight.detach().clone()
    prunus.prune(layer, 1 - n / m, pattern=f"{n}:{m}", include="weight")
    after = layer.weight.detach()
    rest = [range(shape[0]), range(0, shape[1], m), *map(range, shape[2:])]
    for row, first, *place in itertools.product(*rest):
        places = [(row, first + offset, *place) for offset in range(m)]
        by_size = sorted(places, key=lambda where: -abs(float(before[where])))  # equal ones stay in order
        for where in places:
            assert float(after[where]) == (float(before[where]) if where in by_size[:n] else 0)


def test_two_of_four_is_what_torchs_own_sparsifier_chooses() -> None:
    from torch.ao.pruning import WeightNormSparsifier

    theirs, ours = nn.Linear(64, 32), nn.Linear(64, 32)
    ours.load_state_dict(theirs.state_dict())
    sparsifier = WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2)
    sparsifier.prepare(nn.Sequential(theirs), [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    mask = prunus.prune(ours, 0.5, pattern="2:4", scope="uniform")["weight"]
    assert torch.equal(mask, theirs.parametrizations.weight[0].mask.bool())


@pytest.mark.parametrize("turned", [False, True])
def test_n_of_m_holds_also_where_weights_are_infinite(turned: bool) -> None:
    weight = torch.tensor([[torch.inf, torch.inf, 1.0, 2.0], [torch.inf] * 4])
    layer = nn.Linear(4, 2, bias=False)
    layer.weight.data = weight.flip(0) if turned else weight
    mask = prunus.prune(layer, 0.5, pattern="2:4")["weight"]
    assert mask.sum(1).tolist() == [2, 2]
    assert (torch.isinf(layer.weight).sum(1) == 2).all()


@pytest.mark.parametrize("shape", [(8, 8), (9, 7), (3, 2), (5, 3, 3, 3), (1, 1)], ids=str)
@pytest.mark.parametrize(("height", "width"), [(4, 4), (1, 5), (3, 2), (16, 16)])
def test_blocks_are_those_of_two_loops(shape: tuple[int, ...], height: int, width: int) -> None:
    block = Block(height, width)
    scores = scores_of(Size(shape), height)
    matrix = scores.reshape(shape[0], -1)
    rows, columns = matrix.shape
    means = []
    numbers = torch.empty_like(matrix)
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            inside = matrix[top : top + height, left : left + width]
            numbers[top : top + height, left : left + width] = len(means)
            means.append(float(inside.mean()))
    assert block.num_units(Size(shape)) == len(means)
    torch.testing.assert_close(block.pool(scores), torch.tensor(means, dtype=torch.float64))
    assert torch.equal(owners(block, Size(shape)).double(), numbers.view(shape))


def blocks_of_inputs(shape: tuple[int, ...], size: int) -> list[list[tuple[int, ...]]]:
    """Return the places of each block's weights: loops over all places of dimension 1, or of the kernel's width."""
    dim = len(shape) - 1 if shape[1] < size and len(shape) > 2 and shape[-1] > 1 else 1
    others = [range(length) if place != dim else range(1) for place, length in enumerate(shape)]
    blocks = []
    for place in itertools.product(*others):
        for first in range(0, shape[dim], size):
            along = range(first, min(first + size, shape[dim]))
            blocks.append([(*place[:dim], index, *place[dim + 1 :]) for index in along])
    return blocks


@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 5), st.integers(1, 9)),
        st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 6)),
        st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 3), st.integers(1, 6)),
    ),
    size=st.integers(1, 6),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_blocks_of_inputs_are_those_of_loops(shape: tuple[int, ...], size: int, seed: int) -> None:
    pattern = Inputs(size)
    scores, blocks = scores_of(Size(shape), seed), blocks_of_inputs(shape, size)
    owner, units = owners(pattern, Size(shape)), pattern.pool(scores)
    assert len(blocks) == pattern.num_units(Size(shape)) == len(units)
    for places in blocks:
        (number,) = {int(owner[place]) for place in places}
        assert float(units[number]) == pytest.approx(sum(float(scores[place]) for place in places) / len(places))


def test_blocks_of_inputs_do_not_cross_groups() -> None:
    layer = nn.Conv2d(12, 4, 1, groups=2, bias=False)  # blocks of 4 and 2 inputs in each group
    layer.weight.data = torch.tensor([1.0, 1, 1, 1, 9, 9]).repeat(4, 1).view(4, 6, 1, 1)
    mask = prunus.prune(layer, 0.5, pattern="inputs-4")["weight"]
    assert mask.view(4, 6).tolist() == [[False] * 4 + [True] * 2] * 4


def test_few_inputs_take_columns_of_the_kernel() -> None:
    layer = nn.Conv2d(3, 1, (2, 5), bias=False)
    layer.weight.data = torch.tensor([1.0, 1, 1, 1, 2]).repeat(6).view(1, 3, 2, 5)
    mask = prunus.prune(layer, 0.5, pattern="inputs-4")["weight"]
    assert mask.view(6, 5).tolist() == [[False] * 4 + [True]] * 6
    assert Inputs(4).num_units(Size((8, 3, 1, 1))) == Inputs(4).num_units(Size((8, 3))) == 8


def test_a_blocks_gone_weights_count_as_zeros() -> None:
    scores = torch.tensor([[4.0, -torch.inf, -torch.inf, -torch.inf]])
    assert Block(1, 2).pool(scores).tolist() == [2.0, -torch.inf]


@pytest.mark.parametrize("sign", [1, -1])
def test_block_means_of_the_largest_numbers_are_numbers(sign: int) -> None:
    largest = torch.full((6, 6), sign * torch.finfo(torch.float32).max)
    for height, width in itertools.product(range(1, 9), range(1, 9)):
        assert Block(height, width).pool(largest).isfinite().all()
    assert Block(2, 2).pool(torch.full((4, 4), 6e4, dtype=torch.float16)).tolist() == [6e4] * 4


def test_names_stand_for_patterns() -> None:
    assert resolve("unstructured") == Unstructured()
    assert resolve("2:4") == NofM(2, 4)
    assert resolve("block") == resolve("block-4x4") == Block(4, 4)
    assert resolve("block-1x16") == Block(1, 16)
    assert resolve(Block(2, 3)) == Block(2, 3)
    assert resolve("inputs-8") == Inputs(8)
    assert resolve("inputs-4:depthwise=columns") == Inputs(4, depthwise="columns")
    assert resolve(Inputs(4, depthwise="columns").name) == Inputs(4, depthwise="columns")
    assert [resolve(example).name for example in PATTERN_NAMES] == PATTERN_NAMES
    assert resolve("1:3").only_sparsity == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("4:2", "pattern n:m keeps n of every m weights and needs 0 < n < m, got 4:2"),
        ("0:4", "pattern n:m keeps n of every m weights and needs 0 < n < m, got 0:4"),
        ("4:4", "pattern n:m keeps n of every m weights and needs 0 < n < m, got 4:4"),
        ("block-0x4", "a block needs at least one row and one column, got block-0x4"),
        ("block-4x0", "a block needs at least one row and one column, got block-4x0"),
        ("inputs-0", "the number of inputs in a block must be at least 1, got 0"),
        ("inputs-0:depthwise=columns", "the number of inputs in a block must be at least 1, got 0"),
        ("inputs-4:depthwise=rows", "depthwise must be 'dense' or 'columns', got 'rows'"),
        ("inputs-4:size=2", "unknown option of pattern 'inputs-4': 'size' (known: depthwise)"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(written: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        resolve(written)
    assert str(caught.value) == message


def test_an_unknown_pattern_suggests_the_nearest_example() -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve("blok-4x4")
    assert str(caught.value) == (
        "unknown pattern 'blok-4x4'; did you mean 'block-4x4'? "
        "(known: 1:4, 2:4, block-1x8, block-4x4, channel, inputs-4, unstructured)"
    )
    for wrong in ("", "2:4 ", "unstructured2", "٢:٤", "block-4", "inputs", "inputs-4x4"):
        with pytest.raises(UnknownNameError):
            resolve(wrong)
    for wrong_type in (4, None, Block):
        with pytest.raises(TypeError, match="pattern must be a name or a Pattern"):
            resolve(wrong_type)  # type: ignore[arg-type]


def test_a_parameter_that_cant_hold_the_pattern_is_named() -> None:
    with pytest.raises(ValueError, match=r"'conv1\.weight' has shape \(20, 1, 5, 5\): 1 inputs; exclude it, as in"):
        NofM(2, 4).check("conv1.weight", Size((20, 1, 5, 5)))
    with pytest.raises(ValueError, match=r"'fc\.bias' has shape \(8,\): one dimension"):
        NofM(2, 4).check("fc.bias", Size((8,)))
    with pytest.raises(ValueError, match=r"pattern inputs-4 needs two dimensions or more, but 'fc\.bias' has shape"):
        Inputs(4).check("fc.bias", Size((8,)))
    with pytest.raises(ValueError, match=r"pattern block-4x4 needs two dimensions or more, but 'fc\.bias' has shape"):
        Block(4, 4).check("fc.bias", Size((8,)))


def test_a_registered_pattern_is_found_by_what_users_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PATTERNS, "_entries", dict(PATTERNS._entries))

    @patterns.pattern("row", r"row", examples=("row",))
    def row(match: object) -> Pattern:
        return Block(1, 10**6)

    layer = nn.Linear(4, 3, bias=False)
    layer.weight.data = torch.tensor([[1.0] * 4, [0.5] * 4, [2.0] * 4])
    prunus.prune(layer, 1 / 3, pattern="row")
    assert layer.weight.sum(1).tolist() == [4.0, 0.0, 8.0]
