"""Determinants and inverses of small matrices with all their entries, several at once.

SuperLU's factors of a small matrix take a hundred times as long to ask for and to read as to compute. Here a batch takes a few calls of LAPACK's loops in
NumPy, in double precision whatever the dtype.

Only what is beyond doubt is found here: rows and columns are of one size, or nearly so, the condition `‖A‖₁ ‖A⁻¹‖₁` is far from `1 / roundoff`, and the diagonals
of `A A⁻¹` and `A⁻¹ A` are ones. The rest is left for SuperLU, and errors too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..solvers import LU, Cholesky
from .balance import near_one_size
from .host import Structure

__all__ = ["Known", "Small", "together"]

_SMALL = 100  # unknowns: above, SuperLU takes less time for a value
_NUMBERS = 1 << 17  # of the matrices inverted at once, so that they stay in cache
_BEYOND_DOUBT = 1e-2  # of 1 / roundoff
_ROUNDING = 1e3  # units of roundoff that the checks of the inverse leave


class Known(NamedTuple):
    """The determinant of one matrix, and `A⁻ᴴ` at its entries, `(nnz,)`: as `Determinant` has them."""

    log: Any
    sign: float
    entries: Any

    def inverse(self) -> Any:
        return self.entries


def together(structure: Structure, solver: LU | Cholesky) -> tuple[int, Callable[[Any], Small]] | None:
    """How many matrices on this pattern are looked at at once, and what does so; None where each goes by itself."""
    n = structure.shape[0]
    if not 0 < n <= _SMALL or structure.empty or solver.backend is not None:
        return None
    return max(1, _NUMBERS // n**2), partial(Small, structure, isinstance(solver, Cholesky))


class Small:
    """Of several matrices.

    Args:
        structure: of their pattern.
        definite: whether they have to be Hermitian positive definite.
        values: `(matrices, nnz)`.

    Attributes:
        each: for each matrix what is known of it; None where there is a doubt.
        matrices: how many are known.
        nbytes: held for them.
    """

    def __init__(self, structure: Structure, definite: bool, values: Any) -> None:
        self._structure = structure
        A = self._full(values)
        with np.errstate(all="ignore"):
            found = _decomposed(A, definite)
            sure = np.zeros(len(A), dtype=bool) if found is None else _sure(A, found[2], np.finfo(values.dtype).eps)
        self.matrices = int(sure.sum())
        self.each: list[Known | None] = [None] * len(A)
        self.nbytes = 0
        if found is not None and self.matrices:
            log, sign, self._inverse = found
            entries = self._at_entries(self._inverse, values.dtype)
            self.each = [Known(*k) if s else None for *k, s in zip(log, sign, entries, sure, strict=True)]
            self.nbytes = int(self._inverse.nbytes + entries.nbytes)

    def derivatives(self, w: Any) -> Any:
        """`−(A⁻ᴴ Wᴴ A⁻ᴴ)` at the entries of each matrix that is known, and of W with the entries w `(matrices, nnz)`."""
        with np.errstate(all="ignore"):
            return -self._at_entries(self._inverse @ self._full(w) @ self._inverse, w.dtype)

    def _full(self, values: Any) -> Any:
        """All entries in double precision, `(matrices, n, n)`."""
        s, n = self._structure, self._structure.shape[0]
        full = np.zeros((len(values), n, n), dtype=np.promote_types(values.dtype, np.float64))
        merged = values if s.starts is None else np.stack([s.merged(v) for v in values])
        full[:, s.unique.rows, s.unique.indices] = merged
        return full

    def _at_entries(self, Z: Any, dtype: Any) -> Any:
        """`Zᴴ` at the entries."""
        return Z[..., self._structure.indices, self._structure.rows].conj().astype(dtype)


def _decomposed(A: Any, definite: bool) -> tuple[Any, Any, Any] | None:
    """Logarithms of determinants, their signs, and inverses; None where one matrix is exactly singular, or not definite."""
    try:
        if definite:
            if not np.array_equal(A, A.conj().swapaxes(1, 2)):
                return None
            L = np.linalg.cholesky(A)
            log = 2 * np.log(np.diagonal(L, axis1=1, axis2=2).real).sum(axis=1)
            return log.astype(A.dtype), np.ones(len(A)), np.linalg.inv(A)
        sign, log = np.linalg.slogdet(A)
        if A.dtype.kind == "c":
            return log + 1j * np.angle(sign), np.ones(len(A)), np.linalg.inv(A)
        return log, sign, np.linalg.inv(A)
    except np.linalg.LinAlgError:
        return None


def _sure(A: Any, Z: Any, eps: float) -> Any:
    """`(matrices,)`: whether the inverses are right, and their matrices not singular to working precision for sure."""
    size = np.abs(A)
    condition = size.sum(axis=1).max(axis=1) * np.abs(Z).sum(axis=1).max(axis=1)
    sure = near_one_size(size) & (condition * eps < _BEYOND_DOUBT)
    for left, right in ((A, Z), (Z, A)):
        products = left * right.swapaxes(1, 2)
        off = np.abs(products.sum(axis=2) - 1)
        sure &= (off <= np.finfo(A.dtype).eps * _ROUNDING * (1 + np.abs(products).sum(axis=2))).all(axis=1)
    return sure
