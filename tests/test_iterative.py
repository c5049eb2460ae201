"""The iterative records through `solve`: derivatives, transforms, convergence told truly, preconditioners, first guesses."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor

import oracle
import sparsolve as sps
from sparsolve.backends.host import structure_of
from sparsolve.backends.iterative import _prepare, moderate
from sparsolve.solvers import cotangent, decode, split
from systems import SYSTEMS
from transforms import COMPOSITIONS, tensors

TIGHT = {"rtol": 1e-12, "maxiter": 1000}
HERMITIAN = {
    "cg": sps.CG(**TIGHT),
    "minres": sps.MINRES(**TIGHT),
    "cg_jacobi": sps.CG(**TIGHT, preconditioner=sps.Jacobi()),
    "cg_sgs": sps.CG(**TIGHT, preconditioner=sps.SymmetricGaussSeidel()),
}
GENERAL = {
    "gmres": sps.GMRES(**TIGHT),
    "bicgstab": sps.BiCGStab(**TIGHT),
    "cgs": sps.CGS(**TIGHT),
    "gmres_ilu": sps.GMRES(**TIGHT, preconditioner=sps.ILU()),
    "bicgstab_blocks": sps.BiCGStab(**TIGHT, preconditioner=sps.BlockJacobi(size=2)),
}
METHODS = {**HERMITIAN, **GENERAL}
FEW = [
    "value",
    "grad_both",
    "jvp_both",
    "hessian_A",
    "vjp_of_jvp",
    "jvp_of_jvp",
    "vmap_b",
    "vmap_both",
    "vmap_grad",
    "vmap_hvp",
    "grad_of_vmap",
]
both_dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)


def matrix(dtype: torch.dtype, n: int = 6) -> tuple[Tensor, sps.Pattern]:
    """Unsymmetric, with a strong diagonal."""
    torch.manual_seed(2)
    D = torch.randn(n, n, dtype=dtype) * (torch.rand(n, n) < 0.5) + 12 * torch.eye(n, dtype=dtype)
    return oracle.pattern_of(D)


def case(name: str, dtype: torch.dtype, adjoint: bool) -> tuple[Any, Any, Any]:
    """`f(s, t)` through the method, the same through dense code. Hermitian methods get `V + Vᴴ` of the entries moved by s."""
    values, pattern = matrix(dtype)
    n = pattern.shape[0]
    full = sps.Pattern(torch.arange(0, n * n + 1, n), torch.arange(n).repeat(n), (n, n))
    b = torch.randn(n, 2, dtype=dtype)

    def moved(a: Tensor, by: Tensor) -> Tensor:
        return a + (torch.complex(by, by.flip(0)) if a.is_complex() else by)

    def system(s: Tensor) -> tuple[Tensor, sps.Pattern]:
        v = moved(values, s)
        if name in GENERAL:
            return v, pattern
        D = oracle.dense(v, pattern)
        return (D + D.mH).flatten(), full

    def real(x: Tensor) -> Tensor:
        return torch.view_as_real(x) if x.is_complex() else x

    def f(s: Tensor, t: Tensor) -> Tensor:
        return real(sps.solve(sps.SparseMatrix(*system(s)), moved(b, t), METHODS[name], adjoint=adjoint))

    def g(s: Tensor, t: Tensor) -> Tensor:
        return real(oracle.solve(*system(s), moved(b, t), adjoint=adjoint))

    s, t = 0.1 * torch.randn(values.shape).double(), 0.1 * torch.randn(b.shape).double()
    return f, g, tensors(s, t, g(s, t))


@both_dtypes
@pytest.mark.parametrize("adjoint", [False, True], ids=["plain", "adjoint"])
@pytest.mark.parametrize("transform", FEW)
@pytest.mark.parametrize("name", METHODS)
def test_transforms(name: str, transform: str, adjoint: bool, dtype: torch.dtype) -> None:
    if (name, transform) == ("cgs", "hessian_A"):
        pytest.skip("CGS stagnates for some of the unit vectors here, SciPy's too")
    f, g, T = case(name, dtype, adjoint)
    torch.testing.assert_close(COMPOSITIONS[transform](f, T), COMPOSITIONS[transform](g, T), rtol=1e-8, atol=1e-8)


@both_dtypes
@pytest.mark.parametrize("transform", ["value", "grad_both", "vjp_of_jvp", "vmap_hvp"])
@pytest.mark.parametrize("name", ["bicgstab", "gmres_ilu"])
def test_compiled(name: str, transform: str, dtype: torch.dtype) -> None:
    f, g, T = case(name, dtype, False)
    torch.compiler.reset()
    got = torch.compile(lambda: COMPOSITIONS[transform](f, T), fullgraph=True, backend="aot_eager")()
    torch.testing.assert_close(got, COMPOSITIONS[transform](g, T), rtol=1e-8, atol=1e-8)


def test_record_made_inside_a_compiled_function() -> None:
    values, pattern = matrix(torch.float64)
    b = torch.randn(6, dtype=torch.float64)
    solver = lambda: sps.GMRES(rtol=1e-12, preconditioner=sps.Jacobi())  # noqa: E731
    f = torch.compile(
        lambda v, b: sps.solve(sps.SparseMatrix(v, pattern), b, solver()), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(f(values, b), oracle.solve(values, pattern, b))


@pytest.mark.parametrize("solver", METHODS.values(), ids=METHODS)
def test_a_record_survives_its_key(solver: sps.CG) -> None:
    assert decode(solver.key) == solver


def path(n: int, ends: float = 2.0) -> tuple[Tensor, sps.Pattern]:
    """-1, 2, -1; `ends` 1 makes it singular."""
    D = torch.diag(torch.full((n,), 2.0)) - torch.diag(torch.ones(n - 1), 1) - torch.diag(torch.ones(n - 1), -1)
    D[0, 0] = D[-1, -1] = ends
    return oracle.pattern_of(D.double())


def test_info_tells_iterations_and_the_true_residual() -> None:
    values, pattern = path(12)
    A = sps.SparseMatrix(values, pattern)
    b = torch.stack([torch.zeros(12), torch.ones(12), torch.randn(12)], dim=1).double()
    x, info = sps.solve_with_info(A, b, sps.CG(rtol=1e-12))
    assert (info.status == sps.Status.CONVERGED).all()
    assert info.iterations[0] == 0
    assert 0 < info.iterations[1] <= 6  # symmetric: half the eigenvectors
    assert info.iterations[2] <= 13
    assert (info.residual <= 1e-12).all()
    torch.testing.assert_close(info.residual, ((b - A @ x).norm(dim=0) / b.norm(dim=0).clamp(min=1e-300)))


def test_maxiter_is_an_error_or_a_status_never_silence() -> None:
    values, pattern = path(50)
    A, b = sps.SparseMatrix(values, pattern), torch.ones(50, dtype=torch.float64)
    for maxiter in (0, 3):
        with pytest.raises(sps.ConvergenceError, match=r"CG stopped with .* was asked for.*iterations"):
            sps.solve(A, b, sps.CG(maxiter=maxiter))
        x, info = sps.solve_with_info(A, b, sps.CG(maxiter=maxiter))
        assert info.status == sps.Status.MAXITER
        assert info.iterations == maxiter
        assert x.isfinite().all()
        assert 1e-8 < info.residual <= 10


def test_a_failure_in_a_derivative_is_an_error() -> None:
    values, pattern = path(50)
    b = torch.zeros(50, dtype=torch.float64)
    b[0] = 1
    exact = oracle.solve(values, pattern, b)
    v = values.requires_grad_()
    x = sps.solve(sps.SparseMatrix(v, pattern), b, sps.CG(maxiter=3), x0=exact)  # nothing to do: it starts at the end
    torch.testing.assert_close(x.detach(), exact.detach())
    with pytest.raises(sps.ConvergenceError, match="adjoint"):
        x.sum().backward()


def test_the_batch_index_of_a_failure() -> None:
    values, pattern = path(30)
    batch = torch.stack([values * 0 + (pattern.rows() == pattern.col), values])
    with pytest.raises(sps.ConvergenceError, match="batch index 1"):
        sps.solve(sps.SparseMatrix(batch, pattern), torch.randn(30, dtype=torch.float64), sps.CG(maxiter=2))


def test_a_breakdown_is_not_called_maxiter() -> None:
    """p = b = (1, 1) and pᴴ A p = 0 in the first step of CG."""
    pattern = sps.Pattern(torch.arange(3), torch.arange(2), (2, 2))
    A = sps.SparseMatrix(torch.tensor([1.0, -1.0]).double(), pattern)
    info = sps.solve_with_info(A, torch.ones(2).double(), sps.CG()).info
    assert info.status == sps.Status.BREAKDOWN
    assert info.iterations < 20


@pytest.mark.parametrize("consistent", [True, False])
def test_singular_systems(consistent: bool) -> None:
    """CG and MINRES solve a consistent one, and refuse the other."""
    values, pattern = path(20, ends=1.0)
    A = sps.SparseMatrix(values, pattern)
    b = torch.arange(20.0).double()
    b = b - b.mean() if consistent else b
    for solver in (sps.CG(rtol=1e-10), sps.MINRES(rtol=1e-10), sps.GMRES(rtol=1e-10, restart=30)):
        if consistent:
            x = sps.solve(A, b, solver)
            torch.testing.assert_close(A @ x, b)
        else:
            with pytest.raises(sps.ConvergenceError):
                sps.solve(A, b, solver)


def test_methods_outside_of_their_class_are_never_believed() -> None:
    values, pattern = matrix(torch.float64)
    A, b = sps.SparseMatrix(values, pattern), torch.randn(6, dtype=torch.float64)
    indefinite = sps.SparseMatrix(
        torch.tensor([1.0, -1.0]).double(), sps.Pattern(torch.arange(3), torch.arange(2), (2, 2))
    )
    for M, rhs, solver in ((A, b, sps.MINRES()), (indefinite, torch.ones(2).double(), sps.CG())):
        x, info = sps.solve_with_info(M, rhs, solver)
        wrong = (M @ x - rhs).norm() > 1e-6
        assert info.status != sps.Status.BREAKDOWN or info.iterations < 10 * len(rhs)
        assert (info.status == sps.Status.CONVERGED) != wrong


@pytest.mark.parametrize("solver", [sps.CG(), sps.MINRES(), sps.GMRES(), sps.BiCGStab(), sps.CGS()], ids=str)
def test_easy_systems(solver: sps.CG) -> None:
    """2 I, and a diagonal matrix with b = e₁: the method is done after a step; n = 1; no unknowns; no columns."""
    for n in (1, 5):
        pattern = sps.Pattern(torch.arange(n + 1), torch.arange(n), (n, n))
        for values in (torch.full((n,), 2.0).double(), torch.arange(1.0, n + 1).double()):
            b = torch.zeros(n, dtype=torch.float64)
            b[0] = 3
            torch.testing.assert_close(sps.solve(sps.SparseMatrix(values, pattern), b, solver), b / values)
    empty = sps.Pattern(torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), (0, 0))
    assert sps.solve(sps.SparseMatrix(torch.zeros(0), empty), torch.zeros(0), solver).shape == (0,)
    assert sps.solve(sps.SparseMatrix(values, pattern), torch.zeros(5, 0).double(), solver).shape == (5, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("name", GENERAL)
def test_single_precision_reaches_its_default(name: str, dtype: torch.dtype) -> None:
    values, pattern = matrix(dtype)
    b = torch.randn(6, dtype=dtype)
    record = METHODS[name]
    x = sps.solve(sps.SparseMatrix(values, pattern), b, type(record)(preconditioner=record.preconditioner))
    assert x.dtype == dtype
    torch.testing.assert_close(x, oracle.solve(values, pattern, b), rtol=1e-3, atol=1e-3)


def test_real_matrix_and_complex_right_hand_side() -> None:
    values, pattern = path(10)
    v = values.requires_grad_()
    b = torch.randn(10, dtype=torch.complex128)
    x = sps.solve(sps.SparseMatrix(v, pattern), b, sps.CG(rtol=1e-13))
    torch.testing.assert_close(x, oracle.solve(v.to(b.dtype), pattern, b))
    (gradient,) = torch.autograd.grad(x.abs().sum(), v)
    (expected,) = torch.autograd.grad(oracle.solve(v.to(b.dtype), pattern, b).abs().sum(), v)
    assert gradient.dtype == torch.float64
    torch.testing.assert_close(gradient, expected)


def test_an_absolute_tolerance_does_not_zero_a_small_gradient() -> None:
    values, pattern = path(10)
    v = values.requires_grad_()
    b = torch.randn(10, dtype=torch.float64)
    x = sps.solve(sps.SparseMatrix(v, pattern), b, sps.CG(rtol=0.0, atol=1e-10))
    (gradient,) = torch.autograd.grad(1e-20 * x.sum(), v)
    (expected,) = torch.autograd.grad(oracle.solve(v, pattern, b).sum(), v)
    torch.testing.assert_close(1e20 * gradient, expected)
    assert split(cotangent(sps.CG(rtol=0.0, atol=1e-3).key)) == (sps.CG().key, "cotangent")
    assert split(cotangent(sps.CG(rtol=1e-5, atol=1e-3).key)) == (sps.CG(rtol=1e-5).key, "cotangent")


@pytest.mark.parametrize("method", [sps.CG, sps.MINRES, sps.GMRES, sps.BiCGStab, sps.CGS])
def test_an_absolute_tolerance_of_one_and_more_is_no_relative_one(method: Any) -> None:
    """In the units of b it may be any number: taken as a relative tolerance, it would make every derivative 0."""
    A = torch.tensor([[4.0, 1.0], [1.0, 3.0]]).double().to_sparse_csr()
    values = A.values().clone().requires_grad_()
    A = sps.SparseMatrix(values, sps.Pattern(A.crow_indices(), A.col_indices(), (2, 2)))
    b = torch.tensor([6e6, 7e6]).double().requires_grad_()
    solver, inverse = method(rtol=0.0, atol=1.0), torch.linalg.inv(A.to_dense().detach())
    d_values, d_b = torch.autograd.grad(sps.solve(A, b, solver).sum(), (values, b))
    ones = torch.ones(2).double()
    torch.testing.assert_close(d_b, inverse @ ones)
    torch.testing.assert_close(
        d_values, -torch.outer(inverse @ ones, inverse @ b.detach()).flatten(), rtol=1e-6, atol=0
    )
    _, tangent = torch.func.jvp(lambda b: sps.solve(A, b, solver), (b.detach(),), (ones,))
    torch.testing.assert_close(tangent, inverse @ ones)


class TestFirstGuess:
    def test_saves_iterations(self) -> None:
        values, pattern = path(40)
        A, b = sps.SparseMatrix(values, pattern), torch.randn(40, dtype=torch.float64)
        exact = oracle.solve(values, pattern, b)
        near = sps.solve_with_info(A, b, sps.BiCGStab(), x0=exact * (1 + 1e-9))
        assert near.info.iterations < sps.solve_with_info(A, b, sps.BiCGStab()).info.iterations
        assert sps.solve_with_info(A, b, sps.CG(), x0=exact).info.iterations == 0

    def test_in_vmap_and_pytrees(self) -> None:
        values, pattern = path(8)
        A = sps.SparseMatrix(values, pattern)
        B = torch.randn(3, 8, dtype=torch.float64)
        X = torch.stack([oracle.solve(values, pattern, b) for b in B])
        f = lambda b, x0: sps.solve_with_info(A, b, sps.CG(), x0=x0)  # noqa: E731
        x, info = torch.vmap(f)(B, X)
        assert (info.iterations == 0).all()
        torch.testing.assert_close(x, X)
        assert (torch.vmap(f, (0, None))(B, X[0]).info.iterations > 0).tolist() == [False, True, True]
        assert (torch.vmap(f, (None, 0))(B[1], X).info.iterations > 0).tolist() == [True, False, True]
        tree, start = {"a": B[0], "b": (B[1],)}, {"a": X[0], "b": (X[1],)}
        found = sps.solve_with_info(A, tree, sps.CG(), x0=start)
        assert found.info["b"][0].iterations == 0
        torch.testing.assert_close(found.x, start)

    def test_has_no_derivative_and_leaves_gradients_right(self) -> None:
        values, pattern = path(8)
        b, x0 = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64, requires_grad=True)
        v = values.requires_grad_()
        x = sps.solve(sps.SparseMatrix(v, pattern), b, sps.CG(rtol=1e-13), x0=x0)
        gradient, none = torch.autograd.grad(x.sin().sum(), (v, x0), allow_unused=True)
        (expected,) = torch.autograd.grad(oracle.solve(v, pattern, b).sin().sum(), v)
        torch.testing.assert_close(gradient, expected)
        assert none is None

    def test_bad_ones(self) -> None:
        values, pattern = path(8)
        A, b = sps.SparseMatrix(values, pattern), torch.ones(8, dtype=torch.float64)
        for tree, start in (({"a": b}, [b]), ([b, b], [b])):
            with pytest.raises(ValueError, match=r"x0 is .* and b .*of one structure"):
                sps.solve(A, tree, sps.CG(), x0=start)
        with pytest.raises(ValueError, match="x0 is"):
            sps.solve(A, b, sps.CG(), x0=torch.ones(7, dtype=torch.float64))
        with pytest.raises(ValueError, match="complex"):
            sps.solve(A, b, sps.CG(), x0=b.to(torch.complex128))
        assert sps.solve_with_info(A, b, sps.CG(), x0=torch.zeros(8, dtype=torch.int64)).info.status == 0
        with pytest.raises(sps.SolveError, match=r"x0\[2, 0\] is nan"):
            sps.solve(A, b, sps.CG(), x0=torch.where(torch.arange(8) == 2, torch.nan, b))


def test_preconditioners_are_built_once() -> None:
    values, pattern = matrix(torch.float64)
    sps.clear_memo()
    v = values.requires_grad_()
    solver = sps.GMRES(preconditioner=sps.ILU())
    for _ in range(3):
        sps.solve(sps.SparseMatrix(v, pattern), torch.randn(6, 2).double(), solver).sum().backward()
    assert sps.memo_info().factorizations == 1


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: sps.CG(preconditioner=sps.ILU()), ValueError, "CG needs a Hermitian positive definite preconditioner"),
        (lambda: sps.CG(rtol=-1.0), ValueError, "rtol=-1.0"),
        (lambda: sps.GMRES(restart=0), ValueError, "restart=0"),
        (lambda: sps.CG(maxiter=True), TypeError, "maxiter=True"),
        (lambda: sps.CG(rtol=np.complex64(1e-8 + 1j)), ValueError, "rtol="),
        (lambda: sps.CG(preconditioner=sps.LU()), TypeError, "a preconditioner record is needed"),
        (lambda: sps.CG(1e-8), TypeError, "positional"),
    ],
)
def test_records_refuse(make: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


SCALES = [(torch.float64, s) for s in (1e-305, 1e-150, 1e-18, 1e76, 1e155, 1e305)] + [
    (torch.float32, s) for s in (1e-37, 1e-19, 1e-8, 1e19, 1e36)
]


@pytest.mark.parametrize("preconditioner", [None, sps.Jacobi()], ids=str)
@pytest.mark.parametrize("method", ["CG", "MINRES", "GMRES", "BiCGStab", "CGS"])
@pytest.mark.parametrize(("dtype", "scale"), SCALES, ids=str)
def test_a_matrix_of_any_size(method: str, preconditioner: Any, dtype: torch.dtype, scale: float) -> None:
    """Squares of its entries overflow or underflow; with a power of two for the scale, steps and digits are those of scale 1."""
    values, pattern = path(12)
    b, x0 = torch.linspace(1, 2, 12).to(dtype), torch.linspace(0, 1, 12).to(dtype)
    solver = getattr(sps, method)(rtol=1e-4, preconditioner=preconditioner)
    power = 2.0 ** round(math.log2(scale))
    for start in (None, x0):
        for adjoint in (False, True):
            plain, scaled = (
                sps.solve_with_info(
                    sps.SparseMatrix(values.to(dtype) * s, pattern), b * s, solver, adjoint=adjoint, x0=start
                )
                for s in (1.0, power)
            )
            assert plain.info.status == scaled.info.status == 0
            assert plain.info.iterations == scaled.info.iterations
            torch.testing.assert_close(plain.x, scaled.x)


@pytest.mark.parametrize(("scale", "b"), [(1e-300, 1e10), (1e300, 1e-100)])
def test_a_solution_that_cannot_be_written_down_is_no_solution(scale: float, b: float) -> None:
    A = sps.SparseMatrix.from_diagonal(torch.full((3,), scale, dtype=torch.float64))
    assert (
        sps.solve_with_info(A, torch.full((3,), b, dtype=torch.float64), sps.CG()).info.status == sps.Status.BREAKDOWN
    )


def test_a_matrix_that_cannot_be_scaled_exactly_is_left_as_it_is() -> None:
    values = np.array([1e300, 1.2345678e-20])
    same, scale = moderate(values)
    assert same is values
    assert scale == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_a_matrix_is_iterated_with_in_its_own_memory(dtype: torch.dtype) -> None:
    """Of a matrix without duplicates only the adjoint's values are held besides; duplicates are added up first."""
    values, pattern = (a.numpy() if isinstance(a, Tensor) else a for a in SYSTEMS["Poisson 2-D"](dtype))
    structure = structure_of(pattern.crow, pattern.col, pattern.shape)
    A, _, nbytes, *_ = _prepare(structure, values, None)
    assert A[False].data is values
    assert nbytes == values.nbytes
    assert np.shares_memory(A[False].indices, structure.indices)
    assert np.shares_memory(A[True].indices, structure.csc_indices)
    doubled = structure_of(2 * pattern.crow, pattern.col.repeat_interleave(2), pattern.shape)
    B, _, nbytes, *_ = _prepare(doubled, np.repeat(values, 2) / 2, None)
    assert nbytes == 2 * values.nbytes
    assert abs(B[False] - A[False]).max() == 0


def poisson(m: int, dtype: torch.dtype, shift: float = 0.0) -> sps.SparseMatrix:
    """The 5-point Laplacian on m x m points, minus a multiple of the identity."""
    T = sp.diags_array([-np.ones(m - 1), 2 * np.ones(m), -np.ones(m - 1)], offsets=[-1, 0, 1])
    A = sps.SparseMatrix.from_scipy(sp.csr_matrix(sp.kronsum(T, T) - shift * sp.eye_array(m * m)))
    return sps.SparseMatrix(A.values.to(dtype), A.pattern)


def said(A: Any, b: Tensor, solver: Any, **options: Any) -> str:
    """The message of a solve that does not converge."""
    with pytest.raises(sps.ConvergenceError) as caught:
        sps.solve(A, b, solver, **options)
    return str(caught.value)


HERE = [sps.CG(), sps.MINRES(), sps.GMRES(restart=60), sps.BiCGStab(), sps.CG(preconditioner=sps.Jacobi())]


@pytest.mark.parametrize("solver", HERE, ids=str)
def test_a_residual_that_rounding_forbids_is_called_that(solver: Any) -> None:
    """No word of a matrix that is not Hermitian; the number given is enough."""
    A, b = poisson(100, torch.float32), torch.ones(10_000)
    message = said(A, b, solver)
    assert "float32 cannot reach this residual: it is at the rounding error of A x. Use float64, or rtol >= " in message
    assert "ermitian" not in message
    enough = float(re.search(r"rtol >= ([^ ]+)\.", message)[1])
    assert enough < 5e-4
    sps.solve(A, b, replace(solver, rtol=enough))
    sps.solve(sps.SparseMatrix(A.values.double(), A.pattern), b.double(), replace(solver, rtol=1e-6))


def test_so_it_is_in_double_precision_and_for_a_matrix_of_extreme_size() -> None:
    A, b = poisson(50, torch.float64), torch.ones(2500, dtype=torch.float64)
    for factor in (1.0, 2.0**900):
        message = said(factor * A, factor * b, sps.CG(rtol=1e-16))
        assert "float64 cannot reach this residual" in message
        assert "Use rtol >= " in message


def test_a_cause_is_looked_for_in_indices_of_any_order() -> None:
    pattern = sps.Pattern(torch.tensor([0, 2, 4]), torch.tensor([1, 0, 1, 0]), (2, 2))
    A = sps.SparseMatrix(torch.tensor([1.0, -2.0, -3.0, 1.0]).double(), pattern)
    assert "A is not positive definite" in said(A, torch.ones(2).double(), sps.CG())


def test_a_cause_is_named_where_it_is_one() -> None:
    """Each matrix with its own: unsymmetric, indefinite, singular, and none of these."""
    b = torch.linspace(1, 2, 64).double()
    definite, indefinite = poisson(8, torch.float64), poisson(8, torch.float64, shift=3.1)
    rows = definite.pattern.rows()
    unsymmetric = sps.SparseMatrix(definite.values * (1.0 + 0.5 * (rows < definite.pattern.col)), definite.pattern)
    twisted = sps.SparseMatrix(definite.values * 1j, definite.pattern)
    for method in (sps.CG, sps.MINRES):
        assert f"{method.__name__} needs a Hermitian A, and this one is not." in said(unsymmetric, b, method())
        assert f"{method.__name__} needs a Hermitian A" in said(twisted, b.to(torch.complex128), method())
    assert "CG met a direction p with pᴴ A p <= 0. A missing boundary condition" in said(indefinite, b, sps.CG())
    assert "A or the preconditioner M is not positive" in said(indefinite, b, sps.CG(preconditioner=sps.Jacobi()))
    for method in (sps.CG, sps.MINRES):
        assert "preconditioner M is not positive definite" in said(definite, b, method(preconditioner=lambda r: -r))
    factored = sps.Factored(sps.SparseMatrix(-definite.values, definite.pattern))  # which refuses what is not finite
    assert "preconditioner M is not positive definite" in said(definite, b, sps.MINRES(preconditioner=factored))
    values, pattern = path(12, ends=1.0)
    singular = sps.SparseMatrix(values, pattern)
    assert "MINRES stopped" in (message := said(singular, torch.linspace(1, 2, 12).double(), sps.MINRES()))
    assert "A is singular: Aᴴ y = 0 for constant y" in message
    assert "Subtract b.mean()" in message
    assert "constant y" in said(singular, torch.linspace(1, 2, 12).double(), sps.GMRES())
    y = torch.tensor([1.0, -2.0, 1.5] * 4).double()  # A = D L D, so that the null vector is 1 / y
    scaled = sps.SparseMatrix(values * y[pattern.rows()] * y[pattern.col], pattern)
    message = said(scaled, torch.linspace(1, 2, 12).double(), sps.MINRES())
    assert "A is singular, or nearly so, and b is not in its range" in message
    for method in (sps.CG, sps.MINRES, sps.GMRES):
        message = said(definite, b, method(maxiter=3))
        assert "3 steps were not enough" in message
        assert "a larger maxiter" in message
        assert "ermitian" not in message
        assert "definite" not in message


def test_so_it_is_for_operators() -> None:
    c, b = torch.linspace(1, 2, 30).double(), torch.ones(30).double()
    unsymmetric = sps.Operator(lambda c, x: 3 * x + c * x.roll(1), c)
    assert "CG needs a Hermitian A" in said(unsymmetric, b, sps.CG())
    assert "pᴴ A p <= 0" in said(sps.Operator(lambda c, x: (c - 1.5) * x, c), b, sps.CG())
    assert "2 steps were not enough" in said(sps.Operator(lambda c, x: c * x, c), b, sps.CG(maxiter=2))


@pytest.mark.parametrize("method", [sps.CG, sps.MINRES, sps.GMRES, sps.BiCGStab, sps.CGS])
def test_a_preconditioner_that_returns_nan_is_named(method: Any) -> None:
    A, b = poisson(8, torch.float64), torch.ones(64, 2).double()
    wrong = sps.ApproximateInverse(lambda r: r * torch.nan, adjoint=lambda r: r * torch.inf)
    for adjoint in (False, True):
        message = said(A, b, method(preconditioner=wrong), adjoint=adjoint)
        assert "The preconditioner returned NaN or Inf" in message
        assert "ermitian" not in message


@pytest.mark.parametrize(
    ("derivative", "said"),
    [
        (torch.func.grad, "with the adjoint of A"),
        (lambda f: lambda v: torch.func.jvp(f, (v,), (v.sin(),)), "for a tangent"),
    ],
)
def test_a_failure_in_a_derivative_says_where(derivative: Any, said: str) -> None:
    """From the solution as x0 nothing is to be done, but in derivatives."""
    values, pattern = path(12)
    b = torch.ones(12, dtype=torch.float64)
    x = sps.solve(sps.SparseMatrix(values, pattern), b)

    def hurried(v: Tensor) -> Tensor:
        return sps.solve(sps.SparseMatrix(v, pattern), b, sps.CG(maxiter=2), x0=x).sum()

    with pytest.raises(sps.ConvergenceError, match=said):
        derivative(hurried)(values)


def test_named_scipy_methods_solve_derivatives_relative_to_their_own_right_hand_side() -> None:
    """An absolute tolerance of the primal solve says nothing about a tangent."""
    A = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64).to_sparse()
    b, db = torch.tensor([1.0, 2.0]).double(), torch.full((2,), 1e-4).double()
    seen: list[int] = []

    def f(b: Tensor) -> Tensor:
        return sps.sparse_solve_c4t(A, b, "cg", rtol=0, atol=1e-3, callback=lambda x: seen.append(1))

    f(b)
    steps = len(seen)
    _, tangent = torch.func.jvp(f, (b,), (db,))
    torch.testing.assert_close(tangent, torch.linalg.inv(A.to_dense()) @ db, rtol=1e-3, atol=0)
    assert len(seen) == 2 * steps  # the callback is told of the primal solve alone


def test_a_ticket_of_another_process_is_refused() -> None:
    with pytest.raises(sps.SolveError, match="not in this process's table"):
        decode("function:0123456789abcdef:1")


def test_a_graph_keeps_the_callables_that_its_gradient_needs() -> None:
    """Many more of them than the table holds, each with a number of its own."""
    n = 1100
    pattern = sps.Pattern(torch.arange(3), torch.arange(2), (2, 2))
    A = sps.SparseMatrix(torch.tensor([2.0, 4.0]).double(), pattern)
    b = torch.ones(2, dtype=torch.float64, requires_grad=True)

    def solver(k: float) -> Any:
        return lambda matrix, rhs: k * rhs / matrix.diagonal()

    total = sum(sps.solve(A, b, solver(float(k))) for k in range(n)).sum()
    (gradient,) = torch.autograd.grad(total, b)
    torch.testing.assert_close(gradient, n * (n - 1) / 2 / torch.tensor([2.0, 4.0]).double())


def test_one_column_that_is_not_finite_does_not_take_the_others_along():
    values, pattern = SYSTEMS["Poisson 2-D"](torch.float64)
    b = torch.randn(pattern.shape[0], 3, dtype=torch.float64)
    b[2, 1] = torch.nan
    x, info = sps.solve_with_info(sps.SparseMatrix(values, pattern), b, sps.CG(rtol=1e-12))
    assert info.status.tolist() == [sps.Status.CONVERGED, sps.Status.BREAKDOWN, sps.Status.CONVERGED]
    assert (info.iterations > 0).tolist() == [True, False, True]
    torch.testing.assert_close(x[:, ::2], oracle.solve(values, pattern, b[:, ::2]))


def applies(method: Any, system: str, dtype: torch.dtype) -> bool:
    """MINRES wants a Hermitian matrix, CG a positive definite one."""
    if not method().hermitian:
        return True
    D = oracle.dense(*SYSTEMS[system](dtype))
    return torch.equal(D, D.mH) and (method is sps.MINRES or bool(torch.linalg.eigvalsh(D).min() > 0))


ALL = (sps.CG, sps.MINRES, sps.GMRES, sps.BiCGStab, sps.CGS)
APPLY = [
    pytest.param(method, system, dtype, id=f"{method.__name__}-{system}-{dtype}")
    for method in ALL
    for system in SYSTEMS
    for dtype in (torch.float64, torch.complex128)
    if applies(method, system, dtype)
]


@pytest.mark.parametrize(("method", "system", "dtype"), APPLY)
def test_every_method_on_every_system_it_applies_to(method: Any, system: str, dtype: torch.dtype) -> None:
    """All converge, but on entries from 1e-12 to 1e12, where none does, and says so."""
    values, pattern = SYSTEMS[system](dtype)
    A, D = sps.SparseMatrix(values, pattern), oracle.dense(values, pattern)
    b = torch.randn(pattern.shape[0], 2, dtype=dtype)
    solver = method(rtol=1e-9, maxiter=2000, **({"restart": 60} if method is sps.GMRES else {}))
    x, info = sps.solve_with_info(A, b, solver)
    converged = (info.status == sps.Status.CONVERGED).all()
    assert converged == (system != "badly scaled")
    if converged:
        assert ((b - D @ x).norm(dim=0) <= 1.001e-9 * b.norm(dim=0)).all()


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_the_residual_that_is_reported_does_not_depend_on_the_size_of_b(size: float) -> None:
    A, b = poisson(8, torch.float64), torch.linspace(1, 2, 64).double()
    expected = sps.solve_with_info(A, b, sps.CG(maxiter=2)).info.residual
    torch.testing.assert_close(sps.solve_with_info(A, size * b, sps.CG(maxiter=2)).info.residual, expected)


@pytest.mark.parametrize("solver", [sps.CG, sps.MINRES, sps.GMRES, sps.BiCGStab, sps.CGS], ids=lambda s: s.__name__)
@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [
        (torch.float32, (1e-30, 1e-38, 1e-42)),
        (torch.complex64, (1e-30, 1e-38, 1e-42)),
        (torch.float64, (1e-280, 1e-310, 1e-320)),
        (torch.complex128, (1e-280, 1e-310, 1e-320)),
    ],
    ids=str,
)
def test_right_hand_sides_near_the_smallest_numbers(solver: Any, dtype: torch.dtype, sizes: tuple[float, ...]) -> None:
    """A gradient in single precision may be of such a size."""
    values, pattern = path(40)
    A = sps.SparseMatrix(values.to(dtype), pattern)
    b = torch.ones(40, 3, dtype=dtype) * torch.tensor([1.0, 0.0, 1.0])
    seen: list[Any] = []
    for size in sizes:
        b[:, 2] = size
        for method in (solver(), solver(preconditioner=sps.Jacobi(), callback=lambda i, r: seen.append(r))):
            x, info = sps.solve_with_info(A, b, method, x0=b)
            assert (info.status == sps.Status.CONVERGED).all()
            unit = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps / size  # what x is rounded to
            torch.testing.assert_close(
                x[:, 2] / x[:, 0], torch.full((40,), size, dtype=dtype), rtol=1e-3 + 20 * unit, atol=0
            )
            assert not x[:, 1].any()
            assert (info.residual < 1e-4 + 20 * unit).all()
    assert seen[-1][2] <= 1e3 * sizes[-1]  # in b's units


def test_a_tiny_gradient_in_single_precision() -> None:
    values, pattern = path(40)
    b = torch.ones(40, requires_grad=True)
    expected = sps.solve(sps.SparseMatrix(values.float(), pattern), torch.full((40,), 1e-42))
    for solver in (sps.CG(), sps.GMRES(), sps.CG(preconditioner=sps.Jacobi())):
        x = sps.solve(sps.SparseMatrix(values.float(), pattern), b, solver)
        (got,) = torch.autograd.grad(x, b, torch.full((40,), 1e-42))
        torch.testing.assert_close(got, expected, rtol=1e-2, atol=0)
