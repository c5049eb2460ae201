"""`Pattern`: where the stored entries of a sparse matrix are. It never has derivatives and is never batched."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .errors import PatternError, sentence
from .hints import PATTERN, missing
from .indices import (
    check_entries,
    check_form,
    check_indices,
    check_places,
    equal,
    pointers,
    readable,
    renumbered,
    rows,
    sizes,
)
from .levels import constant, unwrapped

__all__ = ["Pattern", "by_rows", "unchecked"]


class Pattern:
    """Compressed sparse row indices: row `i` stores the entries `crow[i]:crow[i + 1]`, in columns `col[...]`.

    A pattern is constant under every transform. Entries may be in any order within a row. Several may share a place: they add up, and
    the gradient with respect to the values has one number for each. The index tensors are used, not copied: do not write into them.

    Args:
        crow: `(rows + 1,)` int32 or int64, not decreasing, from 0 to `nnz`.
        col: `(nnz,)`, the same dtype, each entry in `[0, columns)`.
        shape: `(rows, columns)`; `solve` needs a square one.

    Raises:
        PatternError: the arrays do not describe a matrix; the message names the first wrong entry.

    Cost:
        One pass over the indices, on their device. Inside `torch.compile` the first solve does the checks.

    >>> import torch, sparsolve as sps
    >>> pattern = sps.Pattern(torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1]), (2, 2))
    >>> pattern
    Pattern(2 x 2, nnz=3, torch.int64, cpu)
    """

    __slots__ = ("__weakref__", "col", "crow", "shape")

    def __init__(self, crow: Tensor, col: Tensor, shape: tuple[int, int]) -> None:
        self.crow = unwrapped(crow) if isinstance(crow, Tensor) else crow  # the checks refuse it
        self.col = unwrapped(col) if isinstance(col, Tensor) else col
        self.shape = sizes(shape)
        check_form(self.crow, self.col, self.shape)
        if readable(self.crow, self.col):
            check_entries(self.crow, self.col, self.shape)

    def __getattr__(self, name: str) -> Any:
        raise missing("Pattern", name, PATTERN)

    @classmethod
    @constant
    def from_coo(cls, row: Tensor, col: Tensor, shape: tuple[int, int]) -> tuple[Pattern, Tensor]:
        """The pattern of entries `(row[e], col[e])`, duplicates kept, and the order that their values have on it.

        For finite-element assembly: `SparseMatrix(element_values[..., order], pattern)`.

        Args:
            row: `(nnz,)` int32 or int64, each in `[0, rows)`.
            col: `(nnz,)`, the same dtype, each in `[0, columns)`.
            shape: `(rows, columns)`.

        Returns:
            The pattern, and `order` `(nnz,)` int64.

        Raises:
            PatternError: as for `Pattern`.

        >>> import torch, sparsolve as sps
        >>> row, col = torch.tensor([1, 0, 1]), torch.tensor([1, 0, 1])
        >>> pattern, order = sps.Pattern.from_coo(row, col, (2, 2))
        >>> sps.SparseMatrix(torch.tensor([1.0, 2.0, 3.0])[order], pattern).to_dense()
        tensor([[2., 0.],
                [0., 4.]])
        """
        shape = sizes(shape)
        check_indices(shape, row=row, col=col)
        if row.shape != col.shape:
            raise PatternError(
                sentence(f"row has shape {tuple(row.shape)} and col {tuple(col.shape)}; both must be (nnz,).")
            )
        check_places(row, col, shape)
        return by_rows(row, col, shape)

    @property
    def nnz(self) -> int:
        """Number of stored entries, stored zeros and duplicates included."""
        return self.col.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the index tensors are."""
        return self.col.device

    @constant
    def rows(self) -> Tensor:
        """`(nnz,)`: the row of every entry.

        >>> import torch, sparsolve as sps
        >>> sps.Pattern(torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1]), (2, 2)).rows()
        tensor([0, 0, 1])
        """
        if self.device.type != "cpu" and readable(self.crow, self.col):
            check_entries(self.crow, self.col, self.shape)
        try:
            return rows(self.crow, self.nnz)
        except RuntimeError:
            check_entries(self.crow, self.col, self.shape)
            raise

    @constant
    def adjoint(self) -> tuple[Pattern, Tensor]:
        """The pattern of `Aᴴ`, and the order that the values of `A` have on it; made anew by each call.

        >>> import torch, sparsolve as sps
        >>> pattern = sps.Pattern(torch.tensor([0, 2, 3]), torch.tensor([0, 1, 0]), (2, 2))
        >>> pattern.adjoint()
        (Pattern(2 x 2, nnz=3, torch.int64, cpu), tensor([0, 2, 1]))
        """
        return by_rows(self.col, self.rows(), (self.shape[1], self.shape[0]))

    @constant
    def submatrix(self, rows: Tensor, columns: Tensor | None = None) -> tuple[Pattern, Tensor]:
        """The pattern of `A[rows][:, columns]`, and which entries of A it has, in its order.

        Not in compiled code, where the number of entries would depend on numbers; there `values[..., entries]` are the values.

        Args:
            rows: `(m,)` indices, each once and in any order, or a mask `(rows of A,)`.
            columns: likewise; None is the same as rows.

        Raises:
            TypeError, ValueError: of indices that are out of range, or come twice.

        >>> import torch, sparsolve as sps
        >>> pattern = sps.Pattern(torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1]), (2, 2))
        >>> pattern.submatrix(torch.tensor([0]), torch.tensor([1, 0]))
        (Pattern(1 x 2, nnz=2, torch.int64, cpu), tensor([0, 1]))
        """
        if not readable(self.crow, self.col):
            fact = "How many entries a submatrix has depends on the numbers in the indices, which cannot be read in compiled code."
            raise TypeError(sentence(fact, remedy="Call submatrix outside, and use values[..., entries] inside."))
        check_entries(self.crow, self.col, self.shape)
        row, m = renumbered("rows", rows, self.shape[0])
        column, n = renumbered("columns", rows if columns is None else columns, self.shape[1])
        row, column = row[self.rows().long()], column[self.col.long()]
        there = ((row >= 0) & (column >= 0)).nonzero()[:, 0]
        dtype = self.col.dtype
        pattern, order = Pattern.from_coo(row[there].to(dtype), column[there].to(dtype), (m, n))
        return pattern, there[order]

    def to(self, device: torch.device | str) -> Pattern:
        """The same pattern on another device; the same object where it is there already.

        >>> import torch, sparsolve as sps
        >>> sps.Pattern(torch.tensor([0, 1]), torch.tensor([0]), (1, 1)).to("meta")
        Pattern(1 x 1, nnz=1, torch.int64, meta)
        """
        if not isinstance(device, (torch.device, str, int)):
            raise TypeError(
                sentence(
                    f"device is {device}; a pattern moves to a device, and its indices stay as they are.",
                    "A dtype, perhaps: it is the values that have one.",
                    "Use SparseMatrix(values.to(dtype), pattern).",
                )
            )
        crow, col = self.crow.to(device), self.col.to(device)
        return self if crow is self.crow and col is self.col else unchecked(crow, col, self.shape)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Pattern) or self.shape != other.shape or self.device != other.device:
            return False
        if self.col.dtype != other.col.dtype:
            return False
        return equal(self.crow, other.crow) and equal(self.col, other.col)

    def __hash__(self) -> int:
        return hash((self.shape, self.nnz))

    def __repr__(self) -> str:
        return f"Pattern({self.shape[0]} x {self.shape[1]}, nnz={self.nnz}, {self.col.dtype}, {self.device})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Pattern, (self.crow, self.col, self.shape)


def by_rows(row: Tensor, col: Tensor, shape: tuple[int, int]) -> tuple[Pattern, Tensor]:
    """The pattern of entries in any order, known to be right, and the order that their values have on it."""
    order = torch.argsort(row, stable=True)
    return unchecked(pointers(row[order], shape[0]), col[order], shape), order


def unchecked(crow: Tensor, col: Tensor, shape: tuple[int, int]) -> Pattern:
    """A `Pattern` of arrays known to be right, or that the first solve will check."""
    pattern = Pattern.__new__(Pattern)
    pattern.crow, pattern.col, pattern.shape = crow, col, shape
    return pattern
