"""Prune a model all at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from prunus.graph import ExampleInputs
from prunus.pruning import budgets, by_layer, criteria, least_error
from prunus.pruning.channels import ChannelFamilies
from prunus.pruning.criteria import Criterion
from prunus.pruning.finding import find_masks, from_first_rank
from prunus.pruning.masks import Masks
from prunus.pruning.method import Method
from prunus.pruning.patterns import Channels, Pattern
from prunus.pruning.scopes import Scope, Spreading
from prunus.pruning.stats import Batch
from prunus.pruning.targets import Selector, Target


def prune(
    model: nn.Module,
    sparsity: float | str | Mapping[str, float],
    *,
    criterion: str | criteria.Score | Criterion = "magnitude",
    pattern: str | Pattern = "unstructured",
    scope: str | Spreading | Scope = "global",
    include: Sequence[Selector] = (),
    exclude: Sequence[Selector] = (),
    masks: Mapping[str, Tensor] | None = None,
    data: Iterable[Batch] | None = None,
    example_inputs: ExampleInputs | None = None,
) -> Masks:
    """Set the least important weights of a model to zero, in place, and return the masks.

    The model stays the module it was: same class, same state_dict keys, dense tensors with zeros in them. Under
    DistributedDataParallel every process has to call this, and all use the masks of the first process.

    Args:
        model: any module; also one wrapped by DistributedDataParallel, torch.compile or Lightning Fabric.
        sparsity: the fraction of the targeted weights to remove, in [0, 1); met exactly, as
            round(sparsity * number of units). Pattern ``"channel"`` meets it within two points, or raises. By layer:
            a mapping from names and patterns, as `include` takes them, to fractions, ``{"conv1": 0.5, "fc*": 0.95}``;
            of several that match, the last counts, and what none matches is left alone. A target says what may be left
            instead: ``"200 kB"`` (1,000 bytes each, or KiB; of the file that `prunus.save` writes, of the model that
            `shrink` leaves), ``"1.2M parameters"`` that are not zero, ``"30% MACs"``; never above it, and as little
            below as steps allow.
        criterion: how much a weight matters: a name (`prunus ls criteria`), `(weight, stats) -> scores`, or an entry
            with options: ``Gradient(loss)``, ``Random(seed)``.
        pattern: what is removed together: ``"unstructured"``, ``"2:4"``, ``"block-4x4"``, ``"inputs-4"`` (neighbouring
            input channels; depthwise convolutions stay dense but with ``Inputs(4, depthwise="columns")``); or
            ``"channel"``: whole channels, neurons and heads, with everything coupled to them in other layers, so that
            `prunus.shrink` can remove them; with options ``Channels(round_to=8, budget="macs")``.
        scope: how the budget is spread over the layers: ``"global"``, ``"uniform"``, ``"erk"``, ``"least_error"``
            (by what the outputs lose on `data`), or `(layers, budget) -> counts`; with options
            ``Global(min_kept=16)``, ``Uniform(...)``, ``Erk(...)``, ``LeastError(...)``.
        include: parameters, modules, patterns or classes to prune; by default every weight of a Linear,
            convolution, attention or recurrent layer.
        exclude: what not to prune, likewise.
        masks: earlier masks; weights they prune stay pruned and count towards the sparsity.
        data: batches for criteria that need data: `(inputs, targets)` for ``Gradient(loss)``, inputs suffice for
            ``"activation"`` and for scope ``"least_error"``. Without data ``"gradient"`` uses the gradients of the last
            backward pass.
        example_inputs: inputs of the model, needed for pattern ``"channel"`` and for targets but parameters: a tensor,
            a tuple of tensors, or a mapping from argument names to tensors; the batch dimension comes first.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument is out of range, a selector matches nothing, weights are NaN, or the sparsity
            can't be reached; the model was not changed.

    >>> model = nn.Linear(10, 10)
    >>> prune(model, sparsity=0.25)
    Masks(1 parameters, 25 of 100 weights pruned)
    """
    fraction = budgets.start(pattern, sparsity) if isinstance(sparsity, str) else sparsity
    method, targets = by_layer.check(model, fraction, (criterion, pattern, scope), include, exclude)
    families: ChannelFamilies | None = None
    if isinstance(method.pattern, Channels):
        families = families_of(model, example_inputs, method, include, exclude, sparsity)
    if isinstance(data, Iterator) and (method.scope.needs_curves or isinstance(sparsity, str)):
        data = list(data)  # it is read more than once
    shares = shares_of(sparsity, model, method, example_inputs)
    method = least_error.measured(method, model, targets, masks=masks, data=data, shares=shares)
    if isinstance(sparsity, str):
        new_masks = masks_within(sparsity, model, method, families, targets, masks, data, example_inputs)
    elif families is not None:
        new_masks = families.find(model, method, method.sparsity, masks=masks, data=data)
    else:
        new_masks = find_masks(model, targets, method, method.sparsity, masks=masks, data=data)
    if any(isinstance(module, nn.parallel.DistributedDataParallel) for module in model.modules()):
        new_masks = from_first_rank(new_masks)
    new_masks.apply(model)
    return new_masks


def shares_of(
    sparsity: object, model: nn.Module, method: Method, example_inputs: ExampleInputs | None
) -> Mapping[str, float] | None:
    """Return what each parameter adds to the cost of a target, if the scope looks at it."""
    if not (isinstance(sparsity, str) and method.scope.needs_curves):
        return None
    return budgets.shares(sparsity, model, example_inputs)


def masks_within(
    target: str,
    model: nn.Module,
    method: Method,
    families: ChannelFamilies | None,
    targets: Mapping[str, Target],
    masks: Mapping[str, Tensor] | None,
    data: Iterable[Batch] | None,
    example_inputs: ExampleInputs | None,
) -> Masks:
    """Return the masks of the least sparsity that meets a target."""

    def find(fraction: float) -> Masks:
        if families is not None:
            return families.find(model, method, fraction, masks=masks, data=data, precision="near")
        return least_error.find_within(model, targets, method, fraction, masks=masks, data=data)

    if families is not None:
        reachable = budgets.Range(0.0, families.most(masks))
    else:
        reachable = least_error.reachable_within(targets, method, masks)
    return budgets.meet(
        budgets.parse(target),
        model,
        find,
        reachable,
        whole_channels=families is not None,
        example_inputs=example_inputs,
    )


def families_of(
    model: nn.Module,
    example_inputs: ExampleInputs | None,
    method: Method,
    include: Sequence[Selector],
    exclude: Sequence[Selector],
    sparsity: float | str | Mapping[str, float],
) -> ChannelFamilies:
    """Return the families of channels that a method prunes."""
    pattern = method.pattern
    assert isinstance(pattern, Channels)
    if isinstance(sparsity, str) and budgets.counts_macs(sparsity):
        pattern = replace(pattern, budget="macs")  # in fractions of what the target counts, steps are finest
    return ChannelFamilies(
        model,
        example_inputs,
        include=include,
        exclude=exclude,
        pattern=pattern,
        min_kept=method.scope.min_kept,
    )
