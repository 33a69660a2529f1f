"""A model <-> a small `.prunus` file: lossless by default, checked, self-describing, and nothing in it is ever run.

prunus.save("model.prunus", model)
model = prunus.load("model.prunus")
"""

from prunus.pack.codebook import Codebook
from prunus.pack.errors import PackError
from prunus.pack.saving import PackFacts, TensorFacts, load, read_tensors, save

__all__ = ["Codebook", "PackError", "PackFacts", "TensorFacts", "load", "read_tensors", "save"]
