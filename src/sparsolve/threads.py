"""Independent pieces of work on as many threads as torch may use; SciPy's solvers let go of the interpreter while they work."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["each"]

T = TypeVar("T")


def each(call: Callable[[int], T], count: int, *, worthwhile: bool) -> list[T]:
    """`[call(0), ..., call(count - 1)]`, on threads of their own where that is worth their start; the first error by index is raised."""
    workers = min(count, torch.get_num_threads()) if worthwhile else 1
    if workers < 2:
        return [call(i) for i in range(count)]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(call, range(count)))
