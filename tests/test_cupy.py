"""The CUDA backend without a GPU: the ops' bodies run on a strict stand-in for CuPy, CPU tensors playing the device's."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import oracle
import sparsolve as sps
import standin_cupy as cp
import standin_cupyx as cpx
import test_gpu
from sparsolve import array_key, backends, convert_cupy, memo
from sparsolve.backends import cupy_device, cupy_lu, cupy_runtime, host
from sparsolve.backends.backward_error import DistrustedError
from systems import DTYPES, SINGULAR, SYSTEMS, grid, made, with_indices
from test_solve import check
from transforms import COMPOSITIONS, tensors

F64, C128 = torch.float64, torch.complex128
UNSYMMETRIC = ("BiCGStab", "CGS", "GMRES")


@pytest.fixture
def device(fresh):
    with cpx.installed() as torch_cuda:
        yield torch_cuda


def system(name="convection-diffusion", dtype=F64, k=None):
    values, pattern = SYSTEMS[name](dtype)
    n = pattern.shape[0]
    return values, pattern, torch.randn((n,) if k is None else (n, k), dtype=dtype)


def solve(values, pattern, b, *args, **kwargs):
    return sps.solve(sps.SparseMatrix(values, pattern), b, *args, **kwargs)


# ---- the stand-in itself refuses


def test_the_standin_is_strict(device):
    with pytest.raises(RuntimeError, match="outside of torch's device"):
        cp.zeros(3)
    with cupy_runtime.here(torch.device("cpu")):
        a = cp.zeros(3)
        for wrong in (lambda: np.asarray(a), lambda: a + np.ones(3), lambda: a.fill(sps.Status.SINGULAR)):
            with pytest.raises((TypeError, AssertionError)):
                wrong()
        with pytest.raises(AssertionError, match="int64"):
            cpx.csr_matrix((a, cp.arange(3), cp.arange(4)), shape=(3, 3))
        M = cpx.csr_matrix((a, cp.asarray(np.int32([1, 0, 0])), cp.asarray(np.int32([0, 2, 3]))), shape=(2, 2))
        with pytest.raises(AssertionError, match="in place"):
            M @ cp.zeros(2)
        a = cp.zeros(3)
    with (
        device.stream(cp.TorchStream()),
        cupy_runtime.here(torch.device("cpu")),
        pytest.raises(AssertionError, match="a race"),
    ):
        a + 1


# ---- solve


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SYSTEMS)
def test_solution(device, name, dtype, adjoint):
    values, pattern, b = system(name, dtype, 3)
    check(values, pattern, b, solve(values, pattern, b, adjoint=adjoint), adjoint)
    check(values, pattern, b[:, 0], solve(values, pattern, b[:, 0], adjoint=adjoint), adjoint)
    assert sps.memo_info().factorizations == sps.memo_info().analyses == 1


@pytest.mark.parametrize("name", ["unsorted", "duplicates", "permuted", "saddle point"])
def test_new_values_use_the_ordering_that_was_found(device, name):
    values, pattern, b = system(name, C128, 2)
    for scale in (1, 2j):
        for adjoint in (False, True):
            check(scale * values, pattern, b, solve(scale * values, pattern, b, adjoint=adjoint), adjoint)
    assert (sps.memo_info().factorizations, sps.memo_info().analyses) == (2, 1)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("name", ["unsorted", "duplicates", "stored zeros"])
def test_inputs_are_not_modified(device, name, index):
    values, pattern, b = system(name, F64, 2)
    pattern = with_indices(pattern, index)
    given = values, pattern.crow, pattern.col, b
    before = [t.clone() for t in given]
    for adjoint in (False, True):
        x = solve(values, pattern, b, adjoint=adjoint)
        assert torch.allclose(x, oracle.solve(values, pattern, b, adjoint))
        sps.matmul(sps.SparseMatrix(values, pattern), b, adjoint=adjoint)
        solve(values, pattern, b, sps.GMRES(preconditioner=sps.ILU()), adjoint=adjoint)
        solve(values, pattern, b, lambda A, b: b)
    assert all(map(torch.equal, given, before))


def test_lazy_bits(device):
    values, pattern, b = system("Helmholtz", C128)
    neg = torch._neg_view(-b)
    assert torch.allclose(solve(values.conj(), pattern, b.conj()), oracle.solve(values, pattern, b).conj())
    assert torch.allclose(solve(values, pattern, neg), oracle.solve(values, pattern, b))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 3)])
def test_no_unknowns(device, shape):
    pattern = sps.Pattern(torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), (0, 0))
    assert solve(torch.zeros(0, dtype=F64), pattern, torch.zeros(shape, dtype=F64)).shape == shape


def test_outputs_are_ordinary_tensors(device, monkeypatch):
    """Made by torch, not views of CuPy's memory, so that record_stream and the memory statistics know them."""
    values, pattern, b = system()
    monkeypatch.setattr(cupy_runtime, "from_dlpack", None)
    check(values, pattern, b, solve(values, pattern, b), False)
    sps.solve_with_info(sps.SparseMatrix(values, pattern), b)
    torch.autograd.grad(sps.matmul(sps.SparseMatrix(values.requires_grad_(), pattern), b).sum(), values)


# ---- transforms


@pytest.mark.parametrize("what", COMPOSITIONS)
def test_transforms(device, what):
    values, pattern = SYSTEMS["duplicates" if "jvp" in what else "permuted"](C128)
    n, nnz = pattern.shape[0], values.shape[0]
    s, t = torch.randn(2 * nnz, dtype=F64) / 10, torch.randn(2 * n, dtype=F64)

    def f(solver):
        def along(s, t):
            x = solver(
                values + torch.complex(s[:nnz], s[nnz:]), pattern, torch.complex(t[:n], t[n:]), adjoint="vmap" in what
            )
            return torch.cat([x.real, x.imag])

        return along

    T = tensors(s, t, f(oracle.solve)(s, t))
    got, wanted = (COMPOSITIONS[what](f(solver), T) for solver in (solve, oracle.solve))
    torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-8)


def test_compiled(device):
    values, pattern, b = system("saddle point", F64)
    grad = torch.func.grad(lambda v: solve(v, pattern, b).sin().sum())
    torch.testing.assert_close(torch.compile(grad, fullgraph=True, backend="aot_eager")(values), grad(values))


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_gradient_of_a_sparse_tensor(device, layout):
    values, pattern, b = system("banded")
    D = oracle.dense(values, pattern)
    A = D.to_sparse(layout=layout).requires_grad_()
    sps.solve(A, b).square().sum().backward()
    D.requires_grad_()
    (torch.linalg.inv(D) @ b).square().sum().backward()
    assert A.grad.layout is layout
    torch.testing.assert_close(A.grad.to_dense(), torch.where(D != 0, D.grad, 0), check_layout=False)


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("name", ["duplicates", "unsorted", "circuit"])
def test_matmul_and_its_gradient(device, name, adjoint):
    values, pattern, x = system(name, C128, 5)
    for f in (sps.matmul, lambda A, x, adjoint: oracle.matmul(A.values, pattern, x, adjoint)):
        v = values.clone().requires_grad_()
        y = f(sps.SparseMatrix(v, pattern), x, adjoint=adjoint)
        (g,) = torch.autograd.grad(y.abs().square().sum(), v)
        if f is sps.matmul:
            got = y, g
    torch.testing.assert_close(got, (y, g))


def test_empty_products(device):
    """No column, or no row of A: cuSPARSE is not asked."""
    values, pattern = SYSTEMS["banded"](F64)
    n = pattern.shape[0]
    assert sps.matmul(sps.SparseMatrix(values, pattern), torch.zeros(n, 0, dtype=F64)).shape == (n, 0)
    none = sps.Pattern(torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), (0, n))
    y = sps.matmul(sps.SparseMatrix(torch.zeros(0, dtype=F64), none), torch.zeros(0, 2, dtype=F64), adjoint=True)
    assert torch.equal(y, torch.zeros(n, 2, dtype=F64))


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
def test_memory_that_begins_inside_of_an_allocation(device, monkeypatch, dtype):
    """Slices of larger tensors, and of batches: a kernel that reads 8 or 16 bytes at once would stop the whole device."""
    monkeypatch.setattr(array_key, "_WHOLE", 16)
    values, pattern, b = system("Poisson 2-D", dtype, 3)
    shifted = [torch.cat([t.new_zeros(1), t.ravel()])[1:].view(t.shape) for t in (values, pattern.crow, pattern.col, b)]
    assert all(t.data_ptr() % 16 for t in shifted)
    v, crow, col, c = shifted
    P = sps.Pattern(crow, col, pattern.shape)
    check(v, P, c, solve(v, P, c), False)
    for right in (c, c[:, :1], c[:, 0]):
        y = sps.matmul(sps.SparseMatrix(v, P), right.contiguous())
        torch.testing.assert_close(y, oracle.matmul(values, pattern, right, False))
    n = pattern.shape[0] - 1  # odd: rows of GMRES's basis, and matrices of a batch, begin anywhere
    inner = oracle.dense(values, pattern)[:n, :n]
    v, P = oracle.pattern_of(inner)
    batch = torch.stack([v, 2 * v, 3 * v])
    rhs = torch.randn(3, n, 1, dtype=dtype)
    rtol = 1e-5 if dtype is torch.float32 else 1e-11
    for solver in (sps.LU(), sps.GMRES(rtol=rtol), sps.GMRES(rtol=rtol, preconditioner=sps.ILU())):
        x = sps.solve(sps.SparseMatrix(batch, P), rhs, solver)
        expected = torch.linalg.inv(torch.stack([inner, 2 * inner, 3 * inner])) @ rhs
        torch.testing.assert_close(x, expected, rtol=1e3 * rtol, atol=1e3 * rtol)


def test_sample_needs_no_nnz_times_k(device):
    """Each temporary array is of nnz or n k numbers."""
    values, pattern = SYSTEMS["Poisson 3-D"](F64)
    u = torch.randn(pattern.shape[0], 1000, dtype=F64)
    sizes = []
    alloc = device.bytes
    device.bytes = lambda size, *rest: sizes.append(size) or alloc(size, *rest)
    out = torch.ops.sparsolve.sample(pattern.crow, pattern.col, u, u)
    assert torch.allclose(out, (u @ u.T)[pattern.rows(), pattern.col])
    assert max(sizes) <= u.nbytes < values.shape[0] * 1000 * 8


# ---- failure


@pytest.mark.parametrize("name", [n for n in SINGULAR if not n.startswith("large")])
def test_singular(device, name):
    make, message = SINGULAR[name]
    values, pattern = make(F64)
    with pytest.raises(sps.SingularMatrixError, match=message):
        solve(values, pattern, torch.ones(pattern.shape[0], dtype=F64))


@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
def test_cholesky(device, dtype):
    values, pattern, b = system("Hermitian", dtype, 2)
    for scale in (1, 2):
        for adjoint in (False, True):
            x, info = sps.solve_with_info(sps.SparseMatrix(scale * values, pattern), b, sps.Cholesky(), adjoint=adjoint)
            check(scale * values, pattern, b, x, adjoint)
            assert info.strategy.tolist() == [sps.Strategy.SUPERLU_CHOLESKY] * 2
    with pytest.raises(sps.NotPositiveDefiniteError):
        solve(-values, pattern, b, sps.Cholesky())
    with pytest.raises(sps.NotPositiveDefiniteError, match="not Hermitian"):
        solve(*system("convection-diffusion", dtype), sps.Cholesky())


def test_strategies(device):
    """SuperLU's alone; the next one where one fails; anything else is refused by name."""
    values, pattern, b = system("banded")
    A = sps.SparseMatrix(values, pattern)
    assert [s for s, _ in sps.explain(A).choices] == [sps.Strategy.SUPERLU_SYMMETRIC, sps.Strategy.SUPERLU]
    assert sps.solve_with_info(A, b, sps.LU(backend="superlu")).info.strategy == sps.Strategy.SUPERLU_SYMMETRIC
    for solver in (sps.LU(backend="lapack"), sps.LU(factor_dtype=torch.float32), sps.Cholesky(backend="entries")):
        with pytest.raises(
            sps.BackendUnavailableError, match=r"has no backend for CUDA tensors.*Use (LU|Cholesky)\(\)"
        ):
            solve(values, pattern, b, solver)


def test_a_doubtful_factorization_is_followed_by_the_next(device, monkeypatch):
    values, pattern, b = system("banded", F64, 3)
    refined, strategy = cupy_lu.LUFactor._refined, sps.Strategy.SUPERLU_SYMMETRIC

    def distrusts(self, lu, b, adjoint):
        if self._strategy is strategy:
            raise DistrustedError("A large residual was left.", None)
        return refined(self, lu, b, adjoint)

    monkeypatch.setattr(cupy_lu.LUFactor, "_refined", distrusts)
    x, info = sps.solve_with_info(sps.SparseMatrix(values, pattern), b)
    check(values, pattern, b, x, False)
    assert info.strategy.tolist() == [sps.Strategy.SUPERLU] * 3
    strategy = sps.Strategy.SUPERLU
    with pytest.raises(sps.SingularMatrixError, match="large residual"):
        solve(values, pattern, b, adjoint=True)


def test_not_finite(device):
    values, pattern, b = system("banded", F64, 3)
    bad = b.clone()
    bad[4, 1] = torch.nan
    for solver in (sps.LU(), sps.GMRES()):
        with pytest.raises(sps.SolveError, match=r"b\[4, 1\] is nan; 1 of 60"):
            solve(values, pattern, bad, solver)
        x, info = sps.solve_with_info(sps.SparseMatrix(values, pattern), bad, solver)
        assert (info.status == 0).tolist() == [True, False, True]
        assert x.isfinite().all(0).tolist() == [True, False, True]
        assert torch.allclose(x[:, ::2], oracle.solve(values, pattern, b)[:, ::2])
        values_bad = torch.where(torch.arange(values.shape[0]) == 7, torch.inf, values)
        with pytest.raises(sps.SolveError, match="is inf"):
            solve(values_bad, pattern, b, solver)


@pytest.mark.parametrize("size", [1e-30, 1e-34, 1e-37])
def test_single_precision_without_subnormal_numbers(device, size):
    """What CuPy's kernels flush to 0 is no residual that refinement could remove, nor is it lost before the last product."""
    values, pattern, b = system("circuit", torch.float32, 2)
    for adjoint in (False, True):
        x = solve(values, pattern, size * b, adjoint=adjoint)
        expected = oracle.solve(values.double(), pattern, (size * b).double(), adjoint)
        assert (x - expected).abs().max() <= 1e-3 * expected.abs().max() + torch.finfo(torch.float32).tiny


def test_a_solution_that_overflows_is_an_error(device):
    values, pattern, b = system("banded", F64, 2)
    with pytest.raises(sps.SolveError, match="larger than the largest number of its dtype") as caught:
        solve(1e-200 * values, pattern, 1e200 * b)
    assert type(caught.value) is sps.SolveError
    torch.testing.assert_close(1e-200 * solve(1e-200 * values, pattern, b), oracle.solve(values, pattern, b))


def test_one_singular_matrix_of_a_batch(device):
    values, pattern, b = system("banded")
    x, info = sps.solve_with_info(
        sps.SparseMatrix(torch.stack([values, 0 * values]), pattern), b.expand(2, -1).unsqueeze(-1)
    )
    assert info.status.ravel().tolist() == [sps.Status.CONVERGED, sps.Status.SINGULAR]
    assert torch.allclose(x[0, :, 0], oracle.solve(values, pattern, b))
    with pytest.raises(sps.SingularMatrixError, match="batch index 1"):
        solve(torch.stack([values, 0 * values]), pattern, b.expand(2, -1).unsqueeze(-1))


def test_out_of_memory_lets_go_of_the_memo_then_raises_then_recovers(device):
    values, pattern, b = system("Poisson 3-D")
    expected = solve(values, pattern, b)
    for scale in range(2, 6):
        solve(scale * values, pattern, b)
    held = sum(device.sizes.values())
    device.limit = held  # no room beside what the memo holds
    assert torch.allclose(solve(7 * values, pattern, b), expected / 7)
    assert sps.memo_info().entries == 1
    assert sps.memo_info().factorizations == 6
    device.limit = 1000
    with pytest.raises(torch.OutOfMemoryError):
        solve(8 * values, pattern, b)
    device.limit = held
    assert torch.allclose(solve(8 * values, pattern, b), expected / 8)


NO_MEMORY = cp.CUDADriverError("CUDA_ERROR_OUT_OF_MEMORY: out of memory")
NO_HANDLE = cp.CuSparseError("CUSPARSE_STATUS_NOT_INITIALIZED: driver or library not initialized")
BROKEN = cp.CuSparseError("CUSPARSE_STATUS_EXECUTION_FAILED: kernel launch failure")


def fails(times, error, then):
    """A function that raises so many times first."""

    def call(*args, **kwargs):
        nonlocal times
        times -= 1
        if times >= 0:
            raise error
        return then(*args, **kwargs)

    return call


@pytest.mark.parametrize("error", [NO_MEMORY, NO_HANDLE], ids=["kernel", "handle"])
def test_a_library_without_memory_is_torchs_error(device, monkeypatch, error):
    """torch's pool is what has taken it: that is given back, and the op tried once more."""
    values, pattern, b = system("banded")
    expected = oracle.solve(values, pattern, b)
    linalg = cupy_runtime.sparse_linalg()
    for times, solver in ((1, sps.LU()), (1, sps.GMRES(preconditioner=sps.ILU()))):
        monkeypatch.setattr(linalg, "SuperLU", fails(times, error, cpx.SuperLU))
        before = device.emptied
        assert torch.allclose(solve(values, pattern, b, solver), expected)
        assert device.emptied == before + 1
        sps.clear_memo()
    monkeypatch.setattr(linalg, "SuperLU", fails(9, error, cpx.SuperLU))
    with pytest.raises(torch.OutOfMemoryError, match=r"CUDA out of memory: CU\w+.*empty_cache"):
        solve(values, pattern, b)
    monkeypatch.setattr(linalg, "SuperLU", cpx.SuperLU)
    assert torch.allclose(solve(values, pattern, b), expected)


def test_a_fault_of_a_library_is_not_called_a_singular_matrix(device, monkeypatch):
    monkeypatch.setattr(cupy_runtime.sparse_linalg(), "SuperLU", fails(9, BROKEN, cpx.SuperLU))
    with pytest.raises(cp.CuSparseError, match="EXECUTION_FAILED"):
        solve(*system("banded"))


@pytest.mark.parametrize("error", [torch.AcceleratorError("CUDA error: an illegal access"), torch.OutOfMemoryError()])
def test_what_comes_to_light_while_indices_are_read_is_no_fault_of_theirs(device, monkeypatch, error):
    """The host waits there, so earlier kernels' errors are raised there."""
    pattern = system("banded")[1]
    T = torch.eye(3).to_sparse_csr()
    monkeypatch.setattr(torch.Tensor, "tolist", fails(9, error, None))
    with pytest.raises(type(error)):
        sps.Pattern(pattern.crow, pattern.col, pattern.shape)
    monkeypatch.setattr(torch, "repeat_interleave", fails(9, error, None))
    with pytest.raises(type(error)):
        convert_cupy.t2c_csr(T)


# ---- iterative methods, preconditioners, callables


@pytest.mark.parametrize(
    "preconditioner", [None, sps.Jacobi(), sps.BlockJacobi(size=3), sps.SymmetricGaussSeidel(), sps.ILU()], ids=str
)
@pytest.mark.parametrize("dtype", [F64, C128, torch.float32], ids=str)
@pytest.mark.parametrize("method", ["CG", "MINRES", *UNSYMMETRIC])
def test_iterative(device, method, dtype, preconditioner):
    name = "convection-diffusion" if method in UNSYMMETRIC else "Hermitian"
    if method not in UNSYMMETRIC and not (preconditioner is None or isinstance(preconditioner, sps.Jacobi)):
        preconditioner = sps.Jacobi()
    values, pattern, b = system(name, dtype, 3)
    rtol = 1e-5 if dtype is torch.float32 else 1e-11
    for adjoint in (False, True):
        solver = getattr(sps, method)(rtol=rtol, preconditioner=preconditioner)
        x = solve(values, pattern, b, solver, adjoint=adjoint)
        torch.testing.assert_close(x, oracle.solve(values, pattern, b, adjoint), rtol=1e3 * rtol, atol=1e3 * rtol)
    assert sps.memo_info().factorizations == 1


def test_iterative_gradient_start_and_failure(device):
    values, pattern, b = system("Poisson 2-D", F64, 2)
    solver = sps.CG(rtol=1e-12)

    def f(solver):
        return torch.func.grad(lambda v: solver(v).sin().sum())(values)

    torch.testing.assert_close(f(lambda v: solve(v, pattern, b, solver)), f(lambda v: oracle.solve(v, pattern, b)))
    A, x = sps.SparseMatrix(values, pattern), oracle.solve(values, pattern, b)
    assert sps.solve_with_info(A, b, sps.CG(rtol=1e-8), x0=x).info.iterations.tolist() == [0, 0]
    info = sps.solve_with_info(A, b, sps.CG(rtol=1e-12, maxiter=2)).info
    assert info.status.tolist() == [sps.Status.MAXITER] * 2
    with pytest.raises(sps.ConvergenceError, match="CG stopped with"):
        solve(values, pattern, b, sps.CG(rtol=1e-12, maxiter=2))


@pytest.mark.parametrize("k", [1, 2])
def test_iterative_failures_name_their_cause(device, k):
    values, pattern, b = system("Poisson 2-D", torch.float32, k)
    preconditioner = sps.Jacobi()
    with pytest.raises(sps.ConvergenceError, match=r"float32 cannot reach this residual.*Use float64, or rtol >= "):
        solve(values, pattern, b, sps.CG(rtol=1e-9, preconditioner=preconditioner))
    with pytest.raises(sps.ConvergenceError, match="pᴴ A p <= 0"):
        solve(-values, pattern, b, sps.CG())
    values, pattern, b = system("convection-diffusion", C128, k)
    with pytest.raises(sps.ConvergenceError, match="MINRES needs a Hermitian A, and this one is not"):
        solve(values, pattern, b, sps.MINRES())


@pytest.mark.parametrize("scale", [2.0**-1000, 2.0**1000])
@pytest.mark.parametrize("method", ["CG", "MINRES", *UNSYMMETRIC])
def test_iterative_with_entries_whose_squares_overflow(device, method, scale):
    values, pattern, b = system("Poisson 2-D", F64, 2)
    solver = getattr(sps, method)(rtol=1e-11, preconditioner=sps.Jacobi())
    torch.testing.assert_close(solve(values * scale, pattern, b * scale, solver), solve(values, pattern, b, solver))


@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("report", [False, True])
def test_operator(device, dtype, report):
    values, pattern, b = system("convection-diffusion", dtype, 2)
    D, solver = oracle.dense(values, pattern), sps.GMRES(rtol=1e-12)

    def product(D, x):
        return D @ x

    def f(D, solve):
        return solve(D).abs().square().sum()

    def ours(D):
        if report:
            return sps.solve_with_info(sps.Operator(product, D), b, solver).x
        return sps.solve(sps.Operator(product, D), b, solver)

    torch.testing.assert_close(ours(D), torch.linalg.inv(D) @ b)
    got, expected = (torch.func.grad(f)(D, s) for s in (ours, lambda D: torch.linalg.inv(D) @ b))
    torch.testing.assert_close(got, expected)
    with pytest.raises(sps.BackendUnavailableError, match="of an Operator has no backend for CUDA"):
        sps.solve(sps.Operator(product, D), b, sps.GMRES(preconditioner=sps.ApproximateInverse(lambda r: r)))
    assert cupy_runtime.now() is None


def test_preconditioners_say_why_they_cannot_be(device):
    values, pattern, b = system("saddle point")
    for preconditioner in (sps.Jacobi(), sps.SymmetricGaussSeidel()):
        with pytest.raises(sps.SolveError, match=r"divides by the diagonal, and A\[8, 8\]"):
            solve(values, pattern, b, sps.GMRES(preconditioner=preconditioner))
    with pytest.raises(sps.BackendUnavailableError, match="AMG has no backend for CUDA"):
        solve(values, pattern, b, sps.GMRES(preconditioner=sps.AMG()))


def dense_solve(A, b):
    return cp.made(np.linalg.solve(A.get().toarray(), b.get()))


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("k", [None, 3])
def test_callable(device, k, adjoint):
    seen = []

    def direct(A, b):
        assert isinstance(A, cpx.csr_matrix)
        assert isinstance(b, cp.ndarray)
        seen.append(b.shape)
        x = dense_solve(A, b)
        A.data.fill(0)
        A.indices.fill(0)
        b.fill(0)
        return x

    values, pattern, b = system("duplicates", C128, k)
    f = lambda solver: torch.func.grad(lambda v: solver(v).abs().sum())(values)  # noqa: E731
    ours = f(lambda v: solve(v, pattern, b, direct, adjoint=adjoint))
    torch.testing.assert_close(ours, f(lambda v: oracle.solve(v, pattern, b, adjoint)))
    assert set(seen) == {b.shape}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda A, b: b.get(), "returned a ndarray, which is not an array on the device"),
        (lambda A, b: (b, 0), "returned a tuple"),
        (lambda A, b: None, "no return statement"),
        (lambda A, b: b * float("nan"), "returned NaN or Inf"),
        (lambda A, b: b * 1j, "complex numbers for a real system"),
        (lambda A, b: cp.zeros(3), r"shape \(3,\)"),
    ],
)
def test_callables_that_misbehave(device, wrong, message):
    with pytest.raises(sps.SolveError, match=message):
        solve(*system(), wrong)


def test_a_callable_that_transposes_by_itself(device):
    values, pattern, b = system()
    with pytest.raises(sps.SolveError, match="solves the system with the transpose"):
        solve(values, pattern, b, lambda A, b: cp.made(np.linalg.solve(A.get().toarray().T, b.get())))


def test_a_callable_may_return_a_tensor(device):
    values, pattern, b = system()
    x = solve(values, pattern, b, lambda A, b: torch.from_dlpack(dense_solve(A, b)).requires_grad_())
    torch.testing.assert_close(x, oracle.solve(values, pattern, b))

    def inside_of_an_allocation(A, b):
        return torch.cat([torch.zeros(1, dtype=F64), torch.from_dlpack(dense_solve(A, b))])[1:]

    x = solve(values, pattern, b, inside_of_an_allocation)
    torch.testing.assert_close(x, oracle.solve(values, pattern, b))


# ---- sparse_solve_c4t


@pytest.mark.parametrize("dtype", [F64, C128, torch.float32], ids=str)
@pytest.mark.parametrize("method", [None, "spsolve", "cg", "cgs", "minres", "gmres"])
def test_c4t(device, method, dtype):
    values, pattern, b = system("Hermitian" if method in ("cg", "minres") else "convection-diffusion", dtype)
    D = oracle.dense(values, pattern)
    A = D.to_sparse_csr().requires_grad_()
    seen = []
    options = {} if method in (None, "spsolve") else {"tol": 1e-10, "x0": torch.ones_like(b), "callback": seen.append}
    x = sps.sparse_solve_c4t(A, b, solve=method, **options)
    (g,) = torch.autograd.grad(x.abs().square().sum(), A)
    D.requires_grad_()
    expected = torch.linalg.inv(D) @ b
    (h,) = torch.autograd.grad(expected.abs().square().sum(), D)
    loose = 1e-3 if dtype is torch.float32 else 1e-7
    torch.testing.assert_close(x, expected, rtol=loose, atol=loose)
    torch.testing.assert_close(g.to_dense(), torch.where(D != 0, h, 0), rtol=loose, atol=loose)
    if options and method == "gmres":
        assert 0 < seen[-1] <= 1e-10 < seen[0]
    elif options:
        with cupy_runtime.here(torch.device("cpu")):
            np.testing.assert_allclose(seen[-1].get(), expected.detach().numpy(), rtol=loose, atol=loose)


@pytest.mark.parametrize("form", ["tensor", "sparse tensor", "array", "matrix", "operator", "no adjoint"])
def test_c4t_preconditioners(device, form):
    values, pattern, b = system("convection-diffusion", C128)
    A, n = sps.SparseMatrix(values, pattern).to_torch(), len(b)
    inverse = torch.linalg.inv(A.to_dense())
    with cupy_runtime.here(torch.device("cpu")):
        array = cp.asarray(inverse.numpy())
        M = {
            "tensor": inverse,
            "sparse tensor": inverse.to_sparse(),
            "array": array,
            "matrix": convert_cupy.t2c_csr(inverse.to_sparse_csr()),
            "operator": cpx.LinearOperator((n, n), lambda x: array @ x, lambda x: array.conj().T @ x, np.dtype("D")),
            "no adjoint": cpx.LinearOperator((n, n), lambda x: array @ x, dtype=np.dtype("D")),
        }[form]
        if form == "matrix":
            M.indices, M.indptr = (a.astype(np.int32) for a in (M.indices, M.indptr))
    steps = []
    A.requires_grad_()
    x = sps.sparse_solve_c4t(A, b, solve="gmres", M=M, tol=1e-10, callback=steps.append)
    assert len(steps) <= 2
    torch.testing.assert_close(x, inverse @ b)
    x.abs().sum().backward()
    y = sps.sparse_solve_c4t(A.detach().requires_grad_(), b)
    torch.testing.assert_close(x, y)


def test_c4t_refuses_what_is_on_the_host(device):
    values, pattern, b = system()
    A = sps.SparseMatrix(values, pattern).to_torch()
    with pytest.raises(TypeError, match="on the host, and A is on the device"):
        sps.sparse_solve_c4t(A, b, solve="gmres", M=np.eye(len(b)))
    with pytest.raises(sps.ConvergenceError, match="cg stopped at"):
        sps.sparse_solve_c4t(A, b, solve="cg", maxiter=3, tol=1e-12)


@pytest.mark.parametrize("method", ["cg", "cgs", "minres", "gmres"])
def test_c4t_at_every_scale(device, method):
    values, pattern, b = system("Hermitian", C128)
    D = oracle.dense(values, pattern)
    for of_A, of_b in ((1.0, 1e155), (1.0, 1e-170), (1e200, 1e200), (1e-200, 1.0)):
        A, b_ = (D * of_A).to_sparse_csr(), (b * of_b).requires_grad_()
        seen = []
        M = torch.linalg.inv(D) / of_A if of_A != 1 else None
        options = {"tol": 1e-9, "M": M, "x0": b_.detach() / of_A, "callback": seen.append}
        x = sps.sparse_solve_c4t(A, b_, None if M is not None and method in ("cg", "minres") else method, **options)
        torch.testing.assert_close(x.detach() * (of_A / of_b), torch.linalg.inv(D) @ b, rtol=1e-6, atol=1e-6)
        (g,) = torch.autograd.grad(x, b_, b * of_b)
        torch.testing.assert_close(g * (of_A / of_b), torch.linalg.inv(D).mH @ b, rtol=1e-6, atol=1e-6)
        if seen and method != "gmres":
            with cupy_runtime.here(torch.device("cpu")):
                np.testing.assert_allclose(seen[-1].get() / of_b, x.detach().numpy() / of_b, rtol=1e-6)


@pytest.mark.parametrize("size", [1e20, 1e308])
def test_c4t_starts_anew_where_a_guess_is_too_large(device, size):
    D = torch.diag(torch.tensor([1.0, 2, 2, 1])) - torch.ones(3).diag(1) - torch.ones(3).diag(-1)
    D, b = D.double(), torch.tensor([1.0, -2, 2, -1]).double()
    A = D.to_sparse_csr()
    x = sps.sparse_solve_c4t(A, b, "cg", x0=torch.full((4,), size, dtype=F64))
    assert torch.linalg.norm(D @ x - b) <= 1e-5 * torch.linalg.norm(b)


def test_c4t_results_that_cannot_be_believed(device):
    singular = torch.ones(2, 2, dtype=F64).to_sparse_csr()
    with pytest.raises(sps.ConvergenceError, match="stopped at"):
        sps.sparse_solve_c4t(singular, torch.tensor([1.0, 2.0], dtype=F64), "minres")
    tiny = (1e-30 * torch.eye(3)).to_sparse_csr()
    for method in ("cg", "gmres", lambda A, b: b.astype(np.float64) * 1e30):
        with pytest.raises(sps.SolveError, match="larger than the largest number of its dtype"):
            sps.sparse_solve_c4t(tiny, torch.full((3,), 1e30), method)


def test_c4t_a_name_and_a_callable(device):
    values, pattern, b = system("circuit")
    A = sps.SparseMatrix(values, pattern).to_torch().requires_grad_()
    for one, other in ((None, dense_solve), (dense_solve, "spsolve")):
        x = sps.sparse_solve_c4t(A, b, solve=one, transpose_solve=other)
        (g,) = torch.autograd.grad(x.square().sum(), A)
        (h,) = torch.autograd.grad(sps.solve(A, b).square().sum(), A)
        torch.testing.assert_close(g.to_dense(), h.to_dense())


@pytest.mark.parametrize(
    "run",
    [
        test_gpu.test_failures_say_the_same,
        test_gpu.test_batches_starts_and_callbacks,
        partial(test_gpu.test_c4t_preconditioners, "tensor"),
        partial(test_gpu.test_c4t_preconditioners, "sparse tensor"),
        *(partial(test_gpu.test_determinant, name, C128) for name in ("duplicates", "circuit", "permuted")),
    ],
    ids=["failures", "batches", "tensor", "sparse tensor", *(f"determinant {i}" for i in range(3))],
)
def test_those_for_the_real_thing(device, run):
    run(device="cpu")


# ---- the memo


def test_the_memo_compares_all_bits_of_large_arrays(device, monkeypatch):
    monkeypatch.setattr(array_key, "_WHOLE", 16)  # what is larger stays on the device
    values, pattern, b = system("Poisson 3-D")
    x = solve(values, pattern, b)
    assert torch.equal(solve(values.clone(), pattern, b), x)
    assert (sps.memo_info().factorizations, sps.memo_info().analyses) == (1, 1)
    changed = values.clone()
    changed[[0, 1]] = changed[[1, 0]]  # the same sum of bits
    check(changed, pattern, b, solve(changed, pattern, b), False)
    changed[0] += 1e-15
    check(changed, pattern, b, solve(changed, pattern, b), False)
    with_col = pattern.col.clone()
    with_col[[0, 1]] = with_col[[1, 0]]
    swapped = sps.Pattern(pattern.crow, with_col, pattern.shape)
    check(values, swapped, b, solve(values, swapped, b), False)
    assert (sps.memo_info().factorizations, sps.memo_info().analyses) == (4, 2)


def test_the_memos_copy_is_ready_for_other_streams(device, monkeypatch):
    """An entry is found, and compared with, while its value is still being made."""
    monkeypatch.setattr(array_key, "_WHOLE", 16)
    values = torch.randn(100, dtype=F64)
    with cupy_runtime.here(torch.device("cpu")):
        key = array_key.ArrayKey("", (cupy_runtime.array(values),), True)
        key.own((cupy_runtime.array(values),))
    with device.stream(cp.TorchStream()), cupy_runtime.here(torch.device("cpu")):
        assert key == array_key.ArrayKey("", (cupy_runtime.array(values),), True)


def test_the_memo_keeps_its_own_copy(device, monkeypatch):
    monkeypatch.setattr(array_key, "_WHOLE", 16)
    values, pattern, b = system("Poisson 3-D")
    solve(values, pattern, b)
    values.mul_(2)
    check(values, pattern, b, solve(values, pattern, b), False)
    check(values, pattern, b, solve(values, pattern, b, adjoint=True), True)
    assert sps.memo_info().factorizations == 2


@pytest.mark.parametrize(("whole", "most"), [(1 << 14, 4), (16, 5)])
def test_waits_of_a_direct_solve(device, monkeypatch, whole, most):
    """One for the check of the result; the rest are the memo's two comparisons. With k columns no more."""
    monkeypatch.setattr(array_key, "_WHOLE", whole)
    values, pattern, b = system("Poisson 3-D", F64, 7)
    solve(values, pattern, b)
    for adjoint in (False, True, False):
        before = cp.waits
        solve(values, pattern, b, adjoint=adjoint)
        assert cp.waits - before <= most
    factor = next(iter(memo.FACTORS._entries.values())).value
    with cupy_runtime.here(torch.device("cpu")):
        before = cp.waits
        factor.solve(cupy_runtime.array(b), adjoint=False, x0=None)
        assert cp.waits - before == 1
        before = cp.waits
    sps.matmul(sps.SparseMatrix(values, pattern), b)
    assert cp.waits - before <= 2


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("method", ["CG", "MINRES", *UNSYMMETRIC])
def test_waits_of_a_krylov_step(device, method, k):
    """One, to learn whether a column ends, however many there are."""
    values, pattern, b = system("Poisson 2-D", F64, k)
    taken, waits = [], []
    for steps in (3, 3, 9):
        solver = getattr(sps, method)(rtol=1e-13, maxiter=steps)
        before = cp.waits
        info = sps.solve_with_info(sps.SparseMatrix(values, pattern), b, solver).info
        taken.append(info.iterations.max())
        waits.append(cp.waits - before)
    assert waits[2] - waits[1] <= taken[2] - taken[1]


@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
def test_gmres_does_not_copy_its_basis(device, dtype):
    """Of one column: CuPy would, each time that a product takes it transposed."""
    values, pattern = made(grid(300) + 0.5 * sp.eye(300), dtype)
    b, solver = torch.randn(300, dtype=dtype), sps.GMRES(restart=10, maxiter=10, rtol=1e-13)
    sizes = []
    alloc = device.bytes
    for _ in range(2):
        sizes.clear()
        device.bytes = lambda size, *rest: sizes.append(size) or alloc(size, *rest)
        sps.solve_with_info(sps.SparseMatrix(values, pattern), b, solver)
    assert sum(size > 4 * b.nbytes for size in sizes) == 1


@pytest.mark.parametrize("method", ["CG", "MINRES", "BiCGStab", "CGS"])
def test_a_krylov_step_copies_no_block_of_columns(device, monkeypatch, method):
    """Products take them in Fortran order; an array in C order, as every expression makes one, would be copied for each."""
    values, pattern, b = system("Poisson 2-D", F64, 3)
    values, copied, convert = values + 0.01 * (pattern.rows() == pattern.col), [], cp.asfortranarray
    monkeypatch.setattr(cp, "asfortranarray", lambda a: copied.append(not a._a.flags.f_contiguous) or convert(a))
    copies = []
    for steps in (3, 3, 9):
        copied.clear()
        sps.solve_with_info(sps.SparseMatrix(values, pattern), b, getattr(sps, method)(rtol=1e-13, maxiter=steps))
        copies.append(sum(copied))
        assert len(copied) >= steps
    assert copies[2] == copies[1]


# ---- streams, threads, devices


def test_a_batch_of_determinants(device):
    """In the thread whose stream and memory are torch's, however large the matrices are."""
    values, pattern = made(grid(50, 50) + sp.eye(2500), F64)
    batch = torch.stack([values, 2 * values, 3 * values]).requires_grad_()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        log = sps.slogdet(sps.SparseMatrix(batch, pattern)).logabsdet
        (gradient,) = torch.autograd.grad(log.sum(), batch)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(log.diff(), 2500 * torch.tensor([2.0, 1.5], dtype=F64).log())
    torch.testing.assert_close((gradient * batch).sum(-1), torch.full((3,), 2500.0, dtype=F64))


def test_all_memory_is_torchs_and_goes_back(device):
    values, pattern, b = system()
    solve(values, pattern, b)
    assert device.sizes
    sps.clear_memo()
    assert not device.sizes


@pytest.mark.parametrize(
    "solver", [sps.LU(), sps.GMRES(preconditioner=sps.ILU()), dense_solve], ids=lambda s: type(s).__name__
)
def test_two_streams(device, solver):
    """What one stream made another reads, with a wait in between; the stand-in raises on a race."""
    values, pattern, b = system("circuit", F64, 2)
    v = values.clone().requires_grad_()
    for stream in (cp.TorchStream(), cp.TorchStream(), device.default[0]):
        with device.stream(stream):
            x = solve(v, pattern, b, solver)
            torch.testing.assert_close(x, oracle.solve(values, pattern, b))
            x.sum().backward()
            sps.matmul(sps.SparseMatrix(v, pattern), b)
            now = next(cp._clock)
    assert stream.waited == 0 or stream.waited < now


def test_matmul_in_another_stream_ends_with_a_wait(device):
    """For the pattern's memory is the first stream's, and may be let go of at any time."""
    values, pattern, b = system()
    A = sps.SparseMatrix(values, pattern)
    sps.matmul(A, b)
    own, other = device.default[0], cp.TorchStream()
    counts = []
    for stream in (own, other):
        with device.stream(stream):
            before = cp.waits
            sps.matmul(A, b)
            counts.append(cp.waits - before)
    assert counts[1] == counts[0] + 1


def test_eight_threads_with_a_stream_each(device):
    values, pattern, b = system("saddle point", C128)
    expected = [oracle.solve(scale * values, pattern, b) for scale in (1, 2)]
    start = threading.Barrier(8)

    def work(i):
        with device.stream(cp.TorchStream()):
            start.wait(timeout=60)
            return [solve((1 + i % 2) * values, pattern, b, adjoint=False) for _ in range(3)]

    with ThreadPoolExecutor(8) as pool:
        for i, xs in enumerate(pool.map(work, range(8))):
            assert all(torch.allclose(x, expected[i % 2]) for x in xs)
    assert sps.memo_info().factorizations >= 2


def test_the_context_ends_with_the_op(device):
    """On failure too, and a nested op gives it back."""
    values, pattern, b = system()
    A = sps.SparseMatrix(values, pattern)

    def nested(matrix, rhs):
        sps.matmul(A, b)
        return dense_solve(matrix, rhs)

    torch.testing.assert_close(solve(values, pattern, b, nested), oracle.solve(values, pattern, b))
    with pytest.raises(sps.SolveError):
        solve(0 * values, pattern, b)
    assert cupy_runtime.now() is None
    assert [getattr(cp._local, name, None) for name in ("index", "stream", "malloc")] == [None] * 3


def test_a_pattern_is_analysed_for_each_device(device, monkeypatch):
    class Tensor1:
        """The device's index, all that `here` looks at."""

        index, type = 1, "cpu"

    pattern = system()[1]
    for index in (0, 1, 1):
        with cupy_runtime.here(Tensor1() if index else torch.device("cpu")):
            structure = cupy_device.structure_of(pattern.crow, pattern.col, pattern.shape)
            assert structure.rows.index == index
    assert sps.memo_info().analyses == 2


# ---- conversions


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.bool], ids=str)
def test_csr_there_and_back(device, dtype, index):
    values, pattern = SYSTEMS["banded"](F64)
    crow, col = with_indices(pattern, index).crow, pattern.col.to(index)
    T = torch.sparse_csr_tensor(crow, col, values.to(dtype), pattern.shape)
    M = convert_cupy.t2c_csr(T)
    assert M.has_canonical_format
    back = sps.c2t_csr(M)
    assert M.indices.dtype == M.indptr.dtype == np.int32
    assert (back.dtype, back.crow_indices().dtype, back.shape) == (dtype, torch.int32, T.shape)
    torch.testing.assert_close(back.to_dense(), T.to_dense())
    with cupy_runtime.here(torch.device("cpu")):
        M.data.fill(0)
    assert torch.equal(T.values(), values.to(dtype))
    assert torch.equal(back.values(), values.to(dtype))
    assert (M.indices._a.ctypes.data == col.data_ptr()) == (index is torch.int32)  # indices are shared


@pytest.mark.parametrize("name", ["unsorted", "duplicates"])
def test_csr_of_entries_in_any_order(device, name):
    values, pattern = SYSTEMS[name](F64)
    T = torch.sparse_csr_tensor(pattern.crow, pattern.col, values, pattern.shape)
    M = convert_cupy.t2c_csr(T)
    assert M.indices._a.ctypes.data != pattern.col.data_ptr()
    back = sps.c2t_csr(M)
    torch.testing.assert_close(back.to_dense(), oracle.dense(values, pattern))
    again = sps.c2t_csr(convert_cupy.t2c_csr(back))
    assert torch.equal(again.col_indices(), back.col_indices())


def test_a_matrix_of_cupys(device):
    values, pattern = SYSTEMS["duplicates"](F64)
    M = convert_cupy.t2c_csr(torch.sparse_csr_tensor(pattern.crow, pattern.col, values, pattern.shape))
    A = sps.SparseMatrix.from_scipy(M)
    torch.testing.assert_close(A.to_dense(), oracle.dense(values, pattern))
    torch.testing.assert_close(A.diagonal(), oracle.dense(values, pattern).diagonal())
    shifted = 2 * A + sps.SparseMatrix.from_diagonal(torch.ones(pattern.shape[0], dtype=F64))
    x = sps.solve(shifted, torch.ones(pattern.shape[0], dtype=F64))
    torch.testing.assert_close(shifted @ x, torch.ones_like(x))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bool], ids=str)
def test_coo_there_and_back(device, dtype):
    T = oracle.dense(*SYSTEMS["banded"](F64)).to(dtype).to_sparse()
    M = convert_cupy.t2c_coo(T)
    assert M.has_canonical_format
    assert M.row.dtype == M.col.dtype == np.int32
    with cupy_runtime.here(torch.device("cpu")):
        np.testing.assert_array_equal(M.get().toarray(), T.to_dense().numpy())
    back = sps.c2t_coo(M)
    assert back.is_coalesced()
    assert back.dtype is dtype
    torch.testing.assert_close(back.to_dense(), T.to_dense())
    with cupy_runtime.here(torch.device("cpu")):
        M.data, M.row, M.col = (cp.made(np.concatenate([a._a, a._a])) for a in (M.data, M.row, M.col))
    twice = sps.c2t_coo(M).to_dense()
    torch.testing.assert_close(twice, T.to_dense() if dtype is torch.bool else 2 * T.to_dense())


def test_conversions_refuse(device):
    M = convert_cupy.t2c_csr(torch.eye(3).to_sparse_csr())
    with pytest.raises(ValueError, match="'coo' is needed"):
        sps.c2t_coo(M)
    with cupy_runtime.here(torch.device("cpu")):
        M.indices = cp.asarray(np.int64([0, 1, 3]))
    with pytest.raises(ValueError, match="do not describe a matrix"):
        sps.c2t_csr(M)
    with pytest.raises(TypeError, match="CuPy's sparse matrices do not have"):
        convert_cupy.t2c_csr(torch.eye(3, dtype=torch.int64).to_sparse_csr())
    with pytest.raises(ValueError, match=r"CuPy's matrices take fewer than 2\*\*31"):
        convert_cupy.t2c_coo(
            torch.sparse_coo_tensor(torch.tensor([[0], [2**31]]), torch.ones(1), (1, 2**31 + 1), is_coalesced=True)
        )


# ---- what there is, and what is missing


@pytest.mark.parametrize(("cuda", "name"), [("12.8", "cuda12"), ("13.0", "cuda13"), (None, "cuda12")])
def test_without_cupy_the_error_names_the_line_that_installs_it(monkeypatch, cuda, name):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(cupy_runtime, "_loaded", lambda: ModuleNotFoundError("No module named 'cupy'"))
    cupy_runtime.cupy.cache_clear()
    with pytest.raises(sps.BackendUnavailableError, match=rf'pip install "sparsolve\[{name}\]"'):
        backends.device_module("cuda").run(lambda: None, (torch.ones(1),))


class _Old:
    __version__, __name__ = "12.0", "old"
    cuda = type("cuda", (), {"Stream": object})


class _NoGpu:
    __version__, __name__ = "14.2", "blind"
    cuda = cp.cuda
    is_available = staticmethod(lambda: False)


class _NoLibraries(_NoGpu):
    __name__ = "no_such_package_"
    is_available = staticmethod(lambda: True)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (ImportError("numpy.core is broken"), "cannot be imported: numpy.core is broken.*Uninstall"),
        (_Old, "CuPy 12.0 is too old"),
        (_NoGpu, "finds no GPU.*nvidia-smi"),
        (_NoLibraries, "lacks CUDA libraries"),
    ],
    ids=["broken", "old", "no GPU", "no libraries"],
)
def test_cupy_that_cannot_work(monkeypatch, found, message):
    monkeypatch.setattr(cupy_runtime, "_loaded", lambda: found)
    cupy_runtime.cupy.cache_clear()
    with pytest.raises(sps.BackendUnavailableError, match=message):
        cupy_runtime.cupy()


def test_libraries_that_cannot_be_loaded(monkeypatch):
    """Whatever exception says so."""

    def fails(name):
        raise RuntimeError("Failure finding libcusparse.so")

    monkeypatch.setattr(cupy_runtime, "_loaded", lambda: _NoLibraries)
    monkeypatch.setattr(cupy_runtime, "import_module", fails)
    assert "lacks CUDA libraries: Failure finding libcusparse.so." in cupy_runtime.problem()


def test_available(monkeypatch, device):
    found = backends.available()
    assert found["versions"]["torch"] == torch.__version__
    assert "cpu" in found["devices"]
    assert "LU on cpu" in found["solvers"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"device {i}")
    found = backends.available()
    assert found["devices"]["cuda:0"] == "device 0"
    assert "cuSPARSE" in found["solvers"]["LU on cuda"]
    assert found["solvers"]["slogdet on cuda"] == "SuperLU (SciPy) on the host"
    assert "cuda" not in found["missing"]


def test_both_devices_have_the_same_functions():
    own = {
        "Product",
        "Products",
        "Rows",
        "gathered",
        "largest",
        "largest_size",
        "quietly",
    }  # what the other files of one device share
    assert set(cupy_device.__all__) - own == set(host.__all__) - own
    rows = {device: {s for s, d in backends._SOLVERS if d == device} for device in ("cpu", "cuda")}
    assert rows["cpu"] == rows["cuda"]


# ---- fake tensors on cuda (torch cannot differentiate these in reverse mode in a build without CUDA)


@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
def test_fake_cuda_tensors(dtype):
    with FakeTensorMode():
        crow, col = (torch.zeros(n, dtype=torch.int64, device="cuda") for n in (4, 5))
        v, b, c = (torch.randn(shape, dtype=dtype, device="cuda") for shape in ((5,), (3, 2), (3,)))
        pattern = sps.Pattern(crow, col, (3, 3))
        tangent = torch.func.jvp(lambda v: solve(v, pattern, b), (v,), (v,))[1]
        outs = {
            (3, 2): solve(v, pattern, b),
            (3,): sps.matmul(sps.SparseMatrix(v, pattern), c, adjoint=True),
            (5,): torch.ops.sparsolve.sample(crow, col, b, b),
            (4, 3, 2): torch.vmap(lambda v: solve(v, pattern, b))(v.expand(4, -1)),
        }
        info = sps.solve_with_info(sps.SparseMatrix(v, pattern), b).info
    for shape, x in (*outs.items(), ((3, 2), tangent)):
        assert (tuple(x.shape), x.dtype, x.device.type, x.is_contiguous()) == (shape, dtype, "cuda", True)
    assert info.status.device.type == info.residual.device.type == "cuda"


def test_traced_on_fake_cuda_tensors():
    """The graph holds the ops, and each says that no CUDA graph may hold it."""
    with FakeTensorMode():
        crow, col = (torch.zeros(n, dtype=torch.int64, device="cuda") for n in (4, 5))
        v, b = (torch.randn(n, dtype=F64, device="cuda") for n in (5, 3))

        def f(v, b):
            return torch.func.jvp(lambda v: solve(v, sps.Pattern(crow, col, (3, 3)), b), (v,), (v,))[1]

        graph = make_fx(f, tracing_mode="fake")(v, b)
    ops = [n.target for n in graph.graph.nodes if n.op == "call_function" and "sparsolve" in str(n.target)]
    assert {str(op) for op in ops} == {"sparsolve.solve.default", "sparsolve.matmul.default"}
    assert all(torch.Tag.cudagraph_unsafe in op.tags for op in ops)
