"""Softmax and norms along rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunus.compiling.loops import RowLoops
from prunus.compiling.net import MOST_NUMBER, Numbers, Operation, Pointwise, View, require

if TYPE_CHECKING:
    from prunus.compiling.arranging import Arranger
    from prunus.compiling.kernels.calls import Call, CallWriter
    from prunus.compiling.kernels.variants import Variant
    from prunus.compiling.kernels.writing import Writer

FUNCTIONS = ("softmax", "log_softmax", "layer_norm", "rms_norm")


@dataclass(frozen=True, eq=False)
class Normalize(Operation):
    """``softmax``, ``log_softmax``, ``layer_norm`` or ``rms_norm`` along the rows of a (rows, elements) view.

    Attributes:
        scale, shift: what a norm multiplies each element by, and adds to it: (elements,); None for 1 and 0.
        eps: what a norm adds to the variance.
    """

    function: str
    source: View
    scale: Numbers | None = None
    shift: Numbers | None = None
    eps: float = 0.0

    @property
    def overwritable(self) -> list[View]:  # noqa: D102
        return [self.source]

    def check(self) -> None:  # noqa: D102
        shape = self.source.index.shape
        require(len(shape) == 2 and self.box == (shape[0], 1, shape[1]), f"{self.name!r:.40}: box")
        require(self.function in FUNCTIONS, f"{self.name!r:.40}: function")
        for numbers in (self.scale, self.shift):
            require(numbers is None or numbers.shape == (shape[1],), f"{self.name!r:.40}: scale")
        require(isinstance(self.eps, (int, float)) and 0 <= self.eps < MOST_NUMBER, f"{self.name!r:.40}: eps")

    def describe(self) -> str:  # noqa: D102
        return f"{self.function} of rows"

    def arranged(self, arranger: Arranger) -> list[Operation]:  # noqa: D102
        return [self] if arranger.rows_are_alike(self.source) else arranger.behind_copy(self)

    def calls(self, writer: CallWriter, variant: Variant | None = None) -> list[Call]:  # noqa: D102
        places = writer.output(self).reshape(self.source.index.shape)
        return [writer.rows(self.function, self.source, places, self.scale, self.shift, self.eps)]


def loop(function: str, write: Writer, dialect: RowLoops) -> None:
    """Write the loop of a softmax or a norm."""
    with dialect.rows(write) as (source, to):
        (_norm if function in ("layer_norm", "rms_norm") else _softmax)(function, write, dialect, source, to)


def _softmax(function: str, write: Writer, dialect: RowLoops, source: str, to: str) -> None:
    """Write exp(x - max) / sum, or x - max - log(sum), from left to right: max may be much larger than the sum."""
    log = function == "log_softmax"
    dialect.gather(write, "most", "amax")
    for element in dialect.elements(write):
        most = f"most{element.suffix}"
        write(f"{most} = {element.numbers.larger(most, element.numbers.load(source, element.here))};")
    dialect.gathered(write, "most")
    dialect.gather(write, "total", "sum")
    for numbers, here, there, _, suffix in dialect.elements(write):
        power = numbers.call(Pointwise("exp"), f"{numbers.load(source, here)} - most")
        write(f"const {numbers.type} power = {power};", f"total{suffix} += power;")
        if not log:
            write(numbers.store(to, there, "power"))
    dialect.gathered(write, "total")
    if log:
        write(f"total = {dialect.call(Pointwise('log'), 'total')};")
    for numbers, here, there, _, _ in dialect.elements(write):
        apart = f"{numbers.load(source, here)} - most - total"
        write(numbers.store(to, there, apart if log else f"{numbers.load(to, there)} / total"))


def _norm(function: str, write: Writer, dialect: RowLoops, source: str, to: str) -> None:
    """Write (x - mean) / sqrt(variance + eps) * scale + shift; the root mean square norm takes no mean.

    A variance that overflows makes NaN: zeros would hide it, and PyTorch makes NaN of it in most rows.
    """
    centred = function == "layer_norm"
    less = " - mean" if centred else ""
    if centred:
        dialect.gather(write, "mean", "sum")
        for numbers, here, _, _, suffix in dialect.elements(write):
            write(f"mean{suffix} += {numbers.load(source, here)};")
        dialect.gathered(write, "mean")
        write(f"mean = mean / {dialect.count};")
    dialect.gather(write, "squares", "sum")
    for numbers, here, _, _, suffix in dialect.elements(write):
        write(f"const {numbers.type} apart = {numbers.load(source, here)}{less};", f"squares{suffix} += apart * apart;")
    dialect.gathered(write, "squares")
    root = dialect.call(Pointwise("sqrt"), f"squares / {dialect.count} + {dialect.eps}")
    write(f"const {dialect.type} root = {root};")
    write(f"const {dialect.type} factor = 1 / root{' + (root - root)' if centred else ''};")
    for element in dialect.elements(write):
        scale, shift = dialect.of_element("scale", element), dialect.of_element("shift", element)
        value = f"({element.numbers.load(source, element.here)}{less}) * factor"
        value += (f" * {scale}" if scale else "") + (f" + {shift}" if shift else "")
        write(element.numbers.store(to, element.there, value))
