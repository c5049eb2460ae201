"""`solve`, `solve_with_info`, `matmul`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import optree
from torch import Tensor

from . import calculus, matrix_free
from .errors import kind_of, sentence
from .matrix import SparseMatrix, multiply
from .operands import guess, is_vector, plan
from .operators import Operator, apply
from .preconditioner_records import PreconditionerRecord
from .result import Info, Solution
from .solvers import LU, Function, Solver

__all__ = ["matmul", "solve", "solve_with_info"]

T = TypeVar("T")  # of b, and of x: a tensor, or a tree of tensors

_DEFAULT = LU()
_DEFAULT_KEY = _DEFAULT.key


def solve(
    A: SparseMatrix | Operator | Tensor,
    b: T,
    solver: Solver | Callable[..., Any] = _DEFAULT,
    *,
    adjoint: bool = False,
    x0: Any = None,
) -> T:
    """Solve `A x = b`, or `Aᴴ x = b` with `adjoint=True`, for a sparse square `A`.

    Args:
        A: `(n, n)`, a `SparseMatrix` with values `(*batch, nnz)`, a sparse COO, CSR or CSC tensor, or an `Operator`; float32, float64,
            complex64 or complex128.
        b: `(n,)`, `(n, k)` or `(*batch, n, k)` (a vector only if exactly 1-D), or a pytree of such tensors.
        solver: a record such as `LU()`, or a callable `(matrix, rhs) -> x`. The callable gets the SciPy (on CUDA: CuPy) matrix of the
            system to be solved: `A`, or `Aᴴ` for the adjoint system, which every gradient needs.
        adjoint: solve with `Aᴴ`.
        x0: where an iterative method starts, of the shape and structure of `b`; zero by default. It has no derivatives, and the solves
            of a derivative start from zero. Direct solvers ignore it.

    Returns:
        x: shape and structure of `b` (batch dimensions broadcast), `torch.promote_types` of `A` and `b`, on their device, contiguous.

    Raises:
        SingularMatrixError: `A` is singular, exactly or to working precision.
        NotPositiveDefiniteError: `A` is not Hermitian positive definite, with `Cholesky()`.
        ConvergenceError: an iterative method ended before `‖b − A x‖ <= max(rtol ‖b‖, atol)`, here or in a derivative.
        SolveError: NaN or Inf in `A` or `b`, or a solution beyond the range of its dtype.
        BackendUnavailableError: no backend for the device, or a library that is not installed.
        PatternError: indices that do not describe a matrix.
        TypeError, ValueError: dtypes, layouts, shapes or devices that do not fit.

    Transforms:
        `grad`, `vjp`, `jvp`, `jacrev`, `jacfwd`, `hessian`, `vmap`, `linearize`, nested, and `torch.compile(fullgraph=True)`. Derivatives
        are with respect to `b` and to `A`'s values; for a sparse tensor the gradient is sparse, on `A`'s pattern. With `λ = A⁻ᴴ x̄` they are
        `b̄ = λ` and `Ā = −λ xᴴ` on the pattern (Giles, 2008, section 2.3).

    Cost:
        One factorization for each different `A`, shared with all derivatives, the adjoint and later calls; then one
        pair of triangular solves and one sparse product for each column, and again for each derivative.

    >>> import torch, sparsolve as sps
    >>> A = torch.tensor([[4.0, 1.0], [0.0, 2.0]]).to_sparse().requires_grad_()
    >>> x = sps.solve(A, torch.tensor([6.0, 4.0]))
    >>> x
    tensor([1., 2.], grad_fn=<...>)
    >>> x.sum().backward()
    >>> A.grad.to_dense()
    tensor([[-0.2500, -0.5000],
            [ 0.0000, -0.7500]])
    """
    return _each(A, b, solver, adjoint, x0, _solve)  # type: ignore[no-any-return]


def solve_with_info(
    A: SparseMatrix | Operator | Tensor,
    b: Any,
    solver: Solver | Callable[..., Any] = _DEFAULT,
    *,
    adjoint: bool = False,
    x0: Any = None,
) -> Solution:
    """`solve`, with a report on each column: a failed solve is a status instead of an error.

    Where a solve failed, x is NaN, or what an iterative method has come to: the last iterate of `CG`, of the others that or where they
    started, whichever has the smaller residual.

    Args:
        A, b, solver, adjoint, x0: as for `solve`.

    Returns:
        `Solution(x, Info(status, iterations, residual, strategy))`; for a pytree `b`, `x` and `info` are pytrees of its structure.
        `info` has no derivatives.

    Raises:
        PatternError, TypeError, ValueError: as for `solve`. A failure inside a derivative is always an error.

    Cost:
        As `solve`, and one more sparse product.

    >>> import torch, sparsolve as sps
    >>> sol = sps.solve_with_info(torch.zeros(2, 2).to_sparse(), torch.ones(2))
    >>> sol.info.status == sps.Status.SINGULAR
    tensor(True)
    """
    pairs = _each(A, b, solver, adjoint, x0, _solve_with_info)
    if isinstance(b, Tensor):
        return pairs  # type: ignore[no-any-return]
    is_leaf = lambda s: isinstance(s, Solution)  # noqa: E731
    x, info = (optree.tree_map(lambda s, i=i: s[i], pairs, is_leaf=is_leaf) for i in range(2))
    return Solution(x, info)


def matmul(A: SparseMatrix | Operator | Tensor, x: T, *, adjoint: bool = False) -> T:
    """`A x`, or `Aᴴ x` with `adjoint=True`, with the derivatives and transforms of `solve`.

    Args:
        A: `(m, n)`, as for `solve`; here it need not be square.
        x: `(n,)`, `(n, k)` or `(*batch, n, k)` (`m` in place of `n` for the adjoint), or a pytree of such tensors.
        adjoint: multiply by `Aᴴ`.

    Returns:
        `(m,)`, `(m, k)` or `(*batch, m, k)` (`n` for the adjoint), `torch.promote_types` of both, contiguous.

    Raises:
        PatternError, TypeError, ValueError: as for `solve`.

    Cost:
        No factorization, one sparse product; a gradient takes one more, and one pass over the entries for the values.

    >>> import torch, sparsolve as sps
    >>> sps.matmul(torch.tensor([[1.0, 2.0], [0.0, 3.0]]).to_sparse_csr(), torch.ones(2))
    tensor([3., 3.])
    """
    matrix = _matrix(A, adjoint)
    times: Callable[..., Any] = apply if isinstance(matrix, Operator) else multiply
    if isinstance(x, Tensor):
        return times(matrix, x, adjoint=adjoint)  # type: ignore[no-any-return]
    _require_tree("x", x)
    return optree.tree_map(lambda leaf: times(matrix, leaf, adjoint=adjoint), x)  # type: ignore[arg-type, return-value]


def _each(
    A: SparseMatrix | Operator | Tensor, b: Any, solver: Any, adjoint: bool, x0: Any, one: Callable[..., Any]
) -> Any:
    """`one` for b, or for every leaf of it."""
    matrix = _matrix(A, adjoint)
    if isinstance(matrix, SparseMatrix):
        rows, columns = matrix.shape
        if rows != columns:
            raise ValueError(
                sentence(
                    f"A has shape {matrix.shape}; solve needs a square one.",
                    remedy="For least squares solve (A.mH @ A) x = A.mH @ b, or the augmented system [[I, A], [Aᴴ, 0]].",
                )
            )
    if isinstance(b, Tensor):
        return one(matrix, b, solver, adjoint, x0)
    _require_tree("b", b)
    if x0 is None:
        return optree.tree_map(lambda leaf: one(matrix, leaf, solver, adjoint, None), b)
    starts, found = (optree.tree_structure(tree, none_is_leaf=True) for tree in (x0, b))
    if starts != found:
        raise ValueError(
            sentence(
                f"x0 is {starts} and b {found}; they must be of one structure.",
                remedy="None stands for zeros, for one of them or for all.",
            )
        )
    return optree.tree_map(lambda leaf, start: one(matrix, leaf, solver, adjoint, start), b, x0, none_is_leaf=True)


def _require_tree(name: str, tree: Any) -> None:
    """A pytree of tensors; a sparse matrix is a pytree too, whose values are no right-hand side."""
    leaves = optree.tree_leaves(tree, is_leaf=lambda leaf: isinstance(leaf, SparseMatrix), none_is_leaf=True)
    wrong = [type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor)]
    if wrong:
        raise TypeError(
            sentence(
                f"{name} must be a dense torch.Tensor or a pytree of such, not of {wrong[0]}.",
                remedy="Use torch.as_tensor for arrays, and B.to_dense() for a sparse one."
                + (" A @ B multiplies two SparseMatrix." if name == "x" else ""),
            )
        )


def _solve(A: SparseMatrix | Operator, b: Tensor, solver: Any, adjoint: bool, x0: Tensor | None) -> Tensor:
    if isinstance(A, Operator):
        return matrix_free.solve(A, b, solver, adjoint, x0)
    if x0 is None and is_vector(A.values, A.pattern, b, A.pattern.shape[0]):
        return calculus.solve(A.values, A.pattern.crow, A.pattern.col, b, _key(solver, b), adjoint)[0]
    values, columns, restore, _ = plan(A.values, A.pattern, b, A.pattern.shape[0])
    start = _start(A, b, columns, x0)
    x, _ = calculus.solve(values, A.pattern.crow, A.pattern.col, columns, _key(solver, b), adjoint, False, start)
    return restore(x)


def _solve_with_info(A: SparseMatrix | Operator, b: Tensor, solver: Any, adjoint: bool, x0: Tensor | None) -> Solution:
    if isinstance(A, Operator):
        return matrix_free.solve_with_info(A, b, solver, adjoint, x0)
    values, columns, restore, vector = plan(A.values, A.pattern, b, A.pattern.shape[0])
    start = _start(A, b, columns, x0)
    x, report = calculus.solve(values, A.pattern.crow, A.pattern.col, columns, _key(solver, b), adjoint, True, start)
    return Solution(restore(x), Info.of(restore(report), vector))


def _start(A: SparseMatrix, b: Tensor, columns: Tensor, x0: Tensor | None) -> Tensor | None:
    """x0 in the form that b has been brought into."""
    if x0 is None:
        return None
    return plan(A.values, A.pattern, guess(x0, b, columns.dtype), A.shape[0], "x0")[1]


def _matrix(A: SparseMatrix | Operator | Tensor, adjoint: bool) -> SparseMatrix | Operator:
    if not isinstance(adjoint, (bool, np.bool_)):  # SciPy's "N" would pass for true
        remedy = "adjoint=True is Aᴴ x = b; give A.mT for the transpose of a complex A."
        raise TypeError(sentence(f"adjoint is {adjoint!r}; True or False is needed.", remedy=remedy))
    return A if isinstance(A, (SparseMatrix, Operator)) else SparseMatrix.from_torch(A)


def _key(solver: Any, b: Tensor) -> str:
    """What the op calls the solver."""
    if solver is _DEFAULT:
        return _DEFAULT_KEY
    if isinstance(solver, Solver) and not isinstance(solver, PreconditionerRecord):
        return solver.key
    if isinstance(solver, PreconditionerRecord):
        name = type(solver).__name__
        raise TypeError(
            sentence(
                f"solver is {name}, a preconditioner.", remedy=f"GMRES(preconditioner={name}(...)), say, is a solver."
            )
        )
    if not callable(solver) or (isinstance(solver, type) and issubclass(solver, Solver)):
        raise TypeError(
            sentence(
                f"solver is {kind_of(solver)}; a record such as sparsolve.LU(), or a callable (matrix, rhs) -> x, is needed.",
                remedy=_record(solver),
            )
        )
    return Function(forward=solver, adjoint=solver, vector=b.dim() == 1).key


def _record(solver: Any) -> str:
    """What to write in place of a record's class or name."""
    name = str(getattr(solver, "__name__", solver)).lower()
    found = [r for r in ("LU", "Cholesky", "CG", "MINRES", "GMRES", "BiCGStab", "CGS") if r.lower() == name]
    if found:
        return f"Use sparsolve.{found[0]}()."
    return "sparse_solve_c4t takes SciPy's names." if isinstance(solver, str) else ""
