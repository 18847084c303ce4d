"""One verdict per knob: the effect in words, or the reason why there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autoaccel.budget import parse_budget
from autoaccel.config import with_params
from autoaccel.report.verdicts import Verdict, effect_text, verdicts
from autoaccel.search.explain import KnobEffect
from tests.simulated.problems import BASELINE, question

ASKED = question(parse_budget("60s"))


def verdict(path: str, chosen: dict[str, Any], *effects: KnobEffect) -> Verdict:
    return next(v for v in verdicts(ASKED, with_params(BASELINE, chosen), effects) if v.path == path)


@pytest.mark.parametrize(
    ("ratio", "low", "high", "text"),
    [
        (3.1, 1.84, 6.0, "training would take 3.1x [1.8, 6.0] longer with the baseline's"),
        (50.0, 12.2, 50.0, "training would take over 50x [12, over 50] longer with the baseline's"),
        (0.7, 0.5, 0.9, "kept, although training would take 0.7x [0.5, 0.9] with the baseline's"),
        (1.2, 1.04, 1.4, "bought nothing that was seen (1.0x to 1.4x)"),
        (1.0, 0.9, 1.3, "bought nothing that was seen (0.9x to 1.3x)"),
        (1.0, 0.02, 1.3, "the trials do not tell (under 0.02x to 1.3x)"),
        (1.5, 0.9, 4.0, "the trials do not tell (0.9x to 4.0x)"),
    ],
)
def test_effects_in_words(ratio: float, low: float, high: float, text: str) -> None:
    assert effect_text(ratio, low, high) == text


def test_a_verdict_is_the_effect_of_its_knob() -> None:
    found = verdict("optim.lr", {"optim.lr": 0.02}, KnobEffect("optim.lr", 0.02, 1e-3, 3.1, 1.8, 6.0))
    assert (found.tuned, found.baseline, found.ratio, found.low, found.high) == (0.02, 1e-3, 3.1, 1.8, 6.0)
    assert found.text.startswith("training would take 3.1x")


def test_a_baseline_outside_the_space_is_judged_at_its_nearest_value() -> None:
    """The default recipe has no weight decay at all, which a log range cannot hold."""
    assert BASELINE.optim.weight_decay == 0.0
    effect = KnobEffect("optim.weight_decay", 1e-3, 1e-6, 1.0, 0.9, 1.1)
    found = verdict("optim.weight_decay", {"optim.weight_decay": 1e-3}, effect)
    assert (found.baseline, found.tuned) == (0.0, 1e-3)
    assert found.text == "bought nothing that was seen (0.9x to 1.1x); as at 1e-06, the nearest that is searched"
    assert (
        verdict("optim.weight_decay", {"optim.weight_decay": 1e-6}).text == "as near to the baseline's as is searched"
    )


def test_what_is_not_judged_alone_says_why() -> None:
    chosen = {"optim.name": "sgd", "optim.lr": 0.1, "horizon.samples": 4000}
    assert verdict("optim.lr", chosen).text == "judged with optim.name"
    assert verdict("horizon.samples", chosen).text.startswith("not judged alone")
    assert verdict("batch.size", chosen).text == "unchanged"
    assert verdict("batch.size", chosen).ratio is None


def test_a_knob_that_was_not_searched_says_why() -> None:
    found = verdict("precision.dtype", {})
    assert (found.tuned, found.text) == ("fp32", "by hand")
    pinned = replace(ASKED, space=ASKED.space.fix({"optim.name": "sgd"}, "pinned by --fix"))
    shown = next(v for v in verdicts(pinned, BASELINE, []) if v.path == "optim.name")
    assert (shown.tuned, shown.text) == ("adamw", "pinned by --fix (searched with sgd; the answer is the baseline)")


def test_every_knob_has_one_verdict() -> None:
    found = [v.path for v in verdicts(ASKED, BASELINE, [])]
    assert sorted(found) == sorted([*ASKED.space.paths, *ASKED.space.fixed])
