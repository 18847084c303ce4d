"""python -m benchmarks.finders [--quick] [--json]: whose batch size trains fastest under a memory limit."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from autoaccel.fingerprint import digest, software
from benchmarks.document import print_document, render_block, shown, write_document
from benchmarks.finders.figures import figures, rows_of
from benchmarks.finders.processes import LimitedChild, absent, ask, versions
from benchmarks.finders.rounds import OURS, Block, Seconds, run_round
from benchmarks.options import parser, parts_folder
from benchmarks.parts import Document, keep, kept
from benchmarks.trainer.rounds import sources_digest

HERE = Path(__file__).parent
PACKAGE = HERE.parent.parent / "autoaccel"
PROTOCOL: dict[str, Any] = json.loads((HERE / "protocol.json").read_text())


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser("finders", __doc__, quick="fewer rounds").parse_args(arguments)
    protocol = {**PROTOCOL, **(PROTOCOL["quick"] if options.quick else {})}
    folder = parts_folder(HERE, quick=options.quick, fresh=options.fresh)
    parts = Parts(folder, digest([protocol, software(), versions(), sources_digest(PACKAGE, HERE)]))
    if not options.summary_only:
        measure(parts, protocol)
    found, checked, pairs = collected(parts, protocol)
    rows = rows_of(found, checked, pairs)
    body = {
        "figures": figures(rows, list(protocol["choosers"])),
        "rows": rows,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "left_out": absent(list(protocol["choosers"])),
        "peers": versions(),
        "protocol": PROTOCOL,
    }
    document = write_document(HERE, "finders", seeds=[0], quick=options.quick, body=body)
    if not options.quick:
        render_block(HERE / "README.md", "choices", table_of(rows))
    print_document(document, options.json)


class Parts:
    """What was measured already, a file each; what was measured under other conditions is not there."""

    def __init__(self, folder: Path, conditions: str) -> None:
        self._folder, self._conditions = folder, conditions

    def get(self, name: str) -> Any:
        """The part, or None."""
        found = kept(self._folder / f"{name}.json", self._conditions)
        return None if found is None else found["part"]

    def put(self, name: str, part: Any) -> None:
        keep(self._folder / f"{name}.json", self._conditions, {"part": part})


def measure(parts: Parts, protocol: Mapping[str, Any]) -> None:
    """All choices, our choice to its end, all rounds; what is there is kept."""
    choosers = [name for name in protocol["choosers"] if name not in absent(list(protocol["choosers"]))]
    for workload in protocol["workloads"]:
        told = {"workload": workload, "protocol": protocol}
        for chooser in choosers:
            if parts.get(f"{workload}-{chooser}") is None:
                answer = ask({**told, "chooser": chooser})
                parts.put(f"{workload}-{chooser}", answer)
                print(f"{workload} {chooser}: {answer.get('choice', answer.get('error'))}", file=sys.stderr)
        answers = {name: parts.get(f"{workload}-{name}") for name in choosers}
        choices = {name: answer["choice"] for name, answer in answers.items() if "choice" in answer}
        if OURS not in choices:
            continue
        if parts.get(f"{workload}-check") is None:
            ours = answers[OURS]
            check = {"check": True, "batch": ours["choice"], "evaluation_batch": ours["evaluation_batch"]}
            parts.put(f"{workload}-check", {"outcome": "died", **ask({**told, **check})})
            print(f"{workload} {parts.get(f'{workload}-check')}", file=sys.stderr)
        missing = [n for n in range(protocol["rounds"]) if parts.get(f"{workload}-{n:03}") is None]
        if missing:
            with trainings(told, set(choices.values())) as block:
                for index in missing:
                    pairs = run_round(workload, index, choices, protocol["block_samples"], block)
                    parts.put(f"{workload}-{index:03}", pairs)
                    print(f"{workload} round {index + 1}/{protocol['rounds']}: {pairs}", file=sys.stderr)


@contextmanager
def trainings(told: Mapping[str, Any], batches: set[int]) -> Iterator[Block]:
    """A training at each batch size, waiting for the next block; those that end on the way stay ended."""
    with ExitStack() as stack:
        children = {batch: LimitedChild({**told, "batch": batch}) for batch in sorted(batches)}
        for child in children.values():
            stack.callback(child.close)
        ended: dict[int, str] = {}

        def block(batch: int, steps: int) -> Seconds | str:
            if batch in ended:
                return ended[batch]
            children[batch].tell({"warm": 1, "steps": steps})
            answer = children[batch].hear()
            if "wall_s" in answer:
                return answer["wall_s"], answer["cpu_s"]
            ended[batch] = str(answer.get("outcome") or answer.get("error"))
            return ended[batch]

        for batch in children:
            block(batch, 1)  # imports, and first steps, which are not like the others
        yield block


def collected(
    parts: Parts, protocol: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Document]], dict[str, Document], list[Document]]:
    """What is there: answers by workload and chooser, checks by workload, all pairs."""
    found: dict[str, dict[str, Document]] = {}
    checked: dict[str, Document] = {}
    pairs: list[Document] = []
    for workload in protocol["workloads"]:
        answers = {name: parts.get(f"{workload}-{name}") for name in protocol["choosers"]}
        answers = {name: answer for name, answer in answers.items() if answer is not None}
        if OURS in answers:
            found[workload] = answers
        check = parts.get(f"{workload}-check")
        checked |= {workload: check} if check else {}
        for index in range(protocol["rounds"]):
            pairs += parts.get(f"{workload}-{index:03}") or []
    return found, checked, pairs


def table_of(rows: Sequence[Document]) -> list[str]:
    """The rows for the README."""
    head = ["| workload | chooser | batch | seconds | ours / theirs, samples per second | 95 % interval |"]
    found = [*head, "|---|---|---|---|---|---|"]
    for row in rows:
        ratio = "" if row["chooser"] == OURS else row.get("how") or shown(row.get("ratio"))
        interval = shown([row["low"], row["high"]]) if row.get("low") is not None else ""
        choice = row["choice"] if row["choice"] is not None else f"none: {row['error']}"
        cells = [row["workload"], row["chooser"], str(choice), shown(row["seconds"]), ratio, interval]
        found.append("| " + " | ".join(cells) + " |")
    return found


if __name__ == "__main__":
    main()
