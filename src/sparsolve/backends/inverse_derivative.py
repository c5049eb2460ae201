"""The derivative of the entries of `A⁻¹` along a direction W, by a complex step.

`(A + iεW)⁻¹ = A⁻¹ − iε A⁻¹ W A⁻¹ + O(ε²)`, so of a real A the entries of the inverse that are found from the factors of `A + iεW` have the
derivative as their imaginary part, over ε. Nothing cancels, so ε may be so small that nothing of `ε²` is left: the arithmetic is that of
numbers with a derivative beside them (Squire and Trapp, SIAM Rev. 40 (1998)). It takes one factorization, where solves would take 2n of them.

The entries of `Z = A⁻¹` and `Ż` at the places of A are all there is to `(A Ż + W Z)_ii = 0` and `(Ż A + Z W)_jj = 0`: where these fail, there is
no result, and whoever asked has to solve for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import exponent
from ..errors import SolveError
from ..solvers import LU, Cholesky
from ..threads import each_after_the_first
from .balance import balanced, scaled
from .host import Structure
from .readable import ROUNDING, ReadableFactor, entry_of

__all__ = ["derivatives"]

_STEP = -200  # ε W is 2^_STEP A, or less
_FEW = 64  # unknowns, up to which solves take less time
_WORTH_A_THREAD = 1000  # unknowns


def derivatives(structure: Structure, values: Any, directions: Any, solver: LU | Cholesky) -> list[Any]:
    """`−(A⁻ᴴ Wᴴ A⁻ᴴ)` at A's entries for each matrix and direction, `(matrices, nnz)` both; None where that has to be solved for."""

    def one(i: int) -> Any:
        return _derivative(structure, values[i], directions[i], solver)

    return each_after_the_first(one, len(values), worthwhile=lambda _: structure.shape[0] >= _WORTH_A_THREAD)


def _derivative(structure: Structure, values: Any, direction: Any, solver: LU | Cholesky) -> Any:
    if values.dtype.kind == "c" or structure.shape[0] <= _FEW:
        return None
    unique = structure.unique
    balance = balanced(unique, structure.merged(values).astype(np.float64))
    A, W = balance.values, scaled(structure.merged(direction).astype(np.float64), -balance.powers)
    if not W.any():
        return np.zeros_like(values)
    shift = _STEP + exponent(A) - exponent(W)
    step = A + 1j * np.ldexp(W, shift)
    if not np.isfinite(step).all():
        return None
    try:
        Z = ReadableFactor(unique, step, LU(backend=solver.backend)).inverse()
    except SolveError:
        return None
    inverse, change = Z.real, np.ldexp(Z.imag, -shift)
    if not _is_derivative(unique, A, W, inverse, change):
        return None
    return scaled(change, -balance.powers)[entry_of(structure)].astype(values.dtype)


def _is_derivative(structure: Structure, A: Any, W: Any, Z: Any, change: Any) -> bool:
    """Whether the diagonals of `A Ż + W Z` and of `Ż A + Z W` are zero, up to rounding."""
    n = structure.shape[0]
    tolerance = np.finfo(np.float64).eps * max(ROUNDING, n)
    parts = A * change, W * Z
    for line in (structure.rows, structure.indices):
        total = np.bincount(line, parts[0] + parts[1], n)
        size = np.bincount(line, np.abs(parts[0]) + np.abs(parts[1]), n)
        if not (np.abs(total) <= tolerance * size).all():
            return False
    return True
