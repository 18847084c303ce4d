"""The one document a benchmark writes (results/latest.json) and the table its README is rendered from.

Must not know what is measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from autoaccel.clock import utc_timestamp
from autoaccel.fingerprint import software
from autoaccel.hardware.profile import facts

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def write_document(folder: Path, name: str, *, seeds: list[int], quick: bool, body: dict[str, Any]) -> dict[str, Any]:
    """Write results/latest.json (quick runs: results/quick.json) and the README table; returns the document.

    Args:
        folder: the benchmark's folder.
        name: its module name after `benchmarks.`.
        seeds: seeds that were run.
        quick: whether this was the smaller measurement.
        body: 'figures' (name -> number or None), 'rows', and what else belongs to it.
    """
    document = {
        "name": name,
        "command": " ".join(["python -m", f"benchmarks.{name}", *sys.argv[1:]]),
        "hardware": {k: v for k, v in facts().items() if k != "python"},
        "software": software(),
        "commit": _commit(),
        "date": utc_timestamp(),
        "seeds": seeds,
        "quick": quick,
        **body,
    }
    (folder / "results").mkdir(exist_ok=True)
    file = folder / "results" / ("quick.json" if quick else "latest.json")
    file.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")
    if not quick:
        _render(folder / "README.md", document)
    return document


def shown(value: Any) -> str:
    """A figure in a table; what was not measured says so."""
    if value is None:
        return "not measured"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shown(v) for v in value) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _render(readme: Path, document: dict[str, Any]) -> None:
    lines = ["| figure | value |", "|---|---|"]
    lines += [f"| {name} | {shown(value)} |" for name, value in document["figures"].items()]
    hardware = document["hardware"]
    lines += ["", f"{hardware['cpu_model']}, {hardware['usable_cores']} cores, {document['date'][:10]}, "]
    lines[-1] += f"commit {document['commit']}, torch {document['software']['torch']}."
    head, _, rest = readme.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    readme.write_text(head + BEGIN + "\n" + "\n".join(lines) + "\n" + END + tail)


def _commit() -> str:
    try:
        run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        return run.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
