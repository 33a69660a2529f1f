"""Networks for programs in 8 bits, pruned and with scales, and what the slow reference makes of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from integer_reference import computed
from prunus.compiling.program import Program, parts_of


class Net(nn.Module):
    """Layers by name, and a function of them and the input."""

    def __init__(self, forward: Callable[[nn.ModuleDict, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.function = nn.ModuleDict(layers), forward

    def forward(self, x: Tensor) -> Tensor:
        """Compute the function."""
        return self.function(self.layers, x)


def residual(net: nn.ModuleDict, x: Tensor) -> Tensor:
    x = F.relu(net["a"](x))
    y = net["c"](F.relu(net["b"](x)))
    return net["d"](F.relu(y + x).mean((2, 3)))


def strided(net: nn.ModuleDict, x: Tensor) -> Tensor:
    x = F.relu(net["a"](x))
    return net["d"](F.relu(net["b"](x) + net["c"](x)).flatten(1))


def joined(net: nn.ModuleDict, x: Tensor) -> Tensor:
    x = F.relu6(net["a"](x))
    x = torch.cat([F.max_pool2d(x, 3, 1, 1), net["b"](x)], 1)
    return net["d"](F.max_pool2d(x, 2).flatten(1))


def shuffled(net: nn.ModuleDict, x: Tensor) -> Tensor:
    x = F.relu(net["a"](x))
    x = x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
    return net["d"](F.silu(net["b"](x[:, 1:])).amax((2, 3)))


def padded(net: nn.ModuleDict, x: Tensor) -> Tensor:
    x = F.relu(net["a"](x))
    y = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
    return net["d"](F.relu(y + net["b"](x)).mean((2, 3)))


def grouped(net: nn.ModuleDict, x: Tensor) -> Tensor:
    x = F.hardswish(net["a"](x))
    return net["d"](F.relu(net["c"](F.relu(net["b"](x)))).mean((2, 3)))


NETS = {
    "residual": (
        Net(
            residual,
            a=nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)),
            b=nn.Conv2d(16, 12, 3, padding=1),
            c=nn.Conv2d(12, 16, 3, padding=1),
            d=nn.Linear(16, 5),
        ),
        (3, 9, 11),
    ),
    "strided": (
        Net(
            strided,
            a=nn.Conv2d(1, 8, 5, padding=2),
            b=nn.Conv2d(8, 20, 3, stride=2, padding=1),
            c=nn.Conv2d(8, 20, 1, stride=2),
            d=nn.Linear(20 * 16, 10),
        ),
        (1, 8, 8),
    ),
    "joined": (
        Net(
            joined,
            a=nn.Conv2d(2, 6, 3, padding=1),
            b=nn.Conv2d(6, 5, 3, padding=2, dilation=2),
            d=nn.Linear(11 * 16, 7),
        ),
        (2, 8, 9),
    ),
    "shuffled": (
        Net(shuffled, a=nn.Conv2d(3, 16, 3), b=nn.Conv2d(15, 9, 1), d=nn.Linear(9, 4)),
        (3, 10, 10),
    ),
    "padded": (
        Net(
            padded,
            a=nn.Conv2d(1, 8, 3, padding=1),
            b=nn.Conv2d(8, 16, 3, stride=2, padding=1),
            d=nn.Linear(16, 3),
        ),
        (1, 16, 16),
    ),
    "grouped": (
        Net(
            grouped,
            a=nn.Conv2d(4, 16, 3, padding=1),
            b=nn.Conv2d(16, 16, 3, padding=1, groups=2),
            c=nn.Conv2d(16, 16, 3, padding=1, groups=16),
            d=nn.Linear(16, 3),
        ),
        (4, 7, 7),
    ),
    "rows": (
        nn.Sequential(nn.Conv1d(3, 10, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(130, 33), nn.ReLU6()),
        (3, 13),
    ),
    "columns": (
        nn.Sequential(
            *(nn.Conv2d(4, 8, (3, 1)), nn.ReLU(), nn.Conv2d(8, 8, (3, 1)), nn.ReLU(), nn.MaxPool2d((2, 1))),
            *(nn.Conv2d(8, 5, (3, 1)), nn.ReLU6(), nn.Flatten(), nn.Linear(5 * 31, 4)),
        ),
        (4, 70, 1),
    ),
    "cut off": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
        (3, 9, 9),
    ),
    "matrices": (
        nn.Sequential(nn.Linear(37, 50), nn.ReLU(), nn.Linear(50, 21), nn.Tanh(), nn.Linear(21, 3)),
        (37,),
    ),
}


def drawn(name: str, sparsity: float = 0.7) -> tuple[nn.Module, tuple[int, ...], prunus.Scales]:
    """Return a pruned network with other numbers than at its start, the shape of a sample, and scales."""
    model, shape = NETS[name]
    torch.manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            layer.reset_parameters()
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_var.uniform_(0.5, 2)
            layer.running_mean.normal_()
    model.eval()
    prunus.prune(model, sparsity)
    batches = [torch.randn(32, *shape) for _ in range(4)]
    return model, shape, prunus.quantize(model, batches, max_error=1e9)


def reference(program: Program, x: Tensor) -> Tensor:
    """Return what the slow reference makes of one input."""
    net = parts_of(program).net
    (output,) = computed(net, {next(iter(net.inputs)): x.numpy()})
    return torch.from_numpy(output)
