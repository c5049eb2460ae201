"""Why an iteration stopped before its tolerance: what is said of A, of the preconditioner and of b is found out here, after a failure only."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from ..arrays import namespace, on_host
from ..krylov_columns import dot, norm, ordered

__all__ = ["breakdown", "is_hermitian", "out_of_range", "rounding", "unusable"]


def unusable(M: Any, r: Any, hermitian: bool) -> tuple[str, str] | None:
    """Cause and remedy, where what the preconditioner makes of the residual left is of no use."""
    z = ordered(M(r))
    if not bool(namespace(r).isfinite(z).all()):
        return "The preconditioner returned NaN or Inf.", "Give one that is finite for every residual, or none."
    if hermitian and float(dot(r, z).real[0]) <= 0:
        return "The preconditioner M is not positive definite: rᴴ M r <= 0.", "Give one that is, or use GMRES()."
    return None


def out_of_range(A: Any, adjoint: Any, r: Any, b: Any, asked: float) -> tuple[str, str] | None:
    """Cause and remedy, where A is singular and b has a part `y ⊥ A x` for all x: `Aᴴ y = 0`.

    Constant y are those of Neumann problems and graph Laplacians; the residual itself is one where it cannot fall any more.
    """
    xp, eps = namespace(b), float(np.finfo(b.dtype).eps)
    probe = ordered(xp.asarray(np.random.default_rng(0).standard_normal(b.shape).astype(b.dtype)))
    size = float((norm(adjoint @ probe) / norm(probe))[0])  # about ‖A‖, or less
    one = xp.ones_like(b)
    part = float(abs(dot(one, b)[0])) / float((norm(one) * norm(b))[0])
    if part > asked and float(norm(adjoint @ one)[0]) <= 100 * eps * size * float(norm(one)[0]):
        fact = f"A is singular: Aᴴ y = 0 for constant y, as in a graph Laplacian, a pure Neumann problem or a circuit without a ground, and {part:.0e} of b is such a y."
        return fact, "Subtract b.mean() from b, or fix one unknown; LU() would need the latter."
    left = float((norm(adjoint @ r) / norm(r))[0])
    if left <= eps**0.5 * size:
        fact = f"A is singular, or nearly so, and b is not in its range: what is left of it, r = b − A x, has ‖Aᴴ r‖ = {left / size:.0e} ‖A‖ ‖r‖."
        return fact, "Remove the part of b along the null space of Aᴴ, or fix what A leaves open."
    return None


def breakdown(name: str, M: Any, lu: str) -> tuple[str, str]:
    """Cause and remedy, where CG or MINRES could not go on with a Hermitian A."""
    if name == "CG" and M is None:
        fact = "A is not positive definite to working precision: CG met a direction p with pᴴ A p <= 0."
    elif name == "CG":
        fact = "A or the preconditioner M is not positive definite to working precision: CG met pᴴ A p <= 0 or rᴴ M r <= 0."
    else:
        also = "" if M is None else ", or the preconditioner not positive definite"
        fact = f"A is singular to working precision{also}: no x is known to have a smaller residual."
        return fact, "Fix what A leaves open, or add a small multiple of the identity."
    return f"{fact} A missing boundary condition or a wrong sign, perhaps.", f"Use MINRES() for an indefinite A{lu}."


def rounding(A: Any, x: Any, b: Any) -> float:
    """The rounding error of `b − A x` relative to `‖b‖`, `eps ‖ |A| |x| + |b| ‖`; 0 where only products with A are known."""
    A = getattr(A, "M", A)
    A, x, b = A.get() if hasattr(A, "get") else A, on_host(x), on_host(b)
    if not sp.issparse(A):
        return 0.0
    sizes = sp.csr_matrix((abs(A.data), A.indices, A.indptr), shape=A.shape)  # abs(A) would sort A in place
    return float(np.finfo(b.dtype).eps * (norm(sizes @ abs(x) + abs(b)) / norm(b))[0])


def is_hermitian(A: Any, b: Any) -> bool:
    """Whether `uᵀ A v = conj(vᵀ A u)` for two random vectors, but for rounding."""
    z = np.random.default_rng(0).standard_normal((len(b), 2)).astype(b.dtype)
    y = on_host(A @ ordered(namespace(b).asarray(z)))
    gap = abs(z[:, 0] @ y[:, 1] - (z[:, 1] @ y[:, 0]).conj())
    return not gap > 100 * np.finfo(b.dtype).eps * norm(y).max()
