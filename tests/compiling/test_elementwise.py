"""Two chains of functions as one give what one after the other does."""

from __future__ import annotations

import numpy
from hypothesis import given
from hypothesis import strategies as st

from prunus.compiling.net import View, whole
from prunus.compiling.operations import Elementwise
from prunus.compiling.operations.elementwise import MOST_VALUES, Step, followed

FUNCTIONS = {
    "relu": lambda x: numpy.maximum(x, 0),
    "neg": numpy.negative,
    "leaky_relu": lambda x, a: numpy.where(x > 0, x, x * a),
    "clamp": lambda x, a, b: numpy.clip(x, a, b),
    "add": numpy.add,
    "sub": numpy.subtract,
    "mul": numpy.multiply,
    "maximum": numpy.maximum,
}
OPERANDS = {"add": 2, "sub": 2, "mul": 2, "maximum": 2}
CONSTANTS = {"leaky_relu": (0.5,), "clamp": (-1.0, 2.0)}
BOX, OTHER_BOX = (2, 3, 4), (4, 3, 2)


def computed(operation: Elementwise, values: dict[int, numpy.ndarray]) -> numpy.ndarray:
    """Apply the functions one by one to values that are kept flat."""
    results = [
        values[source.value][source.index] if isinstance(source, View) else source for source in operation.sources
    ]
    for step in operation.steps:
        results.append(FUNCTIONS[step.function](*(results[n] for n in step.operands), *step.constants))
    return results[-1]


def steps(draw: st.DrawFn, num_sources: int) -> tuple[Step, ...]:
    chosen: list[Step] = []
    for name in draw(st.lists(st.sampled_from(sorted(FUNCTIONS)), min_size=1, max_size=4)):
        before = st.integers(0, num_sources + len(chosen) - 1)
        operands = tuple(draw(before) for _ in range(OPERANDS.get(name, 1)))
        chosen.append(Step(name, operands, CONSTANTS.get(name, ())))
    return tuple(chosen)


@st.composite
def chains(draw: st.DrawFn) -> tuple[Elementwise, Elementwise, View]:
    """Draw two operations, the second of which reads the first's result in another box of as many elements."""
    random = numpy.random.default_rng(draw(st.integers(0, 1000)))
    sources: list[View | numpy.ndarray] = [
        View(value, random.permutation(24).reshape(BOX)) for value in range(draw(st.integers(1, 4)))
    ]
    if draw(st.booleans()):
        sources.append(random.normal(size=BOX))
    first = Elementwise("first", 10, BOX, tuple(sources), steps(draw, len(sources)))
    view = View(10, whole(10, BOX).index.reshape(OTHER_BOX))
    others: list[View | numpy.ndarray] = [
        View(value, random.permutation(24).reshape(OTHER_BOX)) for value in range(draw(st.integers(0, 5)))
    ]
    others.insert(draw(st.integers(0, len(others))), view)
    return first, Elementwise("then", 11, OTHER_BOX, tuple(others), steps(draw, len(others))), view


@given(chains())
def test_two_as_one_compute_what_one_after_the_other_does(drawn: tuple[Elementwise, Elementwise, View]) -> None:
    first, then, view = drawn
    random = numpy.random.default_rng(0)
    values = {value: random.normal(size=24) for value in range(8)}
    values[10] = computed(first, values).reshape(-1)
    both = followed(first, then, view)
    num_values = len(first.sources) + len(then.sources) - 1 + len(first.steps) + len(then.steps)
    if both is None:
        assert num_values > MOST_VALUES
        return
    both.check()
    assert num_values <= MOST_VALUES
    assert (both.output, both.box) == (11, OTHER_BOX)
    numpy.testing.assert_array_equal(computed(both, values), computed(then, values))
