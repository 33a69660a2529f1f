"""Small random-weight networks of every topology that shrink and channel pruning must be right on.

They are written the way people write their models: sizes kept as attributes, views with the number of heads, and in
some a size typed into `forward`. `ZOO` maps a name to its `Case`; importing this module registers all of them.
"""

from __future__ import annotations

import zoo_attention  # noqa: F401  (each of these registers its cases)
import zoo_cnn  # noqa: F401
import zoo_mobile  # noqa: F401
import zoo_sequences  # noqa: F401
import zoo_transformers  # noqa: F401
from zoo_case import ZOO, Case, Inputs, as_arguments, randomise

__all__ = ["ZOO", "Case", "Inputs", "as_arguments", "randomise"]
