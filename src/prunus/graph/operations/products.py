"""Sums of products: the operations that multiply and add."""

from __future__ import annotations

from prunus.graph.operations.row import NOT_IN_FILES, Family, ops

ROWS = (
    *ops(Family.LINEAR, "linear"),
    *ops(Family.MATMUL, "matmul linalg_matmul mm.default,dtype bmm.default,dtype mv dot"),
    *ops(Family.ADDMM, "addmm.default,dtype baddbmm.default,dtype addbmm addmv"),
    *ops(Family.EINSUM, "einsum"),
    *ops(Family.ATTENTION, "scaled_dot_product_attention"),
    *ops(Family.ATTENTION, "_scaled_dot_product_flash_attention_for_cpu", NOT_IN_FILES),
    *ops(
        Family.CONVOLUTION,
        """
        conv1d.default,padding conv2d.default,padding conv3d.default,padding conv_transpose1d conv_transpose2d.input
        conv_transpose3d.input convolution
        """,
    ),
    *ops(Family.CONVOLUTION, "_convolution", NOT_IN_FILES),
    *ops(Family.RECURRENT, "lstm.data,input", gates=4),
    *ops(Family.RECURRENT, "gru.data,input", gates=3),
    *ops(Family.RECURRENT, "rnn_tanh.data,input rnn_relu.data,input", gates=1),
    *ops(Family.CELL, "lstm_cell gru_cell"),
    *ops(Family.CELL, "rnn_tanh_cell rnn_relu_cell", NOT_IN_FILES),
    # products that coupling does not follow
    *ops(
        Family.OTHER,
        """
        vdot inner tensordot chain_matmul linalg_multi_dot linalg_vecdot
        """,
        macs="counted",
    ),
    *ops(
        Family.OTHER,
        """
        _int_mm _scaled_mm _addmm_activation mkldnn_rnn_layer _cudnn_rnn miopen_rnn
        """,
        NOT_IN_FILES,
        macs="counted",
    ),
    # of which nobody says how often they multiply and add
    *ops(
        Family.OTHER,
        """
        bilinear cdist conv_tbc affine_grid_generator cross linalg_cross linalg_householder_product linalg_solve
        matrix_exp linalg_norm.default,ord_str linalg_matrix_norm.default,str_ord
        """,
        macs="unknown",
    ),
    *ops(
        Family.OTHER,
        """
        fft_fft fft_fft2 fft_fftn fft_ifft fft_ifft2 fft_ifftn fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2
        fft_rfftn stft.center,default istft
        """,
        macs="unknown",
    ),
)
