"""CHOLMOD: sparse Cholesky `L Lᴴ`, supernodal where much fills in (Chen et al., ACM TOMS 35, 2008, algorithm 887), through scikit-sparse.

Serves Hermitian positive definite matrices only, and is itself the test of whether one is. It works in double precision; float32 and
complex64 are factorized and solved in it. scikit-sparse changed its functions in 0.5; those of 0.4 and of 0.5 are known. Both hold the
GIL while CHOLMOD works, and 0.5 turns supernodal factors into simplicial ones, which take up to twice as long for many columns.
"""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
import torch

from ..errors import sentence
from ..result import Strategy
from .decomposition import DecompositionError, Kind, NotPositive
from .host import Structure
from .strategy import Matrix, cholesky

__all__ = ["CANDIDATES", "Analysis", "CholmodDecomposition", "decompose", "missing"]

_REMEDY = "There are no wheels: conda install -c conda-forge scikit-sparse, or pip install scikit-sparse beside the headers of SuiteSparse 7.4 or later."

_PROCESS = os.getpid()
_LEAST, _LARGE = 500, 4_500  # unknowns; entries of a pattern that is new


def missing() -> str | None:
    """None if scikit-sparse's CHOLMOD can be used here, else why not and what to install."""
    return _loaded()[1]


@cache
def _loaded() -> tuple[Any, str | None]:
    """The way to call it, and why it cannot be."""
    try:
        module = import_module("sksparse.cholmod")
    except ModuleNotFoundError as error:
        if error.name not in ("sksparse", "sksparse.cholmod"):
            return None, f"scikit-sparse cannot be imported: {error}. {_REMEDY}"
        return None, f"scikit-sparse is not installed. {_REMEDY}"
    except (ImportError, RuntimeError, ValueError) as error:  # libraries that are gone, another NumPy
        return None, f"scikit-sparse cannot be imported: {error}. {_REMEDY}"
    for interface, entry in ((_Since05, "CholeskyFactor"), (_Before05, "analyze")):
        if hasattr(module, entry):
            return interface(module), None
    return None, f"scikit-sparse is of a version that is not known. {_REMEDY}"


class _Interface(Protocol):
    """scikit-sparse as this module sees it; matrices are lower triangles, in memory of their own."""

    failure: type[Exception]
    not_positive: type[Exception]

    def analyze(self, lower: Any) -> Any:
        """A symbolic factor."""

    def factorize(self, symbolic: Any, lower: Any) -> Any:
        """A numeric factor; the symbolic one stays as it is."""

    def entries(self, factor: Any) -> int:
        """How many numbers a factor has."""

    def solve(self, factor: Any, b: Any) -> Any:
        """A new array."""


@contextmanager
def _silence() -> Iterator[None]:
    """Keep CHOLMOD from printing on stdout that a pivot is not positive."""
    library = _printer()
    if library is None:
        yield
        return
    before = library.SuiteSparse_config_printf_func_get()
    library.SuiteSparse_config_printf_func_set(None)
    try:
        yield
    finally:
        library.SuiteSparse_config_printf_func_set(before)


@cache
def _printer() -> Any:
    """The part of SuiteSparse that prints, which is in memory already; None where it has another name."""
    for name in ("libsuitesparseconfig.so.7", "libsuitesparseconfig.7.dylib", "suitesparseconfig.dll"):
        try:
            library = ctypes.CDLL(name)
            library.SuiteSparse_config_printf_func_get.restype = ctypes.c_void_p
            library.SuiteSparse_config_printf_func_set.argtypes = [ctypes.c_void_p]
        except (OSError, AttributeError):
            continue
        return library
    return None


class _Since05:
    """scikit-sparse 0.5: a factor has a workspace of its own."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.failure, self.not_positive = module.CholmodError, module.CholmodNotPositiveDefiniteError

    def analyze(self, lower: Any) -> Any:
        return self._module.CholeskyFactor(lower)

    def factorize(self, symbolic: Any, lower: Any) -> Any:
        with _silence():
            factor = symbolic.copy().factorize(lower)
        if not factor.rcond > 0:
            raise self._module.CholmodError(f"the pivots' ratio is {factor.rcond}")
        return factor

    def entries(self, factor: Any) -> int:
        return int(factor.get_factor().nnz)  # its `nnz` refers to the factor from inside, which then is never released

    def solve(self, factor: Any, b: Any) -> Any:
        if factor.rcond >= factor.N * np.finfo(b.dtype).eps:
            return factor.solve(b)
        with warnings.catch_warnings():  # it warns that the pivots differ; the caller judges that
            warnings.simplefilter("ignore", self._module.CholmodWarning)
            return factor.solve(b)


class _Before05:
    """scikit-sparse 0.4: all factors of an analysis share its workspace; where little fills in they are `L D Lᴴ`, of any sign."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.failure, self.not_positive = module.CholmodError, module.CholmodNotPositiveDefiniteError

    def analyze(self, lower: Any) -> Any:
        return self._module.analyze(lower)

    def factorize(self, symbolic: Any, lower: Any) -> Any:
        factor = symbolic.cholesky(lower)
        pivots = factor.D().real
        if not (pivots > 0).all():
            raise self.not_positive(f"pivot {int(np.argmin(pivots > 0))} is not positive")
        return factor

    def entries(self, factor: Any) -> int:
        return int(factor.L().nnz)

    def solve(self, factor: Any, b: Any) -> Any:
        return factor(b)


def decompose(A: Any, structure: Structure, kind: Kind) -> CholmodDecomposition:
    """Factorize a canonical CSC matrix on the analysis of its pattern (ordering and fill), which needs no values.

    Args:
        A: `(n, n)`, float32, float64, complex64 or complex128.
        structure: of its pattern.
        kind: has to be "positive".

    Raises:
        DecompositionError: for another kind, or where the library says so; NotPositive where a pivot is not.
    """
    if kind != "positive":
        raise DecompositionError(sentence("CHOLMOD decomposes Hermitian positive definite matrices only.", kind=kind))
    key = (__name__, A.dtype.kind)
    known = structure.found.get(key)
    if known is None or known.process != os.getpid():
        known = Analysis(A, structure)
        structure.found[key] = known
    return CholmodDecomposition(known, A)


class _Turn:
    """One call of the library at a time: factors of an analysis may share a workspace, and what warnings do is everyone's.

    In a forked child without OpenMP's threads, which did not survive, and which CHOLMOD would wait for.
    """

    def __init__(self) -> None:
        self._lock, self.process = threading.Lock(), os.getpid()

    @contextmanager
    def taken(self) -> Iterator[None]:
        with self._lock:
            before = torch.get_num_threads()
            if self.process == _PROCESS or before == 1:
                yield
                return
            torch.set_num_threads(1)
            try:
                yield
            finally:
                torch.set_num_threads(before)


_turns = [_Turn()]


def _call(name: str, *arguments: Any) -> Any:
    """Call scikit-sparse, with its errors as this package's."""
    if _turns[0].process != os.getpid():  # a forked child, where another thread's lock would never be given back
        _turns[0] = _Turn()
    interface: _Interface = _loaded()[0]
    try:
        with _turns[0].taken():
            return getattr(interface, name)(*arguments)
    except interface.not_positive as error:
        raise NotPositive(sentence("CHOLMOD met a pivot that is not positive.", said=error)) from error
    except interface.failure as error:
        raise DecompositionError(sentence("CHOLMOD failed.", said=error)) from error


class Analysis:
    """CHOLMOD's symbolic factor, copied by all factorizations of a pattern.

    Attributes:
        symbolic: the factor.
        process: the one that may factorize with it; a forked child may not.
        entries: how many numbers a factor has; 0 as long as there was none.
    """

    def __init__(self, A: Any, structure: Structure) -> None:
        self._places = np.flatnonzero(A.indices >= structure.columns).astype(np.int32)
        counts = np.bincount(structure.columns[self._places], minlength=A.shape[0])
        self._form = A.indices[self._places], np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        self.process, self.entries = os.getpid(), 0
        self.symbolic = _call("analyze", self.lower(A))

    def lower(self, A: Any) -> Any:
        """The lower triangle in double precision; CHOLMOD looks at nothing else. Its memory can be written to, as scikit-sparse demands."""
        data = A.data[self._places].astype("D" if A.dtype.kind == "c" else "d", copy=False)
        return sp.csc_matrix((data, *self._form), shape=A.shape)


class CholmodDecomposition:
    """Factors of one matrix: see `strategy.Decomposition`."""

    def __init__(self, analysis: Analysis, A: Any) -> None:
        self._dtype = A.dtype
        self._double = np.dtype("D" if A.dtype.kind == "c" else "d")
        self._factor = _call("factorize", analysis.symbolic, analysis.lower(A))
        if not analysis.entries:
            analysis.entries = _call("entries", self._factor)
        self.nbytes = analysis.entries * (self._double.itemsize + 4)

    def solve(self, b: Any, trans: str = "N") -> Any:
        """A new array `A⁻¹ b`, `A⁻ᵀ b` or `A⁻ᴴ b`; `b` `(n,)` or `(n, k)`, in any order. A is its own adjoint."""
        conjugated = trans == "T" and self._double.kind == "c"
        x = np.array(b.conj() if conjugated else b, dtype=self._double, order="F")
        if x.size:
            x = _call("solve", self._factor, x)
        return (x.conj() if conjugated else x).astype(self._dtype, copy=False)


def _pays(matrix: Matrix) -> str | None:
    """The analysis takes as long as SuperLU's ordering; new values on an old pattern were always faster than by SuperLU, 1.2 to 7 times."""
    if matrix.pinned:
        return "it was asked for"
    if matrix.structure.shape[0] < _LEAST:
        return None
    if len(matrix.A.data) >= _LARGE:
        return "large enough"
    return "its pattern came before" if matrix.came_before else None


CANDIDATES = cholesky(Strategy.CHOLMOD, _pays, lambda m: decompose(m.A, m.structure, "positive"))
