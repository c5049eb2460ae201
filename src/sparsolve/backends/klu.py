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
from ..result import Strategy
from .decomposition import DecompositionError, Kind
from .host import Structure
from .strategy import Candidate, Matrix

__all__ = ["CANDIDATES", "Analysis", "KLUDecomposition", "decompose", "missing"]

_REMEDY = 'pip install "sparsolve[klu]" installs it.'
_LEAST = 500  # unknowns
# operations for each entry of the factors: KLU was 3 times faster than SuperLU at 20, half as fast at 30
_MOST_WORK = 25.0
_GROWTH = 1e-4  # reciprocal pivot growth below which pivots are chosen anew; KLU's own threshold for a pivot is 1e-3
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


class _Numeric(ctypes.Structure):
    """`klu_numeric`, the same since its first version."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("n", "nblocks", "lnz", "unz", "max_lnz_block", "max_unz_block")),
        *((name, ctypes.c_void_p) for name in ("Pnum", "Pinv", "Lip", "Uip", "Llen", "Ulen", "LUbx", "LUsize")),
        *((name, ctypes.c_void_p) for name in ("Udiag", "Rs")),
        ("worksize", ctypes.c_size_t),
        *((name, ctypes.c_void_p) for name in ("Work", "Xwork", "Iwork", "Offp", "Offi", "Offx")),
        ("nzoff", ctypes.c_int),
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
            for name in ("klu_analyze", "klu_factor", "klu_z_factor", "klu_malloc"):
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
    """KLU's defaults; RuntimeError where they are not at the places that `_Common` says, as in versions before 2014."""
    common = _Common()
    ctypes.memset(ctypes.byref(common), 0x55, ctypes.sizeof(common))
    library.klu_defaults(ctypes.byref(common))
    numbers = (common.tol, common.btf, common.scale, common.user_order, common.user_data, common.halt_if_singular)
    if numbers != (0.001, 1, 2, None, None, 1) or common.status:
        raise RuntimeError("its version is not known")
    common.memusage = 0
    return common


def decompose(A: Any, structure: Structure, kind: Kind) -> KLUDecomposition:
    """Factorize a canonical CSC matrix on the analysis of its pattern (block triangular form and ordering), which needs no values.

    While an earlier factor of the pattern is alive, its pivots and its fill are used again, unless elements grow too much.

    Args:
        A: `(n, n)`, float32, float64, complex64 or complex128.
        structure: of its pattern.
        kind: makes no difference.

    Raises:
        DecompositionError: a zero pivot.
    """
    analysis = structure.found.get(__name__)
    if analysis is None:
        analysis = structure.found[__name__] = Analysis(A)
    return KLUDecomposition(analysis, A)


class Analysis:
    """KLU's `symbolic` object, read by all factorizations of a pattern; `work` is its estimate of the operations for each entry of the factors."""

    def __init__(self, A: Any) -> None:
        library = _loaded()[0]
        common = _common(library)
        self.form = (A.indptr, A.indices)
        self.latest: dict[str, weakref.ref[KLUDecomposition]] = {}  # of real and of complex factors
        self.symbolic = library.klu_analyze(ctypes.c_int(A.shape[0]), *map(_address, self.form), ctypes.byref(common))
        if not self.symbolic:
            raise _failed(common)
        weakref.finalize(self, _free, "klu_free_symbolic", self.symbolic, common).atexit = False
        _, flops, lower, upper = (ctypes.c_double * 4).from_address(self.symbolic)
        self.work = flops / max(lower + upper, 1.0)


class KLUDecomposition:
    """Factors of one matrix: see `strategy.Decomposition`."""

    threads = True

    def __init__(self, analysis: Analysis, A: Any) -> None:
        self._analysis, self._dtype = analysis, A.dtype
        self._library, self._prefix = _loaded()[0], "klu_z_" if A.dtype.kind == "c" else "klu_"
        self._lock, self._process = threading.Lock(), os.getpid()
        self._common = common = _common(self._library)
        data = np.ascontiguousarray(A.data, dtype="D" if A.dtype.kind == "c" else "d")
        if not self._follows(analysis.latest.get(self._prefix, lambda: None)(), data):
            self._numeric = self._call("factor", *map(_address, (*analysis.form, data)), analysis.symbolic)
            if not self._numeric:
                raise _failed(common)
            self._own()
        analysis.latest[self._prefix] = weakref.ref(self)
        self.nbytes = int(common.memusage)

    def _own(self) -> None:
        """From here on the numeric object is released with this one."""
        name = f"{self._prefix}free_numeric"
        self._release = weakref.finalize(self, _free, name, self._numeric, self._common)
        self._release.atexit = False

    def _follows(self, earlier: KLUDecomposition | None, data: Any) -> bool:
        """Refactor a copy of an earlier factor; False where there is none, or its pivots do not serve these values."""
        if earlier is None:
            return False
        self._numeric = _copied(self._library, earlier._numeric, self._prefix == "klu_z_", self._common)
        self._own()
        arrays = [_address(a) for a in (*self._analysis.form, data)]
        objects = (self._analysis.symbolic, self._numeric)
        done = self._call("refactor", *arrays, *objects) and self._call("rgrowth", *arrays, *objects)
        if done and self._common.rgrowth >= _GROWTH:
            return True
        self._release()
        return False

    def _call(self, name: str, *arguments: Any) -> Any:
        pointers = [ctypes.c_void_p(a) if isinstance(a, int) else a for a in arguments]
        return getattr(self._library, self._prefix + name)(*pointers, ctypes.byref(self._common))

    def solve(self, b: Any, trans: str = "N") -> Any:
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


def _copied(library: Any, pointer: int, is_complex: bool, common: _Common) -> int:
    """A numeric object like another, in KLU's own memory: what `klu_free_numeric` will release."""
    old = _Numeric.from_address(pointer)
    n, ints, entries = old.n, ctypes.sizeof(ctypes.c_int), 16 if is_complex else 8

    def copy(source: int | None, nbytes: int) -> int | None:
        if not source:
            return None
        target = library.klu_malloc(ctypes.c_size_t(nbytes), ctypes.c_size_t(1), ctypes.byref(common))
        if not target:
            raise _failed(common)
        ctypes.memmove(target, source, nbytes)
        return int(target)

    new = _Numeric.from_address(copy(pointer, ctypes.sizeof(_Numeric)) or 0)
    for name in ("Pnum", "Pinv", "Lip", "Uip", "Llen", "Ulen"):
        setattr(new, name, copy(getattr(old, name), n * ints))
    sizes = {"Udiag": n * entries, "Rs": n * 8, "Offp": (n + 1) * ints, "Offi": (old.nzoff + 1) * ints}
    sizes |= {"Offx": (old.nzoff + 1) * entries, "LUbx": old.nblocks * 8, "LUsize": old.nblocks * 8}
    for name, nbytes in sizes.items():
        setattr(new, name, copy(getattr(old, name), nbytes))
    blocks = (ctypes.c_void_p * old.nblocks).from_address(new.LUbx)
    lengths = np.frombuffer((ctypes.c_size_t * old.nblocks).from_address(new.LUsize), dtype=np.uintp)
    for block in np.flatnonzero(lengths):  # those larger than 1x1
        blocks[block] = copy(blocks[block], int(lengths[block]) * entries)
    new.Work = new.Xwork = copy(old.Work, old.worksize)
    new.Iwork = new.Work + (old.Iwork - old.Work)  # a part of it
    return ctypes.addressof(new)


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


def _suits(matrix: Matrix) -> str | None:
    """Where hardly anything fills in (the measure that CHOLMOD chooses between its two methods by; Chen et al., ACM TOMS 35, 2008, algorithm 887)."""
    if matrix.pinned:
        return "it was asked for"
    if matrix.structure.shape[0] < _LEAST:
        return None
    found = matrix.structure.found
    if __name__ not in found:
        try:
            found[__name__] = Analysis(matrix.A)
        except DecompositionError:
            return None
    return "hardly anything fills in" if found[__name__].work <= _MOST_WORK else None


CANDIDATES = (Candidate(Strategy.KLU, _suits, lambda m: decompose(m.A, m.structure, "general")),)
