"""Literals and moves of channels, hidden behind operations whose outputs seldom show what is done to them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from _attack_channels import LAYOUTS, LITERAL, MOVES, SHAPES, Around, around
from _attack_subject import Draw, Subject, attempt

# Operations whose output seldom depends on most of their input; the level is one that few values of the network exceed.
HIDING: dict[str, Callable[[Tensor, float], Tensor]] = {
    "dead relu": lambda y, level: torch.relu(y - level),
    "deader relu": lambda y, level: torch.relu(y - 50),
    "argmax": lambda y, level: y.argmax(1),
    "clamp": lambda y, level: y.clamp(min=level),
    "narrow clamp": lambda y, level: y.clamp(level, level + 1e-3),
    "steep sigmoid": lambda y, level: torch.sigmoid(200 * (y - level)),
    "round": lambda y, level: torch.round(0.5 * y / level),
    "sign": lambda y, level: torch.sign(y - level),
    "maximum": lambda y, level: y.flatten(1).amax(1),
    "comparison": lambda y, level: y > level,
    "softmax": lambda y, level: torch.softmax(30 * y, 1),
    "another token": lambda y, level: y[..., 0],
    "top class": lambda y, level: y.topk(2, dim=1).indices,
    "relu6": lambda y, level: F.relu6(y - level),
    "hardshrink": lambda y, level: torch.where(y.abs() > level, y, 0.0),
    "any": lambda y, level: (y > level).flatten(1).any(1),
    "counted": lambda y, level: (y > level).flatten(1).sum(1),
    "bucketized": lambda y, level: torch.bucketize(y, torch.tensor([level, 2 * level, 50.0], dtype=y.dtype)),
}
HIDDEN_INSIDE = (
    "dead relu",
    "clamp",
    "narrow clamp",
    "steep sigmoid",
    "round",
    "sign",
    "softmax",
    "relu6",
    "hardshrink",
)
RARE = 0.98  # of the values on normal inputs are below the level
# Operations that run on fewer channels as they are, and then reach others.
UNFIT = ("y[:, :4] *=", "y[:, -1] =", "index_", "tril")
KEEPING = [
    *((name, make) for name, make in LITERAL.items() if not name.startswith(UNFIT)),
    *MOVES.items(),
]


def hidden(hiding: str, draw: Draw) -> Subject:
    """Hide a literal or a move behind an operation whose output seldom depends on it."""
    name, make = draw.choice(KEEPING)
    subject = around(make, draw)
    subject.note = name
    model = subject.model
    assert isinstance(model, Around)
    place = "hide_inside" if hiding in HIDDEN_INSIDE and draw.chance(0.5) else "hide_outside"
    values: list[Tensor] = []
    setattr(model, place, lambda y: (values.append(y), y)[1])
    with torch.no_grad():
        model.eval()(draw.normal(256, *SHAPES[draw_layout(model)]))
    level = max(float(torch.quantile(values[0].flatten()[:100_000], RARE)), 0.1)
    setattr(model, place, lambda y: HIDING[hiding](y, level))
    if place == "hide_inside" and draw.chance(0.3):
        model.hide_outside = lambda y: y.argmax(1)
    return subject


def draw_layout(model: Around) -> str:
    """Return the layout that a network was made for."""
    return next(name for name, (layer, _) in LAYOUTS.items() if type(layer(1, 1)) is type(model.before))


for _hiding in HIDING:
    attempt("hidden", _hiding)(lambda draw, hiding=_hiding: hidden(hiding, draw))
