"""A stand-in for cuDSS on the stand-in for CuPy: real C function pointers, with the arguments as cuDSS's header has them, that compute with SciPy.

What cuDSS takes for granted is an error here: the order of phases; arrays that are still there when they are read, of the declared
dtype and size, and of the declared order; torch's current stream, and no other one at work on the same memory; one thread at a time;
the device of the handle; objects that exist, destroyed once. What it refuses is refused (`Library.refused`), what it ignores is ignored.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import threading
import traceback
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla

import sparsolve as sps
import standin_cupy as cp
import standin_cupyx as cpx
from sparsolve.backends import cudss, cudss_handle, cudss_library

_splu = sla.splu  # tests count calls of the other
OK, ALLOC_FAILED, INVALID, NOT_SUPPORTED, EXECUTION_FAILED, INTERNAL = 0, 2, 3, 4, 5, 6
ANALYSIS, FACTORIZATION, REFACTORIZATION, SOLVE = 1 | 2, 1 << 2, 1 << 3, sum(1 << i for i in range(4, 10))
GENERAL, SYMMETRIC, HERMITIAN, SPD, HPD = range(5)
FULL, LOWER, UPPER = range(3)
DTYPES = {0: "f", 1: "d", 4: "F", 5: "D", 10: "i"}  # cudaDataType_t

_P, _I, _L, _S = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_size_t
# Written from the header, apart from the package's own table: pointers, enumerations, int64_t and size_t, in order.
SIGNATURES = {
    "cudssGetProperty": (_I, _P),
    "cudssCreate": (_P,),
    "cudssDestroy": (_P,),
    "cudssSetStream": (_P, _P),
    "cudssConfigCreate": (_P,),
    "cudssConfigDestroy": (_P,),
    "cudssConfigSet": (_P, _I, _P, _S),
    "cudssDataCreate": (_P, _P),
    "cudssDataDestroy": (_P, _P),
    "cudssDataGet": (_P, _P, _I, _P, _S, _P),
    # matrix, nrows, ncols, nnz, rowStart, rowEnd, colIndices, values, offsetType, indexType, valueType, mtype, mview, indexBase
    "cudssMatrixCreateCsr": (_P, *3 * (_L,), *4 * (_P,), *6 * (_I,)),
    "cudssMatrixCreateDn": (_P, _L, _L, _L, _P, _I, _I),
    "cudssMatrixSetValues": (_P, _P),
    "cudssMatrixDestroy": (_P,),
    "cudssExecute": (_P, _I, _P, _P, _P, _P, _P),
}


class Refused(Exception):  # noqa: N818
    """A status that the library returns on purpose."""


class Library:
    """The function table.

    Attributes:
        version: what it says it is; below 1.0 the solve mode is taken and ignored.
        objects: those that exist.
        phases: those executed.
        problems: what was done that cuDSS would have punished.
        fail: phases, or names of functions, and the status that they return, once for each time they are listed.
        wrong: solutions are noise, and that is called success.
        replaced: what is said of how many pivots were replaced, whatever happened.
        epsilon: diagonal entries smaller than this times the largest entry are replaced before elimination, and counted.
        indefinite: the status of a Cholesky factorization that ends early; `info` says so in any case.
    """

    def __init__(self, torch_cuda: Any, version: tuple[int, int, int]) -> None:
        self.torch_cuda, self.version = torch_cuda, version
        self.objects: dict[int, Any] = {}
        self.phases: list[int] = []
        self.problems: list[str] = []
        self.fail: list[tuple[Any, int]] = []
        self.wrong, self.indefinite = False, OK
        self.replaced: int | None = None
        self.epsilon = 0.0
        self._names = itertools.count(0x7F00_0000_1000, 0x10)
        for name, arguments in SIGNATURES.items():
            call = getattr(self, "_" + name.removeprefix("cudss"))
            setattr(self, name, ctypes.CFUNCTYPE(_I, *arguments)(self._guarded(name, call)))

    def _guarded(self, name: str, call: Any) -> Any:
        """An exception cannot pass through C: it is kept, and told at the end."""

        def guarded(*args: Any) -> int:
            try:
                self.refuse(name)
                call(*args)
            except Refused as refused:
                return refused.args[0]
            except BaseException:
                self.problems.append(traceback.format_exc())
                return INTERNAL
            return OK

        return guarded

    def refuse(self, what: Any) -> None:
        for entry in self.fail:
            if entry[0] == what:
                self.fail.remove(entry)
                raise Refused(entry[1])

    # ---- objects

    def _new(self, place: int, **fields: Any) -> None:
        name = next(self._names)
        self.objects[name] = SimpleNamespace(**fields)
        _P.from_address(place).value = name

    def _get(self, name: int, kind: str) -> Any:
        found = self.objects[name]
        assert found.kind == kind, f"a {found.kind} where a {kind} is needed"
        return found

    def _here(self, handle: Any) -> None:
        assert self.torch_cuda.local.index == handle.device, "another device than the handle's"

    def _GetProperty(self, which: int, place: int) -> None:
        _I.from_address(place).value = self.version[which]

    def _Create(self, place: int) -> None:
        self._new(place, kind="handle", device=self.torch_cuda.local.index, stream=None)

    def _Destroy(self, handle: int) -> None:
        self._here(self._get(handle, "handle"))
        assert not [o for o in self.objects.values() if o.kind == "data" and o.handle == handle], "its data exists"
        del self.objects[handle]

    def _SetStream(self, handle: int, stream: int) -> None:
        self._get(handle, "handle").stream = stream

    def _ConfigCreate(self, place: int) -> None:
        self._new(place, kind="config", mode=0)

    def _ConfigDestroy(self, config: int) -> None:
        assert self._get(config, "config")
        del self.objects[config]

    def _ConfigSet(self, config: int, parameter: int, value: int, size: int) -> None:
        assert (parameter, size) == (4, 4), "the solve mode, an int, is all that is set"
        mode = _I.from_address(value).value
        if self.version >= (1, 0, 0):
            if mode not in (0, 1, 2):
                raise Refused(NOT_SUPPORTED)
            self._get(config, "config").mode = mode

    def _DataCreate(self, handle: int, place: int) -> None:
        self._here(self._get(handle, "handle"))
        self._new(place, kind="data", handle=handle, stage=0, info=0, replaced=0, stream=None, time=0, lock=threading.Lock())  # fmt: skip

    def _DataDestroy(self, handle: int, data: int) -> None:
        found = self._get(data, "data")
        self._here(self._get(handle, "handle"))
        assert found.handle == handle
        assert found.stream is None or found.time <= found.stream.waited, "it is still at work"
        del self.objects[data]

    def _DataGet(self, handle: int, data: int, parameter: int, value: int, size: int, written: int) -> None:
        found, at = self._get(data, "data"), self._get(handle, "handle")
        self._here(at)
        assert at.stream == cp.now().stream.cuda_stream
        cp.wait()
        kind, stage, answer = {
            0: (_I, 0, [found.info]),
            1: (_L, 1, [found.stage and found.entries]),
            2: (_I, 2, [found.replaced]),
            13: (_L * 16, 1, [found.stage and 100 * found.entries, *15 * [7]]),
        }[parameter]
        assert found.stage >= stage, "asked too early"
        assert size == ctypes.sizeof(kind)
        array = (kind if len(answer) > 1 else kind * 1).from_address(value)
        array[:] = answer
        _S.from_address(written).value = size

    def _MatrixCreateCsr(self, place: int, n: int, columns: int, nnz: int, start: int, end: Any, indices: int, values: int, *types: int) -> None:  # fmt: skip
        assert n == columns
        assert end is None
        offset_type, index_type, value_type, form, view, base = types
        assert (offset_type, index_type, base) == (10, 10, 0), "int32 indices from 0"
        complex_ = value_type in (4, 5)
        if form in (HERMITIAN, HPD) and not complex_:
            raise Refused(NOT_SUPPORTED)
        assert form != SPD or not complex_, "SPD is of real matrices"
        assert view == (FULL if form == GENERAL else UPPER)
        self._new(place, kind="csr", n=n, nnz=nnz, start=start, indices=indices, values=values, type=value_type, form=form)  # fmt: skip

    def _MatrixCreateDn(self, place: int, n: int, k: int, ld: int, values: int, value_type: int, layout: int) -> None:
        assert layout == 0, "row-major blocks are not supported"
        assert ld == n
        self._new(place, kind="dense", n=n, k=k, values=values, type=value_type)

    def _MatrixSetValues(self, matrix: int, values: int) -> None:
        self._get(matrix, "csr").values = values

    def _MatrixDestroy(self, matrix: int) -> None:
        assert self.objects[matrix].kind in ("csr", "dense")
        del self.objects[matrix]

    # ---- phases

    def _Execute(self, handle: int, phase: int, config: int, data: int, matrix: int, x: int, b: int) -> None:
        at, found, A = self._get(handle, "handle"), self._get(data, "data"), self._get(matrix, "csr")
        mode = self._get(config, "config").mode
        x, b = (self._block(self._get(v, "dense"), A) for v in (x, b))
        self._here(at)
        assert found.handle == handle
        stream = cp.now().stream
        assert at.stream == stream.cuda_stream, "not in torch's current stream"
        assert found.stream in (None, stream) or found.time <= found.stream.waited, "another stream is still at work"
        assert found.lock.acquire(blocking=False), "two threads at once"
        try:
            self.phases.append(phase)
            self.refuse(phase)
            {ANALYSIS: self._analyse, FACTORIZATION: self._factorize, REFACTORIZATION: self._refactorize}.get(
                phase, lambda *_: self._solve(found, A, mode, x, b)
            )(found, A)
            assert phase in (ANALYSIS, FACTORIZATION, REFACTORIZATION, SOLVE)
        finally:
            found.stream, found.time = stream, next(cp._clock)
            found.lock.release()

    def _block(self, dense: Any, A: Any) -> Any:
        assert (dense.n, dense.type) == (A.n, A.type)
        a = array(dense.values, DTYPES[dense.type], dense.n * dense.k)
        assert a._a.shape == (dense.n, dense.k)
        assert a._a.flags.f_contiguous
        return a

    def _matrix(self, A: Any) -> Any:
        """As cuDSS reads it: of a symmetric one the upper triangle."""
        start, indices = (
            cp.use(array(p, "i", size)) for p, size in ((A.start, A.n + 1), (A.indices, A.nnz))
        )  # fmt: skip
        values = cp.use(array(A.values, DTYPES[A.type], A.nnz))
        M = sp.csr_matrix((values.copy(), indices.copy(), start.copy()), shape=(A.n, A.n))
        assert M.has_canonical_format
        assert np.isfinite(M.data).all(), "nobody knows what matching does with NaN"
        if A.form == GENERAL:
            return M.tocsc()
        upper, strict = sp.triu(M), sp.triu(M, 1)
        return (upper + (strict.conj().T if A.form in (HERMITIAN, HPD) else strict.T)).tocsc()

    def _analyse(self, found: Any, A: Any) -> None:
        self._matrix(A)
        found.stage, found.entries, found.pattern = 1, 3 * A.nnz, (A.start, A.indices, A.nnz, A.form, A.type)

    def _refactorize(self, found: Any, A: Any) -> None:
        assert found.stage == 2, "a refactorization needs a factorization before it"
        self._factorize(found, A)

    def _factorize(self, found: Any, A: Any) -> None:
        assert found.stage, "the analysis comes first"
        assert found.pattern == (A.start, A.indices, A.nnz, A.form, A.type), "another pattern than the one analysed"
        if found.info:
            raise Refused(EXECUTION_FAILED)  # it has to be reset first
        M = self._matrix(A)
        found.stage, found.values = 2, A.values
        least = self.epsilon * abs(M).max()
        small = abs(M.diagonal()) < least
        M, found.replaced = (M + sp.diags(np.where(small, least, 0))).tocsc().astype(M.dtype), int(small.sum())
        try:
            found.lu = _splu(M, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
            definite = np.array_equal(found.lu.perm_r, found.lu.perm_c) and (found.lu.U.diagonal().real > 0).all()
        except RuntimeError:  # small pivots are replaced, and that is success
            definite, found.replaced = False, 1
            found.lu = _splu((M + 1e-13 * (abs(M).max() or 1) * sp.eye(A.n)).tocsc().astype(M.dtype))
        if A.form in (SPD, HPD) and not definite:
            found.info, found.lu = 3, None
            if self.indefinite != OK:
                raise Refused(self.indefinite)
        if self.replaced is not None:
            found.replaced = self.replaced

    def _solve(self, found: Any, A: Any, mode: int, x: Any, b: Any) -> None:
        assert found.stage == 2, "the factorization comes first"
        assert found.info == 0
        assert found.values == A.values, "these values were not factorized"
        array(A.values, DTYPES[A.type], A.nnz)
        if mode == 2 and (A.type not in (4, 5) or A.form == SYMMETRIC):
            raise Refused(NOT_SUPPORTED)
        if mode == 1 and A.form in (HERMITIAN, HPD):
            raise Refused(NOT_SUPPORTED)
        solution = found.lu.solve(cp.use(b).copy(), "NTH"[mode if A.form == GENERAL else 0])
        x._a[...] = np.random.default_rng(0).random(x.shape) if self.wrong else solution
        x._written()


def array(pointer: int, dtype: str, size: int) -> cp.ndarray:
    """The array at an address, whose memory must still be there."""
    assert pointer in cp.pointers, "not an address of an array on the device"
    there = [owner() for owner, memory, _ in cp.pointers[pointer] if memory() is not None]
    assert there, "the memory at this address is gone"
    living = [a for a in there if a is not None]
    assert living, "the array at this address is gone"
    found = next((a for a in living if a.stream is cp.now().stream), living[-1])  # threads may share a tensor
    assert (found.dtype.char, found.size) == (dtype, size)
    cp.use(found)
    return found


@contextlib.contextmanager
def installed(version: tuple[int, int, int] = (1, 0, 0), pays: bool = True) -> Iterator[Library]:
    """CPU tensors are solved by the CUDA backend, which finds both stand-ins; with `pays`, cuDSS takes the smallest systems too."""
    with cpx.installed() as torch_cuda, pytest.MonkeyPatch.context() as patch:
        library = Library(torch_cuda, version)
        patch.setattr(cudss_library, "_open", lambda path: library)
        patch.setattr(cudss_library, "_places", lambda: iter(["/standin/libcudss.so"]))
        patch.setattr(cudss_handle, "cuda", torch_cuda)
        if pays:
            patch.setattr(cudss, "_LEAST", 0)
            patch.setattr(cudss, "_LARGE", 0)
        cudss_library._loaded.cache_clear()
        try:
            yield library
        finally:
            sps.clear_memo()
            gc.collect()
            cp.pointers.clear()
            cudss_library._loaded.cache_clear()
        assert not library.problems, "\n".join(library.problems)
        assert not library.objects, "left behind"
