"""python -m benchmarks.demo [--quick] [--json] [--run DIR] [--protocol]: the demo's answer on 20 further fresh seeds."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from autoaccel import api
from autoaccel.config import from_dict, read_config_file
from autoaccel.execution.local import TaskSource
from autoaccel.trial import Target
from benchmarks.document import write_document
from benchmarks.measure import FRESH_SEEDS, paired, speedup, trainings, write_protocol

HERE = Path(__file__).parent
PROTOCOL = HERE / "protocol.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 seeds instead of 20")
    parser.add_argument("--json", action="store_true", help="print the document")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="the demo's run; tuned first if absent")
    parser.add_argument("--protocol", action="store_true", help="measure the target anew and write protocol.json")
    options = parser.parse_args()
    if options.protocol:
        write_protocol(PROTOCOL, TaskSource(reference="digits"), 40)
        return
    answer = options.run / "best" / "config.json"
    if not answer.exists():
        api.tune("digits", budget="60s", run_dir=options.run)
    tuned = read_config_file(answer).config
    target = Target.at_least(json.loads(PROTOCOL.read_text())["target"])
    seeds = [FRESH_SEEDS + k for k in range(5 if options.quick else 20)]
    with trainings(TaskSource(reference="digits")) as run:
        baseline = from_dict(run.facts["baseline"])
        full_s = run.train(baseline, seeds[0] - 1, None).elapsed_s
        run.train(tuned, seeds[0] - 1, target)  # both have run once in this process before anything is counted
        rows = paired(run, baseline, tuned, target, seeds)
    ratio = speedup(rows, full_s)
    body = {
        "figures": {
            "fresh_seeds": len(rows),
            "fresh_hits": sum(row["tuned_hit"] for row in rows),
            "fresh_speedup": ratio["speedup"],
            "fresh_speedup_interval": ratio["interval"],
            "fresh_speedup_is_bound": ratio["bound"],
            "baseline_hits": sum(row["baseline_hit"] for row in rows),
            "target": target.value,
        },
        "rows": rows,
    }
    document = write_document(HERE, "demo", seeds=seeds, quick=options.quick, body=body)
    if options.json:
        json.dump(document, sys.stdout, indent=2)
        print()
    else:
        for name, value in document["figures"].items():
            print(f"{name:24} {value}")


if __name__ == "__main__":
    main()
