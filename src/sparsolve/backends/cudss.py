"""cuDSS on CUDA: LU, `L D Lᵀ`, `L D Lᴴ` and Cholesky of a matrix that is on the device, with one analysis for all values on a pattern.

The factor of the newest values is kept; that of older ones is made again, numerically, when they are asked for. Whoever comes back
more than a few times gets an analysis of its own, after which the two do not disturb each other: all in all that costs at most
twice what the better choice would have cost (the rule of renting before buying).

cuDSS returns success with wrong numbers for some matrices without a strong diagonal: the caller checks every solution.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..caching import cached_property
from ..errors import sentence
from ..result import Strategy
from .cudss_handle import ADJOINT, NORMAL, TRANSPOSED, Handle
from .cudss_library import missing
from .cupy_runtime import cupy
from .decomposition import DecompositionError, Kind, served
from .host import Structure
from .strategy import Candidate, Matrix, cholesky

__all__ = ["CANDIDATES", "CudssDecomposition", "DeviceMatrix", "decompose", "missing"]

_LEAST, _LARGE = 1_000, 300_000  # unknowns; entries times entries a row, from which on the analysis pays at once
_WEAK = "cudss met small pivots"  # on a pattern, once
_PATIENCE = 3  # numeric factorizations that take as long as an analysis, about


class DeviceMatrix(Matrix):
    """A matrix on the host, as strategies look at it, and on the device.

    Attributes:
        on_device: canonical CuPy CSR matrix; None where nothing is to be decomposed.
    """

    def __init__(self, structure: Structure, A: Any, on_device: Any, pinned: bool) -> None:
        super().__init__(structure, None, pinned)
        self.A, self.on_device = A, on_device

    @cached_property
    def finite(self) -> bool:
        """What NaN does to an ordering by values is anybody's guess."""
        return bool(np.isfinite(self.A.data).all())


def decompose(A: Any, structure: Structure, kind: Kind) -> CudssDecomposition:
    """Factorize a canonical CuPy CSR matrix, with the analysis of its pattern that an earlier one left, if that is still in use.

    The matching of a general matrix comes from the values that were analysed. If it fails these values (pivots are replaced), the
    analysis is made anew.

    Args:
        A: `(n, n)`, float32, float64, complex64 or complex128, int32 indices.
        structure: of its pattern, on the host.
        kind: what A is known to be.

    Raises:
        DecompositionError: the library says so; NotPositive where `kind` is "positive" and A is not.
        torch.OutOfMemoryError: of the device.
    """
    key = (__name__, kind, A.data.dtype.char)
    known = structure.found[key]() if key in structure.found else None
    if known is not None and known.usable:
        again = served(lambda: CudssDecomposition(known, A, kind), kind)
        if again is not None:
            return again
    handle = Handle(A, kind)
    found = CudssDecomposition(handle, A, kind)
    if found.perturbed:  # of a singular matrix, perhaps, whose matching would spoil the factors of all later ones
        structure.found.pop(key, None)
    else:
        structure.found[key] = weakref.ref(handle)  # its memory is the factors', and goes with the last of them
    return found


class CudssDecomposition:
    """Factor of one matrix: see `strategy.Decomposition`; `perturbed` is the number of pivots replaced."""

    def __init__(self, handle: Handle, A: Any, kind: Kind) -> None:
        self._handle, self._A, self._kind, self._returns = handle, A, kind, 0
        with handle.lock:
            self.perturbed = handle.factorize(A.data)

    @property
    def nbytes(self) -> int:
        """Bytes of the factor, on the device; those that share an analysis each count it."""
        return self._handle.nbytes

    def solve(self, b: Any, trans: str = "N", *, adjoint: bool = False) -> Any:
        """A new array `A⁻¹ b`, `A⁻ᵀ b` or `A⁻ᴴ b`, where `b` is: on the device, or on the host; `(n,)` or `(n, k)`, in any order."""
        if isinstance(b, np.ndarray):
            return self.solve(cupy().asarray(b), trans, adjoint=adjoint).get()
        mode, conjugated = self._mode("H" if adjoint else trans)
        columns = cupy().asfortranarray(b.reshape(b.shape[0], -1).astype(self._A.data.dtype, copy=False))
        if not columns.size:
            return b.copy()
        with self._factor() as handle:
            x = handle.solve(cupy().asfortranarray(columns.conj()) if conjugated else columns, mode)
        x = x.conj() if conjugated else x
        return x.ravel() if b.ndim == 1 else x

    def _mode(self, trans: str) -> tuple[int, bool]:
        """How cuDSS is asked, and whether `conj(A⁻¹ conj(b))` is meant: it transposes general matrices alone, and has no adjoint of real ones."""
        if self._A.data.dtype.kind != "c":
            return (TRANSPOSED if self._kind == "general" and trans != "N" else NORMAL), False
        if self._kind == "general":
            return {"N": NORMAL, "T": TRANSPOSED, "H": ADJOINT}[trans], False
        return NORMAL, trans == ("H" if self._kind == "symmetric" else "T")

    @contextmanager
    def _factor(self) -> Iterator[Handle]:
        """The handle for one call, with this matrix's factor in it."""
        handle, data = self._handle, self._A.data
        with handle.lock:
            if handle.data is not data and handle.usable and self._returns < _PATIENCE:
                self._returns += 1
                handle.factorize(data)
            if handle.data is data:
                yield handle
                return
        handle = Handle(self._A, self._kind)
        handle.factorize(data)
        self._handle = handle
        with handle.lock:
            yield handle


def _pays(matrix: Matrix) -> str | None:
    """As with PARDISO, the analysis of a small matrix waits until the pattern comes again."""
    assert isinstance(matrix, DeviceMatrix)
    n, nnz = matrix.A.shape[0], len(matrix.A.data)
    if not matrix.finite:
        return None
    if matrix.pinned:
        return "it was asked for"
    if n < _LEAST:
        return None
    if nnz * (nnz / n) >= _LARGE:
        return "much fills in"
    return "its pattern came before" if matrix.came_before else None


def _is_symmetric(matrix: Matrix) -> str | None:
    why = _pays(matrix)
    if why is None or matrix.kind == "general" or _WEAK in matrix.structure.found:
        return None
    return f"it is {_mirrored(matrix)}, and {why}"


def _mirrored(matrix: Matrix) -> Kind:
    return "symmetric" if matrix.kind == "symmetric" else "hermitian"


def _symmetric(matrix: Matrix) -> CudssDecomposition:
    made = _decomposed(matrix, _mirrored(matrix))
    if made.perturbed:  # LU finds other pivots
        matrix.structure.found[_WEAK] = True
        raise DecompositionError(sentence("L D Lᴴ met small pivots.", replaced=made.perturbed))
    return made


def _decomposed(matrix: Matrix, kind: Kind) -> CudssDecomposition:
    """Once more where memory was not enough, for some is free by then; after that it is the next strategy's turn, if there may be one."""
    assert isinstance(matrix, DeviceMatrix)
    try:
        return decompose(matrix.on_device, matrix.structure, kind)
    except torch.OutOfMemoryError:
        pass  # and its traceback goes, with the memory of the first try
    try:
        return decompose(matrix.on_device, matrix.structure, kind)
    except torch.OutOfMemoryError as error:
        if matrix.pinned:
            raise
        raise DecompositionError(str(error)) from error


CANDIDATES = (
    *cholesky(Strategy.CUDSS_CHOLESKY, _pays, lambda m: _decomposed(m, "positive")),
    Candidate(Strategy.CUDSS_SYMMETRIC, _is_symmetric, _symmetric),
    Candidate(Strategy.CUDSS, _pays, lambda m: _decomposed(m, "general")),
)
