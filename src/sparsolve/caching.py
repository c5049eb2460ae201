"""`cached_property` without a lock: in Python before 3.12 `functools` has one for all objects of a class, held while a value is found. Others wait
for it, and a child that is forked meanwhile waits for ever. Here two threads may find the same value at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

__all__ = ["cached_property"]

T = TypeVar("T")


class cached_property(Generic[T]):  # noqa: N801
    """A method's result, found when it is first asked for and kept in the object's `__dict__`."""

    def __init__(self, find: Callable[[Any], T]) -> None:
        self._find, self._name, self.__doc__ = find, find.__name__, find.__doc__

    @overload
    def __get__(self, instance: None, owner: Any) -> cached_property[T]: ...

    @overload
    def __get__(self, instance: object, owner: Any) -> T: ...

    def __get__(self, instance: Any, owner: Any) -> Any:
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._find(instance)
        return value
