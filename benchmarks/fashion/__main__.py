"""python -m benchmarks.fashion FILE.npz [--quick] [--json] [--protocol]: examples/fashion_mnist.py, then fresh seeds.

FILE.npz holds x_train and y_train of Fashion-MNIST as uint8 arrays (60,000 x 28 x 28).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cloudpickle

from autoaccel.config import from_dict, read_config_file
from autoaccel.execution.local import TaskSource
from autoaccel.trial import Target
from benchmarks.document import print_document, write_document
from benchmarks.measure import FRESH_SEEDS, paired, speedup, trainings, write_protocol
from benchmarks.options import parser
from examples.fashion_mnist import fashion

HERE = Path(__file__).parent
PROTOCOL = HERE / "protocol.json"
EXAMPLE = HERE.parent.parent / "examples" / "fashion_mnist.py"


def main() -> None:
    command = parser("fashion", __doc__, quick="3 seeds instead of 10", keeps=False)
    command.add_argument("file", type=Path, help="fashion_mnist.npz")
    command.add_argument("--protocol", action="store_true", help="measure the target anew and write protocol.json")
    options = command.parse_args()
    source = TaskSource(pickled=cloudpickle.dumps(fashion(options.file)))
    if options.protocol:
        write_protocol(PROTOCOL, source, 12)
        return
    with tempfile.TemporaryDirectory() as folder:
        result, tuned = _tune(options.file.resolve(), Path(folder))
    target = Target.at_least(json.loads(PROTOCOL.read_text())["target"])
    seeds = [FRESH_SEEDS + k for k in range(3 if options.quick else 10)]
    with trainings(source) as run:
        baseline = from_dict(run.facts["baseline"])
        full_s = run.train(baseline, seeds[0] - 1, None).elapsed_s
        rows = paired(run, baseline, tuned, target, seeds)
    ratio = speedup(rows, full_s)
    keys = ("target_met", "attempts", "hits", "speedup_vs_baseline", "speedup_interval", "tuning_s", "budget_s")
    body = {
        "figures": {
            **{key: result[key] for key in keys},
            "fresh_hits": sum(row["tuned_hit"] for row in rows),
            "fresh_seeds": len(rows),
            "fresh_speedup": ratio["speedup"],
            "fresh_speedup_interval": ratio["interval"],
            "baseline_time_to_target_s": ratio["baseline_s"],
            "tuned_time_to_target_s": ratio["tuned_s"],
            "baseline_hits": sum(row["baseline_hit"] for row in rows),
            "target": target.value,
        },
        "rows": rows,
        "config": result["config"],
    }
    document = write_document(HERE, "fashion", seeds=seeds, quick=options.quick, body=body)
    print_document(document, options.json)


def _tune(file: Path, folder: Path) -> tuple[dict, object]:
    """Run the example as a user would for the first time, in an empty folder; its result.json and config."""
    environment = {**os.environ, "AUTOACCEL_LIBRARY": str(folder / "library")}
    command = [sys.executable, str(EXAMPLE), str(file)]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=sys.stderr)
    run = next((folder / "runs").iterdir())
    return json.loads((run / "result.json").read_text()), read_config_file(run / "best" / "config.json").config


if __name__ == "__main__":
    main()
