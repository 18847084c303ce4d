"""Anytime charts: how good the answers are against the budget, this project's search beside its peers.

Must not know where studies come from.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np

from benchmarks.search.methods import ABLATION, OURS
from benchmarks.search.summary import Results

COLOURS: Final = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#8C6D1F")
"""Okabe and Ito's, told apart without red and green."""
DASHES: Final = ("-", "--", "-.", ":", "-", "--", "-.")
MARKS: Final = "os^Dv<P"
QUIET: Final = "#C8C8C8"


def draw(results: Results, file: Path, title: str) -> None:
    """Three panels against the budget: geometric mean and 90th percentile of ERT / best known, never-hit share."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    relative = results.log_ert - np.nanmin(results.log_ert, axis=(0, 2, 3), keepdims=True)
    panels: list[tuple[str, np.ndarray, Callable[[np.ndarray], np.ndarray], bool]] = [
        ("ERT / best known, geometric mean", relative, lambda v: np.exp(np.nanmean(v, axis=(0, 1))), True),
        ("ERT / best known, 90th percentile", relative, lambda v: np.exp(np.nanquantile(v, 0.9, axis=(0, 1))), True),
        ("answers that never hit", results.never, lambda v: np.nanmean(v, axis=(0, 1)), False),
    ]
    order = ranked(results)
    figure, axes = pyplot.subplots(1, 3, figsize=(16, 5.2))
    for axis, (name, values, over, log) in zip(axes, panels, strict=True):
        for place, index in reversed(list(enumerate(order))):
            axis.plot(results.budgets, over(values[index]), **_style(results.methods[index], place))
        axis.set_xscale("log", base=2)
        axis.set_xticks(results.budgets, [f"{budget:g}" for budget in results.budgets])
        axis.minorticks_off()
        axis.set_xlabel("budget, in full default trainings")
        axis.set_title(name, fontsize=11)
        axis.grid(True, color="#E8E8E8", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
        if log:
            _plain_log(axis, np.concatenate([over(values[index]) for index in order]))
        else:
            axis.set_ylim(-0.02, 1.02)
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    lines, names = axes[0].get_legend_handles_labels()
    figure.legend(lines[::-1], names[::-1], loc="center right", frameon=False, fontsize=9)
    counts = f"{len(results.problems)} problems, {len(results.seeds)} seeds"
    figure.suptitle(f"{title} ({counts})", x=0.01, ha="left", fontsize=13)
    figure.tight_layout(rect=(0, 0, 0.84, 0.97))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def ranked(results: Results) -> list[int]:
    """Methods to draw: ours, then the peers from the best, by the mean over problems and budgets from 1 on."""
    late = [k for k, budget in enumerate(results.budgets) if budget >= 1] or [len(results.budgets) - 1]
    part = results.log_ert[..., late]
    seen = [i for i, name in enumerate(results.methods) if not name.startswith(ABLATION)]
    seen = [i for i in seen if np.isfinite(part[i]).any()]
    return sorted(seen, key=lambda i: (results.methods[i] != OURS, float(np.nanmean(part[i]))))


def _style(name: str, place: int) -> dict[str, Any]:
    if name == OURS:
        return {"color": "black", "linewidth": 3.5, "marker": "o", "label": name, "zorder": 10}
    place -= 1
    if 0 <= place < len(COLOURS):
        mark = {"marker": MARKS[place], "markersize": 5, "linestyle": DASHES[place]}
        return {"color": COLOURS[place], "linewidth": 1.6, "label": name, "zorder": 5, **mark}
    return {"color": QUIET, "linewidth": 1.0, "zorder": 1, "label": "other peers" if place == len(COLOURS) else None}


def _plain_log(axis: Any, shown: np.ndarray) -> None:
    """A log axis with ordinary numbers on it."""
    axis.set_yscale("log")
    steps = np.array([m * 10.0**e for e in range(-1, 4) for m in (1, 2, 5)])
    low, high = np.nanmin(shown) * 0.93, np.nanmax(shown) * 1.07
    ticks = steps[(steps >= low) & (steps <= high)]
    axis.set_ylim(low, high)
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
