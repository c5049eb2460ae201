"""The selections, matrices and right-hand sides that `sparse_solve_c4t` accepts: each check a sentence of fact, cause and remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .backends.named import METHODS
from .compressed import dense_dimensions
from .errors import kind_of, sentence
from .operands import require_dtype
from .solvers import Solver

__all__ = ["DIRECT", "Selection", "require_known", "require_matrix", "require_rhs"]

Selection = str | Callable[..., Any] | None
DIRECT = (None, "spsolve")


def require_known(name: str, selection: Selection) -> None:
    """A name, None or a callable."""
    known = (*METHODS, "spsolve")
    if isinstance(selection, str) and selection not in known:
        raise ValueError(
            sentence(
                f"{name} is {selection!r}, which is not a method here.",
                "A misspelling, or a method of SciPy's that has no name here.",
                f"Use None, one of {', '.join(map(repr, known))}, or a callable (A, b, **kwargs) -> x.",
            )
        )
    record = isinstance(selection, type) and issubclass(selection, Solver)
    if record or not (selection is None or isinstance(selection, str) or callable(selection)):
        raise TypeError(
            sentence(
                f"{name} is {kind_of(selection)}.",
                "Solver records such as LU() belong to sparsolve.solve.",
                f"Use None, one of {', '.join(map(repr, known))}, or a callable (A, b, **kwargs) -> x.",
            )
        )


def require_matrix(A: Tensor) -> None:
    """One square COO or CSR tensor."""
    if not isinstance(A, Tensor) or A.layout not in (torch.sparse_coo, torch.sparse_csr):
        raise TypeError(
            sentence(
                f"A is {kind_of(A)}; a sparse COO or CSR tensor is needed.",
                "A dense tensor, a SparseMatrix or a SciPy matrix, perhaps.",
                "Use A.to_sparse_csr(), sparsolve.c2t_csr(A), or sparsolve.solve(A, B), which takes a SparseMatrix.",
            )
        )
    dense = dense_dimensions(A)
    if A.dim() != 2 or dense != 0 or A.shape[0] != A.shape[1]:
        raise ValueError(
            sentence(
                f"A has shape {tuple(A.shape)} with {dense} dense dimensions; one square matrix (n, n) is needed.",
                "A batch, or a rectangular system, perhaps.",
                "For a batch that shares a pattern use sparsolve.solve with a SparseMatrix.",
            )
        )
    require_dtype("A", A)


def require_rhs(A: Tensor, B: Tensor, solve: Selection, transpose_solve: Selection) -> None:
    """A vector or columns that fit A, and one column only for an iterative method."""
    if not isinstance(B, Tensor) or B.layout is not torch.strided:
        raise TypeError(
            sentence(f"B is {kind_of(B)}; a dense tensor is needed.", remedy="Use torch.as_tensor(B), or B.to_dense().")
        )
    require_dtype("B", B)
    n = A.shape[0]
    if B.dim() not in (1, 2) or B.shape[0] != n:
        raise ValueError(
            sentence(
                f"B has shape {tuple(B.shape)}; with A of shape {tuple(A.shape)} it must be ({n},) or ({n}, k).",
                "A batch of right-hand sides has its columns last here.",
                "Transpose B, or use sparsolve.solve(A, B) for (*batch, n, k).",
            )
        )
    for name, selection in (("solve", solve), ("transpose_solve", transpose_solve)):
        if B.dim() == 2 and B.shape[1] > 1 and isinstance(selection, str) and selection in METHODS:
            raise ValueError(
                sentence(
                    f"{name}={selection!r} takes one right-hand side; B has shape {tuple(B.shape)}.",
                    "SciPy's iterative methods work on one column at a time.",
                    "Use sparsolve.solve(A, B), which does all columns with one factorization, or solve=None here.",
                )
            )
