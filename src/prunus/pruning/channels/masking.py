"""Convert removed classes to masks of parameters, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from prunus.graph.coupling import Coupling
from prunus.graph.kept import bound_elements
from prunus.pruning.masks import Masks, check_shape


def masks_of(coupling: Coupling, gone: Tensor, earlier: Mapping[str, Tensor] | None = None) -> Masks:
    """Return masks that prune every weight of the removed classes: producers, consumers, biases and norms.

    Args:
        coupling: the coupled channels of the model.
        gone: which classes are removed, bool per class.
        earlier: masks whose pruned weights stay pruned.
    """
    parameters = dict(coupling.graph.model.named_parameters())
    masks: dict[str, Tensor] = {}

    def mask(name: str) -> Tensor:
        if name not in masks:
            masks[name] = torch.ones(parameters[name].shape, dtype=torch.bool)
        return masks[name]

    for name, dims in coupling.axes:
        stays = ~gone[coupling.axis_classes((name, dims))]
        if name in parameters:
            shape = [size if dim in dims else 1 for dim, size in enumerate(parameters[name].shape)]
            mask(name).logical_and_(stays.reshape(shape))
    for name, bound in coupling.bindings.items():
        if name in parameters:
            stays, met = bound_elements(bound, coupling, gone, parameters[name].numel())
            mask(name).logical_and_((stays | ~met).reshape(parameters[name].shape))
    for name, tensor in (earlier or {}).items():
        if name in masks:
            masks[name] &= tensor.cpu()
        else:
            masks[name] = tensor
    devices = {name: parameters[name].device for name in masks if name in parameters}
    order = [name for name in parameters if name in masks] + [name for name in masks if name not in parameters]
    return Masks({name: masks[name].to(devices.get(name, "cpu")) for name in order})


def gone_of_masks(coupling: Coupling, masks: Mapping[str, Tensor]) -> Tensor:
    """Return the classes of which masks prune all weights on all axes, bool per class.

    Raises:
        TypeError: a mask is not a bool tensor.
        MaskError: a mask has another shape than its parameter.
    """
    gone = torch.zeros(coupling.num_classes, dtype=torch.bool)
    if not masks:
        return gone
    for name, mask in Masks(masks).items():
        if name in coupling.graph.tensors.values():
            check_shape(name, mask, coupling.graph.tensor(name))
    alive = torch.zeros(coupling.num_classes, dtype=torch.bool)
    for axis in coupling.axes:
        name, dims = axis
        classes = coupling.axis_classes(axis)
        gone[classes] = True
        if name not in masks:
            alive[classes] = True
            continue
        mask = masks[name].cpu()
        lead = mask.movedim(dims, tuple(range(len(dims)))).reshape(len(classes), -1)
        alive[classes[lead.any(1)]] = True
    return gone & ~alive & coupling.removable
