"""Whole studies in simulated time with several trials at once: on their own devices, on shared ones, and lost ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from autoaccel.budget import parse_budget
from autoaccel.cost.drift import corrected
from autoaccel.errors import TrialsFailedError
from autoaccel.execution.simulated import Course
from autoaccel.search.crowding import Crowding
from autoaccel.search.loop import run_study
from autoaccel.search.trials import run_trial
from autoaccel.store.ledger import Entry, read_ledger
from autoaccel.trial import CONFIRMING, SEARCHING, TIMED, TrialRecord, TrialSpec
from tests.simulated.problems import COST, Problem, driver, question


def at_once(entries: list[Entry]) -> list[list[str]]:
    """The purposes of the trials that were running after each start."""
    now: dict[int, str] = {}
    seen = []
    for entry in entries:
        if entry.kind == "started":
            now[entry.data["trial"]] = entry.data["purpose"]
            seen.append(list(now.values()))
        elif entry.kind == "ended":
            del now[entry.data["spec"]["trial"]]
    return seen


def test_devices_of_their_own_are_all_used_also_by_what_is_claimed(tmp_path: Path) -> None:
    asked = replace(question(parse_budget("6s")), n_devices=4, crowding=Crowding(4, 1.0))
    with driver(tmp_path, Problem(), n_slots=4) as running:
        done = run_study(running, asked)
        assert running.spent().seconds <= 6
    seen = at_once(read_ledger(tmp_path / "ledger.jsonl")[0])
    assert seen[3][0] == "baseline" and len(seen[3]) == 4
    assert max(sum(p in CONFIRMING for p in purposes) for purposes in seen) == 4
    assert not any({*SEARCHING} & {*purposes} and {*CONFIRMING} & {*purposes} for purposes in seen)
    pairs = [(r.spec.purpose, r.spec.config) for r in done if r.spec.purpose in CONFIRMING]
    assert len({(p, c.identity, c.seed) for p, c in pairs if c}) == len(pairs), "a fresh seed was used twice"
    assert [r.spec.purpose for r in done].count("confirm") <= 20 + 3


def test_all_devices_are_paid_for(tmp_path: Path) -> None:
    asked = replace(question(parse_budget("20 device-seconds")), n_devices=4, crowding=Crowding(4, 1.0))
    with driver(tmp_path, Problem(), n_slots=4) as running:
        paying = replace(running, n_devices=4)
        done = run_study(paying, asked)
        assert 3 < paying.spent().seconds <= 5
        assert paying.spent().device_seconds == pytest.approx(4 * paying.spent().seconds)
    assert any(r.hit for r in done)


def crowded(factor: float) -> Callable[[TrialSpec], Course]:
    """Search trials take longer by a factor, as if another one always ran beside them."""

    def course(spec: TrialSpec) -> Course:
        plain = Problem(jitter=0.0)(spec)
        slow = 1.0 if spec.purpose in TIMED else factor
        return replace(plain, points=tuple(replace(p, elapsed_s=slow * p.elapsed_s) for p in plain.points))

    return course


def off(record: TrialRecord) -> float:
    """Seconds a trial is said to have taken, over those that it takes alone."""
    assert record.spec.config is not None
    config = record.spec.config
    share = record.ended.samples / (config.n_steps * config.batch.size)
    return record.ended.elapsed_s / (share * COST.predict(config).seconds)


def test_times_on_a_shared_device_are_as_if_alone_and_what_is_claimed_is_alone(tmp_path: Path) -> None:
    asked = replace(question(parse_budget("16s")), crowding=Crowding(2, 1.8))
    with driver(tmp_path, crowded(1.8), n_slots=2) as running:
        done = corrected(run_study(running, asked))
        assert running.spent().seconds <= 16
    for purposes in at_once(read_ledger(tmp_path / "ledger.jsonl")[0]):
        assert len(purposes) == 1 or not {*TIMED} & {*purposes}, "what is claimed was timed beside others"
    claimed = [r for r in done if r.spec.purpose in TIMED]
    shared = [r for r in done if r.spec.purpose not in TIMED and r.ended.samples]
    assert len(claimed) > 5 and len(shared) > 10
    assert {r.crowding for r in claimed} == {1.0}
    assert median(r.crowding for r in shared) == pytest.approx(1.8)
    assert median(off(r) for r in shared) == pytest.approx(1.0, abs=0.05)
    whole = [r for r in shared if r.ended.outcome in ("hit", "missed") and r.crowding == pytest.approx(1.8)]
    assert all(r.wall_s == pytest.approx(1.8 * r.ended.elapsed_s + 0.05, rel=0.05) for r in whole), "real time is kept"
    assert sum(r.ended.outcome == "capped" for r in done) <= len(done) // 10, "caps leave them the time they need"


# ---------------------------------------------------------------------------------------------------------- lost trials


@pytest.mark.parametrize("n_slots", [1, 3])
def test_a_lost_trial_is_run_once_more_whatever_it_was_for(tmp_path: Path, n_slots: int) -> None:
    n_begun: Counter[str] = Counter()

    def course(spec: TrialSpec) -> Course:
        n_begun[spec.purpose] += 1
        if n_begun[spec.purpose] == (1 if spec.purpose == "baseline" else 2):
            first = replace(Problem()(spec).points[0], value=0.1)
            return Course((first,), "lost", 0.1, message="node died")
        return Problem()(spec)

    with driver(tmp_path, course, n_slots=n_slots) as running:
        done = run_study(running, question(parse_budget("8s")))
        assert running.spent().seconds <= 8
    gone = [r for r in done if r.ended.outcome == "lost"]
    assert {"baseline", "first", "race", "confirm"} <= {r.spec.purpose for r in gone}
    for record in gone:
        again = [r for r in done if r.spec.config == record.spec.config and r.spec.purpose == record.spec.purpose]
        assert len(again) == 2 and again[1].ended.outcome != "lost", "a lost trial was not run again"
    assert any(r.hit for r in done)


def test_what_always_loses_its_worker_fails(tmp_path: Path) -> None:
    def course(spec: TrialSpec) -> Course:
        return Course((), "lost", 0.1, message="node died")

    always = question(parse_budget("20s"))
    twice = pytest.raises(TrialsFailedError, match="crashed: for the second time, node died")
    with twice, driver(tmp_path, course) as running:
        run_study(running, always)
    assert [r.ended.outcome for r in running.ledger.records[:4]] == ["lost", "crashed", "lost", "crashed"]


def test_a_probe_whose_worker_is_lost_is_run_again(tmp_path: Path) -> None:
    def course(spec: TrialSpec) -> Course:
        return Course((), "lost" if spec.trial == 1 else "done", 0.1, facts={"trial": spec.trial})

    with driver(tmp_path, course) as running:
        assert run_trial(running, TrialSpec(1, "hardware")).ended.facts == {"trial": 2}
