"""Random small networks with zeros of every kind in them, and a search for channels that could still go."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from masked import outputs
from prunus.graph import trace
from prunus.graph.coupling import Coupling, Use, couple

IMAGES = torch.randn(6, 3, 7, 7, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


class Scaled(nn.Module):
    """A branch times one number a channel, or one for all."""

    def __init__(self, body: nn.Module, width: int, as_buffer: bool) -> None:
        super().__init__()
        self.body = body
        scale = torch.ones(width, 1, 1, dtype=torch.float64)
        if as_buffer:
            self.register_buffer("scale", scale)
        else:
            self.scale = nn.Parameter(scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.scale


class Residual(nn.Module):
    """A branch beside nothing."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def zeroed_net(seed: int) -> nn.Sequential:
    """Return a network of random blocks in eval mode, double, with random zeros; none of its activations saturates."""
    generator = torch.Generator().manual_seed(seed)

    def pick(*options: int) -> int:
        return options[int(torch.randint(len(options), (1,), generator=generator))]

    layers: list[nn.Module] = [nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), _activation(pick)]
    width = 4
    for _ in range(pick(1, 2, 3)):
        block, width = _block(pick, width)
        layers.append(block)
    model = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5), nn.Tanh(), nn.Linear(5, 3)
    )
    model = model.double().eval()
    _fill(model, generator)
    return model


def _activation(pick: Callable[..., int]) -> nn.Module:
    return (nn.Tanh(), nn.Sigmoid(), nn.Softsign())[pick(0, 1, 2)]


def _block(pick: Callable[..., int], width: int) -> tuple[nn.Module, int]:
    out = pick(4, 6, 8)
    kernel = pick(1, 3)
    padding = pick(0, 1) if kernel == 3 else 0
    kind = pick(0, 1, 2, 3, 4, 5)
    if kind == 0:
        return nn.Sequential(
            nn.Conv2d(width, out, kernel, padding=padding), nn.BatchNorm2d(out), _activation(pick)
        ), out
    if kind == 1:
        branch = nn.Sequential(
            nn.Conv2d(width, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            _activation(pick),
            nn.Conv2d(out, width, 1),
            nn.BatchNorm2d(width),
        )
        return Residual(branch), width
    if kind == 2:
        depthwise = nn.Conv2d(out, out, 3, padding=padding, groups=out)
        return nn.Sequential(nn.Conv2d(width, out, 1), _activation(pick), depthwise, nn.BatchNorm2d(out)), out
    if kind == 3:
        groups = pick(2, 4) if out % 4 == 0 else 2
        grouped = nn.Conv2d(out, out, 1, groups=groups)
        return nn.Sequential(nn.Conv2d(width, out, 1), _activation(pick), grouped, _activation(pick)), out
    if kind == 4:
        return Scaled(nn.Sequential(nn.Conv2d(width, out, 1), _activation(pick)), out, bool(pick(0, 1))), out
    inner = nn.Sequential(nn.Conv2d(width, out, 1), _activation(pick), nn.Conv2d(out, width, 1))
    return Residual(Scaled(inner, width, bool(pick(0, 1)))), width


@torch.no_grad()
def _fill(model: nn.Module, generator: torch.Generator) -> None:
    def chance(share: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) < share

    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * 0.7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.copy_(module.running_var.abs() + 0.5)
            zero = chance(0.35, module.num_features)
            module.weight[zero] = 0
            module.bias[zero & chance(0.5, module.num_features)] = 0
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            weight = module.weight
            rows = chance(0.2, weight.shape[0])
            weight[rows] = 0
            weight[:, chance(0.2, weight.shape[1])] = 0
            weight[chance(0.2, *weight.shape)] = 0
            if module.bias is not None:
                module.bias[rows & chance(0.5, weight.shape[0])] = 0
        elif isinstance(module, Scaled):
            module.scale[chance(0.4, module.scale.shape[0])] = 0


def removable_still(model: nn.Module, inputs: Tensor) -> list[str]:
    """Return the channels of a model that could go, found by trial: each is held at a constant where weights take it.

    A class of channels could go if no output changes when each layer that takes it gets, in its place, what it holds
    in the first sample, zero where zeros are padded, for images of two sizes. What is the last of its layer is left
    out, and channels of grouped convolutions, which may have to stay for the sake of others.
    """
    coupling = couple(trace(model, inputs[:1]), "counted")
    wider = torch.nn.functional.pad(inputs, (1, 1, 1, 1), mode="circular")
    batches = [(images, outputs(model, images)) for images in (inputs, wider)]
    modules = dict(model.named_modules())
    return [
        f"class {label}"
        for label in coupling.removable.nonzero().flatten().tolist()
        if not _last(coupling, label) and _may_go(model, modules, coupling, label, batches)
    ]


def _last(coupling: Coupling, label: int) -> bool:
    own = [coupling.axis_classes(axis) for axis in coupling.axes]
    if any(bool((classes == label).all()) for classes in own):
        return True
    for grouping in coupling.groupings:
        for atoms in (grouping.inputs, grouping.outputs):
            if bool((coupling.class_of[atoms] == label).any()):
                return True
    return False


def _may_go(
    model: nn.Module,
    modules: dict[str, nn.Module],
    coupling: Coupling,
    label: int,
    batches: list[tuple[Tensor, list[Tensor]]],
) -> bool:
    handles = []
    for use in coupling.uses:
        if use.inputs is not None and bool((coupling.class_of[use.inputs] == label).any()):
            module = modules[use.weight.name.removesuffix(".weight")]
            handles.append(module.register_forward_pre_hook(_held(use, coupling.class_of[use.inputs] == label)))
    try:
        pairs = [pair for images, expected in batches for pair in zip(expected, outputs(model, images), strict=True)]
    finally:
        for handle in handles:
            handle.remove()
    return all(torch.allclose(one, other, rtol=0, atol=1e-13) for one, other in pairs)


def _held(use: Use, channels: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    first: list[Tensor] = []

    def hold(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (x,) = args
        x = x.clone()
        padded = isinstance(module, nn.Conv2d) and any(module.padding)  # type: ignore[arg-type]
        first.append(x[:1, channels].flatten(2)[:, :, :1] if x.ndim == 4 else x[:1, channels])
        x[:, channels] = 0 if padded else first[0].reshape(1, -1, *[1] * (x.ndim - 2))
        return (x,)

    return hold
