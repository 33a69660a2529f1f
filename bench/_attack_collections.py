"""Random graphs with what else may go wrong in them, the zoo of the tests, and optimizers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import prunus
from _attack_channels import LITERAL, MOVES
from _attack_judge import in_training
from _attack_subject import Argument, Draw, Subject, attempt, draw_masks, randomise
from random_nets import ACTIVATIONS, CHANNELS, NORMS, SIZE, STAGES, Drawn, Stage, Unit
from zoo import ZOO, as_arguments


class Grouped(nn.Module):
    """A grouped convolution of random groups, batch norm, and a pointwise convolution."""

    def __init__(self, width: int, draw: Draw) -> None:
        super().__init__()
        groups = draw.choice([g for g in (1, 2, 3, 4, 6, 8) if width % g == 0])
        self.grouped = nn.Conv2d(width, width * draw.choice([1, 2]), 3, padding=1, groups=groups)
        self.norm = nn.BatchNorm2d(self.grouped.out_channels)
        self.point = nn.Conv2d(self.grouped.out_channels, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.point(torch.relu(self.norm(self.grouped(x))))


class Gated(nn.Module):
    """A residual branch with a layer scale, some of whose factors are zero."""

    def __init__(self, width: int, draw: Draw) -> None:
        super().__init__()
        self.branch = nn.Conv2d(width, width, 3, padding=1)
        self.gate = nn.Parameter(torch.rand(width, 1, 1) + 0.5)
        self.register_buffer("flags", torch.ones(width, 1, 1))
        self.zero_gate, self.zero_flags = draw.choice([0.0, 0.4, 1.0]), draw.choice([0.0, 0.4])

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.branch(x)) * self.gate * self.flags


class Operated(nn.Module):
    """A literal or a move that keeps the number of channels."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(x)


def random_unit(draw: Draw) -> Unit:
    """Draw a unit of `random_nets`."""
    return Unit(
        width=draw.choice([4, 6, 8]),
        kernel=draw.choice([1, 3]),
        groups=draw.choice(["one", "two", "each"]),
        norm=draw.choice(list(NORMS)),
        activation=draw.choice(list(ACTIVATIONS)),
        bias=draw.chance(0.5),
        padding=draw.chance(0.5),
    )


def random_graph(draw: Draw, additions: tuple[str, ...]) -> Subject:
    """Draw a network of `random_nets`, with additions between its stages, zero gammas and zero gates."""
    stages = tuple(
        Stage(draw.choice(list(STAGES)), tuple(random_unit(draw) for _ in range(draw.randint(1, 2))))
        for _ in range(draw.randint(1, 3))
    )
    drawn = Drawn(stages, draw.choice(["flatten", "mean", "adaptive"]), draw.choice([0, 6]), draw.randrange(2**16))
    model = drawn.make()
    blocks: list[nn.Module] = []
    for block in model.stages:
        blocks.append(block)
        for kind in additions:
            if draw.chance(0.6):
                blocks.append(addition(kind, block.width, draw))
    model.stages = nn.Sequential(*blocks)
    randomise(model, draw.randrange(10_000))
    zero_factors(model, draw)
    return Subject(model, (Argument((CHANNELS, SIZE, SIZE)),), dtype=draw.choice([torch.float32, torch.float64]))


def addition(kind: str, width: int, draw: Draw) -> nn.Module:
    """Make something that keeps the number of channels."""
    if kind == "grouped":
        return Grouped(width, draw)
    if kind == "gated":
        return Gated(width, draw)
    table = list({"literal": LITERAL, "move": MOVES}[kind].values())
    for make in draw.sample(table, len(table)):
        try:
            operation = make(width, draw)
            with torch.no_grad():
                shape = operation(torch.randn(2, width, 5, 5)).shape
        except (RuntimeError, IndexError, ValueError):  # an index or groups that so few channels have not
            continue
        if shape == (2, width, 5, 5):
            return Operated(operation)
    return nn.Identity()


@torch.no_grad()
def zero_factors(model: nn.Module, draw: Draw) -> None:
    """Zero some factors of norms, with their shifts or without, and some gates."""
    share = draw.choice([0.0, 0.0, 0.3, 1.0])
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.InstanceNorm2d)) and module.weight is not None and draw.chance(0.7):
            dead = torch.rand(len(module.weight), generator=draw.generator) < share
            module.weight[dead] = 0
            if draw.chance(0.6):
                module.bias[dead] = 0
        if isinstance(module, Gated):
            module.gate[torch.rand(module.gate.shape, generator=draw.generator) < module.zero_gate] = 0
            module.flags[torch.rand(module.flags.shape, generator=draw.generator) < module.zero_flags] = 0


for _name, _additions in {
    "plain": (),
    "with groups": ("grouped",),
    "with gates": ("gated",),
    "with literals": ("literal",),
    "with moves": ("move",),
    "with everything": ("grouped", "gated", "literal", "move"),
}.items():
    attempt("graphs", _name)(lambda draw, additions=_additions: random_graph(draw, additions))


def zoo_subject(name: str, draw: Draw) -> Subject:
    """Take a network of the tests' zoo; its inputs are drawn as its own are."""
    case = ZOO[name]
    args, kwargs = as_arguments(case.inputs(8))
    arguments = tuple(like(value) for value in (*args, *kwargs.values()))
    dtype = draw.choice([torch.float32, torch.float64])
    masking = draw.choice(["random", "lines", "magnitude", "channel"])
    return Subject(case.make(), arguments, names=tuple(kwargs), dtype=dtype, masking=masking)


def like(value: Tensor) -> Argument:
    """Return an argument of which a batch was seen."""
    shape = tuple(value.shape[1:])
    if value.dtype == torch.bool:
        return Argument(shape, boolean=True)
    if value.is_floating_point():
        return Argument(shape)
    return Argument(shape, low=int(value.min()), high=int(value.max()) + 1)


for _name in ZOO:
    attempt("zoo", _name)(lambda draw, name=_name: zoo_subject(name, draw))


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, 0.01),
    "SGD with momentum": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, 0.01),
    "Adam with amsgrad": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01, foreach=False),
    "Adamax": lambda p: torch.optim.Adamax(p, 0.01),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, 0.01),
    "Adafactor": lambda p: torch.optim.Adafactor(p, 0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.01),
    "Adadelta": lambda p: torch.optim.Adadelta(p, 0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5, centered=True),
    "Rprop": lambda p: torch.optim.Rprop(p, 0.01),
    "ASGD": lambda p: torch.optim.ASGD(p, 0.01),
    "LBFGS": lambda p: torch.optim.LBFGS(p, 0.01, max_iter=3),
    "Muon": lambda p: torch.optim.Muon([q for q in p if q.dim() == 2], 0.01),
}


def optimizer_subject(draw: Draw) -> Subject:
    """Make a small network to train."""
    if draw.chance(0.5):
        model: nn.Module = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4))
        arguments = (Argument((5,)),)
    else:
        layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3))
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 4))
        arguments = (Argument((3, 4, 4)),)
    randomise(model, draw.randrange(10_000))
    return Subject(model, arguments, dtype=draw.choice([torch.float32, torch.float64]), masking="lines")


for _name in OPTIMIZERS:
    attempt("optimizers", _name)(optimizer_subject)


def try_optimizer(name: str, subject: Subject, draw: Draw) -> tuple[nn.Module, nn.Module, str]:
    """Train, mask, shrink with the optimizer, and take one more step.

    Returns:
        The masked model, the smaller one as `shrink` returned it, and what was wrong with the step; "" if nothing.

    Raises:
        ValueError: `shrink` refused.
    """
    model = subject.model
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    inputs = subject.inputs("normal", 8, draw.generator)
    for _ in range(2):
        step(model, optimizer, inputs)
    masks = draw_masks(model, "lines", draw)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.mul_(masks.get(key, torch.ones(())))
    masked = copy.deepcopy(model).eval()
    smaller = prunus.shrink(model.eval(), subject.inputs("normal", 2, draw.generator)[0], optimizer=optimizer)
    result = copy.deepcopy(smaller)
    return masked, result, wrong_step(masked, model, smaller, optimizer, inputs)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Any) -> None:
    """Take a step towards smaller outputs."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(*inputs[0]).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)


def wrong_step(
    masked: nn.Module, model: nn.Module, smaller: nn.Module, optimizer: torch.optim.Optimizer, inputs: Any
) -> str:
    """Return what is wrong with a step of the smaller model."""
    own = {id(parameter) for parameter in smaller.parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not all(id(parameter) in own for parameter in held):
        return "the optimizer holds parameters that are not the smaller model's"
    before = [parameter.detach().clone() for parameter in held]
    try:
        step(smaller, optimizer, inputs)
    except Exception as error:
        return f"a step raises {type(error).__name__}: {error}"[:200]
    moved = [not torch.equal(old, parameter) for old, parameter in zip(before, held, strict=True)]
    if not any(moved) and any(parameter.grad is not None and parameter.grad.any() for parameter in held):
        return "a step changes nothing"
    if any(not parameter.isfinite().all() for parameter in held):
        return "a step gives numbers that are not finite"
    state = model.state_dict()
    if any(not torch.equal(value, state[key]) for key, value in masked.state_dict().items()):
        return "a step changes the larger model"
    return in_training(masked, smaller, inputs)
