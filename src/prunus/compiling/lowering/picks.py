"""Which channels of 8 bits lie in which words, and weights in words of four channels each."""

from __future__ import annotations

import numpy

from prunus.compiling.net import Indices, Numbers, View
from prunus.compiling.operations import Dequantize
from prunus.compiling.operations.quantized import CHANNELS


def picks_of(view: View, maker: Dequantize) -> Indices:
    """Return which channels, counted through the words, a view of what was made of them reads; of the view's shape."""
    plane = maker.box[1] * maker.box[2]
    channel, place = numpy.divmod(view.index, plane)
    word = maker.source.index.reshape(-1)[channel // CHANNELS * plane + place]
    picks: Indices = word * CHANNELS + channel % CHANNELS
    return picks


def filled(picks: Indices) -> Indices:
    """Return picks of (channels, height, width) as those of words, (words, height, width, 4)."""
    missing = -len(picks) % CHANNELS
    filled = numpy.pad(picks, ((0, missing), (0, 0), (0, 0)), constant_values=-1)
    return filled.reshape(-1, CHANNELS, *picks.shape[1:]).transpose(0, 2, 3, 1)


def as_words(picks: Indices) -> Indices | None:
    """Return which words picks of (channels, height, width) are, -1 for zeros; None where they are no whole words.

    What a last word holds beyond the channels does not matter, as no weight reads it.
    """
    first = picks[::CHANNELS]
    inside = numpy.repeat(first, CHANNELS, axis=0)[: len(picks)]
    within = (numpy.arange(len(picks)) % CHANNELS)[:, None, None]
    expected = numpy.where(inside < 0, -1, inside + within)
    if not bool((expected == picks).all()) or bool(((first >= 0) & (first % CHANNELS != 0)).any()):
        return None
    return numpy.where(first < 0, -1, first // CHANNELS)


def num_words(weight: Numbers) -> int:
    """Return how many words hold a weight that is not zero."""
    return int(numpy.count_nonzero(in_words(weight != 0)))


def in_words(weight: Numbers) -> Numbers:
    """Return whole weights of 8 bits, (outputs, channels, height, width), in words of four channels each.

    >>> in_words(numpy.array([1, 2, 0, -1, 3])[None, :, None, None]).reshape(-1).tolist()
    [-16776703.0, 3.0]
    """
    outputs, channels, *kernel = weight.shape
    filled = numpy.pad(weight, ((0, 0), (0, -channels % CHANNELS), (0, 0), (0, 0))).astype(numpy.int8)
    apart = filled.reshape(outputs, -1, CHANNELS, *kernel).transpose(0, 1, 3, 4, 2)
    words = numpy.ascontiguousarray(apart).view(numpy.int32)[..., 0]
    return words.astype(numpy.float64)
