"""`A x` and `Aᴴ x` for the residuals of one matrix: by SciPy, or by NumPy alone where SciPy's checks would cost more than the sum."""

from __future__ import annotations

from typing import Any

import numpy as np

from .host import Structure

__all__ = ["Products"]

_SMALL = 4096  # numbers gathered


class Products:
    """The products of a canonical CSC matrix without an empty row or column."""

    def __init__(self, structure: Structure, A: Any) -> None:
        self._structure, self._A = structure, A
        self._known: dict[Any, Any] = {}

    def __call__(self, x: Any, adjoint: bool) -> Any:
        """`A x`, or `Aᴴ x`, for `x` `(n,)` or `(n, k)`."""
        if len(self._A.data) * (1 if x.ndim == 1 else x.shape[1]) <= _SMALL:
            return self._summed(x, adjoint)
        if not adjoint:
            return self._A @ x
        if "T" not in self._known:
            self._known["T"] = self._structure.transposed(self._A)
        T = self._known["T"]
        return (T @ x.conj()).conj() if np.iscomplexobj(x) else T @ x

    def _summed(self, x: Any, adjoint: bool) -> Any:
        """Entry by entry, in the order of the result, and summed up between pointers."""
        if adjoint not in self._known:
            structure, data = self._structure, self._A.data
            if adjoint:
                self._known[adjoint] = data.conj(), structure.csc_indices, structure.csc_indptr[:-1]
            else:
                order, columns, starts = structure.by_rows
                self._known[adjoint] = data[order], columns, starts
        data, places, starts = self._known[adjoint]
        terms = x.take(places, axis=0)
        terms *= data if x.ndim == 1 else data[:, None]
        return np.add.reduceat(terms, starts)
