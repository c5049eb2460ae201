"""How large a residual may be: the backward error of each row, in units of roundoff.

`|b − A x| <= c u ‖A‖ ‖x‖` with the norm of each row of A, so that no row's scale matters, or with that of all (Higham, Accuracy and Stability
of Numerical Algorithms, 2nd ed., sections 7.1 and 7.2; with `‖b‖` on the right c is twice as large at most, since `‖b‖ <= ‖A‖ ‖x‖ + ‖r‖`).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .host import Product, Structure

__all__ = ["LIMITS", "BackwardError", "Limits", "Norms", "largest"]


class Limits(NamedTuple):
    """Of a precision: unit roundoff, the smallest and the largest normal number, and what underflow may leave of a residual."""

    eps: float
    tiny: float
    huge: float
    least: float


LIMITS = {
    c: Limits(*(float(x) for x in (f.eps, f.tiny, f.max, 100 * f.smallest_subnormal)))
    for c in "fdFD"
    for f in [np.finfo(c)]
}


class Norms(NamedTuple):
    """Of each row of A (or Aᴴ) the sum of sizes, at least the smallest normal number, and what underflow may leave of a residual over it."""

    rows: Any
    underflow: float


class BackwardError:
    """Of solutions with one matrix.

    Attributes:
        limits: of its precision.
    """

    def __init__(self, structure: Structure, values: Any, units: float) -> None:
        self.limits = LIMITS[values.dtype.char]
        self._structure, self._values = structure, values
        self._known: dict[bool, Norms] = {}
        self._tolerance = self.limits.eps * max(units, structure.shape[0] ** 0.5)

    def norms(self, adjoint: bool) -> Norms:
        """The norms of A's rows, or of its columns; found once."""
        if adjoint not in self._known:
            self._known[adjoint] = self._bounded(_sums(self._sizes(), adjoint))
        return self._known[adjoint]

    def scaled_sizes(self) -> tuple[Any, Any]:
        """The norms of A's columns, and `|A| d` with d one over these."""
        sizes = self._sizes()
        columns = _sums(sizes, True)
        self._known[True] = self._bounded(columns)
        return columns, sizes(1.0 / columns, False)

    def small(self, residual: Any, x: Any, norms: Norms) -> bool:
        """Whether the residual is small enough in each column.

        It is divided by the norms, so that `‖A‖ ‖x‖` cannot overflow; underflow is no failure.
        """
        size = np.abs(residual)
        size /= norms.rows if x.ndim == 1 else norms.rows[:, None]
        bound = self._tolerance * largest(x) + norms.underflow
        if x.ndim == 1:  # numbers, which NumPy would compare as arrays
            return float(np.maximum.reduce(size)) <= float(bound) < math.inf
        return bool(((np.maximum.reduce(size) <= bound) & (bound < np.inf)).all())

    def of_all(self, norms: Norms) -> Norms:
        """The largest norm for every row."""
        return self._bounded(norms.rows.max(keepdims=True))

    def _sizes(self) -> Product:
        """`|A|`."""
        return Product(self._structure, np.abs(self._values))

    def _bounded(self, sums: Any) -> Norms:
        np.minimum(np.maximum(sums, self.limits.tiny, out=sums), self.limits.huge, out=sums)
        return Norms(sums, self.limits.least * (1 + 1 / float(np.minimum.reduce(sums))))


def _sums(sizes: Product, adjoint: bool) -> Any:
    """`|A| 1`, or `|Aᴴ| 1`."""
    return sizes(sizes.structure.ones(sizes.dtype), adjoint)


def largest(a: Any) -> Any:
    """`‖a‖∞` of each column."""
    return np.maximum.reduce(np.abs(a))
