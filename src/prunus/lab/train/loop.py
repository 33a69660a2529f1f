"""The training loop of one process: on whole batches, or on its share of them if several processes train together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.lab.data import Dataset, Images, batches
from prunus.lab.train.gradual import make_pruner
from prunus.lab.train.layout import keep_freed_memory, use_fastest_layout
from prunus.lab.train.optimization import learning_rate, make_optimizer, set_learning_rate
from prunus.lab.train.phase import Phase, Record
from prunus.lab.train.state import State, load_optimizer, optimizer_tensors
from prunus.pruning.masks import Masks

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_EVALUATION_BATCH_SIZE = 1000
_NO_CLASS = -100  # cross_entropy ignores this label


class DivergedError(ValueError):
    """The loss or the weights became NaN or infinite."""


class Loop:
    """The training of a phase in one process.

    Args:
        fabric: the device, and the connection to the other processes.
        model: trained in place, on the device.
        data: its training and validation splits are used.
        phase: the settings.
        masks: the weights to keep at zero, or the masks that pruning starts from.
        state: the state to continue from; None at the beginning.
    """

    def __init__(
        self, fabric: Fabric, model: nn.Module, data: Dataset, phase: Phase, masks: Masks | None, state: State | None
    ) -> None:
        self.fabric, self.phase, self.data = fabric, phase, data
        self.train, self.validation = data.train.to(fabric.device), data.validation.to(fabric.device)
        self.steps_per_epoch = phase.steps_per_epoch(len(data.train))
        total_steps = self.steps_per_epoch * phase.section.epochs
        self.lr = learning_rate(phase.section, total_steps)
        self.model = model.to(fabric.device)
        self.dtype = next(model.parameters()).dtype
        use_fastest_layout(self.model, next(self._batches(self.train, 2))[0])
        self.optimizer = make_optimizer(self.model, phase.section)
        self.masks = masks.to(fabric.device) if masks is not None else None
        self.pruner = None
        if phase.prune is not None:
            batch_size = phase.section.batch_size
            self.pruner = make_pruner(
                self.model, phase.prune, total_steps, data, batch_size, masks=self.masks, seed=phase.seed
            )
        self.history: list[Record] = []
        self._start_from(state)
        # the same model and optimizer in Fabric's wrappers, which average gradients over the processes
        self.forward, self.updater = fabric.setup(self.model, self.optimizer)

    def epochs(self, advance: Callable[[], None]) -> Iterator[Record]:
        """Train the remaining epochs, yielding the record of each; `advance` is called after each step."""
        keep_freed_memory()
        for epoch in range(len(self.history), self.phase.section.epochs):
            self.history.append(self._epoch(epoch, advance))
            yield self.history[-1]

    def state(self) -> State:
        """Return the state after the last finished epoch; its tensors are the trained ones, not copies."""
        parts = {"model": self.model.state_dict(), "optimizer": optimizer_tensors(self.optimizer)}
        if self.pruner is not None:
            parts |= {"pruner": self.pruner.state_dict(), "masks": dict(self.pruner.masks)}
        tensors = {f"{owner}.{name}": tensor for owner, part in parts.items() for name, tensor in part.items()}
        return State(tensors, tuple(self.history))

    def _start_from(self, state: State | None) -> None:
        if state is not None:
            self.model.load_state_dict(state.part("model"))
            load_optimizer(self.optimizer, state.part("optimizer"))
            if self.pruner is not None:
                self.pruner.load_state_dict(state.part("pruner"))
            self.history = list(state.history)
        elif self.masks is not None:
            self.masks.apply(self.model)

    def _epoch(self, epoch: int, advance: Callable[[], None]) -> Record:
        began = time.monotonic()
        device = self.fabric.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.phase.seed_for("model", epoch, self.fabric.global_rank))
            loss, correct = self._train_epoch(epoch, advance)
        self._check_weights(epoch)
        self._average_buffers()
        kept = self.pruner or self.masks
        return {
            "epoch": epoch + 1,
            "loss": loss / len(self.train),
            "train_accuracy": correct / len(self.train),
            "validation_accuracy": self._count_correct(self.validation) / len(self.validation),
            "lr": self.lr((epoch + 1) * self.steps_per_epoch - 1),
            "sparsity": kept.sparsity if kept is not None else 0.0,
            "seconds": round(time.monotonic() - began, 3),
        }

    def _train_epoch(self, epoch: int, advance: Callable[[], None]) -> tuple[float, int]:
        """Return the sum of the losses, and the number of images classified correctly during the training steps."""
        losses = torch.zeros(self.steps_per_epoch, device=self.fabric.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.fabric.device)
        checked = 0
        self.model.train()
        for index, (images, labels) in enumerate(self._shuffled(epoch)):
            set_learning_rate(self.optimizer, self.lr(epoch * self.steps_per_epoch + index))
            losses[index], hits = self._step(images, labels)
            correct += hits
            if index + 1 - checked == self._steps_between_checks or index + 1 == self.steps_per_epoch:
                self._check_losses(losses, epoch, checked, index + 1)
                checked = index + 1
            self._keep_zeros()
            advance()
        return losses.cpu().double().sum().item(), int(self._over_all(correct))

    def _step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Train on this process's share of a batch; return the sum of its losses and its number of correct predictions.

        The average of the gradients of W processes is the gradient of the batch's mean loss, even for unequal shares,
        if each process uses the loss (W / batch size) * sum of its losses.
        """
        share, targets = self._share(images, labels)
        self.updater.zero_grad()
        logits = self.forward(share)
        loss = summed_loss(logits, targets, self.phase.section.label_smoothing)
        self.fabric.backward(loss * (self.fabric.world_size / len(labels)))
        self.updater.step()
        return loss.detach(), (logits.detach().argmax(1) == targets).sum()

    def _share(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        rank, world_size = self.fabric.global_rank, self.fabric.world_size
        if rank < len(labels):
            return images[rank::world_size], labels[rank::world_size]
        # This process has no image, but the others wait for its gradients: those of an ignored label are 0.
        return images[:1], torch.full_like(labels[:1], _NO_CLASS)

    def _keep_zeros(self) -> None:
        if self.pruner is not None:
            self.pruner.step()
        elif self.masks is not None:
            self.masks.apply(self.model)

    @property
    def _steps_between_checks(self) -> int:
        # A check synchronises with the accelerator, and with the slowest of several processes.
        return 1 if self.fabric.device.type == "cpu" and self.fabric.world_size == 1 else 50

    def _check_losses(self, losses: Tensor, epoch: int, first: int, last: int) -> None:
        """Sum the losses of these steps over all processes, and raise DivergedError at the first that is not finite.

        All processes have the same sums, so they stop together and none waits for the others.
        """
        losses[first:last] = self._over_all(losses[first:last].clone())
        wrong = losses[first:last].isfinite().logical_not()
        if bool(wrong.any()):
            index = first + int(wrong.nonzero()[0])
            self._diverged(f"the loss became {losses[index].item():g}", epoch, index)

    def _check_weights(self, epoch: int) -> None:
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            self._diverged("a weight became NaN or infinite", epoch, self.steps_per_epoch - 1)

    def _diverged(self, what: str, epoch: int, index: int) -> NoReturn:
        section, lr = self.phase.section, self.lr(epoch * self.steps_per_epoch + index)
        raise DivergedError(
            f"{what} in phase {self.phase.name!r}, epoch {epoch + 1} of {section.epochs}, step {index + 1} of "
            f"{self.steps_per_epoch}, at learning rate {lr:.4g}; try a lower lr than {section.lr:g}"
        )

    def _shuffled(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the training images of an epoch, the same in every process."""
        generator = torch.Generator().manual_seed(self.phase.seed_for("data", epoch))
        order = torch.randperm(len(self.train), generator=generator)
        return self._batches(self.train, self.phase.section.batch_size, order, self.phase.shift, generator)

    def _batches(
        self,
        split: Images,
        batch_size: int,
        order: Tensor | None = None,
        shift: int = 0,
        generator: torch.Generator | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        mean, std = self.data.mean, self.data.std
        return batches(
            split, batch_size, mean=mean, std=std, order=order, shift=shift, generator=generator, dtype=self.dtype
        )

    @torch.no_grad()
    def _count_correct(self, split: Images) -> int:
        self.model.eval()
        own = torch.arange(self.fabric.global_rank, len(split), self.fabric.world_size)
        correct = torch.zeros((), dtype=torch.int64, device=self.fabric.device)
        for images, labels in self._batches(split, _EVALUATION_BATCH_SIZE, own):
            correct += (self.model(images).argmax(1) == labels).sum()
        return int(self._over_all(correct))

    def _over_all(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, in each of them."""
        total = self.fabric.all_reduce(values, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    @torch.no_grad()
    def _average_buffers(self) -> None:
        """Average running statistics over the processes, since each has seen only its share of the images."""
        if self.fabric.world_size > 1:
            for buffer in filter(Tensor.is_floating_point, self.model.buffers()):
                buffer.copy_(self._over_all(buffer) / self.fabric.world_size)


def summed_loss(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy summed over the images, in float32 at least.

    With smoothing s and C classes the target of an image is (1 - s) for its class plus s / C for every class
    (Szegedy et al., "Rethinking the Inception architecture", CVPR 2016, section 7).

    Args:
        logits: shape (n, classes).
        targets: int64, shape (n,); images with the target -100 are ignored.
        label_smoothing: s, in [0, 1).
    """
    precise = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(precise, targets, reduction="sum", label_smoothing=label_smoothing)
