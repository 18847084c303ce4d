"""What crosses the process line: every spec, report, end and record survives JSON; a target knows where better is."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoaccel.config import TrainerConfig, with_params
from autoaccel.errors import UsageError
from autoaccel.trial import FAILURES, Ended, Report, Target, TrialRecord, TrialSpec

quick = settings(deadline=None, max_examples=200)

seconds = st.floats(min_value=0, max_value=1e9)
counts = st.integers(0, 10**12)
flops = st.floats(min_value=0, max_value=1e24)
metrics = st.floats(allow_nan=False, allow_infinity=False)
facts = st.dictionaries(
    st.text(max_size=5), st.one_of(st.integers(), metrics, st.text(max_size=5), st.none()), max_size=3
)
targets = st.one_of(
    st.floats(min_value=0.01, max_value=1).map(Target.at_least),
    st.floats(min_value=0.01, max_value=1e3).map(Target.at_most),
)
config = st.builds(
    lambda lr, seed: with_params(TrainerConfig(), {"optim.lr": lr, "seed": seed}), st.floats(1e-6, 1), counts
)
specs = st.builds(
    TrialSpec,
    trial=counts,
    purpose=st.sampled_from(["preflight", "step_cost", "baseline", "race", "confirm"]),
    config=st.none() | config,
    target=st.none() | targets,
    cap_s=st.none() | seconds,
    cap_flops=st.none() | flops,
    test=st.booleans(),
    note=st.text(max_size=10),
    probe=facts,
)
reports = st.builds(
    Report,
    trial=counts,
    elapsed_s=seconds,
    samples=counts,
    steps=counts,
    flops=flops,
    value=metrics,
    loss=metrics,
    cpu_s=st.none() | seconds,
)
ends = st.builds(
    Ended,
    trial=counts,
    outcome=st.sampled_from(["hit", "missed", "capped", "stopped", "interrupted", "done", "refused", *FAILURES]),
    elapsed_s=seconds,
    setup_s=seconds,
    samples=counts,
    steps=counts,
    flops=flops,
    value=st.none() | metrics,
    message=st.text(max_size=10),
    facts=facts,
    cpu_s=st.none() | seconds,
)
records = st.builds(
    TrialRecord, spec=specs, reports=st.lists(reports, max_size=3).map(tuple), ended=ends, wall_s=seconds
)


def through_json(data: dict[str, Any]) -> dict[str, Any]:
    """As a line of the pipe or the ledger; NaN is no JSON."""
    read: dict[str, Any] = json.loads(json.dumps(data, allow_nan=False))
    return read


@quick
@given(specs)
def test_a_spec_crosses_the_process_line(spec: TrialSpec) -> None:
    assert TrialSpec.from_json(through_json(spec.to_json())) == spec


@quick
@given(reports, ends)
def test_reports_and_ends_cross_the_process_line(report: Report, ended: Ended) -> None:
    assert Report(**through_json(report.to_json())) == report
    assert Ended(**through_json(ended.to_json())) == ended


@quick
@given(records)
def test_a_record_reads_back(record: TrialRecord) -> None:
    assert TrialRecord.from_json(through_json(record.to_json())) == record


def test_a_record_from_before_cpu_seconds_were_kept_reads_back() -> None:
    report, ended = Report(1, 1.5, 640, 10, 1e6, 0.91, 0.3), Ended(1, "hit", 1.5, samples=640)
    data = TrialRecord(TrialSpec(1, "race", TrainerConfig()), (report,), ended, 1.9).to_json()
    del data["reports"][0]["cpu_s"], data["ended"]["cpu_s"]
    again = TrialRecord.from_json(through_json(data))
    assert (again.reports, again.ended) == ((report,), ended)
    assert again.ended.cpu_s is None


def test_a_config_that_no_longer_exists_is_refused() -> None:
    data = TrialSpec(1, "race", TrainerConfig()).to_json()
    data["config"]["optim"]["beta3"] = 0.9
    with pytest.raises(UsageError, match="unknown key 'beta3'"):
        TrialSpec.from_json(data)


# --------------------------------------------------------------------------------------------------------------- target


def test_at_least() -> None:
    target = Target.at_least(0.94)
    assert [target.reached(v) for v in (0.93, 0.94, 0.95, math.nan)] == [False, True, True, False]
    assert target.better(0.95, 0.94)
    assert not target.better(0.94, 0.94)
    assert not target.better(math.nan, 0.1)
    assert str(target) == "accuracy >= 0.94"


def test_at_most() -> None:
    target = Target.at_most(3.28)
    assert [target.reached(v) for v in (3.29, 3.28, 3.27, math.nan)] == [False, True, True, False]
    assert target.better(3.2, 3.3)
    assert not target.better(3.3, 3.3)
    assert not target.better(math.nan, 3.3)
    assert str(target) == "loss <= 3.28"


@quick
@given(targets, metrics, metrics)
def test_better_than_a_hit_is_a_hit(target: Target, a: float, b: float) -> None:
    assert not (target.better(a, b) and target.better(b, a))
    if target.reached(b) and target.better(a, b):
        assert target.reached(a)


@pytest.mark.parametrize(
    ("value", "metric", "fragments"),
    [
        (93, "accuracy", ["target 93: accuracy is a ratio between 0 and 1", "Did you mean 0.93?"]),
        (99.5, "auc", ["auc is a ratio between 0 and 1", "Did you mean 0.995?"]),
        (100, "f1", ["f1 is a ratio", "Did you mean 1?"]),
        (930, "accuracy", ["accuracy is a ratio", "Give a ratio such as 0.93."]),
        (0, "accuracy", ["accuracy is a ratio", "Give a ratio such as 0.93."]),
        (-0.5, "accuracy", ["accuracy is a ratio", "Give a ratio such as 0.93."]),
        (math.nan, "accuracy", ["target nan: not a finite number"]),
        (math.inf, "loss", ["target inf: not a finite number"]),
        (True, "accuracy", ["target True: not a finite number"]),
        ("0.9", "accuracy", ["target '0.9': not a finite number"]),
        (0, "loss", ["target 0: no model reaches this loss"]),
        (1, "perplexity", ["target 1: no model reaches this perplexity"]),
    ],
)
def test_targets_that_are_refused(value: Any, metric: str, fragments: list[str]) -> None:
    direction = "min" if metric in ("loss", "perplexity") else "max"
    with pytest.raises(UsageError) as caught:
        Target(value, direction, metric)
    assert all(fragment in str(caught.value) for fragment in fragments)


@pytest.mark.parametrize(("value", "metric"), [(1, "accuracy"), (0.001, "auc"), (93, "bleu"), (-4.0, "reward")])
def test_targets_that_are_accepted(value: float, metric: str) -> None:
    assert Target.at_least(value, metric).value == value


# -------------------------------------------------------------------------------------------------------------- records


@pytest.mark.parametrize(
    ("outcome", "hit", "is_attempt"),
    [
        ("hit", True, True),
        ("missed", False, True),
        ("diverged", False, True),
        ("oom", False, True),
        ("crashed", False, True),
        ("timeout", False, True),
        ("capped", False, False),
        ("stopped", False, False),
        ("interrupted", False, False),
        ("refused", False, False),
    ],
)
def test_a_cut_trial_is_no_attempt(outcome: str, hit: bool, is_attempt: bool) -> None:
    record = TrialRecord(TrialSpec(1, "race", TrainerConfig()), (), Ended(1, outcome))
    assert (record.hit, record.is_attempt) == (hit, is_attempt)
