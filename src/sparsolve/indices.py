"""Index arrays of compressed and of coordinate form: whether they describe a matrix, and how one is made from the other."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .errors import PatternError, is_dense, kind_of, of_device, sentence

__all__ = [
    "check_entries",
    "check_form",
    "check_indices",
    "check_places",
    "equal",
    "have_numbers",
    "pointers",
    "readable",
    "renumbered",
    "rising",
    "rows",
    "sizes",
]

_INDEX_DTYPES = (torch.int32, torch.int64)


def pointers(sorted_indices: Tensor, size: int) -> Tensor:
    """`(size + 1,)`: where each index starts in a sorted list."""
    ends = torch.arange(size + 1, device=sorted_indices.device, dtype=sorted_indices.dtype)
    return torch.searchsorted(sorted_indices, ends, out_int32=sorted_indices.dtype == torch.int32)


def rows(crow: Tensor, nnz: int) -> Tensor:
    """`(nnz,)`: the row of every entry.

    Pointers that are wrong are a `RuntimeError` on the CPU. On another device rows come of them that mean nothing but are in range: torch's
    `repeat_interleave` would end in an assertion there, after which the process can use the device no more.
    """
    if crow.device.type == "cpu":
        counts = crow.diff().clamp(min=0)  # torch writes outside its memory for a negative count
        each = torch.arange(crow.shape[0] - 1, device=crow.device, dtype=crow.dtype)
        return torch.repeat_interleave(each, counts, output_size=nnz)
    return _rows_by_search(crow, nnz)


def _rows_by_search(crow: Tensor, nnz: int) -> Tensor:
    places = torch.arange(nnz, device=crow.device, dtype=crow.dtype)
    found = torch.searchsorted(crow[1:].contiguous(), places, right=True, out_int32=crow.dtype == torch.int32)
    return found.clamp(max=max(crow.shape[0] - 2, 0))


def readable(*indices: Tensor) -> bool:
    """Whether the numbers of these tensors can be read here; while compiling they cannot."""
    return not torch.compiler.is_compiling() and have_numbers(*indices)


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two index tensors are known to be equal; not where a trace keeps their numbers to itself."""
    try:
        return have_numbers(a, b) and torch.equal(a, b)
    except RuntimeError as error:
        if of_device(error):
            raise
        return False


def have_numbers(*indices: Tensor) -> bool:
    """Fake tensors have none, nor have those on the meta device."""
    return not any(type(t) is FakeTensor or t.is_meta for t in indices)


def sizes(shape: Any) -> tuple[int, int]:
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
    check_indices(shape, crow=crow, col=col)
    if crow.shape[0] != shape[0] + 1:
        raise PatternError(
            sentence(
                f"crow has {crow.shape[0]} entries; a matrix with {shape[0]} rows needs {shape[0] + 1}.",
                "Row indices in place of row pointers are the usual cause.",
                "Pattern.from_coo takes row indices.",
            )
        )


def check_indices(shape: tuple[int, int], **named: Tensor) -> None:
    """One-dimensional index tensors of one dtype on one device, and a shape that they can count to."""
    if shape[0] < 0 or shape[1] < 0:
        raise PatternError(sentence(f"shape is {shape}; both numbers must be at least 0."))
    for name, t in named.items():
        if not isinstance(t, Tensor) or not is_dense(t):
            remedy = "Use .to_dense()." if isinstance(t, Tensor) else "Wrap it in torch.as_tensor."
            raise PatternError(sentence(f"{name} is {kind_of(t)}, not a torch.Tensor of indices.", remedy=remedy))
        if t.dtype not in _INDEX_DTYPES:
            fact = f"{name} is {t.dtype}; indices are torch.int32 or torch.int64."
            swapped = "Swapped arguments, perhaps." if t.is_floating_point() or t.is_complex() else ""
            raise PatternError(sentence(fact, swapped, f"Indices of another dtype are {name}.to(torch.int64)."))
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
    if not readable(row, col):
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


def renumbered(name: str, index: Tensor, size: int) -> tuple[Tensor, int]:
    """`(size,)`: which of `index` each number is, -1 for none; and how many there are."""
    if not isinstance(index, Tensor) or index.dtype not in (torch.bool, *_INDEX_DTYPES) or index.dim() != 1:
        fact = f"{name} is {kind_of(index)}; a one-dimensional tensor of indices, or a mask, is needed."
        raise TypeError(sentence(fact, remedy="Use torch.as_tensor; a scalar i is torch.tensor([i])."))
    if index.dtype is torch.bool:
        if index.shape[0] != size:
            raise ValueError(sentence(f"{name} is a mask of {index.shape[0]} for {size}."))
        index = index.nonzero()[:, 0]
    place = torch.full((size,), -1, dtype=torch.int64, device=index.device)
    if _numbers(((index < -size) | (index >= size)).any()):
        raise ValueError(sentence(f"{name} has numbers outside of [0, {size})."))
    index = torch.where(index < 0, index + size, index).long()
    place[index] = torch.arange(len(index), device=index.device)
    if not torch.equal(place[index], torch.arange(len(index), device=index.device)):
        raise ValueError(sentence(f"{name} has a number twice; each row and column can be taken once."))
    return place, len(index)


def rising(row: Any, col: Any) -> Any:
    """Whether each entry but the first comes after the one before it in row-major order: of tensors, or of NumPy's arrays.

    Where all do, the entries are canonical: sorted, and no two of one place.
    """
    return (row[1:] > row[:-1]) | ((row[1:] == row[:-1]) & (col[1:] > col[:-1]))


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
