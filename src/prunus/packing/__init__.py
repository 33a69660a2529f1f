"""A model <-> a small `.prunus` file: lossless by default, checked, self-describing, and nothing in it is ever run.

prunus.save(model, "model.prunus", example_inputs)
model = prunus.load("model.prunus")
"""

from prunus.errors import PackError
from prunus.packing.codebook import Codebook
from prunus.packing.saving import PackFacts, TensorFacts, load, read_tensors, save

__all__ = ["Codebook", "PackError", "PackFacts", "TensorFacts", "load", "read_tensors", "save"]
