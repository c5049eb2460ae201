"""Arrays as dictionary keys: equal only if every bit is.

A hash, a data pointer or a version counter could mistake one matrix for another (compiled code reuses buffers without telling).
Here a sum and samples only say where to look; the comparison decides.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable
from functools import reduce
from typing import Any, TypeAlias

import numpy as np

__all__ = ["ArrayKey", "Key", "key_of"]

_SAMPLES = 8  # numbers of a large array that make its hash
_WHOLE = 1 << 14  # bytes up to which an array is small


def key_of(rest: Hashable, arrays: tuple[Any, ...], summed: bool) -> Key:
    """Arrays and a hashable rest as a dictionary key: equal only if every bit is."""
    for a in arrays:
        if a.nbytes > _WHOLE:
            return ArrayKey(rest, arrays, summed)
    return SmallKey((rest, tuple([a.tobytes() if isinstance(a, np.ndarray) else _bits(a) for a in arrays])))


class SmallKey(tuple[Hashable, tuple[bytes, ...]]):
    """The key of small arrays: the rest, and their bytes. Python compares and hashes it itself, and makes it sooner than a named tuple."""

    __slots__ = ()
    rest: Any = property(operator.itemgetter(0))
    arrays: Any = property(operator.itemgetter(1))

    def own(self, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """`given`, the arrays that the key was made of: in the key's memory and read-only, where they are NumPy's."""
        return tuple(map(_as_given, self.arrays, given))

    @property
    def nbytes(self) -> int:
        """Bytes of the copies."""
        return sum(map(len, self.arrays))


class ArrayKey:
    """The key of arrays some of which are large: compared as integers, so that NaN equals NaN and 0.0 differs from -0.0.

    A sum and a few samples make the hash.
    """

    __slots__ = ("_hash", "arrays", "rest")

    def __init__(self, rest: Hashable, arrays: tuple[Any, ...], summed: bool) -> None:
        self.rest = rest
        self.arrays = tuple([_bits(a) for a in arrays])
        self._hash = hash((rest, _sample(self.arrays[-1], summed)))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ArrayKey) or self._hash != other._hash or self.rest != other.rest:
            return False
        return bool(reduce(operator.and_, (_same(a, b) for a, b in zip(self.arrays, other.arrays, strict=True))))

    def own(self, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Copy the arrays, so that later writes by the caller cannot change the key.

        Returns:
            `given`, the arrays that the key was made of: in the key's memory and read-only, where they are NumPy's.
        """
        self.arrays = tuple(a if isinstance(a, bytes) else a.copy() for a in self.arrays)
        for a in self.arrays:
            if isinstance(a, np.ndarray):
                a.setflags(write=False)
            elif not isinstance(a, bytes):
                a[-1:].get()  # a wait for the device: another stream may compare with the copy at once
        return tuple(map(_as_given, self.arrays, given))

    @property
    def nbytes(self) -> int:
        """Bytes of the copies."""
        return sum(len(a) if isinstance(a, bytes) else int(a.nbytes) for a in self.arrays)


Key: TypeAlias = SmallKey | ArrayKey


def _as_given(bits: Any, a: Any) -> Any:
    """The key's copy as an array like the one that it was made of; of what is on a device, that one itself."""
    if not isinstance(a, np.ndarray):
        return a
    copy = np.frombuffer(bits, dtype=a.dtype)
    return copy if a.ndim == 1 else copy.reshape(a.shape)


def _bits(a: Any) -> Any:
    """The array as bytes if it is small, wherever it is, else as integers."""
    if a.nbytes <= _WHOLE:
        a = a if isinstance(a, np.ndarray) else a.get()
        return a.tobytes()
    wide = isinstance(a, np.ndarray) and a.nbytes % 8 == 0  # a device reads a number only at a multiple of its size
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
