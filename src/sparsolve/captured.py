"""Constants that a function captures, made inside of transforms: what they are outside.

A level of torch.func wraps every tensor that is made inside of it, constant or not. An operator's function is called again where that level has been left, by
a solve and by its derivatives, and torch has no numbers for such a tensor there. So one call, where the levels still are, shows which tensors the function
finds that it neither got nor made, and later calls find the numbers in their place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import optree
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .levels import in_transforms, is_wrapped, numbers

__all__ = ["Constants", "constants_of"]

R = TypeVar("R")


class Constants(TorchFunctionMode):
    """Numbers in place of wrapped tensors, wherever torch is given one of them."""

    def __init__(self, wrapped: list[Tensor]) -> None:
        super().__init__()
        self._wrapped = wrapped  # kept, so that no other tensor has the id of one
        self._plain = {id(t): numbers(t) for t in wrapped}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = optree.tree_map(lambda a: self._plain.get(id(a), a), (tuple(args), kwargs or {}))  # type: ignore[arg-type]
        return func(*args, **kwargs)


class _Seen(TorchFunctionMode):
    """Looks at what torch is given."""

    def __init__(self) -> None:
        super().__init__()
        self.captured: dict[int, Tensor] = {}
        self._made: dict[int, Any] = {}  # kept, for their ids

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for t in _tensors((tuple(args), kwargs or {})):
            if id(t) not in self._made and is_wrapped(t):
                self.captured[id(t)] = t
        result = func(*args, **kwargs or {})
        self._made.update((id(t), t) for t in _tensors(result))
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in optree.tree_leaves(tree) if isinstance(t, Tensor)]


def constants_of(call: Callable[[], R]) -> tuple[R, Constants | None]:
    """What a call returns that is given no wrapped tensor, and the constants that it found, if there are any."""
    if not in_transforms():
        return call(), None
    with _Seen() as seen:
        result = call()
    return result, Constants(list(seen.captured.values())) if seen.captured else None
