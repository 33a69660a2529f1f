"""The C of vector types and of functions of one number: each for single numbers and for vectors.

Vectors are those of the compiler (gcc and clang alike), so that the same text becomes AVX-512, AVX2, SSE or NEON. A
comparison of vectors gives a mask of all ones or zeros, which `&`, `|` and `~` apply.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy

from prunus.compiling.kernels import exponentials


@dataclass(frozen=True)
class Numbers:
    """The C type that a program computes in.

    Attributes:
        real: the type's name in C.
        whole: the type of a whole number of the same size.
        bytes: its size.
        suffix: what its constants end in, and its functions of math.h.
        digits: significant decimal digits that tell every number.
        exponent: the bits that are all ones in infinities and NaN only.
    """

    real: str
    whole: str
    bytes: int
    suffix: str
    digits: int
    exponent: int

    def constant(self, value: float) -> str:
        """Return a number as C writes it.

        >>> FLOAT.constant(0.1), FLOAT.constant(-1e308), DOUBLE.constant(-1e308), FLOAT.constant(2)
        ('0.100000001f', '-INFINITY', '-1e+308', '2.0f')
        """
        with numpy.errstate(over="ignore"):
            rounded = value if self.bytes == 8 else float(numpy.float32(value))
        if rounded != rounded:
            return "NAN"
        if rounded in (float("inf"), float("-inf")):
            return "INFINITY" if rounded > 0 else "-INFINITY"
        text = f"{rounded:.{self.digits}g}"
        return text + ("" if re.search(r"[.e]", text) else ".0") + self.suffix


FLOAT = Numbers("float", "int32_t", 4, "f", 9, 0x7F800000)
DOUBLE = Numbers("double", "int64_t", 8, "", 17, 0x7FF0000000000000)

# Functions of x for one number, f standing for the suffix of math.h's functions; a, b are the constants. They are the
# formulas of PyTorch's own kernels, step by step, so that infinities, NaN and overflows come out as there. (For gelu,
# oneDNN has another, which PyTorch prefers for some tensors: gelu(inf) is inf here and in PyTorch's, NaN in oneDNN's.
# gelu_tanh is x / 2 * (1 + tanh(y)) as x / (1 + exp(-2y)), which does not cancel below zero.)
SCALARS = {
    "relu": "x < 0 ? 0 : x",
    "relu6": "x < 0 ? 0 : x > 6 ? 6 : x",
    "leaky_relu": "x > 0 ? x : x * a",
    "clamp": "x < a ? (a < b ? a : b) : x > b ? b : x",
    "sigmoid": "1 / (1 + exp{f}(-x))",
    "tanh": "tanh{f}(x)",
    "silu": "x / (1 + exp{f}(-x))",
    "mish": "x * tanh{f}(log1p{f}(exp{f}(x)))",
    "gelu": "x * {half} * (1 + erf{f}(x * {sqrt_half}))",
    "gelu_tanh": "x / (1 + exp{f}({gelu_scale} * (x + {gelu_cubic} * x * x * x)))",
    "elu": "x > 0 ? x : a * expm1{f}(x)",
    "hardsigmoid": "(x + 3 < 0 ? 0 : x + 3 > 6 ? 6 : x + 3) / 6",
    "hardswish": "x * (x + 3 < 0 ? 0 : x + 3 > 6 ? 6 : x + 3) / 6",
    "exp": "exp{f}(x)",
    "log": "log{f}(x)",
    "sqrt": "sqrt{f}(x)",
    "softplus": "x > 20 ? x : log1p{f}(exp{f}(x))",
    "neg": "-x",
    "abs": "fabs{f}(x)",
    "square": "x * x",
    "reciprocal": "1 / x",
}

# The same for vectors, where it is not computed number by number: x of type {vec}, masks of type {mask}. Exponentials
# of float vectors are in `exponentials`.
_VECTOR = {
    "relu": "return ({vec})(({mask})x & ~(x < 0));",
    "relu6": "x = ({vec})(({mask})x & ~(x < 0)); return choose{n}(x > 6, splat{n}(6), x);",
    "leaky_relu": "return choose{n}(x > 0, x, x * a);",
    "clamp": "x = choose{n}(x < a, splat{n}(a), x); return choose{n}(x > b, splat{n}(b), x);",
    "neg": "return -x;",
    "square": "return x * x;",
    "reciprocal": "return 1 / x;",
    "abs": "return ({vec})(({mask})x & ~({mask})splat{n}(-0.0));",
    "hardsigmoid": "return clamp{n}(x + 3, 0, 6) / 6;",
    "hardswish": "return x * clamp{n}(x + 3, 0, 6) / 6;",
}

_NUM_CONSTANTS = {"leaky_relu": 1, "clamp": 2, "elu": 1}

# Functions that never fall: they may be applied before a maximum as well as after.
RISING = ("relu", "relu6", "sigmoid", "tanh", "clamp", "leaky_relu", "hardsigmoid", "exp")

# Two numbers to one: expressions of x and y, for numbers and for vectors.
COMBINED = {
    "add": "{x} + {y}",
    "sub": "{x} - {y}",
    "mul": "{x} * {y}",
    "div": "{x} / {y}",
    "maximum": "larger{n}({x}, {y})",
    "minimum": "smaller{n}({x}, {y})",
}


# All functions in the order of their numbers in a tape.
FUNCTIONS = [*COMBINED, *SCALARS]


def constants_of(function: str) -> int:
    """Return how many constants a function takes besides x."""
    return _NUM_CONSTANTS.get(function, 0)


def scalar_types(numbers: Numbers) -> str:
    """Return the C of what all single numbers need; NaN goes through a maximum, as in PyTorch."""
    return f"""typedef {numbers.real} real;

static inline real larger1(real x, real y) {{ return x > y || x != x ? x : y; }}
static inline real smaller1(real x, real y) {{ return x < y || x != x ? x : y; }}
{_larger_bytes(numbers, 1, "real")}static inline int nonfinite1(real x) {{
    {numbers.whole} bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return (bits & {numbers.exponent:#x}) == {numbers.exponent:#x};
}}
"""


def vector_types(numbers: Numbers, width: int) -> str:
    """Return the C of a vector type of so many numbers, and what all functions on it need.

    `loose` is the same where a vector may begin at any number.
    """
    size = width * numbers.bytes
    vec, loose, mask = f"vec{width}", f"loose{width}", f"mask{width}"
    splat = ", ".join(["x"] * width)
    return f"""typedef real {vec} __attribute__((vector_size({size}), may_alias));
typedef real {loose} __attribute__((vector_size({size}), aligned({numbers.bytes}), may_alias));
typedef {numbers.whole} {mask} __attribute__((vector_size({size}), may_alias));

static inline {vec} splat{width}(real x) {{ return ({vec}){{{splat}}}; }}
static inline {vec} choose{width}({mask} which, {vec} x, {vec} y) {{
    return ({vec})((which & ({mask})x) | (~which & ({mask})y));
}}
static inline {vec} larger{width}({vec} x, {vec} y) {{ return choose{width}((x > y) | (x != x), x, y); }}
static inline {vec} smaller{width}({vec} x, {vec} y) {{ return choose{width}((x < y) | (x != x), x, y); }}
{_larger_bytes(numbers, width, vec)}static inline {mask} nonfinite{width}({vec} x) {{
    return (({mask})x & {numbers.exponent:#x}) == {numbers.exponent:#x};
}}
"""


def _larger_bytes(numbers: Numbers, width: int, kind: str) -> str:
    """Return the C of a maximum of each of the bytes of some numbers."""
    if numbers != FLOAT:
        return ""
    size = 4 * width
    return f"""typedef uint8_t bytes{width} __attribute__((vector_size({size}), may_alias));
static inline {kind} larger_bytes{width}({kind} x, {kind} y) {{
    bytes{width} one, other;
    __builtin_memcpy(&one, &x, {size});
    __builtin_memcpy(&other, &y, {size});
    const bytes{width} first = (bytes{width})(one > other);
    one = (one & first) | (other & ~first);
    __builtin_memcpy(&x, &one, {size});
    return x;
}}
"""


def functions(numbers: Numbers, width: int) -> str:
    """Return the C of all functions of `SCALARS` for vectors of so many numbers; with a width of 1 for single ones."""
    in_vectors = exponentials.FUNCTIONS if numbers == FLOAT and width > 1 else ()
    others = "".join(function(numbers, name, width) for name in SCALARS if name not in in_vectors)
    return others + (exponentials.text(width) if in_vectors else "")


def function(numbers: Numbers, name: str, width: int) -> str:
    """Return the C of a function of vectors of so many numbers, that loops over them if need be; 1: of single ones."""
    more = "".join(f", real {letter}" for letter in "ab"[: constants_of(name)])
    if width == 1:
        return f"static inline real {name}1(real x{more}) {{ return {_expression(numbers, name)}; }}\n"
    vec, mask = f"vec{width}", f"mask{width}"
    if name in _VECTOR:
        body = _VECTOR[name].format(vec=vec, mask=mask, n=width)
        return f"static inline {vec} {name}{width}({vec} x{more}) {{ {body} }}\n"
    passed = "".join(f", {letter}" for letter in "ab"[: constants_of(name)])
    loop = f"for (int i = 0; i < {width}; ++i) x[i] = {name}1(x[i]{passed});"
    return f"static inline {vec} {name}{width}({vec} x{more}) {{ {loop} return x; }}\n"


def _expression(numbers: Numbers, name: str) -> str:
    return SCALARS[name].format(
        f=numbers.suffix,
        half=numbers.constant(0.5),
        sqrt_half=numbers.constant(0.5**0.5),
        gelu_scale=numbers.constant(-2 * (2 / 3.141592653589793) ** 0.5),
        gelu_cubic=numbers.constant(0.044715),
    )


def apply_functions(numbers: Numbers, width: int) -> str:
    """Return the C of each function over arrays, in vectors of so many numbers, and the table `apply_functions`."""
    texts = []
    for name in FUNCTIONS:
        one, several = (_applied(name, place, size) for place, size in (("", 1), ("loose", width)))
        texts.append(
            f"static void apply_{name}(real *to, const real *x, const real *y, real a, real b, long n) {{\n"
            f"    long i = 0;\n    for (; i + {width} <= n; i += {width}) *(loose{width} *)(to + i) = {several};\n"
            f"    for (; i < n; ++i) to[i] = {one};\n}}\n"
        )
    table = ", ".join(f"apply_{name}" for name in FUNCTIONS)
    return "".join(texts) + f"static apply_function *const apply_functions[] = {{{table}}};\n"


def _applied(name: str, place: str, width: int) -> str:
    x, y = (f"*(const loose{width} *)({letter} + i)" if place else f"{letter}[i]" for letter in "xy")
    if name in COMBINED:
        return COMBINED[name].format(x=f"({x})" if place else x, y=f"({y})" if place else y, n=width)
    return f"{name}{width}({x}{''.join(f', {letter}' for letter in 'ab'[: constants_of(name)])})"
