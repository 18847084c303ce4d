"""The terminal: a live panel while a tuning runs, plain lines where there is no terminal, and the final summary.

Shows values it is given; must not compute any. Everything from files or users is escaped.
"""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console, Group, JustifyMethod
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autoaccel.budget import Budget
from autoaccel.job import Job
from autoaccel.report.profile import sections
from autoaccel.report.progress import describe, line, number, plain, seconds
from autoaccel.search.trials import Snapshot


class LiveView:
    """One 80-column panel that is redrawn in place."""

    def __init__(self, console: Console, title: str, budget: Budget) -> None:
        self._title, self._budget = title, budget
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, snapshot: Snapshot) -> None:
        self._live.update(render(snapshot, self._title, self._budget))


class LineView:
    """One line per finished trial, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._seen: int | None = None
        self._plan = ""

    def __enter__(self) -> LineView:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __call__(self, snapshot: Snapshot) -> None:
        if snapshot.plan != self._plan:
            self._plan = snapshot.plan
            self._console.print(escape(plain(snapshot.plan.replace("\n", "; "))), highlight=False, soft_wrap=True)
        last = snapshot.finished[-1].spec.trial if snapshot.finished else 0
        if self._seen is None:  # what an earlier session finished is not news
            self._seen = last
        if last > self._seen:
            self._seen = last
            text = f"[{seconds(snapshot.spent.seconds):>6}] {line(snapshot.finished[-1])}"
            self._console.print(escape(plain(text)), highlight=False, soft_wrap=True)


def open_view(job: Job, *, quiet: bool) -> LiveView | LineView:
    """The live panel on a terminal, lines elsewhere, nothing if quiet; on standard error. To be used in a `with`."""
    console = Console(stderr=True, quiet=quiet)
    if not console.is_terminal or quiet:
        return LineView(console)
    target = f" to {job.target:g}" if job.target is not None else ""
    return LiveView(console, f"autoaccel tune {job.task or ''}{target}", job.budget)


def render(snapshot: Snapshot, title: str, budget: Budget) -> Panel:
    """The panel: budget bar, what it buys, best so far against target and baseline, running trial, last trials."""
    share = min(1.0, budget.share(snapshot.spent))
    bar = Table.grid(padding=(0, 1))
    spent = f"{seconds(snapshot.spent.seconds)}"
    if budget.flops is not None:
        spent += f", {snapshot.spent.flops:.3g} FLOPs"
    bar.add_row("budget", ProgressBar(total=1.0, completed=share, width=36), f"{share:4.0%}  {spent} of {budget}")
    rows = Table.grid(padding=(0, 1))
    if snapshot.plan:
        rows.add_row("plan", Text(plain(snapshot.plan.split("\n")[0])))
    rows.add_row("best", Text(_best(snapshot)))
    rows.add_row("now", Text(_running(snapshot)))
    last = Table.grid(padding=(0, 1))
    for record in snapshot.finished:
        style = {"hit": "green", "missed": "yellow"}.get(record.ended.outcome, "dim")
        last.add_row(Text(plain(line(record)), style=style, no_wrap=True, overflow="ellipsis"))
    head = f"{escape(plain(title))}  stage: {snapshot.stage}  trials: {snapshot.n_trials}"
    return Panel(Group(bar, rows, Text(""), last), title=head, title_align="left")


def _best(snapshot: Snapshot) -> str:
    best, baseline = snapshot.incumbent, snapshot.baseline
    if best is None:
        return "no trial has reached the target yet"
    text = f"{seconds(best.ert_s)} to the target ({best.hits} of {best.attempts} attempts hit)"
    if baseline is not None and baseline.hits and not best.is_baseline:
        text += f", {baseline.ert_s / best.ert_s:.1f}x the baseline's {seconds(baseline.ert_s)}"
    elif best.is_baseline:
        text += ", the baseline"
    return text


def _running(snapshot: Snapshot) -> str:
    if not snapshot.running:
        return "choosing the next trial"
    first, *others = snapshot.running
    text = f"{first.purpose}: {describe(first)}"
    if snapshot.last_report is not None:
        text += f"; {snapshot.last_report.value:.4f} after {seconds(snapshot.last_report.elapsed_s)}"
    return plain(f"{text} and {len(others)} more" if others else text)


def print_summary(console: Console, result: dict[str, Any], run_dir: str) -> None:
    """The answer: times, speed-up with interval, hits on fresh seeds, test metric, a verdict per knob."""
    table = Table.grid(padding=(0, 2))
    for name, value in summary_rows(result):
        table.add_row(name, Text(plain(value)))
    console.print(Panel(table, title=escape(plain(headline(result))), title_align="left"))
    knobs = Table(
        title="What each setting did, by the model of the search trials",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for column in ("setting", "before" if result.get("after") else "baseline", "tuned", "verdict"):
        knobs.add_column(column)
    told = [v for v in result["verdicts"] if v["baseline"] != v["tuned"] or v["ratio"] or "(measured)" in v["text"]]
    for v in told:
        knobs.add_row(*(escape(plain(number(v[key]))) for key in ("path", "baseline", "tuned", "text")))
    console.print(knobs)
    others = [plain(v["path"]) for v in result["verdicts"] if v not in told]
    if others:
        console.print(f"as in the baseline: {escape(', '.join(others))}", highlight=False)
    where = escape(plain(run_dir))
    console.print(f"\nconfig: {where}/best/config.json", highlight=False, soft_wrap=True)
    if result.get("extrapolation"):
        rows = (
            f"one training that would tell: autoaccel train {where}/best/config.json",
            f"confirmed on fresh seeds: autoaccel tune --resume {where} "
            f"--budget +{math.ceil(result['extrapolation']['confirm_s'])}s",
        )
        console.print("\n".join(rows), highlight=False, soft_wrap=True)


def headline(result: dict[str, Any]) -> str:
    """One line: met, missed or not confirmed."""
    if result["target_met"]:
        return f"{result['task']}: target met"
    if result.get("extrapolation"):
        return f"{result['task']}: EXTRAPOLATED, NOT CONFIRMED (nothing reached the target within the budget)"
    if not result["confirmed"]:
        return f"{result['task']}: TARGET NOT CONFIRMED, {result['attempts']} fresh seeds (best effort)"
    return f"{result['task']}: TARGET MISSED (best effort)"


def summary_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Label and value of each line of the summary."""
    target, baseline = result["target"], result["baseline"]
    sign = ">=" if target["direction"] == "max" else "<="
    rows = [("target", f"{target['metric']} {sign} {target['value']:g}")]
    rows.append(("answer before" if result.get("after") else "baseline", _evidence(baseline)))
    rows.append(("tuned", _extrapolation(result) if result.get("extrapolation") else _evidence(result)))
    rows.append(("speed-up", _speedup(result)))
    if result["test_metric"] is not None:
        before = f" (baseline {baseline['test_metric']:.4f})" if baseline["test_metric"] is not None else ""
        rows.append(("test set", f"{target['metric']} {result['test_metric']:.4f}{before}"))
    if not result["target_met"] and result["best_value_seen"] is not None:
        rows.append(("best seen", f"{result['best_value_seen']:.4f}"))
    if result.get("lessons"):
        rows.append(("found by", _lessons(result["lessons"])))
    if result.get("search_ended"):
        rows.append(("search", f"ended because {result['search_ended']}"))
    ends = ", ".join(f"{n} {outcome}" for outcome, n in result["outcomes"].items())
    rows.append(("spent", f"{seconds(result['tuning_s'])} of {result['budget']}, {result['n_trials']} trials: {ends}"))
    if result.get("drift"):
        rows.append(("machine", result["drift"]["text"]))
    if result.get("storage"):
        rows.append(("storage", _storage(result["storage"])))
    if result["ledger_repaired"]:
        rows.append(("ledger", f"repaired when it was opened: {result['ledger_repaired']}"))
    return rows


def _storage(where: dict[str, Any]) -> str:
    text = f"study {where['study']} in {where['url']}"
    return f"{text}, without {where['missing']} trials that --resume adds: {where['why']}" if where["missing"] else text


_MOST_LESSONS = 5


def _lessons(found: list[dict[str, Any]]) -> str:
    """The trials that became the best, the last few of them."""
    shown = [f"trial {x['trial']} ({x['purpose']}) {seconds(x['expected_s'])}" for x in found[-_MOST_LESSONS:]]
    left_out = len(found) - len(shown)
    return " > ".join([f"{left_out} before"] * (left_out > 0) + shown)


def _extrapolation(result: dict[str, Any]) -> str:
    beyond = result["extrapolation"]
    low, high = beyond["interval_s"]
    upper = "open" if high is None else seconds(high)
    return f"{seconds(beyond['time_to_target_s'])} [{seconds(low)}, {upper}] to the target, by the model alone"


def _evidence(e: dict[str, Any]) -> str:
    if not e["attempts"]:
        return "never run on a fresh seed"
    interval = e["time_to_target_interval_s"]
    width = f" [{seconds(interval[0])}, {seconds(interval[1])}]" if interval else ""
    low, high = e["hit_rate_interval"]
    label = " (corrected)" if e.get("n_slowed") else ""
    time = f"{seconds(e['time_to_target_s'])}{width} to target{label}; " if e["hits"] else ""
    return f"{time}{e['hits']}/{e['attempts']} hits, expect {e['expected_hit_rate']:.0%} [{low:.0%}, {high:.0%}]"


def _speedup(result: dict[str, Any]) -> str:
    value, interval = result["speedup_vs_baseline"], result["speedup_interval"]
    if result["answer_is_baseline"]:
        return f"none found: the {'answer before stays' if result.get('after') else 'baseline is the answer'}"
    if value is None:
        return "not measured"
    if result["speedup_is_bound"] and not result["baseline"]["attempts"]:
        return f"at least {value:.1f}x (a bound: the budget was too small to let the baseline finish)"
    if result["speedup_is_bound"]:
        return f"{value:.1f}x (the baseline never hit; its attempts count tenfold)"
    return f"{value:.1f}x" + (
        f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else " (too few runs for an interval)"
    )


def print_profile(console: Console, document: dict[str, Any]) -> None:
    """What the machine is and can do and, if a task was profiled, where its step goes and what bounds it."""
    for section in sections(document):
        console.print(Text(plain(section.title), style="bold"))
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=bool(section.header), header_style="dim")
        last = max((len(row) for row in section.rows), default=0) - 1
        for at in range(last + 1):
            title = section.header[at] if section.header else ""
            justify: JustifyMethod = "right" if at in section.numbers else "left"
            table.add_column(title, justify=justify, no_wrap=at < last)
        for row in section.rows:
            table.add_row(*(Text(plain(cell)) for cell in row))
        console.print(table)
        console.print()
    if document.get("verdict"):
        console.print(Text(plain(document["verdict"])))
