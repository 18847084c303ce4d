"""The transfer benchmark: its order, its resuming, its figures. Nothing real is tuned here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.transfer.__main__ import HERE, PROTOCOL
from benchmarks.transfer.figures import ARMS, figures
from benchmarks.transfer.rounds import plan_of, rows_of, run_round
from benchmarks.transfer.study import WORK

PLAN = plan_of(PROTOCOL, quick=True)


def work(told: dict[str, Any]) -> dict[str, Any]:
    """Made-up results: re-tuned answers are a little faster than those from scratch."""
    if told["arm"] == "unchanged":
        return {**told, "codes": [10, 10], "seconds": [0.4, 0.5]}
    if told["arm"] == "judge":
        took = {"before": 2.0, "scratch": 1.0, "again": 0.9}
        judged = {arm: {"times_s": [took[arm]] * 3, "hits": [True] * 3} for arm in told["answers"]}
        return {**told, "full_s": 3.0, "judged": judged}
    done = {"target_met": True, "n_trials": 9, "tuning_s": 0.9 * told["budget_s"], "search_ended": None}
    return {**told, **done, "answer": {"arm": told["arm"]}}


def test_a_round_is_measured_once_and_in_order(tmp_path: Path) -> None:
    ran: list[str] = []

    def noted(told: dict[str, Any]) -> dict[str, Any]:
        if len(ran) == 3:
            ran.append("killed")
            raise KeyboardInterrupt
        ran.append(told["arm"])
        return work(told)

    with pytest.raises(KeyboardInterrupt):
        run_round(tmp_path, PLAN, "digits", 0, "secret.npz", noted)
    assert rows_of(tmp_path, PLAN) == []
    for _ in range(2):
        run_round(tmp_path, PLAN, "digits", 0, "secret.npz", noted)
    assert ran == ["before", "unchanged", "scratch", "killed", "again", "judge"]
    texts = "".join(f.read_text() for f in tmp_path.iterdir())
    assert "secret" not in texts and str(tmp_path) not in texts, "where data and runs lie is not kept"
    [row] = rows_of(tmp_path, PLAN)
    assert row["ert_s"] == {"before": 2.0, "scratch": 1.0, "again": 0.9}
    assert row["budget_share"] == pytest.approx(0.9 * PLAN.share) and not row["same_answer"]


def test_every_arm_has_its_machine_budget_and_run(tmp_path: Path) -> None:
    told: dict[str, dict[str, Any]] = {}
    run_round(tmp_path, PLAN, "digits", 1, None, lambda given: told.setdefault(given["arm"], given) and work(given))
    assert {arm: given["machine"]["cores"] for arm, given in told.items()} == {
        "before": 2,
        "unchanged": 2,
        "scratch": 1,
        "again": 1,
        "judge": 1,
    }
    assert told["again"]["budget_s"] == pytest.approx(PLAN.share * told["scratch"]["budget_s"])
    assert told["again"]["run"] == told["unchanged"]["run"] == told["before"]["run"] != told["scratch"]["run"]
    assert told["scratch"]["seed"] != told["before"]["seed"]
    assert set(told) == set(WORK) and told["judge"]["answers"].keys() == set(ARMS)


def rows(erts: dict[str, list[tuple[float, float]]]) -> list[dict[str, Any]]:
    return [
        {
            "task": task,
            "seed": k,
            "ert_s": {"before": 2.0, "scratch": scratch, "again": again},
            "hits": dict.fromkeys(ARMS, 9),
            "attempts": 10,
            "budget_share": 0.1 + 0.02 * k,
            "spent_share": 0.2,
            "same_answer": k == 0,
            "unchanged_codes": [10, 10],
            "unchanged_s": [0.3, 0.4 + k],
        }
        for task, pairs in erts.items()
        for k, (again, scratch) in enumerate(pairs)
    ]


def test_figures_are_those_of_the_worse_task() -> None:
    found = figures(
        rows({"digits": [(1.0, 2.0), (1.0, 2.0)], "fashion": [(1.0, 1.0), (4.0, 1.0)]}), ("digits", "fashion")
    )
    assert found["ert_ratio"] == pytest.approx(2.0) == found["ert_ratio_fashion"]
    assert found["ert_ratio_digits"] == pytest.approx(0.5)
    low, high = found["ert_ratio_interval"]
    assert low <= 2.0 <= high == pytest.approx(4.0)
    assert found["budget_share"] == pytest.approx(0.11) and found["old_answers_kept_digits"] == 0.5
    assert (found["unchanged_s_max"], found["unchanged_exits_10"]) == (1.4, 1.0)
    assert found["ert_ratio_digits_of_old_answer"] == pytest.approx(1.0)


def test_figures_are_null_until_measured_and_keep_their_names() -> None:
    full = figures(rows({"digits": [(1.0, 2.0)]}), ("digits", "fashion"))
    empty = figures([], ("digits", "fashion"))
    assert full.keys() == empty.keys() and full["ert_ratio"] is None and full["ert_ratio_digits"] == 0.5
    assert {v for k, v in empty.items() if not k.startswith("studies_")} == {None}


def test_a_machine_is_what_a_process_may_use() -> None:
    code = "from benchmarks.transfer.study import become; become({'cores': 1, 'threads': 3}); "
    code += "from autoaccel.hardware.machine import this_machine; import os; "
    code += "print(this_machine().usable_cores, os.environ['OMP_NUM_THREADS'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=HERE.parents[1])
    assert done.stdout == "1 3\n" and os.environ.get("OMP_NUM_THREADS") != "3"


def test_the_protocol_is_complete() -> None:
    for task in PROTOCOL["tasks"].values():
        source = json.loads((HERE.parents[1] / task["target_of"]).read_text())
        assert task["target"] == source["target"], "targets are those of the task's own protocol"
    assert PROTOCOL["share"] <= 0.15 and PROTOCOL["studies"] >= 5
    assert PROTOCOL["machines"]["before"] != PROTOCOL["machines"]["now"]
    assert PROTOCOL["judging"]["seeds"] >= 10 and PROTOCOL["judging"]["first_seed"] >= 2**32
    assert set(PROTOCOL["arms"]) == set(ARMS)
    assert PROTOCOL["quick"]["budget_s"].keys() == PROTOCOL["tasks"].keys()
    assert plan_of(PROTOCOL, False).minutes <= 70
    text = (HERE / "README.md").read_text()
    assert "<!-- table: begin -->" in text and "<!-- table: end -->" in text
