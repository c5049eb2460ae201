"""`sparse_solve_c4t`: methods by name, callables, and what reaches which system."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla
import torch
from torch import Tensor

import sparsolve as sps
from sparsolve import tickets

N = 12
TIGHT = {"tol": 1e-12}
METHODS = {
    None: "general",
    "spsolve": "general",
    "cg": "positive",
    "cgs": "general",
    "minres": "hermitian",
    "gmres": "general",
}
REAL_AND_COMPLEX = pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)


def dense(kind: str, dtype: torch.dtype) -> Tensor:
    """A well-conditioned matrix of the kind, about a third of it nonzero."""
    R = torch.randn(N, N, dtype=dtype) * (torch.rand(N, N) < 0.3)
    if kind == "general":
        return R + 6 * torch.eye(N, dtype=dtype)
    if kind == "positive":
        return R @ R.mH + torch.eye(N, dtype=dtype)
    return (R + R.mH) / 4 + torch.diag(torch.tensor([3.0, -4.0] * (N // 2))).to(dtype)


def sparse(D: Tensor, layout: torch.layout = torch.sparse_csr, index: torch.dtype = torch.int64) -> Tensor:
    if layout is torch.sparse_coo:
        return D.to_sparse().requires_grad_()
    T = D.to_sparse_csr()
    parts = T.crow_indices().to(index), T.col_indices().to(index), T.values()
    return torch.sparse_csr_tensor(*parts, D.shape, check_invariants=True).requires_grad_()


def close(a: Tensor, b: Tensor, tol: float) -> None:
    torch.testing.assert_close(a, b, rtol=tol, atol=tol * float(b.abs().max()))


def compare(T: Tensor, D: Tensor, B: Tensor, within: float, /, *args: Any, **kwargs: Any) -> Tensor:
    """Value and both gradients against the dense inverse."""
    D, b, B = D.clone().requires_grad_(), B.clone().requires_grad_(), B.clone().requires_grad_()
    x, expected = sps.sparse_solve_c4t(T, B, *args, **kwargs), torch.linalg.inv(D) @ b
    close(x.detach(), expected.detach(), within)
    weight = torch.randn_like(x)
    x.backward(weight)
    expected.backward(weight)
    close(B.grad, b.grad, within)  # type: ignore[arg-type]
    assert T.grad is not None
    assert T.grad.layout is T.layout
    close(T.grad.to_dense(), D.grad * (D.detach() != 0), within)  # type: ignore[operator]
    return x


@REAL_AND_COMPLEX
@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_coo], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_value_and_gradients(method: str | None, layout: torch.layout, dtype: torch.dtype) -> None:
    D = dense(METHODS[method], dtype)
    for shape in [(N,), (N, 1)] + ([(N, 3)] if method in (None, "spsolve") else []):
        x = compare(sparse(D, layout), D, torch.randn(shape, dtype=dtype), 1e-9, method, **TIGHT)
        assert x.shape == shape


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_single_precision_and_indices(method: str | None, dtype: torch.dtype, index: torch.dtype) -> None:
    D = dense(METHODS[method], dtype)
    compare(sparse(D, index=index), D, torch.randn(N, dtype=dtype), 2e-5, method, tol=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "x"),
    [
        (torch.float64, torch.float32, torch.float64),
        (torch.float32, torch.float64, torch.float32),
        (torch.float64, torch.complex64, torch.complex128),
        (torch.float32, torch.complex128, torch.complex64),
        (torch.complex64, torch.float64, torch.complex64),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", [None, "cg", "minres"])
def test_dtypes(method: str | None, a: torch.dtype, b: torch.dtype, x: torch.dtype) -> None:
    D, B = dense("positive", a), torch.randn(N, dtype=b)
    result = sps.sparse_solve_c4t(sparse(D), B, method, tol=1e-9)
    assert result.dtype is x
    close(result.detach().to(torch.complex128), torch.linalg.inv(D).to(torch.complex128) @ B.to(torch.complex128), 2e-5)


@REAL_AND_COMPLEX
@pytest.mark.parametrize(
    ("one", "other"), [("spsolve", "cg"), ("cg", None), ("gmres", "spsolve"), ("minres", "cgs"), (None, "gmres")]
)
def test_mixed_selections(one: str | None, other: str | None, dtype: torch.dtype) -> None:
    D = dense("positive", dtype)
    other = "spsolve" if other is None else other
    compare(sparse(D), D, torch.randn(N, dtype=dtype), 1e-9, one, other, **TIGHT)


def test_direct_solve_factorizes_once() -> None:
    D = dense("general", torch.float64)
    compare(sparse(D), D, torch.randn(N, 4, dtype=torch.float64), 1e-9)
    assert sps.memo_info().factorizations == 1


# ---- callables


class Recorder:
    """A callable that keeps what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, dict[str, Any]]] = []

    def __call__(self, A: Any, b: Any, **kwargs: Any) -> Any:
        self.calls.append((A.copy(), b.copy(), kwargs))
        x = sla.spsolve(A, b)
        A.data[:] = b[:] = np.nan  # both are the callable's own
        return x


@REAL_AND_COMPLEX
@pytest.mark.parametrize("shape", [(N,), (N, 1), (N, 3)], ids=str)
def test_callables_get_the_system_that_they_solve(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    D, forward, transposed = dense("general", dtype), Recorder(), Recorder()
    compare(sparse(D), D, torch.randn(shape, dtype=dtype), 1e-9, forward, transposed)
    for recorder, expected in ((forward, D), (transposed, D.mH)):
        ((A, b, _),) = recorder.calls
        assert A.format == "csr"
        assert A.has_canonical_format
        assert b.shape == shape
        np.testing.assert_array_equal(A.toarray(), expected.resolve_conj().numpy())
    both = Recorder()
    compare(sparse(D), D, torch.randn(shape, dtype=dtype), 1e-9, both)
    np.testing.assert_array_equal(both.calls[1][0].toarray(), D.mH.resolve_conj().numpy())


@pytest.mark.parametrize(("solve", "transposed"), [("gmres", Recorder), (Recorder, "cgs"), (Recorder, "spsolve")])
def test_a_name_and_a_callable(solve: Any, transposed: Any) -> None:
    D = dense("general", torch.float64)
    make = lambda s: s if isinstance(s, str) else s()  # noqa: E731
    compare(sparse(D), D, torch.randn(N, dtype=torch.float64), 1e-9, make(solve), make(transposed), tol=1e-12, mine=1)


def test_keyword_arguments_of_callables() -> None:
    forward, transposed = Recorder(), Recorder()
    D, x0, M = dense("general", torch.float64), np.ones(N), np.eye(N)
    T, B = sparse(D), torch.randn(N, dtype=torch.float64)
    given = {"x0": x0, "M": M, "callback": print, "tol": 1e-3, "mine": [1]}
    sps.sparse_solve_c4t(T, B, forward, transposed, **given).sum().backward()
    (_, _, seen), (_, _, other) = forward.calls[0], transposed.calls[0]
    assert seen.keys() == given.keys()
    assert all(seen[k] is given[k] for k in given if k != "tol")
    assert other == {"tol": 1e-3, "mine": [1]}


@pytest.mark.parametrize("method", ["cg", "minres"])
def test_an_operator_without_its_adjoint_serves_a_hermitian_matrix_in_the_gradient(method: str) -> None:
    D, applied = dense("positive", torch.float64), []
    inverse = torch.linalg.inv(D.detach()).numpy()
    M = sla.LinearOperator((N, N), matvec=lambda r: applied.append(1) or inverse @ r, dtype=np.float64)
    x = sps.sparse_solve_c4t(sparse(D), torch.randn(N, dtype=torch.float64), method, tol=1e-8, M=M)
    before = len(applied)
    x.sum().backward()
    assert len(applied) > before


def test_gmres_tells_residuals_relative_to_b_from_x0_too() -> None:
    D, B = dense("general", torch.float64), torch.randn(N, dtype=torch.float64)
    near, seen = torch.linalg.inv(D.detach()) @ B, []
    near = near + 1e-6 * near.norm() * torch.randn(N, dtype=torch.float64)
    sps.sparse_solve_c4t(sparse(D), B, "gmres", tol=1e-12, x0=near, callback=seen.append)
    assert 0 < max(seen) < 1e-3


def test_a_tangent_of_a_callable_gets_neither_x0_nor_callback() -> None:
    D, B, forward = dense("general", torch.float64), torch.randn(N, dtype=torch.float64), Recorder()
    T, given = sparse(D).detach(), {"x0": np.ones(N), "callback": print, "M": np.eye(N), "mine": 1}
    _, tangent = torch.func.jvp(lambda B: sps.sparse_solve_c4t(T, B, forward, **given), (B,), (B + 1,))
    close(tangent, torch.linalg.inv(D.detach()) @ (B + 1), 1e-9)
    assert [seen.keys() for _, _, seen in forward.calls] == [given.keys(), {"M", "mine"}]


def test_one_column_beside_an_iterative_method_is_a_vector() -> None:
    for names in ({"solve": Recorder(), "transpose_solve": "cg"}, {"solve": "cg", "transpose_solve": Recorder()}):
        D = dense("positive", torch.float64)
        compare(sparse(D), D, torch.randn(N, 1, dtype=torch.float64), 1e-8, **names, tol=1e-12)
        (recorder,) = (s for s in names.values() if isinstance(s, Recorder))
        assert [b.shape for _, b, _ in recorder.calls] == [(N,)]


def test_numbers_for_a_callable_are_told_apart() -> None:
    """Equal calls share a record; 0.0 and -0.0, 1 and True are equal to Python, and not the same."""
    T, B, solve = sparse(dense("general", torch.float64)), torch.ones(N, dtype=torch.float64), Recorder()
    for value in (0.0, -0.0, 1, 1.0, True):
        sps.sparse_solve_c4t(T, B, solve, mine=value)
        assert repr(solve.calls[-1][2]["mine"]) == repr(value)


def test_a_callables_mistakes_are_told() -> None:
    T, B = sparse(dense("general", torch.float64)), torch.ones(N, dtype=torch.float64)
    with pytest.raises(sps.SolveError, match=r"'short'.*shape \(3,\)"):
        sps.sparse_solve_c4t(T, B, short)
    with pytest.raises(sps.SolveError, match="NaN or Inf"):
        sps.sparse_solve_c4t(T, B, lambda A, b: b * np.nan)


def short(A: Any, b: Any) -> Any:
    return b[:3]


# ---- keyword arguments of the iterative methods


@pytest.mark.parametrize("method", ["cg", "cgs", "minres", "gmres"])
def test_x0_and_callback_reach_this_solve_only(method: str) -> None:
    D = dense(METHODS[method], torch.float64)
    T, B, steps = sparse(D), torch.randn(N, dtype=torch.float64), []
    exact = torch.linalg.inv(D) @ B
    x = sps.sparse_solve_c4t(T, B, method, tol=1e-8, x0=exact, callback=steps.append, maxiter=0)
    assert torch.equal(x.detach(), exact)
    assert steps == []
    near = exact + 1e-6 * torch.randn_like(exact)
    counts: list[int] = []
    for x0 in (None, near, near.numpy()[:, None]):
        steps.clear()
        x = sps.sparse_solve_c4t(T, B, method, tol=1e-8, x0=x0, callback=steps.append)
        counts.append(len(steps))
        steps.clear()
        x.sum().backward()
        assert steps == []
    assert 0 < counts[1] == counts[2] < counts[0]


@REAL_AND_COMPLEX
@pytest.mark.parametrize("method", ["cg", "cgs", "minres"])
def test_callback_sees_x(method: str, dtype: torch.dtype) -> None:
    D, steps = dense("positive", dtype), []
    B, x0 = 1000 * torch.randn(N, dtype=dtype), torch.randn(N, dtype=dtype)
    x = sps.sparse_solve_c4t(sparse(D), B, method, tol=1e-10, callback=lambda xk: steps.append(xk.copy()), x0=x0)
    np.testing.assert_allclose(steps[-1], x.detach().numpy(), rtol=1e-9)


def test_gmres_callback_sees_the_relative_residual_and_restart_counts() -> None:
    D, B = dense("general", torch.float64), torch.randn(N, dtype=torch.float64)
    steps: list[float] = []
    sps.sparse_solve_c4t(sparse(D), B, "gmres", tol=1e-6, callback=steps.append)
    assert steps[-1] <= 1e-6 < steps[0] < 1
    with pytest.raises(sps.ConvergenceError, match="iterations 4"):
        sps.sparse_solve_c4t(sparse(D), B, "gmres", tol=1e-10, restart=2, maxiter=2)


def badly_scaled() -> Tensor:
    scale = torch.logspace(0, 4, N, dtype=torch.float64)
    return scale[:, None] * dense("general", torch.float64)


class Inverse(sla.LinearOperator):  # type: ignore[misc]
    """A⁻¹ as an operator that counts, with or without its adjoint."""

    def __init__(self, D: Tensor, adjoint: bool) -> None:
        super().__init__(np.float64, tuple(D.shape))
        self.inverse, self.count = torch.linalg.inv(D).numpy(), {"N": 0, "T": 0}
        if adjoint:
            self._rmatvec = self._transposed

    def _matvec(self, v: Any) -> Any:
        self.count["N"] += 1
        return self.inverse @ v

    def _transposed(self, v: Any) -> Any:
        self.count["T"] += 1
        return self.inverse.T @ v


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "array": lambda P: P.numpy(),
    "sparse": lambda P: sp.csr_matrix(P.numpy()),
    "operator": lambda P: sla.aslinearoperator(P.numpy()),
    "tensor": lambda P: P,
    "tensor that requires a gradient": lambda P: P.clone().requires_grad_(),
    "csr tensor": lambda P: P.to_sparse_csr(),
    "coo tensor": lambda P: P.to_sparse(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", ["gmres", "cgs"])
def test_preconditioners_of_every_form(method: str, form: str) -> None:
    """With the exact inverse as M, and its adjoint for the transposed system, one or two steps are enough."""
    D = badly_scaled()
    M = FORMS[form](torch.linalg.inv(D))
    limits = {"maxiter": 2, "restart": 1} if method == "gmres" else {"maxiter": 2}
    compare(sparse(D), D, torch.randn(N, dtype=torch.float64), 1e-6, method, tol=1e-8, M=M, **limits)


@pytest.mark.parametrize("method", ["cg", "minres"])
def test_hermitian_methods_keep_their_preconditioner(method: str) -> None:
    for dtype in (torch.float64, torch.complex128):
        D = dense("positive", dtype)
        D = D * torch.outer(s := torch.logspace(0, 2, N, dtype=torch.float64), s)
        compare(sparse(D), D, torch.randn(N, dtype=dtype), 1e-6, method, tol=1e-9, M=torch.linalg.inv(D), maxiter=4)


@pytest.mark.parametrize("adjoint", [True, False])
def test_an_operator_without_adjoint_is_dropped_from_the_transposed_solve(adjoint: bool) -> None:
    D = dense("general", torch.float64)
    M = Inverse(D, adjoint)
    compare(sparse(D), D, torch.randn(N, dtype=torch.float64), 1e-9, "gmres", tol=1e-12, M=M)
    assert (M.count["T"] > 0) == adjoint


def test_atol_and_small_gradients() -> None:
    D, B = dense("positive", torch.float64), torch.randn(N, dtype=torch.float64)
    for method in ("cg", "cgs", "minres", "gmres"):
        assert sps.sparse_solve_c4t(sparse(D), B, method, atol=1e3).count_nonzero() == 0
        b = B.clone().requires_grad_()
        x = sps.sparse_solve_c4t(sparse(D), b, method, rtol=0, atol=1e-9)
        assert torch.linalg.norm(D @ x.detach() - B) <= 1.001e-9
        (1e-20 * x.sum()).backward()
        close(b.grad * 1e20, torch.linalg.inv(D).sum(0), 1e-4)  # type: ignore[operator]


@pytest.mark.parametrize("method", ["cg", "cgs", "minres", "gmres"])
@REAL_AND_COMPLEX
def test_the_true_residual_is_small(method: str, dtype: torch.dtype) -> None:
    n = 100
    stencil = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)).tocsr().astype(str(dtype)[6:])
    if dtype.is_complex and method != "gmres":
        phase = sp.diags_array(np.exp(1j * np.arange(n)))
        stencil = (phase @ stencil @ phase.conj()).tocsr()
    A, b = sps.c2t_csr(stencil), torch.randn(n, dtype=dtype)
    for rtol in (1e-5, 1e-8, 1e-11):
        x = sps.sparse_solve_c4t(A, b, method, rtol=rtol)
        assert np.linalg.norm(b.numpy() - stencil @ x.numpy()) <= 1.001 * rtol * float(b.norm())


@pytest.mark.parametrize("method", ["cg", "cgs", "minres", "gmres", "spsolve"])
def test_zero_and_empty(method: str) -> None:
    D = dense("positive", torch.float64)
    zero = torch.zeros(N, dtype=torch.float64)
    assert torch.equal(sps.sparse_solve_c4t(sparse(D), zero, method, x0=torch.ones(N)).detach(), zero)
    assert sps.sparse_solve_c4t(sparse(D), torch.zeros(N, 0, dtype=torch.float64), method).shape == (N, 0)
    nothing = torch.zeros(0, 0).to_sparse()
    assert sps.sparse_solve_c4t(nothing, torch.zeros(0), method).shape == (0,)
    one = sps.sparse_solve_c4t(torch.full((1, 1), 4.0).to_sparse(), torch.ones(1), method)
    assert one.item() == 0.25


def test_unused_keyword_arguments_of_direct_solves() -> None:
    D, B = dense("general", torch.float64), torch.randn(N, 2, dtype=torch.float64)
    controls = {"tol": 1e-1, "atol": 1.0, "maxiter": 1, "x0": B, "M": print, "callback": print, "restart": 3}
    x = sps.sparse_solve_c4t(sparse(D), B, "spsolve", **controls)
    close(x.detach(), torch.linalg.inv(D) @ B, 1e-9)


def test_the_solver_table_does_not_grow() -> None:
    T, B = sparse(dense("positive", torch.float64)), torch.ones(N, dtype=torch.float64)
    M, x = np.eye(N), torch.zeros(N, dtype=torch.float64)
    solve = Recorder()
    counts = []
    for _ in range(4):
        x = sps.sparse_solve_c4t(T, B, "cg", tol=1e-8, M=M, x0=x.detach(), callback=lambda xk: None)
        sps.sparse_solve_c4t(T, B, solve, x0=x, tol=1e-8)
        gc.collect()
        counts.append((len(tickets._ALIVE), len(tickets._KEPT)))
    assert counts[1] == counts[-1]


# ---- failures


@pytest.mark.parametrize("method", ["cg", "cgs", "minres", "gmres"])
def test_no_convergence_is_an_error_forward_and_backward(method: str) -> None:
    D = dense(METHODS[method], torch.float64)
    T, B = sparse(D), torch.randn(N, dtype=torch.float64)
    limits = {"maxiter": 1, **({"restart": 1} if method == "gmres" else {})}
    with pytest.raises(sps.ConvergenceError, match=rf"{method} stopped at.*Give a preconditioner.*iterations 1,"):
        sps.sparse_solve_c4t(T, B, method, tol=1e-10, **limits)
    with pytest.raises(sps.ConvergenceError, match="iterations 0"):
        sps.sparse_solve_c4t(T, B, method, maxiter=0)
    x = sps.sparse_solve_c4t(T, B, "spsolve", method, tol=1e-10, **limits)
    with pytest.raises(sps.ConvergenceError, match="adjoint of A"):
        x.sum().backward()


@pytest.mark.parametrize("method", ["cg", "cgs", "minres", "gmres"])
def test_a_method_that_breaks_down(method: str) -> None:
    singular = torch.diag(torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)).to_sparse_csr()
    with pytest.raises(sps.ConvergenceError, match=f"^{method} stopped"):
        sps.sparse_solve_c4t(singular, torch.ones(3, dtype=torch.float64), method)
    bad = singular.to_dense()
    bad[0, 0] = torch.nan
    with pytest.raises(sps.SolveError, match=r"A.data\[0\] is nan"):
        sps.sparse_solve_c4t(bad.to_sparse_csr(), torch.ones(3, dtype=torch.float64), method)


def test_hermitian_methods_on_another_matrix() -> None:
    rotation = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64).to_sparse_csr()
    for method in ("cg", "minres"):
        with pytest.raises(sps.ConvergenceError, match="needs a Hermitian"):
            sps.sparse_solve_c4t(rotation, torch.tensor([1.0, 0.5], dtype=torch.float64), method)
    A = sparse(dense("positive", torch.float64))
    with pytest.raises(sps.ConvergenceError, match="positive definite M"):
        sps.sparse_solve_c4t(A, torch.ones(N, dtype=torch.float64), "minres", M=-np.eye(N))


# ---- scale, rounding and the dtype's range


def test_minres_reaches_the_residual_that_is_asked_for_however_large_x_is() -> None:
    """SciPy's own test compares it with `‖A‖ ‖x‖`, 1e12 times as large as b here."""
    d = torch.logspace(0, 12, 30, dtype=torch.float64) * torch.tensor([-1.0, 1.0]).repeat(15)
    A, b = torch.diag(d).to_sparse_csr(), torch.ones(30, dtype=torch.float64)
    for rtol in (1e-5, 1e-10):
        x = sps.sparse_solve_c4t(A, b, "minres", rtol=rtol, maxiter=20_000)
        assert float((A @ x - b).norm()) <= rtol * float(b.norm())


NAMED = pytest.mark.parametrize("method", ["cg", "cgs", "minres", "gmres"])


@REAL_AND_COMPLEX
@pytest.mark.parametrize("scale", [1e155, 1e-170, 1e306, 1e-300])
@NAMED
def test_right_hand_sides_and_gradients_of_every_size(method: str, scale: float, dtype: torch.dtype) -> None:
    """Norms neither overflow nor underflow, and callbacks and tolerances are in the user's units."""
    D, steps = dense("positive", dtype), []
    T, b, inverse = sparse(D).detach(), torch.randn(N, dtype=dtype) / 10, torch.linalg.inv(D)
    B = (b * scale).requires_grad_()
    x = sps.sparse_solve_c4t(T, B, method, atol=1e-9 * scale, rtol=0, x0=b * scale, callback=steps.append)
    close(x.detach() / scale, inverse @ b, 1e-6)
    (g,) = torch.autograd.grad(x, B, b * scale)
    close(g / scale, inverse.mH @ b, 1e-4)
    if method == "gmres":
        assert steps[-1] < 1e-6 < steps[0] < 1e3
    else:
        np.testing.assert_allclose(steps[-1] / scale, x.detach().numpy() / scale, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1e-30])
@pytest.mark.parametrize("with_M", [False, True])
@NAMED
def test_matrices_of_every_size(method: str, with_M: bool, scale: float) -> None:
    D, b = dense("positive", torch.float64), torch.randn(N, dtype=torch.float64)
    inverse = torch.linalg.inv(D)
    kwargs = {"M": inverse / scale} if with_M else {}
    for of_b in (1.0, scale):
        x = sps.sparse_solve_c4t(sparse(D * scale), b * of_b, method, tol=1e-9, **kwargs)
        close(x.detach() * (scale / of_b), inverse @ b, 1e-7)


def laplacian(n: int) -> sp.csr_array:
    L = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)).tolil()
    L[0, 0] = L[n - 1, n - 1] = 1
    return L.tocsr()


@pytest.mark.parametrize("size", [1e12, 1e20, 1e308])
@NAMED
def test_a_guess_so_large_that_rounding_hides_the_residual(method: str, size: float) -> None:
    L, b = laplacian(20), np.random.default_rng(0).normal(size=20)
    b -= b.mean()
    A = torch.sparse_csr_tensor(*map(torch.tensor, (L.indptr, L.indices, L.data)), (20, 20), check_invariants=True)
    x = sps.sparse_solve_c4t(A, torch.tensor(b), method, x0=np.full(20, size))
    assert np.linalg.norm(L @ x.numpy() - b) <= 1.001e-5 * np.linalg.norm(b)


@NAMED
def test_a_guess_that_overflows_in_the_units_of_the_system(method: str) -> None:
    """They are those of x, about 1e-300: in these the guess is Inf, and its residual NaN."""
    D, b = dense("positive", torch.float64), torch.randn(N, dtype=torch.float64)
    x = sps.sparse_solve_c4t(sparse(1e200 * D), 1e-100 * b, method, tol=1e-10, x0=np.full(N, 1e10))
    close(1e300 * x.detach(), torch.linalg.inv(D) @ b, 1e-7)


@pytest.mark.parametrize(("method", "gap"), [("minres", 0.0), ("gmres", 1e-12)])
def test_a_residual_that_rounding_alone_explains_is_not_convergence(method: str, gap: float) -> None:
    """x was of size 1e15 and 1e12, and `‖b − A x‖` 0.7 and 3e-4."""
    A = torch.tensor([[1.0, 1.0], [1.0, 1.0 + gap]], dtype=torch.float64).to_sparse_csr()
    # how large x becomes of a singular A is a matter of the last bit
    said = r"is rounding error.*A is singular or ill-cond.*larger tol" if gap else "ill-cond"
    with pytest.raises(sps.ConvergenceError, match=said):
        sps.sparse_solve_c4t(A, torch.tensor([1.0, 2.0], dtype=torch.float64), method)


@NAMED
def test_no_tolerance_is_roundoff(method: str) -> None:
    D, b = dense("positive", torch.float64), torch.randn(N, dtype=torch.float64)
    x = sps.sparse_solve_c4t(sparse(D), b, method, tol=0).detach()
    assert torch.linalg.norm(D @ x - b) <= 1e-13 * torch.linalg.norm(b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("method", [None, "cg", "cgs", "minres", "gmres", lambda A, b: b.astype("D").real * 1e30])
def test_a_solution_beyond_the_range_of_its_dtype(method: Any, dtype: torch.dtype) -> None:
    A, b = (1e-30 * torch.eye(3, dtype=dtype)).to_sparse_csr(), torch.full((3,), 1e30, dtype=dtype)
    with pytest.raises(sps.SolveError, match="larger than the largest number of its dtype"):
        sps.sparse_solve_c4t(A, b, method)


def test_a_callable_of_double_precision_beyond_the_range_of_single() -> None:
    A, b = torch.eye(3).to_sparse_csr(), torch.ones(3)
    x, info = sps.solve_with_info(A, b, lambda A, b: b.astype("d") * 1e60)
    assert x.isnan().all()
    assert int(info.status) == sps.Status.BREAKDOWN
    close(sps.solve(A, b, lambda A, b: b.astype("d") * (1 + 1e-12)), b, 0)


class OnlyMatmul:
    """A shape and a product, and nothing that SciPy's methods know."""

    shape = (3, 3)

    def __matmul__(self, x: Any) -> Any:
        return x


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, A: Any, b: Any) -> Any:
        return b


EYE, ONES, EYE4 = torch.eye(3).to_sparse_csr(), torch.ones(3), torch.eye(4).to_sparse_csr()
ERRORS: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ((np.eye(3), ONES), {}, TypeError, "A is a ndarray"),
    ((torch.eye(3), ONES), {}, TypeError, r"torch.strided.*to_sparse_csr\(\)"),
    ((torch.eye(3).to_sparse_csc(), ONES), {}, TypeError, "torch.sparse_csc"),
    ((sps.SparseMatrix.from_torch(EYE), ONES), {}, TypeError, "SparseMatrix"),
    ((torch.ones(2, 3).to_sparse(), ONES), {}, ValueError, r"shape \(2, 3\).*square"),
    ((torch.ones(2, 3, 3).to_sparse_csr(), ONES), {}, ValueError, "square"),
    ((torch.ones(3).to_sparse(), ONES), {}, ValueError, "square"),
    ((torch.ones(3, 3, 1).to_sparse(2), ONES), {}, ValueError, "1 dense dimensions"),
    ((torch.eye(3).int().to_sparse(), ONES), {}, TypeError, "A has dtype torch.int32"),
    ((EYE, ONES.long()), {}, TypeError, "B has dtype torch.int64"),
    ((EYE, ONES.half()), {}, TypeError, "B has dtype torch.float16"),
    ((EYE, [1.0, 1.0, 1.0]), {}, TypeError, "B is a list"),
    ((EYE, ONES.to_sparse()), {}, TypeError, "B is a torch.sparse_coo tensor"),
    ((EYE, torch.ones(4)), {}, ValueError, r"B has shape \(4,\).*\(3,\) or \(3, k\)"),
    ((EYE, torch.ones(2, 3)), {}, ValueError, r"\(2, 3\)"),
    ((EYE, torch.ones(2, 3, 1)), {}, ValueError, r"sparsolve\.solve"),
    ((EYE, torch.tensor(1.0)), {}, ValueError, r"shape \(\)"),
    ((EYE, torch.ones(3, 2), "cg"), {}, ValueError, r"solve='cg' takes one.*sparsolve\.solve\(A, B\)"),
    ((EYE, torch.ones(3, 2), None, "gmres"), {}, ValueError, "transpose_solve='gmres'"),
    ((EYE, ONES, "bicg"), {}, ValueError, "'bicg'.*'cg', 'cgs', 'minres', 'gmres', 'spsolve'"),
    ((EYE, ONES, "cg", "CG"), {}, ValueError, "transpose_solve is 'CG'"),
    ((EYE, ONES, sps.LU()), {}, TypeError, "solve is a LU"),
    ((EYE, ONES, "cg"), {"tolerance": 1, "maxit": 2}, TypeError, "tolerance, maxit"),
    ((EYE, ONES, "cg"), {"restart": 1}, TypeError, "restart"),
    ((EYE, ONES), {"permc_spec": "COLAMD"}, TypeError, "got permc_spec.*chooses its ordering"),
    ((EYE, ONES, "spsolve"), {"use_umfpack": False}, TypeError, r"Leave out use_umfpack.*LU\(backend"),
    ((EYE, ONES, "gmres"), {"callback_type": "x"}, TypeError, "Leave out callback_type.*'pr_norm'"),
    ((EYE, ONES, sps.CG), {}, TypeError, "solve is the class CG.*'cg', 'cgs'"),
    ((EYE, ONES, None, sps.LU), {}, TypeError, "transpose_solve is the class LU"),
    ((EYE, ONES, "cg"), {"tol": float("inf")}, ValueError, "tol is inf.*finite"),
    ((EYE, ONES, "cg"), {"atol": float("inf")}, ValueError, "atol is inf.*finite"),
    ((EYE, ONES, "cg"), {"tol": True}, TypeError, "tol is True"),
    ((EYE, ONES, "cg"), {"tol": np.bool_(True)}, TypeError, "tol is "),
    ((EYE, ONES, "cg"), {"rtol": torch.tensor(True)}, TypeError, "rtol is "),
    ((EYE, ONES, "cg"), {"tol": "1e-8"}, TypeError, "tol is '1e-8'"),
    ((EYE, ONES, "cg"), {"tol": torch.ones(2)}, TypeError, "tol is "),
    ((EYE, ONES, "cg"), {"maxiter": True}, ValueError, "maxiter is True"),
    ((EYE, ONES, "cg"), {"M": sps.SparseMatrix.from_torch(EYE)}, TypeError, r"M is a SparseMatrix.*M\.to_torch\(\)"),
    ((EYE, ONES, "cg"), {"M": torch.eye(3).bfloat16()}, TypeError, r"M has dtype torch.bfloat16.*M\.to\(torch.float32"),
    ((EYE4, torch.ones(4), "cg"), {"M": EYE4.to_sparse_bsr((2, 2))}, TypeError, r"sparse_bsr.*M\.to_sparse_csr\(\)"),
    ((EYE, ONES, "cg"), {"M": torch.eye(3).to_sparse(1)}, ValueError, r"M has 1 dense dim.*M\.to_dense\(\)"),
    ((EYE, ONES, "cg"), {"M": np.full((3, 3), "a")}, TypeError, "M holds <U1"),
    ((EYE, ONES, "cg"), {"x0": ONES.bfloat16()}, TypeError, "x0 has dtype torch.bfloat16"),
    ((EYE, ONES, "cg"), {"x0": ONES.to_sparse()}, TypeError, r"x0 is a torch.sparse_coo.*x0\.to_dense\(\)"),
    ((EYE, ONES, "cg"), {"x0": "abc"}, TypeError, "x0 holds <U3"),
    ((EYE, ONES, "cg"), {"x0": ["a", "b", "c"]}, TypeError, "x0 holds <U1"),
    ((EYE, ONES, "cg"), {"x0": [1.0, [2.0], 3.0]}, TypeError, "x0 is a list that is no array"),
    ((EYE, ONES, "cg"), {"tol": 1e-3, "rtol": 1e-4}, ValueError, "tol is 0.001 and rtol is 0.0001"),
    ((EYE, ONES, "cg"), {"tol": -1.0}, ValueError, "tol is -1.0"),
    ((EYE, ONES, "cg"), {"atol": float("nan")}, ValueError, "atol is nan"),
    ((EYE, ONES, "cg"), {"maxiter": 1.5}, ValueError, "maxiter is 1.5"),
    ((EYE, ONES, "cg"), {"maxiter": "a"}, ValueError, "maxiter is 'a'"),
    ((EYE, ONES, "cg"), {"maxiter": float("inf")}, ValueError, "maxiter is inf"),
    ((EYE, ONES, "cg"), {"maxiter": float("nan")}, ValueError, "maxiter is nan"),
    ((EYE, ONES, "cg"), {"tol": "a"}, TypeError, "tol is 'a'"),
    ((EYE, ONES, "cg"), {"callback": 3}, TypeError, "callback is a int"),
    ((EYE, ONES, "cg"), {"M": sla.spilu(sp.eye_array(3, format="csc"))}, TypeError, r"M is a SuperLU.*LinearOperator"),
    ((EYE, ONES, "cg"), {"M": np.eye(3) * 1j}, ValueError, "M is complex"),
    ((EYE, ONES, "cg"), {"M": torch.eye(3) * 1j}, ValueError, "M is complex"),
    ((EYE, ONES, "gmres"), {"restart": 0}, ValueError, "restart is 0"),
    ((EYE, ONES, "cg"), {"M": np.eye(2)}, ValueError, r"M has shape \(2, 2\)"),
    ((EYE, ONES, "cg"), {"M": lambda v: v}, ValueError, "LinearOperator"),
    (
        (EYE, ONES, "cg"),
        {"M": torch.eye(3, device="meta")},
        ValueError,
        r"M is on meta and A on cpu.*M\.to\(A\.device\)",
    ),
    ((EYE, ONES, "cg"), {"x0": torch.ones(3, device="meta")}, ValueError, "x0 is on meta and A on cpu"),
    ((EYE, ONES, "cg"), {"x0": np.ones(2)}, ValueError, r"x0 has shape \(2,\)"),
    ((EYE, ONES, "cg"), {"x0": np.ones((1, 3))}, ValueError, r"x0 has shape \(1, 3\)"),
    ((torch.eye(4).to_sparse(), torch.ones(4), "cg"), {"x0": np.ones((2, 2))}, ValueError, r"x0 has shape \(2, 2\)"),
    ((EYE, ONES, "cg"), {"M": OnlyMatmul()}, TypeError, r"M is a OnlyMatmul, which has a shape.*matvec=\.\.\."),
    ((EYE, ONES, "cg"), {"tol": np.complex64(1e-8 + 1j)}, TypeError, "tol is "),
    ((EYE, ONES, "cg"), {"tol": 10**400}, TypeError, "tol is 1000"),
    ((EYE, ONES, Unhashable()), {}, TypeError, "A callable of type Unhashable cannot be hashed"),
    ((EYE, ONES, "cg"), {"x0": np.ones(3) * 1j}, ValueError, "x0 is complex"),
]


@pytest.mark.parametrize(("args", "kwargs", "error", "message"), ERRORS)
def test_errors(args: tuple[Any, ...], kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sps.sparse_solve_c4t(*args, **kwargs)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_complex_half_is_told_of_complex64() -> None:
    half = torch.zeros(3, dtype=torch.complex32)
    A = torch.sparse_csr_tensor(torch.arange(4), torch.arange(3), half, (3, 3), check_invariants=False)
    for call in (
        lambda: sps.sparse_solve_c4t(A, ONES),
        lambda: sps.sparse_solve_c4t(EYE, half),
        lambda: sps.solve(EYE, half),
    ):
        with pytest.raises(TypeError, match=r"torch\.complex64"):
            call()


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc], ids=str)
def test_preconditioners_that_are_no_matrices(layout: torch.layout) -> None:
    crow, col = torch.tensor([0, 10**9, 2 * 10**9, 3 * 10**9]), torch.arange(3)
    if layout is torch.sparse_coo:
        M = torch.sparse_coo_tensor(torch.stack([col + 5, col]), torch.ones(3), (3, 3), check_invariants=False)
    else:
        M = torch.sparse_compressed_tensor(crow, col, torch.ones(3), (3, 3), layout=layout, check_invariants=False)
    with pytest.raises(sps.PatternError):
        sps.sparse_solve_c4t(EYE, ONES, "cg", M=M)


# ---- odd storage, and derivatives of every kind


@pytest.mark.parametrize("method", [None, "gmres", sla.spsolve], ids=["None", "gmres", "spsolve()"])
def test_unsorted_and_duplicate_entries(method: Any) -> None:
    crow, col = torch.tensor([0, 3, 5, 7]), torch.tensor([2, 0, 0, 2, 1, 2, 0])
    values = torch.tensor([1.0, 2.0, 3.0, 1.0, 4.0, 5.0, 1.0], dtype=torch.float64)
    T = torch.sparse_csr_tensor(crow, col, values, (3, 3), check_invariants=False).requires_grad_()
    D = torch.tensor([[5.0, 0, 1], [0, 4, 1], [1, 0, 5]], dtype=torch.float64)
    B = torch.randn(3, dtype=torch.float64)
    kwargs = {"tol": 1e-12} if method == "gmres" else {}
    x = sps.sparse_solve_c4t(T, B, method, **kwargs)
    close(x.detach(), torch.linalg.inv(D) @ B, 1e-9)
    x.sum().backward()
    lam = torch.linalg.inv(D).T @ torch.ones(3, dtype=torch.float64)
    rows = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    close(T.grad.values(), -lam[rows] * x.detach()[col], 1e-9)  # type: ignore[union-attr]
    assert torch.equal(T.col_indices(), col)
    assert torch.equal(T.detach().values(), values)
    uncoalesced = torch.sparse_coo_tensor(torch.stack([rows, col]), values, (3, 3), check_invariants=True)
    close(sps.sparse_solve_c4t(uncoalesced, B, method, **kwargs), torch.linalg.inv(D) @ B, 1e-9)


@REAL_AND_COMPLEX
@pytest.mark.parametrize("method", [None, "gmres"])
def test_gradgradcheck(method: str | None, dtype: torch.dtype) -> None:
    D = dense("general", dtype)[:4, :4]
    row, col = D.nonzero().unbind(1)
    v, b = D[row, col].clone().requires_grad_(), torch.randn(4, dtype=dtype, requires_grad=True)
    kwargs = {} if method is None else {"tol": 1e-13, "restart": 4}

    def f(v: Tensor, b: Tensor) -> Tensor:
        T = torch.sparse_coo_tensor(torch.stack([row, col]), v, (4, 4), check_invariants=False)
        return sps.sparse_solve_c4t(T, b, method, **kwargs)

    assert torch.autograd.gradcheck(f, (v, b))
    assert torch.autograd.gradgradcheck(f, (v, b))


@pytest.mark.parametrize(
    "selection", [(None,), ("cg",), ("spsolve", "cg"), (sla.spsolve,)], ids=["default", "cg", "spsolve, cg", "callable"]
)
def test_transforms_over_the_right_hand_side(selection: tuple[Any, ...]) -> None:
    D, b = dense("positive", torch.float64), torch.randn(N, dtype=torch.float64)
    T, inverse = sparse(D, torch.sparse_coo).detach(), torch.linalg.inv(D)
    kwargs = {} if callable(selection[0]) else TIGHT

    def f(b: Tensor) -> Tensor:
        return sps.sparse_solve_c4t(T, b, *selection, **kwargs)

    rows = torch.randn(5, N, dtype=torch.float64)
    close(torch.vmap(f)(rows), rows @ inverse.T, 1e-9)
    close(torch.func.jacrev(f)(b), inverse, 1e-9)
    close(torch.func.jacfwd(f)(b), inverse, 1e-9)
    close(torch.func.hessian(lambda b: (f(b) ** 2).sum())(b), 2 * inverse.T @ inverse, 1e-9)
    _, tangent = torch.func.jvp(f, (b,), (rows[0],))
    close(tangent, inverse @ rows[0], 1e-9)
