"""Small models and data for the tests of training; processes that train import this, too."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed
from torch import Tensor, nn

from prunus.files import content_hash
from prunus.lab.data import Dataset, Images
from prunus.lab.recipe import PruneSection, TrainingSection


def striped_images(count: int, seed: int) -> Images:
    """Noise with one bright row among three: the class is the row, so there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    images = torch.randint(0, 120, (count, 1, 6, 6), generator=generator, dtype=torch.uint8)
    images[torch.arange(count), 0, 2 * labels] = 250
    return Images(images, labels)


def striped(train: int = 49, validation: int = 20) -> Dataset:
    # 49 = 3 * 16 + 1: the last batch of 16 has a single image, so one of two processes gets none
    splits = {"train": striped_images(train, 1), "validation": striped_images(validation, 2)}
    return Dataset.from_splits("striped", "made up", "0", 3, test=striped_images(1, 3), **splits)


def small_network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Convolutions, batch norm and dropout: state and random numbers of every kind."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(24, 3),
    ).to(dtype)


def plain_network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """The same without what differs between processes: their dropout and their share's statistics."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).to(dtype)


class Telling(nn.Module):
    """A network that writes, at each training step, what its process trains: weights, and which of them are zero."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.network = plain_network(dtype=torch.float64)
        self.folder = folder

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
            state = self.network.state_dict()
            zeros = {name: tensor == 0 for name, tensor in state.items()}
            line = f"{content_hash(zeros)} {content_hash(state)} {sum(int(z.sum()) for z in zeros.values())}\n"
            with (self.folder / f"process-{rank}.txt").open("a") as file:
                file.write(line)
            if rank == 1 and (self.folder / "fail").exists() and line_count(self.folder / "process-1.txt") == 6:
                raise OSError("the disk of process 1 is full")
        logits: Tensor = self.network(images)
        return logits


def line_count(path: Path) -> int:
    return len(path.read_text().splitlines())


def cubic(training: TrainingSection, sparsity: float = 0.5) -> PruneSection:
    return PruneSection(sparsity=sparsity, schedule="cubic", training=training)
