"""An optimizer's parameters and state, cut along with the model they belong to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

# Parameter name -> what stays of it.
Cuts: TypeAlias = "Callable[[str], Cut]"


@dataclass(frozen=True)
class Cut:
    """What stays of a parameter.

    Attributes:
        shape: the whole parameter's.
        left: the shape of what stays.
        indices: dimension -> the indices that stay; only dimensions that lose the same ones everywhere.
        whole: what stays of a tensor of the parameter's shape, whose last dimensions may be of size 1.
    """

    shape: torch.Size
    left: torch.Size
    indices: Mapping[int, Tensor]
    whole: Callable[[Tensor], Tensor]

    @property
    def is_cut(self) -> bool:
        """Whether anything goes."""
        return self.shape != self.left


def check_owned(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
    """Make sure that an optimizer holds parameters of the model.

    Raises:
        TypeError: it is no torch optimizer.
        ValueError: none of its parameters is the model's.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    own = {id(parameter) for parameter in parameters.values()}
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not any(id(parameter) in own for parameter in trained):
        raise ValueError(
            f"the optimizer ({type(optimizer).__name__}) holds {len(trained)} parameters, none of this model; give the "
            "optimizer that trains the model, or none"
        )


def check_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], cuts: Cuts) -> None:
    """Make sure that what an optimizer remembers of each parameter can be cut along with it; nothing is changed.

    Raises:
        ValueError: it remembers something whose dimensions are not the parameter's, such as a flat history of all
            gradients; the message names it.
    """
    if not any(cuts(name).is_cut for name in parameters):
        return
    for name, own in _states(optimizer, parameters):
        for key, value in own.items():
            if not isinstance(value, Tensor) and _holds_tensors(value):
                raise _refusal(optimizer, name, key, "several tensors")
            if isinstance(value, Tensor) and (cuts(name).is_cut or value.numel() > parameters[name].numel()):
                _cut(optimizer, name, key, value, cuts(name))


def cut(
    optimizer: torch.optim.Optimizer,
    before: Mapping[str, nn.Parameter],
    after: Mapping[str, nn.Parameter],
    cuts: Cuts,
) -> None:
    """Put the parameters of the smaller model in the place of the larger one's, with what is left of their state.

    Args:
        optimizer: changed in place.
        before: the larger model's parameters by name.
        after: the smaller model's, under the same names; names only it has join the last group.
        cuts: what stays of each parameter.
    """
    states = {
        name: {
            key: _cut(optimizer, name, key, value, cuts(name))
            if isinstance(value, Tensor) and cuts(name).is_cut
            else value
            for key, value in own.items()
        }
        for name, own in _states(optimizer, before)
    }
    names = _names(before)
    for group in optimizer.param_groups:
        for index, parameter in enumerate(group["params"]):
            name = names.get(id(parameter))
            if name is None:
                continue
            optimizer.state.pop(parameter, None)
            group["params"][index] = after[name]
            if name in states:
                optimizer.state[after[name]] = states[name]
    added = [parameter for name, parameter in after.items() if name not in before]
    if added:
        optimizer.param_groups[-1]["params"].extend(added)


def _names(parameters: Mapping[str, nn.Parameter]) -> dict[int, str]:
    return {id(parameter): name for name, parameter in reversed(list(parameters.items()))}


def _states(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> list[tuple[str, dict[str, Any]]]:
    names = _names(parameters)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [
        (names[id(parameter)], dict(optimizer.state[parameter]))
        for parameter in trained
        if id(parameter) in names and optimizer.state.get(parameter)
    ]


def _holds_tensors(value: Any) -> bool:
    """Tell whether a list, tuple or mapping of an optimizer's state holds a tensor."""
    entries = list(value.values()) if isinstance(value, Mapping) else value
    if isinstance(entries, (list, tuple)):
        return any(isinstance(entry, Tensor) or _holds_tensors(entry) for entry in entries)
    return False


def _cut(optimizer: torch.optim.Optimizer, name: str, key: str, value: Tensor, cut: Cut) -> Tensor:
    """Return what stays of a tensor of an optimizer's state, whose dimensions are the parameter's, or some of them."""
    dims = _dims(key, value.shape, cut.shape)
    if dims is None:
        raise _refusal(optimizer, name, key, f"a tensor of shape {tuple(value.shape)}")
    if dims[:2] == list(range(len(cut.shape)))[:2] and len(dims) == len(cut.shape):
        return cut.whole(value)
    for dim, source in enumerate(dims):
        if source is None:
            continue
        if source in cut.indices:
            value = value.index_select(dim, cut.indices[source].to(value.device))
        elif cut.left[source] != cut.shape[source]:
            raise _refusal(optimizer, name, key, "sums over channels of which each group loses others")
    return value


def _dims(key: str, state: torch.Size, shape: torch.Size) -> list[int | None] | None:
    """Return which dimension of the parameter each dimension of its state is; None in it for one of size 1.

    Factored second moments keep sums over the last dimension (rows) or the last but one (columns): Shazeer and Stern,
    "Adafactor: adaptive learning rates with sublinear memory cost", ICML 2018, algorithm 4.
    """
    if state.numel() == 1:
        return [None] * len(state)
    if len(state) == len(shape) and all(one in (1, other) for one, other in zip(state, shape, strict=True)):
        return [place if size == shape[place] else None for place, size in enumerate(state)]
    every: list[int | None] = list(range(len(shape)))
    without_last, without_last_but_one = every[:-1], every[:-2] + every[-1:]
    orders = [without_last, without_last_but_one] if "row" in key else [without_last_but_one, without_last]
    fitting = [dims for dims in orders if tuple(state) == tuple(shape[dim] for dim in dims if dim is not None)]
    ambiguous = len(fitting) > 1 and not ("row" in key or "col" in key)
    return None if not fitting or ambiguous else fitting[0]


def _refusal(optimizer: torch.optim.Optimizer, name: str, key: str, what: str) -> ValueError:
    kind = type(optimizer).__name__
    return ValueError(
        f"the state of the optimizer ({kind}) can't be cut along with the model: of parameter {name!r} it holds "
        f"{key!r}, {what}, whose dimensions are not the parameter's; shrink without optimizer= and make a new one"
    )
