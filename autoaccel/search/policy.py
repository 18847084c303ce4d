"""The first search policy: baseline, reach, race, confirm, as one pure decision from the records so far.

Nothing is remembered between decisions, so a killed study goes on where it was. SEARCH.md section 2 gives the stages.
Must not run anything or read a clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autoaccel.budget import Budget, Spent
from autoaccel.config import Params, TrainerConfig, to_params, with_params
from autoaccel.cost.step_cost import Prediction, StepCost
from autoaccel.search.attempts import Standing, shortfall, standings
from autoaccel.search.sampler import Hint, HorizonCap, propose
from autoaccel.space.space import Recipe, Space
from autoaccel.trial import SEARCHING, Target, TrialRecord, TrialSpec

RACE_SHARE = 0.9
"""A race trial's horizon takes at most this share of the incumbent's time: it is a bet to beat it."""
RESERVE_SHARE, RESERVE_MOST = 0.15, 0.4
"""Share of the budget kept for confirmation, and the most it may grow to where attempts are expensive."""
MIN_CONFIRMATIONS = 5
SLACK = 1.25
"""A trial is admitted if its predicted time, times this, fits."""
OVERRUN = 3.0
"""A trial that should run its course is cut at this many times its predicted time, and a second."""
RECIPE_SHARE = 0.25
"""Before the first hit, a recipe's horizon takes at most this share of what is left for searching."""
ESCALATION = 1.6
"""While nothing hits, each further trial is this much longer."""
_SEEDS = 1_000_003
"""Seeds of one study; also the most trials it can have."""
_PROPOSALS = 8
"""Points to look at for one that is fast enough to beat the incumbent."""


@dataclass(frozen=True)
class Question:
    """What a study is asked; constant while it runs."""

    target: Target
    budget: Budget
    space: Space
    baseline: TrainerConfig
    cost: StepCost
    floor: float
    """Half a validation example, in units of the metric."""
    seed: int = 0
    hit_probability: float = 0.9
    finish_s: float = 1.0
    """Kept for writing the answer."""


@dataclass(frozen=True)
class Left:
    """What may still be spent."""

    seconds: float
    flops: float
    share: float
    """Of the scarcest limit, 0..1."""


def left_of(question: Question, spent: Spent) -> Left:
    """What is left after `spent`, with the time for writing the answer set aside."""
    budget = question.budget
    seconds = budget.seconds_left(spent) - question.finish_s
    return Left(seconds, budget.flops_left(spent), max(0.0, 1.0 - budget.share(spent)))


def next_trial(question: Question, records: Sequence[TrialRecord], left: Left) -> TrialSpec | None:
    """The next trial of the search stages, or None when it is time to confirm."""
    book = standings(records)
    number = _next_number(records)
    if not any(r.spec.purpose == "baseline" and r.ended.outcome not in ("stopped", "interrupted") for r in records):
        return _baseline(question, left, number)
    incumbent = book[0] if book and book[0].hits else None
    search_left = _search_left(question, book, left)
    if search_left.share <= 0 or search_left.seconds <= 0 or search_left.flops <= 0:
        return None
    if incumbent is None:
        return _admitted(question, _reach(question, records, number, search_left), search_left)
    spec = _repeat(question, records, book, number) or _race(question, records, incumbent, number)
    return None if spec is None else _admitted(question, spec, search_left)


def reserve_share(question: Question, book: Sequence[Standing]) -> float:
    """Share of the budget to keep for confirming the incumbent against the baseline."""
    if not any(s.hits for s in book):  # nothing to confirm yet: the search needs it more
        return RESERVE_SHARE
    tuned = next((s for s in book if s.hits and not s.is_baseline), None)
    baseline = next((s for s in book if s.is_baseline), None)
    need = (MIN_CONFIRMATIONS + 3) * _cost_share(question, tuned) + 2 * _cost_share(question, baseline)
    return min(RESERVE_MOST, max(RESERVE_SHARE, SLACK * need))


def predict(question: Question, config: TrainerConfig) -> Prediction:
    """Cost of a training to its horizon."""
    return question.cost.predict(config)


def longest_horizon(question: Question, config: TrainerConfig, seconds: float, flops: float = math.inf) -> int:
    """The config's horizon, or the longest shorter one whose predicted cost fits; 0 if none does."""
    fits, too_long = 0, config.horizon.samples + 1
    middle = config.horizon.samples
    while too_long - fits > 1:
        predicted = predict(question, replace(config, horizon=replace(config.horizon, samples=middle)))
        if predicted.seconds <= seconds and predicted.flops <= flops:
            fits = middle
        else:
            too_long = middle
        middle = (fits + too_long) // 2
    return fits


def _search_left(question: Question, book: Sequence[Standing], left: Left) -> Left:
    """What the search stages may spend: all but the reserve."""
    reserve = reserve_share(question, book)
    budget = question.budget
    limits_s = [limit for limit in (budget.seconds, budget.device_seconds) if limit is not None]
    seconds = left.seconds - reserve * min(limits_s) if limits_s else left.seconds
    flops = left.flops - reserve * budget.flops if budget.flops else left.flops
    return Left(seconds, flops, left.share - reserve)


def _baseline(question: Question, left: Left, number: int) -> TrialSpec | None:
    """The first trial. Cut at 40 % of what is left where the budget is too small for it: then the ratio is a bound."""
    if min(left.seconds, left.flops, left.share) <= 0:
        return None
    config = replace(question.baseline, seed=_seed(question, number))
    spec = _spec(question, "baseline", "baseline", config, min(0.4 * left.seconds, _generous(question, config)))
    cap_flops = min(0.4 * left.flops, spec.cap_flops or math.inf)
    return replace(spec, cap_flops=cap_flops if math.isfinite(cap_flops) else None)


def _reach(question: Question, records: Sequence[TrialRecord], number: int, left: Left) -> TrialSpec:
    """Nothing hits yet: recipes, then longer and longer trials around the most promising point."""
    tried = {r.spec.note for r in records}
    for recipe in question.space.recipes:
        if recipe.name not in tried:
            config = _from_recipe(question, recipe, number)
            seconds, flops = RECIPE_SHARE * left.seconds, RECIPE_SHARE * left.flops
            point = {**to_params(config), "horizon.samples": longest_horizon(question, config, seconds, flops)}
            config = _config(question, question.space.project(point), number)
            return _spec(question, "reach", recipe.name, config, _generous(question, config))
    searched = [r for r in records if r.spec.purpose in SEARCHING and r.spec.config is not None]
    nearest = min(searched, key=lambda r: shortfall(question.target, r.ended.value, question.floor))
    assert nearest.spec.config is not None
    n_reach = sum(r.spec.purpose == "reach" for r in records) - len(question.space.recipes)
    wanted = question.baseline.horizon.samples * 0.5 * ESCALATION ** min(n_reach, 40)
    seed = _seed(question, number)
    point = _propose(question, records, seed, to_params(nearest.spec.config), lambda _: math.inf)
    point = question.space.project({**point, "horizon.samples": int(wanted)})
    point["horizon.samples"] = longest_horizon(question, _config(question, point), left.seconds / SLACK, left.flops)
    config = _config(question, question.space.project(point), number)
    return _spec(question, "reach", "longer horizon", config, _generous(question, config))


def _race(question: Question, records: Sequence[TrialRecord], incumbent: Standing, number: int) -> TrialSpec | None:
    """A bet to beat the incumbent: shorter than its time, and cut at its time whatever happens.

    None if nothing in the space is short enough.
    """
    cap_s = incumbent.ert_s
    seconds = RACE_SHARE * cap_s
    tried = {r.spec.note for r in records}
    for recipe in question.space.recipes:
        config = _from_recipe(question, recipe, number)
        if recipe.name not in tried and _is_bet(question, config, seconds):
            return _spec(question, "race", recipe.name, config, cap_s)
    shorter = _shorter(question, records, incumbent, seconds)
    if shorter is not None:
        config = replace(shorter, seed=_seed(question, number))
        return _spec(question, "race", "shorter horizon", config, cap_s)
    for proposal in range(_PROPOSALS):
        seed = _seed(question, number) + proposal * 2**28
        best = to_params(incumbent.config)
        point = _propose(
            question, records, seed, best, lambda p: longest_horizon(question, _config(question, p), seconds)
        )
        config = _config(question, point, number)
        if _is_bet(question, config, seconds):
            return _spec(question, "race", "suggested", config, cap_s)
    return None


def _is_bet(question: Question, config: TrainerConfig, seconds: float) -> bool:
    """Whether a training is short enough to race; where the horizon is pinned, only its cap makes it so."""
    return "horizon.samples" not in question.space.paths or predict(question, config).seconds <= seconds


def _repeat(
    question: Question, records: Sequence[TrialRecord], book: Sequence[Standing], number: int
) -> TrialSpec | None:
    """Repeat hits that could still win on fresh seeds; drop one as soon as even all remaining hits could not."""
    repeated = [r.spec.config.identity for r in records if r.spec.purpose == "repeat" and r.spec.config is not None]
    for standing in book:
        most = _most_repeats(question, standing)
        n_repeats = repeated.count(standing.identity)  # cut ones too: they are not tried for ever
        if standing.is_baseline or not standing.hits or max(standing.attempts, n_repeats) >= most:
            continue
        remaining = most - standing.attempts
        best_case = (standing.seconds + (remaining + 1) * standing.mean_s) / (standing.hits + remaining)
        if standing is book[0] or best_case < book[0].rank_s:
            config = replace(standing.config, seed=_seed(question, number))
            return _spec(question, "repeat", "repeat of a hit", config, _generous(question, config))
    return None


def _most_repeats(question: Question, standing: Standing) -> int:
    """Attempts a configuration may get in the search: the cheaper one is, the surer its rank can be made."""
    share = _cost_share(question, standing)
    return 8 if share < 0.005 else 4 if share < 0.02 else 2


def _shorter(
    question: Question, records: Sequence[TrialRecord], incumbent: Standing, seconds: float
) -> TrainerConfig | None:
    """The incumbent at three quarters of its horizon, or as short as a race has to be, unless something that short
    was tried with its settings or is not in the space."""
    config, horizon = incumbent.config, incumbent.config.horizon.samples
    wanted = replace(config, horizon=replace(config.horizon, samples=max(1, int(0.75 * horizon))))
    samples = longest_horizon(question, wanted, seconds)
    knob = next((k for k in question.space.knobs if k.path == "horizon.samples"), None)
    if incumbent.is_baseline or incumbent.misses or knob is None or not knob.low <= samples < horizon:
        return None
    settings = replace(config, horizon=replace(config.horizon, samples=1)).identity
    for record in records:
        known = record.spec.config
        if known is None or known.horizon.samples >= 0.9 * horizon:
            continue
        if replace(known, horizon=replace(known.horizon, samples=1)).identity == settings:
            return None
    return replace(config, horizon=replace(config.horizon, samples=samples))


def _from_recipe(question: Question, recipe: Recipe, number: int) -> TrainerConfig:
    samples = max(1, int(recipe.horizon * question.baseline.horizon.samples))
    point = {**to_params(question.baseline), **recipe.params, "horizon.samples": samples}
    return _config(question, question.space.project(point), number)


def _propose(
    question: Question, records: Sequence[TrialRecord], seed: int, best: Params, longest: HorizonCap
) -> Params:
    hint = Hint(question.space.project(best), longest)
    return propose(question.space, records, question.target, question.floor, seed=seed, hint=hint)


def _config(question: Question, point: Params, number: int | None = None) -> TrainerConfig:
    """The config at a point; what the space does not search stays as in the baseline."""
    mine = {*question.space.paths, *question.space.fixed}
    point = {k: v for k, v in point.items() if k in mine}
    batch = question.baseline.batch
    size, accumulation = point.get("batch.size", batch.size), point.get("batch.accumulation", batch.accumulation)
    point["batch.accumulation"] = min(accumulation, size)
    config = with_params(replace(question.baseline, seed=0), point)
    return config if number is None else replace(config, seed=_seed(question, number))


def _spec(question: Question, purpose: str, note: str, config: TrainerConfig, cap_s: float) -> TrialSpec:
    """A trial; `config.seed` says its number (see `_seed`)."""
    flops = SLACK * predict(question, config).flops
    return TrialSpec(
        trial=config.seed - question.seed * _SEEDS,
        purpose=purpose,
        config=config,
        target=question.target,
        cap_s=cap_s if math.isfinite(cap_s) else None,
        cap_flops=flops or None,
        note=note,
    )


def _admitted(question: Question, spec: TrialSpec, left: Left) -> TrialSpec | None:
    """The spec with its caps inside what is left, or None if it does not fit."""
    assert spec.config is not None
    predicted = predict(question, spec.config)
    expected_s = min(predicted.seconds, spec.cap_s or math.inf)
    if expected_s > left.seconds / SLACK or predicted.flops > left.flops:
        return None
    cap_s = min(spec.cap_s or math.inf, left.seconds)
    cap_flops = min(spec.cap_flops or math.inf, left.flops)
    return replace(
        spec,
        cap_s=cap_s if math.isfinite(cap_s) else None,
        cap_flops=cap_flops if math.isfinite(cap_flops) else None,
    )


def _generous(question: Question, config: TrainerConfig) -> float:
    """A cap for trials that should run to their horizon."""
    return OVERRUN * predict(question, config).seconds + 1.0


def _cost_share(question: Question, standing: Standing | None) -> float:
    if standing is None or not standing.attempts:
        return 0.0
    flops = standing.flops / standing.attempts
    return question.budget.share(Spent(standing.mean_s, flops, standing.mean_s, 1))


def _next_number(records: Sequence[TrialRecord]) -> int:
    return 1 + max((r.spec.trial for r in records), default=0)


def _seed(question: Question, number: int) -> int:
    """A seed no other trial has."""
    return question.seed * _SEEDS + number
