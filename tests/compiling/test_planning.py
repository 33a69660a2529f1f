"""Where values lie: who reads finds what it needs, zeros stay zeros, and lists and tiles are all of a contraction."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prunus.compiling import planning, slots
from prunus.compiling.batch import read_net
from prunus.compiling.kernels.lists import lists, tiles
from prunus.compiling.kernels.variants import DOT, Variant, variants
from prunus.compiling.layout import Halo, Mode, layout
from prunus.compiling.net import Indices, Net, Operation, View, whole
from prunus.compiling.operations import Contract, Elementwise, Join
from prunus.compiling.operations.elementwise import Step
from prunus.compiling.planning import Plan, is_dot
from sparse_models import sparse

MODES = [Mode(8, 8), Mode(8, 1), Mode(4, 8)]
NUMBER_BYTES = 4


class Branches(nn.Module):
    """Convolutions of every kind of step, residuals, groups, pooling, and a part of a value read by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.strided = nn.Conv2d(8, 4, (3, 2), stride=(2, 3), padding=(0, 1))
        self.dilated = nn.Conv2d(4, 6, 3, padding=2, dilation=2)
        self.turned = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(6 * 4 * 6, 5)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores, and a map that was transposed on the way."""
        x = self.first(images).relu()
        x = (self.grouped(x) + x).relu()
        turned = self.turned(x[:, 2:6].transpose(2, 3))
        scores: Tensor = self.last(self.dilated(self.strided(x)).sigmoid().flatten(1))
        return scores, nn.functional.max_pool2d(turned.relu(), 2)


NETWORKS = {
    "branches": (Branches, (3, 10, 16)),
    "pooled": (lambda: nn.Sequential(nn.Conv2d(2, 4, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3)), (2, 12, 19)),
    "strides": (  # kernels that read beyond the rows and columns that were sorted by remainders
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 5, 2, 2), nn.ReLU(), nn.Conv2d(4, 4, 7, (2, 3), (3, 6)), nn.Conv2d(4, 3, 1, 2, 1)
        ),
        (2, 8, 100),
    ),
    "signal": (lambda: nn.Sequential(nn.Conv1d(2, 4, 3, 2, 1), nn.Conv1d(4, 4, 5, padding=4), nn.GELU()), (2, 21)),
    "matrices": (lambda: nn.Sequential(nn.Linear(40, 16), nn.GELU(), nn.Linear(16, 3)), (40,)),
    "tokens": (lambda: nn.Sequential(nn.Linear(12, 8), nn.SiLU(), nn.Linear(8, 4)), (9, 12)),
}


def net_of(name: str) -> Net:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    return read_net(sparse(make(), 0.6), torch.randn(2, *shape))[0]


@pytest.fixture(scope="module", params=[(name, mode) for name in NETWORKS for mode in MODES], ids=str)
def plan(request: pytest.FixtureRequest) -> Plan:
    name, mode = request.param
    return planning.plan(net_of(name), mode, NUMBER_BYTES, start=100)


class Memory:
    """A workspace in which each element that is written has a number of its own; zeros are zero."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.numbers = numpy.zeros(plan.size, dtype=numpy.int64)
        self.written: dict[int, Indices] = {}
        self.fresh = itertools.count(1)

    def write(self, value: int, zeros: Indices | None = None) -> None:
        """Write a value: a number that is nowhere else for each element but the given ones, which are zero."""
        view = whole(value, self.plan.net.boxes[value])
        content = numpy.array([next(self.fresh) for _ in view.index.flat]).reshape(view.index.shape)
        if zeros is not None:
            content.reshape(-1)[zeros.reshape(-1)] = 0
        self.written[value] = content.reshape(-1)
        lanes = numpy.arange(self.plan.mode.block)
        self.numbers[self.plan.addresses(view)[..., None] + lanes] = content[..., None]

    def check(self, view: View) -> None:
        """Make sure that a view's elements are still where they were written, in each lane."""
        expected = self.written[view.value][view.index]
        for lane in range(self.plan.mode.block):
            assert (self.numbers[self.plan.addresses(view) + lane] == expected).all()

    def check_taps(self, contract: Contract) -> None:
        """Make sure that each weight meets the element that a convolution's definition says, or a zero beyond it."""
        taps, place = self.plan.taps[contract.output], self.plan.places[contract.source.value]
        size = self.plan.layouts[contract.source.value].size
        for y, x in itertools.product(*map(range, contract.grid)):
            offsets = taps.offsets + y * taps.steps[0] + x * taps.steps[1]
            assert offsets.min() >= 0
            assert offsets.max() < size, "beyond its source lies another value"
            assert (self.numbers[place + offsets] == self.expected(contract, y, x)).all()

    def expected(self, contract: Contract, y: int, x: int) -> Indices:
        """Return what the weights of a convolution meet for one output: (channels, kernel height, kernel width)."""
        index = contract.source.index
        content = self.written[contract.source.value][index]
        if index.ndim == 5:  # rows and columns of each remainder by the strides lie together
            content = put_back(contract, content)
        padded = numpy.pad(content, ((0, 0), *((200, 200),) * 2))
        starts = [
            200 + at * stride - pad for at, stride, pad in zip((y, x), contract.stride, contract.padding, strict=True)
        ]
        rows, columns = (
            start + gap * numpy.arange(size)
            for start, gap, size in zip(starts, contract.dilation, contract.weight.shape[2:], strict=True)
        )
        part: Indices = padded[:, rows][:, :, columns]
        return part


def put_back(contract: Contract, content: Indices) -> Indices:
    """Return (channels, rows, columns) of what was sorted by remainders; -1 what is not there."""
    down, right = contract.stride
    whole_planes: Indices = numpy.full((content.shape[2], content.shape[3] * down, content.shape[4] * right), -1)
    read = [
        sorted({(gap * place - pad) % step for place in range(size)})
        for gap, pad, step, size in zip(
            contract.dilation, contract.padding, contract.stride, contract.weight.shape[2:], strict=True
        )
    ]
    for row, column in itertools.product(*map(enumerate, read)):  # type: ignore[call-overload]
        whole_planes[:, row[1] :: down, column[1] :: right] = content[row[0], column[0]]
    return whole_planes


def test_who_reads_finds_what_was_written_and_zeros_around_it_call_after_call(plan: Plan) -> None:
    memory = Memory(plan)
    for _ in range(2):
        for number, _ in plan.net.inputs.values():
            memory.write(number)
        for operation in plan.net.operations:
            for view in operation.views:
                memory.check(view)
            if isinstance(operation, Contract):
                memory.check_taps(operation)
            memory.write(operation.output, zeros_of(operation))
        for view in plan.net.outputs:
            memory.check(view)
    assert not memory.numbers[:100].any()  # the other plan's part of the workspace


def zeros_of(operation: Operation) -> Indices | None:
    """Return the places to which a copy writes zeros: where columns do not come out even."""
    if not isinstance(operation, Join):
        return None
    return numpy.concatenate(
        [
            numpy.zeros(0, dtype=numpy.int64),
            *(places.reshape(-1) for piece, places in operation.pieces if isinstance(piece, numpy.ndarray)),
        ]
    )


def contractions(plan: Plan) -> Iterator[tuple[Contract, Variant]]:
    for operation in plan.net.operations:
        if isinstance(operation, Contract):
            for variant in variants(operation, plan, 16):
                yield operation, variant


def test_lists_are_the_weights_that_are_not_zero(plan: Plan) -> None:
    workspace = numpy.random.default_rng(0).normal(size=plan.size)
    for contract, variant in contractions(plan):
        place = plan.places[contract.source.value]
        for parts in (1, 3):
            packed = lists(contract, plan, Variant(variant.rows, variant.tile, variant.width, variant.outer, parts))
            groups = len(contract.weight) // variant.rows
            totals = numpy.zeros((groups, variant.rows))
            for number, (start, stop) in enumerate(itertools.pairwise(packed.starts)):
                read = workspace[place + packed.offsets[start:stop]]
                forth = (-1) ** (number % groups)  # every other list goes back
                assert (numpy.diff(packed.offsets[start:stop].astype(numpy.int64)) * forth >= 0).all()
                totals[number % groups] += read @ packed.values[start:stop]
            per_group = contract.weight.shape[1]
            offsets = plan.taps[contract.output].offsets.reshape(contract.groups, per_group, *contract.weight.shape[2:])
            read = workspace[place + offsets].repeat(len(contract.weight) // contract.groups, axis=0)
            expected = (contract.weight * read).sum((1, 2, 3))
            numpy.testing.assert_allclose(totals.reshape(-1), expected, rtol=1e-9, atol=1e-9)
            assert (packed.values != 0).any(1).all()
            assert len(packed.starts) == parts * groups + 1


def test_tiles_cover_every_output_and_in_blocks_nothing_else(plan: Plan) -> None:
    mode = plan.mode
    for contract, variant in contractions(plan):
        if variant == DOT or variant.outer == "columns" or contract.pool is not None:
            continue
        found = plan.layouts[contract.output]
        if contract.output in plan.along:
            assert_one_long_row_is_covered(contract, variant, plan)
            continue
        across = variant.tile[1] * variant.width // mode.block
        covered = numpy.zeros((contract.grid[0], contract.grid[1] + across), dtype=bool)
        for source, output, _, room in tiles(contract, plan, variant).tolist():
            row, column = divmod(output // mode.block, found.pitch)
            assert source == row * plan.taps[contract.output].steps[0] + column * plan.taps[contract.output].steps[1]
            assert room == contract.grid[1] - column
            assert row + variant.tile[0] <= contract.grid[0]
            covered[row : row + variant.tile[0], column : column + across] = True
        assert covered[:, : contract.grid[1]].all()
        assert mode.single or not covered[:, contract.grid[1] :].any()


def assert_one_long_row_is_covered(contract: Contract, variant: Variant, plan: Plan) -> None:
    """Every place of a plane is in one tile, and none lies beyond what the plane has room for."""
    layout, several = plan.layouts[contract.output], variant.tile[1] * variant.width
    rows = tiles(contract, plan, variant)
    length = (contract.grid[0] - 1) * layout.pitch + contract.grid[1]
    numpy.testing.assert_array_equal(rows[:, 1], numpy.arange(len(rows)) * several)
    assert (rows[:, 0] == rows[:, 1]).all(), "a step right or down is the same in the source and in the output"
    assert rows[-1, 1] < length <= rows[-1, 1] + several
    assert layout.origin + rows[-1, 1] + several <= layout.plane
    assert layout.pitch == plan.layouts[contract.source.value].pitch


def test_pooled_outputs_are_made_by_tiles_of_whole_windows() -> None:
    plan = planning.plan(net_of("pooled"), Mode(8, 8), NUMBER_BYTES)
    pooled = [contract for contract, _ in contractions(plan) if contract.pool is not None]
    assert pooled
    for contract, variant in contractions(plan):
        if contract.pool is not None:
            corners = tiles(contract, plan, variant)[:, 1] // plan.mode.block
            places = {
                (corner + y * plan.layouts[contract.output].pitch + x)
                for corner in corners.tolist()
                for y, x in itertools.product(range(variant.tile[0] // 2), range(variant.tile[1] // 2))
            }
            pitch = plan.layouts[contract.output].pitch
            assert places == {y * pitch + x for y, x in itertools.product(*map(range, contract.box[1:]))}


@st.composite
def nets(draw: st.DrawFn) -> tuple[Net, dict[int, Halo]]:
    """Draw a net of sums of random earlier values, and zeros around some values."""
    count = draw(st.integers(2, 9))
    boxes = {n: draw(st.sampled_from([(1, 2, 3), (2, 3, 2), (1, 1, 12), (12, 1, 1)])) for n in range(count)}
    halos = {n: draw(st.sampled_from([Halo(), Halo(), Halo(1, 1, 1, 1), Halo(0, 2, 1, 0)])) for n in range(count)}
    operations = []
    for number in range(1, count):
        read = draw(st.lists(st.integers(0, number - 1), min_size=1, max_size=3, unique=True))
        views = tuple(View(n, numpy.arange(math.prod(boxes[n])).reshape(boxes[n])) for n in read)
        operations.append(Elementwise(str(number), number, boxes[number], views, (Step("relu", (0,)),)))
    outputs = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=3, unique=True))
    net = Net({"x": (0, boxes[0])}, tuple(operations), tuple(whole(n, boxes[n]) for n in outputs), boxes)
    return net, halos


@settings(deadline=None)
@given(nets(), st.sampled_from(MODES), st.integers(0, 40))
def test_values_share_memory_only_at_different_times_and_zeros_only_with_the_like(
    drawn: tuple[Net, dict[int, Halo]], mode: Mode, start: int
) -> None:
    net, halos = drawn
    layouts = {number: layout(box, halos[number], mode) for number, box in net.boxes.items()}
    places, size = slots.placed(net, layouts, mode, NUMBER_BYTES, start)
    made = {operation.output: step for step, operation in enumerate(net.operations)} | {0: -1}
    last = dict(made)
    for step, operation in enumerate(net.operations):
        last |= {view.value: step for view in operation.views}
    last |= {view.value: len(net.operations) for view in net.outputs}
    for number, place in places.items():
        # vectors may be read beyond either end
        assert start + mode.vector <= place <= size - layouts[number].size - mode.vector
        assert place * NUMBER_BYTES % slots.ALIGNMENT == 0
    for one, other in itertools.combinations(places, 2):
        apart = (
            places[one] + layouts[one].size + mode.vector <= places[other]
            or places[other] + layouts[other].size + mode.vector <= places[one]
        )
        at_once = made[one] <= last[other] and made[other] <= last[one]
        if at_once or ((layouts[one].halo or layouts[other].halo) and layouts[one] != layouts[other]):
            assert apart, (one, other)
        else:
            assert apart or places[one] == places[other]


def test_a_value_that_nobody_reads_any_more_gives_its_place_away() -> None:
    model = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(32, 32), nn.GELU()))).eval()
    long = planning.plan(read_net(model, torch.randn(2, 32))[0], Mode(8, 8), NUMBER_BYTES)
    short = planning.plan(read_net(model[:4], torch.randn(2, 32))[0], Mode(8, 8), NUMBER_BYTES)
    assert long.size == short.size


def test_single_samples_are_computed_output_by_output_where_a_row_is_no_vector() -> None:
    plan = planning.plan(net_of("matrices"), Mode(8, 1), NUMBER_BYTES)
    assert all(is_dot(contract, plan.mode) for contract, _ in contractions(plan))
    assert {variant.outer for _, variant in contractions(plan)} <= {"outputs", "columns"}
