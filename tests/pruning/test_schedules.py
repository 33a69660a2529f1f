"""The contract of every schedule, and each against its closed form."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.pruning.schedules import SCHEDULES, Cubic, Schedule, cubic, geometric, linear, one_shot, resolve
from prunus.registry import UnknownNameError

every_schedule = pytest.mark.parametrize("name", SCHEDULES)
sparsities = st.floats(0, 1, exclude_max=True)


@every_schedule
@given(sparsity=sparsities)
@settings(deadline=None, max_examples=60)
def test_begins_at_exactly_0_and_ends_at_exactly_1(name: str, sparsity: float) -> None:
    assert SCHEDULES[name](0.0, sparsity) == 0.0
    assert SCHEDULES[name](1.0, sparsity) == 1.0


@every_schedule
@given(sparsity=sparsities, steps=st.lists(st.floats(0, 1), min_size=2, max_size=2))
@settings(deadline=None, max_examples=100)
def test_never_goes_back_and_stays_between_0_and_1(name: str, sparsity: float, steps: list[float]) -> None:
    earlier, later = sorted(steps)
    assert 0 <= SCHEDULES[name](earlier, sparsity) <= SCHEDULES[name](later, sparsity) <= 1


@every_schedule
@given(sparsity=sparsities, progress=st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_the_checked_fraction_is_the_schedules_own(name: str, sparsity: float, progress: float) -> None:
    assert Schedule(SCHEDULES[name]).fraction(progress, sparsity) == SCHEDULES[name](progress, sparsity)


def test_geometric_is_the_lottery_tickets_20_percent_again_and_again() -> None:
    for rounds in (1, 5, 12):
        target = 1 - 0.8**rounds
        for done in range(rounds + 1):
            assert 1 - target * geometric(done / rounds, target) == pytest.approx(0.8**done, rel=1e-12)


def test_geometric_is_linear_where_nothing_is_pruned() -> None:
    assert geometric(0.3, 0.0) == 0.3
    assert geometric(0.3, 1e-12) == pytest.approx(0.3)


def test_cubic_is_zhu_and_guptas_equation() -> None:
    final, steps = 0.87, 40
    for step in range(steps + 1):
        equation = final + (0 - final) * (1 - step / steps) ** 3
        assert final * cubic(step / steps, final) == pytest.approx(equation, abs=1e-12)


def test_linear_and_one_shot() -> None:
    assert linear(0.37, 0.9) == 0.37
    assert [one_shot(progress, 0.9) for progress in (0.0, 1e-9, 1.0)] == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("wrong", [float("nan"), None, "half", -0.1, 1.1, float("inf"), [0.5]])
def test_a_users_schedule_that_returns_no_fraction_is_refused(wrong: object) -> None:
    def own(progress: float, sparsity: float) -> object:
        return wrong

    with pytest.raises(ValueError, match=r"schedule 'own' must return the fraction of the way to the sparsity"):
        Schedule(own).fraction(0.5, 0.9)  # type: ignore[arg-type]


def test_a_schedule_that_returns_the_sparsity_itself_is_found_out() -> None:
    with pytest.raises(ValueError, match=r"to 1 at progress 1, but at progress 1 it returned 0\.9$"):
        Schedule(lambda progress, sparsity: progress * sparsity).fraction(1.0, 0.9)


def test_what_is_no_schedule_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown schedule 'cubik'; did you mean 'cubic'\?"):
        resolve("cubik")
    with pytest.raises(TypeError, match="schedule must be a name or a function"):
        resolve(1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="schedule must be a name or a function"):
        resolve(lambda progress: progress)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize("schedule", [resolve("cubic:begin=3,every=2"), Cubic(begin=3, every=2), Schedule(cubic, 3, 2)])
def test_options_say_when(schedule: Schedule) -> None:
    assert (schedule.shape, schedule.begin, schedule.every) == (cubic, 3, 2)
