"""The library: the trainings of finished studies, by the fingerprint of their task, for later studies of the same task.

A folder in the user's data directory (AUTOACCEL_LIBRARY names another); one file a study, a header and a line a
training. It keeps raw metric values, so that any target and any hardware can use them. What cannot be read is skipped
and said, never an error. Must not know how a search uses it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoaccel.config import Params, to_params
from autoaccel.errors import EnvironmentFaultError
from autoaccel.fingerprint import digest
from autoaccel.store.ledger import Entry
from autoaccel.store.run import write_text
from autoaccel.trial import CONFIRMING, SEARCHING, TrialRecord

FORMAT, VERSION = "autoaccel.study", 1
FEWEST = 3
"""Search trials below which a study is not worth keeping, unless it met its target."""
ANSWER = ("target_met", "attempts", "hits", "time_to_target_s", "speedup_vs_baseline", "config")
"""What is kept of a result, for people."""
_MOST_STUDIES = 50
"""Newest studies of a task that are read."""
_KEPT = ("hit", "missed", "capped", "stopped", "diverged")
"""Outcomes that say something of the configuration on any machine. A crash or a full memory says it of one machine."""


@dataclass(frozen=True)
class PastTraining:
    """One training of an earlier study."""

    study: str
    purpose: str
    params: Params
    """The whole config by dotted path, horizon and seed included."""
    samples: tuple[int, ...]
    """At each evaluation."""
    values: tuple[float | None, ...]
    """Metric at each evaluation; None where it was not finite."""
    outcome: str
    """As in `trial.Ended`, for the target of its study."""
    seconds: float
    """Training time on the hardware of its study."""


@dataclass(frozen=True)
class Past:
    """What a study knows from earlier ones; oldest first."""

    trainings: tuple[PastTraining, ...] = ()
    generation: int = 0
    """More than that of every earlier study: it keeps the seeds apart."""
    notes: tuple[str, ...] = ()
    """Files that were skipped, with the reason."""

    @property
    def n_studies(self) -> int:
        return len({t.study for t in self.trainings})

    def __str__(self) -> str:
        n, m = len(self.trainings), self.n_studies
        return f"started from {n} past training{'s' * (n != 1)} of {m} stud{'y' if m == 1 else 'ies'} of this task"


def library_folder() -> Path:
    """Where the studies are."""
    from platformdirs import user_data_dir

    return Path(os.environ.get("AUTOACCEL_LIBRARY") or user_data_dir("autoaccel")) / "studies"


def study_id(run_name: str, entries: Sequence[Entry]) -> str:
    """The same for all sessions of a run, another for every run."""
    first = next((e.data for e in entries if e.kind == "session"), {})
    return digest([run_name, first])


def trainings_of(study: str, records: Iterable[TrialRecord]) -> list[PastTraining]:
    """What is worth keeping of a study's trainings."""
    found = []
    for record in records:
        spec, ended = record.spec, record.ended
        reports = [r for r in record.reports if r.samples > 0]
        if spec.config is None or spec.purpose not in (*SEARCHING, *CONFIRMING) or ended.outcome not in _KEPT:
            continue
        if spec.config.horizon.unit == "seconds":  # annealed by elapsed time: elsewhere it would be another training
            continue
        if reports or ended.outcome == "diverged":
            values = tuple(r.value if math.isfinite(r.value) else None for r in reports)
            samples = tuple(r.samples for r in reports)
            params = to_params(spec.config)
            found.append(PastTraining(study, spec.purpose, params, samples, values, ended.outcome, ended.elapsed_s))
    return found


def save_study(fingerprint: str, past: Past, facts: dict[str, Any], is_answered: bool = False) -> Path | None:
    """Add or replace a study, whole or not at all; None if it is too short to be worth it.

    Args:
        fingerprint: of its task.
        past: its trainings, all of one study, and its generation.
        facts: for people: when, where, with which versions, and the answer.
        is_answered: whether it met its target: then it is kept however short it was.

    Raises:
        EnvironmentFaultError: the library cannot be written.
    """
    n_searched = sum(t.purpose in SEARCHING for t in past.trainings)
    if not past.trainings or (n_searched < FEWEST and not is_answered):
        return None
    path = library_folder() / fingerprint / f"{past.trainings[0].study}.jsonl"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFaultError(
            f"{path.parent}: cannot be made ({error.strerror})", "Check permissions."
        ) from error
    write_past(path, past, {"fingerprint": fingerprint, **facts})
    return path


def load_past(fingerprint: str) -> Past:
    """All trainings of the newest studies of a task."""
    notes, generation = [], 0
    studies: list[tuple[PastTraining, ...]] = []
    for path in _newest(library_folder() / fingerprint):
        try:
            one = read_past(path)
        except ValueError as error:
            notes.append(f"{path.name} in the library was skipped: {error}")
            continue
        studies.append(one.trainings)
        generation = max(generation, one.generation + 1)
    return Past(tuple(t for study in reversed(studies) for t in study), generation, tuple(notes))


def merged(pasts: Iterable[Past]) -> Past:
    """Several pasts as one, in order; a training that is in two of them counts once."""
    pasts = list(pasts)
    trainings: dict[str, PastTraining] = {}
    for training in (t for past in pasts for t in past.trainings):
        trainings.setdefault(digest([training.params, training.samples, training.values]), training)
    notes = dict.fromkeys(note for past in pasts for note in past.notes)
    return Past(tuple(trainings.values()), max((p.generation for p in pasts), default=0), tuple(notes))


def write_past(path: Path, past: Past, facts: dict[str, Any]) -> None:
    """Replace a file atomically: a header, then a line a training."""
    head = {"format": FORMAT, "version": VERSION, **facts}
    head |= {"generation": past.generation, "n_trainings": len(past.trainings)}
    lines = [head, *(asdict(t) for t in past.trainings)]
    write_text(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


def read_past(path: Path) -> Past:
    """What `write_past` wrote; ValueError with the reason for anything else."""
    try:
        head, *lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        if head["format"] != FORMAT:
            raise ValueError("it is no study")
        if head["version"] > VERSION:
            raise ValueError("a newer autoaccel wrote it")
        if head["n_trainings"] != len(lines):
            raise ValueError(f"it has {len(lines)} of {head['n_trainings']} trainings")
        return Past(tuple(_training(line) for line in lines), int(head["generation"]))
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from error
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError("it is damaged") from error


def headers() -> tuple[list[dict[str, Any]], list[str]]:
    """What is known of every study in the library without its trainings, the oldest first; and what was skipped."""
    found, notes = [], []
    for path in sorted(library_folder().glob("*/*.jsonl")):
        try:
            with path.open(encoding="utf-8") as lines:
                head = json.loads(next(lines, ""))
            if head["format"] != FORMAT:
                raise ValueError
            found.append({**head, "fingerprint": path.parent.name, "kept_at": str(head["kept_at"])})
        except (OSError, ValueError, KeyError, TypeError):
            notes.append(f"{path} was skipped: it is damaged, or no study")
    return sorted(found, key=lambda head: head["kept_at"]), notes


def n_studies() -> int:
    """How many studies the library has, of all tasks."""
    try:
        return sum(1 for _ in library_folder().glob("*/*.jsonl"))
    except OSError:
        return 0


def _training(line: dict[str, Any]) -> PastTraining:
    samples = tuple(int(n) for n in line["samples"])
    values = tuple(None if v is None else float(v) for v in line["values"])
    params, outcome = dict(line["params"]), str(line["outcome"])
    if len(samples) != len(values) or not isinstance(params.get("horizon.samples"), int):
        raise TypeError("no curve")
    return PastTraining(
        str(line["study"]), str(line["purpose"]), params, samples, values, outcome, float(line["seconds"])
    )


def _newest(folder: Path) -> list[Path]:
    """Files of studies, newest first."""
    try:
        dated = sorted(((p.stat().st_mtime_ns, p.name, p) for p in folder.glob("*.jsonl")), reverse=True)
    except OSError:
        return []
    return [path for _, _, path in dated[:_MOST_STUDIES]]
