"""Which indices go together: tiny networks whose answer is written down by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from going import Going, coupled, going, why_kept
from prunus.graph import trace
from prunus.graph.coupling import couple
from prunus.graph.kept import keep

pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    """Layers by name, and a forward that uses them."""

    def __init__(self, forward: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.body = forward

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.body(self, *inputs)


def conv(inputs: int, outputs: int, kernel: int = 1, groups: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, groups=groups, bias=bias)


IMAGE = torch.zeros(1, 3, 4, 4)
ROWS = torch.zeros(1, 3)
SEQUENCE = torch.zeros(1, 5, 8)


def rows(*indices: int) -> dict[int, list[int]]:
    return {0: list(indices)}


def columns(*indices: int) -> dict[int, list[int]]:
    return {1: list(indices)}


def test_conv_norm_conv() -> None:
    model = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 2))
    found = coupled(model, IMAGE)
    expected: Going = {
        "0.weight": rows(2),
        "0.bias": rows(2),
        **{f"1.{name}": rows(2) for name in ("weight", "bias", "running_mean", "running_var")},
        "3.weight": columns(2),
    }
    assert going(found, "0.weight", 0, 2) == expected
    assert going(found, "3.weight", 1, 2) == expected


def test_inputs_and_outputs_of_the_model_stay() -> None:
    found = coupled(nn.Sequential(conv(3, 4), conv(4, 2)), IMAGE)
    assert going(found, "0.weight", 1, 0) == {}
    assert going(found, "1.weight", 0, 0) == {}
    assert why_kept(found, "1.weight", 0) == {"it is an output of the model"}
    assert why_kept(found, "0.weight", 1)
    assert not why_kept(found, "0.weight", 0)


def test_residual_add() -> None:
    model = Net(
        lambda net, x: net.head((y := net.stem(x)) + net.branch(y).relu()),
        stem=conv(3, 4),
        branch=conv(4, 4, bias=False),
        head=conv(4, 2),
    )
    assert going(coupled(model, IMAGE), "branch.weight", 0, 1) == {
        "stem.weight": rows(1),
        "stem.bias": rows(1),
        "branch.weight": {0: [1], 1: [1]},
        "head.weight": columns(1),
    }


def test_concat_offsets() -> None:
    model = Net(
        lambda net, x: net.head(torch.cat([net.a(x), net.b(x), net.c(x)], 1)),
        a=conv(3, 4),
        b=conv(3, 2, bias=False),
        c=conv(3, 5, bias=False),
        head=conv(11, 2),
    )
    found = coupled(model, IMAGE)
    assert going(found, "a.weight", 0, 3) == {"a.weight": rows(3), "a.bias": rows(3), "head.weight": columns(3)}
    assert going(found, "b.weight", 0, 1) == {"b.weight": rows(1), "head.weight": columns(5)}
    assert going(found, "c.weight", 0, 4) == {"c.weight": rows(4), "head.weight": columns(10)}


def test_split_and_swap() -> None:
    def swapped(net: Net, x: Tensor) -> Tensor:
        first, second = net.stem(x).split([2, 4], 1)
        return net.head(torch.cat([second, first], 1))

    model = Net(swapped, stem=conv(3, 6, bias=False), head=conv(6, 2))
    found = coupled(model, IMAGE)
    assert going(found, "stem.weight", 0, 0) == {"stem.weight": rows(0), "head.weight": columns(4)}
    assert going(found, "stem.weight", 0, 3) == {"stem.weight": rows(3), "head.weight": columns(1)}


def test_flatten_takes_a_column_for_each_pixel() -> None:
    model = nn.Sequential(conv(3, 4, bias=False), nn.Flatten(), nn.Linear(4 * 2 * 3, 2))
    found = coupled(model, torch.zeros(1, 3, 2, 3))
    assert going(found, "0.weight", 0, 1) == {"0.weight": rows(1), "2.weight": columns(*range(6, 12))}


def test_flatten_channels_last_takes_strided_columns() -> None:
    model = Net(
        lambda net, x: net.head(net.stem(x).permute(0, 2, 3, 1).flatten(1)),
        stem=conv(3, 4, bias=False),
        head=nn.Linear(16, 2),
    )
    found = coupled(model, torch.zeros(1, 3, 2, 2))
    assert going(found, "stem.weight", 0, 1) == {"stem.weight": rows(1), "head.weight": columns(1, 5, 9, 13)}


def test_depthwise_row_goes_with_its_channel() -> None:
    model = nn.Sequential(conv(3, 4, bias=False), conv(4, 4, groups=4), conv(4, 2))
    assert going(coupled(model, IMAGE), "0.weight", 0, 3) == {
        "0.weight": rows(3),
        "1.weight": rows(3),
        "1.bias": rows(3),
        "2.weight": columns(3),
    }


def test_depthwise_multiplier_rows_of_a_channel() -> None:
    model = nn.Sequential(conv(3, 4, bias=False), conv(4, 8, groups=4, bias=False), conv(8, 2))
    assert going(coupled(model, IMAGE), "0.weight", 0, 2) == {
        "0.weight": rows(2),
        "1.weight": rows(4, 5),
        "2.weight": columns(4, 5),
    }


def test_grouped_convolution_loses_the_same_from_each_group_or_a_whole_group() -> None:
    model = nn.Sequential(conv(3, 4, bias=False), conv(4, 6, groups=2, bias=False), conv(6, 2))
    found = going(coupled(model, IMAGE), "0.weight", 0, 1)
    same_place: Going = {"0.weight": rows(1, 3), "1.weight": columns(1)}
    whole_group: Going = {"0.weight": rows(0, 1), "1.weight": rows(0, 1, 2), "2.weight": columns(0, 1, 2)}
    assert found in (same_place, whole_group)


def test_groups_may_be_told_apart() -> None:
    model = nn.Sequential(conv(3, 4, bias=False), conv(4, 6, groups=2, bias=False), conv(6, 2))
    found = couple(trace(model, IMAGE), "counted")
    (grouping,) = found.groupings
    assert (grouping.weight, grouping.groups, grouping.transposed) == ("1.weight", 2, False)
    assert torch.equal(found.class_of[grouping.inputs], found.axis_classes(("0.weight", (0,))))
    assert torch.equal(found.class_of[grouping.outputs], found.axis_classes(("2.weight", (1,))))
    assert len(torch.unique(found.class_of[torch.cat([grouping.inputs, grouping.outputs])])) == 10
    gone = torch.zeros(found.num_classes, dtype=torch.bool)
    gone[found.class_of[grouping.inputs[[0, 3]]]] = True
    gone[found.class_of[grouping.outputs[[2, 3, 4]]]] = (
        True  # one of the first group, two of the second: one comes back
    )
    kept = keep(found, gone)
    assert kept.columns["1.weight"].tolist() == [[1], [1], [1], [0], [0], [0]]
    assert kept.indices["0.weight"][0].tolist() == [1, 2]
    assert kept.indices["1.weight"][0].tolist() == kept.indices["2.weight"][1].tolist() == [0, 1, 3, 5]
    weight = torch.arange(12.0).reshape(6, 2, 1, 1)
    assert kept.cut("1.weight", weight).flatten().tolist() == [1.0, 3.0, 6.0, 10.0]


def test_channel_shuffle() -> None:
    model = nn.Sequential(conv(3, 6, bias=False), nn.ChannelShuffle(2), conv(6, 2))
    found = coupled(model, IMAGE)
    places = [0, 3, 1, 4, 2, 5]  # what comes out first was first, then fourth, ...
    for place, channel in enumerate(places):
        assert going(found, "0.weight", 0, channel) == {"0.weight": rows(channel), "2.weight": columns(place)}


def test_shuffle_by_view_loses_what_leaves_a_grid() -> None:
    def shuffled(net: Net, x: Tensor) -> Tensor:
        x = net.stem(x)
        n, c, h, w = x.shape
        return net.head(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))

    model = Net(shuffled, stem=conv(3, 6, bias=False), head=conv(6, 2))
    assert going(coupled(model, IMAGE), "stem.weight", 0, 1) == {
        "stem.weight": rows(1, 4),
        "head.weight": columns(2, 3),
    }


def test_gated_halves() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.GLU(), nn.Linear(4, 2))
    assert going(coupled(model, ROWS), "0.weight", 0, 1) == {
        "0.weight": rows(1, 5),
        "0.bias": rows(1, 5),
        "2.weight": columns(1),
    }


def test_broadcast_gate() -> None:
    model = Net(
        lambda net, x: net.head((y := net.stem(x)) * net.up(net.down(y.mean((2, 3)))).sigmoid()[:, :, None, None]),
        stem=conv(3, 4, bias=False),
        down=nn.Linear(4, 2),
        up=nn.Linear(2, 4),
        head=conv(4, 2),
    )
    found = coupled(model, IMAGE)
    assert going(found, "stem.weight", 0, 3) == {
        "stem.weight": rows(3),
        "down.weight": columns(3),
        "up.weight": rows(3),
        "up.bias": rows(3),
        "head.weight": columns(3),
    }
    assert going(found, "down.weight", 0, 0) == {"down.weight": rows(0), "down.bias": rows(0), "up.weight": columns(0)}


def test_transposed_convolution_has_inputs_first() -> None:
    model = nn.Sequential(conv(3, 4, bias=False), nn.ConvTranspose2d(4, 5, 2), conv(5, 2))
    found = coupled(model, IMAGE)
    assert going(found, "0.weight", 0, 1) == {"0.weight": rows(1), "1.weight": rows(1)}
    assert going(found, "1.weight", 1, 4) == {"1.weight": columns(4), "1.bias": rows(4), "2.weight": columns(4)}


def test_layer_norm_keeps_what_it_normalises() -> None:
    found = coupled(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)), ROWS)
    assert going(found, "0.weight", 0, 1) == {}
    assert why_kept(found, "0.weight", 0) == {"layer_norm normalises over it"}


def test_group_norm_loses_whole_groups() -> None:
    model = nn.Sequential(conv(3, 6, bias=False), nn.GroupNorm(3, 6), conv(6, 2))
    assert going(coupled(model, IMAGE), "0.weight", 0, 3) == {
        "0.weight": rows(2, 3),
        "1.weight": rows(2, 3),
        "1.bias": rows(2, 3),
        "2.weight": columns(2, 3),
    }


def test_mean_over_channels_keeps_them() -> None:
    found = coupled(nn.Sequential(conv(3, 4), nn.Softmax(1), conv(4, 2)), IMAGE)
    assert going(found, "0.weight", 0, 1) == {}
    assert len(why_kept(found, "0.weight", 0)) == 1


def test_bare_parameters_and_transposes() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.scale, self.shift = (nn.Parameter(torch.zeros(*shape)) for shape in ((3, 4), (4,), (1, 4)))
            self.second = nn.Parameter(torch.zeros(2, 4))

        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.first * self.scale + self.shift).tanh() @ self.second.T

    assert going(coupled(Bare(), ROWS), "first", 1, 2) == {
        "first": columns(2),
        "scale": rows(2),
        "shift": columns(2),
        "second": columns(2),
    }


def test_a_shared_layer_is_coupled_with_all_that_it_serves() -> None:
    model = Net(
        lambda net, x: net.head(net.shared(net.shared(net.stem(x)).relu())),
        stem=nn.Linear(3, 4, bias=False),
        shared=nn.Linear(4, 4),
        head=nn.Linear(4, 2),
    )
    assert going(coupled(model, ROWS), "stem.weight", 0, 1) == {
        "stem.weight": rows(1),
        "shared.weight": {0: [1], 1: [1]},
        "shared.bias": rows(1),
        "head.weight": columns(1),
    }


def test_a_weight_used_again_transposed() -> None:
    model = Net(
        lambda net, x: F.linear(net.code(x).relu(), net.code.weight.T),
        code=nn.Linear(3, 4),
    )
    assert going(coupled(model, ROWS), "code.weight", 0, 1) == {"code.weight": rows(1), "code.bias": rows(1)}


def test_tied_embedding() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 4)
            self.hidden = nn.Linear(4, 4)
            self.out = nn.Linear(4, 7, bias=False)
            self.out.weight = self.table.weight

        def forward(self, ids: Tensor) -> Tensor:
            x = self.table(ids)
            return self.out(x + self.hidden(x))

    found = coupled(Tied(), torch.zeros(1, 5, dtype=torch.int64))
    lost = going(found, "hidden.weight", 0, 2)
    tied = next(name for name in lost if name in ("table.weight", "out.weight"))
    assert lost == {tied: columns(2), "hidden.weight": {0: [2], 1: [2]}, "hidden.bias": rows(2)}
    assert why_kept(found, tied, 0)  # the words: outputs of the model


def test_embedding_columns() -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 2))
    found = coupled(model, torch.zeros(1, 5, dtype=torch.int64))
    assert going(found, "0.weight", 1, 3) == {"0.weight": columns(3), "1.weight": columns(3)}


def attention(heads: int, kv_heads: int, size: int) -> Net:
    """Grouped-query attention on 8 numbers."""

    def forward(net: Net, x: Tensor) -> Tensor:
        def split(layer: nn.Module, count: int) -> Tensor:
            return layer(x).view(x.shape[0], x.shape[1], count, size).transpose(1, 2)

        k, v = (split(layer, kv_heads).repeat_interleave(heads // kv_heads, dim=1) for layer in (net.key, net.value))
        y = F.scaled_dot_product_attention(split(net.query, heads), k, v)
        return net.out(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], heads * size))

    return Net(
        forward,
        query=nn.Linear(8, heads * size, bias=False),
        key=nn.Linear(8, kv_heads * size, bias=False),
        value=nn.Linear(8, kv_heads * size),
        out=nn.Linear(heads * size, 8),
    )


def test_heads_go_whole() -> None:
    found = coupled(attention(4, 4, 2), SEQUENCE)
    assert going(found, "value.weight", 0, 5) == {
        "query.weight": rows(4, 5),
        "key.weight": rows(4, 5),
        "value.weight": rows(4, 5),
        "value.bias": rows(4, 5),
        "out.weight": columns(4, 5),
    }


def test_query_heads_go_with_the_keys_they_share() -> None:
    found = coupled(attention(4, 2, 2), SEQUENCE)
    assert going(found, "key.weight", 0, 3) == {
        "query.weight": rows(4, 5, 6, 7),
        "key.weight": rows(2, 3),
        "value.weight": rows(2, 3),
        "value.bias": rows(2, 3),
        "out.weight": columns(4, 5, 6, 7),
    }


def test_fused_queries_keys_and_values() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        qkv = net.qkv(x).reshape(x.shape[0], x.shape[1], 3, 4, 2).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return net.out(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], 8))

    model = Net(forward, qkv=nn.Linear(8, 24), out=nn.Linear(8, 8))
    assert going(coupled(model, SEQUENCE), "qkv.weight", 0, 2) == {
        "qkv.weight": rows(2, 3, 10, 11, 18, 19),
        "qkv.bias": rows(2, 3, 10, 11, 18, 19),
        "out.weight": columns(2, 3),
    }


def test_multihead_attention_module() -> None:
    model = Net(
        lambda net, x: net.attention(x, x, x, need_weights=False)[0],
        attention=nn.MultiheadAttention(8, 4, batch_first=True),
    )
    assert going(coupled(model, SEQUENCE), "attention.in_proj_weight", 0, 6) == {
        "attention.in_proj_weight": rows(6, 7, 14, 15, 22, 23),
        "attention.in_proj_bias": rows(6, 7, 14, 15, 22, 23),
        "attention.out_proj.weight": columns(6, 7),
    }


@pytest.mark.parametrize(("layer", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
def test_recurrent_unit_is_a_row_of_every_gate(layer: type[nn.LSTM | nn.GRU], gates: int) -> None:
    model = Net(
        lambda net, x: net.head(net.cell(x)[0][:, -1]), cell=layer(8, 3, batch_first=True), head=nn.Linear(3, 2)
    )
    of_gates = [gate * 3 + 1 for gate in range(gates)]
    assert going(coupled(model, torch.zeros(2, 4, 8)), "cell.weight_hh_l0", 1, 1) == {
        "cell.weight_ih_l0": rows(*of_gates),
        "cell.weight_hh_l0": {0: of_gates, 1: [1]},
        "cell.bias_ih_l0": rows(*of_gates),
        "cell.bias_hh_l0": rows(*of_gates),
        "head.weight": columns(1),
    }


def test_a_position_embedding_loses_its_column() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(8, 4, bias=False), nn.Linear(4, 2)
            self.position = nn.Parameter(torch.zeros(1, 6, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stem(x) + self.position[:, : x.shape[1]])

    assert going(coupled(Positions(), SEQUENCE), "stem.weight", 0, 3) == {
        "stem.weight": rows(3),
        "position": {2: [3]},
        "head.weight": columns(3),
    }


def test_zero_padded_channels_shift_indices() -> None:
    model = Net(
        lambda net, x: net.head(F.pad(net.small(x), (0, 0, 0, 0, 1, 2)) + net.large(x)),
        small=conv(3, 2, bias=False),
        large=conv(3, 5, bias=False),
        head=conv(5, 2),
    )
    found = coupled(model, IMAGE)
    assert going(found, "small.weight", 0, 1) == {
        "small.weight": rows(1),
        "large.weight": rows(2),
        "head.weight": columns(2),
    }
    assert going(found, "large.weight", 0, 0) == {"large.weight": rows(0), "head.weight": columns(0)}


def test_size_one_axes_keep_their_only_channel() -> None:
    found = coupled(nn.Sequential(conv(3, 1), conv(1, 2)), IMAGE)
    assert going(found, "0.weight", 0, 0) == {}


def test_meta_device_gives_the_same_classes() -> None:
    model = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), conv(4, 6, groups=2), nn.Flatten(), nn.Linear(96, 2))
    real = coupled(model, IMAGE)
    meta = coupled(model.to("meta"), IMAGE.to("meta"))
    assert torch.equal(real.class_of, meta.class_of)
    assert torch.equal(real.removable, meta.removable)
    assert going(real, "0.weight", 0, 1) == going(meta, "0.weight", 0, 1)
