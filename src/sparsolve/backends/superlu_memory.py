"""SuperLU's objects, each made and let go of in one thread.

SciPy keeps a list of SuperLU's memory for each thread, and finds there what may be freed: an object that goes in another thread than it was made in
leaves its memory behind for good, and so do those of a thread that has ended. (SciPy's issue 15921. Where memory goes with its thread,
as in later versions, the object would be left without it.) So objects are made in the main thread, or for other threads in some that never end, and what
is let go of elsewhere is given back to where it was made.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any

import scipy.sparse.linalg as sla

from ..memo import release
from .decomposition import DecompositionError

__all__ = ["Held", "spilu", "splu"]

_MOST = os.cpu_count() or 1  # threads
_PATIENCE = 5.0  # seconds


class Held:
    """A SuperLU object of SciPy's, with its attributes; `box` is all that holds it."""

    def __init__(self, box: list[Any], give_back: Callable[[list[Any]], None]) -> None:
        self.box, self._give_back = box, give_back

    def solve(self, b: Any, trans: str = "N") -> Any:
        """SciPy's own."""
        return self.box[0].solve(b, trans)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.box[0], name)

    def __del__(self) -> None:
        try:  # noqa: SIM105
            self._give_back(self.box)
        except Exception:  # at exit modules may be gone, contextlib too
            pass


class _Maker(threading.Thread):
    """Makes objects, and lets go of them, one after another; it waits for nobody. (Threads of `concurrent.futures` end before `atexit`.)"""

    def __init__(self) -> None:
        super().__init__(name="sparsolve SuperLU", daemon=True)
        self.waiting = 0  # calls that it has not answered yet
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.start()

    def run(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            del task  # which holds what it has made

    def end(self) -> None:
        """Wait for what there is to do, and end."""
        self._tasks.put(None)
        self.join(_PATIENCE)

    def make(self, call: Callable[[], Any]) -> Held:
        """What `call` makes, from another thread."""
        future: Future[Held] = Future()
        self._tasks.put(partial(self._make, future, call))
        return future.result()

    def _make(self, future: Future[Held], call: Callable[[], Any]) -> None:
        try:
            future.set_result(Held([call()], self._give_back))
        except BaseException as error:  # to be raised where it was asked for
            future.set_exception(error)
        finally:
            del future, call  # which the error's traceback would hold, and they it

    def _give_back(self, box: list[Any]) -> None:
        self._tasks.put(box.clear)


class _Makers:
    """The threads, as many as there were calls at once; and what was made in the main thread and let go of elsewhere."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Without threads: for a forked child, which has none of them."""
        threads, self._all = getattr(self, "_all", []), list[_Maker]()
        self._lock, self._given_back = threading.Lock(), deque[list[Any]]()
        if threads and hasattr(threading, "_after_fork"):
            threading._after_fork()  # again: what SciPy had in these threads left an error that broke this hook off

    def make(self, call: Callable[[], Any]) -> Held:
        if threading.current_thread() is threading.main_thread():
            while self._given_back:
                self._given_back.popleft().clear()
            return Held([call()], self._give_back)
        with self._lock:
            if len(self._all) < _MOST and all(maker.waiting for maker in self._all):
                if not self._all:
                    atexit.register(self._end)
                self._all.append(_Maker())
            maker = min(self._all, key=lambda maker: maker.waiting)
            maker.waiting += 1
        try:
            return maker.make(call)
        finally:
            with self._lock:
                maker.waiting -= 1

    def _end(self) -> None:
        """Before the interpreter: where memory is left in a thread that it ends, SciPy leaves an error that nobody has raised."""
        release()
        for maker in self._all:
            maker.end()

    def _give_back(self, box: list[Any]) -> None:
        if threading.current_thread() is threading.main_thread():
            box.clear()
        else:
            self._given_back.append(box)


_makers = _Makers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_makers.restart)


def splu(A: Any, **options: Any) -> Held:
    """`scipy.sparse.linalg.splu`; `DecompositionError` for a zero pivot."""
    return _decomposed(lambda: sla.splu(A, **options))


def spilu(A: Any, **options: Any) -> Held:
    """`scipy.sparse.linalg.spilu`; `DecompositionError` for a zero pivot."""
    return _decomposed(lambda: sla.spilu(A, **options))


def _decomposed(call: Callable[[], Any]) -> Held:
    try:
        return _makers.make(call)
    except RuntimeError as error:  # SciPy: "Factor is exactly singular"
        if "singular" not in str(error):
            raise  # of the system: a thread that does not start, for one
        raise DecompositionError("LU met an exactly zero pivot.") from error
