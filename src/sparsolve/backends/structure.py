"""The analysis of a pattern for SciPy: all that does not depend on values, made once."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ..caching import cached_property
from ..errors import PatternError, sentence

__all__ = ["Structure"]

_ROUNDOFFS = 50  # of the sum of sizes of a row, that its entries may be moved by


class Structure:
    """Everything about a pattern that does not depend on values; made once per pattern.

    Attributes:
        shape: `(rows, columns)`.
        indptr: CSR row pointers as given, int32.
        indices: columns as given, int32.
        rows: `(nnz,)` row of each entry, int32.
        places: rows and columns of the entries as given, as tensors.
        order: the entries in compressed-column order.
        sorted: whether each row's columns rise, without duplicates.
        starts: where each place starts in `order` if some place has several entries, else None.
        csc_indptr: column pointers of the canonical matrix, int32.
        csc_indices: its rows, sorted, int32.
        diagonal: positions of diagonal entries in the canonical matrix.
        empty: whether some row or column has no entry at all.
        found: what solvers have found out about the pattern, for the next factorization.
    """

    def __init__(self, crow: Any, col: Any, shape: tuple[int, int]) -> None:
        if max(*shape, col.size) >= 2**31:
            raise PatternError(
                sentence(
                    f"The matrix is {shape[0]} x {shape[1]} with {col.size} entries; SciPy's solvers take fewer than 2**31 of each."
                )
            )
        self.shape = shape
        self.indptr = crow.astype(np.int32)
        self.indices = col.astype(np.int32)
        self.rows = np.repeat(np.arange(shape[0], dtype=np.int32), np.diff(self.indptr))
        self.places = torch.from_numpy(self.rows), torch.from_numpy(self.indices)
        self.sorted = _rises(self.indptr, self.indices)
        columns = sp.csr_matrix((np.arange(col.size), self.indices, self.indptr), shape=shape).tocsc()
        self.order = columns.data
        indptr, indices = columns.indptr, columns.indices
        column_of = np.repeat(np.arange(shape[1], dtype=np.int32), np.diff(indptr))
        self.starts = None
        if not self.sorted:
            new = np.ones(col.size, dtype=bool)
            new[1:] = (np.diff(indices) != 0) | (np.diff(column_of) != 0)
            if not new.all():
                self.starts = np.flatnonzero(new)
                indptr = np.concatenate([[0], np.cumsum(new)])[indptr]
                indices, column_of = indices[new], column_of[new]
        self.csc_indptr = indptr.astype(np.int32)
        self.csc_indices = indices.astype(np.int32)
        self.diagonal = np.flatnonzero(self.csc_indices == column_of)
        self.empty = bool((np.diff(self.indptr) == 0).any() or (np.diff(self.csc_indptr) == 0).any())
        self.found: dict[Any, Any] = {}
        self._csc = sp.csc_matrix(
            (np.broadcast_to(0.0, self.csc_indices.size), self.csc_indices, self.csc_indptr), shape=shape
        )
        self._csc.has_canonical_format = True
        self._transposed = self._csc.T
        self._csr = sp.csr_matrix((np.broadcast_to(0.0, self.indices.size), self.indices, self.indptr), shape=shape)
        for a in self._arrays():
            a.setflags(write=False)  # SciPy may sort or compress in place what it is given

    def _arrays(self) -> list[Any]:
        return [a for a in vars(self).values() if isinstance(a, np.ndarray)]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays held, and of an ordering."""
        return sum(int(a.nbytes) for a in self._arrays()) + 12 * int(self.indices.size)

    def canonical(self, values: Any) -> Any:
        """`(nnz of the canonical matrix,)`: values in compressed-column order, duplicates added up."""
        ordered = values[self.order]
        if self.starts is None:
            return ordered
        with np.errstate(all="ignore"):  # what it overflows to is an error with its own sentence
            return np.add.reduceat(ordered, self.starts)

    @cached_property
    def unique(self) -> Structure:
        """The same pattern without duplicates: itself, if it has none."""
        if self.starts is None:
            return self
        _, columns, starts = self.by_rows
        return Structure(np.append(starts, columns.size), columns, self.shape)

    def merged(self, values: Any) -> Any:
        """The values on `unique`."""
        return values if self.starts is None else self._even(values, self.starts)[self.by_rows[0]]

    def _even(self, values: Any, starts: Any) -> Any:
        """`canonical`, and exactly Hermitian where only the order of its sums is not: the entries of `(j, i)` may come in another order.

        k numbers are added up to within `(k - 1) u` times the sum of their sizes (Higham, Accuracy and Stability, 2002, section 4.2). Where they
        cancel that may be much of the matrix, and what is left is taken for what was meant: nothing changes by more than roundoff of its row.
        """
        sums, mirror = self.canonical(values), self.unique.mirror
        if mirror is None:
            return sums
        twins = sums[mirror.numpy()].conj()
        counts = np.diff(starts, append=self.order.size)
        eps = np.finfo(sums.dtype).eps
        with np.errstate(over="ignore", invalid="ignore"):  # a matrix with Inf is refused elsewhere
            apart = abs(sums - twins)
            if not 0 < apart.max() <= eps * counts.max() ** 2 * abs(values).max():
                return sums
            sizes = np.add.reduceat(abs(values[self.order]), starts)
            rounding = (apart <= eps * (counts - 1) * sizes).all() and self._is_rounding(apart, sums)
            return sums / 2 + twins / 2 if rounding else sums

    def hermitian_part(self, values: Any) -> Any:
        """`(A + Aᴴ) / 2` of a matrix without duplicates, where that moves no entry by more than roundoff of its row and column; else A itself."""
        if self.mirror is None:
            return values
        own, mirror = self.canonical(values), self.mirror.numpy()
        with np.errstate(over="ignore", invalid="ignore"):
            twins = own[mirror].conj()
            apart = abs(own - twins)
            if not apart.any() or not self._is_rounding(apart, own):
                return values
            even = np.empty_like(values)
            even[self.order] = own / 2 + twins / 2
        return even

    def _is_rounding(self, apart: Any, canonical: Any) -> bool:
        """Whether differences of entries are no more than some roundoffs of the sizes in their rows and columns."""
        rows = np.bincount(self.columns, abs(canonical), self.shape[0])
        least = np.minimum(rows[self.csc_indices], rows[self.columns])
        return bool((apart <= _ROUNDOFFS * np.finfo(canonical.dtype).eps * least).all())

    def ones(self, dtype: Any) -> Any:
        """`(columns,)` of ones."""
        key = "ones", dtype.char
        if key not in self.found:
            self.found[key] = np.ones(self.shape[1], dtype=dtype)
        return self.found[key]

    @cached_property
    def signs(self) -> Any:
        """`(rows,)` random, of sizes from 1 to 2, the same every time: the probe of a condition estimate.

        (Of size 1, every other pair of equal rows would have equal ones, and the probe be in the range of A.)
        """
        random = np.random.default_rng(0).uniform(-1, 1, self.shape[0])
        return (random + np.copysign(1, random)).astype(np.float32)

    @cached_property
    def columns(self) -> Any:
        """`(nnz of the canonical matrix,)`: the column of each entry, int32."""
        return np.repeat(np.arange(self.shape[1], dtype=np.int32), np.diff(self.csc_indptr))

    @cached_property
    def by_rows(self) -> tuple[Any, Any, Any]:
        """The canonical entries row by row: their places, their columns, and where each row starts."""
        order = np.argsort(self.csc_indices, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(self.csc_indices, minlength=self.shape[0]))[:-1]])
        return order, self.columns[order], starts

    @cached_property
    def band(self) -> tuple[int, int]:
        """How far entries are below and above the diagonal, at most."""
        below = self.csc_indices - self.columns
        return max(int(below.max(initial=0)), 0), max(int(-below.min(initial=0)), 0)

    @cached_property
    def on_diagonal(self) -> Any:
        """Places of the diagonal entries as given."""
        return np.flatnonzero(self.rows == self.indices)

    @cached_property
    def densest(self) -> int:
        """Entries of the row, or of the column, that has most."""
        return int(max(np.diff(self.indptr).max(initial=0), np.diff(self.csc_indptr).max(initial=0)))

    @cached_property
    def mirror(self) -> Tensor | None:
        """Where entry `(j, i)` of the canonical matrix is, for each `(i, j)`, int32; None for an unsymmetric pattern.

        Where each row's columns rise, the entries row by row are those of `Aᵀ` column by column: `order` says where each of A is among them.
        """
        if self.sorted:
            same = np.array_equal(self.indptr, self.csc_indptr) and np.array_equal(self.indices, self.csc_indices)
            return torch.from_numpy(self.order.astype(np.int32)) if same else None
        places = np.arange(self.csc_indices.size, dtype=np.int32)
        T = sp.csc_matrix((places, self.csc_indices, self.csc_indptr), shape=self.shape).T.tocsc()
        same = np.array_equal(T.indptr, self.csc_indptr) and np.array_equal(T.indices, self.csc_indices)
        return torch.from_numpy(T.data) if same else None

    def filled(self, data: Any) -> Any:
        """The canonical SciPy matrix with these entries."""
        return _filled(self._csc, data)

    def csr(self, values: Any) -> Any:
        """The SciPy matrix with entries as given, in the values' memory."""
        return _filled(self._csr, values)

    def csc(self, values: Any) -> Any:
        """The canonical SciPy matrix."""
        return self.filled(self.canonical(values))

    def transposed(self, csc: Any) -> Any:
        """`Aᵀ` of a canonical matrix, in the same memory."""
        return _filled(self._transposed, csc.data)


def _rises(indptr: Any, indices: Any) -> bool:
    """Whether the indices rise in each row."""
    rises = indices[1:] > indices[:-1]
    first = indptr[1:-1]
    rises[first[(first > 0) & (first < indices.size)] - 1] = True
    return bool(rises.all())


def _filled(template: Any, data: Any) -> Any:
    """A SciPy matrix with the template's indices; its constructor would check them again."""
    A = object.__new__(type(template))
    A.__dict__.update(template.__dict__)
    A.data = data
    return A
