"""Products of sparse matrices and duplicates added up: against the same of dense matrices, under every transform."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.func import grad, hessian, jacrev, jvp, vmap

import oracle
import sparsolve as sps

F64, C128 = torch.float64, torch.complex128
# 3 x 4 and 4 x 3, neither sorted; duplicates in each, an empty row in the second
A34 = sps.Pattern(torch.tensor([0, 3, 5, 6]), torch.tensor([3, 0, 3, 2, 1, 1]), (3, 4))
B43 = sps.Pattern(torch.tensor([0, 2, 2, 5, 7]), torch.tensor([1, 0, 2, 0, 2, 1, 2]), (4, 3))
TRANSFORMS = {
    "plain": lambda f: f,
    "jacrev": lambda f: jacrev(f, argnums=(0, 1)),
    "jvp": lambda f: lambda a, b: jvp(f, (a, b), (2 * a, b))[1],
    # of one argument: torch 2.11 does not compile those of several, of dense code neither
    "hessian": lambda f: lambda a, b: hessian(lambda v: f(*v.split([len(a), len(b)])).pow(3).sum())(torch.cat([a, b])),
    "jvp of grad": lambda f: lambda a, b: jvp(grad(lambda a: f(a, b).abs().pow(3).sum()), (a,), (2 * a,))[1],
    "vmap": lambda f: lambda a, b: vmap(f, (0, None))(torch.stack([a, 2 * a]), b),
    "grad of vmap": lambda f: grad(lambda a, b: vmap(f, (0, None))(torch.stack([a, 2 * a]), b).abs().pow(2).sum()),
}
REAL = ("jacrev", "hessian")  # torch has these for real numbers only
each = pytest.mark.parametrize(
    ("name", "dtype"), [(n, d) for n in TRANSFORMS for d in (F64, C128) if d is F64 or n not in REAL], ids=str
)


def both(a: Tensor, b: Tensor) -> tuple[sps.SparseMatrix, sps.SparseMatrix]:
    return sps.SparseMatrix(a, A34), sps.SparseMatrix(b, B43)


def check(name: str, ours: Any, theirs: Any, *inputs: Tensor) -> None:
    torch.testing.assert_close(TRANSFORMS[name](ours)(*inputs), TRANSFORMS[name](theirs)(*inputs), rtol=1e-9, atol=1e-9)


def canonical(pattern: sps.Pattern) -> bool:
    key = pattern.rows() * pattern.shape[1] + pattern.col
    return bool((key[1:] > key[:-1]).all())


@each
def test_a_product_and_a_solve_with_it(name: str, dtype: torch.dtype) -> None:
    a, b = torch.randn(6, dtype=dtype), torch.randn(7, dtype=dtype)
    right, eye = torch.randn(3, dtype=dtype), torch.eye(3, dtype=dtype)
    shift = sps.SparseMatrix.from_diagonal(9 * torch.ones(3, dtype=dtype))

    def ours(a: Tensor, b: Tensor) -> sps.SparseMatrix:
        A, B = both(a, b)
        return A @ B

    def theirs(a: Tensor, b: Tensor) -> Tensor:
        return oracle.dense(a, A34) @ oracle.dense(b, B43)

    check(name, lambda a, b: ours(a, b).to_dense(), theirs, a, b)
    inverse = lambda a, b: torch.linalg.inv(theirs(a, b) + 9 * eye) @ right  # noqa: E731
    check(name, lambda a, b: sps.solve(ours(a, b) + shift, right), inverse, a, b)


@each
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_product_on_patterns_that_stay(name: str, dtype: torch.dtype, compiled: bool) -> None:
    a, b = torch.randn(6, dtype=dtype), torch.randn(7, dtype=dtype)
    made = sps.Product(A34, B43)
    ours = TRANSFORMS[name](lambda a, b: made(*both(a, b)).to_dense())
    if compiled:
        torch._dynamo.reset()
        ours = torch.compile(ours, fullgraph=True, backend="aot_eager")
    theirs = TRANSFORMS[name](lambda a, b: oracle.dense(a, A34) @ oracle.dense(b, B43))
    torch.testing.assert_close(ours(a, b), theirs(a, b), rtol=1e-9, atol=1e-9)
    assert made.pattern == (both(a, b)[0] @ both(a, b)[1]).pattern
    assert canonical(made.pattern)


inductor_warns = pytest.mark.filterwarnings("ignore:.torch._prims_common.check. is deprecated:FutureWarning")


@inductor_warns
@pytest.mark.parametrize("name", ["hessian", "jvp of grad", "grad of vmap"])
def test_a_compiled_product_by_inductor(name: str) -> None:
    """Where torch's own operations on indices end in an error of Inductor."""
    a, b = torch.randn(6, dtype=F64), torch.randn(7, dtype=F64)
    made = sps.Product(A34, B43)
    torch._dynamo.reset()
    ours = torch.compile(TRANSFORMS[name](lambda a, b: made(*both(a, b)).to_dense()), fullgraph=True)
    theirs = TRANSFORMS[name](lambda a, b: oracle.dense(a, A34) @ oracle.dense(b, B43))
    torch.testing.assert_close(ours(a, b), theirs(a, b), rtol=1e-9, atol=1e-9)


@inductor_warns
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")  # torch.func.linearize, of dense code too
def test_products_in_a_compiled_solve() -> None:
    """A graph's Laplacian with learnt weights: two products, whose patterns are known before."""
    row, start = torch.arange(5).repeat_interleave(2), torch.tensor([0, 1, 1, 2, 2, 3, 3, 0, 0, 2])
    B = sps.SparseMatrix.from_coo(torch.tensor([-1.0, 1.0], dtype=F64).repeat(5), row, start, (5, 4))
    W = sps.SparseMatrix.from_diagonal(torch.ones(5, dtype=F64))
    half = sps.Product(B.mT, W)
    whole = sps.Product(half.pattern, B)
    BT, ground, b = B.mT, sps.SparseMatrix.from_diagonal(torch.ones(4, dtype=F64)), torch.arange(4.0, dtype=F64)

    def energy(w: Tensor) -> Tensor:
        L = whole(half(BT, sps.SparseMatrix(w, W.pattern)), B)
        return b @ sps.solve(L + ground, b)

    def dense(w: Tensor) -> Tensor:
        D = B.to_dense()
        return b @ torch.linalg.inv(D.mT @ torch.diag(w) @ D + torch.eye(4, dtype=F64)) @ b

    w = torch.linspace(1, 2, 5, dtype=F64)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(hessian(energy), fullgraph=True)(w), hessian(dense)(w))
    torch.testing.assert_close(torch.func.linearize(energy, w)[1](w.cos()), jvp(dense, (w,), (w.cos(),))[1])


def test_batches_and_dtypes_of_a_product() -> None:
    a, b = torch.randn(2, 1, 6), torch.randn(3, 7, dtype=C128)
    found = sps.Product(A34, B43)(*both(a, b))
    assert (found.values.shape[:-1], found.dtype) == ((2, 3), C128)
    expected = oracle.dense(a, A34).to(C128) @ oracle.dense(b, B43)
    torch.testing.assert_close(found.to_dense(), expected)
    none = sps.Pattern(torch.zeros(5, dtype=torch.long), torch.zeros(0, dtype=torch.long), (4, 2))
    nothing = sps.Product(A34, none)(both(a[0, 0], b)[0], sps.SparseMatrix(torch.zeros(0), none))
    assert (nothing.shape, nothing.nnz) == ((3, 2), 0)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda A, B: sps.Product(A, A), ValueError, r"A has shape \(3, 4\) and B \(3, 4\)"),
        (lambda A, B: sps.Product(A.values, B), TypeError, "pattern"),
        (lambda A, B: sps.Product(A, B)(B, A), ValueError, "A is on another pattern than this product's"),
        (lambda A, B: sps.Product(A, B)(A, A.mT), ValueError, "B is on another pattern than this product's"),
        (lambda A, B: sps.Product(A, B)(A, B.values), TypeError, "B is a torch.strided tensor"),
        (lambda A, B: sps.Product(A, B)(A.to(torch.float16), B), TypeError, "float16"),
        (
            lambda A, B: sps.Product(A, B)(
                sps.SparseMatrix(A.values.expand(2, -1), A.pattern), sps.SparseMatrix(B.values.expand(3, -1), B.pattern)
            ),
            ValueError,
            "broadcast",
        ),
    ],
)
def test_products_that_are_refused(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call(*both(torch.ones(6), torch.ones(7)))


def test_a_product_made_in_compiled_code() -> None:
    torch._dynamo.reset()
    with pytest.raises(Exception, match="Make it outside, and call it inside"):
        torch.compile(lambda a: sps.Product(A34, B43).pattern.nnz * a, fullgraph=True, backend="eager")(torch.ones(1))


@each
def test_coalesced(name: str, dtype: torch.dtype) -> None:
    a, w = torch.randn(6, dtype=dtype), torch.randn(6, dtype=dtype)
    same = lambda a, w: sps.SparseMatrix(a * w, A34).coalesce().to_dense()  # noqa: E731
    check(name, same, lambda a, w: oracle.dense(a * w, A34), a, w)
    entries = lambda a, w: sps.SparseMatrix(a * w, A34).coalesce().values  # noqa: E731
    places = ([0, 0, 1, 1, 2], [0, 3, 1, 2, 1])
    check(name, entries, lambda a, w: oracle.dense(a * w, A34)[places], a, w)


def test_gradcheck() -> None:
    a, b = torch.randn(6, dtype=C128, requires_grad=True), torch.randn(2, 7, dtype=C128, requires_grad=True)

    def values(a: Tensor, b: Tensor) -> Tensor:
        A, B = both(a, b)
        return (A @ B).values

    flags = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(values, (a, b), **flags)
    assert torch.autograd.gradgradcheck(values, (a, b), check_fwd_over_rev=True)


def test_form() -> None:
    """One entry for each place, by rows and columns; a stored zero is one, and what cancels stays."""
    A, B = both(torch.ones(6), torch.ones(7))
    C = A @ B
    assert canonical(C.pattern)
    assert C.coalesce().pattern is C.pattern
    assert C.coalesce().values is C.values
    assert C.pattern.col.dtype == torch.int64
    assert (A @ (0 * B)).pattern == (A @ B).pattern
    D = A.coalesce()
    assert canonical(D.pattern)
    assert (A.nnz, D.nnz) == (6, 5)
    assert (D @ D.mT).pattern == (A @ A.mT).pattern
    order, narrow = torch.tensor([0, 1]), torch.tensor([0, 1, 2], dtype=torch.int32)
    eye = sps.SparseMatrix(torch.ones(2), sps.Pattern(narrow, narrow[:2], (2, 2)))
    wide = sps.SparseMatrix.from_coo(torch.ones(2), order, order, (2, 2))
    assert [(x @ y).pattern.col.dtype for x in (eye, wide) for y in (eye, wide)] == [torch.int32] + 3 * [torch.int64]
    unsorted = sps.SparseMatrix.from_coo(torch.ones(2), 0 * order, 1 - order, (2, 2))
    assert canonical(unsorted.coalesce().pattern)
    assert unsorted.to(F64).coalesce().pattern.col.tolist() == [0, 1]


def test_batches_and_dtypes() -> None:
    a, b = torch.randn(3, 1, 6, dtype=torch.float32), torch.randn(2, 7, dtype=C128)
    A, B = both(a, b)
    C = A @ B
    assert C.dtype == C128
    assert C.values.shape == (3, 2, C.nnz)
    expected = oracle.dense(a[2, 0].to(C128), A34) @ oracle.dense(b[1], B43)
    torch.testing.assert_close(C.to_dense()[2, 1], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 0, 0), (3, 0, 2), (0, 4, 3), (3, 4, 0), (3, 4, 2)], ids=str)
def test_no_entries(shape: tuple[int, int, int]) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    m, k, n = shape
    A, B = (sps.SparseMatrix.from_coo(torch.zeros(0, dtype=F64), none, none, s) for s in ((m, k), (k, n)))
    C = A @ B
    assert (C.shape, C.nnz) == ((m, n), 0)
    assert A.coalesce().pattern is A.pattern
    if k == 4 and m:
        assert (sps.SparseMatrix(torch.ones(6, dtype=F64), A34) @ B).nnz == 0


def test_against_scipy() -> None:
    """What graphs and least squares are made of: `Bᵀ diag(w) B`, Hermitian to the last bit."""
    rng = np.random.default_rng(3)
    M = sp.random_array((80, 60), density=0.1, random_state=rng, format="csr")
    w = torch.rand(80, dtype=F64)
    B = sps.SparseMatrix.from_scipy(M)
    L = B.mT @ sps.SparseMatrix.from_diagonal(w) @ B
    expected = (M.T @ sp.diags_array(w.numpy()) @ M).tocsr()
    np.testing.assert_allclose(L.to_scipy().toarray(), expected.toarray(), rtol=1e-12, atol=1e-12)
    assert L.nnz == expected.nnz
    assert torch.equal(B.mT.to_dense() @ B.to_dense() != 0, (B.mT @ B).to_dense() != 0)
    assert torch.equal((B.mT @ B).to_dense(), (B.mT @ B).to_dense().mT)
    sps.solve(L + sps.SparseMatrix.from_diagonal(torch.ones(60, dtype=F64)), torch.ones(60, dtype=F64), sps.Cholesky())


def test_one_analysis_for_all_values() -> None:
    """Products are new patterns with equal indices."""
    sps.clear_memo()
    for w in (1.0, 2.0, 3.0):
        A, B = both(torch.full((6,), w, dtype=F64), torch.arange(1.0, 8, dtype=F64))
        sps.solve(A @ B + sps.SparseMatrix.from_diagonal(torch.full((3,), 99.0, dtype=F64)), torch.ones(3, dtype=F64))
    info = sps.memo_info()
    assert (info.factorizations, info.analyses) == (3, 1)


def test_compiled_code_is_left_for_them() -> None:
    A, B = both(torch.randn(6, dtype=F64), torch.randn(7, dtype=F64))
    x = torch.randn(3, dtype=F64)

    def f(a: Tensor) -> Tensor:
        return sps.matmul(sps.SparseMatrix(a, A34) @ B, x)

    def g(a: Tensor) -> Tensor:
        return sps.matmul(sps.SparseMatrix(2 * a, A34).coalesce().mT, x)

    for call, match in ((f, "SparseMatrix"), (g, "How many entries.*Form it outside")):
        with pytest.raises(torch._dynamo.exc.Unsupported, match=match):
            torch.compile(call, backend="aot_eager", fullgraph=True)(A.values)
        torch.testing.assert_close(torch.compile(call, backend="aot_eager")(A.values), call(A.values))


def test_what_is_refused() -> None:
    A, B = both(torch.ones(6), torch.ones(7))
    wrong = sps.SparseMatrix.from_torch(
        torch.sparse_csr_tensor([0, 1, 1, 1, 1], [7], [1.0], (4, 3), check_invariants=False)
    )
    for attempt, error, match in (
        (lambda: A @ A, ValueError, r"A has shape \(3, 4\) and B \(3, 4\); A @ B needs"),
        (lambda: A @ B.to("meta"), TypeError, "fake tensors, as those on meta, have none"),
        (lambda: A @ sps.SparseMatrix(torch.ones(5), B43), ValueError, r"values have shape \(5,\)"),
        (lambda: A @ sps.SparseMatrix(torch.ones(7), (B43, None)), TypeError, "A's pattern is a tuple"),  # type: ignore[arg-type]
        (
            lambda: sps.SparseMatrix(torch.ones(2, 6), A34) @ sps.SparseMatrix(torch.ones(3, 7), B43),
            ValueError,
            "do not",
        ),
        (lambda: A @ wrong, sps.PatternError, r"is in column 7, outside \[0, 3\)"),
        (lambda: wrong.coalesce(), sps.PatternError, r"is in column 7, outside \[0, 3\)"),
        (lambda: A.to("meta").coalesce(), TypeError, "fake tensors"),
        (lambda: sps.matmul(A, B), TypeError, "A @ B"),  # type: ignore[arg-type]
    ):
        with pytest.raises(error, match=match):
            attempt()
