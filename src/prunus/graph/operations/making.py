"""New tensors: filled, counted up, drawn at random."""

from __future__ import annotations

from prunus.graph.operations.row import NOT_IN_FILES, Family, ops

ROWS = (
    # made to measure: a number, or the argument that names it
    *ops(Family.FILL, "zeros new_zeros", fills=0),
    *ops(Family.FILL, "ones new_ones", fills=1),
    *ops(Family.FILL, "full new_full", fills="fill_value"),
    *ops(Family.FILL, "empty new_empty", NOT_IN_FILES),
    # by rule
    *ops(
        Family.OTHER,
        """
        arange.default,start,start_step linspace.Scalar_Tensor,Tensor_Scalar,Tensor_Tensor,default
        logspace.Scalar_Tensor,Tensor_Scalar,Tensor_Tensor,default eye.default,m tril_indices triu_indices
        scalar_tensor vander one_hot fft_fftfreq fft_rfftfreq hann_window.default,periodic
        hamming_window.default,periodic,periodic_alpha,periodic_alpha_beta
        """,
    ),
    *ops(
        Family.OTHER,
        """
        range bartlett_window blackman_window kaiser_window empty_permuted empty_strided new_empty_strided
        _efficientzerotensor
        """,
        NOT_IN_FILES,
    ),
    # at random
    *ops(
        Family.OTHER,
        """
        rand randn randint.default,low randperm bernoulli.Tensor,default,p multinomial normal_functional
        """,
    ),
    *ops(
        Family.OTHER,
        """
        normal uniform random exponential geometric cauchy log_normal binomial poisson _fused_dropout
        rrelu_with_noise rrelu_with_noise_functional
        """,
        NOT_IN_FILES,
    ),
)
