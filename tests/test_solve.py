"""`solve` and `solve_with_info`: answers, shapes, dtypes, gradients in A's layout, refusals."""

from __future__ import annotations

import re
import typing

import numpy as np
import optree
import pytest
import scipy.sparse.linalg as sla
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import oracle
import sparsolve as sps
from systems import DTYPES, SINGULAR, SYSTEMS, with_indices

LAYOUTS = (torch.sparse_coo, torch.sparse_csr)
F64, C128 = torch.float64, torch.complex128


def double(dtype):
    return torch.promote_types(dtype, F64)


def backward_error(D, x, b):
    """`‖b − A x‖ / (‖A‖ ‖x‖ + ‖b‖)`, the worst column, in units of roundoff of x's dtype."""
    columns = lambda t: t if t.dim() > 1 else t.unsqueeze(-1)  # noqa: E731
    x64, b64 = columns(x).to(D.dtype), columns(b).to(D.dtype)
    residual = (b64 - D @ x64).abs().amax(-2)
    size = D.abs().sum(-1).amax(-1).unsqueeze(-1) * x64.abs().amax(-2) + b64.abs().amax(-2)
    return (residual / size.clamp(min=1e-300)).max().item() / torch.finfo(x.dtype).eps


def check(values, pattern, b, x, adjoint):
    """Shape, dtype, contiguity, backward error, and where the condition allows it the error."""
    dtype = torch.result_type(values, b)
    assert x.shape == b.shape
    assert x.dtype == dtype
    assert x.is_contiguous()
    wide = double(dtype)
    D = oracle.dense(values.to(wide), pattern)
    D = D.mH if adjoint else D
    assert backward_error(D, x, b) < 20
    expected = torch.linalg.inv(D) @ b.to(wide)
    error = (torch.linalg.vector_norm(x - expected) / torch.linalg.vector_norm(expected)).item()
    assert error < 20 * torch.finfo(dtype).eps * torch.linalg.cond(D).item()


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SYSTEMS)
def test_solution(name, dtype, adjoint):
    values, pattern = SYSTEMS[name](dtype)
    A, n = sps.SparseMatrix(values, pattern), pattern.shape[0]
    for shape in ((n,), (n, 1), (n, 3), (2, n, 3)):
        b = torch.randn(shape, dtype=dtype)
        check(values, pattern, b, sps.solve(A, b, adjoint=adjoint), adjoint)


@pytest.mark.parametrize("adjoint", [False, True])
def test_badly_scaled_solution_is_accurate_componentwise(adjoint):
    """The condition number (1e21) promises nothing here, but scaling is exact in powers of two, so every digit can be asked for."""
    values, pattern = SYSTEMS["convection-diffusion"](F64)
    n = pattern.shape[0]
    R, C = (2.0 ** torch.randint(-40, 40, (n,), dtype=F64) for _ in range(2))
    scaled = sps.SparseMatrix(R[pattern.rows()] * values * C[pattern.col], pattern)
    b = torch.randn(n, dtype=F64)
    left, right = (C, R) if adjoint else (R, C)
    expected = oracle.solve(values, pattern, b, adjoint)
    torch.testing.assert_close(sps.solve(scaled, left * b, adjoint=adjoint) * right, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("other", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_promote(dtype, other):
    values, pattern = SYSTEMS["banded"](dtype)
    b = torch.randn(pattern.shape[0], 2, dtype=other)
    check(values, pattern, b, sps.solve(sps.SparseMatrix(values, pattern), b), False)


@pytest.mark.parametrize("name", ["unsorted", "duplicates"])
def test_int32_and_int64_agree(name):
    values, pattern = SYSTEMS[name](F64)
    b = torch.randn(pattern.shape[0], dtype=F64)
    x, y = (
        sps.solve(sps.SparseMatrix(values, with_indices(pattern, index)), b) for index in (torch.int32, torch.int64)
    )
    assert torch.equal(x, y)
    check(values, pattern, b, x, False)


@pytest.mark.parametrize("shape", [(0,), (0, 0), (0, 3), (2, 0, 3)])
def test_no_unknowns(shape):
    empty = torch.zeros(0, dtype=torch.int64)
    values = torch.zeros(0, dtype=F64, requires_grad=True)
    b = torch.zeros(shape, dtype=F64, requires_grad=True)
    x = sps.solve(sps.SparseMatrix(values, sps.Pattern(torch.zeros(1, dtype=torch.int64), empty, (0, 0))), b)
    assert x.shape == shape
    x.sum().backward()
    assert values.grad.shape == (0,)
    assert b.grad.shape == shape


@pytest.mark.parametrize("shape", [(20, 0), (2, 20, 0), (0, 20, 2)])
def test_no_columns(shape):
    values, pattern = SYSTEMS["banded"](F64)
    values.requires_grad_()
    x = sps.solve(sps.SparseMatrix(values, pattern), torch.zeros(shape, dtype=F64))
    assert x.shape == shape
    assert torch.equal(torch.autograd.grad(x.sum(), values)[0], torch.zeros_like(values))
    sol = sps.solve_with_info(sps.SparseMatrix(values, pattern), torch.zeros(shape, dtype=F64))
    assert sol.info.status.shape == shape[:-2] + shape[-1:]


NO_BATCH = {
    "right-hand sides": (lambda A, v, b: sps.solve(A(v), b), (None, 0)),
    "the last dimension": (lambda A, v, b: sps.solve(A(v), b), (None, -1)),
    "matrices": (lambda A, v, b: sps.solve(A(v), b), (0, None)),
    "both": (lambda A, v, b: sps.solve(A(v), b), (0, 0)),
    "products": (lambda A, v, b: sps.matmul(A(v), b), (None, 0)),
    "info": (lambda A, v, b: sps.solve_with_info(A(v), b).x, (None, 0)),
    "x0": (lambda A, v, b: sps.solve(A(v), b, sps.GMRES(), x0=b), (None, 0)),
    "gradients": (lambda A, v, b: torch.func.grad(lambda b: sps.solve(A(v), b).sum())(b), (None, 0)),
}


@pytest.mark.parametrize("columns", [(), (2,), (0,)], ids=str)
@pytest.mark.parametrize("name", NO_BATCH)
def test_a_vmap_over_nothing(name, columns):
    """As `torch.linalg.solve` has it: an empty batch of results."""
    f, dims = NO_BATCH[name]
    values, pattern = SYSTEMS["banded"](F64)
    n = pattern.shape[0]

    def empty(t, dim):
        return t if dim is None else t.unsqueeze(dim).narrow(dim, 0, 0)

    args = empty(values, dims[0]).requires_grad_(), empty(torch.ones(n, *columns, dtype=F64), dims[1])
    call = torch.vmap(lambda v, b: f(lambda v: sps.SparseMatrix(v, pattern), v, b), in_dims=dims)
    x = call(*args)
    assert x.shape == (0, n, *columns)
    assert torch.equal(torch.autograd.grad(x.sum(), args[0], allow_unused=True, materialize_grads=True)[0], 0 * args[0])
    info = torch.vmap(lambda b: sps.solve_with_info(sps.SparseMatrix(values, pattern), b).info.status)
    assert info(torch.ones(0, n, *columns, dtype=F64)).shape == (0, *columns)
    nested = torch.vmap(call, in_dims=tuple(None if d is None else 0 for d in dims))
    inner = [t if d is None else t.unsqueeze(0).expand(3, *t.shape) for t, d in zip(args, dims, strict=True)]
    assert nested(*inner).shape == (3, 0, n, *columns)


def test_no_matrices():
    values, pattern = SYSTEMS["banded"](F64)
    b = torch.ones(20, dtype=F64, requires_grad=True)
    x = sps.solve(sps.SparseMatrix(values.expand(0, -1), pattern), b)
    assert x.shape == (0, 20)
    assert torch.equal(torch.autograd.grad(x.sum(), b)[0], torch.zeros(20, dtype=F64))


@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("shape", [(20,), (20, 2), (3, 20, 2), (1, 20, 2), (2, 3, 20, 1), (2, 1, 20, 1)])
def test_batch_of_matrices(shape, adjoint, dtype):
    values, pattern = SYSTEMS["banded"](dtype)
    batch = values + 0.1 * torch.randn(3, values.numel(), dtype=dtype)
    batch.requires_grad_()
    b = torch.randn(shape, dtype=dtype, requires_grad=True)
    x = sps.solve(sps.SparseMatrix(batch, pattern), b, adjoint=adjoint)
    D = oracle.dense(batch, pattern)
    expected = torch.linalg.inv(D.mH if adjoint else D) @ b
    assert x.is_contiguous()
    torch.testing.assert_close(x, expected)
    g = torch.randn_like(x)
    for got, wanted in zip(*(torch.autograd.grad(y, (batch, b), g) for y in (x, expected)), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("lead", [(1,), (1, 1)])
def test_batch_of_one_matrix_broadcasts_over_right_hand_sides(lead):
    values, pattern = SYSTEMS["banded"](F64)
    b = torch.randn(4, 20, 2, dtype=F64)
    x = sps.solve(sps.SparseMatrix(values.expand(*lead, -1), pattern), b)
    expected = oracle.solve(values, pattern, b).expand(*torch.broadcast_shapes(lead, (4,)), 20, 2)
    torch.testing.assert_close(x, expected)


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
def test_non_contiguous_operands(layout):
    values, pattern = SYSTEMS["banded"](C128)
    b = torch.randn(20, 3, dtype=C128)
    wide = torch.zeros(2 * values.numel(), dtype=C128)
    wide[::2] = values
    views = {
        "transposed": b.T.contiguous().T,
        "strided": b.repeat_interleave(2, 0)[::2],
        "expanded": b[:, :1].expand(20, 3),
    }
    rhs = views[layout]
    assert not rhs.is_contiguous()
    check(values, pattern, rhs, sps.solve(sps.SparseMatrix(wide[::2], pattern), rhs), False)


# ---- pytrees

STRUCTURES = {
    "dict": lambda b, c: {"one": b, "two": c},
    "tuple": lambda b, c: (b, c),
    "nested": lambda b, c: [{"x": (b,)}, c],
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_pytree(structure):
    values, pattern = SYSTEMS["circuit"](F64)
    A, n = sps.SparseMatrix(values, pattern), pattern.shape[0]
    b = STRUCTURES[structure](torch.randn(n, dtype=F64), torch.randn(n, 2, dtype=F64))
    x = sps.solve(A, b, adjoint=True)
    assert optree.tree_structure(x) == optree.tree_structure(b)
    for leaf, rhs in zip(optree.tree_leaves(x), optree.tree_leaves(b), strict=True):
        assert torch.equal(leaf, sps.solve(A, rhs, adjoint=True))
    assert sps.memo_info().factorizations == 1


def test_pytree_with_info():
    values, pattern = SYSTEMS["banded"](F64)
    sol = sps.solve_with_info(
        sps.SparseMatrix(values, pattern), {"u": torch.ones(20, dtype=F64), "v": torch.ones(20, 2)}
    )
    assert sol.x["v"].shape == (20, 2)
    assert sol.info["u"].status.shape == ()
    assert sol.info["v"].residual.shape == (2,)


# ---- torch's sparse tensors in, sparse gradients out


def as_layout(values, pattern, layout):
    """A leaf of this layout with the pattern's entries as they are."""
    if layout is torch.sparse_csr:
        crow, col = pattern.crow, pattern.col
        return torch.sparse_csr_tensor(
            crow, col, values.detach(), pattern.shape, check_invariants=True
        ).requires_grad_()
    index = torch.stack([pattern.rows(), pattern.col])
    tensor = torch.sparse_coo_tensor(index, values.detach(), pattern.shape, is_coalesced=True, check_invariants=True)
    return tensor.requires_grad_()


@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_gradient_is_sparse_on_the_pattern(layout, adjoint, dtype):
    values, pattern = SYSTEMS["stored zeros"](dtype)
    A, b = as_layout(values, pattern, layout), torch.randn(9, 2, dtype=dtype)
    g = torch.randn(9, 2, dtype=dtype)
    (gradient,) = torch.autograd.grad(sps.solve(A, b, adjoint=adjoint), A, g)
    values.requires_grad_()
    (expected,) = torch.autograd.grad(oracle.solve(values, pattern, b, adjoint), values, g)
    assert gradient.layout is layout
    assert (values == 0).any()
    if layout is torch.sparse_csr:
        assert torch.equal(gradient.crow_indices(), pattern.crow)
        assert torch.equal(gradient.col_indices(), pattern.col)
        torch.testing.assert_close(gradient.values(), expected)
    else:
        gradient = gradient.coalesce()
        assert torch.equal(gradient.indices(), torch.stack([pattern.rows(), pattern.col]))
        torch.testing.assert_close(gradient.values(), expected)


def test_gradient_through_uncoalesced_values():
    """Every entry of an uncoalesced tensor gets the gradient of its place, duplicates each the same."""
    _, pattern = SYSTEMS["duplicates"](F64)
    values = SYSTEMS["duplicates"](F64)[0].requires_grad_()
    order = torch.randperm(pattern.nnz)
    index = torch.stack([pattern.rows(), pattern.col])[:, order]
    A = torch.sparse_coo_tensor(index, values[order], pattern.shape, check_invariants=True)
    assert not A.is_coalesced()
    b = torch.randn(16, dtype=F64)
    x = sps.solve(A, b)
    (got,) = torch.autograd.grad(x.square().sum(), values)
    (expected,) = torch.autograd.grad(oracle.solve(values, pattern, b).square().sum(), values)
    torch.testing.assert_close(got, expected)


def test_gradient_of_an_uncoalesced_leaf():
    values, pattern = SYSTEMS["duplicates"](F64)
    index = torch.stack([pattern.rows(), pattern.col])
    A = torch.sparse_coo_tensor(index, values, pattern.shape, check_invariants=True).requires_grad_()
    b = torch.randn(16, dtype=F64)
    sps.solve(A, b).sum().backward()
    places = oracle.dense(torch.ones_like(values), pattern) != 0
    D = oracle.dense(values, pattern).requires_grad_()
    (torch.linalg.inv(D) @ b).sum().backward()
    torch.testing.assert_close(A.grad.to_dense(), D.grad * places)


@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_second_derivative_through_a_sparse_tensor(layout, dtype):
    values, pattern = SYSTEMS["banded"](dtype)
    A, b = as_layout(values, pattern, layout), torch.randn(20, dtype=dtype, requires_grad=True)
    D = oracle.dense(values, pattern).requires_grad_()

    def twice(x, matrix):
        """The gradient in b of a function of the gradient in A, and the one in A."""
        (first,) = torch.autograd.grad(x.abs().pow(3).sum(), matrix, create_graph=True)
        numbers = first if first.layout is torch.strided else sps.SparseMatrix.from_torch(first).values
        mask = 1 if first.layout is not torch.strided else (D != 0)
        return torch.autograd.grad((numbers * mask).abs().square().sum(), (matrix, b))

    by_A, by_b = twice(sps.solve(A, b), A)
    expected_A, expected_b = twice(torch.linalg.inv(D) @ b, D)
    torch.testing.assert_close(by_b, expected_b)
    torch.testing.assert_close(by_A.to_dense(), expected_A * (D != 0))
    assert by_A.layout is layout


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_gradients_accumulate(layout):
    values, pattern = SYSTEMS["banded"](F64)
    A, b = as_layout(values, pattern, layout), torch.randn(20, dtype=F64)
    sps.solve(A, b).sum().backward()
    once = A.grad.to_dense().clone()
    sps.solve(A, b).sum().backward()
    torch.testing.assert_close(A.grad.to_dense(), 2 * once)
    assert A.grad.layout is layout


def test_csc_tensor():
    values, pattern = SYSTEMS["banded"](C128)
    A = oracle.dense(values, pattern).to_sparse_csc().requires_grad_()
    b = torch.randn(20, dtype=C128)
    x = sps.solve(A, b)
    check(values, pattern, b, x.detach(), False)
    (gradient,) = torch.autograd.grad(x.real.sum(), A)
    D = oracle.dense(values, pattern).requires_grad_()
    (expected,) = torch.autograd.grad((torch.linalg.inv(D) @ b).real.sum(), D)
    assert gradient.layout is torch.sparse_csc
    torch.testing.assert_close(gradient.to_dense(), expected * (D != 0))


# ---- solve_with_info


@pytest.mark.parametrize("shape", [(20,), (20, 3), (2, 20, 3)])
def test_info_of_a_good_solve(shape):
    values, pattern = SYSTEMS["banded"](F64)
    b = torch.randn(shape, dtype=F64)
    b[..., 0] = 0 if len(shape) > 1 else b[0]
    x, info = sps.solve_with_info(sps.SparseMatrix(values, pattern), b)
    small = shape[:-2] + shape[-1:] if len(shape) > 1 else ()
    assert all(t.shape == small for t in info)
    assert (info.status == sps.Status.CONVERGED).all()
    assert (info.iterations == 0).all()
    axis = -1 if len(shape) == 1 else -2
    norm = lambda t: torch.linalg.vector_norm(t, dim=axis)  # noqa: E731
    residual = norm(b - oracle.matmul(values, pattern, x)) / norm(b).clamp(min=1e-300)
    torch.testing.assert_close(info.residual, residual, rtol=1, atol=1e-15)
    assert info.residual.dtype is F64


def test_info_in_words():
    """One column's numbers have names; several, or none to be read, stay tensors."""
    values, pattern = SYSTEMS["banded"](F64)
    b = torch.ones(20, dtype=F64)

    def info(b, *solver):
        return sps.solve_with_info(sps.SparseMatrix(values, pattern), b, *solver).info

    assert re.fullmatch(r"Info\(status=CONVERGED, iterations=0, residual=.*e-1\d, strategy=BANDED\)", repr(info(b)))
    assert re.match(r"Info\(status=MAXITER, iterations=1, residual=\d", str(info(b, sps.GMRES(maxiter=1))))
    assert "strategy=OTHER)" in f"{sps.Solution(b, info(b, sps.GMRES()))}"
    assert repr(info(b.unsqueeze(-1))).startswith("Info(status=tensor([0]), iterations=tensor([0]), residual=tensor(")
    assert repr(info(b)._replace(status=torch.tensor(77))).startswith("Info(status=77, ")
    seen = []
    torch.vmap(lambda b: seen.append(repr(info(b))) or b)(b.unsqueeze(0))
    with FakeTensorMode(allow_non_fake_inputs=True):
        seen.append(repr(sps.Info(*(torch.ones(()) for _ in range(4)))))
    seen.append(repr(sps.Info(*(torch.ones((), device="meta") for _ in range(4)))))
    assert all("tensor" in s.lower() and "CONVERGED" not in s for s in seen)
    assert optree.tree_map(lambda t: t + 0, info(b)) == info(b)


def test_info_residual_of_a_poor_solver():
    values, pattern = SYSTEMS["banded"](F64)
    b = torch.randn(20, 2, dtype=F64)
    poor = lambda matrix, rhs: 0.9 * sla.spsolve(matrix.tocsc(), rhs)  # noqa: E731
    info = sps.solve_with_info(sps.SparseMatrix(values, pattern), b, poor).info
    torch.testing.assert_close(info.residual, torch.full((2,), 0.1, dtype=F64))


@pytest.mark.parametrize("name", ["empty row", "structural", "path graph"])
def test_info_of_a_singular_matrix(name):
    values, pattern = SINGULAR[name][0](F64)
    b = torch.ones(pattern.shape[0], 2, dtype=F64)
    x, info = sps.solve_with_info(sps.SparseMatrix(values, pattern), b)
    assert (info.status == sps.Status.SINGULAR).all()
    assert x.isnan().all()


def test_info_of_a_batch_with_one_singular_matrix():
    values, pattern = SYSTEMS["banded"](F64)
    batch = torch.stack([values, 0 * values, 2 * values])
    x, info = sps.solve_with_info(sps.SparseMatrix(batch, pattern), torch.ones(20, dtype=F64))
    assert info.status.tolist() == [0, sps.Status.SINGULAR, 0]
    torch.testing.assert_close(x[2], oracle.solve(2 * values, pattern, torch.ones(20, dtype=F64)))
    assert x[1].isnan().all()


# ---- a callable as the solver


@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("shape", [(20,), (20, 3)])
def test_callable_solver(shape, adjoint, dtype):
    values, pattern = SYSTEMS["banded"](dtype)
    values.requires_grad_()
    b = torch.randn(shape, dtype=dtype, requires_grad=True)
    seen = []

    def solver(matrix, rhs):
        seen.append(rhs.shape)
        return sla.spsolve(matrix.tocsc(), rhs)

    x = sps.solve(sps.SparseMatrix(values, pattern), b, solver, adjoint=adjoint)
    assert seen == [shape]
    expected = oracle.solve(values, pattern, b, adjoint)
    torch.testing.assert_close(x, expected)
    for got, wanted in zip(*(torch.autograd.grad(y.abs().sum(), (values, b)) for y in (x, expected)), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda rhs: rhs[:-1], "returned an array of shape"),
        (lambda rhs: rhs * 1j, "returned complex numbers"),
        (lambda rhs: rhs * np.nan, "returned NaN or Inf"),
        (lambda rhs: (rhs, 0), r"returned a tuple of 2.*Return x only"),
        (lambda rhs: None, "returned a NoneType, an array of object.*no return statement"),
        (lambda rhs: torch.ones(20, requires_grad=True), r"returned a Tensor that is no NumPy array.*detach"),
        (lambda rhs: rhs[None, :], r"returned an array of shape \(1, 20\) .* \(20,\)"),
    ],
)
def test_callable_solver_that_misbehaves(answer, message):
    values, pattern = SYSTEMS["banded"](F64)
    with pytest.raises(sps.SolveError, match=message):
        sps.solve(sps.SparseMatrix(values, pattern), torch.ones(20, dtype=F64), lambda matrix, rhs: answer(rhs))


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.complex64, C128], ids=str)
def test_callable_solver_of_another_matrix(dtype):
    """It transposes by itself, or has factorized A beforehand: with the gradient's Aᴴ that is another system."""
    values, pattern = SYSTEMS["banded"](dtype)
    values.requires_grad_()
    A, b = sps.SparseMatrix(values, pattern), torch.randn(20, 2, dtype=dtype)
    lu = sla.splu(A.to_scipy().tocsc())
    complex_ = "adjoint" if dtype.is_complex else "transpose"
    x = sps.solve(A, b, lambda matrix, rhs: lu.solve(rhs))
    with pytest.raises(sps.SolveError, match=rf"'<lambda>' returned solves .* the {complex_} of .*for a gradient"):
        x.abs().sum().backward()
    with pytest.raises(sps.SolveError, match="the transpose of"):
        sps.solve(A, b, lambda matrix, rhs: sla.spsolve(matrix.T.tocsc(), rhs))
    if dtype.is_complex:
        with pytest.raises(sps.SolveError, match="the conjugate of"):
            sps.solve(A, b, lambda matrix, rhs: sla.spsolve(matrix.conj().tocsc(), rhs))
    loose = lambda matrix, rhs: sla.spsolve(matrix.tocsc(), rhs) * 0.9  # noqa: E731
    sps.solve(A, b, loose).abs().sum().backward()  # far from a solution, of any system


def test_callable_solver_shapes():
    values, pattern = SYSTEMS["banded"](F64)
    A, B = sps.SparseMatrix(values, pattern), torch.randn(20, 3, dtype=F64)
    direct = lambda matrix, rhs: sla.spsolve(matrix.tocsc(), rhs)  # noqa: E731
    with pytest.raises(sps.SolveError, match=r"shape \(3, 20\) .* \(20, 3\).*transposed"):
        sps.solve(A, B, lambda matrix, rhs: direct(matrix, rhs).T)
    column, vector = B[:, :1], B[:, 0]
    torch.testing.assert_close(sps.solve(A, column, direct), sps.solve(A, column))  # spsolve returns (20,)
    as_column = lambda matrix, rhs: direct(matrix, rhs)[:, None]  # noqa: E731
    torch.testing.assert_close(sps.solve(A, vector, as_column), sps.solve(A, vector))
    with pytest.raises(sps.SolveError, match="'cg' returned a tuple"):
        sps.solve(A, vector, sla.cg)


# ---- what is refused


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex32], ids=str)
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_dtypes_without_a_solver(dtype):
    values, pattern = SYSTEMS["banded"](F64)
    with pytest.raises(TypeError, match=rf"^A has dtype {dtype}.* Use A\.to\(torch\."):
        sps.solve(sps.SparseMatrix(torch.ones(pattern.nnz).to(dtype), pattern), torch.ones(20))
    with pytest.raises(TypeError, match=rf"b has dtype {dtype}"):
        sps.solve(sps.SparseMatrix(values, pattern), torch.ones(20).to(dtype))


def test_layouts_and_types_that_are_refused():
    values, pattern = SYSTEMS["banded"](F64)
    A, b = sps.SparseMatrix(values, pattern), torch.ones(20, dtype=F64)
    with pytest.raises(TypeError, match=r"A is a torch.strided tensor.*torch.linalg.solve"):
        sps.solve(A.to_dense(), b)
    with pytest.raises(TypeError, match=r"A is a ndarray.*as_tensor\(A\)\.to_sparse_csr\(\)"):
        sps.solve(A.to_dense().numpy(), b)
    with pytest.raises(TypeError, match=r"A is a torch.sparse_bsr tensor.* is needed\. Use A\.to_sparse_csr\(\)"):
        sps.solve(A.to_dense().to_sparse_bsr((2, 2)), b)
    with pytest.raises(TypeError, match=r"A is a csr_matrix.*from_scipy"):
        sps.solve(A.to_scipy(), b)
    for call in (sps.solve, sps.matmul):
        with pytest.raises(TypeError, match=r"A's pattern is a .*SparseMatrix\(values, pattern\)"):
            call(sps.SparseMatrix(pattern, values), b)
    with pytest.raises(TypeError, match="without a pattern"):
        sps.SparseMatrix(values, None)
    both = sps.Pattern.from_coo(pattern.rows(), pattern.col, pattern.shape)
    with pytest.raises(TypeError, match=r"a pattern, and the order .*SparseMatrix\(values\[order\], pattern\)"):
        sps.solve(sps.SparseMatrix(values, both), b)  # type: ignore[arg-type]
    for loose in (pattern, (values, pattern)):
        with pytest.raises(TypeError, match=r"A is a (Pattern|tuple);.*SparseMatrix\(values, pattern\)"):
            sps.solve(loose, b)
    with pytest.raises(TypeError, match=r"b must be dense"):
        sps.solve(A, torch.eye(20, dtype=F64).to_sparse())
    with pytest.raises(TypeError, match=r"not of float"):
        sps.solve(A, [1.0, 2.0])
    with pytest.raises(TypeError, match=r"A has shape \(2, 20, 20\).*SparseMatrix.*one block-diagonal matrix"):
        sps.solve(torch.ones(2, 20, 20).to_sparse(), b)
    with pytest.raises(TypeError, match=r"solver is a str"):
        sps.solve(A, b, "cg")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((), "b is a number"),
        ((19,), r"b has shape \(19,\); with A of shape \(20, 20\) it must be \(20,\)"),
        ((19, 20), r"b\.unsqueeze\(-1\)"),
        ((3, 19, 2), r"\(\*batch, 20, k\)"),
    ],
)
def test_shapes_of_b_that_do_not_fit(shape, message):
    values, pattern = SYSTEMS["banded"](F64)
    with pytest.raises(ValueError, match=message):
        sps.solve(sps.SparseMatrix(values, pattern), torch.ones(shape, dtype=F64))


def test_shapes_of_A_that_do_not_fit():
    values, pattern = SYSTEMS["banded"](F64)
    b = torch.ones(20, dtype=F64)
    for wrong in (values[1:], values[0], values.unsqueeze(-1)):
        with pytest.raises(ValueError, match=rf"the pattern has {pattern.nnz} entries"):
            sps.solve(sps.SparseMatrix(wrong, pattern), b)
    with pytest.raises(ValueError, match=r"\(3,\) of A and \(2,\) of b do not broadcast"):
        sps.solve(sps.SparseMatrix(values.expand(3, -1), pattern), torch.ones(2, 20, 1, dtype=F64))
    for A in (torch.ones(2, 3).to_sparse(), torch.ones(3, 2).to_sparse_csr()):
        with pytest.raises(ValueError, match=r"solve needs a square one.*least squares"):
            sps.solve(A, torch.ones(2))


# ---- nothing given is changed


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("name", ["unsorted", "duplicates", "stored zeros", "saddle point"])
def test_inputs_are_not_modified(name, index, adjoint):
    values, pattern = SYSTEMS[name](F64)
    pattern, b = with_indices(pattern, index), torch.randn(pattern.shape[0], 2, dtype=F64)
    kept = [t.clone() for t in (values, pattern.crow, pattern.col, b)]
    A = torch.sparse_csr_tensor(pattern.crow, pattern.col, values, pattern.shape, check_invariants=False)
    for matrix in (A, sps.SparseMatrix(values.requires_grad_(), pattern)):
        sps.solve(matrix, b, adjoint=adjoint).sum()
        sps.solve(matrix, b, lambda m, r: (m.sum_duplicates(), sla.spsolve(m.tocsc(), r))[1], adjoint=adjoint)
    sps.solve(sps.SparseMatrix(values, pattern), b, adjoint=adjoint).sum().backward()
    for now, before in zip((values.detach(), pattern.crow, pattern.col, b), kept, strict=True):
        assert torch.equal(now, before)


def test_a_callable_cannot_reach_the_inputs():
    values, pattern = SYSTEMS["banded"](F64)
    b = torch.ones(20, dtype=F64)
    kept = [t.clone() for t in (values, pattern.crow, pattern.col, b)]

    def vandal(matrix, rhs):
        x = sla.spsolve(matrix.tocsc(), rhs)
        matrix.data[:], matrix.indices[:], rhs[:] = 0, 0, 0
        return x

    x = sps.solve(sps.SparseMatrix(values, pattern), b, vandal)
    torch.testing.assert_close(x, sps.solve(sps.SparseMatrix(values, pattern), b))
    for now, before in zip((values, pattern.crow, pattern.col, b), kept, strict=True):
        assert torch.equal(now, before)


def test_result_is_its_own_memory():
    """Writing into x changes neither b nor the next answer."""
    values, pattern = SYSTEMS["1x1"](F64)
    A, b = sps.SparseMatrix(values, pattern), torch.ones(1, dtype=F64)
    x = sps.solve(A, b)
    expected = x.clone()
    x.zero_()
    assert torch.equal(b, torch.ones(1, dtype=F64))
    assert torch.equal(sps.solve(A, b), expected)


@pytest.mark.parametrize("scale", [1e-40, 1e-44])
def test_denormal_right_hand_side(scale):
    """A vanishing gradient in float32 is no reason to call the matrix singular."""
    values, pattern = SYSTEMS["Poisson 2-D"](torch.float32)
    b = scale * torch.randn(20)
    x = sps.solve(sps.SparseMatrix(values, pattern), b)
    torch.testing.assert_close(x, oracle.solve(values.double(), pattern, b.double()).float(), rtol=1e-3, atol=1e-44)


# ---- one bad column, extreme sizes, wrong operands


def _small() -> sps.SparseMatrix:
    pattern = sps.Pattern(torch.tensor([0, 2, 4, 6]), torch.tensor([0, 1, 1, 2, 0, 2]), (3, 3))
    return sps.SparseMatrix(torch.tensor([4.0, 1, 3, 2, 1, 5], dtype=torch.float64), pattern)


def test_one_bad_right_hand_side_does_not_take_the_others_along():
    A, b = _small(), torch.ones(3, dtype=torch.float64)
    B = torch.stack([b, b * float("nan"), 2 * b])
    x, info = torch.vmap(lambda b: sps.solve_with_info(A, b))(B)
    assert info.status.tolist() == [sps.Status.CONVERGED, sps.Status.BREAKDOWN, sps.Status.CONVERGED]
    torch.testing.assert_close(x[::2], sps.solve(A, B[::2].mT).mT)
    assert x[1].isnan().all()


@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25, 1e37])
def test_the_residual_reported_does_not_overflow(size: float):
    A = _small()
    single = sps.SparseMatrix(A.values.float(), A.pattern)
    b = torch.ones(3) * size
    assert sps.solve_with_info(single, b).info.residual < 1e-6
    wrong = sps.solve_with_info(single, b, lambda matrix, rhs: 0.5 * rhs).info.residual
    torch.testing.assert_close(wrong, ((A @ torch.ones(3).double() * 0.5 - 1).norm() / 3**0.5), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda A, b: sps.solve(A, None), "not of NoneType"),
        (lambda A, b: sps.solve(A, [b, None]), "not of NoneType"),
        (lambda A, b: sps.solve(A, {"a": A}), "not of SparseMatrix"),
        (lambda A, b: sps.matmul(A, A), "not of SparseMatrix"),
        (lambda A, b: sps.matmul(A, b.half()), r"x has dtype torch.float16.*\.to\(torch.float32\)"),
        (lambda A, b: sps.matmul(A, b.to_sparse()), "x must be dense"),
        (lambda A, b: sps.solve(A, b.to(torch.bool)), r"b has dtype torch.bool.*\.to\(torch.float64\)"),
        (lambda A, b: sps.solve(A, b, sps.CG(), x0=b.to_sparse()), "x0 must be dense"),
        (lambda A, b: sps.solve(A, [1.0]), "not of float"),
        (
            lambda A, b: sps.solve(sps.SparseMatrix(A.to_torch(), A.pattern), b),
            r"values are a tensor of torch.sparse_csr.*SparseMatrix.from_torch\(T\)",
        ),
        (lambda A, b: sps.solve(A, b, adjoint="N"), "adjoint is 'N'; True or False is needed.*A.mT"),
        (lambda A, b: sps.solve_with_info(A, b, adjoint=1), "adjoint is 1; True or False"),
        (lambda A, b: sps.matmul(A, b, adjoint=None), "adjoint is None; True or False"),
        (lambda A, b: sps.solve(A, b, sps.LU), "the class LU"),
        (lambda A, b: sps.solve(A, b, sps.Jacobi()), "Jacobi, a preconditioner"),
    ],
)
def test_operands_that_are_no_tensors(call, match: str):
    with pytest.raises(TypeError, match=match):
        call(_small(), torch.ones(3, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_half_complex_becomes_complex():
    with pytest.raises(TypeError, match=r"b has dtype torch.complex32.*\.to\(torch.complex64\)"):
        sps.solve(_small(), torch.ones(3).to(torch.complex32))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda A, b: sps.matmul(A, b[:2]), r"x has shape \(2,\); with A"),
        (lambda A, b: sps.matmul(A, b[0]), "x is a number"),
        (lambda A, b: A @ b.expand(2, 3), r"x has shape \(2, 3\).*x\.unsqueeze\(-1\)"),
        (lambda A, b: A @ b.to("meta"), "and x on meta"),
        (lambda A, b: sps.solve(A, b, sps.CG(), x0=b.to("meta")), r"x0 is \(3,\) on meta, and b is"),
        (lambda A, b: sps.solve(A, b.to("meta")), "and b on meta"),
    ],
)
def test_errors_name_the_operand(call, match: str):
    with pytest.raises(ValueError, match=match):
        call(_small(), torch.ones(3, dtype=torch.float64))


def test_a_tree_without_leaves():
    assert sps.solve(_small(), []) == []


@pytest.mark.parametrize("compiled", [False, True])
def test_autocast(compiled: bool):
    """What a linear layer returns is half there; the solve is not."""
    A, layer = _small(), torch.nn.Linear(3, 3)
    single = sps.SparseMatrix(A.values.float(), A.pattern)

    def f(t):
        return sps.solve(single, layer(t))

    f = torch.compile(f, fullgraph=True, backend="aot_eager") if compiled else f
    t = torch.ones(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = f(t)
        assert layer(t).dtype == torch.bfloat16
    assert x.dtype == torch.float32
    torch.testing.assert_close(single @ x, layer(t), rtol=2e-2, atol=2e-2)
    x.sum().backward()
    assert layer.weight.grad.isfinite().all()


def test_x_has_the_type_of_b() -> None:
    """For type checkers: `return sps.solve(A, b)` is a Tensor where b is one, not Any, which strict ones refuse."""
    for function, name in ((sps.solve, "b"), (sps.matmul, "x")):
        hints = typing.get_type_hints(function)
        assert isinstance(hints["return"], typing.TypeVar)
        assert hints["return"] is hints[name]
