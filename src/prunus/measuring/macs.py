"""Count the multiply-adds of one forward while it runs, in total and for each parameter."""

from __future__ import annotations

import contextlib
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from prunus.forward import run, undisturbed, unique_parameters
from prunus.supported import unwrap

if TYPE_CHECKING:
    from prunus.graph.macs import CountedProduct


@dataclass(frozen=True)
class Macs:
    """Multiply-adds of one forward.

    `total` and `nonzero` are sums over all counted operations. `layers` has the (macs, nonzero) of each parameter, None
    if an operation that could not be counted uses it. `uncounted` names those operations.
    """

    total: int
    nonzero: int
    layers: dict[str, tuple[int, int] | None]
    uncounted: tuple[str, ...]


def count_macs(model: nn.Module, inputs: tuple[Tensor, ...], *, name: str = "model") -> Macs:
    """Count the multiply-adds of one forward in eval mode, by intercepting PyTorch's operations.

    `prunus.graph.macs` defines what counts. A product belongs to the parameter that is one of its operands: the
    parameter itself, a view of it (transposed, a chunk), or a tensor computed only from it and constants (masked,
    normalised, cast). Products of two activations, such as attention scores, are in the totals only. Padding of a
    convolution counts like any other position. `nonzero` does not count products with a zero weight.

    Only operations that PyTorch's dispatcher runs on the calling thread are counted; unknown operations are listed.

    Raises:
        ValueError: the model fails on these inputs, or a parameter has no values.

    >>> count_macs(nn.Linear(3, 2), (torch.ones(1, 3),)).layers
    {'weight': (6, 6)}
    """
    parameters = unique_parameters(model)
    counter = _MacCounter(parameters, inputs)
    with undisturbed(model), torch.no_grad(), _separate_operations(), counter:
        run(name, unwrap(model), inputs)
    layers = {name: counter.layer(name) for name, parameter in parameters.items() if parameter.ndim >= 2}
    return Macs(counter.total, counter.nonzero, layers, tuple(sorted(counter.uncounted)))


@contextlib.contextmanager
def _separate_operations() -> Iterator[None]:
    """Within this context, attention layers and compiled functions run as separate, not as fused, operations."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with contextlib.ExitStack() as stack:
            if "torch._dynamo" in sys.modules:  # otherwise nothing is compiled; importing it takes seconds
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _MacCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    supports_higher_order_operators = True

    def __init__(self, parameters: Mapping[str, nn.Parameter], inputs: tuple[Tensor, ...]) -> None:
        from prunus.graph.macs import products  # here, so that timing alone does not import the graph modules

        super().__init__()  # type: ignore[no-untyped-call]
        self._products = products
        self.total = 0
        self.nonzero = 0
        self.uncounted: set[str] = set()
        self._layers: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
        self._unknown: set[str] = set()
        self._origins = _Origins(parameters, inputs)

    def layer(self, name: str) -> tuple[int, int] | None:
        return None if name in self._unknown else self._layers.get(name, (0, 0))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):  # control flow: a program inside an operation
            self.uncounted.add(func.__name__)
            self._unknown.update(self._origins.names)  # it may use any of them
            return func(*args, **kwargs)
        # Under inference_mode, composite operations are not decomposed before they get here.
        with self:
            decomposed = func.decompose(*args, **kwargs)
        if decomposed is not NotImplemented:
            return decomposed
        output = func(*args, **kwargs)
        arguments = list(_tensors((args, kwargs)))
        products = self._products(func, args, kwargs, output)
        if products is None:
            self.uncounted.add(func._schema.name)
            self._unknown.update(name for tensor in arguments if (name := self._origins.parameter(tensor)))
        for product in products or ():
            self._add(product)
        self._origins.follow(arguments, list(_tensors(output)), is_product=bool(products))
        return output

    def _add(self, product: CountedProduct) -> None:
        weight, name = next(
            ((weight, name) for weight in product.weights if (name := self._origins.parameter(weight))), (None, None)
        )
        nonzero = product.macs
        if weight is not None and name is not None:
            # every element of the weight is in the same number of products
            nonzero = product.macs // weight.numel() * num_nonzero(weight) if weight.numel() else 0
            macs_before, nonzero_before = self._layers[name]
            self._layers[name] = (macs_before + product.macs, nonzero_before + nonzero)
        self.total += product.macs
        self.nonzero += nonzero


class _Origins:
    """Which tensors depend on the inputs, and which are computed only from one parameter and constants."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], inputs: tuple[Tensor, ...]) -> None:
        self.names = list(parameters)
        # storage -> (first byte, end, name): recurrent layers keep all weights in one storage
        self._spans: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
        self._sizes: dict[str, int] = {}
        # storage -> (a weak reference, so that its address is not reused, the parameter or _INPUT)
        self._computed: dict[int, tuple[StorageWeakRef, str | None]] = {}
        for name, parameter in parameters.items():
            if (storage := _storage(parameter)) is not None:
                start = int(parameter.storage_offset()) * parameter.element_size()
                end = start + parameter.numel() * parameter.element_size()
                self._spans[storage._cdata].append((start, end, name))
                self._sizes[name] = parameter.numel()
        for value in inputs:
            self._set(value, _INPUT)

    def parameter(self, tensor: Tensor) -> str | None:
        """Return the parameter that a tensor is, is a view of, or is computed from."""
        origin = self._of(tensor)
        return None if origin == _INPUT else origin

    def follow(self, arguments: list[Tensor], outputs: list[Tensor], *, is_product: bool) -> None:
        """Record the origin of an operation's outputs."""
        origins = [source for tensor in arguments if (source := self._of(tensor)) is not None]
        origin: str | None
        if _INPUT in origins:
            origin = _INPUT
        elif is_product or not origins:
            origin = None
        else:  # of a weight and its scale, the weight is larger
            origin = max(origins, key=lambda name: self._sizes[name])
        for tensor in outputs:
            self._set(tensor, origin)

    def _of(self, tensor: Tensor) -> str | None:
        storage = _storage(tensor)
        if storage is None:
            return None
        at = tensor.storage_offset() * tensor.element_size()
        for start, end, name in self._spans.get(storage._cdata, ()):
            if start <= at < end:
                return name
        return self._computed.get(storage._cdata, (None, None))[1]

    def _set(self, tensor: Tensor, origin: str | None) -> None:
        storage = _storage(tensor)
        if storage is not None and storage._cdata not in self._spans:
            self._computed[storage._cdata] = (StorageWeakRef(storage), origin)  # type: ignore[no-untyped-call]


_INPUT = "\0input"  # not a possible name of a parameter


def _storage(tensor: Tensor) -> Any:
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # sparse layouts and some tensor subclasses have no storage
        return None


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for entry in tree:
            yield from _tensors(entry)
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))


def num_nonzero(tensor: Tensor) -> int:
    """Count the elements that are not zero, in any dtype; NaN is not zero."""
    if tensor.is_floating_point() and tensor.element_size() == 1:
        tensor = tensor.half()  # count_nonzero does not support 8-bit floats
    return int(torch.count_nonzero(tensor))
