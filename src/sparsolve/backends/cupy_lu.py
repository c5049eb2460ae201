"""`LU` and `Cholesky` on CUDA: cuDSS where it is installed and pays; else SuperLU on the host, and its triangular solves on the device.

The check of every solution is done on the device. CuPy's `splu` is SuperLU on the host as well, and its `spsolve` factorizes anew for each column and cannot tell a singular matrix. So
the values travel to the host once, where SuperLU's strategies and the condition estimate are those of the CPU, and the
factors travel back. Whether a solution is accepted is one number that the host waits for, in each solve.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

import numpy as np

from ..arrays import power_of_two
from ..errors import BackendUnavailableError, SolveError, sentence
from ..result import Strategy
from ..solvers import LU, Cholesky
from . import Outcome, Remembered, cudss, strategy
from .backward_error import BackwardError, DistrustedError
from .conditioning import condition, doubtful
from .cupy_device import Products, Structure, multiply
from .cupy_runtime import cupy, now, sparse_linalg
from .decomposition import DecompositionError, NotPositive
from .diagnosis import no_pivot, not_definite, require_finite, require_positive, singular
from .ordering import Reordered

__all__ = ["LUFactor", "Substitution", "factorize", "suitable"]


def factorize(structure: Structure, values: Any, solver: LU | Cholesky, remembered: Remembered) -> LUFactor:
    """Factorize by the first strategy that works; raises `SingularMatrixError`, `NotPositiveDefiniteError`."""
    return remembered(lambda values: LUFactor(structure, values, solver))  # type: ignore[no-any-return]


def suitable(structure: Structure, values: Any, solver: LU | Cholesky) -> tuple[tuple[Strategy, str], ...]:
    """The strategies that `factorize` would try, with their reasons."""
    host, definite = structure.host, isinstance(solver, Cholesky)
    if host.empty:
        return ()
    merged = host.merged(values.get())
    A = host.unique.csc(host.unique.hermitian_part(merged) if definite else merged)
    matrix = cudss.DeviceMatrix(host, A, None, solver.backend is not None)
    if definite and matrix.kind != "positive":
        return ()
    return tuple((c.strategy, why) for c, why in _candidates(matrix, solver))


def _candidates(matrix: strategy.Matrix, solver: LU | Cholesky) -> Iterator[tuple[strategy.Candidate, str]]:
    """cuDSS's, and SuperLU's: of what the host can do these alone have factors that the device can solve with."""
    lowered = isinstance(solver, LU) and solver.factor_dtype is not None
    if lowered or solver.backend not in (None, "superlu", "cudss"):
        raise BackendUnavailableError(
            sentence(
                f"{solver} has no backend for CUDA tensors in this version.",
                "Other backends, and factors in float32, are of the CPU.",
                f"Use {type(solver).__name__}().",
            )
        )
    definite, missing = isinstance(solver, Cholesky), cudss.missing() if solver.backend != "superlu" else ""
    if solver.backend == "cudss" and missing is not None:
        raise BackendUnavailableError(missing)
    rows = [c for c in cudss.CANDIDATES if missing is None and c.definite == definite]
    found = ((c, why) for c in rows if (why := c.suits(matrix)) is not None)
    host = strategy.candidates(matrix, "superlu", definite=definite)
    return found if solver.backend == "cudss" else chain(found, host)


class LUFactor:
    """`P A Q = L U` on the device, with the matrix beside it so that each solution can be checked."""

    def __init__(self, structure: Structure, values: Any, solver: LU | Cholesky) -> None:
        self._host, self._definite, self._lock = structure.host, isinstance(solver, Cholesky), threading.Lock()
        unique, merged = self._host.unique, self._host.merged(values.get())
        merged = unique.hermitian_part(merged) if self._definite else merged
        self._A = A = unique.csc(merged)
        self._M = Products(structure, values).settled()
        if self._host.empty:
            raise no_pivot(A, definite=self._definite)
        self._error = BackwardError(unique, merged, placed=cupy().asarray)
        with np.errstate(all="ignore"):
            for adjoint in (False, True):  # now, for the same reason as with `settled`
                self._error.norms(adjoint)
        self._pinned = solver.backend == "cudss"
        self._matrix = cudss.DeviceMatrix(self._host, A, self._M.plain.M, solver.backend is not None)
        self._candidates = _candidates(self._matrix, solver)
        if self._definite:
            require_positive(self._matrix)
        self._lu, self._strategy = self._next("", None)

    @property
    def nbytes(self) -> int:
        """Bytes of the factors and of the matrix, here and there."""
        return int(self._lu.nbytes) + self._M.nbytes + 2 * int(self._A.data.nbytes) + 16 * int(self._A.shape[0])

    def solve(self, b: Any, *, adjoint: bool, x0: Any) -> Outcome:
        """`A⁻¹ b` or `A⁻ᴴ b`, `b` `(n, k)`, with a backward error of a few units of roundoff, or a `SolveError`."""
        while True:
            lu, name = self._lu, self._strategy
            try:
                return Outcome(self._refined(lu, b, adjoint), strategy=int(name))
            except (DecompositionError, DistrustedError) as failure:
                fact = str(failure.args[0])
            require_finite("b", b)
            with self._lock:
                if self._lu is lu:
                    self._lu, self._strategy = self._next(fact, None)

    def _next(self, fact: str, found: float | None) -> tuple[Factors, Strategy]:
        """The factorization by the next strategy whose factors can be believed."""
        kind = None
        for candidate, _ in self._candidates:
            lu, fact, found, kind = self._attempt(candidate)
            if lu is not None:
                now().stream.synchronize()  # from here on any stream may read it
                return lu, candidate.strategy
        raise self._failure(fact, found, kind)

    def _attempt(self, candidate: strategy.Candidate) -> tuple[Factors | None, str, float | None, type | None]:
        """Factors on the device if they can be believed; else the fact, the condition found, and the kind of error (itself it holds on to memory)."""
        eps = self._error.limits.eps
        try:
            made: Any = candidate.decompose(self._matrix)
            found = self._condition(made, eps)
        except DecompositionError as error:
            return None, str(error), None, type(error)
        if not found * eps < 1.0:
            return None, "A is singular to working precision.", found, None
        self._host.found["decomposed"] = True
        return made if isinstance(made, cudss.CudssDecomposition) else Substitution(made.lu), "", found, None

    def _condition(self, made: Any, eps: float) -> float:
        """A lower bound of the condition where a first solve asks for one, else 0."""
        A, signs = self._A, self._host.signs
        with np.errstate(all="ignore"):
            columns, probe = self._error.scaled_sizes(self._error.sizes())
            excited = float((np.abs(made.solve((signs * probe).astype(A.dtype), "N")) * columns).max())
        # a replaced pivot hides what the probe would have found: the entries of a zero row, for one
        asks = doubtful(excited, eps) or getattr(made, "perturbed", 0) > 0
        return condition(A, made, signs, eps) if asks else 0.0

    def _failure(self, fact: str, found: float | None, kind: type | None) -> SolveError:
        """What to say when there is no strategy left."""
        if self._pinned and fact and found is None and kind is not NotPositive:
            return SolveError(sentence(fact, remedy="Leave backend out: SuperLU decides whether A is singular."))
        if self._definite:
            return not_definite(fact, self._A)
        return singular(self._A, fact, found)

    def _refined(self, lu: Factors, b: Any, adjoint: bool) -> Any:
        """Solve, with a small backward error of each row."""
        # CuPy flushes to zero: a small gradient would have no residual in single precision. Never smaller: that loses equations of a small scale
        scale = cupy().minimum(power_of_two(abs(b).max(axis=0)), 1.0)
        b, exact = b / scale, lambda: not getattr(lu, "perturbed", 0)
        product = lambda x, adjoint: multiply(self._M, x, adjoint=adjoint)  # noqa: E731
        solve = partial(lu.solve, adjoint=adjoint)
        return scale * self._error.refined(solve(b), b, adjoint, product, solve, exact)


class Substitution:
    """The triangular solves of a factorization that SuperLU made on the host, on the device.

    Args:
        lu: SciPy's object, or that of a matrix in another order of rows and columns.
    """

    def __init__(self, lu: Any) -> None:
        orders = (lu.ordering.rows, lu.ordering.columns) if isinstance(lu, Reordered) else (None, None)
        self._rows, self._columns = (None if order is None else cupy().asarray(order) for order in orders)
        held = lu.inner if isinstance(lu, Reordered) else lu
        self._lu = sparse_linalg().SuperLU(held.box[0])
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


Factors: TypeAlias = "Substitution | cudss.CudssDecomposition"
