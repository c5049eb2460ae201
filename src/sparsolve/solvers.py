"""Solver records: frozen, keyword-only, and each with a string key that crosses the op boundary.

An op of torch takes tensors, numbers and strings. A record's key is its own text, so that a graph saved by
`torch.export` names its solver in full; a callable in it is written as a ticket of this process.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import torch

from .caching import cached_property
from .errors import SolveError, sentence
from .tickets import Constant, has_tickets, quoted, redeem, ticket

__all__ = [
    "BACKENDS",
    "LU",
    "Adapts",
    "Cholesky",
    "Function",
    "Solver",
    "asked",
    "cotangent",
    "decode",
    "real",
    "split",
    "tangent",
    "whole",
]

T = TypeVar("T")
_TANGENT, _COTANGENT = "tangent of ", "cotangent of "  # what an op is told beside the solver
# of direct solvers on the CPU, those first that are to be tried first; each is a module in backends/
BACKENDS = ("entries", "lapack", "klu", "pardiso", "cholmod", "metis", "superlu")
_RECORDS: dict[str, type[Solver]] = {}


@dataclass(frozen=True, kw_only=True)
class Solver:
    """Base of the records; not a solver itself."""

    def __init_subclass__(cls) -> None:
        _RECORDS[cls.__name__] = cls

    def relative(self) -> Solver:
        """The record for the solves of a derivative, whose right-hand sides may be of any size."""
        return self

    @property
    def key(self) -> str:
        """`Name(field=value, ...)`: what `decode` reads. Plain Python, so that Dynamo can trace a record made inside."""
        values = {name: getattr(self, name) for name in type(self).__dataclass_fields__}
        fields = [f"{name}={_written(v)}" for name, v in values.items()]
        return f"{type(self).__name__}({', '.join(fields)})"


def _written(value: Any) -> str:
    """A field of a record in its key."""
    if isinstance(value, (int, float)):
        # a number that changes between calls is a symbol in Dynamo; in a frozenset it is a number again, guarded
        (value,) = frozenset([value])
    if isinstance(value, Solver):
        return value.key
    return ticket(value) if callable(value) or isinstance(value, Constant) else repr(value)


def real(value: Any) -> float | None:
    """A number that a user gave, as Python's own, whose text is its value; None for what is none: text, truth, complex."""
    own = type(value) is float or type(value) is int  # in compiled code it may be a symbol, which has no attributes
    dtype = "" if own else str(getattr(value, "dtype", ""))
    if isinstance(value, (bool, str)) or "bool" in dtype or "complex" in dtype:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, ArithmeticError, RuntimeError):
        return None


def whole(value: Any) -> int | None:
    """A whole number that a user gave, as Python's own; None for what is none."""
    if type(value) is int:
        return value
    try:
        return None if isinstance(value, bool) else int(operator.index(value))
    except TypeError:
        return None


@dataclass(frozen=True, kw_only=True)
class LU(Solver):
    """Direct solve by LU, `P A Q = L U`, for any square nonsingular `A`.

    The matrix decides how: a diagonal one needs no elimination, nor does one that is triangular in some order; LAPACK takes a narrow
    band or a small matrix; SuperLU, or a faster library that is installed, all others. `explain(A)` says which, and why. One
    factorization serves `A x = b` and `Aᴴ x = b`, every right-hand side, and all derivatives.

    Each solution is checked row by row: its backward error is `|b − A x| / (‖A‖ ‖x‖)` with the norm of each row (Higham, Accuracy and
    Stability of Numerical Algorithms, 2nd ed., sections 7.1 and 7.2), so that no equation's scale matters. Where it is large the solution
    is refined; where that does not help, the next way is taken, and `SingularMatrixError` is raised after the last.

    Args:
        backend: the only library to use, whether it pays or not: `"entries"` (diagonal and triangular), `"lapack"`, `"superlu"`, or, where
            they are installed, `"klu"`, `"pardiso"`, `"metis"` or `"cholmod"` (Hermitian positive definite `A`). On CUDA `"superlu"`, or
            `"cudss"` where it is installed. By default the first that suits.
        factor_dtype: `torch.float32` factorizes a float64 (complex128) matrix in float32 (complex64), which halves the memory, and refines
            every solution to full accuracy; `ConvergenceError` where `A` is too ill-conditioned for that. On the CPU only.

    Raises:
        TypeError, ValueError: a `backend` that is not one of these names, or another `factor_dtype`.
            In a solve: `SingularMatrixError`; `SolveError` for NaN or Inf; `BackendUnavailableError` for a backend that is not installed.

    Cost:
        One factorization of each `A`, found again by all later solves; a pair of triangular solves and a product for each column.
        On a pattern that has been factorized before, the ordering is found again too.

    >>> import torch, sparsolve as sps
    >>> sps.LU()
    LU(backend=None, factor_dtype=None)
    >>> sps.solve(torch.eye(2).to_sparse(), torch.ones(2), sps.LU(backend="superlu"))
    tensor([1., 1.])
    """

    backend: str | None = None
    factor_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        _require_name("LU", self.backend)
        if self.factor_dtype not in (None, torch.float32):
            raise ValueError(
                sentence(f"factor_dtype is {self.factor_dtype}; torch.float32, or None for A's own, is needed.")
            )


@dataclass(frozen=True, kw_only=True)
class Cholesky(Solver):
    """Direct solve by Cholesky, `P A Pᴴ = L Lᴴ` or `L D Lᴴ`, for a Hermitian positive definite `A`.

    It is `LU` for those who want any other matrix to be an error, `NotPositiveDefiniteError`; `A` must be Hermitian up to rounding. Solutions are
    checked and refined as by `LU`. SuperLU takes its pivots from the diagonal here, and all of them must be positive (Sylvester's law of
    inertia; Golub and Van Loan, Matrix Computations, 4th ed., section 8.1.5).

    Args:
        backend: `"lapack"`, `"superlu"`, or, where they are installed, `"pardiso"` or `"cholmod"`; on CUDA as for `LU`.

    Raises:
        TypeError, ValueError: a `backend` that is not a name of `LU`'s.
            In a solve: `NotPositiveDefiniteError` where `A` is not Hermitian, or not positive definite; else as `LU`.

    Cost:
        As `LU`; LAPACK, CHOLMOD, PARDISO and cuDSS need half the operations of LU, SuperLU as many.

    >>> import torch, sparsolve as sps
    >>> sps.solve(torch.tensor([[2.0, 1.0], [1.0, 2.0]]).to_sparse(), torch.ones(2), sps.Cholesky())
    tensor([0.3333, 0.3333])
    """

    backend: str | None = None

    def __post_init__(self) -> None:
        _require_name("Cholesky", self.backend)


def _require_name(record: str, backend: Any) -> None:
    """Refuse what no name can be, and a name that nothing has."""
    if backend is not None and not isinstance(backend, str):
        raise TypeError(
            sentence(f"{record}(backend={backend!r}): one name is needed, or None for the best that suits.")
        )
    if backend not in (None, "cudss", *BACKENDS):
        raise ValueError(
            sentence(f"There is no direct backend {backend!r}; there are {', '.join(BACKENDS)}, and on CUDA cudss.")
        )


@dataclass(frozen=True, kw_only=True)
class Function(Solver):
    """A pair of callables `(matrix, rhs) -> x`: one for `A x = b`, one for `Aᴴ x = b`.

    Each gets the SciPy (CuPy) matrix of the system that it solves, already adjoint where that is asked.

    Attributes:
        forward: solves with `A`.
        adjoint: solves with `Aᴴ`.
        vector: whether they are called with one `(n,)` column at a time; otherwise with the whole `(n, k)` block.
    """

    forward: Callable[..., Any]
    adjoint: Callable[..., Any]
    vector: bool = True

    def relative(self) -> Solver:
        """The callables say themselves what they do in a derivative, if they have a say."""
        return replace(self, forward=_relative(self.forward), adjoint=_relative(self.adjoint))


class Adapts:
    """Base of our callables that solve otherwise in a derivative, whose right-hand sides may be of any size; frozen dataclasses, with this field."""

    derivative: bool

    @cached_property
    def relative(self: Any) -> Any:
        """The callable for that, which lives as long as this one does."""
        return self if self.derivative else replace(self, derivative=True)


def _relative(call: Any) -> Any:
    return call.relative if isinstance(call, Adapts) else call


def split(key: str) -> tuple[str, str]:
    """The key of the solver itself, and what the solution is for: `"tangent"`, `"cotangent"` or `""`."""
    for mark in (_TANGENT, _COTANGENT):
        if key.startswith(mark):
            return key.removeprefix(mark), mark.removesuffix(" of ")
    return key, ""


def cotangent(key: str) -> str:
    """The key of the solver for the adjoint solves of a derivative."""
    return _COTANGENT + _relative_of(key)


def tangent(key: str) -> str:
    """The key of the solver for the tangent solves of a derivative, so that a failure can say which it was."""
    return _TANGENT + _relative_of(key)


def decode(key: str) -> Solver:
    """The solver that `key` stands for."""
    return asked(key)[0]


def _remembered(find: Callable[[str], T]) -> Callable[[str], T]:
    """`find(key)`, found once; of a key with tickets each time anew, for their table lets go of what they stand for."""
    known = lru_cache(maxsize=256)(find)
    return lambda key: find(key) if has_tickets(key) else known(key)


@_remembered
def asked(key: str) -> tuple[Solver, str, str]:
    """The solver that `key` stands for, its own key, and what the solution is for."""
    own, purpose = split(key)
    return _read(own), own, purpose


@_remembered
def _relative_of(key: str) -> str:
    return decode(key).relative().key


def _read(key: str) -> Solver:
    """Read `Name(field=literal, ...)`, where a literal may be such a record again, or a ticket."""

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Attribute):  # a dtype
            return getattr(torch, node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return _made(node.func.id, {str(k.arg): value(k.value) for k in node.keywords})
        literal = ast.literal_eval(node)
        return redeem(literal) if isinstance(literal, str) and has_tickets(literal) else literal

    body = ast.parse(quoted(key), mode="eval").body
    solver = value(body) if isinstance(body, (ast.Call, ast.Constant)) else None
    if not isinstance(solver, Solver):
        raise _unknown(key)
    return solver


def _made(name: str, fields: dict[str, Any]) -> Solver:
    """The record of this name."""
    if name not in _RECORDS:
        raise _unknown(name)
    record = _RECORDS[name]
    for field in fields:
        if field not in record.__dataclass_fields__:
            raise _unknown(name, f" with {field}")
    try:
        return record(**fields)
    except TypeError as error:  # a field that it must have
        raise _unknown(name, " as it is written there") from error


def _unknown(name: str, what: str = "") -> SolveError:
    return SolveError(
        sentence(
            f"This version of sparsolve has no solver {name!r}{what}.",
            "The graph was exported by another version.",
            "Export it again, or upgrade.",
        )
    )
