"""torch sparse tensors as SciPy matrices and back: plain functions, no derivatives.

Memory is shared where nothing that SciPy does in place can reach the tensor, and copied elsewhere. An object that is
handed in is never changed, not even its flags. CUDA tensors become CuPy matrices on their device, and these CUDA tensors (`convert_cupy.py`).

SciPy sorts, sums and prunes in place (`spsolve` calls `sum_duplicates`). The views made here are read-only: found with
SciPy 1.17, on such a canonical matrix `sum_duplicates` and `sort_indices` do nothing, `eliminate_zeros`, `setdiag`,
`M[i, j] = v`, `M *= 2` and `M.data *= 2` raise ValueError before anything is written, no compiled routine writes
through, and the solvers, products, conversions and graph routines work as ever.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from . import convert_cupy
from .convert_checks import (
    is_cupy,
    require_as_many,
    require_described,
    require_matrix,
    require_tensor,
    undescribed,
    unknown_dtype,
)
from .errors import sentence
from .indices import check_entries, check_form, check_places, rising
from .levels import constant

__all__ = ["c2t_coo", "c2t_csr", "csr_parts", "t2c_coo", "t2c_csr"]

F = TypeVar("F", bound=Callable[..., Any])


def _plain(f: F) -> F:
    """A conversion has no derivatives: it runs as outside of transforms and of compiled code, which cannot hold SciPy's matrices."""
    reason = sentence(
        f"{f.__name__} is inside of compiled code, which cannot hold a matrix of SciPy.", remedy="Call it outside."
    )
    return torch.compiler.disable(constant(f), reason=reason)  # type: ignore[no-any-return]


@_plain
def t2c_csr(T: Tensor) -> sp.csr_matrix:
    """The SciPy CSR matrix of a CSR tensor.

    A canonical tensor (columns sorted, no duplicates) lends its memory, read-only; `.copy()` of the result is writable.
    Any other is copied as it is. A tensor that requires a gradient is detached.

    Args:
        T: `(m, n)` `torch.sparse_csr` tensor, of any dtype that NumPy has. A CUDA tensor (bool, float32, float64 or complex) becomes a CuPy
            matrix with a copy of the values and int32 indices; these are shared where the tensor's own are int32 and canonical.

    Returns:
        `(m, n)` matrix of the same dtype and (SciPy) index dtype: SciPy's own constructor would turn int64 into int32.

    Raises:
        TypeError: not a tensor, or a dtype that NumPy lacks (bfloat16).
        ValueError: another layout, batch dimensions, dense dimensions.
        PatternError: indices that do not describe a matrix.
        BackendUnavailableError: a tensor on a device without a backend, or on CUDA without CuPy.

    Cost:
        Two passes over the indices; no copy of a canonical tensor, one copy of any other.

    >>> import torch, sparsolve as sps
    >>> M = sps.t2c_csr(torch.tensor([[0.0, 2.0], [3.0, 0.0]]).to_sparse_csr())
    >>> M.indices, M.data
    (array([1, 0]), array([2., 3.], dtype=float32))
    """
    require_tensor(T, torch.sparse_csr, "to_sparse_csr")
    T = T.detach()
    crow, col, values = T.crow_indices(), T.col_indices(), T.values()
    check_form(crow, col, (T.shape[0], T.shape[1]))
    check_entries(crow, col, (T.shape[0], T.shape[1]))
    require_as_many(values, col)
    if T.is_cuda:
        return convert_cupy.t2c_csr(T)
    M = _filled(T.shape, _lent(values), _lent(col), _lent(crow))
    if M.has_canonical_format:  # looks at the entries, and sets SciPy's flags
        return M
    return _filled(T.shape, *(np.array(a) for a in (M.data, M.indices, M.indptr)))


@_plain
def t2c_coo(T: Tensor) -> sp.coo_matrix:
    """The SciPy COO matrix of a COO tensor.

    A coalesced tensor lends its memory, read-only; `.copy()` of the result is writable. Any other is coalesced, with
    a UserWarning. A tensor that requires a gradient is detached.

    Args:
        T: `(m, n)` `torch.sparse_coo` tensor, of any dtype that NumPy has. A CUDA tensor (bool, float32, float64 or complex) becomes a CuPy
            matrix with a copy of the values and int32 indices.

    Returns:
        `(m, n)` matrix of the same dtype, with int64 indices as the tensor has them (SciPy).

    Raises:
        TypeError: not a tensor, or a dtype that NumPy lacks (bfloat16).
        ValueError: another layout, batch dimensions, dense dimensions.
        PatternError: an entry outside of the matrix.
        BackendUnavailableError: a tensor on a device without a backend, or on CUDA without CuPy.

    Cost:
        Two passes over the indices; no copy of a coalesced tensor, a sort of any other.

    >>> import torch, sparsolve as sps
    >>> M = sps.t2c_coo(torch.tensor([[0.0, 2.0], [3.0, 0.0]]).to_sparse())
    >>> M.row, M.col, M.data
    (array([0, 1]), array([1, 0]), array([2., 3.], dtype=float32))
    """
    require_tensor(T, torch.sparse_coo, "to_sparse")
    T = T.detach()
    places = T._indices()
    check_places(places[0], places[1], T.shape)  # before coalesce(), which takes them as right
    require_as_many(T._values(), places[0])
    if not T.is_coalesced():
        warnings.warn(
            sentence(
                "The COO tensor is not coalesced; it was coalesced, so duplicates are added up.",
                "The order and number of entries differ from the tensor's.",
                "Call .coalesce() first to say that this is meant.",
            ),
            UserWarning,
            stacklevel=4,  # past `_plain`
        )
        T = T.coalesce()
    if T.is_cuda:
        return convert_cupy.t2c_coo(T)
    row, col, data = _lent(T.indices()[0]), _lent(T.indices()[1]), _lent(T.values())
    if not rising(row, col).all():  # called coalesced, but is not
        row, col, data = _summed(row, col, data)
    M = sp.coo_matrix(tuple(T.shape))
    M.data, M.coords = data, (row, col)  # the constructor would turn int64 indices into int32
    M.has_canonical_format = True
    return M


@_plain
def c2t_csr(M: Any) -> Tensor:
    """The CSR tensor of a SciPy CSR matrix.

    The tensor has its own memory, since SciPy may rewrite a writable array in place (`eliminate_zeros` moves values and indices), and
    nothing can stop it. The exception is a matrix that `t2c_csr` made: its arrays are read-only and belong to a tensor already, so the
    result shares them with that tensor. Unsorted columns are sorted and duplicates added up.

    Args:
        M: `(m, n)` `csr_matrix` or `csr_array` of SciPy or CuPy, of any dtype that torch has.

    Returns:
        `(m, n)` `torch.sparse_csr` tensor on M's device, of the same dtype and index dtype.

    Raises:
        TypeError: not a sparse matrix of SciPy or CuPy, or a dtype that torch lacks (longdouble).
        ValueError: another format, not 2-D, or indices that do not describe a matrix (`PatternError`).

    Cost:
        Three passes over the indices and a copy of all; a sort, where the matrix is not canonical.

    >>> import scipy.sparse, sparsolve as sps
    >>> sps.c2t_csr(scipy.sparse.csr_matrix([[0.0, 2.0], [3.0, 0.0]])).to_dense()
    tensor([[0., 2.],
            [3., 0.]], dtype=torch.float64)
    """
    require_matrix(M, "csr")
    if is_cupy(M):
        return convert_cupy.c2t_csr(M)
    parts = csr_parts(M)
    return _checked(lambda: torch.sparse_csr_tensor(*parts, size=M.shape, device="cpu", check_invariants=True))


@_plain
def c2t_coo(M: Any) -> Tensor:
    """The coalesced COO tensor of a SciPy COO matrix.

    The tensor has its own memory, for the reason given at `c2t_csr`; the values of a matrix that `t2c_coo` made are shared with
    the tensor that they belong to. Unsorted entries are sorted and duplicates added up.

    Args:
        M: `(m, n)` `coo_matrix` or `coo_array` of SciPy or CuPy, of any dtype that torch has.

    Returns:
        `(m, n)` coalesced `torch.sparse_coo` tensor on M's device, of the same dtype; torch's COO indices are always int64.

    Raises:
        TypeError: not a sparse matrix of SciPy or CuPy, or a dtype that torch lacks (longdouble).
        ValueError: another format, not 2-D, or indices that do not describe a matrix (`PatternError`).

    Cost:
        Three passes over the indices and a copy of all; a sort, where the matrix is not canonical.

    >>> import scipy.sparse, sparsolve as sps
    >>> sps.c2t_coo(scipy.sparse.coo_matrix([[0.0, 2.0], [3.0, 0.0]])).to_dense()
    tensor([[0., 2.],
            [3., 0.]], dtype=torch.float64)
    """
    require_matrix(M, "coo")
    if is_cupy(M):
        return convert_cupy.c2t_coo(M)
    require_described(M)
    row, col, data = M.row, M.col, M.data
    if not rising(row, col).all():
        row, col, data = _summed(row, col, data)
    indices, values = torch.from_numpy(np.stack([row, col]).astype(np.int64, copy=False)), _tensor(data)
    return _checked(
        lambda: torch.sparse_coo_tensor(
            indices, values, M.shape, device="cpu", check_invariants=True, is_coalesced=True
        )
    )


def csr_parts(M: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Row pointers, columns and values of a SciPy CSR matrix, as `c2t_csr` has them."""
    require_described(M)
    entries = int(M.indptr[-1])
    data, indices, indptr = M.data[:entries], M.indices[:entries], M.indptr
    row = np.repeat(np.arange(M.shape[0], dtype=indptr.dtype), np.diff(indptr))
    if not rising(row, indices).all():
        row, indices, data = _summed(row, indices, data)
        indptr = np.searchsorted(row, np.arange(M.shape[0] + 1)).astype(M.indptr.dtype)
    index = np.result_type(indptr, indices)
    return _tensor(indptr.astype(index, copy=False)), _tensor(indices.astype(index, copy=False)), _tensor(data)


def _lent(t: Tensor) -> Any:
    """A read-only NumPy view of a tensor."""
    try:
        a = t.resolve_conj().resolve_neg().numpy().view()
    except TypeError as error:
        raise unknown_dtype(t, "NumPy does") from error
    a.flags.writeable = False
    return a


def _filled(shape: Any, data: Any, indices: Any, indptr: Any) -> sp.csr_matrix:
    """A CSR matrix of just these arrays: the constructor would copy int64 indices that fit into int32."""
    M = sp.csr_matrix(tuple(shape))
    M.data, M.indices, M.indptr = data, indices, indptr
    return M


def _summed(row: Any, col: Any, data: Any) -> tuple[Any, Any, Any]:
    """Entries in row-major order, those of one place added up in their dtype (true if any is, for bool)."""
    order = np.lexsort((col, row))
    row, col, data = row[order], col[order], data[order]
    fresh = np.append(True, rising(row, col))
    return row[fresh], col[fresh], np.add.reduceat(data, np.flatnonzero(fresh), dtype=data.dtype)


def _tensor(a: Any) -> Tensor:
    """A tensor of its own memory; or of the memory of the tensor that `_lent` took the array from."""
    root = a.base
    if not a.flags.writeable and isinstance(root, np.ndarray) and isinstance(root.base, Tensor):
        lent = a.ctypes.data == root.ctypes.data and a.shape == root.shape and a.strides == root.strides
        if lent and a.dtype == root.dtype:
            return _unit_stride(torch.from_numpy(root))
    try:
        return _unit_stride(torch.from_numpy(np.array(a, dtype=a.dtype.newbyteorder("="))))
    except TypeError as error:
        wider = "complex128" if a.dtype.kind == "c" else "float64"
        raise TypeError(
            sentence(f"M has dtype {a.dtype}, which torch does not have.", remedy=f"Use M.astype(numpy.{wider}).")
        ) from error


def _checked(make: Callable[[], Tensor]) -> Tensor:
    try:
        return make()
    except RuntimeError as error:
        raise undescribed(str(error)) from error


def _unit_stride(t: Tensor) -> Tensor:
    return t if t.stride() == (1,) else t.clone(memory_format=torch.contiguous_format)  # torch 2.11 insists
