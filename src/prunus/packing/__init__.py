"""Save a model to a small `.prunus` file and load it: lossless by default, checked, self-contained, free of code.

prunus.save(model, "model.prunus", example_inputs)
model = prunus.load("model.prunus")
"""

from prunus.errors import PackError
from prunus.packing.codebook import Codebook
from prunus.packing.saving import PackFacts, TensorFacts, load, read_tensors, save

__all__ = ["Codebook", "PackError", "PackFacts", "TensorFacts", "load", "read_tensors", "save"]
