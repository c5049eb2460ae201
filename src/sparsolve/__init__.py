"""Differentiable sparse linear solves for PyTorch, as pure functions that every transform sees correctly."""

from . import hints, trees  # noqa: F401  (the second makes SparseMatrix a pytree)
from .c4t import sparse_solve_c4t
from .convert import c2t_coo, c2t_csr, t2c_coo, t2c_csr
from .errors import (
    BackendUnavailableError,
    ConvergenceError,
    NotPositiveDefiniteError,
    PatternError,
    SingularMatrixError,
    SolveError,
)
from .explain import Explanation, explain
from .given import ApproximateInverse, Factored
from .iterative import CG, CGS, GMRES, MINRES, BiCGStab
from .log_determinant import SLogDet, inverse_entries, slogdet
from .matrix import SparseMatrix
from .memo import MemoInfo, clear_memo, memo_info, set_memo_limit
from .operators import Operator
from .pattern import Pattern
from .preconditioner_records import AMG, ILU, BlockJacobi, Jacobi, SymmetricGaussSeidel
from .product_plan import Product
from .result import Info, Solution, Status, Strategy
from .solve import matmul, solve, solve_with_info
from .solvers import LU, Cholesky

__version__ = "0.1.0"


def __getattr__(name: str) -> None:
    raise hints.missing("sparsolve", name, hints.MODULE)


__all__ = [
    # the functions
    "solve",
    "solve_with_info",
    "matmul",
    "inverse_entries",
    "slogdet",
    "sparse_solve_c4t",
    "explain",
    # the matrix
    "SparseMatrix",
    "Operator",
    "Pattern",
    "Product",
    # solvers
    "LU",
    "Cholesky",
    "CG",
    "MINRES",
    "GMRES",
    "BiCGStab",
    "CGS",
    # preconditioners
    "Jacobi",
    "BlockJacobi",
    "SymmetricGaussSeidel",
    "ILU",
    "AMG",
    "Factored",
    "ApproximateInverse",
    # torch and SciPy
    "t2c_csr",
    "c2t_csr",
    "t2c_coo",
    "c2t_coo",
    # results
    "Solution",
    "Info",
    "SLogDet",
    "Status",
    "Strategy",
    "Explanation",
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
