"""The ordering of a pattern, found by its first factorization and used by all others: new values pay for numbers only.

Column orderings look at the pattern alone, so what the first one found holds for any values. `B = A[p, :][:, q]` is then
factorized as it stands; `p` follows `q` where the diagonal is to stay on the diagonal, as SymmetricMode wants it.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..caching import cached_property

__all__ = ["TRIANGULAR", "Ordering", "Reordered", "SuperLUFactor"]

# of SuperLU: natural order and diagonal pivots leave a triangular matrix as it is, and the solves are compiled
TRIANGULAR = {"permc_spec": "NATURAL", "diag_pivot_thresh": 0.0, "panel_size": 1, "relax": 1}


class Ordering:
    """An order of the rows and columns of a canonical CSC pattern.

    Args:
        A: canonical matrix; its index arrays are kept, not its values.
        columns: `(n,)`: column `columns[j]` of A is column `j` of B.
        rows: likewise, or None where they stay.
        fill: entries a column that the factors had.
    """

    def __init__(self, A: Any, columns: Any, rows: Any = None, fill: float = 0.0) -> None:
        self._indices, self._indptr, self._shape = A.indices, A.indptr, A.shape
        self.columns, self.rows, self.fill = columns, rows, fill

    @cached_property
    def _places(self) -> Any:
        """The reordered matrix with the place of each entry in A as its value; made when it is first wanted."""
        places = np.arange(len(self._indices))
        entries = sp.csc_matrix((places, self._indices, self._indptr), shape=self._shape)[:, self.columns]
        if self.rows is not None:
            entries = entries[self.rows, :]
        entries.sort_indices()
        entries.has_canonical_format = True
        return entries

    def matrix(self, data: Any) -> Any:
        """The reordered matrix of A's values."""
        B = copy.copy(self._places)
        B.data = data[B.data]
        return B


class Reordered:
    """A decomposition of `B = A[p, :][:, q]` as one of A: `A x = b` is `B x[q] = b[p]`, `Aᵀ x = b` is `Bᵀ x[p] = b[q]`."""

    def __init__(self, lu: Any, ordering: Ordering) -> None:
        self.inner, self.ordering = lu, ordering
        self.nnz = lu.nnz

    def solve(self, b: Any, trans: str = "N") -> Any:
        """`A⁻¹ b`, `A⁻ᵀ b` or `A⁻ᴴ b`."""
        before, after = self.ordering.rows, self.ordering.columns
        if trans != "N":
            before, after = after, before
        y = self.inner.solve(b if before is None else b[before], trans)
        if after is None:
            return y
        x = np.empty_like(y)
        x[after] = y
        return x


class SuperLUFactor:
    """SuperLU's factorization, reordered or not, and how large it is."""

    threads = True

    def __init__(self, lu: Any, A: Any) -> None:
        self.lu, self.solve = lu, lu.solve
        self._each, self._rest = int(A.data.itemsize) + 4, 64 * int(A.shape[0])

    @property
    def inner(self) -> Any:
        """SciPy's object."""
        return self.lu.inner if isinstance(self.lu, Reordered) else self.lu

    def drop_copies(self) -> None:
        """Empty the copies of L and U, as large as the factors, that SciPy makes and keeps once they are read; its solves do not use them."""
        for F in (self.inner.L, self.inner.U):
            F.data, F.indices = F.data[:0].copy(), F.indices[:0].copy()

    @property
    def nbytes(self) -> int:
        """SuperLU's count of entries, half as much again as it allocates, and its index arrays."""
        return int(1.5 * self.lu.nnz) * self._each + self._rest
