"""The effect of a setting on a step: blocks of steps with it and without, in turns.

Runs in a worker and returns plain rows; `cost.effects` reads them. Must not interpret what it measures.
"""

from __future__ import annotations

import math
import statistics
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from autoaccel.budget import Room
from autoaccel.config import Params, TrainerConfig, with_params
from autoaccel.tasks.load import describe
from autoaccel.trainer.allocator import keep_freed_memory
from autoaccel.trainer.build import build
from autoaccel.trainer.flops import recounted, step_flops
from autoaccel.trainer.follow import follow
from autoaccel.trainer.loop import follow_progress, optimizer_step
from autoaccel.trainer.parts import LoadedTask, Parts, Step
from autoaccel.trainer.prepare import step_size
from autoaccel.trainer.process import process_settings
from autoaccel.trainer.randomness import seeded
from autoaccel.trainer.run import is_out_of_memory
from autoaccel.trainer.team import END, MEASURE, STEP, Team, team_of
from autoaccel.trainer.timing import Stopwatch

Times = tuple[list[float], list[float]]
"""Seconds of a sample in each block, without the settings and with them."""
_FEW_BLOCKS_ERROR = 0.05
"""Standard error where there are too few blocks to tell."""
_POINTS_OF_FLOPS = 48
"""FLOPs are counted at so many places of the horizon: a multiple of the stages of all techniques."""
_LONG_S = 1.0
"""A first step that takes longer is taken again by a second model: what was compiled is kept."""


@dataclass(frozen=True)
class Blocks:
    """Which steps are compared."""

    sizes: list[int]
    """Batch sizes, in samples, in ascending order."""
    points: int
    """Steps of a block, spread over the horizon."""
    rounds: int = 5
    """Blocks of each side, at most."""
    enough_s: float = 0.6
    """No further block is begun after this time."""
    warm: int = 0
    """Steps before those of a block that count."""
    compiles: bool = False
    """Whether the first step of a training takes longer."""

    @property
    def n_steps(self) -> int:
        """Of one block, with the one that comes first of all."""
        return 1 + self.warm + self.points


def measure_effect(
    loaded: LoadedTask, config: TrainerConfig, params: Params, *, blocks: Blocks, room: Room
) -> dict[str, Any]:
    """Seconds of a sample without some settings and with them, averaged over the horizon.

    Args:
        loaded: the task.
        config: without them.
        params: the settings, by dotted path.
        blocks: the steps that are compared.
        room: what may be spent; a size that no longer fits is left out.

    Returns:
        {"sizes", "plain_s", "changed_s", "error": a number each; "setup_s"; "flops_ratio"; "flops": spent;
        "failed": why the settings cannot be used here, empty if they can}; as one of a team that does not lead, nothing
    """
    keep_freed_memory()
    watch, found = Stopwatch(loaded.device), _Found()
    team = team_of(with_params(config, params).parallel.n)
    if team.rank:
        _follow_effect(loaded, with_params(config, params), team)
        return asdict(found)
    for size in blocks.sizes:
        left = Room(room.seconds - watch.elapsed_s(), room.flops - found.flops)
        if not found.leaves_room(2 * blocks.n_steps * size, loaded.flops_per_sample, left):
            break
        is_plain, first_s = True, 0.0
        try:
            with ExitStack() as stack:
                base = _Side.built(loaded, _sized(config, size), found, stack)
                base.step(0.0)
                is_plain = False
                team.tell(MEASURE, size)
                other = _Side.built(loaded, _sized(with_params(config, params), size), found, stack)
                first_s = other.step(0.0)
                if blocks.compiles and first_s > _LONG_S:
                    other = _Side.built(loaded, other.parts.config, found, stack)
                    first_s = other.step(0.0)
                times = _in_turns((base, other), blocks, left)
                team.tell(END)
        except Exception as error:
            if team.n > 1 or (is_plain and not is_out_of_memory(error)):
                raise  # of a team, the others may wait for this one
            found.failed = "" if is_plain else describe(error)
            break
        found.add(size, times, first_s if blocks.compiles else 0.0)
        found.flops_ratio = other.flops_per_sample() / base.flops_per_sample()
    team.tell(END)
    return asdict(found)


def _follow_effect(loaded: LoadedTask, config: TrainerConfig, team: Team) -> None:
    """The others of a team: their part of the steps with the settings, for one size after the other."""
    while True:
        deed, how = team.told()
        if deed != MEASURE:
            return
        with ExitStack() as stack:
            other = _Side.built(loaded, _sized(config, int(how[0])), _Found(), stack)
            with process_settings(config):
                follow(loaded, other.parts)


@dataclass
class _Found:
    """What was measured so far."""

    sizes: list[int] = field(default_factory=list)
    plain_s: list[float] = field(default_factory=list)
    changed_s: list[float] = field(default_factory=list)
    error: list[float] = field(default_factory=list)
    setup_s: float = 0.0
    flops_ratio: float = 1.0
    flops: float = 0.0
    failed: str = ""

    def leaves_room(self, n_samples: int, flops_per_sample: float, left: Room) -> bool:
        """Whether a block of each side, so many samples in all, fits into what is left: no setting triples FLOPs."""
        sample_s = (self.plain_s[-1] + self.changed_s[-1]) / 2 if self.sizes else 0.0
        return left.seconds > n_samples * sample_s and left.flops > 3 * n_samples * flops_per_sample

    def add(self, size: int, times: Times, first_s: float) -> None:
        plain_s, changed_s = map(statistics.median, times)
        self.setup_s = max(self.setup_s, first_s - size * changed_s)
        self.sizes.append(size)
        self.plain_s.append(plain_s)
        self.changed_s.append(changed_s)
        self.error.append(_error(times))


@dataclass
class _Side:
    """A training that is run a step at a time, anywhere in its horizon."""

    loaded: LoadedTask
    parts: Parts
    found: _Found
    """Where its FLOPs are charged."""
    n_steps: int = 0
    position: int = 0

    @classmethod
    def built(cls, loaded: LoadedTask, config: TrainerConfig, found: _Found, stack: ExitStack) -> _Side:
        with seeded(0), process_settings(config):
            parts = build(loaded, config)
            for close in parts.closing:
                stack.callback(close)
            parts.model.train()
            return cls(recounted(loaded, config), parts, found)

    def step(self, done: float) -> float:
        """One optimizer step as at this share of the horizon, in seconds."""
        config = self.parts.config
        step = Step(self.n_steps, self.position, done, self.size_at(done))
        with process_settings(config):
            watch = Stopwatch(self.loaded.device)
            self.parts.spread.team.tell(STEP, step.number, step.position, step.done, step.size)
            follow_progress(self.parts, step)
            optimizer_step(self.loaded, self.parts, step)
            seconds = watch.elapsed_s()
        self.n_steps, self.position = self.n_steps + 1, self.position + step.size
        self.found.flops += step_flops(self.loaded, config, step)
        return seconds

    def block(self, points: int, warm: int) -> float:
        """Seconds of a sample, averaged over the horizon."""
        for _ in range(warm):
            self.step(0.0)
        places = [(i + 0.5) / points for i in range(points)]
        return statistics.fmean(self.step(done) / self.size_at(done) for done in places)

    def size_at(self, done: float) -> int:
        """Samples of a step at a share of the horizon."""
        return step_size(self.loaded, self.parts.config, done)

    def flops_per_sample(self) -> float:
        """FLOPs of a sample, averaged over the horizon; 1 if they cannot be counted."""
        total = 0.0
        for i in range(_POINTS_OF_FLOPS):
            done = (i + 0.5) / _POINTS_OF_FLOPS
            size = self.size_at(done)
            total += step_flops(self.loaded, self.parts.config, Step(i, i * size, done, size)) / size
        return total / _POINTS_OF_FLOPS or 1.0


def _in_turns(sides: tuple[_Side, _Side], blocks: Blocks, room: Room) -> Times:
    """Blocks of both, each first as often: what the machine does meanwhile reaches both."""
    times: Times = ([], [])
    found, before = sides[0].found, sides[0].found.flops
    watch = Stopwatch(sides[0].loaded.device)
    for n in range(blocks.rounds):
        for which in (0, 1) if n % 2 == 0 else (1, 0):
            times[which].append(sides[which].block(blocks.points, blocks.warm))
        spent_s, share = watch.elapsed_s(), (found.flops - before) / room.flops
        if spent_s > blocks.enough_s or max(spent_s / room.seconds, share) > (n + 1) / (n + 2):
            break
    return times


def _error(times: Times) -> float:
    """Standard error of the log of the ratio of the medians, from the ratios of neighbours."""
    ratios = [math.log(b / a) for a, b in zip(*times, strict=True)]
    if len(ratios) < 3:
        return _FEW_BLOCKS_ERROR
    return 1.25 * statistics.stdev(ratios) / math.sqrt(len(ratios))  # a median is that much less exact than a mean


def _sized(config: TrainerConfig, size: int) -> TrainerConfig:
    return with_params(config, {"batch.size": size, "batch.accumulation": 1, "batch.ramp": 0.0})
