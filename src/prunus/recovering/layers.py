"""The layers of a graph that can be refitted, and where their outputs are held against the dense model's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import fx

from prunus.graph import Graph
from prunus.graph.calls import CalledOperation, arguments_by_name
from prunus.graph.operations import Family, find

_REFITTED = (Family.LINEAR, Family.CONVOLUTION)


@dataclass(frozen=True, eq=False)
class Layer:
    """An operation that multiplies its input by a parameter, and what follows until its result is compared.

    Attributes:
        call: the operation.
        weight, bias: the names of its parameters.
        norm: the BatchNorm behind it, whose output goes on as the layer's own.
        sum: the residual sum behind it, and `other` what it is added to.
        rectified: whether a ReLU follows, which shows nothing of negative numbers.
    """

    call: CalledOperation
    weight: str
    bias: str | None = None
    norm: fx.Node | None = None
    sum: fx.Node | None = None
    other: fx.Node | None = None
    rectified: bool = False

    @property
    def node(self) -> fx.Node:
        """Where it stands in the graph."""
        return self.call.node

    def alone(self) -> Layer:
        """Return the layer without the residual sum, whose other term is not there in time."""
        return replace(self, sum=None, other=None, rectified=False)


def layers(graph: Graph) -> Iterator[Layer]:
    """Yield the layers whose weight is a parameter of the model that no other operation uses."""
    for node in graph.nodes:
        if node.op != "call_function" or find(node.target).family not in _REFITTED:
            continue
        call = CalledOperation(node, arguments_by_name(node))
        weight, bias = call["weight"], call["bias"]
        if _is_own(graph, weight) and (bias is None or _is_own(graph, bias)):
            name = None if bias is None else graph.tensors[bias.name]
            yield _with_followers(graph, Layer(call, graph.tensors[weight.name], name))


def _is_own(graph: Graph, node: fx.Node) -> bool:
    parameters = graph.program.graph_signature.inputs_to_parameters  # buffers and constants aren't refitted
    return node.op == "placeholder" and node.name in parameters and len(node.users) == 1


def _with_followers(graph: Graph, layer: Layer) -> Layer:
    """Return a layer with what follows it, as long as nothing else reads what lies between."""
    found: dict[str, fx.Node] = {}
    node = layer.node
    while len(node.users) == 1 and (after := _follower(node, next(iter(node.users)), found, graph.tensors)):
        node = after
        if "rectified" in found:
            break
    return Layer(
        layer.call,
        layer.weight,
        layer.bias,
        found.get("norm"),
        found.get("sum"),
        found.get("other"),
        "rectified" in found,
    )


def _follower(node: fx.Node, user: fx.Node, found: dict[str, fx.Node], tensors: Mapping[str, str]) -> fx.Node | None:
    """Note what an operation behind a layer is, and return it if the layer's output goes on through it."""
    if user.op != "call_function":
        return None
    row = find(user.target)
    if row.name == "batch_norm" and not found and _is_fixed(user, node, tensors) and _is_by_output(node):
        found["norm"] = user
    elif row.name == "add" and "sum" not in found and (other := _added(node, user)) is not None:
        found |= {"sum": user, "other": other}
    elif row.name == "relu":
        found["rectified"] = user
    elif row.name not in ("dropout", "feature_dropout"):
        return None
    return user


def _is_fixed(norm: fx.Node, node: fx.Node, tensors: Mapping[str, str]) -> bool:
    """Tell whether a BatchNorm is by statistics that it keeps, with scale and shift or without."""
    call = arguments_by_name(norm)
    held = [call[name] for name in ("running_mean", "running_var")]
    of_own = [call[name] for name in ("weight", "bias") if call[name] is not None]
    if call["training"] is not False:
        return False
    return call["input"] is node and all(value is not None and value.name in tensors for value in (*held, *of_own))


def _is_by_output(node: fx.Node) -> bool:
    """Tell whether BatchNorm behind a layer normalises each of its outputs: of a sequence, it would each position."""
    return find(node.target).family is Family.CONVOLUTION or node.meta["val"].ndim == 2


def _added(node: fx.Node, sum_: fx.Node) -> fx.Node | None:
    """Return what a layer's output is added to, if both have the shape of the sum and count once."""
    call = arguments_by_name(sum_)
    terms = [call.get("self"), call.get("other")]
    if call.get("alpha", 1) != 1 or not all(isinstance(term, fx.Node) for term in terms) or terms[0] is terms[1]:
        return None
    other = terms[1] if terms[0] is node else terms[0]
    assert isinstance(other, fx.Node)
    values = [term.meta.get("val") for term in (node, other)]
    shapes = [getattr(value, "shape", None) for value in values]
    return other if shapes[0] is not None and shapes[0] == shapes[1] else None
