"""Job: one tuning request, as a person writes it (keyword arguments, command line, or autoaccel.toml).

Everything is checked here before anything is loaded; errors name the place. Must not know how a job is carried out.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from autoaccel.budget import Budget, parse_budget
from autoaccel.config import Params, TrainerConfig, to_params, validated, with_params
from autoaccel.errors import UsageError

T = TypeVar("T")
FILE = "autoaccel.toml"


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
    parallel: int = 1
    """Search trials at once, on one device: they slow each other down there, which the search measures."""
    use_all_budget: bool = False
    """Search on even when next to nothing is to be gained."""
    use_library: bool = True
    """Start from the kept trainings of earlier studies of the task, and keep this study's."""

    def __post_init__(self) -> None:
        if not 0 < self.hit_probability < 1:
            raise UsageError(f"hit probability {self.hit_probability!r}: not between 0 and 1", "Use e.g. 0.9.")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 1000:
            raise UsageError(f"seed {self.seed!r}: not a whole number from 0 to 999", "Use e.g. --seed 0.")
        if not isinstance(self.parallel, int) or isinstance(self.parallel, bool) or not 1 <= self.parallel <= 64:
            raise UsageError(f"parallel {self.parallel!r}: not a whole number from 1 to 64", "Use e.g. --parallel 2.")
        with_params(TrainerConfig(), self.fix)

    def to_json(self) -> dict[str, Any]:
        """Plain values; the budget in its text form."""
        return {**asdict(self), "budget": str(self.budget)}

    @classmethod
    def from_json(cls, data: dict[str, Any], where: str = "job") -> Job:
        """The job that `to_json` gave; UsageError with the place for anything else."""
        read = validated(_File, data, lambda keys: ".".join((where, *keys)))
        values = {f.name: getattr(read, f.name) for f in fields(cls)}
        for name in ("parallel", "use_all_budget", "use_library"):  # younger than the first runs
            values[name] = getattr(cls, name) if values[name] is None else values[name]
        if None in (values["budget"], values["space"], values["seed"], values["hit_probability"]):
            raise UsageError(f"{where}: incomplete", "Restore the file, or start a new run.")
        return _located(where, lambda: cls(**{**values, "budget": parse_budget(values["budget"])}))


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
    parallel: int | None = None
    use_all_budget: bool | None = None
    use_library: bool | None = None
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
