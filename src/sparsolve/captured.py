"""What a function captures: tensors that must stay as they are until the derivative, and constants made inside of transforms.

A derivative calls the function again. Where a tensor that it captures has been written to since, that is another function, so the count of
writes that torch keeps is compared.

A level of torch.func wraps every tensor that is made inside of it, constant or not. An operator's function is called again where that level has been left, by
a solve and by its derivatives, and torch has no numbers for such a tensor there. So one call, where the levels still are, shows which tensors the function
finds that it neither got nor made, and later calls find the numbers in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import ref

import optree
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .errors import sentence
from .levels import is_wrapped, numbers

__all__ = ["Captured", "Constants", "captured_by"]

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


@dataclass(frozen=True)
class Captured:
    """What a function captures.

    Attributes:
        written: which tensors, and how often each had been written to.
        constants: those that transforms have wrapped.
    """

    written: tuple[tuple[int, int], ...] = ()
    constants: Constants | None = None
    tensors: tuple[ref[Tensor], ...] = field(default=(), compare=False)

    def require_unchanged(self) -> None:
        """Refuse what has been written to since."""
        for (_, count), held in zip(self.written, self.tensors, strict=True):
            t = held()
            if t is not None and t._version != count:
                raise RuntimeError(
                    sentence(
                        f"A tensor {tuple(t.shape)} that the operator's function captures was changed in place after the solve.",
                        "The derivative would be that of another operator.",
                        "Capture a clone() of it, or put it into params.",
                    )
                )


class _Seen(TorchFunctionMode):
    """Looks at what torch is given."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.wrapped: dict[int, Tensor] = {}
        self.plain: dict[int, tuple[Tensor, int]] = {}
        self._made: dict[int, Any] = {id(t): t for t in known}  # kept, for their ids

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for t in _tensors((tuple(args), kwargs or {})):
            if id(t) in self._made:
                continue
            if is_wrapped(t):
                self.wrapped[id(t)] = t
            elif id(t) not in self.plain and not t.is_inference():
                self.plain[id(t)] = t, t._version
        result = func(*args, **kwargs or {})
        self._made.update((id(t), t) for t in _tensors(result))
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in optree.tree_leaves(tree) if isinstance(t, Tensor)]


def captured_by(call: Callable[[], R], known: Iterable[Tensor]) -> tuple[R, Captured]:
    """What a call returns, and which tensors it found, other than those that are known."""
    with _Seen(known) as seen:
        result = call()
    found = list(seen.plain.values())
    constants = Constants(list(seen.wrapped.values())) if seen.wrapped else None
    return result, Captured(tuple((id(t), count) for t, count in found), constants, tuple(ref(t) for t, _ in found))
