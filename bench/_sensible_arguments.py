"""Arguments that operations take, for those whose schema alone says too little: what `_hostile_arguments` spoils."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Maker = Callable[..., Tensor]


def _recurrent(gates: int) -> Callable[[Maker], list[Any]]:
    def make(t: Maker) -> list[Any]:
        weights = [t(gates * 4, 3), t(gates * 4, 4), t(gates * 4), t(gates * 4)]
        return [t(5, 2, 3), t(1, 2, 4), weights, True, 1, 0.0, False, False, False]

    return make


def _packed(gates: int) -> Callable[[Maker], list[Any]]:
    def make(t: Maker) -> list[Any]:
        weights = [t(gates * 4, 3), t(gates * 4, 4), t(gates * 4), t(gates * 4)]
        return [t(5, 3), torch.tensor([2, 2, 1]), t(1, 2, 4), weights, True, 1, 0.0, False, False]

    return make


def _lstm(t: Maker) -> list[Any]:
    values = _recurrent(4)(t)
    return [values[0], [t(1, 2, 4), t(1, 2, 4)], *values[2:]]


def _packed_lstm(t: Maker) -> list[Any]:
    values = _packed(4)(t)
    return [*values[:2], [t(1, 2, 4), t(1, 2, 4)], *values[3:]]


def _indices(*values: int) -> Tensor:
    return torch.tensor(values)


_POOL2 = [2, 2], [2, 2], [0, 0]
_POOL3 = [2, 2, 2], [2, 2, 2], [0, 0, 0]
_NORM: Callable[[Maker], list[Any]] = lambda t: [t(2, 4, 3), t(4), t(4), t(4), t(4).abs(), False, 0.1, 1e-5, False]  # noqa: E731

# Operation -> sensible arguments by position, of a function that makes a tensor of a shape; for those that the schema
# alone says too little of.
SENSIBLE: dict[str, Callable[[Maker], list[Any]]] = {
    "conv1d.default": lambda t: [t(2, 4, 6), t(6, 2, 3), t(6), [1], [1], [1], 2],
    "conv2d.default": lambda t: [t(2, 4, 6, 6), t(6, 2, 3, 3), t(6), [1, 1], [1, 1], [1, 1], 2],
    "conv3d.default": lambda t: [t(1, 2, 4, 4, 4), t(4, 1, 2, 2, 2), t(4), [1] * 3, [1] * 3, [1] * 3, 2],
    "conv1d.padding": lambda t: [t(2, 4, 6), t(6, 2, 3), t(6), [1], "same", [1], 2],
    "conv2d.padding": lambda t: [t(2, 4, 6, 6), t(6, 2, 3, 3), t(6), [1, 1], "same", [1, 1], 2],
    "conv3d.padding": lambda t: [t(1, 2, 4, 4, 4), t(4, 1, 2, 2, 2), t(4), [1] * 3, "same", [1] * 3, 2],
    "conv_tbc.default": lambda t: [t(5, 2, 3), t(3, 3, 4), t(4), 1],
    "conv_transpose1d.default": lambda t: [t(2, 4, 6), t(4, 3, 3), t(6), [2], [1], [1], 2, [1]],
    "conv_transpose2d.input": lambda t: [t(2, 4, 5, 5), t(4, 3, 3, 3), t(6), [2, 2], [1, 1], [1, 1], 2, [1, 1]],
    "conv_transpose3d.input": lambda t: [
        t(1, 2, 3, 3, 3),
        t(2, 1, 2, 2, 2),
        t(2),
        [2] * 3,
        [0] * 3,
        [1] * 3,
        2,
        [1] * 3,
    ],
    "convolution.default": lambda t: [
        *(t(2, 4, 6, 6), t(6, 2, 3, 3), t(6), [1, 1], [1, 1], [1, 1], False, [0, 0], 2),
    ],
    "bilinear.default": lambda t: [t(2, 3), t(2, 4), t(5, 3, 4), t(5)],
    "gru.input": _recurrent(3),
    "rnn_relu.input": _recurrent(1),
    "rnn_tanh.input": _recurrent(1),
    "lstm.input": _lstm,
    "gru.data": _packed(3),
    "rnn_relu.data": _packed(1),
    "rnn_tanh.data": _packed(1),
    "lstm.data": _packed_lstm,
    "gru_cell.default": lambda t: [t(2, 3), t(2, 4), t(12, 3), t(12, 4), t(12), t(12)],
    "lstm_cell.default": lambda t: [t(2, 3), [t(2, 4), t(2, 4)], t(16, 3), t(16, 4), t(16), t(16)],
    "linear.default": lambda t: [t(2, 3), t(4, 3), t(4)],
    "scaled_dot_product_attention.default": lambda t: [
        t(2, 2, 5, 4),
        t(2, 2, 5, 4),
        t(2, 2, 5, 4),
        t(5, 5),
        0.0,
        False,
    ],
    "tensordot.default": lambda t: [t(2, 3, 4), t(3, 4, 5), [1, 2], [0, 1]],
    "einsum.default": lambda t: ["ij,jk->ik", [t(2, 3), t(3, 4)]],
    "batch_norm.default": _NORM,
    "instance_norm.default": lambda t: [t(2, 4, 3), t(4), t(4), t(4), t(4).abs(), True, 0.1, 1e-5, False],
    "group_norm.default": lambda t: [t(2, 4, 3), 2, t(4), t(4), 1e-5, False],
    "native_group_norm.default": lambda t: [t(2, 4, 3), t(4), t(4), 2, 4, 3, 2, 1e-5],
    "layer_norm.default": lambda t: [t(2, 4), [4], t(4), t(4), 1e-5, False],
    "native_layer_norm.default": lambda t: [t(2, 4), [4], t(4), t(4), 1e-5],
    "rms_norm.default": lambda t: [t(2, 4), [4], t(4), 1e-5],
    "embedding.default": lambda t: [t(7, 4), _indices(0, 3, 6), -1, False, False],
    "one_hot.default": lambda t: [_indices(0, 3, 6), 8],
    "renorm.default": lambda t: [t(2, 3, 4), 2, 1, 1.0],
    "glu.default": lambda t: [t(2, 4), 1],
    "prelu.default": lambda t: [t(2, 4, 3), t(4)],
    "_adaptive_avg_pool2d.default": lambda t: [t(2, 3, 6, 6), [3, 3]],
    "_adaptive_avg_pool3d.default": lambda t: [t(1, 2, 4, 4, 4), [2, 2, 2]],
    "adaptive_avg_pool1d.default": lambda t: [t(2, 3, 6), [3]],
    "adaptive_avg_pool2d.default": lambda t: [t(2, 3, 6, 6), [3, 3]],
    "adaptive_avg_pool3d.default": lambda t: [t(1, 2, 4, 4, 4), [2, 2, 2]],
    "adaptive_max_pool1d.default": lambda t: [t(2, 3, 6), [3]],
    "adaptive_max_pool2d.default": lambda t: [t(2, 3, 6, 6), [3, 3]],
    "adaptive_max_pool3d.default": lambda t: [t(1, 2, 4, 4, 4), [2, 2, 2]],
    "avg_pool1d.default": lambda t: [t(2, 3, 6), [2], [2], [0], False, True],
    "avg_pool2d.default": lambda t: [t(2, 3, 6, 6), *_POOL2, False, True, None],
    "avg_pool3d.default": lambda t: [t(1, 2, 4, 4, 4), *_POOL3, False, True, None],
    **{
        name: lambda t: [t(2, 3, 6), [2], [2], [0], [1], False]
        for name in ("max_pool1d.default", "max_pool1d_with_indices.default")
    },
    **{
        name: lambda t: [t(2, 3, 6, 6), *_POOL2, [1, 1], False]
        for name in ("max_pool2d.default", "max_pool2d_with_indices.default")
    },
    **{
        name: lambda t: [t(1, 2, 4, 4, 4), *_POOL3, [1, 1, 1], False]
        for name in ("max_pool3d.default", "max_pool3d_with_indices.default")
    },
    "max_unpool2d.default": lambda t: [t(1, 2, 2, 2), torch.arange(8).reshape(1, 2, 2, 2), [4, 4]],
    "max_unpool3d.default": lambda t: [
        *(t(1, 1, 2, 2, 2), torch.arange(8).reshape(1, 1, 2, 2, 2), [4, 4, 4], [2, 2, 2], [0, 0, 0]),
    ],
    "_upsample_bicubic2d_aa.default": lambda t: [t(1, 2, 4, 4), [7, 3], False, None, None],
    "_upsample_bilinear2d_aa.default": lambda t: [t(1, 2, 4, 4), [7, 3], False, None, None],
    "upsample_bicubic2d.default": lambda t: [t(1, 2, 4, 4), [7, 3], False, None, None],
    "upsample_bilinear2d.default": lambda t: [t(1, 2, 4, 4), [7, 3], False, None, None],
    "upsample_linear1d.default": lambda t: [t(1, 2, 4), [7], False, None],
    "upsample_trilinear3d.default": lambda t: [t(1, 2, 3, 3, 3), [5, 2, 3], False, None, None, None],
    **{
        name: lambda t: [t(1, 2, 4), [7], None]
        for name in ("upsample_nearest1d.default", "_upsample_nearest_exact1d.default")
    },
    **{
        name: lambda t: [t(1, 2, 4, 4), [7, 3], None, None]
        for name in ("upsample_nearest2d.default", "_upsample_nearest_exact2d.default")
    },
    **{
        name: lambda t: [t(1, 2, 3, 3, 3), [5, 2, 3], None, None, None]
        for name in ("upsample_nearest3d.default", "_upsample_nearest_exact3d.default")
    },
    **{
        name: lambda t: [t(1, 2, 4, 4), None, False, [1.5, 0.6]]
        for name in (
            *("_upsample_bicubic2d_aa.vec", "_upsample_bilinear2d_aa.vec", "upsample_bicubic2d.vec"),
            *("upsample_bilinear2d.vec",),
        )
    },
    "upsample_linear1d.vec": lambda t: [t(1, 2, 4), None, False, [1.5]],
    "upsample_trilinear3d.vec": lambda t: [t(1, 2, 3, 3, 3), None, False, [1.5, 0.7, 2.0]],
    **{
        name: lambda t: [t(1, 2, 4), None, [1.5]]
        for name in ("upsample_nearest1d.vec", "_upsample_nearest_exact1d.vec")
    },
    **{
        name: lambda t: [t(1, 2, 4, 4), None, [1.5, 0.6]]
        for name in ("upsample_nearest2d.vec", "_upsample_nearest_exact2d.vec")
    },
    **{
        name: lambda t: [t(1, 2, 3, 3, 3), None, [1.5, 0.7, 2.0]]
        for name in ("upsample_nearest3d.vec", "_upsample_nearest_exact3d.vec")
    },
    "affine_grid_generator.default": lambda t: [t(2, 2, 3), [2, 3, 4, 5], False],
    "channel_shuffle.default": lambda t: [t(2, 4, 3, 3), 2],
    "native_channel_shuffle.default": lambda t: [t(2, 4, 3, 3), 2],
    "col2im.default": lambda t: [t(2, 8, 9), [4, 4], [2, 2], [1, 1], [0, 0], [1, 1]],
    "im2col.default": lambda t: [t(2, 2, 4, 4), [2, 2], [1, 1], [0, 0], [1, 1]],
    "constant_pad_nd.default": lambda t: [t(2, 3, 4), [1, 1], 0.0],
    "_pad_circular.default": lambda t: [t(2, 3, 4), [1, 1]],
    "pad.default": lambda t: [t(2, 3, 4, 4), [1, 1, 1, 1], "reflect", None],
    "reflection_pad1d.default": lambda t: [t(2, 3, 4), [1, 1]],
    "reflection_pad2d.default": lambda t: [t(2, 3, 4, 4), [1, 1, 1, 1]],
    "reflection_pad3d.default": lambda t: [t(1, 2, 3, 3, 3), [1] * 6],
    "replication_pad1d.default": lambda t: [t(2, 3, 4), [1, 1]],
    "replication_pad2d.default": lambda t: [t(2, 3, 4, 4), [1, 1, 1, 1]],
    "replication_pad3d.default": lambda t: [t(1, 2, 3, 3, 3), [1] * 6],
    "grid_sampler.default": lambda t: [t(1, 2, 4, 4), t(1, 3, 3, 2), 0, 0, False],
    "grid_sampler_2d.default": lambda t: [t(1, 2, 4, 4), t(1, 3, 3, 2), 0, 0, False],
    "grid_sampler_3d.default": lambda t: [t(1, 2, 3, 3, 3), t(1, 2, 2, 2, 3), 0, 0, False],
    "pixel_shuffle.default": lambda t: [t(2, 8, 3, 3), 2],
    "pixel_unshuffle.default": lambda t: [t(2, 2, 4, 4), 2],
    "unfold.default": lambda t: [t(6, 3), 0, 2, 1],
    "cross.default": lambda t: [t(4, 3), t(4, 3), 1],
    "linalg_cross.default": lambda t: [t(4, 3), t(4, 3)],
    "isin.Tensor_Tensor": lambda t: [t(4, 3), t(5)],
    "bucketize.Tensor": lambda t: [t(4, 3), torch.arange(5.0)],
    "searchsorted.Tensor": lambda t: [torch.arange(5.0), t(4, 3), False, False, None, torch.arange(5)],
    "kthvalue.default": lambda t: [t(3, 4), 2],
    "topk.default": lambda t: [t(3, 4), 2],
    "quantile.default": lambda t: [t(3, 4), torch.rand(2), 1],
    "gather.default": lambda t: [t(3, 4), 1, torch.randint(4, (3, 2))],
    "take_along_dim.default": lambda t: [t(3, 4), torch.randint(4, (3, 2)), 1],
    "take.default": lambda t: [t(3, 4), _indices(0, 11, 5)],
    "index.Tensor": lambda t: [t(3, 4), [_indices(0, 2), _indices(1, 3)]],
    "index_put.default": lambda t: [t(3, 4), [_indices(0, 2), _indices(1, 3)], t(2), True],
    "index_put_.default": lambda t: [t(3, 4), [_indices(0, 2), _indices(1, 3)], t(2), True],
    "index_select.default": lambda t: [t(3, 4), 0, _indices(0, 2)],
    "index_add.default": lambda t: [t(3, 4), 0, _indices(0, 2), t(2, 4)],
    "index_add_.default": lambda t: [t(3, 4), 0, _indices(0, 2), t(2, 4)],
    "index_copy.default": lambda t: [t(3, 4), 0, _indices(0, 2), t(2, 4)],
    "index_fill.int_Scalar": lambda t: [t(3, 4), 0, _indices(0, 2), 1.0],
    "index_fill.int_Tensor": lambda t: [t(3, 4), 0, _indices(0, 2), t()],
    "masked_scatter.default": lambda t: [t(3, 4), torch.eye(3, 4) > 0, t(12)],
    **{
        name: lambda t: [t(3, 4), 1, torch.randint(4, (3, 2)), t(3, 2)]
        for name in ("scatter.src", "scatter_.src", "scatter_add.default", "scatter_add_.default")
    },
    **{name: lambda t: [t(3, 4), 1, torch.randint(4, (3, 2)), 2.0] for name in ("scatter.value", "scatter_.value")},
    **{
        name: lambda t: [t(3, 4), 1, torch.randint(4, (3, 2)), t(3, 2), "add"]
        for name in ("scatter.reduce", "scatter_.reduce")
    },
    **{
        name: lambda t: [t(3, 4), 1, torch.randint(4, (3, 2)), 2.0, "add"]
        for name in ("scatter.value_reduce", "scatter_.value_reduce")
    },
    "scatter_reduce.two": lambda t: [t(3, 4), 1, torch.randint(4, (3, 2)), t(3, 2), "amax", False],
    "repeat_interleave.Tensor": lambda t: [_indices(1, 0, 3)],
    "repeat_interleave.self_Tensor": lambda t: [t(3, 4), _indices(1, 0, 3), 0],
    "slice_scatter.default": lambda t: [t(6, 3), t(2, 3), 0, 1, 5, 2],
    "select_scatter.default": lambda t: [t(6, 3), t(3), 0, 1],
    "diagonal_scatter.default": lambda t: [t(4, 4), t(4)],
    "slice_inverse.default": lambda t: [t(2, 3), t(6, 3), 0, 0, 2, 1],
    "unflatten.int": lambda t: [t(2, 12), 1, [3, 4]],
    "view.default": lambda t: [t(2, 12), [2, 3, 4]],
    "reshape.default": lambda t: [t(2, 12), [2, 3, -1]],
    "_unsafe_view.default": lambda t: [t(2, 12), [2, 3, 4]],
    "narrow.default": lambda t: [t(6, 3), 0, 1, 3],
    "narrow.Tensor": lambda t: [t(6, 3), 0, torch.tensor(1), 3],
    "split.sizes": lambda t: [t(6, 3), [2, 4]],
    "split_with_sizes.default": lambda t: [t(6, 3), [2, 4]],
    "unsafe_split_with_sizes.default": lambda t: [t(6, 3), [2, 4]],
    "multinomial.default": lambda t: [t(3, 4).abs(), 2, True],
    "bernoulli.Tensor": lambda t: [t(3, 4), torch.rand(3, 4)],
    "bernoulli.default": lambda t: [torch.rand(3, 4)],
    "istft.default": lambda t: [torch.complex(t(5, 6), t(5, 6)), 8, 2, 8, torch.ones(8), True, False],
    "stft.default": lambda t: [t(2, 40), 8, 2, 8, torch.ones(8), False, True, True],
    "stft.center": lambda t: [t(2, 40), 8, 2, 8, torch.ones(8), True, "reflect", False, True, True],
    "cross_entropy_loss.default": lambda t: [t(3, 4), _indices(0, 3, 2), t(4).abs(), 1, -100, 0.1],
    "nll_loss.default": lambda t: [t(3, 4), _indices(0, 3, 2), t(4).abs(), 1, -100],
    "nll_loss_nd.default": lambda t: [t(3, 4), _indices(0, 3, 2), t(4).abs(), 1, -100],
    "nll_loss2d.default": lambda t: [t(2, 4, 3, 3), torch.randint(4, (2, 3, 3)), t(4).abs(), 1, -100],
    "binary_cross_entropy.default": lambda t: [torch.rand(3, 4), torch.rand(3, 4), None, 1],
    "cosine_embedding_loss.default": lambda t: [t(3, 4), t(3, 4), torch.tensor([1, -1, 1]), 0.0, 1],
    "margin_ranking_loss.default": lambda t: [t(3), t(3), torch.tensor([1, -1, 1]), 0.0, 1],
    "triplet_margin_loss.default": lambda t: [t(3, 4), t(3, 4), t(3, 4), 1.0, 2.0, 1e-6, False, 1],
    "cdist.default": lambda t: [t(3, 4), t(5, 4), 2.0, None],
    "linalg_multi_dot.default": lambda t: [[t(2, 3), t(3, 4), t(4, 5)]],
    "chain_matmul.default": lambda t: [[t(2, 3), t(3, 4), t(4, 5)]],
    "linalg_matrix_norm.default": lambda t: [t(3, 4), 2, [-2, -1], False],
    "tril_indices.default": lambda t: [3, 4, 0],
    "triu_indices.default": lambda t: [3, 4, 0],
    "view_as_complex.default": lambda t: [t(3, 2)],
    "polar.default": lambda t: [t(3), t(3)],
    "complex.default": lambda t: [t(3), t(3)],
    "vander.default": lambda t: [t(3), 4],
    "_softmax.default": lambda t: [t(3, 4), 1, False],
    "_log_softmax.default": lambda t: [t(3, 4), 1, False],
    "trapezoid.x": lambda t: [t(3, 4), torch.arange(4.0), 1],
    "tensor_split.tensor_indices_or_sections": lambda t: [t(6, 3), _indices(1, 4), 0],
    "pad_sequence.default": lambda t: [[t(3, 2), t(5, 2)], True, 0.0],
    "movedim.intlist": lambda t: [t(2, 3, 4), [0, 1], [1, 0]],
    "moveaxis.intlist": lambda t: [t(2, 3, 4), [0, 1], [1, 0]],
    "permute.default": lambda t: [t(2, 3, 4), [2, 0, 1]],
    "roll.default": lambda t: [t(2, 3, 4), [1, 1], [0, 1]],
    "addbmm.default": lambda t: [t(3, 5), t(2, 3, 4), t(2, 4, 5)],
    "addmm.default": lambda t: [t(3, 5), t(3, 4), t(4, 5)],
    "addmv.default": lambda t: [t(3), t(3, 4), t(4)],
    "baddbmm.default": lambda t: [t(2, 3, 5), t(2, 3, 4), t(2, 4, 5)],
    "logspace.default": lambda t: [0.0, 1.0, 5],
    "linspace.default": lambda t: [0.0, 1.0, 5],
    "arange.start_step": lambda t: [0, 10, 2],
}
