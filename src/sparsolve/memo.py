"""A bounded, locked memo of a pure function, whose arguments are arrays.

A hit needs **bit-equal** arrays, compared with the entry's own copies, so it can never change an answer: a
hash, a data pointer or a version counter could (compiled code reuses buffers without telling). A few sampled
entries pick the bucket, the comparison decides.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

__all__ = ["Memo", "MemoInfo", "clear_memo", "memo_info", "set_memo_limit"]

T = TypeVar("T")
_SAMPLES = 8


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


class _Entry(Generic[T]):
    """One remembered result; `lock` is held while it is being made, so that it is made once."""

    __slots__ = ("arrays", "bucket", "lock", "nbytes", "value")

    def __init__(self, bucket: Hashable, arrays: tuple[Any, ...]) -> None:
        self.bucket = bucket
        self.arrays = arrays
        self.lock = threading.Lock()
        self.value: T | None = None
        self.nbytes = 0


class Memo(Generic[T]):
    """Remember `make()` by arrays and a hashable rest, least recently used out first.

    Args:
        max_bytes: bound on the bytes held. One entry larger than this is kept as long as it is the newest; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[int, _Entry[T]] = OrderedDict()
        self._buckets: dict[Hashable, list[_Entry[T]]] = {}
        self.made = self.hits = self.nbytes = 0

    def get(self, rest: Hashable, arrays: tuple[Any, ...], make: Callable[[], T]) -> T:
        """`make()`, or what it returned for bit-equal `arrays` and equal `rest`."""
        bits = tuple(_bits(a) for a in arrays)
        bucket = (rest, _sample(bits[-1]))
        while True:
            with self._lock:
                entry = self._find(bucket, bits)
                fresh = entry is None
                if entry is None:
                    entry = _Entry(bucket, tuple(b.copy() for b in bits))
                    entry.lock.acquire()
                    self._add(entry)
            if fresh:
                return self._fill(entry, make)
            with entry.lock:  # waits while another thread makes it
                value = entry.value
            if value is not None:  # else the other thread failed, and this one tries
                with self._lock:
                    self.hits += 1
                return value

    def _fill(self, entry: _Entry[T], make: Callable[[], T]) -> T:
        try:
            value = make()
            with self._lock:
                self.made += 1
                entry.value = value
                if self._entries.get(id(entry)) is entry:
                    self._weigh(entry, sum(a.nbytes for a in entry.arrays) + int(getattr(value, "nbytes", 0)))
            return value
        except BaseException:
            with self._lock:
                self._drop(entry)
            raise
        finally:
            entry.lock.release()

    def reweigh(self, value: T) -> None:
        """Take note that `value` (a result held here) has changed its size."""
        with self._lock:
            for entry in list(self._entries.values()):
                if entry.value is value:
                    self._weigh(entry, sum(a.nbytes for a in entry.arrays) + int(getattr(value, "nbytes", 0)))
                    return

    def resize(self, max_bytes: int) -> None:
        """Change the bound, and forget what no longer fits."""
        with self._lock:
            self.max_bytes = max_bytes
            self._shrink()

    def clear(self) -> None:
        """Forget everything, and set the counts to zero."""
        with self._lock:
            self._entries.clear()
            self._buckets.clear()
            self.made = self.hits = self.nbytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def _find(self, bucket: Hashable, bits: tuple[Any, ...]) -> _Entry[T] | None:
        for entry in self._buckets.get(bucket, ()):
            if all(a.shape == b.shape and bool((a == b).all()) for a, b in zip(entry.arrays, bits, strict=True)):
                if id(entry) in self._entries:
                    self._entries.move_to_end(id(entry))
                return entry
        return None

    def _add(self, entry: _Entry[T]) -> None:
        self._entries[id(entry)] = entry
        self._buckets.setdefault(entry.bucket, []).append(entry)

    def _weigh(self, entry: _Entry[T], nbytes: int) -> None:
        self.nbytes += nbytes - entry.nbytes
        entry.nbytes = nbytes
        self._shrink()

    def _shrink(self) -> None:
        """Let go of the least recently used until the rest fits. The newest stays, since its gradient is still to come,
        unless the bound is 0; entries that are being made weigh nothing and stay."""
        if self.nbytes <= self.max_bytes:
            return
        kept = 0 if self.max_bytes == 0 else 1
        for entry in list(self._entries.values())[: len(self._entries) - kept]:
            if entry.value is not None:
                self._drop(entry)
            if self.nbytes <= self.max_bytes:
                return

    def _drop(self, entry: _Entry[T]) -> None:
        if self._entries.pop(id(entry), None) is None:
            return
        self.nbytes -= entry.nbytes
        same = self._buckets[entry.bucket]
        same.remove(entry)
        if not same:
            del self._buckets[entry.bucket]


ANALYSES: Memo[Any] = Memo(2**29)
FACTORS: Memo[Any] = Memo(3 * 2**29)


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
    """Forget all factorizations and analyses, and set the counts to zero. Results never depend on it."""
    FACTORS.clear()
    ANALYSES.clear()


def set_memo_limit(max_bytes: int) -> None:
    """Bound the bytes that the memo holds: a quarter for analyses, the rest for factorizations. The default is 2 GiB.

    The newest factorization is kept even where it alone is larger, since its gradient is still to come; 0 keeps nothing.

    Args:
        max_bytes: at least 0.

    Raises:
        ValueError: a negative number.

    >>> import sparsolve as sps
    >>> sps.set_memo_limit(2**31)
    """
    if max_bytes < 0:
        raise ValueError(f"max_bytes is {max_bytes}; it must be at least 0. 0 keeps nothing.")
    ANALYSES.resize(max_bytes // 4)
    FACTORS.resize(max_bytes - max_bytes // 4)


def _bits(a: Any) -> Any:
    """The array as integers, so that NaN equals NaN and 0.0 differs from -0.0."""
    return a.reshape(-1).view(f"i{min(a.itemsize, 8)}") if a.dtype.kind in "fc" else a


def _sample(bits: Any) -> tuple[int, bytes]:
    """The size and a few entries, to pick the bucket."""
    step = max(1, bits.size // _SAMPLES)
    sample = bits[::step]
    return bits.size, (sample if isinstance(sample, np.ndarray) else sample.get()).tobytes()
