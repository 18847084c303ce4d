"""Tasks that are made from data alone: which there are, their options, and their text form.

The text crosses every line that a reference crosses (job.json, config.json, the worker's pipe), and can be typed:
`timm:resnet18?data=photos&image_size=64`. Loads no torch. Must not know how a task is made.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from autoaccel.config import validated
from autoaccel.errors import UsageError, did_you_mean
from autoaccel.tasks.images import TIMM, Images
from autoaccel.tasks.tables import Table
from autoaccel.tasks.text import Text

Description = Images | Text | Table
Kind = type[Images] | type[Text] | type[Table]
KINDS: dict[str, Kind] = {f"{TIMM}NAME": Images, "char-transformer": Text, "mlp": Table}
"""What --model may be; the fields of a description are the options that go with it."""
OPTIONS = tuple(dict.fromkeys(f.name for kind in KINDS.values() for f in fields(kind)))
"""The options of all of them, as autoaccel.toml and the text form spell them."""
_MODEL_OF = {"data": f"{TIMM}NAME", "text": "char-transformer", "table": "mlp"}
_NUMBERS = ("image_size", "context")
_FLAGS = {"true": True, "false": False}


def chosen_task(file: dict[str, Any], given: dict[str, Any]) -> str | None:
    """The reference of the task that autoaccel.toml and the command line ask for; None if neither does.

    The command line wins: a task there replaces that of the file, a model there keeps of the file what it takes.

    Args:
        file, given: settings, among them `task` and those of `OPTIONS`; None counts as not given.

    Raises:
        UsageError: both a task and a model, an option without its model, or a wrong value.
    """
    here, there = _picked(given), _picked(file)
    for settings, options in ((given, here), (file, there)):
        if settings.get("task") and options:
            raise UsageError(
                f"both the task {settings['task']!r} and {_flags(options)}",
                "Give one of them: a task has its own model and data, --model makes a task from data.",
            )
    if given.get("task"):
        return str(given["task"])
    if "model" in here:
        there = {key: value for key, value in there.items() if key in _names(_kind(here["model"]))}
    if not here and not there:
        return file.get("task")
    return reference(described(there | here))


def described(options: dict[str, Any]) -> Description:
    """The description that these options give.

    Raises:
        UsageError: one is missing, does not go with the model, or has a wrong value.
    """
    if "model" not in options:
        wanted = next((_MODEL_OF[key] for key in options if key in _MODEL_OF), ", ".join(KINDS))
        raise UsageError(f"{_flags(options)} without --model", f"Add --model: {wanted}.")
    model = options["model"]
    kind = _kind(model)
    known = _names(kind)
    stray = [key for key in options if key not in known]
    if stray:
        raise UsageError(f"{_flags(stray)}: not an option of --model {model}", f"It takes {_flags(known[1:])}.")
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in options]
    if missing:
        raise UsageError(f"--model {model} without {_flags(missing)}", "Say what to train it on.")
    return validated(kind, {key: _plain(value) for key, value in options.items()}, lambda path: _flags(path))


def reference(description: Description) -> str:
    """Its text form; the paths are absolute, so that it is the same task from any folder."""
    values = {name: value for name, value in asdict(absolute(description)).items() if name != "model"}
    default = {f.name: f.default for f in fields(description)}
    said = {name: _plain(value) for name, value in values.items() if value != default[name]}
    text = {name: str(value).lower() if isinstance(value, bool) else value for name, value in said.items()}
    return f"{description.model}?{urlencode(text, safe='/')}"


def parsed(text: str) -> Description | None:
    """The description that a reference holds; None if it is a reference of another form.

    Raises:
        UsageError: see `described`.
    """
    model, _, query = text.partition("?")
    if model not in KINDS and not model.startswith(TIMM):
        return None
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = next((key for key in options if key not in OPTIONS), None)
    if unknown is not None:
        raise UsageError(f"task {text!r}: unknown option {unknown!r}", did_you_mean(unknown, OPTIONS[1:]))
    return described({"model": model} | {key: _read(key, value) for key, value in options.items()})


def absolute(description: Description) -> Description:
    """The same description from any folder."""
    values = asdict(description)
    paths: dict[str, Any] = {name: value.resolve() for name, value in values.items() if isinstance(value, Path)}
    return replace(description, **paths)


def _read(key: str, value: str) -> Any:
    """An option's value from text; text that means none is left for the check of types to refuse."""
    if key in _NUMBERS and value.isascii() and value.isdigit():
        return int(value)
    return _FLAGS.get(value, value) if key == "pretrained" else value


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _kind(model: str) -> Kind:
    if model.startswith(TIMM) and model not in (TIMM, f"{TIMM}NAME"):
        return Images
    if model not in KINDS or model == f"{TIMM}NAME":
        raise UsageError(f"--model {model}: unknown", f"{did_you_mean(model, KINDS)} For example timm:resnet18.")
    return KINDS[model]


def _names(kind: Kind) -> list[str]:
    return [f.name for f in fields(kind)]


def _picked(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: settings[key] for key in OPTIONS if settings.get(key) is not None}


def _flags(names: Iterable[str]) -> str:
    """Options as the command line spells them: `--image-size, --metric`."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)
