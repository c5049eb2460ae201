"""Entries put in another order, or added up: in compiled code by products with sparse matrices of ones.

Of `values[order]`, `index_add` and `torch.cat` Inductor of torch 2.13 makes code whose second derivatives are an error, wrong numbers or a segmentation fault, whatever the
program. A product is one call of an op there, and its derivatives are products again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import calculus

__all__ = ["Ones", "added_up", "joined", "scaled", "taken", "times"]


class Ones(NamedTuple):
    """A sparse matrix of ones: row pointers, columns, and the number of columns."""

    crow: Tensor
    col: Tensor
    columns: int


def taken(values: Tensor, order: Tensor) -> Tensor:
    """`values[..., order]`."""
    if not torch.compiler.is_compiling():
        return values[..., order]
    each = torch.arange(order.shape[0] + 1, device=order.device)
    return times(Ones(each, order.long(), values.shape[-1]), values)


def joined(parts: Sequence[Tensor], order: Tensor) -> Tensor:
    """`torch.cat(parts, -1)[..., order]` for parts `(*batch, any)`: in compiled code each is put in its places, and they are added."""
    if not torch.compiler.is_compiling():
        return torch.cat(list(parts), dim=-1)[..., order]
    places, total, start = torch.argsort(order), None, 0
    for part in parts:
        stop = start + part.shape[-1]
        each = torch.arange(part.shape[-1] + 1, device=order.device)
        put = times(Ones(each, places[start:stop], order.shape[0]), part, adjoint=True)
        total, start = put if total is None else total + put, stop
    assert total is not None
    return total


def added_up(values: Tensor, crow: Tensor, rows: Tensor) -> Tensor:
    """The sum of the values `(*batch, nnz)` in each row, `(*batch, rows)`, for row pointers, and the row of each entry."""
    if not torch.compiler.is_compiling():
        return values.new_zeros(*values.shape[:-1], crow.shape[0] - 1).index_add(-1, rows, values)
    each = torch.arange(values.shape[-1], dtype=crow.dtype, device=crow.device)
    return times(Ones(crow, each, values.shape[-1]), values)


def scaled(values: Tensor, by: Tensor) -> Tensor:
    """`values * by` for constants `(nnz,)`: Dynamo cannot trace a constant tensor in nested forward mode."""
    if not torch.compiler.is_compiling():
        return values * by
    each = torch.arange(by.shape[0] + 1, device=by.device)
    return times(Ones(each, each[:-1], by.shape[0]), values, by)


def times(ones: Ones, values: Tensor, instead: Tensor | None = None, *, adjoint: bool = False) -> Tensor:
    """The matrix of ones, or its adjoint, times each of several vectors `(*batch, columns)`: a batch is so many columns.

    With `instead` it has these entries.
    """
    if values.dtype in (torch.float16, torch.bfloat16):  # of which SciPy has none
        by = None if instead is None else instead.float()
        return times(ones, values.float(), by, adjoint=adjoint).to(values.dtype)
    crow, col, columns = ones
    batch, n = values.shape[:-1], values.shape[-1]
    x = values.reshape(math.prod(batch), n).mT  # `numel` would make a number of a symbol
    unit = torch.ones(col.shape[0], dtype=values.dtype, device=values.device) if instead is None else instead
    y = calculus.matmul(unit, crow, col, x, columns, adjoint)
    return y.mT.reshape(*batch, columns if adjoint else crow.shape[0] - 1)
