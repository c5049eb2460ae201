"""The iterative methods on CUDA: the same ones, over CuPy's arrays."""

from __future__ import annotations

from typing import Any

from ..errors import BackendUnavailableError, sentence
from ..iterative import Iterative
from . import Remembered, iterative
from .cupy_device import Product, Structure
from .cupy_preconditioners import build
from .cupy_runtime import now
from .diagnosis import require_finite
from .iterative import IterativeFactor, Prepared, moderate, prepared_key

__all__ = ["factorize", "matrix_free"]


def factorize(structure: Structure, values: Any, solver: Iterative, remembered: Remembered) -> IterativeFactor:
    """Put the matrix and its adjoint in order and build the preconditioner, or find them again."""
    return IterativeFactor(remembered(lambda values: _prepare(structure, values, solver), prepared_key(solver)), solver)


def _prepare(structure: Structure, values: Any, solver: Iterative) -> Prepared:
    require_finite("values", values)
    M = None if solver.preconditioner is None else build(solver.preconditioner, structure, values)
    values, scale = moderate(values)
    A = {adjoint: Product(structure.csr(values, adjoint=adjoint)) for adjoint in (False, True)}
    held = sum(int(product.M.data.nbytes) for product in A.values())  # indices are the pattern's
    now().stream.synchronize()  # from here on any stream may read it
    return Prepared(A, M, held + (0 if M is None else int(M.nbytes)), scale)


def matrix_free(products: dict[bool, Any], theta: Any, solver: Iterative, n: int, dtype: Any) -> IterativeFactor:
    """The same for a matrix of which only products are known."""
    if solver.preconditioner is not None:
        raise BackendUnavailableError(
            sentence(
                f"{type(solver.preconditioner).__name__} of an Operator has no backend for CUDA tensors in this version.",
                remedy="Solve without a preconditioner, or move params and b to the CPU.",
            )
        )
    return iterative.matrix_free(products, theta, solver, n, dtype)
