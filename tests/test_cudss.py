"""cuDSS without a GPU: the contract of the CUDA backend over a strict stand-in for the library, and what is cuDSS's own."""

from __future__ import annotations

import contextlib
import gc
import re
import traceback
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import oracle
import sparsolve as sps
import standin_cudss as sd
import standin_cupy as cp
import standin_cupyx as cpx
from sparsolve import backends
from sparsolve.backends import cudss, cudss_handle, cudss_library, cupy_lu, cupy_runtime, mkl
from sparsolve.backends.backward_error import BackwardError
from systems import SINGULAR, SYSTEMS, grid, made
from test_cupy import (  # noqa: F401  run here again, on the `device` below
    solve,
    system,
    test_a_pattern_is_analysed_for_each_device,
    test_a_solution_that_overflows_is_an_error,
    test_all_memory_is_torchs_and_goes_back,
    test_c4t,
    test_compiled,
    test_eight_threads_with_a_stream_each,
    test_gradient_of_a_sparse_tensor,
    test_inputs_are_not_modified,
    test_lazy_bits,
    test_new_values_use_the_ordering_that_was_found,
    test_not_finite,
    test_one_singular_matrix_of_a_batch,
    test_outputs_are_ordinary_tensors,
    test_singular,
    test_solution,
    test_the_context_ends_with_the_op,
    test_the_memo_compares_all_bits_of_large_arrays,
    test_the_memo_keeps_its_own_copy,
    test_transforms,
    test_two_streams,
    test_waits_of_a_direct_solve,
)
from test_sabotage import edited
from test_solve import check

F64, C128 = torch.float64, torch.complex128
CHOLESKY, SYMMETRIC, GENERAL = sps.Strategy.CUDSS_CHOLESKY, sps.Strategy.CUDSS_SYMMETRIC, sps.Strategy.CUDSS
SUPERLU = {sps.Strategy.SUPERLU, sps.Strategy.SUPERLU_SYMMETRIC, sps.Strategy.SUPERLU_CHOLESKY}
PINNED = sps.LU(backend="cudss")
A, F, R, S = sd.ANALYSIS, sd.FACTORIZATION, sd.REFACTORIZATION, sd.SOLVE


@pytest.fixture
def library(fresh):
    with sd.installed() as library:
        yield library


@pytest.fixture
def device(library):
    return library.torch_cuda


def run(values, pattern, b, solver=None, adjoint=False):
    """The solution, found right, and the strategy."""
    x, info = sps.solve_with_info(sps.SparseMatrix(values, pattern), b, solver or sps.LU(), adjoint=adjoint)
    check(values, pattern, b, x, adjoint)
    assert (info.status == 0).all()
    return sps.Strategy(int(info.strategy.flatten()[0]))


def numeric(library):
    """The phases but the solves."""
    return [p for p in library.phases if p != S]


# ---- what is chosen


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("Poisson 2-D", F64, CHOLESKY),
        ("Poisson 2-D", torch.float32, CHOLESKY),
        ("Hermitian", C128, CHOLESKY),
        ("saddle point", F64, SYMMETRIC),
        ("Helmholtz", C128, SYMMETRIC),  # complex symmetric
        ("convection-diffusion", F64, GENERAL),
        ("convection-diffusion", C128, GENERAL),
        ("convection-diffusion", torch.complex64, GENERAL),
        ("unsorted", C128, GENERAL),
        ("duplicates", C128, GENERAL),
    ],
)
def test_the_factorization_that_suits(library, name, dtype, expected, adjoint):
    values, pattern, b = system(name, dtype, 3)
    assert run(values, pattern, b, adjoint=adjoint) is expected
    assert run(values, pattern, b[:, 0], adjoint=not adjoint) is expected
    assert sps.memo_info().factorizations == 1
    assert sps.explain(sps.SparseMatrix(values, pattern)).choices[0][0] is expected
    assert numeric(library) == [A, F]


def test_names_pin_and_avoid_it(library):
    values, pattern, b = system("convection-diffusion")
    assert run(values, pattern, b, PINNED) is GENERAL
    assert run(values, pattern, b, sps.LU(backend="superlu")) in SUPERLU
    values, pattern, b = system("Hermitian", C128)
    assert run(values, pattern, b, sps.Cholesky()) is CHOLESKY
    assert run(values, pattern, b, sps.Cholesky(backend="cudss"), adjoint=True) is CHOLESKY
    assert run(values, pattern, b, sps.Cholesky(backend="superlu")) in SUPERLU
    with pytest.raises(sps.BackendUnavailableError, match="has no backend for CUDA tensors"):
        run(values, pattern, b, sps.LU(backend="pardiso"))


def test_small_systems_wait_until_their_pattern_comes_again(fresh):
    with sd.installed(pays=False):
        values, pattern, b = system("convection-diffusion")
        for scale in (1, 2):  # too small
            assert run(scale * values, pattern, b) in SUPERLU
        assert run(3 * values, pattern, b, PINNED) is GENERAL
        values, pattern = made(grid(32, 32) + 0.1 * sp.eye(1024), F64)
        b = torch.randn(1024, dtype=F64)
        first, second = (sps.explain(sps.SparseMatrix(values, pattern)).choices, run(values, pattern, b))
        assert first[0][0] in SUPERLU
        assert second in SUPERLU
        assert "its pattern came before" in str(sps.explain(sps.SparseMatrix(2 * values, pattern)))
        assert run(2 * values, pattern, b) is CHOLESKY
        values, pattern = made(grid(19, 19, 19) + 0.1 * sp.eye(6859), F64)
        assert "much fills in" in str(sps.explain(sps.SparseMatrix(values, pattern)))


# ---- one analysis, and who has the factor


def test_new_values_cost_the_numeric_part_only(library):
    values, pattern, b = system("circuit")
    for scale in (1, 2, 3):
        assert run(scale * values, pattern, b) is GENERAL
        assert run(scale * values, pattern, b, adjoint=True) is GENERAL
    assert numeric(library) == [A, F, R, R]
    assert sps.memo_info().factorizations == 3


def test_other_dtypes_kinds_and_patterns_are_analysed_apart(library):
    values, pattern, b = system("circuit")
    run(values, pattern, b)
    run(values.float(), pattern, b.float())
    run((1 + 1j) * values, pattern, b + 0j)
    other = made(with_one_more_entry(values, pattern), F64)
    run(*other, b)
    assert numeric(library) == [A, F] * 4


def with_one_more_entry(values, pattern):
    """The same matrix with one more entry."""
    D = oracle.dense(values, pattern)
    i, j = (D == 0).nonzero()[0].tolist()
    D[i, j] = 1e-3
    return sp.csr_matrix(D.numpy())


def test_a_batch_has_one_analysis(library):
    values, pattern, b = system("circuit")
    many = values * torch.linspace(1, 2, 5, dtype=F64).unsqueeze(1)

    def loss(solver):
        return lambda v: torch.vmap(lambda v: solver(v, pattern, b).square().sum())(v).sum()

    got = torch.func.grad(loss(solve))(many)
    torch.testing.assert_close(got, torch.func.grad(loss(oracle.solve))(many))
    assert numeric(library) == [A, F, *[R] * 4, *[R] * 5][: len(numeric(library))]
    assert numeric(library).count(A) == 1
    assert len(numeric(library)) <= 1 + 2 * 5


def test_two_matrices_in_turn_get_an_analysis_each(library):
    """A few numeric factorizations, then none at all."""
    values, pattern, b = system("circuit", F64, 2)
    for _ in range(3 + 2 * cudss._PATIENCE):
        for scale in (1, 2):
            assert run(scale * values, pattern, b) is GENERAL
    before = numeric(library)
    assert before.count(A) == 2
    assert before.count(R) <= 1 + 2 * cudss._PATIENCE
    for scale in (1, 2):
        run(scale * values, pattern, b, adjoint=True)
    assert numeric(library) == before
    assert sps.memo_info().factorizations == 2


def test_more_replaced_pivots_than_at_the_first_time_make_the_analysis_anew(library):
    values, pattern, b = system("circuit")
    run(values, pattern, b)
    library.epsilon = 1e-13
    row = pattern.rows() == 3
    weak = torch.where(row & (pattern.col == 3), 1e-14, values)
    with contextlib.suppress(sps.SolveError):
        solve(weak, pattern, b)
    assert numeric(library)[:4] == [A, F, R, A]


def test_memory_is_counted_and_goes_with_the_last_factor(library):
    values, pattern, b = system("Poisson 3-D")
    run(values, pattern, b)
    nnz = 3 * len(values)
    assert sps.memo_info().nbytes >= 100 * nnz  # the library's own estimate
    assert {o.kind for o in library.objects.values()} == {"handle", "config", "data", "csr"}
    sps.set_memo_limit(0)
    gc.collect()
    assert not library.objects
    for scale in (2, 3):
        run(scale * values, pattern, b)
    assert not [o for o in library.objects.values() if o.kind == "data"]


def test_a_forked_child_leaves_the_library_alone(library, monkeypatch):
    values, pattern, b = system("circuit")
    run(values, pattern, b)
    held = dict(library.objects)
    monkeypatch.setattr(cudss_handle.os, "getpid", lambda: -1)
    sps.clear_memo()
    gc.collect()
    assert library.objects == held
    library.objects.clear()


# ---- nothing is believed


@pytest.mark.parametrize("name", ["convection-diffusion", "saddle point", "Poisson 2-D"])
def test_wrong_solutions_that_are_called_success(library, name):
    library.wrong = True
    values, pattern, b = system(name, F64, 3)
    for adjoint in (False, True):
        assert run(values, pattern, b, adjoint=adjoint) in SUPERLU
    with pytest.raises(sps.SolveError, match=r"large residual|singular to working precision") as caught:
        solve(values, pattern, b, PINNED)
    assert isinstance(caught.value, sps.SingularMatrixError) or "Leave backend out" in str(caught.value)


def test_a_version_that_ignores_the_adjoint_is_not_used(fresh):
    for version in ((0, 8, 0), (0, 7, 1)):
        with sd.installed(version):
            values, pattern, b = system("convection-diffusion", C128)
            for adjoint in (False, True):
                assert run(values, pattern, b, adjoint=adjoint) in SUPERLU
            with pytest.raises(
                sps.BackendUnavailableError, match=r"cuDSS 0\.[78]\.[01] is too old.*sparsolve\[cudss1[23]\]"
            ):
                solve(values, pattern, b, PINNED)


def test_and_would_be_found_out(fresh, monkeypatch):
    """Were it used, the residual of `Aᴴ x = b` would say so."""
    with sd.installed((0, 8, 0)) as library:
        prepared = cudss_library.prepared

        def believes(found):
            library.version = (1, 0, 0)
            why = prepared(found)
            library.version = (0, 8, 0)
            return why

        monkeypatch.setattr(cudss_library, "prepared", believes)
        values, pattern, b = system("convection-diffusion", C128)
        assert run(values, pattern, b) is GENERAL
        assert run(values, pattern, b, adjoint=True) in SUPERLU


def small_row(library):
    """Its pivot is replaced by a larger one: the equation is not solved at all, and the norm of the residual is tiny."""
    library.epsilon = 1e-13
    values, pattern = SYSTEMS["convection-diffusion"](F64)
    scaled = torch.where(pattern.rows() == 5, 1e-20 * values, values)
    expected = torch.randn(pattern.shape[0], dtype=F64)
    b = sps.matmul(sps.SparseMatrix(scaled, pattern), expected)
    torch.testing.assert_close(solve(scaled, pattern, b), expected, rtol=1e-9, atol=1e-9)


BY_ROWS = (
    BackwardError.refined,
    "if self._small(residual, x, adjoint)",
    "if self._within(residual, x, self._of_all(self.norms(adjoint)))",
)
PROOF = (cupy_lu.LUFactor._condition, ' or getattr(made, "perturbed", 0) > 0', "")


@pytest.mark.parametrize("without", [(), (BY_ROWS,), (PROOF,), (BY_ROWS, PROOF)], ids=["", "rows", "proof", "both"])
def test_a_small_row_is_not_lost_in_the_norm_of_all(fresh, without):
    """The residual row by row finds it, and so does the condition of a factorization with replaced pivots; without both x is wrong."""
    with contextlib.ExitStack() as stack:
        for edit in without:
            stack.enter_context(edited(*edit))
        library = stack.enter_context(sd.installed())
        if len(without) == 2:
            stack.enter_context(pytest.raises(AssertionError, match="not close"))
        small_row(library)


@pytest.mark.parametrize("where", ["cudssCreate", "cudssDataCreate", "cudssMatrixCreateCsr", "cudssDataGet", A, F, S])
def test_a_status_of_failure_leaves_it_to_superlu(library, where):
    values, pattern, b = system("convection-diffusion", F64, 2)
    library.fail = [(where, sd.EXECUTION_FAILED)] * 9
    assert run(values, pattern, b) in SUPERLU
    with pytest.raises(sps.SolveError, match=r"the computation failed.*status 5.*Leave backend out") as caught:
        solve(values, pattern, b, PINNED)
    assert type(caught.value) is sps.SolveError
    library.fail = []
    assert run(2 * values, pattern, b) is GENERAL


def test_a_failure_in_a_later_solve(library):
    values, pattern, b = system("convection-diffusion", F64, 2)
    assert run(values, pattern, b) is GENERAL
    library.fail = [(S, sd.INTERNAL)]
    assert run(values, pattern, b, adjoint=True) in SUPERLU
    assert run(values, pattern, b) in SUPERLU  # it stays with what works
    assert sps.memo_info().factorizations == 1


def test_a_handle_that_failed_is_not_used_again(library):
    values, pattern, b = system("convection-diffusion", F64, 2)
    assert run(values, pattern, b) is GENERAL
    library.fail = [(R, sd.EXECUTION_FAILED), (A, sd.EXECUTION_FAILED)]
    assert run(2 * values, pattern, b) in SUPERLU
    assert run(values, pattern, b) is GENERAL  # its factor was displaced: it has an analysis of its own now
    assert numeric(library) == [A, F, R, A, A, F]


def test_a_fault_of_the_device_is_no_fault_of_the_matrix(library, monkeypatch):
    """Of an earlier kernel, it may be: neither is another strategy tried, nor is it called a failure of this one."""

    def broken(*_):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(cudss, "Handle", broken)
    for solver in (sps.LU(), PINNED):
        with pytest.raises(torch.AcceleratorError):
            solve(*system("circuit"), solver)


# ---- memory


def test_short_of_memory_once(library):
    """What the memo holds is let go of, and cuDSS tries again."""
    values, pattern, b = system("Poisson 3-D")
    run(values, pattern, b)
    library.fail = [(R, sd.ALLOC_FAILED)]
    assert run(2 * values, pattern, b) is CHOLESKY
    assert sps.memo_info().entries == 1
    library.fail = [(S, sd.ALLOC_FAILED)]
    assert run(2 * values, pattern, b, adjoint=True) is CHOLESKY


def test_short_of_memory_for_good(library):
    values, pattern, b = system("Poisson 3-D")
    library.fail = [(F, sd.ALLOC_FAILED)] * 9
    assert run(values, pattern, b) in SUPERLU
    library.fail = [(F, sd.ALLOC_FAILED)] * 9
    with pytest.raises(torch.OutOfMemoryError, match=r"cudssExecute.*backend=.superlu."):
        solve(values, pattern, b, PINNED)
    library.fail = []
    assert run(values, pattern, b, PINNED) is CHOLESKY


# ---- Cholesky


@pytest.mark.parametrize("status", [sd.OK, sd.EXECUTION_FAILED])
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
def test_not_positive_definite(library, dtype, status):
    library.indefinite = status
    values, pattern, b = system("Hermitian", dtype, 2)
    bad = indefinite(values, pattern)
    for solver in (sps.Cholesky(), sps.Cholesky(backend="cudss")):
        with pytest.raises(sps.NotPositiveDefiniteError, match="pivot"):
            solve(bad, pattern, b, solver)
        with pytest.raises(sps.NotPositiveDefiniteError):
            solve(-values, pattern, b, solver)
        with pytest.raises(sps.NotPositiveDefiniteError, match="not Hermitian"):
            solve(*system("convection-diffusion", dtype), solver)
        assert run(values, pattern, b, solver) is CHOLESKY  # on a new analysis
    assert run(bad, pattern, b) is SYMMETRIC
    assert "CUDSS_CHOLESKY" not in str(sps.explain(sps.SparseMatrix(2 * bad, pattern)))  # not tried again


def test_a_replaced_pivot_is_no_proof_of_definiteness(library):
    """SuperLU decides."""
    library.replaced = 1
    values, pattern, b = system("Hermitian", F64, 2)
    assert run(values, pattern, b, sps.Cholesky()) in SUPERLU
    with pytest.raises(sps.NotPositiveDefiniteError):
        solve(values, pattern, b, sps.Cholesky(backend="cudss"))


def test_replaced_pivots_of_a_symmetric_matrix_lead_to_lu(library):
    library.replaced = 2
    values, pattern, b = system("saddle point", F64, 2)
    assert run(values, pattern, b) is GENERAL
    assert run(2 * values, pattern, b) is GENERAL
    assert numeric(library) == [A, F, A, F, A, F]  # L D Lᵀ is not tried again, and what met small pivots is not kept


# ---- streams


def test_another_stream_waits_for_the_one_before(library):
    values, pattern, b = system("circuit", F64, 2)
    for stream in (cp.TorchStream(), cp.TorchStream()):
        with library.torch_cuda.stream(stream):
            for scale in (1, 2):
                assert run(scale * values, pattern, b) is GENERAL
    assert numeric(library).count(A) == 1


SABOTAGE = {
    "the stream is never set": (cudss_handle.Handle._follow, 'call("cudssSetStream", self._objects.handle, stream.cuda_stream)', "pass"),
    "another stream is not waited for": (cudss_handle.Handle._follow, "last.synchronize()", "pass"),
    "the factor of other values is used": (cudss.CudssDecomposition.solve, "with self._factor() as handle:", "for handle in [self._handle]:"),
    "the adjoint is the transpose": (cudss.CudssDecomposition._mode, '"H": ADJOINT', '"H": TRANSPOSED'),
    "a conjugation is lost": (cudss.CudssDecomposition.solve, "x = x.conj() if conjugated else x", "pass"),
    "the block is row-major": (cudss_handle.Handle.solve, 'order="F"', 'order="C"'),
    "a refactorization comes first": (cudss_handle.Handle.factorize, "self.data is not None, None, False", "True, None, False"),
    "the values are not told": (cudss_handle.Handle.factorize, 'call("cudssMatrixSetValues", self._objects.matrix, data.data.ptr)', "pass"),
    "the info is not asked": (cudss_handle.Handle.factorize, "get(objects.handle, objects.data, Data.INFO, ctypes.c_int).value", "0"),
    "the objects are not destroyed": (cudss_handle._Objects.destroy, "functions.cudssDataDestroy(self.handle, self.data)", "pass"),
    "a lower triangle is meant": (cudss_handle.Handle.__init__, "else View.UPPER", "else View.LOWER"),
    "Hermitian is called symmetric": (cudss_handle.Handle.__init__, '_TYPES[kind][self._dtype.kind == "c"]', "_TYPES[kind][0]"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", SABOTAGE)
def test_mistakes_are_noticed(fresh, mistake):
    """By the stand-in, by a wrong or missing result, or by a strategy that is not cuDSS's."""
    with edited(*SABOTAGE[mistake]), contextlib.suppress(AssertionError), sd.installed() as library:
        try:
            everything(library)
        except (AssertionError, AttributeError, RuntimeError) as error:
            traceback.clear_frames(error.__traceback__)  # they hold what is to be destroyed
            return
    assert library.problems or library.objects


def everything(library):
    streams = [cp.TorchStream(), cp.TorchStream()]
    for name, expected in (("convection-diffusion", GENERAL), ("Hermitian", CHOLESKY), ("Helmholtz", SYMMETRIC)):
        values, pattern, b = system(name, C128, 3)
        for scale in (1, 2, 1):
            for adjoint, stream in zip((False, True), streams, strict=True):
                with library.torch_cuda.stream(stream):
                    assert run(scale * values, pattern, b, adjoint=adjoint) is expected
    values, pattern, b = system("Hermitian", C128)
    with pytest.raises(sps.NotPositiveDefiniteError):
        solve(indefinite(values, pattern), pattern, b, sps.Cholesky(backend="cudss"))
    one_factor_in_two_streams(library, streams)
    small_row(library)
    with pytest.raises(sps.SingularMatrixError):
        solve(*SINGULAR["zero row"][0](F64), torch.ones(SINGULAR["zero row"][0](F64)[1].shape[0], dtype=F64))


def indefinite(values, pattern):
    """A Hermitian matrix with a positive diagonal."""
    diagonal = pattern.rows() == pattern.col
    bad = values - torch.where(diagonal, 0.99 * values[diagonal].real.min(), 0)
    assert torch.linalg.eigvalsh(oracle.dense(bad, pattern)).min() < 0 < bad[diagonal].real.min()
    return bad


def one_factor_in_two_streams(library, streams):
    """Without the wait that ends each op."""
    M = sp.csr_matrix(np.array([[4.0, 1], [2, 5]]))
    for stream in streams:
        with library.torch_cuda.stream(stream), cupy_runtime.here(torch.device("cpu")):
            if stream is streams[0]:
                A = cpx.csr_matrix(M)
                made = cudss.decompose(A, SimpleNamespace(found={}), "general")
                stream.synchronize()
            x = made.solve(cp.zeros(2))
    stream.synchronize()
    assert not np.any(x._a)


def test_nothing_is_noticed_where_nothing_is_wrong(library):
    everything(library)


# ---- the stand-in itself refuses


def test_the_standin_is_strict(library):
    values, pattern, b = system("circuit")
    run(values, pattern, b)
    handle = next(k for k, o in library.objects.items() if o.kind == "handle")
    data = next(k for k, o in library.objects.items() if o.kind == "data")
    csr = next(k for k, o in library.objects.items() if o.kind == "csr")
    config = next(k for k, o in library.objects.items() if o.kind == "config")
    with cupy_runtime.here(torch.device("cpu")):
        dense = cudss_handle.ctypes.c_void_p()
        place = cudss_handle.ctypes.byref(dense)
        vector = cp.zeros((len(b), 2))
        gone = cp.zeros((len(b), 2)).data.ptr
        gc.collect()
        for pointer, message in (
            (vector.data.ptr, "f_contiguous"),
            (gone, "memory at this address is gone"),
            (77, "not an address"),
        ):
            assert library.cudssMatrixCreateDn(place, len(b), 2, len(b), pointer, 1, 0) == sd.OK
            assert library.cudssExecute(handle, S, config, data, csr, dense, dense) == sd.INTERNAL
            assert message in library.problems.pop()
            assert library.cudssMatrixDestroy(dense) == sd.OK
        assert library.cudssMatrixCreateDn(place, len(b), 2, 2, vector.data.ptr, 1, 1) == sd.INTERNAL
        assert "row-major" in library.problems.pop()
        assert library.cudssMatrixDestroy(csr + 1) == sd.INTERNAL
        assert "KeyError" in library.problems.pop()
        assert (
            library.cudssConfigSet(config, 4, cudss_handle.ctypes.byref(cudss_handle.ctypes.c_int(3)), 4)
            == sd.NOT_SUPPORTED
        )


# ---- what there is


def test_on_the_cpu_it_is_refused(fresh):
    with pytest.raises(sps.BackendUnavailableError, match="A and b are on the CPU"):
        solve(*system(), PINNED)


def test_available(library, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"device {i}")
    assert backends.available()["solvers"]["LU on cuda"].startswith("cuDSS where it pays, else SuperLU")
    library.version = (0, 8, 0)
    cudss_library._loaded.cache_clear()
    found = backends.available()
    assert found["solvers"]["LU on cuda"].startswith("SuperLU")
    assert "too old" in found["missing"]["cudss"]


class _Library:
    """As little of a library as is asked before it is believed."""

    def __init__(self, version, functions=()):
        self.version = version
        for name in functions:
            setattr(self, name, lambda *_: 0)

    def cudssGetProperty(self, which, value):
        value._obj.value = self.version[which]
        return 0


@pytest.mark.parametrize(
    ("found", "cuda", "message"),
    [
        (OSError("libcublas.so.13: no such file"), "13.0", r"cannot be loaded: libcublas.so.13.*\[cudss13\]"),
        (_Library((0, 8, 0)), "12.8", r"cuDSS 0.8.0 is too old.*\[cudss12\]"),
        (_Library((2, 0, 0)), "12.8", "cuDSS 2.0.0 is newer than this package"),
        (_Library((1, 0, 0)), None, "lacks a function.*cudssCreate"),
        (None, "13.0", r"cuDSS is not installed. pip install .sparsolve\[cudss13\]. installs it."),
    ],
    ids=["broken", "old", "new", "partial", "absent"],
)
def test_missing(monkeypatch, found, cuda, message):
    def opened(path):
        if isinstance(found, OSError):
            raise found
        return found

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(cudss_library, "_open", opened)
    monkeypatch.setattr(cudss_library, "_places", lambda: iter([] if found is None else ["/somewhere/libcudss.so.1"]))
    cudss_library._loaded.cache_clear()
    try:
        assert re.search(message, str(cudss.missing()))
    finally:
        cudss_library._loaded.cache_clear()


def test_it_is_looked_for_in_the_wheel_of_torchs_cuda_and_then_elsewhere(monkeypatch, tmp_path):
    (tmp_path / "lib").mkdir()
    for name in ("libcudss.so.1", "libcudss_mtlayer_gomp.so.1", "libother.so"):
        (tmp_path / "lib" / name).touch()
    monkeypatch.setenv("CUDSS_DIR", str(tmp_path))
    monkeypatch.setattr(metadata, "files", lambda name: asked.append(name) or [])
    asked = []
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    places = list(cudss_library._places())
    assert asked == ["nvidia-cudss-cu13"]
    assert places[0] == str(tmp_path / "lib" / "libcudss.so.1")
    assert not [p for p in places if "mtlayer" in p]
    assert places[-2] == "libcudss.so.1"  # what the loader knows


@pytest.mark.parametrize(
    ("library", "name"), [(mkl, "libmkl_rt.so.2"), (cudss_library, "libcudss.so.1")], ids=["mkl", "cudss"]
)
def test_a_record_of_a_file_that_is_elsewhere(library, name, monkeypatch, tmp_path):
    """conda writes a wheel's record, and puts the library where the record does not say."""
    here, away = tmp_path / name, tmp_path / "away" / name
    here.touch()
    recorded = [SimpleNamespace(name=name, locate=lambda p=p: p) for p in (away, here)]
    monkeypatch.setattr(metadata, "files", lambda _: recorded)
    assert str(next(library._places())) == str(here)
    here.unlink()
    assert str(tmp_path) not in {str(p)[: len(str(tmp_path))] for p in library._places()}


def test_the_arguments_are_those_of_the_header():
    """Two tables, written apart."""
    assert {name: tuple(a) for name, a in cudss_library._ARGUMENTS.items()} == {
        name: a for name, a in sd.SIGNATURES.items() if name != "cudssGetProperty"
    }
