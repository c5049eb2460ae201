"""How large a residual may be, and refinement until it is no larger: the backward error of each row, in units of roundoff.

`|b − A x| <= c u ‖A‖ ‖x‖` with the norm of each row of A, so that no row's scale matters, or with that of all (Higham, Accuracy and Stability
of Numerical Algorithms, 2nd ed., sections 7.1 and 7.2; with `‖b‖` on the right c is twice as large at most, since `‖b‖ <= ‖A‖ ‖x‖ + ‖r‖`).
Solutions are NumPy's arrays or CuPy's; of CuPy's each look at a residual is one wait for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..arrays import on_host, power_of_two
from ..caching import cached_property
from .diagnosis import not_finite, overflow
from .host import Product, Structure, largest, largest_size

__all__ = ["BackwardError", "DistrustedError", "Sizes"]


class DistrustedError(Exception):
    """What is wrong with a decomposition, and the condition found, if it was."""


class Limits(NamedTuple):
    """Of a precision: unit roundoff, the smallest and the largest normal number, what underflow may leave of a residual, and from where on down
    a right-hand side is near to that."""

    eps: float
    tiny: float
    huge: float
    least: float
    little: float


_ALIKE = 4.0  # times, that columns of one size differ by at most

Sizes = Callable[[Any, bool], Any]
LIMITS = {
    c: Limits(*(float(x) for x in (f.eps, f.tiny, f.max, 100 * f.smallest_subnormal, f.tiny**0.25)))
    for c in "fdFD"
    for f in [np.finfo(c)]
}


class Norms:
    """Of the rows of A, or of Aᴴ.

    Args:
        sums: of each the sizes, added up; at least the smallest normal number.
        least: what underflow may leave of a residual.
        placed: what brings an array to where the solutions are.

    Attributes:
        sums: these.
        rows: the same, there.
    """

    def __init__(self, sums: Any, least: float, placed: Any) -> None:
        self.sums, self._least = sums, least
        self.rows = sums if placed is None else placed(sums)
        if placed is not None:  # at once, for all streams
            self.underflow = placed(self._left())

    @cached_property
    def underflow(self) -> Any:
        """What underflow may leave of each row's residual, over its norm."""
        return self._left()

    def _left(self) -> Any:
        return self._least * (1 + 1 / self.sums)


class BackwardError:
    """Of solutions with one matrix.

    Args:
        structure, values: of the matrix, without duplicates, on the host.
        times: how often a solution is refined, at most.
        units: of roundoff that will do.
        placed: what brings an array to where the solutions are.
        by_columns: compare with `‖A D‖ ‖D⁻¹ x‖` as well, D one over the norms of A's columns: for approximate solves, which would stop too early where unknowns
            are in units of their own. (With what is exact, large parts of x are as good as they can be.)

    Attributes:
        limits: of its precision.
        hermitian: whether its columns have the norms of its rows.
    """

    hermitian = False

    def __init__(
        self,
        structure: Structure,
        values: Any,
        times: int = 5,
        units: float = 100.0,
        placed: Any = None,
        by_columns: bool = False,
    ) -> None:
        self.limits = LIMITS[values.dtype.char]
        self._structure, self._values, self._times, self._placed = structure, values, times, placed
        self._known: dict[bool, Norms] = {}
        self._by_columns, self._scaled = by_columns, dict[bool, Norms]()
        self._least: dict[bool, float] = {}
        self._tolerance: float = self.limits.eps * max(units, structure.shape[0] ** 0.5)

    def refined(
        self, x: Any, b: Any, adjoint: bool, multiply: Any, solve: Callable[[Any], Any], exact: Callable[[], bool]
    ) -> Any:
        """x, refined in the matrix's precision (Higham, section 12.1) until the backward error of each row is small.

        Args:
            x, b: `(n,)` or `(n, k)`; of CuPy `(n, k)`; of several matrices `(matrices, n, k)`.
            multiply: A or Aᴴ times x, called `(x, adjoint)`.
            solve: what x is from.
            exact: whether `solve` makes rounding errors only, and nothing is left to do about rows of different size.

        Raises:
            DistrustedError: a large residual is left.
            SolveError: x overflows.
        """
        for _ in range(self._times):
            residual = b - multiply(x, adjoint)
            if self._small(residual, x, adjoint):
                return x
            x = x + solve(residual)
        if exact() and self._within(b - multiply(x, adjoint), x, self._of_all(self.norms(adjoint))):
            return x  # as good as elimination is, where rows of another size had to be pivots
        if not bool((abs(x) < math.inf).all()):
            if self._by_columns:  # approximate solves may overflow by themselves
                raise DistrustedError(
                    "The solution overflowed, as it does in any precision where b is too large.", None
                )
            raise not_finite("b", b) or overflow()
        raise DistrustedError("A large residual was left, even after refinement.", None)

    def norms(self, adjoint: bool, sizes: Sizes | None = None) -> Norms:
        """The norms of A's rows, or of its columns; found once."""
        adjoint = adjoint and not self.hermitian
        known = self._known.get(adjoint)
        if known is None:
            known = self._known[adjoint] = self._bounded((sizes or self.sizes())(self._ones(), adjoint))
            self._least[adjoint] = known.sums.item(known.sums.argmin())
        return known

    def at_least(self, size: float, *, rows: bool) -> None:
        """A lower bound of the norms of all rows, or of all columns, which spares finding them where a residual is small beside it."""
        self._least.setdefault(not rows, size)

    def scaled_sizes(self, sizes: Sizes) -> tuple[Any, Any]:
        """The norms of A's columns, and `|A| d` with d one over these; of columns of one size, one over the least of them."""
        columns = self.norms(True, sizes).sums
        if columns.ndim == 1 and largest(columns) <= _ALIKE * (least := columns.item(columns.argmin())):
            return columns, self.norms(False, sizes).sums / least
        return columns, sizes(1.0 / columns, False)

    def scale(self, b: Any) -> Any:
        """A power of two, for each column, that brings b near to one where its products with A could underflow; None where it is well."""
        if b.ndim == 1 and abs(b[0]) >= self.limits.little:  # as of nearly all
            return None
        if b.ndim == 2 and np.minimum.reduce(np.abs(b[0])) >= self.limits.little:
            return None
        size = np.abs(b)
        if size.ndim == 1 and largest(size) >= self.limits.little:
            return None
        size = np.maximum.reduce(size, axis=0)
        small = size < self.limits.little
        if not small.any():
            return None
        return np.where(small, power_of_two(size), 1).astype(size.dtype)

    def _small(self, residual: Any, x: Any, adjoint: bool) -> bool:
        """Whether the residual is small enough in each column: at once where it is for the least norm."""
        if self._by_columns:
            norms, columns = self._of_scaled(adjoint), self.norms(not adjoint).sums
            if not self._within(residual, (x.T * columns).T, norms):
                return False
        least = self._least.get(adjoint and not self.hermitian)
        if least is not None and x.ndim < 3 and self._placed is None:
            columns = largest_size(x) if x.ndim == 1 else float(np.abs(x).max(axis=0).min(initial=math.inf))
            if largest_size(residual) <= self._tolerance * least * columns < math.inf:
                return True
        return self._within(residual, x, self.norms(adjoint))

    def _within(self, residual: Any, x: Any, norms: Norms) -> bool:
        """The same by each row's norm.

        The residual is divided by the norms, so that `‖A‖ ‖x‖` cannot overflow; underflow is no failure.
        """
        size = abs(residual)
        if x.ndim == 1:  # on the host: numbers, which NumPy would compare as arrays
            size /= norms.rows
            bound = self._tolerance * largest_size(x)
            return largest(size) <= bound < math.inf or largest(size - norms.underflow) <= bound < math.inf
        size /= norms.rows[..., None]
        size -= norms.underflow[..., None]
        bound = self._tolerance * abs(x).max(axis=-2)
        return bool(((size.max(axis=-2) <= bound) & (bound < math.inf)).all())

    def _of_scaled(self, adjoint: bool) -> Norms:
        """Of the rows of A with columns of norm one; found once."""
        if adjoint not in self._scaled:
            self._scaled[adjoint] = self._bounded(self.sizes()(1.0 / self.norms(not adjoint).sums, adjoint))
        return self._scaled[adjoint]

    def _of_all(self, norms: Norms) -> Norms:
        """The largest norm for every row."""
        return self._bounded(on_host(norms.rows).max(keepdims=True))

    def sizes(self) -> Sizes:
        """`|A| x`, or `|Aᴴ| x`: as much memory as the values, so nobody keeps it."""
        return Product(self._structure, np.abs(self._values))

    def _ones(self) -> Any:
        return self._structure.ones(self._values.real.dtype)

    def _bounded(self, sums: Any) -> Norms:
        if not (sums.item(sums.argmin()) >= self.limits.tiny and largest(sums) <= self.limits.huge):
            np.minimum(np.maximum(sums, self.limits.tiny, out=sums), self.limits.huge, out=sums)
        return Norms(sums, self.limits.least, self._placed)
