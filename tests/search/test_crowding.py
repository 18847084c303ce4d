"""How much neighbours disturb, and how much of it each trial had."""

from __future__ import annotations

import pytest

from autoaccel.search.crowding import ALONE, Company, Crowding, crowding_of


def steps(*seconds: float) -> dict[str, object]:
    return {"wall_s": list(seconds)}


def test_it_is_that_of_the_middle_when_all_are_at_work() -> None:
    one = steps(1.0, 1.0, 1.6, 1.6, 1.6, 1.6, 1.0, 1.0)
    other = steps(9.0, 9.0, 1.4, 1.4, 1.4, 1.4, 0.1, 0.1)
    assert crowding_of(steps(1.1, 1.0, 0.9), [one, other]) == Crowding(2, pytest.approx(1.5))


def test_a_machine_does_not_get_faster_by_neighbours() -> None:
    assert crowding_of(steps(1.0), [steps(0.9), steps(0.9)]) == Crowding(2, 1.0)


def test_what_a_machine_varies_by_itself_is_no_disturbance() -> None:
    assert [Crowding(2, ratio).disturbs for ratio in (1.0, 1.03, 1.04)] == [False, False, True]


def test_it_grows_with_the_number_of_neighbours() -> None:
    crowding = Crowding(n_slots=4, ratio=2.5)
    assert [crowding.factor(n) for n in (0, 1, 2, 3)] == pytest.approx([1.0, 1.5, 2.0, 2.5])
    assert ALONE.factor(0) == 1.0


def test_time_beside_others_counts_less() -> None:
    company = Company()
    assert company.crowding == 1.0
    company.add(4.0, 1.0)
    company.add(8.0, 2.0)
    assert company.crowding == pytest.approx(12 / 8)
