"""python -m benchmarks.transfer [--quick] [--json] [--summary-only]: re-tunings against studies from scratch."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.document import print_document, write_document
from benchmarks.options import parser, parts_folder
from benchmarks.parts import run_module
from benchmarks.search.problems.data import data_file
from benchmarks.transfer.figures import figures
from benchmarks.transfer.rounds import Document, Plan, plan_of, rows_of, run_round

HERE = Path(__file__).parent
PROTOCOL: dict[str, Any] = json.loads((HERE / "protocol.json").read_text())
GRACE_S = 600.0
"""What takes this long beyond its budget hangs; judging has none."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    plan = plan_of(PROTOCOL, options.quick)
    folder = parts_folder(HERE, quick=options.quick, fresh=options.fresh)
    if not options.summary_only:
        measure(folder, plan, str((options.data or data_file("fashion_mnist", "fashion_mnist.npz")).resolve()))
    rows = rows_of(folder, plan)
    body = {"figures": figures(rows, plan.tasks), "rows": rows, "protocol": PROTOCOL}
    document = write_document(HERE, "transfer", seeds=list(range(plan.studies)), quick=options.quick, body=body)
    print_document(document, options.json)


def measure(folder: Path, plan: Plan, data: str) -> None:
    """All rounds; what is there is kept."""
    needed = max(machine["cores"] for machine in plan.machines.values())
    if len(os.sched_getaffinity(0)) < needed:
        raise SystemExit(f"the machine before has {needed} cores, and this process may use fewer")
    folder.mkdir(parents=True, exist_ok=True)
    for index, (task, seed) in enumerate(plan.rounds):
        print(f"round {index + 1}/{len(plan.rounds)}, {plan.minutes:.0f} min of tunings in all", file=sys.stderr)
        run_round(folder, plan, task, seed, data, in_a_process)


def in_a_process(told: Document) -> Document:
    """A process of its own for each: what it may use makes the machine; see `benchmarks.transfer.study`."""
    limit_s = told["budget_s"] + GRACE_S if "budget_s" in told else None
    return run_module("benchmarks.transfer.study", told, limit_s)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    command = parser("transfer", __doc__, quick="one study of each with small budgets, three judging seeds")
    command.add_argument("--data", type=Path, help="fashion_mnist.npz; default: in the data folder")
    return command.parse_args(arguments)


if __name__ == "__main__":
    main()
