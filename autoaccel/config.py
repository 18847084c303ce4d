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
    KERNELS,
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
    seed: int = 0
    """Seed of weights, sampling order and dropout."""

    def __post_init__(self) -> None:
        ok = isinstance(self.seed, int) and not isinstance(self.seed, bool) and 0 <= self.seed < 2**63
        check(ok, "seed", self.seed, "a whole number from 0 to 2**63 - 1")
        found = [conflict for conflict in _CONFLICTS if conflict.holds(self)]
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


@dataclass(frozen=True)
class Conflict:
    """Settings that exclude each other."""

    holds: Callable[[TrainerConfig], bool]
    reason: str
    """Begins with a path and names all settings that take part."""
    hint: str


_CONFLICTS: tuple[Conflict, ...] = (
    Conflict(
        lambda c: c.data.order != "shuffled" and c.data.sampling != "uniform",
        "data.order easy_to_hard and data.sampling both decide which samples are drawn",
        "Set data.sampling to uniform, or data.order to shuffled.",
    ),
    Conflict(
        lambda c: c.loader.pin and not c.loader.workers,
        "loader.pin needs loader.workers: only they can copy into page-locked memory ahead of the training",
        "Set loader.workers to 1 or more, or loader.pin to false.",
    ),
    Conflict(
        lambda c: bool(c.loader.workers) and not c.data.known_ahead,
        "loader.workers: what this data.sampling or data.order draws next depends on losses, nobody can read it ahead",
        "Set loader.workers to 0.",
    ),
    Conflict(
        lambda c: bool(c.augment.mixup or c.augment.cutmix) and not c.data.known_ahead,
        "augment.mixup, augment.cutmix: data.sampling or data.order learns from the losses of single samples",
        "Set both to 0, or data.sampling to 'uniform'.",
    ),
    Conflict(
        lambda c: c.curriculum.resolution < 1 and c.curriculum.sequence < 1,
        "curriculum.resolution and curriculum.sequence: samples are images or sequences, not both",
        "Set one of them to 1.",
    ),
    Conflict(
        lambda c: bool(c.steps_vary and c.loader.workers and c.horizon.unit != "samples"),
        "loader.workers with batch.ramp or curriculum.batch 'larger' need a horizon in samples: else nobody knows "
        "ahead how large a step will be",
        "Set horizon.samples alone, or loader.workers to 0, or batch.ramp to 0 and curriculum.batch to 'same'.",
    ),
    Conflict(
        lambda c: c.optim.kernel not in ("auto", *KERNELS[c.optim.name]),
        "optim.kernel: this optim.name has no such kernel",
        "Set optim.kernel to 'auto'.",
    ),
    Conflict(
        lambda c: c.optim.state == "int8" and (c.optim.name, c.optim.kernel) != ("adamw", "auto"),
        "optim.state: 8-bit states are those of optim.name 'adamw' with optim.kernel 'auto'",
        "Set optim.state to 'fp32'.",
    ),
    Conflict(
        lambda c: c.optim.is_schedule_free and c.schedule.name != "constant",
        "schedule.name: a schedule-free optim.name averages instead of following a schedule",
        "Set schedule.name to 'constant'; schedule.warmup may stay.",
    ),
    Conflict(
        lambda c: c.optim.is_schedule_free and c.average.name != "none",
        "average.name: a schedule-free optim.name averages the weights itself",
        "Set average.name to 'none'.",
    ),
    Conflict(
        lambda c: c.schedule.name == "wsd" and c.schedule.warmup + c.schedule.cooldown > 1,
        "schedule.cooldown: with schedule.warmup it is longer than the whole horizon",
        "Make their sum at most 1.",
    ),
    Conflict(
        lambda c: c.schedule.name == "one_cycle" and c.optim.state == "int8",
        "schedule.name: 'one_cycle' moves the momentum, for which 8-bit optim.state would be compiled anew each step",
        "Set schedule.name to 'cosine', or optim.state to 'fp32'.",
    ),
    Conflict(
        lambda c: c.data.echo > 1 and not c.data.known_ahead,
        "data.echo uses a batch again, but data.sampling or data.order changes what is drawn by what was learned of it",
        "Set data.echo to 1, or data.sampling to uniform and data.order to shuffled.",
    ),
    Conflict(
        lambda c: c.data.echo > 1 and c.steps_vary,
        "data.echo repeats a batch in several steps, which batch.ramp or curriculum.batch makes of different sizes",
        "Set data.echo to 1, or batch.ramp to 0 and curriculum.batch to 'same'.",
    ),
    Conflict(
        lambda c: c.curriculum.batch == "larger" and c.curriculum.resolution == 1 == c.curriculum.sequence,
        "curriculum.batch 'larger' has nothing to follow: curriculum.resolution and curriculum.sequence are 1",
        "Set one of them below 1, or curriculum.batch to 'same'.",
    ),
    Conflict(
        lambda c: c.memory.budget < 1 and c.compile.mode == "off",
        "memory.budget is kept to by the compiler, and compile.mode is 'off'",
        "Set compile.mode, or memory.checkpointing instead.",
    ),
    Conflict(
        lambda c: c.memory.budget < 1 and c.memory.checkpointing != "none",
        "memory.budget and memory.checkpointing both decide what is computed again",
        "Use one of the two.",
    ),
    Conflict(
        lambda c: c.model.drop_path_ramp > 0 and c.model.drop_path <= 0,
        "model.drop_path_ramp has nothing to ramp: model.drop_path is not above 0",
        "Set model.drop_path, or leave the ramp out.",
    ),
    Conflict(
        lambda c: c.model.drop_path_ramp > 0 and c.compile.mode != "off",
        "model.drop_path_ramp changes the model at every step, and compile.mode would compile it as often",
        "Use one of the two.",
    ),
    Conflict(
        lambda c: c.model.lora_rank > 0 and c.model.init != "default",
        "model.lora_rank keeps the weights the model starts with, model.init changes them",
        "Use one of the two.",
    ),
    Conflict(
        lambda c: c.model.lora_rank > 0 and c.precision.dtype == "float8",
        "model.lora_rank and precision.dtype 'float8' replace the same layers",
        "Use one of the two.",
    ),
)
"""Every pair that excludes each other; what a task or a machine cannot use stands in `trainer.applicability`."""


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
