"""Studies on disk to tables: one Parquet file of everything, the rows the summary wants, the README's blocks.

Must not know how studies are run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.document import shown
from benchmarks.search.runner import Place, Study

COMPACTED: Final = "studies.parquet"


def parts(place: Place) -> Iterable[dict[str, Any]]:
    """Every study's part."""
    for file in sorted(place.parts.glob("*/*.json")):
        yield json.loads(file.read_text(encoding="utf-8"))


def flat(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per budget."""
    study = {key: value for key, value in part.items() if key != "points"}
    return [{**study, **point} for point in part["points"]]


def compacted(place: Place) -> list[dict[str, Any]]:
    """Rows of the Parquet file; none where there is none."""
    from pyarrow import parquet

    file = place.folder / COMPACTED
    return parquet.read_table(file).to_pylist() if file.exists() else []


def compact(place: Place) -> list[dict[str, Any]]:
    """Bring all parts into the Parquet file; a part replaces what the file has of that study. Returns all rows."""
    import pyarrow
    from pyarrow import parquet

    rows: dict[Study, list[dict[str, Any]]] = {}
    for row in compacted(place):
        rows.setdefault(study_of(row), []).append(row)
    for part in parts(place):
        rows[study_of(part)] = flat(part)
    everything = [row for study in sorted(rows, key=str) for row in rows[study]]
    if everything:
        passing = place.folder / f".{COMPACTED}"
        parquet.write_table(pyarrow.Table.from_pylist(everything, schema=_schema()), passing, compression="zstd")
        passing.replace(place.folder / COMPACTED)
    return everything


def study_of(row: Mapping[str, Any]) -> Study:
    return Study(row["method"], row["problem"], row["seed"])


def _schema() -> Any:
    import pyarrow

    kinds: dict[str, Any] = dict.fromkeys(("method", "library", "form", "problem", "family"), pyarrow.string())
    kinds |= {"seed": pyarrow.int64(), "digest": pyarrow.string(), "n_trials": pyarrow.int64()}
    kinds |= {"n_hits": pyarrow.int64()}
    kinds |= dict.fromkeys(("spent", "first_hit", "claim", "wall_s", "judge_s", "budget", "ert"), pyarrow.float64())
    kinds |= dict.fromkeys(("hits", "attempts"), pyarrow.int64())
    kinds |= {"answered_at": pyarrow.float64(), "horizon": pyarrow.int64(), "params": pyarrow.string()}
    return pyarrow.schema(list(kinds.items()))


# ------------------------------------------------------------------------------------------------------------- README


def method_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """ERT at each budget and the never-hit share, a line per method, the best first."""
    if not rows:
        return ["not measured"]
    budgets = list(rows[0]["ert"])
    head = ["method", "form", *budgets, "never hit", "studies"]
    lines = [_line(head), "|" + "---|" * len(head)]
    for row in sorted(rows, key=lambda r: r["ert"][budgets[-1]] or float("inf")):
        ert = [_short(row["ert"][budget]) for budget in budgets]
        never = row["never_hit"][budgets[-1]]
        lines.append(_line([row["method"], row["form"], *ert, f"{never:.0%}", row["studies"]]))
    return lines


def ablation_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """ERT of other forms of our search over that of the form it has, a line each."""
    if not rows:
        return ["not measured"]
    budgets = sorted({row["budget"] for row in rows})
    lines = [_line(["form", *(f"{budget:g}" for budget in budgets)]), "|" + "---|" * (len(budgets) + 1)]
    for name in dict.fromkeys(row["form"] for row in rows):
        cells = {row["budget"]: row for row in rows if row["form"] == name}
        lines.append(_line([name, *(_with_interval(cells.get(budget)) for budget in budgets)]))
    return lines


def problem_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Ours beside the best peer, a line per problem and budget from 1 on."""
    if not rows:
        return ["not measured"]
    lines = [_line(["problem", "budget", "ours", "best peer", "its name"]), "|---|---|---|---|---|"]
    for row in rows:
        if row["budget"] >= 1:
            cells = [row["problem"], f"{row['budget']:g}", _short(row.get("ours")), _short(row.get("ert"))]
            lines.append(_line([*cells, row.get("best_peer", "none")]))
    return lines


def _with_interval(row: Mapping[str, Any] | None) -> str:
    if row is None or row["ratio"] is None:
        return shown(None)
    low, high = row["ratio_interval"]
    return f"{row['ratio']:.2f} [{low:.2f}, {high:.2f}]"


def _short(value: float | None) -> str:
    return shown(None) if value is None else f"{value:.3g}"


def _line(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def readme_blocks(body: Mapping[str, Any]) -> dict[str, list[str]]:
    """Blocks of the README beside the figures."""
    return {
        "methods": method_table(body["rows"]),
        "ablation": ablation_table(body["ablation"]),
        "problems": problem_table(body["problems"]),
    }


def folder_of(here: Path, quick: bool) -> Path:
    """Quick results are kept apart: their studies end earlier."""
    return here / "results" / "quick" if quick else here / "results"
