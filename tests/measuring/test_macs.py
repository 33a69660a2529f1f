from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.flop_counter import FlopCounterMode

from prunus.graph.exported import operations
from prunus.graph.macs import formula_of
from prunus.graph.operations import OPERATIONS
from prunus.lab import models
from prunus.measuring.macs import count_macs, num_nonzero


def by_layer(model: nn.Module, *inputs: Tensor) -> dict[str, tuple[int, int] | None]:
    return count_macs(model, inputs).layers


def torch_macs(model: nn.Module, *inputs: Tensor) -> int:
    """PyTorch's own FLOP counter, which takes 2 FLOPs for a multiply-add; grad mode keeps attention unfused."""
    with FlopCounterMode(display=False) as counter:
        model.eval()(*inputs)
    return counter.get_total_flops() // 2


def test_lenet_by_hand():
    found = count_macs(models.create("lenet"), (torch.zeros(1, 1, 28, 28),))
    assert found.layers == {
        "conv1.weight": (24 * 24 * 20 * 25,) * 2,
        "conv2.weight": (8 * 8 * 50 * 500,) * 2,
        "conv4.weight": (166 * 800,) * 2,
        "fc.weight": (1660,) * 2,
    }
    assert found.total == found.nonzero == 288_000 + 1_600_000 + 132_800 + 1_660
    assert found.uncounted == ()


def test_resnet20_has_the_published_count():
    # 40.55 M for CIFAR-sized images; convolutions and the last layer only, with shortcuts that have no weights
    found = count_macs(models.create("resnet20"), (torch.zeros(1, 3, 32, 32),))
    assert found.total == 40_551_040
    assert found.total == torch_macs(models.create("resnet20"), torch.zeros(1, 3, 32, 32))
    assert found.uncounted == ()


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    dims, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    names = ("Conv1d", "Conv2d", "Conv3d"), ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
    kind = getattr(nn, names[draw(st.booleans())][dims - 1])
    into, out = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel = tuple(draw(st.lists(st.integers(1, 3), min_size=dims, max_size=dims)))
    stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    layer = kind(into, out, kernel, stride=stride, dilation=dilation, groups=groups, bias=draw(st.booleans()))
    sizes = draw(st.lists(st.integers(6, 9), min_size=dims, max_size=dims))
    with torch.no_grad():
        layer.weight *= torch.rand(layer.weight.shape) > 0.4
    return layer, torch.ones(1, into, *sizes)


@settings(deadline=None, max_examples=40)
@given(convolutions())
def test_convolutions_against_a_convolution_of_ones(case: tuple[nn.Module, Tensor]):
    """Over an input of ones, a kernel of ones sums one for each multiply-add; a 0/1 kernel each nonzero one."""
    layer, ones = case
    found = by_layer(layer, ones)["weight"]
    nonzero = (layer.weight != 0).float()
    layer.bias = None
    sums = []
    for kernel in (torch.ones_like(nonzero), nonzero):
        layer.weight.data = kernel
        sums.append(round(layer(ones).double().sum().item()))
    assert found == tuple(sums)


def test_padding_counts_as_any_position():
    assert by_layer(nn.Conv2d(1, 1, 3, padding=1), torch.zeros(1, 1, 5, 5)) == {"weight": (25 * 9, 25 * 9)}


def test_strides_and_padding_against_torch():
    layer = nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=(1, 2), dilation=(1, 2), groups=2)
    image = torch.zeros(1, 4, 11, 13)
    assert by_layer(layer, image)["weight"] == (torch_macs(layer, image),) * 2


def test_attention_against_torch_and_by_hand():
    length, width = 5, 8
    layer = nn.MultiheadAttention(width, 2, batch_first=True)
    tokens = torch.randn(1, length, width)
    found = count_macs(layer, (tokens, tokens, tokens))
    assert found.layers == {
        "in_proj_weight": (3 * length * width * width,) * 2,
        "out_proj.weight": (length * width * width,) * 2,
    }
    scores = 2 * length * length * width
    assert found.total == 4 * length * width * width + scores == torch_macs(layer, tokens, tokens, tokens)


def test_attention_with_zero_weights_keeps_its_scores():
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    nn.init.zeros_(layer.in_proj_weight[:8])  # the queries' third
    found = count_macs(layer, (torch.randn(1, 5, 8),) * 3)
    assert found.layers["in_proj_weight"] == (3 * 5 * 64, 2 * 5 * 64)
    assert found.total - found.nonzero == 5 * 64


def test_attention_of_different_widths():
    layer = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)
    found = by_layer(layer, torch.randn(1, 3, 8), torch.randn(1, 7, 6), torch.randn(1, 7, 4))
    assert found["q_proj_weight"] == (3 * 64,) * 2
    assert found["k_proj_weight"] == (7 * 48,) * 2
    assert found["v_proj_weight"] == (7 * 32,) * 2


def test_scaled_dot_product_attention_by_hand():
    class Attention(nn.Module):
        def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(query, key, value)

    query, key, value = torch.randn(1, 2, 5, 8), torch.randn(1, 2, 7, 8), torch.randn(1, 2, 7, 8)
    assert count_macs(Attention(), (query, key, value)).total == 2 * 5 * 7 * (8 + 8)


@pytest.mark.parametrize("layers", [1, 2])
def test_transformer_against_torch(layers: int):
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), layers)
    found = count_macs(model, (torch.randn(1, 3, 8),))
    # queries, keys, values, output: 4 * 64 a token; the two of the feed-forward: 2 * 128; scores: 2 * 3 * 8
    assert found.total == layers * 3 * (4 * 64 + 2 * 128 + 2 * 3 * 8)
    assert found.uncounted == ()


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_layers_by_hand(kind: type[nn.RNNBase], gates: int, bidirectional: bool):
    steps, width, hidden = 6, 5, 7
    model = kind(width, hidden, num_layers=2, batch_first=True, bidirectional=bidirectional)
    found = count_macs(model, (torch.randn(1, steps, width),))
    below = hidden * (2 if bidirectional else 1)
    for name, counted in found.layers.items():
        source = hidden if "hh" in name else width if "l0" in name else below
        assert counted == (steps * gates * hidden * source,) * 2, name
    assert found.total == sum(counted[0] for counted in found.layers.values())
    assert found.uncounted == ()


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # PyTorch tells that oneDNN has none
def test_lstm_with_projection_and_zeros():
    model = nn.LSTM(4, 6, proj_size=3, batch_first=True)
    nn.init.zeros_(model.weight_hr_l0)
    found = by_layer(model, torch.randn(1, 5, 4))
    assert found == {
        "weight_ih_l0": (5 * 24 * 4,) * 2,
        "weight_hh_l0": (5 * 24 * 3,) * 2,
        "weight_hr_l0": (5 * 3 * 6, 0),
    }


def test_cells_and_inference_mode_are_seen_as_well():
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(4, 5)
            self.gru = nn.GRU(5, 2, batch_first=True)

        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            state = self.cell(x[:, 0])
            outputs = [state := self.cell(x[:, i], state) for i in range(1, x.shape[1])]
            return self.gru(torch.stack([h for h, _ in outputs], 1))[0]

    found = count_macs(Loop(), (torch.randn(1, 3, 4),))
    assert found.layers == {
        "cell.weight_ih": (3 * 20 * 4,) * 2,
        "cell.weight_hh": (3 * 20 * 5,) * 2,
        "gru.weight_ih_l0": (2 * 6 * 5,) * 2,
        "gru.weight_hh_l0": (2 * 6 * 2,) * 2,
    }


class Bare(nn.Module):
    """Weights used as plain tensors, in every spelling of a product."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("right", "left", "einsum", "bmm", "functional", "chunked", "cast"):
            self.register_parameter(name, nn.Parameter(torch.randn(4, 4)))

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.right
        x = (self.left @ x.t()).t()
        x = torch.einsum("bi,oi->bo", x, self.einsum)
        x = torch.bmm(x[None], self.bmm[None])[0]
        x = F.linear(x, self.functional)
        x = torch.cat([x @ part.t() for part in self.chunked.chunk(2)], 1)
        return (x.double() @ self.cast.double()).float()


def test_bare_parameters_are_attributed():
    model = Bare()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[0, 0] = 0
    found = count_macs(model, (torch.randn(3, 4),))
    assert found.layers == dict.fromkeys(dict(model.named_parameters()), (3 * 16, 3 * 15))
    assert (found.total, found.nonzero) == (7 * 48, 7 * 45)


def test_weights_made_from_parameters_are_attributed():
    layer = nn.Linear(8, 4)
    prune.l1_unstructured(layer, "weight", 0.25)
    assert by_layer(layer, torch.randn(1, 8)) == {"weight_orig": (32, 24)}
    normed = by_layer(parametrizations.weight_norm(nn.Linear(8, 4)), torch.randn(1, 8))
    assert normed == {"parametrizations.weight.original0": (0, 0), "parametrizations.weight.original1": (32, 32)}


def test_products_of_learned_activations_are_not_attributed():
    class Queries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries = nn.Parameter(torch.randn(3, 4))
            self.project = nn.Linear(4, 4, bias=False)

        def forward(self, keys: Tensor) -> Tensor:
            return self.project(self.queries) @ keys[0].t()

    found = count_macs(Queries(), (torch.randn(1, 5, 4),))
    assert found.layers == {"queries": (0, 0), "project.weight": (3 * 16,) * 2}
    assert found.total == 3 * 16 + 3 * 4 * 5


def test_tied_weights_count_under_the_first_name_each_time_they_are_used():
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    assert by_layer(nn.Sequential(first, second), torch.randn(1, 4)) == {"0.weight": (32, 32)}
    second.weight = nn.Parameter(first.weight.data)  # another object over the same memory
    assert by_layer(nn.Sequential(first, second), torch.randn(1, 4)) == {"0.weight": (32, 32)}


def test_weights_that_lie_in_one_storage_are_told_apart():
    # as cuDNN's recurrent layers keep them
    flat = torch.randn(4 * 3 + 2 * 4)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))
    model[0].weight = nn.Parameter(flat[8:].view(4, 3))
    model[1].weight = nn.Parameter(flat[:8].view(2, 4))
    assert by_layer(model, torch.randn(1, 3)) == {"0.weight": (12, 12), "1.weight": (8, 8)}


def test_lookups_and_unused_parameters_have_none():
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.unused = nn.Embedding(10, 4), nn.Linear(3, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.words(tokens).sum(1)

    found = count_macs(Words(), (torch.tensor([[1, 2]]),))
    assert found.layers == {"words.weight": (0, 0), "unused.weight": (0, 0)}
    assert found.uncounted == ()


def test_the_usual_layers_leave_nothing_uncounted():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.PReLU(),
        nn.MaxPool2d(2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.GroupNorm(2, 8),
        nn.InstanceNorm2d(8),
        nn.Dropout(),
        nn.Hardswish(inplace=True),
        nn.ELU(inplace=True),
        nn.PixelShuffle(2),
        nn.ReflectionPad2d(1),
        nn.AdaptiveAvgPool2d(4),
        nn.GLU(2),
        nn.Flatten(),
        nn.LayerNorm(16),
        nn.RMSNorm(16),
        nn.GELU(),
        nn.Linear(16, 4),
        nn.LogSoftmax(1),
    )
    found = count_macs(model, (torch.randn(1, 3, 12, 12),))
    assert found.uncounted == ()
    assert set(found.layers) == {"0.weight", "18.weight"}
    assert found.total == 100 * 8 * 27 + 64


def test_what_is_unknown_is_listed_and_its_parameters_have_no_count():
    found = count_macs(nn.Bilinear(3, 4, 5), (torch.randn(1, 3), torch.randn(1, 4)))
    assert found.uncounted == ("aten::_trilinear",)
    assert found.layers == {"weight": None}


def test_a_custom_operation_is_listed_until_it_has_a_formula():
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    @torch.library.custom_op("prunus_test::multiply", mutates_args=())
    def multiply(x: Tensor, w: Tensor) -> Tensor:
        return x @ w

    class Custom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 6))

        def forward(self, x: Tensor) -> Tensor:
            return multiply(x, self.w)

    found = count_macs(Custom(), (torch.randn(1, 4),))
    assert (found.total, found.layers, found.uncounted) == (0, {"w": None}, ("prunus_test::multiply",))
    packet = torch.ops.prunus_test.multiply
    register_flop_formula(packet)(lambda x, w, out_shape=None, **_: 2 * x[0] * x[1] * w[1])
    try:
        assert count_macs(Custom(), (torch.randn(1, 4),)).total == 24
    finally:
        del flop_registry[packet]


def test_a_program_inside_an_operation_is_listed():
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, lambda y: self.fc(y), lambda y: self.fc(y) + 1, (x,))

    found = count_macs(Branch(), (torch.randn(1, 4),))
    assert found.uncounted == ("cond",)
    assert found.layers == {"fc.weight": None}


def test_compiled_scripted_and_wrapped_models_count_the_same():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 3)).eval()
    image = torch.randn(1, 1, 5, 5)
    plain = count_macs(model, (image,))
    assert count_macs(torch.compile(model, backend="eager"), (image,)) == plain
    assert count_macs(nn.DataParallel(model), (image,)) == plain
    model[3] = torch.compile(model[3], backend="eager")
    with torch.no_grad():
        model(image)
    assert count_macs(model, (image,)).total == plain.total


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype: torch.dtype):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 3)).to(dtype)
    found = by_layer(model, torch.ones(1, 1, 5, 5, dtype=dtype))
    assert found == {"0.weight": (9 * 18,) * 2, "2.weight": (54, 54)}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.int8, torch.complex64])
def test_nonzero_in_any_dtype(dtype: torch.dtype):
    assert num_nonzero(torch.tensor([0.0, 1.0, -2.0, -0.0]).to(dtype)) == 2


def test_what_is_counted_has_a_formula_unless_it_is_made_of_what_has_one():
    for row in (row for row in OPERATIONS.values() if row.macs == "counted"):
        overloads = [operations.overload(name) for name in row.files] or [getattr(torch.ops.aten, row.name).default]
        composite = all(overload is not None and overload._can_decompose() for overload in overloads)
        assert formula_of(row) or composite, row.name
    assert not any(formula_of(row) for row in OPERATIONS.values() if row.macs != "counted")


def test_lazy_meta_and_sparse_parameters_are_refused():
    with pytest.raises(ValueError, match="'weight' is not initialised yet"):
        count_macs(nn.LazyLinear(3), (torch.ones(1, 2),))
    with pytest.raises(ValueError, match="'weight' is on the meta device"):
        count_macs(nn.Linear(2, 3, device="meta"), (torch.ones(1, 2),))
    sparse = nn.Linear(2, 3, bias=False)
    sparse.weight = nn.Parameter(torch.eye(3, 2).to_sparse(), requires_grad=False)
    with pytest.raises(ValueError, match=r"layout torch.sparse_coo; expected a dense tensor"):
        count_macs(sparse, (torch.ones(1, 2),))
