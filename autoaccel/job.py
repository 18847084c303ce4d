"""Job: one tuning request, as a person writes it (keyword arguments, command line, or autoaccel.toml).

Everything is checked here before anything is loaded; errors name the place. Must not know how a job is carried out.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from autoaccel.budget import Budget, parse_budget
from autoaccel.config import Params, TrainerConfig, to_params, validated, with_params
from autoaccel.errors import UsageError, did_you_mean
from autoaccel.storage_url import StorageUrl

T = TypeVar("T")
FILE = "autoaccel.toml"
EXECUTORS = {
    "local": "processes on this machine",
    "ray": "actors on Ray, on this machine or a cluster",
    "ray-tune": "trials of Ray Tune, with its results and files",
}
_MOST_SLOTS = 4096


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to tune, to which target, for how much."""

    budget: Budget
    """Limit on the whole tuning: imports, measuring, trials, confirmation, report."""
    task: str | None = None
    """Reference of the task; None for a task given as an object."""
    target: float | None = None
    """Metric value to reach; None takes the task's own."""
    space: str = "minimal"
    """Search space: a shipped name or a path to a TOML file."""
    fix: Params = field(default_factory=dict)
    """Knobs pinned to a value, by dotted path."""
    seed: int = 0
    """Seed of the search; the seeds of its trials follow from it."""
    hit_probability: float = 0.9
    """Hit rate the answer needs on fresh seeds."""
    devices: int = 1
    """GPUs, or cores where there are none, that trials run on; a budget in device-hours pays for all of them."""
    trials_at_once: int | None = None
    """Trials at once; None: one on each device. Several on one slow each other down, which is measured."""
    executor: str = "local"
    """Where trials run; see EXECUTORS."""
    ray_address: str | None = None
    """The Ray cluster's head, host:port or auto; None: a private Ray on this machine."""
    ray_resources: dict[str, float] = field(default_factory=dict)
    """What a trial needs on Ray beside its share of the devices, such as CPU = 4."""
    use_all_budget: bool = False
    """Search on even when next to nothing is to be gained."""
    use_library: bool = True
    """Start from the kept trainings of earlier studies of the task, and keep this study's."""
    storage: StorageUrl | None = None
    """Database that the study is also written to while it runs, for others to look at."""
    after: str | None = None
    """The run that this one tunes again: its answer is the baseline, its trainings are known."""

    def __post_init__(self) -> None:
        if not 0 < self.hit_probability < 1:
            raise UsageError(f"hit probability {self.hit_probability!r}: not between 0 and 1", "Use e.g. 0.9.")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 1000:
            raise UsageError(f"seed {self.seed!r}: not a whole number from 0 to 999", "Use e.g. --seed 0.")
        _check_place(self)
        if self.after is not None and not isinstance(self.after, str):
            raise UsageError(f"after {self.after!r}: not the directory of a run", "Restore the file.")
        with_params(TrainerConfig(), self.fix)

    @property
    def n_slots(self) -> int:
        """Trials at once."""
        return self.trials_at_once or self.devices

    def to_json(self) -> dict[str, Any]:
        """Plain values; the budget in its text form, the storage without its secrets."""
        shown = None if self.storage is None else self.storage.shown
        return {**asdict(self), "budget": str(self.budget), "storage": shown}

    @classmethod
    def from_json(cls, data: dict[str, Any], where: str = "job") -> Job:
        """The job that `to_json` gave; UsageError with the place for anything else."""
        given = {key: value for key, value in data.items() if key != "after"}
        if "parallel" in given:  # what trials_at_once was called
            given["trials_at_once"] = given.pop("parallel")
        read = validated(_File, given, lambda keys: ".".join((where, *keys)))
        values = {f.name: getattr(read, f.name) for f in fields(cls) if f.name != "after"}
        values["after"] = data.get("after")
        for name in ("devices", "executor", "use_all_budget", "use_library"):  # younger than the first runs
            values[name] = getattr(cls, name) if values[name] is None else values[name]
        if None in (values["budget"], values["space"], values["seed"], values["hit_probability"]):
            raise UsageError(f"{where}: incomplete", "Restore the file, or start a new run.")
        budget, url = values["budget"], values["storage"]
        return _located(
            where, lambda: cls(**{**values, "budget": parse_budget(budget), "storage": url and StorageUrl(url)})
        )


@dataclass(frozen=True, kw_only=True)
class _File:
    """A job as it is written, in autoaccel.toml or a run directory; every key may be missing."""

    budget: str | None = None
    task: str | None = None
    target: float | None = None
    space: str | None = None
    fix: Params = field(default_factory=dict)
    seed: int | None = None
    hit_probability: float | None = None
    devices: int | None = None
    trials_at_once: int | None = None
    executor: str | None = None
    ray_address: str | None = None
    ray_resources: dict[str, float] = field(default_factory=dict)
    use_all_budget: bool | None = None
    use_library: bool | None = None
    storage: str | None = None
    # a task made from data, see `tasks.from_data`
    model: str | None = None
    data: str | None = None
    text: str | None = None
    table: str | None = None
    label: str | None = None
    image_size: int | None = None
    context: int | None = None
    metric: str | None = None
    pretrained: bool | None = None
    weights: str | None = None


def parse_amounts(texts: Sequence[str]) -> dict[str, float]:
    """['CPU=4', ...] -> {'CPU': 4.0, ...}."""
    found = {}
    for text in texts:
        name, _, amount = (part.strip() for part in text.partition("="))
        try:
            found[name] = float(amount)
        except ValueError:
            name = ""
        if not name:
            raise UsageError(f"--ray-resources {text!r}: expected NAME=AMOUNT", "For example --ray-resources CPU=4.")
    return found


def _check_place(job: Job) -> None:
    """Where and how many at once; UsageError."""
    for name, value in (("devices", job.devices), ("trials_at_once", job.trials_at_once)):
        flag = f"--{name.replace('_', '-')}"
        whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_SLOTS
        if value is not None and not whole:
            raise UsageError(f"{name} {value!r}: not a whole number from 1 to {_MOST_SLOTS}", f"Use e.g. {flag} 2.")
    if job.n_slots % job.devices:
        raise UsageError(
            f"trials_at_once {job.n_slots} on {job.devices} devices: not the same number on each",
            f"Use a multiple of {job.devices}, or leave --trials-at-once out.",
        )
    if job.executor not in EXECUTORS:
        raise UsageError(f"unknown executor {job.executor!r}", did_you_mean(job.executor, EXECUTORS))
    if job.executor == "local" and (job.ray_address is not None or job.ray_resources):
        given = "ray_address" if job.ray_address is not None else "ray_resources"
        raise UsageError(f"{given} with the executor 'local'", "Add --executor ray.")


def read_job_file(path: Path) -> dict[str, Any]:
    """The settings in an autoaccel.toml, checked; UsageError with file:line and key for what is unknown or wrong."""
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})", "Check the path.") from error
    except ValueError as error:
        raise UsageError(f"{path}: {error}", "Fix the TOML syntax.") from error

    def where(keys: tuple[str, ...]) -> str:
        return f"{path.name}:{_line_of(text, keys[0])}: {'.'.join(keys)}" if keys else path.name

    found = {k: v for k, v in asdict(validated(_File, document, where)).items() if v not in (None, {})}
    if "budget" in found:
        found["budget"] = _located(where(("budget",)), lambda: parse_budget(found["budget"]))
    if "storage" in found:
        found["storage"] = _located(where(("storage",)), lambda: StorageUrl(found["storage"]))
    if "fix" in found:
        found["fix"] = _located(where(("fix",)), lambda: _fixed(found["fix"]))
    return found


def _fixed(value: Params) -> Params:
    """`[fix]` tables nested or with quoted dotted keys, as flat checked params."""
    flat: Params = {}
    for key, inner in value.items():
        flat.update({f"{key}.{k}": v for k, v in inner.items()} if isinstance(inner, dict) else {key: inner})
    checked = to_params(with_params(TrainerConfig(), flat))
    return {path: checked[path] for path in flat}


def _located(where: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", error.hint) from error


def _line_of(text: str, key: str) -> int:
    pattern = re.compile(rf"^\s*(\[\s*)?[\"']?{re.escape(key)}[\"']?\s*[\].=]")
    return next((n for n, line in enumerate(text.splitlines(), start=1) if pattern.match(line)), 1)
