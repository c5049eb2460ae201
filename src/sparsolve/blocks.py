"""A matrix made of blocks: a composition of torch operations, right under every transform."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .arithmetic import Arithmetic
from .errors import sentence
from .levels import constant
from .operands import require_batches, require_dense, require_length, require_pattern
from .pattern import Pattern, by_rows, unchecked
from .selection import joined

__all__ = ["assembled", "of_dense"]

Blocks = Sequence[Sequence[Arithmetic | None]]


def assembled(blocks: Blocks) -> tuple[Tensor, Pattern]:
    """The entries of all blocks, row by row."""
    there = _placed(blocks)
    heights = _sizes(there, 0, len(blocks))
    widths = _sizes(there, 1, len(blocks[0]))
    batch, device = torch.Size(), there[0][1].values.device
    for place, A in there:
        if A.values.device != device:
            fact = f"Block {place} is on {A.values.device}, the blocks before on {device}; all must be on one."
            raise ValueError(sentence(fact, remedy="Use A.to(device)."))
        require_batches(batch, A.values.shape[:-1], f"block {place}", "the blocks before")
        batch = torch.broadcast_shapes(batch, A.values.shape[:-1])
    dtype = functools.reduce(torch.promote_types, (A.dtype for _, A in there))
    values = [A.values.to(dtype).expand(*batch, A.nnz) for _, A in there]
    parts = (x for place, A in there for x in (place, A.pattern))
    pattern, order = _side_by_side(tuple(heights), tuple(widths), *parts)
    return joined(values, order), pattern


@constant
def _side_by_side(heights: tuple[int, ...], widths: tuple[int, ...], *parts: Any) -> tuple[Pattern, Tensor]:
    """The entries of patterns, each after its place, and their order."""
    there = list(zip(parts[::2], parts[1::2], strict=True))
    shape = sum(heights), sum(widths)
    wide = max(*shape, sum(pattern.nnz for _, pattern in there)) >= 2**31  # for numbers of 32 bits
    row = torch.cat([_index(pattern.rows(), wide) + sum(heights[:i]) for (i, _), pattern in there])
    col = torch.cat([_index(pattern.col, wide) + sum(widths[:j]) for (_, j), pattern in there])
    return by_rows(row, col, shape)


def of_dense(D: Tensor) -> tuple[Tensor, Pattern]:
    """Every entry of a dense matrix, or of a batch of them."""
    require_dense("D", D)
    if D.dim() < 2:
        raise ValueError(sentence(f"D has shape {tuple(D.shape)}; (*batch, rows, columns) is needed."))
    m, n = D.shape[-2:]
    return D.reshape(*D.shape[:-2], m * n), _full(m, n, D.device)


@constant
def _full(m: int, n: int, device: torch.device) -> Pattern:
    return unchecked(n * torch.arange(m + 1, device=device), torch.arange(n, device=device).repeat(m), (m, n))


def _index(i: Tensor, wide: bool) -> Tensor:
    return i.long() if wide else i


def _placed(blocks: Blocks) -> list[tuple[tuple[int, int], Arithmetic]]:
    """The blocks that are there, with their places."""
    lists = (list, tuple)
    if not isinstance(blocks, lists) or not all(isinstance(row, lists) and row for row in blocks):
        blocks = []
    if len({len(row) for row in blocks}) != 1:
        raise ValueError(sentence("blocks is a list of rows of equal length, as [[A, B], [C, None]]."))
    there = []
    for i, row in enumerate(blocks):
        for j, A in enumerate(row):
            if A is None:
                continue
            if not isinstance(A, Arithmetic):
                raise TypeError(
                    sentence(
                        f"Block ({i}, {j}) is a {type(A).__name__}; a SparseMatrix, or None for zeros, is needed.",
                        remedy="Use SparseMatrix.from_dense(x), from_torch(x), from_scipy(x) or from_diagonal(d).",
                    )
                )
            require_length(A.values, require_pattern(A.pattern))
            there.append(((i, j), A))
    return there


def _sizes(there: list[tuple[tuple[int, int], Arithmetic]], side: int, count: int) -> list[int]:
    """How many rows (side 0) each row of blocks has, or how many columns."""
    what, line = (("rows", "row"), ("columns", "column"))[side]
    sizes: list[int | None] = [None] * count
    for place, A in there:
        known, own = sizes[place[side]], A.pattern.shape[side]
        if known is not None and known != own:
            raise ValueError(
                sentence(
                    f"Block {place} has {own} {what}, and another in its {line} of blocks {known}; they must agree."
                )
            )
        sizes[place[side]] = own
    for k, size in enumerate(sizes):
        if size is None:
            raise ValueError(
                sentence(
                    f"{line.capitalize()} {k} of blocks has no matrix, so that nothing tells how many {what} it has.",
                    remedy="Use a SparseMatrix.from_coo without entries in place of None.",
                )
            )
    return [size for size in sizes if size is not None]
