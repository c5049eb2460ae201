"""A bounded, locked memo of a pure function, whose arguments are arrays.

A hit needs **bit-equal** arrays, compared with the entry's own copies (`array_key.py`), so it can never change an answer. What goes
first is what nobody can ask for any more (`retention.py`), and then the least recently used.
"""

from __future__ import annotations

import operator
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from itertools import chain, islice
from typing import Any, Generic, NamedTuple, TypeVar

from .array_key import Key, key_of
from .errors import sentence
from .retention import Entry, Retention, Source

__all__ = ["ANALYSES", "FACTORS", "Memo", "MemoInfo", "clear_memo", "memo_info", "release", "set_memo_limit"]

T = TypeVar("T")
_OVERHEAD = 1 << 13  # bytes of an entry's objects, whatever their arrays


class MemoInfo(NamedTuple):
    """Counts since the last `clear_memo()`, and what is held now.

    Attributes:
        factorizations: numeric factorizations made.
        factor_hits: times that one was found again.
        analyses: patterns analysed.
        analysis_hits: times that one was found again.
        entries: factorizations held; the small matrices of a batch are one.
        nbytes: bytes held by both memos, as estimated from the arrays.
        max_bytes: the bound on `nbytes`.
    """

    factorizations: int
    factor_hits: int
    analyses: int
    analysis_hits: int
    entries: int
    nbytes: int
    max_bytes: int


class Memo(Generic[T]):
    """Remember a function's results by its arrays and a hashable rest.

    Args:
        max_bytes: bound on the bytes held. One entry larger than this is kept as long as it is the newest; 0 keeps nothing.
        summed: whether a sum helps to tell arrays apart that differ in a few entries, as those of a finite difference do.
        users: a memo whose keys name this one's values; what names one that is let go of can never be found again, and goes too.
    """

    made: int
    hits: int
    nbytes: int
    _entries: OrderedDict[Key, Entry[T]]
    _wanted: Retention[T]
    _newest: Entry[T] | None  # the last one there

    def __init__(self, max_bytes: int, summed: bool = True, users: Memo[Any] | None = None) -> None:
        self.max_bytes, self._summed, self._users = max_bytes, summed, users
        self._lock = threading.Lock()
        self.clear()

    def get(self, rest: Hashable, arrays: tuple[Any, ...], make: Callable[..., T], source: Source | None = None) -> T:
        """`make(*arrays)`, or what it returned for bit-equal `arrays` and equal `rest`.

        Args:
            rest: hashable.
            arrays: NumPy's or CuPy's, contiguous.
            make: gets read-only copies of NumPy's arrays, which the memo keeps in any case, so it may keep them too.
            source: where the arrays came from.
        """
        return self.entry(rest, arrays, make, source).value  # type: ignore[return-value]

    def entry(
        self, rest: Hashable, arrays: tuple[Any, ...], make: Callable[..., T], source: Source | None = None
    ) -> Entry[T]:
        """The entry of `get(rest, arrays, make, source)`, which whoever holds it weakly can use again without a search."""
        key = key_of(rest, arrays, self._summed)
        while True:
            with self._lock:
                entry = self._newest
                if entry is None or entry.key != key:  # what was used last is asked for most, and needs no hash
                    entry = self._entries.get(key)
                if entry is not None:
                    if entry is not self._newest:
                        self._entries.move_to_end(entry.key)  # itself, not an equal one, so nothing is compared again
                        self._newest = entry
                    if entry.value is not None:
                        self.hits += entry.matrices
                        if source is not None or not entry.served:
                            self._wanted.serve(entry, source)
                        return entry
            if entry is None:
                made = self._make(key, arrays, make, source)
                if made is not None:
                    return made
            else:
                with entry.lock:  # wait while another thread makes it, then look again
                    pass

    def again(self, entry: Entry[T]) -> T | None:
        """The value of an entry that was found or made before; None if it has been let go of."""
        with self._lock:
            if entry is not self._newest:
                if self._entries.get(entry.key) is not entry:
                    return None
                self._entries.move_to_end(entry.key)
                self._newest = entry
            self.hits += entry.matrices
            if not entry.served:
                self._wanted.serve(entry, None)
            return entry.value

    def _make(
        self, key: Key, arrays: tuple[Any, ...], make: Callable[..., T], source: Source | None
    ) -> Entry[T] | None:
        """Make the value and keep it, with the entry's lock held; None where another thread was faster."""
        arrays = key.own(arrays)
        entry: Entry[T] = Entry(key)
        try:
            with entry.lock:
                with self._lock:
                    if self._entries.setdefault(key, entry) is not entry:
                        return None
                    self._newest = entry
                value = make(*arrays)
                with self._lock:
                    entry.matrices = getattr(value, "matrices", 1)
                    self.made += entry.matrices
                    entry.value = value
                    if self._entries.get(key) is entry:
                        entry.nbytes = _OVERHEAD + key.nbytes + int(getattr(value, "nbytes", 0))
                        self.nbytes += entry.nbytes
                        self._wanted.hold(entry, source)
                        self._wanted.look()
                        self._shrink()
                return entry
        finally:
            if entry.value is None:
                with self._lock:
                    if self._entries.get(key) is entry:
                        self._remove(entry)

    def _shrink(self) -> None:
        """Let go of idle entries beyond their share, and of any until the rest fits. The newest stays, since its gradient is still to
        come, unless the bound is 0; entries that are being made weigh nothing and stay."""
        while (entry := self._wanted.surplus(self.max_bytes)) is not None:
            self._forget(entry)
        kept = 0 if self.max_bytes == 0 else 1
        while self.nbytes > self.max_bytes and (entry := self._first_to_go(kept)) is not None:
            self._forget(entry)

    def _first_to_go(self, kept: int) -> Entry[T] | None:
        """An idle entry, or else the least recently used, except the `kept` newest."""
        old = islice(self._entries.values(), max(len(self._entries) - kept, 0))
        newest = self._newest if kept else None
        return next((e for e in chain(self._wanted.idle(), old) if e is not newest and e.value is not None), None)

    def _forget(self, entry: Entry[T]) -> None:
        self._remove(entry)
        self._wanted.discard(entry)
        self.nbytes -= entry.nbytes
        if self._users is not None:
            self._users.forget_users(entry.value)

    def _remove(self, entry: Entry[T]) -> None:
        del self._entries[entry.key]
        if entry is self._newest:
            self._newest = next(reversed(self._entries.values()), None)

    def forget_users(self, part: Any) -> None:
        """Let go of the entries whose key's rest is a tuple with this very object in it."""
        with self._lock:
            for entry in list(self._entries.values()):
                rest = entry.key.rest
                if entry.value is not None and isinstance(rest, tuple) and any(p is part for p in rest):
                    self._forget(entry)

    def restart(self) -> None:
        """Forget everything and take new locks: for a forked child, whose other threads do not exist any more."""
        self._lock = threading.Lock()
        self.clear()

    def resize(self, max_bytes: int) -> None:
        """Change the bound, and forget what no longer fits."""
        with self._lock:
            self.max_bytes = max_bytes
            self._shrink()

    def release(self) -> None:
        """Let go of everything held; what is being made stays, and the counts too."""
        with self._lock:
            for entry in list(self._entries.values()):
                if entry.value is not None:
                    self._forget(entry)

    def clear(self) -> None:
        """Forget everything, and set the counts to zero."""
        with self._lock:
            self._entries = OrderedDict()
            self._newest = None
            self._wanted = Retention()
            self.made = self.hits = self.nbytes = 0

    def __len__(self) -> int:
        return len(self._entries)


FACTORS: Memo[Any] = Memo(3 * 2**29)
ANALYSES: Memo[Any] = Memo(2**29, summed=False, users=FACTORS)


def _after_fork() -> None:
    ANALYSES.restart()
    FACTORS.restart()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def memo_info() -> MemoInfo:
    """How many factorizations and analyses were made, and how often one was found again, since the last `clear_memo()`; what is held now.

    >>> import sparsolve as sps
    >>> sps.clear_memo()
    >>> sps.memo_info().factorizations
    0
    """
    return MemoInfo(
        factorizations=FACTORS.made,
        factor_hits=FACTORS.hits,
        analyses=ANALYSES.made,
        analysis_hits=ANALYSES.hits,
        entries=len(FACTORS),
        nbytes=ANALYSES.nbytes + FACTORS.nbytes,
        max_bytes=ANALYSES.max_bytes + FACTORS.max_bytes,
    )


def clear_memo() -> None:
    """Forget all factorizations and analyses, and set the counts to zero. Results depend on it by rounding at most.

    >>> import sparsolve as sps
    >>> sps.clear_memo()
    >>> sps.memo_info().entries
    0
    """
    FACTORS.clear()
    ANALYSES.clear()


def release() -> None:
    """Let go of all that is held, for its memory; the counts go on."""
    for memo in (FACTORS, ANALYSES):
        memo.release()


def set_memo_limit(max_bytes: int) -> None:
    """Bound the bytes that the memo holds: a quarter for analyses, the rest for factorizations. The default is 2 GiB.

    The newest factorization is kept even where it alone is larger, since its gradient is still to come; 0 keeps nothing.

    Args:
        max_bytes: at least 0.

    Raises:
        TypeError: not a whole number.
        ValueError: a negative number.

    >>> import sparsolve as sps
    >>> sps.set_memo_limit(2**31)
    """
    try:
        max_bytes = operator.index(max_bytes)
    except TypeError as error:
        remedy = "2**30 is 1 GiB; int(1e9), 1 GB."
        raise TypeError(sentence(f"max_bytes is {max_bytes!r}; a whole number is needed.", remedy=remedy)) from error
    if max_bytes < 0:
        raise ValueError(f"max_bytes is {max_bytes}; it must be at least 0. 0 keeps nothing.")
    ANALYSES.resize(max(max_bytes // 4, min(max_bytes, 1)))
    FACTORS.resize(max_bytes - max_bytes // 4)
