"""The order of a training's samples, composed from the techniques that draw them, in one written order.

Must not know models or losses.
"""

from __future__ import annotations

from functools import partial

from autoaccel.sections import Data
from autoaccel.trainer.data import Split
from autoaccel.trainer.draws import ChosenPasses, Rearranged
from autoaccel.trainer.parts import Order
from autoaccel.trainer.techniques.easy_to_hard import easiest, pace
from autoaccel.trainer.techniques.echo import echoed
from autoaccel.trainer.techniques.importance import ImportanceOrder
from autoaccel.trainer.techniques.infobatch import pruned
from autoaccel.trainer.techniques.repeats import repeated
from autoaccel.trainer.techniques.sampling import SampleOrder
from autoaccel.trainer.techniques.selective import candidates


def new_order(split: Split, config: Data, seed: int) -> Order:
    """The order of one training; equal seeds, and equal losses where it learns from them, draw the same samples.

    Raises:
        UsageError: class_balanced without labels.
    """
    # 1 What draws samples.
    plain = SampleOrder(split, config, seed)
    order: Order = plain
    if config.sampling == "importance":
        order = ImportanceOrder(plain.draw, split.n, split.device, seed)
    if config.sampling == "infobatch":
        order = ChosenPasses(split, lambda losses, _, rng: pruned(losses, config.prune, rng), config.prune_until, seed)
    if config.order == "easy_to_hard":
        part = partial(pace, until=config.order_until)
        order = ChosenPasses(split, lambda losses, at, rng: easiest(losses, part(at), rng), config.order_until, seed)
    # 2 How a step asks for them.
    if config.repeats > 1:
        order = Rearranged(order, partial(repeated, times=config.repeats))
    if config.echo > 1:
        order = Rearranged(order, partial(echoed, times=config.echo))
    if config.sampling == "selective":
        order = Rearranged(order, partial(candidates, config=config))
    return order
