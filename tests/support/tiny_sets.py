"""Small sets in MNIST's form."""

from __future__ import annotations

import gzip
import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prunus.lab.data.idx_sets import IdxSet

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def idx_bytes(values: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return header + values.astype(np.uint8).tobytes()


@dataclass
class TinySet:
    """The four files' bytes, and what a published set of them would be."""

    files: dict[str, bytes]

    def published(self, **fields: object) -> IdxSet:
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()}
        settings: dict[str, object] = {"name": "tiny", "sha256": digests, "validation": 10}
        return IdxSet(**(settings | fields))

    def write(self, folder: Path, *, packed: bool = True) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            path = folder / (f"{name}.gz" if packed else name)
            path.write_bytes(gzip.compress(content) if packed else content)
        return folder


def make_tiny() -> TinySet:
    """60 images to train on and 20 to test on, 7x5 pixels, 10 classes, no two files alike."""
    random = np.random.default_rng(3)
    return TinySet(
        {
            IMAGES: idx_bytes(random.integers(0, 256, (60, 7, 5))),
            LABELS: idx_bytes(np.arange(60) % 10),
            TEST_IMAGES: idx_bytes(random.integers(0, 256, (20, 7, 5))),
            TEST_LABELS: idx_bytes(np.arange(20) % 10),
        }
    )
