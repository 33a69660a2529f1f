"""The exact k smallest over many tensors, without joining them.

`sources` defines where scores are read from, `threshold` finds the k-th smallest score, `choice` marks the k smallest.
Scores of different dtypes compare by their exact values. Of equal scores, those of earlier sources come first, then
those of lower index, as in a stable sort of the concatenated sources.
"""

from prunus.pruning.select.choice import pick, smallest
from prunus.pruning.select.sources import ElementwiseScores, NanScoresError, Scores, WholeScores, chunk_length
from prunus.pruning.select.threshold import Threshold, count_smallest

__all__ = [
    "ElementwiseScores",
    "NanScoresError",
    "Scores",
    "Threshold",
    "WholeScores",
    "chunk_length",
    "count_smallest",
    "pick",
    "smallest",
]
