"""The entries of `A⁻¹` at the places of A, from its factors, without the others.

With the unknowns `J` that are eliminated first and the rest `R` that they touch, `A = L U` reads

    [A_JJ A_JR]   [L_JJ     ] [U_JJ U_JR]           Z_RJ = −Z_RR L_RJ L_JJ⁻¹
    [A_RJ A_RR] = [L_RJ L_RR] [     U_RR],  so      Z_JR = −U_JJ⁻¹ U_JR Z_RR
                                                    Z_JJ = U_JJ⁻¹ L_JJ⁻¹ − U_JJ⁻¹ U_JR Z_RJ    for Z = A⁻¹

(Takahashi, Fagan and Chen, PICA conference 1973; Erisman and Tinney, Comm. ACM 18 (1975)), and R is a part of the front
of J's parent, where Z is known already if parents come first. The flops are those of the factorization, times two to three.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg.lapack import get_lapack_funcs

from .fronts import Fronts

__all__ = ["selected_inverse"]


def selected_inverse(fronts: Fronts, L: Any, U: Any) -> tuple[Any, Any]:
    """`Z = (L U)⁻¹` in the fronts: the lower triangle, and the upper one transposed, as `Fronts.places` numbers their entries.

    Args:
        fronts: of a matrix whose factors these are.
        L, U: SciPy's, L with a unit diagonal; in order of elimination.
    """
    lower, upper = _scattered(fronts, L.tocsc()), _scattered(fronts, U.T.tocsc())
    _invert(fronts, lower, upper)
    return lower, upper


def _scattered(fronts: Fronts, T: Any) -> Any:
    """The entries of a lower triangle in one array of all fronts."""
    T.sort_indices()  # places rise then, which are found sooner
    out = np.zeros(fronts.starts[-1], dtype=T.dtype)
    out[fronts.lower(T.indices, np.repeat(np.arange(fronts.n), np.diff(T.indptr)))] = T.data
    return out


def _invert(fronts: Fronts, lower: Any, upper: Any) -> None:
    """Replace `L_FJ` by `Z_FJ` in each front, and `(U_JF)ᵀ` by `(Z_JF)ᵀ`."""
    (trtri,) = get_lapack_funcs(("trtri",), dtype=lower.dtype)
    known: dict[int, Any] = {}
    left = np.bincount(fronts.parents[fronts.parents >= 0], minlength=len(fronts.first)).tolist()
    widths, heights, parents, starts = (a.tolist() for a in (fronts.widths, fronts.heights, fronts.parents, fronts.starts))
    for s in range(len(widths) - 1, -1, -1):
        c, f, p = widths[s], heights[s], parents[s]
        part = slice(starts[s], starts[s + 1])
        l, u = lower[part].reshape(f, c), upper[part].reshape(f, c)
        L_inverse, U_inverse = trtri(l[:c], lower=1, unitdiag=1)[0], trtri(u[:c], lower=1)[0].T
        if p < 0:
            Z_JJ = U_inverse @ L_inverse
            l[:c], u[:c] = Z_JJ, Z_JJ.T
            if left[s]:
                known[s] = Z_JJ
            continue
        at = fronts.inside[s]
        Z_RR = known[p][at, at] if isinstance(at, slice) else known[p][at[:, None], at]
        left[p] -= 1
        if not left[p]:
            del known[p]
        Y = U_inverse @ u[c:].T
        Z_RJ = -(Z_RR @ (l[c:] @ L_inverse))
        Z_JR = -(Y @ Z_RR)
        Z_JJ = U_inverse @ L_inverse - Y @ Z_RJ
        l[:c], l[c:], u[:c], u[c:] = Z_JJ, Z_RJ, Z_JJ.T, Z_JR.T
        if left[s]:
            Z = known[s] = np.empty((f, f), dtype=lower.dtype)
            Z[:c, :c], Z[:c, c:], Z[c:, :c], Z[c:, c:] = Z_JJ, Z_JR, Z_RJ, Z_RR
