"""Words for trials and times, shared by every view: plain text in, plain text out.

Must not know a terminal library.
"""

from __future__ import annotations

from typing import Any

from autoaccel.config import to_params
from autoaccel.trial import REFERENCE, TrialRecord, TrialSpec


def seconds(value: float | None) -> str:
    """A duration for people: '0.23s', '12.3s', '4m05s', '1h02m'; '-' for None."""
    if value is None:
        return "-"
    if value < 0.9995:
        return f"{value:.3f}s"
    if value < 9.995:
        return f"{value:.2f}s"
    if value < 59.95:
        return f"{value:.1f}s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def quantity(value: float, unit: str) -> str:
    """Three digits and a prefix: 80.6 GFLOP/s."""
    prefixes = ("", "k", "M", "G", "T", "P", "E")
    exponent = 0
    while value >= 999.5 and exponent < len(prefixes) - 1:
        value, exponent = value / 1000, exponent + 1
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {prefixes[exponent]}{unit}"


def duration(value_s: float) -> str:
    """Three digits: 8.55 ms."""
    for factor, unit in ((1e9, "ns"), (1e6, "us"), (1e3, "ms")):
        if value_s * factor < 999.5:
            return quantity(value_s * factor, unit)
    return quantity(value_s, "s")


def number(value: Any) -> str:
    """A setting for people: floats to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def plain(text: str) -> str:
    """Text without control characters: names come from files and must not drive a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def describe(spec: TrialSpec) -> str:
    """One line for a trial's settings."""
    if spec.config is None:
        words = {
            "preflight": "checking the task",
            "hardware": "measuring the hardware",
            REFERENCE: "looking whether the machine is as fast as before",
            "memory_peak": "measuring memory",
        }
        return words.get(spec.purpose, "measuring a training step")
    p = to_params(spec.config)
    accumulation = f"/{p['batch.accumulation']}" if p["batch.accumulation"] > 1 else ""
    return (
        f"{p['optim.name']} lr {p['optim.lr']:.2g} batch {p['batch.size']}{accumulation} {p['schedule.name']} "
        f"{p['precision.dtype']} horizon {p['horizon.samples']}"
    )


def line(record: TrialRecord) -> str:
    """One line for a finished trial."""
    value = "-" if record.ended.value is None else f"{record.ended.value:.4f}"
    took = seconds(record.ended.elapsed_s)
    return (
        f"trial {record.spec.trial:>4} {record.spec.purpose:<16} {record.ended.outcome:<11} {value:>7} {took:>7}  "
        f"{describe(record.spec)}"
    )
