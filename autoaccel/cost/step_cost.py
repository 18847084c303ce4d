"""StepCost: seconds, FLOPs and peak bytes of a whole training, predicted from measured pieces of a step.

    step = accumulation x (forward and backward of a micro-batch) x what multiplies them + adding gradients to those of
           the micro-batches before + update + what adds to a step
    training = steps + evaluations + what a first step takes beyond the others

Interpolates between the measured micro-batch sizes; effects of settings are in `effects`. Must not run anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

from autoaccel.config import TrainerConfig
from autoaccel.cost.effects import KINDS, SHARES, Effect, Effects, effect_of, kind_of
from autoaccel.cost.memory import PeakMemory, micro_of, settings_of

_OPTIMIZER = ("optim.name", "optim.kernel", "optim.state")
_BATCH = ("batch.size", "batch.accumulation", "batch.ramp")
READS = (*_BATCH, "precision.dtype", *_OPTIMIZER, *KINDS, *SHARES)
"""Paths of a config that its predicted cost depends on, besides the horizon and the cadence of evaluations."""
_read = attrgetter(*READS)
_RAMP = ((0.5, 4), (0.5, 2))
"""Shares of batch.ramp, and by what the batch is divided in them."""
_PIECES_ERROR, _UNKNOWN_ERROR = 0.06, 0.25
"""Standard errors, in logs: of a step of measured pieces on a machine that is shared, and of an effect that is believed
from the literature."""
_Z = 1.645
"""Half the width of a 90 % interval, in standard errors."""

Params = Mapping[str, Any]

KNEE = 0.98
"""Share of the most samples per second from which on a micro-batch is as good as any."""


@dataclass(frozen=True)
class Prediction:
    """What a training to the end of its horizon costs."""

    seconds: float
    flops: float
    step_s: float
    """One optimizer step of the full batch, averaged over the horizon."""
    error: float
    """Standard error of the log of the seconds."""
    peak_bytes: float | None = None
    """The most memory it takes, beyond what its process takes anyway; None where that is not known."""

    @property
    def interval(self) -> tuple[float, float]:
        """Seconds between which nine of ten trainings are expected to end."""
        factor = math.exp(_Z * self.error)
        return self.seconds / factor, self.seconds * factor


@dataclass(frozen=True)
class StepCost:
    """Measured seconds of the pieces of a step.

    `micro`: per precision, (samples, seconds) pairs in ascending order; `optimizer`: seconds of one update by its
    `optimizer_form`; `evaluation`: seconds of one pass over the validation set by precision; `effects`: of other
    settings, by their `key_of`; `accumulation_s`: what a micro-batch after the first of a step takes more, for its
    gradients are added to others.
    """

    micro: dict[str, tuple[tuple[int, float], ...]]
    optimizer: dict[str, float]
    evaluation: dict[str, float]
    flops_per_sample: float
    evaluation_flops: float
    effects: dict[tuple[str, Any], Effect] = field(default_factory=dict)
    memory: PeakMemory = field(default_factory=PeakMemory)
    accumulation_s: float = 0.0

    @classmethod
    def from_probe(cls, measured: dict[str, Any], flops_per_sample: float, evaluation_flops: float) -> StepCost:
        """From the rows of `trainer.measure.measure_steps`; sizes that ran out of memory are left out."""
        micro: dict[str, list[tuple[int, float]]] = {}
        for row in measured["micro"]:
            if "seconds" in row:
                micro.setdefault(row["dtype"], []).append((row["micro"], row["seconds"]))
        pairs = {dtype: tuple(sorted(rows)) for dtype, rows in micro.items()}
        return cls(
            micro=pairs,
            optimizer=measured["optimizer"],
            evaluation=measured["evaluation"],
            flops_per_sample=flops_per_sample,
            evaluation_flops=evaluation_flops,
            accumulation_s=measured.get("accumulation", 0.0),  # missing where there was no room to see
        )

    def with_effects(self, effects: Effects) -> StepCost:
        """With what settings do to a step."""
        return replace(self, effects=dict(effects))

    def micro_seconds(self, dtype: str, samples: int) -> float:
        """Forward and backward of one micro-batch, in seconds; an unmeasured precision is taken as fp32."""
        pairs = self.micro.get(dtype) or self.micro["fp32"]
        if samples >= pairs[-1][0]:
            return pairs[-1][1] * samples / pairs[-1][0]
        if samples <= pairs[0][0]:
            return pairs[0][1]
        above = next(i for i, (size, _) in enumerate(pairs) if size >= samples)
        (x0, y0), (x1, y1) = pairs[above - 1], pairs[above]
        return y0 + (y1 - y0) * (samples - x0) / (x1 - x0)

    def update_seconds(self, name: str, kernel: str = "auto", state: str = "fp32") -> float:
        """One update of the weights; of a form that was not measured, the optimizer's plain one, else the slowest."""
        known = self.optimizer.get(optimizer_form(name, kernel, state), self.optimizer.get(name))
        return max(self.optimizer.values(), default=0.0) if known is None else known

    def step_seconds(self, params: Params, size: int) -> float:
        """One optimizer step of so many samples, in seconds, averaged over the horizon.

        Args:
            params: settings by dotted path, all of `READS`.
            size: samples of the step.
        """
        pieces = _n_pieces(params, size)
        small, n_large = divmod(size, pieces)  # micro-batches differ by at most one sample
        dtype = params["precision.dtype"]
        model_s = (pieces - n_large) * self.micro_seconds(dtype, small)
        model_s += n_large * self.micro_seconds(dtype, small + 1) if n_large else 0.0
        update_s = self.update_seconds(*(params[path] for path in _OPTIMIZER))
        added_s = (pieces - 1) * self.accumulation_s
        for path in KINDS:
            kind = kind_of(path, params[path])
            if params[path] in kind.free:
                continue
            effect = effect_of(self.effects, path, params)
            if kind.multiplies:
                model_s *= 1 + kind.share(params) * ((effect.ratio(small) if effect else kind.prior) - 1)
            elif effect is not None:
                added_s += kind.share(params) * effect.extra_s(size)
        return float(update_s + max(model_s + added_s, 0.1 * model_s))

    def training(self, params: Params, samples: float, every_samples: int) -> Prediction:
        """A training on so many samples, evaluated as often.

        Args:
            params: settings by dotted path, all of `READS`.
            samples: of the whole training, rounded to full batches; at least one.
            every_samples: between two evaluations; there is one at the end.
        """
        samples = max(1, round(samples / params["batch.size"])) * params["batch.size"]
        phases = [(share, size, self.step_seconds(params, size)) for share, size in _phases(params)]
        n_steps = max(1, round(sum(share * samples / size for share, size, _ in phases)))
        n_evaluations = min(n_steps, math.ceil(samples / every_samples))
        evaluation_s = self.evaluation.get(params["precision.dtype"]) or self.evaluation.get("fp32", 0.0)
        flops, setup_s, variance = self.flops_per_sample, 0.0, _PIECES_ERROR**2
        for path in KINDS:
            kind = kind_of(path, params[path])
            if params[path] in kind.free:
                continue
            effect, share = effect_of(self.effects, path, params), kind.share(params)
            flops *= 1 + share * ((effect.flops_ratio if effect else kind.prior) - 1)
            variance += (share * (max(effect.error) if effect else _UNKNOWN_ERROR)) ** 2
            setup_s += effect.setup_s if effect else 0.0
            evaluation_s *= effect.ratio(math.inf) if effect and kind.evaluates else 1.0
        seconds = sum(share * samples / size * step_s for share, size, step_s in phases)
        return Prediction(
            seconds=float(seconds + n_evaluations * evaluation_s + setup_s),
            flops=float(samples * flops + n_evaluations * self.evaluation_flops),
            step_s=phases[-1][2],
            error=math.sqrt(variance),
        )

    def predict(self, config: TrainerConfig) -> Prediction:
        """Seconds and FLOPs of training to the end of the horizon, evaluations included."""
        params = dict(zip(READS, _read(config), strict=True))
        predicted = self.training(params, self._samples(config, params), config.evaluate.every_samples)
        return replace(predicted, peak_bytes=self.memory.peak_bytes(settings_of(config)))

    def knee(self, params: Params) -> int:
        """The smallest of the measured micro-batches that fit, with a step's samples per second within `KNEE` of the
        best of them; the largest that fits where none of them does, 0 if nothing fits."""
        pairs = self.micro.get(params["precision.dtype"]) or self.micro["fp32"]
        update_s = self.update_seconds(params["optim.name"], params.get("optim.kernel", "auto"))
        rates = {size: size / (seconds + update_s) for size, seconds in pairs if self.memory.fits(params, size)}
        if not rates:
            return self.memory.largest_micro(params)
        return min(size for size, rate in rates.items() if rate >= KNEE * max(rates.values()))

    def split(self, params: Params, is_pinned: bool) -> dict[str, int]:
        """The settings with which a training fits into memory, where it does not as it is: micro-batches at the knee,
        and evaluations in batches no larger. Nothing where it fits, or nothing helps.

        Args:
            params: settings by dotted path, all that memory reads.
            is_pinned: whether the number of micro-batches has to stay.
        """
        if self.memory.fits(params):
            return {}
        micro = micro_of(params) if is_pinned else self.knee(params)
        if not micro:
            return {}
        pieces = max(params["batch.accumulation"], math.ceil(params["batch.size"] / micro))
        return {"batch.accumulation": pieces, "evaluate.batch": min(micro, params["evaluate.batch"])}

    def _samples(self, config: TrainerConfig, params: Params) -> float:
        """Samples to the end of the horizon; evaluations count as nothing where it is in seconds or FLOPs."""
        if config.horizon.unit in ("samples", "steps"):
            return config.n_steps * config.batch.size
        most = 10**9 * config.batch.size
        one = replace(self, evaluation={}, evaluation_flops=0.0).training(params, most, 2**60)
        limit, spent = config.horizon.seconds, one.seconds
        if config.horizon.unit == "flops":
            limit, spent = config.horizon.flops, one.flops
        return most * limit / spent if spent else config.n_steps * config.batch.size

    def slower_precisions(self) -> dict[str, float]:
        """Precisions slower than fp32 at every size measured for both, with the smallest slow-down seen."""
        reference = dict(self.micro.get("fp32", ()))
        slower = {}
        for dtype, pairs in self.micro.items():
            ratios = [seconds / reference[size] for size, seconds in pairs if size in reference]
            if dtype != "fp32" and ratios and min(ratios) > 1.0:
                slower[dtype] = min(ratios)
        return slower

    def fastest_precision(self, size: int) -> str:
        """The precision in which forward and backward of a micro-batch take least."""
        return min(self.micro, key=lambda dtype: self.micro_seconds(dtype, size), default="fp32")


def optimizer_form(name: str, kernel: str = "auto", state: str = "fp32") -> str:
    """What an optimizer is called whose update is timed: its name, and its kernel or state where they are not plain."""
    return " ".join([name, *(word for word in (kernel, state) if word not in ("auto", "fp32"))])


def _n_pieces(params: Params, size: int) -> int:
    """Micro-batches of a step: a smaller step has fewer, not smaller ones (`sections.Batch.n_pieces`)."""
    full, accumulation = params["batch.size"], params["batch.accumulation"]
    pieces = accumulation if size >= full else math.ceil(size / math.ceil(full / accumulation))
    return min(int(pieces), size)


def _phases(params: Params) -> list[tuple[float, int]]:
    """(share of the samples, samples of a step) of the parts of a training in which the batch is of one size."""
    ramp, full = params["batch.ramp"], params["batch.size"]
    smaller = [(ramp * share, max(1, full // divisor)) for share, divisor in _RAMP] if ramp else []
    return [*smaller, (1.0 - ramp, full)]
