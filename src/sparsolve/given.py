"""Preconditioners that are given, not made from `A`: an approximate inverse, or another matrix to factorize.

They are constants. What a solve returns does not depend on them beyond its tolerance, so nothing is differentiated
through them, and the numbers of a matrix are copied when its record is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from .errors import sentence
from .indices import check_entries, check_form
from .operands import require_dtype, require_length, uncast
from .pattern import Pattern
from .preconditioner_records import PreconditionerRecord
from .solvers import LU, Cholesky, Solver
from .tickets import Constant
from .vectors import copied

__all__ = ["ApproximateInverse", "Factored", "Numbers", "is_hermitian"]


class Numbers(Constant):
    """A `SparseMatrix` as it was when this was made; equal to another one of the same bits.

    Attributes:
        pattern, dtype, device: of the matrix.
    """

    def __init__(self, name: str, matrix: Any) -> None:
        values, pattern = _parts(name, matrix)
        self._host = copied(name, "a matrix", values)
        self.pattern, self.dtype, self.device = pattern, values.dtype, values.device
        self._hermitian: bool | None = None
        check_form(pattern.crow, pattern.col, pattern.shape)  # of a tensor that no solve has checked
        check_entries(pattern.crow, pattern.col, pattern.shape)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Numbers) or (self.dtype, self.pattern) != (other.dtype, other.pattern):
            return False
        return np.array_equal(self._host.view(np.uint8), other._host.view(np.uint8))

    def __hash__(self) -> int:
        return hash((self.pattern, self.dtype, self._host[:8].tobytes(), self._host[-8:].tobytes()))

    def __repr__(self) -> str:
        n = self.pattern.shape[0]
        return f"SparseMatrix({n} x {n}, nnz={self.pattern.nnz}, {self.dtype}, {self.device})"

    @property
    def values(self) -> torch.Tensor:
        """The numbers as a tensor, on the matrix's device."""
        return torch.from_numpy(self._host).to(self.device)

    @property
    def hermitian(self) -> bool:
        """Whether the matrix is Hermitian to roundoff; looked at when first asked."""
        return _looked_at(self)

    def _look(self) -> bool:
        if self._hermitian is None:
            crow, col = (a.cpu().numpy() for a in (self.pattern.crow, self.pattern.col))
            self._hermitian = is_hermitian(sp.csr_matrix((self._host, col, crow), shape=self.pattern.shape, copy=True))
        return self._hermitian


def _parts(name: str, matrix: Any) -> tuple[torch.Tensor, Pattern]:
    """Values and pattern of one square matrix of a dtype that has solvers."""
    values, pattern = getattr(matrix, "values", None), getattr(matrix, "pattern", None)
    if not isinstance(pattern, Pattern) or not isinstance(values, torch.Tensor) or values.dim() != 1:
        batch = isinstance(values, torch.Tensor) and isinstance(pattern, Pattern)
        what = f"a batch of values {tuple(values.shape)}" if batch else type(matrix).__name__  # type: ignore[union-attr]
        raise TypeError(
            sentence(
                f"{name} got {what}; it takes one sparsolve.SparseMatrix.",
                remedy="Use SparseMatrix.from_torch for a sparse tensor, from_scipy for a SciPy matrix.",
            )
        )
    values = uncast(values)
    require_length(values, pattern)
    require_dtype(f"{name}'s matrix", values)
    if pattern.shape[0] != pattern.shape[1]:
        raise ValueError(sentence(f"{name} got a matrix of shape {pattern.shape}; it must be square, as A is."))
    return values, pattern


_looked_at: Callable[[Numbers], bool] = torch.compiler.assume_constant_result(Numbers._look)


def is_hermitian(A: Any) -> bool:
    """Whether a SciPy matrix is Hermitian to roundoff."""
    if A.nnz == 0:
        return True
    return bool(abs(A - A.conj().T).max() <= 100 * np.finfo(A.dtype).eps * abs(A).max())


@dataclass(frozen=True)
class ApproximateInverse(PreconditionerRecord):
    """`M⁻¹` itself: a matrix to multiply by, or a callable `r -> M⁻¹ r`. `preconditioner=` takes either without this record, too.

    A matrix is applied as `M⁻¹ r`, and as `M⁻ᴴ r` in an adjoint solve; `CG` and `MINRES` check that it is Hermitian. A callable gets a
    NumPy array that it must not write to, and returns one of the same shape. It must be linear, and Hermitian positive definite for
    `CG` and `MINRES`. That is not checked, but a wrong one costs iterations or a `ConvergenceError`, never a wrong x.

    Args:
        inverse: a `SparseMatrix` `(n, n)`, or a callable.
        adjoint: for a callable, `r -> M⁻ᴴ r`: `GMRES`, `BiCGStab` and `CGS` need it in gradients and in solves with `adjoint=True`.
            Give the same callable where `M` is Hermitian; `CG` and `MINRES` take that for granted.
        block: call a callable with all columns at once, `(n, k)`, instead of one at a time, `(n,)`.

    Raises:
        TypeError: neither of the two. `SolveError` in a solve where a callable returns another shape or no numbers.

    Cost:
        A product, or a call, for each column and step.

    >>> import torch, sparsolve as sps
    >>> A = sps.SparseMatrix.from_torch(torch.diag(torch.tensor([1.0, 100.0, 1e4])).to_sparse())
    >>> inverse = sps.SparseMatrix(0.9 / A.values, A.pattern)
    >>> sps.solve(A, torch.ones(3), sps.CG(preconditioner=inverse))
    tensor([1.0000e+00, 1.0000e-02, 1.0000e-04])
    >>> sps.solve_with_info(A, torch.ones(3), sps.GMRES(preconditioner=lambda r: r / [1, 100, 10000])).info.iterations
    tensor(1)
    """

    inverse: Any
    adjoint: Callable[[Any], Any] | None = None
    block: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.inverse, Numbers):
            return
        if isinstance(self.inverse, (type, Solver)) or not callable(self.inverse):
            object.__setattr__(self, "inverse", Numbers("ApproximateInverse", self.inverse))
        if self.adjoint is not None and (isinstance(self.inverse, Numbers) or not callable(self.adjoint)):
            raise TypeError(
                sentence(
                    f"ApproximateInverse got adjoint={self.adjoint!r}.",
                    remedy="It is a callable beside a callable inverse; a matrix has its own.",
                )
            )

    @property
    def hermitian(self) -> bool:  # type: ignore[override]
        """Of a matrix, as found; of a callable, taken for granted."""
        return self.inverse.hermitian if isinstance(self.inverse, Numbers) else True


@dataclass(frozen=True)
class Factored(PreconditionerRecord):
    """The inverse of another matrix, through its factorization: `M⁻¹ = A_old⁻¹`.

    For a series of systems that change slowly: Newton steps, time steps, optimization. One matrix is factorized, and its neighbours
    take a few iterations each. The factorization is found in the memo where a solve with `A_old` has made it, and made once if not.
    A single-precision `A_old` is factorized and applied in single precision, at half the memory.

    Args:
        matrix: a `SparseMatrix` `(n, n)`; Hermitian positive definite for `CG` and `MINRES`, which check that it is Hermitian.
        solver: a direct solver; `LU()` by default.

    Raises:
        TypeError: not one sparse matrix, or not a direct solver. `SingularMatrixError` in a solve where `A_old` is singular.

    Cost:
        One factorization, then a pair of triangular solves for each column and step.

    >>> import torch, sparsolve as sps
    >>> old = sps.SparseMatrix.from_torch(torch.tensor([[4.0, 1.0], [0.0, 2.0]]).double().to_sparse())
    >>> new = sps.SparseMatrix(old.values * torch.tensor([1.001, 1.0, 0.999]), old.pattern)
    >>> x, info = sps.solve_with_info(new, torch.ones(2), sps.GMRES(preconditioner=sps.Factored(old)))
    >>> x, info.iterations
    (tensor([0.1248, 0.5005], dtype=torch.float64), tensor(2))
    """

    matrix: Any
    solver: LU | Cholesky = LU()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        if not isinstance(self.solver, (LU, Cholesky)):
            raise TypeError(sentence(f"Factored got solver={self.solver!r}; it takes a direct solver such as LU()."))
        if not isinstance(self.matrix, Numbers):
            object.__setattr__(self, "matrix", Numbers("Factored", self.matrix))

    @property
    def hermitian(self) -> bool:  # type: ignore[override]
        """As the matrix."""
        return self.matrix.hermitian  # type: ignore[no-any-return]
