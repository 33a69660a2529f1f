"""What goes into a graph and what comes out: nested containers whose leaves are tensors or fixed values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from inspect import Parameter
from inspect import Signature as CallSignature
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

PLAIN: dict[str, type] = {"tuple": tuple, "list": list, "dict": dict}


@dataclass(frozen=True)
class Structure:
    """A value's containers.

    Attributes:
        kind: "leaf", "tuple", "list", "dict", or "class" for a container that was registered with PyTorch.
        children: what it holds, in order; a leaf holds nothing.
        keys: of a dict, or of a class that has some.
        spec: what rebuilds a class.
    """

    kind: str = "leaf"
    children: tuple[Structure, ...] = ()
    keys: tuple[Any, ...] = ()
    spec: pytree.TreeSpec | None = None

    @classmethod
    def of(cls, spec: pytree.TreeSpec) -> Structure:
        """Read a structure of `torch.export`."""
        if spec.is_leaf():
            return cls()
        children = tuple(map(cls.of, spec.children()))
        for kind, container in PLAIN.items():
            if spec.type is container:
                return cls(kind, children, tuple(spec.context) if kind == "dict" else ())
        return cls("class", children, _keys(spec.context, len(children)), spec)

    @property
    def num_leaves(self) -> int:
        """How many leaves there are."""
        return 1 if self.kind == "leaf" else sum(child.num_leaves for child in self.children)

    def build(self, leaves: Iterator[Any]) -> Any:
        """Return a value of this structure from its leaves in order."""
        if self.kind == "leaf":
            return next(leaves)
        if self.kind == "dict":
            return {key: child.build(leaves) for key, child in zip(self.keys, self.children, strict=True)}
        if self.kind == "class":
            assert self.spec is not None
            return pytree.tree_unflatten([next(leaves) for _ in range(self.num_leaves)], self.spec)
        return PLAIN[self.kind](child.build(leaves) for child in self.children)

    def leaves(self, value: Any, name: str) -> Iterator[Any]:
        """Yield the leaves of a value in order; `name` is what errors call it.

        Raises:
            ValueError: the value has another structure.
        """
        if self.kind == "leaf":
            yield value
            return
        parts = self._parts(value)
        if parts is None:
            raise ValueError(f"input {name!r} must be {self}, got {_shown(value)}")
        for path, child, part in zip(self._paths(), self.children, parts, strict=True):
            yield from child.leaves(part, f"{name}{path}")

    def names(self, name: str) -> Iterator[str]:
        """Yield what errors call the leaves."""
        if self.kind == "leaf":
            yield name
        for path, child in zip(self._paths(), self.children, strict=True):
            yield from child.names(f"{name}{path}")

    def _parts(self, value: Any) -> list[Any] | None:
        """Return what a value holds in place of the children, or None where it holds something else."""
        if self.kind == "dict":
            fits = isinstance(value, dict) and value.keys() == set(self.keys)
            return [value[key] for key in self.keys] if fits else None
        if self.kind == "class":
            flatten = pytree.SUPPORTED_NODES.get(type(value))
            parts = list(flatten.flatten_fn(value)[0]) if flatten else []
        else:
            parts = list(value) if isinstance(value, (tuple, list)) and isinstance(value, PLAIN[self.kind]) else []
        return parts if len(parts) == len(self.children) else None

    def _paths(self) -> list[str]:
        return [f"[{key!r}]" for key in self.keys or range(len(self.children))]

    def __str__(self) -> str:
        if self.kind == "class" and self.spec is not None:
            return f"of type {self.spec.type.__name__}, with {len(self.children)} entries"
        keys = f" and the keys {', '.join(map(repr, self.keys))}" if self.keys else ""
        return f"a {self.kind} with {len(self.children)} entries{keys}"


@dataclass(frozen=True)
class Input:
    """A leaf of the inputs.

    Attributes:
        name: the argument, and the way to the leaf within it.
        dtype: that of the tensor it was traced with; None where it is no tensor.
        shape: the sizes; a text stands for a free size, the same text for the same size.
        value: what it must be, where it is no tensor.
        example: the sizes it was traced with; empty where they are not known.
    """

    name: str
    dtype: torch.dtype | None
    shape: tuple[int | str, ...] = ()
    value: Any = None
    example: tuple[int, ...] = ()

    def check(self, value: Any, free: dict[str, int]) -> None:
        """Refuse what the graph was not made for; `free` holds the free sizes that were met already.

        Raises:
            ValueError: it is no tensor, of another shape, or another value.
        """
        if self.dtype is None:
            if isinstance(value, Tensor) or value != self.value:
                raise ValueError(
                    f"input {self.name!r} must be {self.value!r}, for which the graph was made, got {_shown(value)}"
                )
            return
        if not isinstance(value, Tensor):
            raise ValueError(f"input {self.name!r} must be a tensor of the shape {self._shape()}, got {_shown(value)}")
        fits = len(value.shape) == len(self.shape)
        for size, wanted in zip(value.shape, self.shape, strict=False):
            fits = fits and size == (free.setdefault(wanted, size) if isinstance(wanted, str) else wanted)
        if not fits:
            sizes = ", ".join(f"{name} = {free[name]}" for name in self.shape if isinstance(name, str) and name in free)
            raise ValueError(
                f"input {self.name!r} must have the shape {self._shape()}, got {_shown(value)}"
                + (f", where {sizes}" if sizes else "")
            )

    def _shape(self) -> str:
        return f"({', '.join(map(str, self.shape))}{',' if len(self.shape) == 1 else ''})"


@dataclass(frozen=True)
class Signature:
    """How a graph is called, and what it gives back.

    Attributes:
        arguments: name -> structure, in order.
        num_positional: how many of them, from the first, may be given by position.
        inputs: the leaves of all arguments, in order.
        output: the structure of what comes out.
    """

    arguments: dict[str, Structure]
    num_positional: int
    inputs: tuple[Input, ...]
    output: Structure

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Return the leaves of a call's arguments.

        Raises:
            ValueError: one is missing, unknown, or not of the shape that the graph was made for.
        """
        arguments = self._by_name(args, kwargs)
        leaves: list[Any] = []
        for name, structure in self.arguments.items():
            leaves.extend(structure.leaves(arguments[name], name))
        free: dict[str, int] = {}
        for wanted, leaf in zip(self.inputs, leaves, strict=True):
            wanted.check(leaf, free)
        return leaves

    def _by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        names = list(self.arguments)
        if len(args) > self.num_positional:
            raise ValueError(
                f"the model takes {self.num_positional} inputs by position, got {len(args)}; it takes {self}"
            )
        arguments = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name not in self.arguments or name in arguments:
                problem = "given twice" if name in arguments else "unknown"
                raise ValueError(f"input {name!r} is {problem}; the model takes {self}")
            arguments[name] = value
        missing = [name for name in names if name not in arguments]
        if missing:
            raise ValueError(f"input {missing[0]!r} is missing; the model takes {self}")
        return arguments

    def for_inspection(self) -> CallSignature:
        """Return it as Python has it, `self` first."""
        kinds = [Parameter.POSITIONAL_OR_KEYWORD] * self.num_positional + [Parameter.KEYWORD_ONLY] * (
            len(self.arguments) - self.num_positional
        )
        parameters = [Parameter(name, kind) for name, kind in zip(self.arguments, kinds, strict=True)]
        return CallSignature([Parameter("self", Parameter.POSITIONAL_ONLY), *parameters])

    def __str__(self) -> str:
        return ", ".join(f"{leaf.name} {leaf._shape() if leaf.dtype else repr(leaf.value)}" for leaf in self.inputs)


def all_names(arguments: dict[str, Structure]) -> Iterable[str]:
    """Return what errors call the leaves of arguments."""
    return [leaf for name, structure in arguments.items() for leaf in structure.names(name)]


def _keys(context: Any, number: int) -> tuple[Any, ...]:
    """Return the keys of a registered container, such as an output of transformers, where its context lists them."""
    if isinstance(context, (list, tuple)) and len(context) == number and all(isinstance(k, str) for k in context):
        return tuple(context)
    return ()


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    return repr(value) if value is None or isinstance(value, (bool, int, float, str)) else f"a {type(value).__name__}"
