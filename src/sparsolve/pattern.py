"""`Pattern`: where the stored entries of a sparse matrix are. It never has derivatives and is never batched."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .errors import PatternError, is_dense, kind_of, of_device, sentence

__all__ = ["Pattern", "check_entries", "check_form", "check_places", "pointers", "unchecked"]

_INDEX_DTYPES = (torch.int32, torch.int64)


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
        self.crow = crow
        self.col = col
        self.shape = _sizes(shape)
        check_form(crow, col, self.shape)
        if _readable(crow, col):
            check_entries(crow, col, self.shape)

    @classmethod
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
        shape = _sizes(shape)
        _check_indices(shape, row=row, col=col)
        if row.shape != col.shape:
            raise PatternError(
                sentence(f"row has shape {tuple(row.shape)} and col {tuple(col.shape)}; both must be (nnz,).")
            )
        check_places(row, col, shape)
        order = torch.argsort(row, stable=True)
        crow = pointers(row[order], shape[0])
        return unchecked(crow, col[order], shape), order

    @property
    def nnz(self) -> int:
        """Number of stored entries, stored zeros and duplicates included."""
        return self.col.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the index tensors are."""
        return self.col.device

    def rows(self) -> Tensor:
        """`(nnz,)`: the row of every entry.

        >>> import torch, sparsolve as sps
        >>> sps.Pattern(torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1]), (2, 2)).rows()
        tensor([0, 0, 1])
        """
        each = torch.arange(self.shape[0], device=self.device, dtype=self.col.dtype)
        counts = self.crow.diff().clamp(min=0)  # torch writes outside its memory for a negative count
        try:
            return torch.repeat_interleave(each, counts, output_size=self.nnz)
        except RuntimeError:
            check_entries(self.crow, self.col, self.shape)
            raise

    def adjoint(self) -> tuple[Pattern, Tensor]:
        """The pattern of `Aᴴ`, and the order that the values of `A` have on it; made anew by each call, within the transforms active there.

        >>> import torch, sparsolve as sps
        >>> pattern = sps.Pattern(torch.tensor([0, 2, 3]), torch.tensor([0, 1, 0]), (2, 2))
        >>> pattern.adjoint()
        (Pattern(2 x 2, nnz=3, torch.int64, cpu), tensor([0, 2, 1]))
        """
        order = torch.argsort(self.col, stable=True)
        crow = pointers(self.col[order], self.shape[1])
        return unchecked(crow, self.rows()[order], (self.shape[1], self.shape[0])), order

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
        read = _have_numbers(self.crow, self.col, other.crow, other.col)
        return read and torch.equal(self.crow, other.crow) and torch.equal(self.col, other.col)

    def __hash__(self) -> int:
        return hash((self.shape, self.nnz))

    def __repr__(self) -> str:
        return f"Pattern({self.shape[0]} x {self.shape[1]}, nnz={self.nnz}, {self.col.dtype}, {self.device})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Pattern, (self.crow, self.col, self.shape)


def unchecked(crow: Tensor, col: Tensor, shape: tuple[int, int]) -> Pattern:
    """A `Pattern` of arrays known to be right, or that the first solve will check."""
    pattern = Pattern.__new__(Pattern)
    pattern.crow, pattern.col, pattern.shape = crow, col, shape
    return pattern


def pointers(sorted_indices: Tensor, size: int) -> Tensor:
    """`(size + 1,)`: where each index starts in a sorted list."""
    ends = torch.arange(size + 1, device=sorted_indices.device, dtype=sorted_indices.dtype)
    return torch.searchsorted(sorted_indices, ends, out_int32=sorted_indices.dtype == torch.int32)


def _readable(*indices: Tensor) -> bool:
    """Whether the numbers of these tensors can be read here; while compiling they cannot."""
    return not torch.compiler.is_compiling() and _have_numbers(*indices)


def _have_numbers(*indices: Tensor) -> bool:
    """Fake tensors have none, nor have those on the meta device."""
    return not any(type(t) is FakeTensor or t.is_meta for t in indices)


def _sizes(shape: Any) -> tuple[int, int]:
    """Two whole numbers, at least 0 (or symbols for them, while compiling)."""
    try:
        rows, columns = (s if isinstance(s, (int, torch.SymInt)) else operator.index(s) for s in shape)
    except (TypeError, ValueError) as error:
        raise PatternError(
            sentence(
                f"shape is {shape!r}; it must be two whole numbers, (rows, columns).",
                "A batch has no place in a pattern, and / makes a float.",
                "Give (n, n), and batch the values.",
            )
        ) from error
    return rows, columns  # type: ignore[return-value]


def check_form(crow: Tensor, col: Tensor, shape: tuple[int, int]) -> None:
    """What can be told from dtypes and shapes alone, under any transform."""
    _check_indices(shape, crow=crow, col=col)
    if crow.shape[0] != shape[0] + 1:
        raise PatternError(
            sentence(
                f"crow has {crow.shape[0]} entries; a matrix with {shape[0]} rows needs {shape[0] + 1}.",
                "Row indices in place of row pointers are the usual cause.",
                "Pattern.from_coo takes row indices.",
            )
        )


def _check_indices(shape: tuple[int, int], **named: Tensor) -> None:
    """One-dimensional index tensors of one dtype on one device, and a shape that they can count to."""
    if shape[0] < 0 or shape[1] < 0:
        raise PatternError(sentence(f"shape is {shape}; both numbers must be at least 0."))
    for name, t in named.items():
        if not isinstance(t, Tensor) or not is_dense(t):
            remedy = "Use .to_dense()." if isinstance(t, Tensor) else "Wrap it in torch.as_tensor."
            raise PatternError(sentence(f"{name} is {kind_of(t)}, not a torch.Tensor of indices.", remedy=remedy))
        if t.dtype not in _INDEX_DTYPES:
            fact = f"{name} is {t.dtype}; indices are torch.int32 or torch.int64."
            raise PatternError(sentence(fact, remedy=f"Use {name}.to(torch.int64)."))
        if t.dim() != 1:
            raise PatternError(
                sentence(
                    f"{name} has shape {tuple(t.shape)}; it must be one-dimensional.",
                    "A pattern is shared by a whole batch and never has a batch dimension itself.",
                    "Batch the values, (*batch, nnz), or put the matrices into one block-diagonal matrix.",
                )
            )
    (one, p), (other, q) = named.items()
    if p.dtype != q.dtype or p.device != q.device:
        raise PatternError(
            sentence(f"{one} is {p.dtype} on {p.device} and {other} {q.dtype} on {q.device}; both must be the same.")
        )
    if p.dtype is torch.int32 and (shape[0] > 2**31 - 1 or shape[1] > 2**31 - 1):
        raise PatternError(sentence(f"shape is {shape}; torch.int32 indices end at {2**31 - 1}.", remedy="Use int64."))


def check_places(row: Tensor, col: Tensor, shape: tuple[int, ...]) -> None:
    """Rows and columns of single entries in range, where the numbers can be read."""
    if not _readable(row, col):
        return
    for name, indices, size in (("row", row, shape[0]), ("column", col, shape[1])):
        outside = (indices < 0) | (indices >= size)
        if _numbers(outside.any()):
            entry = int(outside.nonzero()[0])
            raise _outside(f"Entry {entry} is in {name} {int(indices[entry])}", size)


def _numbers(t: Tensor) -> Any:
    try:
        return t.tolist()
    except RuntimeError as error:
        if of_device(error):
            raise
        raise PatternError(
            sentence(
                "The pattern's index tensors are batched by vmap, so their entries cannot be read. A pattern is shared by a whole batch.",
                remedy="Give the pattern in_dims=None (SparseMatrix(0, pattern) in in_dims), or put the matrices into one block-diagonal matrix.",
            )
        ) from error


def check_entries(crow: Tensor, col: Tensor, shape: tuple[int, int]) -> None:
    """What takes a look at the numbers: pointers from 0 to nnz, none decreasing, columns in range."""
    nnz = col.shape[0]
    falls = crow[1:] < crow[:-1]
    outside = (col < 0) | (col >= shape[1])
    wrong = torch.stack([crow[0] != 0, crow[-1] != nnz, falls.any(), outside.any()])
    first, last, falling, out = _numbers(wrong)
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
        raise _outside(f"Entry {entry} (row {row}) is in column {int(col[entry])}", shape[1])


def _outside(entry: str, size: int) -> PatternError:
    cause = "One-based indices or swapped dimensions are the usual cause."
    return PatternError(sentence(f"{entry}, outside [0, {size}).", cause))
