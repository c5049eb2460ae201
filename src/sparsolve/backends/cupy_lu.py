"""`LU` and `Cholesky` on CUDA: SuperLU on the host, its triangular solves and the check of every solution on the device.

CuPy's `splu` is SuperLU on the host as well, and its `spsolve` factorizes anew for each column and cannot tell a singular matrix. So
the values travel to the host once, where SuperLU's strategies and the condition estimate are those of the CPU, and the
factors travel back. Whether a solution is accepted is one number that the host waits for, in each solve.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from ..errors import BackendUnavailableError, SolveError, sentence
from ..krylov_columns import power_of_two
from ..result import Strategy
from ..solvers import LU, Cholesky
from . import Outcome, strategy
from .conditioning import condition, doubtful
from .cupy_device import Matrix, Structure, multiply
from .cupy_runtime import cupy, now, sparse_linalg
from .diagnosis import indefinite, not_finite, singular
from .ordering import Reordered

__all__ = ["LUFactor", "Substitution", "factorize", "suitable"]

_REFINEMENTS = 5


def factorize(structure: Structure, values: Any, solver: LU | Cholesky) -> LUFactor:
    """Factorize by the first strategy that works; raises `SingularMatrixError`, `NotPositiveDefiniteError`."""
    return LUFactor(structure, values, solver)


def suitable(structure: Structure, values: Any, solver: LU | Cholesky) -> tuple[tuple[Strategy, str], ...]:
    """The strategies that `factorize` would try, with their reasons."""
    matrix = strategy.Matrix(structure.host, structure.host.csc(values.get()))
    return tuple((c.strategy, str(c.suits(matrix))) for c in _candidates(matrix, solver))


def _candidates(matrix: strategy.Matrix, solver: LU | Cholesky) -> Any:
    """SuperLU's: of what the host can do these alone have factors that the device can solve with."""
    lowered = isinstance(solver, LU) and solver.factor_dtype is not None
    if lowered or solver.backend not in (None, "superlu"):
        raise BackendUnavailableError(
            sentence(
                f"{solver} has no backend for CUDA tensors in this version.",
                "Other backends, and factors in float32, are of the CPU.",
                f"Use {type(solver).__name__}().",
            )
        )
    return strategy.candidates(matrix, "superlu", definite=isinstance(solver, Cholesky))


class LUFactor:
    """`P A Q = L U` on the device, with the matrix beside it so that each solution can be checked."""

    def __init__(self, structure: Structure, values: Any, solver: LU | Cholesky) -> None:
        self._host, self._definite, self._lock = structure.host, isinstance(solver, Cholesky), threading.Lock()
        self._A = A = self._host.csc(values.get())
        self._M = Matrix(structure, values).settled()
        self._limits = np.finfo(values.dtype)
        if self._host.empty:
            raise singular(A, "LU has no pivot to choose.")
        size, least = np.abs(A.data), float(self._limits.tiny)
        rows, columns = np.bincount(A.indices, size, A.shape[0]), np.add.reduceat(size, A.indptr[:-1])
        self._norms = {False: max(float(rows.max()), least), True: max(float(columns.max()), least)}
        self._matrix = strategy.Matrix(self._host, A)
        self._candidates = _candidates(self._matrix, solver)
        if self._definite and not self._matrix.hermitian:
            raise not_finite("values", A.data) or indefinite("A is not Hermitian.", A)
        self._lu, self._strategy = self._next("", None)

    @property
    def nbytes(self) -> int:
        """Bytes of the factors and of the matrix, here and there."""
        return self._lu.nbytes + self._M.nbytes + 2 * int(self._A.data.nbytes)

    def solve(self, b: Any, *, adjoint: bool, x0: Any) -> Outcome:
        """`A⁻¹ b` or `A⁻ᴴ b`, `b` `(n, k)`, with a normwise backward error of a few units of roundoff, or a `SolveError`."""
        while True:
            lu, name = self._lu, self._strategy
            x = self._refined(lu, b, adjoint)
            if x is not None:
                return Outcome(x, strategy=int(name))
            error = not_finite("b", b)
            if error is not None:
                raise error
            with self._lock:
                if self._lu is lu:
                    self._lu, self._strategy = self._next("A large residual was left, even after refinement.", None)

    def _next(self, fact: str, found: float | None) -> tuple[Substitution, Strategy]:
        """The factorization by the next strategy whose factors can be believed."""
        eps = float(self._limits.eps)
        for candidate in self._candidates:
            try:
                made = candidate.decompose(self._matrix)
            except RuntimeError as error:
                fact, found = str(error), None
                continue
            found = self._condition(made, eps)
            if found * eps < 1.0:
                lu = Substitution(made.lu)
                now().stream.synchronize()  # from here on any stream may read it
                return lu, candidate.strategy
            fact = "A is singular to working precision."
        raise self._failure(fact, found)

    def _condition(self, made: Any, eps: float) -> float:
        """A lower bound of the condition where a first solve asks for one, else 0."""
        A, signs = self._A, self._host.signs
        with np.errstate(all="ignore"):
            scale = 1.0 / np.add.reduceat(np.abs(A.data), A.indptr[:-1])
            probe = (signs * (self._host.filled(np.abs(A.data)) @ scale)).astype(A.dtype)
            excited = float((np.abs(made.solve(probe, "N")) / scale).max())
        return condition(A, made, signs, eps) if doubtful(excited, eps) else 0.0

    def _failure(self, fact: str, found: float | None) -> SolveError:
        """What to say when there is no strategy left."""
        if self._definite:
            return not_finite("values", self._A.data) or indefinite(fact, self._A)
        return singular(self._A, fact, found)

    def _refined(self, lu: Substitution, b: Any, adjoint: bool) -> Any:
        """Solve, and refine in the same precision (Higham, section 12.1) until the backward error is small; None if it stays large."""
        norm, least = self._norms[adjoint], 100 * float(self._limits.smallest_subnormal)
        tolerance = float(self._limits.eps) * max(100.0, self._A.shape[0] ** 0.5)
        size = abs(b).max(axis=0)
        scale = power_of_two(size)  # CuPy flushes to zero: a small gradient would have no residual in single precision
        b, size = b / scale, size / scale / norm
        x = lu.solve(b, adjoint=adjoint)
        for _ in range(_REFINEMENTS):
            residual, answer = b - multiply(self._M, x, adjoint=adjoint), scale * x
            # divided by the norm, so that ‖A‖ ‖x‖ cannot overflow; underflow is no failure
            bound = tolerance * (abs(x).max(axis=0) + size) + least * (1 + 1 / norm)
            fits = (bound < np.inf) & (abs(answer).max(axis=0) < np.inf)
            if bool(((abs(residual).max(axis=0) / norm <= bound) & fits).all()):  # the one wait
                return answer
            x = x + lu.solve(residual, adjoint=adjoint)
        return None


class Substitution:
    """The triangular solves of a factorization that SuperLU made on the host, on the device.

    Args:
        lu: SciPy's object, or that of a matrix in another order of rows and columns.
    """

    def __init__(self, lu: Any) -> None:
        orders = (lu.ordering.rows, lu.ordering.columns) if isinstance(lu, Reordered) else (None, None)
        self._rows, self._columns = (None if order is None else cupy().asarray(order) for order in orders)
        self._lu = sparse_linalg().SuperLU(lu.inner if isinstance(lu, Reordered) else lu)
        for factor in (self._lu.L, self._lu.U):
            factor.has_canonical_format = True  # else CuPy looks, and waits

    @property
    def nbytes(self) -> int:
        """Bytes of the factors."""
        return sum(int(a.nbytes) for F in (self._lu.L, self._lu.U) for a in (F.data, F.indices, F.indptr))

    def solve(self, b: Any, *, adjoint: bool) -> Any:
        """`A⁻¹ b` or `A⁻ᴴ b`, as `Reordered` does it."""
        trans = "N" if not adjoint else "H" if b.dtype.kind == "c" else "T"
        before, after = (self._columns, self._rows) if adjoint else (self._rows, self._columns)
        b = cupy().asfortranarray(b if before is None else b[before])  # as SpSM returns it
        y = self._lu.solve(b, trans)
        if after is None:
            return y
        x = cupy().empty_like(y)
        x[after] = y
        return x
