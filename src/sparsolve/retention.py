"""What a memo keeps, and for whom.

A factorization is asked for again by the gradient of the solve that made it. The graph of that gradient holds the values, so as long as their memory
lives and is not solved with other numbers, somebody may ask; afterwards hardly anybody will. So an entry remembers the memory that its arrays came
from. One whose memory is gone is **idle**: idle entries share a part of the bound, and a small part where they have served already. A training loop then
uses the same few megabytes over and over, where keeping all that fits would take fresh memory for each step.

This decides only what is kept. What is found is decided by comparing every bit.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

from .array_key import Key

__all__ = ["Entry", "Retention", "Source"]

T = TypeVar("T")
_SHARES = {True: 1 / 128, False: 1 / 8}  # of the bound, for idle entries that have served, and for those that have not
_FEW = 4  # idle entries of each kind that stay, however large
_LOOKS = 2  # sources looked at whenever an entry is made

Memory = Callable[[], Any]  # a weak reference: there is one to each memory, as long as somebody has it


class Source(NamedTuple):
    """Where an entry's arrays came from: somebody's memory, such as a tensor's storage, held weakly; and the place in it."""

    memory: Memory
    place: int

    def at(self, i: int) -> Source:
        """That of the matrix that is `i` further on in a batch."""
        return Source(self.memory, self.place + i) if i else self


Held = tuple[Hashable, int, int]  # the rest of a key, the id of a memory's reference, and the place in it


class Entry(Generic[T]):
    """One remembered result; `lock` is held while it is being made, so that it is made once.

    Attributes:
        held: under which key of `Retention` its source is watched; None where it is idle, or never had one.
        memory: that source's.
        matrices: how many it is the factorization of.
        served: whether it was found again since it was made, as by a gradient.
    """

    __slots__ = ("__weakref__", "held", "key", "lock", "matrices", "memory", "nbytes", "served", "value")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.lock = threading.Lock()
        self.value: T | None = None
        self.held: Held | None = None
        self.memory: Memory | None = None
        self.nbytes, self.matrices, self.served = 0, 1, False


class Retention(Generic[T]):
    """The entries whose source is watched, and the idle ones; an entry without a source is neither. The memo's lock guards it."""

    def __init__(self) -> None:
        self._held: OrderedDict[Held, Entry[T]] = OrderedDict()
        self._idle: dict[bool, OrderedDict[int, Entry[T]]] = {served: OrderedDict() for served in _SHARES}
        self._bytes = dict.fromkeys(_SHARES, 0)

    def hold(self, entry: Entry[T], source: Source | None) -> None:
        """`source` has the entry's arrays. What it had before is overwritten: that entry is idle."""
        if source is None:
            return
        memory, place = source
        if entry.memory is memory and entry.held is not None and entry.held[2] == place:
            return
        held = entry.key.rest, id(memory), place
        self.discard(entry)
        before = self._held.get(held)
        if before is not None:
            self._let_go(before)
        self._held[held], entry.held, entry.memory = entry, held, memory

    def serve(self, entry: Entry[T], source: Source | None) -> None:
        """The entry was found, by arrays that are in `source`."""
        if not entry.served:
            idle = self._leave(entry)
            entry.served = True
            if idle:
                self._rest(entry)
        self.hold(entry, source)

    def discard(self, entry: Entry[T]) -> None:
        """Watch it no longer."""
        if entry.held is not None:
            del self._held[entry.held]
            entry.held = entry.memory = None
        else:
            self._leave(entry)

    def look(self) -> None:
        """See whether some sources are gone, each in its turn."""
        for held, entry in list(islice(self._held.items(), _LOOKS)):
            if entry.memory is None or entry.memory() is None:
                self._let_go(entry)
            else:
                self._held.move_to_end(held)

    def surplus(self, max_bytes: int) -> Entry[T] | None:
        """The longest idle entry of a kind that has more than its share of the bound."""
        for served, share in _SHARES.items():
            if self._bytes[served] > share * max_bytes and len(self._idle[served]) > _FEW:
                return next(iter(self._idle[served].values()))
        return None

    def idle(self) -> Iterator[Entry[T]]:
        """Idle entries, those that have served first, then the longest idle ones."""
        for served in _SHARES:
            yield from self._idle[served].values()

    def _let_go(self, entry: Entry[T]) -> None:
        self.discard(entry)
        self._rest(entry)

    def _rest(self, entry: Entry[T]) -> None:
        self._idle[entry.served][id(entry)] = entry
        self._bytes[entry.served] += entry.nbytes

    def _leave(self, entry: Entry[T]) -> bool:
        """Out of the idle ones, if it is one."""
        if self._idle[entry.served].pop(id(entry), None) is None:
            return False
        self._bytes[entry.served] -= entry.nbytes
        return True
