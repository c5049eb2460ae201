"""PARDISO's memory for one analysis and its factors: asked by one thread at a time, released when nobody holds it."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import deque
from typing import Any

import numpy as np

from ..errors import sentence
from .decomposition import DecompositionError, NotPositive
from .mkl import pardiso, threads

__all__ = ["FACTORIZE", "SOLVE", "Handle"]

_SLOTS = 32  # factors on one analysis: 32 cost no more than 1, 1024 a millisecond
FACTORIZE, SOLVE = 22, 33  # phases
_ANALYSE, _RELEASE_ONE, _RELEASE_ALL = 11, 0, -1
_FAILURES = {
    -1: "PARDISO called its input inconsistent.",
    -2: "PARDISO ran out of memory.",
    -3: "PARDISO could not order the unknowns.",
    -4: "PARDISO met a zero pivot.",
    -6: "PARDISO could not order the unknowns: no choice of values on this pattern is nonsingular.",
    -7: "PARDISO met a singular diagonal block.",
    -8: "The factors have more entries than 32-bit integers can count.",
}


class Handle:
    """PARDISO's memory for one analysis and its factors, used by one thread at a time.

    The number of threads stays what it was at the analysis: PARDISO crashes if it changes between phases.
    """

    def __init__(self, analysis: Any, data: Any) -> None:
        self._pt, self._iparm = np.zeros(64, dtype=np.int64), analysis.settings.copy()
        self._mtype, self._form, self._threads = analysis.mtype, analysis.form, threads()
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._free, self._idle = deque(range(1, _SLOTS + 1)), deque[int]()
        # at exit the system takes the memory back: MKL may be gone before
        weakref.finalize(
            self, _free, self._pt, self._mtype, self._form, self._iparm, self._threads, self._process
        ).atexit = False
        self._call(_ANALYSE, 1, data)

    def take(self) -> int | None:
        """A place for a factor, or None."""
        try:
            return self._free.popleft()
        except IndexError:
            return None

    def run(self, phase: int, slot: int, data: Any, b: Any = None, x: Any = None, transposed: bool = False) -> Any:
        """One phase; returns PARDISO's `iparm`."""
        try:
            with self._lock:
                return self._call(phase, slot, data, b, x, transposed)
        finally:
            self._sweep()

    def release(self, slot: int) -> None:
        """Give up a factor. The garbage collector may call this while this very thread is in `run`: then `run` does it at its end."""
        if os.getpid() == self._process:
            self._idle.append(slot)
            self._sweep()

    def _sweep(self) -> None:
        while self._idle and self._lock.acquire(blocking=False):
            try:
                while self._idle:
                    slot = self._idle.popleft()
                    with contextlib.suppress(DecompositionError):
                        self._call(_RELEASE_ONE, slot, None)
                    self._free.append(slot)
            finally:
                self._lock.release()

    def _call(self, phase: int, slot: int, data: Any, b: Any = None, x: Any = None, transposed: bool = False) -> Any:
        iparm = self._iparm if phase == _ANALYSE else self._iparm.copy()
        iparm[11] = 2 * transposed
        error = pardiso(self._pt, _SLOTS, slot, self._mtype, phase, data, self._form, iparm, b, x, self._threads)
        if error == -4 and self._mtype in (2, 4):
            raise NotPositive(
                sentence("A pivot of the Cholesky factorization is not positive.", row=int(iparm[29]) - 1)
            )
        if error:
            raise DecompositionError(sentence(_FAILURES.get(error, "PARDISO failed."), error=error, phase=phase))
        return iparm


def _free(pt: Any, mtype: int, form: Any, iparm: Any, n_threads: int, process: int) -> None:
    """Release a handle, in the process that made it."""
    if os.getpid() == process:
        pardiso(pt, _SLOTS, 1, mtype, _RELEASE_ALL, None, form, iparm, None, None, n_threads)
