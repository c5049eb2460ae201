"""`LU` and `Cholesky` on CPU: the best strategy for the matrix, every solution checked, the next strategy where one fails.

A solution is believed if its backward error is a few units of roundoff, after refinement if need be, and if the
matrix is not singular to working precision. The last strategy decides: where it fails too, the matrix is at fault.
"""

from __future__ import annotations

import math
import threading
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConvergenceError, SolveError, sentence
from ..result import Strategy
from ..solvers import LU, Cholesky
from ..threads import blas_has_threads, each
from . import Outcome, Remembered
from .conditioning import condition, doubtful
from .diagnosis import indefinite, not_finite, singular
from .host import Structure
from .lowered import Lowered, cast, lower
from .products import Products
from .strategy import Candidate, Decomposition, Matrix, candidates

__all__ = ["DirectFactor", "factorize", "suitable"]

_COLUMNS = 16  # right-hand sides at a time: the fastest on large factors
# at most, and units of roundoff that will do: of a factor in the matrix's precision, and of one in a lower (True)
_REFINEMENTS = {False: (5, 100.0), True: (50, 10.0)}
_OVERFLOW = "The solution is larger than the largest number of its dtype."
_WORTHWHILE = 1 << 22  # bytes of a factor, once for each block of columns, from which on threads are


class _Limits(NamedTuple):
    """Of a precision: unit roundoff, the smallest and the largest normal number, and what underflow may leave of a residual."""

    eps: float
    tiny: float
    huge: float
    least: float


_LIMITS = {
    c: _Limits(*(float(x) for x in (f.eps, f.tiny, f.max, 100 * f.smallest_subnormal)))
    for c in "fdFD"
    for f in [np.finfo(c)]
}


threads = True  # several matrices may be factorized at once


def factorize(structure: Structure, values: Any, solver: LU | Cholesky, remembered: Remembered) -> DirectFactor:
    """Decompose by the first strategy that works; raises `SingularMatrixError`, `NotPositiveDefiniteError`."""
    return remembered(solver.key, lambda: DirectFactor(structure, values, solver))  # type: ignore[no-any-return]


def suitable(structure: Structure, values: Any, solver: LU | Cholesky) -> tuple[tuple[Strategy, str], ...]:
    """The strategies that `factorize` would try, with their reasons."""
    matrix = Matrix(structure, structure.csc(values), solver.backend is not None)
    definite = isinstance(solver, Cholesky)
    if definite and not matrix.hermitian:
        return ()
    return tuple((c.strategy, str(c.suits(matrix))) for c in candidates(matrix, solver.backend, definite=definite))


class _DistrustedError(Exception):
    """What is wrong with a decomposition, and the condition found, if it was."""


class _Stage:
    """A decomposition by one strategy, and whether the matrix has been found nonsingular by it."""

    def __init__(self, candidate: Candidate, decomposition: Decomposition) -> None:
        self.strategy, self.decomposition, self.believed = candidate.strategy, decomposition, False
        self.columns = getattr(decomposition, "columns", _COLUMNS)


class DirectFactor:
    """A decomposition, with the matrix beside it so that each solution can be checked."""

    def __init__(self, structure: Structure, values: Any, solver: LU | Cholesky) -> None:
        self._structure, self._solver, self._lock = structure, solver, threading.Lock()
        A = structure.csc(values)
        self._A, self._limits, self._product = A, _LIMITS[values.dtype.char], Products(structure, A)
        if structure.empty:
            raise singular(A, "LU has no pivot to choose.")
        tiny, huge = self._limits.tiny, self._limits.huge
        with np.errstate(all="ignore"):
            size = np.abs(A.data)
            product = Products(structure, structure.filled(size))
            rows = product(np.ones(structure.shape[0], dtype=size.dtype), False)
            columns = np.minimum(np.add.reduceat(size, structure.csc_indptr[:-1]), huge)
            self._sums = {False: np.maximum(np.minimum(rows, huge), tiny), True: np.maximum(columns, tiny)}
            self._scale = 1.0 / columns
            self._probe = (structure.signs * product(self._scale, False)).astype(values.dtype)
        self._low = lower(values.dtype, solver)
        self._matrix = Matrix(structure, A if self._low is None else cast(A, self._low), solver.backend is not None)
        if isinstance(solver, Cholesky) and not self._matrix.hermitian:
            raise not_finite("values", A.data) or indefinite("A is not Hermitian.", A)
        self._candidates = candidates(self._matrix, solver.backend, definite=isinstance(solver, Cholesky))
        self._stage = self._next("", None)

    @property
    def nbytes(self) -> int:
        """Bytes of the decomposition and of the matrix held."""
        return int(self._stage.decomposition.nbytes) + int(self._A.data.nbytes) + 32 * self._structure.shape[0]

    def solve(self, b: Any, *, adjoint: bool, x0: Any) -> Outcome:
        """`A⁻¹ b` or `A⁻ᴴ b`, `b` `(n, k)`, with a backward error of a few units of roundoff, or a `SolveError`."""
        x = self._checked(b.ravel() if b.shape[1] == 1 else b, adjoint).reshape(b.shape)  # a vector costs SciPy less
        return Outcome(x, strategy=self._stage.strategy)

    def _checked(self, b: Any, adjoint: bool) -> Any:
        """Solve by the stage that there is; where it fails, by the next."""
        while True:
            stage = self._stage
            try:
                return self._refined(stage, b, adjoint)
            except _DistrustedError as doubt:
                error = not_finite("b", b)
                if error is not None:
                    raise error from None
                with self._lock:
                    if self._stage is stage:
                        self._stage = self._next(*doubt.args)

    def _next(self, fact: str, found: float | None) -> _Stage:
        """The next strategy that gets as far as a decomposition."""
        for candidate in self._candidates:
            try:
                decomposition = candidate.decompose(self._matrix)
            except RuntimeError as error:
                fact, found = str(error), None
            else:
                self._structure.found["decomposed"] = True
                return _Stage(candidate, decomposition if self._low is None else Lowered(decomposition))
        raise self._failure(fact, found)

    def _failure(self, fact: str, found: float | None) -> SolveError:
        """What to say when there is no strategy left."""
        if not fact:
            name = f"{type(self._solver).__name__}(backend={self._solver.backend!r})"
            return SolveError(
                sentence(
                    f"{name} has no strategy for this matrix.", remedy="Leave backend out; explain(A) tells what suits."
                )
            )
        if fact == _OVERFLOW:
            return SolveError(
                sentence(
                    fact, "A is not singular, but b is too large for it.", "Divide b by a constant, and x is divided."
                )
            )
        if self._low is not None:
            return not_finite("values", self._A.data) or _too_low(fact, self._low, found)
        if isinstance(self._solver, Cholesky):
            return not_finite("values", self._A.data) or indefinite(fact, self._A)
        return singular(self._A, fact, found)

    def _refined(self, stage: _Stage, b: Any, adjoint: bool) -> Any:
        """Solve, and refine in the matrix's precision (Higham, section 12.1) until the backward error of each row is small."""
        sums, most = self._sums[adjoint], _REFINEMENTS[self._low is not None][0]
        with np.errstate(all="ignore"):
            x = self._substitute(stage, b, adjoint) if stage.believed else self._first(stage, b, adjoint)
            for _ in range(most):
                residual = b - self._product(x, adjoint)
                if self._small(residual, x, sums if x.ndim == 1 else sums[:, None]):
                    return x
                x = x + self._substitute(stage, residual, adjoint)
            residual = b - self._product(x, adjoint)
            if self._low is None and self._small(residual, x, sums.max()):
                return x  # as good as elimination is, where rows of another size had to be pivots
        if stage.believed and not np.isfinite(x).all():
            raise _DistrustedError(_OVERFLOW, None)
        raise _DistrustedError("A large residual was left, even after refinement.", None)

    def _small(self, residual: Any, x: Any, norms: Any) -> bool:
        """`|b − A x| <= c u ‖A‖ ‖x‖`, with the norm of each row, so that no row's scale matters, or with that of all.

        (Higham, sections 7.1 and 7.2; with `‖b‖` on the right c is twice as large at most, since `‖b‖ <= ‖A‖ ‖x‖ + ‖r‖`.)
        Divided by the norms, so that `‖A‖ ‖x‖` cannot overflow; underflow is no failure.
        """
        size = np.abs(residual)
        size /= norms
        tolerance = self._limits.eps * max(_REFINEMENTS[self._low is not None][1], self._structure.shape[0] ** 0.5)
        underflow = self._limits.least * (1 + 1 / np.minimum.reduce(norms, axis=None))
        bound = tolerance * _largest(x) + underflow
        if x.ndim == 1:  # numbers, which NumPy would compare as arrays
            return float(np.maximum.reduce(size)) <= float(bound) < math.inf
        return bool(((np.maximum.reduce(size) <= bound) & (bound < np.inf)).all())

    def _first(self, stage: _Stage, b: Any, adjoint: bool) -> Any:
        """The first solve carries the probe of the condition as one more column, which costs less than a solve of its own."""
        if adjoint or (b.ndim == 2 and b.shape[1] >= stage.columns):
            self._judge(stage, self._substitute(stage, self._probe, False))
            return self._substitute(stage, b, adjoint)
        columns = b.reshape(len(b), -1)
        block = np.empty((columns.shape[0], columns.shape[1] + 1), dtype=b.dtype, order="F")
        block[:, :-1], block[:, -1] = columns, self._probe
        x = self._substitute(stage, block, False)
        self._judge(stage, x[:, -1])
        return x[:, :-1].reshape(b.shape)

    def _judge(self, stage: _Stage, excited: Any) -> None:
        """Refuse a matrix that is singular to working precision."""
        eps = self._limits.eps if self._low is None else float(self._low.eps)
        if doubtful(float((np.abs(excited) / self._scale).max()), eps):
            found = condition(self._A, stage.decomposition, self._structure.signs, eps)
            if not found * eps < 1.0:
                raise _DistrustedError("A is singular to working precision.", found)
        stage.believed = True

    def _substitute(self, stage: _Stage, b: Any, adjoint: bool) -> Any:
        """Solve with the decomposition, some columns at a time."""
        if adjoint and b.ndim == 2:
            # SuperLU takes several columns together for A only; solves with its adjoint take up to twice as long
            if self._matrix.hermitian:
                adjoint = False
            elif self._matrix.symmetric:
                return self._substitute(stage, b.conj(), False).conj()
        trans = "N" if not adjoint else "H" if np.iscomplexobj(b) else "T"
        if b.ndim == 1 or b.shape[1] <= stage.columns:
            return stage.decomposition.solve(b, trans)
        starts = range(0, b.shape[1], stage.columns)
        parts = [np.asfortranarray(b[:, j : j + stage.columns]) for j in starts]  # SuperLU's own order
        call = lambda i: stage.decomposition.solve(parts[i], trans)  # noqa: E731
        large = stage.decomposition.nbytes * len(parts) >= _WORTHWHILE and not blas_has_threads()
        return np.concatenate(each(call, len(parts), worthwhile=large), axis=1)


def _largest(a: Any) -> Any:
    """`‖a‖∞` of each column."""
    return np.maximum.reduce(np.abs(a))


def _too_low(fact: str, low: Any, found: float | None) -> SolveError:
    return ConvergenceError(
        sentence(
            f"Refinement from factors in {low.dtype} did not reach full accuracy. {fact}",
            f"A is too ill-conditioned, or too badly scaled, for {low.dtype}.",
            "Use LU() without factor_dtype.",
            scaled_condition=None if found is None else f"at least {found:.1e}",
        )
    )
