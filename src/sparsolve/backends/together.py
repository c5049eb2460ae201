"""Batches of small matrices on one pattern by LAPACK, several at once.

Little of the time of a small solve is LAPACK's. The rest is a fixed number of calls for checks and bookkeeping, whatever the size of their arrays: here
these are of the whole batch. Bands side by side are one band, with zeros where two matrices meet, so that elimination finds no pivot in the next
matrix and fills in nothing there.

Only what is beyond doubt is solved here. Where one of the matrices fails, or is doubtful, each is solved by itself, as if nothing had been tried.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..loops import add_product
from ..result import Strategy
from ..solvers import LU, Cholesky
from .backward_error import LIMITS
from .conditioning import dominant, doubtful
from .host import Structure
from .strategy import Candidate, Decomposition, Matrix, candidates

__all__ = ["Together", "together"]

_SMALL = 2000  # unknowns: above, one matrix is work enough
_NUMBERS = 1 << 17  # of the decompositions made at once, so that they stay in cache
_REFINEMENTS, _UNITS = 2, 100.0
_SIDE_BY_SIDE = (Strategy.TRIDIAGONAL, Strategy.BANDED, Strategy.BANDED_CHOLESKY)
_EACH = (Strategy.DENSE, Strategy.DENSE_CHOLESKY)


def together(structure: Structure, values: Any, solver: LU | Cholesky) -> tuple[int, Callable[[Any], Together]] | None:
    """How many matrices on this pattern are solved at once, and what decomposes so many; None where each goes by itself.

    Args:
        structure: of the pattern.
        values: `(matrices, nnz)`; the strategy is the one that suits the first.
        solver: its record.
    """
    n = structure.shape[0]
    if n > _SMALL or structure.empty or (isinstance(solver, LU) and solver.factor_dtype is not None):
        return None
    kl, ku = structure.band
    width = _NUMBERS // (n * min(n, 2 * kl + ku + 1))
    if width < 2:
        return None
    definite = isinstance(solver, Cholesky)
    first = Matrix(structure.unique, structure.merged(values[0]), solver.backend is not None)
    found = next(candidates(first, solver.backend, definite=definite), None)
    if found is None or found.strategy not in _SIDE_BY_SIDE + _EACH:
        return None
    return width, partial(Together, structure, found)


class Together:
    """Decompositions of several matrices.

    Attributes:
        matrices: how many.
        strategy: of all.
        nbytes: held for them.
    """

    def __init__(self, structure: Structure, candidate: Candidate, values: Any) -> None:
        self.matrices, self.strategy, self.nbytes = len(values), candidate.strategy, 0
        if structure.starts is not None:
            values = np.stack([structure.merged(v) for v in values])
            self.nbytes += int(values.nbytes)
        self._structure, self._values = structure.unique, values
        self._limits = LIMITS[values.dtype.char]
        self._tolerance = self._limits.eps * max(_UNITS, structure.shape[0] ** 0.5)
        self._norms: dict[bool, Any] = {}
        self._believed, self._decomposition = False, self._decomposed(candidate)
        if self._decomposition is not None:
            self.nbytes += int(self._decomposition.nbytes) + 16 * self.matrices * structure.shape[0]

    def solve(self, b: Any, *, adjoint: bool) -> Any:
        """`A⁻¹ b` or `A⁻ᴴ b` for `b` `(matrices, n, k)`; None where a solution is not beyond doubt."""
        with np.errstate(all="ignore"):
            if self._decomposition is None or not (self._believed or self._regular(self._decomposition)):
                self._decomposition = None
                return None
            self._believed = True
            return self._refined(self._decomposition, b, adjoint)

    def _decomposed(self, candidate: Candidate) -> Decomposition | None:
        matrices = [Matrix(self._structure, v) for v in self._values]
        if candidate.definite and not all(m.kind == "positive" for m in matrices):
            return None
        try:
            if self.strategy in _SIDE_BY_SIDE:
                return candidate.decompose(Matrix(self._structure, self._values))
            return _Each([candidate.decompose(m) for m in matrices])
        except RuntimeError:
            return None

    def _regular(self, decomposition: Decomposition) -> bool:
        """Whether none of the matrices may be singular to working precision: see `conditioning`."""
        s, rows = self._structure, self._row_sums(False)
        places = s.on_diagonal
        if len(places) == s.shape[0] and dominant(self._values[:, places].ravel(), rows.ravel(), self._limits.huge):
            return True
        columns = self._row_sums(True)
        probe = s.signs * np.add.reduceat(np.abs(self._values) * (1 / columns)[:, s.indices], s.indptr[:-1], axis=1)
        excited = decomposition.solve(probe.astype(self._values.dtype).ravel()).reshape(columns.shape)
        return not doubtful(float(np.abs(excited * columns).max()), self._limits.eps)

    def _row_sums(self, adjoint: bool) -> Any:
        """`(matrices, n)`: the norms of the rows of A, or of Aᴴ."""
        if adjoint not in self._norms:
            s, sizes = self._structure, np.abs(self._values)
            if adjoint:
                sums = np.add.reduceat(sizes[:, s.order], s.csc_indptr[:-1], axis=1)
            else:
                sums = np.add.reduceat(sizes, s.indptr[:-1], axis=1)
            self._norms[adjoint] = np.clip(sums, self._limits.tiny, self._limits.huge)
        return self._norms[adjoint]

    def _refined(self, decomposition: Decomposition, b: Any, adjoint: bool) -> Any:
        """Solve, and refine until the backward error of each row is small: see `backward_error`."""
        trans = "N" if not adjoint else "H" if np.iscomplexobj(b) else "T"
        x, residual = np.zeros_like(b), b
        for _ in range(1 + _REFINEMENTS):
            x += decomposition.solve(residual.reshape(-1, b.shape[2]), trans).reshape(b.shape)
            residual = b - self._product(x, adjoint)
            if self._small(residual, x, adjoint):
                return x
        return None

    def _small(self, residual: Any, x: Any, adjoint: bool) -> bool:
        """As `BackwardError.small`, in each column of each matrix."""
        norms = self._row_sums(adjoint)
        size = (np.abs(residual) / norms[:, :, None]).max(axis=1)
        underflow = self._limits.least * (1 + 1 / norms.min(axis=1))
        bound = self._tolerance * np.abs(x).max(axis=1) + underflow[:, None]
        return bool(((size <= bound) & (bound < np.inf)).all())

    def _product(self, x: Any, adjoint: bool) -> Any:
        """`A x` or `Aᴴ x` for each matrix."""
        s, conj = self._structure, adjoint and np.iscomplexobj(x)
        x = np.ascontiguousarray(x.conj() if conj else x)
        y = np.zeros_like(x)
        for i, v in enumerate(self._values):
            add_product(s.shape, (s.indptr, s.indices, v), x[i], y[i], transposed=adjoint)
        return np.conjugate(y, out=y) if conj else y


class _Each:
    """Matrices decomposed one by one, as one decomposition of all."""

    def __init__(self, decompositions: list[Decomposition]) -> None:
        self._decompositions = decompositions
        self.nbytes = sum(int(d.nbytes) for d in decompositions)

    def solve(self, b: Any, trans: str = "N") -> Any:
        x = np.empty_like(b)
        n = len(b) // len(self._decompositions)
        for i, d in enumerate(self._decompositions):
            part = slice(i * n, (i + 1) * n)
            x[part] = d.solve(b[part], trans)
        return x
