"""Whether a matrix is singular to working precision, asked of its factorization.

A backward stable solve of a singular system has a small residual and no meaning, so the residual alone cannot tell. What can is
the condition number `‖ |A⁻ᵀ| |Aᵀ| ‖∞`: it does not change with the scaling of columns (Skeel's condition of `Aᵀ`; Higham,
Accuracy and Stability of Numerical Algorithms, 2nd ed., section 7.2), and here the rows are scaled first, by `d`, so a badly
scaled matrix is not called singular.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .host import largest

__all__ = ["condition", "dominant", "doubtful"]

_BALANCINGS = 20
_DOUBT = {"single": 1e-4, "double": 1e-6}  # of 1 / roundoff: singular matrices were seen with 6e-4 and 2e-3


def dominant(diagonal: Any, rows: Any, huge: float) -> bool:
    """Whether a strong diagonal proves the matrix nonsingular, so that no solve need be asked.

    With `r` the sum of sizes of a row without its diagonal entry `d`, `‖A⁻¹‖∞ <= 1 / min(|d| − r)` (Varah, Linear Algebra Appl. 11 (1975), theorem 1). Of
    the matrix with rows divided by `d` the condition is at most `(1 + α) / (1 − α)` with `α = max r / |d|`: 170 where `|d| >= 0.503 (r + |d|)`.

    Args:
        diagonal: `(n,)`, sizes.
        rows: `(n,)`, the sums of sizes of all entries.
        huge: sums of this size may have overflowed.
    """
    strong = diagonal >= 0.503 * rows
    return bool(strong.item(strong.argmin())) and largest(rows) < huge


def doubtful(excited: float, eps: float) -> bool:
    """Whether `excited`, the largest entry of `|A⁻¹ (s |A| d)| / d` with random `s` and `d` the columns' scaling, asks for `condition`.

    The right-hand side excites every direction, the smallest singular one included, but may miss a factor of about √n.
    """
    return not excited * eps < _DOUBT["single" if eps > 1e-10 else "double"]


def condition(A: Any, lu: Any, signs: Any, eps: float) -> float:
    """A lower bound, mostly tight, of the least condition that scaling the rows can reach; `1 / eps` is singular.

    Args:
        A: canonical CSC matrix without an empty row or column.
        lu: its factorization, with `solve(b, trans)`.
        signs: `(n,)`, random, of sizes from 1 to 2.
        eps: unit roundoff of the factorization.
    """
    with np.errstate(all="ignore"):
        inverse = 1.0 / np.bincount(A.indices, np.abs(A.data), A.shape[0])
        least = np.inf
        for scale in _scalings(A, inverse):
            found = _proven(A, lu, scale, signs, eps)
            least = found if found < least else least  # a NaN is never taken
            if least * eps < 1.0:
                break
        return least


def _columns(A: Any, scale: Any) -> Any:
    """`|Aᵀ| d`."""
    return np.add.reduceat(np.abs(A.data) * scale.take(A.indices), A.indptr[:-1])


def _proven(A: Any, lu: Any, scale: Any, signs: Any, eps: float) -> float:
    """The condition's row of the most excited entry, exactly: `Σ |w| |Aᵀ| d` with `A w = eⱼ / dⱼ`.

    The most excited entry is found with random `signs`. The right-hand side `|Aᵀ| d` with the signs of `w` is the worst there is. Where `A u = 0`, `w` is a multiple of `u`, and then
    the residual of any solution whatever is at least `|Aᵀ| d` somewhere: a residual that large says singular, however much the
    pivots were rounded.
    """
    columns = _columns(A, scale)
    unit = np.zeros(len(scale), dtype=A.dtype)
    j = int((np.abs(lu.solve((signs * columns).astype(A.dtype), "T")) / scale).argmax())
    unit[j] = 1.0 / scale[j]
    w = lu.solve(unit, "N")
    size = np.abs(w)
    worst = (columns * np.where(size > 0, w.conj() / size, 1.0)).astype(A.dtype)
    missed = np.abs(worst - A.T @ lu.solve(worst, "T")) / columns
    return max(float((size * columns).sum()), float(missed.max()) / eps)


def _scalings(A: Any, by_row_sums: Any) -> Iterator[Any]:
    """Row scalings `d`: by row sums; then columns and rows of `|A|` balanced in turn, from either side."""
    size, n, lengths = np.abs(A.data), A.shape[0], np.diff(A.indptr)
    yield by_row_sums
    for scale in (np.ones(n), by_row_sums):
        for _ in range(_BALANCINGS):
            scale = 1.0 / np.bincount(A.indices, size / np.repeat(_columns(A, scale), lengths), n)
        yield scale
