"""Diagonal matrices, and those that are triangular once their rows and columns are in order: no elimination at all."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..result import Strategy
from .decomposition import DecompositionError
from .ordering import TRIANGULAR, Ordering, Reordered, SuperLUFactor
from .strategy import Candidate, Matrix
from .superlu_memory import splu

__all__ = ["CANDIDATES"]

_LEVELS = 100  # of substitution, one product with the pattern each, beyond which looking for an order does not pay


def _is_diagonal(matrix: Matrix) -> str | None:
    structure = matrix.structure
    n = structure.shape[0]
    return "it is diagonal" if len(structure.diagonal) == len(structure.csc_indices) == n else None


class Diagonal:
    """`x = b / d`."""

    def __init__(self, matrix: Matrix) -> None:
        self._diagonal = matrix.values
        self.nbytes = 0  # the matrix's own
        if not np.all(self._diagonal):
            raise DecompositionError("A zero on the diagonal.")

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
    """The order as it stands; or rows whose other unknowns are all known by then, level by level, as substitution would find them.

    (Davis, Direct Methods for Sparse Linear Systems, section 3.2.) Each row is ready once, so that where all n unknowns are found, each was
    found by one row. Deep matrices in another order go to SuperLU, where they fill in as little.
    """
    structure, n = matrix.structure, matrix.structure.shape[0]
    if 0 in structure.band:
        return Ordering(matrix.A, np.arange(n), np.arange(n)) if len(structure.diagonal) == n else None
    if not (np.diff(structure.csc_indptr) == 1).any():
        return None  # the last column of a lower triangular matrix has one entry
    pattern = structure.filled(np.ones(len(structure.csc_indices)))
    places, unknown, rows, columns = np.arange(1.0, n + 1), np.ones(n), [], []
    for _ in range(_LEVELS):
        count, place = (pattern @ np.stack([unknown, unknown * places], axis=1)).T
        ready = np.flatnonzero(count == 1)  # a row that is done has none left
        found = place[ready].astype(np.int64) - 1
        if len(ready) == 0:
            return None
        rows.append(ready)
        columns.append(found)
        unknown[found] = 0
        if not unknown.any():
            return Ordering(matrix.A, rows=np.concatenate(rows), columns=np.concatenate(columns))
    return None


def _triangular(matrix: Matrix) -> SuperLUFactor:
    """The matrix as it is, in its order."""
    ordering = _ordering(matrix)
    assert ordering is not None
    B = ordering.matrix(matrix.A.data)
    if not (np.isfinite(B.data).all() and B.diagonal().all()):
        raise DecompositionError("A zero on the diagonal.")  # with which SuperLU may write outside of its memory
    return SuperLUFactor(Reordered(splu(B, **TRIANGULAR), ordering), matrix.A)


CANDIDATES = (
    Candidate(Strategy.DIAGONAL, _is_diagonal, Diagonal),
    Candidate(Strategy.TRIANGULAR, _is_triangular, _triangular),
)
