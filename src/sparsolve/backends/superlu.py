"""SuperLU through SciPy: what every matrix can be given to.

Ordering decides everything (factors of 24 to 70 in time on whole classes of matrices). Where at least 99% of the diagonal is
nonzero, a minimum-degree ordering of `A + Aᵀ` with a preference for diagonal pivots is best (SymmetricMode, SuperLU
Users' Guide, section 2.4); else COLAMD with partial pivoting, which is also what every doubt falls back to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from ..result import Strategy
from .decomposition import DecompositionError, NotPositive
from .ordering import Ordering, Reordered, SuperLUFactor
from .strategy import Candidate, Matrix
from .superlu_memory import splu

__all__ = ["CANDIDATES"]

_SYMMETRIC = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.1, "options": {"SymmetricMode": True}}
_PARTIAL_PIVOTING = {"permc_spec": "COLAMD", "diag_pivot_thresh": 1.0}
# columns at a time, by whether little fills in: 10 to 15% faster in 2-D, 4 to 25% in 3-D
_PANELS = {True: 1, False: 8}
_LITTLE = 100  # entries a column of the factors
# entries a column of a matrix that is not factorized yet, by whether pivots are symmetric: a wrong guess doubles the time, and with
# partial pivoting nothing can be guessed (right it saves 10%)
_LIKELY_LITTLE = {True: 6, False: 0}
_HUB_WORK = 1000  # squared lengths of nearly full rows, for each entry of the matrix, from which on ordering takes longer than factorizing
_HUBS = 0.1  # of all rows: where more are nearly full, the matrix is


def _decomposed(matrix: Matrix, options: dict[str, Any], *, symmetric: bool) -> SuperLUFactor:
    """SuperLU's factorization; with the ordering that an earlier one on this pattern found, if there was one."""
    A, found = matrix.A, matrix.structure.found
    if matrix.unfit:
        raise DecompositionError("LU met an exactly zero pivot.")
    name = f"superlu {'symmetric' if symmetric else 'pivoted'}"
    ordering = found.get(name)
    if ordering is None and symmetric:
        ordering = found[name] = _hubs_last(A)
    if ordering is not None:
        panel = _PANELS[ordering.fill < _LITTLE]
        lu = splu(ordering.matrix(A.data), **{**options, "permc_spec": "NATURAL", "panel_size": panel})
        return SuperLUFactor(Reordered(lu, ordering), A)
    n = A.shape[0]
    lu = splu(A, **options, panel_size=_PANELS[len(A.data) < _LIKELY_LITTLE[symmetric] * n])
    columns = np.argsort(lu.perm_c)
    found[name] = Ordering(A, columns, columns if symmetric else None, fill=lu.nnz / n)
    return SuperLUFactor(lu, A)


def _hubs_last(A: Any) -> Ordering | None:
    """Minimum degree without the rows and columns that are nearly full, and these at the end; None where there are none to speak of.

    Such a row makes neighbours of all others, which takes minimum degree a time that grows with its length squared. Rows longer than `10 √n` are
    what AMD leaves out (Amestoy, Davis and Duff, ACM Trans. Math. Softw. 30 (2004)). The others are ordered by a factorization of a
    dominant matrix on their pattern.
    """
    n, pattern = A.shape[0], sp.csc_matrix((np.ones(len(A.data)), A.indices, A.indptr), shape=A.shape)
    lengths = np.maximum(np.diff(A.indptr), np.bincount(A.indices, minlength=n)).astype(float)
    hub = lengths > 10 * n**0.5
    if hub.sum() > _HUBS * n or (lengths[hub] ** 2).sum() < _HUB_WORK * len(A.data):
        return None
    others = np.flatnonzero(~hub)
    rest = pattern[others][:, others]
    lu = splu((rest + sp.diags(2 * lengths[others])).tocsc(), **_SYMMETRIC)
    order = np.concatenate([others[np.argsort(lu.perm_c)], np.flatnonzero(hub)])
    return Ordering(A, order, order, fill=lu.nnz / n)


def _symmetric(matrix: Matrix) -> SuperLUFactor:
    return _decomposed(matrix, _SYMMETRIC, symmetric=True)


def _pivoted(matrix: Matrix) -> SuperLUFactor:
    return _decomposed(matrix, _PARTIAL_PIVOTING, symmetric=False)


def _definite(matrix: Matrix) -> SuperLUFactor:
    """Pivots from the diagonal, whatever their size: `A = L D Lᴴ`, and A is positive definite exactly if all of D is positive.

    (Sylvester's law of inertia; Golub and Van Loan, Matrix Computations, 4th ed., section 8.1.5.)
    """
    found = _decomposed(matrix, {**_SYMMETRIC, "diag_pivot_thresh": 0.0}, symmetric=True)
    inner = found.inner
    if not np.array_equal(inner.perm_r, inner.perm_c) or not (inner.U.diagonal().real > 0).all():
        raise NotPositive("A pivot is not positive.")
    return found


CANDIDATES = (
    Candidate(
        Strategy.SUPERLU_SYMMETRIC, lambda m: "its diagonal is nonzero" if m.strong_diagonal else None, _symmetric
    ),
    Candidate(Strategy.SUPERLU, lambda m: "partial pivoting suits all", _pivoted),
    Candidate(Strategy.SUPERLU_CHOLESKY, lambda m: "it is Hermitian", _definite, definite=True),
)
