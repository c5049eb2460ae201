"""`Pattern`: where the stored entries of a sparse matrix are. It never has derivatives and is never batched."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .errors import PatternError, sentence

__all__ = ["Pattern"]

_INDEX_DTYPES = (torch.int32, torch.int64)


class Pattern:
    """Compressed sparse row indices: row `i` stores the entries `crow[i]:crow[i + 1]`, in columns `col[...]`.

    A pattern is constant under every transform. Entries may be in any order within a row, and several may
    share a place (they add up); the gradient with respect to the values then has one number for each.
    The index tensors are used as they are, not copied: do not write into them.

    Args:
        crow: `(rows + 1,)` int32 or int64, not decreasing, from 0 to `nnz`.
        col: `(nnz,)`, the same dtype, each entry in `[0, columns)`.
        shape: `(rows, columns)`; `solve` needs a square one.

    Raises:
        PatternError: the arrays do not describe a matrix; the message names the first wrong entry.

    Cost:
        One pass over the indices, on their device. Inside `torch.compile` the checks move into the first solve.

    >>> import torch, sparsolve as sps
    >>> pattern = sps.Pattern(torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1]), (2, 2))
    >>> pattern
    Pattern(2 x 2, nnz=3, torch.int64, cpu)
    """

    __slots__ = ("__weakref__", "_adjoint", "col", "crow", "shape")

    def __init__(self, crow: Tensor, col: Tensor, shape: tuple[int, int]) -> None:
        self.crow = crow
        self.col = col
        self.shape = (shape[0], shape[1])
        self._adjoint: tuple[Pattern, Tensor] | None = None
        check_form(crow, col, self.shape)
        if not torch.compiler.is_compiling() and type(crow) is not FakeTensor and type(col) is not FakeTensor:
            check_entries(crow, col, self.shape)

    @classmethod
    def from_coo(cls, row: Tensor, col: Tensor, shape: tuple[int, int]) -> tuple[Pattern, Tensor]:
        """The pattern of entries `(row[e], col[e])`, duplicates kept, and the order its values go in.

        Finite-element assembly is the use: `SparseMatrix(element_values[..., order], pattern)`.

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
        if row.shape != col.shape or row.dim() != 1:
            raise PatternError(
                sentence(f"row has shape {tuple(row.shape)} and col {tuple(col.shape)}; both must be (nnz,).")
            )
        if row.dtype not in _INDEX_DTYPES:
            raise PatternError(sentence(f"row is {row.dtype}; indices are torch.int32 or torch.int64."))
        order = torch.argsort(row, stable=True)
        crow = pointers(row[order], shape[0])
        return cls(crow, col[order], shape), order

    @property
    def nnz(self) -> int:
        """Number of stored entries, stored zeros and duplicates included."""
        return self.col.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the index tensors are."""
        return self.col.device

    def rows(self) -> Tensor:
        """`(nnz,)`: the row of every entry."""
        each = torch.arange(self.shape[0], device=self.device, dtype=self.col.dtype)
        counts = self.crow.diff().clamp(min=0)  # torch writes outside its memory for a negative count
        try:
            return torch.repeat_interleave(each, counts, output_size=self.nnz)
        except RuntimeError:
            check_entries(self.crow, self.col, self.shape)
            raise

    def adjoint(self) -> tuple[Pattern, Tensor]:
        """The pattern of `Aᴴ`, and the order its values go in; kept after the first call."""
        if self._adjoint is not None:
            return self._adjoint
        order = torch.argsort(self.col, stable=True)
        made = (
            unchecked(pointers(self.col[order], self.shape[1]), self.rows()[order], (self.shape[1], self.shape[0])),
            order,
        )
        if not torch.compiler.is_compiling():
            self._adjoint = made
        return made

    def to(self, device: torch.device | str) -> Pattern:
        """The same pattern on another device."""
        return unchecked(self.crow.to(device), self.col.to(device), self.shape)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Pattern) or self.shape != other.shape or self.device != other.device:
            return False
        return torch.equal(self.crow, other.crow) and torch.equal(self.col, other.col)

    def __hash__(self) -> int:
        return hash((self.shape, self.nnz))

    def __repr__(self) -> str:
        return f"Pattern({self.shape[0]} x {self.shape[1]}, nnz={self.nnz}, {self.col.dtype}, {self.device})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Pattern, (self.crow, self.col, self.shape)


def unchecked(crow: Tensor, col: Tensor, shape: tuple[int, int]) -> Pattern:
    """A `Pattern` of arrays known to be right, or that the first solve will check."""
    pattern = Pattern.__new__(Pattern)
    pattern.crow, pattern.col, pattern.shape, pattern._adjoint = crow, col, shape, None
    return pattern


def pointers(sorted_indices: Tensor, size: int) -> Tensor:
    """`(size + 1,)`: where each index starts in a sorted list."""
    ends = torch.arange(size + 1, device=sorted_indices.device, dtype=sorted_indices.dtype)
    return torch.searchsorted(sorted_indices, ends, out_int32=sorted_indices.dtype == torch.int32)


def check_form(crow: Tensor, col: Tensor, shape: tuple[int, int]) -> None:
    """What can be told from dtypes and shapes alone, under any transform."""
    for name, t in (("crow", crow), ("col", col)):
        if not isinstance(t, Tensor):
            raise PatternError(
                sentence(f"{name} is a {type(t).__name__}, not a torch.Tensor.", remedy="Wrap it in torch.as_tensor.")
            )
        if t.dtype not in _INDEX_DTYPES:
            raise PatternError(
                sentence(
                    f"{name} is {t.dtype}; indices are torch.int32 or torch.int64.",
                    remedy=f"Use {name}.to(torch.int64).",
                )
            )
        if t.dim() != 1:
            raise PatternError(
                sentence(
                    f"{name} has shape {tuple(t.shape)}; it must be one-dimensional.",
                    "A pattern is shared by a whole batch and never has a batch dimension itself.",
                    "Batch the values, (*batch, nnz), or put the matrices into one block-diagonal matrix.",
                )
            )
    if crow.dtype != col.dtype or crow.device != col.device:
        raise PatternError(
            sentence(
                f"crow is {crow.dtype} on {crow.device} and col {col.dtype} on {col.device}; both must be the same."
            )
        )
    if shape[0] < 0 or shape[1] < 0:
        raise PatternError(sentence(f"shape is {shape}; both numbers must be at least 0."))
    if crow.shape[0] != shape[0] + 1:
        raise PatternError(
            sentence(
                f"crow has {crow.shape[0]} entries; a matrix with {shape[0]} rows needs {shape[0] + 1}.",
                "Row indices in place of row pointers are the usual cause.",
                "Pattern.from_coo takes row indices.",
            )
        )


def check_entries(crow: Tensor, col: Tensor, shape: tuple[int, int]) -> None:
    """What takes a look at the numbers: pointers from 0 to nnz, none decreasing, columns in range."""
    nnz = col.shape[0]
    falls = crow.diff() < 0
    outside = (col < 0) | (col >= shape[1])
    wrong = torch.stack([crow[0] != 0, crow[-1] != nnz, falls.any(), outside.any()])
    try:
        first, last, falling, out = wrong.tolist()
    except RuntimeError as error:
        raise PatternError(
            sentence(
                "The pattern's index tensors are batched by vmap, so their entries cannot be read.",
                "A pattern is shared by a whole batch.",
                "Give the pattern in_dims=None (SparseMatrix(0, pattern) in in_dims), or put the matrices into one block-diagonal matrix.",
            )
        ) from error
    if first:
        raise PatternError(
            sentence(f"crow[0] is {int(crow[0])}; row pointers start at 0.", "One-based indices are the usual cause.")
        )
    if falling:
        row = int(falls.nonzero()[0])
        raise PatternError(
            sentence(
                f"crow[{row + 1}] = {int(crow[row + 1])} is below crow[{row}] = {int(crow[row])}; row pointers never decrease."
            )
        )
    if last:
        raise PatternError(
            sentence(f"crow[{shape[0]}] is {int(crow[-1])}, but col has {nnz} entries; the last pointer is nnz.")
        )
    if out:
        entry = int(outside.nonzero()[0])
        row = int(torch.searchsorted(crow, entry, right=True)) - 1
        raise PatternError(
            sentence(
                f"Entry {entry} (row {row}) is in column {int(col[entry])}, outside [0, {shape[1]}).",
                "One-based indices or swapped dimensions are the usual cause.",
            )
        )
