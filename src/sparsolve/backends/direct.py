"""`LU` and `Cholesky` on CPU: the best strategy for the matrix, every solution checked, the next strategy where one fails.

A solution is believed if its backward error is a few units of roundoff, after refinement if need be, and if the
matrix is not singular to working precision. The last strategy decides: where it fails too, the matrix is at fault.
"""

from __future__ import annotations

import contextlib
import math
import threading
from typing import Any

import numpy as np

from ..arrays import divided
from ..caching import cached_property
from ..errors import SolveError, sentence
from ..result import Strategy
from ..solvers import LU, Cholesky
from ..threads import blas_has_threads, by_blocks, each
from . import Outcome, Remembered
from .backward_error import BackwardError, DistrustedError, Sizes
from .balance import Balanced, Rescaled, balanced, graded
from .conditioning import condition, dominant, doubtful
from .decomposition import DecompositionError, NotPositive
from .diagnosis import entry_not_finite, no_pivot, not_definite, not_finite, require_finite, require_positive, singular
from .host import Product, Structure, largest_size, quietly
from .lowered import Lowered, cast, lower, too_low
from .strategy import Decomposition, Matrix, candidates
from .together import together

__all__ = ["DirectFactor", "factorize", "suitable", "together"]

_COLUMNS = 16  # right-hand sides at a time: the fastest on large factors
# at most, and units of roundoff that will do: of a factor in the matrix's precision, and of one in a lower (True)
_REFINEMENTS = {False: (5, 100.0), True: (50, 10.0)}
_QUICK = 1 << 16  # bytes of a factor: a smaller one solves sooner than a block of columns is put together
_WORTHWHILE = 1 << 22  # bytes of a factor, once for each block of columns, from which on threads are
_WORTH_A_THREAD = 1 << 20  # bytes of a factor: below, threads wait for the interpreter longer than they work without it
_PROVEN = 0.01  # of 1 / roundoff: a condition that is no larger for sure
_WIDE = 1 << 22  # bytes of right-hand sides, from which on they leave the caches


def factorize(structure: Structure, values: Any, solver: LU | Cholesky, remembered: Remembered) -> DirectFactor:
    """Decompose by the first strategy that works; raises `SingularMatrixError`, `NotPositiveDefiniteError`."""
    return remembered(lambda values: DirectFactor(structure, values, solver))  # type: ignore[no-any-return]


def suitable(structure: Structure, values: Any, solver: LU | Cholesky) -> tuple[tuple[Strategy, str], ...]:
    """The strategies that `factorize` would try, with their reasons."""
    values = structure.merged(values)
    low, definite = lower(values.dtype, solver), isinstance(solver, Cholesky)
    values = structure.unique.hermitian_part(values) if definite else values
    matrix = Matrix(structure.unique, values if low is None else cast(values, low), solver.backend is not None)
    if structure.empty or (definite and matrix.kind != "positive"):
        return ()
    return tuple((c.strategy, why) for c, why in candidates(matrix, solver.backend, definite=definite))


class _Stage:
    """A decomposition by one strategy, made or as it is used, and whether the matrix has been found nonsingular by it."""

    def __init__(self, strategy: Strategy, made: Decomposition, used: Decomposition) -> None:
        self.strategy, self.decomposition, self.believed = strategy, used, False
        self.columns = getattr(made, "columns", _COLUMNS)
        self.threads = getattr(made, "threads", False)
        self.apart = made.nbytes < _QUICK or getattr(made, "apart", False)
        self.perturbed = getattr(made, "perturbed", 0) > 0

    def large(self, blocks: int) -> bool:
        """Whether solves for so many blocks of columns are worth threads."""
        return self.threads and self.decomposition.nbytes * blocks >= _WORTHWHILE and not blas_has_threads()


class DirectFactor:
    """A decomposition, with the values beside it so that each solution can be checked. They are the memo's: nothing is held twice."""

    def __init__(self, structure: Structure, values: Any, solver: LU | Cholesky) -> None:
        self._solver, self._lock = solver, threading.Lock()
        self._structure, self._values = structure.unique, structure.merged(values)
        self._product = Product(self._structure, self._values)
        self._low, self._definite = lower(values.dtype, solver), isinstance(solver, Cholesky)
        if structure.empty:
            raise no_pivot(structure.csc(values), definite=self._definite)
        low = self._low is not None
        self._error = BackwardError(self._structure, self._values, *_REFINEMENTS[low], by_columns=low)
        sizes = np.abs(self._values)
        self._sizes: Sizes | None = Product(self._structure, sizes)  # for the first solve, which lets go of it
        self._balance = self._balanced() if self._low is None and graded(sizes) else None
        matrix = self._matrix()
        if self._definite:
            require_positive(matrix)
        self._tried: set[Strategy] = set()
        self._stage = self._next("", None, matrix)

    @property
    def nbytes(self) -> int:
        """Bytes of the decomposition and of what is held to check it."""
        merged = 0 if self._structure.starts is None else int(self._values.nbytes)
        return int(self._stage.decomposition.nbytes) + merged + 16 * self._structure.shape[0]

    @property
    def worth_a_thread(self) -> bool:
        """Whether another matrix like this one is."""
        return self._stage.threads and self._stage.decomposition.nbytes >= _WORTH_A_THREAD

    def solve(self, b: Any, *, adjoint: bool, x0: Any) -> Outcome:
        """`A⁻¹ b` or `A⁻ᴴ b`, `b` `(n, k)`, with a backward error of a few units of roundoff, or a `SolveError`."""
        k = b.shape[1]
        if b.nbytes < _WIDE or k <= _COLUMNS:  # a vector costs SciPy less
            x = self._checked(b.ravel() if k == 1 else b, adjoint).reshape(b.shape)
        else:
            call = lambda part: self._checked(part, adjoint)  # noqa: E731
            try:
                x = by_blocks(call, b, _COLUMNS, worthwhile=self._stage.large(k // _COLUMNS))
            except SolveError as error:  # it counts columns from the block's first
                raise not_finite("b", b) or error from None
        return Outcome(x, strategy=self._stage.strategy)

    def _serves(self, strategy: Strategy) -> bool:
        """Whether its decompositions are of use here."""
        return True

    def _balanced(self) -> Balanced | None:
        """The balanced matrix, which is factorized in place of one whose sizes are far apart."""
        balance = balanced(self._structure, self._values)
        return None if balance.rows is None else balance

    @property
    def _even(self) -> bool:
        """Whether rows and columns are of one size as they are."""
        return self._balance is None and self._balanced() is None

    def _matrix(self) -> Matrix:
        """The matrix in the precision of the factors, for strategies to look at. What they find out of it is not held on to."""
        values = self._values if self._low is None else cast(self._values, self._low)
        values = values if self._balance is None else self._balance.values
        values = self._structure.hermitian_part(values) if self._definite else values
        return Matrix(self._structure, values, self._solver.backend is not None)

    def _checked(self, b: Any, adjoint: bool) -> Any:
        """Solve by the stage that there is; where it fails, by the next."""
        while True:
            stage = self._stage
            try:
                return quietly(self._refined, stage, b, adjoint)
            except DistrustedError as doubt:
                fact, found = doubt.args
            require_finite("b", b)
            with self._lock:
                if self._stage is stage:
                    self._stage = self._next(fact, found, self._matrix())

    def _next(self, fact: str, found: float | None, matrix: Matrix) -> _Stage:
        """The next strategy that gets as far as a decomposition."""
        refused = False
        for candidate, _ in candidates(matrix, self._solver.backend, definite=self._definite):
            if candidate.strategy in self._tried or not self._serves(candidate.strategy):
                continue
            self._tried.add(candidate.strategy)
            try:
                made = candidate.decompose(matrix)
            except DecompositionError as error:
                fact, found, refused = str(error), None, isinstance(error, NotPositive)
            else:
                self._structure.found["decomposed"] = True
                if candidate.strategy is Strategy.SUPERLU_CHOLESKY:
                    self._release(made)
                if self._low is not None:
                    return _Stage(candidate.strategy, made, Lowered(made, self._values))
                if self._balance is not None:
                    return _Stage(candidate.strategy, made, Rescaled(made, self._balance))
                self._error.hermitian = matrix.known_hermitian
                return _Stage(candidate.strategy, made, made)
        if self._low is None and self._balance is None and (balance := self._balanced()) is not None:
            self._balance = balance  # pivots of large rows were roundoff of small ones, perhaps
            self._tried.clear()
            return self._next(fact, found, self._matrix())
        # LU of an indefinite matrix by a library for definite ones says nothing of singularity
        raise self._failure("" if refused and not self._definite else fact, found)

    def _release(self, decomposition: Any) -> None:
        """Let go of L and U, whose pivots have been looked at."""
        decomposition.drop_copies()

    def _failure(self, fact: str, found: float | None) -> SolveError:
        """What to say when there is no strategy left."""
        A = self._structure.csc(self._values)
        if not fact:
            if (error := entry_not_finite(A)) is not None:
                return error
            name = f"{type(self._solver).__name__}(backend={self._solver.backend!r})"
            return SolveError(
                sentence(
                    f"{name} has no strategy for this matrix.", remedy="Leave backend out; explain(A) tells what suits."
                )
            )
        if self._low is not None:
            return entry_not_finite(A) or too_low(fact, self._values, self._low, found)
        if self._definite:
            return not_definite(fact, A)
        return singular(A, fact, found)

    def _refined(self, stage: _Stage, b: Any, adjoint: bool) -> Any:
        """Solve, with a small backward error of each row."""
        scale = self._error.scale(b)
        if scale is not None:
            with contextlib.suppress(DistrustedError, SolveError):  # an overflow, perhaps
                return self._of_one_size(stage, divided(b, scale), adjoint) * scale
        return self._of_one_size(stage, b, adjoint)

    def _of_one_size(self, stage: _Stage, b: Any, adjoint: bool) -> Any:
        """The same where no column is so small that its products underflow."""
        again = lambda residual: self._substitute(stage, residual, adjoint)  # noqa: E731
        exact = lambda: self._low is None and not stage.perturbed and self._even  # noqa: E731
        x = self._substitute(stage, b, adjoint) if stage.believed else self._first(stage, b, adjoint)
        return self._error.refined(x, b, adjoint, self._product, again, exact)

    def _first(self, stage: _Stage, b: Any, adjoint: bool) -> Any:
        """The first solve carries the probe of the condition as one more column, which costs less than a solve of its own."""
        sizes, found, self._sizes = self._sizes or self._error.sizes(), self._structure.found, None
        if self._is_proven(stage.decomposition):
            stage.believed = True
            return self._substitute(stage, b, adjoint)
        if found.get("dominant", True) and self._dominant(sizes):
            stage.believed = True
            return self._substitute(stage, b, adjoint)
        found["dominant"] = False  # there are more like it, for which one need not ask
        self._error.norms(adjoint, sizes)  # while they are there: the residual asks for them next
        norms, probe = self._probe(sizes)
        if adjoint or stage.apart or (b.ndim == 2 and b.shape[1] >= stage.columns):
            self._judge(stage, self._substitute(stage, probe, False), norms)
            return self._substitute(stage, b, adjoint)
        columns = b.reshape(len(b), -1)
        block = np.empty((columns.shape[0], columns.shape[1] + 1), dtype=b.dtype, order="F")
        block[:, :-1], block[:, -1] = columns, probe
        x = self._substitute(stage, block, False)
        self._judge(stage, x[:, -1], norms)
        return x[:, :-1].reshape(b.shape)

    def _is_proven(self, decomposition: Any) -> bool:
        """Whether the decomposition itself shows that the matrix is not singular."""
        if not getattr(decomposition, "condition", math.inf) * self._error.limits.eps < _PROVEN:
            return False
        self._error.at_least(decomposition.least, rows=True)
        return True

    def _dominant(self, sizes: Sizes) -> bool:
        places = self._structure.on_diagonal
        if len(places) < self._structure.shape[0]:
            return False
        diagonal = np.abs(self._values[places])
        if not dominant(diagonal, self._error.norms(False, sizes).rows, self._error.limits.huge):
            return False
        self._error.at_least(diagonal.item(diagonal.argmin()), rows=False)
        return True

    def _probe(self, sizes: Sizes) -> tuple[Any, Any]:
        """The norms of A's columns, and `s |A| d` with random s, where d is one over these: see `conditioning`."""
        columns, probe = self._error.scaled_sizes(sizes)
        probe *= self._structure.signs
        return columns, probe.astype(self._values.dtype, copy=False)

    def _judge(self, stage: _Stage, excited: Any, columns: Any) -> None:
        """Refuse a matrix that is singular to working precision."""
        eps = self._error.limits.eps if self._low is None else float(self._low.eps)
        # a replaced pivot hides what the probe would have found: the entries of a zero row, for one
        if stage.perturbed or doubtful(largest_size(excited * columns), eps):
            values, decomposition = self._values, stage.decomposition
            if self._balance is not None and isinstance(decomposition, Rescaled):
                values, decomposition = self._balance.values, decomposition.inner
            found = condition(self._structure.csc(values), decomposition, self._structure.signs, eps)
            if not found * eps < 1.0:
                raise DistrustedError("A is singular to working precision.", found)
        stage.believed = True

    @cached_property
    def _mirrored(self) -> tuple[bool, bool]:
        """Whether A is Hermitian, and whether it is symmetric."""
        matrix = Matrix(self._structure, self._values)
        return matrix.hermitian, matrix.symmetric

    def _substitute(self, stage: _Stage, b: Any, adjoint: bool) -> Any:
        """Solve with the decomposition, some columns at a time."""
        if adjoint and b.ndim == 2:
            # SuperLU takes several columns together for A only; solves with its adjoint take up to twice as long
            hermitian, symmetric = self._mirrored
            if hermitian:
                adjoint = False
            elif symmetric:
                return self._substitute(stage, b.conj(), False).conj()
        trans = "N" if not adjoint else "H" if b.dtype.kind == "c" else "T"
        if b.ndim == 1 or b.shape[1] <= stage.columns:
            return stage.decomposition.solve(b, trans)
        starts = range(0, b.shape[1], stage.columns)
        parts = [np.asfortranarray(b[:, j : j + stage.columns]) for j in starts]  # SuperLU's own order
        call = lambda i: stage.decomposition.solve(parts[i], trans)  # noqa: E731
        return np.concatenate(each(call, len(parts), worthwhile=stage.large(len(parts))), axis=1)
