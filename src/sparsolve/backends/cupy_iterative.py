"""The iterative methods on CUDA: the same ones, over CuPy's arrays."""

from __future__ import annotations

from typing import Any

from ..iterative import Iterative
from .cupy_device import Structure
from .cupy_preconditioners import build
from .cupy_runtime import now
from .diagnosis import not_finite
from .iterative import IterativeFactor, Prepared

__all__ = ["factorize"]


def factorize(structure: Structure, values: Any, solver: Iterative) -> IterativeFactor:
    """Put the matrix and its adjoint in order, and build the preconditioner."""
    error = not_finite("values", values)
    if error is not None:
        raise error
    M = None if solver.preconditioner is None else build(solver.preconditioner, structure, values)
    A = {adjoint: structure.csr(values, adjoint=adjoint) for adjoint in (False, True)}
    held = sum(int(a.nbytes) for product in A.values() for a in (product.data, product.indices, product.indptr))
    now().stream.synchronize()  # from here on any stream may read it
    return IterativeFactor(Prepared(A, M, held + (0 if M is None else int(M.nbytes))), solver)
