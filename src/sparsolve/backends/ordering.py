"""The ordering of a pattern, found by its first factorization and used by all others: new values pay for numbers only.

Column orderings look at the pattern alone, so what the first one found holds for any values. With `q` the order,
`A[:, q]` (or `A[q, :][:, q]` where rows follow, as SymmetricMode wants its diagonal) is factorized as it stands.
"""

from __future__ import annotations

import copy
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

__all__ = ["Ordering", "Reordered"]


class Ordering:
    """An order of the columns of a canonical CSC pattern, and of its rows if `symmetric`.

    Args:
        A: canonical matrix; its index arrays are kept, not its values.
        perm_c: SuperLU's: column `i` of A goes to place `perm_c[i]`.
        symmetric: whether rows go where columns go.
    """

    def __init__(self, A: Any, perm_c: Any, *, symmetric: bool) -> None:
        self._indices, self._indptr, self._shape = A.indices, A.indptr, A.shape
        self.order = np.argsort(perm_c)
        self.symmetric = symmetric

    @cached_property
    def _places(self) -> Any:
        """The reordered matrix with the place of each entry in A as its value; made when it is first wanted."""
        places = np.arange(len(self._indices))
        entries = sp.csc_matrix((places, self._indices, self._indptr), shape=self._shape)[:, self.order]
        if self.symmetric:
            entries = entries[self.order, :]
        entries.sort_indices()
        entries.has_canonical_format = True
        return entries

    def matrix(self, data: Any) -> Any:
        """The reordered matrix of A's values."""
        B = copy.copy(self._places)
        B.data = data[B.data]
        return B


class Reordered:
    """The factorization of a reordered matrix as one of the matrix itself."""

    def __init__(self, lu: Any, ordering: Ordering) -> None:
        self._lu, self._ordering = lu, ordering
        self.nnz = lu.nnz

    def solve(self, b: Any, trans: str = "N") -> Any:
        """`A⁻¹ b`, `A⁻ᵀ b` or `A⁻ᴴ b`: rows are in order where they follow the columns, or where the columns are the rows."""
        order, symmetric = self._ordering.order, self._ordering.symmetric
        y = self._lu.solve(b[order] if symmetric or trans != "N" else b, trans)
        if trans != "N" and not symmetric:
            return y
        x = np.empty_like(y)
        x[order] = y
        return x
