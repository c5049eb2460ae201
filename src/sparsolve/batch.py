"""The systems of one call: `A x = b` for each matrix of a batch, several at once, on threads, or one after another.

Arrays in, arrays out. A system that fails is an error, or with a report a status.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ref

from .arrays import divided, namespace
from .backends import Factor, FactorKey, Outcome, device_module, solver_module
from .errors import ConvergenceError, NotPositiveDefiniteError, SingularMatrixError, SolveError, sentence
from .memo import FACTORS
from .result import Status
from .retention import Entry, Source
from .solvers import asked
from .threads import each_after_the_first

__all__ = ["REPORT", "Batch", "Found", "columns", "located", "relative_residual", "whole"]

REPORT = 4  # rows of a report: status, iterations, relative residual, strategy


class Found:
    """The pattern's analysis and the factorization that one system was solved with, for its gradient to go on from.

    Both are the memo's, which may let go of them: a graph that somebody keeps holds neither.
    """

    __slots__ = ("_entry", "_key")

    def __init__(self, key: str, entry: ref[Entry[Any]]) -> None:
        self._key, self._entry = key, entry

    def solve(self, b: Any, solver: str, adjoint: bool) -> tuple[Any, Any] | None:
        """The analysis, and the solution for `(n, k)` right-hand sides; None where another factorization is needed."""
        _, key, purpose = asked(solver)
        entry = self._entry() if key == self._key else None
        factor = None if entry is None else FACTORS.again(entry)
        if entry is None or factor is None:
            return None
        rest: Any = entry.key.rest  # a FactorKey
        try:
            return rest.structure, whole(factor, b, adjoint, None).x
        except SolveError as error:
            raise located(error, None, adjoint, purpose) from error.__cause__


class Batch:
    """`A x = b`, or `Aᴴ x = b`, for each of several matrices on one pattern; failures as asked for.

    Args:
        device: where the arrays are.
        structure: the device module's analysis of the pattern.
        values: `(matrices, nnz)`.
        b, x0: `(matrices, n, k)`; x0 may be None.
        solver: the string that an op calls it.
        source: where the first matrix came from.
        adjoint: solve with `Aᴴ`.
        report: a failure is a status, and x is NaN there.
    """

    def __init__(
        self,
        device: str,
        structure: Any,
        values: Any,
        b: Any,
        x0: Any,
        solver: str,
        source: Source,
        *,
        adjoint: bool,
        report: bool,
    ) -> None:
        self.on, self.structure, self.values, self.b, self.x0 = device_module(device), structure, values, b, x0
        self.record, self.key, self.purpose = asked(solver)
        self.module = solver_module(type(self.record).__name__, device)
        self.source, self.adjoint, self.report = source, adjoint, report
        self.entry: Entry[Any] | None = None
        self.x = self.on.empty(b.shape, b)
        self.reports = self.on.zeros((len(b), REPORT, b.shape[2])) if report else None

    @property
    def found(self) -> Found | None:
        """What a gradient can go on from."""
        return None if self.entry is None else Found(self.key, ref(self.entry))

    def solve(self, distinct: bool) -> None:
        """Fill in `x`, and with a report `reports`, `(matrices, 4, k)`, which is None without.

        Args:
            distinct: whether no matrix is there twice, as far as is known.
        """
        if not self.b.size:
            return
        if len(self.b) == 1:
            self._one(0)
            return
        left = self._left_alone() if distinct else list(range(len(self.b)))
        each_after_the_first(
            lambda i: self._one(left[i]), len(left), worthwhile=lambda first: getattr(first, "worth_a_thread", False)
        )

    def _left_alone(self) -> list[int]:
        """Solve several matrices at once, where the solver's module does that and they are beyond doubt; those that are left."""
        indices = list(range(len(self.b)))
        together = getattr(self.module, "together", None)
        how = None if together is None else together(self.structure, self.values, self.record)
        if how is None:
            return indices
        width, make = how
        left = []
        for i in indices[::width]:
            part = slice(i, min(i + width, len(indices)))
            found = FACTORS.get(self._key(self.key, "together"), (self.values[part],), make, self.source.at(i))
            x = found.solve(self.b[part], adjoint=self.adjoint)
            if x is not None and self.reports is None and found.beyond_doubt.all():
                self.x[part] = x
                continue
            for j in indices[part]:
                if x is None or not found.beyond_doubt[j - i]:
                    left.append(j)
                else:
                    self._enter(j, Outcome(x[j - i], strategy=found.strategy))
        return left

    def _one(self, i: int) -> Factor | None:
        """Solve with one matrix."""
        factor = None
        try:
            factor = self._factor(i)
            x0 = None if self.x0 is None else self.x0[i]
            outcome = (columns if self.report else whole)(factor, self.b[i], self.adjoint, x0)
        except SolveError as error:
            # no gradient is asked of a matrix that failed before
            if self.purpose == "cotangent" and not self.b[i].any():
                outcome = Outcome(0.0)
            elif self.report:
                outcome = Outcome(math.nan, int(_status(error)))
            else:
                raise located(error, i if len(self.b) > 1 else None, self.adjoint, self.purpose) from error.__cause__
        self._enter(i, outcome)
        return factor

    def _factor(self, i: int) -> Factor:
        """The factorization of a matrix, made now or found again."""
        entry: Entry[Any] | None = None  # of this call alone: other threads factorize other matrices

        def remembered(make: Callable[[Any], Any], key: str = self.key) -> Any:
            nonlocal entry
            entry = FACTORS.entry(self._key(key), (self.values[i],), make, self.source.at(i))
            return entry.value

        factor: Factor = self.module.factorize(self.structure, self.values[i], self.record, remembered)
        if len(self.b) == 1 and entry is not None and entry.value is factor:  # not a part of it
            self.entry = entry
        return factor

    def _key(self, key: str, what: str = "") -> FactorKey:
        return FactorKey(key, self.structure, self.values.dtype, what)

    def _enter(self, i: int, outcome: Outcome) -> None:
        """Write down what a solve came to."""
        self.x[i] = outcome.x
        if self.reports is not None:
            report, on = self.reports[i], self.on
            report[0], report[1], report[3] = outcome.status, outcome.iterations, outcome.strategy
            product = partial(on.multiply, on.matrix(self.structure, self.values[i]), adjoint=self.adjoint)
            report[2] = relative_residual(on, product, self.b[i], self.x[i])


def whole(factor: Factor, b: Any, adjoint: bool, x0: Any) -> Outcome:
    """All columns at once; one that failed is an error."""
    outcome = factor.solve(b, adjoint=adjoint, x0=x0)
    if outcome.error is not None:
        raise outcome.error
    return outcome


def columns(factor: Factor, b: Any, adjoint: bool, x0: Any) -> Outcome:
    """All columns at once; where that fails, each by itself, so that one bad right-hand side does not take the others along."""
    try:
        return factor.solve(b, adjoint=adjoint, x0=x0)
    except SolveError as error:
        if b.shape[1] == 1:
            return Outcome(math.nan, int(_status(error)))
    parts = [slice(j, j + 1) for j in range(b.shape[1])]
    each = [columns(factor, b[:, j], adjoint, None if x0 is None else x0[:, j]) for j in parts]
    x = namespace(b).full_like(b, math.nan)
    status, iterations, strategy = namespace(b).zeros((3, b.shape[1]), dtype=int)
    for j, outcome in zip(parts, each, strict=True):
        x[:, j], status[j], iterations[j], strategy[j] = outcome[:4]
    return Outcome(x, status, iterations, strategy)


def relative_residual(on: Any, product: Callable[[Any], Any], b: Any, x: Any) -> Any:
    """`‖b − A x‖₂ / ‖b‖₂` for each column, with `product(x) = A x`; scaled by the largest entry of b, so that no square overflows."""
    with on.quiet():
        largest = abs(b).max(axis=0)
        scale = largest + (largest == 0)
        b = divided(b, scale)
        r = b - product(divided(x, scale))
        size, error = ((abs(a).astype("float64") ** 2).sum(axis=0) ** 0.5 for a in (b, r))
        return error / (size + (size == 0))


def _status(error: SolveError) -> int:
    if isinstance(error, SingularMatrixError):
        return Status.SINGULAR
    if isinstance(error, ConvergenceError):
        return Status.MAXITER
    return Status.NOT_POSITIVE_DEFINITE if isinstance(error, NotPositiveDefiniteError) else Status.BREAKDOWN


def located(error: SolveError, batch_index: int | None, adjoint: bool, purpose: str) -> SolveError:
    """The same error, saying which system it was, and what the solution was for."""
    fact = str(error)
    if purpose == "tangent":
        fact += " This was the solve for a tangent, as forward mode needs it."
    if purpose == "cotangent":
        fact += " This was the solve for a gradient."
    if adjoint:
        fact += " It was with the adjoint of A."
    return type(error)(sentence(fact, batch_index=batch_index))
