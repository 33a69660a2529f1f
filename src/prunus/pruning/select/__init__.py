"""The exact k smallest over many tensors, without joining them.

`sources` says what scores are, `threshold` finds where the cut lies, `choice` makes it. Scores compare by exact
value, whatever their dtypes; ties go by source, then by index, as in a stable sort of the sources joined.
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
