"""Failure: every singular system is an error that tells why, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import oracle
import sparsolve as sps
from sparsolve.backends import direct
from sparsolve.backends.conditioning import doubtful
from systems import SINGULAR, SYSTEMS, grid, made, path, poisson, random_graph

F32, F64, C128 = torch.float32, torch.float64, torch.complex128


def solve(values, pattern, b=None, **kwargs):
    b = torch.randn(pattern.shape[0], dtype=values.dtype) if b is None else b
    return sps.solve(sps.SparseMatrix(values, pattern), b, **kwargs)


# ---- singular matrices


@pytest.mark.parametrize("dtype", [F32, F64, C128], ids=str)
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("name", SINGULAR)
def test_the_cause_is_told(name, adjoint, dtype):
    make, cause = SINGULAR[name]
    values, pattern = make(dtype)
    with pytest.raises(sps.SingularMatrixError, match=cause) as caught:
        solve(values, pattern, adjoint=adjoint)
    assert f"n {pattern.shape[0]}" in str(caught.value)
    assert ("adjoint" in str(caught.value)) == adjoint


@pytest.mark.parametrize("name", ["zero row", "dependent rows", "grid graph"])
def test_a_failure_leaves_nothing_behind(name):
    """The search for the cause once dropped stored zeros from the pattern's own analysis."""
    values, pattern = SINGULAR[name][0](F64)
    kept = [t.clone() for t in (values, pattern.crow, pattern.col)]
    for _ in range(2):
        with pytest.raises(sps.SingularMatrixError, match=SINGULAR[name][1]):
            solve(values, pattern)
    for now, before in zip((values, pattern.crow, pattern.col), kept, strict=True):
        assert torch.equal(now, before)
    fine = torch.where(pattern.rows() == pattern.col, 9.0, 0.5).to(F64)
    b = torch.randn(pattern.shape[0], dtype=F64)
    torch.testing.assert_close(solve(fine, pattern, b), oracle.solve(fine, pattern, b))


@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
def test_batch_index_is_told(dtype):
    values, pattern = SYSTEMS["banded"](dtype)
    batch = values.expand(5, -1).clone()
    batch[3] = 0
    with pytest.raises(sps.SingularMatrixError, match="batch index 3"):
        solve(batch, pattern, torch.ones(20, dtype=dtype))
    with pytest.raises(sps.SingularMatrixError, match="batch index 3"):
        torch.vmap(lambda v: solve(v, pattern, torch.ones(20, dtype=dtype)))(batch)


LAPLACIANS = {
    "path 2": lambda: path(2),
    "path 3": lambda: path(3),
    "path 1000": lambda: path(1000),
    "grid 3 x 4": lambda: grid(3, 4),
    "grid 8 x 9": lambda: grid(8, 9),
    "grid 31 x 32": lambda: grid(31, 32),
    "grid 100 x 101": lambda: grid(100, 101),
    "grid 5 x 5 x 6": lambda: grid(5, 5, 6),
    "grid 12 x 12 x 13": lambda: grid(12, 12, 13),
    "random 50": lambda: random_graph(50),
    "random 800": lambda: random_graph(800),
}


def gauged(L):
    """`G L Gᴴ` with unit phases: a singular matrix whose entries are rounded."""
    G = sp.diags(np.exp(1j * np.random.default_rng(0).uniform(0, 6, L.shape[0])))
    return (G @ L @ G.conj()).tocsr()


@pytest.mark.parametrize("name", LAPLACIANS)
def test_graph_laplacians(name):
    """Inconsistent and consistent right-hand sides; SuperLU alone returns 1e16, or an arbitrary solution, without a word."""
    L = LAPLACIANS[name]()
    n = L.shape[0]
    b = torch.randn(n, dtype=F64)
    for matrix, dtype in ((L, F64), (L, F32), (gauged(L), C128)):
        values, pattern = made(matrix, dtype, phases=dtype is C128 and matrix is L)
        if dtype is C128:  # `made` takes real models
            M = matrix.tocoo()
            pattern, order = sps.Pattern.from_coo(*(torch.as_tensor(i).long() for i in (M.row, M.col)), M.shape)
            values = torch.as_tensor(M.data)[order]
        for rhs in (b, b - b.mean()):
            with pytest.raises(sps.SingularMatrixError):
                solve(values, pattern, rhs.to(dtype))


@pytest.mark.parametrize("name", LAPLACIANS)
def test_shifted_graph_laplacians_are_fine(name):
    L = LAPLACIANS[name]()
    n = L.shape[0]
    values, pattern = made(L + 1e-6 * sp.eye(n), F64)
    b = torch.randn(n, dtype=F64)
    x = solve(values, pattern, b)
    residual = b - sps.matmul(sps.SparseMatrix(values, pattern), x)
    assert residual.abs().max() < 1e-14 * (16 * x.abs().max() + b.abs().max())
    values, pattern = made(L + 1e-3 * sp.eye(n), F32)
    assert solve(values, pattern).isfinite().all()


@pytest.mark.parametrize(("n", "dtype"), [(13, F64), (14, F64), (8, F32)])
def test_hilbert_matrices_are_singular_to_working_precision(n, dtype):
    with pytest.raises(sps.SingularMatrixError, match=r"working precision.*scaled condition at least"):
        solve(*made(sp.csr_matrix(scipy.linalg.hilbert(n)), dtype))


@pytest.mark.parametrize(("n", "dtype"), [(8, F64), (10, F64), (4, F32)])
def test_hilbert_matrices_that_are_not(n, dtype):
    """Condition numbers 1.5e10, 1.6e13 and 1.6e4."""
    values, pattern = made(sp.csr_matrix(scipy.linalg.hilbert(n)), dtype)
    b = oracle.dense(values, pattern) @ torch.ones(n, dtype=dtype)
    residual = oracle.dense(values, pattern) @ solve(values, pattern, b) - b
    assert residual.abs().max() < 20 * torch.finfo(dtype).eps * b.abs().max()


# ---- matrices that only look singular


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("side", ["rows", "columns"])
@pytest.mark.parametrize(("dtype", "power"), [(F64, 6), (F64, 60), (F64, 200), (F32, 6), (F32, 15)])
def test_badly_scaled_matrices(side, power, dtype, adjoint):
    """Rows or columns from 1e-200 to 1e200 (in powers of two, so that nothing else changes), with b to match."""
    values, pattern = SYSTEMS["Poisson 2-D"](dtype)
    n = pattern.shape[0]
    D = 2.0 ** torch.linspace(-power, power, n, dtype=dtype).mul(3.3219).round()
    scaled = values * D[pattern.rows() if side == "rows" else pattern.col]
    b = torch.randn(n, dtype=dtype)
    expected = oracle.solve(values.double(), pattern, b.double(), adjoint).to(dtype)
    on_b = (side == "rows") != adjoint
    x = solve(scaled, pattern, D * b if on_b else b, adjoint=adjoint)
    # pivoting cannot see through the scaling, so some digits may go
    torch.testing.assert_close(x if on_b else x * D, expected, rtol=1e-3 if dtype is F32 else 1e-5, atol=0)


@pytest.mark.parametrize("backend", [None, "superlu"])
@pytest.mark.parametrize("seed", [13, 28])
def test_pivots_of_large_rows_that_are_roundoff(seed, backend):
    """Rows from 1e-60 to 1: what is left of a large row after elimination is noise, and still larger than a small row."""
    rng = np.random.default_rng(seed)
    g = sp.random(100, 100, 0.03, random_state=seed)
    g = g + g.T
    M = (sp.diags(np.asarray(g.sum(1)).ravel()) - g + 0.1 * sp.eye(100)).tocsr()
    D = 2.0 ** rng.integers(-200, 1, 100)
    b = D * rng.standard_normal(100)
    x, info = sps.solve_with_info(
        sps.SparseMatrix.from_scipy(sp.diags(D) @ M), torch.from_numpy(b), sps.LU(backend=backend)
    )
    assert info.status == sps.Status.CONVERGED
    np.testing.assert_allclose(x.numpy(), np.linalg.solve(M.toarray(), b / D), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("dtype", "power"), [(np.float32, 12), (np.float64, 28), (np.float64, 40)])
def test_growth_and_bad_scaling_are_not_singularity(dtype, power):
    rng, seen = np.random.default_rng(2), 0
    for _ in range(60):
        n = int(rng.integers(5, 80))
        M = np.tril(-np.ones((n, n)), -1) + np.eye(n)
        M[:, -1] = 1
        D = 10.0 ** rng.uniform(-power, 0, n)
        b = torch.from_numpy((rng.standard_normal(n) * D).astype(dtype))
        sps.solve(sps.SparseMatrix.from_scipy(sp.csr_matrix((D[:, None] * M).astype(dtype))), b)
        seen += 1
    assert seen == 60


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("adjoint", [False, True])
def test_rows_and_columns_badly_scaled_at_once(seed, adjoint):
    values, pattern = SYSTEMS["Poisson 2-D"](F64)
    R, C = (10.0 ** torch.empty(20, dtype=F64).uniform_(-12, 12) for _ in range(2))
    x = solve(R[pattern.rows()] * values * C[pattern.col], pattern, adjoint=adjoint)
    assert x.isfinite().all()  # such a matrix is not called singular; its digits are another matter


@pytest.mark.parametrize("name", ["path 1000", "random 800"])
def test_badly_scaled_laplacians_are_still_singular(name):
    L = LAPLACIANS[name]()
    D = sp.diags(2.0 ** np.random.default_rng(0).integers(-30, 30, L.shape[0]))
    for matrix in (D @ L, L @ D, D @ L @ D):
        with pytest.raises(sps.SingularMatrixError):
            solve(*made(matrix, F64, phases=False))


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e300])
def test_tiny_and_huge_matrices(scale):
    values, pattern = SYSTEMS["banded"](F64)
    b = torch.randn(20, dtype=F64)
    torch.testing.assert_close(solve(values * scale, pattern, b) * scale, oracle.solve(values, pattern, b))


@pytest.mark.parametrize("condition", [1e6, 1e10, 1e13])
def test_ill_conditioned_matrices(condition):
    """`A = Q diag(1, …, 1 / condition) Qᵀ`, not a matter of scaling."""
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0]
    A = Q @ np.diag(np.geomspace(1, 1 / condition, 12)) @ Q.T
    values, pattern = made(sp.csr_matrix(A), F64)
    b = torch.randn(12, dtype=F64)
    x = solve(values, pattern, b)
    assert (b - oracle.dense(values, pattern) @ x).abs().max() < 1e-14 * x.abs().max()


def test_float32_poisson_problems_are_not_called_singular():
    for sizes in ((1000,), (60, 60)):
        values, pattern = made(poisson(*sizes), F32)
        assert solve(values, pattern).isfinite().all()


# ---- NaN and Inf

BAD = [float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", [F32, F64, C128], ids=str)
@pytest.mark.parametrize("name", ["banded", "duplicates", "saddle point"])
def test_values_that_are_not_finite(name, dtype, bad):
    values, pattern = SYSTEMS[name](dtype)
    values[7] = bad
    with pytest.raises(sps.SolveError, match="not finite") as caught:
        solve(values, pattern)
    assert not isinstance(caught.value, sps.SingularMatrixError)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", [F32, F64, C128], ids=str)
def test_right_hand_sides_that_are_not_finite(dtype, bad):
    values, pattern = SYSTEMS["banded"](dtype)
    b = torch.ones(20, 3, dtype=dtype)
    b[4, 1] = bad
    with pytest.raises(sps.SolveError, match=r"b\[4, 1\] is .*1 of 60 numbers are not finite") as caught:
        solve(values, pattern, b)
    assert not isinstance(caught.value, sps.SingularMatrixError)
    solve(values, pattern, torch.ones(20, dtype=dtype))


def test_info_of_values_that_are_not_finite():
    values, pattern = SYSTEMS["banded"](F64)
    values[0] = torch.nan
    x, info = sps.solve_with_info(sps.SparseMatrix(values, pattern), torch.ones(20, dtype=F64))
    assert info.status == sps.Status.BREAKDOWN
    assert x.isnan().all()


# ---- failures inside a derivative


@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
def test_errors_in_backward_keep_their_type(dtype):
    values, pattern = SYSTEMS["banded"](dtype)
    values.requires_grad_()
    x = solve(values, pattern)
    with pytest.raises(sps.SolveError, match=r"b\[2\] is .*nan.*adjoint"):
        x.backward(torch.where(torch.arange(20) == 2, torch.nan, 1.0).to(dtype))


@pytest.mark.parametrize("call", [sps.solve, lambda *args: sps.solve_with_info(*args).x])
def test_a_solver_that_fails_in_backward(call):
    values, pattern = SYSTEMS["banded"](F64)
    values.requires_grad_()

    def solver(matrix, rhs):
        if len(calls) == 1:
            raise sps.ConvergenceError("no further")
        calls.append(1)
        return np.linalg.solve(matrix.toarray(), rhs)

    calls = []
    x = call(sps.SparseMatrix(values, pattern), torch.ones(20, dtype=F64), solver)
    with pytest.raises(sps.ConvergenceError, match=r"no further.*adjoint"):
        x.sum().backward()


def test_errors_under_transforms_keep_their_type():
    values, pattern = SINGULAR["structural"][0](F64)
    f = lambda v: solve(v, pattern, torch.ones(6, dtype=F64)).sum()  # noqa: E731
    for transform in (torch.func.grad, torch.func.hessian, torch.func.jacfwd):
        with pytest.raises(sps.SingularMatrixError, match="structural rank"):
            transform(f)(values)


# ---- devices


def test_devices_that_differ():
    values, pattern = SYSTEMS["banded"](F64)
    with pytest.raises(
        ValueError, match=r"A's values are on cpu, its pattern on cpu and b on meta; all must be on one"
    ):
        sps.solve(sps.SparseMatrix(values, pattern), torch.ones(20, dtype=F64, device="meta"))


def test_device_without_a_backend():
    from sparsolve.backends import device_module, solver_module

    with pytest.raises(sps.BackendUnavailableError, match=r"xpu.*\.cpu\(\)"):
        device_module("xpu")
    with pytest.raises(sps.BackendUnavailableError, match="LU has no backend for xpu"):
        solver_module("LU", "xpu")


@pytest.mark.parametrize("device", ["cpu", "cuda", "meta"])
def test_fake_tensors_of_any_device(device):
    """Shapes, dtypes and devices without numbers: what `torch.compile` and `torch.export` see."""
    _, cpu = SYSTEMS["banded"](F64)
    with FakeTensorMode(allow_non_fake_inputs=True):
        pattern = sps.Pattern(*(torch.empty_like(t, device=device) for t in (cpu.crow, cpu.col)), cpu.shape)
        values = torch.empty(4, cpu.nnz, device=device, dtype=F64, requires_grad=device != "cuda")
        b = torch.empty(20, 3, device=device, dtype=C128)
        x, info = sps.solve_with_info(sps.SparseMatrix(values, pattern), b)
        assert x.shape == (4, 20, 3)
        assert x.dtype is C128
        assert x.device.type == device
        assert info.residual.shape == (4, 3)
        if device == "cuda":
            return  # torch's autograd engine aborts the process where there is no CUDA
        (gradient,) = torch.autograd.grad(x.real.sum(), values)
        assert gradient.shape == values.shape
        assert gradient.dtype is F64


# ---- gradients where some of a batch failed


def _some_singular(dtype, adjoint=False):
    """Three matrices, the second one singular, and a function whose gradient does not ask for what failed."""
    values, pattern = SYSTEMS["banded"](dtype)
    many = torch.stack([values, 0 * values, 2 * values])
    b = torch.randn(len(pattern.crow) - 1, dtype=dtype)

    def loss(many, b):
        x, info = sps.solve_with_info(sps.SparseMatrix(many, pattern), b, adjoint=adjoint)
        return x[info.status == sps.Status.CONVERGED].abs().square().sum()

    def good(many, b):
        return sum(
            sps.solve(sps.SparseMatrix(many[i], pattern), b, adjoint=adjoint).abs().square().sum() for i in (0, 2)
        )

    return many, pattern, b, loss, good


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
def test_no_gradient_is_asked_of_a_matrix_that_failed(dtype, adjoint):
    many, _, b, loss, good = _some_singular(dtype, adjoint)
    leaves = many.clone().requires_grad_(), b.clone().requires_grad_()
    loss(*leaves).backward()
    expected = many.clone().requires_grad_(), b.clone().requires_grad_()
    good(*expected).backward()
    for leaf, other in zip(leaves, expected, strict=True):
        torch.testing.assert_close(leaf.grad, other.grad)
    assert not leaves[0].grad[1].any()


@pytest.mark.parametrize("compiled", [False, True])
def test_no_gradient_under_vmap_of_a_matrix_that_failed(compiled):
    many, pattern, b, _, good = _some_singular(F64)

    def loss(v):
        x, info = sps.solve_with_info(sps.SparseMatrix(v, pattern), b)
        return torch.where(info.status == 0, x, 0.0).square().sum()  # first of all: 0 times NaN is NaN

    f = torch.vmap(torch.func.grad(loss))
    f = torch.compile(f, fullgraph=True, backend="aot_eager") if compiled else f
    torch.testing.assert_close(f(many), torch.func.grad(good)(many, b))


def test_a_gradient_that_is_asked_of_a_failed_matrix_is_an_error():
    many, pattern, b, *_ = _some_singular(F64)
    x = sps.solve_with_info(sps.SparseMatrix(many.requires_grad_(), pattern), b).x
    with pytest.raises(sps.SolveError, match=r"solve for a gradient.*batch index 1"):
        x.backward(torch.ones_like(x))


def test_no_gradient_is_asked_of_a_column_that_failed():
    """Its x is NaN, and shares the matrix with the other columns."""
    values, pattern = SYSTEMS["banded"](F64)
    B = torch.randn(len(pattern.crow) - 1, 3, dtype=F64)
    B[4, 1] = torch.inf
    v = values.clone().requires_grad_()
    x, info = sps.solve_with_info(sps.SparseMatrix(v, pattern), B)
    assert info.status.tolist() == [0, sps.Status.BREAKDOWN, 0]
    x[:, info.status == 0].square().sum().backward()
    w = values.clone().requires_grad_()
    sps.solve(sps.SparseMatrix(w, pattern), B[:, ::2]).square().sum().backward()
    torch.testing.assert_close(v.grad, w.grad)


def test_a_zero_right_hand_side_of_a_singular_matrix_is_still_an_error():
    """In a solve of the user's own."""
    _, pattern, b, *_ = _some_singular(F64)
    with pytest.raises(sps.SingularMatrixError):
        sps.solve(sps.SparseMatrix(torch.zeros(pattern.nnz, dtype=F64), pattern), 0 * b)


@pytest.mark.parametrize("dtype", [F32, F64, C128], ids=str)
def test_a_dominant_diagonal_proves_a_matrix_regular(dtype, monkeypatch):
    """And what is only nearly dominant is asked."""
    asked = []
    monkeypatch.setattr(direct, "doubtful", lambda *args: asked.append(args) or doubtful(*args))
    for weight, asks in ((2.1, False), (2.0, True)):
        off = -torch.ones(19, dtype=dtype)
        D = torch.diag(off, 1) + torch.diag(off, -1) + weight * torch.eye(20, dtype=dtype)
        D[3] *= 1e-20  # each row has a scale of its own
        values, pattern = oracle.pattern_of(D)
        b = D @ torch.ones(20, dtype=dtype)
        x = sps.solve(sps.SparseMatrix(values, pattern), b)
        torch.testing.assert_close(x, torch.ones(20, dtype=dtype), rtol=1e-4, atol=1e-4)
        assert bool(asked) is asks


@pytest.mark.parametrize("wrong", [torch.inf, torch.nan])
def test_a_dominant_diagonal_that_is_not_finite(wrong):
    values = torch.tensor([wrong, 1.0, 1.0, 1.0, 3.0], dtype=F64)
    pattern = sps.Pattern(torch.tensor([0, 2, 3, 5]), torch.tensor([0, 1, 1, 1, 2]), (3, 3))
    with pytest.raises(sps.SolveError, match=r"A\[0, 0\] is (inf|nan)"):
        sps.solve(sps.SparseMatrix(values, pattern), torch.ones(3, dtype=F64))


@pytest.mark.parametrize("solver", [sps.LU(), sps.Cholesky(), sps.LU(factor_dtype=torch.float32)], ids=str)
@pytest.mark.parametrize("several", [False, True])
def test_an_entry_that_is_not_finite_is_named_by_its_place(solver, several):
    """Not by where it happens to be in memory; and what duplicates add up to is no warning of NumPy's."""
    row, col = torch.tensor([0, 0, 1, 1, 2, 1, 2]), torch.tensor([0, 2, 1, 1, 0, 1, 2])
    pattern, order = sps.Pattern.from_coo(row, col, (3, 3))
    for wrong, there in (
        ({1: torch.nan, 4: torch.nan}, r"A\[(2, 0|0, 2)\] is nan"),
        ({2: torch.inf, 3: -torch.inf}, r"A\[1, 1\] is nan"),
        ({2: 1e308, 3: 1e308}, r"A\[1, 1\] is inf"),
    ):
        values = torch.tensor([4.0, 1.0, 3.0, 3.0, 1.0, 3.0, 5.0], dtype=torch.float64)
        for place, number in wrong.items():
            values[place] = number
        values = values[order].repeat(2, 1) if several else values[order]
        with pytest.raises(sps.SolveError, match=there):
            sps.solve(sps.SparseMatrix(values, pattern), torch.ones(3, dtype=torch.float64), solver)


@pytest.mark.parametrize("A", ["not stored", "zero"])
def test_an_empty_row_is_not_positive_definite(A):
    one = torch.ones(1, dtype=F64)
    stored = sps.SparseMatrix.from_diagonal(torch.tensor([1.0, 0.0], dtype=F64))
    matrix = sps.SparseMatrix(one, sps.Pattern(torch.tensor([0, 1, 1]), torch.tensor([0]), (2, 2)))
    matrix = stored if A == "zero" else matrix
    with pytest.raises(sps.NotPositiveDefiniteError):
        sps.solve(matrix, torch.ones(2, dtype=F64), sps.Cholesky())
    with pytest.raises(sps.SingularMatrixError, match="Row 1 has no nonzero entry"):
        sps.solve(matrix, torch.ones(2, dtype=F64))
    if A != "zero":
        assert "No strategy suits" in str(sps.explain(matrix))
        assert "No strategy suits" in str(sps.explain(matrix, sps.Cholesky()))


def test_what_cholesky_says_of_singular_and_of_complex_matrices():
    L = sps.SparseMatrix.from_scipy(LAPLACIANS["path 1000"]())
    with pytest.raises(sps.NotPositiveDefiniteError) as failure:
        sps.solve(L, torch.ones(L.shape[0], dtype=F64), sps.Cholesky())
    message = str(failure.value)
    assert "A is singular: a constant can be added to x" in message
    assert "Fix one unknown" in message
    assert "LU()" not in message  # which would say the same
    wave = sps.SparseMatrix.from_diagonal(torch.tensor([2.0 + 1j, 3.0], dtype=C128))
    match = r"A\[0, 0\] = 2\+1j is on the diagonal, and not real\. .*complex symmetric.*Use LU\(\)"
    with pytest.raises(sps.NotPositiveDefiniteError, match=match):
        sps.solve(wave, torch.ones(2, dtype=C128), sps.Cholesky())
    free = sps.SparseMatrix.from_scipy(LAPLACIANS["path 1000"]().astype(np.float32))
    for A, match in (
        (L, "or add a small multiple of the identity. Where A is Hermitian"),
        (free, "or solve in double precision"),
    ):
        with pytest.raises(sps.SingularMatrixError, match=match) as failure:
            sps.solve(A, torch.ones(L.shape[0], dtype=A.dtype))
        assert failure.value.__cause__ is None
        assert failure.value.__suppress_context__  # one traceback


def test_subnormal_rows_are_no_constant():
    M = torch.randn(30, 30, dtype=F64)
    M[1] = M[0]
    M[2] *= 1e-310
    with pytest.raises(sps.SingularMatrixError) as failure:
        sps.solve(M.to_sparse_csr(), torch.ones(30, dtype=F64))
    assert "constant can be added" not in str(failure.value)
