"""An optimizer's parameters and state, cut along with the model they belong to."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def check_owned(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
    """Make sure that an optimizer holds parameters of the model.

    Raises:
        TypeError: it is no torch optimizer.
        ValueError: none of its parameters is the model's.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    own = {id(parameter) for parameter in parameters.values()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not any(id(parameter) in own for parameter in held):
        raise ValueError(
            f"the optimizer ({type(optimizer).__name__}) holds {len(held)} parameters, none of this model; give the "
            "optimizer that trains the model, or none"
        )


def cut(
    optimizer: torch.optim.Optimizer,
    before: Mapping[str, nn.Parameter],
    after: Mapping[str, nn.Parameter],
    cut_tensor: Callable[[str, Tensor], Tensor],
) -> None:
    """Put the parameters of the smaller model in the place of the larger one's, with what is left of their state.

    Args:
        optimizer: changed in place.
        before: the larger model's parameters by name.
        after: the smaller model's, under the same names; names only it has join the last group.
        cut_tensor: `(name, tensor) -> what is left of a tensor of that parameter's shape`.
    """
    names = {id(parameter): name for name, parameter in reversed(list(before.items()))}
    state: dict[Tensor, dict[str, object]] = {}
    for group in optimizer.param_groups:
        for index, parameter in enumerate(group["params"]):
            name = names.get(id(parameter))
            if name is None:
                continue
            own = optimizer.state.pop(parameter, {})
            group["params"][index] = after[name]
            if own:
                state[after[name]] = {
                    key: cut_tensor(name, value)
                    if isinstance(value, Tensor) and value.shape == parameter.shape
                    else value
                    for key, value in own.items()
                }
    optimizer.state.update(state)
    added = [parameter for name, parameter in after.items() if name not in before]
    if added:
        optimizer.param_groups[-1]["params"].extend(added)
