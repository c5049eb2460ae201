"""What `solve_with_info` returns."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["Info", "Solution", "Status", "Strategy"]


class Status(IntEnum):
    """How one column of a solve ended; `Info.status` holds these as integers.

    >>> import sparsolve as sps
    >>> sps.Status.CONVERGED == 0
    True
    """

    CONVERGED = 0
    SINGULAR = 1
    NOT_POSITIVE_DEFINITE = 2
    MAXITER = 3
    BREAKDOWN = 4


class Strategy(IntEnum):
    """What a solve was done with; `Info.strategy` holds these as integers, and `explain(A)` says why.

    >>> import sparsolve as sps
    >>> sps.Strategy.BANDED.name
    'BANDED'
    """

    OTHER = 0  # an iteration, a callable, or a solve that failed
    DIAGONAL = 1
    TRIANGULAR = 2
    TRIDIAGONAL = 3
    BANDED = 4
    BANDED_CHOLESKY = 5
    SUPERLU_SYMMETRIC = 6
    SUPERLU = 7
    SUPERLU_CHOLESKY = 8
    METIS = 9
    KLU = 10
    PARDISO = 11
    PARDISO_SYMMETRIC = 12
    PARDISO_CHOLESKY = 13
    CUDSS = 14
    CUDSS_SYMMETRIC = 15
    CUDSS_CHOLESKY = 16
    CHOLMOD = 17


class Info(NamedTuple):
    """One number per column of `b`, as tensors, so that it goes through `vmap` and `torch.compile`.

    Attributes:
        status: integers of `Status`, shape of `b` without its row dimension.
        iterations: iterations used, 0 for a direct method, same shape.
        residual: `‖b − A x‖₂ / ‖b‖₂` (0 where `b = 0` and `x = 0`), same shape, float64.
        strategy: integers of `Strategy`, what a direct solver did, same shape.
    """

    status: Tensor
    iterations: Tensor
    residual: Tensor
    strategy: Tensor


class Solution(NamedTuple):
    """`x` and how it was found; for a pytree `b` both are pytrees of `b`'s structure."""

    x: Any
    info: Any
