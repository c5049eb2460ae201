"""Rows and columns of a matrix brought to one size by powers of two, which round nothing.

The largest entries of rows and columns are made one (Ruiz, A scaling algorithm to equilibrate both rows and columns norms in matrices,
RAL-TR-2001-034), and there are many ways to do so. One begins where the squares of the entries' logarithms are least,
`Σ (log |a_ij| − r_i − c_j)²` (Curtis and Reid, J. Inst. Maths Applics 10 (1972)): that finds the scales which a matrix was multiplied with, and is led astray by entries
that hardly count, such as 1e-25 beside 1. Another begins with the matrix as it is. Of scales under which no entry is larger than one, those with the least
`Σ r_i + Σ c_j` are best: `log |det A|` is that sum and `log |det B|`, so B is farthest from singular. (The least of all is the dual of the matching with
the largest product: Duff and Koster, SIAM J. Matrix Anal. Appl. 22 (2001).) All treat rows and columns alike, so a Hermitian matrix stays one.

A determinant needs that: a solution is refined until each of its rows is right, a factor is as good as it is. So does a solution where sizes are
so far apart that multipliers of the elimination underflow: what they would have done to small rows is lost, and no residual need show it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as sla

from .host import Structure, largest
from .strategy import Decomposition

__all__ = ["Balanced", "Rescaled", "balanced", "graded", "near_one_size", "scaled"]

_FAR = 10.0  # powers of two between the largest entries of two rows, or of two columns, that are too many
_EXTREME = 60.0  # powers of two away from one, likewise
_STEPS, _SWEEPS = 1000, 10  # of conjugate gradients; over rows and columns
# between sizes, from which on products of two quotients underflow; the least and the most that the largest may be
_RANGE = {c: (float(f.max) ** 0.5, float(f.tiny) ** 0.75, float(f.max) ** 0.75) for c in "fd" for f in [np.finfo(c)]}


class Balanced(NamedTuple):
    """`B_ij = A_ij / 2^(r_i + c_j)`.

    Attributes:
        values: of B.
        powers: `r_i + c_j` for each entry, or 0.
        total: the sum of all r and c: `det A = 2^total det B`.
        rows, columns: r and c; None where B is A.
    """

    values: Any
    powers: Any
    total: int
    rows: Any = None
    columns: Any = None


def balanced(structure: Structure, values: Any) -> Balanced:
    """A matrix whose rows and columns are of one size; A itself, if it is one, or has a zero row or numbers that are not finite.

    Args:
        structure: without duplicates.
        values: of the matrix.
    """
    unchanged = Balanced(values, 0, 0)
    if structure.empty or not np.isfinite(values).all():
        return unchanged
    with np.errstate(divide="ignore"):
        size = np.log2(np.abs(values).astype(np.float64))
    both = _largest(structure, size)
    if not all(np.isfinite(most).all() for most in both):
        return unchanged
    if all(_near(most) for most in both):
        return unchanged
    none = np.zeros(structure.shape[0])
    fits = [_equal(structure, size, *start) for start in (_least_squares(structure, size), (none, none))]
    row, column = min(fits, key=lambda fit: float(fit[0].sum() + fit[1].sum()))
    row, column = np.rint(row).astype(np.int64), np.rint(column).astype(np.int64)
    powers = row[structure.rows] + column[structure.indices]
    return Balanced(scaled(values, -powers), powers, int(row.sum() + column.sum()), row, column)


def near_one_size(size: Any) -> Any:
    """Whether a full matrix, or each of several `(matrices, n, n)`, with entries of these sizes, is one that `balanced` would leave alone."""
    with np.errstate(all="ignore"):
        return _near(np.log2(size.max(axis=-1))) & _near(np.log2(size.max(axis=-2)))


def _near(most: Any) -> Any:
    """Whether powers of two are near to each other, and to zero."""
    return (np.ptp(most, axis=-1) <= _FAR) & (np.abs(most).max(axis=-1) <= _EXTREME)


def graded(size: Any) -> bool:
    """Whether entries of a matrix, of these sizes, `(nnz,)` or `(matrices, nnz)`, are so far apart that products of quotients of them may underflow,
    or so large or small that sums or pivots may be out of range."""
    if not size.size:
        return False
    span, low, high = _RANGE[size.dtype.char]
    if size.ndim == 1:
        least, most = size.item(size.argmin()), largest(size)
        if least * span >= most and low < most < high:
            return False  # as nearly all are
    each = np.maximum.reduce(size, axis=-1, keepdims=True)
    extreme = (each > 0) & ((each < low) | (each > high))
    return bool(extreme.any() or ((size > 0) & (size < each / span)).any())


class Rescaled:
    """A decomposition of the balanced matrix, `A⁻¹ = C⁻¹ B⁻¹ R⁻¹` with `R = diag(2^r)` and `C = diag(2^c)`."""

    def __init__(self, inner: Decomposition, balance: Balanced) -> None:
        self.inner, self.nbytes, self._powers = inner, inner.nbytes, (balance.rows, balance.columns)

    def solve(self, b: Any, trans: str = "N") -> Any:
        """As `Decomposition.solve`."""
        before, after = self._powers if trans == "N" else self._powers[::-1]
        if b.ndim == 2:
            before, after = before[:, None], after[:, None]
        return scaled(self.inner.solve(scaled(b, -before), trans), -after)


def _largest(structure: Structure, size: Any) -> tuple[Any, Any]:
    """The largest size in each row, and in each column."""
    by_columns = size[structure.order]
    return np.maximum.reduceat(size, structure.indptr[:-1]), np.maximum.reduceat(by_columns, structure.csc_indptr[:-1])


def _equal(structure: Structure, size: Any, row: Any, column: Any) -> tuple[Any, Any]:
    """Scales from these on that make the largest entries of rows and columns one, and none larger."""
    row, column, size = row.copy(), column.copy(), size - row[structure.rows] - column[structure.indices]
    for _ in range(_SWEEPS):
        of_rows, of_columns = _largest(structure, size)
        row += of_rows / 2
        column += of_columns / 2
        size -= (of_rows[structure.rows] + of_columns[structure.indices]) / 2
    left = size.max() / 2
    return row + left, column + left


def _least_squares(structure: Structure, size: Any) -> tuple[Any, Any]:
    """r and c with the least `Σ (size_ij − r_i − c_j)²` over the nonzeros: `r_i` times their number, and their `c_j`, sum up to the row's sizes."""
    n, there = structure.shape[0], np.isfinite(size)
    rows, columns, sizes = structure.rows[there], structure.indices[there] + n, size[there]
    i, j = np.concatenate([rows, columns]), np.concatenate([columns, rows])
    counts = np.bincount(i, minlength=2 * n).astype(float)
    K = sp.csr_matrix((np.ones(len(i)), (i, j)), shape=(2 * n, 2 * n)) + sp.diags(counts)
    sums = np.bincount(i, np.concatenate([sizes, sizes]), 2 * n)
    found, _ = sla.cg(K, sums, rtol=1e-6, maxiter=_STEPS, M=sp.diags(1 / counts))
    row, column = found[:n], found[n:]
    alike = np.abs(row - column) < 1e-3  # those of a Hermitian matrix are, up to rounding
    middle = (row + column) / 2
    return np.where(alike, middle, row), np.where(alike, middle, column)


def scaled(a: Any, powers: Any) -> Any:
    """`a 2^powers`."""
    out = np.empty_like(a)
    with np.errstate(all="ignore"):
        out.real = np.ldexp(a.real, powers)
        if np.iscomplexobj(a):
            out.imag = np.ldexp(a.imag, powers)
    return out
