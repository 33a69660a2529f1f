"""The whole C of a program: one text, with a function for each step in each mode."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TypeAlias

import numpy

from prunus.compiling.codegen import kernel_shapes, kernels, lists, transfer
from prunus.compiling.codegen.numbers import Numbers, function, scalar_types, vector_types
from prunus.compiling.codegen.steps import Emitter
from prunus.compiling.codegen.variants import Variant
from prunus.compiling.codegen.writing import Constants, Needs, Writer
from prunus.compiling.net import Contract, Operation
from prunus.compiling.planning import Plan


@dataclass(frozen=True)
class Source:
    """A program's C, and the constants that it is given when it runs.

    Attributes:
        text: the C.
        constants: what `weights` points to.
        workspace: numbers that one thread needs.
    """

    text: str
    constants: bytes
    workspace: int


@dataclass
class _Gathered:
    numbers: Numbers
    needs: Needs
    constants: Constants = field(default_factory=Constants)
    kernels: dict[object, tuple[str, str]] = field(default_factory=dict)

    def kernel(self, shape: kernel_shapes.Shape, variant: Variant) -> str:
        """Return the name of the kernel for a shape, which is written once."""
        key = (shape, variant)
        if key not in self.kernels:
            name = f"contract{len(self.kernels)}"
            self.kernels[key] = name, kernels.kernel(name, shape, variant, self.needs)
        return self.kernels[key][0]


# (plan it belongs to, what is computed, one way of computing it if that is a contraction)
Trial: TypeAlias = tuple[Plan, Operation, Variant | None]


def write(
    plans: Sequence[Plan], chosen: Mapping[tuple[str, int], Variant], numbers: Numbers, nonfinite: str = "ignore"
) -> Source:
    """Write a program.

    Args:
        plans: of the block mode and of the single one.
        chosen: (mode, number of the output) -> how that contraction is computed.
        numbers: what is computed in.
        nonfinite: ``raise`` to look for infinities and NaN before each contraction, else ``ignore``.
    """
    found = _Gathered(numbers, Needs(numbers))
    steps = "\n".join([*(_mode(plan, chosen, found) for plan in plans), *_looks(plans, nonfinite, found)])
    head = _head(found)
    block = next(plan for plan in plans if not plan.mode.single)
    workspace = max(plan.size for plan in plans)
    sizes = f"enum {{ BLOCK = {block.mode.block}, WORKSPACE = {workspace} }};\n"
    kernels = "\n".join(text for _, text in found.kernels.values())
    runner = _resource("runner.c")
    return Source("\n".join([head, kernels, steps, sizes, runner]), bytes(found.constants.data), workspace)


def _head(found: _Gathered) -> str:
    widths = sorted(found.needs.widths - {1})
    functions = sorted(found.needs.functions, key=lambda each: (each[1], each[0]))
    return "\n".join(
        [
            "/* Written by prunus: a pruned model as a program that skips its zeros. */\n",
            "#include <math.h>\n#include <pthread.h>\n#include <sched.h>\n#include <stdint.h>\n",
            scalar_types(found.numbers),
            _resource("context.h"),
            *(vector_types(found.numbers, width) for width in widths),
            *(transfer.transpose(width) for width in sorted(found.needs.transposed)),
            *(function(found.numbers, name, width) for name, width in functions),
        ]
    )


def write_trials(trials: Sequence[Trial], numbers: Numbers) -> Source:
    """Write operations of one plan by themselves, to time them: `prunus_trial` computes one of them repeatedly."""
    found = _Gathered(numbers, Needs(numbers))
    texts = []
    for place, (plan, operation, variant) in enumerate(trials):
        if isinstance(operation, Contract):
            assert variant is not None
            body = _contract(operation, plan, variant, found)
        else:
            body = Emitter(plan, found.needs, found.constants).body(operation)
        texts.append(f"{_STEP.format(name=f'trial{place}')} {{\n{body}}}\n")
    names = ", ".join(f"trial{place}" for place in range(len(trials)))
    table = f"static void (*const trials[])(const char *, real *, long, long) = {{{names}}};\n"
    kernels = (text for _, text in found.kernels.values())
    head = _head(found)
    return Source("\n".join([head, *kernels, *texts, table, _TRIAL]), bytes(found.constants.data), trials[0][0].size)


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


_TRIAL = """
void prunus_trial(const prunus_context *context, long trial, long times) {
    for (long i = 0; i < times; ++i) trials[trial](context->weights, context->work, 0, 1);
}
"""

_STEP = "APART static void {name}(const char *restrict weights, real *restrict work, long part, long parts)"


def _mode(plan: Plan, chosen: Mapping[tuple[str, int], Variant], found: _Gathered) -> str:
    """Return the functions of one mode's steps, of what loads and stores samples, and a table of the steps."""
    mode = plan.mode.name
    emitter = Emitter(plan, found.needs, found.constants)
    texts, names = [], []
    for place, operation in enumerate(plan.net.operations):
        name = f"{mode}_step{place}"
        names.append(name)
        if isinstance(operation, Contract):
            body = _contract(operation, plan, chosen[mode, operation.output], found)
        else:
            body = emitter.body(operation)
        unused = "" if "weights" in body else "    (void)weights;\n"
        texts.append(f"/* {_title(operation)} */\n{_STEP.format(name=name)} {{\n{unused}{body}}}\n")
    table = f"enum {{ {mode.upper()}_STEPS = {len(names)} }};\n"
    table += f"static void (*const {mode}_steps[])(const char *, real *, long, long) = {{{', '.join(names)}}};\n"
    if not names:
        table = table.replace("{};", "{0};")
    return "\n".join([*texts, table, transfer.load(plan, found.needs), transfer.store(plan, found.needs)])


def _looks(plans: Sequence[Plan], nonfinite: str, found: _Gathered) -> list[str]:
    """Return a function of each mode that looks at what a step is about to read."""
    texts = []
    for plan in plans:
        emitter = Emitter(plan, found.needs, found.constants)
        write = Writer()
        with write.block(f"static long {plan.mode.name}_nonfinite(const real *work, const char *weights, long step)"):
            write("(void)work; (void)weights;")
            with write.block("switch (step)"):
                for place, operation in enumerate(plan.net.operations):
                    if isinstance(operation, Contract) and nonfinite == "raise":
                        with write.block(f"case {place}:"):
                            write(emitter.nonfinite(operation))
            write("return 0;")
        texts.append(write.text())
    return texts


def _title(operation: Operation) -> str:
    shape = "x".join(map(str, operation.box))
    name = re.sub(r"[^\w.() -]", "_", operation.name)  # a name may hold anything, a comment may not
    return f"{name}: {type(operation).__name__.lower()} -> {shape}"


def _contract(operation: Contract, plan: Plan, variant: Variant, found: _Gathered) -> str:
    shape = kernel_shapes.shape_of(operation, plan, variant)
    name = found.kernel(shape, variant)
    dtype = numpy.float32 if found.numbers.bytes == 4 else numpy.float64
    starts, offsets, values, bias = lists.weights(operation, plan, variant, found.constants, dtype)
    source = plan.places[operation.source.value]
    out = plan.places[operation.output] + plan.layouts[operation.output].origin * plan.mode.block
    add = "0"
    if operation.residual is not None:
        add = f"work + {int(plan.addresses(operation.residual).flat[0])}"
    groups = len(operation.weight) // variant.rows
    write = Writer(depth=1)
    write(
        f"{name}((const int32_t *)(weights + {starts}), (const void *)(weights + {offsets}),",
        f"    (const real *)(weights + {values}), (const real *)(weights + {bias}), work + {source}, work + {out},",
        f"    {add}, {groups}, {groups} * part / parts, {groups} * (part + 1) / parts);",
    )
    return write.text()
