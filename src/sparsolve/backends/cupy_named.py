"""SciPy's iterative methods by name on CUDA tensors: this package's own methods, with the same tolerances, options and errors.

CuPy's have faults of their own (`cg` with a real A and a complex b is wrong; `cg` and `cgs` return NaN from an exact x0; `gmres` raises
where it finds the solution early). These work in double precision too, and are judged by the true residual.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..convert_cupy import t2c_csr
from ..errors import sentence
from ..krylov import iterate
from ..krylov_columns import norm
from .cupy_device import Product
from .cupy_runtime import aligned, array, cupy, sparse, sparse_linalg
from .diagnosis import not_finite
from .scipy_iterative import OWN, SPARSE, Iterative, stopped

__all__ = ["solution"]

_RESTART = 20  # SciPy's default


def solution(how: Iterative, A: Any, b: Any) -> Any:
    """x for one `(n,)` right-hand side, a CuPy array."""
    wide = np.complex128 if b.dtype.kind == "c" else np.float64
    A, b, n = A.astype(wide), b.astype(wide)[:, None], len(b)
    size = float(norm(b)[0])
    own = {} if how.transposed or how.derivative else OWN.get()
    x0 = None if own.get("x0") is None else _guess(own["x0"], wide)
    for name, a in (("A.data", A.data), ("b", b), ("x0", x0)):
        error = None if a is None else not_finite(name, a)
        if error is not None:
            raise error
    bound, restart = how.bound(size), min(how.restart or _RESTART, n)
    found = iterate(
        how.method,
        Product(A),
        b,
        rtol=0.0,
        atol=bound,
        maxiter=(10 * n if how.maxiter is None else how.maxiter) * (restart if how.method == "gmres" else 1),
        M=_preconditioner(how, b),
        x0=x0,
        restart=restart,
        **_told(how, own.get("callback"), size),
    )
    residual = float(found.residual[0])
    if not bool(found.converged[0]) and not residual <= _rounding(A, found.x, b) < math.inf:
        raise stopped(how, residual, bound, size, int(found.iterations[0]), n)
    return found.x[:, 0]


def _guess(x0: Any, dtype: Any) -> Any:
    a = array(x0) if isinstance(x0, Tensor) else cupy().asarray(x0)
    return a.astype(dtype).reshape(-1, 1)


def _rounding(A: Any, x: Any, b: Any) -> float:
    """The rounding errors of a residual's own evaluation: where it is no larger, no x is known to be better."""
    return 2 * float(np.finfo(np.float64).eps) * float(norm(abs(A) @ abs(x) + abs(b))[0])


def _told(how: Iterative, callback: Any, size: float) -> dict[str, Any]:
    """What tells the user's callback x after each step, or for gmres the residual relative to b's norm."""
    if callback is None:
        return {}
    if how.method == "gmres":
        return {"callback": lambda step, residuals: callback(float(residuals[0]) / (size or 1.0))}
    return {"watch": lambda x: callback(x[:, 0])}


def _canonical(T: Tensor) -> Any:
    """A sparse tensor as a CuPy matrix with int32 indices, sorted."""
    T = T.to_sparse_coo().coalesce().to_sparse_csr()
    crow, col, values = T.crow_indices().int(), T.col_indices().int(), T.values()
    return t2c_csr(torch.sparse_csr_tensor(crow, col, values, T.shape, check_invariants=False))


def _preconditioner(how: Iterative, b: Any) -> Callable[[Any], Any] | None:
    """M as a function of `(n, 1)`; for the adjoint of an unsymmetric matrix M's adjoint, if it has one."""
    if how.M is None:
        return None
    M = how.M.value
    if isinstance(M, Tensor):
        M = _canonical(M.detach()) if M.layout in SPARSE else array(M)
    if isinstance(M, np.ndarray) or type(M).__module__.startswith("scipy."):
        raise TypeError(
            sentence(
                f"M is a {type(M).__name__}, on the host, and A is on the device; nothing is moved without being asked.",
                remedy="Give a tensor on A's device, a CuPy array or matrix, or cupyx.scipy.sparse.linalg.LinearOperator.",
            )
        )
    if sparse().issparse(M):
        M = M.copy()  # a product may sort it in place
    M = sparse_linalg().aslinearoperator(M)
    if how.transposed and how.method not in ("cg", "minres"):
        try:
            M.rmatvec(b[:, 0])
        except NotImplementedError:
            return None
        M = M.H
    return lambda r: M.matvec(aligned(r.ravel())).astype(r.dtype, copy=False)[:, None]
