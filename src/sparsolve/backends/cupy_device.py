"""CUDA: the analysis of a pattern on the device, and the products of a sparse matrix, through CuPy and cuSPARSE.

cuSPARSE's products want sorted rows without duplicates, and those with `Aᵀ` add up in no fixed order. So a pattern is brought
into that form once, on the host, for `A` and for `Aᵀ` each; of a matrix only the values are put in order, on the device.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ..caching import cached_property
from ..indices import check_entries, check_form
from ..memo import ANALYSES
from . import host
from .cupy_runtime import aligned, array, cupy, give_back, here, new, now, sparse, tensor

__all__ = [
    "Product",
    "Products",
    "Structure",
    "array",
    "empty",
    "matrix",
    "multiply",
    "quiet",
    "run",
    "sampled",
    "structure_of",
    "tensor",
    "zeros",
]


def run(body: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """`body(*args)` on the device of the first, a tensor; once more without what the memo holds, where memory was not enough."""
    device = args[0].device
    try:
        with here(device):
            return body(*args)
    except torch.OutOfMemoryError:
        pass  # and its traceback goes, with the memory of the first try
    give_back()
    with here(device):
        return body(*args)


def empty(shape: tuple[int, ...], like: Any) -> Any:
    """An array of this shape and of `like`'s dtype, to become a tensor."""
    return new(shape, like.dtype)


def zeros(shape: tuple[int, ...]) -> Any:
    """A float64 array of zeros, to become a tensor."""
    a = new(shape, np.float64)
    a.fill(0)
    return a


def quiet() -> Any:
    """CuPy never warns of overflow or NaN."""
    return nullcontext()


def structure_of(crow: Tensor, col: Tensor, shape: tuple[int, int]) -> Structure:
    """The analysis of a pattern, validated and made once, then found again by its entries."""

    def make(*_: Any) -> Structure:
        check_form(crow, col, shape)
        check_entries(crow, col, shape)
        structure = Structure(host.Structure(array(crow).get(), array(col).get(), shape))
        now().stream.synchronize()
        return structure

    rest = ("cupy", now().device.index, shape, crow.dtype)
    structure: Structure = ANALYSES.get(rest, (array(crow), array(col)), make)
    # A factor needs no such care: each solve ends with a look at its result, when all that it reads has been read.
    now().foreign |= structure.stream != now().stream
    return structure


class _Order(NamedTuple):
    """Where the values of a compressed-row matrix come from: `values[places]`, those of one entry added up by `sums` if there are duplicates."""

    places: Any
    sums: Any
    template: Any


class Structure:
    """Everything about a pattern that does not depend on values; int32 on the device, narrowed once.

    Attributes:
        host: the analysis on the host, for what is factorized there.
        shape: `(rows, columns)`.
        rows, indices: row and column of each entry as given, `(nnz,)`.
        diagonal: rows of the diagonal entries, and their places in `ordered(values, adjoint=True)`.
        stream: in which all of it was made.
    """

    def __init__(self, on_host: host.Structure) -> None:
        self.host, self.shape = on_host, on_host.shape
        self.rows, self.indices = (cupy().asarray(a) for a in (on_host.rows, on_host.indices))
        self.diagonal = tuple(map(_int32, (on_host.csc_indices[on_host.diagonal], on_host.diagonal)))
        self.stream = now().stream
        nnz = on_host.csc_indices.size
        places = sp.csc_matrix((np.arange(nnz), on_host.csc_indices, on_host.csc_indptr), shape=self.shape).tocsr()
        starts = np.append(np.arange(nnz) if on_host.starts is None else on_host.starts, on_host.order.size)
        self._orders = {
            False: self._order(places.data, starts, places.indices, places.indptr, self.shape),
            True: self._order(np.arange(nnz), starts, on_host.csc_indices, on_host.csc_indptr, self.shape[::-1]),
        }

    def _order(self, entries: Any, starts: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> _Order:
        """The order of a matrix whose entry `i` is entry `entries[i]` of the canonical columns."""
        order, total = self.host.order, self.host.order.size
        if self.host.starts is None:
            return _Order(_int32(order[entries]), None, _template(entries.size, indices, indptr, shape))
        counts = np.diff(starts)[entries]
        ends = np.cumsum(counts)
        within = np.arange(total) - np.repeat(ends - counts, counts)
        places = order[np.repeat(starts[entries], counts) + within]
        pointers = np.concatenate([[0], ends])
        sums = _template(total, np.arange(total), pointers, (entries.size, total))
        return _Order(_int32(places), sums, _template(entries.size, indices, indptr, shape))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays held, on the host and on the device."""
        held = [self.rows, self.indices, *self.diagonal]
        for order in self._orders.values():
            held += [order.places, order.template.indices, order.template.indptr]
            held += [] if order.sums is None else [order.sums.indices, order.sums.indptr]
        return self.host.nbytes + sum(int(a.nbytes) for a in held)

    def ordered(self, values: Any, *, adjoint: bool = False) -> Any:
        """The data of the canonical compressed-row matrix `A`, or `Aᵀ`, duplicates added up."""
        order = self._orders[adjoint]
        data = values[order.places]
        if order.sums is None:
            return data
        return _filled(order.sums, cupy().ones_like(data)) @ data

    def csr(self, values: Any, *, adjoint: bool = False) -> Any:
        """The canonical matrix `A`, or `Aᴴ`."""
        data = self.ordered(values, adjoint=adjoint)
        return _filled(self._orders[adjoint].template, data.conj() if adjoint and data.dtype.kind == "c" else data)


def _int32(a: Any) -> Any:
    return cupy().asarray(np.ascontiguousarray(a, dtype=np.int32))


def _template(nnz: int, indices: Any, indptr: Any, shape: tuple[int, int]) -> Any:
    """A canonical matrix without values; filling a copy of it costs no check of the indices, which would wait for the device."""
    M = sparse().csr_matrix((cupy().zeros(nnz), _int32(indices), _int32(indptr)), shape=shape)
    M.has_canonical_format = True
    M.data = None
    return M


def _filled(template: Any, data: Any) -> Any:
    A = copy.copy(template)
    A.data = data
    return A


class Product:
    """`M @ x` for `(n, k)` as cuSPARSE does it best: column by column in memory, and one column as a vector.

    It is not asked for empty products, which its descriptors do not describe, nor to read what begins inside of an allocation.
    """

    def __init__(self, M: Any) -> None:
        self.M = M

    def __matmul__(self, x: Any) -> Any:
        cp, M = cupy(), self.M
        if not x.size:
            return cp.zeros((M.shape[0], x.shape[1]), dtype=x.dtype)
        x = aligned(cp.asfortranarray(x))
        return (M @ x.ravel())[:, None] if x.shape[1] == 1 else M @ x

    @property
    def nbytes(self) -> int:
        """Bytes of the values and of the indices, though many matrices may share these."""
        return sum(int(a.nbytes) for a in (self.M.data, self.M.indices, self.M.indptr))


class Products:
    """Those with one matrix and with its adjoint, each in the form that it wants."""

    def __init__(self, structure: Structure, values: Any) -> None:
        self._structure, self._values = structure, values

    @cached_property
    def plain(self) -> Any:
        """`A`."""
        return Product(self._structure.csr(self._values))

    @cached_property
    def adjoint(self) -> Any:
        """`Aᴴ`."""
        return Product(self._structure.csr(self._values, adjoint=True))

    def settled(self) -> Products:
        """With both made now: what one stream makes when it first needs it, another could read too early."""
        self._values = self.plain, self.adjoint  # and the caller's values are let go of
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of values, of both."""
        return 2 * int(self.plain.M.data.nbytes)


def matrix(structure: Structure, values: Any) -> Products:
    """The matrix with entries as given, for products."""
    return Products(structure, values)


def multiply(A: Products, x: Any, *, adjoint: bool) -> Any:
    """`A x` or `Aᴴ x`, `x` `(n, k)`."""
    return (A.adjoint if adjoint else A.plain) @ x


def sampled(structure: Structure, u: Any, v: Any) -> Any:
    """`(u vᴴ)` at the entries, for each of several, `u` `(matrices, rows, k)` and `v` `(matrices, columns, k)`.

    A column at a time: never nnz x k numbers at once.
    """
    cp = cupy()
    out = empty((len(u), structure.indices.size), u)
    out.fill(0)
    for one, a, b in zip(out, u, v.conj(), strict=True):
        for column, other in zip(cp.ascontiguousarray(a.T), cp.ascontiguousarray(b.T), strict=True):
            one += column.take(structure.rows) * other.take(structure.indices)
    return out
