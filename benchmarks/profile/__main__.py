"""python -m benchmarks.profile [--quick] [--json]: how far the rates of `autoaccel profile digits` lie apart."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.document import print_document, render_block, write_document
from benchmarks.options import parser

HERE = Path(__file__).parent
RUNS, QUICK_RUNS = 5, 3
FIGURES = (
    *("repeat_deviation_median", "repeat_deviation_max", "worst_rate"),
    *("disk_deviation_median", "disk_deviation_max", "profile_s_max", "others_max"),
)
Document = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    command = parser("profile", __doc__, quick=f"{QUICK_RUNS} runs instead of {RUNS}", keeps=False)
    options = command.parse_args(arguments)
    runs = []
    for index in range(QUICK_RUNS if options.quick else RUNS):
        runs.append(profiled())
        print(f"run {index + 1}: {runs[-1]['seconds']:.1f} s, others {runs[-1]['others']}", file=sys.stderr)
    rows = rows_of([run["values"] for run in runs])
    told = [{name: value for name, value in run.items() if name != "values"} for run in runs]
    body = {"figures": figures(runs, rows), "rows": rows, "runs": told}
    document = write_document(HERE, "profile", seeds=[0], quick=options.quick, body=body)
    if not options.quick:
        render_block(HERE / "README.md", "rates", table_of(rows))
    print_document(document, options.json)


def profiled() -> Document:
    """One run in a process of its own that knows nothing of earlier ones: its values, and what it took."""
    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-m", "autoaccel", "profile", "digits", "--json"],
            env={**os.environ, "AUTOACCEL_CACHE_DIR": cache},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - start
    document = json.loads(run.stdout)
    hardware = document["hardware"]
    return {
        "seconds": seconds,
        "device": hardware["device"],
        "others": hardware["load"]["others"],
        "load_average": hardware["load"]["average"],
        "skipped": hardware["skipped"],
        "values": values_of(document),
    }


def values_of(document: Mapping[str, Any]) -> dict[str, tuple[str, float]]:
    """By name, the clock and the rate per second of it: processor seconds where they are known, else the wall's.

    Beside the machine's rates how often a second has room for each piece of the step.
    """
    found = {}
    for name, rate in document["hardware"]["rates"].items():
        on_cpu = rate["per_cpu_s"] is not None
        found[name] = ("cpu" if on_cpu else "wall", rate["per_cpu_s"] if on_cpu else rate["per_s"])
    clock = "cpu" if document["hardware"]["device"] == "cpu" else "wall"
    for name, piece in {**document["breakdown"]["pieces"], "whole": document["breakdown"]["step"]}.items():
        if piece[f"{clock}_s"] > 1e-5:  # what takes microseconds in ten milliseconds is no piece to speak of
            found[f"step.{name}"] = (clock, 1 / piece[f"{clock}_s"])
    return found


def rows_of(runs: Sequence[Mapping[str, tuple[str, float]]]) -> list[Document]:
    """A row per rate: its values, their median, and how far they are from it as a share of it."""
    rows = []
    for name in dict.fromkeys(name for run in runs for name in run):
        values = [run[name][1] for run in runs if name in run]
        clock = next(run[name][0] for run in runs if name in run)
        median = statistics.median(values)
        apart = [abs(value / median - 1) for value in values]
        row = {"rate": name, "clock": clock, "median": median, "values": values, "missing": len(runs) - len(values)}
        rows.append({**row, "deviation_median": statistics.median(apart), "deviation_max": max(apart)})
    return rows


def figures(runs: Sequence[Document], rows: Sequence[Document]) -> Document:
    """Of the worst rate: the median over the runs of its distance from its median, and the largest; the same of the
    disk, whose rate is no processor's and hangs on what else uses it; seconds of a whole run, imports included. For a
    GPU where the runs had one, else null."""
    disk = next((row for row in rows if row["rate"] == "disk"), {})
    rows = [row for row in rows if row["rate"] != "disk"]
    worst = max(rows, key=lambda row: row["deviation_median"])
    others = [run["others"] for run in runs if run["others"] is not None]
    found = {
        "repeat_deviation_median": worst["deviation_median"],
        "repeat_deviation_max": max(row["deviation_max"] for row in rows),
        "worst_rate": worst["rate"],
        "disk_deviation_median": disk.get("deviation_median"),
        "disk_deviation_max": disk.get("deviation_max"),
        "profile_s_max": max(run["seconds"] for run in runs),
        "others_max": max(others, default=None),
    }
    on_cpu = all(run["device"] == "cpu" for run in runs)
    nothing = dict.fromkeys(FIGURES)
    cpu, gpu = (found, nothing) if on_cpu else (nothing, found)
    return {**cpu, **{f"gpu_{name}": value for name, value in gpu.items()}}


def table_of(rows: Sequence[Document]) -> list[str]:
    """The rows for the README."""
    lines = ["| rate | seconds of | median | deviation, median | deviation, most |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [row["rate"], row["clock"], f"{row['median']:.4g}"]
        cells += [f"{row[key]:.1%}" for key in ("deviation_median", "deviation_max")]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
