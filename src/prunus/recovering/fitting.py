"""Refit one layer: what it reads in the pruned model, what it should give, and the weights that give it best."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from prunus.graph.calls import arguments_by_name
from prunus.proving.verification import relative_error
from prunus.pruning import products
from prunus.pruning.moments import MOST_INPUTS, Moments, damped
from prunus.pruning.patterns import Pattern, Unstructured, num_gone
from prunus.pruning.solving import choose, refit
from prunus.recovering.layers import Layer
from prunus.recovering.lockstep import Lockstep

# How strongly weights are drawn toward the dense ones, as shares of the mean diagonal of X^T X: of short rows and of
# longer ones, which more rarely have as many samples as inputs.
_STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
_STRENGTHS_OF_LONG = (1.0, 1e-1, 1e-2)
# That by which masks are chosen, and rows refitted that are taken in parts.
_MIDDLE = 1e-2
# So many inputs are in a part of a row that is too long to be taken whole.
MOST_PART = 1024
# Rows up to this length are refitted in more steps, and with targets set anew where a ReLU follows.
_SHORT = 1200
_STEPS, _STEPS_OF_LONG = 200, 50
_ROUNDS = 3


@dataclass(frozen=True)
class Fitted:
    """A layer's weights for the pruned model.

    Attributes:
        weight: of the parameter's shape, zero where the mask is False.
        bias: the bias; None where the layer has none.
        mask: which weights stay.
        before, after: the layer's squared error on held-out samples, relative to the variance of what it should give:
            of the dense weights under the mask that was given, and of these.
        strength: how strongly they were drawn toward the dense ones; infinite where these fitted best.
    """

    weight: Tensor
    bias: Tensor | None
    mask: Tensor
    before: float
    after: float
    strength: float


@dataclass(frozen=True)
class _Batch:
    """What a layer reads and should give, its batch first.

    Attributes:
        inputs: what it reads in the pruned model.
        targets: what its product should be, without the bias.
        offset: what is added to the scaled product before it meets the ReLU; None where none follows.
    """

    inputs: Tensor
    targets: Tensor
    offset: Tensor | None


# Rows of weights, their mask, how strongly they were drawn, and what the bias changes by.
_Solution: TypeAlias = tuple[Tensor, Tensor, float, Tensor | None]


class Fitting:
    """One layer to be refitted.

    Its product is held against the dense model's where they meet in a residual sum, so that it also makes up for what
    the other term lacks, and behind a ReLU only as far as that shows it: where the dense model's is negative, anything
    negative will do.

    Args:
        layer: where it stands.
        lockstep: both models, run up to the layer, and up to the other term of the sum where there is one.
        mask: which weights stay.
        num_fitted: how many of the batches the weights are fitted to; the others are held out.
        whole_channels: whether the masks remove whole channels, which must not come back. A mask that removes nothing
            else is taken for such a one anyway.
    """

    def __init__(
        self, layer: Layer, lockstep: Lockstep, mask: Tensor, num_fitted: int, *, whole_channels: bool = False
    ) -> None:
        self.whole_channels = whole_channels
        self.dense, self.mask = lockstep.dense[layer.weight], mask.to(lockstep.dense[layer.weight].device)
        self.bias = None if layer.bias is None else lockstep.dense[layer.bias]
        self._layer, self._lockstep = layer, lockstep
        self.linear, _ = products.of_call(layer.call, lockstep.read(0, layer.call["input"])[0], self.dense)
        self._wide = _wide(self.dense)
        scale, shift = self._norm()
        self._scale = self.linear.across(scale).to(self._wide.dtype)
        own = 0.0 if self.bias is None else scale * self.bias
        self._shift = self.linear.across(shift + own).to(self._wide.dtype)
        # an output that BatchNorm multiplies by zero can't make up for anything
        self._inverse = torch.where(self._scale.abs() > 1e-12, 1 / self._scale, 0.0)
        batches = [self._batch(batch) for batch in range(len(lockstep.values))]
        self._fit, self._held = batches[:num_fitted], batches[num_fitted:]

    def _norm(self) -> tuple[Tensor, Tensor]:
        """Return the factor and the shift of BatchNorm for each output in eval mode; 1 and 0 where none follows."""
        outputs = self.linear.rows(self._wide).shape[:2].numel()
        ones = torch.ones(outputs, dtype=torch.float64, device=self.dense.device)
        if self._layer.norm is None:
            return ones, 0 * ones
        call = arguments_by_name(self._layer.norm)
        mean, var = (self._lockstep.read(0, call[name])[0].double() for name in ("running_mean", "running_var"))
        weight, bias = (
            default if call[name] is None else self._lockstep.read(0, call[name])[0].double()
            for name, default in (("weight", ones), ("bias", 0 * ones))
        )
        scale = weight * (var + call["eps"]).rsqrt()
        return scale, bias - mean * scale

    @torch.no_grad()
    def _batch(self, batch: int) -> _Batch:
        call, other = self._layer.call, self._layer.other
        dense, pruned = (
            products.of_call(call, _wide(value), self.dense)[1] for value in self._lockstep.read(batch, call["input"])
        )
        targets = self.linear.outputs(dense, self._wide)
        offset = self._shift
        if other is not None:
            theirs, ours = (_wide(value).view(targets.shape) for value in self._lockstep.read(batch, other))
            targets = targets + (theirs - ours) * self._inverse
            offset = offset + ours
        return _Batch(pruned, targets, offset if self._layer.rectified else None)

    @torch.no_grad()
    def fitted(self, pattern: Pattern | None) -> Fitted:
        """Return the weights that fit best; with a pattern, as many weights are chosen anew as the mask keeps.

        Where nothing fits better on the held-out batches than the dense weights under the mask, these are returned.
        """
        dense, mask = self.linear.rows(self._wide), self.linear.rows(self.mask)
        before = self._error(dense * mask, None)
        best = Fitted(self._weight(dense * mask), self.bias, self.mask, before, before, math.inf)
        solve = self._whole if dense.shape[2] <= MOST_INPUTS else self._by_parts
        for rows, kept, strength, shift in solve(dense.double(), mask, pattern):
            weight = rows.to(self._wide.dtype)
            error = self._error(weight, shift)
            if error < best.after or math.isnan(best.after):
                bias = None if self.bias is None or shift is None else (self.bias + shift).to(self.bias.dtype)
                own = self.linear.weight(kept, self.mask.shape)
                best = Fitted(self._weight(weight), bias, own, before, error, strength)
            elif best.strength < math.inf:
                break  # drawn less strongly it would only follow the fitted samples more
        return best

    def _whole(self, dense: Tensor, mask: Tensor, pattern: Pattern | None) -> Iterator[_Solution]:
        """Yield weights, their mask, the strength and what the bias changes by, of rows whose moments fit in memory."""
        gram, right = self._moments(self._fit, None)
        if pattern is not None:
            mask = self._chosen(gram, right, dense, pattern, None)
        short = dense.shape[2] <= _SHORT
        steps, weight = _STEPS if short else _STEPS_OF_LONG, dense
        for strength in _STRENGTHS if short else _STRENGTHS_OF_LONG:  # each goes on from the one before
            drawn, ridge = _drawn(gram, dense, strength)
            weight = refit(drawn, right + ridge, weight, mask, steps)
            targets = [batch.targets for batch in self._fit]
            for _ in range(_ROUNDS if short and self._layer.rectified else 0):
                shift = self._free_shift(weight, targets)
                targets = [self._shown(batch, weight, shift) for batch in self._fit]
                weight = refit(drawn, self._right(targets, None) + ridge, weight, mask, steps)
            yield weight, mask, strength, self._free_shift(weight, targets)

    def _by_parts(self, dense: Tensor, mask: Tensor, pattern: Pattern | None) -> Iterator[_Solution]:
        """Yield the same of longer rows: one part of the inputs after the other takes up what the others leave.

        Nothing is yielded for layers with groups.
        """
        if self.linear.groups > 1:
            return
        weight, kept = dense * mask, mask.clone()
        batches = [_Batch(b.inputs, b.targets - self._outputs(b, weight), None) for b in self._fit]
        for part in self._parts(dense):
            apart = [_Batch(b.inputs, b.targets + self._outputs(b, weight, part), None) for b in batches]
            gram, right = self._moments(apart, part)
            own = dense[..., part]
            if isinstance(pattern, Unstructured):  # larger units may reach over a part's edge
                kept[..., part] = self._chosen(gram, right, own, pattern, part)
            drawn, ridge = _drawn(gram, own, _MIDDLE)
            weight[..., part] = refit(drawn, right + ridge, own, kept[..., part], _STEPS_OF_LONG)
            batches = [_Batch(b.inputs, b.targets - self._outputs(b, weight, part), None) for b in apart]
        yield weight, kept, _MIDDLE, self._free_shift(weight, [batch.targets for batch in self._fit])

    def _parts(self, rows: Tensor) -> Iterator[slice]:
        """Yield the inputs in parts of whole channels."""
        kernel = math.prod(self.linear.kernel)
        step = max(1, MOST_PART // kernel) * kernel
        yield from (slice(start, min(start + step, rows.shape[2])) for start in range(0, rows.shape[2], step))

    def _channels(self, values: Tensor, dim: int, part: slice | None) -> Tensor:
        """Return the channels along a dimension that a part of the inputs belongs to."""
        if part is None:
            return values
        kernel = math.prod(self.linear.kernel)
        return values.narrow(dim, part.start // kernel, (part.stop - part.start) // kernel)

    def _inputs(self, batch: _Batch, part: slice | None) -> Tensor:
        return self._channels(batch.inputs, 1 if self.linear.kernel else -1, part)

    def _weight(self, rows: Tensor, part: slice | None = None) -> Tensor:
        """Return rows, or a part of them, in the shape of the parameter, or of that part."""
        like = self._channels(self.dense, 0 if self.linear.transposed else 1, part)
        return self.linear.weight(rows, like.shape)

    def _outputs(self, batch: _Batch, rows: Tensor, part: slice | None = None) -> Tensor:
        """Return the product of a batch's inputs, or of a part of them, with the same part of the rows."""
        own = rows if part is None else rows[..., part]
        return self.linear.outputs(self._inputs(batch, part), self._weight(own, part).to(batch.inputs.dtype))

    def _moments(self, batches: list[_Batch], part: slice | None) -> tuple[Tensor, Tensor]:
        """Return X^T X and X^T targets; less what a free bias takes up, where the layer has one."""
        self._sums = Moments()
        for batch in batches:
            self._sums.add(self.linear.patches(self._inputs(batch, part)))
        gram = self._sums.gram if self.bias is None else self._sums.centred()
        return gram, self._right([batch.targets for batch in batches], part)

    def _right(self, targets: list[Tensor], part: slice | None) -> Tensor:
        """Return targets^T X of the fitted batches, (groups, outputs, inputs)."""
        right = torch.zeros((), dtype=torch.float64, device=self.dense.device)
        like = self._channels(self._wide, 0 if self.linear.transposed else 1, part)
        for batch, target in zip(self._fit, targets, strict=True):
            own = self.linear.correlate(self._inputs(batch, part), target, like)
            right = right + self.linear.rows(own).double()
        if self.bias is not None:
            right = right - self._mean(targets).unsqueeze(2) * self._sums.sums.unsqueeze(1)
        return right

    def _mean(self, outputs: list[Tensor]) -> Tensor:
        """Return the mean of outputs over all positions, (groups, outputs)."""
        apart = [self.linear.positions(output) for output in outputs]
        count = sum(output.shape[1] for output in apart)
        return torch.stack([output.sum(1, dtype=torch.float64) for output in apart]).sum(0) / count

    def _free_shift(self, rows: Tensor, targets: list[Tensor]) -> Tensor | None:
        """Return what the bias has to change by, so that the mean output is what it should be; None without a bias."""
        if self.bias is None:
            return None
        missing = [target - self._outputs(batch, rows) for batch, target in zip(self._fit, targets, strict=True)]
        return self._mean(missing).flatten()

    def _shown(self, batch: _Batch, rows: Tensor, shift: Tensor | None) -> Tensor:
        """Return the targets, but where dense and pruned model are both below the ReLU's zero what the product is.

        So the next least squares fit minimises the error where the target is positive, and what exceeds zero elsewhere.
        The targets that a negative number may be are a convex set, and least squares and projection take turns.
        """
        assert batch.offset is not None
        product = self._outputs(batch, rows)
        if shift is not None:
            product = product + self.linear.across(shift).to(product.dtype)
        zero = -batch.offset * self._inverse
        negative = self._scale * batch.targets + batch.offset <= 0
        unseen = self._scale * product + batch.offset <= 0
        return torch.where(negative, torch.where(unseen, product, zero), batch.targets)

    def _chosen(self, gram: Tensor, right: Tensor, dense: Tensor, pattern: Pattern, part: slice | None) -> Tensor:
        """Return a mask of the inputs, or of a part of them, that keeps as many of a pattern's units as the layer's."""
        given = self.mask if part is None else self._weight(self.linear.rows(self.mask)[..., part], part)
        total, gone = pattern.num_units(given.shape), num_gone(pattern, given)
        frame = self._channels_left(self.linear.rows(given))
        if not self.whole_channels and not torch.equal(frame, self.linear.rows(given)):
            frame = torch.ones_like(frame)

        def keep(scores: Tensor, share: float) -> Tensor:
            units = pattern.pool(self._weight(scores * frame, part))
            best = units.topk(total - gone + round(gone * share), sorted=False).indices
            kept = torch.zeros_like(units, dtype=torch.bool).index_fill(0, best, True)
            return self.linear.rows(pattern.expand(kept, given.shape)) & frame

        drawn, ridge = _drawn(gram, dense, _MIDDLE)
        return choose(drawn.float(), (right + ridge).float(), dense.float(), keep)

    def _channels_left(self, mask: Tensor) -> Tensor:
        """Return which weights are of outputs and input channels that a mask does not remove whole."""
        outputs = mask.any(2, keepdim=True)
        apart = mask.view(*mask.shape[:2], -1, math.prod(self.linear.kernel))
        inputs = apart.any(3, keepdim=True).any(1, keepdim=True).expand_as(apart).flatten(2)
        return outputs & inputs

    def _error(self, rows: Tensor, shift: Tensor | None) -> float:
        """Return the squared error on the held-out batches, relative to the variance of what is wanted there."""
        added = 0.0 if shift is None else self.linear.across(shift).to(self._wide.dtype)

        def pairs() -> Iterator[tuple[Tensor, Tensor]]:
            for batch in self._held:
                output, target = self._scale * (self._outputs(batch, rows) + added), self._scale * batch.targets
                if batch.offset is None:
                    yield output, target
                else:
                    yield F.relu(output + batch.offset), F.relu(target + batch.offset)

        return relative_error(pairs())


def _drawn(gram: Tensor, dense: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Return the Gram matrix with a ridge, and what the ridge adds to the right sides to draw toward dense weights."""
    drawn = damped(gram, strength)
    ridge = (drawn - gram).diagonal(dim1=1, dim2=2)
    return drawn, dense * ridge.unsqueeze(1)


def _wide(values: Tensor) -> Tensor:
    """Half precision is computed in float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
