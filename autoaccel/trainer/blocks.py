"""The repeated blocks of a model: what deep networks are made of, found by structure alone.

Must not know what is done with them.
"""

from __future__ import annotations

from torch import nn


def blocks(model: nn.Module) -> list[nn.Module]:
    """Blocks in the order in which a model registers them; empty where it has none.

    A block is an element of an nn.Sequential or nn.ModuleList (at any depth; the innermost counts) that has parameters
    and modules of its own and is no such list itself. Where there is none, lists of plain layers inside a list count.
    """
    return _inside(model, lists=False) or _inside(model, lists=True)


def _inside(module: nn.Module, *, lists: bool) -> list[nn.Module]:
    found = []
    for child in module.children():
        inner = _inside(child, lists=lists)
        if not inner and _is_list(module) and _is_compound(child) and (lists or not _is_list(child)):
            inner = [child]
        found += inner
    return list(dict.fromkeys(found))


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList)


def _is_compound(module: nn.Module) -> bool:
    return any(True for _ in module.children()) and any(True for _ in module.parameters())
