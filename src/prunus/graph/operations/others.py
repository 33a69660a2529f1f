"""Operations that coupling does not follow, questions about tensors, and what only PyTorch's dispatcher calls."""

from __future__ import annotations

from prunus.graph.operations.row import NOT_IN_FILES, Family, ops

ROWS = (
    # asked for sizes
    *ops(Family.SIZE, "sym_size.int sym_stride.int sym_numel sym_storage_offset"),
    *ops(Family.SIZE, "size stride numel storage_offset dim is_contiguous sym_is_contiguous", NOT_IN_FILES),
    # asserted while tracing
    *ops(
        Family.CHECK,
        """
        _assert_async _assert_scalar _assert_tensor_metadata sym_constrain_range sym_constrain_range_for_size
        """,
        NOT_IN_FILES,
    ),
    *ops(
        Family.OTHER,
        """
        _functional_assert_async _functional_assert_scalar _is_all_true _is_any_true _local_scalar_dense item equal
        allclose is_same_size is_set_to is_pinned device record_stream _fused_sdp_choice _print
        """,
        NOT_IN_FILES,
    ),
    # parts of complex numbers
    *ops(Family.OTHER, "conj real imag view_as_real view_as_complex"),
    # moved by places that each has of its own, or beside zeros
    *ops(
        Family.OTHER,
        """
        slice_inverse atleast_1d.Sequence,default atleast_2d.Sequence,default atleast_3d.Sequence,default
        broadcast_tensors meshgrid.default,indexing cartesian_prod block_diag diag diag_embed diagflat pad_sequence
        _pad_circular fft_fftshift fft_ifftshift take max_unpool2d max_unpool3d
        """,
    ),
    *ops(
        Family.OTHER,
        """
        as_strided set resize resize_as _reshape_alias _resize_output _stack _chunk_cat _copy_from _lazy_clone
        _pin_memory _pack_padded_sequence _cudnn_rnn_flatten_weight
        """,
        NOT_IN_FILES,
    ),
    # written into a copy
    *ops(
        Family.OTHER,
        """
        scatter.reduce,src,value,value_reduce scatter_.reduce,src,value,value_reduce scatter_add scatter_add_
        scatter_reduce.two select_scatter slice_scatter diagonal_scatter index_add index_add_ index_copy
        index_fill.int_Scalar,int_Tensor index_put index_put_ masked_scatter
        """,
    ),
    *ops(
        Family.OTHER,
        """
        as_strided_scatter index_reduce _index_put_impl _unsafe_index _unsafe_index_put _unsafe_masked_index
        _unsafe_masked_index_put_accumulate put
        """,
        NOT_IN_FILES,
    ),
    # searched, counted, as many as there are
    *ops(
        Family.OTHER,
        """
        argwhere nonzero masked_select bucketize.Scalar,Tensor searchsorted.Scalar,Tensor
        isin.Scalar_Tensor,Tensor_Scalar,Tensor_Tensor msort diff trace quantile.default,scalar trapezoid.dx,x
        """,
    ),
    *ops(
        Family.OTHER,
        """
        nonzero_static histc bincount _unique _unique2 unique_consecutive unique_dim unique_dim_consecutive
        segment_reduce
        """,
        NOT_IN_FILES,
    ),
    # products of elements, distances
    *ops(Family.OTHER, "outer kron dist cosine_similarity pairwise_distance frobenius_norm.dim"),
    *ops(Family.OTHER, "linalg__powsum gcd lcm", NOT_IN_FILES),
    # losses
    *ops(
        Family.OTHER,
        """
        binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss cross_entropy_loss
        hinge_embedding_loss huber_loss kl_div l1_loss margin_ranking_loss mse_loss nll_loss nll_loss2d nll_loss_nd
        smooth_l1_loss soft_margin_loss triplet_margin_loss
        """,
    ),
    *ops(
        Family.OTHER,
        """
        multi_margin_loss multilabel_margin_loss_forward nll_loss_forward nll_loss2d_forward
        """,
        NOT_IN_FILES,
    ),
    # norms, pooling, gates and tables as the dispatcher has them
    *ops(Family.OTHER, "native_layer_norm native_group_norm"),
    *ops(
        Family.OTHER,
        """
        native_batch_norm native_norm _native_batch_norm_legit _native_batch_norm_legit_functional
        _batch_norm_no_update _batch_norm_with_update _batch_norm_with_update_functional batch_norm_elemt
        batch_norm_stats batch_norm_update_stats miopen_batch_norm _weight_norm_interface mkldnn_adaptive_avg_pool2d
        mkldnn_max_pool2d mkldnn_max_pool3d fractional_max_pool2d fractional_max_pool3d cudnn_grid_sampler
        _grid_sampler_2d_cpu_fallback _safe_softmax _masked_softmax _logcumsumexp _cummax_helper _cummin_helper
        _aminmax log_sigmoid_forward _prelu_kernel _add_relu _masked_scale _thnn_fused_lstm_cell
        _thnn_fused_gru_cell _embedding_bag _embedding_bag_forward_only embedding_renorm
        """,
        NOT_IN_FILES,
    ),
    # whole numbers that stand for others
    *ops(
        Family.OTHER,
        """
        quantize_per_tensor quantize_per_channel dequantize fake_quantize_per_channel_affine_cachemask
        fake_quantize_per_tensor_affine_cachemask _fake_quantize_per_tensor_affine_cachemask_tensor_qparams
        """,
        NOT_IN_FILES,
    ),
)
