"""The direct solvers: which strategy a matrix gets, that each solves, and that a bad one is not believed."""

from __future__ import annotations

import math
import threading
import tracemalloc
import warnings
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla
import torch

import oracle
import sparsolve as sps
from sparsolve import Strategy, threads
from sparsolve.backends import available, cholmod, direct, klu, lapack, metis, ordering, pardiso, strategy, superlu
from sparsolve.backends.decomposition import DecompositionError
from systems import DTYPES, SINGULAR, SYSTEMS, made, path, poisson

F32, F64, C64, C128 = torch.float32, torch.float64, torch.complex64, torch.complex128
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def lower(n: int = 9) -> sp.csr_matrix:
    return sp.csr_matrix(np.tril(np.random.default_rng(0).uniform(0.5, 1, (n, n))) + 2 * np.eye(n))


def shuffled(M, seed: int = 0) -> sp.csr_matrix:
    """Rows and columns in two random orders."""
    rng = np.random.default_rng(seed)
    return M.tocsr()[rng.permutation(M.shape[0])][:, rng.permutation(M.shape[0])]


def same_shuffle(M, seed: int = 0) -> sp.csr_matrix:
    order = np.random.default_rng(seed).permutation(M.shape[0])
    return M.tocsr()[order][:, order]


def turned(M) -> sp.csr_matrix:
    """`D M Dᴴ` with quarter turns in D: Hermitian, exactly."""
    D = sp.diags([np.array([1, 1j, -1, -1j])[np.arange(M.shape[0]) % 4]], [0])
    return sp.csr_matrix(D @ M @ D.conj())


def chain(n: int = 40) -> sp.csr_matrix:
    """A cycle-free graph that needs `n` eliminations one after another: bidiagonal."""
    return sp.diags([np.arange(1.0, n + 1), np.ones(n - 1)], [0, 1]).tocsr()


def ring(n: int = 30) -> sp.csr_matrix:
    """One cycle through all unknowns, and a strong diagonal."""
    M = sp.diags([3.0 * np.ones(n), np.ones(n - 1)], [0, -1]).tolil()
    M[0, n - 1] = 1
    return M.tocsr()


def arrow(n: int = 300) -> sp.csr_matrix:
    M = sp.diags([4.0 * np.ones(n)], [0]).tolil()
    M[0, 1:], M[1:, 0] = 0.1, 0.1
    return M.tocsr()


def saddle(n: int = 300) -> sp.csr_matrix:
    """A third of the diagonal is zero, and the band is as wide as the matrix."""
    B = sp.random(n // 2, n, 0.05, random_state=np.random.default_rng(1)) + sp.eye(n // 2, n)
    return same_shuffle(sp.bmat([[sp.eye(n) * 3, B.T], [B, None]]))


def random_pattern(n: int) -> sp.csr_matrix:
    return sp.csr_matrix(sp.random(n, n, 0.1, random_state=np.random.default_rng(2)) + 3 * sp.eye(n))


CASES = {
    "diagonal": (lambda: sp.diags([[1.0, -2.0, 4.0]], [0]), Strategy.DIAGONAL),
    "1 x 1": (lambda: sp.csr_matrix([[2.0]]), Strategy.DIAGONAL),
    "lower": (lower, Strategy.TRIANGULAR),
    "upper": (lambda: lower().T.tocsr(), Strategy.TRIANGULAR),
    "lower, shuffled": (lambda: shuffled(lower()), Strategy.TRIANGULAR),
    "upper, shuffled symmetrically": (lambda: same_shuffle(lower().T), Strategy.TRIANGULAR),
    "chain": (lambda: shuffled(chain()), Strategy.TRIANGULAR),
    "long chain": (lambda: chain(400), Strategy.TRIANGULAR),
    "long chain, shuffled": (lambda: shuffled(chain(400)), Strategy.SUPERLU),
    "scaled permutation": (lambda: shuffled(sp.diags([np.arange(1.0, 8)], [0])), Strategy.TRIANGULAR),
    "2 x 2": (lambda: sp.csr_matrix([[2.0, 1.0], [1.0, 3.0]]), Strategy.DENSE),
    "Poisson 1-D": (lambda: poisson(200), Strategy.TRIDIAGONAL),
    "Poisson 2-D": (lambda: poisson(12, 12), Strategy.BANDED),
    "Poisson 1-D, long": (lambda: poisson(400), Strategy.TRIDIAGONAL),
    "Poisson 2-D, larger": (lambda: poisson(20, 20), Strategy.BANDED_CHOLESKY),
    "Poisson 1-D, long, negative": (lambda: -poisson(400), Strategy.TRIDIAGONAL),
    "full, positive": (lambda: sp.csr_matrix(np.full((160, 160), 0.5) + 9 * np.eye(160)), Strategy.DENSE_CHOLESKY),
    "full, negative": (lambda: sp.csr_matrix(np.full((160, 160), 0.5) - 9 * np.eye(160)), Strategy.DENSE),
    "dense": (lambda: sp.csr_matrix(np.random.default_rng(0).standard_normal((20, 20))), Strategy.DENSE),
    "random, n = 60": (lambda: random_pattern(60), Strategy.DENSE),
    "Poisson 2-D, shuffled": (lambda: same_shuffle(poisson(16, 16)), Strategy.SUPERLU_SYMMETRIC),
    "arrow": (arrow, Strategy.SUPERLU_SYMMETRIC),
    "ring, far": (lambda: same_shuffle(ring(400)), Strategy.SUPERLU_SYMMETRIC),
    "saddle point": (saddle, Strategy.SUPERLU),
}


def residual(values, pattern, b, x, adjoint) -> float:
    A = oracle.dense(values, pattern)
    A = A.mH if adjoint else A
    return float(((A @ x - b).abs().max() / (A.abs().sum(1).max() * x.abs().max())).item())


@each_dtype
@pytest.mark.parametrize("name", CASES)
def test_the_strategy_and_its_solutions(name, dtype):
    make, expected = CASES[name]
    definite = expected.name.endswith("CHOLESKY")
    M = turned(make()) if definite and dtype.is_complex else make()
    values, pattern = made(M, dtype, phases=not definite)
    A, n = sps.SparseMatrix(values, pattern), pattern.shape[0]
    first, why = sps.explain(A).choices[0]
    assert first == expected
    assert why in str(sps.explain(A))
    assert sps.explain(A).choices[-1][0] == Strategy.SUPERLU
    for adjoint in (True, False):
        sps.clear_memo()
        for k in ((), (1,), (3,), (40,)):
            b = torch.randn(n, *k, dtype=dtype)
            x, info = sps.solve_with_info(A, b, adjoint=adjoint)
            assert (info.strategy == expected).all()
            assert (info.status == 0).all()
            assert residual(values, pattern, b, x, adjoint) < 20 * torch.finfo(dtype).eps
    assert sps.memo_info().factorizations == 1


@each_dtype
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("backend", ["superlu", "lapack"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_pinned_backend(name, backend, adjoint, dtype):
    values, pattern = SYSTEMS[name](dtype)
    A, b = sps.SparseMatrix(values, pattern), torch.randn(pattern.shape[0], 2, dtype=dtype)
    solver = sps.LU(backend=backend)
    x, info = sps.solve_with_info(A, b, solver, adjoint=adjoint)
    names = {Strategy(int(s)).name for s in info.strategy}
    assert names <= {c.strategy.name for c in {"superlu": superlu, "lapack": lapack}[backend].CANDIDATES}
    eps = torch.finfo(dtype).eps
    A_dense = oracle.dense(values, pattern)
    torch.testing.assert_close(
        x,
        oracle.solve(values, pattern, b, adjoint=adjoint),
        rtol=0,
        atol=float(20 * eps * torch.linalg.cond(A_dense) * x.abs().max()),
    )


@pytest.mark.parametrize("wide", [0, 1 << 22])
def test_nan_in_a_late_column_is_named_by_its_place(wide, monkeypatch):
    monkeypatch.setattr(direct, "_WIDE", wide)
    values, pattern = SYSTEMS["Poisson 2-D"](F64)
    b = torch.ones(20, 40, dtype=F64)
    b[7, 35] = torch.nan
    with pytest.raises(sps.SolveError, match=r"b\[7, 35\] is nan"):
        sps.solve(sps.SparseMatrix(values, pattern), b)
    x, info = sps.solve_with_info(sps.SparseMatrix(values, pattern), b)
    assert (info.status != 0).nonzero().tolist() == [[35]]
    assert x.isfinite().sum() == 20 * 39


@pytest.mark.parametrize("solver", [sps.LU(), sps.Cholesky()], ids=lambda s: type(s).__name__)
@each_dtype
def test_a_pattern_whose_factors_were_full_is_solved_as_a_dense_one(solver, dtype, only):
    """SuperLU finds out what fills in; LAPACK has the values that follow, and a fallback where they are singular."""
    only()
    M, share = sp.random(500, 500, 0.03, random_state=np.random.default_rng(3)), 1 + isinstance(solver, sps.LU)
    values, pattern = made(share * M + M.T + 40 * sp.eye(500), dtype, phases=False)
    A, b = sps.SparseMatrix(values, pattern), torch.randn(500, 2, dtype=dtype)
    dense = Strategy.DENSE_CHOLESKY if isinstance(solver, sps.Cholesky) else Strategy.DENSE
    first, second = sps.solve_with_info(A, b, solver), sps.solve_with_info(2 * A, b, solver)
    assert (first.info.strategy != dense).all()
    assert (second.info.strategy == dense).all()
    torch.testing.assert_close(2 * second.x, first.x)
    assert sps.explain(3 * A, solver).choices[0] == (dense, "its factors are nearly full")
    pinned = type(solver)(backend="superlu")
    assert dense not in dict(sps.explain(3 * A, pinned).choices)

    row, col = pattern.rows(), pattern.col
    if isinstance(solver, sps.Cholesky):
        indefinite = torch.where(row == col, values, 20 * values)
        with pytest.raises(sps.NotPositiveDefiniteError):
            sps.solve(sps.SparseMatrix(indefinite, pattern), b, solver)
    else:
        with pytest.raises(sps.SingularMatrixError):
            sps.solve(sps.SparseMatrix(torch.where(row == 7, 0, values), pattern), b, solver)


def test_wide_right_hand_sides_take_the_memory_of_some_columns():
    """What the solve itself makes beyond x and its copy; all of it at once was five times b."""
    values, pattern = made(poisson(10_000), F64)
    A, b = sps.SparseMatrix(values, pattern), torch.randn(10_000, 96, dtype=F64)
    x = sps.solve(A, b)
    tracemalloc.start()
    for adjoint in (False, True):
        sps.solve(A, b, adjoint=adjoint)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3.2 * b.numel() * 8
    assert torch.equal(x[:, 80:], sps.solve(A, b[:, 80:]))


def test_an_unknown_backend():
    """Where the record is made, which knows the names of all modules without importing one."""
    for record in (sps.LU, sps.Cholesky):
        with pytest.raises(ValueError, match=r"no direct backend 'umfpack'; there are .*superlu"):
            record(backend="umfpack")
    for name in (*strategy.BACKENDS, "cudss"):
        assert sps.LU(backend=name).backend == name


# ---- a strategy that fails, or cannot be believed, is followed by the next


class Wrong:
    """A decomposition that is off by a factor."""

    nbytes = 0

    def __init__(self, matrix, factor):
        self.right, self.factor = superlu._pivoted(matrix), factor

    def solve(self, b, trans="N"):
        return self.factor * self.right.solve(b, trans)


def refuses(matrix):
    raise DecompositionError("This one cannot.")


@pytest.fixture
def first(monkeypatch):
    """Put a strategy before all others."""

    def put(decompose):
        candidate = strategy.Candidate(Strategy.OTHER, lambda m: "it is first", decompose)
        true = strategy.candidates

        def with_first(matrix, backend, *, definite):
            yield candidate, "it is first"
            yield from true(matrix, backend, definite=definite)

        monkeypatch.setattr("sparsolve.backends.direct.candidates", with_first)

    return put


@pytest.mark.parametrize(
    ("decompose", "expected"),
    [
        (lambda m: Wrong(m, 1.0), Strategy.OTHER),
        (lambda m: Wrong(m, 1.0001), Strategy.OTHER),  # refinement mends it
        (lambda m: Wrong(m, -3.0), Strategy.BANDED),
        (lambda m: Wrong(m, 0.0), Strategy.BANDED),
        (lambda m: Wrong(m, np.nan), Strategy.BANDED),
        (lambda m: Wrong(m, 1e20), Strategy.BANDED),
        (refuses, Strategy.BANDED),
    ],
    ids=["right", "nearly", "wrong", "zero", "NaN", "huge", "refuses"],
)
@pytest.mark.parametrize("k", [(), (2,), (33,)], ids=str)
@pytest.mark.parametrize("adjoint", [False, True])
def test_what_cannot_be_believed_is_not_used(decompose, expected, k, adjoint, first):
    first(decompose)
    values, pattern = SYSTEMS["convection-diffusion"](C128)
    b = torch.randn(25, *k, dtype=C128)
    A = sps.SparseMatrix(values, pattern)
    for _ in range(2):
        x, info = sps.solve_with_info(A, b, adjoint=adjoint)
        torch.testing.assert_close(x, oracle.solve(values, pattern, b, adjoint=adjoint))
        assert (info.strategy == expected).all()
    assert sps.memo_info().factorizations == 1


@pytest.mark.parametrize("name", SINGULAR)
def test_singular_whatever_the_strategy(name):
    values, pattern = SINGULAR[name][0](F64)
    A, b = sps.SparseMatrix(values, pattern), torch.ones(pattern.shape[0], dtype=F64)
    for adjoint in (False, True):
        x, info = sps.solve_with_info(A, b, adjoint=adjoint)
        assert info.status == sps.Status.SINGULAR
        assert info.strategy == Strategy.OTHER
        assert x.isnan().all()


@pytest.mark.parametrize("backend", [None, "lapack", "superlu"])
@each_dtype
def test_rows_that_depend_are_found_out_wherever_they_are(dtype, backend):
    """An equation said twice, or as the sum of two others without a common unknown: no place of theirs hides from the probe."""
    rng, n, solver = np.random.default_rng(7), 24, sps.LU(backend=backend)
    D = rng.standard_normal((n, n)) * (rng.random((n, n)) < 0.5)
    for j in range(1, n):
        twice, summed = D.copy(), D.copy()
        twice[j] = -2 * D[0]
        first, second, third = 0, j, (j + 1) % n or 1
        summed[first, ::2], summed[second, 1::2] = 0, 0
        summed[third] = summed[first] + summed[second]
        for M in (twice, summed):
            values, pattern = made(sp.csr_matrix(M), dtype, phases=False)
            info = sps.solve_with_info(sps.SparseMatrix(values, pattern), torch.ones(n, dtype=dtype), solver).info
            assert info.status == sps.Status.SINGULAR


@pytest.mark.parametrize(
    "M",
    [
        sp.diags([[1.0, 0.0, 2.0]], [0]),
        sp.csr_matrix(np.tril(np.ones((5, 5)), -1) + np.diag([1.0, 2, 0, 3, 4])),
        path(50),
        sp.csr_matrix(np.ones((6, 6))),
    ],
    ids=["diagonal", "triangular", "tridiagonal", "dense"],
)
def test_a_zero_pivot_of_any_strategy(M):
    values, pattern = made(M, F64)
    with pytest.raises(sps.SingularMatrixError):
        sps.solve(sps.SparseMatrix(values, pattern), torch.ones(M.shape[0], dtype=F64))


# ---- Cholesky


DEFINITE = {
    "1 x 1": lambda: sp.csr_matrix([[2.0]]),
    "2 x 2": lambda: sp.csr_matrix([[2.0, 1.0], [1.0, 3.0]]),
    "diagonal": lambda: sp.diags([[1.0, 2.0, 4.0]], [0]),
    "tridiagonal": lambda: poisson(40),
    "banded": lambda: poisson(7, 9),
    "small": lambda: same_shuffle(poisson(8, 8)),
    "shuffled": lambda: same_shuffle(poisson(16, 16)),
    "arrow": arrow,
}


def gauged(M, dtype):
    """`G M Gᴴ` with unit phases for a complex dtype: Hermitian and definite as M, exactly."""
    values, pattern = made(M, dtype, phases=False)
    if dtype.is_complex:
        phase = torch.exp(1j * torch.linspace(0, 5, pattern.shape[0], dtype=F64))
        row, col = pattern.rows().long(), pattern.col.long()
        v = values.to(C128) * phase[row] * phase[col].conj()
        values = torch.where(row < col, v, torch.where(row == col, v.real + 0j, v)).to(dtype)
        mirrored = oracle.dense(values, pattern).tril(-1)
        full = mirrored + mirrored.mH + torch.diag(oracle.dense(values, pattern).diagonal())
        values = full[row, col]
    return values, pattern


@each_dtype
@pytest.mark.parametrize("name", DEFINITE)
def test_cholesky(name, dtype):
    values, pattern = gauged(DEFINITE[name](), dtype)
    A, n = sps.SparseMatrix(values, pattern), pattern.shape[0]
    for k in ((), (2,), (20,)):
        b = torch.randn(n, *k, dtype=dtype)
        for adjoint in (False, True):
            x, info = sps.solve_with_info(A, b, sps.Cholesky(), adjoint=adjoint)
            assert (info.status == 0).all()
            assert all(Strategy(int(s)).name.endswith("CHOLESKY") for s in info.strategy.reshape(-1))
            assert (info.strategy == Strategy.DENSE_CHOLESKY).all() == (name in ("small", "2 x 2", "1 x 1"))
            assert residual(values, pattern, b, x, adjoint) < 20 * torch.finfo(dtype).eps
    assert sps.memo_info().factorizations == 1


@each_dtype
@pytest.mark.parametrize("backend", ["superlu", "lapack"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda D: D - 2 * torch.diag(torch.eye(len(D), dtype=D.dtype)[3]) * D[3, 3],
        lambda D: -D,
        lambda D: D - 0.4 * torch.eye(len(D), dtype=D.dtype),
        lambda D: D * (1 - torch.eye(len(D), dtype=D.dtype)),
    ],
    ids=["one negative entry", "negative definite", "smallest eigenvalue below zero", "zero diagonal"],
)
def test_cholesky_refuses_indefinite_matrices(spoil, backend, dtype):
    values, pattern = gauged(poisson(6, 7), dtype)
    v = spoil(oracle.dense(values, pattern))[pattern.rows().long(), pattern.col.long()]
    with pytest.raises(sps.NotPositiveDefiniteError, match="Use LU"):
        sps.solve(sps.SparseMatrix(v, pattern), torch.ones(42, dtype=dtype), sps.Cholesky(backend=backend))
    info = sps.solve_with_info(sps.SparseMatrix(v, pattern), torch.ones(42, dtype=dtype), sps.Cholesky()).info
    assert info.status == sps.Status.NOT_POSITIVE_DEFINITE


def test_cholesky_refuses_unsymmetric_and_complex_symmetric_matrices():
    for make in (SYSTEMS["convection-diffusion"], SYSTEMS["Helmholtz"]):
        values, pattern = make(C128)
        with pytest.raises(sps.NotPositiveDefiniteError, match="not Hermitian"):
            sps.solve(sps.SparseMatrix(values, pattern), torch.ones(25, dtype=C128), sps.Cholesky())


@each_dtype
@pytest.mark.parametrize("backend", [None, "superlu", "lapack"])
@pytest.mark.parametrize("n", [6, 400])
def test_cholesky_of_a_matrix_with_stored_zeros_on_one_side(n, backend, dtype):
    """Zeros do not change what the matrix is; one of them made nonzero does."""
    values, pattern = gauged(poisson(n), dtype)
    row, col = torch.cat([pattern.rows(), torch.zeros(2)]).long(), torch.cat([pattern.col, torch.tensor([4, 5])])
    pattern, order = sps.Pattern.from_coo(row, col, (n, n))
    values = torch.cat([values, torch.zeros(2, dtype=dtype)])[order]
    A, b = sps.SparseMatrix(values, pattern), torch.randn(n, 2, dtype=dtype)
    for adjoint in (False, True):
        x = sps.solve(A, b, sps.Cholesky(backend=backend), adjoint=adjoint)
        assert residual(values, pattern, b, x, adjoint) < 20 * torch.finfo(dtype).eps
    values[(values == 0).nonzero()[0]] = 1e-3
    with pytest.raises(sps.NotPositiveDefiniteError, match="not Hermitian"):
        sps.solve(A, b, sps.Cholesky(backend=backend))


def test_cholesky_refuses_a_singular_matrix_and_names_nan():
    for M in (path(30), path(2)):
        values, pattern = made(M, F64)
        with pytest.raises(sps.NotPositiveDefiniteError):
            sps.solve(sps.SparseMatrix(values, pattern), torch.ones(M.shape[0], dtype=F64), sps.Cholesky())
    values[0] = torch.nan
    with pytest.raises(sps.SolveError, match="nan"):
        sps.solve(sps.SparseMatrix(values, pattern), torch.ones(2, dtype=F64), sps.Cholesky())


def test_gradient_of_cholesky():
    """The values are independent numbers to the derivative, as they are to `LU`; a symmetric parametrization adds up."""
    values, pattern = gauged(poisson(4, 4), C128)
    b = torch.randn(16, dtype=C128)
    assert torch.autograd.gradcheck(
        lambda d, b: sps.solve(sps.SparseMatrix(values * d, pattern), b, sps.Cholesky()),
        (torch.tensor(1.3, dtype=F64, requires_grad=True), b.requires_grad_()),
    )


# ---- factors in float32


@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("name", [n for n in SYSTEMS if n not in ("badly scaled", "circuit")])
def test_float32_factors_and_full_accuracy(name, dtype):
    values, pattern = SYSTEMS[name](dtype)
    A, solver = sps.SparseMatrix(values, pattern), sps.LU(factor_dtype=F32)
    for k in ((), (20,)):
        b = torch.randn(pattern.shape[0], *k, dtype=dtype)
        for adjoint in (False, True):
            x = sps.solve(A, b, solver, adjoint=adjoint)
            assert residual(values, pattern, b, x, adjoint) < 1e-14
            torch.testing.assert_close(x, oracle.solve(values, pattern, b, adjoint=adjoint), rtol=1e-9, atol=1e-9)


def test_float32_factors_are_float32(monkeypatch):
    seen = []
    true = sla.splu
    monkeypatch.setattr(sla, "splu", lambda A, **o: seen.append(A.dtype) or true(A, **o))
    for dtype in DTYPES:
        values, pattern = SYSTEMS["Poisson 2-D"](dtype)
        sps.solve(
            sps.SparseMatrix(values, pattern), torch.ones(20, dtype=dtype), sps.LU(backend="superlu", factor_dtype=F32)
        )
    assert [d.char for d in seen] == ["f", "f", "F", "F"]


def test_float32_factors_of_an_ill_conditioned_matrix():
    values, pattern = made(path(1000) + 1e-7 * sp.eye(1000), F64)
    b = torch.randn(1000, dtype=F64)
    sps.solve(sps.SparseMatrix(values, pattern), b)
    with pytest.raises(sps.ConvergenceError, match=r"float32.*Use LU\(\) without factor_dtype"):
        sps.solve(sps.SparseMatrix(values, pattern), b, sps.LU(factor_dtype=F32))
    with pytest.raises(sps.ConvergenceError, match="float32"):
        sps.solve(sps.SparseMatrix(values * 1e60, pattern), b, sps.LU(factor_dtype=F32))


@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("name", ["Poisson 2-D", "convection-diffusion", "triangular", "tridiagonal"])
def test_float32_factors_at_every_scale(name, dtype):
    """The size of A, or of b, says nothing: factors of A over a power of two serve."""
    values, pattern = SYSTEMS[name](dtype) if name in SYSTEMS else made(path(20) + sp.eye(20), dtype)
    b, solver = torch.randn(pattern.shape[0], 2, dtype=dtype), sps.LU(factor_dtype=F32)
    expected = oracle.solve(values, pattern, b), oracle.solve(values, pattern, b, adjoint=True)
    for a in (1e200, 1e-200, 1e40, 1e-40):
        for scale in (a, 1.0, a * 1e90, a * 1e-90):
            A = sps.SparseMatrix(values * a, pattern)
            for adjoint in (False, True):
                x = sps.solve(A, b * scale, solver, adjoint=adjoint)
                torch.testing.assert_close(x * (a / scale), expected[adjoint], rtol=1e-9, atol=1e-9)


def test_float32_factors_of_rows_too_different():
    values, pattern = made(sp.csr_array(np.array([[4e100, 1e100, 0], [1, 3, 1], [0, 1, 5]])), F64)
    with pytest.raises(sps.ConvergenceError, match=r"5 of 7 entries are so much smaller than the largest, 4.0e\+100"):
        sps.solve(sps.SparseMatrix(values, pattern), torch.ones(3, dtype=F64), sps.LU(factor_dtype=F32))


@pytest.mark.parametrize("wrong", [torch.float16, torch.float64, "float32", torch.int32])
def test_factor_dtype_is_checked(wrong):
    with pytest.raises(ValueError, match="factor_dtype"):
        sps.LU(factor_dtype=wrong)


@pytest.mark.parametrize("solver", [sps.LU(factor_dtype=F32), sps.LU(backend="superlu")], ids=str)
def test_records_with_fields_compile(solver):
    values, pattern = SYSTEMS["convection-diffusion"](F64)
    b = torch.randn(25, dtype=F64)

    def f(v, b):
        return torch.func.grad(lambda v: sps.solve(sps.SparseMatrix(v, pattern), b, solver).sum())(v)

    torch.testing.assert_close(torch.compile(f, fullgraph=True, backend="aot_eager")(values, b), f(values, b))


# ---- explain


def test_explain_refuses_what_it_cannot_explain():
    A = sps.SparseMatrix.from_torch(torch.eye(2).to_sparse())
    with pytest.raises(TypeError, match="solver is a CG"):
        sps.explain(A, sps.CG())
    with pytest.raises(ValueError, match="a batch of matrices, and one is explained"):
        sps.explain(sps.SparseMatrix(torch.ones(3, 2), A.pattern))
    with pytest.raises(TypeError, match="A is an Operator, which has no entries"):
        sps.explain(sps.Operator(lambda p, x: p * x, torch.ones(2)))


def test_explain_factorizes_nothing():
    values, pattern = SYSTEMS["Poisson 2-D"](F64)
    sps.explain(sps.SparseMatrix(values.requires_grad_(), pattern))
    assert sps.memo_info().factorizations == 0


# ---- threads


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_a_batch_of_matrices_is_factorized_on_threads(two_threads, monkeypatch):
    """The same numbers as one by one; each matrix is factorized once; the first error by index is raised."""
    seen = set()
    true = sla.splu
    barrier = threading.Barrier(2, timeout=30)  # two at once, or the wait ends with an error

    def splu(A, **options):
        if options["permc_spec"] == "NATURAL" and len(seen) < 2:  # the first one finds the ordering, alone
            seen.add(threading.get_ident())
            barrier.wait()
        return true(A, **options)

    values, pattern = made(same_shuffle(poisson(64, 64)), F64)
    batch = values * torch.arange(1.0, 9, dtype=F64)[:, None]
    b = torch.randn(4096, dtype=F64)
    solve = partial(sps.solve, solver=sps.LU(backend="superlu"))
    expected = [solve(sps.SparseMatrix(v, pattern), b) for v in batch]
    sps.clear_memo()
    monkeypatch.setattr(sla, "splu", splu)
    batch.requires_grad_()
    x = torch.vmap(lambda v: solve(sps.SparseMatrix(v, pattern), b))(batch)
    assert len(seen) == 2
    assert torch.equal(x.detach(), torch.stack(expected))
    x.sum().backward()
    assert sps.memo_info().factorizations == 8
    monkeypatch.undo()
    wrong = batch.detach().clone()
    wrong[3] = 0
    wrong[6, 5] = torch.nan
    with pytest.raises(sps.SingularMatrixError, match="batch index 3"):
        solve(sps.SparseMatrix(wrong, pattern), torch.ones(8, 4096, 1, dtype=F64))


@pytest.mark.parametrize(
    ("sizes", "backend", "worthwhile"),
    [((64, 64), "superlu", True), ((12, 12), "superlu", False), ((64, 64), "lapack", False), ((4096,), None, False)],
)
def test_threads_are_for_large_factors_whose_library_lets_go_of_the_interpreter(
    two_threads, monkeypatch, sizes, backend, worthwhile
):
    """Two threads took twice the time of one for small matrices, and for all in a band."""
    values, pattern = made(poisson(*sizes), F64)
    seen, true = [], threads.each

    def counts(call, count, *, worthwhile):
        seen.append(worthwhile)
        return true(call, count, worthwhile=worthwhile)

    monkeypatch.setattr(threads, "each", counts)
    batch = values * torch.arange(1.0, 4, dtype=F64)[:, None]
    sps.solve(sps.SparseMatrix(batch, pattern), torch.ones(pattern.shape[0], dtype=F64), sps.LU(backend=backend))
    assert any(seen) == worthwhile
    seen.clear()
    sharp = sps.LU(backend=backend, factor_dtype=torch.float32)
    sps.solve(sps.SparseMatrix(batch, pattern), torch.ones(pattern.shape[0], dtype=F64), sharp)
    assert any(seen) == worthwhile


def test_blocks_of_columns_on_threads(two_threads, monkeypatch):
    values, pattern = made(same_shuffle(poisson(64, 64)), F64)
    A, B = sps.SparseMatrix(values, pattern), torch.randn(4096, 100, dtype=F64)
    seen = set()
    true = direct.each

    def counts(call, count, *, worthwhile):
        seen.add((count, worthwhile))
        return true(call, count, worthwhile=worthwhile)

    monkeypatch.setattr(direct, "each", counts)
    superlu_only = sps.LU(backend="superlu")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    sps.solve(A, B, superlu_only)
    assert seen == {(7, False)}, "BLAS has the cores"
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    X = sps.solve(A, B, superlu_only)
    assert (7, True) in seen
    torch.set_num_threads(1)
    assert torch.equal(X, sps.solve(A, B, superlu_only))
    torch.testing.assert_close(sps.matmul(A, X), B, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "asked"), [("Hermitian", "N"), ("Helmholtz", "N"), ("convection-diffusion", "H")], ids=str
)
def test_columns_of_an_adjoint_solve_are_solved_with_a_where_it_is_symmetric(name, asked, monkeypatch):
    """Hermitian, complex symmetric, neither: SuperLU blocks columns for trans "N" only."""
    values, pattern = SYSTEMS[name](C128)
    B, seen = torch.randn(pattern.shape[0], 20, dtype=C128), set()
    true = ordering.SuperLUFactor.__init__

    def watched(self, lu, A):
        true(self, lu, A)
        solve = self.solve
        self.solve = lambda b, trans="N": seen.add(trans) or solve(b, trans)

    monkeypatch.setattr(ordering.SuperLUFactor, "__init__", watched)
    A, solver = sps.SparseMatrix(values, pattern), sps.LU(backend="superlu")
    sps.solve(A, B[:, 0], solver)
    seen.clear()
    x = sps.solve(A, B, solver, adjoint=True)
    assert seen == {asked}
    torch.testing.assert_close(x, oracle.solve(values, pattern, B, adjoint=True))


# ---- optional libraries: chosen where they pay, believed like any other


def needs(module):
    why = module.missing()
    return pytest.mark.skipif(why is not None, reason=str(why))


def grid_values(sizes, dtype, shift=0.0, skew=0.0):
    M = poisson(*sizes)
    M = M - shift * sp.eye(M.shape[0]) + skew * sp.triu(M, 1)
    return made(M, dtype, phases=False)


OPTIONAL = {
    "positive": (grid_values, (12, 12, 12), {}, Strategy.PARDISO_CHOLESKY, pardiso),
    "indefinite": (grid_values, (12, 12, 12), {"shift": 3.3}, Strategy.PARDISO_SYMMETRIC, pardiso),
    "unsymmetric": (grid_values, (14, 14, 14), {"skew": 0.02}, Strategy.PARDISO, pardiso),
    "hardly any fill": (grid_values, (16, 100), {"skew": 0.02}, Strategy.KLU, klu),
    "positive, by CHOLMOD": (grid_values, (12, 12, 12), {}, Strategy.CHOLMOD, cholmod),
}


@pytest.fixture
def only(monkeypatch):
    """Calls with a module's name make it the one optional library that is there; without one there is none."""

    def those(*names):
        monkeypatch.setattr(strategy, "BACKENDS", ("entries", "lapack", *names, "superlu"))
        strategy._modules.cache_clear()

    yield those
    strategy._modules.cache_clear()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [pytest.param(n, marks=needs(case[-1])) for n, case in OPTIONAL.items()])
def test_an_optional_library_is_chosen_where_it_pays(name, dtype, only):
    """On a pattern that came before; the numbers agree with SuperLU's, and one factorization serves both directions."""
    make, sizes, options, expected, library = OPTIONAL[name]
    only(library.__name__.rpartition(".")[2])
    values, pattern = make(sizes, dtype, **options)
    b = torch.randn(pattern.shape[0], 2, dtype=dtype)
    sps.solve(sps.SparseMatrix(2 * values, pattern), b)
    made_before = sps.memo_info().factorizations
    for adjoint in (False, True):
        A = sps.SparseMatrix(values, pattern)
        x, info = sps.solve_with_info(A, b, adjoint=adjoint)
        assert {Strategy(int(s)) for s in info.strategy} == {expected}
        left = (b - sps.matmul(A, x, adjoint=adjoint)).abs().max()
        assert left < 200 * torch.finfo(dtype).eps * (12 * x.abs().max() + b.abs().max())
        right = sps.solve(A, b, sps.LU(backend="superlu"), adjoint=adjoint)
        if dtype in (F64, C128):
            torch.testing.assert_close(x, right, rtol=0, atol=1e-9 * float(right.abs().max()))
    assert sps.memo_info().factorizations == made_before + 2  # this one and SuperLU's
    assert str(sps.explain(A)).startswith(expected.name)


@needs(metis)
def test_metis_orders_a_pattern_that_came_before():
    values, pattern = grid_values((13, 13, 13), F64, skew=0.02)
    found = []
    for scale in (1.0, 2.0, 3.0):
        A, b = sps.SparseMatrix(scale * values, pattern), torch.randn(2197, dtype=F64)
        found.append([c[0] for c in sps.explain(A).choices])
        x = sps.solve(A, b)
        torch.testing.assert_close(sps.matmul(A, x), b, rtol=1e-10, atol=1e-10)
    assert Strategy.METIS not in found[0]
    assert Strategy.METIS in found[1]
    assert Strategy.METIS in found[2]


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(name, marks=needs(m))
        for name, m in [("pardiso", pardiso), ("klu", klu), ("metis", metis), ("cholmod", cholmod)]
    ],
)
@pytest.mark.parametrize("n", [1, 2, 30])
def test_a_pinned_library_is_used_whether_it_pays_or_not(backend, n):
    M = torch.rand(n, n, dtype=F64)
    M = M + M.mT + 2 * n * torch.eye(n) if backend == "cholmod" else M
    A = sps.SparseMatrix.from_torch((torch.diag(torch.full((n,), 4.0, dtype=F64)) + M).to_sparse())
    b = torch.randn(n, 3, dtype=F64)
    x, info = sps.solve_with_info(A, b, sps.LU(backend=backend))
    torch.testing.assert_close(x, torch.linalg.solve(A.to_dense(), b))
    assert all(Strategy(int(s)).name.startswith(backend.upper()) for s in info.strategy)


def test_a_pinned_backend_that_cannot():
    A = sps.SparseMatrix.from_torch(torch.ones(3, 3).to_sparse() + torch.eye(3).to_sparse())
    with pytest.raises(sps.SolveError, match="no strategy"):
        sps.solve(A, torch.ones(3), sps.LU(backend="entries"))


@pytest.mark.parametrize(
    ("library", "expected"),
    [
        pytest.param(pardiso, ["positive", "symmetric", "symmetric"], marks=needs(pardiso), id="pardiso"),
        pytest.param(cholmod, ["positive"], marks=needs(cholmod), id="cholmod"),
    ],
)
def test_a_failed_cholesky_is_not_tried_again_on_the_pattern(library, expected, monkeypatch, only, capfd):
    only(library.__name__.rpartition(".")[2])
    tried, true = [], library.decompose
    monkeypatch.setattr(library, "decompose", lambda A, s, kind: tried.append(kind) or true(A, s, kind))
    values, pattern = grid_values((12, 12, 12), F64, shift=3.3)
    for scale in (1.0, 2.0, 3.0):
        sps.solve(sps.SparseMatrix(scale * values, pattern), torch.ones(1728, dtype=F64))
    assert tried == expected
    assert capfd.readouterr() == ("", "")


@needs(cholmod)
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_pivots_of_very_different_size_are_no_warning(dtype):
    """scikit-sparse 0.5 warns of them in each solve; the condition that counts does not depend on scales."""
    values, pattern = grid_values((12, 12, 12), dtype)
    scale = torch.as_tensor(np.ldexp(1.0, np.arange(1728) % 49 - 24)).to(dtype)  # exact, so that A stays symmetric
    A = sps.SparseMatrix(values * scale[pattern.rows().long()] * scale[pattern.col.long()], pattern)
    b = torch.ones(1728, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, info = sps.solve_with_info(A, b, sps.Cholesky(backend="cholmod"))
    assert info.strategy == Strategy.CHOLMOD
    right = sps.solve(sps.SparseMatrix(values, pattern), b / scale) / scale
    torch.testing.assert_close(x, right, rtol=1e-3 if dtype is F32 else 1e-9, atol=0)


@needs(cholmod)
def test_cholmod_leaves_other_matrices_alone():
    values, pattern = grid_values((12, 12), F64, skew=0.02)
    with pytest.raises(sps.SolveError, match="no strategy"):
        sps.solve(sps.SparseMatrix(values, pattern), torch.ones(144, dtype=F64), sps.LU(backend="cholmod"))


@pytest.mark.parametrize(
    "solver",
    [
        pytest.param(solver(backend=name), marks=needs(m))
        for name, m in (("pardiso", pardiso), ("cholmod", cholmod))
        for solver in (sps.LU, sps.Cholesky)
    ],
    ids=str,
)
def test_gradients_with_an_optional_library(solver):
    values, pattern = grid_values((12, 12, 12), C128)
    b = torch.randn(1728, dtype=C128)
    sps.solve(sps.SparseMatrix(values, pattern), b)
    scale = torch.linspace(1, 2, 3, dtype=F64, requires_grad=True)

    def f(scale, solver):
        return torch.stack(
            [sps.solve(sps.SparseMatrix(s * values, pattern), b, solver).abs().square().sum() for s in scale]
        )

    (got,) = torch.autograd.grad(f(scale, solver).sum(), scale)
    (right,) = torch.autograd.grad(f(scale, sps.LU(backend="superlu")).sum(), scale)
    torch.testing.assert_close(got, right, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "backend", [pytest.param("pardiso", marks=needs(pardiso)), pytest.param("cholmod", marks=needs(cholmod))]
)
@pytest.mark.parametrize("pinned", [False, True])
def test_an_optional_cholesky_refuses_an_indefinite_matrix(backend, pinned, only):
    only(backend)
    values, pattern = grid_values((12, 12, 12), F64, shift=3.3)
    solver = sps.Cholesky(backend=backend if pinned else None)
    with pytest.raises(sps.NotPositiveDefiniteError, match="Use LU"):
        sps.solve(sps.SparseMatrix(values, pattern), torch.ones(1728, dtype=F64), solver)


@pytest.mark.parametrize(
    "backend", [pytest.param("pardiso", marks=needs(pardiso)), pytest.param("cholmod", marks=needs(cholmod))]
)
def test_a_singular_matrix_is_singular_with_an_optional_library_too(backend, only):
    only(backend)
    values, pattern = grid_values((12, 12, 12), F64)
    b = torch.ones(1728, dtype=F64)
    sps.solve(sps.SparseMatrix(values, pattern), b)
    row_sums = torch.zeros(1728, dtype=F64).index_add(0, pattern.rows().long(), values)
    neumann = torch.where(pattern.rows() == pattern.col, values - row_sums[pattern.col.long()], values)
    with pytest.raises(sps.SingularMatrixError, match="linearly dependent"):
        sps.solve(sps.SparseMatrix(neumann, pattern), b)
    assert sps.solve_with_info(sps.SparseMatrix(neumann, pattern), b).info.status == sps.Status.SINGULAR


@needs(pardiso)
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("skew", [0.0, 0.02], ids=["dominant", "unsymmetric"])
@pytest.mark.parametrize("size", [1e-14, 1e-20, 1e-30])
@pytest.mark.parametrize("pinned", [False, True])
def test_a_small_equation_is_not_lost_where_pardiso_replaces_its_pivot(dtype, skew, size, pinned, only):
    """A replaced pivot leaves a residual that is small against the norm of all rows, and x is wrong there by its own size."""
    only("pardiso")
    values, pattern = grid_values((14, 14, 14), dtype, shift=-0.5, skew=skew)
    sps.solve(
        sps.SparseMatrix(values, pattern), torch.ones(2744, dtype=dtype)
    )  # on a pattern that came before PARDISO pays
    values = torch.where(pattern.rows() == 5, size * values, values)
    values = torch.where((pattern.col == 5) != (pattern.rows() == 5), 0.0, values)  # an equation of its own
    A, expected = sps.SparseMatrix(values, pattern), torch.randn(2744, dtype=dtype)
    for adjoint in (False, True):
        b = sps.matmul(A, expected, adjoint=adjoint)
        x, info = sps.solve_with_info(A, b, sps.LU(backend="pardiso" if pinned else None), adjoint=adjoint)
        assert info.status == sps.Status.CONVERGED
        torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-9)


@needs(pardiso)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("solver", [sps.LU(), sps.LU(backend="pardiso")], ids=str)
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_zero_row_is_singular_where_pardiso_replaces_its_pivot(dtype, solver, symmetric, only):
    only("pardiso")
    values, pattern = grid_values((14, 14, 14), dtype, skew=0.0 if symmetric else 0.02)
    sps.solve(sps.SparseMatrix(values, pattern), torch.ones(2744, dtype=dtype))
    zero = (pattern.rows() == 5) | (symmetric & (pattern.col == 5))
    A = sps.SparseMatrix(torch.where(zero, 0.0, values), pattern)
    with pytest.raises(sps.SingularMatrixError, match="Row 5 has no nonzero"):
        sps.solve(A, torch.ones(2744, dtype=dtype), solver)


@pytest.mark.parametrize("backend", ["pardiso", "klu", "metis", "cholmod"])
def test_a_pinned_library_that_is_not_there(backend, monkeypatch):
    module = {"pardiso": pardiso, "klu": klu, "metis": metis, "cholmod": cholmod}[backend]
    monkeypatch.setattr(module, "missing", lambda: "It is not installed. pip install it.")
    strategy._modules.cache_clear()
    A = sps.SparseMatrix.from_torch(torch.eye(2).to_sparse())
    try:
        with pytest.raises(sps.BackendUnavailableError, match="pip install it"):
            sps.solve(A, torch.ones(2), sps.LU(backend=backend))
        assert sps.solve(A, torch.ones(2)).tolist() == [1, 1]
    finally:
        strategy._modules.cache_clear()


@pytest.mark.parametrize("spoil", ["nan", "inf", "row", "rank"])
@pytest.mark.parametrize(
    "solver", [sps.LU(), sps.LU(backend="superlu"), sps.LU(factor_dtype=torch.float32), sps.Cholesky()], ids=str
)
def test_superlu_never_sees_what_it_may_crash_on(solver, spoil, monkeypatch):
    """Found with SciPy 1.17: SuperLU goes on after a column without a pivot, in memory that is not its own."""
    n = 200
    D = torch.diag(torch.full((n,), 4.0, dtype=torch.float64))
    D[0, :], D[:, 0], D[-1, 0], D[0, -1] = 1, 1, 2, 2  # no band, and no order that makes it triangular
    D[range(1, n), range(n - 1)] = D[range(n - 1), range(1, n)] = 1
    A = sps.SparseMatrix.from_torch(D.to_sparse_csr())
    row, values = A.pattern.rows(), A.values.clone()
    if spoil == "rank":  # three rows with nonzeros in two columns
        values[
            ((row < 6) & (row > 2) & (A.pattern.col > 1)) | ((A.pattern.col < 6) & (A.pattern.col > 2) & (row > 1))
        ] = 0
    else:
        values[row == 7] = {"nan": math.nan, "inf": math.inf, "row": 0.0}[spoil]
    seen = []
    monkeypatch.setattr(superlu, "splu", lambda A, **_: seen.append(A) or pytest.fail("SuperLU was asked"))
    with pytest.raises(
        sps.SolveError
        if spoil in ("nan", "inf") or solver == sps.Cholesky()
        else (sps.SingularMatrixError, sps.ConvergenceError)
    ):
        sps.solve(sps.SparseMatrix(values, A.pattern), torch.ones(n, dtype=torch.float64), solver)
    assert not seen


@pytest.mark.parametrize(
    "solver",
    [sps.GMRES(preconditioner=sps.ILU()), pytest.param(sps.LU(backend="metis"), marks=needs(metis))],
    ids=lambda s: type(s).__name__,
)
def test_nor_what_is_made_by_it(solver, monkeypatch):
    """Every column has entries, but those of three columns are in two rows."""
    n = 40
    A = torch.eye(n, dtype=torch.float64)
    A[:, :3] = 0
    A[:2, :3] = torch.rand(2, 3, dtype=torch.float64) + 1
    A[2, n - 1] = 1
    for name in ("splu", "spilu"):
        monkeypatch.setattr(sla, name, lambda *args, **options: pytest.fail("SuperLU was asked"))
    with pytest.raises(sps.SolveError):
        sps.solve(sps.SparseMatrix.from_torch(A.to_sparse_csr()), torch.ones(n, dtype=torch.float64), solver)


def test_the_structural_rank_is_found_once_while_the_same_entries_are_zero(monkeypatch):
    found, true = [], strategy.structural_rank
    monkeypatch.setattr(strategy, "structural_rank", lambda A: found.append(A.nnz) or true(A))
    M = torch.rand(60, 60, dtype=torch.float64).fill_diagonal_(0)
    A, b = sps.SparseMatrix.from_torch(M.to_sparse_csr()), torch.ones(60, dtype=torch.float64)
    for i in (1, 2, 3):
        sps.solve(i * A, b, sps.LU(backend="superlu"))
    assert found == [60 * 59]
    values = A.values.clone()
    values[5] = 0
    for i in (1, 2):
        sps.solve(sps.SparseMatrix(i * values, A.pattern), b, sps.LU(backend="superlu"))
    assert found == [60 * 59, 60 * 59 - 1]


def test_cholesky_by_superlu_keeps_no_copy_of_its_factors():
    """SciPy makes one of L and of U when their numbers are looked at."""
    values, pattern = SYSTEMS["Poisson 3-D"](F64)
    A, b = sps.SparseMatrix(values, pattern), torch.randn(len(pattern.crow) - 1, 2, dtype=F64)
    for _ in range(2):  # with an ordering of its own, and with that of the first
        sps.clear_memo()
        x = sps.solve(A, b, sps.Cholesky(backend="superlu"))
        factor = next(iter(sps.memo.FACTORS._entries.values())).value
        inner = factor._stage.decomposition.inner
        assert inner.L.data.size == inner.U.data.size == 0
        torch.testing.assert_close(x, sps.solve(A, b))
        torch.testing.assert_close(sps.solve(A, b, sps.Cholesky(backend="superlu"), adjoint=True), x)


@pytest.mark.parametrize("backend", [None, "superlu"])
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
def test_cholesky_refuses_a_diagonal_that_is_not_positive_before_any_factorization(dtype, backend, monkeypatch):
    """A library's L D Lᴴ would solve it."""
    values, pattern = SYSTEMS["Hermitian"](dtype)
    monkeypatch.setattr(sla, "splu", None)
    b = torch.ones(len(pattern.crow) - 1, dtype=dtype)
    on, n = pattern.rows() == pattern.col, len(b)
    one = torch.where(on & (pattern.col == 2), -0.25, values)
    for wrong, says in (
        (-values, rf"is -[0-9.]+ \({n} such\)\. A wrong sign, perhaps\. Use LU\(\), or solve with -A and -b"),
        (values * (1 - 2 * on.double()), r"A wrong sign"),
        (one, r"A\[2, 2\] is -0\.25 \(1 such\)\. A saddle point"),
    ):
        with pytest.raises(sps.NotPositiveDefiniteError, match=f"A diagonal entry is missing or not positive.*{says}"):
            sps.solve(sps.SparseMatrix(wrong, pattern), b, sps.Cholesky(backend=backend))


@pytest.mark.parametrize("rows", [1, 2])
def test_an_overflow_leaves_the_factorization_alone(rows):
    n = 200
    values, pattern = oracle.pattern_of(
        (torch.diag(torch.full((n,), 1e-5)) + torch.diag(torch.full((n - 1,), 1e-6), 1)).double()
    )
    A, b = sps.SparseMatrix(values, pattern), torch.ones(n, rows, dtype=F64).squeeze(-1)
    strategy = sps.solve_with_info(A, b).info.strategy
    with pytest.raises(sps.SolveError, match="larger than the largest number"):
        sps.solve(A, 1e306 * b)
    assert torch.equal(sps.solve_with_info(A, b).info.strategy, strategy)
    assert sps.memo_info().factorizations == 1


def test_available_lists_for_each_record_the_backends_that_serve_it() -> None:
    for name, always in (("LU", {"entries", "lapack", "superlu"}), ("Cholesky", {"lapack", "superlu"})):
        listed = set(available()["solvers"][f"{name} on cpu"].removeprefix("the first that suits: ").split(", "))
        assert always <= listed
        assert name == "LU" or not listed & {"entries", "klu", "metis"}


@pytest.mark.parametrize("solver", [sps.LU(), sps.Cholesky()], ids=str)
def test_nearly_full_rows_are_ordered_last(solver, monkeypatch, only):
    """Minimum degree would take a time that grows with the square of their length."""
    only()
    n, seen, true = 4000, [], sla.splu

    def splu(A, **options):
        seen.append((options["permc_spec"], A.shape[0]))
        return true(A, **options)

    monkeypatch.setattr(sla, "splu", splu)
    M = same_shuffle(sp.eye(n) * 50.0 + arrow(n))
    values, pattern = made(M, F64, phases=False)
    b = torch.randn(n, 2, dtype=F64)
    for scale in (1.0, 2.0):
        x, info = sps.solve_with_info(sps.SparseMatrix(scale * values, pattern), b, solver)
        assert (
            info.strategy == (Strategy.SUPERLU_CHOLESKY if solver == sps.Cholesky() else Strategy.SUPERLU_SYMMETRIC)
        ).all()
        torch.testing.assert_close(scale * torch.from_numpy(M @ x.numpy()), b)
    assert seen == [("MMD_AT_PLUS_A", n - 1), ("NATURAL", n), ("NATURAL", n)]


def test_a_matrix_that_is_nearly_full_everywhere_has_no_row_to_leave_for_last():
    assert superlu._hubs_last(sp.csc_matrix(np.ones((1100, 1100)))) is None
    assert superlu._hubs_last(sp.csc_matrix(arrow(4000))) is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128], ids=str)
def test_superlu_never_sees_a_triangle_with_a_zero_on_its_diagonal(dtype, fresh, monkeypatch):
    """It writes outside of its memory there, and now and then that is a segmentation fault."""
    D = torch.eye(30, dtype=dtype) * 2 + torch.diag(torch.ones(29, dtype=dtype), -1)
    values, pattern = oracle.pattern_of(D)
    assert (
        sps.explain(sps.SparseMatrix(values, pattern), sps.LU(backend="entries")).choices[0][0]
        is sps.Strategy.TRIANGULAR
    )
    values[pattern.rows() == 7] = torch.where(pattern.col == 7, 0, values)[pattern.rows() == 7]
    monkeypatch.setattr(sla, "splu", lambda *_, **__: pytest.fail("SuperLU was called"))
    with pytest.raises(sps.SingularMatrixError):
        sps.solve(sps.SparseMatrix(values, pattern), torch.ones(30, dtype=dtype), sps.LU(backend="entries"))
    with pytest.raises(sps.SolveError):
        sps.solve(sps.SparseMatrix(values * torch.inf, pattern), torch.ones(30, dtype=dtype), sps.LU(backend="entries"))


# ---- sizes far apart, and numbers near the smallest


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize(("dtype", "far"), [(torch.float32, 23), (torch.complex64, 23), (torch.float64, 160)], ids=str)
def test_rows_so_far_apart_that_multipliers_underflow(dtype, far, adjoint):
    inner = torch.tensor([[1, 2, 0], [2, 1, 1], [1, 1, 1]], dtype=torch.float64)
    size = torch.tensor([10.0**far, 1.0, 10.0**-far], dtype=torch.float64)
    values, pattern = oracle.pattern_of((size[:, None] * inner).to(dtype))
    x = torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64)
    b, expected = (inner.T @ x, x / size) if adjoint else (size * (inner @ x), x)
    found = sps.solve(sps.SparseMatrix(values, pattern), b.to(dtype), adjoint=adjoint)
    assert ((found.to(torch.complex128) / expected - 1).abs() < 1e-5).all()
    many = sps.SparseMatrix(torch.stack([values, values]), pattern)
    again = sps.solve(many, b.to(dtype)[None, :, None], adjoint=adjoint)[1, :, 0]
    assert ((again / found - 1).abs() < 1e-5).all()


@pytest.mark.parametrize(("least", "size"), [(1.0, 1e-13), (1e-10, 1e-33), (1e-20, 1e-23), (1e-30, 1e-13)])
def test_a_tiny_row_excuses_no_other(least, size):
    """Well conditioned, with pivots that grow: the first solution wants refinement, whatever underflow may leave of the last row."""
    n = 60
    W = torch.eye(n) - torch.ones(n, n).tril(-1)
    W[:, -1] = 1
    values, pattern = oracle.pattern_of(torch.block_diag(W, torch.tensor([[least]])))
    b = size * torch.randn(n + 1)
    b[n] *= least
    for rhs in (b, torch.stack([b, b], -1)):
        assert (sps.solve_with_info(sps.SparseMatrix(values, pattern), rhs).info.residual < 1e-5).all()


def test_right_hand_sides_whose_products_with_the_matrix_underflow():
    values, pattern = oracle.pattern_of(torch.tensor([[0, 1, 1], [1e-25, 1e-25, 0], [1, 0, 3.0]]))
    b = torch.tensor([[0.0, 0.0], [0.0, 0.0], [4e-20, 4.0]])
    expected = torch.tensor([[1.0], [-1.0], [1.0]]) * torch.tensor([1e-20, 1.0])
    A = sps.SparseMatrix(values, pattern)
    assert ((sps.solve(A, b) / expected - 1).abs() < 1e-5).all()
    assert ((sps.solve(A, b[:, 0]) / expected[:, 0] - 1).abs() < 1e-5).all()


def test_what_underflows_in_a_small_system_is_no_failure():
    """Entries that are not normal numbers: without an allowance every third such system would be called singular."""
    rng, converged = np.random.default_rng(0), 0
    for _ in range(100):
        D = rng.standard_normal((3, 3)) * 10 ** rng.uniform(0, 6, (3, 1)) * 1e-310
        values, pattern = oracle.pattern_of(torch.tensor(D))
        b = torch.tensor(rng.standard_normal(3) * 1e-315)
        converged += int(sps.solve_with_info(sps.SparseMatrix(values, pattern), b).info.status == sps.Status.CONVERGED)
    assert converged >= 85


def test_numbers_next_to_the_largest():
    D = torch.tensor([[1e308, 1e308], [1e308, -1e308]], dtype=torch.float64)
    b = torch.tensor([1e300, 2e300], dtype=torch.float64)
    torch.testing.assert_close(sps.solve(D.to_sparse(), b), torch.tensor([1.5e-8, -0.5e-8], dtype=torch.float64))


def test_badly_scaled_rows_and_columns_are_not_singular():
    """Row sums alone do not show it: rows and columns have to be balanced together."""
    rng, n = np.random.default_rng(0), 30
    for _ in range(20):
        B = sp.random(n, n, 0.1, random_state=rng).tolil()
        B.setdiag(rng.choice([-1, 1], n) * rng.uniform(1, 2, n))
        M = (
            sp.diags(10 ** rng.uniform(-12, 12, n))
            @ B.tocsr()[rng.permutation(n)]
            @ sp.diags(10 ** rng.uniform(-12, 12, n))
        )
        values, pattern = made(M.tocoo(), torch.float64)
        info = sps.solve_with_info(sps.SparseMatrix(values, pattern), torch.ones(n, dtype=torch.float64)).info
        assert info.status == sps.Status.CONVERGED


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([0.5, 0.5, 1e-20, 3e-20, 1.0], [-1e-20, 1.0]),  # 1e-20 is not the rounding of 3e-20, however small both are
        ([1.0, 0.0, 1e-20, 1e-20 + 1e-35, 1.0], [-1e-20, 1.0]),
    ],
)
def test_small_entries_that_differ_are_not_averaged(entries, expected):
    row, col = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 0, 1])
    A = sps.SparseMatrix.from_coo(torch.tensor(entries, dtype=torch.float64), row, col, (2, 2))
    x = sps.solve(A, torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(x, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_duplicates_that_cancel_leave_what_was_meant():
    row, col = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 0, 0, 1])
    entries = torch.tensor([1e-12, 1e4, -1e4, 1e4, -1e4 + 2**-39, 1e-12], dtype=torch.float64)
    A = sps.SparseMatrix.from_coo(entries, row, col, (2, 2))
    b = torch.tensor([1e-12, 1e-12], dtype=torch.float64)
    torch.testing.assert_close(sps.solve(A, b), torch.linalg.solve(A.to_dense(), b))
    torch.testing.assert_close(sps.slogdet(A).logabsdet, torch.linalg.slogdet(A.to_dense()).logabsdet)


def test_explain_looks_at_the_precision_of_the_factors():
    for seed in range(12):
        M = sp.random(400, 400, 0.015, random_state=seed) + sp.eye(400)
        values, pattern = made(M.tocoo(), torch.float64)
        A, solver = sps.SparseMatrix(values, pattern), sps.LU(factor_dtype=torch.float32)
        sps.solve(A, torch.ones(400, dtype=torch.float64), solver)
        info = sps.solve_with_info(A, torch.ones(400, dtype=torch.float64), solver).info
        assert str(sps.Strategy(int(info.strategy)).name) in str(sps.explain(A, solver))


def test_a_matrix_is_not_believed_for_the_sake_of_an_earlier_one():
    """A strong diagonal proves that one matrix is regular, not others on its pattern, before or after."""
    pattern = sps.Pattern(torch.arange(0, 10, 3), torch.arange(3).repeat(3), (3, 3))
    strong = torch.ones(9, dtype=F64) + 8 * torch.eye(3, dtype=F64).ravel()
    singular = torch.arange(1.0, 10, dtype=F64) / 10
    b = torch.ones(3, dtype=F64)
    sps.clear_memo()
    for i in range(1, 3):
        x = sps.solve(sps.SparseMatrix(i * strong, pattern), b)
        torch.testing.assert_close(x, torch.full((3,), 1 / (11 * i), dtype=F64))
        with pytest.raises(sps.SingularMatrixError):
            sps.solve(sps.SparseMatrix(i * singular, pattern), b)


def rows_and_columns(n, powers, seed):
    """A well-conditioned matrix whose rows and columns are multiplied with powers of ten, and the largest error that its exact solution may have."""
    rng = np.random.default_rng(seed)
    B = np.eye(n) * rng.uniform(3, 4, n) + (rng.random((n, n)) < 2 / n) * rng.standard_normal((n, n))
    r, c = (10.0 ** np.rint(rng.uniform(-powers, powers, n)) for _ in range(2))
    return B, r, c


@pytest.mark.parametrize("powers", [5, 25, 60])
@pytest.mark.parametrize("n", [5, 30, 200])
def test_rows_and_columns_of_any_scale(n, powers):
    B, r, c = rows_and_columns(n, powers, n + powers)
    b = torch.from_numpy(r * B.sum(axis=1))
    M = sps.SparseMatrix.from_scipy(sp.csr_matrix(r[:, None] * B * c))
    torch.testing.assert_close(sps.solve(M, b) * torch.from_numpy(c), torch.ones_like(b), rtol=1e-10, atol=0)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("least", [-60, -30, -15])
def test_stored_entries_that_hardly_count(least, seed):
    """They say nothing of the scales of rows: value, determinant, its first and its second derivatives."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice([4, 20, 120]))
    B = np.eye(n) * rng.uniform(3, 4, n) + (rng.random((n, n)) < 1 / n) * rng.standard_normal((n, n))
    tiny = (rng.random((n, n)) < 1 / n) * (B == 0) * 10.0 ** rng.uniform(least, least + 8, (n, n))
    r = 10.0 ** rng.uniform(-2, 2, n)
    D = torch.from_numpy(r[:, None] * (B + tiny))
    A = sps.SparseMatrix.from_torch(D.to_sparse()).requires_grad_()
    row, col = A.pattern.rows(), A.pattern.col
    Z = torch.linalg.inv(torch.from_numpy(B + tiny)) / torch.from_numpy(r)  # of rows of one size
    determinant = torch.linalg.slogdet(torch.from_numpy(B + tiny))
    found = sps.slogdet(A)
    assert found.sign == determinant.sign
    torch.testing.assert_close(
        found.logabsdet.detach(), determinant.logabsdet + np.log(r).sum(), rtol=1e-12, atol=1e-10
    )
    first = torch.autograd.grad(found.logabsdet, A.values, create_graph=True)[0]
    scale = torch.from_numpy(r)[row]
    torch.testing.assert_close(first.detach() * scale, Z.mT[row, col] * scale, rtol=1e-9, atol=1e-9)
    W = torch.where(torch.from_numpy(B != 0), D, 0)
    second = torch.autograd.grad(first, A.values, W[row, col])[0]
    torch.testing.assert_close(second * scale, -(Z @ W @ Z).mT[row, col] * scale, rtol=1e-8, atol=1e-8)
    x = sps.solve(A.detach(), D.sum(dim=1))
    torch.testing.assert_close(x, torch.ones_like(x), rtol=1e-10, atol=0)


def test_a_residual_is_small_for_its_own_row_where_the_matrix_was_balanced():
    D = torch.tensor(
        [
            [0.03, 0, 0, 0, 0],
            [7e-23, 0.02, 0, -0.007, 0],
            [2e-15, 0.06, 0.7, 0, 0],
            [0, -20, 0, 80, 0],
            [0, 0, 0, 0, 1000],
        ]
    )
    A = D.to_sparse_csr()
    for seed in range(50):
        b = torch.randn(5, generator=torch.Generator().manual_seed(seed)) * D.abs().sum(dim=1)
        exact = torch.linalg.solve(D.double(), b.double())
        x = sps.solve(A, b)
        assert float((x - exact).abs().max() / exact.abs().max()) < 1e-6


@pytest.mark.parametrize("small", [torch.float64, torch.float32])
def test_a_chain_whose_other_half_is_tiny(small):
    n, tiny = 10, {torch.float64: 1e-200, torch.float32: 1e-19}[small]
    d = torch.logspace(-2, 2, n, dtype=torch.float64)
    D = torch.diag(2 * d) + torch.diag(0.3 * d[:-1], 1) + torch.diag(torch.full((n - 1,), tiny, dtype=d.dtype), -1)
    D = D.to(small)
    torch.testing.assert_close(sps.solve(D.to_sparse_csr(), D.sum(dim=1)), torch.ones(n, dtype=small))


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("unit", [1e-10, 1e4, 1e10])
def test_low_precision_factors_and_unknowns_in_units_of_their_own(unit, adjoint):
    """Each field is right to all digits, where refinement stopped when the smaller was right to those of float32."""
    rng = np.random.default_rng(0)
    n = 400
    pairs = sp.random_array((200, 200), density=0.02, random_state=rng) + 4 * sp.eye_array(200)
    B = sp.kron(pairs, np.array([[1, 0.5], [0.3, 1]])).tocsr()
    units = np.where(np.arange(n) % 2, unit, 1.0)
    x = rng.standard_normal(n)
    M = (B @ sp.diags_array(units)).tocsr()
    A = sps.SparseMatrix.from_scipy(M.T.tocsr() if adjoint else M)
    low = sps.LU(factor_dtype=torch.float32)
    if adjoint and unit != 1e4:  # A's rows differ by ten digits, then, and float32 has seven
        with pytest.raises(sps.ConvergenceError, match="its rows differ too much in size"):
            sps.solve(A, torch.from_numpy(B @ x), low, adjoint=True)
        return
    found = units * sps.solve(A, torch.from_numpy(B @ x), low, adjoint=adjoint).numpy()
    assert np.median(abs(found - x) / abs(x)) < 1e-15
    assert abs(found - x).max() < 1e-12 * abs(x).max()


def test_low_precision_factors_that_overflow_by_themselves():
    low = sps.LU(factor_dtype=torch.float32)
    A = torch.tensor([[1, 1e-20], [1e-20, 2e-40]], dtype=torch.float64).to_sparse_csr()
    with pytest.raises(sps.ConvergenceError, match="without factor_dtype"):
        sps.solve(A, torch.ones(2, dtype=torch.float64), low)
    tiny = sps.SparseMatrix.from_diagonal(torch.full((8,), 1e-300, dtype=torch.float64))
    with pytest.raises(sps.ConvergenceError, match=r"The solution overflowed, .* where b is too large"):
        sps.solve(tiny, torch.full((8,), 1e100, dtype=torch.float64), low)
