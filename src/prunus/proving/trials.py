"""A model's outputs on many inputs, which a smaller one has to give too: other samples, scales, seeds and sizes."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from prunus.graph import Graph
from prunus.graph.free_sizes import NotedCalls
from prunus.proving.drawing import Draw, Inputs, draw, integer_ranges
from prunus.proving.verification import difference, difference_where_finite, is_finite, outputs, tolerance, where_finite
from prunus.tables import ABSENT, count, pairs, shape

# So many samples where both models run them within two seconds; else as many as they run within one, but no fewer than
# the least: what holds for all of a large model's samples is proved by its graph.
_LEAST, _MOST = 8, 64
_SECONDS, _SECONDS_OF_FEWER = 1.0, 0.5
_SECONDS_RESIZED = 0.5

# So many numbers of outputs are kept to be compared.
_MOST_ELEMENTS = 1 << 25

_DRAWS = (Draw(1), Draw(2, scale=10.0), Draw(3, scale=0.1), Draw(4, uniform=True))

# Other sizes are tried at these multiples of the example's.
_FACTORS = (1.5, 2.0)

# So many of the numbers that an output like argmax or round holds may flip by rounding; each operation by itself is
# held against the larger model's before.
_FLIPS = 1e-3


@dataclass(frozen=True)
class Checked:
    """What the outputs of a smaller model were held against the larger one's on.

    Attributes:
        samples: how many samples at the example's sizes.
        sizes: per size that was tried, the shapes of all inputs without the batch; the example's come first. A size at
            which the forward calls other functions than at the example's is none of them: it may be wrong there.
        dtypes: the inputs' types, in their order.
        operations: whether each operation was compared too, and each size written in it proved.
        batch: the only batch that the model takes; None where it is free.
        arguments: the forward's arguments that the example gives, and others with the values that were tried, as
            "flip=True"; with any others nothing was compared.
    """

    samples: int
    sizes: tuple[tuple[tuple[int, ...], ...], ...]
    dtypes: tuple[torch.dtype, ...]
    operations: bool = True
    batch: int | None = None
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        sizes = "; ".join(" and ".join(shape(input_shape) for input_shape in size) for size in self.sizes)
        return str(
            pairs(
                [
                    ("samples compared", count(self.samples)),
                    ("at the sizes (without the batch)", sizes),
                    ("of the types", ", ".join(str(dtype).removeprefix("torch.") for dtype in self.dtypes)),
                    ("each operation compared", "yes" if self.operations else "no"),
                    ("batch", "free" if self.batch is None else count(self.batch)),
                    ("arguments", ", ".join(self.arguments) or ABSENT),
                ]
            )
        )


@dataclass(frozen=True, eq=False)
class Trial:
    """Inputs, and what the larger model makes of them."""

    inputs: Inputs
    expected: list[Tensor]
    called: tuple[str, ...] = ()  # the functions that the forward called
    settings: Mapping[str, bool | int] = field(default_factory=dict)  # arguments of the forward beside the inputs

    @property
    def setting(self) -> str:
        """The arguments beside the inputs, as they are written in a call."""
        return ", ".join(f"{name}={value}" for name, value in self.settings.items())

    def run(self, model: nn.Module) -> list[Tensor]:
        """Return a model's outputs for these inputs."""
        return outputs(model, self.inputs.args, {**self.inputs.kwargs, **self.settings})


@dataclass
class Trials:
    """What a smaller model has to give.

    Attributes:
        graph: of the larger model.
        ranges: per input the smallest and the largest integer that it was drawn from; None where it was not drawn so.
        example: at the example's sizes.
        resized: at others that the model takes too.
        switched: with an argument that the example does not give at another value than its default.
        seconds: how long the model takes for the example's batch.
    """

    graph: Graph
    ranges: list[tuple[int, int] | None]
    example: list[Trial] = field(default_factory=list)
    resized: list[Trial] = field(default_factory=list)
    switched: list[Trial] = field(default_factory=list)
    seconds: float = 0.0

    def checked(self, *, resized: bool) -> Checked:
        """Say what was compared; `resized` tells whether other sizes and arguments were."""
        called = self.example[0].called
        alike = [trial for trial in self.resized if trial.called == called]
        trials = [*self.example, *(alike if resized else [])]
        sizes = tuple(dict.fromkeys(trial.inputs.shapes for trial in trials))
        dtypes = tuple(value.dtype for value in self.example[0].inputs.all)
        samples = sum(trial.inputs.batch for trial in self.example)
        graph = self.graph
        bound = inspect.signature(graph.model.forward).bind(*graph.args, **graph.kwargs).arguments
        switched = dict.fromkeys(trial.setting for trial in self.switched) if resized else ()
        return Checked(samples, sizes, dtypes, batch=graph.batch, arguments=(*bound, *switched))


def run_trials(model: nn.Module, graph: Graph) -> Trials:
    """Run a model on inputs like the example's, on as many samples as time allows, and on other sizes that it takes."""
    like, ranges = Inputs(graph.args, graph.kwargs), integer_ranges(graph)
    began = time.perf_counter()
    first = _try(model, draw(like, like.batch, Draw(0), ranges))
    if first is None:  # it can't take any integers, such as lengths or positions: the example's own then
        ranges = [None] * len(ranges)
        first = _trial(model, draw(like, like.batch, Draw(0), ranges))
    seconds = (time.perf_counter() - began) / like.batch
    trials = Trials(graph, ranges, [first])
    draws: Sequence[Draw] = _DRAWS
    if seconds * _MOST > _SECONDS:  # the first run of a model is slower than the others
        inputs, began = draw(like, like.batch, draws[0], ranges), time.perf_counter()
        if (second := _try(model, inputs)) is not None:
            seconds, draws = (time.perf_counter() - began) / like.batch, draws[1:]
            trials.example += [second] if _is_finite(second) else []
    trials.seconds = seconds * like.batch
    elements = sum(value.numel() for value in first.expected) / like.batch
    limit = _SECONDS_OF_FEWER if seconds * _MOST > _SECONDS else _SECONDS
    most = min(limit / max(seconds, 1e-9), _MOST_ELEMENTS / max(elements, 1))
    count = max(_LEAST, min(_MOST, int(most))) - sum(trial.inputs.batch for trial in trials.example)
    for place, how in enumerate(draws):
        samples = graph.batch or max(1, (count + len(draws) - 1 - place) // len(draws))
        trial = _try(model, draw(like, samples, how, ranges)) or _try(model, draw(like, like.batch, how, ranges))
        trials.example += [trial] if trial and _is_finite(trial) else []
    if seconds * like.batch * sum(factor**2 for factor in _FACTORS) < _SECONDS_RESIZED:
        trials.resized = [
            trial
            for factor in _FACTORS
            for inputs in _resized(like, factor)
            if (trial := _try(model, draw(inputs, like.batch, Draw(5), ranges))) and _is_finite(trial)
        ]
        settings = list(_other_settings(graph))
        whole = seconds * sum(trial.inputs.batch for trial in trials.example) * len(settings) < _SECONDS_RESIZED
        shown = trials.example if whole else trials.example[:1]
        tried = [_try(model, trial.inputs, setting) for setting in settings for trial in shown]
        trials.switched = [trial for trial in tried if trial and _is_finite(trial)]
    return trials


def _other_settings(graph: Graph) -> Iterator[dict[str, bool | int]]:
    """Yield switches and whole numbers of the forward that the example does not give, at other values than default."""
    signature = inspect.signature(graph.model.forward)
    bound = signature.bind(*graph.args, **graph.kwargs).arguments
    for name, parameter in signature.parameters.items():
        default = parameter.default
        if name not in bound and isinstance(default, int):
            others = [not default] if isinstance(default, bool) else [default + 1, default - 1]
            yield from ({name: value} for value in others)


def _is_finite(trial: Trial) -> bool:
    """Tell whether nothing overflowed: zero times infinity is NaN, which a smaller model does not show."""
    return all(map(is_finite, trial.expected))


def disagreement(trials: Sequence[Trial], smaller: nn.Module) -> str:
    """Say on which inputs a smaller model differs, and by how much; nothing where it does not.

    Raises:
        Exception: whatever the smaller model's forward raises.
    """
    for trial in trials:
        actual = trial.run(smaller)
        apart = difference_where_finite(trial.expected, actual)
        if apart > tolerance(trial.expected) and not _only_flips(*where_finite(trial.expected, actual)):
            shapes = ", ".join(str(tuple(value.shape)) for value in trial.inputs.all)
            setting = f" with {trial.setting}" if trial.settings else ""
            return f"its outputs would differ by {apart:.1e} of the largest on inputs of {shapes}{setting}"
    return ""


def gives_shapes(trial: Trial, model: nn.Module) -> bool:
    """Tell whether a model runs and gives outputs of the larger one's shapes.

    With another argument it may not, as `return_features` gives fewer channels: that shows itself.
    """
    try:
        return [value.shape for value in trial.run(model)] == [value.shape for value in trial.expected]
    except Exception:  # whatever a forward does with what it was not called with before
        return False


def _only_flips(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> bool:
    if [value.shape for value in expected] != [value.shape for value in actual]:
        return False
    for one, other in zip(expected, actual, strict=True):
        if one.is_floating_point() or one.is_complex():
            if difference([one], [other]) > tolerance([one]):
                return False
        elif float((one != other).double().mean()) > _FLIPS:
            return False
    return True


def _trial(model: nn.Module, inputs: Inputs, settings: Mapping[str, bool | int] | None = None) -> Trial:
    with NotedCalls() as noting:
        expected = outputs(model, inputs.args, {**inputs.kwargs, **(settings or {})})
    return Trial(inputs, expected, tuple(noting.called), settings or {})


def _try(model: nn.Module, inputs: Inputs, settings: Mapping[str, bool | int] | None = None) -> Trial | None:
    try:
        return _trial(model, inputs, settings)
    except Exception:  # whatever a forward raises for inputs that it was not made for
        return None


def _resized(like: Inputs, factor: float) -> Iterator[Inputs]:
    """Yield inputs of other sizes: planes of images, then lengths of sequences, wherever an input has that size."""
    planes = {size for value in like.all if value.ndim >= 4 for size in value.shape[2:]}
    lengths = {value.shape[1] for value in like.all if value.ndim == 2 and not value.is_floating_point()}
    lengths |= {value.shape[dim] for value in like.all if value.ndim == 3 for dim in (1, 2)}
    for sizes in ([planes] if planes else []) + [{length} for length in sorted(lengths - planes)]:
        yield like.replaced([_stretched(value, sizes, factor) for value in like.all])


def _stretched(value: Tensor, sizes: set[int], factor: float) -> Tensor:
    """Repeat a tensor along each dimension of one of these sizes."""
    first = 2 if value.ndim >= 4 else 1
    for dim in range(first, value.ndim):
        if value.shape[dim] in sizes:
            size = value.shape[dim]
            places = torch.arange(max(size + 1, int(size * factor)), device=value.device) % size
            value = value.index_select(dim, places)
    return value
