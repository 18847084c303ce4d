"""Reads search spaces from TOML; every mistake is a UsageError with file, knob and reason.

Must not know what the knobs do, beyond that their paths are fields of TrainerConfig.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from autoaccel.config import TrainerConfig, to_params, with_params
from autoaccel.errors import UsageError, did_you_mean
from autoaccel.sections import Batch
from autoaccel.space.knobs import Knob
from autoaccel.space.space import Recipe, Space

T = TypeVar("T")
_NUMBER = (int, float)
_FILE_KEYS: dict[str, Any] = {"knob": list, "recipe": list}
_KNOB_KEYS: dict[str, Any] = {
    "path": str,
    "choices": list,
    "low": _NUMBER,
    "high": _NUMBER,
    "log": bool,
    "unit": str,
    "when": dict,
    "prior": list,
}
_RECIPE_KEYS: dict[str, Any] = {"name": str, "source": str, "params": dict}
_TYPE_NAMES = {list: "a list", str: "text", _NUMBER: "a number", bool: "true or false", dict: "a table"}


def folder() -> Path:
    """Where the shipped spaces are: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent.parent
    beside = package.parent / "search_spaces"
    return beside if beside.is_dir() else package / "search_spaces"


def load_space(name: str) -> Space:
    """A shipped space by name, or any space by path to its TOML file."""
    path = Path(name) if name.endswith(".toml") else folder() / f"{name}.toml"
    if not path.is_file():
        shipped = sorted(p.stem for p in folder().glob("*.toml"))
        raise UsageError(f"unknown search space {name!r}", f"{did_you_mean(name, shipped)} Or give a .toml file.")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"space {path.name}: {error}", "Fix the TOML syntax.") from error
    return _located(f"space {path.name}", lambda: _space(path.stem, document))


def _space(name: str, document: dict[str, Any]) -> Space:
    _check_keys(document, _FILE_KEYS)
    knobs = tuple(_knob(entry) for entry in document.get("knob", []))
    recipes = tuple(_recipe(entry) for entry in document.get("recipe", []))
    if not knobs:
        raise UsageError("no [[knob]]", "A space needs at least one knob.")
    names = [k.name for k in knobs]
    for index, knob in enumerate(knobs):
        if names.count(knob.name) > 1:
            raise UsageError(f"knob {knob.name!r} twice", "Keep one, or give each its own `when`.")
        _check_condition(knob, knobs[:index])
    return Space(name, knobs, recipes)


def _knob(entry: Any) -> Knob:
    path = entry.get("path") if isinstance(entry, dict) else None
    known = to_params(TrainerConfig())
    if not isinstance(path, str) or path not in known:
        raise UsageError(f"knob {path!r}: unknown setting", did_you_mean(str(path), known))
    return _located(f"knob {path!r}", lambda: _checked_knob(entry, known[path]))


def _checked_knob(entry: dict[str, Any], default: Any) -> Knob:
    _check_keys(entry, _KNOB_KEYS)
    path, choices, unit = entry["path"], entry.get("choices"), entry.get("unit", "")
    if {"choices", "low", "high"} & entry.keys() not in ({"choices"}, {"low", "high"}) or choices == []:
        raise UsageError("needs either choices, or low and high", "Give one of the two.")
    if unit and (unit != "epochs" or choices or not path.endswith("samples")):
        raise UsageError(f"unit {unit!r}", "Only a range of samples may have a unit, 'epochs'.")
    roomy = TrainerConfig(batch=Batch(size=2**30))  # any accumulation fits
    when = {path: tuple(v) if isinstance(v, list) else v for path, v in entry.get("when", {}).items()}
    known = to_params(roomy)
    there = {p: v[0] if isinstance(v, tuple) else v for p, v in when.items() if p in known and v not in ((), known[p])}
    for value in choices or ((entry["low"], entry["high"]) if not unit else ()):
        with_params(roomy, {**there, path: value})
    return Knob(
        path=path,
        choices=tuple(choices or ()),
        low=entry.get("low", 0.0),
        high=entry.get("high", 0.0),
        log=entry.get("log", False),
        integer=isinstance(default, int),
        unit=unit,
        when=when,
        prior=tuple(_number("prior", value) for value in entry.get("prior", ())),
    )


def _number(key: str, value: Any) -> float:
    if not isinstance(value, _NUMBER) or isinstance(value, bool):
        raise UsageError(f"{key} {value!r} is not a number", "Change the value's type.")
    return value


def _check_condition(knob: Knob, before: tuple[Knob, ...]) -> None:
    """A condition names choices of a knob that stands above: points are filled in that order."""
    for path in knob.when:
        allowed = list(dict.fromkeys(choice for k in before if k.path == path for choice in k.choices))
        if not knob.wanted(path):
            raise UsageError(f"knob {knob.path!r}: no value of {path!r} in its condition", "Name at least one.")
        for value in knob.wanted(path):
            if value not in allowed:
                hint = f"It has {allowed}." if allowed else f"Put a knob {path!r} with choices above it."
                raise UsageError(f"knob {knob.path!r}: needs {path!r} to be {value!r}, which it never is", hint)


def _recipe(entry: Any) -> Recipe:
    name = entry.get("name") if isinstance(entry, dict) else None
    return _located(f"recipe {name!r}", lambda: _checked_recipe(entry))


def _checked_recipe(entry: dict[str, Any]) -> Recipe:
    _check_keys(entry, _RECIPE_KEYS)
    missing = [key for key in _RECIPE_KEYS if key not in entry]
    if missing:
        raise UsageError(f"missing {', '.join(missing)}", "Add them.")
    with_params(TrainerConfig(), entry["params"])
    return Recipe(entry["name"], entry["source"], entry["params"])


def _check_keys(entry: Any, known: dict[str, Any]) -> None:
    """Refuse unknown keys and values of another type."""
    if not isinstance(entry, dict):
        raise UsageError(f"{entry!r} is not a table", "Write [[knob]] and [[recipe]].")
    for key, value in entry.items():
        if key not in known:
            raise UsageError(f"unknown key {key!r}", did_you_mean(key, known))
        kind = known[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise UsageError(f"{key} {value!r} is not {_TYPE_NAMES[kind]}", "Change the value's type.")


def _located(where: str, read: Callable[[], T]) -> T:
    """What `read` gives; its UsageErrors say where they come from."""
    try:
        return read()
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", error.hint) from error
