"""Published methods that prune a network one layer after the other from unlabelled samples, as their papers have them.

A layer's targets are what its own dense weights make of its inputs: those of the dense network, as in Optimal Brain
Compression, or of the network as pruned so far, as in SparseGPT. BatchNorm's statistics are taken anew at
the end, as Optimal Brain Compression does for convolutional networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from prunus.pruning import products
from prunus.pruning.moments import Moments, damped
from prunus.recovering import norms

# (weights, mask by magnitude, X^T X), each of one group -> weights
Solve = Callable[[Tensor, Tensor, Tensor], Tensor]


def layer_by_layer(
    model: nn.Module, masks: dict[str, Tensor], batches: Sequence[Tensor], solve: Solve, *, dense_inputs: bool
) -> None:
    """Prune the layers of a model in the order they are called, in place.

    Args:
        model: the dense model.
        masks: of its weights, by magnitude.
        batches: the samples.
        solve: what finds the weights of a layer.
        dense_inputs: whether a layer's inputs are the dense model's, or those of the model as pruned so far.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, _ConvNd))}
    read_first = _read(layers, model, batches) if dense_inputs else {}
    for name, module in layers.items():
        linear, gram = read_first[name] if dense_inputs else _read({name: module}, model, batches)[name]
        dense, kept = linear.rows(module.weight.detach()).double(), linear.rows(masks[f"{name}.weight"])
        solved = [solve(*parts) for parts in zip(dense, kept, gram, strict=True)]
        with torch.no_grad():
            module.weight.copy_(linear.weight(torch.stack(solved), module.weight.shape))

    def run(model: nn.Module) -> None:
        for batch in batches:
            model(batch)

    buffers = dict(model.named_buffers())
    for name, value in norms.estimate(model, run).items():
        buffers[name].copy_(value)


def _read(
    layers: dict[str, nn.Module], model: nn.Module, batches: Sequence[Tensor]
) -> dict[str, tuple[products.LinearMap, Tensor]]:
    """Return what layers do, and X^T X of their inputs, by a run of the model on all batches."""
    moments = {name: Moments() for name in layers}
    maps: dict[str, products.LinearMap] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def add(module: nn.Module, args: tuple[Tensor]) -> None:
            maps[name], inputs = products.of_module(module, args[0])
            moments[name].add(maps[name].patches(inputs))

        return add

    hooks = [module.register_forward_pre_hook(hook(name)) for name, module in layers.items()]
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for own in hooks:
        own.remove()
    return {name: (maps[name], moments[name].gram) for name in layers}


def sparse_gpt(dense: Tensor, mask: Tensor, gram: Tensor, block: int = 128) -> Tensor:
    """Solve as SparseGPT (arXiv:2301.00774, algorithm 1): blocks of 128 columns, errors moved to the columns behind."""
    weight = dense.clone()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(gram.unsqueeze(0), 1e-2)[0]))
    factor = torch.linalg.cholesky(inverse, upper=True)
    share = 1 - float(mask.double().mean())
    for start in range(0, weight.shape[1], block):
        stop = min(start + block, weight.shape[1])
        scores = weight[:, start:stop].square() / factor.diagonal()[start:stop].square()
        gone = torch.zeros_like(scores, dtype=torch.bool).flatten()
        gone[scores.flatten().argsort()[: round(share * scores.numel())]] = True
        gone = gone.view(scores.shape)
        for column in range(start, stop):
            error = torch.where(gone[:, column - start], weight[:, column], 0.0) / factor[column, column]
            weight[:, column:] -= error.unsqueeze(1) * factor[column, column:]
        weight[:, start:stop][gone] = 0
    return weight


def alps(dense: Tensor, mask: Tensor, gram: Tensor) -> Tensor:
    """Solve as ALPS (arXiv:2406.07831, algorithm 1): ADMM with a growing penalty, then conjugate gradients.

    Inputs are scaled to a Gram matrix with the diagonal 1; the penalty grows by how fast the support settles.
    """
    count = int(mask.sum())
    gram = damped(gram.unsqueeze(0), 1e-2)[0]
    scale = gram.diagonal().sqrt()
    gram, dense = gram / scale / scale.unsqueeze(1), dense * scale
    values, vectors = torch.linalg.eigh(gram)
    right = dense @ gram
    penalty, kept, dual = 0.1, dense.clone(), torch.zeros_like(dense)
    support = kept != 0
    for step in range(300):
        weight = ((right - dual + penalty * kept) @ vectors / (values + penalty)) @ vectors.T
        kept = _largest(weight + dual / penalty, count)
        dual = dual + penalty * (weight - kept)
        if step % 3 == 2:
            now = kept != 0
            changed = int((now != support).sum())
            support = now
            if changed == 0:
                break
            penalty *= 1.3 if changed >= 0.1 * count else 1.2 if changed >= 0.005 * count else 1.1
    return _solved(gram, right, support) / scale


def ridge(dense: Tensor, mask: Tensor, gram: Tensor) -> Tensor:
    """Solve least squares under the mask of the largest weights, damped by 1% of the mean diagonal."""
    drawn = damped(gram.unsqueeze(0), 1e-2)[0]
    return _solved(drawn, dense @ drawn, mask)


def _solved(gram: Tensor, right: Tensor, support: Tensor) -> Tensor:
    weight = torch.zeros_like(right)
    for row, own in enumerate(support):
        kept = own.nonzero().flatten()
        weight[row, kept] = torch.linalg.solve(gram[kept][:, kept], right[row, kept])
    return weight


def _largest(weight: Tensor, count: int) -> Tensor:
    best = weight.abs().flatten().topk(count).indices
    return torch.zeros_like(weight).flatten().index_copy(0, best, weight.flatten()[best]).view(weight.shape)


PEERS: dict[str, Solve] = {"SparseGPT": sparse_gpt, "ALPS": alps, "ridge": ridge}
