"""python -m benchmarks.trainer [--quick] [--json]: samples per second of our trainer against other training loops."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoaccel.fingerprint import software
from benchmarks.dialogue import Child, FailedError
from benchmarks.document import print_document, render_block, shown, write_document
from benchmarks.options import parser, parts_folder
from benchmarks.parts import Document, keep, kept
from benchmarks.trainer import cifar10_94
from benchmarks.trainer.children import children, left_out, named, versions
from benchmarks.trainer.contestant import CONTESTANTS
from benchmarks.trainer.figures import figures, rows_of
from benchmarks.trainer.rounds import (
    OURS,
    Block,
    Plan,
    Seconds,
    Workload,
    contestants_of,
    file_of,
    key_of,
    plan_of,
    run_round,
    sources_digest,
)
from benchmarks.trainer.workloads import DATA

HERE = Path(__file__).parent
PACKAGE = HERE.parent.parent / "autoaccel"
PROTOCOL: dict[str, Any] = json.loads((HERE / "protocol.json").read_text())
SYNTHETIC = "synthetic.json"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser("trainer", __doc__, quick="fewer rounds").parse_args(arguments)
    plan = plan_of(PROTOCOL, options.quick, torch.cuda.is_available())
    folder = parts_folder(HERE, quick=options.quick, fresh=options.fresh)
    folder.mkdir(parents=True, exist_ok=True)
    absent = left_out()
    for name, reason in absent.items():
        print(f"left out: {name}, {reason}", file=sys.stderr)
    if not options.summary_only:
        if torch.cuda.is_available():
            cifar10_94.measure(folder, conditions())
            absent |= unable(plan, absent)
        measure(folder, plan, absent)
    document = write_document(HERE, "trainer", seeds=[0], quick=options.quick, body=body_of(folder, plan, absent))
    if not options.quick:
        render_block(HERE / "README.md", "ratios", table_of(document["rows"]))
    print_document(document, options.json)


def measure(folder: Path, plan: Plan, absent: Mapping[str, str]) -> None:
    """All rounds of all workloads; what is there is kept."""
    todo = [(w, indices) for w in plan.workloads if (indices := missing(folder, plan, w, absent))]
    needed = {name for workload, _ in todo for name in contestants_of(PROTOCOL, workload.name, absent)}
    if not needed:
        return
    with children([OURS, *sorted(needed)]) as started:
        for workload, indices in todo:
            others = contestants_of(PROTOCOL, workload.name, absent)
            key = key_of(workload, others, conditions())
            with trainings(folder, plan, workload, {name: started[name] for name in [OURS, *others]}) as block:
                for index in indices:
                    pairs = run_round(workload, index, others, block)
                    keep(file_of(folder, workload, index), key, {"pairs": pairs})
                    ratios = ", ".join(f"{p['contestant']} {p['other_s'] / p['ours_s']:.3f}" for p in pairs)
                    print(f"{workload.name} round {index + 1}/{plan.rounds}: {ratios}", file=sys.stderr)


def unable(plan: Plan, absent: Mapping[str, str]) -> dict[str, str]:
    """Settings of ours that some workload cannot be trained with here, and why: the rest is measured without them."""
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for workload in plan.workloads:
            for name in contestants_of(PROTOCOL, workload.name, {**absent, **found}):
                if not CONTESTANTS[name].gpu_only:
                    continue
                try:
                    with children([name]) as started, trainings(Path(folder), plan, workload, started):
                        pass
                except FailedError as error:
                    found[name] = str(error)
                    print(f"left out: {name}, {error}", file=sys.stderr)
    return found


def conditions() -> dict[str, str]:
    """What a round was measured with, beside the protocol."""
    return {**software(), **versions(), "sources": sources_digest(PACKAGE, HERE)}


def missing(folder: Path, plan: Plan, workload: Workload, absent: Mapping[str, str]) -> list[int]:
    """Rounds of a workload that are not there."""
    key = key_of(workload, contestants_of(PROTOCOL, workload.name, absent), conditions())
    return [index for index in range(plan.rounds) if kept(file_of(folder, workload, index), key) is None]


@contextmanager
def trainings(folder: Path, plan: Plan, workload: Workload, started: Mapping[str, Child]) -> Iterator[Block]:
    """One training of each contestant, waiting in its model for the next block of steps."""

    def block(name: str) -> Seconds:
        answer = asked(name, {"warm": workload.warm, "steps": workload.steps})
        return answer["wall_s"], answer["cpu_s"]

    def asked(name: str, request: Document) -> Document:
        with named(workload.name, name):
            started[name].tell(request)
            return started[name].hear()

    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "data.npz"
        arrays = DATA[workload.name](None)
        np.savez(data, **arrays)
        (folder / f"{workload.name}.{SYNTHETIC}").write_text(json.dumps(bool(arrays["synthetic"])))
        told = {"workload": workload.name, "data": str(data), "recipe": dict(workload.recipe), "n_steps": plan.n_steps}
        for name, child in started.items():
            child.tell(told)
            block(name)  # the first steps of a training are not like the others
        yield block
        for name in started:
            asked(name, {})


def body_of(folder: Path, plan: Plan, absent: Mapping[str, str]) -> Document:
    """What the document holds beside where and when."""
    pairs: list[Document] = []
    for workload in plan.workloads:
        key = key_of(workload, contestants_of(PROTOCOL, workload.name, absent), conditions())
        for index in range(plan.rounds):
            found = kept(file_of(folder, workload, index), key)
            pairs += found["pairs"] if found else []
    rows, hits = rows_of(pairs), cifar10_94.kept(folder, conditions())
    names = [workload.name for workload in plan.workloads]
    peers = {name: not c.whole_batches for name, c in CONTESTANTS.items() if c.is_peer}
    variants = [name for name, c in CONTESTANTS.items() if c.gpu_only]
    marks = {name: folder / f"{name}.{SYNTHETIC}" for name in names}
    return {
        "figures": {**figures(rows, names, peers, variants), **cifar10_94.figures(hits)},
        "rows": rows,
        "cifar10_94": hits,
        "left_out": dict(absent),
        "peers": versions(),
        "synthetic_data": [name for name, mark in marks.items() if mark.exists() and json.loads(mark.read_text())],
        "protocol": PROTOCOL,
    }


def table_of(rows: Sequence[Document]) -> list[str]:
    """The rows for the README."""
    if not rows:
        return ["not measured"]
    found = ["| workload | contestant | samples/s | ours | ratio | 95 % interval |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = [f"{row['samples_per_s']:,.0f}", f"{row['ours_samples_per_s']:,.0f}", f"{row['ratio']:.3f}"]
        cells.append(shown([row["low"], row["high"]]))
        found.append("| " + " | ".join([row["workload"], row["contestant"], *cells]) + " |")
    return found


if __name__ == "__main__":
    main()
