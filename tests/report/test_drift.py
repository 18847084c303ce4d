"""What is said of a machine that was slower for a while."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from autoaccel.budget import parse_budget
from autoaccel.cost.drift import Drift
from autoaccel.report.drift import drift_document
from autoaccel.report.summary import result_document
from autoaccel.report.terminal import print_summary
from autoaccel.search.confirm import Evidence, baseline_evidence
from autoaccel.trial import Ended, TrialRecord, TrialSpec
from tests.simulated.problems import BASELINE, question

ASKED = question(parse_budget("60s"))
TAKEN = Drift((5.0, 40.0), (1.0, 1.0), (1.0, 1.5), (1.0, 1.5), 1, True)
SLOWER = Drift((5.0, 40.0), (1.0, 1.5), (1.0, 1.5), (1.0, 1.0))


def trial(number: int, end_s: float, slowdown: float = 1.0, purpose: str = "race") -> TrialRecord:
    """A training that took 2 s, 2.5 s with its set-up; corrected by a slow-down."""
    spec = TrialSpec(number, purpose, replace(BASELINE, seed=number), ASKED.target)
    ended = Ended(number, "hit", 2.0 / slowdown)
    return TrialRecord(spec, (), ended, 2.5 / slowdown, ended_at_s=end_s, slowdown=slowdown)


def test_a_quiet_machine_is_not_mentioned() -> None:
    assert drift_document([trial(1, 10.0), TrialRecord(TrialSpec(2, "reference"), (), Ended(2, "done"))], TAKEN) is None


def test_slow_trainings_are_counted_with_their_time_and_cause() -> None:
    done = [trial(1, 10.0), trial(2, 33.5, 1.6), trial(3, 50.0, 1.25), trial(4, 55.0)]
    found = drift_document(done, TAKEN)
    assert found is not None
    assert (found["n_slowed"], found["n_trainings"], found["most"]) == (2, 4, 1.6)
    assert (found["from_s"], found["to_s"]) == (pytest.approx(31.0), 50.0)
    assert found["lost_s"] == pytest.approx((2.0 - 2.0 / 1.6) + (2.0 - 2.0 / 1.25))
    assert found["text"] == (
        "other load slowed 2 of 4 trainings by up to 1.6x, between 31.0s and 50.0s of the budget; their times are "
        "corrected by it, to those of the machine at its best"
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_trainings_that_had_one_thread_meanwhile_are_counted() -> None:
    other = trial(2, 33.5, 1.6)
    found = drift_document([trial(1, 30.0, 1.3), replace(other, spec=replace(other.spec, threads=1))], TAKEN)
    assert found is not None
    assert found["text"].startswith(
        "other load slowed 2 of 2 trainings, 1 of them run with one thread meanwhile, by up to 1.6x, between"
    )


def test_where_nothing_was_taken_the_cause_may_be_the_clock() -> None:
    found = drift_document([trial(1, 33.5, 1.5)], SLOWER)
    assert found is not None and found["text"].startswith(
        "other load or a lower clock slowed 1 of 1 trainings by up to"
    )


def test_corrected_times_are_labelled_in_the_summary() -> None:
    baseline = baseline_evidence(ASKED, [trial(n, 10.0 * n, 1.0, "confirm_baseline") for n in (1, 2, 3)])
    tuned = Evidence(replace(BASELINE, seed=0), 5, 5, (1.0,) * 5, (1.0,) * 5, n_slowed=2)
    facts = {"task": "made up", "budget": "1m", "ledger_repaired": ""}
    facts |= {"drift": drift_document([trial(1, 33.5, 1.5)], TAKEN)}
    document = {**result_document(ASKED, [], baseline, tuned, facts), "tuning_s": 50.0}
    assert (document["n_slowed"], document["baseline"]["n_slowed"]) == (2, 0)
    out = io.StringIO()
    console = Console(file=out, width=200, no_color=True, _environ={})
    print_summary(console, document, "runs/x")
    (before,) = [row for row in out.getvalue().splitlines() if "baseline " in row and "hits" in row]
    (after,) = [row for row in out.getvalue().splitlines() if "tuned " in row and "hits" in row]
    assert "to target;" in before and "to target (corrected);" in after
    assert "other load slowed 1 of 1 trainings by up to 1.5x" in out.getvalue()
    out.truncate(0)
    print_summary(console, {**document, "drift": None}, "runs/x")
    assert "other load" not in out.getvalue()
