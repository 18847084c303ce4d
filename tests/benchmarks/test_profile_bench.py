"""The profile benchmark: what it makes of runs that are made up."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.profile.__main__ import figures, rows_of, table_of, values_of

RUNS: list[dict[str, Any]] = [
    {"seconds": seconds, "others": others, "device": "cpu"}
    for seconds, others in ((14.0, 0.1), (15.5, None), (13.0, 0.3))
]
VALUES = [
    {"memory": ("cpu", memory), "disk": ("wall", disk)} for memory, disk in ((100.0, 10.0), (104.0, 13.0), (98.0, 9.0))
]


def test_a_rate_is_compared_with_its_median() -> None:
    memory, disk = rows_of(VALUES)
    assert (memory["rate"], memory["median"], memory["missing"]) == ("memory", 100.0, 0)
    assert memory["deviation_median"] == pytest.approx(0.02) and memory["deviation_max"] == pytest.approx(0.04)
    assert disk["deviation_median"] == pytest.approx(0.1) and disk["deviation_max"] == pytest.approx(0.3)


def test_a_rate_that_a_run_lacks_is_said() -> None:
    assert [row["missing"] for row in rows_of([*VALUES[:2], {"disk": ("wall", 9.0)}])] == [1, 0]


def test_the_figures_are_those_of_the_worst_rate() -> None:
    found = figures(RUNS, rows_of(VALUES))
    assert found["repeat_deviation_median"] == pytest.approx(0.02) and found["worst_rate"] == "memory"
    assert found["repeat_deviation_max"] == pytest.approx(0.04)
    assert found["disk_deviation_median"] == pytest.approx(0.1), "apart: it is no processor's"
    assert found["disk_deviation_max"] == pytest.approx(0.3)
    assert found["profile_s_max"] == 15.5 and found["others_max"] == 0.3
    assert {value for name, value in found.items() if name.startswith("gpu_")} == {None}


def test_on_a_gpu_the_others_are_null() -> None:
    found = figures([{**run, "device": "cuda"} for run in RUNS], rows_of(VALUES))
    assert found["gpu_profile_s_max"] == 15.5 and found["repeat_deviation_median"] is None


@pytest.mark.parametrize(("device", "clock", "seconds"), [("cpu", "cpu", 0.002), ("cuda", "wall", 0.004)])
def test_seconds_are_the_processors_where_it_does_the_work(device: str, clock: str, seconds: float) -> None:
    piece, short = {"wall_s": 0.004, "cpu_s": 0.002}, {"wall_s": 1e-6, "cpu_s": 1e-6}
    rates = {"memory": {"per_s": 1.0, "per_cpu_s": 2.0}, "disk": {"per_s": 3.0, "per_cpu_s": None}}
    document = {
        "hardware": {"device": device, "rates": rates},
        "breakdown": {"pieces": {"forward": piece, "prepare": short}, "step": piece},
    }
    assert values_of(document) == {
        "memory": ("cpu", 2.0),
        "disk": ("wall", 3.0),
        "step.forward": (clock, 1 / seconds),
        "step.whole": (clock, 1 / seconds),
    }


def test_the_table_has_a_row_per_rate() -> None:
    assert table_of(rows_of(VALUES))[2:] == [
        "| memory | cpu | 100 | 2.0% | 4.0% |",
        "| disk | wall | 10 | 10.0% | 30.0% |",
    ]
