"""prunus makes a PyTorch model really smaller and really faster by pruning, and proves it."""

__version__ = "0.1.0"
