"""Sparse tensors as arguments and as results: derivatives to the third order, with plain autograd and in torch.func."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import oracle
import sparsolve as sps

Loss = Callable[[Any], Tensor]
both_dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
both_layouts = pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr], ids=str)
orders = pytest.mark.parametrize("order", [1, 2, 3])


def problem(dtype: torch.dtype) -> tuple[Tensor, sps.Pattern, Tensor]:
    """Values on an unsorted pattern with duplicates, and a right-hand side."""
    torch.manual_seed(3)
    row = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3, 3])
    col = torch.tensor([1, 0, 1, 2, 1, 3, 0, 2, 3, 1])
    pattern, _ = sps.Pattern.from_coo(row, col, (4, 4))
    values = torch.randn(10, dtype=dtype) + 2 * (row == col)
    return values, pattern, torch.randn(4, dtype=dtype)


def size(x: Tensor) -> Tensor:
    """Not linear, so that each derivative depends on the one before it."""
    return (x.abs().square() + x.real.sin()).sum()


def by_autograd(f: Loss, A: Tensor, numbers: Callable[[Tensor], Tensor], order: int) -> Tensor:
    """`numbers` of the gradient of the size of ... of the gradient of f."""
    loss = f(A)
    for _ in range(order):
        (gradient,) = torch.autograd.grad(loss, A, create_graph=True)
        loss = size(numbers(gradient))
    return numbers(gradient).detach()


def by_func(f: Loss, A: Tensor, numbers: Callable[[Tensor], Tensor], order: int) -> Tensor:
    if order == 1:
        return numbers(grad(f)(A))
    return by_func(lambda A: size(numbers(grad(f)(A))), A, numbers, order - 1)


def entries(T: Tensor) -> Tensor:
    return sps.SparseMatrix.from_torch(T).values


def halves(T: Tensor) -> Tensor:
    """Each entry in two halves: uncoalesced."""
    return torch.sparse_coo_tensor(T.indices().repeat(1, 2), T.values().repeat(2) / 2, T.shape, check_invariants=True)


TENSORS: dict[str, Callable[[Tensor], Tensor]] = {
    "coo": lambda D: D.to_sparse(),
    "uncoalesced": lambda D: halves(D.to_sparse()),
    "csr": lambda D: D.to_sparse_csr(),
    "csc": lambda D: D.to_sparse_csc(),
}


@both_dtypes
@orders
@pytest.mark.parametrize("name", TENSORS)
def test_derivatives_in_a_tensor(name: str, order: int, dtype: torch.dtype) -> None:
    values, pattern, b = problem(dtype)
    D = oracle.dense(values, pattern)
    stored = D != 0
    T = TENSORS[name](D)
    expected = by_autograd(
        lambda A: size(torch.linalg.inv(A) @ b), D.clone().requires_grad_(), lambda g: g[stored], order
    )
    loss = lambda A: size(sps.solve(A, b))  # noqa: E731
    torch.testing.assert_close(by_autograd(loss, T.clone().requires_grad_(), entries, order), expected)
    if T.layout is torch.sparse_coo:
        torch.testing.assert_close(by_func(loss, T, entries, order), expected)


@both_dtypes
@orders
@both_layouts
def test_derivatives_through_to_torch(layout: torch.layout, order: int, dtype: torch.dtype) -> None:
    values, pattern, b = problem(dtype)
    same = lambda g: g  # noqa: E731

    def loss(w: Tensor) -> Tensor:  # a square besides, which has a second derivative of its own
        return size(sps.solve(sps.SparseMatrix(w, pattern).to_torch(layout), b)) + size(w)

    expected = by_autograd(
        lambda w: size(oracle.solve(w, pattern, b)) + size(w), values.clone().requires_grad_(), same, order
    )
    torch.testing.assert_close(by_autograd(loss, values.clone().requires_grad_(), same, order), expected)
    if layout is torch.sparse_coo:
        torch.testing.assert_close(by_func(loss, values, same, order), expected)
        torch.testing.assert_close(vjp(loss, values)[1](torch.ones((), dtype=torch.float64))[0], grad(loss)(values))


def dual(f: Loss, w: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return f(forward_ad.make_dual(w, w))


NOWHERE: dict[str, Callable[[Loss, Tensor], Any]] = {
    "jvp": lambda f, w: jvp(f, (w,), (w,)),
    "hessian": lambda f, w: hessian(f)(w),
    "jacfwd": lambda f, w: jacfwd(f)(w),
    "jacrev": lambda f, w: jacrev(f)(w),
    "vmap": lambda f, w: vmap(f)(torch.stack([w, w])),
    "forward_ad": dual,
}


@both_layouts
@pytest.mark.parametrize("name", [*NOWHERE, "grad"])
def test_to_torch_is_refused_where_torch_has_no_sparse_tensors(name: str, layout: torch.layout) -> None:
    """`grad` takes COO tensors."""
    refuses = name in NOWHERE or layout is torch.sparse_csr
    transform = NOWHERE.get(name, lambda f, w: grad(f)(w))
    values, pattern, b = problem(torch.float64)

    def loss(w: Tensor) -> Tensor:
        return size(sps.solve(sps.SparseMatrix(w, pattern).to_torch(layout), b))

    sentence = r"A sparse tensor was asked for .* Use SparseMatrix\(values, pattern\)"
    with pytest.raises(TypeError, match=sentence) if refuses else contextlib.nullcontext():
        transform(loss, values)


@pytest.mark.parametrize("name", TENSORS)
def test_a_gradient_in_a_tensor_has_no_tangent(name: str) -> None:
    values, pattern, b = problem(torch.float64)
    T = TENSORS[name](oracle.dense(values, pattern)).requires_grad_()
    with forward_ad.dual_level():
        x = sps.solve(T, forward_ad.make_dual(b, b))
        with pytest.raises(TypeError, match=r"with a tangent .* Use SparseMatrix"):
            torch.autograd.grad(size(x), T)


@both_layouts
def test_to_torch_of_a_captured_matrix(layout: torch.layout) -> None:
    """Inside a transform in something else the tensor is a constant; a derivative outside follows it."""
    values, pattern, b = problem(torch.float64)
    A = sps.SparseMatrix(values.requires_grad_(), pattern)
    ours, dense = (lambda b: sps.solve(A.to_torch(layout), b).sin()), (lambda b: oracle.solve(values, pattern, b).sin())
    for transform in (
        lambda f: grad(lambda b: f(b).sum())(b),
        lambda f: jvp(f, (b,), (b,))[1],
        lambda f: vmap(f)(torch.stack([b, 2 * b])),
        lambda f: hessian(lambda b: f(b).sum())(b),
    ):
        got, expected = transform(ours), transform(dense)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(*(torch.autograd.grad(size(t), values)[0] for t in (got, expected)))


def test_a_pattern_made_inside_of_a_transform() -> None:
    values, pattern, b = problem(torch.float64)

    def loss(w: Tensor) -> Tensor:
        inside = sps.Pattern(pattern.crow.clone(), pattern.col.clone(), pattern.shape)
        return size(sps.solve(sps.SparseMatrix(w, inside).to_torch(torch.sparse_coo), b))

    expected = grad(lambda w: size(oracle.solve(w, pattern, b)))(values)
    torch.testing.assert_close(grad(loss)(values), expected)


@both_dtypes
@both_layouts
@pytest.mark.parametrize("places", ["all", "some", "as many", "none", "dense"])
def test_cotangents_on_another_pattern(places: str, layout: torch.layout, dtype: torch.dtype) -> None:
    """They are read at the pattern's places, differentiably, whatever they store."""
    values, pattern, _ = problem(dtype)
    G = torch.randn(4, 4, dtype=dtype)
    many = torch.arange(16).view(4, 4) >= 16 - pattern.nnz
    G = G * {"all": 1, "some": torch.eye(4).flip(0), "as many": many, "none": 0, "dense": 1}[places]
    given = G.clone() if places == "dense" else G.to_sparse(layout=layout)
    given.requires_grad_()
    values.requires_grad_()
    T = sps.SparseMatrix(values, pattern).to_torch(layout)
    (got,) = torch.autograd.grad(T, values, given, create_graph=True)
    torch.testing.assert_close(got, G[pattern.rows(), pattern.col])
    if layout is torch.sparse_coo:
        (back,) = torch.autograd.grad(got, given, values.detach())
        back = back if places == "dense" else back.to_dense()
        torch.testing.assert_close(back, oracle.dense(values.detach(), pattern) * (1 if places == "dense" else G != 0))


@both_dtypes
@both_layouts
@pytest.mark.parametrize("lazy", [False, True])
def test_to_torch_has_its_own_memory(lazy: bool, layout: torch.layout, dtype: torch.dtype) -> None:
    values, pattern = oracle.pattern_of(
        torch.tensor([[4, 1], [0, 3]], dtype=dtype) * (1 if not dtype.is_complex else 1j)
    )
    given = torch._neg_view(values.conj()) if lazy else values
    kept = given.clone()
    T = sps.SparseMatrix(given, pattern).to_torch(layout)
    torch.testing.assert_close(T.to_dense(), oracle.dense(given, pattern))
    assert not T.values().is_conj()
    assert not T.values().is_neg()
    T.values().zero_()
    assert torch.equal(given, kept)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch, between two graphs
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_code_that_may_be_in_pieces(backend: str) -> None:
    """Indices are read outside of the graphs: duplicates are seen, and a tensor that is coalesced in name only."""
    values, pattern, b = problem(torch.float64)
    T = oracle.dense(values, pattern).to_sparse()
    order = torch.randperm(T._nnz())
    named = torch.sparse_coo_tensor(T.indices()[:, order], T.values()[order], T.shape, is_coalesced=True)
    expected = oracle.solve(values, pattern, b)
    torch.compiler.reset()
    compiled = torch.compile(sps.solve, backend=backend)
    for A in (T, halves(T), named):
        torch.testing.assert_close(compiled(A, b), expected)
    for layout in (torch.sparse_coo, torch.sparse_csr):
        through = torch.compile(
            lambda v, layout: sps.solve(sps.SparseMatrix(v, pattern).to_torch(layout), b), backend=backend
        )
        v = values.clone().requires_grad_()
        got = through(v, layout)
        torch.testing.assert_close(got, expected)
        (gradient,) = torch.autograd.grad(size(got), v)
        torch.testing.assert_close(gradient, grad(lambda v: size(oracle.solve(v, pattern, b)))(values))


@pytest.mark.parametrize("name", TENSORS)
def test_from_torch_has_its_own_values(name: str) -> None:
    values, pattern, _ = problem(torch.float64)
    T = TENSORS[name](oracle.dense(values, pattern))
    kept = T.to_dense().clone()
    entries(T).zero_()
    assert torch.equal(T.to_dense(), kept)


@pytest.mark.parametrize("name", ["coo", "uncoalesced"])
def test_a_gradient_is_a_coo_tensor_on_the_pattern(name: str) -> None:
    values, pattern, b = problem(torch.float64)
    T = TENSORS[name](oracle.dense(values, pattern)).requires_grad_()
    for gradient in (
        torch.autograd.grad(sps.solve(T, b).sum(), T)[0],
        grad(lambda T: sps.solve(T, b).sum())(T.detach()),
    ):
        assert gradient.layout is torch.sparse_coo
        assert gradient.is_coalesced()
        assert torch.equal(gradient.indices(), T.detach().coalesce().indices())
