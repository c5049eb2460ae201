"""LAPACK's decompositions: which one a matrix gets, what one proves, and what residuals are compared with."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import oracle
import sparsolve as sps
from sparsolve import Strategy
from sparsolve.backends import lapack
from sparsolve.backends.backward_error import BackwardError
from sparsolve.backends.host import Structure, largest_size
from sparsolve.backends.strategy import Matrix
from systems import DTYPES, made, path, poisson

F64, C128 = torch.float64, torch.complex128
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def close(dtype: torch.dtype) -> dict[str, float]:
    size = 1e-3 if dtype in (torch.float32, torch.complex64) else 1e-11
    return {"rtol": size, "atol": size}


def chain(n: int, dtype: torch.dtype, shift: float = 0.5) -> sp.csr_matrix:
    """`L D Lᴴ` of a Laplacian with random weights, Hermitian, and a shift."""
    rng = np.random.default_rng(n)
    weights = rng.uniform(0.1, 5, n - 1) * (np.exp(1j * rng.uniform(0, 6, n - 1)) if dtype.is_complex else 1)
    on = np.zeros(n)
    on[:-1] += abs(weights)
    on[1:] += abs(weights)
    return sp.csr_matrix(sp.diags([weights.conj(), on + shift, weights], [-1, 0, 1]))


def matrix_of(M: sp.csr_matrix) -> Matrix:
    return Matrix(Structure(M.indptr, M.indices, M.shape), M.data)


def decomposed(M: sp.csr_matrix):
    return lapack._tridiagonal(matrix_of(M))


@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("shift", [2.0, 1e-3, 1e-9])
@pytest.mark.parametrize("n", [3, 40, 400])
def test_the_condition_that_a_factor_proves_is_not_exceeded(n, shift, dtype):
    M = chain(n, dtype, shift)
    found = decomposed(M)
    assert np.linalg.cond(M.toarray(), np.inf) <= 1.01 * found.condition
    assert found.condition < 1e3 * n**2 * (1 + 5 / shift)
    assert found.least <= abs(M).sum(axis=1).min()


def test_a_factor_with_large_entries_proves_nothing():
    M = sp.csr_matrix(np.array([[1.0, 2.0, 0.0], [2.0, 5.0, 2.0], [0.0, 2.0, 9.0]]))
    assert decomposed(M).condition == np.inf
    values, pattern = made(M, F64)
    b = torch.ones(3, dtype=F64)
    torch.testing.assert_close(sps.solve(sps.SparseMatrix(values, pattern), b), oracle.solve(values, pattern, b))


@each_dtype
@pytest.mark.parametrize("adjoint", [False, True])
def test_a_hermitian_tridiagonal_matrix_is_solved_without_a_product_of_sizes(dtype, adjoint, monkeypatch):
    """Nothing is asked of the norms of rows where the smallest diagonal entry shows that a residual is small."""
    monkeypatch.setattr(BackwardError, "norms", None)
    M = chain(60, dtype)
    values, pattern = made(M, dtype, phases=False)
    A, b = sps.SparseMatrix(values, pattern), torch.randn(60, dtype=dtype)
    x = sps.solve(A, b, adjoint=adjoint)
    torch.testing.assert_close(x, oracle.solve(values, pattern, b, adjoint=adjoint), **close(dtype))
    assert sps.explain(A).choices[0] == (Strategy.TRIDIAGONAL, "it is tridiagonal")


@each_dtype
def test_what_looks_positive_and_is_not_is_tried_once(dtype, monkeypatch):
    tried = []

    def counted(below, on):
        tried.append(len(on))
        return cholesky(below, on)

    cholesky = lapack.TridiagonalCholesky
    monkeypatch.setattr(lapack, "TridiagonalCholesky", counted)
    n = 50
    M = sp.diags([np.ones(n - 1), 0.5 + np.arange(n) % 3, np.ones(n - 1)], [-1, 0, 1]).tocsr()
    values, pattern = made(M, dtype, phases=False)
    b = torch.randn(n, dtype=dtype)
    for scale in (1, 2, 3):
        x, info = sps.solve_with_info(sps.SparseMatrix(scale * values, pattern), b)
        expected = oracle.solve(scale * values, pattern, b)
        torch.testing.assert_close(x, expected, **close(dtype))
        assert info.strategy == Strategy.TRIDIAGONAL
        assert info.status == 0
    assert len(tried) == 1
    with pytest.raises(sps.NotPositiveDefiniteError):
        sps.solve(sps.SparseMatrix(values, pattern), b, sps.Cholesky())


@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("what", ["laplacian", "nearly", "one component"])
def test_a_singular_one_is_refused(what, dtype):
    M = path(500)
    if what == "nearly":
        corner = np.finfo(float).eps * (np.arange(500) == 0)
        M = sp.csr_matrix(M + sp.diags([corner], [0]))
        assert M[0, 0] > 1
    if what == "one component":
        M = sp.csr_matrix(sp.block_diag([path(250) + sp.eye(250), path(250)]))
    values, pattern = made(M, dtype, phases=False)
    with pytest.raises(sps.SingularMatrixError):
        sps.solve(sps.SparseMatrix(values, pattern), torch.ones(500, dtype=dtype))


@each_dtype
def test_nan_and_infinity_are_named(dtype):
    for bad in (np.nan, np.inf):
        values, pattern = made(path(9) + sp.eye(9), dtype, phases=False)
        values[(pattern.rows() == 4) & (pattern.col == 4)] = bad
        with pytest.raises(sps.SolveError, match=f"{bad}"):
            sps.solve(sps.SparseMatrix(values, pattern), torch.ones(9, dtype=dtype))


@pytest.mark.parametrize("sizes", [(40,), (20, 20)], ids=["tridiagonal", "band"])
def test_infinity_says_nothing_of_other_values(sizes, monkeypatch):
    """A matrix with Inf fails, by Cholesky too; the next one on its pattern is guessed to be positive all the same."""
    values, pattern = made(poisson(*sizes), F64, phases=False)
    row, col, n = pattern.rows(), pattern.col, pattern.shape[0]
    between = ((row == 3) & (col == 4)) | ((row == 4) & (col == 3))
    with pytest.raises(sps.SolveError, match="inf"):
        sps.solve(sps.SparseMatrix(torch.where(between, torch.inf, values), pattern), torch.ones(n, dtype=F64))
    tried, true = [], lapack._lapack
    monkeypatch.setattr(lapack, "_lapack", lambda char, *names: tried.append(names[0]) or true(char, *names))
    sps.solve(sps.SparseMatrix(values, pattern), torch.ones(n, dtype=F64))
    assert tried[0] == ("pbtrf" if len(sizes) == 2 else "pttrf")


@pytest.mark.parametrize("solver", [sps.LU(), sps.Cholesky()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_tiny_pivots(solver, dtype):
    """One over the last is more than the dtype holds, which nobody is warned of."""
    tiny = 1e-28 if dtype is torch.float32 else 1e-160
    off = tiny * np.array([0.3, 0.2, 0.0])
    M = sp.csr_matrix(sp.diags([off, [tiny, tiny, tiny, 1e-45 if dtype is torch.float32 else 1e-310], off], [-1, 0, 1]))
    values, pattern = made(M, dtype)
    A, x = sps.SparseMatrix(values, pattern), torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=dtype)
    torch.testing.assert_close(sps.solve(A, A @ x, solver), x, rtol=1e-3, atol=0)


def test_a_lower_precision_says_nothing_of_a_higher_one():
    """The bending of a long beam is positive definite, but not when rounded to float32."""
    n = 900
    values, pattern = made(sp.diags([1.0, -4, 6, -4, 1], [-2, -1, 0, 1, 2], shape=(n, n)), F64)
    b = torch.ones(n, dtype=F64)
    sps.solve_with_info(sps.SparseMatrix(1.5 * values, pattern), b, sps.LU(factor_dtype=torch.float32))
    info = sps.solve_with_info(sps.SparseMatrix(2.5 * values, pattern), b).info
    assert info.strategy == Strategy.BANDED_CHOLESKY


@pytest.mark.parametrize("k", [(), (2,)], ids=str)
def test_a_complex_right_hand_side_of_a_size_that_overflows(k):
    values, pattern = made(sp.diags([-1.0, 10, -1], [-1, 0, 1], shape=(5, 5)), C128, phases=False)
    b = torch.full((5, *k), 1.7e308 + 1.7e308j, dtype=C128)
    with pytest.raises(sps.SolveError, match="larger than the largest number"):
        sps.solve(sps.SparseMatrix(values, pattern), b)


def test_the_memory_of_factors_is_counted():
    M = (path(50) + sp.eye(50)).tolil()
    M[3, 4] = M[4, 3] = 0
    found = decomposed(sp.csr_matrix(M.tocoo()))
    held = [f if f.base is None else f.base for f in found._factors]
    assert found.nbytes == sum(f.nbytes for f in held)


@each_dtype
@pytest.mark.parametrize("kind", ["positive", "one is indefinite", "one is unsymmetric"])
def test_batches(kind, dtype):
    """Many tridiagonal matrices are one, which `pttrf` takes if all are positive."""
    values, pattern = made(path(20) + sp.eye(20), dtype, phases=False)
    values = values * torch.arange(1, 8)[:, None]
    if kind == "one is indefinite":
        values[3] = torch.where(pattern.rows() == pattern.col, 0.6, 1).to(dtype)
    if kind == "one is unsymmetric":
        values[3, 1] = 0.25
    b = torch.randn(7, 20, 1, dtype=dtype)
    sps.clear_memo()
    for adjoint in (False, True):
        x, info = sps.solve_with_info(sps.SparseMatrix(values, pattern), b, adjoint=adjoint)
        expected = oracle.solve(values, pattern, b, adjoint=adjoint)
        torch.testing.assert_close(x, expected, **close(dtype))
        assert (info.strategy == Strategy.TRIDIAGONAL).all()
    assert sps.memo_info().factorizations == 7


def test_a_batch_is_no_place_for_guesses():
    """With `LU()` a matrix that may be positive is taken for one only by itself."""
    values, pattern = made(poisson(100, 3), F64, phases=False)
    alone = sps.solve_with_info(sps.SparseMatrix(values, pattern), torch.ones(300, dtype=F64)).info
    batch = torch.stack([values, torch.where(pattern.rows() < pattern.col, 0.5 * values, values)])
    x, info = sps.solve_with_info(sps.SparseMatrix(batch, pattern), torch.ones(300, dtype=F64))
    assert alone.strategy == Strategy.BANDED_CHOLESKY
    assert (info.strategy == Strategy.BANDED).all()
    torch.testing.assert_close(x, oracle.solve(batch, pattern, torch.ones(300, dtype=F64)))


# ---- what is found out about a pattern


@pytest.mark.parametrize("seed", range(60))
def test_the_order_of_entries(seed):
    """Whether rows rise, where duplicates are, and where the mirror image of each entry is, against what pairs of indices say."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 7))
    row, col = rng.integers(0, n, (2, int(rng.integers(0, 3 * n))))
    if seed % 3:
        row, col = np.concatenate([row, col]), np.concatenate([col, row])  # symmetric
    if seed % 2:
        row, col = np.unique(np.stack([row, col]), axis=1)  # sorted, without duplicates
    order = np.argsort(row, kind="stable")
    row, col = row[order], col[order]
    found = Structure(np.searchsorted(row, np.arange(n + 1)), col, (n, n))
    places = list(zip(row.tolist(), col.tolist(), strict=True))
    assert found.sorted == all(p < q for p, q in pairwise(places))
    assert (found.starts is None) == (len(set(places)) == len(places))
    own = list(zip(found.csc_indices.tolist(), found.columns.tolist(), strict=True))
    assert own == sorted(set(places), key=lambda p: p[::-1])
    assert [places[k] for k in found.order] == sorted(places, key=lambda p: p[::-1])
    if {p[::-1] for p in places} == set(places):
        assert [own[k] for k in found.mirror] == [p[::-1] for p in own]
    else:
        assert found.mirror is None


# ---- what a residual is compared with


def error_of(M: sp.csr_matrix) -> BackwardError:
    return BackwardError(Structure(M.indptr, M.indices, M.shape), M.data)


@pytest.mark.parametrize("far", [1.0, 1e6], ids=["alike", "apart"])
def test_the_probe_excites_every_row_by_its_size(far):
    """`|A| d` with d one over the columns' norms; where those are alike, one d for all, within the factor that they differ by."""
    rng = np.random.default_rng(1)
    M = sp.csr_matrix(poisson(6, 6) @ sp.diags(far ** rng.uniform(0, 1, 36)))
    error = error_of(M)
    columns, probe = error.scaled_sizes(error.sizes())
    np.testing.assert_allclose(columns, abs(M).sum(axis=0).A1)
    exact = abs(M) @ (1 / columns)
    if far > 1:
        np.testing.assert_allclose(probe, exact)
    else:
        assert (probe >= exact).all()
        assert (probe <= 4 * exact).all()
        assert not np.allclose(probe, exact)


@pytest.mark.parametrize("adjoint", [False, True])
def test_what_is_small_at_once_is_small_row_by_row(adjoint):
    """The least norm, or the least diagonal entry in its place, accepts nothing that each row's own norm would not."""
    M = sp.csr_matrix(sp.diags(10.0 ** np.arange(8)) @ (poisson(2, 4) + sp.eye(8)))
    norms = (abs(M.T) if adjoint else abs(M)).sum(axis=1).A1
    x, accepted = np.ones(8), 0
    for size in 10.0 ** np.arange(-16, -6, 0.25):
        for shape in (np.ones(8), norms, np.eye(8)[0], np.eye(8)[7]):
            known, told = error_of(M), error_of(M)
            known.norms(adjoint)
            told.at_least(M.diagonal().min(), rows=not adjoint)
            right = bool((size * shape <= known._tolerance * norms).all())
            assert known._small(size * shape, x, adjoint) == told._small(size * shape, x, adjoint) == right
            accepted += right and adjoint not in told._known
            for sizes in ([1.0, 1.0], [1.0, 1e-8], [1e-8, 1.0]):  # a residual as large in a column that is smaller
                r, X = np.outer(size * shape, [1.0, 1.0]), np.outer(x, sizes)
                small = bool((r <= known._tolerance * np.outer(norms, sizes)).all())
                assert known._small(r, X, adjoint) == told._small(r, X, adjoint) == small
    assert accepted > 20


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_the_largest_size(dtype):
    rng = np.random.default_rng(3)
    for _ in range(20):
        a = rng.standard_normal(9).astype(dtype) * (1j if dtype is np.complex128 else 1)
        assert largest_size(a) == np.abs(a).max()
        a[rng.integers(9)] = np.nan
        assert np.isnan(largest_size(a))
