"""KLU: block triangular form, minimum degree, left-looking LU (Davis and Palamadai Natarajan, ACM TOMS 37, 2010, algorithm 907).

Made for circuits: very sparse, unsymmetric, with hardly any fill, where supernodes do not pay. The library is that of
`klujax`'s wheel, whose shared object exports it (JAX is not needed for that), or a SuiteSparse of the system. It works in double
precision; float32 and complex64 are factorized and solved in it.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import threading
import weakref
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..errors import sentence
from .decomposition import DecompositionError, Kind
from .host import Structure

__all__ = ["Analysis", "KLUDecomposition", "decompose", "missing"]

_REMEDY = 'pip install "sparsolve[klu]" installs it.'
_FAILURES = {
    1: "KLU met a zero pivot.",
    -2: "KLU ran out of memory.",
    -3: "KLU called its input invalid.",
    -4: "The factors have more entries than 32-bit integers can count.",
}


class _Common(ctypes.Structure):
    """`klu_common`, as since SuiteSparse 4.3; with room behind it."""

    _fields_ = (
        *((name, ctypes.c_double) for name in ("tol", "memgrow", "initmem_amd", "initmem", "maxwork")),
        *((name, ctypes.c_int) for name in ("btf", "ordering", "scale")),
        *((name, ctypes.c_void_p) for name in ("user_order", "user_data")),
        *((name, ctypes.c_int) for name in ("halt_if_singular", "status", "nrealloc", "structural_rank")),
        *((name, ctypes.c_int) for name in ("numerical_rank", "singular_col", "noffdiag")),
        *((name, ctypes.c_double) for name in ("flops", "rcond", "condest", "rgrowth", "work")),
        *((name, ctypes.c_size_t) for name in ("memusage", "mempeak")),
        ("behind", ctypes.c_double * 32),
    )


def missing() -> str | None:
    """None if KLU can be used here, else why not and what to install."""
    return _loaded()[1]


@cache
def _loaded() -> tuple[Any, str | None]:
    reason = f"KLU is not installed. {_REMEDY}"
    for place in _places():
        try:
            library = ctypes.CDLL(place)
            for name in ("klu_analyze", "klu_factor", "klu_z_factor"):
                getattr(library, name).restype = ctypes.c_void_p
            _common(library)
        except (OSError, AttributeError, RuntimeError) as error:
            if os.path.isabs(place):
                reason = f"KLU at {place} cannot be used: {error}. {_REMEDY}"
            continue
        return library, None
    return None, reason


def _places() -> Iterator[str]:
    """Where the library may be: in klujax's extension module, which is not imported, or in the system."""
    try:
        spec = find_spec("klujax_cpp")
    except (ImportError, ValueError):
        spec = None
    if spec is not None and spec.origin is not None:
        yield spec.origin
    yield from ("libklu.so.2", "libklu.so.1", "libklu.2.dylib", "libklu.dylib", "klu.dll")
    found = ctypes.util.find_library("klu")
    if found is not None:
        yield found


def _common(library: Any) -> _Common:
    """KLU's defaults; RuntimeError where they are not at the places that `_Common` says, as in versions of before 2014."""
    common = _Common()
    ctypes.memset(ctypes.byref(common), 0x55, ctypes.sizeof(common))
    library.klu_defaults(ctypes.byref(common))
    numbers = (common.tol, common.btf, common.scale, common.user_order, common.user_data, common.halt_if_singular)
    if numbers != (0.001, 1, 2, None, None, 1) or common.status:
        raise RuntimeError("its version is not known")
    common.memusage = 0
    return common


def decompose(A: Any, structure: Structure, kind: Kind, fresh: bool = False) -> KLUDecomposition:
    """Factorize a canonical CSC matrix on the analysis of its pattern (block triangular form and ordering), which needs no values.

    Args:
        A: `(n, n)`, float32, float64, complex64 or complex128.
        structure: of its pattern.
        kind: makes no difference.
        fresh: analyse anew.

    Raises:
        DecompositionError: a zero pivot.
    """
    analysis = None if fresh else structure.orderings.get(__name__)
    if analysis is None:
        analysis = structure.orderings[__name__] = Analysis(A)
    return KLUDecomposition(analysis, A)


class Analysis:
    """KLU's `symbolic` object, read by all factorizations of a pattern."""

    def __init__(self, A: Any) -> None:
        library = _loaded()[0]
        common = _common(library)
        self.form = (A.indptr, A.indices)
        self.symbolic = library.klu_analyze(ctypes.c_int(A.shape[0]), *map(_address, self.form), ctypes.byref(common))
        if not self.symbolic:
            raise _failed(common)
        weakref.finalize(self, _free, "klu_free_symbolic", self.symbolic, common).atexit = False


class KLUDecomposition:
    """Factors of one matrix: see `Decomposition`."""

    perturbed = 0

    def __init__(self, analysis: Analysis, A: Any) -> None:
        self._analysis, self._dtype = analysis, A.dtype
        self._library, self._prefix = _loaded()[0], "klu_z_" if A.dtype.kind == "c" else "klu_"
        self._lock, self._process = threading.Lock(), os.getpid()
        self._common = common = _common(self._library)
        data = np.ascontiguousarray(A.data, dtype="D" if A.dtype.kind == "c" else "d")
        arrays = map(_address, (*analysis.form, data))
        self._numeric = self._call("factor", *arrays, analysis.symbolic)
        if not self._numeric:
            raise _failed(common)
        weakref.finalize(self, _free, f"{self._prefix}free_numeric", self._numeric, common).atexit = False
        self.nbytes = int(common.memusage)

    def _call(self, name: str, *arguments: Any) -> Any:
        pointers = [ctypes.c_void_p(a) if isinstance(a, int) else a for a in arguments]
        return getattr(self._library, self._prefix + name)(*pointers, ctypes.byref(self._common))

    def solve(self, b: Any, trans: str) -> Any:
        """A new array `A⁻¹ b`, `A⁻ᵀ b` or `A⁻ᴴ b`; `b` `(n,)` or `(n, k)`, in any order."""
        x = np.array(b, dtype="D" if self._dtype.kind == "c" else "d", order="F")
        if x.size == 0:
            return x.astype(self._dtype)
        n, columns = x.shape[0], 1 if x.ndim == 1 else x.shape[1]
        sizes = [ctypes.c_int(n), ctypes.c_int(columns), _address(x)]
        if trans != "N" and self._dtype.kind == "c":
            sizes.append(ctypes.c_int(trans == "H"))
        if self._process != os.getpid():  # a forked child, where another thread's lock would never be given back
            self._lock, self._process = threading.Lock(), os.getpid()
        with self._lock:  # KLU's workspace belongs to the factor
            done = self._call("solve" if trans == "N" else "tsolve", self._analysis.symbolic, self._numeric, *sizes)
        if not done:
            raise _failed(self._common)
        return x.astype(self._dtype, copy=False)


def _address(a: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(a.ctypes.data)


def _failed(common: _Common) -> DecompositionError:
    column = common.singular_col if common.status == 1 and common.singular_col >= 0 else None
    return DecompositionError(
        sentence(_FAILURES.get(common.status, "KLU failed."), status=common.status, column=column)
    )


def _free(name: str, pointer: int, common: _Common) -> None:
    """Release one of KLU's objects; a forked child releases its own copy."""
    getattr(_loaded()[0], name)(ctypes.byref(ctypes.c_void_p(pointer)), ctypes.byref(common))
