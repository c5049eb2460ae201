"""SciPy's compiled loops over compressed rows, without the checks that its operators put around them.

These take ten times as long as the product itself where a matrix is small, and all there is to check has been checked.
"""

from __future__ import annotations

from typing import Any

import scipy.sparse as sp

__all__ = ["add_product"]

_loops: Any = getattr(sp, "_sparsetools", None)  # not public: without it SciPy's products are used


def add_product(shape: tuple[int, int], csr: tuple[Any, Any, Any], x: Any, y: Any, *, transposed: bool = False) -> None:
    """`y += A x`, or `y += Aᵀ x`, in place.

    Args:
        shape: of A, `(m, n)`.
        csr: row pointers, columns, both of one integer dtype, and entries of A.
        x, y: contiguous `(n,)` and `(m,)` (`(m,)` and `(n,)` for the transpose), or `(n, k)` and `(m, k)`, of A's dtype.
    """
    if _loops is None:
        A = sp.csr_matrix((csr[2], csr[1], csr[0]), shape=shape)
        y += (A.T if transposed else A) @ x
        return
    m, n = shape[::-1] if transposed else shape
    if x.ndim == 1:
        (_loops.csc_matvec if transposed else _loops.csr_matvec)(m, n, *csr, x, y)  # most calls
    elif x.shape[1] == 1:
        (_loops.csc_matvec if transposed else _loops.csr_matvec)(m, n, *csr, x.ravel(), y.ravel())
    else:
        (_loops.csc_matvecs if transposed else _loops.csr_matvecs)(m, n, x.shape[1], *csr, x.ravel(), y.ravel())
