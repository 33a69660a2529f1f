"""Multiply-adds of one forward, counted as they happen and put down to the parameters that cause them."""

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

    `total` and `nonzero` hold those of every counted operation, `layers` the (macs, nonzero) of each parameter,
    None where an operation that could not be counted used it. `uncounted` names those operations.
    """

    total: int
    nonzero: int
    layers: dict[str, tuple[int, int] | None]
    uncounted: tuple[str, ...]


def count_macs(model: nn.Module, inputs: tuple[Tensor, ...], *, name: str = "model") -> Macs:
    """Count the multiply-adds of one forward in eval mode, by watching PyTorch's operations as they run.

    What counts is said in `prunus.graph.macs`. A product belongs to the parameter that is one of its operands: the
    parameter itself, a view (transposed, a chunk), or a tensor made from it and other constants alone (masked,
    normalised, cast). Products of two activations, such as attention scores, are in the totals only. A convolution
    counts its padding as any other position. `nonzero` leaves out the products with a weight that is zero.

    Only what passes through PyTorch's dispatcher on the calling thread is seen; each operation whose
    multiply-adds are not known is listed.

    Raises:
        ValueError: the model fails on these inputs, or a parameter has no values.

    >>> count_macs(nn.Linear(3, 2), (torch.ones(1, 3),)).layers
    {'weight': (6, 6)}
    """
    parameters = unique_parameters(model)
    watch = _Watch(parameters, inputs)
    with undisturbed(model), torch.no_grad(), _separate_operations(), watch:
        run(name, unwrap(model), inputs)
    layers = {name: watch.layer(name) for name, parameter in parameters.items() if parameter.ndim >= 2}
    return Macs(watch.total, watch.nonzero, layers, tuple(sorted(watch.uncounted)))


@contextlib.contextmanager
def _separate_operations() -> Iterator[None]:
    """Keep attention layers and compiled functions from running as one fused operation nobody can look into."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with contextlib.ExitStack() as stack:
            if "torch._dynamo" in sys.modules:  # else nothing is compiled, and importing it takes seconds
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    supports_higher_order_operators = True

    def __init__(self, parameters: Mapping[str, nn.Parameter], inputs: tuple[Tensor, ...]) -> None:
        from prunus.graph.macs import products  # here, so that timing alone does not load what reads graphs

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
            self._unknown.update(self._origins.names)  # any of them may be used in there
            return func(*args, **kwargs)
        # Under inference_mode composite operations arrive whole.
        with self:
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        output = func(*args, **kwargs)
        arguments = list(_tensors((args, kwargs)))
        counted = self._products(func, args, kwargs, output)
        if counted is None:
            self.uncounted.add(func._schema.name)
            self._unknown.update(name for tensor in arguments if (name := self._origins.parameter(tensor)))
        for product in counted or ():
            self._add(product)
        self._origins.follow(arguments, list(_tensors(output)), is_product=bool(counted))
        return output

    def _add(self, product: CountedProduct) -> None:
        weight, name = next(
            ((weight, name) for weight in product.weights if (name := self._origins.parameter(weight))), (None, None)
        )
        nonzero = product.macs
        if weight is not None and name is not None:
            # Every element of the operand is used equally often.
            nonzero = product.macs // weight.numel() * num_nonzero(weight) if weight.numel() else 0
            macs_before, nonzero_before = self._layers[name]
            self._layers[name] = (macs_before + product.macs, nonzero_before + nonzero)
        self.total += product.macs
        self.nonzero += nonzero


class _Origins:
    """Which tensors depend on the inputs, and which are made from one parameter and constants alone."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], inputs: tuple[Tensor, ...]) -> None:
        self.names = list(parameters)
        # storage -> (first byte, byte after the last, name): recurrent layers keep all weights in one storage
        self._spans: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
        self._num: dict[str, int] = {}
        # storage -> (a weak reference, so that the address is not given to another, the parameter or _INPUT)
        self._made: dict[int, tuple[StorageWeakRef, str | None]] = {}
        for name, parameter in parameters.items():
            if (storage := _storage(parameter)) is not None:
                start = int(parameter.storage_offset()) * parameter.element_size()
                end = start + parameter.numel() * parameter.element_size()
                self._spans[storage._cdata].append((start, end, name))
                self._num[name] = parameter.numel()
        for value in inputs:
            self._set(value, _INPUT)

    def parameter(self, tensor: Tensor) -> str | None:
        """Return the parameter a tensor is, is a view of, or is made from."""
        origin = self._of(tensor)
        return None if origin == _INPUT else origin

    def follow(self, arguments: list[Tensor], outputs: list[Tensor], *, is_product: bool) -> None:
        """Note where the outputs of an operation come from."""
        origins = [source for tensor in arguments if (source := self._of(tensor)) is not None]
        origin: str | None
        if _INPUT in origins:
            origin = _INPUT
        elif is_product or not origins:
            origin = None
        else:  # a weight and its scale: the weight is the larger
            origin = max(origins, key=lambda name: self._num[name])
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
        return self._made.get(storage._cdata, (None, None))[1]

    def _set(self, tensor: Tensor, origin: str | None) -> None:
        storage = _storage(tensor)
        if storage is not None and storage._cdata not in self._spans:
            self._made[storage._cdata] = (StorageWeakRef(storage), origin)  # type: ignore[no-untyped-call]


_INPUT = "\0input"  # no parameter can be called so


def _storage(tensor: Tensor) -> Any:
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # sparse layouts and some tensor subclasses have none
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
        tensor = tensor.half()  # PyTorch can't count in 8-bit floats
    return int(torch.count_nonzero(tensor))
