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

__all__ = ["condition"]

_BALANCINGS = 20
_DOUBT = {"f": 1e-4, "F": 1e-4, "d": 1e-6, "D": 1e-6}  # of 1 / roundoff: singular matrices were seen with 6e-4 and 2e-3


def condition(A: Any, lu: Any, row_sums: Any, signs: Any, eps: float) -> float:
    """A lower bound, mostly tight, of the least condition that scaling the rows can reach; `1 / eps` is singular.

    First one solve: the right-hand side `± |Aᵀ| d` with fixed random signs excites every direction, the smallest
    singular one included, but may miss a factor of about √n. Only a doubtful result pays for more.

    Args:
        A: canonical CSC matrix without an empty row or column.
        lu: its factorization, with `solve(b, trans)`.
        row_sums: of `|A|`.
        signs: `(n,)` of ±1.
        eps: unit roundoff of A's dtype.
    """
    with np.errstate(all="ignore"):
        inverse = 1.0 / row_sums
        doubtful = _excited(A, lu, inverse, _columns(A, inverse), signs)[0]
        if doubtful * eps < _DOUBT[A.dtype.char]:
            return doubtful
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


def _excited(A: Any, lu: Any, scale: Any, columns: Any, signs: Any) -> tuple[float, int]:
    """The largest entry of `|A⁻ᵀ (± |Aᵀ| d)| / d`, and where it is."""
    z = np.abs(lu.solve((signs * columns).astype(A.dtype), "T")) / scale
    j = int(z.argmax())
    return float(z[j]), j


def _proven(A: Any, lu: Any, scale: Any, signs: Any, eps: float) -> float:
    """The condition's row of the most excited entry, exactly: `Σ |w| |Aᵀ| d` with `A w = eⱼ / dⱼ`.

    The right-hand side `|Aᵀ| d` with the signs of `w` is the worst there is. Where `A u = 0`, `w` is a multiple of `u`, and then
    the residual of any solution whatever is at least `|Aᵀ| d` somewhere: a residual that large says singular, however much the
    pivots were rounded.
    """
    columns = _columns(A, scale)
    unit = np.zeros(len(scale), dtype=A.dtype)
    j = _excited(A, lu, scale, columns, signs)[1]
    unit[j] = 1.0 / scale[j]
    w = lu.solve(unit)
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
