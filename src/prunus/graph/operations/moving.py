"""Operations that move elements, join tensors or cut them, and those that change nothing."""

from __future__ import annotations

from prunus.graph.operations.row import CASTS, DROPS, KEEPS_ORDER, LIKE_ANOTHER, NOT_IN_FILES, Family, ops

ROWS = (
    # hand their tensor on
    *ops(
        Family.SAME,
        """
        clone contiguous detach detach_ alias positive lift_fresh lift_fresh_copy resolve_conj resolve_neg
        """,
    ),
    *ops(Family.SAME, "lift detach_copy", NOT_IN_FILES),
    *ops(Family.SAME, "to.device,dtype,dtype_layout,other _to_copy type_as", CASTS),
    *ops(Family.SAME, "_autocast_to_reduced_precision _autocast_to_full_precision", NOT_IN_FILES | CASTS),
    *ops(
        Family.SAME,
        """
        dropout dropout_ feature_dropout feature_dropout_ alpha_dropout alpha_dropout_ feature_alpha_dropout
        native_dropout
        """,
        DROPS,
    ),
    # another shape, the same order
    *ops(
        Family.MOVE,
        """
        view.default,dtype reshape _unsafe_view flatten.using_ints unflatten.int ravel unsqueeze unsqueeze_
        squeeze.default,dim,dims squeeze_.default,dim,dims
        """,
        KEEPS_ORDER,
    ),
    *ops(Family.MOVE, "view_copy squeeze_copy", NOT_IN_FILES | KEEPS_ORDER),
    *ops(Family.MOVE, "view_as reshape_as", KEEPS_ORDER | LIKE_ANOTHER),
    *ops(Family.MOVE, "expand_as", LIKE_ANOTHER),
    # other places
    *ops(
        Family.MOVE,
        """
        permute transpose.int transpose_ t t_ expand broadcast_to select.int slice.Tensor narrow.Tensor,default
        repeat tile movedim.int,intlist moveaxis.int,intlist swapaxes swapdims unfold diagonal rot90 fliplr flipud
        numpy_T mT mH adjoint pixel_shuffle pixel_unshuffle
        """,
    ),
    *ops(Family.MOVE, "roll flip", along="dims"),
    *ops(Family.MOVE, "index_select repeat_interleave.Tensor,self_Tensor,self_int", along="dim"),
    *ops(Family.MOVE, "channel_shuffle native_channel_shuffle", along=1),
    *ops(Family.INDEX, "index.Tensor gather take_along_dim"),
    *ops(Family.EMBEDDING, "embedding"),
    # pieces
    *ops(
        Family.PARTS,
        """
        chunk split.Tensor,sizes split_with_sizes tensor_split.indices,sections,tensor_indices_or_sections
        unbind.int unsafe_chunk unsafe_split.Tensor unsafe_split_with_sizes
        """,
        along="dim",
    ),
    *ops(Family.PARTS, "hsplit.array,int", along=1),
    *ops(Family.PARTS, "vsplit.array,int", along=0),
    *ops(Family.PARTS, "dsplit.array,int", along=2),
    # side by side
    *ops(Family.JOIN, "cat concat concatenate", along="dim"),
    *ops(Family.JOIN, "stack hstack vstack dstack column_stack"),
    # zeros in a triangle, elements around, patches of images
    *ops(Family.TRIANGLE, "tril triu"),
    *ops(Family.PAD, "constant_pad_nd pad"),
    *ops(Family.PATCHES, "im2col col2im"),
)
