"""torch's compiler kept out of processes that do not compile: importing it takes longer than a short training.

Must not know models.
"""

from __future__ import annotations

import sys
from typing import Any


def spare_compiler(*functions: Any) -> None:
    """Keep torch from importing its compiler for functions that it wraps only to exempt them from compilation.

    The first call of such a function, and every optimizer's wrapped step, imports torch._dynamo: 1.2 s of every process
    (Xeon, one core, torch 2.15, 2026-11-21). Here they are never called from compiled code, so each is its own exempt
    version. A torch that does not wrap them is left alone.
    """
    for function in functions:
        plain = getattr(function, "__wrapped__", None)
        if plain is not None and "torch._dynamo" not in sys.modules:
            vars(plain).setdefault("__dynamo_disable", plain)
