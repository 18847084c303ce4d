"""TrainerConfig: one point of the search, everything the trainer reads, and the product's output.

Frozen nested sections; a knob's dotted path is the field's place here (`optim.lr`). Reads and writes the versioned
config file. Must not know torch, the search or the task's data; every field here has an effect in the trainer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from autoaccel.errors import UsageError, did_you_mean
from autoaccel.fingerprint import digest

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")
VERSION = 1
Params = dict[str, Any]


def _check(ok: bool, path: str, value: object, allowed: str) -> None:
    if not ok:
        raise UsageError(f"config.{path}: {value!r} is not {allowed}", f"Set {path} to {allowed}.")


def _positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


@dataclass(frozen=True, kw_only=True)
class Batch:
    """How many samples make one optimizer step, and in how many pieces their gradient is computed."""

    size: int = 128
    """Effective batch: samples per optimizer step."""
    accumulation: int = 1
    """Micro-batches per step, of equal size up to one sample. The gradient is exact."""

    def __post_init__(self) -> None:
        _check(_positive_int(self.size), "batch.size", self.size, "a whole number >= 1")
        ok = _positive_int(self.accumulation) and self.accumulation <= self.size
        _check(ok, "batch.accumulation", self.accumulation, f"a whole number from 1 to batch.size ({self.size})")

    @property
    def micro(self) -> int:
        """Samples in the largest micro-batch."""
        return math.ceil(self.size / self.accumulation)


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Arithmetic of forward and backward; weights and optimizer state stay fp32."""

    dtype: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs forward and backward under autocast."""

    def __post_init__(self) -> None:
        _check(self.dtype in ("fp32", "bf16"), "precision.dtype", self.dtype, "'fp32' or 'bf16'")


@dataclass(frozen=True, kw_only=True)
class Optim:
    """The optimizer and its constants."""

    name: Literal["adamw", "sgd"] = "adamw"
    """adamw: decoupled weight decay (arXiv 1711.05101); sgd: with Nesterov momentum."""
    lr: float = 1e-3
    """Peak learning rate, reached after the warm-up."""
    weight_decay: float = 0.0
    """Decay of the weights per step, times the learning rate; biases and norms are exempt."""
    momentum: float = 0.9
    """Nesterov momentum of sgd; first beta of adamw."""

    def __post_init__(self) -> None:
        _check(self.name in ("adamw", "sgd"), "optim.name", self.name, "'adamw' or 'sgd'")
        _check(0 < self.lr < math.inf, "optim.lr", self.lr, "a finite number > 0")
        _check(0 <= self.weight_decay < math.inf, "optim.weight_decay", self.weight_decay, "a finite number >= 0")
        _check(0 < self.momentum < 1, "optim.momentum", self.momentum, "between 0 and 1, exclusive")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate as a function of progress through the horizon."""

    name: Literal["linear", "cosine", "constant"] = "constant"
    """linear and cosine end at zero at the horizon (arXiv 1905.04753)."""
    warmup: float = 0.0
    """Share of the horizon over which the learning rate rises linearly from zero."""

    def __post_init__(self) -> None:
        names = ("linear", "cosine", "constant")
        _check(self.name in names, "schedule.name", self.name, "'linear', 'cosine' or 'constant'")
        _check(0 <= self.warmup <= 0.9, "schedule.warmup", self.warmup, "between 0 and 0.9")


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which samples a batch is made of."""

    sampling: Literal["uniform", "class_balanced"] = "uniform"
    """uniform: every sample once per epoch; class_balanced: every class equally often, with replacement."""

    def __post_init__(self) -> None:
        names = ("uniform", "class_balanced")
        _check(self.sampling in names, "data.sampling", self.sampling, "'uniform' or 'class_balanced'")


@dataclass(frozen=True, kw_only=True)
class Regularize:
    """What keeps the model from fitting noise."""

    label_smoothing: float = 0.0
    """Share of the target mass spread over all classes; needs the cross-entropy loss."""

    def __post_init__(self) -> None:
        ok = 0 <= self.label_smoothing < 1
        _check(ok, "regularize.label_smoothing", self.label_smoothing, "between 0 and 1, 1 excluded")


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """The length the schedules are annealed to, and at which training ends."""

    samples: int = 1_000_000
    """Training samples, repeats counted (epochs x size of the training set)."""

    def __post_init__(self) -> None:
        _check(_positive_int(self.samples), "horizon.samples", self.samples, "a whole number >= 1")


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """When the validation metric is looked at; each look is on the clock."""

    every_samples: int = 50_000
    """Training samples between evaluations; the end of the horizon is always evaluated."""

    def __post_init__(self) -> None:
        ok = _positive_int(self.every_samples)
        _check(ok, "evaluate.every_samples", self.every_samples, "a whole number >= 1")


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Everything the trainer reads. Invalid values raise UsageError with the field's path."""

    batch: Batch = field(default_factory=Batch)
    precision: Precision = field(default_factory=Precision)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    data: Data = field(default_factory=Data)
    regularize: Regularize = field(default_factory=Regularize)
    horizon: Horizon = field(default_factory=Horizon)
    evaluate: Evaluate = field(default_factory=Evaluate)
    seed: int = 0
    """Seed of weights, sampling order and dropout."""

    def __post_init__(self) -> None:
        ok = isinstance(self.seed, int) and not isinstance(self.seed, bool) and 0 <= self.seed < 2**63
        _check(ok, "seed", self.seed, "a whole number from 0 to 2**63 - 1")

    @property
    def n_steps(self) -> int:
        """Optimizer steps in the horizon; at least one."""
        return max(1, round(self.horizon.samples / self.batch.size))

    @cached_property
    def identity(self) -> str:
        """Digest of everything but the seed: two attempts at the same configuration share it."""
        # Whole numbers in float fields are the same point: they come back as floats from a file or a worker.
        floats = {path for path, default in to_params(TrainerConfig()).items() if isinstance(default, float)}
        return digest({p: float(v) if p in floats else v for p, v in to_params(replace(self, seed=0)).items()})


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
