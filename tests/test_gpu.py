"""The real thing: the contract on `cuda`. Each test runs on the CPU too, so that its own code is known to work without a GPU.

python -m pytest -m gpu tests/test_gpu.py
"""

from __future__ import annotations

import contextlib
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import scipy.sparse as sp
import torch
from torch.profiler import ProfilerActivity, profile

import oracle
import sparsolve as sps
from sparsolve.backends import cudss_library
from systems import DTYPES, SINGULAR, SYSTEMS, grid, made, with_indices
from test_solve import check
from transforms import COMPOSITIONS, EAGER_ONLY, tensors

F64, C128 = torch.float64, torch.complex128
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
each_device = pytest.mark.parametrize("device", DEVICES)
ALL = {
    k: f for k, f in {**COMPOSITIONS, **EAGER_ONLY}.items() if k != "linearize"
}  # torch warns of its own graph there
PRECONDITIONERS = (None, sps.Jacobi(), sps.BlockJacobi(size=3), sps.SymmetricGaussSeidel(), sps.ILU())


def system(device, name="convection-diffusion", dtype=F64, k=None):
    values, pattern = SYSTEMS[name](dtype)
    n = pattern.shape[0]
    b = torch.randn((n,) if k is None else (n, k), dtype=dtype)
    return values.to(device), pattern.to(device), b.to(device)


def solve(values, pattern, b, *args, **kwargs):
    return sps.solve(sps.SparseMatrix(values, pattern), b, *args, **kwargs)


def stream_of(device):
    """A stream of its own on `device`, and what makes it the current one."""
    if torch.device(device).type == "cpu":
        return None, contextlib.nullcontext()
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return stream, torch.cuda.stream(stream)


def finish(stream):
    if stream is not None:
        stream.synchronize()


def last_device(device):
    """Another device than the current one, where there is one."""
    return device if device == "cpu" else f"cuda:{torch.cuda.device_count() - 1}"


# ---- the contract


@each_device
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SYSTEMS)
def test_solution(name, dtype, device):
    for k in (None, 1, 5):
        values, pattern, b = system(device, name, dtype, k)
        for index in (torch.int32, torch.int64):
            for adjoint in (False, True):
                x = solve(values, with_indices(pattern, index), b, adjoint=adjoint)
                assert x.device == b.device
                check(values.cpu(), pattern.to("cpu"), b.cpu(), x.cpu(), adjoint)


@each_device
@pytest.mark.parametrize("name", [n for n in SINGULAR if not n.startswith("large")])
def test_singular(name, device):
    values, pattern = SINGULAR[name][0](F64)
    with pytest.raises(sps.SingularMatrixError, match=SINGULAR[name][1]):
        solve(values.to(device), pattern.to(device), torch.ones(pattern.shape[0], dtype=F64, device=device))


@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex operators")
@pytest.mark.filterwarnings("ignore:.torch._prims_common.check. is deprecated:FutureWarning")  # Inductor's own
@pytest.mark.parametrize(
    ("device", "compiled"), [("cpu", False), *(pytest.param("cuda", c, marks=pytest.mark.gpu) for c in (False, True))]
)
@pytest.mark.parametrize("what", ALL)
def test_transforms(what, device, compiled):
    """Compiled on the GPU only: on the CPU `test_compile.py` does it."""
    values, pattern, _ = system(device, "permuted", C128)
    n, nnz = pattern.shape[0], values.shape[0]
    s, t = torch.randn(2 * nnz, dtype=F64, device=device) / 10, torch.randn(2 * n, dtype=F64, device=device)

    def f(solver):
        def along(s, t):
            x = solver(values + torch.complex(s[:nnz], s[nnz:]), pattern, torch.complex(t[:n], t[n:]))
            return torch.cat([x.real, x.imag])

        return along

    T, run = tensors(s, t, f(oracle.solve)(s, t)), ALL[what]
    ours = lambda: run(f(solve), T)  # noqa: E731
    if compiled and what not in EAGER_ONLY:
        torch.compiler.reset()
        ours = torch.compile(ours, fullgraph=True)
    torch.testing.assert_close(ours(), run(f(oracle.solve), T), rtol=1e-7, atol=1e-8)


@each_device
@pytest.mark.parametrize("preconditioner", PRECONDITIONERS, ids=str)
@pytest.mark.parametrize("method", ["CG", "MINRES", "GMRES", "BiCGStab", "CGS"])
def test_iterative(method, preconditioner, device):
    hermitian = method in ("CG", "MINRES")
    if hermitian and isinstance(preconditioner, sps.ILU):
        preconditioner = None
    values, pattern, b = system(device, "Poisson 2-D" if hermitian else "convection-diffusion", F64, 4)
    solver = getattr(sps, method)(rtol=1e-11, preconditioner=preconditioner)
    for adjoint in (False, True):
        x = solve(values, pattern, b, solver, adjoint=adjoint)
        torch.testing.assert_close(x, oracle.solve(values, pattern, b, adjoint), rtol=1e-7, atol=1e-8)


@each_device
@pytest.mark.parametrize("method", [None, "spsolve", "cg", "minres", "cgs", "gmres"])
def test_c4t(method, device):
    values, pattern, b = system(device, "Poisson 2-D")
    A = sps.SparseMatrix(values, pattern).to_torch().requires_grad_()
    seen = []
    options = {} if method in (None, "spsolve") else {"tol": 1e-11, "callback": seen.append, "x0": torch.ones_like(b)}
    x = sps.sparse_solve_c4t(A, b, solve=method, **options)
    torch.testing.assert_close(x, oracle.solve(values, pattern, b))
    x.square().sum().backward()
    (g,) = torch.autograd.grad(sps.solve(A, b).square().sum(), A)
    torch.testing.assert_close(A.grad.to_dense(), g.to_dense())
    assert bool(seen) == bool(options)


@each_device
@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_coo])
def test_conversions(layout, device):
    values, pattern, _ = system(device, "unsorted")
    T = oracle.dense(values, pattern).to_sparse(layout=layout)
    there, back = (sps.t2c_csr, sps.c2t_csr) if layout is torch.sparse_csr else (sps.t2c_coo, sps.c2t_coo)
    M = there(T)
    R = back(M)
    assert (R.device, R.dtype, R.layout) == (T.device, T.dtype, layout)
    assert torch.equal(R.to_dense(), T.to_dense())
    assert type(M).__module__.startswith("scipy" if device == "cpu" else "cupyx")
    assert torch.allclose(torch.as_tensor((M @ M).toarray(), device=device), T.to_dense() @ T.to_dense())


@each_device
def test_callable(device):
    values, pattern, b = system(device, "duplicates", C128, 3)

    def direct(A, b):
        D, rhs = torch.as_tensor(A.toarray(), device=device), torch.as_tensor(b, device=device)
        x = torch.linalg.solve(D, rhs)
        return x if device != "cpu" else x.numpy()

    grad = torch.func.grad(lambda v: solve(v, pattern, b, direct).abs().sum())(values)
    expected = torch.func.grad(lambda v: oracle.solve(v, pattern, b).abs().sum())(values)
    torch.testing.assert_close(grad, expected)


@each_device
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
def test_operator(device, dtype):
    values, pattern, b = system(device, "convection-diffusion", dtype, 2)
    D = oracle.dense(values, pattern)
    expected = torch.linalg.inv(D) @ b
    x = sps.solve(sps.Operator(torch.mv, D), b, sps.GMRES(rtol=1e-12))
    torch.testing.assert_close(x, expected)
    g = torch.func.grad(lambda D: sps.solve(sps.Operator(torch.mv, D), b, sps.GMRES(rtol=1e-12)).abs().sum())(D)
    torch.testing.assert_close(g, torch.func.grad(lambda D: (torch.linalg.inv(D) @ b).abs().sum())(D))


@each_device
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_slices_and_empty_products(device, dtype):
    """Memory that begins inside of an allocation, and no columns: what cuSPARSE is not to be asked for as it is."""
    values, pattern, b = system(device, "Poisson 3-D", dtype, 3)
    v, crow, col, c = (
        torch.cat([t.new_zeros(1), t.ravel()])[1:].view(t.shape) for t in (values, pattern.crow, pattern.col, b)
    )
    A = sps.SparseMatrix(v, sps.Pattern(crow, col, pattern.shape))
    check(values.cpu(), pattern.to("cpu"), b.cpu(), sps.solve(A, c).cpu(), False)
    for right in (c, c[:, :1].contiguous(), c[:, 0].contiguous()):
        torch.testing.assert_close(sps.matmul(A, right), oracle.matmul(values, pattern, right, False))
    batch = torch.stack([values, 2 * values])
    x = sps.solve(sps.SparseMatrix(batch, pattern), torch.stack([b, b])[..., :1].contiguous(), sps.GMRES(rtol=1e-5))
    torch.testing.assert_close(x[0], 2 * x[1], rtol=1e-3, atol=1e-3)
    assert sps.matmul(A, c[:, :0]).shape == (b.shape[0], 0)


@each_device
@pytest.mark.parametrize("size", [1e-30, 1e-37])
def test_small_right_hand_sides_in_single_precision(device, size):
    values, pattern, b = system(device, "circuit", torch.float32, 2)
    x, expected = solve(values, pattern, size * b), oracle.solve(values.double(), pattern, (size * b).double())
    assert (x - expected).abs().max() <= 1e-3 * expected.abs().max() + torch.finfo(torch.float32).tiny


@each_device
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["duplicates", "circuit", "permuted"])
def test_determinant(name, dtype, device):
    values, pattern, _ = system(device, name, dtype)
    wide = C128 if dtype.is_complex else F64
    D = oracle.dense(values.cpu().to(wide), pattern.to("cpu"))
    rtol = 1e-3 if dtype in (torch.float32, torch.complex64) else 1e-9
    v = torch.stack([values, 2 * values]).requires_grad_()
    sign, logabsdet = sps.slogdet(sps.SparseMatrix(v, pattern))
    assert sign.device == logabsdet.device == values.device
    expected = torch.linalg.slogdet(D)
    torch.testing.assert_close(sign[0].detach().cpu().to(wide), expected.sign, rtol=rtol, atol=rtol)
    torch.testing.assert_close(logabsdet[0].detach().cpu().double(), expected.logabsdet, rtol=rtol, atol=rtol)
    (g,) = torch.autograd.grad(logabsdet.sum(), v)
    G = torch.linalg.inv(D).mH[pattern.rows().cpu(), pattern.col.cpu()]
    torch.testing.assert_close(g.cpu().to(wide), torch.stack([G, G / 2]), rtol=rtol, atol=rtol * float(G.abs().max()))
    w = torch.randn_like(values)
    W = oracle.dense(w.cpu().to(wide), pattern.to("cpu"))
    D = -(torch.linalg.inv(D) @ W @ torch.linalg.inv(D)).mH[pattern.rows().cpu(), pattern.col.cpu()]
    found = torch.ops.sparsolve.inverse_derivative(values, w, pattern.crow, pattern.col, sps.LU().key)
    torch.testing.assert_close(found.cpu().to(wide), D, rtol=10 * rtol, atol=10 * rtol * float(D.abs().max()))


@each_device
def test_factorization_counts(device):
    values, pattern, b = system(device, "circuit")
    torch.func.hessian(lambda v: solve(v, pattern, b).sin().sum())(values)
    torch.vmap(lambda b: solve(values, pattern, b))(torch.randn(10, len(b), dtype=F64, device=device))
    assert (sps.memo_info().factorizations, sps.memo_info().analyses) == (1, 1)


# ---- less usual ways


@each_device
def test_failures_say_the_same(device):
    values, pattern, b = system(device, "Poisson 2-D", F64, 2)
    for solver, message in ((sps.CG(rtol=1e-12, maxiter=2), "CG stopped with"), (sps.CG(rtol=1e-18), "cannot reach")):
        with pytest.raises(sps.ConvergenceError, match=message):
            solve(values, pattern, b, solver)
    with pytest.raises(sps.ConvergenceError, match="pᴴ A p <= 0"):
        solve(-values, pattern, b, sps.CG())
    bad = b.clone()
    bad[4, 1] = torch.nan
    for solver in (sps.LU(), sps.GMRES()):
        with pytest.raises(sps.SolveError, match=r"b\[4, 1\] is nan"):
            solve(values, pattern, bad, solver)
        info = sps.solve_with_info(sps.SparseMatrix(values, pattern), bad, solver).info
        assert (info.status == 0).tolist() == [True, False]
    values, pattern, b = system(device, "convection-diffusion", C128)
    with pytest.raises(sps.ConvergenceError, match="needs a Hermitian A"):
        solve(values, pattern, b, sps.MINRES())
    with pytest.raises(sps.NotPositiveDefiniteError, match="not Hermitian"):
        solve(values, pattern, b, sps.Cholesky())
    values, pattern, b = system(device, "saddle point")
    with pytest.raises(sps.SolveError, match="divides by the diagonal"):
        solve(values, pattern, b, sps.GMRES(preconditioner=sps.Jacobi()))


@each_device
def test_batches_starts_and_callbacks(device):
    values, pattern, b = system(device, "Poisson 2-D", F64, 2)
    many, steps = torch.stack([values, 2 * values, 0 * values]), []
    x, info = sps.solve_with_info(sps.SparseMatrix(many, pattern), b.expand(3, -1, -1))
    assert info.status[:, 0].tolist() == [0, 0, sps.Status.SINGULAR]
    torch.testing.assert_close(x[0], 2 * x[1])
    solver = sps.CG(rtol=1e-10, callback=lambda step, residuals: steps.append((step, float(residuals.max()))))
    A, start = sps.SparseMatrix(values, pattern), x[0] + 1e-3
    torch.testing.assert_close(sps.solve(A, b, solver, x0=start), x[0])
    assert [step for step, _ in steps] == list(range(1, len(steps) + 1))
    torch.testing.assert_close(sps.solve(A, {"b": b, "c": b[:, 0]})["c"], x[0][:, 0])
    assert str(sps.explain(A))
    none = sps.SparseMatrix(values.new_zeros(2, 0), sps.Pattern(0 * pattern.crow, pattern.col[:0], pattern.shape))
    assert not sps.matmul(none, b.expand(2, -1, -1)).any()
    assert sps.matmul(sps.SparseMatrix(many, pattern), b.expand(3, -1, -1)[..., :0]).shape == (3, len(b), 0)
    with pytest.raises(sps.SingularMatrixError, match="batch index 0"):
        sps.solve(none, b.expand(2, -1, -1))


@each_device
@pytest.mark.parametrize("form", ["tensor", "sparse tensor", "operator", "no adjoint"])
def test_c4t_preconditioners(form, device):
    values, pattern, b = system(device, "convection-diffusion", C128)
    A = sps.SparseMatrix(values, pattern).to_torch()
    M = inverse = torch.linalg.inv(A.to_dense())
    if form == "sparse tensor":
        M = inverse.to_sparse()
    elif form != "tensor":
        module = pytest.importorskip("scipy.sparse.linalg" if device == "cpu" else "cupyx.scipy.sparse.linalg")
        array = inverse.numpy() if device == "cpu" else sps.t2c_csr(inverse.to_sparse_csr()).toarray()
        adjoint = {} if form == "no adjoint" else {"rmatvec": lambda x: array.conj().T @ x}
        M = module.LinearOperator(inverse.shape, matvec=lambda x: array @ x, dtype=array.dtype, **adjoint)
    steps = []
    A.requires_grad_()
    x = sps.sparse_solve_c4t(A, b, solve="gmres", M=M, tol=1e-10, callback=steps.append)
    assert len(steps) <= 2
    torch.testing.assert_close(x, inverse @ b)
    x.abs().sum().backward()
    (g,) = torch.autograd.grad(sps.solve(A, b).abs().sum(), A)
    torch.testing.assert_close(A.grad.to_dense(), g.to_dense())


@each_device
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_conversions_of_no_entries_and_of_either_index(index, device):
    values, pattern, _ = system(device, "banded")
    pattern = with_indices(pattern, index)
    T = torch.sparse_csr_tensor(pattern.crow, pattern.col, values, pattern.shape)
    empty = torch.sparse_csr_tensor(0 * pattern.crow, pattern.col[:0], values[:0], pattern.shape)
    for S in (T, empty):
        assert torch.equal(sps.c2t_csr(sps.t2c_csr(S)).to_dense(), S.to_dense())
    M = sps.t2c_csr(T)
    if device == "cpu":  # read-only there
        M = 2 * M
    else:
        M *= 2
    torch.testing.assert_close(sps.SparseMatrix.from_scipy(M).to_dense(), 2 * T.to_dense())
    torch.testing.assert_close(T.values(), values)
    none = torch.sparse_coo_tensor(torch.zeros(2, 0, dtype=torch.int64), values[:0].cpu(), (3, 4)).to(device).coalesce()
    assert sps.c2t_coo(sps.t2c_coo(none)).shape == (3, 4)


# ---- cuDSS, where it is installed


def by_cudss(device, record=sps.LU):
    """The record that pins it; on the CPU one that it would replace."""
    if device == "cpu":
        return record(backend="superlu")
    if (reason := cudss_library.missing()) is not None:
        pytest.skip(reason)
    return record(backend="cudss")


def solved(device, values, pattern, b, solver, adjoint):
    """The solution, found right; whether cuDSS is what found it."""
    x, info = sps.solve_with_info(sps.SparseMatrix(values, pattern), b, solver, adjoint=adjoint)
    check(values.cpu(), pattern.to("cpu"), b.cpu(), x.cpu(), adjoint)
    names = {sps.Strategy(s).name for s in info.strategy.flatten().tolist()}
    assert all(name.startswith("SUPERLU" if device == "cpu" else "CUDSS") for name in names)


@each_device
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SYSTEMS)
def test_cudss_solution(name, dtype, device):
    """New values are refactorized; both come back."""
    solver = by_cudss(device)
    for k in (None, 5):
        values, pattern, b = system(device, name, dtype, k)
        for scale in (1, 2, 1):
            for adjoint in (False, True):
                solved(device, scale * values, pattern, b, solver, adjoint)


@each_device
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
def test_cudss_cholesky(dtype, device):
    solver = by_cudss(device, sps.Cholesky)
    values, pattern, b = system(device, "Hermitian", dtype, 2)
    solved(device, values, pattern, b, solver, True)
    diagonal = pattern.rows() == pattern.col
    indefinite = values - torch.where(diagonal, 0.99 * values[diagonal].real.min(), 0)
    with pytest.raises(sps.NotPositiveDefiniteError):
        solve(indefinite, pattern, b, solver)
    solved(device, 2 * values, pattern, b, solver, False)


@each_device
@pytest.mark.parametrize("name", [n for n in SINGULAR if not n.startswith("large")])
def test_cudss_singular(name, device):
    solver = by_cudss(device)
    values, pattern = SINGULAR[name][0](F64)
    with pytest.raises(sps.SolveError):
        solve(values.to(device), pattern.to(device), torch.ones(pattern.shape[0], dtype=F64, device=device), solver)


@each_device
def test_cudss_gradient_in_two_streams_after_others_values(device):
    solver = by_cudss(device)
    values, pattern, b = system(device, "circuit", F64, 3)
    grad = torch.func.grad(lambda v, solver: solver(v, pattern, b).sin().sum())
    ours = lambda v, pattern, b: solve(v, pattern, b, solver)  # noqa: E731
    expected = [grad(scale * values, oracle.solve) for scale in (1, 2)]
    for _ in range(5):
        stream, current = stream_of(device)
        with current:
            got = [grad(scale * values, ours) for scale in (1, 2)]
        finish(stream)
        torch.testing.assert_close(got, expected)


@each_device
def test_cudss_large(device):
    """By default, for its size."""
    if device != "cpu":
        by_cudss(device)
    m = 20 if device == "cpu" else 40
    values, pattern = made(grid(m, m, m) + 0.1 * sp.eye(m**3), F64)
    values, pattern, b = values.to(device), pattern.to(device), torch.randn(m**3, 4, dtype=F64).to(device)
    A = sps.SparseMatrix(values, pattern)
    x, info = sps.solve_with_info(A, b)
    torch.testing.assert_close(sps.matmul(A, x), b, rtol=1e-9, atol=1e-9)
    assert device == "cpu" or (info.strategy == sps.Strategy.CUDSS_CHOLESKY).all()


# ---- streams, threads, devices


@each_device
def test_another_stream(device):
    """Work queued before in the same stream is seen, and its result is ready for what is queued after."""
    values, pattern, b = system(device, "Poisson 3-D", F64, 4)
    expected = 2 * oracle.solve(values, pattern, b)
    stream, current = stream_of(device)
    with current:
        big = torch.randn(2000, 2000, device=device)
        for _ in range(20):
            big = big @ big / 2000  # keeps the stream busy
        x = solve(values, pattern, b + b) * 1
    finish(stream)
    torch.testing.assert_close(x, expected)


@each_device
def test_two_streams_at_once(device):
    """One factor, two streams, and the memo emptied while both are at work."""
    values, pattern, b = system(device, "Poisson 3-D", F64, 4)
    expected = oracle.solve(values, pattern, b)
    results, streams = [], [stream_of(device) for _ in range(2)]
    for _ in range(10):
        for _, current in streams:
            with current:
                results.append(solve(values, pattern, b))
                results.append(solve(values, pattern, sps.matmul(sps.SparseMatrix(values, pattern), expected)))
        sps.clear_memo()
    for stream, _ in streams:
        finish(stream)
    for x in results:
        torch.testing.assert_close(x, expected)


@each_device
def test_backward_runs_in_autograds_thread_and_in_the_forwards_stream(device):
    values, pattern, b = system(device)
    names = []

    def direct(A, rhs):
        names.append(threading.get_ident())
        D, rhs = torch.as_tensor(A.toarray(), device=device), torch.as_tensor(rhs, device=device)
        x = torch.linalg.solve(D, rhs)
        return x if device != "cpu" else x.numpy()

    stream, current = stream_of(device)
    with current:
        v = values.clone().requires_grad_()
        solve(v, pattern, b, direct).sum().backward()
    finish(stream)
    expected = torch.func.grad(lambda v: oracle.solve(v, pattern, b).sum())(values)
    torch.testing.assert_close(v.grad, expected)
    assert len(names) == 2
    assert (names[0] != names[1]) == (device != "cpu")


@each_device
def test_eight_threads(device):
    values, pattern, b = system(device, "saddle point", C128)
    expected = [oracle.solve(scale * values, pattern, b) for scale in (1, 2)]

    def work(i):
        stream, current = stream_of(device)
        with current:
            xs = [solve((1 + i % 2) * values, pattern, b) for _ in range(5)]
        finish(stream)
        return xs

    with ThreadPoolExecutor(8) as pool:
        for i, xs in enumerate(pool.map(work, range(8))):
            for x in xs:
                torch.testing.assert_close(x, expected[i % 2])
    assert sps.memo_info().factorizations == 2


@each_device
def test_another_device_than_the_current_one(device):
    there = last_device(device)
    values, pattern, b = system(there)
    x = solve(values, pattern, b)
    assert x.device == b.device == torch.device(there)
    torch.testing.assert_close(x, oracle.solve(values, pattern, b))


# ---- CUDA graphs, memory


@each_device
def test_reduce_overhead_leaves_the_ops_out_of_cuda_graphs(device):
    values, pattern, b = system(device)
    f = torch.func.grad(lambda v: solve(v * 2, pattern, b).sin().sum())
    mode = {"mode": "reduce-overhead"} if device != "cpu" else {"backend": "aot_eager"}
    compiled = torch.compile(f, fullgraph=True, **mode)
    for scale in (1, 2, 3, 3):
        torch.testing.assert_close(compiled(scale * values).clone(), f(scale * values))


def most_memory(device):
    """Bytes that torch may take of the device, and what sets them."""
    if device == "cpu":
        return 0, lambda fraction: None
    total = torch.cuda.get_device_properties(0).total_memory
    return total, lambda fraction: torch.cuda.set_per_process_memory_fraction(fraction, 0)


@each_device
def test_out_of_memory_is_an_error_and_passes(device):
    values, pattern, b = system(device, "Poisson 3-D", F64, 4)
    expected = oracle.solve(values, pattern, b)
    total, allow = most_memory(device)
    solve(values, pattern, b)
    if total:
        many = torch.randn(b.shape[0], 2**24 // b.shape[0], dtype=F64, device=device)  # 128 MiB, and x needs as much
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # what others have left in the pool is no room for x
        allow((torch.cuda.memory_reserved(0) + 2**25) / total)
        try:
            with pytest.raises(torch.OutOfMemoryError):
                solve(values, pattern, many)
        finally:
            allow(1.0)
    torch.testing.assert_close(solve(values, pattern, b), expected)


@each_device
def test_memory_is_torchs_and_goes_back(device):
    values, pattern, b = system(device, "Poisson 3-D", F64, 4)
    solve(values, pattern, b)
    sps.clear_memo()
    if device == "cpu":
        return
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for scale in range(1, 20):
        solve(scale * values, pattern, b)
    assert torch.cuda.memory_allocated() > before
    sps.clear_memo()
    gc.collect()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


@each_device
def test_waits_of_a_direct_solve(device):
    """At most five, four of them the memo's: as many as the stand-in counts in `test_cupy.py`. (The profiler waits for the whole device by itself.)"""
    values, pattern, b = system(device, "Poisson 3-D", F64, 4)
    solve(values, pattern, b)
    activities = [ProfilerActivity.CPU] + ([] if device == "cpu" else [ProfilerActivity.CUDA])
    with profile(activities=activities, acc_events=True) as trace:
        solve(values, pattern, b)
    waits = [e for e in trace.key_averages() if e.key in ("cudaStreamSynchronize", "cudaEventSynchronize")]
    assert sum(e.count for e in waits) <= 5
