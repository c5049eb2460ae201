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

_NONE = np.zeros((0, 0), dtype=np.float32)


def selected_inverse(fronts: Fronts, L: Any, U: Any, hermitian: bool) -> tuple[Any, Any]:
    """`Z = (L U)⁻¹` in the fronts: the lower triangle, and the upper one transposed, as `Fronts.places` numbers their entries.

    Args:
        fronts: of a matrix whose factors these are.
        L, U: SciPy's, L with a unit diagonal; in order of elimination.
        hermitian: whether `U = D Lᴴ` with a real diagonal D. Then only that is read of U.
    """
    lower = _scattered(fronts, L.tocsc())
    if hermitian:
        pivots = np.empty(fronts.n, dtype=lower.dtype)
        pivots[fronts.position] = U.diagonal().real
        _invert(fronts, lower, None, pivots)
        return lower, lower.conj()
    upper = _scattered(fronts, U.T.tocsc())
    _invert(fronts, lower, upper, None)
    return lower, upper


def _scattered(fronts: Fronts, T: Any) -> Any:
    """The entries of a lower triangle in one array of all fronts."""
    T.sort_indices()  # places rise then, which are found sooner
    out = np.zeros(fronts.starts[-1], dtype=T.dtype)
    out[fronts.lower(T.indices, np.repeat(np.arange(fronts.n), np.diff(T.indptr)))] = T.data
    return out


def _invert(fronts: Fronts, lower: Any, upper: Any, pivots: Any) -> None:
    """Replace `L_FJ` by `Z_FJ` in each front, and `(U_JF)ᵀ` by `(Z_JF)ᵀ`; of `U = D Lᴴ` there are the pivots D."""
    (trtri,) = get_lapack_funcs(("trtri",), dtype=lower.dtype)
    known: dict[int, Any] = {}  # Z of fronts whose children are still to come
    children = np.bincount(fronts.parents + 1, minlength=len(fronts.first) + 1)[1:].tolist()
    widths, heights, parents, starts, first = (
        a.tolist() for a in (fronts.widths, fronts.heights, fronts.parents, fronts.starts, fronts.first)
    )
    for s in range(len(widths) - 1, -1, -1):
        c, f, p = widths[s], heights[s], parents[s]
        low = lower[starts[s] : starts[s + 1]].reshape(f, c)
        L_inverse = trtri(low[:c], lower=1, unitdiag=1)[0]
        X = low[c:] @ L_inverse
        if upper is None:
            U_inverse, Y = L_inverse.conj().T / pivots[first[s] : first[s] + c], X.conj().T
        else:
            up = upper[starts[s] : starts[s + 1]].reshape(f, c)
            U_inverse = trtri(up[:c], lower=1)[0].T
            Y = U_inverse @ up[c:].T
        Z_RR = _part(known, p, fronts.inside[s])
        Z_RJ = -(Z_RR @ X)
        Z_JJ = U_inverse @ L_inverse - Y @ Z_RJ
        low[:c], low[c:] = Z_JJ, Z_RJ
        Z_JR = Z_RJ.conj().T if upper is None else -(Y @ Z_RR)
        if upper is not None:
            up[:c], up[c:] = Z_JJ.T, Z_JR.T
        if children[s]:
            Z = known[s] = np.empty((f, f), dtype=lower.dtype)
            Z[:c, :c], Z[:c, c:], Z[c:, :c], Z[c:, c:] = Z_JJ, Z_JR, Z_RJ, Z_RR
        if p >= 0:
            children[p] -= 1
            if not children[p]:
                del known[p]


def _part(known: dict[int, Any], front: int, inside: Any) -> Any:
    """`Z_RR`, of the parent's Z; of a root there is none."""
    if front < 0:
        return _NONE
    Z = known[front]
    return Z[inside, inside] if isinstance(inside, slice) else Z[inside[:, None], inside]
