"""The structural rank, against SciPy's and against what is known; and that it is found in few sweeps."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.csgraph import structural_rank as by_scipy

from sparsolve.backends import matching
from sparsolve.backends.matching import shortage, structural_rank
from systems import poisson

RNG = np.random.default_rng(0)


def random(n, per_row, dtype):
    A = sp.csc_matrix((RNG.random((n, n)) < per_row / n) * RNG.random((n, n)))
    return A.astype(dtype) * (1j if dtype == np.complex64 else 1)


@pytest.mark.parametrize("dtype", [np.float64, np.complex64], ids=lambda d: d.__name__)
@pytest.mark.parametrize("per_row", [0.5, 1.5, 2.5, 4.0])
def test_agrees_with_scipy(per_row, dtype):
    found = []
    for _ in range(150):
        n = int(RNG.integers(1, 40))
        A = random(n, per_row, dtype)
        found.append((structural_rank(A), int(by_scipy(A.tocsr()))))
    assert all(ours == theirs for ours, theirs in found), found


@pytest.mark.parametrize(("m", "n"), [(0, 1), (0, 7), (3, 7), (7, 7)])
def test_small_and_empty(m, n):
    """An m x m block of ones in an n x n matrix."""
    A = np.zeros((n, n))
    A[:m, :m] = 1
    assert structural_rank(sp.csc_matrix(A)) == m


def sweeps(monkeypatch):
    count, forest = [], matching._forest
    monkeypatch.setattr(matching, "_forest", lambda *args: count.append(1) or forest(*args))
    return count


@pytest.mark.parametrize("scaled", ["rows", "columns"])
def test_a_permuted_dominant_diagonal_is_seen_at_once(scaled, monkeypatch):
    count, n = sweeps(monkeypatch), 1600
    A, D = sp.csc_matrix(poisson(40, 40))[RNG.permutation(n)], sp.diags_array(10.0 ** RNG.uniform(-9, 9, n))
    assert structural_rank(sp.csc_matrix(D @ A if scaled == "rows" else A @ D)) == n
    assert not count


@pytest.mark.parametrize("missing", [0, 1, 5])
def test_a_permuted_saddle_point_takes_few_sweeps(missing, monkeypatch):
    """Of equal numbers, so that where to begin is a guess."""
    count, m = sweeps(monkeypatch), 40
    B = sp.random_array((m * m // 4, m * m), density=0.003, random_state=np.random.default_rng(1)) + sp.eye_array(
        m * m // 4, m * m
    )
    B = sp.csr_matrix(B)
    n = m * m + B.shape[0]
    A = sp.csc_matrix(sp.block_array([[poisson(m, m), B.T], [B, None]]))
    A.data[:] = 1  # values are no help
    A = sp.csc_matrix(A[RNG.permutation(n)][:, RNG.permutation(n)])
    A.data[np.isin(np.repeat(np.arange(n), np.diff(A.indptr)), np.arange(missing))] = 0
    A.eliminate_zeros()
    assert structural_rank(A) == n - missing
    assert len(count) < 12


@pytest.mark.parametrize("per_row", [0.5, 1.0, 1.5, 2.5])
def test_a_shortage_is_one(per_row):
    """The columns named have nonzeros in the rows named only, and these are one fewer; each is in one of the columns."""
    short = 0
    for _ in range(100):
        A = random(int(RNG.integers(1, 40)), per_row, np.float64)
        rank, columns, rows = shortage(A)
        assert rank == structural_rank(A)
        assert (len(columns) == 0) == (rank == A.shape[0])
        if len(columns):
            short += 1
            assert len(rows) == len(columns) - 1
            assert (np.diff(columns) > 0).all()
            assert set(A[:, columns].nonzero()[0]) == set(rows)
    assert short > 20
