"""The records of the iterative methods: what is asked of them, and what they need of `A`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import sentence
from .given import ApproximateInverse, Factored
from .preconditioner_records import PreconditionerRecord
from .solvers import Solver, real, whole

__all__ = ["CG", "CGS", "GMRES", "MINRES", "BiCGStab", "Iterative"]


@dataclass(frozen=True, kw_only=True)
class Iterative(Solver):
    """Base of the records below, which say what each argument means; not a method itself.

    Each column of `b` is solved until `‖b − A x‖₂ <= max(rtol ‖b‖₂, atol)` holds for the true residual. That is computed before x is
    returned; where it is still too large, because rounding made the method's own residual too small, the method starts again from x.
    The adjoint and tangent solves of a derivative use the same method, the preconditioner or its adjoint, and no callback. Their
    right-hand sides may be of any size and unit, so `atol`, which is in the units of `b`, does not apply to them: they are solved to
    `rtol`, or to its default where that is 0.

    Attributes:
        hermitian: of the class, no field: whether A must be Hermitian, and the preconditioner too.
    """

    hermitian = False

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
            raise _no_preconditioner(type(self).__name__, M)
        record = ApproximateInverse(M)
        object.__setattr__(self, "preconditioner", record)
        return record

    def relative(self) -> Solver:
        """The record for the solves of a derivative: no absolute tolerance, which is in the units of another right-hand side; no callback."""
        return replace(self, rtol=self.rtol or None, atol=0.0, callback=None)


def _not_hermitian(M: PreconditionerRecord) -> tuple[str, str]:
    """Cause and remedy."""
    if isinstance(M, (ApproximateInverse, Factored)):
        return "Its matrix is not Hermitian.", "Give (M + M.mH) / 2, or use GMRES() or BiCGStab()."
    return "", "Use Jacobi(), SymmetricGaussSeidel() or AMG() here, or GMRES() or BiCGStab() with this one."


_RECORDS = ("Jacobi()", "BlockJacobi(size=...)", "SymmetricGaussSeidel()", "ILU()", "AMG()", "Factored(A_old)")


def _no_preconditioner(name: str, M: Any) -> TypeError:
    """What is wrong with `preconditioner=M`, and what to write."""
    word = M.__name__ if isinstance(M, type) else M if isinstance(M, str) else ""
    what = f"the class {word}" if isinstance(M, type) else repr(M) if isinstance(M, str) else f"a {type(M).__name__}"
    meant = [record for record in _RECORDS if record.partition("(")[0].lower() == word.lower()]
    remedy = f"Use {meant[0]}." if meant else f"{', '.join(_RECORDS)} are there."
    if hasattr(M, "layout") or hasattr(M, "tocsr"):
        remedy = "Make it a SparseMatrix, by from_torch or from_scipy: an approximate inverse, or for Factored a matrix near A."
    fact = f"{name}(preconditioner=...) got {what}; a preconditioner record is needed, a SparseMatrix, or a callable."
    return TypeError(sentence(fact, remedy=remedy))


def _tolerance(name: str, what: str, value: Any) -> float:
    """A finite number that is not negative."""
    number = real(value)
    if number is None or not 0 <= number < math.inf:
        raise ValueError(sentence(f"{name}({what}={value!r}): it must be at least 0, and a finite number."))
    return number


def _count(name: str, what: str, value: Any, least: int) -> int:
    """A whole number."""
    number = whole(value)
    if number is None:
        raise TypeError(sentence(f"{name}({what}={value!r}): a whole number is needed."))
    if number < least:
        raise ValueError(sentence(f"{name}({what}={value}): it must be at least {least}."))
    return number


@dataclass(frozen=True, kw_only=True)
class CG(Iterative):
    """Conjugate gradients: `A x = b` for a Hermitian positive definite `A`; least `‖x − x*‖_A` in each Krylov space.

    Args:
        rtol: relative tolerance; None is `eps ** (2/3)`: 4e-11 in double, 2e-5 in single precision.
        atol: absolute tolerance, in the units of `b`; the solves of a derivative ignore it.
        maxiter: the most steps that each column may take; None is `10 n`.
        preconditioner: an approximation of `A⁻¹`, Hermitian positive definite: `Jacobi()`, `BlockJacobi()`, `SymmetricGaussSeidel()`,
            `AMG()`, `Factored(A_old)`, or a `SparseMatrix` or callable that is one.
        callback: called after each step as `callback(i, residual)`, with the number of the step, from 1, and an array `(k,)`: the
            `‖b − A x‖₂` of each column, as the recursion has it. An exception ends the solve. Records that differ in it alone are equal.

    Raises:
        ValueError, TypeError: of the record, for an argument that makes no sense, or a preconditioner that is not Hermitian.
        ConvergenceError: of a solve that stops before `‖b − A x‖₂ <= max(rtol ‖b‖₂, atol)`.

    Cost:
        A step: one product with A, one application of the preconditioner. Memory: ten vectors for each column that is still iterated.

    Source: Hestenes and Stiefel, J. Res. Nat. Bur. Standards 49, 1952; Saad, Iterative Methods for Sparse Linear Systems, 2nd ed.,
    algorithms 6.18 and 9.1.

    >>> import sparsolve as sps
    >>> sps.CG(rtol=1e-8, preconditioner=sps.Jacobi())
    CG(rtol=1e-08, atol=0.0, maxiter=None, preconditioner=Jacobi())
    """

    hermitian = True


@dataclass(frozen=True, kw_only=True)
class MINRES(Iterative):
    """Minimal residuals: `A x = b` for a Hermitian `A`, indefinite too; least `‖b − A x‖` in each Krylov space.

    Args:
        rtol: relative tolerance; None is `eps ** (2/3)`: 4e-11 in double, 2e-5 in single precision.
        atol: absolute tolerance, in the units of `b`; the solves of a derivative ignore it.
        maxiter: the most steps that each column may take; None is `10 n`.
        preconditioner: an approximation of `A⁻¹`, Hermitian positive definite: `Jacobi()`, `BlockJacobi()`, `SymmetricGaussSeidel()`,
            `AMG()`, `Factored(A_old)`, or a `SparseMatrix` or callable that is one.
        callback: called after each step as `callback(i, residual)`, with the number of the step, from 1, and an array `(k,)`: the
            `‖b − A x‖₂` of each column, as the recursion has it. An exception ends the solve. Records that differ in it alone are equal.

    Raises:
        ValueError, TypeError: of the record, for an argument that makes no sense, or a preconditioner that is not Hermitian.
        ConvergenceError: of a solve that stops before `‖b − A x‖₂ <= max(rtol ‖b‖₂, atol)`.

    Cost:
        A step: one product with A, one application of the preconditioner. Memory: 13 vectors for each column that is still iterated.

    Source: Paige and Saunders, SIAM J. Numer. Anal. 12, 1975, section 6.

    >>> import torch, sparsolve as sps
    >>> A = torch.tensor([[1.0, 2.0], [2.0, 1.0]]).to_sparse()  # eigenvalues 3 and -1
    >>> sps.solve(A, torch.tensor([3.0, 3.0]), sps.MINRES()).round(decimals=4)
    tensor([1., 1.])
    """

    hermitian = True


@dataclass(frozen=True, kw_only=True)
class GMRES(Iterative):
    """Generalized minimal residuals: `A x = b` for any `A`; least `‖b − A x‖` in each Krylov space, started again after `restart` steps.

    Args:
        rtol: relative tolerance; None is `eps ** (2/3)`: 4e-11 in double, 2e-5 in single precision.
        atol: absolute tolerance, in the units of `b`; the solves of a derivative ignore it.
        maxiter: the most steps that each column may take; None is `10 n`.
        preconditioner: an approximation of `A⁻¹`: `ILU()` or any other record, or a `SparseMatrix` or callable that is one, as
            `ApproximateInverse` takes it. It is applied from the right.
        callback: called after each step as `callback(i, residual)`, with the number of the step, from 1, and an array `(k,)`: the
            `‖b − A x‖₂` of each column, as the recursion has it. An exception ends the solve. Records that differ in it alone are equal.
        restart: steps after which it starts again, at least 1.

    Raises:
        ValueError, TypeError: of the record, for an argument that makes no sense.
        ConvergenceError: of a solve that stops before `‖b − A x‖₂ <= max(rtol ‖b‖₂, atol)`.

    Cost:
        A step: one product with A, one application of the preconditioner, and 4 j inner products and updates in step j since the last
        start. Memory: `restart + 12` vectors for each column that is still iterated.

    Source: Saad and Schultz, SIAM J. Sci. Stat. Comput. 7, 1986; Saad, Iterative Methods for Sparse Linear Systems, 2nd ed., algorithms
    6.9 and 9.5.

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
    """Stabilized biconjugate gradients: `A x = b` for any `A`, in constant memory.

    Args:
        rtol: relative tolerance; None is `eps ** (2/3)`: 4e-11 in double, 2e-5 in single precision.
        atol: absolute tolerance, in the units of `b`; the solves of a derivative ignore it.
        maxiter: the most steps that each column may take; None is `10 n`.
        preconditioner: an approximation of `A⁻¹`: `ILU()` or any other record, or a `SparseMatrix` or callable that is one, as
            `ApproximateInverse` takes it. It is applied from the right.
        callback: called after each step as `callback(i, residual)`, with the number of the step, from 1, and an array `(k,)`: the
            `‖b − A x‖₂` of each column, as the recursion has it. An exception ends the solve. Records that differ in it alone are equal.

    Raises:
        ValueError, TypeError: of the record, for an argument that makes no sense.
        ConvergenceError: of a solve that stops before `‖b − A x‖₂ <= max(rtol ‖b‖₂, atol)`.

    Cost:
        A step: two products with A, two applications of the preconditioner. Memory: 13 vectors for each column that is still iterated.

    Source: van der Vorst, SIAM J. Sci. Stat. Comput. 13, 1992; Saad, Iterative Methods for Sparse Linear Systems, 2nd ed., algorithm 7.7.

    >>> import sparsolve as sps
    >>> sps.BiCGStab(maxiter=500).maxiter
    500
    """


@dataclass(frozen=True, kw_only=True)
class CGS(Iterative):
    """Conjugate gradients squared: `A x = b` for any `A`, in constant memory; less smooth than `BiCGStab`.

    Args:
        rtol: relative tolerance; None is `eps ** (2/3)`: 4e-11 in double, 2e-5 in single precision.
        atol: absolute tolerance, in the units of `b`; the solves of a derivative ignore it.
        maxiter: the most steps that each column may take; None is `10 n`.
        preconditioner: an approximation of `A⁻¹`: `ILU()` or any other record, or a `SparseMatrix` or callable that is one, as
            `ApproximateInverse` takes it. It is applied from the right.
        callback: called after each step as `callback(i, residual)`, with the number of the step, from 1, and an array `(k,)`: the
            `‖b − A x‖₂` of each column, as the recursion has it. An exception ends the solve. Records that differ in it alone are equal.

    Raises:
        ValueError, TypeError: of the record, for an argument that makes no sense.
        ConvergenceError: of a solve that stops before `‖b − A x‖₂ <= max(rtol ‖b‖₂, atol)`.

    Cost:
        A step: two products with A, two applications of the preconditioner. Memory: 14 vectors for each column that is still iterated.

    Source: Sonneveld, SIAM J. Sci. Stat. Comput. 10, 1989; Saad, Iterative Methods for Sparse Linear Systems, 2nd ed., algorithm 7.6.

    >>> import sparsolve as sps
    >>> sps.CGS().hermitian
    False
    """
