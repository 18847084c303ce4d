"""A text becomes windows of symbols and a small language model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from autoaccel.config import TrainerConfig, with_params
from autoaccel.errors import UsageError
from autoaccel.tasks.text import FEWEST, Text, encoded, language_model
from autoaccel.trainer.preflight import preflight
from autoaccel.trainer.run import run_training
from autoaccel.trial import TrialSpec

RHYME = "the cat sat on the mat; the rat sat on the cat. "


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "rhyme.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_text_is_cut_into_windows_in_order(tmp_path: Path) -> None:
    task = Text(text=written(tmp_path, RHYME * 40), context=16).task()
    letters = sorted(set(RHYME))
    train, validation, test = task.train, task.validation, task.test
    assert [len(x) for x, _ in (train, validation, test)] == [107, 6, 6]  # 119 windows: 90, 5 and 5 %
    assert all(x.dtype == np.uint8 and x.shape == y.shape for x, y in (train, validation, test))
    symbols = np.concatenate([x.ravel() for x, _ in (train, validation, test)])
    assert "".join(letters[s] for s in symbols) == (RHYME * 40)[: len(symbols)]
    assert (train[1].ravel()[:-1] == train[0].ravel()[1:]).all() and train[1][-1, -1] == validation[0][0, 0]
    assert (task.name, task.metric, task.metric_direction) == ("char-transformer-rhyme", "loss", "min")


@pytest.mark.parametrize(
    ("data", "symbols", "n"),
    [
        (b"baab", [1, 0, 0, 1], 2),
        ("žaž".encode(), [1, 0, 1], 2),
        (b"\xffab", [255, 97, 98], 256),
        ("".join(map(chr, range(300, 600))).encode(), None, 256),
        (b"aaaa", [97] * 4, 256),
    ],
    ids=["letters", "letters of two bytes", "not UTF-8", "more letters than a byte has values", "one letter"],
)
def test_symbols_are_letters_or_bytes(data: bytes, symbols: list[int] | None, n: int) -> None:
    found, n_found = encoded(data)
    assert (found.dtype, n_found) == (np.uint8, n)
    assert found.tolist() == (symbols if symbols is not None else list(data))


def test_the_model_sees_the_past_only_and_takes_shorter_windows() -> None:
    torch.manual_seed(0)
    model = language_model(20, 16).eval()
    x = torch.randint(0, 20, (2, 16), dtype=torch.uint8)
    changed = x.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % 20
    with torch.no_grad():
        whole, other, short = model(x), model(changed), model(x[:, :10])
    assert whole.shape == (2, 16, 20)
    assert torch.allclose(whole[:, :10], other[:, :10], atol=1e-6)
    assert torch.allclose(whole[:, :10], short, atol=1e-6)
    assert not torch.allclose(whole[:, 10:], other[:, 10:], atol=1e-3)


def test_the_model_begins_as_a_guess_and_every_weight_is_trained() -> None:
    torch.manual_seed(0)
    model = language_model(20, 16)
    x = torch.randint(0, 20, (8, 16))
    loss = functional.cross_entropy(model(x).flatten(0, 1), x.flatten())
    loss.backward()
    assert float(loss.detach()) == pytest.approx(np.log(20), abs=0.1)
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


def test_perplexity_is_the_exponential_of_the_loss_and_falls(tmp_path: Path) -> None:
    path = written(tmp_path, RHYME * 80)
    config = with_params(
        TrainerConfig(),
        {"batch.size": 16, "optim.lr": 1e-2, "horizon.samples": 640, "evaluate.every_samples": 640},
    )
    found = {}
    for metric in ("loss", "perplexity"):
        loaded, facts = preflight(Text(text=path, context=16, metric=metric).task())
        assert facts["flops_per_sample"] > 0 and facts["metric"] == metric
        found[metric] = run_training(loaded, TrialSpec(1, "train", config, None), report=print)[0].value
    assert found["loss"] < 1.5 < np.log(13)
    assert found["perplexity"] == pytest.approx(np.exp(found["loss"]), rel=1e-3)


@pytest.mark.parametrize(
    ("text", "context", "message"),
    [
        (None, 128, "no such file"),
        ("short", 128, f"rhyme.txt: 5 symbols are 0 windows of 128; {FEWEST} are needed"),
        (RHYME * 30, 32, f"1440 symbols are 44 windows of 32; {FEWEST} are needed"),
        ("éa" * 500, 20, "1000 symbols are 49 windows of 20"),
        (RHYME, 1, "--context 1: below 2"),
    ],
)
def test_a_text_that_cannot_be_used_is_refused(tmp_path: Path, text: str | None, context: int, message: str) -> None:
    path = tmp_path / "rhyme.txt" if text is None else written(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        Text(text=path, context=context).task()
    assert message in caught.value.message and caught.value.hint
