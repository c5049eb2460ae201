"""SciPy's iterative methods by name on CUDA tensors: this package's own methods, with the same tolerances, options and errors.

CuPy's have faults of their own (`cg` with a real A and a complex b is wrong; `cg` and `cgs` return NaN from an exact x0; `gmres` raises
where it finds the solution early). These work in double precision too, and are judged by the true residual.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..convert_cupy import t2c_csr
from ..errors import sentence
from ..krylov import KrylovResult, iterate
from .cupy_device import Product
from .cupy_runtime import aligned, array, cupy, sparse, sparse_linalg
from .named import SPARSE, ByName, System

__all__ = ["solution"]


def solution(how: ByName, A: Any, b: Any) -> Any:
    """x for one `(n,)` right-hand side, a CuPy array in double precision."""
    own = how.own()
    system, x0 = System(how, A, b), own.get("x0")
    x = system.start(None if x0 is None else array(x0) if isinstance(x0, Tensor) else cupy().asarray(x0))
    M, told = _preconditioner(how, system), _told(how, own.get("callback"), system)

    def descend(x: Any, steps: int) -> tuple[Any, float, int]:
        found = _iterated(how, system, x, steps, M, told)
        return found.x[:, 0], float(found.residual[0]), steps + int(found.iterations[0])

    return system.solved(x, descend)


def _iterated(how: ByName, system: System, x: Any, steps: int, M: Any, told: dict[str, Any]) -> KrylovResult:
    """From x, with what is left of maxiter after so many steps."""
    n, cycle = len(x), how.cycle(len(x))
    most = (10 * n if how.maxiter is None else how.maxiter) * cycle
    return iterate(
        how.method,
        Product(system.A),
        system.b[:, None],
        rtol=0.0,
        atol=system.bound,
        maxiter=max(0, most - steps),
        M=M,
        x0=x[:, None],
        restart=cycle,
        **told,
    )


def _told(how: ByName, callback: Any, system: System) -> dict[str, Any]:
    """What tells the user's callback x after each step, or for gmres the residual relative to b's norm."""
    if callback is None:
        return {}
    if how.method == "gmres":
        return {"callback": lambda step, residuals: callback(float(residuals[0]) / (system.size or 1.0))}
    return {"watch": lambda x: callback(system.x(x[:, 0]))}


def _canonical(T: Tensor) -> Any:
    """A sparse tensor as a CuPy matrix with int32 indices, sorted."""
    T = T.to_sparse_coo().coalesce().to_sparse_csr()
    crow, col, values = T.crow_indices().int(), T.col_indices().int(), T.values()
    return t2c_csr(torch.sparse_csr_tensor(crow, col, values, T.shape, check_invariants=False))


def _preconditioner(how: ByName, system: System) -> Callable[[Any], Any] | None:
    """M as a function of `(n, 1)` for this matrix, if there is one."""
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
    M = how.oriented(sparse_linalg().aslinearoperator(M), system.b)
    if M is None:
        return None
    return lambda r: system.preconditioner(M.matvec(aligned(r.ravel())).astype(r.dtype, copy=False))[:, None]
