"""Who is trained against whom, in turns: blocks of whole steps of trainings that wait in between.

Must not know how a block is run nor what is made of the seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

OURS = "ours"
Document = dict[str, Any]
Seconds = tuple[float, float]
"""Wall clock and processor."""
Block = Callable[[int, int], Seconds | str]
"""Of the training at a batch size: so many steps, in seconds; or how it has ended."""


def steps_of(batch: int, block_samples: int) -> int:
    """Steps of a block: at least two."""
    return max(2, round(block_samples / batch))


def run_round(
    workload: str, index: int, choices: Mapping[str, int], block_samples: int, block: Block
) -> list[Document]:
    """A pair of our choice with every other one that a finder has chosen; another is first in every round, and another
    side in every pair.

    Args:
        workload: its name.
        index: of the round.
        choices: batch sizes by who chose them; those that are equal to ours are not trained.
        block_samples: samples in a block.
        block: runs one.
    """
    ours = choices[OURS]
    others = sorted({batch for batch in choices.values() if batch != ours})
    shift = index % len(others) if others else 0
    pairs = []
    for place, batch in enumerate([*others[shift:], *others[:shift]]):
        pair = _pair(ours, batch, block_samples, block, ours_first=(index + place) % 2 == 0)
        pairs.append({"workload": workload, "round": index, "batch": batch, **pair})
    return pairs


def _pair(ours: int, other: int, block_samples: int, block: Block, *, ours_first: bool) -> Document:
    """Four blocks, two of each side: samples per second of both, or how one of them has ended."""
    seconds = {ours: (0.0, 0.0), other: (0.0, 0.0)}
    for batch in (ours, other, other, ours) if ours_first else (other, ours, ours, other):
        found = block(batch, steps_of(batch, block_samples))
        if isinstance(found, str):
            return {"ended": "ours" if batch == ours else "other", "how": found}
        seconds[batch] = seconds[batch][0] + found[0], seconds[batch][1] + found[1]
    n_samples = {batch: 2 * batch * steps_of(batch, block_samples) for batch in seconds}
    wall, cpu = ({batch: n_samples[batch] / seconds[batch][clock] for batch in seconds} for clock in (0, 1))
    ratio = cpu[ours] / cpu[other]
    return {"ours_samples_per_s": wall[ours], "samples_per_s": wall[other], "cpu_ratio": ratio}
