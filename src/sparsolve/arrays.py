"""What is asked of arrays of NumPy and of CuPy alike: whose they are, and their size as powers of two, which round nothing."""

from __future__ import annotations

import math
import sys
from functools import lru_cache
from typing import Any

import numpy as np

__all__ = ["divided", "exponent", "namespace", "on_host", "power_of_two", "shifted"]

_SAFE = 1000  # exponents of powers of two that are normal numbers


def namespace(a: Any) -> Any:
    """NumPy or CuPy, whichever the array is of."""
    return _module(type(a).__module__)


@lru_cache(maxsize=8)
def _module(name: str) -> Any:
    return sys.modules[name.partition(".")[0]]


def on_host(a: Any) -> Any:
    """A NumPy array of these numbers: itself, or what the device has, waited for."""
    return a if isinstance(a, np.ndarray) else a.get()


def divided(a: Any, scale: Any) -> Any:
    """`a / scale`, of NumPy's by parts: it divides complex numbers by way of `1 / scale`, which overflows where that is subnormal."""
    if a.dtype.kind != "c" or not isinstance(a, np.ndarray):
        return a / scale
    out = np.empty_like(a)
    out.real, out.imag = a.real / scale, a.imag / scale
    return out


def power_of_two(size: Any) -> Any:
    """The largest power of two that is not above a size; 1 for 0, NaN and Inf."""
    xp = namespace(size)
    size = xp.where((size > 0) & xp.isfinite(size), size, 1)
    return xp.ldexp(xp.full_like(size, 0.5), xp.frexp(size)[1])


def exponent(a: Any) -> int:
    """Of the largest power of two that is not above the largest real or imaginary part; 0 where that is 0, NaN or Inf."""
    parts = [] if not a.size else [a.real, a.imag] if a.dtype.kind == "c" else [a]
    sizes = [float(abs(part).max()) for part in parts]
    return max((math.frexp(size)[1] - 1 for size in sizes if size > 0), default=0) if np.isfinite(sizes).all() else 0


def shifted(a: Any, exponents: Any) -> Any:
    """`a 2^e` with one exponent for all, or one for each column: in three steps where `2^e` alone may overflow."""
    exponents = np.asarray(exponents, dtype=np.int32)
    if not exponents.any():
        return a
    part = np.trunc(exponents / 3).astype(np.int32)
    steps = (part, part, exponents - 2 * part) if np.abs(exponents).max() > _SAFE else (exponents,)
    for step in steps:
        power = np.ldexp(1.0, step)
        a = a * (power if power.ndim else float(power))
    return a
