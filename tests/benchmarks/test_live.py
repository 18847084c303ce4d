"""Live studies: order, resuming, peers on simulated trainings, judging and figures. Nothing real is trained here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoaccel.clock import ManualClock
from autoaccel.config import TrainerConfig, to_dict
from autoaccel.execution.simulated import SimulatedExecutor
from autoaccel.search.question import Question
from autoaccel.search.trials import Driver
from autoaccel.store.ledger import Entry, Ledger
from autoaccel.trial import Ended, TrialRecord, TrialSpec
from benchmarks.calibration import problem as problems
from benchmarks.calibration.study import Rules, question
from benchmarks.live import rounds
from benchmarks.live.__main__ import HERE, PROTOCOL
from benchmarks.live.figures import figures
from benchmarks.live.judge import Judge, full_training_s, judge_round
from benchmarks.live.peers import FORMS, answer, fastest, gap, penalised, search
from benchmarks.live.rounds import plan_of, rows_of, run_round
from benchmarks.live.study import training_share, uncharged_s

TASK = problems.draw(1)
ASKED: Question = replace(question(TASK, Rules(12, 12.001, 1, 1)), seed=3)
FULL_S = ASKED.cost.predict(ASKED.baseline).seconds
PLAN = plan_of(PROTOCOL, quick=True)


@contextmanager
def simulated(folder: Path, setup_s: float = 0.0) -> Iterator[Driver]:
    clock, ledger = ManualClock(), Ledger(folder / "ledger.jsonl")
    task = replace(TASK, setup_s=setup_s)
    try:
        yield Driver(SimulatedExecutor(clock, task.course), ledger, clock, 0.0)
    finally:
        ledger.close()


# ---------------------------------------------------------------------------------------------------------------- peers


@pytest.mark.parametrize("name", FORMS)
def test_a_peer_keeps_its_budget_and_answers_what_its_form_says(tmp_path: Path, name: str) -> None:
    budget_s = 12 * FULL_S
    with simulated(tmp_path) as driver:
        found = search(driver, ASKED, FORMS[name], budget_s)
        assert driver.at_s() <= budget_s + 1.1, "a second's grace for a training that is being ended"
    configs = [t.spec.config for t in found.trials if t.spec.config]
    assert len(configs) == len(found.trials) >= 5
    assert len({c.seed for c in configs}) == len(configs), "every training has a seed of its own"
    if FORMS[name].capped:
        first = replace(configs[0], optim=replace(configs[0].optim, weight_decay=0.0), seed=0)
        assert first == ASKED.baseline, "the default recipe is first, moved into the space"
        best = fastest(list(found.trials))
        assert best is not None and best.spec.config is not None and found.answer.identity == best.spec.config.identity
        for index, trial in enumerate(found.trials):
            before = fastest(list(found.trials[:index]))
            assert trial.spec.cap_s == pytest.approx(before.ended.elapsed_s if before else 2 * FULL_S)
    else:
        assert {c.horizon for c in configs} == {ASKED.baseline.horizon} == {found.answer.horizon}
        assert all(t.spec.target is None and t.spec.cap_s is None for t in found.trials)
    if FORMS[name].hyperband and not FORMS[name].capped:
        assert any(t.ended.outcome == "stopped" for t in found.trials)


def test_equal_seeds_give_equal_peers(tmp_path: Path) -> None:
    answers = []
    for index, seed in enumerate((3, 3, 4)):
        (tmp_path / str(index)).mkdir()
        with simulated(tmp_path / str(index)) as driver:
            answers.append(search(driver, replace(ASKED, seed=seed), FORMS["random-cap"], 4 * FULL_S).trials[1].spec)
    assert answers[0] == answers[1] != answers[2]


def record(outcome: str, elapsed_s: float, value: float | None, samples: int = 5000) -> TrialRecord:
    config = replace(ASKED.baseline, horizon=replace(ASKED.baseline.horizon, samples=samples))
    return TrialRecord(TrialSpec(1, "benchmark", config, ASKED.target), (), Ended(1, outcome, elapsed_s, value=value))


def test_answers_of_both_forms() -> None:
    near, far = ASKED.target.value - 0.01, ASKED.target.value - 0.1
    trials = [record("missed", 1.0, far), record("missed", 2.0, near, 6000), record("stopped", 0.1, 0.999, 7000)]
    slow, fast = record("hit", 3.0, 0.99, 8000), record("hit", 2.5, 0.97, 9000)
    documented, strongest = FORMS["tpe-hyperband"], FORMS["random-cap"]
    assert answer(ASKED, [], strongest) == ASKED.baseline
    assert answer(ASKED, trials, strongest).horizon.samples == 6000, "the most accurate of those that ran their course"
    assert answer(ASKED, [*trials, slow, fast], strongest).horizon.samples == 9000
    assert answer(ASKED, [*trials, slow, fast], documented).horizon.samples == 8000


def test_misses_are_worse_than_hits_and_ordered_by_their_gap() -> None:
    hit, near, far = (
        record("hit", FULL_S, 0.99),
        record("missed", 0.1, ASKED.target.value - 0.01),
        record("oom", 0, None),
    )
    order = [penalised(ASKED, r) for r in (hit, near, far)]
    assert order == sorted(order) and order[0] == pytest.approx(0.0) and order[1] > math.log(2)
    assert gap(ASKED, ASKED.target.value) == pytest.approx(0.0)
    assert gap(ASKED, math.nan) == gap(ASKED, None) == 5.0


def test_probes_are_not_charged_to_peers(tmp_path: Path) -> None:
    with simulated(tmp_path) as driver:
        for number, purpose in enumerate(("preflight", "hardware", "memory_peak", "step_cost"), start=1):
            driver.ledger.end_trial(0.0, TrialRecord(TrialSpec(number, purpose), (), Ended(number, "done"), 2.0))
        assert uncharged_s(driver) == 6.0


# --------------------------------------------------------------------------------------------------- rounds and judging


def test_tasks_and_methods_take_turns() -> None:
    plan = plan_of(PROTOCOL, quick=False)
    order = rounds.rounds(plan)
    assert [(r.task, r.seed) for r in order[:4]] == [("digits", 0), ("fashion", 0), ("digits", 1), ("fashion", 1)]
    for task in plan.tasks:
        firsts = [r.methods[0] for r in order if r.task == task]
        assert set(firsts) == set(plan.methods), "every method is first once"
    assert all(sorted(r.methods) == sorted(plan.methods) for r in order)


def test_a_round_is_resumed_where_it_was_ended(tmp_path: Path) -> None:
    ran: list[str] = []

    def run_study(told: dict[str, Any]) -> dict[str, Any]:
        if len(ran) == 2:
            ran.append("killed")
            raise KeyboardInterrupt
        ran.append(told["method"])
        answered = None if told["method"] == "random-cap" else to_dict(ASKED.baseline)
        return {**told, "answer": answered, "n_trials": 4, "n_hits": 1, "hits": 5, "attempts": 6}

    def judge_answers(task: str, answers: dict[str, TrainerConfig | None]) -> dict[str, Any]:
        ran.append("judge")
        tried = {m: {"times_s": [1.0, 2.0], "hits": [True, m == "ours"]} for m in answers}
        tried["random-cap"] = {"times_s": [], "hits": []}
        return {"full_s": 2.0, "judged": tried}

    todo = rounds.rounds(PLAN)[0]
    with pytest.raises(KeyboardInterrupt):
        run_round(tmp_path, PLAN, todo, "secret.npz", (run_study, judge_answers))
    assert rows_of(tmp_path, PLAN) == []
    for _ in range(2):
        run_round(tmp_path, PLAN, todo, "secret.npz", (run_study, judge_answers))
    assert ran == [*todo.methods[:2], "killed", *todo.methods[2:], "judge"]
    rows = {row["method"]: row for row in rows_of(tmp_path, PLAN)}
    assert {m: r["ert_s"] for m, r in rows.items()} == {
        m: 1.5 if m == "ours" else 20.0 if m == "random-cap" else 3.0 for m in PLAN.methods
    }
    assert rows["ours"]["hits"] == 2 and rows["ours"]["stated"]["hits"] == 5
    assert "secret" not in "".join(f.read_text() for f in tmp_path.iterdir()), "where data lies is not kept"
    changed = replace(PLAN, budgets_s={**PLAN.budgets_s, todo.task: 99.0})
    run_round(tmp_path, changed, replace(todo, methods=("ours",)), None, (run_study, judge_answers))
    assert ran[-2:] == ["ours", "judge"], "another budget: run anew"


def test_answers_are_judged_in_turns_on_the_same_seeds(tmp_path: Path) -> None:
    with simulated(tmp_path) as driver:
        judging = Judge(driver, {"baseline": to_dict(ASKED.baseline)})
        assert full_training_s(judging, 2, 50) == pytest.approx(FULL_S, rel=0.5)
        longer = replace(ASKED.baseline, horizon=replace(ASKED.baseline.horizon, samples=20_000))
        answers = {"a": ASKED.baseline, "b": longer, "c": None}
        found = judge_round(judging, answers, ASKED.target, [60, 61, 62], 10 * FULL_S)
        seeds = [r.spec.config.seed for r in driver.ledger.records if r.spec.config]
    assert seeds == [49, 48, 60, 60, 61, 61, 62, 62]
    assert [len(found[name]["times_s"]) for name in "abc"] == [3, 3, 0]


# -------------------------------------------------------------------------------------------------------------- figures


def rows(erts: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    return [
        {"task": task, "method": m, "seed": k, "ert_s": e, "hits": 9, "attempts": 10, "n_trials": 20}
        for task, methods in erts.items()
        for m, values in methods.items()
        for k, e in enumerate(values)
    ]


def test_ratios_are_to_the_best_peer_of_each_task() -> None:
    measured = rows(
        {
            "digits": {"ours": [1.0, 1.0], "tpe": [2.0, 2.0], "random-cap": [4.0, 1.0]},
            "fashion": {"ours": [3.0, 12.0], "tpe": [8.0, 8.0], "random-cap": [80.0, 80.0]},
        }
    )
    found = figures(measured, ("digits", "fashion"), ("ours", "tpe", "random-cap"))
    assert found["ratio_digits"] == pytest.approx(0.5) and found["ratio_fashion"] == pytest.approx(0.75)
    assert found["ratio_max"] == pytest.approx(0.75)
    low, high = found["ratio_max_interval"]
    assert low <= 0.75 <= high == pytest.approx(1.5)
    assert found["ratio_fashion_to_random_cap"] == pytest.approx(0.075)
    assert found["hit_rate_digits_ours"] == 0.9 and found["trials_digits_tpe"] == 20
    assert found["training_share"] is None


def test_figures_are_null_until_measured_and_keep_their_names() -> None:
    methods = ("ours", "tpe")
    some = rows({"digits": {"ours": [1.0], "tpe": [2.0]}})
    full = figures(some, ("digits", "fashion"), methods, {"training_share": 0.92, "budget_s": 600})
    empty = figures([], ("digits", "fashion"), methods)
    assert full.keys() == empty.keys()
    assert full["ratio_digits"] == 0.5 and full["ratio_max"] is None and full["training_share"] == 0.92
    assert {v for k, v in empty.items() if not k.startswith("studies_")} == {None}


def test_a_study_that_not_every_method_has_does_not_count() -> None:
    measured = rows({"digits": {"ours": [1.0, 100.0], "tpe": [2.0]}})
    assert figures(measured, ("digits",), ("ours", "tpe"))["ratio_digits"] == pytest.approx(0.5)


def test_training_share_counts_from_the_last_probe_to_the_end() -> None:
    def ended(number: int, purpose: str, at_s: float, elapsed_s: float) -> Entry:
        done = TrialRecord(TrialSpec(number, purpose), (), Ended(number, "hit", elapsed_s), elapsed_s)
        return Entry("ended", at_s, done.to_json())

    entries = [ended(1, "preflight", 2.0, 0.0), ended(2, "step_cost", 10.0, 0.0), ended(3, "baseline", 19.0, 8.0)]
    entries += [ended(4, "confirm", 29.0, 8.0), Entry("answer", 30.0, {})]
    assert training_share(entries) == {"probed_s": 10.0, "training_s": 16.0, "training_share": 0.8}
    assert training_share([])["training_share"] is None


# ------------------------------------------------------------------------------------------------------------- protocol


def test_the_protocol_is_complete() -> None:
    benchmarks = HERE.parent
    for task in PROTOCOL["tasks"].values():
        source = json.loads((benchmarks.parent / task["target_of"]).read_text())
        assert task["target"] == source["target"], "targets are those of the task's own protocol"
    assert set(PROTOCOL["methods"]) == {"ours", *FORMS} and PROTOCOL["studies"] >= 5
    assert PROTOCOL["quick"]["budget_s"].keys() == PROTOCOL["tasks"].keys()
    assert PROTOCOL["judging"]["seeds"] >= 10 and PROTOCOL["judging"]["penalty_trainings"] == 10
    assert PROTOCOL["judging"]["first_seed"] >= 2**32, "above every seed of a study"
    minutes = rounds.left_s(plan_of(PROTOCOL, False), rounds.rounds(plan_of(PROTOCOL, False))) / 60
    assert minutes <= 60
    text = (HERE / "README.md").read_text()
    assert "<!-- table: begin -->" in text and "<!-- table: end -->" in text
    assert np.isclose(minutes, 55)
