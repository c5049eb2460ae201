"""SuperLU's factors, to be read: determinants, and the entries of the inverse.

With `P A Q = L U` and a unit diagonal of L, `det A = ± Π U_jj`, the sign that of the two permutations together. L and U are read, which of all
libraries SuperLU's object in SciPy alone allows; SciPy copies them for that.

What is not checked is not believed: the factors solve one system without refinement, and the entries of `Z = A⁻¹` at the places of A are all there
is to `(A Z)_ii = Σ_j A_ij Z_ji = 1` and `(Z A)_jj = 1`. Where these fail, or the patterns of L and U are too unlike, the inverse is solved for, some
columns at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from ..caching import cached_property
from ..result import Strategy
from ..solvers import LU, Cholesky
from .backward_error import BackwardError, DistrustedError
from .direct import DirectFactor
from .fronts import Fronts, TooMuchFill
from .host import Structure
from .ordering import Reordered
from .selected_inverse import selected_inverse

__all__ = ["ROUNDING", "ReadableFactor", "entry_of"]

# SuperLU's, in any order
_READABLE = (Strategy.SUPERLU_SYMMETRIC, Strategy.SUPERLU, Strategy.SUPERLU_CHOLESKY, Strategy.METIS)
_MORE = 4  # times the entries of L and U, that their fronts may have
_COLUMNS = 64  # of the inverse, solved for at a time
ROUNDING = 1e3  # units of roundoff, or n, that the checks of the inverse leave


def entry_of(structure: Structure) -> Any:
    """For each entry as given, its place among those without duplicates."""
    if structure.unique is structure:
        return slice(None)
    own, given = (s.rows.astype(np.int64) * s.shape[1] + s.indices for s in (structure.unique, structure))
    return np.searchsorted(own, given)


class _UnrefinedError(BackwardError):
    """What a factor has to show: each row of a solution is right as it is."""

    def refined(self, x: Any, b: Any, adjoint: bool, multiply: Any, solve: Any, exact: Any) -> Any:
        if self._small(b - multiply(x, adjoint), x, adjoint):
            return x
        raise DistrustedError("A large residual was left without refinement.", None)


class ReadableFactor(DirectFactor):
    """`P A Q = L U` with a small backward error of each row, without refinement."""

    def __init__(self, structure: Structure, values: Any, solver: LU | Cholesky) -> None:
        super().__init__(structure, values, solver)
        careful, self._error = self._error, _UnrefinedError(self._structure, self._values)
        self.solve(structure.signs.astype(values.dtype)[:, None], adjoint=False, x0=None)
        self._error = careful

    def _serves(self, strategy: Strategy) -> bool:
        return strategy in _READABLE

    def _balanced(self) -> None:
        """It is already."""

    def _release(self, decomposition: Any) -> None:
        """They are still to be read."""

    @property
    def _lu(self) -> Any:
        """SciPy's object."""
        return self._stage.decomposition.inner  # type: ignore[attr-defined]

    @cached_property
    def _orders(self) -> tuple[Any, Any]:
        """Which row, and which column, of `L U` each one of A is."""
        orders, lu = [self._lu.perm_r, self._lu.perm_c], self._stage.decomposition.lu  # type: ignore[attr-defined]
        if isinstance(lu, Reordered):
            for i, order in enumerate((lu.ordering.rows, lu.ordering.columns)):
                if order is not None:
                    inner, orders[i] = orders[i], np.empty_like(orders[i])
                    orders[i][order] = inner
        return orders[0], orders[1]

    def determinant(self) -> tuple[Any, float]:
        """Its logarithm and its sign, as `Determinant` has them."""
        pivots = self._lu.U.diagonal()
        flips = sum(_parity(p) for p in self._orders) if not np.array_equal(*self._orders) else 0
        log = float(np.log(np.abs(pivots), dtype=np.float64).sum())
        if pivots.dtype.kind == "c":
            if self._definite:  # their imaginary parts are rounding
                return complex(log), 1.0
            angle = float(np.angle(pivots.astype(np.complex128)).sum()) + np.pi * flips
            return log + 1j * (np.pi - (np.pi - angle) % (2 * np.pi)), 1.0
        return log, float((-1) ** (flips + int(np.count_nonzero(pivots < 0))))

    def inverse(self) -> Any:
        """`(A⁻¹)_ji` for each entry `(i, j)` of the matrix without duplicates."""
        fronts, (places, upper) = self._fronts()
        if fronts is None:
            return self._solved()
        with np.errstate(all="ignore"):
            hermitian = self._mirrored[0] and np.array_equal(*self._orders)
            lower_half, upper_half = selected_inverse(fronts, self._lu.L, self._lu.U, hermitian)
            Z = np.where(upper, upper_half[places], lower_half[places])
            return Z if self._is_inverse(Z) else self._solved()

    def _fronts(self) -> tuple[Fronts | None, Any]:
        """The fronts of the factors, None if they are too large, and where A's entries are in them: those of the last matrix with this pattern if
        its pivots were the same."""
        structure, (row, column) = self._structure, self._orders
        known = structure.found.get("fronts")
        if known is None or not (np.array_equal(known[0], row) and np.array_equal(known[1], column)):
            i, j = row[structure.rows], column[structure.indices]
            B = sp.csc_matrix((np.ones(len(i), dtype=np.int8), (i, j)), shape=structure.shape)
            try:
                fronts = Fronts(B, _MORE * self._lu.nnz + 64 * len(row))
            except TooMuchFill:
                known = row, column, None, (None, None)
            else:
                known = row, column, fronts, fronts.places(j, i)
            structure.found["fronts"] = known
        return known[2], known[3]

    def _is_inverse(self, Z: Any) -> bool:
        """Whether the diagonals of `A Z` and `Z A` are ones, up to rounding."""
        structure, A = self._structure, self._values
        tolerance = self._error.limits.eps * max(ROUNDING, structure.shape[0])
        product, n = A * Z, structure.shape[0]
        for line in (structure.rows, structure.indices):
            parts = [np.bincount(line, part, n) for part in (product.real, product.imag, np.abs(product))]
            if not (np.hypot(parts[0] - 1, parts[1]) <= tolerance * (1 + parts[2])).all():
                return False
        return True

    def _solved(self) -> Any:
        """The same by columns of the inverse."""
        structure = self._structure
        n, out = structure.shape[0], np.empty(structure.indices.size, dtype=self._values.dtype)
        for start in range(0, n, _COLUMNS):
            width = min(_COLUMNS, n - start)
            unit = np.zeros((n, width), dtype=out.dtype, order="F")
            unit[start + np.arange(width), np.arange(width)] = 1
            X = self.solve(unit, adjoint=False, x0=None).x
            part = slice(structure.indptr[start], structure.indptr[start + width])
            out[part] = X[structure.indices[part], structure.rows[part] - start]
        return out


def _parity(order: Any) -> int:
    """0 for an even permutation, 1 for an odd one: n less the number of its cycles."""
    n = len(order)
    graph = sp.csr_matrix((np.ones(n, dtype=np.int8), order, np.arange(n + 1)), shape=(n, n))
    return int((n - connected_components(graph, directed=False)[0]) % 2)
