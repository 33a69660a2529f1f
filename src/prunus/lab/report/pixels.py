"""Small images inside the page: PNG files, written with zlib only, as data URIs."""

from __future__ import annotations

import base64
import struct
import zlib

import torch
from torch import Tensor

# blue for positive and vermillion for negative weights, distinguishable with colour blindness; white is zero
POSITIVE, NEGATIVE = (0, 114, 178), (213, 94, 0)
REMOVED, CROSS, FRAME = (62, 66, 72), (150, 155, 162), (150, 155, 162)


def png(image: Tensor) -> bytes:
    """Return an image as a PNG file.

    Args:
        image: uint8, (height, width, channels) with 1 (grey), 3 (RGB) or 4 (RGB and opacity) channels.
    """
    height, width, channels = image.shape
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    # each row starts with the number of its filter: 0, none
    rows = torch.cat([torch.zeros(height, 1, dtype=torch.uint8), image.reshape(height, -1)], dim=1)
    data = zlib.compress(rows.contiguous().numpy().tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def data_uri(image: Tensor) -> str:
    """Return an image as a data URI, for the ``src`` of an ``<img>``; shapes as `png`."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def photo(image: Tensor, max_side: int = 64) -> Tensor:
    """Convert a data set's image for `png`, subsampled to at most `max_side` pixels per side.

    Args:
        image: uint8, (channels, height, width); unless it has 3 channels, the first is shown in grey.
        max_side: the largest height and width in pixels.
    """
    step = max(1, -(-max(image.shape[1:]) // max_side))
    channels = image if image.shape[0] == 3 else image[:1]
    return channels[:, ::step, ::step].permute(1, 2, 0)


def kernels(weights: Tensor, mask: Tensor | None, scale: float, columns: int, cell: int) -> Tensor:
    """Draw kernels side by side, each weight a square; removed weights are dark and crossed out.

    Args:
        weights: (kernels, height, width).
        mask: of the same shape, False for removed weights; None if nothing was removed.
        scale: the |w| that has full colour.
        columns: the number of kernels in a row.
        cell: the side of the square of one weight in pixels.

    Returns:
        uint8 (height, width, 4); the space between kernels is transparent.
    """
    colours = diverging(weights / scale).repeat_interleave(cell, 1).repeat_interleave(cell, 2)
    if mask is not None:
        removed = (~mask).repeat_interleave(cell, 1).repeat_interleave(cell, 2)
        colours[removed] = torch.tensor(REMOVED, dtype=torch.uint8)
        colours[removed & _crosses(weights.shape[1], weights.shape[2], cell)] = torch.tensor(CROSS, dtype=torch.uint8)
    return _grid(_framed(torch.cat([colours, torch.full_like(colours[..., :1], 255)], -1)), columns, max(2, cell // 2))


def diverging(values: Tensor) -> Tensor:
    """Colour values in [-1, 1] from vermillion over white to blue; other values are clipped.

    >>> diverging(torch.tensor([0.0, 1.0])).tolist()
    [[255, 255, 255], [0, 114, 178]]
    """
    strength = values.float().clamp(-1, 1).unsqueeze(-1)
    full = torch.where(strength < 0, torch.tensor(NEGATIVE), torch.tensor(POSITIVE))
    return (255 + (full - 255) * strength.abs()).round().to(torch.uint8)


def _crosses(height: int, width: int, cell: int) -> Tensor:
    """Return a mask of the diagonals of every square; empty for squares too small to show them."""
    across = torch.arange(cell)
    inner = (across > 0) & (across < cell - 1)
    diagonals = (across[:, None] == across) | (across[:, None] == cell - 1 - across)
    return (diagonals & inner & inner[:, None] & torch.tensor(cell >= 6)).repeat(height, width)


def _framed(tiles: Tensor) -> Tensor:
    """Draw a line around each tile, so that white weights at its edge are visible."""
    number, height, width, channels = tiles.shape
    framed = torch.tensor((*FRAME, 255), dtype=torch.uint8).expand(number, height + 2, width + 2, channels).clone()
    framed[:, 1:-1, 1:-1] = tiles
    return framed


def _grid(tiles: Tensor, columns: int, gap: int) -> Tensor:
    number, height, width, channels = tiles.shape
    rows, columns = -(-number // columns), min(columns, number)
    canvas = torch.zeros(rows * (height + gap) - gap, columns * (width + gap) - gap, channels, dtype=torch.uint8)
    for at, tile in enumerate(tiles):
        top, left = at // columns * (height + gap), at % columns * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    return canvas


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
