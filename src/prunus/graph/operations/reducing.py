"""Reductions, norms, pooling and resizing: operations that take several elements together."""

from __future__ import annotations

from prunus.graph.operations.row import EQUAL, NOT_IN_FILES, PADS_ZEROS, SUMS_TO_ONE, ZERO, Family, ops

ROWS = (
    # of equal numbers they give that number
    *ops(
        Family.REDUCE,
        """
        mean.default,dim nanmean amax amin max.default,dim,other min.default,dim,other aminmax median.default,dim
        nanmedian.default,dim mode kthvalue
        """,
        EQUAL,
    ),
    # of zeros they give 0
    *ops(Family.REDUCE, "sum.default,dim_IntList nansum prod.default,dim_int", ZERO),
    *ops(
        Family.REDUCE,
        """
        var.correction,default,dim std.correction,default,dim var_mean.correction,default,dim
        std_mean.correction,default,dim logsumexp norm.Scalar,ScalarOpt_dim,ScalarOpt_dim_dtype,ScalarOpt_dtype
        linalg_vector_norm any.default,dim,dims all.default,dim,dims count_nonzero.default,dim_IntList argmax argmin
        """,
    ),
    # each element depends on all along one dimension
    *ops(Family.MIX, "softmax.int _softmax", SUMS_TO_ONE),
    *ops(
        Family.MIX,
        """
        log_softmax.int _log_softmax cumsum cumsum_ cumprod cumprod_ logcumsumexp cummax cummin sort.default,stable
        argsort.default,stable topk renorm
        """,
    ),
    # norms
    *ops(Family.CHANNEL_NORM, "batch_norm instance_norm"),
    *ops(Family.CHANNEL_NORM, "_native_batch_norm_legit_no_training cudnn_batch_norm", NOT_IN_FILES),
    *ops(Family.LAYER_NORM, "layer_norm rms_norm"),
    *ops(Family.LAYER_NORM, "_fused_rms_norm", NOT_IN_FILES),
    *ops(Family.GROUP_NORM, "group_norm"),
    # pooling and resizing
    *ops(
        Family.WINDOW,
        """
        max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
        adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
        adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
        """,
    ),
    *ops(Family.WINDOW, "avg_pool1d avg_pool2d avg_pool3d grid_sampler grid_sampler_2d grid_sampler_3d", PADS_ZEROS),
    *ops(
        Family.WINDOW,
        """
        upsample_nearest1d.default,vec upsample_nearest2d.default,vec upsample_nearest3d.default,vec
        _upsample_nearest_exact1d.default,vec _upsample_nearest_exact2d.default,vec
        _upsample_nearest_exact3d.default,vec upsample_linear1d.default,vec upsample_bilinear2d.default,vec
        _upsample_bilinear2d_aa.default,vec upsample_bicubic2d.default,vec _upsample_bicubic2d_aa.default,vec
        upsample_trilinear3d.default,vec
        """,
    ),
    *ops(
        Family.WINDOW,
        """
        reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
        """,
    ),
)
