"""Functions of one and of two numbers in C: those that a file calls are written at its beginning."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from prunus.compiling.kernels.numbers import COMBINED, FLOAT, function
from prunus.compiling.net import Pointwise
from prunus.exporting.c.arrays import number

_LARGER = """/* NaN goes through, as in PyTorch. */
static inline float larger(float x, float y) { return x > y || x != x ? x : y; }
"""
_SMALLER = """/* NaN goes through, as in PyTorch. */
static inline float smaller(float x, float y) { return x < y || x != x ? x : y; }
"""


@dataclass
class Functions:
    """What is called so far, in the order of the first calls."""

    texts: dict[str, str] = field(default_factory=dict)

    def call(self, pointwise: Pointwise | None, argument: str) -> str:
        """Return a function of a number; the number itself where there is none."""
        if pointwise is None:
            return argument
        name = f"{pointwise.function}_of"
        if name not in self.texts:
            written = function(FLOAT, pointwise.function, 1)
            self.texts[name] = re.sub(r"\breal\b", "float", written).replace(f"{pointwise.function}1(", f"{name}(")
        constants = "".join(f", {number(value)}" for value in pointwise.constants)
        return f"{name}({argument}{constants})"

    def combine(self, name: str, first: str, second: str) -> str:
        """Return two numbers in one: a sum, a maximum and the like."""
        return self._with_calls(COMBINED[name].format(x=first, y=second, n=""))

    def larger(self, first: str, second: str) -> str:
        """Return the maximum of two numbers."""
        return self._with_calls(f"larger({first}, {second})")

    def smaller(self, first: str, second: str) -> str:
        """Return the minimum of two numbers."""
        return self._with_calls(f"smaller({first}, {second})")

    def _with_calls(self, expression: str) -> str:
        for name, text in (("larger", _LARGER), ("smaller", _SMALLER)):
            if expression.startswith(f"{name}("):
                self.texts[name] = text
        return expression

    def text(self) -> str:
        """Return the definitions."""
        return "\n".join(self.texts.values())
