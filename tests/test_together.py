"""Batches of small matrices, solved several at once: the same solutions, counts and errors as one after another."""

from __future__ import annotations

import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import oracle
import sparsolve as sps
from sparsolve import Strategy
from sparsolve.backends import direct, together
from systems import DTYPES, grid, made, path, poisson

F64, C128 = torch.float64, torch.complex128
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def shuffled(n: int = 12) -> sp.coo_matrix:
    """Unsymmetric, with a wide band, duplicates, and rows that are not sorted."""
    rng = np.random.default_rng(3)
    M = (sp.random(n, n, 0.4, random_state=rng) + 3 * sp.eye(n).tocsr()[rng.permutation(n)]).tocoo()
    order = rng.permutation(2 * M.nnz)
    row, col, data = np.tile(M.row, 2)[order], np.tile(M.col, 2)[order], np.tile(M.data, 2)[order]
    return sp.coo_matrix((data, (row, col)), shape=(n, n))


def gapped(n: int = 9) -> sp.coo_matrix:
    """Tridiagonal, with entries missing."""
    M = (path(n) + sp.eye(n)).tolil()
    M[3, 4] = M[6, 5] = 0
    return M.tocoo()


SYSTEMS = {
    "tridiagonal": (path(8) + sp.eye(8), Strategy.TRIDIAGONAL),
    "tridiagonal, gaps": (gapped(), Strategy.TRIDIAGONAL),
    "band": (poisson(4, 9), Strategy.BANDED),
    "band, no diagonal": (sp.diags([1.0, 1.0, 0.3], [-1, 1, 2], shape=(40, 40)).tocsr(), Strategy.BANDED),
    "full": (shuffled(), Strategy.DENSE),
    "2 x 2": (sp.csr_matrix([[1.0, 2.0], [3.0, 4.0]]), Strategy.DENSE),
}
DEFINITE = {
    "tridiagonal": (path(8) + sp.eye(8), Strategy.BANDED_CHOLESKY),
    "band": (poisson(4, 9), Strategy.BANDED_CHOLESKY),
    "full": (poisson(2, 3, 2), Strategy.DENSE_CHOLESKY),
}


def batch_of(M, dtype, count: int = 5):
    """Matrices that differ, of sizes that differ by far."""
    values, pattern = made(M, dtype, phases=False)
    if dtype.is_complex and np.abs(M - M.T).max() > 0:
        values = values * torch.exp(1j * torch.linspace(0, 3, len(values))).to(dtype)
    scales = torch.logspace(-9, 9, count, dtype=F64).to(dtype)
    return values * scales.unsqueeze(1), pattern, torch.randn(count, pattern.shape[0], 2, dtype=dtype)


def check(values, pattern, b, x, adjoint=False):
    """In each column of each matrix a small backward error."""
    for v, right, got in zip(values, b, x, strict=True):
        A = oracle.dense(v, pattern)
        A = A.mH if adjoint else A
        bound = 20 * torch.finfo(v.dtype).eps * A.abs().sum(1).max() * got.abs().amax(0)
        assert ((A @ got - right).abs().amax(0) <= bound).all()


@pytest.fixture
def never_alone(monkeypatch):
    """No matrix is solved by itself."""

    def refuse(*_):
        raise AssertionError("solved by itself")

    monkeypatch.setattr(direct, "factorize", refuse)


@each_dtype
@pytest.mark.parametrize("width", [1, 2, 100])
@pytest.mark.parametrize(
    ("system", "solver"),
    [(s, sps.LU()) for s in SYSTEMS.values()] + [(s, sps.Cholesky()) for s in DEFINITE.values()],
    ids=[f"LU {name}" for name in SYSTEMS] + [f"Cholesky {name}" for name in DEFINITE],
)
def test_solutions_counts_and_reports(system, solver, width, dtype, never_alone, monkeypatch):
    M, strategy = system
    values, pattern, b = batch_of(M, dtype)
    n, kl, ku = pattern.shape[0], *direct.Structure(pattern.crow.numpy(), pattern.col.numpy(), pattern.shape).band
    monkeypatch.setattr(together, "_NUMBERS", max(width, 2) * n * min(n, 2 * kl + ku + 1))
    values, b = values[: 3 if width == 1 else 5], b[: 3 if width == 1 else 5]
    A = sps.SparseMatrix(values, pattern)
    for adjoint in (False, True):
        check(values, pattern, b, sps.solve(A, b, solver, adjoint=adjoint), adjoint)
    x, info = sps.solve_with_info(A, b, solver)
    check(values, pattern, b, x)
    assert (info.strategy == strategy).all()
    assert (info.status == sps.Status.CONVERGED).all()
    assert (info.residual < 1e3 * torch.finfo(dtype).eps).all()
    count = len(values)
    assert sps.memo_info()[:3] == (count, 2 * count, 1)


@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("name", SYSTEMS)
def test_gradients(name, dtype, never_alone):
    values, pattern, b = batch_of(SYSTEMS[name][0], dtype)
    values = values / values.abs().amax(1, keepdim=True)
    for adjoint in (False, True):
        leaves = [values.clone().requires_grad_(), b.clone().requires_grad_()]
        weight = torch.randn_like(b)
        ours = sps.solve(sps.SparseMatrix(leaves[0], pattern), leaves[1], adjoint=adjoint)
        wanted = oracle.solve(*leaves[:1], pattern, leaves[1], adjoint)
        got, expected = (torch.autograd.grad((x * weight).abs().square().sum(), leaves) for x in (ours, wanted))
        for g, e in zip(got, expected, strict=True):
            torch.testing.assert_close(g, e, rtol=1e-8, atol=1e-8 * e.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, C128], ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (3, 2)], ids=str)
def test_gradients_that_overflow_are_no_warning_of_numpy(shape, dtype):
    values, pattern = made(poisson(2, 3), dtype)
    batch, columns = shape[:1], shape[1:] or (1,)
    values = values.expand(*batch, -1).clone().requires_grad_()
    b = torch.full((*batch, 6, *columns), torch.finfo(dtype).max ** 0.7, dtype=dtype)
    x = sps.solve(sps.SparseMatrix(values, pattern), b)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x.backward(b)
    assert not values.grad.isfinite().any()


def test_vmap_shares_with_the_batch(never_alone):
    values, pattern, b = batch_of(poisson(4, 9), F64)
    x = sps.solve(sps.SparseMatrix(values, pattern), b)
    mapped = torch.vmap(lambda v, b: sps.solve(sps.SparseMatrix(v, pattern), b))(values, b)
    assert torch.equal(mapped, x)
    assert sps.memo_info().factorizations == 5


def test_expanded_values_are_one_factorization():
    values, pattern, b = batch_of(poisson(4, 9), F64)
    sps.solve(sps.SparseMatrix(values[2].expand(5, -1), pattern), b)
    assert sps.memo_info().factorizations == 1


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("wrong", [0, 2, 4])
def test_one_that_fails_does_not_take_the_others_along(name, wrong):
    values, pattern, b = batch_of(SYSTEMS[name][0], F64)
    for spoil, match in ((torch.nan, "nan"), (torch.inf, "inf"), (0.0, "nonzero|singular|zero pivot")):
        bad = values.clone()
        bad[wrong] *= spoil
        with pytest.raises(sps.SolveError, match=rf"(?s)({match}).*batch index {wrong}"):
            sps.solve(sps.SparseMatrix(bad, pattern), b)
        x, info = sps.solve_with_info(sps.SparseMatrix(bad, pattern), b)
        right = [i for i in range(5) if i != wrong]
        assert (info.status[right] == 0).all()
        assert (info.status[wrong] > 0).all()
        assert x[wrong].isnan().all()
        check(values[right], pattern, b[right], x[right])
        if name == "full" and spoil == 0.0:
            sps.clear_memo()
            sps.solve_with_info(sps.SparseMatrix(bad, pattern), b)
            assert sps.memo_info().factorizations == 4  # that together failed, and one of those by themselves, are none
    bad = b.clone()
    bad[wrong, 1, 1] = torch.nan
    with pytest.raises(sps.SolveError, match=f"nan.*batch index {wrong}"):
        sps.solve(sps.SparseMatrix(values, pattern), bad)


@pytest.mark.parametrize("spoil", [torch.nan, 0.0, None])
@pytest.mark.parametrize("system", [path(30), grid(2, 3, 2)], ids=["band", "full"])
def test_what_fails_is_not_counted(system, spoil, monkeypatch):
    """Factorizations, and times that one was found again, are those of each by itself."""
    values, pattern, b = batch_of(system, F64)
    if spoil is None:  # the others are not singular to working precision
        values[[0, 1, 2, 4]] *= 1 + (pattern.rows() == pattern.col)
    else:
        values[3] *= spoil
    counts = []
    for _ in range(2):
        sps.clear_memo()
        for _ in range(2):
            sps.solve_with_info(sps.SparseMatrix(values, pattern), b)
        counts.append(sps.memo_info()[:4])
        monkeypatch.setattr(direct, "together", lambda *_: None)
    assert counts[0] == counts[1]


def test_one_that_is_singular_to_working_precision():
    """Its elimination ends without a zero pivot, and its solutions have small residuals."""
    values, pattern = made(path(30), F64)
    many = values.expand(3, -1).clone()
    many[[0, 2]] += (pattern.rows() == pattern.col) * 0.1
    b = torch.randn(3, 30, 1, dtype=F64)
    with pytest.raises(sps.SingularMatrixError, match="batch index 1"):
        sps.solve(sps.SparseMatrix(many, pattern), b)
    info = sps.solve_with_info(sps.SparseMatrix(many, pattern), b).info
    assert info.status.ravel().tolist() == [0, sps.Status.SINGULAR, 0]


@each_dtype
@pytest.mark.parametrize("doubtful", [0, 2, 4])
def test_a_doubtful_one_goes_alone(doubtful, dtype, monkeypatch):
    """And no other does; there it is found to be good, or is refined."""
    values, pattern = made(path(30), dtype, phases=False)
    single = torch.finfo(dtype).eps > 1e-10
    shift = torch.full((5, 1), 0.1, dtype=dtype)
    shift[doubtful] = 1e-4 if single else 1e-12
    many = values + shift * (pattern.rows() == pattern.col)
    alone, factorize = [], direct.factorize
    monkeypatch.setattr(direct, "factorize", lambda s, v, *rest: (alone.append(v), factorize(s, v, *rest))[1])
    b = torch.randn(5, 30, 2, dtype=dtype)
    for adjoint in (False, True):
        alone.clear()
        check(many, pattern, b, sps.solve(sps.SparseMatrix(many, pattern), b, adjoint=adjoint), adjoint)
        assert [v.tolist() for v in alone] == [many[doubtful].tolist()]
    assert sps.memo_info()[:2] == (5, 5)
    b[doubtful] = torch.nan
    alone.clear()
    x = sps.solve_with_info(sps.SparseMatrix(many, pattern), b).x
    assert {tuple(v.tolist()) for v in alone} == {tuple(many[doubtful].tolist())}
    assert x[doubtful].isnan().all()


@pytest.mark.parametrize("name", DEFINITE)
@pytest.mark.parametrize("spoil", ["indefinite", "unsymmetric", "unsymmetric by rounding"])
def test_one_that_is_not_positive_definite(name, spoil):
    values, pattern, b = batch_of(DEFINITE[name][0], F64)
    if spoil == "indefinite":
        values[3, (pattern.rows() == pattern.col).nonzero()[:, 0]] *= 0.1
    else:
        values[3, (pattern.rows() > pattern.col).nonzero()[0]] *= 1.001 if spoil == "unsymmetric" else 1 + 1e-15
    if spoil == "unsymmetric by rounding":
        check(values, pattern, b, sps.solve(sps.SparseMatrix(values, pattern), b, sps.Cholesky()))
        return
    with pytest.raises(sps.NotPositiveDefiniteError, match="batch index 3"):
        sps.solve(sps.SparseMatrix(values, pattern), b, sps.Cholesky())


@pytest.mark.parametrize("solver", [sps.LU(), sps.Cholesky()], ids=["LU", "Cholesky"])
def test_memory_of_many_tiny_matrices(solver):
    """It is their decompositions' objects much rather than their numbers."""
    values, pattern = made(grid(3) + sp.csr_matrix(np.ones((3, 3))), F64)
    values = values * torch.rand(4000, 1, dtype=F64)
    b = torch.ones(4000, 3, 1, dtype=F64)
    sps.solve(sps.SparseMatrix(values[:3], pattern), b[:3], solver)
    sps.clear_memo()
    tracemalloc.start()
    try:
        sps.solve(sps.SparseMatrix(values, pattern), b, solver)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert sps.memo_info().factorizations == 4000
    assert 0.5 * held < sps.memo_info().nbytes < 2 * held


class Wrong:
    """A decomposition whose solutions are wrong for one matrix, or less so with each refinement."""

    nbytes = 0

    def __init__(self, inner, rows, factor):
        self.inner, self.rows, self.factor = inner, rows, factor

    def solve(self, b, trans="N"):
        x = self.inner.solve(b, trans)
        x[self.rows] *= self.factor
        return x


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("matrix", range(5))
def test_each_residual_counts(matrix, adjoint):
    """However small the matrix's numbers and its solution are among the others'."""
    values, pattern, b = batch_of(poisson(4, 9), F64)
    b[matrix] *= 1e-12
    structure = direct.Structure(pattern.crow.numpy(), pattern.col.numpy(), pattern.shape)
    width, make = together.together(structure, values.numpy(), sps.LU())
    assert width >= 5
    factor = make(values.numpy())
    x = torch.from_numpy(factor.solve(b.numpy(), adjoint=adjoint))
    check(values, pattern, b, x, adjoint)
    right, rows = factor._decomposition, slice(matrix * 36, (matrix + 1) * 36)
    factor._decomposition = Wrong(right, rows, 1 + 1e-7)  # one refinement makes that 1e-14, two 1e-21
    check(values, pattern, b, torch.from_numpy(factor.solve(b.numpy(), adjoint=adjoint)), adjoint)
    factor._decomposition = Wrong(right, rows, 1.01)
    assert factor.solve(b.numpy(), adjoint=adjoint) is None


def test_what_underflows_in_one_excuses_no_other():
    """In a matrix of the smallest numbers any residual is rounding; in its neighbour a small one may be all of b."""
    values, pattern = made(poisson(4, 9), torch.float32)
    values, b = values.expand(2, -1).clone(), 1e-7 * torch.randn(2, 36, 1)
    values[0] *= 1e-25
    b[0] = 0
    structure = direct.Structure(pattern.crow.numpy(), pattern.col.numpy(), pattern.shape)
    factor = together.together(structure, values.numpy(), sps.LU())[1](values.numpy())
    assert factor.beyond_doubt.all()
    check(values[1:], pattern, b[1:], torch.from_numpy(factor.solve(b.numpy(), adjoint=False))[1:])
    factor._decomposition = Wrong(factor._decomposition, slice(36, 72), 1.1)
    assert factor.solve(b.numpy(), adjoint=False) is None
    values[0] *= 1e-13  # where sums of products underflow, each goes alone
    assert together.together(structure, values.numpy(), sps.LU()) is None


def test_what_goes_alone(monkeypatch):
    """Large matrices, those for SuperLU, and factors in float32."""
    monkeypatch.setattr(together.Together, "solve", None)
    large, shuffle = together._SMALL + 1, np.random.default_rng(0).permutation(400)
    for M, solver in (
        (path(large) + sp.eye(large), sps.LU()),
        (poisson(20, 20).tocsr()[shuffle][:, shuffle], sps.LU()),
        (poisson(4, 9), sps.LU(factor_dtype=torch.float32)),
        (poisson(4, 9), sps.LU(backend="superlu")),
    ):
        values, pattern, b = batch_of(M, F64, 2)
        check(values, pattern, b, sps.solve(sps.SparseMatrix(values, pattern), b, solver))


def test_threads_find_the_same(never_alone):
    values, pattern, b = batch_of(poisson(4, 9), F64)
    expected = [sps.solve(sps.SparseMatrix(s * values, pattern), b) for s in (1, 2)]
    sps.clear_memo()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda s: sps.solve(sps.SparseMatrix(s * values, pattern), b), [1, 2] * 20))
    assert all(torch.equal(x, expected[i % 2]) for i, x in enumerate(found))
    assert sps.memo_info().factorizations == 10


@each_dtype
@pytest.mark.parametrize("name", SYSTEMS)
def test_batches_of_several_sizes_on_one_pattern(name, dtype, never_alone):
    """What is known of the pattern side by side serves fewer matrices, and is made anew for more."""
    M, _ = SYSTEMS[name]
    for count in (3, 7, 5, 2):
        values, pattern, b = batch_of(M, dtype, count)
        for adjoint in (False, True):
            x = sps.solve(sps.SparseMatrix(values * (1 + count), pattern), b, adjoint=adjoint)
            check(values * (1 + count), pattern, b, x, adjoint)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e-6), (torch.float64, 1e-15)], ids=str)
def test_small_right_hand_sides_are_solved_as_well_as_alone(dtype: torch.dtype, size: float) -> None:
    n, tiny = 20, torch.finfo(dtype).smallest_normal * 1e-4
    T = torch.diag(torch.full((n,), 3.0)) - torch.diag(torch.ones(n - 1), 1) - torch.diag(torch.rand(n - 1), -1)
    P = sps.SparseMatrix.from_torch(T.to(dtype).to_sparse_coo())
    v, b = P.values * size, torch.rand(n, 2, dtype=dtype) * torch.tensor([tiny, 1.0], dtype=dtype)
    alone = sps.solve(sps.SparseMatrix(v, P.pattern), b)
    together = sps.solve(sps.SparseMatrix(torch.stack([v, 2 * v, 3 * v]), P.pattern), b)
    torch.testing.assert_close(together[0], alone, rtol=100 * torch.finfo(dtype).eps, atol=0)
