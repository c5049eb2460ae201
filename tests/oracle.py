"""The reference: dense `torch.linalg.inv(A) @ b`, which agrees with finite differences in every nesting.

(`torch.linalg.solve` does not: its reverse-of-forward derivative is wrong.)
"""

from __future__ import annotations

import torch
from torch import Tensor

import sparsolve as sps


def dense(values: Tensor, pattern: sps.Pattern) -> Tensor:
    """`(*batch, n, n)` from `(*batch, nnz)`; duplicates add up."""
    zeros = torch.zeros(*values.shape[:-1], *pattern.shape, dtype=values.dtype, device=values.device)
    # one position per entry, so that no transform ever has to generate code for a scatter
    in_row = (pattern.rows().unsqueeze(1) == torch.arange(pattern.shape[0], device=values.device)).to(values.dtype)
    in_col = (pattern.col.unsqueeze(1) == torch.arange(pattern.shape[1], device=values.device)).to(values.dtype)
    return zeros + in_row.mT @ (values.unsqueeze(-1) * in_col)


def solve(values: Tensor, pattern: sps.Pattern, b: Tensor, adjoint: bool = False) -> Tensor:
    A = dense(values, pattern)
    return torch.linalg.inv(A.mH if adjoint else A) @ b


def matmul(values: Tensor, pattern: sps.Pattern, x: Tensor, adjoint: bool = False) -> Tensor:
    A = dense(values, pattern)
    return (A.mH if adjoint else A) @ x


def pattern_of(D: Tensor, index_dtype: torch.dtype = torch.int64) -> tuple[Tensor, sps.Pattern]:
    """Values and pattern of a dense matrix's nonzero entries."""
    row, col = D.nonzero().to(index_dtype).unbind(1)
    pattern, order = sps.Pattern.from_coo(row, col, (D.shape[0], D.shape[1]))
    return D[row.long(), col.long()][order].clone(), pattern
