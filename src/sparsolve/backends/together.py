"""Batches of small matrices on one pattern by LAPACK, several at once.

Little of the time of a small solve is LAPACK's. The rest is a fixed number of calls for checks and bookkeeping, whatever the size of their arrays: here
these are of the whole batch. Bands side by side are one band, with zeros where two matrices meet, so that elimination finds no pivot in the next
matrix and fills in nothing there.

Only what is beyond doubt is solved here. A matrix that may be near a singular one is left to be solved by itself, and where one fails, all are, as if
nothing had been tried.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..arrays import divided, power_of_two
from ..errors import SolveError
from ..result import Strategy
from ..solvers import LU, Cholesky
from .backward_error import BackwardError, DistrustedError
from .balance import graded
from .conditioning import dominant, doubtful
from .decomposition import DecompositionError
from .host import Product, Rows, Structure
from .strategy import Candidate, Decomposition, Matrix, candidates

__all__ = ["Together", "together"]

_SMALL = 2000  # unknowns: above, one matrix is work enough
_NUMBERS = 1 << 17  # of the decompositions made at once, so that they stay in cache
_REFINEMENTS = 3
_OBJECTS = 1 << 9  # bytes of a small decomposition's objects, whatever its arrays
_SIDE_BY_SIDE = (Strategy.TRIDIAGONAL, Strategy.BANDED, Strategy.BANDED_CHOLESKY)
_EACH = (Strategy.DENSE, Strategy.DENSE_CHOLESKY)
_CHOLESKY = (Strategy.BANDED_CHOLESKY, Strategy.DENSE_CHOLESKY)


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
    if graded(np.abs(values)):
        return None
    definite = isinstance(solver, Cholesky)
    first = Matrix(structure.unique, structure.merged(values[0]), solver.backend is not None)
    # with LU() Cholesky would be a guess to be proven for each
    suitable = (c for c, _ in candidates(first, solver.backend, definite=definite))
    found = next((c for c in suitable if definite or c.strategy not in _CHOLESKY), None)
    if found is None or found.strategy not in _SIDE_BY_SIDE + _EACH:
        return None
    return width, partial(Together, structure, found)


class Together:
    """Decompositions of several matrices.

    Attributes:
        beyond_doubt: `(matrices,)`, which are decomposed, and not singular to working precision for sure.
        matrices: how many these are.
        strategy: of all.
        nbytes: held for them.
    """

    def __init__(self, structure: Structure, candidate: Candidate, values: Any) -> None:
        self.strategy, self.nbytes = candidate.strategy, 0
        if structure.starts is not None:
            values = np.stack([structure.merged(v) for v in values])
            self.nbytes += int(values.nbytes)
        self._structure, self._values = structure.unique, values
        self._error = _EachError(self._structure, values, _REFINEMENTS)
        with np.errstate(all="ignore"):
            self._decomposition = self._decomposed(candidate)
            self.beyond_doubt = self._regular()
        self.matrices = int(self.beyond_doubt.sum())
        if self.matrices == 0:
            self._decomposition = None
        if self._decomposition is not None:
            self.nbytes += int(self._decomposition.nbytes) + 16 * len(values) * structure.shape[0]

    def solve(self, b: Any, *, adjoint: bool) -> Any:
        """`A⁻¹ b` or `A⁻ᴴ b` for `b` `(matrices, n, k)` and those beyond doubt, zero for the others; None where one of these is not accurate."""
        decomposition, trans = self._decomposition, "N" if not adjoint else "H" if np.iscomplexobj(b) else "T"
        if decomposition is None:
            return None
        b = b if self.beyond_doubt.all() else np.where(self.beyond_doubt[:, None, None], b, b.dtype.type(0))

        def solve(b: Any) -> Any:
            return decomposition.solve(b.reshape(-1, b.shape[2]), trans).reshape(b.shape)

        size = np.abs(b).max(axis=1, keepdims=True, initial=0)
        scale = np.where(size < self._error.limits.little, power_of_two(size), 1).astype(size.dtype)
        try:
            with np.errstate(all="ignore"):
                b = b if (scale == 1).all() else divided(b, scale)
                return scale * self._error.refined(solve(b), b, adjoint, self._product, solve, exact=lambda: False)
        except (DistrustedError, SolveError):
            return None

    def _decomposed(self, candidate: Candidate) -> Decomposition | None:
        """A decomposition of all; None where one cannot be decomposed so."""
        matrices = [Matrix(self._structure, v) for v in self._values]
        if candidate.definite and not all(m.kind == "positive" for m in matrices):
            return None
        try:
            if self.strategy in _SIDE_BY_SIDE:
                return candidate.decompose(Matrix(self._structure, self._values))
            return _Each([candidate.decompose(m) for m in matrices])
        except DecompositionError:
            return None

    def _regular(self) -> Any:
        """`(matrices,)`: which are not singular to working precision, nor near it: see `conditioning`."""
        if self._decomposition is None:
            return np.zeros(len(self._values), dtype=bool)
        places, limits, sizes = self._structure.on_diagonal, self._error.limits, self._error.sizes()
        if len(places) == self._structure.shape[0]:
            rows = self._error.norms(False, sizes).rows.ravel()
            if dominant(np.abs(self._values[:, places]).ravel(), rows, limits.huge):
                return np.ones(len(self._values), dtype=bool)
        columns, probe = self._error.scaled_sizes(sizes)
        probe = (probe * self._structure.signs).astype(self._values.dtype)
        excited = np.abs(self._decomposition.solve(probe.ravel()).reshape(columns.shape) * columns)
        return np.array([not doubtful(float(most), limits.eps) for most in excited.max(axis=1)])

    def _product(self, x: Any, adjoint: bool) -> Any:
        """`A x` or `Aᴴ x` for each matrix."""
        return _blocks(self._structure, self._values)(x.reshape(-1, x.shape[2]), adjoint).reshape(x.shape)


def _blocks(structure: Structure, values: Any) -> Product:
    """The block-diagonal matrix of several, values `(matrices, nnz)`: one product with it costs one call."""
    (n, _), (m, nnz), found = structure.shape, values.shape, structure.found
    held = found.get(Rows)
    if held is None or held.shape[0] < m * n:
        i = np.arange(m, dtype=np.int32)[:, None]
        indptr = np.append((structure.indptr[:-1] + nnz * i).ravel(), np.int32(m * nnz))
        held = found[Rows] = Rows((m * n, m * n), indptr, (structure.indices + n * i).ravel())
    first = Rows((m * n, m * n), held.indptr[: m * n + 1], held.indices[: m * nnz])
    return Product(first, values.ravel())


class _EachError(BackwardError):
    """Of solutions with several matrices, by each one's own norms."""

    def sizes(self) -> Any:
        """`|A| x` or `|Aᵀ| x` for each matrix, x `(n,)` or `(matrices, n)`, all at once."""
        all_of_them, shape = _blocks(self._structure, np.abs(self._values)), (len(self._values), -1)
        return lambda x, adjoint: all_of_them(np.broadcast_to(x, (shape[0], x.shape[-1])).ravel(), adjoint).reshape(
            shape
        )


class _Each:
    """Matrices decomposed one by one, as one decomposition of all."""

    def __init__(self, decompositions: list[Decomposition]) -> None:
        self._decompositions = decompositions
        self.nbytes = sum(int(d.nbytes) + _OBJECTS for d in decompositions)

    def solve(self, b: Any, trans: str = "N") -> Any:
        x = np.empty_like(b)
        n = len(b) // len(self._decompositions)
        for i, d in enumerate(self._decompositions):
            part = slice(i * n, (i + 1) * n)
            x[part] = d.solve(b[part], trans)
        return x
