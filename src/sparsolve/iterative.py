"""The records of the iterative methods: what is asked of them, and what they need of `A`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from .errors import sentence
from .given import ApproximateInverse, Factored
from .preconditioner_records import PreconditionerRecord
from .solvers import Solver

__all__ = ["CG", "CGS", "GMRES", "MINRES", "BiCGStab", "Iterative"]


@dataclass(frozen=True, kw_only=True)
class Iterative(Solver):
    """Base of the records below; not a method itself.

    Each column of `b` is solved until `‖b − A x‖₂ <= max(rtol ‖b‖₂, atol)`, with the true residual: it is computed once more
    before x is returned, and if the method's own residual was too small by then, the method starts again from x.
    The adjoint and tangent solves of a derivative use the same method with the adjoint of the preconditioner, and without the callback.
    Their right-hand sides may be of any size, so there `atol` is taken relative to `‖b‖` where it is the only tolerance, and left out
    otherwise.

    Attributes:
        rtol: relative tolerance; None is `roundoff ** (2/3)`, 4e-11 in double and 2e-5 in single precision.
        atol: absolute tolerance, in the units of b.
        maxiter: most iterations for each column; None is `10 n`.
        preconditioner: a record such as `Jacobi()`, an approximation of `A⁻¹`; or a `SparseMatrix` or a callable that
            is one, as `ApproximateInverse` takes it.
        callback: called after each step as `callback(i, residual)` with the step's number, from 1, and an array of the
            `‖b − A x‖₂` of each column `(k,)`, as the method's recursion has them. What it raises ends the solve. Records that
            differ in it alone are equal.
    """

    rtol: float | None = None
    atol: float = 0.0
    maxiter: int | None = None
    preconditioner: PreconditionerRecord | Any = None
    callback: Callable[[int, Any], Any] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        name = type(self).__name__
        # Python's own numbers, whose text is their value, since records cross the op boundary as text
        object.__setattr__(self, "atol", _tolerance(name, "atol", self.atol))
        if self.rtol is not None:
            object.__setattr__(self, "rtol", _tolerance(name, "rtol", self.rtol))
        if self.maxiter is not None:
            object.__setattr__(self, "maxiter", _count(name, "maxiter", self.maxiter, 0))
        if self.callback is not None and not callable(self.callback):
            raise TypeError(sentence(f"{name}(callback={self.callback!r}): a callable (i, residual) is needed."))
        M = self._preconditioner()
        if M is not None and self.hermitian and not M.hermitian:
            raise ValueError(
                sentence(
                    f"{name} needs a Hermitian positive definite preconditioner; {type(M).__name__} is not one.",
                    *_not_hermitian(M),
                )
            )

    def _preconditioner(self) -> PreconditionerRecord | None:
        """The preconditioner, as a record from now on."""
        M = self.preconditioner
        if M is None or isinstance(M, PreconditionerRecord):
            return M
        if isinstance(M, (Solver, type)) or not (callable(M) or hasattr(M, "pattern")):
            raise TypeError(
                sentence(
                    f"{type(self).__name__}(preconditioner={M!r}): a preconditioner record is needed, a SparseMatrix, or a callable.",
                    remedy="Jacobi(), BlockJacobi(), SymmetricGaussSeidel(), ILU(), AMG() and Factored() are there.",
                )
            )
        record = ApproximateInverse(M)
        object.__setattr__(self, "preconditioner", record)
        return record

    @property
    def hermitian(self) -> bool:
        """Whether A, and the preconditioner, must be Hermitian."""
        return False

    def relative(self) -> Solver:
        """The record for the solves of a derivative: no absolute tolerance, no callback."""
        rtol = self.atol if self.rtol == 0 else self.rtol
        return replace(self, rtol=rtol, atol=0.0, callback=None)


def _not_hermitian(M: PreconditionerRecord) -> tuple[str, str]:
    """Cause and remedy."""
    if isinstance(M, (ApproximateInverse, Factored)):
        return "Its matrix is not Hermitian.", "Give (M + M.mH) / 2, or use GMRES() or BiCGStab()."
    return "", "Use Jacobi(), SymmetricGaussSeidel() or AMG() here, or GMRES() or BiCGStab() with this one."


def _tolerance(name: str, what: str, value: Any) -> float:
    """A finite number that is not negative."""
    try:
        truth = isinstance(value, (bool, np.bool_)) or (isinstance(value, torch.Tensor) and value.dtype is torch.bool)
        no_number = truth or isinstance(value, str)
        number = math.nan if no_number else float(value)
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(sentence(f"{name}({what}={value!r}): it must be at least 0, and a finite number."))
    return number


def _count(name: str, what: str, value: Any, least: int) -> int:
    """A whole number."""
    try:
        number = value if type(value) is int else int(operator.index(value))
    except TypeError as error:
        raise TypeError(sentence(f"{name}({what}={value!r}): a whole number is needed.")) from error
    if number < least:
        raise ValueError(sentence(f"{name}({what}={value}): it must be at least {least}."))
    return number


@dataclass(frozen=True, kw_only=True)
class CG(Iterative):
    """Conjugate gradients, for Hermitian positive definite `A`: least `‖x − x*‖_A` in each Krylov space.

    Hestenes and Stiefel (1952); Saad, Iterative Methods for Sparse Linear Systems, 2nd ed., algorithms 6.18 and 9.1.

    >>> import sparsolve as sps
    >>> sps.CG(rtol=1e-8, preconditioner=sps.Jacobi())
    CG(rtol=1e-08, atol=0.0, maxiter=None, preconditioner=Jacobi())
    """

    @property
    def hermitian(self) -> bool:
        """Yes."""
        return True


@dataclass(frozen=True, kw_only=True)
class MINRES(Iterative):
    """Minimal residuals, for Hermitian `A`, indefinite too: least `‖b − A x‖` in each Krylov space. Paige and Saunders (1975).

    >>> import sparsolve as sps
    >>> sps.MINRES().hermitian
    True
    """

    @property
    def hermitian(self) -> bool:
        """Yes."""
        return True


@dataclass(frozen=True, kw_only=True)
class GMRES(Iterative):
    """Generalized minimal residuals, for any `A`: least `‖b − A x‖` in each Krylov space, started again after `restart` steps.

    Saad and Schultz (1986); Saad, 2nd ed., algorithms 6.9 and 9.5 (preconditioned from the right). Memory: `restart + 1` vectors
    for each column.

    Attributes:
        restart: steps before it starts again.

    >>> import sparsolve as sps
    >>> sps.GMRES(restart=50).restart
    50
    """

    restart: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "restart", _count("GMRES", "restart", self.restart, 1))


@dataclass(frozen=True, kw_only=True)
class BiCGStab(Iterative):
    """Stabilized biconjugate gradients, for any `A`, in constant memory. van der Vorst (1992); Saad, 2nd ed., algorithm 7.7.

    >>> import sparsolve as sps
    >>> sps.BiCGStab(maxiter=500).maxiter
    500
    """


@dataclass(frozen=True, kw_only=True)
class CGS(Iterative):
    """Conjugate gradients squared, for any `A`, in constant memory; less smooth than BiCGStab. Sonneveld (1989); Saad, 2nd ed., algorithm 7.6.

    >>> import sparsolve as sps
    >>> sps.CGS().hermitian
    False
    """
