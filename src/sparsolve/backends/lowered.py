"""Factors in a lower precision than the matrix: half the memory and traffic, and refinement makes up for it.

(Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 12.2: refinement converges where the condition is
below the reciprocal of the lower precision's roundoff.) The matrix is divided by a power of two first, so that its size says nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..arrays import exponent, shifted
from ..errors import ConvergenceError, SolveError, sentence
from ..solvers import LU
from .strategy import Decomposition

__all__ = ["Lowered", "cast", "lower", "too_low"]


def lower(dtype: Any, solver: Any) -> Any:
    """NumPy's limits of the precision to factorize in, or None for the matrix's own."""
    single = isinstance(solver, LU) and solver.factor_dtype == torch.float32
    return np.finfo("f") if single and dtype.char in "dD" else None


def cast(values: Any, low: Any) -> Any:
    """The values in the lower precision, the largest of them between 1 and 2."""
    with np.errstate(all="ignore"):  # NaN and Inf are refused by whoever decomposes them
        return shifted(values, -exponent(values)).astype("F" if np.iscomplexobj(values) else low.dtype)


class Lowered:
    """A decomposition of `cast(values)` that is asked in double for what `values` solve; columns are scaled, so that none overflows."""

    def __init__(self, inner: Decomposition, values: Any) -> None:
        self._inner, self.nbytes, self._exponent = inner, inner.nbytes, exponent(values)

    def solve(self, b: Any, trans: str = "N") -> Any:
        """As `Decomposition.solve`, to single precision."""
        with np.errstate(all="ignore"):
            size = np.abs(b.real).max(axis=0)
            if np.iscomplexobj(b):
                size = np.maximum(size, np.abs(b.imag).max(axis=0))
            exponents = np.frexp(size)[1] - 1
            x = self._inner.solve(shifted(b, -exponents).astype("F" if np.iscomplexobj(b) else "f"), trans)
            return shifted(x.astype(b.dtype), exponents - self._exponent)


def too_low(fact: str, values: Any, low: Any, found: float | None) -> SolveError:
    """The error where no factors in the lower precision were good enough."""
    lost = int(np.count_nonzero(values) - np.count_nonzero(cast(values, low)))
    if lost:
        largest = np.abs(values).max()
        cause = f"{lost} of {values.size} entries are so much smaller than the largest, {largest:.1e}, that they are 0 in {low.dtype}."
    else:
        cause = f"A is too ill-conditioned for {low.dtype}, or its rows differ too much in size."
    return ConvergenceError(
        sentence(
            f"Refinement from factors in {low.dtype} did not reach full accuracy. {fact}",
            cause,
            "Use LU() without factor_dtype.",
            scaled_condition=None if found is None else f"at least {found:.1e}",
        )
    )
