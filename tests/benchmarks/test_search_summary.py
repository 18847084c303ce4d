"""Figures of the search benchmark on tables made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.search import report, summary

BUDGETS = (1.0, 2.0, 4.0, 8.0)


def rows_of(table: dict[str, dict[str, list[float]]], seeds: int = 3) -> list[dict[str, Any]]:
    """Method -> problem -> ERT at each budget, the same for every seed; ten and more never hit."""
    return [
        {
            "method": method,
            "form": "documented" if method.startswith("doc") else "strongest",
            "problem": problem,
            "seed": seed,
            "budget": budget,
            "ert": ert,
            "hits": int(ert < 10),
        }
        for method, problems in table.items()
        for problem, erts in problems.items()
        for seed in range(seeds)
        for budget, ert in zip(BUDGETS, erts, strict=True)
    ]


TABLE = {
    "ours": {"p": [1.0, 1.0, 0.5, 0.5], "q": [4.0, 2.0, 1.0, 1.0]},
    "doc-a": {"p": [2.0, 2.0, 2.0, 2.0], "q": [10.0, 10.0, 10.0, 10.0]},
    "doc-b": {"p": [10.0, 10.0, 10.0, 10.0], "q": [8.0, 8.0, 8.0, 8.0]},
    "strong": {"p": [4.0, 1.0, 0.5, 0.25], "q": [4.0, 4.0, 1.0, 1.0]},
}


def test_ratios_are_to_the_best_single_peer_of_each_problem() -> None:
    found = summary.figures(summary.results_of(rows_of(TABLE)))
    # p: doc-a, ratios 1/2 and 1/2; q: doc-b, ratios 4/8 and 2/8.
    assert found["ratio_documented_low"] == pytest.approx((0.5 * 0.5 * 0.5 * 0.25) ** 0.25)
    # p: strong and doc-a are equal in the mean (4 x 1 = 2 x 2), q: strong; 1/4 x 1/1, 4/4 x 2/4.
    assert found["ratio_strongest_low"] == pytest.approx((0.25 * 1 * 1 * 0.5) ** 0.25)
    assert found["ratio_strongest_high"] == pytest.approx((1 * 2 * 1 * 1) ** 0.25)
    assert found["ratio_strongest_high_interval"] == pytest.approx([2**0.25, 2**0.25])


def test_one_peer_is_best_over_all_budgets_of_a_figure_not_another_at_each() -> None:
    table = {"ours": {"p": [1, 1, 1, 1]}, "strong-a": {"p": [1, 8, 1, 1]}, "strong-b": {"p": [9, 1, 1, 1]}}
    found = summary.figures(summary.results_of(rows_of(table)))
    assert found["ratio_strongest_low"] == pytest.approx(8**-0.5)


def test_never_hit_shares_weigh_problems_alike() -> None:
    results = summary.results_of(rows_of(TABLE))
    assert summary.never_hit_shares(results) == {"ours": 0.0, "doc-a": 0.5, "doc-b": 0.5, "strong": 0.0}
    found = summary.figures(results)
    assert (found["never_hit_share"], found["never_hit_share_best_peer"]) == (0.0, 0.0)


def test_budget_to_match() -> None:
    found = summary.figures(summary.results_of(rows_of(TABLE)))
    # p: 0.5 of `strong` is reached at 4, q: 1.0 at 4.
    assert found["budget_to_match"] == pytest.approx(1.0)
    table = {"ours": {"p": [2, 1, 1, 1], "q": [9, 9, 9, 9]}, "strong": {"p": [3, 3, 2, 1], "q": [1, 1, 1, 1]}}
    found = summary.figures(summary.results_of(rows_of(table)))
    assert found["budget_to_match"] == pytest.approx((1 / 4 * 16 / 4) ** 0.5)


def test_nothing_counts_more_than_the_penalty() -> None:
    table = {"ours": {"p": [1, 1, 1, 1]}, "strong": {"p": [400, 10, 10, 10]}}
    assert summary.figures(summary.results_of(rows_of(table)))["ratio_strongest_low"] == pytest.approx(0.1)


def test_a_peer_that_lacks_a_study_of_ours_is_no_best_peer() -> None:
    whole = rows_of(TABLE)
    for lacking in ({"seed": 2}, {"problem": "q"}):
        rows = [row for row in whole if not (row["method"] == "strong" and lacking.items() <= row.items())]
        found = summary.figures(summary.results_of(rows))
        assert found["ratio_strongest_high"] == pytest.approx((1 / 4 / 4 / 8 / 8) ** 0.25)
        assert (found["peers"], found["peers_unfinished"]) == (2, ["strong"])
    fewer = [row for row in whole if not (row["method"] == "ours" and row["seed"] == 2)]
    found = summary.figures(summary.results_of(fewer))
    assert found["ratio_strongest_high"] == pytest.approx(2**0.25)
    assert (found["peers"], found["peers_unfinished"]) == (3, [])


def test_without_ours_or_peers_nothing_is_measured() -> None:
    peers = {name: table for name, table in TABLE.items() if name != "ours"}
    for table in (peers, {"ours": TABLE["ours"]}):
        found = summary.figures(summary.results_of(rows_of(table)))
        assert found["ratio_strongest_low"] is None
        assert found["budget_to_match"] is None


def test_intervals_cover_the_truth_and_shrink_with_seeds() -> None:
    widths = []
    for seeds in (5, 80):
        rows = rows_of({"ours": {"p": [1.0] * 4}, "strong": {"p": [1.0] * 4}}, seeds)
        noise = np.random.default_rng(0)
        for row in rows:
            row["ert"] = float(np.exp(noise.normal(0.0 if row["method"] == "ours" else 0.5, 0.4)))
        found = summary.figures(summary.results_of(rows))
        low, high = found["ratio_strongest_low_interval"]
        assert low < found["ratio_strongest_low"] < high
        widths.append(high - low)
    assert low < np.exp(-0.5) < high
    assert widths[1] < widths[0]


def test_ablation_is_without_over_with() -> None:
    table = {**TABLE, "ours-without-book": {"p": [2.0, 1.0, 1.0, 0.5], "q": [8.0, 2.0, 1.0, 1.0]}}
    results = summary.results_of(rows_of(table))
    rows = {row["budget"]: row for row in summary.ablation_rows(results)}
    assert rows[1.0]["form"] == "without book"
    assert [rows[b]["ratio"] for b in BUDGETS] == pytest.approx([2.0, 1.0, 2**0.5, 1.0])
    assert "ours-without-book" not in results.forms
    text = "\n".join(report.ablation_table(summary.ablation_rows(results)))
    assert "| without book | 2.00 [2.00, 2.00] | 1.00 [1.00, 1.00] | 1.41 [1.41, 1.41] | 1.00 [1.00, 1.00] |" in text


def test_an_ablation_is_compared_on_the_seeds_it_has() -> None:
    """The search is twice as slow on a seed the ablation has not been run on: that is no merit of the ablation."""
    rows = rows_of({**TABLE, "ours-without-book": TABLE["ours"]})
    rows = [row for row in rows if not (row["method"] == "ours-without-book" and row["seed"] == 2)]
    for row in rows:
        row["ert"] *= 2 if row["seed"] == 2 else 1
    ratios = [row["ratio"] for row in summary.ablation_rows(summary.results_of(rows))]
    assert ratios == pytest.approx([1.0] * 4)


def test_tables_for_the_readme() -> None:
    results = summary.results_of(rows_of(TABLE))
    lines = report.method_table(summary.method_rows(results))
    assert lines[0] == "| method | form | 1 | 2 | 4 | 8 | never hit | studies |"
    assert lines[2] == "| strong | strongest | 4 | 2 | 0.707 | 0.5 | 0% | 6 |"
    assert "| p | 8 | 0.5 | 0.25 | strong |" in report.problem_table(summary.problem_rows(results))
    assert report.method_table([]) == report.ablation_table([]) == report.problem_table([]) == ["not measured"]


def test_a_chart_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.search import charts

    results = summary.results_of(rows_of(TABLE))
    assert [results.methods[index] for index in charts.ranked(results)] == ["ours", "strong", "doc-a", "doc-b"]
    charts.draw(results, tmp_path / "chart.png", "by hand")
    assert (tmp_path / "chart.png").read_bytes()[:4] == b"\x89PNG"
