"""What a terminal shows, as reviewed texts of 80 columns; and that no name can drive it."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from autoaccel.budget import Spent, parse_budget
from autoaccel.config import with_params
from autoaccel.report.progress import describe, line, number, plain, seconds
from autoaccel.report.summary import result_document
from autoaccel.report.terminal import LineView, LiveView, print_summary, render
from autoaccel.search.attempts import standings
from autoaccel.search.confirm import Evidence
from autoaccel.search.explain import KnobEffect
from autoaccel.search.trials import Snapshot
from autoaccel.trial import Ended, Report, TrialRecord, TrialSpec
from tests.golden.compare import check_golden
from tests.simulated.problems import BASELINE, question

MALICIOUS = "a[/b]<script>\x1b[2J\x07\u202e[link=file:///etc]x\r\n"
ASKED = question(parse_budget("60s"))
TUNED = with_params(BASELINE, {"optim.name": "sgd", "optim.lr": 0.1, "batch.size": 64, "horizon.samples": 4950})


def screen() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=80, no_color=True, force_terminal=False, _environ={}), out


def shown(text: str) -> str:
    """Without the blanks at line ends, which editors cut off."""
    return "\n".join(row.rstrip() for row in text.splitlines()) + "\n"


def record(trial: int, purpose: str, outcome: str, took: float, value: float | None) -> TrialRecord:
    config = replace(BASELINE if "baseline" in purpose else TUNED, seed=trial)
    return TrialRecord(TrialSpec(trial, purpose, config, ASKED.target), (), Ended(trial, outcome, took, value=value))


DONE = [
    record(4, "baseline", "hit", 1.034, 0.9361),
    record(5, "race", "missed", 0.41, 0.85),
    record(6, "race", "hit", 0.31, 0.9389),
    record(7, "repeat", "hit", 0.29, 0.9417),
    record(8, "race", "capped", 0.3, None),
]


def snapshot(**changes: Any) -> Snapshot:
    book = standings(DONE)
    return replace(
        Snapshot(
            stage="race",
            spent=Spent(12.34, 5e10, 12.34, 5),
            n_trials=5,
            running=(TrialSpec(9, "race", TUNED, ASKED.target),),
            last_report=Report(9, 0.2, 3000, 40, 1e9, 0.8611, 0.4),
            incumbent=book[0],
            baseline=next(s for s in book if s.is_baseline),
            finished=tuple(DONE),
            plan="one default training takes about 1.2s; 1m buys about 38 of them\nsearched: optim.lr",
        ),
        **changes,
    )


def rendered(title: str, budget: str, **changes: Any) -> str:
    console, out = screen()
    console.print(render(snapshot(**changes), title, parse_budget(budget)))
    return shown(out.getvalue())


def test_the_live_panel() -> None:
    parts = [
        rendered("autoaccel tune digits to 0.9361", "60s"),
        rendered("autoaccel tune digits", "1e12FLOPs", running=(), last_report=None, incumbent=None, plan=""),
        rendered("autoaccel tune digits", "60s", incumbent=standings(DONE[:1])[0], finished=(), spent=Spent(90.0)),
    ]
    check_golden("panel.txt", "\n".join(parts))


def test_a_malicious_name_is_shown_as_text() -> None:
    text = rendered(f"autoaccel tune {MALICIOUS}", "60s", plan=MALICIOUS)
    assert "a[/b]<script>?[2J??[link=file:///etc]x??" in text
    console, out = screen()
    print_summary(console, result(task=MALICIOUS), f"runs/{MALICIOUS}")
    check_golden("malicious.txt", text + shown(out.getvalue()))
    assert not [c for c in text + out.getvalue() if not c.isprintable() and c != "\n"]


# ------------------------------------------------------------------------------------------------------------- summary


def evidence(hits: tuple[float, ...], misses: tuple[float, ...] = (), **more: Any) -> Evidence:
    times = (*hits, *misses)
    return Evidence(more.pop("config", BASELINE), len(times), len(hits), times, hits, **more)


BEFORE = evidence((1.03, 1.05, 1.11), test_values=(0.91, 0.92, 0.93))
AFTER = evidence((0.25, 0.27, 0.26, 0.24, 0.29), (0.4,), config=TUNED, test_values=(0.94, 0.95))


EFFECTS = [
    KnobEffect("optim.name", "sgd", "adamw", 3.1, 1.8, 6.0),
    KnobEffect("batch.size", 64, 128, 1.05, 0.9, 1.3),
]


def result(
    before: Evidence = BEFORE, after: Evidence = AFTER, task: str = "digits", rate: float = 0.8
) -> dict[str, Any]:
    asked = replace(ASKED, hit_probability=rate)
    facts = {"task": task, "budget": "1m", "ledger_repaired": ""}
    return {**result_document(asked, DONE, before, after, facts, EFFECTS), "tuning_s": 58.7}


def test_the_summary() -> None:
    console, out = screen()
    documents = {
        "met": result(),
        "missed": result(rate=0.9),
        "the baseline never hit": result(before=evidence((), (1.2, 1.3, 1.2))),
        "the baseline was cut": result(before=evidence((), cut_s=1.5)),
        "the baseline is the answer": result(after=evidence((1.0, 1.1, 1.0))),
        "too few": result(before=evidence((1.0,)), after=evidence((0.25,), config=TUNED)),
        "never reached": result(before=evidence((), (1.2,)), after=evidence((), config=TUNED)),
    }
    for name, document in documents.items():
        console.print(f"# {name}")
        print_summary(console, document if name == "met" else {**document, "verdicts": []}, "runs/demo")
    check_golden("summary.txt", shown(out.getvalue()))


# --------------------------------------------------------------------------------------------------------------- lines


def test_lines_show_the_plan_and_each_trial_once() -> None:
    console, out = screen()
    with LineView(console) as view:
        for n in range(len(DONE) + 1):
            for _ in range(3):  # a view is called whenever anything changes
                view(snapshot(finished=tuple(DONE[:n])[-5:], plan="" if n == 0 else "two\nlines"))
    rows = out.getvalue().splitlines()
    assert rows[0] == "two; lines"
    assert [row.split()[3] for row in rows[1:]] == ["4", "5", "6", "7", "8"]
    assert rows[1].startswith(
        "[ 12.3s] trial    4 baseline         hit          0.9361   1.03s  adamw lr 0.001 batch 128"
    )


def test_a_resumed_run_shows_no_old_trial_again() -> None:
    console, out = screen()
    view = LineView(console)
    view(snapshot(finished=tuple(DONE), plan="", running=(TrialSpec(9, "preflight"),)))
    view(snapshot(finished=(*DONE, record(10, "race", "hit", 0.2, 0.94))[-5:], plan="", running=()))
    assert [row.split()[3] for row in out.getvalue().splitlines()] == ["10"]


def test_the_live_view_leaves_nothing_behind() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, no_color=True, _environ={})
    with LiveView(console, "autoaccel tune digits", parse_budget("60s")) as view:
        view(snapshot())
    assert "budget" in out.getvalue() and out.getvalue().endswith("\x1b[2K")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (0.0, "0.000s"),
        (0.2345, "0.234s"),
        (0.9999, "1.00s"),
        (9.994, "9.99s"),
        (9.999, "10.0s"),
        (59.94, "59.9s"),
        (59.99, "1m00s"),
        (65, "1m05s"),
        (3599.6, "1h00m"),
        (7320, "2h02m"),
    ],
)
def test_durations_for_people(value: float | None, expected: str) -> None:
    assert seconds(value) == expected


@pytest.mark.parametrize(("value", "expected"), [(0.00123456, "0.00123"), (128, "128"), ("adamw", "adamw"), (1.0, "1")])
def test_settings_for_people(value: Any, expected: str) -> None:
    assert number(value) == expected


@pytest.mark.parametrize(
    ("purpose", "expected"),
    [
        ("preflight", "checking the task"),
        ("hardware", "measuring the hardware"),
        ("memory_peak", "measuring memory"),
        ("step_cost", "measuring a training step"),
    ],
)
def test_probes_have_words(purpose: str, expected: str) -> None:
    assert describe(TrialSpec(1, purpose)) == expected


def test_accumulation_is_shown_where_it_is_used() -> None:
    spec = TrialSpec(1, "race", with_params(TUNED, {"batch.accumulation": 4}))
    assert describe(spec) == "sgd lr 0.1 batch 64/4 constant fp32 horizon 4950"
    assert line(TrialRecord(spec, (), Ended(1, "oom"))).split()[:6] == ["trial", "1", "race", "oom", "-", "0.000s"]


def test_plain_text_has_no_control_characters() -> None:
    assert plain(MALICIOUS).isprintable() and len(plain(MALICIOUS)) == len(MALICIOUS)
