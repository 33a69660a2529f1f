"""Functions of each element, of one tensor or of several that broadcast."""

from __future__ import annotations

from prunus.graph.operations.row import FACTOR, NOT_IN_FILES, RISING, ZERO, Family, ops

ROWS = (
    # never fall, and 0 stays 0
    *ops(
        Family.ELEMENTWISE,
        """
        relu relu_ relu6 relu6_ selu selu_ tanh tanh_ hardshrink softshrink expm1 special_expm1 log1p special_log1p
        sqrt sqrt_ asin atan sinh asinh atanh erf erf_ special_erf erfinv sign floor floor_ ceil ceil_
        round.decimals,default round_.decimals,default trunc trunc_ fix deg2rad rad2deg
        """,
        ZERO | RISING,
    ),
    # never fall
    *ops(
        Family.ELEMENTWISE,
        """
        sigmoid sigmoid_ special_expit hardsigmoid hardsigmoid_ hardtanh hardtanh_ log_sigmoid exp exp_ exp2 log
        log_ log2 log10 acosh clamp.Tensor,default clamp_.Tensor,default clamp_min.Tensor,default
        clamp_min_.Tensor,default clamp_max.Tensor,default clamp_max_.Tensor,default clip.Tensor,default
        clip_.Tensor,default
        """,
        RISING,
    ),
    # 0 stays 0
    *ops(
        Family.ELEMENTWISE,
        """
        gelu gelu_ silu silu_ mish mish_ elu elu_ celu celu_ leaky_relu leaky_relu_ rrelu hardswish hardswish_
        square square_ abs abs_ absolute neg neg_ negative sin sin_ tan frac sgn angle nan_to_num nan_to_num_
        conj_physical
        """,
        ZERO,
    ),
    # other functions of one tensor
    *ops(
        Family.ELEMENTWISE,
        """
        softplus threshold threshold_ rsqrt rsqrt_ reciprocal reciprocal_ cos cos_ cosh acos erfc sinc digamma
        lgamma logit special_logit isnan isinf isfinite isneginf isposinf isreal signbit logical_not bitwise_not
        """,
    ),
    # a factor of 0 makes 0, whatever the other is
    *ops(
        Family.ELEMENTWISE,
        """
        mul.Scalar,Tensor mul_.Scalar,Tensor multiply.Scalar,Tensor logical_and
        bitwise_and.Scalar,Scalar_Tensor,Tensor __and__.Scalar,Tensor
        """,
        FACTOR,
    ),
    # of two or three tensors
    *ops(
        Family.ELEMENTWISE,
        """
        add.Scalar,Tensor add_.Scalar,Tensor sub.Scalar,Tensor sub_.Scalar,Tensor subtract.Scalar,Tensor
        rsub.Scalar,Tensor div.Scalar,Scalar_mode,Tensor,Tensor_mode div_.Scalar,Scalar_mode,Tensor,Tensor_mode
        divide.Scalar,Scalar_mode,Tensor,Tensor_mode true_divide.Scalar,Tensor floor_divide.Scalar,default
        remainder.Scalar,Scalar_Tensor,Tensor fmod.Scalar,Tensor pow.Scalar,Tensor_Scalar,Tensor_Tensor
        pow_.Scalar,Tensor float_power.Scalar,Tensor_Scalar,Tensor_Tensor maximum minimum fmax fmin atan2 arctan2
        hypot copysign.Scalar,Tensor ldexp.Tensor heaviside logaddexp logaddexp2
        xlogy.Scalar_Other,Scalar_Self,Tensor special_xlogy.default,other_scalar,self_scalar lerp.Scalar,Tensor
        lerp_.Scalar,Tensor addcmul addcmul_ addcdiv addcdiv_ complex polar
        where.Scalar,ScalarOther,ScalarSelf,default,self masked_fill.Scalar,Tensor masked_fill_.Scalar,Tensor copy
        copy_
        """,
    ),
    *ops(
        Family.ELEMENTWISE,
        """
        eq.Scalar,Tensor ne.Scalar,Tensor not_equal.Scalar,Tensor lt.Scalar,Tensor less.Scalar,Tensor
        le.Scalar,Tensor less_equal.Scalar,Tensor gt.Scalar,Tensor greater.Scalar,Tensor ge.Scalar,Tensor
        greater_equal.Scalar,Tensor isclose logical_or logical_xor bitwise_or.Scalar,Scalar_Tensor,Tensor
        bitwise_xor.Scalar,Scalar_Tensor,Tensor bitwise_left_shift.Scalar_Tensor,Tensor,Tensor_Scalar
        bitwise_right_shift.Scalar_Tensor,Tensor,Tensor_Scalar __or__.Scalar,Tensor __xor__.Scalar,Tensor
        __lshift__.Scalar,Tensor __rshift__.Scalar,Tensor
        """,
    ),
    # tensors like another: a number, or the argument that names it
    *ops(Family.ELEMENTWISE, "zeros_like zero_", fills=0),
    *ops(Family.ELEMENTWISE, "ones_like", fills=1),
    *ops(Family.ELEMENTWISE, "full_like", fills="fill_value"),
    *ops(Family.ELEMENTWISE, "fill.Scalar,Tensor fill_.Scalar,Tensor", fills="value"),
    *ops(Family.ELEMENTWISE, "rand_like randn_like randint_like.Tensor,default,low_dtype"),
    *ops(Family.ELEMENTWISE, "empty_like", NOT_IN_FILES),
    # a slope a channel; one half times the sigmoid of the other
    *ops(Family.PRELU, "prelu"),
    *ops(Family.GLU, "glu"),
)
