"""python -m benchmarks.drift [--quick] [--json]: pairs of real tunings, one of them disturbed; their answers judged."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from autoaccel.config import from_dict
from autoaccel.execution.local import TaskSource
from autoaccel.trial import Target
from benchmarks.document import print_document, write_document
from benchmarks.drift.figures import figures
from benchmarks.drift.pairs import Document, Plan, in_a_process, order, plan_of, rows_of, run_pair
from benchmarks.live.judge import Judge, judge
from benchmarks.options import parser, parts_folder

HERE = Path(__file__).parent
PROTOCOL: dict[str, Any] = json.loads((HERE / "protocol.json").read_text())
BUSY = 0.15
"""Share of the processors in use beside the benchmark from which it is not alone."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser("drift", __doc__, quick="one pair with small budgets, three judging seeds").parse_args(arguments)
    plan = plan_of(PROTOCOL, options.quick)
    folder = parts_folder(HERE, quick=options.quick, fresh=options.fresh)
    if not options.summary_only:
        measure(folder, plan)
    rows = rows_of(folder, plan)
    body = {"figures": figures(rows), "rows": rows, "protocol": PROTOCOL}
    document = write_document(HERE, "drift", seeds=list(range(plan.pairs)), quick=options.quick, body=body)
    print_document(document, options.json)


def measure(folder: Path, plan: Plan) -> None:
    """All pairs; what is there is kept."""

    def run_study(told: Document) -> Document:
        load = _load()
        return {**in_a_process(told), "load_before": load}

    def judge_pair(answers: dict[str, Document]) -> Document:
        with judge(TaskSource(reference=plan.task)) as judging:
            return judged(judging, plan, answers)

    with judge(TaskSource(reference=plan.task)):
        pass  # the machine's profile is in the cache: no study is the first of all
    for pair in range(plan.pairs):
        minutes = plan.budget_s * sum(len(order(plan, later)) for later in range(pair, plan.pairs)) / 60
        print(f"pair {pair + 1}/{plan.pairs}, {minutes:.0f} min of studies left", file=sys.stderr)
        run_pair(folder, plan, pair, run_study, judge_pair)


def judged(judging: Judge, plan: Plan, answers: dict[str, Document]) -> Document:
    """CPU seconds, seconds and hits of all answers on every seed, in turns."""
    target = Target(plan.target, judging.facts["direction"], judging.facts["metric"])
    full = judging.train(judging.baseline, plan.judging_seeds[0] - 1, None)
    assert full.cpu_s is not None, "this benchmark is for machines without an accelerator"
    found: Document = {"full_cpu_s": full.cpu_s, "full_wall_s": full.elapsed_s}
    found |= {arm: {"cpu_s": [], "wall_s": [], "hits": []} for arm in answers}
    for index, seed in enumerate(plan.judging_seeds):
        for arm in sorted(answers, reverse=bool(index % 2)):
            ended = judging.train(from_dict(answers[arm]), seed, target, plan.penalty_trainings * full.elapsed_s)
            found[arm]["cpu_s"].append(ended.cpu_s)
            found[arm]["wall_s"].append(ended.elapsed_s)
            found[arm]["hits"].append(ended.outcome == "hit")
    return found


def _load() -> float:
    """Share of the processors that is in use while this process only waits."""
    share = psutil.cpu_percent(1.0) / 100
    if share > BUSY:
        print(f"{share:.0%} of the processors are in use: this measurement needs a quiet machine", file=sys.stderr)
    return float(share)


if __name__ == "__main__":
    main()
