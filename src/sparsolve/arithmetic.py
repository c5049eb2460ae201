"""Sums, multiples and diagonals of values on patterns: compositions of torch operations, right under every transform."""

from __future__ import annotations

import operator
from numbers import Number
from typing import Any

import torch
from torch import Tensor

from .errors import sentence
from .pattern import Pattern, pointers, unchecked

__all__ = ["added", "by_tensor", "diagonal", "diagonal_pattern", "require_scalar", "transposed"]


def added(a: Tensor, pattern: Pattern, b: Tensor, other: Pattern) -> tuple[Tensor, Pattern]:
    """`A + B`: value by value on one pattern, else the entries of both, row by row, which add up where they share a place.

    Compiled code cannot compare indices, so one pattern is one object there.
    """
    if pattern.shape != other.shape:
        raise ValueError(sentence(f"A has shape {pattern.shape} and B {other.shape}; a sum needs equal ones."))
    if pattern is other or (not torch.compiler.is_compiling() and pattern == other):
        return a + b, pattern
    batch = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    values = torch.cat([a.expand(*batch, a.shape[-1]), b.expand(*batch, b.shape[-1])], dim=-1)
    row = torch.cat([pattern.rows(), other.rows()])
    col = torch.cat([pattern.col, other.col])
    order = torch.argsort(row, stable=True)
    return values[..., order], unchecked(pointers(row[order], pattern.shape[0]), col[order], pattern.shape)


def transposed(values: Tensor, pattern: Pattern) -> tuple[Tensor, Pattern]:
    """The entries of `Aᵀ`."""
    pattern, order = pattern.adjoint()
    return values[..., order], pattern


def diagonal(values: Tensor, pattern: Pattern) -> Tensor:
    """`A_ii`, `(*batch, min(rows, columns))`: duplicates add up, and what is not stored is zero."""
    row = pattern.rows()
    own = torch.where(row == pattern.col, values, 0)
    sums = values.new_zeros(*values.shape[:-1], pattern.shape[0]).index_add(-1, row, own)
    return sums[..., : pattern.shape[1]]


def diagonal_pattern(n: int, device: torch.device) -> Pattern:
    """Of a diagonal matrix."""
    ends = torch.arange(n + 1, device=device)
    return unchecked(ends, ends[:-1].clone(), (n, n))


def require_scalar(s: Any) -> Any:
    """A number, or a tensor of no dimensions: of a vector nobody knows whether it scales rows, columns or a batch."""
    if isinstance(s, Tensor) and s.dim() == 0 and s.layout is torch.strided:
        return s
    if isinstance(s, Number):
        return s
    what = f"a tensor of shape {tuple(s.shape)}" if isinstance(s, Tensor) else f"a {type(s).__name__}"
    raise TypeError(
        sentence(
            f"A is multiplied by {what}; a number, or a tensor of no dimensions, is needed.",
            "To scale rows or columns, or to make a batch, perhaps.",
            "Scale the values: A.values * d[A.pattern.rows()] for rows, * d[A.pattern.col] for columns, * s[:, None] for a batch.",
        )
    )


def by_tensor(function: Any, args: Any) -> Any:
    """`s * A` with a tensor s; in compiled code also `A * s` and `A / s`, which Dynamo looks up on the tensor, operands swapped.

    So it has one name for `A @ x` and `x @ A`, and neither is answered. A strict export has the operators as they were written.
    """
    if function in (torch.Tensor.mul, operator.mul):
        s, A = args if isinstance(args[0], Tensor) else args[::-1]
        return A.__mul__(s)
    if function is torch.Tensor.__rdiv__ and torch.compiler.is_compiling():
        return args[1].__truediv__(args[0])
    if function in (operator.truediv, operator.matmul) and not isinstance(args[0], Tensor):
        return args[0].__truediv__(args[1]) if function is operator.truediv else args[0].__matmul__(args[1])
    raise TypeError(
        sentence(
            f"torch's {getattr(function, '__name__', function)} does not take a SparseMatrix.",
            "Dynamo takes A @ x for it." if torch.compiler.is_compiling() else "",
            "Use sparsolve.matmul(A, x) or solve(A, b), compute with A.values, or use A.to_dense().",
        )
    )
