"""Operations that PyTorch doesn't check: a document that misuses them is refused, and so is a call that doesn't fit."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from prunus.graph.exported import DocumentError, ExportedModule
from prunus.graph.exported.guards import guarded

pytestmark = pytest.mark.usefixtures("one_thread")


def back(steps: int) -> str:
    return "^" if steps == 1 else f"^{steps}"


def calling(
    name: str, tensors: Sequence[Tensor], *args: Any, nodes: Sequence[Any] = (), **kwargs: Any
) -> ExportedModule:
    """Return the module of a document that calls one operation; ``"#2"`` among the arguments is the third tensor."""
    before = len(tensors) + len(nodes)

    def told(value: Any) -> Any:
        if isinstance(value, list):
            return [told(entry) for entry in value]
        if not isinstance(value, str):
            return value
        return back(before - int(value[1:])) if value.startswith("#") else f"'{value}"

    names = [f"x{place}" for place in range(len(tensors))]
    inputs = [{"dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape)} for t in tensors]
    document = {
        "why": "",
        "arguments": [[name, "*"] for name in names],
        "positional": len(names),
        "inputs": inputs,
        "kinds": "",
        "nodes": [*nodes, [name, *told(list(args)), {key: told(value) for key, value in kwargs.items()}]],
        "output": "*",
        "leaves": ["^"],
    }
    return ExportedModule.from_document(document, {})


IMAGES, GRID = torch.ones(1, 1, 4, 4), torch.zeros(1, 2, 2, 2)


@pytest.mark.parametrize(
    ("name", "tensors", "args"),
    [
        ("grid_sampler_2d.default", [IMAGES, GRID], ["#0", "#1", 7, 0, False]),
        ("grid_sampler_2d.default", [IMAGES, GRID], ["#0", "#1", 0, -1, False]),
        ("grid_sampler.default", [IMAGES, GRID], ["#0", "#1", 2**40, 0, False]),
        ("grid_sampler_3d.default", [IMAGES[None], torch.zeros(1, 2, 2, 2, 3)], ["#0", "#1", -2, 0, False]),
        ("soft_margin_loss.default", [torch.ones(3), torch.ones(3)], ["#0", "#1", 17]),
        ("mse_loss.default", [torch.ones(3), torch.ones(3)], ["#0", "#1", -1]),
        ("cdist.default", [torch.ones(3, 2), torch.ones(3, 2)], ["#0", "#1", 2.0, 9]),
        ("_upsample_bilinear2d_aa.default", [IMAGES], ["#0", [7, 3], False, 0.5, None]),
        ("upsample_bicubic2d.default", [IMAGES], ["#0", [7, 3], False, None, 1e-310]),
        ("upsample_nearest1d.default", [IMAGES[0]], ["#0", [7], 0.1]),
        ("max_pool1d.default", [IMAGES[0]], ["#0", [2**63 - 1], [2], [0], [1], False]),
        ("avg_pool2d.default", [IMAGES], ["#0", [2, 2], [2**31, 1]]),
        ("im2col.default", [IMAGES], ["#0", [2, 2], [1, 1], [2**40, 0], [1, 1]]),
        ("zeros.default", [], [[2**20, 2**20]]),
        ("arange.default", [], [1e13]),
        ("eye.default", [], [2**40]),
        ("repeat.default", [IMAGES], ["#0", [1, 1, 2**20, 2**20]]),
        ("upsample_nearest2d.vec", [IMAGES], ["#0", [2**20, 2**20], None]),
        ("max_pool2d.default", [IMAGES], ["#0", [2, 2], [1, 1], [0, 0], [2**40, 1]]),
        ("conv_transpose2d.input", [IMAGES, IMAGES], ["#0", "#1", None, [1, 1], [0, 0], [2**40, 0], 1, [1, 1]]),
        ("arange.start_step", [], [0, 1, 1e-12]),
        ("linspace.default", [], [0, 1, 2**40]),
        ("one_hot.default", [torch.ones(3, dtype=torch.int64)], ["#0", 2**40]),
        ("hann_window.default", [], [2**40]),
        ("eye.m", [], [1, 2**40]),
        ("upsample_nearest3d.default", [IMAGES[None]], ["#0", [7, 3, 3], 0.1, None, None]),
        ("upsample_nearest3d.default", [IMAGES[None]], ["#0", [7, 3, 3], None, None, 0.1]),
    ],
)
def test_a_constant_that_pytorch_takes_without_a_look_is_refused(
    name: str, tensors: list[Tensor], args: list[Any]
) -> None:
    with pytest.raises(DocumentError, match=r"argument .* must be|more than 2,147,483,648 elements"):
        calling(name, tensors, *args)


class Scaled(nn.Module):
    """A size, and scales that say something else."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.ops.aten.upsample_bilinear2d.default(images, [7, 3], False, 0.5, 0.5)


def test_what_could_not_be_read_back_is_not_written() -> None:
    module = ExportedModule.from_program(torch.export.export(Scaled().eval(), (IMAGES,), strict=False))
    with pytest.raises(DocumentError, match="argument 'scales_h' must be null"):
        module.to_document()


def test_a_choice_that_is_computed_is_refused() -> None:
    size = ["sym_size.int", "^2", 3]
    with pytest.raises(DocumentError, match="'interpolation_mode' must be a constant from 0 to 2"):
        calling("grid_sampler_2d.default", [IMAGES, GRID], "#0", "#1", "#2", 0, False, nodes=[size])


def test_products_of_sizes_don_t_fill_the_memory() -> None:
    size = ["sym_size.int", "^", 3]
    squares = [["number.mul", "^", "^"]] * 59
    module = calling("add.Scalar", [IMAGES], "#0", "#60", nodes=[size, *squares])
    with pytest.raises(ValueError, match="a product of sizes has more than 1024 bits"):
        module(IMAGES)


QUOTIENTS = {
    "div.Tensor_mode": {"rounding_mode": "trunc"},
    "div_.Tensor_mode": {"rounding_mode": "floor"},
    "divide.Tensor_mode": {"rounding_mode": "floor"},
    "floor_divide.default": {},
    "fmod.Tensor": {},
    "remainder.Tensor": {},
}


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8])
@pytest.mark.parametrize("name", QUOTIENTS)
def test_the_least_whole_number_by_minus_one(name: str, dtype: torch.dtype) -> None:
    least = torch.iinfo(dtype).min
    values = torch.tensor([least, 7, -7 if least else 7]).to(dtype)
    module = calling(name, [values, values], "#0", "#1", **QUOTIENTS[name])
    expected = getattr(torch.ops.aten, name.split(".")[0]).__getattr__(name.split(".")[1])
    others = torch.tensor([3, -1 if least else 1, 2]).to(dtype)
    assert torch.equal(module(values.clone(), others), expected(values.clone(), others, **QUOTIENTS[name]))
    if least:
        with pytest.raises(ValueError, match=r"/ -1 is no torch\.int"):
            module(values, torch.full_like(values, -1))


def test_quotients_by_constants_and_of_floats() -> None:
    least = torch.tensor([torch.iinfo(torch.int32).min], dtype=torch.int32)
    for name in ("div.Scalar_mode", "divide.Scalar_mode"):
        with pytest.raises(ValueError, match=r"/ -1 is no torch\.int32"):
            calling(name, [least], "#0", -1, rounding_mode="trunc")(least)
    assert calling("div.Scalar_mode", [least], "#0", -1, rounding_mode=None)(least) == 2.0**31
    assert calling("div.Scalar_mode", [least], "#0", -1.0, rounding_mode="trunc")(least) == 2.0**31
    with pytest.raises(ValueError, match=r"remainder\.Scalar_Tensor can't be computed"):
        calling("remainder.Scalar_Tensor", [least], -(2**31), "#0")(torch.full_like(least, -1))


def recurrent(kind: type[nn.RNNBase], packed: bool, **settings: Any) -> tuple[str, list[Tensor], list[Any], Tensor]:
    """Return the call that PyTorch's own layer makes, and what that layer gives."""
    torch.manual_seed(0)
    layer = kind(3, 4, **settings).eval()
    values = torch.randn(2, 5, 3) if layer.batch_first else torch.randn(5, 2, 3)
    states = torch.zeros(layer.num_layers * (1 + layer.bidirectional), 2, layer.proj_size or 4)
    cells = torch.zeros(len(states), 2, 4)
    given = pack_padded_sequence(values, torch.tensor([5, 3]), layer.batch_first) if packed else None
    tensors = [given.data, given.batch_sizes] if given else [values]
    weights = [*layer._flat_weights]
    tensors += [states, cells, *weights] if kind is nn.LSTM else [states, *weights]
    first = 1 + packed
    num_states = 2 if kind is nn.LSTM else 1
    hidden = [f"#{first + place}" for place in range(num_states)]
    params = [f"#{first + num_states + place}" for place in range(len(weights))]
    args: list[Any] = [*(["#0", "#1"] if packed else ["#0"]), hidden if kind is nn.LSTM else hidden[0], params]
    args += [layer.bias, layer.num_layers, 0.0, False, layer.bidirectional]
    args += [] if packed else [layer.batch_first]
    name = {nn.LSTM: "lstm", nn.GRU: "gru", nn.RNN: "rnn_tanh"}[kind]
    result = layer(given if packed else values)[0]
    return f"{name}.{'data' if packed else 'input'}", tensors, args, result.data if packed else result


LAYERS: list[tuple[type[nn.RNNBase], bool, dict[str, Any]]] = [
    (nn.LSTM, False, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    (nn.LSTM, False, {"num_layers": 2, "proj_size": 2, "bidirectional": True}),
    (nn.LSTM, True, {"num_layers": 2}),
    (nn.GRU, False, {"bias": False}),
    (nn.GRU, True, {"bidirectional": True, "batch_first": True}),
    (nn.RNN, False, {"num_layers": 3}),
    (nn.RNN, True, {}),
]


def run(call: tuple[str, list[Tensor], list[Any]]) -> Tensor:
    """Return the first result of an operation with several."""
    name, tensors, args = call
    operation = guarded(getattr(getattr(torch.ops.aten, name.split(".")[0]), name.split(".")[1]))

    def value(told: Any) -> Any:
        if isinstance(told, list):
            return [value(entry) for entry in told]
        return tensors[int(told[1:])] if isinstance(told, str) else told

    result: Tensor = operation(*value(args))[0]
    return result


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(("kind", "packed", "settings"), LAYERS)
def test_recurrent_layers_compute_as_ever(kind: type[nn.RNNBase], packed: bool, settings: dict[str, Any]) -> None:
    *call, expected = recurrent(kind, packed, **settings)
    assert torch.equal(run(call), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "packed", "settings"), LAYERS)
def test_a_recurrent_layer_of_shapes_that_don_t_fit_is_refused(
    kind: type[nn.RNNBase], packed: bool, settings: dict[str, Any]
) -> None:
    name, tensors, args, _ = recurrent(kind, packed, **settings)
    for place in range(len(tensors)):
        for change in (lambda t: t[:0], lambda t: t[..., :1], lambda t: t[None], lambda t: torch.cat([t, t])):
            changed = list(tensors)
            changed[place] = change(tensors[place])
            if changed[place].shape == tensors[place].shape:
                continue
            if place == 0 and not packed and changed[0].dim() == 3 and changed[0].shape[2] == 3:
                continue  # another number of steps, or of samples, which the states say
            with pytest.raises(ValueError, match=f"{name.split('.')[0]}.* can't be computed"):
                run((name, changed, args))


@pytest.mark.parametrize("sizes", [[], [0], [5], [2, 2, 2], [1, 2, 2], [3, 3, -1], [2, 2, 0, 1], [[2, 2, 1]]])
def test_batch_sizes_that_are_none_are_refused(sizes: list[Any]) -> None:
    name, tensors, args, _ = recurrent(nn.GRU, packed=True)
    tensors[0] = tensors[0][:5]
    tensors[1] = torch.tensor(sizes, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"gru\.data can't be computed"):
        run((name, tensors, args))


def test_shapes_and_pads_that_pytorch_does_not_check() -> None:
    rows, none = torch.rand(4), torch.rand(0, 4)
    with pytest.raises(ValueError, match="input and target must have one shape"):
        calling("binary_cross_entropy.default", [rows, none], "#0", "#1", None, 1)(rows, none)
    images = torch.ones(2, 3, 4)
    for name, more in (("_pad_circular.default", []), ("pad.default", ["circular"])):
        with pytest.raises(ValueError, match="circular padding can't be negative"):
            calling(name, [images], "#0", [4, -1], *more)(images)
    assert torch.equal(calling("pad.default", [images], "#0", [1, -1])(images), F.pad(images, [1, -1]))


def test_shared_heads_that_are_none_are_refused() -> None:
    query, none = torch.ones(2, 2, 5, 4), torch.ones(2, 0, 5, 4)
    for key, value in ((none, query), (query, none), (none, none)):
        module = calling("scaled_dot_product_attention.default", [query, key, value], "#0", "#1", "#2", enable_gqa=True)
        with pytest.raises(ValueError, match="must have a head to share"):
            module(query, key, value)
    one = query[:, :1]
    module = calling("scaled_dot_product_attention.default", [query, one, one], "#0", "#1", "#2", enable_gqa=True)
    assert torch.equal(module(query, one, one), F.scaled_dot_product_attention(query, one, one, enable_gqa=True))


class Guarded(nn.Module):
    """A model of operations that are guarded or whose constants are checked, as people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 4, batch_first=True, bidirectional=True)
        self.pool = nn.MaxPool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        theta = torch.eye(2, 3, device=images.device)[None].expand(images.shape[0], 2, 3)
        grid = F.affine_grid(theta, images.shape, False)
        x = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", antialias=True)
        x = self.pool(F.pad(F.interpolate(x, (6, 6), mode="bicubic"), (1, 1, 1, 1), "circular"))
        places = torch.arange(x.shape[2] * 2, device=x.device) // 2 % 3
        return self.lstm(x.flatten(1, 2).repeat(1, 1, 2))[0] + places[:1]


def test_a_guarded_model_is_saved_traced_trained_and_compiled_over() -> None:
    torch.manual_seed(0)
    model, images = Guarded().eval(), torch.randn(2, 1, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export, about the recurrent layer
        dims = {0: torch.export.Dim.AUTO}
        program = torch.export.export(model, (images,), dynamic_shapes=(dims,), strict=False)
        module = ExportedModule.from_program(program)
        again = ExportedModule.from_document(copy.deepcopy(module.to_document()), module.tensors())
        assert torch.equal(again(images), model(images))
        once_more = torch.export.export(again, (images,), dynamic_shapes=(dims,), strict=False)
    more = torch.randn(3, 1, 4, 4)
    assert torch.equal(once_more.module()(more), model(more))
    again(images).sum().backward()
    assert all(parameter.grad is not None for parameter in again.parameters())
    assert again.to_document() == module.to_document()


def test_a_window_that_is_computed_is_refused() -> None:
    nodes = [["sym_size.int", "^", 3], ["number.mul", "^", 2**40]]
    module = calling("avg_pool2d.default", [IMAGES], "#0", ["#2", "#2"], nodes=nodes)
    with pytest.raises(ValueError, match=r"avg_pool2d\.default can't be computed: kernel_size must be from 0 to"):
        module(IMAGES)
    module = calling("avg_pool2d.default", [IMAGES], "#0", ["#1", "#1"], nodes=nodes[:1])
    assert torch.equal(module(IMAGES), torch.ones(1, 1, 1, 1))


@pytest.mark.parametrize("nonlinearity", ["relu", "tanh"])
def test_weights_of_a_plain_recurrent_layer_that_do_not_fit_are_refused(nonlinearity: str) -> None:
    weights = list(nn.RNN(3, 4, nonlinearity=nonlinearity)._flat_weights)
    args = ["#0", "#1", ["#2", "#3", "#4", "#5"], True, 1, 0.0, False, False, False]
    for place in range(4):
        changed = list(weights)
        changed[place] = weights[place][:0]
        with pytest.raises(ValueError, match="can't be computed"):
            run((f"rnn_{nonlinearity}.input", [torch.randn(5, 2, 3), torch.zeros(1, 2, 4), *changed], args))
