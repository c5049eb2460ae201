"""`LU` on CUDA: SuperLU on the host, its triangular solves and the check of every solution on the device.

CuPy's `splu` is SuperLU on the host as well, and its `spsolve` factorizes anew for each column and cannot tell a singular matrix. So
the values travel to the host once, where the same strategy, ordering and condition estimate as on the CPU decide, and
the factors travel back. Whether a solution is accepted is one number that the host waits for, in each solve.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import scipy.sparse.linalg as sla

from ..solvers import LU
from . import Outcome
from .conditioning import condition
from .cupy_device import Matrix, Structure, multiply
from .cupy_runtime import cupy, now, sparse_linalg
from .diagnosis import not_finite, singular
from .ordering import Ordering, Reordered

__all__ = ["LUFactor", "Substitution", "factorize"]

_OPTIONS: dict[bool, dict[str, Any]] = {
    False: {
        "permc_spec": "MMD_AT_PLUS_A",
        "diag_pivot_thresh": 0.1,
        "panel_size": 8,
        "options": {"SymmetricMode": True},
    },
    True: {"permc_spec": "COLAMD", "diag_pivot_thresh": 1.0},
}  # by whether to be safe
_REFINEMENTS = 5


def factorize(structure: Structure, values: Any, solver: LU) -> LUFactor:
    """Factorize by the best strategy for these values; raises `SingularMatrixError`."""
    return LUFactor(structure, values)


class LUFactor:
    """`P A Q = L U` on the device, with the matrix beside it so that each solution can be checked."""

    def __init__(self, structure: Structure, values: Any) -> None:
        self._host = structure.host
        self._A = A = self._host.csc(values.get())
        self._M = Matrix(structure, values).settled()
        self._lock = threading.Lock()
        self._limits = np.finfo(values.dtype)
        if self._host.empty:
            raise singular(A, "LU has no pivot to choose.")
        size, least = np.abs(A.data), float(self._limits.tiny)
        self._rows = np.bincount(A.indices, size, A.shape[0])
        self._norms = {
            False: max(float(self._rows.max()), least),
            True: max(float(np.add.reduceat(size, A.indptr[:-1]).max()), least),
        }
        self._safe = bool(np.count_nonzero(A.data[self._host.diagonal]) < 0.99 * A.shape[0])
        self._factorize()

    @property
    def nbytes(self) -> int:
        """Bytes of the factors and of the matrix, here and there."""
        return self._lu.nbytes + self._M.nbytes + 2 * int(self._A.data.nbytes)

    def solve(self, b: Any, *, adjoint: bool, x0: Any) -> Outcome:
        """`A⁻¹ b` or `A⁻ᴴ b`, `b` `(n, k)`, with a normwise backward error of a few units of roundoff, or `SingularMatrixError`."""
        x = self._refined(b, adjoint)
        if x is None:
            error = not_finite("b", b)
            if error is not None:
                raise error
            with self._lock:
                if not self._safe:
                    self._safe = True
                    self._factorize()
            x = self._refined(b, adjoint)
        if x is None:
            raise singular(self._A, "LU with partial pivoting left a large residual, even after refinement.")
        return Outcome(x)

    def _factorize(self) -> None:
        """Factorize; where the strategy of choice fails or cannot be believed, the safe one decides."""
        A, eps = self._A, float(self._limits.eps)
        try:
            lu, order = self._decomposed()
            known = lu if order is None else Reordered(lu, order)
            found, fact = (
                condition(A, known, self._rows, self._host.signs, eps),
                "LU found A singular to working precision.",
            )
        except RuntimeError:  # SciPy: "Factor is exactly singular"
            found, fact = np.inf, "LU met an exactly zero pivot."
        if found * eps < 1.0:
            self._lu = Substitution(lu, order)
            now().stream.synchronize()  # from here on any stream may read it
        elif self._safe:
            raise singular(A, fact, found)
        else:
            self._safe = True
            self._factorize()

    def _decomposed(self) -> tuple[Any, Ordering | None]:
        """SuperLU's factorization, of the matrix as an earlier one on this pattern ordered it, if there was one."""
        A, options, orderings = self._A, _OPTIONS[self._safe], self._host.orderings
        known = orderings.get(self._safe)
        if known is not None:
            return sla.splu(known.matrix(A.data), **{**options, "permc_spec": "NATURAL"}), known
        lu = sla.splu(A, **options)
        orderings[self._safe] = Ordering(A, lu.perm_c, symmetric=not self._safe)
        return lu, None

    def _refined(self, b: Any, adjoint: bool) -> Any:
        """Solve, and refine in the same precision (Higham, section 12.1) until the backward error is small; None if it stays large."""
        norm, least = self._norms[adjoint], 100 * float(self._limits.smallest_subnormal)
        tolerance = float(self._limits.eps) * max(100.0, self._A.shape[0] ** 0.5)
        size = abs(b).max(axis=0) / norm
        x = self._lu.solve(b, adjoint=adjoint)
        for _ in range(_REFINEMENTS):
            residual = b - multiply(self._M, x, adjoint=adjoint)
            # divided by the norm, so that ‖A‖ ‖x‖ cannot overflow; underflow is no failure
            bound = tolerance * (abs(x).max(axis=0) + size) + least * (1 + 1 / norm)
            if bool(((abs(residual).max(axis=0) / norm <= bound) & (bound < np.inf)).all()):  # the one wait
                return x
            x = x + self._lu.solve(residual, adjoint=adjoint)
        return None


class Substitution:
    """The triangular solves of a factorization that SuperLU made on the host, on the device.

    Args:
        lu: SciPy's object.
        ordering: what the matrix was ordered by before, if it was.
    """

    def __init__(self, lu: Any, ordering: Ordering | None = None) -> None:
        self._lu = sparse_linalg().SuperLU(lu)
        for factor in (self._lu.L, self._lu.U):
            factor.has_canonical_format = True  # else CuPy looks, and waits
        self._order = None if ordering is None else cupy().asarray(ordering.order)
        self._both = ordering is not None and ordering.symmetric

    @property
    def nbytes(self) -> int:
        """Bytes of the factors."""
        return sum(int(a.nbytes) for F in (self._lu.L, self._lu.U) for a in (F.data, F.indices, F.indptr))

    def solve(self, b: Any, *, adjoint: bool) -> Any:
        """`A⁻¹ b` or `A⁻ᴴ b`: rows are in order where they follow the columns, or where the columns are the rows."""
        trans = "N" if not adjoint else "H" if b.dtype.kind == "c" else "T"
        order = self._order
        if order is None:
            return self._lu.solve(b, trans)
        y = self._lu.solve(b[order] if self._both or adjoint else b, trans)
        if adjoint and not self._both:
            return y
        x = cupy().empty_like(y)
        x[order] = y
        return x
