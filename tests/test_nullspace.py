"""What an error says of a singular matrix: which unknowns can be anything, which rows repeat others; and that all of it is true."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla
import torch

import sparsolve as sps
from sparsolve.backends import nullspace
from sparsolve.backends.decomposition import DecompositionError
from sparsolve.backends.nullspace import dependence, listed
from systems import grid, path, poisson

RNG = np.random.default_rng(5)
ANYTHING = "usually a missing boundary condition"


def said(A, dtype=np.float64):
    return dependence(sp.csc_matrix(A).astype(dtype))


def dense(n=9):
    return np.eye(n) * 3 + RNG.standard_normal((n, n))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128], ids=lambda d: d.__name__)
@pytest.mark.parametrize("make", [lambda: path(50), lambda: path(5000), lambda: grid(40, 30)])
def test_a_constant_everywhere(make, dtype):
    clause, remedy = said(make(), dtype)
    assert clause.startswith("a constant can be added to x, as in a graph Laplacian")
    assert "Fix one unknown" in remedy


def test_a_constant_in_one_part():
    """Of several such parts, one; the numbers of others are not mixed in."""
    held = path(5) + sp.eye(5)
    shuffled = RNG.permutation(12)
    A = sp.block_diag([held, path(4), path(3) + sp.eye(3)]).tocsr()
    clause, remedy = said(A)
    assert clause.startswith("a constant can be added to x at 5, 6, 7, 8 alone")
    assert "Fix one of these" in remedy
    clause, _ = said(A[shuffled][:, shuffled])
    places = ", ".join(map(str, sorted(np.flatnonzero(np.isin(shuffled, range(5, 9))))))
    assert f"at {places} alone" in clause
    clause, _ = said(sp.block_diag([held, path(4), held, path(3)]))
    assert "at 5, 6, 7, 8 alone" in clause or "at 14, 15, 16 alone" in clause
    clause, _ = said(sp.block_diag([held, path(20)]))
    assert "at 5, 6, 7, 8, 9, 10, ... (20 in all) alone" in clause


def test_rows_and_columns_that_depend_on_each_other():
    rows, columns = dense(), dense()
    rows[7] = rows[2] - 3 * rows[3]
    columns[:, 1] = 1e5 * columns[:, 8]
    assert said(rows)[0].startswith("rows 2, 3, 7 depend on each other")
    assert "one of these rows" in said(rows)[1]
    assert said(columns)[0].startswith("columns 1, 8 depend on each other")
    assert said(rows.T)[0].startswith("columns 2, 3, 7")


@pytest.mark.parametrize("power", [3, 9])
def test_units_do_not_matter(power):
    """Rows and columns multiplied by powers of ten from 10^-power to 10^power."""
    A = dense()
    A[7] = A[2] - 3 * A[3]
    r, c = (10.0 ** RNG.uniform(-power, power, 9) for _ in range(2))
    assert said(r[:, None] * A * c)[0].startswith("rows 2, 3, 7 depend on each other")


def test_the_unknown_that_is_largest():
    U, s, V = np.linalg.svd(dense(12))
    s[-1] = 0
    A = (U * s) @ V
    clause, _ = said(A)
    B = A / abs(A).max(axis=1)[:, None]
    null = np.linalg.svd(B / abs(B).max(axis=0))[2][-1]
    assert clause.startswith(f"A x = 0 for an x that is largest at unknown {abs(null).argmax()}; {ANYTHING}")


def test_nothing_is_made_up():
    """Of nonsingular matrices, and where no vector is found."""
    assert said(dense())[0].startswith(ANYTHING)
    assert said(poisson(20, 20) + sp.diags([0.3], [1], shape=(400, 400)))[0].startswith(ANYTHING)
    both = dense()
    both[2], both[:, 4] = -2 * both[6], both[:, 0]  # so that the two vectors have no place in common
    assert not said(both)[0].startswith("a constant")


def test_a_large_matrix_is_left_alone(monkeypatch):
    monkeypatch.setattr(nullspace, "splu", None)
    monkeypatch.setattr(nullspace, "_MOST", 100)
    assert said(path(50))[0].startswith(ANYTHING)


def test_no_pivot_even_so(monkeypatch):
    def refuse(A):
        raise DecompositionError("LU met an exactly zero pivot.")

    monkeypatch.setattr(nullspace, "splu", refuse)
    assert said(path(50))[0].startswith(ANYTHING)


def test_places_in_a_sentence():
    assert listed(np.array([3])) == "3"
    assert listed(np.arange(6)) == "0, 1, 2, 3, 4, 5"
    assert listed(np.arange(7)) == "0, 1, 2, 3, 4, 5, ... (7 in all)"


def test_a_solve_says_so_and_a_good_matrix_never_pays(monkeypatch):
    b = torch.ones(12, dtype=torch.float64)
    A = sps.SparseMatrix.from_scipy(sp.block_diag([path(5) + sp.eye(5), path(7)]).tocsr().astype(float))
    with pytest.raises(sps.SingularMatrixError, match=r"linearly dependent.*a constant can be added to x at 5, 6, 7"):
        sps.solve(A, b)
    monkeypatch.setattr(nullspace, "splu", None)
    fixed = sps.SparseMatrix(A.values + 0.1 * (A.pattern.rows() == A.pattern.col), A.pattern)
    expected = sla.spsolve(fixed.to_scipy().tocsc(), b.numpy())
    torch.testing.assert_close(sps.solve(fixed, b), torch.from_numpy(expected))
