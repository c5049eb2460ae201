"""A user's callable as a solver on CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import SolveError, sentence
from ..solvers import Function
from . import Outcome
from .host import Structure

__all__ = ["FunctionFactor", "factorize"]

remember = False  # nothing is made that could be kept


def factorize(structure: Structure, values: Any, solver: Function) -> FunctionFactor:
    """Nothing to factorize: the callable does as it likes."""
    return FunctionFactor(structure, values, solver)


class FunctionFactor:
    """Hands the callable a matrix and a right-hand side of its own memory, and checks what comes back."""

    nbytes = 0

    def __init__(self, structure: Structure, values: Any, solver: Function) -> None:
        self._structure, self._values, self._solver = structure, values, solver

    def solve(self, b: Any, *, adjoint: bool, x0: Any) -> Outcome:
        """`callable(A, b)`, or `callable(Aᴴ, b)` of the adjoint callable; one column at a time where it wants vectors."""
        call = self._solver.adjoint if adjoint else self._solver.forward
        if not self._solver.vector:
            return Outcome(self._checked(call, b, adjoint))
        return Outcome(np.stack([self._checked(call, column, adjoint) for column in b.T], axis=1))

    def _checked(self, call: Any, b: Any, adjoint: bool) -> Any:
        A = self._structure.csc(self._values)
        A = A.conj().T.tocsr(copy=True) if adjoint else A.tocsr(copy=True)
        A.sort_indices()
        x = np.asarray(call(A, b.copy()))
        name = getattr(call, "__name__", type(call).__name__)
        if x.size != b.size:
            raise SolveError(
                sentence(
                    f"The solver {name!r} returned an array of shape {x.shape} for a right-hand side of shape {b.shape}.",
                    remedy="It must return x of the shape of b.",
                )
            )
        if np.iscomplexobj(x) and not np.iscomplexobj(b):
            raise SolveError(sentence(f"The solver {name!r} returned complex numbers for a real system."))
        if not np.isfinite(x).all():
            raise SolveError(
                sentence(
                    f"The solver {name!r} returned NaN or Inf.",
                    "It broke down or did not converge.",
                    "Check what it reports, or use LU().",
                )
            )
        return x.reshape(b.shape).astype(b.dtype, copy=False)
