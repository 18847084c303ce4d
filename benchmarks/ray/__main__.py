"""python -m benchmarks.ray [--quick] [--json]: one job by the local, Ray and Ray Tune executors; faults; many slots."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from autoaccel.config import from_dict
from autoaccel.fingerprint import digest
from benchmarks.document import print_document, render_block, shown, write_document
from benchmarks.estimates import ert_s
from benchmarks.options import parser, parts_folder
from benchmarks.parts import once
from benchmarks.ray.faults import FAULTS
from benchmarks.ray.figures import figures, of_longer
from benchmarks.ray.judge import judging
from benchmarks.ray.study import Document, Order, study
from benchmarks.terms import judging_seeds

HERE = Path(__file__).parent
PROTOCOL: dict[str, Any] = json.loads((HERE / "protocol.json").read_text())
EXECUTORS = tuple(PROTOCOL["executors"])
LONGER = "longer"


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    plan = {**PROTOCOL, "sizes": PROTOCOL["slots"]["sizes"], **(PROTOCOL["quick"] if options.quick else {})}
    folder = parts_folder(HERE, quick=options.quick, fresh=options.fresh)
    parts = {"slots": run_slots, "studies": run_studies, LONGER: run_longer, "faults": run_faults}
    wanted = options.only or (["slots", "studies"] if options.quick else list(parts))
    for name in wanted if not options.summary_only else ():
        parts[name](folder, plan)
    rows, longer = studies(folder, plan), studies(*longer_of(folder, plan))
    faults, slots = faults_and_slots(folder)
    body = {
        "figures": {**figures(rows, EXECUTORS, faults, slots), **of_longer(longer, plan[LONGER]["executors"])},
        "rows": rows,
        "longer": longer,
        "faults": faults,
        "slots": slots,
        "protocol": PROTOCOL,
    }
    document = write_document(HERE, "ray", seeds=list(range(plan["seeds"])), quick=options.quick, body=body)
    if not options.quick:
        render_block(HERE / "README.md", "slots", table_of(slots))
    print_document(document, options.json)


def run_studies(folder: Path, plan: Document) -> None:
    """Every study once, then the judging of its answer; what is there is kept."""
    executors = tuple(plan["executors"])
    for seed in range(plan["seeds"]):
        shift = seed % len(executors)
        for executor in (*executors[shift:], *executors[:shift]):
            order = Order(executor, seed, plan["budget_s"], plan["devices"])
            once(folder / f"study-{executor}-{seed}.json", key(order), partial(in_a_folder, study, order))
    seeds = list(judging_seeds(plan["judging"], plan))
    with judging() as judge:
        full = once(folder / "full.json", digest(PROTOCOL), lambda: {"full_s": judge.full_s()})
        for file in sorted(folder.glob("study-*.json")):
            answer = json.loads(file.read_text())["answer"]
            told = digest([answer, seeds])
            judged = folder / file.name.replace("study", "judged")
            once(judged, told, lambda a=answer: judge.judge(from_dict(a), seeds) if a else {"times_s": [], "hits": []})
            print(f"{judged.name}: {cost(json.loads(judged.read_text()), full):.2f} s", file=sys.stderr)


def run_longer(folder: Path, plan: Document) -> None:
    """The same with another budget."""
    run_studies(*longer_of(folder, plan))


def longer_of(folder: Path, plan: Document) -> tuple[Path, Document]:
    """The studies with another budget: a folder of their own, and a plan."""
    return folder / LONGER, {**plan, **plan[LONGER]}


def run_faults(folder: Path, plan: Document) -> None:
    """Every fault once."""
    after = PROTOCOL["faults"]["after_trials"]
    for name, (inflict, executor) in FAULTS.items():
        order = Order(executor, 0, PROTOCOL["faults"]["budget_s"], plan["devices"])
        run = partial(in_a_folder, partial(inflict, after=after), order)
        once(folder / f"fault-{name}.json", digest([name, key(order), after]), run)


def run_slots(folder: Path, plan: Document) -> None:
    """Every number of slots once."""
    rules = PROTOCOL["slots"]
    for size in plan["sizes"]:
        n = max(rules["fewest_trials"], rules["trials_per_slot"] * size)

        def measured(size: int = size, n: int = n) -> Document:
            command = [sys.executable, "-m", "benchmarks.ray.slots", str(size), str(n)]
            found: Document = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            return found

        once(folder / f"slots-{size:04}.json", digest([size, n]), measured)


def in_a_folder(run: Callable[[Order, Path], Document], order: Order) -> Document:
    """A run directory that is thrown away."""
    with tempfile.TemporaryDirectory(prefix="autoaccel-") as folder:
        return run(order, Path(folder) / "run")


def key(order: Order) -> str:
    return digest([order.executor, order.seed, order.budget_s, order.devices, PROTOCOL["fixed_s"]])


def cost(judged: Document, full: Document) -> float:
    return ert_s(judged["times_s"], judged["hits"], PROTOCOL["judging"]["penalty_trainings"] * full["full_s"])


def studies(folder: Path, plan: Document) -> list[Document]:
    """Judged studies that are there."""
    rows = []
    for executor in plan["executors"]:
        for seed in range(plan["seeds"]):
            files = [folder / f"{kind}-{executor}-{seed}.json" for kind in ("study", "judged")]
            if all(file.exists() for file in files):
                ran, judged = (json.loads(file.read_text()) for file in files)
                full = json.loads((folder / "full.json").read_text())
                told = {name: ran[name] for name in ran if name not in ("key", "answer")}
                fresh = {"fresh_hits": sum(judged["hits"]), "fresh_attempts": len(judged["hits"])}
                rows.append({"executor": executor, "seed": seed, **told, **fresh, "ert_s": cost(judged, full)})
    return rows


def faults_and_slots(folder: Path) -> tuple[dict[str, Document], list[Document]]:
    """Faults by name, and slots, that are there."""
    faults = {name: folder / f"fault-{name}.json" for name in FAULTS}
    slots = [json.loads(file.read_text()) for file in sorted(folder.glob("slots-*.json"))]
    return {name: json.loads(file.read_text()) for name, file in faults.items() if file.exists()}, slots


def table_of(slots: Sequence[Document]) -> list[str]:
    """Throughput and memory for the README."""
    if not slots:
        return ["not measured"]
    names = ("slots", "suggestions", "seconds", "suggestions_per_s", "driver_mb")
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return lines + ["| " + " | ".join(shown(row[name]) for name in names) + " |" for row in slots]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    command = parser("ray", __doc__, quick="one seed with a shorter budget, 1 and 64 slots")
    command.add_argument("--only", nargs="+", choices=("slots", "studies", LONGER, "faults"), help="parts to run")
    return command.parse_args(arguments)


if __name__ == "__main__":
    main()
