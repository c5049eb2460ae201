"""The iterative methods: one matrix, its adjoint and its preconditioner, made ready once for all methods and tolerances, here for the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..arrays import namespace, on_host
from ..errors import ConvergenceError, sentence
from ..given import ApproximateInverse, Factored
from ..iterative import GMRES, Iterative
from ..krylov import KrylovResult, iterate
from ..krylov_columns import norm, ordered
from ..preconditioner_records import ILU, BlockJacobi, PreconditionerRecord, SymmetricGaussSeidel
from ..result import Status
from . import Outcome, Remembered
from .diagnosis import require_finite
from .given import given, is_called
from .host import Structure
from .preconditioners import Preconditioner, build
from .stopped import breakdown, is_hermitian, out_of_range, rounding, unusable

__all__ = ["IterativeFactor", "Prepared", "factorize", "matrix_free", "moderate", "prepared_key"]

_BLOCKED = (ILU, SymmetricGaussSeidel, BlockJacobi, Factored)  # read their factors once for all columns
_MAY = {
    "CG": "",
    "MINRES": "",
    "GMRES": " GMRES forgets at each restart what it has learnt; a larger restart keeps more.",
    "BiCGStab": " BiCGStab may break down where A is far from normal.",
    "CGS": " CGS converges irregularly where A is far from normal.",
}


def factorize(structure: Structure, values: Any, solver: Iterative, remembered: Remembered) -> IterativeFactor:
    """Build the preconditioner, or find it again; a callable is there, and the memo holds none of what it captures."""
    M = solver.preconditioner
    made = None if is_called(M) else M
    prepared = remembered(lambda values: _prepare(structure, values, made), prepared_key(solver))
    if is_called(M):
        prepared = prepared._replace(M=given(M, structure.shape[0], values.dtype))
    return IterativeFactor(prepared, solver)


def prepared_key(solver: Iterative) -> str:
    """What is made ready depends on the preconditioner alone, not on the method, its tolerances and callbacks."""
    M = solver.preconditioner
    return "Krylov" if M is None or is_called(M) else f"Krylov {M.key}"


def matrix_free(products: dict[bool, Any], theta: Any, solver: Iterative, n: int, dtype: Any) -> IterativeFactor:
    """The same for a matrix of which only products are known."""
    M = solver.preconditioner
    if M is not None and not isinstance(M, (ApproximateInverse, Factored)):
        raise TypeError(
            sentence(
                f"{type(M).__name__} is made of the entries of A, and an Operator has none.",
                remedy="Give an approximate inverse, ApproximateInverse(f), or a matrix near A, Factored(A_near).",
            )
        )
    require_finite("params", theta)
    return IterativeFactor(Prepared(products, None if M is None else given(M, n, dtype), entries=False), solver)


class Prepared(NamedTuple):
    """What does not depend on the method.

    Attributes:
        A: products with `A / scale` (False) and with its adjoint (True).
        M: the preconditioner of A.
        nbytes: of both.
        scale: a power of two.
        entries: whether A has entries, so that errors may advise a direct solver.
    """

    A: dict[bool, Any]
    M: Preconditioner | None
    nbytes: int = 0
    scale: float = 1.0
    entries: bool = True


def _prepare(structure: Structure, values: Any, M: PreconditionerRecord | None) -> Prepared:
    """Products with A share the memory of the values and of the pattern; those with its adjoint have the values in their own order."""
    require_finite("values", values)
    made = None if M is None else build(M, structure, values)
    values, scale = moderate(values)
    A = {
        False: structure.unique.csr(structure.merged(values)),
        True: structure.transposed(structure.csc(values)).conj(copy=False),
    }
    held = sum(int(product.data.nbytes) for product in A.values() if product.data is not values)
    return Prepared(A, made, held + (0 if made is None else int(made.nbytes)), scale)


def moderate(values: Any) -> tuple[Any, float]:
    """`values / scale` and the scale: 1, but where squares, which the methods sum up, could overflow or underflow; then a power of two.

    It is 1 too where the division would not be exact, since the smallest entries underflow.
    """
    limits = np.finfo(values.dtype)
    largest = float(abs(values).max()) if values.size else 0.0
    if not largest or float(limits.tiny) ** 0.25 < largest < float(limits.max) ** 0.25:
        return values, 1.0
    scale = math.ldexp(0.5, math.frexp(largest)[1])
    with np.errstate(all="ignore"):
        scaled = values / scale
        return (scaled, scale) if bool((scaled * scale == values).all()) else (values, 1.0)


class IterativeFactor:
    """A matrix to iterate with, its adjoint, and a preconditioner with `apply(r, adjoint=)`, all of one device."""

    def __init__(self, prepared: Prepared, solver: Iterative) -> None:
        self._A, self._M, self.nbytes, self._scale, self._entries = prepared
        self._solver = solver

    def solve(self, b: Any, *, adjoint: bool, x0: Any) -> Outcome:
        """Iterate from x0, or from zero, for all columns at once."""
        require_finite("b", b)
        if x0 is not None:
            require_finite("x0", x0)
        solver, M, A, scale = self._solver, self._apply(adjoint), self._A[adjoint], self._scale
        maxiter = 10 * len(b) if solver.maxiter is None else solver.maxiter
        if x0 is not None and scale != 1:
            with np.errstate(all="ignore"):
                x0 = x0 * scale
        found = iterate(
            type(solver).__name__.lower(),
            A,
            b,
            rtol=float(np.finfo(b.dtype).eps) ** (2 / 3) if solver.rtol is None else solver.rtol,
            atol=solver.atol,
            maxiter=maxiter,
            M=M,
            x0=x0,
            restart=solver.restart if isinstance(solver, GMRES) else None,
            callback=solver.callback,
            together=isinstance(solver.preconditioner, _BLOCKED),
        )
        if scale != 1:
            found = _scaled_back(found, A, b, scale)
        where = namespace(b).where
        stopped = where(found.iterations >= maxiter, int(Status.MAXITER), int(Status.BREAKDOWN))
        status = where(found.converged, int(Status.CONVERGED), stopped)
        error = None if found.converged.all() else self._failure(found, b, (A, self._A[not adjoint]), M, maxiter)
        return Outcome(found.x, status, found.iterations, error=error)

    def _apply(self, adjoint: bool) -> Callable[[Any], Any] | None:
        """`r -> M⁻¹ r`, or its adjoint; a Hermitian method's preconditioner is Hermitian."""
        M, record = self._M, self._solver.preconditioner
        if M is None:
            return None
        if adjoint and isinstance(record, ApproximateInverse) and callable(record.inverse):
            if self._solver.hermitian:
                adjoint = False
            elif record.adjoint is None:
                raise TypeError(
                    sentence(
                        "The preconditioner is a callable without its adjoint, and a solve with the adjoint of A needs that.",
                        "Gradients solve with the adjoint of A.",
                        "Use ApproximateInverse(f, adjoint=g); g is f where M is Hermitian.",
                    )
                )
        if self._scale == 1:
            return lambda r: M.apply(r, adjoint=adjoint)
        return lambda r: M.apply(r, adjoint=adjoint) * self._scale

    def _failure(
        self, found: KrylovResult, b: Any, products: tuple[Any, Any], M: Any, maxiter: int
    ) -> ConvergenceError:
        """The error for the worst column; products with A and with its adjoint."""
        converged, iterations, residual, bound, broken = map(on_host, found[1:])
        with np.errstate(all="ignore"):
            j = int(np.argmax(np.where(converged, 0.0, residual / np.maximum(bound, 1e-300))))
            column = ordered(b[:, j : j + 1])
            size = float(norm(column)[0])
            facts = (
                residual[j] / size if size else math.inf,
                bound[j] / size if size else 0.0,
                bool(broken[j]),
                maxiter if iterations[j] >= maxiter else None,
            )
            cause, remedy = self._reason(products, M, ordered(found.x[:, j : j + 1] * self._scale), column, *facts)
        return ConvergenceError(
            sentence(
                f"{type(self._solver).__name__} stopped with ‖b − A x‖ = {residual[j]:.2e}; {bound[j]:.2e} was asked for.",
                cause,
                remedy,
                iterations=int(iterations[j]),
                relative_residual=f"{float(residual[j]) / size:.2e}" if size else None,
                column=j if b.shape[1] > 1 else None,
                n=len(b),
            )
        )

    def _reason(
        self,
        products: tuple[Any, Any],
        M: Any,
        x: Any,
        b: Any,
        relative: float,
        asked: float,
        broken: bool,
        maxiter: int | None,
    ) -> tuple[str, str]:
        """Cause and remedy, for one column; what is said of A and M is found out here."""
        A, adjoint = products
        name, lu = type(self._solver).__name__, ", or use LU()" if self._entries else ""
        if M is not None and (reason := unusable(M, ordered(b - A @ x), self._solver.hermitian)):
            return reason
        if relative <= min(floor := rounding(A, x, b), 0.5):
            fact = f"{b.dtype} cannot reach this residual: it is at the rounding error of A x."
            return (
                fact,
                f"Use {'' if b.real.dtype == np.float64 else 'float64, or '}rtol >= {max(2 * relative, floor):.1e}.",
            )
        if self._solver.hermitian and not is_hermitian(A, b):
            return f"{name} needs a Hermitian A, and this one is not.", f"Use GMRES() or BiCGStab(){lu}."
        if reason := out_of_range(A, adjoint, ordered(b - A @ x), b, asked):
            return reason
        if broken and self._solver.hermitian:
            return breakdown(name, M, lu)
        if maxiter is not None:
            fact, larger = f"{maxiter} steps were not enough.", " or a larger maxiter"
        else:
            fact = "It fell no further: A is singular or ill-conditioned, or the tolerance below what rounding permits."
            larger = ""
        return fact + _MAY[name], f"Give a preconditioner{larger}, or loosen rtol{lu}."


def _scaled_back(found: KrylovResult, A: Any, b: Any, scale: float) -> KrylovResult:
    """x of `A x = b` from that of `(A / scale) (scale x) = b`, judged again, since it may overflow or underflow."""
    with np.errstate(all="ignore"):
        x = found.x / scale
        residual = norm(b - A @ (x * scale))
    return found._replace(x=x, residual=residual, converged=found.converged & (residual <= found.bound))
