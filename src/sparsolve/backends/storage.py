"""How LAPACK stores a matrix: as three diagonals, in a band, or with all entries, the zeros too."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from .strategy import Matrix

__all__ = ["bands", "diagonals", "full"]


def bands(matrix: Matrix, kl: int, ku: int, spare: int = 0, order: Literal["C", "F"] = "F") -> Any:
    """LAPACK's band storage: `ab[spare + ku + i - j, j] = A[i, j]`, with `spare` rows above for the fill.

    Of several matrices, values `(matrices, nnz)`, the bands are side by side.
    """
    structure, width = matrix.structure, spare + kl + ku + 1
    by_column, by_row = (width, 1) if order == "F" else (1, structure.shape[0])
    key = (kl, ku, spare, order)
    if key not in structure.found:
        row, column = structure.rows, structure.indices.astype(np.int64)
        kept = (row - column <= kl) & (column - row <= ku)
        places = column * np.int64(by_column) + (spare + ku + row - column) * np.int64(by_row)
        structure.found[key] = (None, places) if kept.all() else (kept, places[kept])
    kept, places = structure.found[key]
    data = matrix.values
    ab = np.zeros((*data.shape[:-1], width * structure.shape[0]), dtype=data.dtype)
    if kept is None and data.ndim == 1:
        ab[places] = data  # in half of the time
    else:
        ab[..., places] = data if kept is None else data[..., kept]
    if order == "F":
        return ab.reshape(-1, width).T
    return ab.reshape(-1, width, structure.shape[0]).swapaxes(0, 1).reshape(width, -1)


def diagonals(matrix: Matrix) -> tuple[Any, Any, Any]:
    """The diagonals below, on and above, of their own memory. Where none has a gap, row by row they are every third entry."""
    structure, data = matrix.structure, matrix.values
    n = structure.shape[0]
    if data.shape == (3 * n - 2,) and structure.sorted:
        return data[2::3].copy(), data[::3].copy(), data[1::3].copy()
    above, on, below = bands(matrix, 1, 1, order="C")
    return below[:-1].copy(), on.copy(), above[1:].copy()


def full(matrix: Matrix) -> Any:
    """All entries, `(n, n)`, by columns."""
    structure, n = matrix.structure, matrix.structure.shape[0]
    if "full" not in structure.found:
        structure.found["full"] = structure.indices.astype(np.int64) * n + structure.rows
    a = np.zeros(n * n, dtype=matrix.values.dtype)
    a[structure.found["full"]] = matrix.values
    return a.reshape(n, n).T
