"""Products of two sparse matrices, and duplicates added up: compositions of torch operations, right under every transform.

    (A B)_ij = Σ_k A_ik B_kj

Each entry of A, in column k, meets the entries of B's row k. Numbers that meet are multiplied, and those for one place added up. Which
meet is a matter of indices alone, and so constant; derivatives are those of torch's operations on the numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import sentence
from .indices import check_entries, have_numbers, pointers, rising
from .levels import constant
from .operands import require_batches, require_length, require_pattern
from .pattern import Pattern, unchecked

__all__ = ["coalesced", "look", "product", "terms"]

_REMEDY = "Form it outside; for A @ B make a sparsolve.Product there, and call it inside; for A @ B @ x use sparsolve.matmul(A, sparsolve.matmul(B, x))."
_outside = torch.compiler.disable(
    reason="How many entries a product or coalesce() has depends on the numbers in the indices. " + _REMEDY
)


@_outside  # type: ignore[untyped-decorator]
def product(a: Tensor, pattern: Pattern, b: Tensor, other: Pattern) -> tuple[Tensor, Pattern]:
    """The entries of `A B`, row by row, one for each place."""
    for values, one in ((a, pattern), (b, other)):
        require_length(values, require_pattern(one))
        look(one)
    if a.device != b.device:
        raise ValueError(sentence(f"A is on {a.device} and B on {b.device}.", remedy="Use A.to(device)."))
    require_batches(a.shape[:-1], b.shape[:-1], "B")
    p, q, form, order, place = terms(pattern, other)
    return _summed(a[..., p] * b[..., q], form, order, place)


@constant
def terms(pattern: Pattern, other: Pattern) -> tuple[Tensor, Tensor, Pattern, Tensor, Tensor]:
    """The entries that meet, and where their products go."""
    if pattern.shape[1] != other.shape[0]:
        raise ValueError(
            sentence(f"A has shape {pattern.shape} and B {other.shape}; A @ B needs as many columns as B has rows.")
        )
    if pattern.device != other.device:
        raise ValueError(sentence(f"A is on {pattern.device} and B on {other.device}.", remedy="Use A.to(device)."))
    k, starts = pattern.col.long(), other.crow.long()
    met = starts.diff()[k]  # by each entry of A
    p = torch.repeat_interleave(torch.arange(pattern.nnz, device=k.device), met)
    q = torch.arange(len(p), device=k.device) + (starts[k] - met.cumsum(0) + met)[p]
    narrow = pattern.col.dtype == other.col.dtype == torch.int32
    row, col, shape = pattern.rows().long()[p], other.col.long()[q], (pattern.shape[0], other.shape[1])
    return p, q, *_places(row, col, shape, torch.int32 if narrow else torch.int64)


@_outside  # type: ignore[untyped-decorator]
def coalesced(values: Tensor, pattern: Pattern) -> tuple[Tensor, Pattern]:
    """One entry for each place, in the order of rows and columns; the pattern itself where it is like that."""
    require_length(values, require_pattern(pattern))
    look(pattern)
    if _is_canonical(pattern):
        return values, pattern
    return _summed(values, *_places(pattern.rows(), pattern.col, pattern.shape, pattern.col.dtype))


@constant
def _is_canonical(pattern: Pattern) -> bool:
    return bool(rising(pattern.rows(), pattern.col).all())


def look(pattern: Pattern) -> None:
    """Refuse what describes no matrix, and indices that cannot be read."""
    if not have_numbers(pattern.crow, pattern.col):
        fact = "How many entries A @ B or A.coalesce() has depends on the numbers in the indices, and fake tensors, as those on meta, have none."
        raise TypeError(sentence(fact, remedy=_REMEDY))
    check_entries(pattern.crow, pattern.col, pattern.shape)  # of a tensor's, which no solve has checked


@constant
def _places(row: Tensor, col: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> tuple[Pattern, Tensor, Tensor]:
    """The pattern with one entry for each place, entries in its order, and which of its entries each is part of."""
    order = torch.argsort(col, stable=True)
    order = order[torch.argsort(row[order], stable=True)]
    row, col = row[order], col[order]
    first = torch.ones_like(row, dtype=torch.bool)
    first[1:] = (row[1:] != row[:-1]) | (col[1:] != col[:-1])
    place = first.cumsum(0) - 1
    row, col = row[first], col[first]
    dtype = torch.int64 if len(row) >= 2**31 else dtype
    return unchecked(pointers(row.to(dtype), shape[0]), col.to(dtype), shape), order, place


def _summed(values: Tensor, pattern: Pattern, order: Tensor, place: Tensor) -> tuple[Tensor, Pattern]:
    """Those for one place added up."""
    sums = values.new_zeros(*values.shape[:-1], pattern.nnz)
    return sums.index_add(-1, place, values[..., order]), pattern
