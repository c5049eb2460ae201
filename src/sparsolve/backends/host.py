"""CPU tensors as NumPy arrays, and the products of a sparse matrix."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..indices import check_entries, check_form
from ..loops import product, scale_rows
from ..memo import ANALYSES
from .structure import Structure

__all__ = [
    "Product",
    "Rows",
    "Structure",
    "array",
    "empty",
    "gathered",
    "largest",
    "largest_size",
    "matrix",
    "multiply",
    "quiet",
    "quietly",
    "run",
    "sampled",
    "structure_of",
    "tensor",
    "zeros",
]

_FEW = 1000  # places that NumPy takes sooner than torch
_CHUNK = 1 << 15  # numbers gathered at a time in `sampled`, so that they stay in cache


def run(body: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """`body(*args)`."""
    return body(*args)


def array(t: Tensor) -> Any:
    """A tensor as a contiguous NumPy array, its own memory where it can be, with torch's lazy conjugate and negative bits applied.

    The bits are undone by flipping them, for `resolve_conj` does nothing where a compiled graph runs the op.
    """
    conj, neg = t.is_conj(), t.is_neg()
    if not (conj or neg):
        return np.ascontiguousarray(_lent(t))
    t = t.detach()
    t = t.conj() if conj else t
    a = _lent(torch._neg_view(t) if neg else t)
    a = a.conj() if conj else a
    return np.ascontiguousarray(-a if neg else a)


class _Capsule:
    """A tensor as `np.from_dlpack` takes it, in half of the time of `Tensor.__dlpack__`."""

    __slots__ = ("_tensor",)

    def __init__(self, t: Tensor) -> None:
        self._tensor = t

    def __dlpack__(self, **_: Any) -> Any:
        return torch._C._to_dlpack_versioned(self._tensor)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # the CPU


_PLAIN = {Tensor, torch.nn.Parameter}
_TAKES_VERSIONED = np.lib.NumpyVersion(np.__version__) >= "2.1.0"


def _lent(t: Tensor) -> Any:
    """A tensor's memory as an array: after `Tensor.numpy` nobody could resize it any more, as FSDP does with parameters."""
    if _TAKES_VERSIONED and type(t) in _PLAIN:
        return np.from_dlpack(_Capsule(t))
    return t.detach().numpy()


def tensor(a: Any) -> Tensor:
    """A contiguous tensor of an array that nobody else holds."""
    return torch.from_numpy(np.ascontiguousarray(a))


def empty(shape: tuple[int, ...], like: Any) -> Any:
    """An array of this shape and of `like`'s dtype."""
    return np.empty(shape, dtype=like.dtype)


def quiet() -> Any:
    """No warnings of overflow or NaN."""
    return np.errstate(all="ignore")


def quietly(call: Callable[..., Any], *args: Any) -> Any:
    """`call(*args)` without warnings of overflow or NaN, in a third of the time of `quiet`: NumPy keeps that in a context variable."""
    if _QUIET is None:
        with quiet():
            return call(*args)
    return _QUIET.copy().run(call, *args)


def _quiet_context() -> Context | None:
    """A context in which NumPy warns of nothing; None for NumPy 1, which keeps that by threads."""
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        return None
    context = Context()
    context.run(np.seterr, all="ignore")
    return context


_QUIET = _quiet_context()


def zeros(shape: tuple[int, ...]) -> Any:
    """A float64 array of zeros."""
    return np.zeros(shape)


def largest(sizes: Any) -> float:
    """The largest of some numbers, NaN if one is: for a few of them in a quarter of the time of NumPy's maximum."""
    return sizes.item(sizes.argmax())  # type: ignore[no-any-return]


def largest_size(a: Any) -> float:
    """The largest size of some numbers, NaN if one is: of real ones without an array of sizes."""
    return largest(np.abs(a)) if a.dtype.kind == "c" else max(largest(a), -a.item(a.argmin()))


def structure_of(crow: Tensor, col: Tensor, shape: tuple[int, int]) -> Structure:
    """The analysis of a pattern, validated and made once, then found again by its entries."""

    pointers, columns = np.ascontiguousarray(crow.numpy()), np.ascontiguousarray(col.numpy())

    def make(pointers: Any, columns: Any) -> Structure:
        check_form(crow, col, shape)
        check_entries(crow, col, shape)
        return Structure(pointers, columns, shape)

    return ANALYSES.get(("host", shape, columns.dtype), (pointers, columns), make)  # type: ignore[no-any-return]


class Rows(NamedTuple):
    """What a product reads of a pattern: its shape, row pointers and columns, int32."""

    shape: tuple[int, int]
    indptr: Any
    indices: Any


class Product:
    """`A x` and `Aᴴ x` of a matrix with entries as given, duplicates included."""

    def __init__(self, structure: Structure | Rows, values: Any) -> None:
        self.structure, self.dtype = structure, values.dtype
        self._csr = structure.indptr, structure.indices, values

    def __call__(self, x: Any, adjoint: bool) -> Any:
        """`A x`, or `Aᴴ x` as `conj(Aᵀ conj(x))`, for `x` `(n,)` or `(n, k)`: a new array."""
        shape = self.structure.shape
        if len(x) != shape[not adjoint]:
            raise ValueError(f"x has {len(x)} rows; A has shape {shape}.")  # SciPy's loops would read on
        if adjoint and x.dtype.kind == "c":
            y = product(shape, self._csr, x.conj(), True)
            return np.conjugate(y, out=y)
        return product(shape, self._csr, x, adjoint)


def matrix(structure: Structure, values: Any) -> Product:
    """The matrix with entries as given, for products."""
    return Product(structure, values)


def multiply(A: Product, x: Any, *, adjoint: bool) -> Any:
    """`A x` or `Aᴴ x`."""
    return A(x, adjoint)


def sampled(structure: Structure, u: Any, v: Any) -> Any:
    """`(u vᴴ)` at the entries, for each of several: `u` `(matrices, rows, k)` and `v` `(matrices, columns, k)`."""
    if len(u) == 1:
        return _sampled(structure, u[0], v[0])[None]
    if u.shape[2] == 1 and structure.indices.size < _FEW:
        rows, columns = structure.rows, structure.indices
        out = u[:, :, 0].take(rows, axis=1)
        with quiet():
            out *= v[:, :, 0].conj().take(columns, axis=1)
        return out
    out = np.empty((len(u), structure.indices.size), dtype=u.dtype)
    for i in range(len(u)):
        out[i] = _sampled(structure, u[i], v[i])
    return out


def _sampled(structure: Structure, u: Any, v: Any) -> Any:
    """Of one, `u` `(rows, k)` and `v` `(columns, k)`, a cache-sized piece at a time: never nnz x k numbers at once."""
    rows, columns = structure.places
    k, v = u.shape[1], v.conj()
    if k == 1:
        out = v.ravel().take(structure.indices) if len(structure.indices) < _FEW else gathered(v.ravel(), columns)
        scale_rows(structure.shape, (structure.indptr, structure.indices, out), u.ravel())
        return out
    nnz, u, v = structure.indices.size, np.ascontiguousarray(u), np.ascontiguousarray(v)
    out = np.zeros(nnz, dtype=u.dtype)
    piece = max(1, _CHUNK // max(k, 1))
    for start in range(0, nnz, piece):
        part = slice(start, start + piece)
        np.einsum("ek,ek->e", gathered(u, rows[part]), gathered(v, columns[part]), out=out[part])
    return out


def gathered(a: Any, places: Tensor) -> Any:
    """`a[places]`, a new array, by torch: NumPy turns 32-bit places into 64-bit ones first, and takes three to six times as long."""
    if places.shape[0] < _FEW or not a.flags.writeable:
        return a.take(places.numpy(), axis=0)  # sooner done; or torch would warn of it
    return torch.index_select(torch.from_numpy(a), 0, places).numpy()
