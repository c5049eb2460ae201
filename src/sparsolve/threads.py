"""Independent pieces of work on as many threads as torch may use; SciPy's solvers release the GIL while they work."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch

__all__ = ["blas_has_threads", "by_blocks", "each", "each_after_the_first"]

T = TypeVar("T")
# what BLAS libraries read when they are loaded
_SETTINGS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def blas_has_threads() -> bool:
    """Whether SciPy's BLAS may start threads of its own, which then compete with ours for the cores: it does unless the environment says 1."""
    return next((os.environ[name] for name in _SETTINGS if name in os.environ), "") != "1"


def each(call: Callable[[int], T], count: int, *, worthwhile: bool) -> list[T]:
    """`[call(0), ..., call(count - 1)]`, on threads of their own where that is worth their start; the first error by index is raised."""
    workers = min(count, torch.get_num_threads()) if worthwhile else 1
    if workers < 2:
        return [call(i) for i in range(count)]
    with ThreadPoolExecutor(workers) as pool:
        try:
            found = pool.map(call, range(count))
        except RuntimeError:  # the interpreter is about to end, and starts no threads any more
            return [call(i) for i in range(count)]
        return list(found)


def each_after_the_first(call: Callable[[int], T], count: int, *, worthwhile: Callable[[T], bool]) -> list[T]:
    """`each`, with the first call done before the others, which use what it has found out; its result says whether threads are worthwhile."""
    if count == 0:
        return []
    first = call(0)
    return [first, *each(lambda i: call(i + 1), count - 1, worthwhile=worthwhile(first))]


def by_blocks(call: Callable[[Any], Any], b: Any, width: int, *, worthwhile: bool) -> Any:
    """`call(b)` for `b` `(n, k)`, `width` columns at a time, so that what it makes along the way is that of some columns."""
    x = np.empty(b.shape, dtype=b.dtype)

    def one(i: int) -> None:
        part = slice(i * width, (i + 1) * width)
        x[:, part] = call(b[:, part])

    each_after_the_first(one, -(-b.shape[1] // width), worthwhile=lambda _: worthwhile)
    return x
