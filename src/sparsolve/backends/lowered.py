"""Factors in a lower precision than the matrix: half the memory and traffic, and refinement makes up for it.

(Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 12.2: refinement converges where the condition is
below the reciprocal of the lower precision's roundoff.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..solvers import LU
from .strategy import Decomposition

__all__ = ["Lowered", "cast", "lower"]


def lower(dtype: Any, solver: Any) -> Any:
    """NumPy's limits of the precision to factorize in, or None for the matrix's own."""
    single = isinstance(solver, LU) and solver.factor_dtype == torch.float32
    return np.finfo("f") if single and dtype.char in "dD" else None


def cast(values: Any, low: Any) -> Any:
    """The values in the lower precision."""
    with np.errstate(over="ignore"):  # Inf is refused by whoever decomposes it
        return values.astype("F" if np.iscomplexobj(values) else low.dtype)


class Lowered:
    """A decomposition in single precision that is asked in double; columns are scaled, so that none overflows."""

    def __init__(self, inner: Decomposition) -> None:
        self._inner, self.nbytes = inner, inner.nbytes

    def solve(self, b: Any, trans: str = "N") -> Any:
        """As `Decomposition.solve`, to single precision."""
        size = np.abs(b).max(axis=0)
        scale = np.where(size > 0, size, 1.0)
        x = self._inner.solve((b / scale).astype("F" if np.iscomplexobj(b) else "f"), trans)
        return x.astype(b.dtype) * scale
