"""Diagonal matrices, and those that are triangular once their rows and columns are in order: no elimination at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as sla
from scipy.sparse.csgraph import connected_components, maximum_bipartite_matching

from ..result import Strategy
from .ordering import Ordering, Reordered, SuperLUFactor
from .strategy import Candidate, Matrix

__all__ = ["CANDIDATES"]

_TRIANGULAR = {"permc_spec": "NATURAL", "diag_pivot_thresh": 0.0, "panel_size": 1, "relax": 1}


def _is_diagonal(matrix: Matrix) -> str | None:
    structure = matrix.structure
    n = structure.shape[0]
    return "it is diagonal" if len(structure.diagonal) == len(structure.csc_indices) == n else None


class Diagonal:
    """`x = b / d`."""

    def __init__(self, matrix: Matrix) -> None:
        self._diagonal = matrix.A.data
        self.nbytes = 0  # the matrix's own
        if not np.all(self._diagonal):
            raise RuntimeError("A zero on the diagonal.")

    def solve(self, b: Any, trans: str = "N") -> Any:
        d = self._diagonal.conj() if trans == "H" else self._diagonal
        return b / (d if b.ndim == 1 else d[:, None])


def _is_triangular(matrix: Matrix) -> str | None:
    return "it is triangular, in some order" if _ordering(matrix) is not None else None


def _ordering(matrix: Matrix) -> Ordering | None:
    """The order of rows and columns that makes the pattern upper triangular, if there is one; looked for once."""
    found = matrix.structure.found
    if "triangular" not in found:
        found["triangular"] = _triangular_order(matrix)
    return found["triangular"]  # type: ignore[no-any-return]


def _triangular_order(matrix: Matrix) -> Ordering | None:
    """Match rows to columns; the graph of the matched matrix must have no cycle, and its components are then the order.

    (Duff, Erisman, Reid, Direct Methods for Sparse Matrices, 2nd ed., section 6.2: blocks of size one.)
    """
    structure, n = matrix.structure, matrix.structure.shape[0]
    if not (np.diff(structure.csc_indptr) == 1).any() or not (np.diff(structure.indptr) == 1).any():
        return None  # the first column and the last row of a triangular matrix have one entry
    pattern = sp.csc_matrix((np.ones(len(structure.csc_indices)), structure.csc_indices, structure.csc_indptr))
    if len(structure.diagonal) == n:
        rows = np.arange(n)
    else:
        rows = maximum_bipartite_matching(pattern.tocsr(), perm_type="row")
        if (rows < 0).any():
            return None
    count, label = connected_components(pattern[rows], directed=True, connection="strong")
    if count < n:
        return None
    columns = np.argsort(label)
    for order in (columns, columns[::-1]):
        B = pattern[rows[order]][:, order].tocoo()
        if (B.row <= B.col).all():
            return Ordering(matrix.A, rows=rows[order], columns=order)
    return None


def _triangular(matrix: Matrix) -> SuperLUFactor:
    """SuperLU in natural order and with diagonal pivots leaves a triangular matrix as it is, and its solves are compiled."""
    ordering = _ordering(matrix)
    assert ordering is not None
    return SuperLUFactor(Reordered(sla.splu(ordering.matrix(matrix.A.data), **_TRIANGULAR), ordering), matrix.A)


CANDIDATES = (
    Candidate(Strategy.DIAGONAL, _is_diagonal, Diagonal),
    Candidate(Strategy.TRIANGULAR, _is_triangular, _triangular),
)
