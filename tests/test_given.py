"""Preconditioners that are given, callbacks, and what a failed derivative says: objects in records, through the ops."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg as sla
import torch
from torch import Tensor

import oracle
import sparsolve as sps
from sparsolve import tickets
from sparsolve.solvers import cotangent, decode, tangent
from transforms import COMPOSITIONS, tensors

TIGHT = {"rtol": 1e-12, "maxiter": 1000}
N = 6
DIAGONAL = sps.Pattern(torch.arange(4), torch.arange(3), (3, 3))
both_dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
FEW = ["value", "grad_both", "jvp_both", "vjp_of_jvp", "jvp_of_jvp", "vmap_b", "vmap_both", "vmap_hvp", "grad_of_vmap"]


def system(dtype: torch.dtype, hermitian: bool) -> tuple[Tensor, sps.Pattern]:
    torch.manual_seed(3)
    D = torch.randn(N, N, dtype=dtype) * (torch.rand(N, N) < 0.6) + 8 * torch.eye(N, dtype=dtype)
    return oracle.pattern_of(D + D.mH if hermitian else D)


def near_inverse(dtype: torch.dtype, hermitian: bool) -> Tensor:
    """Dense: not quite the inverse, and as unsymmetric as that."""
    inverse = torch.linalg.inv(oracle.dense(*system(dtype, hermitian)))
    wrong = 0.02 * torch.randn(N, N, dtype=dtype)
    return inverse + (wrong + wrong.mH) / 2 if hermitian else inverse + wrong


def near(dtype: torch.dtype, hermitian: bool) -> sps.SparseMatrix:
    """The system's matrix, a little moved."""
    values, pattern = system(dtype, hermitian)
    return sps.SparseMatrix(values + 0.2 * (pattern.rows() == pattern.col), pattern)


def by(M: Tensor) -> Any:
    return lambda r: M.resolve_conj().numpy() @ r


def record(kind: str, method: Any, dtype: torch.dtype) -> Any:
    hermitian = method in (sps.CG, sps.MINRES)
    M = near_inverse(dtype, hermitian)
    made = {
        "matrix": lambda: sps.SparseMatrix(*oracle.pattern_of(M)),
        "callable": lambda: by(M) if hermitian else sps.ApproximateInverse(by(M), by(M.mH)),
        "block": lambda: sps.ApproximateInverse(by(M), by(M.mH), block=True),
        "factored": lambda: sps.Factored(near(dtype, hermitian)),
    }[kind]()
    return method(**TIGHT, preconditioner=made)


KINDS = ["matrix", "callable", "block", "factored"]
newer = pytest.mark.xfail(
    not tickets._DYNAMO_GUARDS_IDS,
    reason="before torch 2.13 Dynamo takes no function with free variables, and no matrix, in a record: an error, no wrong number",
    strict=True,
)


@both_dtypes
@pytest.mark.parametrize("transform", FEW)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [sps.CG, sps.GMRES], ids=["cg", "gmres"])
def test_transforms(method: Any, kind: str, transform: str, dtype: torch.dtype) -> None:
    f, g, T = case(record(kind, method, dtype), method is sps.CG, dtype)
    torch.testing.assert_close(COMPOSITIONS[transform](f, T), COMPOSITIONS[transform](g, T), rtol=1e-8, atol=1e-8)


@newer
@pytest.mark.parametrize("transform", ["value", "grad_both", "vjp_of_jvp"])
@pytest.mark.parametrize("kind", KINDS)
def test_compiled(kind: str, transform: str) -> None:
    f, g, T = case(record(kind, sps.GMRES, torch.complex128), False, torch.complex128)
    torch.compiler.reset()
    got = torch.compile(lambda: COMPOSITIONS[transform](f, T), fullgraph=True, backend="aot_eager")()
    torch.testing.assert_close(got, COMPOSITIONS[transform](g, T), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("transform", ["grad_both", "jvp_both", "vmap_both", "hessian_A"])
def test_records_made_inside_of_transforms(transform: str) -> None:
    """Of a constant; and, but for vmap, of what they follow, whose numbers it is then."""
    M = near(torch.float64, False)
    f, g, T = case(lambda v: sps.GMRES(**TIGHT, preconditioner=sps.Factored(M)), False, torch.float64)
    if "vmap" not in transform:
        f = case(lambda v: sps.GMRES(**TIGHT, preconditioner=sps.Factored(v)), False, torch.float64)[0]
    torch.testing.assert_close(COMPOSITIONS[transform](f, T), COMPOSITIONS[transform](g, T), rtol=1e-8, atol=1e-8)


def half(r: Any) -> Any:
    return r / 2


@newer
def test_records_made_inside_of_compiled_code() -> None:
    """Of callables and of records; a matrix has no numbers there."""
    values, pattern = system(torch.float64, True)
    b, known, seen = torch.randn(N, dtype=torch.float64), sps.Factored(near(torch.float64, True)), []

    told = lambda i, r: seen.append(i)  # noqa: E731 (made inside, it would see a copy of what it is bound to)

    def f(v: Tensor) -> Any:
        one = sps.solve(sps.SparseMatrix(v, pattern), b, sps.CG(preconditioner=known, callback=told))
        return one, sps.solve(sps.SparseMatrix(v, pattern), b, sps.CG(preconditioner=half))

    torch.compiler.reset()
    for x in torch.compile(f, fullgraph=True, backend="aot_eager")(values):
        torch.testing.assert_close(x, oracle.solve(values, pattern, b))
    assert seen
    M = near(torch.float64, True)
    g = torch.compile(lambda v: sps.solve(sps.SparseMatrix(v, pattern), b, sps.CG(preconditioner=M)), fullgraph=True)
    with pytest.raises(Exception, match="make its record outside"):
        g(values)


def case(solver: Any, hermitian: bool, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """`f(s, t)` through the solver, the same through dense code; A stays Hermitian where it is."""
    values, pattern = system(dtype, hermitian)
    b = torch.randn(N, 2, dtype=dtype)
    place = (pattern.rows() == pattern.col).to(dtype)

    def real(x: Tensor) -> Tensor:
        return torch.view_as_real(x) if x.is_complex() else x

    def of(solve: Any) -> Any:
        return lambda s, t: real(solve(values * (1 + 0.1 * s.sin().sum()) + s[0] * place, b + t.to(dtype)))

    def solved(v: Tensor, b: Tensor) -> Tensor:
        A = sps.SparseMatrix(v, pattern)
        return sps.solve(A, b, solver(A) if callable(solver) else solver)

    f, g = of(solved), of(lambda v, b: oracle.solve(v, pattern, b))
    s, t = 0.1 * torch.randn(3).double(), 0.1 * torch.randn(b.shape).double()
    return f, g, tensors(s, t, g(s, t))


@pytest.mark.parametrize("method", [sps.CG, sps.MINRES, sps.GMRES, sps.BiCGStab, sps.CGS])
@pytest.mark.parametrize("kind", KINDS)
def test_they_help(kind: str, method: Any) -> None:
    values, pattern = system(torch.float64, method in (sps.CG, sps.MINRES))
    A, b = sps.SparseMatrix(values, pattern), torch.randn(N, 3, dtype=torch.float64)
    for adjoint in (False, True):
        x, info = sps.solve_with_info(A, b, record(kind, method, torch.float64), adjoint=adjoint)
        torch.testing.assert_close(x, oracle.solve(values, pattern, b, adjoint))
        assert info.iterations.max() <= N


def test_the_exact_inverse_takes_one_step() -> None:
    values, pattern = system(torch.complex128, False)
    A, b = sps.SparseMatrix(values, pattern), torch.randn(N, 3, dtype=torch.complex128)
    M = torch.linalg.inv(A.to_dense())
    exact = [sps.SparseMatrix(*oracle.pattern_of(M)), sps.Factored(A), sps.ApproximateInverse(by(M), by(M.mH))]
    for preconditioner in exact:
        for adjoint in (False, True):
            info = sps.solve_with_info(A, b, sps.GMRES(preconditioner=preconditioner), adjoint=adjoint).info
            assert (info.iterations == 1).all(), preconditioner


class TestFactored:
    def test_the_factorization_is_found_or_made_once(self) -> None:
        values, pattern = system(torch.float64, False)
        old, b = sps.SparseMatrix(values, pattern), torch.randn(N, dtype=torch.float64)
        sps.solve(old, b)
        for step in range(3):
            v = (values * (1 + 0.01 * step)).requires_grad_()
            solver = sps.GMRES(preconditioner=sps.Factored(old), rtol=1e-9 / (1 + step))
            sps.solve(sps.SparseMatrix(v, pattern), b, solver).sum().backward()
        assert sps.memo_info().factorizations == 1 + 3  # the LU, and three matrices to iterate with

    def test_real_and_single_precision_for_complex_systems(self) -> None:
        values, pattern = system(torch.complex128, False)
        A, b = sps.SparseMatrix(values, pattern), torch.randn(N, 2, dtype=torch.complex128)
        for dtype in (torch.float32, torch.float64, torch.complex64):
            near = values.real.to(dtype) if not dtype.is_complex else values.to(dtype)
            for M in (sps.Factored(sps.SparseMatrix(near, pattern)), inverse_of(near, pattern)):
                for adjoint in (False, True):
                    x = sps.solve(A, b, sps.GMRES(**TIGHT, preconditioner=M), adjoint=adjoint)
                    torch.testing.assert_close(x, oracle.solve(values, pattern, b, adjoint))

    def test_refuses(self) -> None:
        A = sps.SparseMatrix(*system(torch.float64, False))
        for solver in (sps.CG(), sps.Jacobi(), lambda A, b: b):
            with pytest.raises(TypeError, match="direct solver"):
                sps.Factored(A, solver)
        zero = sps.SparseMatrix(0 * A.values, A.pattern)
        with pytest.raises(sps.SingularMatrixError):
            sps.solve(A, torch.ones(N).double(), sps.GMRES(preconditioner=sps.Factored(zero)))


def inverse_of(values: Tensor, pattern: sps.Pattern) -> sps.SparseMatrix:
    return sps.SparseMatrix(*oracle.pattern_of(torch.linalg.inv(oracle.dense(values, pattern))))


def test_numbers_are_copied_when_the_record_is_made() -> None:
    values, pattern = system(torch.float64, False)
    A, b = sps.SparseMatrix(values, pattern), torch.randn(N, dtype=torch.float64)
    mine = values.clone()
    solver = sps.GMRES(preconditioner=sps.Factored(sps.SparseMatrix(mine, pattern)))
    mine.mul_(torch.nan)
    assert sps.solve_with_info(A, b, solver).info.iterations == 1
    assert torch.equal(values, A.values)


def test_equal_numbers_are_one_preconditioner() -> None:
    values, pattern = system(torch.float64, False)
    one, same, other = (sps.Factored(sps.SparseMatrix(v, pattern)) for v in (values, values.clone(), 2 * values))
    assert one == same != other
    assert sps.GMRES(preconditioner=one).key == sps.GMRES(preconditioner=same).key
    assert sps.GMRES(preconditioner=one).key != sps.GMRES(preconditioner=other).key
    signed = sps.Factored(sps.SparseMatrix(torch.where(torch.arange(pattern.nnz) == 1, -0.0, 0 * values), pattern))
    assert signed != sps.Factored(sps.SparseMatrix(0 * values, pattern))
    pair = torch.view_as_complex(values.view(torch.float32).reshape(-1, 2))  # the same bits, as other numbers
    assert one != sps.Factored(sps.SparseMatrix(pair, pattern))


def test_keys_and_what_they_hold() -> None:
    f = lambda r: r  # noqa: E731
    for preconditioner in (near(torch.float64, True), f, sps.ApproximateInverse(f, f, block=True)):
        solver = sps.BiCGStab(preconditioner=preconditioner, callback=lambda i, r: None)
        assert decode(solver.key) == solver
        assert decode(solver.key).callback is solver.callback
        assert decode(cotangent(solver.key)) == solver
        assert decode(cotangent(solver.key)).callback is None
        assert decode(tangent(tangent(solver.key))) == solver


def test_large_constants_do_not_outlive_their_records() -> None:
    gc.collect()
    before = len(tickets._ALIVE)
    for k in range(20):
        A = sps.SparseMatrix(*system(torch.float64, False))
        _ = sps.GMRES(preconditioner=sps.SparseMatrix(A.values + k, A.pattern)).key
    gc.collect()
    assert sum(map(bool, tickets._ALIVE.values())) <= before + 1


def test_a_graph_holds_what_its_gradient_needs() -> None:
    values, pattern = system(torch.float64, False)
    v = values.requires_grad_()
    b = torch.randn(N, dtype=torch.float64)
    solver = sps.GMRES(**TIGHT, preconditioner=sps.Factored(near(torch.float64, False)))
    x = sps.solve(sps.SparseMatrix(v, pattern), b, solver)
    del solver
    sps.clear_memo()
    gc.collect()
    (gradient,) = torch.autograd.grad(x.sum(), v)
    torch.testing.assert_close(gradient, torch.autograd.grad(oracle.solve(v, pattern, b).sum(), v)[0])


def test_scipy_operators_are_callables() -> None:
    values, pattern = system(torch.complex128, False)
    A, b = sps.SparseMatrix(values, pattern), torch.randn(N, 2, dtype=torch.complex128)
    M = sla.aslinearoperator(torch.linalg.inv(A.to_dense()).numpy())
    for block in (False, True):
        solver = sps.GMRES(preconditioner=sps.ApproximateInverse(M, M.H, block=block))
        for adjoint in (False, True):
            assert (sps.solve_with_info(A, b, solver, adjoint=adjoint).info.iterations == 1).all()


def test_a_callable_may_use_its_memory_again_and_not_write_to_ours() -> None:
    values, pattern = system(torch.float64, False)
    A, b = sps.SparseMatrix(values, pattern), torch.randn(N, 2, dtype=torch.float64)
    M = near_inverse(torch.float64, False).numpy()
    for block in (False, True):
        out = np.empty((N, 2) if block else N)
        again = sps.ApproximateInverse(lambda r, out=out: np.matmul(M, r, out=out), block=block)
        x, info = sps.solve_with_info(A, b, sps.BiCGStab(**TIGHT, preconditioner=again))
        torch.testing.assert_close(x, oracle.solve(values, pattern, b))
        plain = sps.BiCGStab(**TIGHT, preconditioner=sps.ApproximateInverse(lambda r: M @ r, block=block))
        assert torch.equal(info.iterations, sps.solve_with_info(A, b, plain).info.iterations)

    def spoil(r: Any) -> Any:
        r *= 2
        return r

    with pytest.raises(ValueError, match="read-only"):
        sps.solve(A, b, sps.GMRES(preconditioner=spoil))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: sps.CG(preconditioner=near(torch.float64, False)), ValueError, "CG needs a Hermitian"),
        (lambda: sps.MINRES(preconditioner=sps.Factored(near(torch.complex128, False))), ValueError, "MINRES needs"),
        (lambda: sps.CG(preconditioner=sps.Jacobi), TypeError, r"the class Jacobi; a preconditioner record .* Use Jacobi\(\)\."),
        (lambda: sps.GMRES(preconditioner="ilu"), TypeError, r"'ilu'; .* Use ILU\(\)\."),
        (lambda: sps.GMRES(preconditioner=torch.eye(3)), TypeError, r"a Tensor; .* by from_torch or from_scipy"),
        (lambda: sps.CG(preconditioner=3), TypeError, "a preconditioner record is needed"),
        (lambda: sps.CG(callback=3), TypeError, "callback=3"),
        (lambda: sps.Factored(torch.eye(3).to_sparse()), TypeError, "takes one sparsolve.SparseMatrix.*from_torch .*from_scipy"),
        (lambda: sps.ApproximateInverse(sps.SparseMatrix(torch.ones(2, 3), DIAGONAL)), TypeError, "batch of values"),
        (lambda: sps.Factored(sps.SparseMatrix(torch.ones(2), sps.Pattern(torch.arange(3), torch.arange(2), (2, 3)))), ValueError, "square"),
        (lambda: sps.ApproximateInverse(near(torch.float64, True), adjoint=abs), TypeError, "a matrix has its own"),
        (lambda: solve(sps.GMRES(preconditioner=lambda r: r[:2])), sps.SolveError, r"returned an array of float64 \(2,\)"),
        (lambda: solve(sps.GMRES(preconditioner=lambda r: r + 1j)), sps.SolveError, "complex128"),
        (lambda: solve(sps.GMRES(preconditioner=lambda r: None)), sps.SolveError, "'<lambda>' returned a NoneType, an array of object"),
        (lambda: solve(sps.GMRES(preconditioner=lambda r: (r, 0))), sps.SolveError, "a tuple that is no NumPy array"),
        (lambda: solve(sps.GMRES(preconditioner=lambda r: torch.ones(N, requires_grad=True))), sps.SolveError, r"detach\(\)"),
        (lambda: solve(sps.GMRES(preconditioner=near(torch.complex128, False))), TypeError, "complex"),
        (lambda: solve(sps.GMRES(preconditioner=sps.SparseMatrix.from_torch(torch.eye(3).to_sparse()))), ValueError, r"\(3, 3\)"),
        (lambda: solve(sps.GMRES(preconditioner=abs), adjoint=True), TypeError, "without its adjoint"),
        (lambda: sps.GMRES(preconditioner=sps.SparseMatrix(torch.ones(4), DIAGONAL)), ValueError, r"values have shape \(4,\); the pattern has 3"),
        (lambda: sps.GMRES(preconditioner=sps.SparseMatrix(torch.ones(1), DIAGONAL)), ValueError, r"values have shape \(1,\); the pattern has 3"),
        (lambda: sps.GMRES(preconditioner=sps.SparseMatrix(torch.ones(3).half(), DIAGONAL)), TypeError, r"ApproximateInverse's matrix has dtype torch.float16.*\.to\(torch.float32"),
        (lambda: sps.CG(preconditioner=sps.SparseMatrix(torch.ones(3).bfloat16(), DIAGONAL)), TypeError, "has dtype torch.bfloat16"),
        (lambda: sps.Factored(sps.SparseMatrix(torch.ones(3).long(), DIAGONAL)), TypeError, r"Factored's matrix has dtype torch.int64.*\.to\(torch.float64"),
        (lambda: sps.CG(preconditioner=unchecked(torch.tensor([0, 5]))), sps.PatternError, "column 5"),
        (lambda: sps.Factored(unchecked(torch.arange(2), torch.tensor([0, 2]))), sps.PatternError, "crow has 2 entries"),
        (lambda: sps.Factored(unchecked(torch.tensor([0, -5]))), sps.PatternError, "column -5"),
        (lambda: torch.vmap(lambda v: sps.Factored(sps.SparseMatrix(v, DIAGONAL)) and v)(torch.ones(2, 3)), TypeError, "no numbers yet"),
    ],
)  # fmt: skip
def test_refusals(make: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


def unchecked(col: torch.Tensor, crow: torch.Tensor | None = None) -> sps.SparseMatrix:
    """From a tensor whose indices nobody has looked at."""
    crow = torch.arange(3) if crow is None else crow
    T = torch.sparse_csr_tensor(crow, col, torch.ones(2), (2, 2), check_invariants=False)
    return sps.SparseMatrix.from_torch(T)


def solve(solver: Any, **options: Any) -> Any:
    A = sps.SparseMatrix(*system(torch.float64, False))
    return sps.solve(A, torch.ones(N).double(), solver, **options)


# ---- callbacks


class TestCallback:
    def test_sees_every_step_of_the_solve_and_none_of_its_derivatives(self) -> None:
        values, pattern = system(torch.float64, False)
        b = torch.randn(N, 3, dtype=torch.float64)
        v, seen = values.requires_grad_(), []
        solver = sps.GMRES(rtol=1e-9, callback=lambda i, r: seen.append((i, r)))
        x, info = sps.solve_with_info(sps.SparseMatrix(v, pattern), b, solver)
        assert [i for i, _ in seen] == list(range(1, int(info.iterations.max()) + 1))
        assert all(r.shape == (3,) for _, r in seen)
        torch.testing.assert_close(torch.as_tensor(seen[-1][1]), info.residual * b.norm(dim=0), rtol=1e-3, atol=1e-12)
        steps = len(seen)
        x.sum().backward()
        torch.func.jvp(
            lambda v: sps.solve(sps.SparseMatrix(v, pattern), b, solver), (values.detach(),), (values.detach(),)
        )
        assert len(seen) == 2 * steps

    def test_changes_nothing_and_is_no_part_of_what_a_record_is(self) -> None:
        values, pattern = system(torch.float64, True)
        A, b = sps.SparseMatrix(values, pattern), torch.randn(N, dtype=torch.float64)
        told = sps.CG(callback=lambda i, r: r.fill(0), preconditioner=sps.Jacobi())
        plain = sps.CG(preconditioner=sps.Jacobi())
        assert told == plain
        assert hash(told) == hash(plain)
        assert torch.equal(sps.solve(A, b, told), sps.solve(A, b, plain))
        assert sps.memo_info().factorizations == 1

    def test_can_end_a_solve(self) -> None:
        def stop(i: int, residual: Any) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            solve(sps.BiCGStab(callback=stop))

    @newer
    def test_compiled(self) -> None:
        values, pattern = system(torch.float64, False)
        b, seen = torch.randn(N, dtype=torch.float64), []
        solver = sps.GMRES(callback=lambda i, r: seen.append(i))
        torch.compiler.reset()
        f = torch.compile(
            lambda v: sps.solve(sps.SparseMatrix(v, pattern), b, solver), fullgraph=True, backend="aot_eager"
        )
        f(values)
        steps = len(seen)
        f(values)
        assert len(seen) == 2 * steps > 0


# ---- what a failed derivative says


@pytest.mark.parametrize("compiled", [False, True])
def test_a_failed_tangent_solve_says_so(compiled: bool) -> None:
    n = 50
    D = (2 * torch.eye(n) - torch.diag(torch.ones(n - 1), 1) - torch.diag(torch.ones(n - 1), -1)).double()
    values, pattern = oracle.pattern_of(D)
    b = torch.eye(n, dtype=torch.float64)[0]
    exact = oracle.solve(values, pattern, b)

    def f(v: Tensor) -> Tensor:
        return sps.solve(sps.SparseMatrix(v, pattern), b, sps.CG(maxiter=3), x0=exact)  # nothing to do

    def derivative(v: Tensor) -> Any:
        return torch.func.jvp(f, (v,), (torch.ones_like(v),))[1]

    if compiled:
        torch.compiler.reset()
        derivative = torch.compile(derivative, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(f(values), exact)
    with pytest.raises(
        sps.ConvergenceError, match="This was the solve for a tangent, as forward mode needs it"
    ) as caught:
        derivative(values)
    assert "adjoint" not in str(caught.value)


def test_the_primal_and_the_adjoint_do_not_say_that() -> None:
    values, pattern = system(torch.float64, False)
    b = torch.randn(N, dtype=torch.float64)

    def f(v: Tensor) -> Tensor:
        x0 = oracle.solve(values, pattern, b)
        return sps.solve(sps.SparseMatrix(v, pattern), b, sps.GMRES(maxiter=0), x0=x0).sum()

    for attempt in (lambda: f(2 * values), lambda: torch.func.grad(f)(values)):
        with pytest.raises(sps.ConvergenceError) as caught:
            attempt()
        assert "tangent" not in str(caught.value)
