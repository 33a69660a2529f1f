"""What the text of a contraction's kernel depends on, and how all kernels are called."""

from __future__ import annotations

from dataclasses import dataclass

from prunus.compiling.codegen.lists import is_narrow
from prunus.compiling.codegen.variants import Variant
from prunus.compiling.layout import Mode
from prunus.compiling.net import Contract, Pointwise
from prunus.compiling.planning import Plan


@dataclass(frozen=True)
class Shape:
    """What a kernel's text depends on, besides the variant: everything else it is given.

    Offsets are counted in elements, and kept in 16 bits where that is enough: the lists are most of what is read.
    """

    mode: Mode
    narrow: bool
    grid: tuple[int, int]
    in_steps: tuple[int, int]
    out_steps: tuple[int, int, int]
    add_steps: tuple[int, int, int] | None
    activation: Pointwise | None
    pool: tuple[str, int, int] | None
    masked: int


def shape_of(contract: Contract, plan: Plan, variant: Variant) -> Shape:
    """Return what a contraction's kernel depends on."""
    mode = plan.mode
    out = plan.layouts[contract.output]
    grid = contract.grid
    if contract.pool is not None:
        _, height, width = contract.pool
        grid = grid[0] // height * height, grid[1] // width * width
    add = None
    if contract.residual is not None:
        addresses = plan.layouts[contract.residual.value].addresses(contract.residual.index)
        steps = [
            int(addresses.take(1, dim).flat[0] - addresses.take(0, dim).flat[0]) if addresses.shape[dim] > 1 else 0
            for dim in range(3)
        ]
        add = steps[1], steps[2], steps[0]
    masked = out.box[2] if mode.single and out.halo.right and out.box[2] % variant.width and variant.width > 1 else 0
    return Shape(
        mode,
        is_narrow(contract, plan),
        grid,
        plan.taps[contract.output].steps,
        (out.pitch * out.block, out.block, out.plane * out.block),
        add,
        contract.activation,
        contract.pool,
        masked,
    )


_HEAD = (
    "static void {name}(const int32_t *restrict starts, const {index} *restrict offsets, const real *restrict values,",
    "    const real *restrict bias, const real *restrict in, real *restrict out, const real *restrict add,",
    "    long groups, long first, long last)",
)


def head(name: str, shape: Shape) -> list[str]:
    """Return the lines that declare a kernel."""
    return [line.format(name=name, index="uint16_t" if shape.narrow else "int32_t") for line in _HEAD]
