"""Solver records: frozen, keyword-only, and each with a string key that crosses the op boundary.

An op of torch takes tensors, numbers and strings. A record's key is its own text, so that a graph saved by
`torch.export` names its solver in full; a callable's key is a ticket into a bounded table of this process.
"""

from __future__ import annotations

import ast
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from .errors import SolveError, sentence

__all__ = ["LU", "Cholesky", "Solver"]


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
        fields = [f"{name}={v.key if isinstance(v, Solver) else repr(v)}" for name, v in values.items()]
        return f"{type(self).__name__}({', '.join(fields)})"


@dataclass(frozen=True, kw_only=True)
class LU(Solver):
    """Direct solve by LU: `P A Q = L U`, for any square nonsingular `A`.

    How, is chosen by the matrix: nothing to eliminate (diagonal, or triangular in some order), LAPACK for a narrow band, else
    SuperLU, with an ordering by the diagonal; `explain(A)` says what and why. One factorization serves `A x = b` and `Aᴴ x = b`,
    every right-hand side, and all derivatives. Each solution's
    normwise backward error `‖b − A x‖ / (‖A‖ ‖x‖ + ‖b‖)` (Higham, Accuracy and Stability of Numerical
    Algorithms, 2nd ed., section 7.1) is checked; where it is large the solution is refined, then the matrix is factorized
    again with partial pivoting, and if that does not help `SingularMatrixError` is raised.

    Args:
        backend: `"entries"` (diagonal and triangular), `"lapack"` or `"superlu"`, to have that one only; by default the best that suits.
        factor_dtype: `torch.float32` factorizes a float64 (complex128) matrix in float32 (complex64), which halves the memory, and refines
            every solution to full accuracy; `ConvergenceError` where A is too ill-conditioned for that.

    >>> import torch, sparsolve as sps
    >>> sps.LU()
    LU(backend=None, factor_dtype=None)
    >>> sps.solve(torch.eye(2).to_sparse(), torch.ones(2), sps.LU(backend="superlu"))
    tensor([1., 1.])
    """

    backend: str | None = None
    factor_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.factor_dtype not in (None, torch.float32):
            raise ValueError(
                sentence(f"factor_dtype is {self.factor_dtype}; torch.float32, or None for A's own, is needed.")
            )


@dataclass(frozen=True, kw_only=True)
class Cholesky(Solver):
    """Direct solve by a Cholesky factorization: `P A Pᴴ = L Lᴴ` or `L D Lᴴ`, for a Hermitian positive definite `A`.

    LAPACK for a narrow band; else SuperLU with pivots from the diagonal, all of which must be positive (Sylvester's law of inertia; Golub and Van Loan,
    Matrix Computations, 4th ed., section 8.1.5). Solutions are checked and refined as those of `LU`, and so are costs: this is `LU` for those
    who want an indefinite matrix to be an error, `NotPositiveDefiniteError`. `A` must be Hermitian exactly.

    Args:
        backend: as for `LU`.

    >>> import torch, sparsolve as sps
    >>> sps.solve(torch.tensor([[2.0, 1.0], [1.0, 2.0]]).to_sparse(), torch.ones(2), sps.Cholesky())
    tensor([0.3333, 0.3333])
    """

    backend: str | None = None


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

    @property
    def key(self) -> str:
        """A ticket of this process."""
        return _ticket(self)

    def relative(self) -> Solver:
        """The callables say themselves what they do in a derivative, if they have a say."""
        return replace(self, forward=_relative(self.forward), adjoint=_relative(self.adjoint))


def _relative(call: Any) -> Any:
    return call.relative() if hasattr(call, "relative") else call


_FUNCTIONS: OrderedDict[str, Function] = OrderedDict()
_TICKETS: dict[Function, str] = {}
_MOST_FUNCTIONS = 1024
_lock = threading.Lock()
_issued = 0
_process = os.urandom(8).hex()  # no other process's tickets are taken for one's own


def _after_fork() -> None:
    global _lock, _process
    _lock, _process = threading.Lock(), os.urandom(8).hex()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _callable_key(call: Callable[..., Any], vector: bool) -> str:
    """The key of one callable that solves with `A` or `Aᴴ`, as it is given; a constant for Dynamo."""
    return Function(forward=call, adjoint=call, vector=vector).key


_constant_key: Callable[[Callable[..., Any], bool], str] = torch.compiler.assume_constant_result(_callable_key)
_DYNAMO_GUARDS_IDS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)


def callable_key(call: Callable[..., Any], vector: bool) -> str:
    """`_callable_key` for eager and compiled code; the latter is compiled again where another callable comes."""
    if torch.compiler.is_compiling():
        if not _DYNAMO_GUARDS_IDS and getattr(call, "__closure__", None) is not None:
            raise TypeError(
                sentence(
                    "The solver is a function with free variables, inside torch.compile.",
                    f"Dynamo of torch {torch.__version__} does not notice when another one takes its place.",
                    "Make it an object with __call__, or a function at the top of a module.",
                )
            )
        id(call)  # Dynamo guards on it; on a function's code alone otherwise, which closures share
    return _constant_key(call, vector)


def _ticket(function: Function) -> str:
    """Enter a callable in the table; the least recently used leaves it, never one of the last 1024."""
    global _issued
    with _lock:
        key = _TICKETS.get(function)
        if key is None:
            _issued += 1
            key = _TICKETS[function] = f"function:{_process}:{_issued}"
            _FUNCTIONS[key] = function
            if len(_FUNCTIONS) > _MOST_FUNCTIONS:
                del _TICKETS[_FUNCTIONS.popitem(last=False)[1]]
        _FUNCTIONS.move_to_end(key)
        return key


def relative(key: str) -> str:
    """The key of the solver for the solves of a derivative."""
    return _redeem(key).relative().key if key.startswith("function:") else _relative_key(key)


@lru_cache(maxsize=256)
def _relative_key(key: str) -> str:
    return _parse(key).relative().key


def decode(key: str) -> Solver:
    """The solver that `key` stands for."""
    return _redeem(key) if key.startswith("function:") else _parse(key)


def _redeem(key: str) -> Function:
    with _lock:
        function = _FUNCTIONS.get(key)
        if function is None:
            raise SolveError(
                sentence(
                    f"The solver callable {key!r} is not in this process's table.",
                    "Either more than a thousand other callables came since, or the graph was exported by another process.",
                    "Define the callable once, outside the loop; export graphs with a solver record such as LU().",
                )
            )
        _FUNCTIONS.move_to_end(key)
        return function


def hold(key: str) -> tuple[str, Function] | None:
    """What makes a ticket good again after it has left the table, for whoever will use it later; None for a record."""
    return (key, _redeem(key)) if key.startswith("function:") else None


def restore(held: tuple[str, Function] | None) -> None:
    """Enter what `hold` returned in the table again, if it is not there."""
    if held is None:
        return
    key, function = held
    with _lock:
        if _FUNCTIONS.setdefault(key, function) is function:
            _TICKETS.setdefault(function, key)


@lru_cache(maxsize=256)
def _parse(key: str) -> Solver:
    """Read `Name(field=literal, ...)`, where a literal may be such a record again."""

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Attribute):  # a dtype
            return getattr(torch, node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return _RECORDS[node.func.id](**{str(k.arg): value(k.value) for k in node.keywords})
        return ast.literal_eval(node)

    solver = value(ast.parse(key, mode="eval").body)
    assert isinstance(solver, Solver)
    return solver
