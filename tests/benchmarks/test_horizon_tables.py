"""The recorded tables and their replay: enough real trainings, short ones, replays that keep the rules of a problem."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

parquet = pytest.importorskip("pyarrow.parquet")

from benchmarks.search.horizon.plan import first_part, from_unit, to_unit  # noqa: E402
from benchmarks.search.horizon.records import digest, read  # noqa: E402
from benchmarks.search.horizon.replay import horizon_problems  # noqa: E402
from benchmarks.search.horizon.setups import SETUPS, TABLES, looks  # noqa: E402
from benchmarks.search.horizon.surrogate import load  # noqa: E402
from benchmarks.search.make_tables import Place, make, read_rows  # noqa: E402
from benchmarks.search.problem import Problem  # noqa: E402

PROBLEMS = {problem.description.name: problem for problem in horizon_problems()}


@pytest.fixture(params=list(SETUPS))
def problem(request: pytest.FixtureRequest) -> Problem:
    return PROBLEMS[request.param]


def test_three_tables_small_enough_to_ship() -> None:
    assert set(PROBLEMS) == set(SETUPS)
    assert sum(file.stat().st_size for file in TABLES.glob("*.parquet")) <= 20e6


@pytest.mark.parametrize("name", SETUPS)
def test_a_thousand_short_real_trainings(name: str) -> None:
    setup = SETUPS[name]
    columns = parquet.read_table(setup.table).column_names
    assert columns[0] == "part"
    assert {*setup.space, "horizon", "seed", "diverged", "samples", "train_s", "evaluation_s", "metric"} < set(columns)
    records = read(setup)
    assert len(records) >= 1000
    seconds = [a[-1] + b[-1] for a, b in zip(records.train_s, records.evaluation_s, strict=True)]
    assert statistics.mean(seconds) <= 2
    assert records.part.count("default") >= 10
    assert len({(repr(p), h, s) for p, h, s in zip(records.params, records.horizon, records.seed, strict=True)}) == len(
        records
    )
    for horizon, samples, metric, diverged in zip(
        records.horizon, records.samples, records.metric, records.diverged, strict=True
    ):
        assert len(samples) == len(metric)
        assert setup.horizon_low <= horizon <= setup.horizon_high
        assert diverged == math.isnan(metric[-1])
        assert diverged or samples[-1] == pytest.approx(horizon, rel=1e-5)


@pytest.mark.parametrize("name", SETUPS)
def test_the_surrogate_is_of_this_table(name: str) -> None:
    assert load(SETUPS[name].surrogate).digest == digest(SETUPS[name])


def test_replays_are_deterministic_and_seeds_differ(problem: Problem) -> None:
    known = problem.description
    curves = [list(problem.train(known.default, known.full_horizon, seed)) for seed in (3, 3, 4)]
    assert curves[0] == curves[1]
    assert curves[0] != curves[2]


def test_knobs_without_effect_change_nothing(problem: Problem) -> None:
    known = problem.description
    other = {**known.default, "momentum": 0.1}
    assert list(problem.train(other, 1999, 0)) == list(problem.train(known.default, 1999, 0))


def test_points_go_on_and_end_at_the_horizon(problem: Problem) -> None:
    known = problem.description
    setup = SETUPS[known.name]
    for job in first_part(setup, 160)[16:]:
        points = list(problem.train(job.params, job.horizon, job.seed))
        assert all(a.samples < b.samples and a.seconds < b.seconds for a, b in pairwise(points))
        assert all(math.isfinite(point.value) for point in points[:-1])
        assert points[-1].samples == pytest.approx(job.horizon) or math.isnan(points[-1].value)
        assert problem.seconds_per_sample(job.params) > 0


def test_the_default_hits_about_nine_times_in_ten(problem: Problem) -> None:
    known = problem.description
    ends = [list(problem.train(known.default, known.full_horizon, seed))[-1] for seed in range(300)]
    assert 0.75 <= sum(known.reached(end.value) for end in ends) / 300 <= 1
    assert ends[0].seconds == pytest.approx(known.full_s)


def test_a_faster_recipe_is_there_to_be_found(problem: Problem) -> None:
    known = problem.description
    setup = SETUPS[known.name]
    jobs = first_part(setup, 400)[16:]
    hits = [job for job in jobs if any(known.reached(p.value) for p in problem.train(job.params, job.horizon, 0))]
    assert 0.02 <= len(hits) / len(jobs) <= 0.6
    assert min(list(problem.train(job.params, job.horizon, 0))[-1].seconds for job in hits) < known.full_s / 2


@pytest.mark.parametrize("name", SETUPS)
def test_units_and_values_agree(name: str) -> None:
    for knob in SETUPS[name].space.values():
        if not hasattr(knob, "choices"):
            assert from_unit(knob, to_unit(knob, from_unit(knob, 0.4))) == pytest.approx(from_unit(knob, 0.4))


def test_replays_need_no_torch() -> None:
    code = (
        "import sys; from benchmarks.search.horizon.replay import horizon_problems as p; assert len(p()) == 3;"
        " assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=TABLES.parents[2])


def test_looks_end_at_the_last_step() -> None:
    assert looks(3) == [1, 2, 3]
    assert looks(25) == [2, 5, 8, 10, 12, 15, 18, 20, 22, 25]


def test_making_goes_on_where_it_was_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    def one(name: str, job: object) -> dict[str, object]:
        ran.append(job.index)  # type: ignore[attr-defined]
        curve = {"samples": [1.0], "train_s": [0.1], "evaluation_s": [0.1], "metric": [0.5], "diverged": False}
        fields = ("part", "index", "params", "horizon", "seed")
        return {field: getattr(job, field) for field in fields} | curve

    monkeypatch.setattr("benchmarks.search.make_tables._train", one)
    monkeypatch.setattr("benchmarks.search.make_tables.ProcessPoolExecutor", _AtOnce)
    monkeypatch.setattr("benchmarks.search.make_tables.as_completed", list)
    place = Place(tmp_path / "rows.jsonl", tmp_path / "table.parquet")
    assert make(SETUPS["digits_cnn"], 40, 1, place) == 40 == len(ran)
    whole = place.rows.read_text(encoding="utf-8").splitlines()
    place.rows.write_text("\n".join(whole[:-3]) + "\n" + whole[-3][:50], encoding="utf-8")  # killed in a row
    assert make(SETUPS["digits_cnn"], 40, 1, place) == 3
    assert make(SETUPS["digits_cnn"], 40, 1, place) == 0
    assert len(read_rows(place.rows)) == parquet.read_table(place.table).num_rows == 40
    place.rows.unlink()
    assert make(SETUPS["digits_cnn"], 4, 1, place) == 4
    assert parquet.read_table(place.table).num_rows == 40  # A longer table is not written over.


def test_a_real_training_is_recorded_evaluation_by_evaluation() -> None:
    pytest.importorskip("torch")
    from benchmarks.search.horizon.trainings import train

    setup = SETUPS["digits_cnn"]
    curve = train("digits_cnn", setup.default, setup.horizon_low, 0)
    assert len(curve.samples) == len(curve.metric) == 10
    assert curve.samples[-1] == setup.horizon_low
    assert curve.train_s == sorted(curve.train_s)
    assert curve.metric == train("digits_cnn", setup.default, setup.horizon_low, 0).metric


class _AtOnce:
    """A pool that works at once, in this process."""

    def __init__(self, *arguments: object, **more: object) -> None:
        pass

    def __enter__(self) -> _AtOnce:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def submit(self, function: object, *arguments: object) -> _Done:
        return _Done(function(*arguments))  # type: ignore[operator]


class _Done:
    def __init__(self, value: object) -> None:
        self._value = value

    def result(self) -> object:
        return self._value
