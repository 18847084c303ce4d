"""How many operations something is made of, and how many bytes they read and write.

Counted as they run, from the sizes of their tensors. Must not know what is counted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Traffic(TorchDispatchMode):
    """Counts the operations that run inside it, and the bytes of the tensors they read and write.

    As if nothing stayed in a cache between two operations; views and empty memory cost nothing.
    """

    n_operations, n_bytes = 0, 0
    is_counting = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        name = func._schema.name
        if func.is_view or name.startswith(_FREE) or not self.is_counting:
            return found
        changed = _tensors(_changed(func, args, kwargs or {}))
        unread = {id(t) for t in changed} if name in _OVERWRITES else set()
        read = [t for t in _tensors((args, kwargs)) if id(t) not in unread]
        written = {id(t): t for t in [*changed, *_tensors(found)]}  # an operation in place also returns what it changed
        self.n_operations += 1
        self.n_bytes += sum(t.nbytes for t in [*read, *written.values()])
        return found


_OVERWRITES = ("aten::copy_", "aten::zero_", "aten::fill_", "aten::_foreach_zero_", "aten::_foreach_copy_")
"""Operations that do not read what they change."""
_FREE = ("aten::empty", "aten::_unsafe_view")
"""How operations are called that move nothing, beside those that say that they give a view."""


def _changed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The arguments that an operation writes to, as its schema says."""
    arguments = func._schema.arguments
    given = {argument.name: value for argument, value in zip(arguments, args, strict=False)} | kwargs
    return [given.get(a.name) for a in arguments if a.alias_info is not None and a.alias_info.is_write]


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
