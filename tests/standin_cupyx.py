"""The sparse part of the stand-in for CuPy. Indices are int32, products want canonical matrices, and nothing is sorted in place.

cuSPARSE is asked for products with columns only, of memory that begins at a multiple of 16 bytes, and for triangular solves with
right-hand sides in Fortran order. A changed copy of a matrix does not know that it is canonical, as in CuPy before 14.1.
"""

from __future__ import annotations

import contextlib
import copy as copying
import gc
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla

import sparsolve as sps
import standin_cupy as cp
from sparsolve import backends
from sparsolve.backends import cupy_runtime as runtime
from standin_cupy import made, ndarray, use

_splu = sla.splu  # tests count calls of the other


class spmatrix:  # noqa: N801
    """Base."""

    shape: tuple[int, int]
    dtype = property(lambda self: self.data.dtype)
    nnz = property(lambda self: self.data.size)

    def copy(self) -> Any:
        new = copying.copy(self)
        for name, a in vars(self).items():
            if isinstance(a, ndarray):
                setattr(new, name, a.copy())
        return new

    def _with(self, data: ndarray) -> Any:
        new = self.copy()
        new.data, new._canonical = data, None
        return new

    def astype(self, dtype: Any) -> Any:
        return self._with(self.data.astype(dtype))

    def conj(self) -> Any:
        return self._with(self.data.conj())

    def __abs__(self) -> Any:
        return self._with(abs(self.data))

    def __matmul__(self, x: Any) -> ndarray:
        self.sum_duplicates()
        assert isinstance(x, ndarray)
        assert x.size, "cuSPARSE has no descriptor of this"
        assert x.data.ptr % 16 == 0, "cuSPARSE reads 16 bytes at once"
        with np.errstate(all="ignore"):
            return made(np.asfortranarray(self._scipy() @ use(x)))

    def get(self) -> Any:
        cp.wait()
        return self._scipy().copy()


class _compressed(spmatrix):  # noqa: N801
    kind: Any

    def __init__(self, arg: Any, shape: Any = None, dtype: Any = float) -> None:
        if sp.issparse(arg):
            assert arg.format == self.format
            self.data, self.indices, self.indptr = map(made, (arg.data.copy(), arg.indices.copy(), arg.indptr.copy()))
            self.shape = arg.shape
        elif all(isinstance(n, int) for n in arg):
            self.data, self.indices = made(np.zeros(0, dtype)), made(np.zeros(0, np.int32))
            self.indptr, self.shape = made(np.zeros(arg[0] + 1, np.int32)), arg
        else:
            self.data, self.indices, self.indptr = arg
            assert all(isinstance(a, ndarray) and a.ndim == 1 for a in arg), "arrays of the device are needed"
            assert self.indices.dtype == self.indptr.dtype == np.int32, "int64 indices cost a copy and a wait each time"
            cp.wait()  # it looks at the ends of indptr
            self.shape = tuple(shape)
        assert self.dtype.char in "fdFD?", self.dtype
        self._canonical: bool | None = None

    def _scipy(self) -> Any:
        assert self.indices.dtype == np.int32, "this part of cuSPARSE has no int64"
        A = self.kind(self.shape, dtype=self.dtype)
        A.data, A.indices, A.indptr = use(self.data), use(self.indices), use(self.indptr)
        return A

    @property
    def has_canonical_format(self) -> bool:
        if self._canonical is None:
            cp.wait()
            A = self.kind((np.ones(self.nnz), use(self.indices).copy(), use(self.indptr).copy()), shape=self.shape)
            self._canonical = bool(A.has_canonical_format)
        return self._canonical

    @has_canonical_format.setter
    def has_canonical_format(self, value: bool) -> None:
        self._canonical = None
        assert not value or self.has_canonical_format or self.data is None, "it is not canonical"
        self._canonical = value

    def sum_duplicates(self) -> None:
        assert self.has_canonical_format, "this would sort and add up in place"

    sort_indices = sum_duplicates

    def tocsr(self) -> Any:
        return self if self.format == "csr" else csr_matrix(self._scipy().tocsr())

    @property
    def T(self) -> Any:
        other = {"csr": csc_matrix, "csc": csr_matrix}[self.format]
        new = other.__new__(other)
        vars(new).update(vars(self))
        new.shape = self.shape[::-1]
        return new


class csr_matrix(_compressed):  # noqa: N801
    format, kind = "csr", sp.csr_matrix


class csc_matrix(_compressed):  # noqa: N801
    format, kind = "csc", sp.csc_matrix


class coo_matrix(spmatrix):  # noqa: N801
    format = "coo"

    def __init__(self, arg: Any, dtype: Any = float) -> None:
        if sp.issparse(arg):
            self.data, self.row, self.col = map(made, (arg.data.copy(), arg.row.copy(), arg.col.copy()))
            self.shape = arg.shape
        else:
            self.data, self.shape = made(np.zeros(0, dtype)), arg
            self.row, self.col = (made(np.zeros(0, np.int32)) for _ in range(2))
        self.has_canonical_format = False

    def _scipy(self) -> Any:
        assert self.row.dtype == self.col.dtype == np.int32, "before 14.1 coo2csr takes int64 for int32"
        return sp.coo_matrix((use(self.data), (use(self.row), use(self.col))), shape=self.shape)


def issparse(M: Any) -> bool:
    return isinstance(M, spmatrix)


class SuperLU:
    """Triangular solves with the factors that SciPy's object has, by CuPy's use of its permutations."""

    def __init__(self, lu: Any) -> None:
        if not isinstance(lu, sla.SuperLU):
            raise TypeError("obj must be scipy.sparse.linalg.SuperLU")
        self.shape, self.nnz = lu.shape, lu.nnz
        self.perm_r, self.perm_c = cp.asarray(lu.perm_r), cp.asarray(lu.perm_c)
        self.L, self.U = csr_matrix(lu.L.tocsr()), csr_matrix(lu.U.tocsr())

    def solve(self, rhs: Any, trans: str = "N") -> ndarray:
        if not isinstance(rhs, ndarray):
            raise TypeError("rhs must be cupy.ndarray")
        assert rhs.shape[0] == self.shape[0]
        assert rhs.ndim in (1, 2)
        assert trans in ("N", "T", "H")
        assert rhs.flags.f_contiguous
        assert rhs.dtype == self.L.dtype, "it would be cast, and an imaginary part be lost"
        x, rows, columns = use(rhs).astype(self.L.dtype), use(self.perm_r), use(self.perm_c)
        if trans == "N":
            x = _triangular(self.U, _triangular(self.L, x[np.argsort(rows)], trans), trans)[columns]
        else:
            x = _triangular(self.L, _triangular(self.U, x[np.argsort(columns)], trans), trans)[rows]
        return made(x.copy(order="F"))


def _triangular(F: csr_matrix, b: Any, trans: str) -> Any:
    F.sum_duplicates()
    A = {"N": F._scipy(), "T": F._scipy().T, "H": F._scipy().conj().T}[trans].tocsc()
    lower = sp.tril(A).nnz == A.nnz
    with np.errstate(all="ignore"):
        options = {"permc_spec": "NATURAL", "diag_pivot_thresh": 0.0, "relax": 1, "panel_size": 1}
        if A.dtype.char in "fdFD" and (A.diagonal() != 0).all() and np.isfinite(A.data).all():
            return _splu(A, **options).solve(b)  # a triangular matrix factorizes into itself
        return sla.spsolve_triangular(A.tocsr(), b, lower=lower)


class LinearOperator:
    def __init__(self, shape: Any, matvec: Any, rmatvec: Any = None, dtype: Any = None) -> None:
        self.shape, self._matvec, self._rmatvec, self.dtype = shape, matvec, rmatvec, dtype

    def matvec(self, x: ndarray) -> ndarray:
        assert x.shape in ((self.shape[1],), (self.shape[1], 1))
        return self._matvec(x)

    def rmatvec(self, x: ndarray) -> ndarray:
        if self._rmatvec is None:
            raise NotImplementedError("rmatvec is not defined")
        return self._rmatvec(x)

    @property
    def H(self) -> LinearOperator:
        return LinearOperator(self.shape[::-1], self._rmatvec, self._matvec, self.dtype)


def aslinearoperator(A: Any) -> LinearOperator:
    if isinstance(A, LinearOperator):
        return A
    if isinstance(A, ndarray):
        return LinearOperator(A.shape, lambda x: A @ x, lambda x: A.conj().T @ x, A.dtype)
    if issparse(A):
        return LinearOperator(A.shape, lambda x: A @ x, lambda x: A.conj().T @ x, A.dtype)
    return LinearOperator(A.shape, A.matvec, getattr(A, "rmatvec", None), getattr(A, "dtype", None))


def _module(name: str, **names: Any) -> None:
    module = sys.modules.setdefault(name, ModuleType(name))
    vars(module).update(names)


_module("standin_cupyx.scipy")
_module(
    "standin_cupyx.scipy.sparse",
    csr_matrix=csr_matrix,
    csc_matrix=csc_matrix,
    coo_matrix=coo_matrix,
    issparse=issparse,
)
_module(
    "standin_cupyx.scipy.sparse.linalg",
    SuperLU=SuperLU,
    LinearOperator=LinearOperator,
    aslinearoperator=aslinearoperator,
)


@contextlib.contextmanager
def installed() -> Iterator[cp.TorchCuda]:
    """CPU tensors are solved by the CUDA backend, which finds the stand-in in place of CuPy."""
    torch_cuda = cp.TorchCuda()
    rows = {(s, "cpu"): m for (s, device), m in backends._SOLVERS.items() if device == "cuda"}
    caches = (backends.device_module, backends.solver_module, runtime.cupy, runtime._part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "_loaded", lambda: cp)
        patch.setattr(runtime, "cuda", torch_cuda)
        patch.setattr(runtime, "_bytes", lambda *args: torch_cuda.bytes(*args))
        patch.setitem(backends._DEVICES, "cpu", "cupy_device")
        for row, module in rows.items():
            patch.setitem(backends._SOLVERS, row, module)
        for cache in caches:
            cache.cache_clear()
        sps.clear_memo()
        cp.waits = 0
        gc.freeze()  # the search for cycles below is for what is made from here on, not for all that torch's import made
        try:
            yield torch_cuda
        finally:
            sps.clear_memo()  # while there is somebody to free its memory
            gc.collect()
            gc.unfreeze()
            for cache in caches:
                cache.cache_clear()
