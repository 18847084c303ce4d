"""What crosses the process line: TrialSpec goes out, Report and Ended come back, as JSON; TrialRecord is kept.

Also the Target, which travels in every spec. Knows nothing of who runs a trial or why it was chosen.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from autoaccel.config import TrainerConfig, from_dict, to_dict
from autoaccel.errors import UsageError

Direction = Literal["max", "min"]
BOUNDED_METRICS = ("accuracy", "f1", "auc")
"""Metrics that lie between 0 and 1; more is better."""
FALLING_METRICS = ("loss", "perplexity")
"""Metrics of which less is better."""

STEP_PROBES = ("memory_peak", "step_cost", "soundness", "effect")
"""What measures steps of a task."""
PREFLIGHT = "preflight"
"""Purpose of the first look at a task."""
PROBES = (PREFLIGHT, "hardware", *STEP_PROBES)
REFERENCE = "reference"
"""Purpose of reference steps: the same short piece of work again and again, to see whether the machine has slowed."""
CROWDING = "crowding"
"""The same steps, alone and then in all slots at once, to see how much trials at once disturb each other."""
SEARCHING = ("baseline", "first", "reach", "race", "repeat")
CONFIRMING = ("confirm", "confirm_baseline")
TIMED = ("baseline", *CONFIRMING)
"""Trainings whose time is claimed: they run alone where others would disturb them."""
FAILURES = ("diverged", "oom", "crashed", "timeout")
"""Outcomes that say the configuration does not work here. `capped`, `stopped` and `interrupted` say only: cut."""
LOST = "lost"
"""Outcome of a trial whose worker or machine went away, through no fault of its own: it is run again."""


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


@dataclass(frozen=True)
class Target:
    """Metric value to reach, with its direction."""

    value: float
    direction: Direction = "max"
    metric: str = "accuracy"

    def __post_init__(self) -> None:
        known = "max" if self.metric in BOUNDED_METRICS else "min" if self.metric in FALLING_METRICS else self.direction
        if self.direction not in ("max", "min") or self.direction != known:
            raise UsageError(
                f"target: {self.metric} in direction {self.direction!r}", f"Use {known!r}: 'max' or 'min'."
            )
        if isinstance(self.value, bool) or not isinstance(self.value, int | float) or not _finite(self.value):
            raise UsageError(f"target {self.value!r}: not a finite number", "Give one number, e.g. --target 0.94.")
        if self.metric in BOUNDED_METRICS and not 0 < self.value <= 1:
            better = self.value / 100
            hint = f"Did you mean {better:g}?" if 1 < self.value <= 100 else "Give a ratio such as 0.93."
            raise UsageError(f"target {self.value:g}: {self.metric} is a ratio between 0 and 1", hint)
        if self.metric in FALLING_METRICS and self.value <= (1 if self.metric == "perplexity" else 0):
            raise UsageError(
                f"target {self.value:g}: no model reaches this {self.metric}", "Give a value the metric can take."
            )

    @classmethod
    def at_least(cls, value: float, metric: str = "accuracy") -> Target:
        """A metric that has to rise to `value`."""
        return cls(value, "max", metric)

    @classmethod
    def at_most(cls, value: float, metric: str = "loss") -> Target:
        """A metric that has to fall to `value`."""
        return cls(value, "min", metric)

    def reached(self, value: float) -> bool:
        """Whether an evaluation is a hit; a NaN never is."""
        return value >= self.value if self.direction == "max" else value <= self.value

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is the better of two metric values."""
        return a > b if self.direction == "max" else a < b

    def __str__(self) -> str:
        sign = ">=" if self.direction == "max" else "<="
        return f"{self.metric} {sign} {self.value:.6g}"


@dataclass(frozen=True)
class TrialSpec:
    """One thing to run: a training (config and target) or a probe (its arguments in `probe`)."""

    trial: int
    purpose: str
    config: TrainerConfig | None = None
    target: Target | None = None
    cap_s: float | None = None
    """Training seconds after which the trial is cut."""
    cap_flops: float | None = None
    """FLOPs after which the trial is cut, always before the step that would exceed them."""
    threads: int = 0
    """That the training is run with instead of the config's, as others disturb those (see `search.disturbance`); 0: the
    config's."""
    slower: float = 1.0
    """How many times longer it takes with them on a quiet machine; seconds are the clock's."""
    test: bool = False
    """Evaluate the test set at the end, off the clock."""
    note: str = ""
    """Why this trial, in words."""
    bet: dict[str, Any] = field(default_factory=dict)
    """What a search trial was expected to gain, against which best one: a running one is measured against it."""
    probe: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        data = {**asdict(self)}
        data["config"] = to_dict(self.config) if self.config else None
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrialSpec:
        values = dict(data)
        values["config"] = from_dict(data["config"]) if data.get("config") else None
        values["target"] = Target(**data["target"]) if data.get("target") else None
        return cls(**values)


@dataclass(frozen=True)
class Report:
    """One evaluation inside a trial."""

    trial: int
    elapsed_s: float
    """Training time so far: data waits and evaluations included, model construction excluded."""
    samples: int
    steps: int
    flops: float
    value: float
    """Validation metric."""
    loss: float
    """Mean training loss since the last report."""
    cpu_s: float | None = None
    """See `Ended.cpu_s`."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Ended:
    """How a trial ended.

    Outcomes: hit, missed (horizon reached without a hit), capped (time or FLOPs), stopped (asked to), diverged, oom,
    crashed, timeout (killed by the driver), interrupted (the driver went away), lost (its machine or worker went away,
    through no fault of its own), done (a probe), refused (input).
    """

    trial: int
    outcome: str
    elapsed_s: float = 0.0
    """Training time; for a hit, the time to the target."""
    setup_s: float = 0.0
    """Model construction and data transfer, off the clock."""
    samples: int = 0
    steps: int = 0
    flops: float = 0.0
    value: float | None = None
    """Last validation metric; None if there was no evaluation."""
    message: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    """What a probe measured; the test metric of a confirmation."""
    cpu_s: float | None = None
    """CPU seconds of the worker process during `elapsed_s`, all its threads together. Of one thread with its data in
    memory they are the time it trained without what other processes took from it; n threads have up to n times as
    many; processes of a loader or a compiler are not in them. None: another device computes, or it is not known (a
    training that failed or was killed, a simulation)."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class TrialRecord:
    """A trial that has ended: what was asked, what was seen, what it gave and cost."""

    spec: TrialSpec
    reports: tuple[Report, ...]
    ended: Ended
    wall_s: float = 0.0
    """Seconds of the budget between start and end, set-up included."""
    ended_at_s: float = 0.0
    """Second of the budget at which it ended; in a file, the ledger's entry says it."""
    slowdown: float = 1.0
    """How many times slower than at its best the machine was, by which times were divided (see `cost.drift`); as
    recorded: 1."""
    crowding: float = 1.0
    """How much longer it took beside other trials than alone (see `search.crowding`); seconds are the clock's."""

    @property
    def hit(self) -> bool:
        return self.ended.outcome == "hit"

    @property
    def is_attempt(self) -> bool:
        """A complete try at the target: it hit, or it ran its whole course and did not. A cut trial is neither."""
        return self.ended.outcome in ("hit", "missed", *FAILURES)

    def to_json(self) -> dict[str, Any]:
        return {
            "spec": self.spec.to_json(),
            "reports": [r.to_json() for r in self.reports],
            "ended": self.ended.to_json(),
            "wall_s": self.wall_s,
            "crowding": self.crowding,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrialRecord:
        reports = tuple(Report(**r) for r in data["reports"])
        crowding = data.get("crowding", 1.0)  # younger than the first ledgers
        return cls(
            TrialSpec.from_json(data["spec"]), reports, Ended(**data["ended"]), data["wall_s"], crowding=crowding
        )
