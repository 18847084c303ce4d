"""python -m benchmarks.step_cost [--quick] [--json]: seconds of steps, predicted before a search and then measured.

For each task: probe as `tune --budget 10m --space survey` does, predict random configs of the space and run them, then
every combination of the system knobs beside the one that was chosen, and one step again and again. Resumes where it was
ended (`results/parts`).
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import torch

import benchmarks
from autoaccel.budget import parse_budget
from autoaccel.execution.local import TaskSource
from autoaccel.inspection import scratch_driver
from autoaccel.job import Job
from autoaccel.search.prepare import Prepared, prepare
from autoaccel.search.reference import reference_config
from autoaccel.trainer.preflight import preflight
from autoaccel.trial import STEP_PROBES
from benchmarks.document import print_document, render_block, write_document
from benchmarks.options import parser, parts_folder
from benchmarks.step_cost.figures import figures, table
from benchmarks.step_cost.repeated import errors, windows
from benchmarks.step_cost.sweep import swept
from benchmarks.step_cost.tasks import TASKS
from benchmarks.step_cost.unseen import compared

HERE = Path(__file__).parent
PROTOCOL: dict[str, Any] = json.loads((HERE / "protocol.json").read_text())


def main() -> None:
    command = parser("step_cost", __doc__, quick="6 configs of two tasks", keeps=False)
    command.add_argument("--fresh", action="store_true", help="begin anew")
    options = command.parse_args()
    folder = parts_folder(HERE, quick=options.quick, fresh=options.fresh)
    folder.mkdir(parents=True, exist_ok=True)
    names, protocol = list(TASKS), PROTOCOL
    if options.quick:
        names = PROTOCOL["quick"]["tasks"]
        protocol = {**PROTOCOL, "configs": {**PROTOCOL["configs"], "n": PROTOCOL["quick"]["n"]}}
    torch.set_num_threads(1)
    tasks = [measured(name, folder, protocol) for name in names]
    body = {"figures": figures(tasks), "rows": tasks, "protocol": PROTOCOL}
    document = write_document(HERE, "step_cost", seeds=[protocol["configs"]["seed"]], quick=options.quick, body=body)
    if not options.quick:
        render_block(HERE / "README.md", "tasks", table(tasks))
    print_document(document, options.json)


def measured(name: str, folder: Path, protocol: dict[str, Any]) -> dict[str, Any]:
    """Everything of one task; what an earlier run measured is kept, as long as its probes are."""
    ready, probes = probed(name, folder / f"{name}.pickle", protocol["tuning"])
    loaded, _ = preflight(TASKS[name]())
    with kept(folder / f"{name}.json") as known:
        rows = []
        for row in compared(ready, loaded, protocol, known.setdefault("configs", {})):
            rows.append(row)
            print(f"{name} {len(rows)}: {row['sample_s']:.3g} s a sample, {row['error']:+.0%}", file=sys.stderr)
        sweep = swept(ready, loaded, protocol["sweep"], known.setdefault("sweep", {}))
        again = protocol["repeated"]
        if "repeated" not in known:
            known["repeated"] = windows(loaded, reference_config(ready.question), again)
        repeated = errors(known["repeated"], again["apart_s"])
    share = sum(probes.values()) / parse_budget(protocol["tuning"]["budget"]).seconds
    fixed, reasons = ready.question.space.fixed, ready.question.space.reasons
    decided = {path: [value, reasons.get(path, "")] for path, value in fixed.items()}
    return {
        "task": name,
        "configs": rows,
        "sweep": sweep,
        "repeated": repeated,
        "probing_share": share,
        "probes": probes,
        "decided": decided,
    }


def probed(name: str, file: Path, tuning: dict[str, Any]) -> tuple[Prepared, dict[str, float]]:
    """What a tuning knows before it searches, and the seconds of the probes of its steps."""
    if file.is_file():
        return pickle.loads(file.read_bytes())  # written by this program
    cloudpickle.register_pickle_by_value(benchmarks)
    source = TaskSource(pickled=cloudpickle.dumps(TASKS[name]()))
    job = Job(task=name, budget=parse_budget(tuning["budget"]), target=tuning["target"], space=tuning["space"])
    with scratch_driver(source) as driver:
        ready = prepare(driver, job)
        spent: dict[str, float] = {}
        for record in driver.ledger.records:
            if record.spec.purpose in STEP_PROBES:
                what = " ".join(record.spec.probe.get("params", {"pieces": 0}))
                spent[what] = spent.get(what, 0.0) + record.wall_s
    file.write_bytes(pickle.dumps((ready, spent)))
    return ready, spent


@contextmanager
def kept(file: Path) -> Iterator[dict[str, Any]]:
    """What is in a JSON file, written back at the end, also after Ctrl-C."""
    known: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    try:
        yield known
    finally:
        file.write_text(json.dumps(known))


if __name__ == "__main__":
    main()
