"""Figures from studies: geometric means of expected running times, ratios to the best peers, intervals over seeds.

Pure numbers in, numbers out. Must not run anything, nor know files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from benchmarks.search.judge import PENALTY
from benchmarks.search.methods import ABLATION, OURS

LOW, HIGH = (1.0, 2.0), (4.0, 8.0)
MATCHED: Final = 4.0
"""The budget whose answer of the best peer is to be matched with less."""
DRAWS: Final = 1000

Mean = np.ndarray
"""Mean over seeds of log ERT in full default trainings: [draw, method, problem, budget]; draw 0 is the measurement."""


@dataclass(frozen=True)
class Results:
    """Judged studies as arrays; NaN where a study is missing."""

    methods: tuple[str, ...]
    problems: tuple[str, ...]
    seeds: tuple[int, ...]
    budgets: tuple[float, ...]
    log_ert: np.ndarray
    """[method, problem, seed, budget]"""
    never: np.ndarray
    """Likewise: 1 where the answer never hit, 0 where it did."""
    forms: Mapping[str, str]
    """Of the peers: documented or strongest."""

    def at(self, budgets: Iterable[float]) -> list[int]:
        return [self.budgets.index(budget) for budget in budgets if budget in self.budgets]

    def peers(self, documented_only: bool) -> list[int]:
        """Positions of the peers that have every study that ours has.

        The least of many means is taken, so a peer with one lucky study would be the best of its problem.
        """
        wanted = np.isfinite(self.log_ert[self.methods.index(OURS), ..., -1]) if OURS in self.methods else False
        whole = (np.isfinite(self.log_ert[..., -1]) | ~np.asarray(wanted)).all(axis=(1, 2))
        return [
            index
            for index, name in enumerate(self.methods)
            if name in self.forms and whole[index] and not (documented_only and self.forms[name] != "documented")
        ]

    @property
    def unfinished(self) -> list[str]:
        """The peers that lack a study, which are compared with in no figure."""
        return sorted(set(self.forms) - {self.methods[index] for index in self.peers(False)})


def results_of(rows: Sequence[Mapping[str, Any]]) -> Results:
    """From one row per study and budget: method, form, problem, seed, budget, ert, hits."""
    methods = tuple(dict.fromkeys(sorted((r["method"] for r in rows), key=lambda name: (name != OURS, name))))
    problems = tuple(dict.fromkeys(row["problem"] for row in rows))
    seeds = tuple(sorted({row["seed"] for row in rows}))
    budgets = tuple(sorted({row["budget"] for row in rows}))
    place = [{name: i for i, name in enumerate(axis)} for axis in (methods, problems, seeds, budgets)]
    log_ert = np.full([len(axis) for axis in place], np.nan)
    never = log_ert.copy()
    for row in rows:
        index = tuple(axis[row[key]] for axis, key in zip(place, ("method", "problem", "seed", "budget"), strict=True))
        log_ert[index] = np.log(min(row["ert"], PENALTY))
        never[index] = row["hits"] == 0
    forms = {row["method"]: row["form"] for row in rows if not is_ours(row["method"])}
    return Results(methods, problems, seeds, budgets, log_ert, never, forms)


def is_ours(name: str) -> bool:
    """This project's search, or an ablation of it."""
    return name == OURS or name.startswith(ABLATION)


def seed_weights(n_problems: int, n_seeds: int, draws: int = DRAWS) -> np.ndarray:
    """How often each seed counts, [draw, problem, seed]; draw 0 counts each once, the others are resampled."""
    picked = np.random.default_rng(0).integers(0, n_seeds, (draws, n_problems, n_seeds))
    counts = (picked[..., None] == np.arange(n_seeds)).sum(axis=2)
    return np.concatenate([np.ones((1, n_problems, n_seeds)), counts]).astype(float)


def means(values: np.ndarray, weights: np.ndarray) -> Mean:
    """Weighted means over seeds, missing studies left out: [draw, method, problem, budget]."""
    there = np.isfinite(values)
    total = np.einsum("mpsb,rps->rmpb", np.where(there, values, 0.0), weights, optimize=True)
    count = np.einsum("mpsb,rps->rmpb", there.astype(float), weights, optimize=True)
    return np.where(count > 0, total / np.maximum(count, 1e-9), np.nan)


def ratio(mean: Mean, ours: int, peers: Sequence[int], at: Sequence[int]) -> np.ndarray:
    """Geometric mean over problems and budgets of ERT(ours) / ERT(best peer of the problem), for each draw.

    The best peer of a problem is one peer: the one with the least mean over these budgets.
    """
    part = mean[..., at].mean(axis=3)
    return np.asarray(np.exp((part[:, ours] - np.nanmin(part[:, peers], axis=1)).mean(axis=1)))


def budget_to_match(results: Results, mean: Mean, ours: int, peers: Sequence[int]) -> np.ndarray:
    """Geometric mean over problems of the first budget at which ours is as good as the best peer at four, over four.

    Where ours never is, twice the largest budget counts.
    """
    goal = np.nanmin(mean[:, peers][..., results.at([MATCHED])[0]], axis=1)
    reached = mean[:, ours] <= goal[..., None] + 1e-9
    grid = np.array(results.budgets)
    first = np.where(reached.any(axis=2), grid[reached.argmax(axis=2)], 2 * grid[-1])
    return np.asarray(np.exp(np.log(first / MATCHED).mean(axis=1)))


def figures(results: Results) -> dict[str, Any]:
    """The figures of the benchmark, each followed by its 95 % interval over seeds; None where not measured."""
    found: dict[str, Any] = {}
    weights = seed_weights(len(results.problems), len(results.seeds))
    mean = means(results.log_ert, weights)
    ours = results.methods.index(OURS) if OURS in results.methods else None
    sets = {"documented": results.peers(True), "strongest": results.peers(False)}
    wanted = {
        "ratio_documented_low": ("documented", LOW),
        "ratio_strongest_low": ("strongest", LOW),
        "ratio_strongest_high": ("strongest", HIGH),
    }
    for name, (group, budgets) in wanted.items():
        at, peers = results.at(budgets), sets[group]
        known = ours is not None and peers and len(at) == len(budgets)
        _put(found, name, ratio(mean, ours, peers, at) if known and ours is not None else None)
    shares = never_hit_shares(results)
    found["never_hit_share"] = shares.get(OURS)
    others = [shares[results.methods[peer]] for peer in sets["strongest"]]
    found["never_hit_share_best_peer"] = min(others, default=None)
    known = ours is not None and sets["strongest"] and MATCHED in results.budgets
    matched = budget_to_match(results, mean, ours, sets["strongest"]) if known and ours is not None else None
    _put(found, "budget_to_match", matched)
    return {**found, "peers": len(sets["strongest"]), "peers_unfinished": results.unfinished}


def never_hit_shares(results: Results) -> dict[str, float]:
    """For each method, the share of its studies whose answer at the largest budget never hit; problems weigh alike."""
    last = results.never[..., -1]
    return {name: _plain(_mean_of_present(last[index])) or 0.0 for index, name in enumerate(results.methods)}


def method_rows(results: Results) -> list[dict[str, Any]]:
    """A row per method: geometric mean of ERT at each budget, never-hit shares, ratio of ours to it."""
    mean = means(results.log_ert, np.ones((1, len(results.problems), len(results.seeds))))[0]
    rows = []
    for index, name in enumerate(results.methods):
        present = np.isfinite(results.log_ert[index, ..., -1])
        if not present.any():
            continue
        rows.append(
            {
                "method": name,
                "form": results.forms.get(name, "ours"),
                "studies": int(present.sum()),
                "ert": {_name(b): _plain(np.exp(np.nanmean(mean[index, :, k]))) for k, b in enumerate(results.budgets)},
                "never_hit": {
                    _name(b): _plain(_mean_of_present(results.never[index, ..., k]))
                    for k, b in enumerate(results.budgets)
                },
            }
        )
    return rows


def problem_rows(results: Results) -> list[dict[str, Any]]:
    """A row per problem and budget: ours, the best single peer at that budget, and which it is."""
    mean = means(results.log_ert, np.ones((1, len(results.problems), len(results.seeds))))[0]
    peers = results.peers(False)
    rows = []
    for p, problem in enumerate(results.problems):
        for b, budget in enumerate(results.budgets):
            row: dict[str, Any] = {"problem": problem, "budget": budget}
            if OURS in results.methods:
                row["ours"] = _plain(np.exp(mean[results.methods.index(OURS), p, b]))
            if peers:
                best = min(peers, key=lambda m: mean[m, p, b])
                row |= {"best_peer": results.methods[best], "ert": _plain(np.exp(mean[best, p, b]))}
            rows.append(row)
    return rows


def ablation_rows(results: Results) -> list[dict[str, Any]]:
    """A row per ablation and budget: its ERT over that of the search as it is, paired by seed, with its interval."""
    if OURS not in results.methods:
        return []
    # Paired: on other seeds the search itself is better or worse by more than most of its parts give.
    differences = results.log_ert - results.log_ert[results.methods.index(OURS)]
    rows = []
    for index, name in enumerate(results.methods):
        there = np.isfinite(differences[index]).any(axis=(0, 2))
        if not name.startswith(ABLATION) or not there.any():
            continue
        mean = means(differences[[index]][:, :, there], seed_weights(len(results.problems), int(there.sum())))
        ratios = np.exp(np.nanmean(mean[:, 0], axis=1))
        for k in results.at((*LOW, *HIGH)):
            row: dict[str, Any] = {
                "form": name.removeprefix(ABLATION).replace("-", " ", 1),
                "budget": results.budgets[k],
            }
            _put(row, "ratio", ratios[:, k])
            rows.append(row)
    return rows


def _mean_of_present(values: np.ndarray) -> float:
    """Of [problem, seed]: mean over problems of the mean over the seeds that are there."""
    kept = [row[np.isfinite(row)].mean() for row in values if np.isfinite(row).any()]
    return float(np.mean(kept)) if kept else float("nan")


def _put(found: dict[str, Any], name: str, draws: np.ndarray | None) -> None:
    found[name] = None if draws is None else _plain(draws[0])
    interval = None if draws is None else [_plain(q) for q in np.nanquantile(draws[1:], (0.025, 0.975))]
    found[f"{name}_interval"] = interval


def _plain(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _name(budget: float) -> str:
    return f"{budget:g}"
