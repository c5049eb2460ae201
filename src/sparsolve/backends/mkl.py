"""Intel MKL through `ctypes`: found, set to a threading layer that can live in torch's process, and PARDISO's one function.

What was seen in processes with torch, and decides the settings here: the Intel layer on two threads crashes beside torch's
libgomp; the TBB layer aborts; the GNU layer runs on torch's own libgomp and its threads. A missing part of MKL makes it print and
leave the process, so the parts are looked for first.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .decomposition import places

__all__ = ["missing", "pardiso", "threads"]

_REMEDY = 'pip install "sparsolve[mkl]" installs it.'
_SEQUENTIAL, _GNU, _TBB = 1, 3, 4  # MKL's numbers of its threading layers
_LP64 = 0  # integers of 32 bits
_PARTS = ("core", "intel_lp64", "sequential")
_PROCESS = os.getpid()


def missing() -> str | None:
    """None if PARDISO can be used here, else why not and what to install."""
    return _loaded()[1]


def threads() -> int:
    """As many as torch uses; one where MKL cannot share torch's, and in a forked child, whose OpenMP threads are gone."""
    return torch.get_num_threads() if _loaded()[2] and os.getpid() == _PROCESS else 1


def pardiso(
    pt: Any,
    slots: int,
    slot: int,
    mtype: int,
    phase: int,
    a: Any,
    form: Any,
    iparm: Any,
    b: Any,
    x: Any,
    n_threads: int,
) -> int:
    """One call of `pardiso`; returns its error number. `form` is `(indptr, indices)` of a zero-based CSR matrix, `b` and `x` column-major."""
    library, (indptr, indices) = _loaded()[0], form
    columns = 1 if b is None or b.ndim == 1 else b.shape[1]
    error = ctypes.c_int(0)
    numbers = [ctypes.byref(ctypes.c_int(i)) for i in (slots, slot, mtype, phase, len(indptr) - 1, columns, 0)]
    arrays = [None if v is None else v.ctypes.data_as(ctypes.c_void_p) for v in (pt, a, indptr, indices, iparm, b, x)]
    with _on_threads(library, n_threads):
        library.pardiso(
            arrays[0], *numbers[:5], *arrays[1:4], None, numbers[5], arrays[4], numbers[6], *arrays[5:], ctypes.byref(error)
        )  # fmt: skip
    return error.value


@contextmanager
def _on_threads(library: Any, number: int) -> Iterator[None]:
    """This Python thread's MKL calls on so many threads."""
    before = library.MKL_Set_Num_Threads_Local(number)
    try:
        yield
    finally:
        library.MKL_Set_Num_Threads_Local(before)


@cache
def _loaded() -> tuple[Any, str | None, bool]:
    """The library or None, why not or None, and whether it may use several threads."""
    if sys.maxsize < 2**32:
        return None, "MKL needs a 64-bit Python.", False
    reason = f"MKL is not installed. {_REMEDY}"
    for path in _places():
        parts = [p for p in _PARTS if not list(path.parent.glob(f"*mkl_{p}*"))]
        if parts:
            reason = f"{path.parent} has MKL without its part {parts[0]}. {_REMEDY}"
            continue
        try:
            library = ctypes.CDLL(str(path))
            parallel = _set_layers(library, path)
        except (OSError, AttributeError, RuntimeError) as error:
            reason = f"MKL at {path} cannot be used: {error}. {_REMEDY}"
            continue
        return library, None, parallel
    return None, reason, False


def _set_layers(library: Any, path: Path) -> bool:
    """Choose integers and threads before MKL's first use, and see what it has chosen; whether it may use several threads."""
    library.pardiso.restype = None
    library.pardiso.argtypes = [ctypes.c_void_p] * 16
    wanted = _GNU if _shares_openmp() and list(path.parent.glob("*mkl_gnu_thread*")) else _SEQUENTIAL
    if library.MKL_Set_Interface_Layer(_LP64) & 1 != _LP64:
        raise RuntimeError("this process uses it with 64-bit integers already")
    layer = library.MKL_Set_Threading_Layer(wanted)
    if layer == _TBB:
        raise RuntimeError("this process uses it on TBB threads already, where PARDISO aborts")
    return bool(layer == wanted == _GNU)


def _shares_openmp() -> bool:
    """Whether an OpenMP runtime that speaks GNU's protocol, torch's own, is visible to all libraries."""
    try:
        everything = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows
        return False
    return all(hasattr(everything, name) for name in ("GOMP_parallel", "omp_get_max_threads"))


def _places() -> Iterator[Path]:
    """Where `mkl_rt` may be."""
    return places("mkl", "MKLROOT", ("lib", "lib/intel64", "Library/bin", "bin"), _is_runtime)


def _is_runtime(name: str) -> bool:
    return name.startswith(("libmkl_rt.", "mkl_rt.")) and (".so" in name or ".dylib" in name or name.endswith(".dll"))
