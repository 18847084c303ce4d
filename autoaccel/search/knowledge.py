"""What a study knows at one moment: the curves of its records, the model of them, and what both say.

A cache and no state: the same records give the same answers, in a new process too. Must not know budgets, executors or
clocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from scipy.special import ndtri

from autoaccel.config import TrainerConfig, to_params
from autoaccel.cost.memory import settings_of
from autoaccel.search import advice
from autoaccel.search.acquisition import hit_probability
from autoaccel.search.book import Entry, book, incumbent, key
from autoaccel.search.evidence import Curve
from autoaccel.search.explain import KnobEffect, knob_effects
from autoaccel.search.inherited import is_unproven, past_curves, standing
from autoaccel.search.models import Models
from autoaccel.search.question import HORIZON, Question, predict, with_horizon
from autoaccel.search.setting import Proposal, Setting
from autoaccel.search.surrogate import Surrogate
from autoaccel.search.translate import config_of, curve_of, point_of, proposal_of, setting_of
from autoaccel.trial import FAILURES, LOST, SEARCHING, TrialRecord

_RECENT = 15
"""Trials from which it is learned how far the predicted seconds are off."""
_MOST_OFF = 5.0
_MOST_STRETCH = 2.0
_LEAST_SLOPE = 0.15
"""Margin gained per log of the horizon, at least, as far as a stretch relies on it."""


@dataclass(frozen=True)
class Ranked:
    """A configuration that has hit, and what the model expects of it."""

    config: TrainerConfig
    """Seed 0."""
    ert_s: float
    stretch: float
    """How much longer its horizon should be to hit as often as wanted: a race ends at the edge of hitting."""
    reliable_s: float
    """Expected time to the target with that horizon."""
    trial: int
    """The first trial of it."""


@dataclass(frozen=True)
class _Known:
    """Curves to decide from, and the models of them."""

    models: Models
    past: list[Curve]
    own: list[Curve]

    @property
    def curves(self) -> list[Curve]:
        return [*self.past, *self.own]


class Knowledge:
    """Everything the search derives from the records of one study."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self._setting = setting_of(question)
        self._bounded: dict[float, tuple[Question, Setting]] = {}
        self._models: dict[tuple[object, ...], Models] = {}
        self._curves: dict[tuple[int, float], Curve] = {}
        self._past = past_curves(question, self._setting)
        self._past_now: tuple[float, list[Curve]] = (1.0, self._past)
        self._off: dict[tuple[int, float], float] = {}
        self._ranked: tuple[tuple[object, ...], tuple[Ranked, ...]] = ((), ())

    def setting(self, records: Sequence[TrialRecord]) -> Setting:
        """What is known beforehand, with seconds as the latest trials took them, and what fits as failures showed."""
        factor, setting = self._factor(records), self._now(records)[1]
        plain = setting.seconds
        return replace(setting, seconds=lambda params, samples: factor * plain(params, samples))

    def proposal(
        self, records: Sequence[TrialRecord], running: Sequence[TrialRecord], left_s: float
    ) -> Proposal | None:
        """The next training; see `advice.propose`."""
        known, setting = self._evidence(records, running), self.setting(records)
        beside = [curve_of(self.question, self._setting, r) for r in running]
        proven = self._best_of_past(setting, known, beside, left_s) if known.past else None
        return proven or advice.propose(setting, known.models, known.curves, left_s, beside)

    def should_stop(self, records: Sequence[TrialRecord], running: TrialRecord) -> bool:
        """Whether finishing a running search trial (see `translate.as_running`) is worth less than starting another.

        Never where the horizon is pinned: a hit before its end is what such a trial is for, and the model knows none.
        """
        if not running.spec.bet or not running.reports or HORIZON not in self.question.space.paths:
            return False
        known, setting = self._evidence(records), self.setting(records)
        curve = curve_of(self.question, self._setting, running)
        return advice.should_stop(setting, known.models, known.curves, curve, proposal_of(setting, running.spec))

    def ranked(self, records: Sequence[TrialRecord]) -> tuple[Ranked, ...]:
        """Configurations that have hit in the search, shortest expected time first."""
        searched = _searched(records)
        if not any(r.hit for r in searched):
            return ()
        key_now = tuple(_key(r) for r in searched)
        if self._ranked[0] != key_now:
            self._ranked = (key_now, self._rank(searched))
        return self._ranked[1]

    def model(self, records: Sequence[TrialRecord]) -> tuple[Setting, Surrogate, list[Curve]]:
        """What is known beforehand, the model of all trials of the search, and what it was made from (past first)."""
        known = self._known(records, self._all(_searched(records)))
        return self.setting(records), known.models.of(known.curves), known.curves

    def effects(self, records: Sequence[TrialRecord], config: TrainerConfig) -> list[KnobEffect]:
        """What each knob of an answer bought; see `explain.knob_effects`."""
        known = self._known(records, self._all(_searched(records)))
        return knob_effects(
            self.setting(records),
            known.models,
            known.curves,
            tuned=point_of(self._setting.space, to_params(config)),
            horizon=float(config.horizon.samples),
        )

    def best_guess(self, records: Sequence[TrialRecord]) -> tuple[Mapping[str, Any], float]:
        """The point and the horizon of the answer, hit or no hit."""
        known = self._known(records, self._all(_searched(records)))
        return advice.answer(self.setting(records), known.models, known.curves)

    def config(self, records: Sequence[TrialRecord], params: Mapping[str, Any], horizon: float) -> TrainerConfig:
        """The config of a point and a horizon, in micro-batches that fit; seed 0."""
        question, setting = self._now(records)
        return config_of(question, setting, params, horizon)

    def _now(self, records: Sequence[TrialRecord]) -> tuple[Question, Setting]:
        """The question, and what is known beforehand, with memory as far as trainings have run out of it."""
        failed = [c for r in records if r.ended.outcome == "oom" and (c := r.spec.config) is not None]
        if not failed:
            return self.question, self._setting
        worked = [c for r in records if r.ended.outcome != "oom" and r.reports and (c := r.spec.config) is not None]
        cost = self.question.cost
        memory = cost.memory.after(map(settings_of, failed), map(settings_of, worked))
        if memory.limit not in self._bounded:
            question = replace(self.question, cost=replace(cost, memory=memory))
            setting = setting_of(question)
            if not setting.possible(setting.default):  # then nothing would be left to compare with
                question, setting = self.question, self._setting
            self._bounded[memory.limit] = question, setting
        return self._bounded[memory.limit]

    def _rank(self, searched: Sequence[TrialRecord]) -> tuple[Ranked, ...]:
        setting, surrogate, curves = self.model(searched)
        firsts: dict[tuple[object, ...], TrialRecord] = {}
        for record, curve in zip(searched, self._all(searched), strict=True):
            firsts.setdefault(key(curve.params, curve.horizon), record)
        hit_here = {key(c.params, c.horizon) for c in self._all(searched) if c.hit}
        ranked = []
        for entry in book(setting, surrogate, curves):
            first = firsts.get(key(entry.params, entry.horizon))
            if key(entry.params, entry.horizon) in hit_here and first is not None and first.spec.config is not None:
                config = replace(first.spec.config, seed=0)
                stretch = self._stretch(surrogate, entry) if self._may_stretch(config) else 1.0
                reliable_s = entry.ert_s if stretch == 1.0 else entry.ert_s * entry.p_hit * stretch / self._wanted
                ranked.append(Ranked(config, entry.ert_s, stretch, reliable_s, first.spec.trial))
        return tuple(ranked)

    @property
    def _wanted(self) -> float:
        """Hit rate to aim at: half as many misses as are allowed."""
        return (1 + self.question.hit_probability) / 2

    def _may_stretch(self, config: TrainerConfig) -> bool:
        return HORIZON in self.question.space.paths and config.identity != self.question.baseline.identity

    def _stretch(self, surrogate: Surrogate, entry: Entry) -> float:
        """How much longer a training must be to hit as often as wanted, by the model's slope in log samples.

        From the worse of what its attempts and the model say: what was selected by its hits hits less often afterwards.
        """
        rows = np.repeat(surrogate.rows([entry.params]), 2, axis=0)
        mean, sd = surrogate.predict(rows, entry.horizon * np.array([1.0, 2.0]))
        p = min(entry.p_hit, float(hit_probability(surrogate, mean, sd)[0]))
        missing = float(ndtri(self._wanted) - ndtri(min(0.99, max(0.05, p)))) * surrogate.scales.aleatoric_sd
        slope = max(_LEAST_SLOPE, float(mean[1] - mean[0]) / math.log(2))
        return min(_MOST_STRETCH, math.exp(max(0.0, missing) / slope))

    def _evidence(self, records: Sequence[TrialRecord], running: Sequence[TrialRecord] = ()) -> _Known:
        """What to decide from. With no past, until a first look hits or all are taken, the baseline, which is a full
        training and no look, does not count: they are judged among themselves, by a model of their own."""
        searched = _searched(records)
        looks = [r for r in searched if r.spec.purpose != "baseline"]
        n_begun = len(looks) + sum(r.spec.purpose != "baseline" for r in running)
        early = n_begun < self._setting.n_looks and not any(r.hit for r in looks)
        if early and not self._past:
            return _Known(self._models_of("early"), [], self._all(looks))
        return self._known(records, self._all(searched))

    def _known(self, records: Sequence[TrialRecord], own: list[Curve]) -> _Known:
        """With those of the past that this study does not refute, in seconds as this study takes them."""
        places = standing(self._past, own)
        factor = self._factor(records)
        if self._past_now[0] != factor:
            self._past_now = (factor, [replace(c, seconds=factor * c.seconds) for c in self._past])
        return _Known(self._models_of(*places), [self._past_now[1][n] for n in places], own)

    def _models_of(self, *given: object) -> Models:
        """The models of one beginning, for others would be fitted to other curves."""
        if given not in self._models:
            self._models[given] = Models(self._setting, n_given=len(given))
        return self._models[given]

    def _best_of_past(
        self, setting: Setting, known: _Known, running: Sequence[Curve], left_s: float
    ) -> Proposal | None:
        """The best known configuration if no training of this study has proven it: what is not run here is no answer,
        and nothing should be measured against it."""
        best = incumbent(book(setting, known.models.of(known.curves, running), known.curves))
        if best is None or not is_unproven(best, known.own, running) or not setting.possible(best.params):
            return None
        planned_s = setting.seconds(best.params, best.horizon)
        if max(planned_s, self._setting.seconds(best.params, best.horizon)) > left_s:
            return None
        n = self.question.past.n_studies
        why = f"best of {n} past stud{'y' if n == 1 else 'ies'}"
        return Proposal(best.params, best.horizon, 3 * planned_s, 0.0, "repeat", why)

    def _factor(self, records: Sequence[TrialRecord]) -> float:
        """By how much the latest trials took longer than predicted."""
        off = [self._off_by(r) for r in _searched(records) if _is_timed(r)][-_RECENT:]
        return min(_MOST_OFF, max(1 / _MOST_OFF, median(off))) if off else 1.0

    def _all(self, searched: Sequence[TrialRecord]) -> list[Curve]:
        for record in searched:
            if _key(record) not in self._curves:
                self._curves[_key(record)] = curve_of(self.question, self._setting, record)
        return [self._curves[_key(r)] for r in searched]

    def _off_by(self, record: TrialRecord) -> float:
        """Seconds a trial took over the seconds that were predicted for the samples it saw."""
        if _key(record) not in self._off:
            assert record.spec.config is not None
            planned = predict(self.question, with_horizon(record.spec.config, record.ended.samples))
            self._off[_key(record)] = record.ended.elapsed_s / planned.seconds
        return self._off[_key(record)]


def _searched(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials of the search. Those of the confirmation are evidence for the answer, not for the search; those that were
    lost are run again and say nothing."""
    return [r for r in records if r.spec.purpose in SEARCHING and r.spec.config is not None and r.ended.outcome != LOST]


def _key(record: TrialRecord) -> tuple[int, float]:
    """What is derived from a record holds as long as its seconds are not corrected by another slow-down."""
    return record.spec.trial, record.slowdown


def _is_timed(record: TrialRecord) -> bool:
    ended = record.ended
    return ended.outcome not in FAILURES and ended.samples > 0 and ended.elapsed_s > 0
