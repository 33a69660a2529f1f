"""Recover a pruned model's accuracy from unlabelled samples: refit what stays to what the dense model gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor, fx, nn

from prunus.copying import copy_model
from prunus.forward import tensors_by_name, undisturbed
from prunus.graph.tracing import fused_attention_off
from prunus.pruning.masks import Masks
from prunus.pruning.patterns import Pattern
from prunus.pruning.stats import Batch
from prunus.recovering import norms
from prunus.recovering.batches import Samples, read
from prunus.recovering.checking import check_models, check_pattern
from prunus.recovering.comparing import buffers_restored, output_error
from prunus.recovering.distilling import distil
from prunus.recovering.fitting import Fitted, Fitting
from prunus.recovering.layers import Layer, layers
from prunus.recovering.lockstep import Lockstep
from prunus.supported import unwrap
from prunus.tables import Table, percent

__all__ = ["LayerErrors", "Recovery", "recover"]

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class LayerErrors:
    """How well a layer of the pruned model gives what the dense model's gives, on held-out samples.

    Attributes:
        name: of its weight.
        before: the squared error relative to the outputs' variance, with the dense weights under the mask; the layers
            before it are refitted already.
        after: likewise, with the refitted weights.
        strength: how strongly the weights were drawn toward the dense ones, as a share of the mean second moment of the
            inputs; infinite where the dense weights under the mask fitted best.
    """

    name: str
    before: float
    after: float
    strength: float


@dataclass(frozen=True)
class Recovery:
    """What `recover` did.

    Attributes:
        masks: which weights stay; other ones than were given where they were chosen anew.
        layers: the refitted layers in the order they are computed.
        before: the squared error of the model's outputs on held-out samples, relative to the variance of the dense
            model's: as it was pruned.
        after: likewise, at the end.
        not_refitted: the masked parameters that are not the weight of one Linear or convolution, as of recurrent
            layers, or that several operations share.
        better: whether the outputs got closer to the dense model's; where they did not, the model was only pruned.
    """

    masks: Masks
    layers: tuple[LayerErrors, ...]
    before: float
    after: float
    not_refitted: tuple[str, ...] = ()
    better: bool = True

    def __str__(self) -> str:
        rows = tuple((layer.name, percent(layer.before), percent(layer.after)) for layer in self.layers)
        caption = (
            "squared errors on held-out samples, relative to the variance of what the dense model gives; all outputs: "
            f"{percent(self.before)} before, {percent(self.after)} after."
        )
        if not self.better:
            caption += " No better, so the model was only pruned."
        if self.not_refitted:
            caption += f" Not refitted: {', '.join(self.not_refitted)}."
        return str(Table(("layer", "before", "after"), rows, caption))


def recover(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    batches: Iterable[Batch],
    *,
    dense: nn.Module | None = None,
    choose: bool | str | Pattern = False,
    minutes: float = 0.0,
    progress: Progress | None = None,
) -> Recovery:
    """Refit the weights that masks keep, in place, so that a pruned model gives what the dense one gives. No labels.

    Layer by layer, from the inputs to the outputs: the weights that stay solve a least squares problem whose inputs are
    those of the pruned model, with the layers before refitted already, and whose targets are the dense model's, behind
    the residual sum and the ReLU where these follow. They are drawn toward the dense weights, as strongly as errors on
    held-out samples tell. At the end BatchNorm's statistics are taken anew if that lowers the error of the outputs. All
    layers are solved before one is written. Layers without a mask are refitted too.

    Args:
        model: the model before it is pruned, which is pruned by the masks and refitted; or the pruned one, and `dense`.
        masks: which weights stay, of any origin. Other weights are refitted too, also those that need no gradients.
        batches: a few hundred samples like those the model will see, in several batches: tensors, pairs of inputs and
            labels, of which the labels are not used, or mappings of keyword arguments. A quarter is held out.
        dense: the model before it was pruned; it is not changed.
        choose: whether to choose masks anew, with as many weights in each layer, while the weights are updated: this
            helps most at high sparsity. True chooses single weights; a pattern that the masks hold, such as ``"2:4"``,
            its units. Whole channels that the masks remove stay removed.
        minutes: how long to train afterwards toward the dense model's outputs and features, on the same samples; the
            masks are held.
        progress: called with what is being done and the share of it that is done.

    Returns:
        The masks, and a table of the layers' errors.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: the model is pruned already and `dense` is not given, `dense` is pruned too, or other samples are
            needed; the model was not changed.
        MaskError: masks don't fit the model.
        GraphError: the model can't be traced.

    Sources: the targets behind a ReLU are those of Zhang et al., "Accelerating very deep convolutional networks for
    classification and detection" (arXiv:1505.06798), the errors of layers before those of Frantar and Alistarh,
    "SparseGPT" (arXiv:2301.00774); choosing and updating in turn is in the spirit of ALPS (arXiv:2406.07831).
    """
    inner, masks = unwrap(model), Masks(masks)
    teacher, pattern = check_models(inner, masks, dense), check_pattern(choose, masks)
    if isinstance(minutes, bool) or not isinstance(minutes, Real) or not 0 <= minutes < math.inf:
        raise ValueError(f"minutes must be a number of at least 0, got {minutes!r}")
    teacher = copy_model(inner) if teacher is inner else teacher
    with torch.inference_mode(False), undisturbed(teacher):
        samples = read(teacher, batches)
        given = copy_model(inner).eval()
        masks.apply(given)
        before = _first_error(given, teacher, samples)
        student = copy_model(teacher).eval()  # what is not refitted has to fit to what is
        masks.apply(student)
        work = _Work(teacher, student, samples, masks, pattern, progress or (lambda what, share: None))
        work.refit()
        work.take_statistics()
        if minutes:
            told = work.progress
            distil(student, teacher, samples, work.masks, float(minutes), lambda share: told("distilling", share))
        after = output_error(student, teacher, samples)
        if not after < before:
            work.masks, after, student = masks, before, given
    work.masks.apply(student)  # products with a mask leave -0.0, which takes space in a file
    with torch.no_grad():
        for parameter, value in zip(inner.parameters(), student.parameters(), strict=True):
            parameter.copy_(value)
        buffers, values = dict(inner.named_buffers()), dict(student.named_buffers())
        for name in norms.statistics(student):
            buffers[name].copy_(values[name])
    return Recovery(work.masks, tuple(work.errors), before, after, work.not_refitted(), student is not given)


def _first_error(student: nn.Module, teacher: nn.Module, samples: Samples) -> float:
    """Return the error of the pruned model's outputs.

    Raises:
        ValueError: the model can't run the samples, or its outputs are not numbers that can be compared.
    """
    try:
        error = output_error(student, teacher, samples)
    except (RuntimeError, TypeError) as failure:
        reason = (str(failure).strip().splitlines() or [""])[0]
        raise ValueError(
            f"the model can't run the batches: {type(failure).__name__}: {reason}; give inputs of its own types"
        ) from failure
    if not math.isfinite(error):
        raise ValueError(
            "the model's outputs on these batches are not all finite, so no errors can be measured; are the weights "
            "and the inputs finite?"
        )
    return error


class _Work:
    """The models, and what has been done so far."""

    def __init__(
        self,
        dense: nn.Module,
        model: nn.Module,
        samples: Samples,
        masks: Masks,
        pattern: Pattern | None,
        progress: Progress,
    ) -> None:
        self.dense, self.model, self.samples = dense, model, samples
        self.masks, self.pattern, self.progress = masks, pattern, progress
        self.errors: list[LayerErrors] = []
        # only with whole channels biases and norms are masked
        self._whole_channels = any(mask.ndim == 1 and not bool(mask.all()) for mask in masks.values())
        self._awaited: set[fx.Node] = set()  # sums of which one term waits for the other
        names = samples.graph.tensors.values()
        own = tensors_by_name(model)
        self._tensors = {name: own[name].detach() for name in names if name in own}
        self._layers = {layer.node: layer for layer in layers(samples.graph)}
        self._alias = {id(value): name for name, value in own.items() if name in self._tensors}
        self._chosen = {self._alias.get(id(own[name]), name): name for name in masks}

    def refit(self) -> None:
        """Refit all layers of the pruned model, one after the other."""
        dense = {name: value.detach() for name, value in tensors_by_name(self.dense).items()}
        lockstep = Lockstep(self.samples.graph, dense, self._tensors, [*self.samples.fitted, *self.samples.held_out])

        def before(node: fx.Node) -> None:
            layer = self._layers.get(node)
            if layer is not None:
                self._refit(layer, lockstep, before)

        with fused_attention_off(), buffers_restored(self.model), buffers_restored(self.dense):
            lockstep.run(before)

    def _refit(self, layer: Layer, lockstep: Lockstep, before: Callable[[fx.Node], None]) -> None:
        self.progress(f"refitting {layer.weight}", len(self.errors) / len(self._layers))
        if layer.sum is not None and layer.other is not None:
            if layer.sum not in self._awaited and lockstep.may_reach(layer.other, layer.node):
                self._awaited.add(layer.sum)
                lockstep.reach(layer.other, before)
            else:
                layer = layer.alone()
        name = self._chosen.get(layer.weight)
        weight = self._tensors[layer.weight]
        mask = torch.ones_like(weight, dtype=torch.bool) if name is None else self.masks[name]
        pattern = None if name is None or bool(mask.all()) else self.pattern
        num_fitted = len(self.samples.fitted)
        fitting = Fitting(layer, lockstep, mask, num_fitted, whole_channels=self._whole_channels)
        fitted = fitting.fitted(pattern)
        self._take(layer, name, fitted)

    def _take(self, layer: Layer, name: str | None, fitted: Fitted) -> None:
        self._tensors[layer.weight].copy_(fitted.weight)
        if layer.bias is not None and fitted.bias is not None:
            mask = self.masks.get(self._chosen.get(layer.bias, ""))  # of a channel that goes the bias goes too
            self._tensors[layer.bias].copy_(fitted.bias if mask is None else fitted.bias * mask.to(fitted.bias.device))
        if name is not None:
            self.masks = Masks({**self.masks, name: fitted.mask.to(self.masks[name].device)})
        self.errors.append(LayerErrors(layer.weight, fitted.before, fitted.after, fitted.strength))

    def take_statistics(self) -> None:
        """Take BatchNorm's statistics anew, if that lowers the error of the outputs."""
        error = output_error(self.model, self.dense, self.samples)
        try:
            taken = norms.estimate(self.model, self._run)
        except ValueError:  # batches of one value a channel have no variance
            return
        own = dict(self.model.named_buffers())
        kept = {name: own[name].clone() for name in taken}
        for name, value in taken.items():
            own[name].copy_(value)
        if output_error(self.model, self.dense, self.samples) < error:
            return
        for name, value in kept.items():
            own[name].copy_(value)

    def _run(self, model: nn.Module) -> None:
        for batch in self.samples.fitted:
            args, kwargs = self.samples.call(batch)
            model(*args, **kwargs)

    def not_refitted(self) -> tuple[str, ...]:
        """Return the masked parameters that belong to no layer that was refitted."""
        done = {layer.name for layer in self.errors}
        return tuple(name for weight, name in self._chosen.items() if weight not in done and self.masks[name].ndim > 1)
