"""TrainerConfig: one point of the search, everything the trainer reads, and the product's output.

Its fields are the sections of `sections`; a knob's dotted path is the field's place here (`optim.lr`). Reads and writes
the versioned config file. Must not know torch, the search or the task's data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from autoaccel.errors import UsageError, did_you_mean
from autoaccel.fingerprint import digest
from autoaccel.sections import (
    CONFLICTS,
    Augment,
    Average,
    Batch,
    Compile,
    Curriculum,
    Data,
    Evaluate,
    Horizon,
    Loader,
    Memory,
    Model,
    Optim,
    Parallel,
    Precision,
    Regularize,
    Schedule,
    System,
    check,
)

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")
VERSION = 1
Params = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Everything the trainer reads. Invalid values raise UsageError with the field's path."""

    batch: Batch = field(default_factory=Batch)
    precision: Precision = field(default_factory=Precision)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    data: Data = field(default_factory=Data)
    loader: Loader = field(default_factory=Loader)
    augment: Augment = field(default_factory=Augment)
    curriculum: Curriculum = field(default_factory=Curriculum)
    regularize: Regularize = field(default_factory=Regularize)
    average: Average = field(default_factory=Average)
    horizon: Horizon = field(default_factory=Horizon)
    evaluate: Evaluate = field(default_factory=Evaluate)
    memory: Memory = field(default_factory=Memory)
    model: Model = field(default_factory=Model)
    compile: Compile = field(default_factory=Compile)
    system: System = field(default_factory=System)
    parallel: Parallel = field(default_factory=Parallel)
    seed: int = 0
    """Seed of weights, sampling order and dropout."""

    def __post_init__(self) -> None:
        ok = isinstance(self.seed, int) and not isinstance(self.seed, bool) and 0 <= self.seed < 2**63
        check(ok, "seed", self.seed, "a whole number from 0 to 2**63 - 1")
        found = [conflict for conflict in CONFLICTS if conflict.holds(self)]
        if found:
            hints = " ".join(dict.fromkeys(conflict.hint for conflict in found))
            raise UsageError("\n  ".join(f"config.{conflict.reason}" for conflict in found), hints)

    @property
    def n_steps(self) -> int:
        """Optimizer steps in a horizon of samples or steps; at least one."""
        return self.horizon.steps or max(1, round(self.horizon.samples / self.batch.size))

    @property
    def steps_vary(self) -> bool:
        """Whether steps are of different sizes."""
        return self.batch.ramp > 0 or self.curriculum.batch == "larger"

    @cached_property
    def identity(self) -> str:
        """Digest of everything but the seed: two attempts at the same configuration share it.

        Settings at their defaults are left out, so that a setting that is added later does not change it.
        """
        defaults = to_params(TrainerConfig())
        given = {path: value for path, value in to_params(replace(self, seed=0)).items() if value != defaults[path]}
        # Whole numbers in float fields are the same point: they come back as floats from a file or a worker.
        return digest({p: float(v) if isinstance(defaults[p], float) else v for p, v in given.items()})


def keras_recipe(n_train: int, epochs: int = 15) -> TrainerConfig:
    """The recipe a task is compared with unless it names its own.

    Keras' documented starter for image classification: Adam at its default rate 1e-3, constant, batch 128, 15 epochs,
    one evaluation an epoch (keras.io, examples/vision/mnist_convnet).

    Args:
        n_train: size of the training set; the batch is no larger.
        epochs: passes over it.
    """
    return TrainerConfig(
        batch=Batch(size=min(128, n_train)),
        horizon=Horizon(samples=epochs * n_train),
        evaluate=Evaluate(every_samples=n_train),
    )


def to_dict(config: TrainerConfig) -> dict[str, Any]:
    """Plain nested dict, ready for JSON."""
    return asdict(config)


def from_dict(data: object, where: str = "config") -> TrainerConfig:
    """A config from nested plain values; unknown keys and wrong types are one UsageError that names every path."""
    return validated(TrainerConfig, data, lambda path: ".".join((where, *path)))


def validated(cls: type[T], data: object, where: Callable[[tuple[str, ...]], str]) -> T:
    """Plain JSON values as an instance of a dataclass, checked strictly (no text for a number, no unknown key).

    Args:
        cls: a dataclass, nested ones included.
        data: what was read.
        where: how a path of keys is named in messages.

    Raises:
        UsageError: all problems, one per line.
    """
    from pydantic import ValidationError

    try:
        adapter: TypeAdapter[T] = _adapter(cast(Any, cls))
        return adapter.validate_json(json.dumps(data), strict=True, extra="forbid")
    except (TypeError, ValueError, RecursionError) as error:
        if not isinstance(error, ValidationError):
            raise UsageError(
                f"{where(())}: not plain JSON values ({error})", "Use numbers, text and tables."
            ) from error
        found = [_problem(cls, e, where) for e in error.errors()]
    raise UsageError("\n  ".join(text for text, _ in found), " ".join(dict.fromkeys(hint for _, hint in found)))


def _problem(cls: type, error: Any, where: Callable[[tuple[str, ...]], str]) -> tuple[str, str]:
    """(message, hint) of one of pydantic's errors."""
    path = tuple(str(part) for part in error["loc"])
    if error["type"] == "unexpected_keyword_argument":
        section: Any = cls
        for name in path[:-1]:
            section = {f.name: f.default_factory for f in fields(section)}[name]
        return f"{where(path)}: unknown key {path[-1]!r}", did_you_mean(path[-1], [f.name for f in fields(section)])
    wanted = error["msg"].removeprefix("Input should be ")
    message = f"{where(path)}: expected {_WORDS.get(wanted, wanted)}, got {error['input']!r}"
    if error["type"] == "literal_error":
        return message, did_you_mean(str(error["input"]), re.findall(r"'([^']*)'", wanted))
    return message, "Change the value's type."


_WORDS = {
    "a valid number": "a number",
    "a valid integer": "a whole number",
    "a valid string": "text",
    "a valid boolean": "true or false",
    "an object": "a table of settings",
}
"""pydantic's words for types, as people write them."""


@cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def to_params(config: TrainerConfig) -> Params:
    """Flat view by dotted path: {'optim.lr': 0.001, ...}."""
    flat: Params = {}
    for name, value in to_dict(config).items():
        if isinstance(value, dict):
            flat.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            flat[name] = value
    return flat


def with_params(config: TrainerConfig, params: Params) -> TrainerConfig:
    """`config` with some dotted paths replaced. Unknown paths are UsageErrors."""
    nested = to_dict(config)
    known = to_params(config)
    for path, value in params.items():
        if path not in known:
            raise UsageError(f"unknown setting {path!r}", did_you_mean(path, known))
        section, _, name = path.partition(".")
        if name:
            nested[section][name] = value
        else:
            nested[section] = value
    return from_dict(nested)


def parse_params(texts: Sequence[str]) -> Params:
    """['optim.lr=0.01', ...] -> {'optim.lr': 0.01, ...}, typed and checked, together, like the fields they name."""
    known = to_params(TrainerConfig())
    found: Params = {}
    for text in texts:
        path, sign, raw = (part.strip() for part in text.partition("="))
        if not sign or not path or not raw:
            raise UsageError(f"--fix {text!r}: expected PATH=VALUE", "For example --fix optim.name=adamw.")
        if path not in known:
            raise UsageError(f"--fix {text!r}: unknown setting {path!r}", did_you_mean(path, known))
        found[path] = _literal(raw, known[path])
    checked = to_params(with_params(TrainerConfig(), found))
    return {path: checked[path] for path in found}


def _literal(raw: str, example: object) -> Any:
    """The text as a value of the example's type where it is one; else as it is, for the check to refuse."""
    if isinstance(example, bool):
        return {"true": True, "false": False}.get(raw, raw)
    if isinstance(example, str):
        return raw[1:-1] if len(raw) > 1 and raw[0] == raw[-1] and raw[0] in "'\"" else raw
    for kind in (int, float):
        try:
            return kind(raw)
        except ValueError:
            continue
    return raw


@dataclass(frozen=True)
class ConfigFile:
    """A config file: the config and what it was tuned for."""

    config: TrainerConfig
    task: str | None = None
    target: dict[str, Any] | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


def save_config(path: Path, document: ConfigFile) -> None:
    """Write the versioned, readable JSON file (atomically)."""
    body = {"format": "autoaccel.config", "version": VERSION, **asdict(document)}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(body, indent=2, allow_nan=False) + "\n")
    temporary.replace(path)


def read_config_file(path: str | Path) -> ConfigFile:
    """Read a file written by `save_config`; every problem is a UsageError that names the file and the key."""
    file = Path(path)
    try:
        body = json.loads(file.read_text())
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror})", "Give the path of a config.json.") from error
    except ValueError as error:
        raise UsageError(f"{file}: not valid JSON ({error})", "Restore the file or write it again.") from error
    if not isinstance(body, dict) or body.get("format") != "autoaccel.config":
        raise UsageError(
            f"{file}: not an autoaccel config file", "Give a best/config.json that `autoaccel tune` wrote."
        )
    if body.get("version") != VERSION:
        raise UsageError(
            f"{file}: format version {body.get('version')!r}, this autoaccel reads {VERSION}",
            "Use the autoaccel that wrote it, or tune again.",
        )
    config = from_dict(body.get("config"), f"{file}: config")
    return ConfigFile(config, body.get("task"), body.get("target"), body.get("evidence") or {})


def load_config(path: str | Path) -> TrainerConfig:
    """The TrainerConfig in a config file."""
    return read_config_file(path).config
