"""MKL PARDISO: LU, `L D Lᵀ` and Cholesky, with several factors of one pattern on one analysis.

A canonical CSC matrix is the CSR matrix of `Aᵀ`, so A itself is the transposed system there. Where A is its own transpose
or adjoint, the lower triangle by columns is the upper triangle by rows that PARDISO wants.

Settings (Intel oneMKL developer reference, "pardiso iparm Parameter"; indices from 0): `iparm[7] = 0`, no refinement unless
pivots were perturbed; `iparm[23] = 1` with `iparm[10] = iparm[12] = 0`, no scaling and no matching, where the diagonal is strong anyway.
Its Cholesky calls a matrix of numbers near 1e-18 indefinite, so those are multiplied by a power of two before.
PARDISO returned success with residuals of 1e22 for singular matrices: the caller checks. Its `L D Lᴴ` of a complex matrix is not asked for:
it crashed where the last pivot of a supernode is to be replaced (MKL 2026.2, in `zhetf2_pardiso`).
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import weakref
from typing import Any

import numpy as np

from ..result import Strategy
from .decomposition import DecompositionError, Kind, served
from .host import Structure
from .mkl import missing
from .pardiso_handle import FACTORIZE, SOLVE, Handle
from .strategy import Candidate, Matrix, cholesky

__all__ = ["CANDIDATES", "Analysis", "PardisoDecomposition", "decompose", "missing"]

_LEAST, _LARGE = 1_000, 300_000  # unknowns; entries times entries a row, from which on the analysis pays at once
_LONG, _SOME = 6, 100_000  # entries a row, and the same product, from which on an unsymmetric matrix gains at all
_FAR = 30  # powers of two away from one, from which on Cholesky gets scaled numbers
_TYPES = {"general": (11, 13), "symmetric": (-2, 6), "positive": (2, 4)}  # real, complex


def decompose(A: Any, structure: Structure, kind: Kind) -> PardisoDecomposition:
    """Factorize a canonical CSC matrix, with the analysis of its pattern that an earlier one left.

    Scaling and matching belong to the analysis, and come from the values it was made with. If they fail these values
    (pivots are perturbed), the analysis is made anew.

    Args:
        A: `(n, n)`, float32, float64, complex64 or complex128.
        structure: of its pattern.
        kind: what A is known to be.

    Raises:
        DecompositionError: the library says so; NotPositive where `kind` is "positive" and a pivot is not.
    """
    if kind == "hermitian":
        kind = "general" if A.dtype.kind == "c" else "symmetric"
    dominant = kind == "general" and _dominant(A, structure)
    key = (__name__, kind, A.dtype.char, dominant)
    known = structure.found.get(key)
    if known is not None and known.process == os.getpid():
        again = served(lambda: PardisoDecomposition(known, A), kind)
        if again is not None:
            return again
    ways: list[tuple[Kind, bool]] = [(kind, dominant)]
    # pivots of `L D Lᵀ` are sought in one supernode only, and small ones replaced where rows are not scaled: LU with scaling finds some
    if dominant or kind == "symmetric":
        ways.append(("general", False))
    made, found = _best(A, ways)
    if found.perturbed:  # of a singular matrix, perhaps, whose scaling would spoil the factors of all later ones
        structure.found.pop(key, None)
    else:
        structure.found[key] = made
    return found


def _best(A: Any, ways: list[tuple[Kind, bool]]) -> tuple[Analysis, PardisoDecomposition]:
    """The first of these, kinds and whether they are dominant, that goes without perturbed pivots, or the last."""
    for way in ways:
        with contextlib.ExitStack() as stack:
            if way != ways[-1]:
                stack.enter_context(contextlib.suppress(DecompositionError))
            made = Analysis(A, *way)
            found = PardisoDecomposition(made, A)
            if not found.perturbed or way == ways[-1]:
                return made, found
    raise AssertionError("the last way returns or raises")


def _dominant(A: Any, structure: Structure) -> bool:
    """Whether every diagonal entry is at least as large as the rest of its column together."""
    size = np.abs(A.data)
    if len(structure.diagonal) < A.shape[0] or structure.empty:
        return False
    with np.errstate(all="ignore"):  # sums that overflow are dominated by nothing
        return bool(np.all(2.0000001 * size[structure.diagonal] >= np.add.reduceat(size, A.indptr[:-1])))


class Analysis:
    """What PARDISO finds out about a pattern, with the first values where scaling and matching want them.

    Attributes:
        kind: of the matrices.
        form: `(indptr, indices)` of the CSR matrix that PARDISO sees.
        process: the one that may use it; a forked child may not.
    """

    def __init__(self, A: Any, kind: Kind, dominant: bool) -> None:
        self.kind, self.process = kind, os.getpid()
        self.mtype = _TYPES[kind][A.dtype.kind == "c"]
        self.settings = _settings(kind, dominant, A.dtype.char in "fF")
        self.form, self._places = (A.indptr, A.indices), None
        if kind != "general":
            self.form, self._places = _triangle(A)
        self._lock = threading.Lock()
        self._handles: weakref.WeakSet[Handle] = weakref.WeakSet()  # those with factors, which keep them alive
        self._newest: Handle | None = None

    def data(self, A: Any) -> Any:
        """The values that belong to `form`."""
        if self._places is None:
            return A.data
        data = np.append(A.data, A.dtype.type(0))[self._places]
        return data.conj() if self.mtype == 4 else data

    def slot(self, data: Any) -> tuple[Handle, int]:
        """A place for one more factor; a new handle, analysed with `data`, where all places are taken."""
        with self._lock:
            for handle in list(self._handles):
                slot = handle.take()
                if slot is not None:
                    return handle, slot
            self._newest = handle = Handle(self, data)
            self._handles.add(handle)
            return handle, handle.take() or 0


def _triangle(A: Any) -> tuple[tuple[Any, Any], Any]:
    """The lower triangle by columns, every diagonal entry there, and where its values are in A's; -1 for one that A does not have."""
    n = A.shape[0]
    columns = np.repeat(np.arange(n, dtype=np.int32), np.diff(A.indptr))
    kept = np.flatnonzero(A.indices >= columns)
    absent = np.setdiff1d(np.arange(n, dtype=np.int32), columns[A.indices == columns])
    rows, columns = np.concatenate([A.indices[kept], absent]), np.concatenate([columns[kept], absent])
    order = np.lexsort((rows, columns))
    places = np.concatenate([kept, np.full(len(absent), -1)])[order]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=n))]).astype(np.int32)
    return (indptr, rows[order].astype(np.int32)), places


def _settings(kind: Kind, dominant: bool, single: bool) -> Any:
    """`iparm`."""
    iparm = np.zeros(64, dtype=np.int32)
    strong = dominant or kind == "positive"
    iparm[0] = iparm[34] = 1  # these settings, indices from 0
    iparm[1] = 2  # METIS
    iparm[9] = 5 if single else 13 if kind == "general" else 8  # pivots below 10^-this times the norm are replaced
    iparm[10] = iparm[12] = not strong  # scaling, matching
    iparm[20] = 1  # Bunch-Kaufman pivots of 1x1 and 2x2
    iparm[23] = strong  # two-level factorization, without the two above
    iparm[27] = single
    return iparm


class PardisoDecomposition:
    """Factors of one matrix: see `strategy.Decomposition`; `perturbed` is the number of pivots replaced."""

    columns = 256

    def __init__(self, analysis: Analysis, A: Any) -> None:
        self._analysis, self._A = analysis, A
        self._factorize()

    def _factorize(self) -> None:
        self._data = self._analysis.data(self._A)
        self._scale = 1.0
        if self._analysis.kind == "positive":
            diagonal = self._data[self._analysis.form[0][:-1]]  # where the largest entries of such a matrix are
            self._scale = _toward_one(diagonal)
            self._data = self._data if self._scale == 1.0 else self._data * self._scale
        self._handle, self._slot = self._analysis.slot(self._data)
        weakref.finalize(self, self._handle.release, self._slot).atexit = False
        iparm = self._handle.run(FACTORIZE, self._slot, self._data)
        self.perturbed = int(iparm[13])
        self.nbytes = 1024 * int(max(iparm[15], 0) + max(iparm[16], 0)) + int(self._data.nbytes)

    def solve(self, b: Any, trans: str = "N") -> Any:
        """A new array `A⁻¹ b`, `A⁻ᵀ b` or `A⁻ᴴ b`; `b` `(n,)` or `(n, k)`, in any order."""
        if self._analysis.process != os.getpid():  # a forked child: the parent's threads and locks are gone
            self._analysis = Analysis(self._A, self._analysis.kind, bool(self._analysis.settings[23]))
            self._factorize()
        kind = self._analysis.kind
        transposed = kind == "general" and trans == "N"
        conjugated = trans == ("T" if kind == "positive" else "H") and self._A.dtype.kind == "c"
        b = np.asfortranarray(b.conj() if conjugated else b, dtype=self._A.dtype)
        x = np.empty_like(b)
        if b.size:
            self._handle.run(SOLVE, self._slot, self._data, b, x, transposed)
        if self._scale != 1.0:
            x *= self._scale
        return x.conj() if conjugated else x


def _toward_one(diagonal: Any) -> float:
    """The power of two by which numbers far from one come near it."""
    limits = np.finfo(diagonal.dtype)
    exponent = math.frexp(float(diagonal.real.max()))[1]
    return math.ldexp(1.0, min(max(-exponent, limits.minexp), limits.maxexp - 1)) if abs(exponent) > _FAR else 1.0


def _pays(matrix: Matrix) -> str | None:
    """The analysis takes as long as several factorizations of a small matrix: there it waits until the pattern comes again.

    A small unsymmetric matrix it then takes only where rows are as long as in 3-D; on others SuperLU was up to 3 times faster.
    """
    if matrix.pinned:
        return "it was asked for"
    n, nnz = matrix.A.shape[0], len(matrix.A.data)
    if n < _LEAST:
        return None
    if nnz * (nnz / n) >= _LARGE:
        return "much fills in"
    pays = matrix.symmetric or matrix.kind == "positive" or (nnz > _LONG * n and nnz * (nnz / n) >= _SOME)
    return "its pattern came before" if pays and matrix.came_before else None


def _is_symmetric(matrix: Matrix) -> str | None:
    why = _pays(matrix)
    return f"it is symmetric, and {why}" if why is not None and matrix.symmetric else None


CANDIDATES = (
    *cholesky(Strategy.PARDISO_CHOLESKY, _pays, lambda m: decompose(m.A, m.structure, "positive")),
    Candidate(Strategy.PARDISO_SYMMETRIC, _is_symmetric, lambda m: decompose(m.A, m.structure, "symmetric")),
    Candidate(Strategy.PARDISO, _pays, lambda m: decompose(m.A, m.structure, "general")),
)
