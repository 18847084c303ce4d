"""What values of settings are checked with. Must not know which settings there are."""

from __future__ import annotations

from autoaccel.errors import UsageError


def check(ok: bool, path: str, value: object, allowed: str) -> None:
    """Refuse a value that a setting cannot have."""
    if not ok:
        raise UsageError(f"config.{path}: {value!r} is not {allowed}", f"Set {path} to {allowed}.")


def one_of(names: tuple[str, ...], path: str, value: object) -> None:
    """Refuse a value that is none of these names."""
    check(value in names, path, value, ", ".join(map(repr, names[:-1])) + f" or {names[-1]!r}")


def positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
