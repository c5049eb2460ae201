"""The iterative methods: one matrix, its adjoint and its preconditioner, made ready once, here for the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ConvergenceError, sentence
from ..iterative import GMRES, Iterative
from ..krylov import iterate
from ..krylov_columns import namespace, on_host
from ..result import Status
from . import Outcome
from .diagnosis import not_finite
from .host import Structure
from .preconditioners import build

__all__ = ["IterativeFactor", "factorize"]

_NEEDS = {
    "CG": "CG needs a Hermitian positive definite A.",
    "MINRES": "MINRES needs a Hermitian A.",
    "GMRES": "GMRES may stagnate, since it forgets at each restart what it has learnt.",
    "BiCGStab": "BiCGStab may break down where A is far from normal.",
    "CGS": "CGS converges irregularly where A is far from normal.",
}


def factorize(structure: Structure, values: Any, solver: Iterative) -> IterativeFactor:
    """Build the preconditioner."""
    csc = structure.csc(values)
    error = not_finite("values", values)
    if error is not None:
        raise error
    M = None if solver.preconditioner is None else build(solver.preconditioner, structure, values)
    return IterativeFactor(csc.tocsr(), structure.transposed(csc).conj(), M, solver)


class IterativeFactor:
    """A matrix to iterate with, its adjoint, and a preconditioner with `apply(r, adjoint=)`, all of one device."""

    def __init__(self, A: Any, adjoint: Any, M: Any, solver: Iterative) -> None:
        self._A, self._M, self._solver = {False: A, True: adjoint}, M, solver

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix, its adjoint and the preconditioner."""
        held = sum(a.nbytes for A in self._A.values() for a in (A.data, A.indices, A.indptr))
        return int(held) + (0 if self._M is None else int(self._M.nbytes))

    def solve(self, b: Any, *, adjoint: bool, x0: Any) -> Outcome:
        """Iterate from x0, or from zero, for all columns at once."""
        error = not_finite("b", b)
        if error is None and x0 is not None:
            error = not_finite("x0", x0)
        if error is not None:
            raise error
        solver, M = self._solver, self._M
        maxiter = 10 * len(b) if solver.maxiter is None else solver.maxiter
        found = iterate(
            type(solver).__name__.lower(),
            self._A[adjoint],
            b,
            rtol=float(np.finfo(b.dtype).eps) ** (2 / 3) if solver.rtol is None else solver.rtol,
            atol=solver.atol,
            maxiter=maxiter,
            M=None if M is None else lambda r: M.apply(r, adjoint=adjoint),
            x0=x0,
            restart=solver.restart if isinstance(solver, GMRES) else None,
        )
        where = namespace(b).where
        stopped = where(found.iterations >= maxiter, int(Status.MAXITER), int(Status.BREAKDOWN))
        status = where(found.converged, int(Status.CONVERGED), stopped)
        error = None if found.converged.all() else self._failure(type(found)(*map(on_host, found)), on_host(b))
        return Outcome(found.x, status, found.iterations, error=error)

    def _failure(self, found: Any, b: Any) -> ConvergenceError:
        """The error for the worst column."""
        column = int(np.argmax(np.where(found.converged, 0.0, found.residual / np.maximum(found.bound, 1e-300))))
        size = float(np.linalg.norm(b[:, column]))
        name = type(self._solver).__name__
        return ConvergenceError(
            sentence(
                f"{name} stopped with ‖b − A x‖ = {found.residual[column]:.2e}; {found.bound[column]:.2e} was asked for.",
                f"{_NEEDS[name]} Or A is singular or ill-conditioned, or maxiter or the tolerance too small.",
                "Give a preconditioner or a larger maxiter, loosen rtol, or use LU().",
                iterations=int(found.iterations[column]),
                relative_residual=f"{float(found.residual[column]) / size:.2e}" if size else None,
                column=column if b.shape[1] > 1 else None,
                n=len(b),
            )
        )
