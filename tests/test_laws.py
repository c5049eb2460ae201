"""Identities that hold for every matrix, so that no oracle is needed to see them broken."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jacrev, vjp, vmap

import oracle
import sparsolve as sps

N, K, M = 7, 3, 4
both_dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=["real", "complex"])
both_sides = pytest.mark.parametrize("adjoint", [False, True], ids=["A", "adjoint"])
pytestmark = [both_dtypes]


def random(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=dtype)


def entries(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and values of a nonsingular matrix: some places stored two or three times, in random order."""
    at = torch.rand(N, N).lt(0.35).nonzero()
    row, col = torch.cat([at, torch.arange(N).repeat(2, 2).T, at[:4], at[:2]]).T
    values = 0.5 * random(dtype, len(row))
    values[len(at) : len(at) + 2 * N] += 2.0 - (1.0j if dtype.is_complex else 0)
    mixed = torch.randperm(len(row))
    return row[mixed], col[mixed], values[mixed]


def matrix(dtype: torch.dtype) -> sps.SparseMatrix:
    row, col, values = entries(dtype)
    pattern, order = sps.Pattern.from_coo(row, col, (N, N))
    return sps.SparseMatrix(values[order], pattern)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """`Re⟨a, b⟩`, the inner product in which torch's gradients are gradients."""
    return (a.conj() * b).real.sum()


def close(got: Any, expected: Any) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


def solution(A: sps.SparseMatrix, adjoint: bool) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda values, b: sps.solve(sps.SparseMatrix(values, A.pattern), b, adjoint=adjoint)


def gradients(A: sps.SparseMatrix, b: Tensor, cotangent: Tensor, adjoint: bool) -> tuple[Tensor, Tensor]:
    return vjp(solution(A, adjoint), A.values, b)[1](cotangent)


# ---- values


@pytest.mark.parametrize("f", [sps.solve, sps.matmul])
def test_the_adjoint_moves_across_the_inner_product(f: Any, dtype: torch.dtype) -> None:
    A, u, v = matrix(dtype), random(dtype, N), random(dtype, N)
    close(torch.vdot(u, f(A, v)), torch.vdot(f(A, u, adjoint=True), v))


@both_sides
def test_solve_undoes_matmul_and_matmul_undoes_solve(dtype: torch.dtype, adjoint: bool) -> None:
    A, x = matrix(dtype), random(dtype, N, K)
    close(sps.solve(A, sps.matmul(A, x, adjoint=adjoint), adjoint=adjoint), x)
    close(sps.matmul(A, sps.solve(A, x, adjoint=adjoint), adjoint=adjoint), x)


@both_sides
def test_the_round_trip_has_derivative_zero_in_the_matrix(dtype: torch.dtype, adjoint: bool) -> None:
    """`A⁻¹(A x) = x` whatever `A` is, so the two gradients with respect to the values cancel."""
    A, x, c = matrix(dtype), random(dtype, N, K), random(dtype, N, K)

    def trip(values: Tensor, x: Tensor) -> Tensor:
        B = sps.SparseMatrix(values, A.pattern)
        return sps.solve(B, sps.matmul(B, x, adjoint=adjoint), adjoint=adjoint)

    d_values, d_x = vjp(trip, A.values, x)[1](c)
    close(d_values, torch.zeros_like(d_values))
    close(d_x, c)


@both_sides
def test_linear_in_b(dtype: torch.dtype, adjoint: bool) -> None:
    A, b, c, s = matrix(dtype), random(dtype, N, K), random(dtype, N, K), random(dtype, 1)
    x, y, z = (sps.solve(A, t, adjoint=adjoint) for t in (b, c, b + s * c))
    close(z, x + s * y)


@both_sides
def test_mH_is_the_adjoint(dtype: torch.dtype, adjoint: bool) -> None:
    A, b = matrix(dtype), random(dtype, N, K)
    close(sps.solve(A.mH, b, adjoint=adjoint), sps.solve(A, b, adjoint=not adjoint))
    close(sps.matmul(A.mH, b, adjoint=adjoint), sps.matmul(A, b, adjoint=not adjoint))
    close(A.mH.mH.to_dense(), A.to_dense())


@both_sides
def test_mH_has_the_gradients_of_the_adjoint(dtype: torch.dtype, adjoint: bool) -> None:
    A, b, c = matrix(dtype), random(dtype, N, K), random(dtype, N, K)

    def by_mH(values: Tensor, b: Tensor) -> Tensor:
        return sps.solve(sps.SparseMatrix(values, A.pattern).mH, b, adjoint=adjoint)

    close(vjp(by_mH, A.values, b)[1](c), gradients(A, b, c, not adjoint))


@both_sides
def test_a_real_matrix_solves_real_and_imaginary_parts(dtype: torch.dtype, adjoint: bool) -> None:
    """Promotion of `A` changes nothing, and its gradient comes back real."""
    A, b = matrix(torch.float64), random(torch.complex128, N)
    x = sps.solve(A, b, adjoint=adjoint)
    close(x, torch.complex(*(sps.solve(A, part.contiguous(), adjoint=adjoint) for part in (b.real, b.imag))))
    c = random(dtype, N).to(torch.complex128)
    d_values, d_b = gradients(A, b, c, adjoint)
    assert d_values.dtype == torch.float64
    parts = [gradients(A, p.contiguous(), q.contiguous(), adjoint) for p, q in ((b.real, c.real), (b.imag, c.imag))]
    close(d_values, parts[0][0] + parts[1][0])
    close(d_b, torch.complex(parts[0][1], parts[1][1]))


# ---- the order of entries, and duplicates


@both_sides
def test_the_order_of_entries_does_not_matter(dtype: torch.dtype, adjoint: bool) -> None:
    """A permutation of the entries leaves x alone and permutes the gradient."""
    row, col, values = entries(dtype)
    b, c = random(dtype, N, K), random(dtype, N, K)

    def run(order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pattern, sort = sps.Pattern.from_coo(row[order], col[order], (N, N))

        def f(values: Tensor, b: Tensor) -> Tensor:
            return sps.solve(sps.SparseMatrix(values[sort], pattern), b, adjoint=adjoint)

        x, pull = vjp(f, values[order], b)
        return x, *pull(c)

    order = torch.randperm(len(row))
    x, d_values, d_b = run(torch.arange(len(row)))
    x_too, d_values_too, d_b_too = run(order)
    close(x_too, x)
    close(d_values_too, d_values[order])
    close(d_b_too, d_b)


@both_sides
def test_duplicates_add_up(dtype: torch.dtype, adjoint: bool) -> None:
    """An entry split in two solves the same, and both parts get the gradient of the whole."""
    row, col, values = entries(dtype)
    b, c, part = random(dtype, N, K), random(dtype, N, K), random(dtype, len(row))

    def run(row: Tensor, col: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        pattern, sort = sps.Pattern.from_coo(row, col, (N, N))
        x, pull = vjp(lambda v: sps.solve(sps.SparseMatrix(v[sort], pattern), b, adjoint=adjoint), values)
        return x, pull(c)[0]

    x, whole = run(row, col, values)
    x_too, halves = run(row.repeat(2), col.repeat(2), torch.cat([values - part, part]))
    close(x_too, x)
    close(halves, whole.repeat(2))
    place = row * N + col
    first = (place.unsqueeze(1) == place).int().argmax(1)  # the first entry stored at the same place
    assert (first != torch.arange(len(row))).any()
    close(whole, whole[first])


@both_sides
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_layouts_agree(dtype: torch.dtype, adjoint: bool, index: torch.dtype) -> None:
    """COO, coalesced or not, CSR, CSC and SparseMatrix: one x, and gradients that agree on the pattern."""
    row, col, values = entries(dtype)
    b, c = random(dtype, N, K), random(dtype, N, K)
    D = torch.zeros(N, N, dtype=dtype).index_put((row, col), values, accumulate=True)
    uncoalesced = torch.sparse_coo_tensor(torch.stack([row, col]).to(index), values, (N, N), check_invariants=True)
    coo = uncoalesced.coalesce()
    csr = torch.sparse_csr_tensor(*oracle_csr(D, index), (N, N), check_invariants=True)
    csc = torch.sparse_csc_tensor(*oracle_csr(D.T, index), (N, N), check_invariants=True)
    inverse = torch.linalg.inv(D.mH if adjoint else D)
    x = inverse @ b
    d_b = inverse.mH @ c
    d_A = -(x @ d_b.mH if adjoint else d_b @ x.mH) * (D != 0)
    for T in (uncoalesced, coo, csr, csc):
        T, rhs = T.detach().requires_grad_(), b.clone().requires_grad_()
        got = sps.solve(T, rhs, adjoint=adjoint)
        close(got, x)
        grad_T, grad_rhs = torch.autograd.grad(got, (T, rhs), c)
        assert grad_T.layout == T.layout
        close(grad_T.to_dense(), d_A)
        close(grad_rhs, d_b)


@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
def test_the_gradient_of_a_sparse_tensor_is_differentiable(dtype: torch.dtype, layout: str) -> None:
    """Double backward through a sparse tensor; torch's own `values()` of CSR loses it without a word."""
    D, b = matrix(dtype).to_dense(), random(dtype, N, K)
    T = getattr(D, {"coo": "to_sparse", "csr": "to_sparse_csr", "csc": "to_sparse_csc"}[layout])()
    s = random(dtype, 1)

    def second(A: Tensor, solve: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        scale, A = s.clone().requires_grad_(), A.detach().requires_grad_()
        (g,) = torch.autograd.grad(solve(A, scale * b).abs().pow(2).sum(), A, create_graph=True)
        g = g.to_dense() * (D != 0)
        d_scale, d_A = torch.autograd.grad(g.abs().pow(2).sum(), (scale, A))
        return d_scale, d_A.to_dense() * (D != 0)

    expected = second(D, lambda A, b: torch.linalg.inv(A) @ b)
    assert all(t.abs().max() > 1e-3 for t in expected)
    close(second(T, sps.solve), expected)


def oracle_csr(D: Tensor, index: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    values, pattern = oracle.pattern_of(D, index)
    return pattern.crow, pattern.col, values


# ---- batches


@both_sides
def test_block_diagonal_is_vmap_is_a_native_batch(dtype: torch.dtype, adjoint: bool) -> None:
    """M systems on one pattern: one large matrix, `vmap`, a batch; the same x and the same gradients."""
    A, b, c = matrix(dtype), random(dtype, M, N, K), random(dtype, M, N, K)
    values = A.values * (1 + 0.2 * random(dtype, M, 1)) + 0.05 * random(dtype, M, A.nnz)
    nnz, shift = A.nnz, torch.arange(M).unsqueeze(1)
    crow = torch.cat([(A.pattern.crow[:-1] + nnz * shift).ravel(), torch.tensor([nnz * M])])
    blocks = sps.Pattern(crow, (A.pattern.col + N * shift).ravel(), (N * M, N * M))
    f = solution(A, adjoint)

    def in_blocks(values: Tensor, b: Tensor) -> Tensor:
        B = sps.SparseMatrix(values.reshape(-1), blocks)
        return sps.solve(B, b.reshape(N * M, K), adjoint=adjoint).reshape(M, N, K)

    def one_by_one(values: Tensor, b: Tensor) -> Tensor:
        return torch.stack([f(v, r) for v, r in zip(values, b, strict=True)])

    x, pull = vjp(one_by_one, values, b)
    expected = pull(c)
    for g in (in_blocks, vmap(f), f):
        y, pull = vjp(g, values, b)
        close(y, x)
        close(pull(c), expected)


@both_sides
def test_columns_are_independent(dtype: torch.dtype, adjoint: bool) -> None:
    """A matrix of right-hand sides, `vmap` over its columns, and one at a time; more than a chunk of them."""
    A, B = matrix(dtype), random(dtype, N, 37)
    X = sps.solve(A, B, adjoint=adjoint)
    close(vmap(lambda b: sps.solve(A, b, adjoint=adjoint), 1, 1)(B), X)
    close(torch.stack([sps.solve(A, b, adjoint=adjoint) for b in B.T], 1), X)


# ---- scaling


@both_sides
@pytest.mark.parametrize("scale", [3.0, 1e-8, 1e8])
def test_scaling_the_matrix_divides_the_solution(dtype: torch.dtype, adjoint: bool, scale: float) -> None:
    """`solve(c A, b) = solve(A, b) / c`, with `c*` for the adjoint, and so do the gradients by the chain rule."""
    factor = scale * (1 - 2j if dtype.is_complex else 1)
    side = factor.conjugate() if adjoint else factor  # what stands before x
    A, b, c = matrix(dtype), random(dtype, N, K), random(dtype, N, K)
    close(
        sps.solve(sps.SparseMatrix(factor * A.values, A.pattern), b, adjoint=adjoint),
        sps.solve(A, b, adjoint=adjoint) / side,
    )
    d_values, d_b = gradients(A, b, c, adjoint)
    scaled = sps.SparseMatrix(factor * A.values, A.pattern)
    scaled_values, scaled_b = gradients(scaled, b, side.conjugate() * c, adjoint)
    close(factor.conjugate() * scaled_values, d_values)
    close(scaled_b, d_b)


@both_sides
def test_scaling_matrix_and_rhs_together_changes_nothing(dtype: torch.dtype, adjoint: bool) -> None:
    """`solve(t A, t b) = solve(A, b)` for real t, so its derivative at t = 1 is zero: `⟨Ā, A⟩ = −⟨b̄, b⟩`."""
    A, b, c = matrix(dtype), random(dtype, N, K), random(dtype, N, K)
    d_values, d_b = gradients(A, b, c, adjoint)
    assert inner(d_b, b).abs() > 1e-3
    close(inner(d_values, A.values), -inner(d_b, b))


def test_phase_changes_nothing_either(dtype: torch.dtype) -> None:
    """The same for `t = e^{iφ}`: `⟨Ā, i A⟩ = −⟨b̄, i b⟩`; for real numbers a rotation by signs."""
    A, b, c = matrix(dtype), random(dtype, N, K), random(dtype, N, K)
    t = complex(math.cos(1), math.sin(1)) if dtype.is_complex else -1.0
    close(sps.solve(sps.SparseMatrix(t * A.values, A.pattern), t * b), sps.solve(A, b))
    if dtype.is_complex:
        d_values, d_b = gradients(A, b, c, False)
        assert inner(d_b, 1j * b).abs() > 1e-3
        close(inner(d_values, 1j * A.values), -inner(d_b, 1j * b))


@both_sides
def test_scaling_rows_and_columns(dtype: torch.dtype, adjoint: bool) -> None:
    """`(R A C) y = R b` with `x = C y`; the adjoint with the roles of R and C swapped."""
    A, b = matrix(dtype), random(dtype, N, K)
    R, C = (torch.rand(N, dtype=torch.float64) + 0.5 for _ in range(2))
    scaled = sps.SparseMatrix(R[A.pattern.rows()] * A.values * C[A.pattern.col], A.pattern)
    before, after = (C, R) if adjoint else (R, C)
    y = sps.solve(scaled, before.unsqueeze(1) * b, adjoint=adjoint)
    close(after.unsqueeze(1) * y, sps.solve(A, b, adjoint=adjoint))


# ---- traces and determinants


def test_the_gradient_of_log_det_is_the_inverse(dtype: torch.dtype) -> None:
    """`d log|det A| = Re tr(A⁻¹ dA)`: the inverse by `solve` on the pattern is the gradient that torch has of it."""
    A = matrix(dtype)
    d_values = torch.func.grad(lambda v: torch.linalg.slogdet(oracle.dense(v, A.pattern)).logabsdet)(A.values)
    inverse = sps.solve(A, torch.eye(N, dtype=dtype))
    close(inverse.mH[A.pattern.rows(), A.pattern.col], d_values)
    close((inverse @ A.to_dense()).trace(), torch.tensor(N, dtype=dtype))


def test_the_inverse_has_the_derivative_of_an_inverse(dtype: torch.dtype) -> None:
    """`d(A⁻¹) = −A⁻¹ dA A⁻¹`, for each stored entry."""
    if dtype.is_complex:
        A = matrix(dtype)
        X, dX = torch.func.jvp(
            lambda v: sps.solve(sps.SparseMatrix(v, A.pattern), torch.eye(N, dtype=dtype)),
            (A.values,),
            (1j * A.values,),
        )
        close(dX, -1j * X)  # dA = i A
        return
    A = matrix(dtype)
    X = sps.solve(A, torch.eye(N, dtype=dtype))
    J = jacrev(lambda v: sps.solve(sps.SparseMatrix(v, A.pattern), torch.eye(N, dtype=dtype)))(A.values)
    close(J, -torch.einsum("ie,ej->ije", X[:, A.pattern.rows()], X[A.pattern.col]))
