"""What changed between two models beside the average: answers that flipped, the worst class, images that were lost."""

from __future__ import annotations

from dataclasses import dataclass

from prunus.measuring.consistency import at_most, between, counts, interval, require


@dataclass(frozen=True)
class Changes:
    """What changed from a model to another on the same test images; an average may hide it.

    `flipped` of the `total` images have another answer, right or wrong; `ci95` is Wilson's interval of their share.
    `worst_class` is the class whose accuracy fell most, by `worst_loss`; `worst_ci95` holds for all classes at once
    (Bonferroni), as the worst is picked among them. `lost` lists images, by number, that the first model gets right and
    the second wrong, those first that most models after the first get wrong.

    The share of flips is that of Hooker et al., "What do compressed deep neural networks forget?" (arXiv:1911.05248).
    """

    first: str
    second: str
    flipped: int
    total: int
    ci95: tuple[float, float]
    worst_class: int
    worst_loss: float
    worst_ci95: tuple[float, float]
    lost: tuple[int, ...]

    def __post_init__(self) -> None:
        counts(self, "total", least=1)
        counts(self, "flipped", "worst_class")
        at_most("flipped", self.flipped, "total", self.total)
        interval("flipped / total", self.flipped / self.total, self.ci95, 0, 1)
        interval("worst_loss", self.worst_loss, self.worst_ci95, -1, 1)
        require(len(set(self.lost)) == len(self.lost), f"lost must list each image once, got {self.lost}")
        for image in self.lost:
            between("an image in lost", image, 0, self.total - 1)
