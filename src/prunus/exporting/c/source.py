"""The two files of a net in C: one function for each step, constant arrays, static memory, and the one to call."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy

import prunus
from prunus.compiling.net import Net, Operation
from prunus.compiling.operations import Contract, Elementwise
from prunus.exporting.c import arranging, contraction, memory
from prunus.exporting.c.identifiers import distinct, identifier, suffix
from prunus.exporting.c.layer import Layer, Parts
from prunus.exporting.c.steps import Steps
from prunus.exporting.c.storage import Stored, store
from prunus.exporting.c.telling import comment, comment_of, shape_of

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class CSource:
    """A net as C.

    Attributes:
        name: what its functions are called after.
        stem: of both files' names.
        source, header: their text.
        inputs, outputs: name of the argument -> how many numbers, in their order.
        constant_bytes: of the constant arrays; they lie in flash.
        static_bytes: of the static buffers; they lie in RAM.
    """

    name: str
    stem: str
    source: str
    header: str
    inputs: dict[str, int]
    outputs: dict[str, int]
    constant_bytes: int
    static_bytes: int


def write(net: Net, stem: str, in_8_bits: bool = False, output_names: Sequence[str] | None = None) -> CSource:
    """Write a net as C.

    Args:
        net: the operations.
        stem: what the files are called, without their suffixes.
        in_8_bits: whether weights that 8 bits hold exactly are int8.
        output_names: what the outputs are called; None for ``output``, or ``output0`` and so on.

    """
    return _File(net, stem, in_8_bits, output_names).written()


@dataclass
class _Step:
    """A function of the file: its text, and the values whose places are its arguments, the last written to."""

    name: str
    text: str
    reads: list[int]
    writes: str


@dataclass
class _File:
    net: Net
    stem: str
    in_8_bits: bool
    output_names: Sequence[str] | None
    parts: Parts = field(default_factory=Parts)
    nonzero: int = 0

    def written(self) -> CSource:
        self.name = identifier(self.stem)
        self._arguments()
        self.arranged = arranging.arrange(self.net)
        self.memory = memory.arrange(self.arranged.net)
        steps = [self._step(number, operation) for number, operation in enumerate(self.arranged.net.operations)]
        steps += self._copies()
        static = _FLOAT_BYTES * self.memory.size + self.parts.scratch.bytes
        head = self._head(static)
        text = "\n".join([f'{head}\n#include "{self.stem}.h"\n\n{_INCLUDES}', *self._body(steps)])
        return CSource(
            self.name,
            self.stem,
            text,
            self._header(head),
            self.inputs,
            self.outputs,
            self.parts.constants.bytes,
            static,
        )

    def _arguments(self) -> None:
        net = self.net
        inputs = ["input"] if len(net.inputs) == 1 else list(net.inputs)
        several = [f"output{number}" for number in range(len(net.outputs))]
        outputs = ["output"] if len(net.outputs) == 1 else list(self.output_names or several)
        names = distinct([*inputs, *outputs])
        sizes = [int(numpy.prod(shape, dtype=numpy.int64)) for _, shape in net.inputs.values()]
        self.inputs = dict(zip(names, sizes, strict=False))
        self.outputs = {name: view.index.size for name, view in zip(names[len(inputs) :], net.outputs, strict=True)}
        self.input_of = {number: name for name, (number, _) in zip(names, net.inputs.values(), strict=False)}

    def _step(self, number: int, operation: Operation) -> _Step:
        name = f"step{number}_{suffix(operation.name)}"
        arguments = _names(operation)
        stored = None
        if isinstance(operation, Contract):
            reading = self.arranged.readings[operation.output]
            stored = self._stored(operation, reading)
            source, residual = arguments[operation.source.value], operation.residual
            other = source if residual is None else arguments[residual.value]
            body = contraction.body(Layer(operation, reading, stored, name, source, other, self.parts))
        else:
            body = Steps(self.parts.functions, self.parts.constants, name, arguments).body(operation)
        head = comment(number, operation, stored)
        return self._function(name, head, body, arguments, self._place(operation.output))

    def _stored(self, operation: Contract, reading: arranging.Reading) -> Stored:
        stored = store(reading.matrix, self.in_8_bits)
        self.nonzero += stored.nonzero
        return stored

    def _copies(self) -> list[_Step]:
        """Return what copies outputs that are not computed in the caller's arrays."""
        copies = []
        direct = set(self.memory.direct.values())
        for number, (name, view) in enumerate(zip(self.outputs, self.arranged.net.outputs, strict=True)):
            if number not in direct:
                title, arguments = f"copy_output{number}", {view.value: "source"}
                body = Steps(self.parts.functions, self.parts.constants, title, arguments).copy(view)
                copies.append(self._function(title, comment_of([f"Copy what `{name}` is."]), body, arguments, name))
        return copies

    def _function(self, name: str, head: str, body: str, arguments: dict[int, str], writes: str) -> _Step:
        names = list(arguments.values())
        unused = [f"    (void){argument};\n" for argument in names if not re.search(rf"\b{argument}\b", body)]
        parameters = ", ".join([*(f"const float *{argument}" for argument in names), "float *out"])
        text = (
            f"{self.parts.constants.take()}\n{head}\nstatic void {name}({parameters})\n{{\n{''.join(unused)}{body}}}\n"
        )
        return _Step(name, text.lstrip("\n"), list(arguments), writes)

    def _place(self, value: int) -> str:
        """Return where a value lies, as the function to call writes it."""
        if value in self.input_of:
            return self.input_of[value]
        if value in self.memory.direct:
            return list(self.outputs)[self.memory.direct[value]]
        start = self.memory.places[value]
        return f"memory + {start}" if start else "memory"

    def _body(self, steps: list[_Step]) -> list[str]:
        size = self.memory.size
        static = (
            [f"/* What the steps compute, as long as it is needed. */\nstatic float memory[{size}];\n"] if size else []
        )
        calls = [f"    {step.name}({', '.join([*map(self._place, step.reads), step.writes])});" for step in steps]
        run = "\n".join([f"void {self._signature()}", "{", *calls, "}", ""])
        functions = self.parts.functions.text()
        return [
            text
            for text in [*static, self.parts.scratch.text(), functions, *(step.text for step in steps), run]
            if text
        ]

    def _signature(self) -> str:
        arguments = [f"const float *{name}" for name in self.inputs] + [f"float *{name}" for name in self.outputs]
        return f"{self.name}_run({', '.join(arguments)})"

    def _head(self, static: int) -> str:
        size = sum(operation.weight.size for operation in self.net.operations if isinstance(operation, Contract))
        weights = "int8 with a scale for each output, or float32" if self.in_8_bits else "float32"
        lines = [
            f"{self.name}: a model written as C99 by prunus {prunus.__version__}; needs no library but math.h.",
            "",
            f"Weights: {self.nonzero:,} of {size:,} are not zero; {weights}.",
            f"Flash: {self.parts.constants.bytes:,} bytes of constants, and the code.",
            f"RAM: {static:,} bytes of static buffers, and the caller's arrays; no malloc.",
        ]
        return comment_of(lines).replace(" * \n", " *\n")

    def _header(self, head: str) -> str:
        macro = self.name.upper()
        shapes = [shape for _, shape in self.net.inputs.values()]
        lines, sizes = ["Compute one sample.", ""], []
        for kind, arguments, all_shapes in (
            ("INPUT", self.inputs, shapes),
            ("OUTPUT", self.outputs, [view.index.shape for view in self.net.outputs]),
        ):
            for (name, count), shape in zip(arguments.items(), all_shapes, strict=True):
                middle = kind if len(arguments) == 1 else f"{kind}_{name.upper()}"
                sizes.append(f"#define {macro}_{middle}_SIZE {count}")
                verb = "read" if kind == "INPUT" else "written"
                lines.append(
                    f"{name}: {count:,} numbers of shape {shape_of(shape)}, the last dimension fastest; {verb}."
                )
        lines += ["", "No output may lie over an input or another output. The buffers are static: one call at a time."]
        said = comment_of(lines).replace(" * \n", " *\n")
        return _HEADER.format(head=head, macro=macro, sizes="\n".join(sizes), said=said, signature=self._signature())


_INCLUDES = "#include <math.h>\n#include <stdint.h>\n"

_HEADER = """{head}
#ifndef {macro}_H
#define {macro}_H

{sizes}

#ifdef __cplusplus
extern "C" {{
#endif

{said}
void {signature};

#ifdef __cplusplus
}}
#endif

#endif
"""


def _names(operation: Operation) -> dict[int, str]:
    """Return what the arguments for the values that an operation reads are called."""
    values = list(dict.fromkeys(view.value for view in operation.views))
    if len(values) < 2:
        return dict.fromkeys(values, "source")
    if isinstance(operation, Contract):
        return {operation.source.value: "source", values[-1]: "residual"}
    if isinstance(operation, Elementwise) and len(values) == 2:
        return dict(zip(values, ("first", "second"), strict=True))
    return {value: f"source{number}" for number, value in enumerate(values)}
