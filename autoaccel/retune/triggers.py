"""Whether a machine is another one than a run was tuned for: hard (what it is), or soft (what runs on it).

Pure: machines in, differences out. Must not know runs, nor what is done about a change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from autoaccel.hardware.machine import Machine

Level = Literal["none", "soft", "hard"]

HARD = ("accelerators", "cpu_model", "isa", "usable_cores")
SOFT = ("torch", "driver")
_MEMORY_TOLERANCE = 0.1
"""What a system says of its memory changes a little with every kernel."""


@dataclass(frozen=True)
class Difference:
    """One fact that is another one than before."""

    name: str
    before: str
    now: str
    hard: bool

    def __str__(self) -> str:
        return f"{self.name}: {self.before or 'none'} -> {self.now or 'none'}"


@dataclass(frozen=True)
class Change:
    """All that is different between two machines."""

    differences: tuple[Difference, ...] = ()

    @property
    def level(self) -> Level:
        """hard: times measured before say nothing here. soft: they may still hold, which can be tried."""
        if not self.differences:
            return "none"
        return "hard" if any(d.hard for d in self.differences) else "soft"

    def to_json(self) -> dict[str, Any]:
        return {"level": self.level, "differences": [asdict(d) for d in self.differences]}

    def __str__(self) -> str:
        return "; ".join(map(str, self.differences)) or "nothing has changed"


def change_between(before: Machine, now: Machine) -> Change:
    """What is different; a soft fact that was not known before is no difference."""
    found = [_difference(name, before, now, hard=True) for name in HARD]
    if abs(now.memory_bytes - before.memory_bytes) > _MEMORY_TOLERANCE * before.memory_bytes:
        found.append(Difference("memory", f"{before.memory_gib} GiB", f"{now.memory_gib} GiB", hard=True))
    found += [_difference(name, before, now, hard=False) for name in SOFT if getattr(before, name)]
    return Change(tuple(d for d in found if d is not None))


def nearest(known: Sequence[Machine], now: Machine) -> tuple[int, Change]:
    """The machine that is least different from this one, by its place; the last of equals.

    Raises:
        ValueError: no machine is known.
    """
    changes = [change_between(machine, now) for machine in known]
    order = {"none": 0, "soft": 1, "hard": 2}
    best = min(range(len(changes)), key=lambda n: (order[changes[n].level], len(changes[n].differences), -n))
    return best, changes[best]


def _difference(name: str, before: Machine, now: Machine, *, hard: bool) -> Difference | None:
    old, new = (_text(getattr(machine, name)) for machine in (before, now))
    return Difference(name, old, new, hard) if old != new else None


def _text(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
