"""The smaller model built in its own class, and proved: its graph, each operation, its outputs, its training."""
