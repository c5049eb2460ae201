"""A user's callable as a solver; what it is given and what it returns is NumPy's and SciPy's here."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import namespace
from ..errors import SolveError, sentence
from ..solvers import Function
from . import Outcome, Remembered
from .diagnosis import overflow
from .given import returned
from .host import Structure

__all__ = ["FunctionFactor", "factorize"]


def factorize(structure: Structure, values: Any, solver: Function, remembered: Remembered) -> FunctionFactor:
    """Nothing to factorize, and nothing to remember: the callable does as it likes."""
    return FunctionFactor(structure, values, solver)


class FunctionFactor:
    """Hands the callable a matrix and a right-hand side of its own memory, and checks what comes back."""

    nbytes = 0

    def __init__(self, structure: Any, values: Any, solver: Function) -> None:
        self._structure, self._values, self._solver = structure, values, solver

    def solve(self, b: Any, *, adjoint: bool, x0: Any) -> Outcome:
        """`callable(A, b)`, or `callable(Aᴴ, b)` of the adjoint callable; one column at a time where it wants vectors."""
        call = self._solver.adjoint if adjoint else self._solver.forward
        if not self._solver.vector:
            return Outcome(self._checked(call, b, adjoint))
        return Outcome(namespace(b).stack([self._checked(call, column, adjoint) for column in b.T], axis=1))

    def own(self, adjoint: bool) -> Any:
        """The matrix of the system, to be read only."""
        A = self._structure.csc(self._values)
        return A.conj(copy=False).T if adjoint else A

    def matrix(self, adjoint: bool) -> Any:
        """The matrix of the system, compressed rows in their order, of its own memory."""
        A = self.own(adjoint).tocsr(copy=True)
        A.sort_indices()
        return A

    def array(self, x: Any, name: str) -> Any:
        """What the callable returned, as an array of numbers."""
        if isinstance(x, tuple):
            raise SolveError(
                sentence(
                    f"The solver {name!r} returned a tuple of {len(x)}.",
                    "SciPy's iterative functions return (x, info).",
                    "Return x only: check info in a function of your own, or name the method (sparsolve.CG() and its like).",
                )
            )
        return returned(x, f"The solver {name!r}")

    def _checked(self, call: Any, b: Any, adjoint: bool) -> Any:
        name = getattr(call, "__name__", type(call).__name__)
        x = self.array(call(self.matrix(adjoint), b.copy()), name)
        if x.shape != b.shape and {x.shape, b.shape} != {(len(b),), (len(b), 1)}:
            raise SolveError(
                sentence(
                    f"The solver {name!r} returned an array of shape {x.shape} for a right-hand side of shape {b.shape}.",
                    "A transposed x, perhaps.",
                    "It must return x of the shape of b.",
                )
            )
        if x.dtype.kind == "c" and b.dtype.kind != "c":
            raise SolveError(sentence(f"The solver {name!r} returned complex numbers for a real system."))
        if not namespace(x).isfinite(x).all():
            raise SolveError(
                sentence(
                    f"The solver {name!r} returned NaN or Inf.",
                    "It broke down or did not converge.",
                    "Check what it reports, or use LU().",
                )
            )
        with np.errstate(over="ignore"):
            cast = x.reshape(b.shape).astype(b.dtype, copy=False)
        if not namespace(x).isfinite(cast).all():
            raise overflow()
        other = _solved_instead(self.own(adjoint), cast, b)
        if other:
            raise SolveError(
                sentence(
                    f"What the solver {name!r} returned solves the system with the {other} of the matrix that it was given.",
                    "It transposes by itself, or does not look at its matrix, which is Aᴴ already in a gradient.",
                    "Solve with the matrix that is given, as it is.",
                )
            )
        return cast


def _solved_instead(A: Any, x: Any, b: Any) -> str:
    """Which other matrix than A x solves the system with, if it is far from solving it with A; of a loose x nothing is said."""
    with np.errstate(all="ignore"):
        own, size = (float(abs(r).max()) if b.size else 0.0 for r in (b - A @ x, b))
        if not own > 1e-4 * size:
            return ""
        others = {"transpose": A.T}
        if b.dtype.kind == "c":
            others = {"adjoint": A.conj().T, "transpose": A.T, "conjugate": A.conj()}
        return next((name for name, M in others.items() if float(abs(b - M @ x).max()) < 1e-3 * own), "")
