"""`explain`: what a direct solver will do with a matrix, and why."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .backends import device_module, solver_module
from .errors import kind_of, sentence
from .levels import is_wrapped
from .matrix import SparseMatrix
from .operands import plan, require_length, require_pattern, uncast
from .operators import Operator
from .result import Strategy
from .solvers import LU, Cholesky

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True)
class Explanation:
    """The strategies that suit a matrix, in the order in which they are tried; printed, it says so in words.

    Attributes:
        choices: each with its reason. The first is used; the next one follows where it fails, or its solution is not accepted.

    >>> import torch, sparsolve as sps
    >>> sps.explain(torch.eye(3).to_sparse()).choices[0]
    (<Strategy.DIAGONAL: 1>, 'it is diagonal')
    """

    choices: tuple[tuple[Strategy, str], ...]

    def __str__(self) -> str:
        if not self.choices:
            return "No strategy suits: the solve will be an error."
        (first, why), *others = self.choices
        rest = ", ".join(f"{strategy.name} ({reason})" for strategy, reason in others)
        return f"{first.name}: {why}." + (f" Should that fail: {rest}." if rest else "")


def explain(A: SparseMatrix | Tensor, solver: LU | Cholesky | None = None) -> Explanation:
    """How `solve(A, b, solver)` will factorize `A`, and why.

    Args:
        A: one square matrix, `(n, n)`, as `solve` takes it.
        solver: `LU()` by default, or another `LU` or `Cholesky` record.

    Returns:
        The strategies that suit, in the order in which they are tried. `solve_with_info(...).info.strategy` is the one that was used.

    Raises:
        TypeError: a solver that does not factorize.
            Also inside a transform or compiled code, where the matrix has no numbers to look at.
        ValueError: a batch of matrices, or one that is not square.

    Cost:
        No factorization; an analysis of the pattern, if it is new.

    >>> import torch, sparsolve as sps
    >>> T = torch.diag(torch.full((5,), 2.0)) - torch.diag(torch.ones(4), 1) - torch.diag(torch.ones(4), -1)
    >>> print(sps.explain(T.to_sparse_csr()))
    TRIDIAGONAL: it is tridiagonal. Should that fail: BANDED (its band is narrow, 1 below and 1 above the diagonal), SUPERLU_SYMMETRIC (its diagonal is nonzero), SUPERLU (partial pivoting suits all).
    """
    if torch.compiler.is_compiling():
        raise TypeError(_inside())
    solver = LU() if solver is None else solver
    if not isinstance(solver, (LU, Cholesky)):
        raise TypeError(sentence(f"solver is {kind_of(solver)}; LU() and Cholesky() can be explained."))
    matrix = _explainable(A)
    device = matrix.device.type
    on, module = device_module(device), solver_module(type(solver).__name__, device)

    def look(values: Tensor) -> Explanation:
        structure = on.structure_of(matrix.pattern.crow, matrix.pattern.col, matrix.shape)
        return Explanation(module.suitable(structure, on.array(values), solver))

    with torch.no_grad():
        return on.run(look, (uncast(matrix.values),))  # type: ignore[no-any-return]


def _explainable(A: SparseMatrix | Tensor) -> SparseMatrix:
    """One square matrix whose numbers can be read, and that `solve` would take."""
    if isinstance(A, Operator):
        raise TypeError(
            sentence("A is an Operator, which has no entries to factorize, so there is nothing to explain.")
        )
    A = A if isinstance(A, SparseMatrix) else SparseMatrix.from_torch(A)
    require_length(A.values, require_pattern(A.pattern))
    if A.values.dim() != 1:
        raise ValueError(
            sentence(
                f"A's values have shape {tuple(A.values.shape)}: a batch of matrices, and one is explained.",
                remedy="Choose one, SparseMatrix(A.values[0], A.pattern).",
            )
        )
    if A.shape[0] != A.shape[1]:
        raise ValueError(sentence(f"A has shape {A.shape}; one square matrix is needed."))
    if is_wrapped(A.values):
        raise TypeError(_inside())
    plan(A.values, A.pattern, A.values.new_zeros(A.shape[0]), A.shape[0])  # the checks of `solve`
    return A


def _inside() -> str:
    return sentence(
        "explain got a matrix whose values have no numbers yet.",
        "It is called inside of torch.func or of compiled code.",
        "Call it outside, with numbers.",
    )
