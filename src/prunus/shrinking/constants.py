"""Channels that always hold the same number: what they give to the layers behind is a part of those layers' bias."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from prunus.coupling import Coupling, Use, Value, arithmetic, movement
from prunus.coupling.reader import RULES
from prunus.coupling.values import compact
from prunus.shrinking.liveness import consumed, matrix, nonzero, produced

# What may take a bias that it had not: these operations have an argument for it.
_TAKES_BIAS = ("linear", "conv1d", "conv2d", "conv3d")

# What makes constants of constants, channel by channel.
STEADY = (
    movement.same,
    movement.move,
    movement.parts,
    movement.joined,
    movement.padded,
    movement.resized,
    arithmetic.elementwise,
    arithmetic.prelu,
    arithmetic.glu,
    arithmetic.channel_norm,
    arithmetic.reducing,
)


@dataclass
class Constants:
    """Classes whose channels are constant and can be folded into what follows.

    Attributes:
        foldable: bool per class.
        channels: use -> what each of its inputs holds, where it is constant; NaN elsewhere.
    """

    foldable: Tensor
    channels: dict[int, Tensor] = field(default_factory=dict)

    def shift(self, coupling: Coupling, use: Use, gone: Tensor) -> Tensor | None:
        """Return what the classes that go added to each output of a use; None where they added nothing."""
        values = self.channels.get(id(use))
        if values is None or use.inputs is None:
            return None
        going = (gone & self.foldable)[coupling.class_of[use.inputs]]
        values = torch.where(going, values, 0.0)
        if not bool(values.any()):
            return None
        weight = matrix(coupling, use).double()
        weight = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
        return _apply(use, weight, values.double())


def constants(coupling: Coupling, needed: Tensor) -> Constants:
    """Find the classes that matter but are constant, and may go once their constant is in the biases behind.

    A channel is constant if every weight that makes it is zero, or has constants for inputs, and nothing on its way to
    the weights that consume it depends on the input. It may go if each consumer can take the constant as a bias: across
    the zeros that pad a convolution only zero is constant.

    Args:
        coupling: what goes together.
        needed: the classes that matter, bool per class.
    """
    possible = _possible(coupling) & needed
    steady = _settle(coupling, possible)
    if not bool(steady.any()):
        return Constants(steady)
    found = Constants(steady)
    held = _held(coupling, steady)
    for use in coupling.uses:
        if use.inputs is None:
            continue
        classes = coupling.class_of[use.inputs]
        values = held.get(id(use), torch.full((len(classes),), torch.nan))
        found.channels[id(use)] = values
        reaches = consumed(use, nonzero(coupling, use), _all_outputs(coupling, use))
        refused = steady[classes] & reaches & (~_takes(coupling, use, values) | _strange(coupling, use))
        found.foldable[classes[refused]] = False
    while True:  # what rests on a channel that can't go is constant still, but its own value is not at stake
        again = _settle(coupling, found.foldable)
        if torch.equal(again, found.foldable):
            return found
        found.foldable = again


def _possible(coupling: Coupling) -> Tensor:
    """Return the classes that no operation lets depend on the input but the weights that make them."""
    possible = coupling.removable & ~coupling.leaky
    made = torch.zeros_like(possible)
    makers = set()
    for use in coupling.uses:
        if use.outputs is not None and not use.recurrent:
            made[coupling.class_of[use.outputs]] = True
            makers.add(use.node)
    possible &= made
    tainted = _tainted(coupling)
    for node, found in coupling.values.items():
        if node in makers or (_is_steady(node) and not _meets_input(node, coupling, tainted)):
            continue
        for value in found if isinstance(found, list) else [found]:
            if value is not None and value.labelled:
                classes = coupling.classes(compact(value.labels))
                possible[classes[classes >= 0]] = False
    return possible


def _is_steady(node: fx.Node) -> bool:
    """Tell whether an operation makes constants of constants, channel by channel."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return True  # a placeholder, or a piece of what was looked at already
    name = str(node.target.overloadpacket)
    return RULES.get(name, RULES.get(name.removesuffix("_"))) in STEADY


def _meets_input(node: fx.Node, coupling: Coupling, tainted: set[fx.Node]) -> bool:
    """Tell whether channels meet something there that is no channel, but depends on the input."""
    for argument in node.all_input_nodes:
        found = coupling.values.get(argument)
        listed = found if isinstance(found, list) else [found]
        if argument in tainted and any(isinstance(value, Value) and not value.labelled for value in listed):
            return True
    return False


def _tainted(coupling: Coupling) -> set[fx.Node]:
    """Return the operations whose values depend on the model's inputs, sizes left aside."""
    tainted: set[fx.Node] = set()
    for node in coupling.graph.nodes:
        is_tensor = not isinstance(node.meta.get("val"), (int, torch.SymInt, torch.SymFloat, torch.SymBool))
        from_input = node.op == "placeholder" and node.name not in coupling.graph.tensors
        if is_tensor and (from_input or any(argument in tainted for argument in node.all_input_nodes)):
            tainted.add(node)
    return tainted


def _settle(coupling: Coupling, possible: Tensor) -> Tensor:
    """Return the possible classes all of whose makers get zero or constants: the largest such set."""
    steady = possible.clone()
    while True:
        before = int(steady.sum())
        for use in coupling.uses:
            if use.outputs is None:
                continue
            outputs = coupling.class_of[use.outputs]
            if not bool(steady[outputs].any()):
                continue
            carries = nonzero(coupling, use)
            count = carries.shape[1] * (use.groups if use.order == (0, 1) else 1)
            changing = (
                ~steady[coupling.class_of[use.inputs]]
                if use.inputs is not None
                else torch.ones(count, dtype=torch.bool)
            )
            steady[outputs[produced(use, carries, changing)]] = False
        if int(steady.sum()) == before:
            return steady


def _held(coupling: Coupling, steady: Tensor) -> dict[int, Tensor]:
    """Run the model, and read off what channels hold where weights consume them; NaN where it is not one number."""
    wanted = {use.node: use for use in coupling.uses if use.inputs is not None and not use.recurrent}
    held: dict[int, Tensor] = {}

    class Watch(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            if node in wanted:
                use = wanted[node]
                for argument in node.all_input_nodes:
                    if _is_labelled(coupling, argument):
                        held[id(use)] = _single(self.env[argument], coupling.values[argument], use, coupling)
            return super().run_node(node)

    graph = coupling.graph
    flat = []
    inputs = iter([*graph.args, *graph.kwargs.values()])
    for node in graph.nodes:
        if node.op == "placeholder":
            name = graph.tensors.get(node.name)
            flat.append(graph.tensor(name) if name is not None else next(inputs))
    with torch.no_grad():
        Watch(graph.program.graph_module).run(*flat)
    return held


def _is_labelled(coupling: Coupling, node: fx.Node) -> bool:
    found = coupling.values.get(node)
    return isinstance(found, Value) and found.labelled


def _single(tensor: Tensor, found: Any, use: Use, coupling: Coupling) -> Tensor:
    """Return what each input channel of a use holds, double; NaN where that differs from place to place."""
    assert use.inputs is not None
    classes = coupling.classes(found.labels)
    wanted = coupling.class_of[use.inputs]
    result = torch.full((len(wanted),), torch.nan, dtype=torch.float64)
    dims = [dim for dim, size in enumerate(tensor.shape) if size == len(wanted)]
    for dim in dims:
        if torch.equal(classes.movedim(dim, 0).reshape(len(wanted), -1)[:, 0], wanted):
            rows = tensor.movedim(dim, 0).reshape(len(wanted), -1).double().cpu()
            same = (rows == rows[:, :1]).all(1)
            result[same] = rows[same, 0]
            return result
    return result


def _takes(coupling: Coupling, use: Use, values: Tensor) -> Tensor:
    """Return for each input of a use whether its value can become a part of the bias, bool per input."""
    kind = str(use.node.target).removeprefix("aten.").partition(".")[0]
    shared = sum(each.weight.name == use.weight.name for each in coupling.uses) > 1  # its bias serves other inputs too
    free = kind in _TAKES_BIAS and _named(use.node)["bias"] is None  # a bias that is computed is none to add to
    if shared or use.recurrent or not (use.bias is not None or free) or _pads(use.node, kind):
        return values == 0
    return ~values.isnan()


def _strange(coupling: Coupling, use: Use) -> Tensor:
    """Return which inputs meet a weight that is NaN or infinite, bool per input: times zero that is NaN, not zero."""
    strange = ~matrix(coupling, use).isfinite()
    return consumed(use, strange.flatten(2).any(2) if strange.ndim > 2 else strange, _all_outputs(coupling, use))


def _pads(node: fx.Node, kind: str) -> bool:
    """Tell whether an operation is a convolution that pads with zeros: the constant does not reach its edges evenly."""
    if not kind.startswith("conv"):
        return False
    padding = _named(node)["padding"]
    return "transpose" in kind or (padding == "same" if isinstance(padding, str) else any(map(bool, padding)))


def _named(node: fx.Node) -> dict[str, Any]:
    target: Any = node.target
    given = {
        parameter.name: node.args[index] if index < len(node.args) else parameter.default_value
        for index, parameter in enumerate(target._schema.arguments)
    }
    return given | dict(node.kwargs)


def _apply(use: Use, weight: Tensor, values: Tensor) -> Tensor:
    """Return weight times values, with groups: one number an output."""
    if use.groups == 1:
        return weight @ values
    by_group = values.reshape(use.groups, -1)
    if use.order == (1, 0):
        return torch.einsum("ogi,gi->go", weight.reshape(weight.shape[0], use.groups, -1), by_group).flatten()
    return torch.einsum("goi,gi->go", weight.reshape(use.groups, -1, weight.shape[1]), by_group).flatten()


def _all_outputs(coupling: Coupling, use: Use) -> Tensor:
    weight = matrix(coupling, use)
    return torch.ones(weight.shape[0] * (use.groups if use.order == (1, 0) else 1), dtype=torch.bool)
