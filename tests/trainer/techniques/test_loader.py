"""Worker processes read the same batches as the training itself would, in the same order, and leave nothing behind."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from autoaccel.config import TrainerConfig
from autoaccel.errors import UsageError
from autoaccel.sections import Loader
from autoaccel.trainer.build import build
from autoaccel.trainer.data import Split, load_split
from autoaccel.trainer.parts import LoadedTask
from autoaccel.trainer.techniques.loader import Ahead, Fetch, Wanted, in_pieces

N = 50


class Noted(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Sample i is i; which process read it is written down. Its second column is random, so that it is not kept."""

    def __init__(self, notes: Path) -> None:
        self.notes = notes

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with self.notes.open("a") as stream:
            stream.write(f"{os.getpid()} {i}\n")
        return torch.tensor(float(i)), torch.rand(()), torch.tensor(i % 3)


def streamed(tmp_path: Path) -> Split:
    split = load_split(Noted(tmp_path / "notes"), "train", torch.device("cpu"))
    assert split.tensors is None
    (tmp_path / "notes").unlink()
    return split


def steps(position: int, size: int = 6, n_pieces: int = 2) -> Iterator[Wanted]:
    """Samples in order, round and round."""
    while True:
        yield from in_pieces(torch.arange(position, position + size) % N, position, n_pieces)
        position += size


def test_workers_read_what_is_asked_in_order_and_nobody_else_reads(tmp_path: Path) -> None:
    fetch = Fetch(Ahead(streamed(tmp_path), Loader(workers=2), seed=1), steps)
    for position in range(0, 60, 6):
        for piece in (torch.arange(position, position + 3) % N, torch.arange(position + 3, position + 6) % N):
            assert fetch(piece, position)[0].tolist() == piece.float().tolist()
    readers = {int(line.split()[0]) for line in (tmp_path / "notes").read_text().splitlines()}
    assert len(readers) == 2 and os.getpid() not in readers


def test_a_piece_may_be_asked_twice_within_its_step(tmp_path: Path) -> None:
    fetch = Fetch(Ahead(streamed(tmp_path), Loader(workers=1), seed=1), steps)
    first, second = torch.arange(3), torch.arange(3, 6)
    once = [fetch(piece, 0)[1] for piece in (first, second)]
    again = [fetch(piece, 0)[1] for piece in (first, second)]
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert fetch(torch.arange(6, 9), 6)[0].tolist() == [6.0, 7.0, 8.0]


def test_what_is_drawn_at_random_depends_on_seed_and_position_alone(tmp_path: Path) -> None:
    split = streamed(tmp_path)

    def drawn(seed: int, workers: int, start: int) -> list[float]:
        fetch = Fetch(Ahead(split, Loader(workers=workers), seed), lambda at: steps(at, n_pieces=1))
        values: list[float] = []
        for at in range(start, 24, 6):
            values += fetch(torch.arange(at, at + 6), at)[1].tolist()
        return values

    whole = drawn(3, 1, 0)
    assert drawn(3, 2, 0) == whole and drawn(3, 2, 12) == whole[12:]
    assert drawn(4, 1, 0) != whole


def test_a_training_leaves_no_process_behind(run: Callable[..., Any], load: Callable[..., LoadedTask]) -> None:
    before = set(psutil.Process().children(recursive=True))
    plain = load()
    done = run(
        {"loader.workers": 2}, load(train=Shaky(plain.train.tensors), validation=Shaky(plain.validation.tensors))
    )
    assert done.ended.outcome == "finished" and len(done.reports) == 3
    assert set(psutil.Process().children(recursive=True)) <= before


class Shaky(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """A little different each time, and broken from some sample on if so wished."""

    def __init__(
        self, pair: tuple[torch.Tensor, torch.Tensor], broken_from: int = 10**6, notes: Path | None = None
    ) -> None:
        self.pair, self.broken_from, self.notes = pair, broken_from, notes

    def __len__(self) -> int:
        return len(self.pair[1])

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        if i >= self.broken_from:
            raise RuntimeError("sample is broken")
        if self.notes is not None:
            with self.notes.open("a") as stream:
                stream.write(f"{i}\n")
        return self.pair[0][i] + 1e-6 * torch.rand(()), self.pair[1][i]


def test_a_sample_that_cannot_be_read_is_a_crash_that_says_which_error(
    run: Callable[..., Any], load: Callable[..., LoadedTask]
) -> None:
    loaded = load(train=Shaky(load().train.tensors, broken_from=90))
    done = run({"loader.workers": 1}, loaded)
    assert done.ended.outcome == "crashed" and "sample is broken" in done.ended.message


def test_a_batch_that_is_echoed_is_read_once_by_the_workers(
    run: Callable[..., Any], load: Callable[..., LoadedTask], tmp_path: Path
) -> None:
    plain = load()
    loaded = load(train=Shaky(plain.train.tensors, notes=tmp_path / "notes"))
    (tmp_path / "notes").unlink()
    done = run({"loader.workers": 1, "loader.prefetch": 1, "data.echo": 3, "batch.accumulation": 2}, loaded)
    n_read = len((tmp_path / "notes").read_text().splitlines())
    assert done.ended.outcome == "finished" and done.ended.samples == 288
    assert 96 <= n_read <= 96 + 3 * 24, "a third of what was trained on, and what the worker was ahead"


@pytest.mark.parametrize(
    ("params", "words"), [({"loader.workers": 2}, "in memory already"), ({"loader.pin": True}, "needs loader.workers")]
)
def test_what_cannot_help_is_refused(run: Callable[..., Any], params: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run(params)


def test_page_locked_memory_is_refused_without_a_device_that_copies_from_it(
    load: Callable[..., LoadedTask], config: Callable[..., TrainerConfig]
) -> None:
    loaded = load(train=Shaky(load().train.tensors), model=lambda: nn.Linear(6, 3))
    with pytest.raises(UsageError, match=r"loader.pin True: it needs a CUDA device"):
        build(loaded, config({"loader.workers": 1, "loader.pin": True}))


def test_workers_are_ahead_of_the_training(tmp_path: Path) -> None:
    """One batch is asked for; with four batches ahead the worker goes on reading until it has those."""
    fetch = Fetch(Ahead(streamed(tmp_path), Loader(workers=1, prefetch=4), seed=1), lambda at: steps(at, n_pieces=1))
    fetch(torch.arange(6), 0)
    for _ in range(1500):
        read = len((tmp_path / "notes").read_text().splitlines())
        if read >= 5 * 6:
            break
        time.sleep(0.02)
    assert read == 5 * 6
