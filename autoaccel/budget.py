"""Budget: what the whole tuning may spend, its grammar, and what is left of it.

Spending is a fold over what was started and what it gave, never a counter. Knows nothing of clocks or processes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from autoaccel.errors import UsageError

FORMS = "90m, 2h, 1h30m, 02:30:00, 1e18FLOPs, 2.5PFLOP, 16 device-hours, 50 trials, or two joined by 'or'"

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_WORDS = {
    **dict.fromkeys(("d", "day", "days"), "d"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), "h"),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), "m"),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
}
_SCALE = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21}
_NUMBER = r"(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)"
_PART = re.compile(_NUMBER + r"\s*([A-Za-z]+)\s*")
_FLOPS = re.compile(_NUMBER + r"\s*([kKMGTPEZ]?)FLOP[sS]?", re.IGNORECASE)
_DEVICE_HOURS = re.compile(_NUMBER + r"\s*(?:device|gpu|cpu)-?\s*(h|hours?|s|seconds?)", re.IGNORECASE)
_TRIALS = re.compile(r"(\d+)\s*trials?", re.IGNORECASE)
_CLOCK = re.compile(r"(?:(\d+)[-:])?(\d{1,2}):(\d{2}):(\d{2})")


@dataclass(frozen=True)
class Spent:
    """An amount of each kind that a budget can limit."""

    seconds: float = 0.0
    flops: float = 0.0
    device_seconds: float = 0.0
    trials: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.seconds + other.seconds,
            self.flops + other.flops,
            self.device_seconds + other.device_seconds,
            self.trials + other.trials,
        )


@dataclass(frozen=True)
class Room:
    """What a measurement may spend."""

    seconds: float
    flops: float


@dataclass(frozen=True)
class Budget:
    """Limits on the tuning; the first one reached ends it. None is no limit."""

    seconds: float | None = None
    flops: float | None = None
    device_seconds: float | None = None
    trials: int | None = None

    def __post_init__(self) -> None:
        limits = [getattr(self, f.name) for f in fields(self)]
        if all(limit is None for limit in limits):
            raise UsageError("budget without a limit", f"Accepted forms: {FORMS}.")
        for limit in limits:
            if limit is not None and not 0 < limit < math.inf:
                raise UsageError(f"budget {limit!r}: must be above zero and finite", f"Accepted forms: {FORMS}.")
        if self.trials is not None and not isinstance(self.trials, int):
            raise UsageError(f"budget of {self.trials!r} trials: not a whole number", f"Accepted forms: {FORMS}.")

    def share(self, spent: Spent) -> float:
        """The largest share of any limit that `spent` uses up; above 1 is over the budget."""
        pairs: list[tuple[float, float | None]] = [
            (getattr(spent, f.name), getattr(self, f.name)) for f in fields(self)
        ]
        return max(amount / limit for amount, limit in pairs if limit is not None)

    def seconds_left(self, spent: Spent, n_devices: int = 1) -> float:
        """Wall-clock seconds until a time limit is reached; infinite without one."""
        left = math.inf if self.seconds is None else self.seconds - spent.seconds
        if self.device_seconds is not None:
            left = min(left, (self.device_seconds - spent.device_seconds) / n_devices)
        return left

    def flops_left(self, spent: Spent) -> float:
        """FLOPs until that limit is reached; infinite without one."""
        return math.inf if self.flops is None else self.flops - spent.flops

    def __str__(self) -> str:
        return " or ".join(_format(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name))


def parse_budget(value: str | float | timedelta | Budget) -> Budget:
    """A budget from its text form, seconds, or a timedelta. Raises UsageError with the accepted forms."""
    if isinstance(value, Budget):
        return value
    if isinstance(value, timedelta):
        return Budget(seconds=value.total_seconds())
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return Budget(seconds=float(value))
        except OverflowError as error:
            raise UsageError("budget: too large a number of seconds", f"Accepted forms: {FORMS}.") from error
    if not isinstance(value, str):
        raise UsageError(f"budget {value!r}: not a budget", f"Accepted forms: {FORMS}.")
    found: dict[str, float] = {}
    for part in re.split(r"\s+or\s+", value.strip()):
        kind, amount = _parse_part(part, value)
        if kind in found:
            raise UsageError(f"budget {value!r}: two limits of the same kind", "Keep the smaller one.")
        found[kind] = amount
    trials = int(found["trials"]) if "trials" in found else None
    return Budget(found.get("seconds"), found.get("flops"), found.get("device_seconds"), trials)


def extended(budget: Budget, text: str) -> Budget:
    """A budget with more of what it limits: '60s' and '+2h' give '2h1m'. UsageError for anything else."""
    forms = "Give what is to be added, e.g. --budget +2h."
    if not text.strip().startswith("+"):
        raise UsageError(f"budget {text!r}: does not begin with '+'", forms)
    more = parse_budget(text.strip()[1:].strip())
    sums: dict[str, Any] = {}
    for limit in fields(Budget):
        now, added = getattr(budget, limit.name), getattr(more, limit.name)
        if added is not None and now is None:
            raise UsageError(f"budget {text!r}: the run's budget is {budget}, another kind", "Extend what it has.")
        sums[limit.name] = now if added is None else now + added
    return Budget(**sums)


def portion(budget: Budget, share: float, least: Spent) -> Budget:
    """A share of a budget: of each of its limits, but at least `least` where the limit itself is no smaller."""
    found: dict[str, Any] = {}
    for limit in fields(Budget):
        whole, wanted = getattr(budget, limit.name), getattr(least, limit.name)
        if whole is not None:
            found[limit.name] = min(whole, max(math.ceil(share * whole), wanted))
    return Budget(**found)


def _parse_part(part: str, whole: str) -> tuple[str, float]:
    reason = _refusal(part)
    if reason:
        raise UsageError(f"budget {whole!r}: {reason}", f"Accepted forms: {FORMS}.")
    if match := _FLOPS.fullmatch(part):
        return "flops", _amount(float(match[1]) * _SCALE[match[2].lower()], whole)
    if match := _DEVICE_HOURS.fullmatch(part):
        scale = 3600.0 if match[2].lower().startswith("h") else 1.0
        return "device_seconds", _amount(float(match[1]) * scale, whole)
    if match := _TRIALS.fullmatch(part):
        return "trials", _amount(float(match[1]), whole)
    if match := _CLOCK.fullmatch(part):
        days, hours, minutes, seconds = (float(g or 0) for g in match.groups())
        if minutes >= 60 or seconds >= 60:
            raise UsageError(f"budget {whole!r}: minutes and seconds go up to 59", f"Accepted forms: {FORMS}.")
        return "seconds", _amount(days * 86400 + hours * 3600 + minutes * 60 + seconds, whole)
    return "seconds", _amount(_duration(part, whole), whole)


def _refusal(part: str) -> str:
    """Why a text that looks like a budget is not accepted; '' if there is no special reason."""
    if not part:
        return "empty"
    if not part.isascii():
        return "only ASCII digits and letters are read"
    if part.startswith("-"):
        return "a budget cannot be negative"
    if re.match(r"[+]\s*[\d.]", part):
        return "'+' extends a run: use it with --resume"
    if re.fullmatch(r"[+]?(nan|inf|infinity)", part, re.IGNORECASE):
        return "must be a finite amount"
    if re.fullmatch(_NUMBER, part):
        return f"no unit; did you mean {part}s or {part}m?"
    if match := re.fullmatch(r"(\d+):(\d+)", part):
        return f"ambiguous; did you mean {match[1]}h{match[2]}m or {match[1]}m{match[2]}s?"
    if re.search(r"/\s*s|per\s+s|FLOPS?/", part, re.IGNORECASE):
        return "this is a rate; a budget is an amount (FLOPs means operations, not operations per second)"
    if re.search(r"[\d.]\s*M(?![A-Za-z])", part) and "FLOP" not in part.upper():
        return "'M' is ambiguous; write m for minutes"
    return ""


def _duration(part: str, whole: str) -> float:
    total, seen, at = 0.0, "", 0
    order = "dhms"
    while at < len(part):
        match = _PART.match(part, at)
        unit = _WORDS.get(match[2].lower()) if match else None
        if match is None or unit is None:
            raise UsageError(f"budget {whole!r}: not understood at {part[at:]!r}", f"Accepted forms: {FORMS}.")
        if seen and order.index(unit) <= order.index(seen[-1]):
            raise UsageError(
                f"budget {whole!r}: unit '{unit}' repeated or out of order", "Write each unit once, largest first."
            )
        total, seen, at = total + float(match[1]) * _SECONDS[unit], seen + unit, match.end()
    return total


def _amount(value: float, whole: str) -> float:
    if not 0 < value < math.inf:
        raise UsageError(f"budget {whole!r}: must be above zero and finite", f"Accepted forms: {FORMS}.")
    return value


def format_duration(seconds: float) -> str:
    """A duration that `parse_budget` reads back exactly: 5400 -> '1h30m'."""
    whole = int(seconds)
    if whole != seconds or whole == 0 or whole > 10**9:
        return f"{seconds!r}s"
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    pairs = ((days, "d"), (hours, "h"), (minutes, "m"), (secs, "s"))
    return "".join(f"{n}{unit}" for n, unit in pairs if n)


def _format(kind: str, amount: float) -> str:
    if kind == "seconds":
        return format_duration(amount)
    if kind == "flops":
        short = f"{amount:g}"
        return f"{short if float(short) == amount else repr(amount)}FLOPs"
    if kind == "device_seconds":
        hours = amount / 3600
        return f"{hours!r} device-hours" if hours * 3600 == amount else f"{amount!r} device-seconds"
    return f"{int(amount)} trials"
