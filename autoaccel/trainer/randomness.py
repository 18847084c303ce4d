"""Random generators of a training: seeded for it, and put back afterwards.

Must not know what is trained.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """All random generators seeded, and put back afterwards: the caller's own draws are not disturbed."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    # Without a list, torch forks the generators of all devices and warns that it does.
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
