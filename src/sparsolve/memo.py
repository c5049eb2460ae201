"""A bounded, locked memo of a pure function, whose arguments are arrays.

A hit needs **bit-equal** arrays, compared with the entry's own copies, so it can never change an answer: a
hash, a data pointer or a version counter could (compiled code reuses buffers without telling). A sum and samples only say
where to look; the comparison decides.
"""

from __future__ import annotations

import operator
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import reduce
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

__all__ = ["Memo", "MemoInfo", "clear_memo", "memo_info", "release", "set_memo_limit"]

T = TypeVar("T")
_SAMPLES = 8  # numbers of a large array that make its hash
_WHOLE = 1 << 14  # bytes up to which an array is small
_OVERHEAD = 1 << 13  # bytes of an entry's objects, whatever their arrays


class MemoInfo(NamedTuple):
    """Counts since the last `clear_memo()`, and what is held now.

    Attributes:
        factorizations: numeric factorizations made.
        factor_hits: times that one was found again.
        analyses: patterns analysed.
        analysis_hits: times that one was found again.
        entries: factorizations held.
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


class _Key:
    """Arrays and a hashable rest as a dictionary key: equal only if every bit is.

    Small arrays are kept as bytes. Large ones are compared as integers, so that NaN equals NaN and 0.0 differs from -0.0;
    of these a sum and a few samples make the hash.
    """

    __slots__ = ("_hash", "_small", "arrays", "rest")

    def __init__(self, rest: Hashable, arrays: tuple[Any, ...], summed: bool) -> None:
        self.rest = rest
        self.arrays = tuple([_bits(a) for a in arrays])
        self._small = set(map(type, self.arrays)) == {bytes}
        self._hash = hash((rest, _sample(self.arrays[-1], summed)))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Key) or self.rest != other.rest:
            return False
        if self._small and other._small:
            return self.arrays == other.arrays
        return bool(reduce(operator.and_, (_same(a, b) for a, b in zip(self.arrays, other.arrays, strict=True))))

    def own(self) -> None:
        """From here on, in memory that nobody else writes to."""
        self.arrays = tuple(a if isinstance(a, bytes) else a.copy() for a in self.arrays)
        for a in self.arrays:
            if not isinstance(a, (bytes, np.ndarray)):
                a[-1:].get()  # a wait for the device: another stream may compare with the copy at once

    @property
    def nbytes(self) -> int:
        return sum(len(a) if isinstance(a, bytes) else int(a.nbytes) for a in self.arrays)


class _Entry(Generic[T]):
    """One remembered result; `lock` is held while it is being made, so that it is made once."""

    __slots__ = ("key", "lock", "nbytes", "value")

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.lock = threading.Lock()
        self.value: T | None = None
        self.nbytes = 0


class Memo(Generic[T]):
    """Remember `make()` by arrays and a hashable rest, least recently used out first.

    Args:
        max_bytes: bound on the bytes held. One entry larger than this is kept as long as it is the newest; 0 keeps nothing.
        summed: whether a sum helps to tell arrays apart that differ in a few entries, as those of a finite difference do.
    """

    def __init__(self, max_bytes: int, summed: bool = True) -> None:
        self.max_bytes, self._summed = max_bytes, summed
        self._lock = threading.Lock()
        self._entries: OrderedDict[_Key, _Entry[T]] = OrderedDict()
        self.made = self.hits = self.nbytes = 0

    def get(self, rest: Hashable, arrays: tuple[Any, ...], make: Callable[[], T]) -> T:
        """`make()`, or what it returned for bit-equal `arrays` and equal `rest`."""
        key = _Key(rest, arrays, self._summed)
        while True:
            with self._lock:
                entry = self._entries.get(key)
                if entry is not None:
                    self._entries.move_to_end(entry.key)  # itself, not an equal one, so nothing is compared again
                    if entry.value is not None:
                        self.hits += 1
                        return entry.value
            if entry is None:
                made = self._make(key, make)
                if made is not None:
                    return made
            else:
                with entry.lock:  # wait while another thread makes it, then look again
                    pass

    def _make(self, key: _Key, make: Callable[[], T]) -> T | None:
        """Make the value and keep it, with the entry's lock held; None where another thread was faster."""
        key.own()
        entry: _Entry[T] = _Entry(key)
        try:
            with entry.lock:
                with self._lock:
                    if self._entries.setdefault(key, entry) is not entry:
                        return None
                value = make()
                with self._lock:
                    self.made += 1
                    entry.value = value
                    if self._entries.get(key) is entry:
                        entry.nbytes = _OVERHEAD + key.nbytes + int(getattr(value, "nbytes", 0))
                        self.nbytes += entry.nbytes
                        self._shrink()
                return value
        finally:
            if entry.value is None:
                with self._lock:
                    if self._entries.get(key) is entry:
                        del self._entries[key]

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
            for key, entry in list(self._entries.items()):
                if entry.value is not None:
                    del self._entries[key]
                    self.nbytes -= entry.nbytes

    def clear(self) -> None:
        """Forget everything, and set the counts to zero."""
        with self._lock:
            self._entries.clear()
            self.made = self.hits = self.nbytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def _shrink(self) -> None:
        """Let go of the least recently used until the rest fits. The newest stays, since its gradient is still to come,
        unless the bound is 0; entries that are being made weigh nothing and stay."""
        if self.nbytes <= self.max_bytes:
            return
        kept = 0 if self.max_bytes == 0 else 1
        for key, entry in list(self._entries.items())[: len(self._entries) - kept]:
            if entry.value is not None:
                del self._entries[key]
                self.nbytes -= entry.nbytes
            if self.nbytes <= self.max_bytes:
                return


ANALYSES: Memo[Any] = Memo(2**29, summed=False)
FACTORS: Memo[Any] = Memo(3 * 2**29)


def _after_fork() -> None:
    ANALYSES.restart()
    FACTORS.restart()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def memo_info() -> MemoInfo:
    """What was made and what was found again since the last `clear_memo()`, and what is held now.

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
    """Forget all factorizations and analyses, and set the counts to zero. Results never depend on it.

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
    max_bytes = operator.index(max_bytes)
    if max_bytes < 0:
        raise ValueError(f"max_bytes is {max_bytes}; it must be at least 0. 0 keeps nothing.")
    ANALYSES.resize(max(max_bytes // 4, min(max_bytes, 1)))
    FACTORS.resize(max_bytes - max_bytes // 4)


def _bits(a: Any) -> Any:
    """The array as bytes if it is small, wherever it is, else as integers."""
    if a.nbytes <= _WHOLE:
        a = a if isinstance(a, np.ndarray) else a.get()
        return a.tobytes()
    wide = isinstance(a, np.ndarray) and a.nbytes % 8 == 0  # a device reads no number that its address does not divide
    return a.reshape(-1).view("i8" if wide else f"i{min(a.itemsize, 8)}")


def _sample(bits: Any, summed: bool) -> Hashable:
    """All of it if it is small, else its size, the sum of its bits, which one changed entry changes, and a few entries.

    Of what is on a device only the sum, since each number is a wait."""
    if isinstance(bits, bytes):
        return bits
    if not isinstance(bits, np.ndarray):
        return bits.size, int(bits.sum()), b""
    return bits.size, int(bits.sum()) if summed else 0, bits[:: max(1, bits.size // _SAMPLES)].tobytes()


def _same(a: Any, b: Any) -> Any:
    """A bool, or on a device an array of one, so that all arrays of a key are waited for at once."""
    if isinstance(a, bytes) or isinstance(b, bytes):
        return type(a) is type(b) and bool(a == b)
    return a.shape == b.shape and (a == b).all()
