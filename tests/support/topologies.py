"""Networks whose channels are moved, or meet in attention between two inputs: what masks zero must be cut out too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_case import randomise


@dataclass(frozen=True)
class Topology:
    """A network, the shapes of its inputs, the batch left aside, and how much of it can be pruned."""

    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    sparsity: float = 0.4

    def model(self) -> nn.Module:
        """Return the network in eval mode and double precision, the same one each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.make()
        return randomise(model, seed=1).double().eval()

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        """Return random inputs."""
        generator = torch.Generator().manual_seed(batch)
        return tuple(torch.randn(batch, *shape, generator=generator, dtype=torch.float64) for shape in self.shapes)


class CrossAttention(nn.Module):
    """Queries from one input, keys and values from another."""

    def __init__(self, mask: bool = False, need_weights: bool = True, **options: Any) -> None:
        super().__init__()
        width = options.get("kdim") or 16
        self.query, self.memory, self.out = nn.Linear(6, 16), nn.Linear(6, width), nn.Linear(16, 3)
        self.attention = nn.MultiheadAttention(16, 4, **options)
        self.first, self.mask, self.need_weights = options.get("batch_first", False), mask, need_weights

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        query, memory = self.query(x), self.memory(y)
        mask = torch.ones(x.shape[1], y.shape[1], dtype=torch.bool).triu(2) if self.mask else None
        if not self.first:
            query, memory = query.transpose(0, 1), memory.transpose(0, 1)
        result, _ = self.attention(query, memory, memory, attn_mask=mask, need_weights=self.need_weights)
        return self.out(result if self.first else result.transpose(0, 1))


class Decoder(nn.Module):
    """torch's decoder layer, with the batch in the second place where it is so."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(16, 4, 32, **options)
        self.first = options.get("batch_first", False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.first:
            return self.layer(x, y)
        return self.layer(x.transpose(0, 1), y.transpose(0, 1)).transpose(0, 1)


class Moved(nn.Module):
    """Two convolutions with something between them that moves channels."""

    def __init__(self, move: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 8, 1), nn.Linear(8, 4)
        self.shuffle = nn.ChannelShuffle(3)
        self.register_buffer("order", torch.randperm(12))
        self.move = move

    def forward(self, x: Tensor) -> Tensor:
        y = self.move(self, torch.relu(self.first(x)))
        return self.head(torch.relu(self.second(y)).mean((2, 3)))


class RotaryBlock(nn.Module):
    """Attention with queries, keys and values from one weight, biases of their own, of which the keys' is no parameter.

    Queries and keys are rotated by the position, and the gated layers behind have a norm between them, as in EVA-02
    (Fang et al., "EVA-02: a visual representation for neon genesis", 2023).
    """

    def __init__(self, width: int = 16, heads: int = 2, hidden: int = 24, length: int = 6) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.norm, self.middle = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("k_bias", torch.zeros(width), persistent=False)
        self.out = nn.Linear(width, width)
        self.gate, self.value = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.inner, self.down = nn.LayerNorm(hidden), nn.Linear(hidden, width)
        angle = torch.arange(length)[:, None] / 10 ** (torch.arange(self.size // 2) / self.size)
        self.register_buffer("sine", angle.sin().repeat_interleave(2, -1))
        self.register_buffer("cosine", angle.cos().repeat_interleave(2, -1))

    def rotate(self, x: Tensor) -> Tensor:
        """Turn pairs of neighbours by an angle that grows with the position."""
        turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
        return x * self.cosine + turned * self.sine

    def forward(self, x: Tensor) -> Tensor:
        batch, length = x.shape[:2]
        bias = torch.cat([self.q_bias, self.k_bias, self.v_bias])
        qkv = F.linear(self.norm(x), self.qkv.weight, bias).reshape(batch, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(self.rotate(query), self.rotate(key), value)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, self.heads * self.size))
        y = self.middle(x)
        return x + self.down(self.inner(F.silu(self.gate(y)) * self.value(y)))


def rotary() -> nn.Module:
    """Return a network of one block."""
    return nn.Sequential(nn.Linear(5, 16), RotaryBlock(), nn.Linear(16, 3))


IMAGE, SEQUENCES, WIDE = ((3, 4, 4),), ((5, 6), (7, 6)), ((5, 16), (7, 16))

TOPOLOGIES: dict[str, Topology] = {
    "cross-attention": Topology(lambda: CrossAttention(batch_first=True), SEQUENCES),
    "cross-attention without weights": Topology(
        lambda: CrossAttention(batch_first=True, need_weights=False), SEQUENCES
    ),
    "cross-attention, sequence first": Topology(CrossAttention, SEQUENCES),
    "cross-attention with a mask": Topology(lambda: CrossAttention(batch_first=True, mask=True), SEQUENCES),
    "cross-attention of other widths": Topology(lambda: CrossAttention(batch_first=True, kdim=10, vdim=10), SEQUENCES),
    "decoder layer": Topology(lambda: Decoder(batch_first=True), WIDE),
    "decoder layer, norm and sequence first": Topology(lambda: Decoder(norm_first=True), WIDE),
    "transformer": Topology(lambda: nn.Transformer(16, 4, 1, 1, 32, batch_first=True), WIDE),
    "ChannelShuffle": Topology(lambda: Moved(lambda model, y: model.shuffle(y)), IMAGE),
    "roll": Topology(lambda: Moved(lambda model, y: torch.roll(y, 5, 1)), IMAGE),
    "permuted by a buffer": Topology(lambda: Moved(lambda model, y: y[:, model.order]), IMAGE),
    "permuted by a list": Topology(lambda: Moved(lambda model, y: y[:, [*range(6, 12), *range(6)]]), IMAGE),
    "rotary block": Topology(rotary, ((6, 5),), sparsity=0.22),
}
