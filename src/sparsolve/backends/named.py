"""What the methods by name have in common on every device: what is asked of them, their units, and which x is good enough.

All of them work in double precision, on a system whose matrix and right-hand side are divided by powers of two: no norm overflows or
underflows then, and SciPy's minres, which takes 1e-16 for a small number, sees a matrix of size 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch

from ..arrays import exponent, namespace, shifted
from ..errors import ConvergenceError, sentence
from ..krylov_columns import norm
from ..solvers import Adapts
from .diagnosis import overflow, require_finite

__all__ = ["METHODS", "OWN", "SPARSE", "ByName", "ByIdentity", "System", "length"]

METHODS = ("cg", "cgs", "minres", "gmres")
# of the call under way: x0 and callback for methods by name, and "given", both as they came, for callables
OWN: ContextVar[dict[str, Any]] = ContextVar("OWN", default={})  # noqa: B039
SPARSE = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)
_RTOL, _RESTART = 1e-5, 20  # SciPy's defaults
_LEAST = 1e-12  # of an absolute tolerance that is taken for a relative one
_EPS = float(np.finfo(np.float64).eps)
_SENSIBLE = 1000.0  # `‖ |A| |x| ‖ / ‖b‖` up to which rounding alone excuses a residual
_CAUSES = {
    "cg": "CG needs a Hermitian positive definite A (and M)",
    "cgs": "CGS converges irregularly where A is far from normal",
    "minres": "MINRES needs a Hermitian A (and a positive definite M)",
    "gmres": "GMRES may stagnate, as it forgets at each restart what it has learnt",
}


class ByIdentity:
    """A value compared by identity, so that arrays can stand in a hashable record."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


@dataclass(frozen=True, kw_only=True)
class ByName(Adapts):
    """A callable `(matrix, rhs) -> x` that runs one of `METHODS`; equal ones share an entry of the solver table.

    Attributes:
        method: a name from `METHODS`.
        rtol, atol: `‖b − A x‖ <= max(rtol ‖b‖, atol)` is reached, or `ConvergenceError` raised.
        maxiter: as in SciPy (for gmres it counts restart cycles); None is SciPy's default.
        restart: gmres only.
        M: approximates the inverse; an array, sparse matrix, LinearOperator or tensor.
        transposed: the matrices are adjoints of that which M was made for, and right-hand sides are gradients, whose
            size says nothing: no absolute tolerance (where rtol is 0, atol is taken relative to `‖b‖`, but no less than 1e-12), no x0, no
            callback.
        derivative: the same about right-hand sides, for a tangent or a higher derivative.
    """

    method: str
    rtol: float = _RTOL
    atol: float = 0.0
    maxiter: int | None = None
    restart: int | None = None
    M: ByIdentity | None = None
    transposed: bool = False
    derivative: bool = False

    @property
    def __name__(self) -> str:
        return self.method

    def __call__(self, A: Any, b: Any) -> Any:
        """x for one `(n,)` right-hand side, where that is."""
        module = "scipy_iterative" if isinstance(b, np.ndarray) else "cupy_named"
        with np.errstate(all="ignore"):  # NaN and Inf end in errors of our own
            return import_module(f".{module}", __package__).solution(self, A, b)

    def cycle(self, n: int) -> int:
        """Steps that `maxiter` counts as one, for n unknowns."""
        return min(self.restart or _RESTART, n) if self.method == "gmres" else 1

    def oriented(self, M: Any, b: Any) -> Any:
        """M, an operator, for this matrix; for the adjoint of an unsymmetric one M's adjoint, None if it has none."""
        if not self.transposed or self.method in ("cg", "minres"):
            return M
        try:
            M.rmatvec(b)
        except NotImplementedError:
            return None
        return M.H

    def own(self) -> dict[str, Any]:
        """x0 and callback, where they are meant for this solve."""
        return {} if self.transposed or self.derivative else OWN.get()


class System:
    """`A x = b` in double precision, both sides divided by powers of two. What is asked of x, and what x is in the user's units.

    Attributes:
        A, b: of the system to solve.
        size: `‖b‖`.
        bound: of the residual.
        unit: what residuals are multiplied by in the user's units.
    """

    def __init__(self, how: ByName, A: Any, b: Any) -> None:
        self.how, wide = how, np.complex128 if b.dtype.kind == "c" else np.float64
        A, b = A.astype(wide), b.astype(wide)
        self._exponent, self._of_A = exponent(b), exponent(A.data)
        A.data = shifted(A.data, -self._of_A)
        self.A, self.b, self.unit = A, shifted(b, -self._exponent), 2.0**self._exponent
        self.size = length(self.b)
        relative = how.transposed or how.derivative
        atol = 0.0 if relative else float(shifted(np.float64(how.atol), -self._exponent))
        rtol = (how.rtol or min(max(how.atol, _LEAST), _RTOL)) if relative else how.rtol
        self.bound = max(rtol * self.size, atol)

    def start(self, x0: Any) -> Any:
        """x0 in these units; zero where it is None, or so large that its residual overflows, or where b is 0."""
        zero = namespace(self.b).zeros(self.b.shape, dtype=self.b.dtype)
        for name, a in (("A.data", self.A.data), ("b", self.b), ("x0", x0)):
            if a is not None:
                require_finite(name, a)
        if x0 is None or self.size == 0:
            return zero
        x = shifted(x0.astype(self.b.dtype), self._of_A - self._exponent)
        return x if math.isfinite(length(self.b - self.A @ x)) else zero

    def solved(self, x: Any, descend: Callable[[Any, int], tuple[Any, float, int]]) -> Any:
        """x in the user's units; where rounding is in the way, because a given x is so large, from zero.

        Args:
            x: to start from.
            descend: from an x found in so many steps to a better one, its residual, and all steps.
        """
        given, steps = bool(x.any()), 0
        for last in (not given, True):
            x, residual, steps = descend(x, steps)
            good = self.accepted(x, residual)
            if good is not None:
                return good
            if last or not residual <= self.rounding(x):
                break
            x = self.start(None)
        raise self.failure(x, residual, steps)

    def preconditioner(self, M: Any) -> Any:
        """An operator near the inverse of the user's A as one near the inverse of this A."""
        return 2.0**self._of_A * M if self._of_A and M is not None else M

    def x(self, x: Any) -> Any:
        """x in the user's units."""
        return shifted(x, self._exponent - self._of_A)

    def accepted(self, x: Any, residual: float) -> Any:
        """x in the user's units if its residual is small enough, else None.

        A residual of no more than the rounding errors of its own evaluation is small enough too, but only while these are those
        of an x that is not much larger than b calls for: so it counts where the tolerance is below `2000 u ‖b‖`, and nowhere else.
        """
        allowed = min(self.rounding(x), 2 * _EPS * _SENSIBLE * self.size)
        if not residual <= max(self.bound * (1 + 1e-6), allowed) or not math.isfinite(residual):
            return None
        x = self.x(x)
        if not bool(namespace(x).isfinite(x).all()):
            raise overflow()
        return x

    def rounding(self, x: Any) -> float:
        """The rounding errors of evaluating the residual of x."""
        return 2 * _EPS * length(abs(self.A) @ abs(x) + abs(self.b))

    def failure(self, x: Any, residual: float, steps: int) -> ConvergenceError:
        """The error for a solve that ended before its residual was small."""
        how, size = self.how, self.size
        numbers = {"iterations": steps, "relative_residual": f"{residual / size if size else residual:.2e}"}
        fact = f"{how.method} stopped at ‖b − A x‖ = {residual * self.unit:.2e}; {self.bound * self.unit:.2e} was asked for."
        cause = f"{_CAUSES[how.method]}; or A is ill-conditioned, or maxiter or the tolerance too small."
        remedy = "Give a preconditioner M or a larger maxiter, or solve directly with solve=None."
        if residual <= self.rounding(x):
            fact += " For an x of this size that is rounding error, in double precision."
            cause = "A is singular or ill-conditioned, or the tolerance too small."
            remedy = "Ask for a larger tol; or solve directly with solve=None, which says whether A is singular."
        return ConvergenceError(sentence(fact, cause, remedy, method=how.method, **numbers, n=len(self.b)))


def length(a: Any) -> float:
    """`‖a‖₂` of a vector, without overflow or underflow."""
    return float(norm(a.reshape(-1, 1))[0])
