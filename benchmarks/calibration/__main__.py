"""python -m benchmarks.calibration [--quick] [--json]: simulated studies, what they state and what is true."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from autoaccel.fingerprint import digest
from benchmarks import parts
from benchmarks.calibration.figures import figures, reliability, reliability_table
from benchmarks.calibration.study import Rules, study
from benchmarks.document import print_document, render_block, write_document
from benchmarks.options import parser, parts_folder
from benchmarks.search.runner import end_with_parent

HERE = Path(__file__).parent
PROTOCOL: dict[str, Any] = json.loads((HERE / "protocol.json").read_text())
Study = Callable[[int, Rules], dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    n_studies = PROTOCOL["quick"]["studies"] if options.quick else PROTOCOL["studies"]
    seeds = [PROTOCOL["first_seed"] + k for k in range(options.studies or n_studies)]
    folder = parts_folder(HERE, quick=False, fresh=options.fresh)  # a quick run's studies are the first of all
    rules = rules_of(PROTOCOL)
    if not options.summary_only:
        run_all(folder, seeds, rules, options.workers)
    rows = [row for seed in seeds if (row := kept(folder, seed, rules)) is not None]
    groups = reliability(rows)
    body = {"figures": figures(rows), "rows": rows, "reliability": groups, "protocol": PROTOCOL}
    document = write_document(HERE, "calibration", seeds=seeds, quick=options.quick, body=body)
    if not options.quick:
        render_block(HERE / "README.md", "reliability", reliability_table(groups))
    print_document(document, options.json)


def rules_of(protocol: dict[str, Any]) -> Rules:
    """The protocol's numbers."""
    low, high = protocol["budget_trainings"]
    return Rules(low, high, protocol["fresh_seeds"], protocol["ert_seeds"])


def run_all(folder: Path, seeds: Sequence[int], rules: Rules, workers: int, work: Study = study) -> None:
    """Run the studies that are missing; each is kept as soon as it is done.

    Args:
        folder: where they are kept, a file each.
        seeds: those that are wanted.
        rules: of the protocol.
        workers: processes; 0 runs in this one.
        work: what runs a study.
    """
    missing = [seed for seed in seeds if kept(folder, seed, rules) is None]
    began_s = time.monotonic()
    found = _pool(missing, rules, workers, work) if workers else ((seed, work(seed, rules)) for seed in missing)
    for index, (seed, row) in enumerate(found, start=1):
        parts.keep(_file(folder, seed), _key(seed, rules), row)
        left_min = (time.monotonic() - began_s) / index * (len(missing) - index) / 60
        text = f"claim {row['claim']}, {row['n_trials']} trials; {left_min:.1f} min left"
        print(f"{index}/{len(missing)} study {seed}: {text}", file=sys.stderr)


def kept(folder: Path, seed: int, rules: Rules) -> dict[str, Any] | None:
    """The row of a study, if it was run under these rules."""
    return parts.kept(_file(folder, seed), _key(seed, rules))


def _pool(seeds: Sequence[int], rules: Rules, workers: int, work: Study) -> Iterator[tuple[int, dict[str, Any]]]:
    with ProcessPoolExecutor(workers, get_context("spawn"), end_with_parent) as pool:
        running = {pool.submit(work, seed, rules): seed for seed in seeds}
        for future in as_completed(running):
            yield running[future], future.result()


def _file(folder: Path, seed: int) -> Path:
    return folder / f"{seed}.json"


def _key(seed: int, rules: Rules) -> str:
    return digest({"seed": seed, **asdict(rules)})


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    command = parser("calibration", __doc__, quick="20 studies instead of 200")
    command.add_argument("--studies", type=int, help="another number of studies")
    command.add_argument("--workers", type=int, default=2, help="processes; 0: none")
    return command.parse_args(arguments)


if __name__ == "__main__":
    main()
