"""Which operations multiply and add, how often, and which do not.

One MAC is one multiplication and one addition in a sum of products: matrix products, convolutions, recurrent layers
and attention have them. Everything else has none by this definition, even where it multiplies:
element-wise operations, reductions, softmax, norms, pooling, resampling, look-ups and moving data. An operation that
is in neither list is unknown, and whoever counts must say so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Product:
    """Multiply-adds of one operation; `weights` are the operands that may be a weight, the likeliest first."""

    macs: int
    weights: tuple[Tensor, ...] = ()


def products(operation: Any, arguments: Sequence[Any], keywords: dict[str, Any], output: Any) -> list[Product] | None:
    """Return the products an operation computed, an empty list if it has none, None if that is not known.

    An operation that is not known here may be in PyTorch's registry of FLOP formulas, to which
    `torch.utils.flop_counter.register_flop_formula` adds custom ones; its weights are not known then.

    Args:
        operation: the `torch._ops.OpOverload` that was called.
        arguments: its positional arguments.
        keywords: its keyword arguments.
        output: what it returned.
    """
    name = operation._schema.name
    if (formula := FORMULAS.get(name)) or name.startswith("aten::_scaled_dot_product_"):
        given = {**dict(zip((item.name for item in operation._schema.arguments), arguments, strict=False)), **keywords}
        in_order = [given.get(item.name) for item in operation._schema.arguments]
        return (formula or _attention)(in_order)
    if operation.overloadpacket in flop_registry:
        return [Product(flop_registry[operation.overloadpacket](*arguments, **keywords, out_val=output) // 2)]
    return [] if _is_free(operation, name) else None


def _is_free(operation: Any, name: str) -> bool:
    namespace, _, base = name.partition("::")
    if namespace not in ("aten", "prim", "prims"):
        return False
    plain = torch.Tag.pointwise in operation.tags or operation.is_view or base.endswith("_copy")
    return plain or base.rstrip("_") in FREE


def _matrices(first: int, second: int) -> Callable[[Sequence[Any]], list[Product]]:
    def count(arguments: Sequence[Any]) -> list[Product]:
        left, right = arguments[first], arguments[second]
        columns = right.shape[-1] if right.ndim > 1 else 1
        # In `x @ w.t()`, as a Linear computes it, the weight is on the right.
        return [Product(left.numel() * columns, (right, left))]

    return count


def _convolution(arguments: Sequence[Any]) -> list[Product]:
    source, weight, stride, padding, dilation = (arguments[i] for i in (0, 1, 3, 4, 5))
    sizes = source.shape[2:]
    if not arguments[6]:  # not transposed: a weight is used once for each position of the output
        kernel = weight.shape[2:]
        sizes = [
            (size + 2 * pad - spread * (taps - 1) - 1) // step + 1
            for size, pad, spread, taps, step in zip(sizes, padding, dilation, kernel, stride, strict=True)
        ]
    return [Product(source.shape[0] * math.prod(sizes) * weight.numel(), (weight,))]


def _attention(arguments: Sequence[Any]) -> list[Product]:
    query, key, value = arguments[:3]
    pairs = query.shape[:-1].numel() * key.shape[-2]
    return [Product(pairs * (query.shape[-1] + value.shape[-1]))]


def _recurrent(weights: Callable[[Sequence[Any]], Sequence[Tensor]]) -> Callable[[Sequence[Any]], list[Product]]:
    def count(arguments: Sequence[Any]) -> list[Product]:
        steps = arguments[0].shape[:-1].numel()  # time steps of all samples; packed sequences have no padding
        return [Product(steps * weight.numel(), (weight,)) for weight in weights(arguments) if weight.ndim == 2]

    return count


FORMULAS: dict[str, Callable[[Sequence[Any]], list[Product]]] = {
    **dict.fromkeys(("aten::mm", "aten::bmm", "aten::mv", "aten::dot", "aten::vdot"), _matrices(0, 1)),
    **dict.fromkeys(("aten::_int_mm", "aten::_scaled_mm"), _matrices(0, 1)),
    **dict.fromkeys(("aten::addmm", "aten::addmm_", "aten::_addmm_activation"), _matrices(1, 2)),
    **dict.fromkeys(("aten::baddbmm", "aten::baddbmm_", "aten::addbmm", "aten::addbmm_"), _matrices(1, 2)),
    **dict.fromkeys(("aten::addmv", "aten::addmv_"), _matrices(1, 2)),
    **dict.fromkeys(("aten::convolution", "aten::_convolution"), _convolution),
    "aten::mkldnn_rnn_layer": _recurrent(lambda arguments: arguments[1:3]),
    "aten::_cudnn_rnn": _recurrent(lambda arguments: arguments[1]),
    "aten::miopen_rnn": _recurrent(lambda arguments: arguments[1]),
}

# Without a trailing underscore. Views and operations that are tagged pointwise need no entry, but PyTorch does not tag
# the in-place forms.
_FREE_NAMES = {
    "element by element": """
        abs copysign eq floor_divide gcd ge gelu glu gt hardswish heaviside lcm le lt mish ne rsub threshold
        xlogy masked_fill complex polar log_sigmoid_forward _prelu_kernel _add_relu rrelu_with_noise
        rrelu_with_noise_functional fake_quantize_per_channel_affine_cachemask
        fake_quantize_per_tensor_affine_cachemask _fake_quantize_per_tensor_affine_cachemask_tensor_qparams
        quantize_per_tensor quantize_per_channel dequantize _thnn_fused_lstm_cell _thnn_fused_gru_cell
        _masked_scale
    """,
    "made from nothing, or at random": """
        empty empty_like empty_permuted empty_strided full full_like ones ones_like zeros zeros_like zero
        new_empty new_empty_strided new_full new_ones new_zeros scalar_tensor arange linspace logspace range
        eye tril_indices triu_indices bartlett_window blackman_window hamming_window hann_window
        kaiser_window fft_fftfreq fft_rfftfreq bernoulli binomial cauchy exponential geometric log_normal
        multinomial native_dropout _fused_dropout normal normal_functional poisson rand rand_like randint
        randint_like randn randn_like random randperm uniform
    """,
    "moved, copied, reshaped": """
        fill copy _to_copy _copy_from clone lift lift_fresh set resize resize_as _resize_output _pin_memory
        _lazy_clone _efficientzerotensor t transpose squeeze unsqueeze as_strided detach _unsafe_view
        _reshape_alias cat stack _stack _chunk_cat unsafe_split unsafe_split_with_sizes repeat
        repeat_interleave roll rot90 flip block_diag diag_embed tril triu constant_pad_nd reflection_pad1d
        reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
        pixel_shuffle pixel_unshuffle channel_shuffle im2col col2im as_strided_scatter diagonal_scatter
        select_scatter slice_scatter _pack_padded_sequence _cudnn_rnn_flatten_weight
    """,
    "looked up, sorted, searched": """
        index _unsafe_index _unsafe_masked_index _unsafe_masked_index_put_accumulate index_add index_copy
        index_fill index_put _index_put_impl _unsafe_index_put index_reduce index_select gather scatter
        scatter_add scatter_reduce take put masked_scatter masked_select nonzero nonzero_static embedding
        embedding_renorm _embedding_bag _embedding_bag_forward_only bucketize searchsorted isin bincount
        histc _unique _unique2 unique_dim unique_consecutive unique_dim_consecutive sort topk kthvalue mode
        median nanmedian argmax argmin max min amax amin aminmax _aminmax cummax cummin _cummax_helper
        _cummin_helper
    """,
    "reduced, normalised": """
        sum nansum mean prod cumsum cumprod logcumsumexp _logcumsumexp logsumexp std std_mean var var_mean
        norm linalg_vector_norm linalg__powsum dist all any count_nonzero trace renorm segment_reduce
        _softmax _log_softmax _safe_softmax _masked_softmax native_batch_norm _native_batch_norm_legit
        _native_batch_norm_legit_functional _native_batch_norm_legit_no_training _batch_norm_no_update
        _batch_norm_with_update _batch_norm_with_update_functional batch_norm_elemt batch_norm_stats
        batch_norm_update_stats cudnn_batch_norm miopen_batch_norm native_group_norm native_layer_norm
        native_norm _fused_rms_norm _weight_norm_interface binary_cross_entropy
        binary_cross_entropy_with_logits mse_loss nll_loss_forward nll_loss2d_forward smooth_l1_loss
        huber_loss soft_margin_loss multi_margin_loss multilabel_margin_loss_forward
    """,
    "pooled, resampled": """
        avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d
        adaptive_max_pool3d max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d
        fractional_max_pool2d fractional_max_pool3d mkldnn_adaptive_avg_pool2d mkldnn_max_pool2d
        mkldnn_max_pool3d upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
        upsample_nearest2d upsample_nearest3d upsample_trilinear3d _upsample_bicubic2d_aa
        _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
        _upsample_nearest_exact3d grid_sampler_2d grid_sampler_3d cudnn_grid_sampler
        _grid_sampler_2d_cpu_fallback
    """,
    "asked and asserted": """
        _local_scalar_dense item equal is_same_size is_set_to is_pinned allclose _is_all_true _is_any_true
        device _assert_async _assert_scalar _assert_tensor_metadata _functional_assert_async
        _functional_assert_scalar sym_constrain_range sym_constrain_range_for_size record_stream
        _fused_sdp_choice _print size sym_size stride sym_stride numel sym_numel storage_offset
        sym_storage_offset dim is_contiguous sym_is_contiguous
    """,
}
FREE = frozenset(name for group in _FREE_NAMES.values() for name in group.split())
