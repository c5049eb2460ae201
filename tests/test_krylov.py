"""Krylov methods: against dense solves and the theory, and at every edge where such methods go wrong."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla

from sparsolve.krylov import METHODS, KrylovResult, iterate

Make = Callable[[], Any]


def poisson(*shape: int) -> Any:
    """The 5-point Laplacian and its like in any dimension."""
    A = sp.csr_matrix((1, 1))
    for m in shape:
        T = sp.diags([-np.ones(m - 1), 2 * np.ones(m), -np.ones(m - 1)], [-1, 0, 1])
        A = sp.kron(A, sp.eye(m)) + sp.kron(sp.eye(A.shape[0]), T)
    return sp.csr_matrix(A)


def convection(m: int) -> Any:
    """Convection-diffusion: far from symmetric."""
    T = sp.diags([-1.6 * np.ones(m - 1), 2.2 * np.ones(m), -0.4 * np.ones(m - 1)], [-1, 0, 1])
    return sp.csr_matrix(sp.kron(T, sp.eye(m)) + sp.kron(sp.eye(m), T))


def twisted(A: Any) -> Any:
    """`D A Dᴴ` with a unitary diagonal D: complex, with the same eigenvalues."""
    D = sp.diags(np.exp(1j * np.arange(A.shape[0]) ** 2))
    return sp.csr_matrix(D @ A @ D.conj())


DEFINITE = {
    "poisson 1-D": lambda: poisson(40),
    "poisson 2-D": lambda: poisson(9, 8),
    "hermitian": lambda: twisted(poisson(9, 8)) + 0.1 * sp.eye(72),
}
INDEFINITE = {
    "indefinite": lambda: poisson(9, 8) - 3.1 * sp.eye(72),
    "hermitian indefinite": lambda: twisted(poisson(9, 8)) - 3.1 * sp.eye(72),
}
GENERAL = {
    "convection": lambda: convection(9),
    "complex": lambda: twisted(convection(9)) + 0.5j * sp.eye(81),
}
CASES = {
    "cg": DEFINITE,
    "minres": DEFINITE | INDEFINITE,
    "cgs": DEFINITE | GENERAL,
    "bicgstab": DEFINITE | GENERAL,
    "gmres": DEFINITE | INDEFINITE | GENERAL,
}
PAIRS = [pytest.param(m, make, id=f"{m}-{name}") for m, makes in CASES.items() for name, make in makes.items()]
each_pair = pytest.mark.parametrize(("method", "make"), PAIRS)
each_method = pytest.mark.parametrize("method", METHODS)


def run(method: str, A: Any, b: Any, *, rtol: float = 1e-12, check: bool = True, **options: Any) -> KrylovResult:
    """`iterate`, with what must hold in any case: the inequality, true residuals, and inputs left alone."""
    options = {"atol": 0.0, "maxiter": None} | options
    x0 = options.get("x0")
    before = b.copy(), None if x0 is None else x0.copy()
    out = iterate(method, A, b, rtol=rtol, **options)
    assert np.array_equal(b, before[0], equal_nan=True)
    assert x0 is None or np.array_equal(x0, before[1])
    assert out.x.shape == b.shape
    assert out.x.dtype == b.dtype
    assert all(a.shape == b.shape[1:] for a in out[1:])
    if check:
        eps = np.finfo(b.dtype).eps
        true = np.linalg.norm(b - A @ out.x, axis=0)
        slack = 10 * eps * (np.linalg.norm(b, axis=0) + np.linalg.norm(abs(A) @ abs(out.x), axis=0))
        np.testing.assert_array_less(abs(true - out.residual), slack + 1e-300)
        np.testing.assert_allclose(out.bound, np.maximum(rtol * np.linalg.norm(b, axis=0), options["atol"]), rtol=1e-5)
        assert np.array_equal(out.converged, out.residual <= out.bound)
    return out


def rhs(A: Any, k: int, seed: int = 0) -> Any:
    """Columns of very different difficulty and size: noise, a unit vector, an eigenvector, a smooth one."""
    rng, n = np.random.default_rng(seed), A.shape[0]
    b = rng.standard_normal((n, k)).astype(A.dtype)
    if np.iscomplexobj(b):
        b = b + 1j * rng.standard_normal((n, k))
    for j in range(1, k, 3):
        b[:, j] = 1e-6 * np.eye(n)[j]
    for j in range(2, k, 3):
        vector = np.linalg.eig(A.toarray())[1][:, j]
        b[:, j] = 1e5 * (vector if np.iscomplexobj(b) else vector.real)
    return b


def difference(x: Any, y: Any) -> float:
    return float(np.max(np.linalg.norm(x - y, axis=0) / np.linalg.norm(y, axis=0)))


# ---- solutions


@pytest.mark.parametrize("k", [1, 3, 7])
@each_pair
def test_against_dense(method: str, make: Make, k: int) -> None:
    A = make()
    b = rhs(A, k)
    out = run(method, A, b, maxiter=2000, restart=81)
    assert out.converged.all()
    assert difference(out.x, np.linalg.solve(A.toarray(), b)) < 1e-9


@each_pair
def test_preconditioned(method: str, make: Make) -> None:
    A = sp.csr_matrix(make())
    size = sp.diags(np.linspace(1, 30, A.shape[0]) ** 0.5)
    A = sp.csr_matrix(size @ A @ size)
    b = rhs(A.real, 3).astype(A.dtype)
    jacobi = 1 / abs(A.diagonal())[:, None]
    out = run(method, A, b, M=lambda r: jacobi * r, restart=81, maxiter=2000)
    assert out.converged.all()
    assert difference(out.x, np.linalg.solve(A.toarray(), b)) < 1e-8
    if make not in INDEFINITE.values() and method != "cgs":
        plain = iterate(method, A, b, rtol=1e-12, atol=0, maxiter=2000, restart=81)
        assert out.iterations.max() <= plain.iterations.max()


@each_pair
def test_exact_preconditioner(method: str, make: Make) -> None:
    A = make()
    inverse = np.linalg.inv(A.toarray())
    if (
        make in INDEFINITE.values() and method == "minres"
    ):  # M must be definite: |A|⁻¹, whose product has eigenvalues ±1
        values, vectors = np.linalg.eigh(A.toarray())
        inverse = (vectors / abs(values)) @ vectors.conj().T
    out = run(method, A, rhs(A.real, 3).astype(A.dtype), M=lambda r: inverse @ r)
    assert out.converged.all()
    assert out.iterations.max() <= 2


@each_method
def test_preconditioner_that_returns_its_argument(method: str) -> None:
    A = poisson(30)
    b = rhs(A, 3)
    same, plain = run(method, A, b, M=lambda r: r), run(method, A, b)
    assert difference(same.x, plain.x) < 1e-9


@pytest.mark.parametrize("dtype", ["f", "F"])
@each_method
def test_single_precision(method: str, dtype: str) -> None:
    A = poisson(9, 8).astype(dtype)
    out = run(method, A, rhs(A.real, 3).astype(dtype), rtol=1e-5)
    assert out.converged.all()
    assert out.residual.dtype == np.float32


@each_method
def test_real_matrix_with_complex_columns(method: str) -> None:
    A = poisson(9, 8)
    b = rhs(A, 3) + 1j * rhs(A, 3, seed=1)
    out = run(method, A, b, maxiter=2000)
    assert out.converged.all()
    assert difference(out.x, np.linalg.solve(A.toarray(), b)) < 1e-9


# ---- the theory


def test_cg_converges_as_the_theory_says() -> None:
    """Saad, section 6.11.3: in the energy norm the error falls by `2 ((√κ − 1) / (√κ + 1))ʲ`."""
    A = poisson(20, 20)
    values = np.linalg.eigvalsh(A.toarray())
    root = np.sqrt(values[-1] / values[0])
    b = rhs(A, 1)
    exact = np.linalg.solve(A.toarray(), b)
    for steps in (1, 5, 20, 40, 60):
        error = exact - run("cg", A, b, maxiter=steps).x
        ratio = np.sqrt((error.T @ (A @ error)).item() / (exact.T @ b).item())
        assert ratio <= 2 * ((root - 1) / (root + 1)) ** steps


@pytest.mark.parametrize("method", ["cg", "minres", "gmres"])
def test_as_many_steps_as_distinct_eigenvalues(method: str) -> None:
    A = sp.diags(np.repeat([1.0, 2.0, 5.0, 9.0], 10)).tocsr()
    assert (run(method, A, rhs(A, 1, seed=4), rtol=1e-10).iterations == 4).all()


@pytest.mark.parametrize(("method", "make"), [("cg", lambda: poisson(20, 20)), ("gmres", lambda: convection(15))])
def test_as_many_steps_as_scipy(method: str, make: Make) -> None:
    A = make()
    b = np.random.default_rng(0).standard_normal((A.shape[0], 1))
    steps: list[Any] = []
    more = {"callback_type": "pr_norm"} if method == "gmres" else {}
    getattr(sla, method)(A, b[:, 0], rtol=1e-8, callback=steps.append, **more)
    assert abs(run(method, A, b, rtol=1e-8).iterations[0] - len(steps)) <= 2


# ---- columns


class Counted:
    """A matrix that counts the columns it is multiplied with."""

    def __init__(self, A: Any) -> None:
        self.A, self.columns = A, 0

    def __matmul__(self, X: Any) -> Any:
        self.columns += X.shape[1]
        return self.A @ X


@each_method
def test_ended_columns_cost_nothing(method: str) -> None:
    A = sp.diags(np.r_[np.ones(50), np.linspace(2, 9, 30)]).tocsr()
    b = np.zeros((80, 8))
    b[:7, :7] = np.eye(7)  # eigenvectors: one step each
    b[:, 7] = 1
    counted = Counted(A)
    out = iterate(method, counted, b, rtol=1e-8, atol=0, maxiter=None)
    assert out.converged.all()
    assert out.iterations[7] > 9
    per_step = 2 if method in ("cgs", "bicgstab") else 1
    assert counted.columns <= per_step * out.iterations.sum() + 8 + 3  # one check each, a few restarts


@each_pair
def test_columns_do_not_meet(method: str, make: Make) -> None:
    A = make()
    b = rhs(A.real, 7).astype(A.dtype)
    together = run(method, A, b, rtol=1e-7)
    for j in range(7):
        alone = run(method, A, b[:, [j]], rtol=1e-7)
        assert abs(alone.iterations[0] - together.iterations[j]) <= 5  # rounding
        assert alone.converged[0] == together.converged[j]
        assert difference(together.x[:, [j]], alone.x) < 1e-4


@each_method
def test_hopeless_columns_spoil_none(method: str) -> None:
    A = poisson(30)
    b = rhs(A, 4)
    b[3, 1] = np.nan
    b[4, 2] = np.inf
    out = run(method, A, b, check=False)
    assert out.converged.tolist() == [True, False, False, True]
    assert np.isfinite(out.x[:, [0, 3]]).all()


# ---- edges


@each_method
def test_zero_right_hand_side(method: str) -> None:
    A = poisson(6)
    out = run(method, A, np.zeros((6, 2)), x0=np.ones((6, 2)), check=False)
    assert out.converged.all()
    assert not out.x.any()
    assert not out.iterations.any()
    assert not out.residual.any()


@each_method
def test_exact_start(method: str) -> None:
    A = poisson(6)
    x0 = np.arange(12.0).reshape(6, 2)
    out = run(method, A, A @ x0, x0=x0)
    assert out.converged.all()
    assert np.array_equal(out.x, x0)
    assert not out.iterations.any()


@each_method
def test_start_helps(method: str) -> None:
    A = poisson(9, 8)
    b = rhs(A, 2)
    x0 = np.linalg.solve(A.toarray(), b) * (1 + 1e-6)
    out = run(method, A, b, x0=x0, rtol=1e-8)
    assert out.converged.all()
    assert (out.iterations <= run(method, A, b, rtol=1e-8).iterations).all()


@pytest.mark.parametrize(
    "A", [2 * sp.eye(5), sp.diags(np.arange(1.0, 6)), sp.diags([1.0 + 0j] * 5)], ids=["2I", "D", "I"]
)
@each_method
def test_happy_breakdown(method: str, A: Any) -> None:
    A = sp.csr_matrix(A)
    out = run(method, A, np.eye(5, 2).astype(A.dtype), rtol=1e-14)
    assert out.converged.all()
    assert (out.iterations == 1).all()
    assert np.array_equal(out.x, np.linalg.solve(A.toarray(), np.eye(5, 2)))


@each_method
def test_one_unknown(method: str) -> None:
    out = run(method, sp.csr_matrix([[4.0]]), np.array([[2.0, 0.0, -1.0]]))
    assert out.converged.all()
    assert out.x.tolist() == [[0.5, 0.0, -0.25]]
    assert out.iterations.tolist() == [1, 0, 1]


@pytest.mark.parametrize("shape", [(5, 0), (0, 3), (0, 0)])
@each_method
def test_nothing_to_solve(method: str, shape: tuple[int, int]) -> None:
    out = iterate(method, sp.csr_matrix((shape[0], shape[0])), np.zeros(shape), rtol=1e-8, atol=0, maxiter=None)
    assert out.x.shape == shape
    assert out.converged.shape == shape[1:]
    assert out.converged.all()


@each_method
def test_no_iterations(method: str) -> None:
    A = poisson(6)
    b = np.eye(6, 2)
    b[:, 1] = 0
    out = run(method, A, b, maxiter=0)
    assert out.converged.tolist() == [False, True]
    assert run(method, A, b, maxiter=0, atol=1.0).converged.all()


@pytest.mark.parametrize("maxiter", [1, 3, 11])
@each_method
def test_maxiter_is_kept(method: str, maxiter: int) -> None:
    out = run(method, poisson(60), rhs(poisson(60), 3), maxiter=maxiter, restart=4)
    assert (out.iterations <= maxiter).all()
    assert out.iterations[0] == maxiter
    assert not out.converged[0]


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e300])
@each_method
def test_any_size(method: str, scale: float) -> None:
    """Squares of norms would be 0 or Inf."""
    A = poisson(12)
    b = rhs(A, 1) * scale
    out = run(method, A, b, rtol=1e-8, check=False)
    assert out.converged.all()
    assert difference(out.x / scale, np.linalg.solve(A.toarray(), b / scale)) < 1e-6


@each_method
def test_more_than_rounding_allows(method: str) -> None:
    """Ends, does not claim to have converged, and x is as good as rounding allows."""
    A = poisson(9, 8)
    out = run(method, A, rhs(A, 2), rtol=0.0, maxiter=3000)
    assert (out.converged == (out.residual == 0)).all()
    assert (out.residual <= 1e-13 * np.linalg.norm(rhs(A, 2), axis=0)).all()


class Rough:
    """A matrix whose products have a relative error of 1e-6, another one each time."""

    def __init__(self, A: Any) -> None:
        self.A, self.calls = A, 0

    def __matmul__(self, X: Any) -> Any:
        self.calls += 1
        return (self.A @ X) * (1 + 1e-6 * np.sin(self.calls + np.arange(X.shape[0])))[:, None]


@each_method
def test_recursions_that_lie_are_found_out(method: str) -> None:
    """A recursive residual below 1e-12 would be nonsense here."""
    A = poisson(9, 8)
    b = rhs(A, 2)
    out = iterate(method, Rough(A), b, rtol=1e-12, atol=0, maxiter=300)
    assert np.array_equal(out.converged, out.residual <= out.bound)
    true = np.linalg.norm(b - A @ out.x, axis=0)
    assert (true <= 1.1 * out.residual + 1e-5 * np.linalg.norm(b, axis=0)).all()


@each_method
def test_goes_on_from_the_true_residual(method: str) -> None:
    """Products with errors let each run reduce the residual by 1e5 or so: several are needed, and reach what is asked."""
    A = poisson(9, 8)
    b = rhs(A, 2)

    class Drifting(Rough):
        def __matmul__(self, X: Any) -> Any:
            exact = np.abs(X).max() > 1e3  # x itself, never a scaled direction
            return self.A @ X if exact else super().__matmul__(X)

    big = 1e9 * b  # so that x is recognised
    out = iterate(method, Drifting(A), big, rtol=1e-9, atol=0, maxiter=3000, restart=72)
    assert out.converged.all()
    assert (np.linalg.norm(big - A @ out.x, axis=0) <= 1.001 * out.bound).all()


@each_method
def test_from_a_bad_start(method: str) -> None:
    """A start so bad that its residual is 1e17 times the bound: one run cannot do it."""
    A = sp.diags(np.logspace(0, 2, 20)).tocsr()
    b = np.ones((20, 1))
    out = run(method, A, b, x0=1e6 * np.ones((20, 1)), rtol=1e-11, maxiter=2000, restart=20)
    assert out.converged.all()


# ---- systems without a solution by this method


def test_cg_on_an_indefinite_matrix() -> None:
    A = sp.diags([1.0, -1.0, 2.0, -3.0]).tocsr()
    out = run("cg", A, np.ones((4, 1)))
    assert not out.converged.any()
    assert out.broken.all()
    assert out.iterations[0] == 1  # bᵀ A b < 0
    assert out.residual[0] <= 2.0


def test_singular_and_inconsistent() -> None:
    A = sp.diags([1.0, 2.0, 3.0, 0.0]).tocsr()
    for method in METHODS:
        out = run(method, A, np.ones((4, 1)))
        assert not out.converged.any(), method
        assert np.isfinite(out.x).all(), method
        assert out.residual[0] <= 2.0, method


@pytest.mark.parametrize("method", ["minres", "gmres"])
def test_singular_and_inconsistent_least_squares(method: str) -> None:
    A = sp.diags([1.0, 2.0, 3.0, 0.0]).tocsr()
    out = run(method, A, np.ones((4, 1)))
    np.testing.assert_allclose(out.residual, 1.0)
    assert out.iterations[0] < 10


@each_method
def test_singular_and_consistent(method: str) -> None:
    """The Laplacian of a cycle, and a right-hand side that sums to 0."""
    A = poisson(30).tolil()
    A[0, -1] = A[-1, 0] = -1
    A = A.tocsr()
    b = rhs(A, 1)
    b -= b.mean(axis=0)
    out = run(method, A, b, rtol=1e-10, restart=30)
    assert out.converged.all()


@each_method
def test_breakdown(method: str) -> None:
    """`bᵀ A b = 0` in the first step, or no Krylov method at all that helps."""
    A = sp.csr_matrix([[0.0, 1.0], [-1.0, 0.0]])
    out = run(method, A, np.array([[1.0], [0.0]]))
    assert out.converged.all() == (method == "gmres")
    zero = run(method, sp.csr_matrix((3, 3)), np.ones((3, 2)))
    assert not zero.converged.any()
    assert not zero.x.any()


def test_minres_on_an_unsymmetric_matrix() -> None:
    """It goes on to the last step, as nothing divides by 0, and claims nothing."""
    A = convection(9)
    out = run("minres", A, rhs(A.real, 2), maxiter=300)
    assert not out.converged.any()
    assert not out.broken.any()
    assert out.iterations.tolist() == [300, 300]
    assert (out.residual > 0.5 * np.linalg.norm(rhs(A.real, 2), axis=0)).all()


@pytest.mark.parametrize("method", ["cg", "minres"])
def test_indefinite_preconditioner(method: str) -> None:
    A = poisson(20)
    signs = np.where(np.arange(20) % 2, 1.0, -1.0)[:, None]
    out = run(method, A, rhs(A, 2), M=lambda r: signs * r)
    assert not out.converged.any()
    assert out.iterations.tolist() == [1, 2]


@each_method
def test_nan_from_the_matrix_or_preconditioner(method: str) -> None:
    A = poisson(6)
    assert not run(method, A, np.ones((6, 2)), M=lambda r: r * np.nan).converged.any()
    A.data[3] = np.nan
    out = run(method, A, np.ones((6, 2)), check=False)
    assert not out.converged.any()
    assert np.isfinite(out.x).all()


def test_nan_in_a_start_that_the_matrix_does_not_see() -> None:
    A = sp.csr_matrix(([1.0], ([0], [0])), shape=(2, 2))
    out = iterate("cg", A, np.array([[1.0], [0.0]]), x0=np.array([[1.0], [np.nan]]), rtol=0.1, atol=0, maxiter=5)
    assert not out.converged.any()


def test_nan_in_a_solution_that_the_matrix_does_not_see() -> None:
    """Its residual is zero: the column of A is empty."""
    A = sp.csr_matrix(([1.0], ([0], [0])), shape=(2, 2))
    b, unseen = np.array([[1.0], [0.0]]), np.array([[0.0], [np.nan]])
    for method in ("gmres", "bicgstab", "cgs"):
        out = iterate(method, A, b, M=lambda r: r + unseen, rtol=0.1, atol=0, maxiter=5)
        assert np.isfinite(out.x).all(), method
        assert not out.converged.any(), method


@pytest.mark.parametrize("jacobi", [False, True])
@pytest.mark.parametrize("columns", [1, 3])
def test_cg_returns_what_it_has_come_to(columns: int, jacobi: bool) -> None:
    """The error in the energy norm falls in each step, and from call to call; the residual of this matrix rises for a hundred steps."""
    n = 200
    c = 10 ** (2 * np.random.default_rng(0).random(n + 1))
    A = sp.diags_array([c[:-1] + c[1:], -c[1:-1], -c[1:-1]], offsets=[0, 1, -1]).tocsr()
    exact = np.random.default_rng(1).standard_normal((n, columns)).cumsum(axis=0)
    b = np.ascontiguousarray(A @ exact)
    d = A.diagonal()[:, None]
    M = (lambda r: r / d) if jacobi else None

    def error(x: Any) -> Any:
        return np.sqrt(((x - exact) * (A @ (x - exact))).sum(axis=0))

    start = error(0 * exact)
    for steps in (1, 20, 60, 120):
        out = iterate("cg", A, b, rtol=1e-9, atol=0, maxiter=steps, M=M)
        assert (error(out.x) < start).all()
        start = error(out.x)
        np.testing.assert_allclose(out.residual, np.linalg.norm(b - A @ out.x, axis=0))
        assert not out.converged.any()
    again = iterate("cg", A, b, rtol=1e-9, atol=0, maxiter=60, M=M, x0=out.x)
    assert (error(again.x) < start).all()


def test_minres_stops_at_the_least_squares_residual() -> None:
    """A little of b is outside the range of a Laplacian: more steps would make x, and the residual, large."""
    n = 400
    L = sp.diags_array([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1]).tolil()
    L[0, 0] = L[-1, -1] = 1
    A, e = L.tocsr(), np.ones((n, 1))
    b = np.random.default_rng(0).standard_normal((n, 1)).cumsum(axis=0)
    b -= b.mean() * e
    for outside in (1.0, 1e-2, 1e-6, 1e-9):
        part = outside * np.linalg.norm(b) / np.sqrt(n) * e
        out = iterate("minres", A, b + part, rtol=1e-12, atol=0, maxiter=10 * n)
        assert not out.converged.any()
        assert out.residual[0] < 1.1 * np.linalg.norm(part) + 1e-8 * np.linalg.norm(b)
        assert np.isfinite(out.x).all()


def test_cg_at_a_direction_of_negative_curvature() -> None:
    """The step before it is what truncated Newton methods go on with."""
    A = sp.diags_array([1.0, 2.0, 3.0, -0.1]).tocsr()
    b = np.array([[1.0], [1.0], [1.0], [1.0]])
    out = iterate("cg", A, b, rtol=1e-9, atol=0, maxiter=50)
    assert out.broken.all()
    steps = int(out.iterations[0]) - 1
    before = iterate("cg", A, b, rtol=1e-9, atol=0, maxiter=steps)
    assert steps > 0
    np.testing.assert_array_equal(out.x, before.x)
    assert (b * out.x).sum() > 0


# ---- callback


@each_method
def test_callback(method: str) -> None:
    A = poisson(9, 8)
    b = rhs(A, 3)
    seen: list[tuple[int, Any]] = []
    out = run(method, A, b, rtol=1e-8, callback=lambda i, r: seen.append((i, r)))
    assert [i for i, _ in seen] == list(range(1, len(seen) + 1))
    assert len(seen) >= out.iterations.max()
    assert all(r.shape == (3,) for _, r in seen)
    assert (seen[-1][1] <= 1.01 * out.bound).all()
    first = int(out.iterations.min())
    done = int(out.iterations.argmin())
    assert len({float(r[done]) for _, r in seen[first - 1 :]}) == 1  # keeps its last


@pytest.mark.parametrize("steps", [1, 2, 7])
@each_pair
def test_recursive_residuals_are_the_true_ones(method: str, make: Make, steps: int) -> None:
    A = make()
    b = rhs(A.real, 3).astype(A.dtype)
    scale = np.linspace(1, 3, A.shape[0])[:, None]
    seen: list[Any] = []
    M = lambda r: scale * r  # noqa: E731
    out = run(method, A, b, M=M, maxiter=steps, restart=81, callback=lambda i, r: seen.append(r))
    kept = out.residual < np.linalg.norm(b, axis=0)
    np.testing.assert_allclose(seen[-1][kept], out.residual[kept], rtol=1e-6)


@pytest.mark.parametrize(
    ("method", "vectors"), [("cg", 10), ("minres", 13), ("bicgstab", 13), ("cgs", 14), ("gmres", 32)]
)
def test_memory(method: str, vectors: int) -> None:
    """As the records' docstrings say."""
    A = poisson(100, 100)
    b = np.random.default_rng(0).standard_normal((A.shape[0], 1))
    tracemalloc.start()
    try:
        iterate(method, A, b, rtol=1e-6, atol=0.0, maxiter=60, M=lambda r: 0.25 * r)
        assert tracemalloc.get_traced_memory()[1] < (vectors + 0.3) * b.nbytes
    finally:
        tracemalloc.stop()


def test_unknown_method() -> None:
    with pytest.raises(ValueError, match="qmr"):
        iterate("qmr", poisson(3), np.ones((3, 1)), rtol=1e-8, atol=0, maxiter=None)
