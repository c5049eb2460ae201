"""cuDSS's memory for one analysis and for the factor of one matrix at a time, used by one thread at a time.

An object `cudssData_t` holds one analysis and one factor. Another matrix on the pattern is refactorized in its place: of the phases
the analysis is by far the longest, so new values cost the numeric part only. What cuDSS reads it does not copy: the arrays live here.

Work is queued in torch's current stream. Another stream than the last one waits for that, on the host, before it touches the same memory.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from typing import Any

from torch import cuda

from ..errors import sentence
from .cudss_library import Config, Data, MatrixType, Phase, View, call, get, library, value_type
from .cupy_runtime import cupy, now
from .decomposition import DecompositionError, Kind, NotPositive

__all__ = ["ADJOINT", "NORMAL", "TRANSPOSED", "Handle"]

NORMAL, TRANSPOSED, ADJOINT = range(3)  # `cudssSolveMode_t`
_COLUMN_MAJOR = _ZERO_BASED = 0
_TYPES = {  # real, complex
    "general": (MatrixType.GENERAL, MatrixType.GENERAL),
    "symmetric": (MatrixType.SYMMETRIC, MatrixType.SYMMETRIC),
    "hermitian": (MatrixType.SYMMETRIC, MatrixType.HERMITIAN),
    "positive": (MatrixType.SPD, MatrixType.HPD),
}


class Handle:
    """The phases of cuDSS on one pattern, for matrices of one kind and dtype.

    Args:
        A: canonical CuPy CSR matrix with all its entries; of a symmetric one cuDSS is told to read the upper triangle.
        kind: what matrices on this pattern are known to be.

    Attributes:
        data: the values whose factor is held, by identity; None if there is none.
        usable: whether no factorization has failed: cuDSS keeps the error.
        lock: to be held from the look at `data` to the end of the call.
        nbytes: on the device.
    """

    def __init__(self, A: Any, kind: Kind) -> None:
        self._n, self._kind, self._dtype = A.shape[0], kind, A.data.dtype
        self._indices, self._values, self.data = (A.indptr, A.indices), A.data, None
        self.lock, self.usable = threading.Lock(), True
        self._objects = objects = _Objects(now().device.index or 0)
        weakref.finalize(self, objects.destroy).atexit = False  # at exit CUDA may be gone before
        objects.make("handle", "cudssCreate")
        self._follow()
        objects.make("config", "cudssConfigCreate")
        objects.make("data", "cudssDataCreate", objects.handle)
        form, view = _TYPES[kind][self._dtype.kind == "c"], View.FULL if kind == "general" else View.UPPER
        pointers = (A.indptr.data.ptr, None, A.indices.data.ptr, A.data.data.ptr)
        index, numbers = value_type(A.indices.dtype), (self._n, self._n, A.indices.size)
        types = (index, index, value_type(self._dtype), form, view, _ZERO_BASED)
        objects.make("matrix", "cudssMatrixCreateCsr", *numbers, *pointers, *types)
        self._execute(Phase.ANALYSIS)
        self.nbytes = self._size()

    def factorize(self, data: Any) -> int:
        """The factor of the matrix with these values, in the place of the one before; returns how many pivots were replaced.

        Raises:
            NotPositive: `kind` is "positive" and the matrix is not.
            DecompositionError: cuDSS could not.
        """
        again, self.data, self.usable = self.data is not None, None, False
        self._follow()
        call("cudssMatrixSetValues", self._objects.matrix, data.data.ptr)
        self._values = data  # the ones before are read no more
        objects, failure = self._objects, None
        try:
            self._execute(Phase.REFACTORIZATION if again else Phase.FACTORIZATION)
        except DecompositionError as error:
            if self._kind != "positive":
                raise
            failure = error  # or the matrix is not positive definite: its info says so
        info = get(objects.handle, objects.data, Data.INFO, ctypes.c_int).value
        replaced = get(objects.handle, objects.data, Data.NPIVOTS, ctypes.c_int).value if not info else 0
        if self._kind == "positive" and (info or replaced):
            raise NotPositive(sentence("A pivot of the Cholesky factorization is not positive.", info=info))
        if failure is not None:
            raise failure
        if info:
            raise DecompositionError(sentence("cuDSS could not factorize this matrix.", info=info))
        self.data, self.usable = data, True
        return int(replaced)

    def solve(self, b: Any, mode: int) -> Any:
        """A new array, `(n, k)` in column-major order, of `A⁻¹ b`, `A⁻ᵀ b` or `A⁻ᴴ b`; `b` in that order and dtype."""
        self._follow()
        setting = ctypes.c_int(mode)
        call("cudssConfigSet", self._objects.config, Config.SOLVE_MODE, ctypes.byref(setting), ctypes.sizeof(setting))
        x = cupy().empty(b.shape, dtype=b.dtype, order="F")
        self._execute(Phase.SOLVE, x, b)
        return x

    def _follow(self) -> None:
        """Into torch's current stream; what another one still does with this memory is waited for."""
        stream, last = now().stream, self._objects.stream
        if last is not None and last != stream:
            last.synchronize()
        self._objects.stream = stream
        call("cudssSetStream", self._objects.handle, stream.cuda_stream)

    def _execute(self, phase: int, x: Any = None, b: Any = None) -> None:
        """One phase; those before the solve want vectors of the right shape, and leave them alone."""
        objects = self._objects
        vectors = [cupy().zeros((self._n, 1), dtype=self._dtype) if v is None else v for v in (x, b)]
        wrapped = [ctypes.c_void_p() for _ in vectors]
        try:
            for matrix, v in zip(wrapped, vectors, strict=True):
                assert (v.dtype, v.shape[0], v.flags.f_contiguous) == (self._dtype, self._n, True)
                numbers = (self._n, v.shape[1], self._n)
                form = value_type(v.dtype), _COLUMN_MAJOR
                call("cudssMatrixCreateDn", ctypes.byref(matrix), *numbers, v.data.ptr, *form)
            call("cudssExecute", objects.handle, phase, objects.config, objects.data, objects.matrix, *wrapped)
        finally:
            for matrix in wrapped:
                if matrix:
                    library().cudssMatrixDestroy(matrix)

    def _size(self) -> int:
        """Bytes on the device from the factorization on, by cuDSS's own estimate, and not less than the factors' entries."""
        objects = self._objects
        entries = get(objects.handle, objects.data, Data.LU_NNZ, ctypes.c_int64).value
        estimates = get(objects.handle, objects.data, Data.MEMORY_ESTIMATES, ctypes.c_int64 * 16)
        return max(int(estimates[0]), int(entries) * int(self._dtype.itemsize))


class _Objects:
    """What the library has made, destroyed in the process and on the device where it was made, when nothing uses it any more."""

    def __init__(self, device: int) -> None:
        self._device, self._process = device, os.getpid()
        self.handle: Any = None
        self.config: Any = None
        self.data: Any = None
        self.matrix: Any = None
        self.stream: Any = None

    def make(self, name: str, function: str, *args: Any) -> None:
        """The object that a function creates, whose place is its last argument, or its first if it is a matrix or the handle."""
        made = ctypes.c_void_p()
        place = ctypes.byref(made)
        try:
            call(function, *((*args, place) if name == "data" else (place, *args)))
        finally:
            setattr(self, name, made if made else None)

    def destroy(self) -> None:
        """Give back everything. The arrays that cuDSS reads are let go of afterwards."""
        if os.getpid() != self._process:
            return
        functions = library()
        with cuda.device(self._device):
            if self.stream is not None:
                self.stream.synchronize()
            if self.matrix is not None:
                functions.cudssMatrixDestroy(self.matrix)
            if self.data is not None:
                functions.cudssDataDestroy(self.handle, self.data)
            if self.config is not None:
                functions.cudssConfigDestroy(self.config)
            if self.handle is not None:
                functions.cudssDestroy(self.handle)
