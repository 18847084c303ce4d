"""python -m benchmarks.search: run what is missing, judge, sum up, draw; `--quick` is the same, smaller.

Results of earlier runs are kept and used; nothing is run twice.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.document import print_document, render_block, write_document
from benchmarks.options import parser
from benchmarks.search import charts, report, summary
from benchmarks.search.methods import all_methods, cannot_run, chosen
from benchmarks.search.problem import Problem
from benchmarks.search.problems import EXTRA, HEADLINE, available, names
from benchmarks.search.problems.data import protocol
from benchmarks.search.runner import Method, Place, Study, done, in_turns, run_all, study_digest

HERE = Path(__file__).parent


def main() -> int:
    options = _options()
    quick = protocol()["quick"] if options.quick else None
    place = Place(report.folder_of(HERE, options.quick), tuple(protocol()["budgets"]))
    if quick:
        place = Place(place.folder, tuple(b for b in place.budgets if b <= quick["largest_budget"]))
    methods = all_methods()
    wanted = options.problems or (
        quick["problems"] if quick else names((*HEADLINE, *EXTRA) if options.extra else HEADLINE)
    )
    problems, missing = available(wanted)
    for name, reason in {**missing, **cannot_run()}.items():
        print(f"without {name}: {reason}", file=sys.stderr)
    seeds = list(range(options.seeds or (quick["seeds"] if quick else protocol()["seeds"])))
    picked = chosen(methods, ablation=options.ablation, quick=options.quick, names=options.methods)
    failed = [] if options.summary_only else _run(place, methods, problems, (picked, seeds), options.workers)
    document = write_summary(place, seeds, options.quick, methods, problems)
    print_document(document, options.json)
    for study, _ in failed:
        print(f"failed: {study.method} on {study.problem}, seed {study.seed}", file=sys.stderr)
    return 1 if failed else 0


def _run(
    place: Place,
    methods: dict[str, Method],
    problems: dict[str, Problem],
    grid: tuple[list[str], list[int]],
    workers: int,
) -> list[tuple[Study, str]]:
    there = {report.study_of(row): row["digest"] for row in report.compacted(place)}
    studies = in_turns(grid[0], list(problems), grid[1])
    missing = [s for s in studies if not done(s, place, _digest(s, methods, problems, place), there)]
    print(f"{len(studies)} studies, {len(missing)} to run", file=sys.stderr)
    try:
        return run_all(missing, place, workers)
    finally:
        report.compact(place)


def write_summary(
    place: Place, seeds: list[int], quick: bool, methods: dict[str, Method], problems: dict[str, Problem]
) -> dict[str, Any]:
    """Figures, rows and charts of all results that are there; those of an older version of a method are left out."""
    rows = [row for row in report.compact(place) if _current(row, methods, problems, place)]
    head = [row for row in rows if row["family"] in HEADLINE]
    body: dict[str, Any] = {"figures": summary.figures(summary.results_of(head)) if head else {}}
    body |= _tables(head)
    for family in sorted({row["family"] for row in rows}):
        body.setdefault("families", {})[family] = _tables([row for row in rows if row["family"] == family])
    document = write_document(HERE, "search", seeds=seeds, quick=quick, body=body)
    if not quick:
        for name, lines in report.readme_blocks(body).items():
            render_block(HERE / "README.md", name, lines)
    _draw(place.folder, head, rows)
    return document


def _tables(rows: list[dict[str, Any]]) -> dict[str, Any]:
    if not rows:
        return {"rows": [], "problems": [], "ablation": []}
    results = summary.results_of(rows)
    return {
        "rows": summary.method_rows(results),
        "problems": summary.problem_rows(results),
        "ablation": summary.ablation_rows(results),
    }


def _draw(folder: Path, head: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    if head:
        charts.draw(summary.results_of(head), folder / "anytime.png", "All development problems")
    for family in sorted({row["family"] for row in rows}):
        part = [row for row in rows if row["family"] == family]
        charts.draw(summary.results_of(part), folder / f"anytime-{family}.png", family)


def _digest(study: Study, methods: dict[str, Method], problems: dict[str, Problem], place: Place) -> str:
    return study_digest(methods[study.method], problems[study.problem], place.budgets)


def _current(row: dict[str, Any], methods: dict[str, Method], problems: dict[str, Problem], place: Place) -> bool:
    """Whether the row is what would be measured now; where that cannot be told, it is taken as it is.

    A form of our own search that is gone is no such row; a peer whose library is not installed is.
    """
    study = report.study_of(row)
    if study.method not in methods and summary.is_ours(study.method):
        return False
    if study.method not in methods or study.problem not in problems:
        return row["budget"] in place.budgets
    return bool(row["digest"] == _digest(study, methods, problems, place))


def _options() -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return text.split(",")

    command = parser("search", __doc__, quick="fewer problems, seeds, methods and budgets", keeps=False)
    command.add_argument("--methods", type=words, help="names, separated by commas")
    command.add_argument("--problems", type=words, help="names, separated by commas")
    command.add_argument("--seeds", type=int, help="number of seeds")
    command.add_argument("--workers", type=int, default=2, help="worker processes; 0: none")
    command.add_argument("--ablation", action="store_true", help="also the search without each of its parts")
    command.add_argument("--extra", action="store_true", help="also the problems outside the figures")
    command.add_argument("--summary-only", action="store_true", help="run nothing")
    return command.parse_args()


if __name__ == "__main__":
    sys.exit(main())
