"""The smaller model as its exported graph: sizes written into the graph are changed to what is left."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from prunus.coupling import Value
from prunus.coupling.calls import hint
from prunus.exported import ExportedModule
from prunus.shrinking.kept import Kept


def rewrite(kept: Kept, biases: Mapping[str, Tensor], new_biases: Mapping[str, Tensor], why: str) -> ExportedModule:
    """Change the graph of a model to one of what is kept, in place, and return a module that runs it.

    Args:
        kept: what stays; the graph it was found in is changed.
        biases: parameter -> what takes its place, whole.
        new_biases: operation -> a bias that it had not, cut already.
        why: why the model's own class could not be kept, for the module to tell.
    """
    graph = kept.coupling.graph
    program = graph.program
    for node in list(program.graph.nodes):
        if node.op == "call_function":
            _fit(node, kept)
    _cut_tensors(program, kept, biases)
    module = ExportedModule.from_program(program, why)
    for name, bias in new_biases.items():
        _add_bias(module, name, bias)
    module.recompile()
    return module


def _cut_tensors(program: Any, kept: Kept, biases: Mapping[str, Tensor]) -> None:
    """Put what is left of the program's parameters, buffers and constants in their place."""
    for held in (program.state_dict, program.constants):
        for name, tensor in list(held.items()):
            if not isinstance(tensor, Tensor):
                continue
            content = kept.cut(name, biases.get(name, tensor.detach()).to(tensor.dtype))
            is_parameter = isinstance(tensor, nn.Parameter)
            held[name] = nn.Parameter(content, requires_grad=tensor.requires_grad) if is_parameter else content


def _add_bias(module: ExportedModule, name: str, bias: Tensor) -> None:
    node = next(node for node in module.graph.nodes if node.name == name)
    weight = next(node for node in node.args[1:2] if isinstance(node, fx.Node))
    path, _, attribute = str(weight.target).rpartition(".")
    owner = module.get_submodule(path)
    attribute = f"{attribute}_bias" if attribute != "weight" else "bias"
    owner.register_parameter(attribute, nn.Parameter(bias))
    with module.graph.inserting_before(node):
        held = module.graph.get_attr(f"{path}.{attribute}" if path else attribute)
    node.args = (*node.args[:2], held, *node.args[3:])


_FITS: dict[str, Callable[[fx.Node, Kept], None]] = {}


def _fits(*names: str) -> Callable[[Callable[[fx.Node, Kept], None]], Callable[[fx.Node, Kept], None]]:
    def enter(function: Callable[[fx.Node, Kept], None]) -> Callable[[fx.Node, Kept], None]:
        for name in names:
            _FITS[f"aten.{name}"] = function
        return function

    return enter


def _fit(node: fx.Node, kept: Kept) -> None:
    """Change the sizes written into one operation."""
    if isinstance(node.target, torch._ops.OpOverload):
        fit = _FITS.get(str(node.target.overloadpacket))
        if fit is not None:
            fit(node, kept)


@_fits("view", "reshape", "expand", "zeros", "ones", "full", "empty", "new_zeros", "new_ones", "_unsafe_view")
def _sizes(node: fx.Node, kept: Kept) -> None:
    place = next(index for index, arg in enumerate(node.args) if isinstance(arg, (list, tuple)))
    value = kept.coupling.values[node]
    sizes = list(node.args[place])  # type: ignore[arg-type]
    if isinstance(value, Value):
        node.update_arg(place, _resized(node, sizes, value, kept, 0))


@_fits("unflatten")
def _unflatten(node: fx.Node, kept: Kept) -> None:
    _, dim, sizes = node.args[:3]
    value = kept.coupling.values[node]
    if isinstance(value, Value):
        first = dim if dim >= 0 else dim + value.labels.ndim - len(sizes) + 1  # type: ignore[operator, arg-type]
        node.update_arg(2, _resized(node, list(sizes), value, kept, first))  # type: ignore[arg-type]


def _resized(node: fx.Node, sizes: list[Any], value: Value, kept: Kept, first: int) -> list[Any]:
    """Return sizes as they are after the cut; one that hangs on the batch is scaled."""
    new = kept.shape(value) if value.labelled or value.made else list(value.shape)
    result = []
    for place, size in enumerate(sizes):
        old, left = value.shape[first + place], new[first + place]
        if old == left or (isinstance(size, int) and size == -1):
            result.append(size)
        elif isinstance(size, fx.Node):
            with node.graph.inserting_before(node):
                scaled = node.graph.call_function(operator.mul, (size, left))
                divided = node.graph.call_function(operator.floordiv, (scaled, old))
            for made, count in ((scaled, old * left), (divided, left)):
                made.meta["val"] = count
            result.append(divided)
        else:
            result.append(left)
    return result


def _along(node: Any, dim: int, kept: Kept) -> Tensor | None:
    """Return which indices of an input's dimension stay; None where all do."""
    value = kept.coupling.values.get(node)
    if not isinstance(value, Value) or not (value.labelled or value.made):
        return None
    stays = kept.along(value, dim % value.labels.ndim)
    return None if bool(stays.all()) else stays


@_fits("slice")
def _slice(node: fx.Node, kept: Kept) -> None:
    given = [*node.args, *[0, None, None, 1][len(node.args) - 1 :]]
    stays = _along(node.args[0], given[1], kept)  # type: ignore[arg-type]
    if stays is None:
        return
    start, end = (_count(stays, bound, default) for bound, default in ((given[2], 0), (given[3], len(stays))))
    node.args = (node.args[0], given[1], start, end, given[4])


def _count(stays: Tensor, bound: Any, default: int) -> int:
    place = default if bound is None else int(hint(bound.meta["val"] if isinstance(bound, fx.Node) else bound))
    place = max(0, min(len(stays), place + len(stays) if place < 0 else place))
    return int(stays[:place].sum())


@_fits("narrow")
def _narrow(node: fx.Node, kept: Kept) -> None:
    source, dim, start, length = node.args
    stays = _along(source, dim, kept)  # type: ignore[arg-type]
    if stays is not None:
        first, last = _count(stays, start, 0), _count(stays, start + length, len(stays))  # type: ignore[operator]
        node.args = (source, dim, first, last - first)


@_fits("select")
def _select(node: fx.Node, kept: Kept) -> None:
    source, dim, index = node.args
    stays = _along(source, dim, kept)  # type: ignore[arg-type]
    if stays is not None:
        node.args = (source, dim, min(_count(stays, index, 0), int(stays.sum()) - 1))


@_fits("split", "chunk", "split_with_sizes", "tensor_split")
def _split(node: fx.Node, kept: Kept) -> None:
    given: list[Any] = [*node.args, *[None, 0][len(node.args) - 1 :]]
    dim = node.kwargs.get("dim", given[2])
    pieces = kept.coupling.values[node]
    if _along(node.args[0], dim, kept) is None or not isinstance(pieces, list):
        return
    sizes = [int(kept.along(piece, dim % piece.labels.ndim).sum()) for piece in pieces]
    node.target = torch.ops.aten.split_with_sizes.default
    node.args, node.kwargs = (node.args[0], sizes, dim), {}


@_fits("constant_pad_nd", "pad")
def _pad(node: fx.Node, kept: Kept) -> None:
    source = kept.coupling.values.get(node.args[0])  # type: ignore[arg-type]
    value = kept.coupling.values[node]
    if not isinstance(source, Value) or not isinstance(value, Value) or not value.labelled:
        return
    pads = list(node.args[1])  # type: ignore[arg-type]
    for place in range(len(pads) // 2):
        dim = value.labels.ndim - 1 - place
        stays = _along(node, dim, kept)
        if stays is not None:
            before, after = pads[2 * place], pads[2 * place + 1]
            pads[2 * place] = int(stays[:before].sum())
            pads[2 * place + 1] = int(stays[len(stays) - after :].sum()) if after else 0
    node.update_arg(1, pads)


@_fits("group_norm")
def _group_norm(node: fx.Node, kept: Kept) -> None:
    stays = _along(node.args[0], 1, kept)
    if stays is not None:
        groups: Any = node.args[1]
        node.update_arg(1, int(stays.sum()) * groups // len(stays))


_CONVOLUTIONS = [f"conv{dims}d" for dims in (1, 2, 3)] + [f"conv_transpose{dims}d" for dims in (1, 2, 3)]


@_fits(*_CONVOLUTIONS)
def _convolution(node: fx.Node, kept: Kept) -> None:
    """Fewer groups where whole groups went: the inputs that are left, over those of a group."""
    use = next((use for use in kept.coupling.uses if use.node is node), None)
    if use is None or use.groups == 1:
        return
    ends = use.outputs if use.order == (1, 0) else use.inputs
    if ends is None:
        return
    left = int((~kept.gone[kept.coupling.class_of[ends]]).sum())
    node.update_arg(6, left // kept.size(use.weight.name, 1))
