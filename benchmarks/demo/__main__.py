"""python -m benchmarks.demo [--quick] [--json] [--run DIR] [--protocol]: the demo's answer on 20 fresh seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autoaccel import api
from autoaccel.config import from_dict, read_config_file
from autoaccel.execution.local import TaskSource
from autoaccel.trial import Target
from benchmarks.document import hardware_line, print_document, render_block, write_document
from benchmarks.measure import FRESH_SEEDS, paired, speedup, trainings, write_protocol
from benchmarks.options import parser

HERE = Path(__file__).parent
PROTOCOL = HERE / "protocol.json"


def main() -> None:
    command = parser("demo", __doc__, quick="5 seeds instead of 20", keeps=False)
    command.add_argument("--run", type=Path, default=Path("runs/demo"), help="the demo's run; tuned first if absent")
    command.add_argument("--protocol", action="store_true", help="measure the target anew and write protocol.json")
    options = command.parse_args()
    if options.protocol:
        write_protocol(PROTOCOL, TaskSource(reference="digits"), 40)
        return
    answer = options.run / "best" / "config.json"
    if not answer.exists():
        api.tune("digits", budget="60s", run_dir=options.run, use_library=False)
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
            "baseline_time_to_target_s": ratio["baseline_s"],
            "tuned_time_to_target_s": ratio["tuned_s"],
            "baseline_hits": sum(row["baseline_hit"] for row in rows),
            "target": target.value,
        },
        "rows": rows,
    }
    document = write_document(HERE, "demo", seeds=seeds, quick=options.quick, body=body)
    if not options.quick:
        render_block(HERE.parent.parent / "README.md", "demo", _readme_table(document))
    print_document(document, options.json)


def _readme_table(document: dict[str, Any]) -> list[str]:
    """The README's table: what a newcomer can expect of `make demo`."""
    f = document["figures"]
    low, high = f["fresh_speedup_interval"]
    n = f["fresh_seeds"]
    return [
        "| `make demo`: handwritten digits, 60 seconds of tuning | baseline: Keras' starter recipe | tuned |",
        "|---|---|---|",
        f"| expected time to {f['target']:.2%} validation accuracy | {f['baseline_time_to_target_s']:.2f} s "
        f"| {f['tuned_time_to_target_s']:.2f} s |",
        f"| target reached, {n} seeds the tuning never saw | {f['baseline_hits']} of {n} | {f['fresh_hits']} of {n} |",
        f"| speed-up, 95 % interval | | **{f['fresh_speedup']:.1f}x** [{low:.1f}, {high:.1f}] |",
        "",
        f"{hardware_line(document)} Made by `python -m benchmarks.demo`; how: `benchmarks/demo/`.",
    ]


if __name__ == "__main__":
    main()
