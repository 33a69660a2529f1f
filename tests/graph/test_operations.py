"""The table of operations: every row is one of PyTorch's operations, and does what the row claims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunus.graph import macs
from prunus.graph.calls import bound_arguments, run
from prunus.graph.coupling.reader import RULES
from prunus.graph.exported import guards
from prunus.graph.exported import operations as in_files
from prunus.graph.operations import OPERATIONS, AtenOperation, Family, Trait, base_name, find
from prunus.graph.operations.row import NONE
from prunus.graph.rewriting import fitting
from prunus.shrinking.finding import content_rules

ROWS = list(OPERATIONS.values())
DTYPES = (torch.float64, torch.int64, torch.bool)

# Arguments that an operation can't do without and that are no tensors, for a tensor of shape (4, 4, 4).
ARGUMENTS: dict[str, dict[str, Any]] = {
    "permute": {"dims": [2, 0, 1]},
    "transpose": {"dim0": 0, "dim1": 2},
    "swapaxes": {"axis0": 0, "axis1": 2},
    "swapdims": {"dim0": 0, "dim1": 2},
    "movedim": {"source": 0, "destination": 2},
    "moveaxis": {"source": 0, "destination": 2},
    "view": {"size": [16, 4]},
    "view_copy": {"size": [16, 4]},
    "_unsafe_view": {"size": [16, 4]},
    "reshape": {"shape": [16, 4]},
    "unflatten": {"dim": 1, "sizes": [2, 2]},
    "unsqueeze": {"dim": 1},
    "expand": {"size": [3, 4, 4, 4]},
    "broadcast_to": {"size": [3, 4, 4, 4]},
    "select": {"dim": 1, "index": 2},
    "narrow": {"dim": 1, "start": 1, "length": 2},
    "slice": {"dim": 1, "start": 1},
    "repeat": {"repeats": [2, 1, 1, 3]},
    "tile": {"dims": [2, 1]},
    "roll": {"shifts": [1, 2], "dims": [1, 2]},
    "flip": {"dims": [1]},
    "unfold": {"dimension": 1, "size": 2, "step": 1},
    "repeat_interleave": {"repeats": 2, "dim": 1},
    "index_select": {"dim": 1, "index": torch.tensor([3, 0])},
    "pixel_shuffle": {"upscale_factor": 2},
    "pixel_unshuffle": {"downscale_factor": 2},
    "split": {"split_size": 3, "dim": 1},
    "unsafe_split": {"split_size": 3, "dim": 1},
    "split_with_sizes": {"split_sizes": [1, 3], "dim": 1},
    "unsafe_split_with_sizes": {"split_sizes": [1, 3], "dim": 1},
    "chunk": {"chunks": 2, "dim": 1},
    "unsafe_chunk": {"chunks": 2, "dim": 1},
    "tensor_split": {"indices": [1, 3], "dim": 1},
    "hsplit": {"indices": [1, 3]},
    "vsplit": {"indices": [1]},
    "dsplit": {"indices": [1, 3]},
    "channel_shuffle": {"groups": 2},
    "native_channel_shuffle": {"groups": 2},
    "index": {"indices": [None, torch.tensor([3, 0])]},
    "gather": {"dim": 1, "index": torch.zeros(4, 1, 4, dtype=torch.int64)},
    "take_along_dim": {"indices": torch.zeros(4, 1, 4, dtype=torch.int64), "dim": 1},
    "unbind": {"dim": 1},
    "clamp": {"min": -1.0, "max": 2.0},
    "clip": {"min": -1.0, "max": 2.0},
    "to": {"dtype": torch.float64},
    "softmax": {"dim": 1},
    "_softmax": {"dim": 1, "half_to_float": False},
    "kthvalue": {"k": 3},
    "full_like": {"fill_value": 3},
    "fill": {"value": 3},
    "full": {"size": [2], "fill_value": 3},
    "new_full": {"size": [2], "fill_value": 3},
}
# The overload to try where it is not the first that a file may hold, or the packet's own first.
OVERLOADS = {
    "movedim": "int",
    "moveaxis": "int",
    "to": "dtype",
    "repeat_interleave": "self_int",
    "tensor_split": "indices",
    "unsafe_split": "Tensor",
    "where": "self",
    "xlogy": "Tensor",
    "fill": "Scalar",
    "masked_fill": "Scalar",
    "clamp": "default",
    "clip": "default",
    "narrow": "default",
}


def overload(row: AtenOperation) -> torch._ops.OpOverload:
    packet = getattr(torch.ops.aten, row.name)
    kinds = [form.partition(".")[2] for form in row.files if form.partition(".")[0] == row.name]
    by_tensor = [kind for kind in kinds if kind.startswith("Tensor") and kind.count("Tensor") >= kind.count("_")]
    kind = OVERLOADS.get(row.name) or next(iter([*by_tensor, *kinds, *packet.overloads()]))
    target = getattr(packet, kind)
    assert isinstance(target, torch._ops.OpOverload)
    return target


def call(row: AtenOperation, tensor: Callable[[], Tensor], **arguments: Any) -> Any:
    """Call an operation with made tensors, and with small numbers where it can't do without."""
    target = overload(row)
    arguments = ARGUMENTS.get(row.name, {}) | arguments
    for argument in target._schema.arguments:
        kind = argument.real_type.kind()
        if argument.name in arguments or argument.has_default_value():
            continue
        if kind == "TensorType":
            made = tensor()
            arguments[argument.name] = made > 0.5 if argument.name in ("condition", "mask") else made
        elif kind == "ListType":
            arguments[argument.name] = [tensor(), tensor()] if "Tensor" in str(argument.real_type) else [2]
        else:
            arguments[argument.name] = {"OptionalType": None, "BoolType": False, "IntType": 1}.get(kind, 0.5)
    return run(target, bound_arguments(target, (), arguments))


def first(result: Any) -> Tensor:
    return result[0] if isinstance(result, (list, tuple)) else result


def of(*families: Family, traits: Trait = NONE) -> Any:
    rows = [row for row in ROWS if row.family in families and row.has(traits)]
    assert rows
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.name)


def is_random(row: AtenOperation) -> bool:
    return torch.Tag.nondeterministic_seeded in overload(row).tags or row.name == "empty_like"


def test_every_row_is_an_operation_of_pytorch() -> None:
    for row in ROWS:
        assert isinstance(getattr(torch.ops.aten, row.name), torch._ops.OpOverloadPacket), row.name
        for form in row.files:
            target = in_files.overload(form)
            assert target is not None, form
            assert base_name(form.partition(".")[0]) == row.name
            assert find(target) is row or form == "view.dtype"
        assert bool(row.files) != row.has(Trait.NOT_IN_FILES)


def test_in_place_forms_write_to_their_first_tensor_and_have_a_functional_form() -> None:
    forms = [form for row in ROWS for form in row.files if form.partition(".")[0] == f"{row.name}_"]
    assert len(forms) > 80
    for form in forms:
        schema = in_files.overload(form)._schema  # type: ignore[union-attr]
        assert schema.arguments[0].alias_info.is_write, form
        assert not any(argument.alias_info and argument.alias_info.is_write for argument in schema.arguments[1:])


def test_what_has_no_row_is_of_no_family() -> None:
    assert find(torch.ops.aten.linalg_eigh.default).family is Family.OTHER
    assert find(torch.ops.aten.view.dtype).family is Family.OTHER  # other bits, not another shape
    assert find(torch.ops.aten.view.default).family is Family.MOVE
    assert find(len).family is Family.OTHER


def test_every_family_that_can_be_followed_has_a_rule() -> None:
    assert set(RULES) == set(Family) - {Family.CELL, Family.FILL, Family.SIZE, Family.CHECK, Family.OTHER}


def test_rules_for_single_operations_are_for_such_that_have_a_row() -> None:
    for rules in (fitting._FITS, macs._DISPATCHED, content_rules._DECIDED):
        assert set(rules) <= set(OPERATIONS)
    assert {name for name in guards._CHECKS if name not in in_files.ATEN} == set()


def tried(row: AtenOperation, shape: tuple[int, ...]) -> tuple[list[Tensor], Tensor]:
    """Call an operation on random tensors of the first dtype that it takes."""
    for dtype in DTYPES:
        tensors: list[Tensor] = []

        def made(dtype: torch.dtype = dtype, tensors: list[Tensor] = tensors) -> Tensor:
            tensors.append((torch.rand(shape, dtype=torch.float64) * 3).to(dtype))
            return tensors[-1]

        try:
            return tensors, call(row, made)
        except (RuntimeError, NotImplementedError):
            continue
    raise AssertionError(f"{row.name} takes none of {DTYPES}")


@of(Family.ELEMENTWISE)
def test_elementwise_each_element_depends_on_its_own(row: AtenOperation) -> None:
    if is_random(row):
        return
    torch.manual_seed(0)
    tensors, result = tried(row, (2, 3))
    assert result.shape == (2, 3)
    for place in range(6):
        singles = iter([tensor.reshape(-1)[place].reshape(1, 1) for tensor in tensors])
        single = call(row, lambda singles=singles: next(singles))  # type: ignore[misc]
        assert torch.equal(single.reshape(()).nan_to_num(7), result.reshape(-1)[place].nan_to_num(7))


@of(Family.ELEMENTWISE)
def test_elementwise_smaller_tensors_broadcast(row: AtenOperation) -> None:
    if row.name in ("copy", "fill") or is_random(row):  # into the shape of the first
        return
    for dtype in DTYPES:
        shapes = iter([(2, 1, 3), (4, 1), (1,)])
        tensors: list[Tensor] = []

        def made(shapes: Any = shapes, dtype: torch.dtype = dtype, tensors: list[Tensor] = tensors) -> Tensor:
            tensors.append(torch.ones(next(shapes), dtype=dtype))
            return tensors[-1]

        try:
            result = call(row, made)
        except (RuntimeError, NotImplementedError):
            continue
        assert result.shape == torch.broadcast_shapes(*(tensor.shape for tensor in tensors))
        return
    raise AssertionError(row.name)


@of(Family.ELEMENTWISE, traits=Trait.ZERO)
@pytest.mark.parametrize("number", [None, -0.3, 0.7])
def test_zero_stays_zero(row: AtenOperation, number: float | None) -> None:
    numbers = {}
    if number is not None:
        schema = overload(row)._schema.arguments
        numbers = {argument.name: number for argument in schema if argument.real_type.kind() == "NumberType"}
    try:
        assert bool((call(row, lambda: torch.zeros(4, dtype=torch.float64), **numbers) == 0).all())
    except RuntimeError:
        assert number is not None  # it refuses such a number


@of(Family.ELEMENTWISE, traits=Trait.RISING)
def test_it_never_falls(row: AtenOperation) -> None:
    for limit in (-1.0, 2.0):
        tensors = iter([torch.linspace(-6, 6, 241, dtype=torch.float64), torch.tensor(limit, dtype=torch.float64)])
        result = call(row, lambda tensors=tensors: next(tensors))  # type: ignore[misc]
        result = result[~result.isnan()]
        assert len(result) > 10
        assert bool((result[1:] >= result[:-1]).all())


@of(Family.ELEMENTWISE, traits=Trait.FACTOR)
def test_a_factor_of_zero_makes_zero(row: AtenOperation) -> None:
    for order in ((0, 1), (1, 0)):
        factors = [torch.zeros(4, dtype=torch.int64), torch.tensor([1, -3, 5, 7])]
        pair = iter([factors[place] for place in order])
        assert not bool(call(row, lambda pair=pair: next(pair)).any())  # type: ignore[misc]


@of(Family.ELEMENTWISE, Family.FILL)
def test_what_it_is_filled_with(row: AtenOperation) -> None:
    result = call(row, lambda: torch.randn(2)) if row.fills is not None else None
    number = ARGUMENTS[row.name][row.fills] if isinstance(row.fills, str) else row.fills
    assert result is None or bool((result == number).all())


@of(Family.SAME)
def test_the_same_is_handed_on(row: AtenOperation) -> None:
    numbers = torch.arange(6.0, dtype=torch.float64).reshape(2, 3)
    extra = {"device_type": "cpu", "cuda_enabled": False, "cpu_enabled": False}
    extra |= {"cuda_dtype": torch.float16, "cpu_dtype": torch.bfloat16}
    names = [argument.name for argument in overload(row)._schema.arguments]
    off = {name: value for name, value in {**extra, "train": False}.items() if name in names}
    assert torch.equal(first(call(row, lambda: numbers, **off)), numbers)
    assert row.has(Trait.DROPS) == is_random(row)


@of(Family.MOVE, Family.INDEX, Family.PARTS)
def test_moved_elements_are_the_inputs(row: AtenOperation) -> None:
    numbers = torch.arange(64.0).reshape((8, 8) if row.name in ("t", "numpy_T", "mT", "mH", "adjoint") else (4, 4, 4))
    others = iter([numbers, torch.empty(16, 4) if row.has(Trait.KEEPS_ORDER) else torch.empty(3, 4, 4, 4)])
    result = call(row, lambda: next(others))
    pieces = [piece.flatten().tolist() for piece in (result if row.family is Family.PARTS else [result])]
    elements = [element for piece in pieces for element in piece]
    assert set(elements) <= set(range(64))
    if row.family is Family.PARTS:
        assert sorted(elements) == list(range(64))
    if row.has(Trait.KEEPS_ORDER):
        assert elements == list(range(64))


@pytest.mark.parametrize("row", [row for row in ROWS if row.along is not None], ids=lambda row: row.name)
def test_other_dimensions_than_those_it_moves_along_go_through(row: AtenOperation) -> None:
    arguments = ARGUMENTS.get(row.name, {}) | ({"dim": 1} if row.family is Family.JOIN else {})
    named = arguments[row.along] if isinstance(row.along, str) else row.along
    for dim in {0, 1, 2} - set(named if isinstance(named, list) else [named]):
        place = torch.arange(4).reshape([4 if other == dim else 1 for other in range(3)])
        result = call(row, lambda place=place: place.expand(4, 4, 4), **arguments)  # type: ignore[misc]
        for piece in result if row.family is Family.PARTS else [result]:
            places = place.squeeze(named) if row.name == "unbind" else place
            assert torch.equal(piece, places.expand(piece.shape))


@of(Family.JOIN)
def test_joined_tensors_are_all_there(row: AtenOperation) -> None:
    numbers = iter(torch.arange(16).reshape(2, 2, 4))
    assert sorted(call(row, lambda: next(numbers)).flatten().tolist()) == list(range(16))


@of(Family.REDUCE, traits=Trait.EQUAL)
def test_of_equal_numbers_it_gives_that_number(row: AtenOperation) -> None:
    assert bool((first(call(row, lambda: torch.full((5,), 0.7))) == torch.tensor(0.7)).all())


@of(Family.REDUCE, traits=Trait.ZERO)
def test_of_zeros_it_gives_zero(row: AtenOperation) -> None:
    assert not bool(call(row, lambda: torch.zeros(2, 3)).any())


@of(Family.MIX, traits=Trait.SUMS_TO_ONE)
def test_what_it_gives_sums_to_one(row: AtenOperation) -> None:
    assert torch.allclose(call(row, lambda: torch.randn(2, 4)).sum(1), torch.ones(2))


@of(Family.WINDOW)
def test_windows_run_over_the_last_dimensions(row: AtenOperation) -> None:
    """Planes that hold one number hold it afterwards, up to zeros from outside; other dimensions stay as they are."""
    for rank in (3, 4, 5):
        dims = row.spatial_dims(rank)
        if dims != rank - 2 or (row.name == "grid_sampler" and rank == 3):
            continue
        planes = torch.tensor([2.0, 5.0]).reshape(1, 2, *[1] * dims).expand(1, 2, *[4] * dims)
        grid = torch.zeros(1, *[3] * dims, dims)
        numbers = {"kernel_size": [2] * dims, "output_size": [2] * dims, "padding": [1] * 2 * dims, "grid": grid}
        names = [argument.name for argument in overload(row)._schema.arguments if not argument.has_default_value()]
        needed = {name: numbers[name] for name in names if name in numbers}
        result = first(call(row, lambda planes=planes: planes.contiguous(), **needed))  # type: ignore[misc]
        assert result.shape[:2] == (1, 2)
        assert result.ndim == rank
        assert torch.allclose(result, planes.flatten(2)[..., :1].reshape(1, 2, *[1] * dims).expand_as(result))
        return
    raise AssertionError(row.name)


@pytest.mark.parametrize(("kind", "name"), [(nn.LSTM, "lstm"), (nn.GRU, "gru"), (nn.RNN, "rnn_tanh")])
def test_gates_are_pytorchs(kind: type[nn.RNNBase], name: str) -> None:
    assert kind(3, 5).weight_ih_l0.shape[0] == 5 * OPERATIONS[name].gates


@of(Family.SIZE)
def test_sizes_are_numbers(row: AtenOperation) -> None:
    packet = getattr(torch.ops.aten, row.name)
    returned = {str(getattr(packet, kind)._schema.returns[0].type) for kind in packet.overloads()}
    assert returned <= {"int", "List[int]", "bool"}
