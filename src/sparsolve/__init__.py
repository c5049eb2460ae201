"""Differentiable sparse linear solves for PyTorch, as pure functions that every transform sees correctly."""

from .errors import (
    BackendUnavailableError,
    ConvergenceError,
    NotPositiveDefiniteError,
    PatternError,
    SingularMatrixError,
    SolveError,
)
from .matrix import SparseMatrix
from .memo import MemoInfo, clear_memo, memo_info, set_memo_limit
from .pattern import Pattern
from .result import Info, Solution, Status
from .solve import matmul, solve, solve_with_info
from .solvers import LU

__version__ = "0.1.0"

__all__ = [
    # the functions
    "solve",
    "solve_with_info",
    "matmul",
    # the matrix
    "SparseMatrix",
    "Pattern",
    # solvers
    "LU",
    # results
    "Solution",
    "Info",
    "Status",
    # errors
    "SolveError",
    "SingularMatrixError",
    "NotPositiveDefiniteError",
    "ConvergenceError",
    "PatternError",
    "BackendUnavailableError",
    # factor reuse
    "memo_info",
    "clear_memo",
    "set_memo_limit",
    "MemoInfo",
]
