"""`slogdet`: values, gradients that are entries of the inverse, every composition, and what it refuses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jvp, vmap

import oracle
import sparsolve as sps
from sparsolve import determinants, log_determinant
from sparsolve.backends import dense_determinant, determinant, direct, fronts, inverse_derivative, readable
from sparsolve.backends.balance import balanced
from sparsolve.backends.host import structure_of
from systems import DTYPES, SINGULAR, SYSTEMS, grid, made, with_indices
from test_transforms import TORCH_2_11, aot, inductor
from transforms import COMPOSITIONS, EAGER_ONLY, tensors

F64, C128 = torch.float64, torch.complex128
TOLERANCE = {torch.float32: 2e-3, torch.complex64: 2e-3, F64: 1e-10, C128: 1e-10}


@pytest.fixture(params=["small", "superlu"])
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small matrices with all their entries, and as large ones are."""
    if request.param == "superlu":
        monkeypatch.setattr(dense_determinant, "_SMALL", 0)


@pytest.fixture
def superlu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_determinant, "_SMALL", 0)


def log_abs(v: Tensor, pattern: sps.Pattern, solver: Any = sps.LU()) -> Tensor:  # noqa: B008
    return sps.slogdet(sps.SparseMatrix(v, pattern), solver).logabsdet


def inverse_entries(v: Tensor, pattern: sps.Pattern) -> Tensor:
    """`A⁻ᴴ` at A's entries, by dense code."""
    D = oracle.dense(v.to(C128 if v.is_complex() else F64), pattern)
    return torch.linalg.inv(D).mH[..., pattern.rows(), pattern.col].to(v.dtype)


def gradient(v: Tensor, pattern: sps.Pattern, solver: Any = sps.LU()) -> Tensor:  # noqa: B008
    leaf = v.detach().clone().requires_grad_()
    return torch.autograd.grad(log_abs(leaf, pattern, solver).sum(), leaf)[0]


def check(v: Tensor, pattern: sps.Pattern, solver: Any = sps.LU()) -> None:  # noqa: B008
    """Values and gradient against dense code."""
    D = oracle.dense(v.to(C128 if v.is_complex() else F64), pattern)
    expected, tolerance = torch.linalg.slogdet(D), TOLERANCE[v.dtype]
    got = sps.slogdet(sps.SparseMatrix(v, pattern), solver)
    assert (got.sign.dtype, got.logabsdet.dtype) == (v.dtype, v.dtype.to_real())
    torch.testing.assert_close(got.sign.to(D.dtype), expected.sign, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        got.logabsdet.to(F64), expected.logabsdet, rtol=tolerance, atol=tolerance * pattern.shape[0] ** 0.5
    )
    G = inverse_entries(v, pattern)
    torch.testing.assert_close(gradient(v, pattern, solver), G, rtol=tolerance, atol=tolerance * float(G.abs().max()))


# ---- values and gradients


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SYSTEMS)
def test_gallery(name: str, dtype: torch.dtype) -> None:
    values, pattern = SYSTEMS[name](dtype)
    check(values, pattern)
    check(-values, pattern)
    check(values, with_indices(pattern, torch.int32))


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["Poisson 1-D", "Poisson 3-D", "Hermitian"])
def test_cholesky(name: str, dtype: torch.dtype) -> None:
    values, pattern = (
        SYSTEMS[name](dtype) if name == "Hermitian" else made(grid(3, 4, 2) + sp.eye(24), dtype, phases=False)
    )
    check(values, pattern, sps.Cholesky())
    assert sps.slogdet(sps.SparseMatrix(values, pattern), sps.Cholesky(backend="superlu")).sign == 1


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("seed", range(12))
def test_random_patterns(seed: int, dtype: torch.dtype) -> None:
    """Large enough for a tree of many fronts; weak diagonals, so that pivots leave it, and rows in any order."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(20, 160))
    A = sp.random(n, n, 3 / n, random_state=rng) + (0.2 if seed % 3 else 2.0) * sp.eye(n)
    A = A.tocsr()[rng.permutation(n)] if seed % 2 else A
    check(*made(A, dtype))


@pytest.mark.usefixtures("both")
def test_a_path_and_a_star() -> None:
    """The deepest tree, and the flattest one."""
    n = 300
    star = sp.coo_matrix((np.full(n - 1, -0.1), (np.zeros(n - 1, int), np.arange(1, n))), shape=(n, n))
    for A in (grid(n) + 0.1 * sp.eye(n), star + star.T + sp.eye(n) * 5):
        check(*made(A, F64))


@pytest.mark.usefixtures("superlu")
def test_trees_of_one_unknown_share_fronts() -> None:
    n = 1000
    assert len(fronts.Fronts(sp.eye(n, format="csc"), 10**6).first) < n / 10
    check(*made(sp.diags(np.arange(1.0, 101)), F64))


@pytest.mark.usefixtures("both")
def test_several_components_and_a_diagonal() -> None:
    check(*made(sp.block_diag([grid(4, 4) + sp.eye(16), sp.eye(3) * 2, grid(30) + sp.eye(30)]), F64))


@pytest.mark.usefixtures("superlu")
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
def test_an_order_of_metis(dtype: torch.dtype, fresh: Any) -> None:
    pytest.importorskip("pymetis")
    for name in ("Poisson 3-D", "convection-diffusion", "duplicates"):
        check(*SYSTEMS[name](dtype), sps.LU(backend="metis"))


def test_no_unknowns() -> None:
    pattern = sps.Pattern(torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), (0, 0))
    v = torch.zeros(0, dtype=F64, requires_grad=True)
    sign, logabsdet = sps.slogdet(sps.SparseMatrix(v, pattern))
    assert (sign, logabsdet) == (1, 0)
    assert torch.autograd.grad(logabsdet, v)[0].shape == (0,)


@pytest.mark.usefixtures("both")
def test_extreme_sizes() -> None:
    """A determinant that no number can hold."""
    values, pattern = made(1e3 * (grid(20, 20) + sp.eye(400)), F64)
    sign, logabsdet = sps.slogdet(sps.SparseMatrix(values, pattern))
    assert sign == 1
    assert logabsdet > 2700
    torch.testing.assert_close(logabsdet, torch.linalg.slogdet(oracle.dense(values, pattern)).logabsdet)
    check(values * 1e-9, pattern)


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["Poisson 2-D", "convection-diffusion", "Hermitian", "duplicates", "saddle point"])
def test_rows_and_columns_of_any_scale(name: str, dtype: torch.dtype) -> None:
    """Powers of two on rows and columns, which change the logarithm and the inverse exactly."""
    values, pattern = SYSTEMS[name](dtype)
    n, rng = pattern.shape[0], np.random.default_rng(0)
    far = 240 if dtype in (F64, C128) else 25
    solvers: list[Any] = [sps.LU(), sps.Cholesky()] if name == "Hermitian" else [sps.LU()]
    for solver in solvers:
        r = torch.from_numpy(rng.integers(-far, far, n))
        c = r if name == "Hermitian" else torch.from_numpy(rng.integers(-far, far, n))
        powers = r[pattern.rows()] + c[pattern.col]
        scaled = torch.ldexp(values, powers)
        torch.testing.assert_close(
            log_abs(scaled, pattern, solver),
            log_abs(values, pattern) + np.log(2) * int(r.sum() + c.sum()),
            rtol=1e-12 if far == 240 else 1e-5,
            atol=1e-10 if far == 240 else 1e-3,
        )
        G = torch.ldexp(gradient(scaled, pattern, solver), powers)
        expected, tolerance = inverse_entries(values, pattern), TOLERANCE[dtype]
        torch.testing.assert_close(G, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("size", [1e-310, 1e-42, 1e37, 1e307])
def test_numbers_at_the_ends_of_a_dtype(size: float) -> None:
    D = torch.eye(5, dtype=F64) * 4 + torch.diag(torch.ones(4, dtype=F64), 1)
    for dtype in (torch.float32, F64) if 1e-44 < size < 1e38 else (F64,):
        A = (size * D).to(dtype).to_sparse()
        assert float(sps.slogdet(A).logabsdet) == pytest.approx(5 * np.log(4 * size), rel=1e-4)


@pytest.mark.usefixtures("both")
def test_scales_along_a_chain() -> None:
    """Far from each other, and found over many steps."""
    n, rng = 400, np.random.default_rng(0)
    M = np.diag(3 + rng.random(n)) + np.diag(rng.random(n - 1), 1) + np.diag(rng.random(n - 1), -1)
    r, c = rng.integers(-240, 241, n), rng.integers(-240, 241, n)
    A = torch.from_numpy(np.ldexp(M, r[:, None] + c)).to_sparse().requires_grad_()
    (g,) = torch.autograd.grad(sps.slogdet(A).logabsdet, A)
    i, j = g.coalesce().indices().numpy()
    got, expected = np.ldexp(g.coalesce().values().numpy(), r[i] + c[j]), np.linalg.inv(M).T[i, j]
    np.testing.assert_allclose(got, expected, rtol=1e-10)


@pytest.mark.usefixtures("superlu")
def test_balancing_leaves_what_needs_none(fresh: Any) -> None:
    values, pattern = SYSTEMS["Hermitian"](C128)
    structure = structure_of(pattern.crow, pattern.col, pattern.shape)
    given = values.numpy()
    assert balanced(structure, given).values is given
    far = 2.0 ** torch.arange(0, 5 * pattern.shape[0], 5)
    found = balanced(structure, (values * far[pattern.rows()] * far[pattern.col]).numpy())
    D = oracle.dense(torch.from_numpy(found.values), pattern)
    assert torch.equal(D, D.mH)
    largest = D.abs().amax(dim=1)
    assert largest.max() / largest.min() < 8
    assert found.total > 0


@pytest.mark.usefixtures("both")
def test_batches() -> None:
    values, pattern = SYSTEMS["convection-diffusion"](C128)
    many = values * (1 + 0.1 * torch.rand(2, 3, 1))
    got = sps.slogdet(sps.SparseMatrix(many, pattern))
    expected = torch.linalg.slogdet(oracle.dense(many, pattern))
    assert got.sign.shape == got.logabsdet.shape == (2, 3)
    torch.testing.assert_close(tuple(got), tuple(expected))
    torch.testing.assert_close(gradient(many, pattern), inverse_entries(many, pattern))
    assert sps.slogdet(sps.SparseMatrix(many[:0], pattern)).logabsdet.shape == (0, 3)


# ---- small matrices, several at once


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, fresh: Any) -> list[int]:
    """Counts the matrices that SuperLU factorizes."""
    made_here: list[int] = []
    right = determinant.Determinant.__init__
    monkeypatch.setattr(determinant.Determinant, "__init__", lambda *a: made_here.append(1) or right(*a))
    return made_here


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("solver", [sps.LU(), sps.Cholesky()], ids=str)
def test_small_matrices_of_a_batch(dtype: torch.dtype, solver: Any, alone: list[int], monkeypatch: Any) -> None:
    monkeypatch.setattr(dense_determinant, "_NUMBERS", 3 * 36)  # three at once
    values, pattern = made(sp.csr_matrix(grid(2, 3) + sp.eye(6)), dtype)
    if solver == sps.Cholesky():
        D = oracle.dense(values, pattern)
        values = ((D + D.mH) / 2 + 8 * torch.eye(6))[pattern.rows(), pattern.col]
    many = values * (1 + torch.rand(7, 1).to(dtype).real)
    check(many, pattern, solver)
    w = torch.randn_like(many)
    found = jvp(lambda v: gradient_of(v, pattern, solver), (many,), (w,))[1]
    D, W = (oracle.dense(t.to(C128 if dtype.is_complex else F64), pattern) for t in (many, w))
    expected = -(torch.linalg.inv(D) @ W @ torch.linalg.inv(D)).mH[..., pattern.rows(), pattern.col].to(dtype)
    torch.testing.assert_close(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert (alone, sps.memo_info().factorizations) == ([], 7)


def gradient_of(v: Tensor, pattern: sps.Pattern, solver: Any) -> Tensor:
    return grad(lambda v: log_abs(v, pattern, solver).sum())(v)


def test_matrices_of_a_batch_that_are_in_doubt(alone: list[int]) -> None:
    """One is nearly singular, one has rows of very different size: each has its determinant from SuperLU, and the others theirs."""
    values, pattern = made(sp.csr_matrix(grid(2, 3) + sp.eye(6)), F64)
    many = values.repeat(5, 1)
    last = pattern.rows() == 5
    many[1, last] = many[1, (pattern.rows() == 2)] * 0 + 1e-13 * many[1, last]
    many[3, last] *= 1e30
    D = oracle.dense(many, pattern)
    torch.testing.assert_close(log_abs(many, pattern), torch.linalg.slogdet(D)[1])
    assert len(alone) == 2
    w = torch.randn_like(many)
    found = jvp(lambda v: gradient_of(v, pattern, sps.LU()), (many,), (w,))[1]
    expected = torch.stack([dense_slope(v, pattern, along) for v, along in zip(many, w, strict=True)])
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-9, atol=1e-9 * float(e.abs().max()))


def test_a_singular_matrix_among_small_ones_is_named(alone: list[int]) -> None:
    values, pattern = made(sp.csr_matrix(grid(2, 3) + sp.eye(6)), F64)
    many = values.repeat(4, 1)
    many[2] = 1.0 * (pattern.rows() == 0)
    with pytest.raises(sps.SingularMatrixError, match="batch index 2"):
        log_abs(many, pattern)


def test_a_named_backend_is_asked(alone: list[int]) -> None:
    values, pattern = SYSTEMS["Poisson 1-D"](F64)
    check(values, pattern, sps.LU(backend="superlu"))
    assert len(alone) == 1


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_sparse_tensors(layout: torch.layout) -> None:
    D = oracle.dense(*SYSTEMS["circuit"](F64))
    T = D.to_sparse(layout=layout).requires_grad_()
    (g,) = torch.autograd.grad(sps.slogdet(T).logabsdet, T)
    assert g.layout == layout
    torch.testing.assert_close(g.to_dense(), torch.linalg.inv(D).T * (D != 0))


# ---- transforms


def minors(D: Tensor) -> Tensor:
    """The determinant by the Leibniz formula: products and sums only, right in every nesting."""
    n = D.shape[-1]
    if n == 1:
        return D[..., 0, 0]
    rest = [[k for k in range(n) if k != j] for j in range(n)]
    parts = [(-1) ** j * D[..., 0, j] * minors(D[..., 1:, :][..., rest[j]]) for j in range(n)]
    return torch.stack(parts).sum(0)


def case(dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """`f(s, t)` through sparsolve, the same through dense code, and tensors to apply both to."""
    torch.manual_seed(3)
    D = torch.tensor([[4, 1, 0, 0], [0, 3, 2, 0], [1, 0, 5, 1], [0, 2, 0, 4]], dtype=dtype)
    D = torch.where(D != 0, D + 0.3 * torch.randn(4, 4, dtype=dtype), D)
    values, pattern = oracle.pattern_of(D)

    def moved(s: Tensor, t: Tensor) -> Tensor:
        s = s + t
        return values + (torch.complex(s, s.flip(0)) if dtype.is_complex else s)

    def real(sign: Tensor, logabsdet: Tensor) -> Tensor:
        parts = [sign.real, sign.imag] if dtype.is_complex else []
        return torch.stack([*parts, logabsdet, logabsdet.square()])

    def f(s: Tensor, t: Tensor) -> Tensor:
        return real(*sps.slogdet(sps.SparseMatrix(moved(s, t), pattern)))

    def g(s: Tensor, t: Tensor) -> Tensor:
        d = minors(oracle.dense(moved(s, t), pattern))
        size = (d.real.square() + d.imag.square()).sqrt() if dtype.is_complex else d.abs()
        return real(d / size, size.log())

    s, t = 0.1 * torch.randn(values.shape, dtype=F64), 0.1 * torch.randn(values.shape, dtype=F64)
    return f, g, tensors(s, t, g(s, t))


def agree(compiled: Any, transform: str, dtype: torch.dtype) -> None:
    f, g, T = case(dtype)
    call = {**COMPOSITIONS, **EAGER_ONLY}[transform]
    torch.testing.assert_close(compiled(lambda: call(f, T))(), call(g, T), rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")  # torch.func.linearize, of dense code too
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("transform", [*COMPOSITIONS, *EAGER_ONLY])
def test_eager(transform: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    if transform == "linearize":  # torch traces it with whatever is in memory as tangents; a NaN there is an error here
        monkeypatch.setattr(Tensor, "new_empty", Tensor.new_zeros)
    agree(lambda call: call, transform, dtype)


SECOND = "hessian_A hessian_mixed jacrev_jacrev jacfwd_jacfwd jacrev_jacfwd jvp_of_grad grad_of_jvp vjp_of_jvp vjp_of_vjp jvp_of_jvp"
SECOND += " jvp_of_vjp jvp_jvp_jvp jvp_grad_jvp grad_jvp_jvp grad_grad_grad grad_of_hvp vmap_hvp hvp_of_vmap"


@pytest.mark.usefixtures("superlu")
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("transform", SECOND.split())
def test_eager_as_of_large_matrices(transform: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inverse_derivative, "_FEW", 3)
    for module in (determinants, log_determinant):
        monkeypatch.setattr(module, "COLUMNS", 3)
    agree(lambda call: call, transform, dtype)


COMPLEX = ["value", "grad_both", "jvp_both", "hessian_A", "vjp_of_jvp", "vmap_both", "vmap_grad", "grad_of_vmap"]
COMPILED = [
    *(pytest.param(name, F64, marks=TORCH_2_11 if name == "jacfwd_both" else ()) for name in COMPOSITIONS),
    *((name, C128) for name in COMPLEX),
]


@pytest.mark.parametrize(("transform", "dtype"), COMPILED, ids=str)
def test_compiled(transform: str, dtype: torch.dtype) -> None:
    agree(aot, transform, dtype)


@pytest.mark.usefixtures("superlu")
@pytest.mark.parametrize("transform", ["hessian_A", "vjp_of_jvp", "grad_of_hvp", "vmap_hvp"])
def test_compiled_as_of_large_matrices(transform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inverse_derivative, "_FEW", 3)
    for module in (determinants, log_determinant):
        monkeypatch.setattr(module, "COLUMNS", 3)
    agree(aot, transform, F64)


@pytest.mark.filterwarnings("ignore:.torch._prims_common.check. is deprecated:FutureWarning")  # Inductor's own
@pytest.mark.parametrize("transform", ["value", "grad_both", "hessian_A", "vmap_grad"])
def test_inductor(transform: str) -> None:
    agree(inductor, transform, F64)


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("name", ["convection-diffusion", "Helmholtz"])
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
def test_gradcheck(name: str, dtype: torch.dtype) -> None:
    values, pattern = oracle.pattern_of(oracle.dense(*SYSTEMS[name](dtype))[:6, :6])
    leaf = values.requires_grad_()
    flags = {"check_batched_grad": True}
    for i in range(1 if dtype == F64 else 2):
        f = lambda v, i=i: sps.slogdet(sps.SparseMatrix(v, pattern))[1 - i]  # noqa: E731
        assert gradcheck(f, leaf, check_forward_ad=True, check_batched_forward_grad=True, **flags)
        assert gradgradcheck(f, leaf, check_fwd_over_rev=True, **flags)


@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("op", ["logdet", "inverse_entries", "inverse_derivative"])
def test_opcheck(op: str, dtype: torch.dtype) -> None:
    values, pattern = SYSTEMS["circuit"](dtype)
    for v in (values, values * torch.tensor([[1.0], [2.0]])):
        w = (torch.randn_like(v).requires_grad_(),) if op == "inverse_derivative" else ()
        args = v.detach().requires_grad_(), *w, pattern.crow, pattern.col, sps.LU().key
        torch.library.opcheck(getattr(torch.ops.sparsolve, op).default, args)


@pytest.mark.usefixtures("both")
def test_lazy_bits() -> None:
    values, pattern = SYSTEMS["Helmholtz"](C128)
    check(values.conj(), pattern)
    stored = torch.complex(torch.zeros(pattern.nnz, dtype=F64), -values.real).conj().imag
    assert stored.is_neg()
    check(stored, pattern)
    check(torch.stack([values, values], dim=1)[:, 1], pattern)


def test_fake_tensors() -> None:
    values, pattern = SYSTEMS["circuit"](C128)
    with FakeTensorMode(allow_non_fake_inputs=True):
        sign, logabsdet = sps.slogdet(sps.SparseMatrix(values.expand(5, -1), pattern))
    assert sign.shape == logabsdet.shape == (5,)
    assert (sign.dtype, logabsdet.dtype) == (C128, F64)


def test_export() -> None:
    values, pattern = SYSTEMS["circuit"](F64)

    class Model(torch.nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            return log_abs(v, pattern)

    exported = torch.export.export(Model(), (values,)).module()
    torch.testing.assert_close(exported(2 * values), log_abs(2 * values, pattern))


def test_a_batched_pattern_is_refused() -> None:
    values, pattern = SYSTEMS["circuit"](F64)
    crow = torch.stack([pattern.crow, pattern.crow])
    with pytest.raises(sps.PatternError, match="vmap batches the pattern"):
        vmap(lambda crow: torch.ops.sparsolve.logdet(values, crow, pattern.col, sps.LU().key))(crow)


# ---- what is counted


@pytest.mark.usefixtures("superlu")
def test_counts(fresh: Any) -> None:
    values, pattern = SYSTEMS["Poisson 2-D"](F64)
    f = partial(log_abs, pattern=pattern)
    for _ in range(3):
        grad(f)(values)
    assert sps.memo_info().factorizations == 1
    jvp(grad(f), (values,), (values,))
    assert sps.memo_info().factorizations == 2  # solves have one of their own
    vmap(grad(f))(values * torch.tensor([[2.0], [3.0], [4.0]]))
    assert (sps.memo_info().factorizations, sps.memo_info().analyses) == (5, 1)


@pytest.mark.usefixtures("superlu")
def test_fronts_are_found_once(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values, pattern = SYSTEMS["Poisson 2-D"](F64)
    found: list[Any] = []

    class Counted(fronts.Fronts):
        def __init__(self, *args: Any) -> None:
            found.append(args)
            super().__init__(*args)

    monkeypatch.setattr(readable, "Fronts", Counted)
    for s in (1.0, 2.0, 3.0):
        gradient(s * values, pattern)
    assert len(found) == 1


@pytest.mark.usefixtures("both")
def test_threads(fresh: Any) -> None:
    values, pattern = SYSTEMS["convection-diffusion"](C128)
    sizes = [1.0 + 0.1 * (i % 3) for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda s: gradient(s * values, pattern), sizes))
    for s, g in zip(sizes, found, strict=True):
        torch.testing.assert_close(g, inverse_entries(s * values, pattern))
    assert sps.memo_info().factorizations == 3


# ---- what is not believed


@pytest.mark.usefixtures("superlu")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SYSTEMS)
def test_nothing_is_solved_for_where_the_fronts_are_right(
    name: str, dtype: torch.dtype, fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Solves would hide a mistake in the fronts."""
    monkeypatch.setattr(readable.ReadableFactor, "_solved", lambda self: pytest.fail("the fronts were not believed"))
    gradient(*SYSTEMS[name](dtype))


@pytest.mark.usefixtures("superlu")
@pytest.mark.parametrize("kind", ["hermitian", "general"])
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
def test_many_fronts_and_no_solves(kind: str, dtype: torch.dtype, fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree of fronts, Hermitian with phases that are not real, and not."""
    monkeypatch.setattr(readable.ReadableFactor, "_solved", lambda self: pytest.fail("the fronts were not believed"))
    values, pattern = made(grid(12, 12) + sp.eye(144), dtype, phases=kind == "general")
    if dtype.is_complex and kind == "hermitian":
        phase = torch.polar(torch.ones(144, dtype=F64), torch.arange(144, dtype=F64))
        values = values * phase[pattern.rows()] * phase[pattern.col].conj()
        D = oracle.dense(values, pattern)
        values = ((D + D.mH) / 2)[pattern.rows(), pattern.col]
        check(values, pattern, sps.Cholesky())
    if kind == "general":
        values = values * (1 + 0.1 * torch.sin(torch.arange(len(values))))
    check(values, pattern)


@pytest.mark.usefixtures("superlu")
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("name", ["Poisson 2-D", "saddle point", "duplicates"])
def test_solved_where_fronts_are_too_large(
    name: str, dtype: torch.dtype, fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readable, "_COLUMNS", 5)
    calls = []
    monkeypatch.setattr(readable, "Fronts", lambda *_: calls.append(1) or _raise())
    values, pattern = SYSTEMS[name](dtype)
    check(values, pattern)
    check(2 * values, pattern)
    assert len(calls) == 1  # it is remembered


def _raise() -> None:
    raise fronts.TooMuchFill


def test_too_much_fill(fresh: Any) -> None:
    values, pattern = SYSTEMS["power law"](F64)
    B = sp.csc_matrix(oracle.dense(values, pattern).numpy())
    whole = fronts.Fronts(B, 10**6)
    assert whole.starts[-1] >= B.nnz / 2
    large = sp.csc_matrix(grid(20, 20))
    with pytest.raises(fronts.TooMuchFill):
        fronts.Fronts(large, 500)


@pytest.mark.usefixtures("superlu")
@pytest.mark.parametrize("wrong", ["lower", "upper", "nan"])
def test_a_wrong_inverse_is_solved_for(wrong: str, fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = readable.selected_inverse

    def broken(*args: Any) -> Any:
        lower, upper = right(*args)
        if wrong == "nan":
            return lower * np.nan, upper
        return (lower * (1 + 1e-6), upper) if wrong == "lower" else (lower, upper * (1 - 1e-6))

    monkeypatch.setattr(readable, "selected_inverse", broken)
    check(*SYSTEMS["convection-diffusion"](F64))


# ---- derivatives of the inverse of matrices that are not small


def slope(v: Tensor, pattern: sps.Pattern, w: Tensor) -> Tensor:
    """The derivative of the gradient along w."""
    return jvp(grad(lambda v: log_abs(v, pattern)), (v,), (w,))[1]


def dense_slope(v: Tensor, pattern: sps.Pattern, w: Tensor) -> Tensor:
    Z = torch.linalg.inv(oracle.dense(v.double(), pattern))
    return -(Z @ oracle.dense(w.double(), pattern) @ Z).T[pattern.rows(), pattern.col]


def fits(v: Tensor, pattern: sps.Pattern, w: Tensor, rtol: float = 1e-9) -> None:
    expected = dense_slope(v, pattern, w)
    torch.testing.assert_close(
        slope(v, pattern, w).double(), expected, rtol=rtol, atol=rtol * float(expected.abs().max())
    )


@pytest.fixture
def unsolved(monkeypatch: pytest.MonkeyPatch, fresh: Any) -> None:
    monkeypatch.setattr(dense_determinant, "_SMALL", 0)
    monkeypatch.setattr(
        determinants.Determinants, "_solved", lambda *_: pytest.fail("the complex step was not believed")
    )


def large(kind: str, dtype: torch.dtype = F64) -> tuple[Tensor, sps.Pattern]:
    """144 unknowns; entries in an order of their own, and twice, for `duplicates`."""
    A = sp.csr_matrix(grid(12, 12) + sp.eye(144))
    if kind == "permuted":
        A = A[np.random.default_rng(0).permutation(144)]
    values, pattern = made(A, dtype)
    if kind in ("general", "duplicates"):
        values = values * (1 + 0.1 * torch.sin(torch.arange(len(values))))
    if kind == "duplicates":
        rows, columns = (torch.cat([i, i]) for i in (pattern.rows(), pattern.col))
        pattern, order = sps.Pattern.from_coo(rows, columns, pattern.shape)
        values = torch.cat([0.3 * values, 0.7 * values])[order]
    return values, pattern


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["symmetric", "general", "permuted", "duplicates"])
def test_complex_step(kind: str, dtype: torch.dtype, unsolved: None) -> None:
    v, pattern = large(kind, dtype)
    w = torch.randn_like(v)
    fits(v, pattern, w, 1e-9 if dtype == F64 else 1e-4)
    assert not slope(v, pattern, 0 * w).any()


def test_complex_step_along_the_antisymmetric_part(unsolved: None) -> None:
    """`A + iεW` is Hermitian then."""
    v, pattern = large("symmetric")
    w = torch.sign(pattern.rows() - pattern.col).double()
    fits(v, pattern, w)


@pytest.mark.parametrize("size", [1e-250, 1e-20, 1e20, 1e250])
def test_complex_step_of_any_scale(size: float, unsolved: None) -> None:
    v, pattern = large("general")
    w = torch.randn_like(v)
    torch.testing.assert_close(slope(v, pattern, size * w) / size, dense_slope(v, pattern, w))
    d = torch.logspace(0, 12, 144, dtype=F64)[torch.randperm(144)]
    scale = d[pattern.rows()] / d.flip(0)[pattern.col]
    torch.testing.assert_close(slope(scale * v, pattern, scale * w) * scale, dense_slope(v, pattern, w))


def test_complex_steps_of_a_batch(unsolved: None) -> None:
    v, pattern = large("general")
    many, along = torch.stack([v, 2 * v]), torch.randn(2, 3, len(v), dtype=F64)
    found = vmap(lambda v, ws: vmap(lambda w: slope(v, pattern, w))(ws))(many, along)
    expected = torch.stack(
        [torch.stack([dense_slope(v, pattern, w) for w in ws]) for v, ws in zip(many, along, strict=True)]
    )
    torch.testing.assert_close(found, expected)


def test_a_hessian_takes_one_factorization_for_each_direction(unsolved: None, monkeypatch: pytest.MonkeyPatch) -> None:
    v, pattern = large("symmetric")
    made_here, Factor = [], inverse_derivative.ReadableFactor
    monkeypatch.setattr(inverse_derivative, "ReadableFactor", lambda *a: made_here.append(1) or Factor(*a))
    other = 2 * v * (pattern.rows() == pattern.col)
    f = lambda t: log_abs(v * t[0].exp() + other * t[1], pattern)  # noqa: E731
    t = torch.tensor([0.3, 0.2], dtype=F64)
    D, E = oracle.dense(v, pattern), oracle.dense(other, pattern)
    found, calls = hessian(f)(t), len(made_here)
    torch.testing.assert_close(found, hessian(lambda t: torch.logdet(D * t[0].exp() + E * t[1]))(t))
    assert calls == 2
    assert sps.memo_info().factorizations == 1


@pytest.mark.usefixtures("superlu")
@pytest.mark.parametrize("wrong", ["fronts", "factor", "complex"])
def test_solved_for_where_the_complex_step_fails(wrong: str, fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = inverse_derivative.ReadableFactor.inverse
    if wrong == "fronts":

        def turned(self: Any) -> Any:
            Z = right(self)
            return Z * (1 + 1e-6j) if np.iscomplexobj(Z) else Z

        monkeypatch.setattr(inverse_derivative.ReadableFactor, "inverse", turned)
    if wrong == "factor":

        def fails(*_: Any) -> Any:
            raise sps.SingularMatrixError("not this one")

        monkeypatch.setattr(inverse_derivative, "ReadableFactor", fails)
    v, pattern = large("general")
    w = torch.randn_like(v)
    if wrong != "complex":
        fits(v, pattern, w)
        return
    v, w = v * (1 + 0.1j), w * (1 - 0.2j)
    Z, W = torch.linalg.inv(oracle.dense(v, pattern)), oracle.dense(w, pattern)
    found = torch.ops.sparsolve.inverse_derivative(v, w, pattern.crow, pattern.col, sps.LU().key)
    torch.testing.assert_close(found, -(Z @ W @ Z).mH[pattern.rows(), pattern.col])


# ---- entries of the inverse


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("name", ["duplicates", "unsorted", "convection-diffusion", "circuit", "permuted"])
def test_entries_of_the_inverse(name: str, dtype: torch.dtype) -> None:
    values, pattern = SYSTEMS[name](dtype)
    many = torch.stack([values, 2 * values])
    found = sps.inverse_entries(sps.SparseMatrix(many, pattern))
    there = torch.zeros(pattern.shape, dtype=torch.bool)
    there[pattern.col, pattern.rows()] = True
    Z = torch.linalg.inv(oracle.dense(values, pattern)) * there
    torch.testing.assert_close(found.to_dense(), torch.stack([Z, Z / 2]))
    on_diagonal = torch.where(there.diagonal(), Z.diagonal(), 0)
    torch.testing.assert_close(found.diagonal()[0], on_diagonal)


def variances(v: Tensor, pattern: sps.Pattern) -> Tensor:
    return sps.inverse_entries(sps.SparseMatrix(v, pattern), sps.Cholesky()).diagonal()


@pytest.mark.usefixtures("both")
def test_derivatives_of_the_entries_of_the_inverse() -> None:
    """Of a sum of matrices, whose diagonal entries are several."""
    values, pattern = SYSTEMS["Poisson 2-D"](F64)
    n = pattern.shape[0]
    A = sps.SparseMatrix(values, pattern) + sps.SparseMatrix.from_diagonal(torch.ones(n, dtype=F64))
    D = torch.linalg.inv(A.to_dense())
    torch.testing.assert_close(variances(A.values, A.pattern), D.diagonal())
    w = torch.randn_like(A.values)
    W = sps.SparseMatrix(w, A.pattern).to_dense()
    tangent = -(D @ W @ D).diagonal()
    torch.testing.assert_close(jvp(lambda v: variances(v, A.pattern), (A.values,), (w,))[1], tangent)
    f = lambda v: variances(v, A.pattern).sum()  # noqa: E731
    gradient = grad(f)(A.values)
    torch.testing.assert_close(gradient @ w, tangent.sum())
    torch.testing.assert_close(torch.compile(grad(f), fullgraph=True, backend="aot_eager")(A.values), gradient)
    torch.testing.assert_close(
        vmap(grad(f))(torch.stack([A.values, 2 * A.values])), torch.stack([gradient, gradient / 4])
    )


def test_entries_of_the_inverse_of_a_sparse_tensor() -> None:
    D = torch.tensor([[4.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 2.0]], dtype=F64)
    leaf = D.to_sparse().requires_grad_()
    found = sps.inverse_entries(leaf).diagonal()
    torch.testing.assert_close(found.detach(), torch.linalg.inv(D).diagonal())
    found.sum().backward()
    Z = torch.linalg.inv(D)
    torch.testing.assert_close(leaf.grad.to_dense(), -(Z @ Z).T * (D != 0))
    with pytest.raises(TypeError, match=r"dense tensor\. Use torch\.linalg\.inv"):
        sps.inverse_entries(D)
    with pytest.raises(TypeError, match=r"dense tensor\. Use torch\.linalg\.slogdet"):
        sps.slogdet(D)


# ---- as other functions of torch


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("batch", [(), (2,)])
def test_what_is_returned_may_be_written_to(batch: tuple[int, ...], dtype: torch.dtype) -> None:
    values, pattern = SYSTEMS["circuit"](dtype)
    leaf = values.expand(*batch, -1).clone().requires_grad_()
    sign, nll = sps.slogdet(sps.SparseMatrix(leaf, pattern))
    expected = sign.detach() * 2, nll.detach() + 1
    nll += 1.0
    sign *= 2
    torch.testing.assert_close((sign.detach(), nll.detach()), expected)
    nll.sum().backward()
    torch.testing.assert_close(leaf.grad, gradient(leaf, pattern))


@pytest.mark.usefixtures("both")
def test_autocast_leaves_derivatives_alone() -> None:
    values, pattern = SYSTEMS["circuit"](torch.float32)
    f, w = lambda v: log_abs(v, pattern), torch.rand_like(values)
    expected = jvp(f, (values,), (w,))[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = jvp(f, (values,), (w,))[1]
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


# ---- what is refused


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("name", SINGULAR)
def test_singular(name: str, dtype: torch.dtype) -> None:
    make, message = SINGULAR[name]
    values, pattern = make(dtype)
    with pytest.raises(sps.SingularMatrixError, match=message):
        log_abs(values, pattern)


@pytest.mark.usefixtures("superlu")
def test_a_factor_that_is_a_little_off_has_no_determinant(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A solution would be refined; a determinant is as good as its factor is."""
    substitute = direct.DirectFactor._substitute
    monkeypatch.setattr(direct.DirectFactor, "_substitute", lambda self, *given: 1.0001 * substitute(self, *given))
    values, pattern = SYSTEMS["circuit"](F64)
    A = sps.SparseMatrix(values, pattern)
    sps.solve(A, torch.ones(pattern.shape[0], dtype=F64))
    with pytest.raises(sps.SolveError, match="without refinement"):
        sps.slogdet(A)


@pytest.mark.usefixtures("both")
def test_singular_in_a_batch() -> None:
    values, pattern = SYSTEMS["Poisson 2-D"](F64)
    with pytest.raises(sps.SingularMatrixError, match="batch index 1"):
        log_abs(torch.stack([values, 0 * values]), pattern)


@pytest.mark.usefixtures("both")
def test_not_positive_definite() -> None:
    values, pattern = SYSTEMS["Hermitian"](F64)
    with pytest.raises(sps.NotPositiveDefiniteError, match="Cholesky needs"):
        log_abs(-values, pattern, sps.Cholesky())
    indefinite = made(grid(4, 4) - 2.5 * sp.eye(16) + sp.diags(np.full(16, 0.1)), F64)
    with pytest.raises(sps.NotPositiveDefiniteError):
        log_abs(*indefinite, sps.Cholesky())
    with pytest.raises(sps.NotPositiveDefiniteError, match="not Hermitian"):
        log_abs(*SYSTEMS["convection-diffusion"](F64), sps.Cholesky())


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_not_finite(bad: float) -> None:
    values, pattern = SYSTEMS["Poisson 2-D"](F64)
    values[3] = bad
    with pytest.raises(sps.SolveError, match=r"A\[\d+, \d+\] is (nan|inf)"):
        log_abs(values, pattern)


def test_refusals() -> None:
    values, pattern = SYSTEMS["Poisson 2-D"](F64)
    A = sps.SparseMatrix(values, pattern)
    with pytest.raises(TypeError, match="needs LU\\(\\) or Cholesky\\(\\)"):
        sps.slogdet(A, sps.CG())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="read from SuperLU's factors"):
        sps.slogdet(A, sps.LU(backend="lapack"))
    with pytest.raises(ValueError, match="a determinant is read from SuperLU's factors"):
        sps.slogdet(A, sps.Cholesky(backend="metis"))
    with pytest.raises(ValueError, match="in the precision of A"):
        sps.slogdet(A, sps.LU(factor_dtype=torch.float32))
    with pytest.raises(TypeError, match="no determinant here"):
        sps.slogdet(sps.Operator(lambda p, x: x, ()))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only a square matrix"):
        sps.slogdet(torch.ones(2, 3).to_sparse())
    with pytest.raises(TypeError, match="float16"):
        sps.slogdet(sps.SparseMatrix(values.half(), pattern))
    with pytest.raises(ValueError, match="entries"):
        sps.slogdet(sps.SparseMatrix(values[1:], pattern))
    with pytest.raises(ValueError, match="on cpu, and its pattern on meta"):
        sps.slogdet(sps.SparseMatrix(values, pattern.to("meta")))
    with pytest.raises(TypeError, match=r"Pattern is needed"):
        sps.slogdet(sps.SparseMatrix(values, values))  # type: ignore[arg-type]


@pytest.mark.usefixtures("both")
def test_nothing_is_modified() -> None:
    values, pattern = SYSTEMS["duplicates"](F64)
    before = values.clone(), pattern.crow.clone(), pattern.col.clone()
    hessian(partial(log_abs, pattern=pattern))(values)
    for was, now in zip(before, (values, pattern.crow, pattern.col), strict=True):
        assert torch.equal(was, now)


@pytest.mark.parametrize("copies", [2, 3, 5, 7])
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
def test_inverse_entries_where_places_are_shared(copies: int, dtype: torch.dtype) -> None:
    """Each copy gets its share, to all digits: `tr(A⁻¹ W)` counts them once."""
    pattern = sps.Pattern(torch.tensor([0, copies, copies + 1]), torch.tensor([0] * copies + [1]), (2, 2))
    values = torch.linspace(1, 2, copies + 1, dtype=torch.float64).to(dtype)
    found = sps.inverse_entries(sps.SparseMatrix(values, pattern)).diagonal()
    torch.testing.assert_close(found, 1 / torch.stack([values[:-1].sum(), values[-1]]), rtol=1e-14, atol=0)
