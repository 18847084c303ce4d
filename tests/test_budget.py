"""The grammar of budgets: every accepted form, every refusal with its reason, and what is left of a budget."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoaccel.budget import Budget, Spent, extended, format_duration, parse_budget
from autoaccel.errors import UsageError

HOUR = 3600.0
quick = settings(deadline=None, max_examples=300)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("60s", Budget(seconds=60)),
        ("90m", Budget(seconds=90 * 60)),
        ("2h", Budget(seconds=2 * HOUR)),
        ("1.5h", Budget(seconds=1.5 * HOUR)),
        (".5h", Budget(seconds=0.5 * HOUR)),
        ("1e3s", Budget(seconds=1000)),
        ("1h30m", Budget(seconds=1.5 * HOUR)),
        ("1h 30m", Budget(seconds=1.5 * HOUR)),
        ("1d2h3m4s", Budget(seconds=86400 + 2 * HOUR + 3 * 60 + 4)),
        ("1 day 2 hours", Budget(seconds=26 * HOUR)),
        ("3 MINUTES", Budget(seconds=180)),
        ("5 min", Budget(seconds=300)),
        ("  2h  ", Budget(seconds=2 * HOUR)),
        ("02:30:00", Budget(seconds=2.5 * HOUR)),
        ("1-02:30:00", Budget(seconds=26.5 * HOUR)),
        ("1e18FLOPs", Budget(flops=1e18)),
        ("1e18 FLOP", Budget(flops=1e18)),
        ("2.5PFLOP", Budget(flops=2.5e15)),
        ("3 gflops", Budget(flops=3e9)),
        ("16 device-hours", Budget(device_seconds=16 * HOUR)),
        ("1 device-hour", Budget(device_seconds=HOUR)),
        ("4 GPU-hours", Budget(device_seconds=4 * HOUR)),
        ("0.5 cpu-h", Budget(device_seconds=0.5 * HOUR)),
        ("50 trials", Budget(trials=50)),
        ("1 trial", Budget(trials=1)),
        ("2h or 1e18FLOPs", Budget(seconds=2 * HOUR, flops=1e18)),
        ("50 trials or 16 device-hours", Budget(device_seconds=16 * HOUR, trials=50)),
    ],
)
def test_accepted(text: str, expected: Budget) -> None:
    assert parse_budget(text) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (90, Budget(seconds=90)),
        (1.5, Budget(seconds=1.5)),
        (timedelta(hours=2), Budget(seconds=2 * HOUR)),
        (Budget(trials=3), Budget(trials=3)),
    ],
)
def test_accepted_from_python(value: float | timedelta | Budget, expected: Budget) -> None:
    assert parse_budget(value) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("90", "no unit; did you mean 90s or 90m?"),
        ("0", "no unit"),
        ("2:30", "ambiguous; did you mean 2h30m or 2m30s?"),
        ("-5m", "cannot be negative"),
        ("1h1h", "unit 'h' repeated or out of order"),
        ("30m1h", "unit 'h' repeated or out of order"),
        ("1M", "'M' is ambiguous; write m for minutes"),
        ("5 GFLOP/s", "this is a rate; a budget is an amount"),
        ("5 GFLOPs per second", "this is a rate; a budget is an amount"),
        ("nan", "must be a finite amount"),
        ("inf", "must be a finite amount"),
        ("+Infinity", "must be a finite amount"),
        ("0s", "must be above zero and finite"),
        ("00:00:00", "must be above zero and finite"),
        ("0 trials", "must be above zero and finite"),
        ("1e400 FLOPs", "must be above zero and finite"),
        ("1e-400s", "must be above zero and finite"),
        ("2 hourz", "not understood at '2 hourz'"),
        ("1h30", "not understood at '30'"),
        ("1.5 trials", "not understood"),
        ("1_000s", "not understood"),
        ("+5m", "extends a run"),
        ("\u0662h", "only ASCII digits"),
        ("\uff12h", "only ASCII digits"),
        ("2h or", "not understood at 'or'"),
        ("2h or 3h", "two limits of the same kind"),
        ("2h or 90", "no unit"),
    ],
)
def test_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_budget(text)
    assert caught.value.message.startswith(f"budget {text!r}: ")
    assert reason in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, None, [], timedelta(0), timedelta(seconds=-1)])
def test_refused_from_python(value: object) -> None:
    with pytest.raises(UsageError, match="budget"):
        parse_budget(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "more", "after"),
    [
        ("60s", "+2h", "2h1m"),
        ("1h", " + 30m ", "1h30m"),
        ("2h or 50 trials", "+10 trials", "2h or 60 trials"),
        ("1e12FLOPs or 1h", "+1h or 1e12FLOPs", "2h or 2e12FLOPs"),
    ],
)
def test_a_budget_is_extended(before: str, more: str, after: str) -> None:
    assert extended(parse_budget(before), more) == parse_budget(after)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("2h", "does not begin with '[+]'"),
        ("+", "empty"),
        ("+-2h", "cannot be negative"),
        ("++2h", "extends a run"),
        ("+2 trials", "the run's budget is 1m, another kind"),
        ("+nan", "finite"),
    ],
)
def test_what_is_no_extension_is_refused(more: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        extended(parse_budget("60s"), more)


def test_a_budget_without_a_limit_is_refused() -> None:
    with pytest.raises(UsageError, match="without a limit"):
        Budget()


amounts = st.floats(min_value=1e-6, max_value=1e9)
numbers = st.one_of(st.integers(1, 10**6).map(str), amounts.map(repr))
forms = st.one_of(
    st.tuples(numbers, st.sampled_from(["s", "m", "h", "d", " sec", " minutes", " HOURS", " day"])),
    st.tuples(numbers, st.sampled_from(["FLOPs", " FLOP", "kflop", " GFLOPs", "PFLOP", "EFLOPs"])),
    st.tuples(numbers, st.sampled_from([" device-hours", " gpu-h", "cpu-hour"])),
    st.tuples(st.integers(1, 10**6).map(str), st.sampled_from([" trials", "trial"])),
).map("".join)


@quick
@given(forms)
def test_every_form_survives_being_printed(text: str) -> None:
    budget = parse_budget(text)
    assert parse_budget(str(budget)) == budget


limits = {
    "seconds": amounts,
    "flops": st.floats(min_value=1e-6, max_value=1e30),
    "trials": st.integers(1, 10**9),
    "device_seconds": st.integers(1, 10**6).map(lambda n: n * HOUR),
}


@quick
@given(st.fixed_dictionaries({}, optional=limits).filter(bool))
def test_a_printed_budget_reads_back(kinds: dict[str, float]) -> None:
    budget = Budget(**kinds)  # type: ignore[arg-type]
    assert parse_budget(str(budget)) == budget


pieces = st.sampled_from(
    [*"0123456789.:-+eE \u0663", "h", "m", "M", "s", "d", " or ", "FLOPs", "/s", "trials", "gpu-h"]
)


@quick
@given(st.one_of(st.text(max_size=20), st.lists(pieces, max_size=8).map("".join)))
def test_any_text_is_a_budget_or_a_usage_error(text: str) -> None:
    try:
        budget = parse_budget(text)
    except UsageError as error:
        assert error.message.startswith("budget ")
        return
    given_limits = [v for v in (budget.seconds, budget.flops, budget.device_seconds, budget.trials) if v is not None]
    assert given_limits
    assert all(0 < limit < math.inf for limit in given_limits)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5400, "1h30m"), (60, "1m"), (86400, "1d"), (90061, "1d1h1m1s"), (0.5, "0.5s"), (1.25, "1.25s"), (0, "0s")],
)
def test_durations_are_printed_short(seconds: float, text: str) -> None:
    assert format_duration(seconds).replace("0.0s", "0s") == text


# ------------------------------------------------------------------------------------------------------- what is left


def test_spending_adds_up() -> None:
    both = Spent(seconds=1, flops=2, device_seconds=3, trials=4) + Spent(seconds=10, flops=20, trials=40)
    assert both == Spent(seconds=11, flops=22, device_seconds=3, trials=44)


def test_the_share_is_that_of_the_limit_nearest_its_end() -> None:
    budget = Budget(seconds=100, trials=10)
    assert budget.share(Spent()) == 0
    assert budget.share(Spent(seconds=50, trials=2)) == 0.5
    assert budget.share(Spent(seconds=50, trials=11)) == pytest.approx(1.1)
    assert Budget(flops=1e15).share(Spent(seconds=1e9, flops=5e14)) == 0.5


def test_seconds_left_counts_devices() -> None:
    spent = Spent(seconds=40, device_seconds=80)
    assert Budget(seconds=100).seconds_left(spent) == 60
    assert Budget(device_seconds=100).seconds_left(spent, n_devices=2) == 10
    assert Budget(seconds=100, device_seconds=100).seconds_left(spent, n_devices=2) == 10
    assert Budget(flops=1e15).seconds_left(spent) == math.inf


def test_flops_left() -> None:
    assert Budget(flops=1e15).flops_left(Spent(flops=4e14)) == 6e14
    assert Budget(seconds=100).flops_left(Spent(flops=4e14)) == math.inf
