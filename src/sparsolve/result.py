"""What `solve_with_info` returns."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import torch
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
    """The algorithm of a direct solve; `Info.strategy` holds these as integers, and `explain(A)` says why.

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
    DENSE = 18
    DENSE_CHOLESKY = 19


class Info(NamedTuple):
    """How each column of `b` was solved: one number per column, as tensors, so that it goes through `vmap` and `torch.compile`.

    For a single column it prints names in place of numbers; `Status(int(status)).name` is such a name.

    Attributes:
        status: integers of `Status`, of the shape of `b` without its row dimension.
        iterations: steps taken, 0 for a direct method; same shape.
        residual: `‖b − A x‖₂ / ‖b‖₂` (0 where `b = 0` and `x = 0`); same shape, float64.
        strategy: integers of `Strategy`, the algorithm of a direct solver; same shape.

    >>> import torch, sparsolve as sps
    >>> info = sps.solve_with_info(torch.eye(2).to_sparse(), torch.ones(2)).info
    >>> info
    Info(status=CONVERGED, iterations=0, residual=0, strategy=DIAGONAL)
    >>> sps.Status(int(info.status)).name
    'CONVERGED'
    """

    status: Tensor
    iterations: Tensor
    residual: Tensor
    strategy: Tensor

    @classmethod
    def of(cls, report: Tensor, vector: bool) -> Info:
        """The report of an op, `(*batch, 4, k)`, or of a vector `(4,)`; without derivatives."""
        status, iterations, residual, strategy = report.detach().unbind(-1 if vector else -2)
        return cls(status.to(torch.int64), iterations.to(torch.int64), residual, strategy.to(torch.int64))

    def __repr__(self) -> str:
        """With names for numbers, where there is one column: `Info(status=MAXITER, iterations=30, ...)`."""
        if not all(_is_a_number(t) for t in self):
            return f"Info({', '.join(f'{name}={t!r}' for name, t in zip(self._fields, self, strict=True))})"
        status, strategy = _name(Status, self.status), _name(Strategy, self.strategy)
        numbers = f"iterations={self.iterations.item()}, residual={self.residual.item():.3g}"
        return f"Info(status={status}, {numbers}, strategy={strategy})"


def _is_a_number(t: Any) -> bool:
    """Whether it is one number that can be read: not under a transform, nor while compiling."""
    if type(t) is not Tensor or t.dim() != 0 or torch.compiler.is_compiling():
        return False
    try:
        t.item()
    except RuntimeError:
        return False
    return True


def _name(names: type[IntEnum], t: Tensor) -> str:
    number = int(t)
    return names(number).name if number in set(names) else str(number)


class Solution(NamedTuple):
    """`x` and how it was found; for a pytree `b`, both are pytrees of its structure."""

    x: Any
    info: Any
