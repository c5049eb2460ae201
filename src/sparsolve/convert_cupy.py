"""torch sparse tensors on CUDA as CuPy matrices and back, on their device.

CuPy's arrays cannot be made read-only, and `M *= 2` or `M[i, j] = v` write into the data. So values are always copied, either way.
Indices become int32, for CuPy before 14.1 takes the memory of int64 ones for int32 (`coo2csr`) and its constructors narrow them. Those that are
int32 already are shared where they are canonical: CuPy sorts and sums in place only what is not. The order of entries is torch's work
here, since CuPy's constructors wait for the device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from .backends.cupy_runtime import array, here, sparse
from .convert_checks import undescribed, unknown_dtype
from .errors import PatternError, of_device, sentence
from .indices import check_entries, rising, rows

__all__ = ["c2t_coo", "c2t_csr", "t2c_coo", "t2c_csr"]

_LOOK = "Look at M.indptr, M.indices (CSR) or M.row, M.col (COO)."
_DTYPES = (torch.bool, torch.float32, torch.float64, torch.complex64, torch.complex128)


def t2c_csr(T: Tensor) -> Any:
    """The CuPy CSR matrix of a checked CSR tensor."""
    values, (crow, col) = _owned(T.values()), _narrow(T, T.crow_indices(), T.col_indices())
    canonical = bool(rising(_rows(crow, col, T.shape), col).all())
    if not canonical:
        crow, col = crow.clone(), col.clone()
    with here(T.device) as at:
        M = sparse().csr_matrix(tuple(T.shape), dtype=array(values).dtype)
        M.data, M.indices, M.indptr = array(values), array(col), array(crow)
        if canonical:
            M.has_canonical_format = True
        at.stream.synchronize()  # who uses M may be in another stream
    return M


def t2c_coo(T: Tensor) -> Any:
    """The CuPy COO matrix of a checked, coalesced COO tensor."""
    row, col = T.indices()
    values = _owned(T.values())
    if not rising(row, col).all():  # called coalesced, but is not
        row, col, values = _summed(row, col, values, tuple(T.shape))
    row, col = _narrow(T, row, col)
    with here(T.device) as at:
        M = sparse().coo_matrix(tuple(T.shape), dtype=array(values).dtype)
        M.data, M.row, M.col = array(values), array(row), array(col)
        M.has_canonical_format = True
        at.stream.synchronize()
    return M


def c2t_csr(M: Any) -> Tensor:
    """The CSR tensor of a CuPy CSR matrix, in memory of its own."""
    indptr, indices, data = _taken(M.indptr, M.indices, M.data)
    indices, data = (t[: int(indptr[-1])] for t in (indices, data))
    index = torch.promote_types(indptr.dtype, indices.dtype)
    row = _rows(indptr, indices, M.shape)
    if not rising(row, indices).all():
        row, indices, data = _summed(row, indices, data, tuple(M.shape))
        indptr = torch.searchsorted(row, torch.arange(M.shape[0] + 1, device=row.device, dtype=row.dtype))
    parts = indptr.to(index), indices.to(index), data
    return _checked(
        lambda: torch.sparse_csr_tensor(*parts, size=tuple(M.shape), device=data.device, check_invariants=True)
    )


def c2t_coo(M: Any) -> Tensor:
    """The coalesced COO tensor of a CuPy COO matrix, in memory of its own."""
    row, col, data = _taken(M.row, M.col, M.data)
    if not rising(row, col).all():
        row, col, data = _summed(row, col, data, tuple(M.shape))
    indices = torch.stack([row, col]).long()
    return _checked(
        lambda: torch.sparse_coo_tensor(
            indices, data, tuple(M.shape), device=data.device, check_invariants=True, is_coalesced=True
        )
    )


def _taken(*arrays: Any) -> tuple[Tensor, ...]:
    """Copies of CuPy's arrays, ordinary tensors; torch's stream waits for what CuPy's current stream on their device still does to them."""
    with arrays[0].device:
        return tuple(from_dlpack(a).clone(memory_format=torch.contiguous_format) for a in arrays)


def _narrow(T: Tensor, *indices: Tensor) -> list[Tensor]:
    """int32 indices of what is in T."""
    if max(*T.shape, indices[-1].shape[0]) >= 2**31:
        raise ValueError(
            sentence(
                f"T is {T.shape[0]} x {T.shape[1]} with {indices[-1].shape[0]} entries; CuPy's matrices take fewer than 2**31 of each."
            )
        )
    return [t.int() for t in indices]


def _owned(values: Tensor) -> Tensor:
    """A copy with torch's lazy bits applied."""
    if values.dtype not in _DTYPES:
        raise unknown_dtype(values, "CuPy's sparse matrices do")
    return values.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)


def _rows(crow: Tensor, col: Tensor, shape: Any) -> Tensor:
    """The row of each entry."""
    try:
        check_entries(crow, col, tuple(shape))
    except PatternError as error:
        raise undescribed(str(error), _LOOK) from error
    return rows(crow, col.shape[0])


def _summed(row: Tensor, col: Tensor, data: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Entries in row-major order, those of one place added up (true if any is, for bool)."""
    wide = data.to(torch.float32) if data.dtype is torch.bool else data
    T = _checked(
        lambda: torch.sparse_coo_tensor(torch.stack([row, col]).long(), wide, shape, check_invariants=True).coalesce()
    )
    (rows, cols), summed = T.indices(), T.values()
    return rows.to(row.dtype), cols.to(col.dtype), summed.to(data.dtype)


def _checked(make: Any) -> Tensor:
    try:
        return make()  # type: ignore[no-any-return]
    except RuntimeError as error:
        if of_device(error):
            raise
        raise undescribed(str(error), _LOOK) from error
