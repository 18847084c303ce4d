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
        # File names without their folders: where somebody keeps data is nobody else's business.
        "command": " ".join(["python -m", f"benchmarks.{name}", *(Path(word).name for word in sys.argv[1:])]),
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
        rows = [f"| {name} | {shown(value)} |" for name, value in document["figures"].items()]
        table = ["| figure | value |", "|---|---|", *rows, "", hardware_line(document)]
        render_block(folder / "README.md", "table", table)
    return document


def shown(value: Any) -> str:
    """A figure in a table; what was not measured says so."""
    if value is None:
        return "not measured"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shown(v) for v in value) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_document(document: dict[str, Any], as_json: bool) -> None:
    """The whole document, or its figures one to a line."""
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        print("\n".join(f"{name:28} {shown(value)}" for name, value in document["figures"].items()))


def hardware_line(document: dict[str, Any]) -> str:
    """Where, when and with what a document was measured."""
    hardware = document["hardware"]
    machine = f"{hardware['cpu_model']}, {hardware['usable_cores']} cores"
    return f"{machine}, {document['date'][:10]}, commit {document['commit']}, torch {document['software']['torch']}."


def render_block(readme: Path, name: str, lines: list[str]) -> None:
    """Replace what stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, _, rest = readme.read_text().partition(begin)
    _, _, tail = rest.partition(end)
    readme.write_text(head + begin + "\n" + "\n".join(lines) + "\n" + end + tail)


def _commit() -> str:
    try:
        run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        return run.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
