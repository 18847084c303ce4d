"""Where a run is, and the history of answers for every task and machine, as lines of text.

Shows values it is given. Must not know a terminal library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoaccel.report.progress import number, seconds


def history(document: Mapping[str, Any]) -> list[str]:
    """Lines for people of what `inspection.library` says."""
    rows = []
    for task in document["tasks"]:
        rows.append(f"{task['task']} ({task['fingerprint']})")
        for machine, answers in task["machines"].items():
            rows.append(f"  {machine}")
            rows += [f"    {_row(answer)}" for answer in answers]
    rows += document["notes"]
    return rows or [f"no studies in {document['folder']}"]


def status_rows(document: Mapping[str, Any]) -> list[str]:
    """Lines for people of what `inspection.status` says; all answers of a run that was tuned again."""
    known = {k: v for k, v in document.items() if k not in ("result", "best_config", "retuned") and v is not None}
    answers = document["retuned"] if len(document["retuned"]) > 1 else []
    rows = [f"{name:24} {value}" for name, value in known.items()]
    return rows + [f"{'answer':24} {answer_row(a)}; {a['machine']}: {a['run']}" for a in answers]


def answer_row(answer: Mapping[str, Any]) -> str:
    """An answer in a few words: its time and hits, or that it has none."""
    if answer["attempts"] is None:
        return "answer not kept"
    if not answer["attempts"]:
        return "not confirmed"
    met = "" if answer["target_met"] else ", target missed"
    return f"{seconds(answer['time_to_target_s'])}, {answer['hits']}/{answer['attempts']} hits{met}"


def _row(answer: Mapping[str, Any]) -> str:
    when, torch = (answer["kept_at"] or "")[:10], answer["torch"] or "unknown"
    words = [when, f"torch {torch}", f"{answer['metric']} {number(answer['target'])}", answer_row(answer)]
    if answer["speedup_vs_baseline"] is not None:
        words.append(f"{answer['speedup_vs_baseline']:.1f}x")
    return "  ".join([*words, str(answer["run"] or "")]).rstrip()
