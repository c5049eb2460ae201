"""Which unknowns and which rows make a matrix singular: a vector that it takes to zero, from either side.

Inverse iteration (Ipsen, "Computing an eigenvector with inverse iteration", SIAM Review 39, 1997): with `E` small and random on the diagonal,
`(A + E)⁻¹ E` leaves x alone where `A x = 0`, and makes nearly zero of the rest, so that a few steps leave nothing else. One factorization has both
vectors. Rows and columns are scaled first, so that the units of an unknown do not say how large it is; and a vector is believed only if `A x` is
roundoff.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .decomposition import DecompositionError
from .superlu_memory import splu

__all__ = ["dependence", "listed", "null_space"]

_MOST = 60_000  # entries: with more, the factors of a graph that fills in would take long, and gigabytes
_SHIFT, _STEPS = 1e-10, 4
_SMALL = 1e-6  # of the largest number of a vector, what is taken for zero and for a difference of zero
_NAMED = 6  # places that a sentence names
_USUALLY = (
    "usually a missing boundary condition or an unfixed constant (a graph Laplacian, a pure Neumann problem, a floating node of a circuit), "
    "or a constraint that repeats others."
)


def dependence(A: Any) -> tuple[str, str]:
    """How the rows of a singular matrix depend on each other, in a clause, and a remedy.

    Args:
        A: `(n, n)` canonical CSC matrix without an empty row or column, finite.
    """
    return null_space(A) or (_USUALLY, _fix("one unknown", A))


def _fix(what: str, A: Any) -> str:
    single = A.dtype.char in "fF"
    return f"Fix {what}, {'' if single else 'or '}add a small multiple of the identity{', or solve in double precision' if single else ''}."


def null_space(A: Any) -> tuple[str, str] | None:
    """The same of a matrix that need not be singular; None where no vector is found that it takes to zero."""
    if A.nnz > _MOST:
        return None
    with np.errstate(all="ignore"):
        null = _null_vectors(A)
        floating = null.floating()
    if len(floating) == A.shape[0]:
        return (
            "a constant can be added to x, as in a graph Laplacian, a pure Neumann problem or a circuit without a ground.",
            f"{_fix('one unknown', A)} Where A is Hermitian and b sums to zero, MINRES() solves it as it is.",
        )
    if len(floating):
        return (
            f"a constant can be added to x at {listed(floating)} alone, as in a part of a graph or of a circuit that is connected to nothing fixed.",
            _fix("one of these", A),
        )
    for what, vector in (("rows", null.left), ("columns", null.right)):
        at = _support(vector)
        if 1 < len(at) <= _NAMED:
            return (
                f"{what} {listed(at)} depend on each other, as where a constraint repeats others.",
                f"Change or remove one of these {what}, or add a small multiple of the identity.",
            )
    if null.right is None:
        return None
    most = int(abs(null.right).argmax())
    return f"A x = 0 for an x that is largest at unknown {most}; {_USUALLY}", _fix("one unknown", A)


def listed(at: Any) -> str:
    """Some places, for a sentence."""
    few = ", ".join(str(int(i)) for i in at[:_NAMED])
    return few if len(at) <= _NAMED else f"{few}, ... ({len(at)} in all)"


def _support(vector: Any) -> Any:
    """Where a vector is not zero; nowhere, if there is none."""
    return np.flatnonzero(abs(vector) > _SMALL) if vector is not None else np.empty(0, int)


class _Null(NamedTuple):
    """Of the scaled matrix B, whose entries are at most 1.

    Attributes:
        B: the matrix, `R A C`.
        scale: the diagonal of C.
        rounding: what may be left of `B x`.
        right, left: `B x = 0` and `Bᵀ w = 0`, the largest number 1; None where none is found.
    """

    B: Any
    scale: Any
    rounding: float
    right: Any
    left: Any

    def floating(self) -> Any:
        """Several unknowns to which one constant can be added, and nothing to the others."""
        if self.right is None:
            return np.empty(0, int)
        x = self.right * self.scale
        most = x[abs(self.right).argmax()]
        at = np.flatnonzero(abs(x - most) <= _SMALL * abs(most))
        ones = np.zeros(len(x))
        ones[at] = 1 / self.scale[at]
        exact = len(at) > 1 and abs(self.B @ ones).max() <= self.rounding * ones.max()
        return at if exact else at[:0]


def _null_vectors(A: Any) -> _Null:
    n, rounding = A.shape[0], 100 * float(np.finfo(A.dtype).eps) * A.shape[0] ** 0.5
    B = A.astype(np.result_type(A.dtype, np.float64))
    of_rows = 1 / abs(B).max(axis=1).toarray().ravel()
    B = sp.diags(of_rows) @ B
    scale = 1 / abs(B).max(axis=0).toarray().ravel()
    B = (B @ sp.diags(scale)).tocsc()
    if not np.isfinite([of_rows, scale]).all():  # of subnormal numbers
        return _Null(B, scale, rounding, None, None)
    random = np.random.default_rng(0)
    E = random.uniform(_SHIFT, 2 * _SHIFT, n)
    try:
        lu = splu(B + sp.diags(E).tocsc())
    except DecompositionError:
        return _Null(B, scale, rounding, None, None)
    found = []
    for trans, M in (("N", B), ("T", B.T)):
        x = random.standard_normal(n).astype(B.dtype)
        for _ in range(_STEPS):
            x = lu.solve(E * x, trans)
            x = x / x[abs(x).argmax()]
        found.append(x if abs(M @ x).max() <= rounding else None)
    return _Null(B, scale, rounding, *found)
