"""The C of exponentials, logarithms and what is made of them, for vectors of float: a few dozen instructions for all
numbers of a vector, where math.h takes one number after the other.

Each is within a few units in the last place (ulp) of the exact value: the tests hold the bounds of `MOST_ULP` for |x|
below 87 and results above 1e-30, and infinities, NaN and overflows as in PyTorch. Polynomials are minimax fits of our
own to the functions named beside them, on the interval that the reduction leaves.
"""

from __future__ import annotations

# The largest error of each function in units in the last place. Those of several steps, such as gelu = x / 2 * (1 +
# erf), lose what PyTorch's own formula loses too; they are bounded relative to |x|.
MOST_ULP = {"exp": 2, "log": 3, "tanh": 5, "sigmoid": 3}

_TEXT = """
/* x * 2^power, for powers from -252 to 252, in two steps, so that neither factor overflows. */
static inline vec{n} scaled{n}(vec{n} x, mask{n} power) {{
    const mask{n} half = power >> 1;
    return x * (vec{n})((half + 127) << 23) * (vec{n})((power - half + 127) << 23);
}}

/* x = power * log(2) + rest, |rest| <= log(2) / 2; log(2) in two parts, the first of which times a power is exact. */
static inline vec{n} reduced{n}(vec{n} x, mask{n} *power) {{
    x = choose{n}(x > 89.0f, splat{n}(89.0f), choose{n}(x < -104.0f, splat{n}(-104.0f), x));
    const vec{n} shifted = x * 1.44269504f + 12582912.0f, whole = shifted - 12582912.0f;
    *power = (mask{n})shifted - 0x4B400000;
    return (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
}}

/* exp(x) - 1 for |x| <= log(2) / 2: x + x^2 q(x). */
static inline vec{n} near_expm1{n}(vec{n} x) {{
    const vec{n} even = x * x;
    const vec{n} q = ((1.99178288e-4f * x + 1.39460840e-3f) * even + (8.33326542e-3f * x + 4.16662697e-2f)) * even
        + (1.66666669e-1f * x + 0.5f);
    return even * q + x;
}}

static inline vec{n} exp{n}(vec{n} x) {{
    mask{n} power;
    const vec{n} rest = reduced{n}(x, &power);
    return choose{n}(x == x, scaled{n}(1 + near_expm1{n}(rest), power), x);
}}

static inline vec{n} expm1{n}(vec{n} x) {{
    mask{n} power;
    const vec{n} rest = reduced{n}(x, &power);
    const vec{n} value = scaled{n}(near_expm1{n}(rest), power) + (scaled{n}(splat{n}(1), power) - 1);
    return choose{n}((x == x) & (x != 0), value, x);
}}

/* log(x): x = 2^power m, m from sqrt(1/2) to sqrt(2); log(m) = 2 artanh(s), s = (m - 1) / (m + 1). */
static inline vec{n} log{n}(vec{n} x) {{
    const mask{n} tiny = x < 1.17549435e-38f, bits = (mask{n})choose{n}(tiny, x * 8388608.0f, x);
    const mask{n} moved = bits - 0x3F3504F3;
    const vec{n} power = __builtin_convertvector(moved >> 23, vec{n}) - choose{n}(tiny, splat{n}(23), splat{n}(0));
    const vec{n} m = (vec{n})((moved & 0x7FFFFF) + 0x3F3504F3), f = m - 1, s = f / (2 + f), even = s * s;
    const vec{n} rest = even * (0.666666667f + even * (0.4f + even * (0.285714286f + even * 0.222222222f)));
    const vec{n} half = 0.5f * f * f;
    vec{n} value = power * 0.693359375f - ((half - (s * (half + rest) - power * 2.12194440e-4f)) - f);
    value = choose{n}((x < INFINITY) & (x > 0), value, x);
    return choose{n}(x < 0, splat{n}(NAN), choose{n}(x == 0, splat{n}(-INFINITY), value));
}}

static inline vec{n} sigmoid{n}(vec{n} x) {{ return 1 / (1 + exp{n}(-x)); }}
static inline vec{n} silu{n}(vec{n} x) {{ return x / (1 + exp{n}(-x)); }}

/* tanh|x| = -t / (t + 2), t = exp(-2|x|) - 1; the sign is x's. */
static inline vec{n} tanh{n}(vec{n} x) {{
    const mask{n} sign = (mask{n})x & (mask{n})splat{n}(-0.0f);
    const vec{n} t = expm1{n}(-2 * (vec{n})((mask{n})x ^ sign));
    return (vec{n})((mask{n})(-t / (t + 2)) | sign);
}}

/* x tanh(log(1 + e)), e = exp(x): ((1 + e)^2 - 1) / ((1 + e)^2 + 1) without the logarithm. */
static inline vec{n} mish{n}(vec{n} x) {{
    const vec{n} e = exp{n}(x), square = e * (e + 2);
    return choose{n}(x > 20, x, x * (square / (square + 2)));
}}

/* log(1 + e), e = exp(x): log(w) + (e - (w - 1)) / w, w = 1 + e as it is rounded. */
static inline vec{n} softplus{n}(vec{n} x) {{
    const vec{n} e = exp{n}(x), w = 1 + e;
    return choose{n}(x > 20, x, log{n}(w) + (e - (w - 1)) / w);
}}

static inline vec{n} elu{n}(vec{n} x, real a) {{ return choose{n}(x > 0, x, a * expm1{n}(x)); }}

/* erf(x) = x p(x^2) up to 1, beyond 1 - exp(-q(|x|)), beyond 4 it is 1. */
static inline vec{n} erf{n}(vec{n} x) {{
    const mask{n} sign = (mask{n})x & (mask{n})splat{n}(-0.0f);
    const vec{n} far = (vec{n})((mask{n})x ^ sign), u = x * x;
    const vec{n} near = x * (1.12837917f + u * (-0.376126258f + u * (0.112835851f + u * (-2.68538119e-2f
        + u * (5.18832756e-3f + u * (-8.01019252e-4f + u * 7.85385771e-5f))))));
    const vec{n} t = choose{n}(far > 4, splat{n}(4), far);
    const vec{n} q = 3.12459754e-4f + t * (1.12720232f + t * (0.637964927f + t * (0.103256267f
        + t * (-2.19065080e-2f + t * (2.96401430e-3f + t * -1.87972552e-4f)))));
    const vec{n} beyond = (vec{n})((mask{n})(1 - exp{n}(-q)) | sign);
    return choose{n}(far > 1, beyond, near);
}}

static inline vec{n} gelu{n}(vec{n} x) {{ return x * 0.5f * (1 + erf{n}(x * 0.707106781f)); }}

/* x / 2 * (1 + tanh(y)) = x / (1 + exp(-2y)), which does not cancel. */
static inline vec{n} gelu_tanh{n}(vec{n} x) {{
    return x / (1 + exp{n}(-1.59576912f * (x + 0.044715f * x * x * x)));
}}
"""

# The functions of `numbers.SCALARS` that are among them.
FUNCTIONS = ("exp", "log", "sigmoid", "silu", "tanh", "mish", "softplus", "elu", "gelu", "gelu_tanh")


def text(width: int) -> str:
    """Return the C of all of them for vectors of so many floats."""
    return _TEXT.format(n=width)
