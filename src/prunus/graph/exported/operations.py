"""What the graph in a file may call: these operations and no others.

Each is a function of its arguments alone (those with a trailing underscore, and the statistics of norms, write into
a tensor of the graph) and reaches nothing outside: no files, no memory that is not initialised, no views past a
tensor's end. What a file names is looked up here before it is looked up anywhere else. Some do so only with the
constants that `limits` lets through where a document is read, and the shapes and values that `guards` lets through when
they run; `bench/hostile_operations.py` tries them all, so an operation that is added here is tried there.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import torch

# Overloads of torch.ops.aten, as ``name.overload``.
ATEN = frozenset(
    (  # noqa: SIM905 - one string a theme reads better than seven hundred
        # matrix products, convolutions, recurrent layers
        """
        addbmm.default addmm.default addmm.dtype addmv.default baddbmm.default baddbmm.dtype bilinear.default
        bmm.default bmm.dtype cdist.default chain_matmul.default conv1d.default conv1d.padding conv2d.default
        conv2d.padding conv3d.default conv3d.padding conv_tbc.default conv_transpose1d.default
        conv_transpose2d.input conv_transpose3d.input convolution.default dot.default einsum.default gru.data
        gru.input gru_cell.default inner.default kron.default linalg_matmul.default linalg_multi_dot.default
        linalg_vecdot.default linear.default lstm.data lstm.input lstm_cell.default matmul.default mm.default
        mm.dtype mv.default outer.default rnn_relu.data rnn_relu.input rnn_tanh.data rnn_tanh.input
        scaled_dot_product_attention.default tensordot.default vdot.default
        """
        # what makes a matrix orthogonal
        """
        linalg_householder_product.default linalg_solve.default matrix_exp.default
        """
        # norms, dropout, embeddings
        """
        alpha_dropout.default alpha_dropout_.default batch_norm.default cosine_similarity.default dropout.default
        dropout_.default embedding.default feature_alpha_dropout.default feature_dropout.default
        feature_dropout_.default frobenius_norm.dim group_norm.default instance_norm.default layer_norm.default
        linalg_matrix_norm.default linalg_matrix_norm.str_ord linalg_norm.default linalg_norm.ord_str
        linalg_vector_norm.default native_dropout.default native_group_norm.default native_layer_norm.default
        norm.Scalar norm.ScalarOpt_dim norm.ScalarOpt_dim_dtype norm.ScalarOpt_dtype one_hot.default
        pairwise_distance.default renorm.default rms_norm.default
        """
        # activations
        """
        _log_softmax.default _softmax.default celu.default celu_.default elu.default elu_.default gelu.default
        gelu_.default glu.default hardshrink.default hardsigmoid.default hardsigmoid_.default hardswish.default
        hardswish_.default hardtanh.default hardtanh_.default leaky_relu.default leaky_relu_.default
        log_sigmoid.default log_softmax.int logit.default mish.default mish_.default prelu.default relu.default
        relu6.default relu6_.default relu_.default rrelu.default selu.default selu_.default sigmoid.default
        sigmoid_.default silu.default silu_.default softmax.int softplus.default softshrink.default tanh.default
        tanh_.default threshold.default threshold_.default
        """
        # pooling, resampling, padding
        """
        _adaptive_avg_pool2d.default _adaptive_avg_pool3d.default _pad_circular.default
        _upsample_bicubic2d_aa.default _upsample_bicubic2d_aa.vec _upsample_bilinear2d_aa.default
        _upsample_bilinear2d_aa.vec _upsample_nearest_exact1d.default _upsample_nearest_exact1d.vec
        _upsample_nearest_exact2d.default _upsample_nearest_exact2d.vec _upsample_nearest_exact3d.default
        _upsample_nearest_exact3d.vec adaptive_avg_pool1d.default adaptive_avg_pool2d.default
        adaptive_avg_pool3d.default adaptive_max_pool1d.default adaptive_max_pool2d.default
        adaptive_max_pool3d.default affine_grid_generator.default avg_pool1d.default avg_pool2d.default
        avg_pool3d.default channel_shuffle.default col2im.default constant_pad_nd.default grid_sampler.default
        grid_sampler_2d.default grid_sampler_3d.default im2col.default max_pool1d.default
        max_pool1d_with_indices.default max_pool2d.default max_pool2d_with_indices.default max_pool3d.default
        max_pool3d_with_indices.default max_unpool2d.default max_unpool3d.default native_channel_shuffle.default
        pad.default pixel_shuffle.default pixel_unshuffle.default reflection_pad1d.default reflection_pad2d.default
        reflection_pad3d.default replication_pad1d.default replication_pad2d.default replication_pad3d.default
        unfold.default upsample_bicubic2d.default upsample_bicubic2d.vec upsample_bilinear2d.default
        upsample_bilinear2d.vec upsample_linear1d.default upsample_linear1d.vec upsample_nearest1d.default
        upsample_nearest1d.vec upsample_nearest2d.default upsample_nearest2d.vec upsample_nearest3d.default
        upsample_nearest3d.vec upsample_trilinear3d.default upsample_trilinear3d.vec
        """
        # arithmetic
        """
        abs.default abs_.default absolute.default acos.default acosh.default add.Scalar add.Tensor add_.Scalar
        add_.Tensor addcdiv.default addcdiv_.default addcmul.default addcmul_.default angle.default arctan2.default
        asin.default asinh.default atan.default atan2.default atanh.default ceil.default ceil_.default clamp.default
        clamp.Tensor clamp_.default clamp_.Tensor clamp_max.default clamp_max.Tensor clamp_max_.default
        clamp_max_.Tensor clamp_min.default clamp_min.Tensor clamp_min_.default clamp_min_.Tensor clip.default
        clip.Tensor clip_.default clip_.Tensor copysign.Scalar copysign.Tensor cos.default cos_.default cosh.default
        cross.default deg2rad.default digamma.default div.Scalar div.Scalar_mode div.Tensor div.Tensor_mode
        div_.Scalar div_.Scalar_mode div_.Tensor div_.Tensor_mode divide.Scalar divide.Scalar_mode divide.Tensor
        divide.Tensor_mode erf.default erf_.default erfc.default erfinv.default exp.default exp2.default
        exp_.default expm1.default fix.default float_power.Scalar float_power.Tensor_Scalar
        float_power.Tensor_Tensor floor.default floor_.default floor_divide.default floor_divide.Scalar fmax.default
        fmin.default fmod.Scalar fmod.Tensor frac.default heaviside.default hypot.default ldexp.Tensor lerp.Scalar
        lerp.Tensor lerp_.Scalar lerp_.Tensor lgamma.default linalg_cross.default log.default log10.default
        log1p.default log2.default log_.default logaddexp.default logaddexp2.default maximum.default minimum.default
        mul.Scalar mul.Tensor mul_.Scalar mul_.Tensor multiply.Scalar multiply.Tensor nan_to_num.default
        nan_to_num_.default neg.default neg_.default negative.default positive.default pow.Scalar pow.Tensor_Scalar
        pow.Tensor_Tensor pow_.Scalar pow_.Tensor rad2deg.default reciprocal.default reciprocal_.default
        remainder.Scalar remainder.Scalar_Tensor remainder.Tensor round.decimals round.default round_.decimals
        round_.default rsqrt.default rsqrt_.default rsub.Scalar rsub.Tensor sgn.default sign.default sin.default
        sin_.default sinc.default sinh.default special_erf.default special_expit.default special_expm1.default
        special_log1p.default special_logit.default special_xlogy.default special_xlogy.other_scalar
        special_xlogy.self_scalar sqrt.default sqrt_.default square.default square_.default sub.Scalar sub.Tensor
        sub_.Scalar sub_.Tensor subtract.Scalar subtract.Tensor tan.default true_divide.Scalar true_divide.Tensor
        trunc.default trunc_.default xlogy.Scalar_Other xlogy.Scalar_Self xlogy.Tensor
        """
        # comparison, logic, bits
        """
        __and__.Scalar __and__.Tensor __lshift__.Scalar __lshift__.Tensor __or__.Scalar __or__.Tensor
        __rshift__.Scalar __rshift__.Tensor __xor__.Scalar __xor__.Tensor bitwise_and.Scalar
        bitwise_and.Scalar_Tensor bitwise_and.Tensor bitwise_left_shift.Scalar_Tensor bitwise_left_shift.Tensor
        bitwise_left_shift.Tensor_Scalar bitwise_not.default bitwise_or.Scalar bitwise_or.Scalar_Tensor
        bitwise_or.Tensor bitwise_right_shift.Scalar_Tensor bitwise_right_shift.Tensor
        bitwise_right_shift.Tensor_Scalar bitwise_xor.Scalar bitwise_xor.Scalar_Tensor bitwise_xor.Tensor eq.Scalar
        eq.Tensor ge.Scalar ge.Tensor greater.Scalar greater.Tensor greater_equal.Scalar greater_equal.Tensor
        gt.Scalar gt.Tensor isclose.default isfinite.default isin.Scalar_Tensor isin.Tensor_Scalar
        isin.Tensor_Tensor isinf.default isnan.default isneginf.default isposinf.default isreal.default le.Scalar
        le.Tensor less.Scalar less.Tensor less_equal.Scalar less_equal.Tensor logical_and.default
        logical_not.default logical_or.default logical_xor.default lt.Scalar lt.Tensor masked_fill.Scalar
        masked_fill.Tensor masked_fill_.Scalar masked_fill_.Tensor ne.Scalar ne.Tensor not_equal.Scalar
        not_equal.Tensor signbit.default where.default where.Scalar where.ScalarOther where.ScalarSelf where.self
        """
        # reductions, sorting, scans
        """
        all.default all.dim all.dims amax.default amin.default aminmax.default any.default any.dim any.dims
        argmax.default argmin.default argsort.default argsort.stable bucketize.Scalar bucketize.Tensor
        count_nonzero.default count_nonzero.dim_IntList cummax.default cummin.default cumprod.default
        cumprod_.default cumsum.default cumsum_.default diff.default dist.default kthvalue.default
        logcumsumexp.default logsumexp.default max.default max.dim max.other mean.default mean.dim median.default
        median.dim min.default min.dim min.other mode.default msort.default nanmean.default nanmedian.default
        nanmedian.dim nansum.default prod.default prod.dim_int quantile.default quantile.scalar searchsorted.Scalar
        searchsorted.Tensor sort.default sort.stable std.correction std.default std.dim std_mean.correction
        std_mean.default std_mean.dim sum.default sum.dim_IntList topk.default trace.default trapezoid.dx
        trapezoid.x var.correction var.default var.dim var_mean.correction var_mean.default var_mean.dim
        """
        # shapes, indexing, copies
        """
        _to_copy.default _unsafe_view.default adjoint.default alias.default argwhere.default atleast_1d.default
        atleast_1d.Sequence atleast_2d.default atleast_2d.Sequence atleast_3d.default atleast_3d.Sequence
        block_diag.default broadcast_tensors.default broadcast_to.default cartesian_prod.default cat.default
        chunk.default clone.default column_stack.default complex.default concat.default concatenate.default
        conj.default conj_physical.default contiguous.default copy.default copy_.default detach.default
        detach_.default diag.default diag_embed.default diagflat.default diagonal.default diagonal_scatter.default
        dsplit.array dsplit.int dstack.default expand.default expand_as.default fill.Scalar fill.Tensor fill_.Scalar
        fill_.Tensor flatten.using_ints flip.default fliplr.default flipud.default gather.default hsplit.array
        hsplit.int hstack.default imag.default index.Tensor index_add.default index_add_.default index_copy.default
        index_fill.int_Scalar index_fill.int_Tensor index_put.default index_put_.default index_select.default
        lift_fresh.default lift_fresh_copy.default masked_scatter.default masked_select.default meshgrid.default
        meshgrid.indexing mH.default moveaxis.int moveaxis.intlist movedim.int movedim.intlist mT.default
        narrow.default narrow.Tensor nonzero.default numpy_T.default pad_sequence.default permute.default
        polar.default ravel.default real.default repeat.default repeat_interleave.self_int
        repeat_interleave.self_Tensor repeat_interleave.Tensor reshape.default reshape_as.default
        resolve_conj.default resolve_neg.default roll.default rot90.default scatter.reduce scatter.src scatter.value
        scatter.value_reduce scatter_.reduce scatter_.src scatter_.value scatter_.value_reduce scatter_add.default
        scatter_add_.default scatter_reduce.two select.int select_scatter.default slice.Tensor slice_inverse.default
        slice_scatter.default split.sizes split.Tensor split_with_sizes.default squeeze.default squeeze.dim
        squeeze.dims squeeze_.default squeeze_.dim squeeze_.dims stack.default swapaxes.default swapdims.default
        t.default t_.default take.default take_along_dim.default tensor_split.indices tensor_split.sections
        tensor_split.tensor_indices_or_sections tile.default to.device to.dtype to.dtype_layout to.other
        transpose.int transpose_.default tril.default triu.default type_as.default unbind.int unflatten.int
        unsafe_chunk.default unsafe_split.Tensor unsafe_split_with_sizes.default unsqueeze.default
        unsqueeze_.default view.default view.dtype view_as.default view_as_complex.default view_as_real.default
        vsplit.array vsplit.int vstack.default zero_.default
        """
        # new tensors, random numbers
        """
        arange.default arange.start arange.start_step bernoulli.default bernoulli.p bernoulli.Tensor eye.default
        eye.m full.default full_like.default hamming_window.default hamming_window.periodic
        hamming_window.periodic_alpha hamming_window.periodic_alpha_beta hann_window.default hann_window.periodic
        linspace.default linspace.Scalar_Tensor linspace.Tensor_Scalar linspace.Tensor_Tensor logspace.default
        logspace.Scalar_Tensor logspace.Tensor_Scalar logspace.Tensor_Tensor multinomial.default new_full.default
        new_ones.default new_zeros.default normal_functional.default ones.default ones_like.default rand.default
        rand_like.default randint.default randint.low randint_like.default randint_like.low_dtype
        randint_like.Tensor randn.default randn_like.default randperm.default scalar_tensor.default
        tril_indices.default triu_indices.default vander.default zeros.default zeros_like.default
        """
        # spectra
        """
        fft_fft.default fft_fft2.default fft_fftfreq.default fft_fftn.default fft_fftshift.default fft_ifft.default
        fft_ifft2.default fft_ifftn.default fft_ifftshift.default fft_irfft.default fft_irfft2.default
        fft_irfftn.default fft_rfft.default fft_rfft2.default fft_rfftfreq.default fft_rfftn.default istft.default
        stft.center stft.default
        """
        # losses
        """
        binary_cross_entropy.default binary_cross_entropy_with_logits.default cosine_embedding_loss.default
        cross_entropy_loss.default hinge_embedding_loss.default huber_loss.default kl_div.default l1_loss.default
        margin_ranking_loss.default mse_loss.default nll_loss.default nll_loss2d.default nll_loss_nd.default
        smooth_l1_loss.default soft_margin_loss.default triplet_margin_loss.default
        """
        # sizes as numbers
        """
        sym_numel.default sym_size.int sym_storage_offset.default sym_stride.int
        """
    ).split()
)

# What is computed on sizes: numbers in, a number out.
NUMBERS: MappingProxyType[str, Callable[..., Any]] = MappingProxyType(
    {
        "add": operator.add,
        "sub": operator.sub,
        "mul": operator.mul,
        "truediv": operator.truediv,
        "floordiv": operator.floordiv,
        "mod": operator.mod,
        "neg": operator.neg,
        "pos": operator.pos,
        "abs": operator.abs,
        "eq": operator.eq,
        "ne": operator.ne,
        "lt": operator.lt,
        "le": operator.le,
        "gt": operator.gt,
        "ge": operator.ge,
        "and": operator.and_,
        "or": operator.or_,
        "sym_float": torch.sym_float,
        "sym_int": torch.sym_int,
        "sym_max": torch.sym_max,
        "sym_min": torch.sym_min,
        "sym_not": torch.sym_not,
        "ceil": math.ceil,
        "floor": math.floor,
        "trunc": math.trunc,
        "round": round,
    }
)
# How many numbers each takes; two, where it isn't listed.
_UNARY = frozenset({"neg", "pos", "abs", "sym_float", "sym_int", "sym_not", "ceil", "floor", "trunc", "round"})


def num_operands(name: str) -> int:
    """Return how many numbers one of `NUMBERS` takes."""
    return 1 if name in _UNARY else 2


def overload(name: str) -> torch._ops.OpOverload | None:
    """Return the operation that one of `ATEN` names; None where this version of PyTorch has none."""
    if name not in ATEN:
        raise KeyError(name)
    packet, _, kind = name.partition(".")
    found = getattr(getattr(torch.ops.aten, packet, None), kind, None)
    return found if isinstance(found, torch._ops.OpOverload) else None
