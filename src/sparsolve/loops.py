"""SciPy's compiled loops over compressed rows, without the checks that its operators put around them.

These take ten times as long as the product itself where a matrix is small, and all there is to check has been checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

__all__ = ["add_product", "product", "scale_rows"]

_loops: Any = getattr(sp, "_sparsetools", None)  # not public: without it SciPy's products are used


def product(shape: tuple[int, int], csr: tuple[Any, Any, Any], x: Any, transposed: bool) -> Any:
    """`A x`, or `Aᵀ x`.

    Args:
        shape: of A, `(m, n)`.
        csr: row pointers, columns, both of one integer dtype, and entries of A.
        x: `(n,)` (`(m,)` for the transpose) or `(n, k)`, of A's dtype.
    """
    y = np.zeros((shape[transposed], *x.shape[1:]), x.dtype)
    add_product(shape, csr, np.ascontiguousarray(x), y, transposed)
    return y


def add_product(shape: tuple[int, int], csr: tuple[Any, Any, Any], x: Any, y: Any, transposed: bool = False) -> None:
    """`y += A x`, or `y += Aᵀ x`, in place; x and y are contiguous, the rest as for `product`."""
    m, n = shape
    if _loops is None:
        A = sp.csr_matrix((csr[2], csr[1], csr[0]), shape=shape)
        y += (A.T if transposed else A) @ x
    elif x.ndim == 1:
        if transposed:
            _loops.csc_matvec(n, m, *csr, x, y)
        else:
            _loops.csr_matvec(m, n, *csr, x, y)
    elif x.shape[1] == 1:
        add_product(shape, csr, x.ravel(), y.ravel(), transposed)
    elif transposed:
        _loops.csc_matvecs(n, m, x.shape[1], *csr, x.ravel(), y.ravel())
    else:
        _loops.csr_matvecs(m, n, x.shape[1], *csr, x.ravel(), y.ravel())


def scale_rows(shape: tuple[int, int], csr: tuple[Any, Any, Any], x: Any) -> None:
    """Multiply each row of A by its number in x, `(m,)`, in place; A as for `add_product`, x contiguous and of its dtype."""
    if _loops is None:
        with np.errstate(all="ignore"):
            csr[2][:] *= np.repeat(x, np.diff(csr[0]))
    else:
        _loops.csr_scale_rows(*shape, *csr, x)
