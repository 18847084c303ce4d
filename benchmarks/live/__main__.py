"""python -m benchmarks.live [--quick] [--json] [--share]: real tunings of digits and Fashion-MNIST against peers."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoaccel.budget import parse_budget
from autoaccel.config import TrainerConfig
from autoaccel.trial import Target
from benchmarks.document import print_document, write_document
from benchmarks.live.figures import figures
from benchmarks.live.judge import full_training_s, judge, judge_round
from benchmarks.live.rounds import Plan, Round, in_a_process, left_s, plan_of, rounds, rows_of, run_round
from benchmarks.live.study import source_of
from benchmarks.options import parser, parts_folder
from benchmarks.parts import write_at_once
from benchmarks.search.problems.data import data_file

HERE = Path(__file__).parent
PROTOCOL: dict[str, Any] = json.loads((HERE / "protocol.json").read_text())
SHARE = "share.json"


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    plan = plan_of(PROTOCOL, options.quick)
    folder = parts_folder(HERE, quick=options.quick, fresh=options.fresh)
    if not options.summary_only:
        data = str((options.data or data_file("fashion_mnist", "fashion_mnist.npz")).resolve())
        if options.share:
            measure_share(folder, plan, data, options.budget)
        else:
            measure(folder, plan, data)
    share = json.loads((folder / SHARE).read_text()) if (folder / SHARE).exists() else None
    rows = rows_of(folder, plan)
    body = {
        "figures": figures(rows, plan.tasks, plan.methods, share),
        "rows": rows,
        "share": {key: value for key, value in share.items() if key != "data"} if share else None,
        "protocol": PROTOCOL,
    }
    document = write_document(HERE, "live", seeds=list(range(plan.studies)), quick=options.quick, body=body)
    print_document(document, options.json)


def measure(folder: Path, plan: Plan, data: str) -> None:
    """All rounds; what is there is kept."""

    def judge_answers(task: str, answers: dict[str, TrainerConfig | None]) -> dict[str, Any]:
        with judge(source_of(task, data)) as judging:
            facts = judging.facts
            target = Target(plan.targets[task], facts["direction"], facts["metric"])
            full_s = full_training_s(judging, plan.full_trainings, plan.judging_seeds[0])
            cap_s = plan.penalty_trainings * full_s
            judged = judge_round(judging, answers, target, list(plan.judging_seeds), cap_s)
            return {"full_s": full_s, "judged": judged}

    _warm_up(data)
    everything = rounds(plan)
    for index, todo in enumerate(everything):
        minutes = left_s(plan, everything[index:]) / 60
        print(f"round {index + 1}/{len(everything)}, {minutes:.0f} min of studies left", file=sys.stderr)
        run_round(folder, plan, todo, data, (in_a_process, judge_answers))
        _show_round(folder, plan, todo)


def measure_share(folder: Path, plan: Plan, data: str, budget: str | None) -> None:
    """One study of ours with a longer budget: how much of its time is training."""
    share = PROTOCOL["share"]
    task, budget_s = share["task"], share["budget_s"]
    if budget is not None:
        budget_s = parse_budget(budget).seconds or budget_s
    _warm_up(data)
    told = {"task": task, "method": "ours", "seed": 0, "budget_s": budget_s, "target": plan.targets[task], "data": data}
    write_at_once(folder / SHARE, json.dumps({**in_a_process(told), "data": None}, indent=1))


def _warm_up(data: str) -> None:
    """The files of both tasks read once and the machine's profile in the cache: no study is the first of all."""
    for task in PROTOCOL["tasks"]:
        with judge(source_of(task, data)):
            pass


def _show_round(folder: Path, plan: Plan, done: Round) -> None:
    for row in rows_of(folder, plan):
        if (row["task"], row["seed"]) == (done.task, done.seed):
            text = f"{row['ert_s']:.2f} s, {row['hits']} of {row['attempts']} hits, {row['n_trials']} trials"
            print(f"  {row['method']:18} {text}", file=sys.stderr)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    command = parser("live", __doc__, quick="one study of each with small budgets, two judging seeds")
    command.add_argument("--share", action="store_true", help="only measure training_share, in one longer study")
    command.add_argument("--budget", help="of --share; default: the protocol's")
    command.add_argument("--data", type=Path, help="fashion_mnist.npz; default: in the data folder")
    return command.parse_args(arguments)


if __name__ == "__main__":
    main()
