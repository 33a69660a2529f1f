"""Which part of a workspace each value has, shared by values that live at different times."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from prunus.compiling.layout import Layout, Mode
from prunus.compiling.net import Net

# Workspaces begin at, and slots are multiples of, so many bytes: a cache line.
ALIGNMENT = 64


def placed(
    net: Net,
    layouts: Mapping[int, Layout],
    mode: Mode,
    number_bytes: int,
    start: int,
    fillings: Mapping[int, float] = MappingProxyType({}),
) -> tuple[dict[int, int], int]:
    """Give each value a slot of the workspace, which it shares with values of the same layout that live at other times.

    Where there are zeros around, or what `fillings` says, only values laid out alike share, with the same around them:
    nobody writes the zeros again.
    """
    unit = ALIGNMENT // number_bytes
    last = {view.value: step for step, reader in enumerate(net.operations) for view in reader.views}
    last |= {view.value: len(net.operations) for view in net.outputs}
    free: dict[object, list[int]] = {}
    places: dict[int, int] = {}
    # a vector may be read beyond either end of a value: singly, rows are read whole
    top = unit * -(-(start + mode.vector) // unit)

    def key(number: int) -> object:
        layout = layouts[number]
        return (layout, fillings.get(number, 0.0)) if layout.halo else -(-(layout.size + mode.vector) // unit)

    def place(number: int) -> None:
        nonlocal top
        waiting = free.setdefault(key(number), [])
        if waiting:
            places[number] = waiting.pop()
            return
        places[number] = top
        top += unit * -(-(layouts[number].size + mode.vector) // unit)

    for number, _ in net.inputs.values():
        place(number)
    for step, operation in enumerate(net.operations):
        place(operation.output)
        for number in {view.value for view in operation.views} | {operation.output}:
            if last.get(number, step) == step:
                free[key(number)].append(places[number])
    if mode.single:  # of the value that lies last
        top += unit * -(-max(layout.beyond for layout in layouts.values()) // unit)
    return places, top
