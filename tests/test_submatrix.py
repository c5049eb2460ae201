"""Parts of a matrix, and dense matrices as sparse ones: against indexing of dense matrices, under every transform."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacrev, jvp, vmap

import oracle
import sparsolve as sps

F64, C128 = torch.float64, torch.complex128
# 4 x 5, unsorted, with duplicates and an empty row
P = sps.Pattern(torch.tensor([0, 4, 4, 6, 9]), torch.tensor([4, 0, 4, 2, 1, 3, 3, 0, 2]), (4, 5))
EVEN = torch.tensor([True, False, True, True])
TRANSFORMS = {
    "plain": lambda f: f,
    "jacrev": lambda f: jacrev(f),
    "jvp": lambda f: lambda a: jvp(f, (a,), (2 * a,))[1],
    "hessian": lambda f: hessian(lambda a: f(a).pow(3).sum()),
    "vmap": lambda f: lambda a: vmap(f)(torch.stack([a, 2 * a])),
    "grad of vmap": lambda f: grad(lambda a: vmap(f)(torch.stack([a, 2 * a])).abs().pow(2).sum()),
    "compile": lambda f: f,
}
REAL = ("jacrev", "hessian")  # torch has these for real numbers only
each = pytest.mark.parametrize(
    ("name", "dtype"), [(n, d) for n in TRANSFORMS for d in (F64, C128) if d is F64 or n not in REAL], ids=str
)
PARTS = [
    (torch.tensor([2, 0]), torch.tensor([3, 4, 0])),
    (EVEN, torch.tensor([-1, 0], dtype=torch.int32)),
    (torch.tensor([1]), torch.tensor([2])),
    (torch.tensor([], dtype=torch.int64), torch.tensor([1])),
]


@each
@pytest.mark.parametrize(("rows", "columns"), PARTS, ids=["indices", "mask", "empty", "nothing"])
def test_a_part(rows: Tensor, columns: Tensor, name: str, dtype: torch.dtype) -> None:
    a = torch.randn(9, dtype=dtype)
    ours: Any = lambda a: sps.SparseMatrix(a, P).submatrix(rows, columns).to_dense()  # noqa: E731
    theirs = lambda a: oracle.dense(a, P)[rows][:, columns.long()]  # noqa: E731
    if name == "compile":  # as the error says
        part, entries = P.submatrix(rows, columns)
        ours = torch.compile(
            lambda a: sps.SparseMatrix(a[entries], part).to_dense(), fullgraph=True, backend="aot_eager"
        )
    torch.testing.assert_close(TRANSFORMS[name](ours)(a), TRANSFORMS[name](theirs)(a))


def test_unknowns_that_are_given() -> None:
    """`A x = b` with some of x known: the free ones from the equations of their own."""
    torch.manual_seed(1)
    D = torch.randn(2, 6, 6, dtype=F64) + 6 * torch.eye(6, dtype=F64)
    A, free, known = sps.SparseMatrix.from_dense(D), torch.tensor([0, 2, 5]), torch.tensor([4, 1, 3])
    x, b = torch.randn(3, dtype=F64), torch.randn(3, 1, dtype=F64)
    got = sps.solve(A.submatrix(free), b - A.submatrix(free, known) @ x[:, None])
    expected = torch.linalg.inv(D[:, free][:, :, free]) @ (b - D[:, free][:, :, known] @ x[:, None])
    torch.testing.assert_close(got, expected)
    assert A.submatrix(free).pattern.col.dtype == torch.int64


@each
def test_every_entry_of_a_dense_matrix(name: str, dtype: torch.dtype) -> None:
    D = torch.randn(3, 3, dtype=dtype) + 4 * torch.eye(3, dtype=dtype)
    D[0, 1] = 0  # its derivative is not
    b = torch.randn(3, dtype=dtype)
    ours = lambda D: sps.solve(sps.SparseMatrix.from_dense(D), b)  # noqa: E731
    if name == "compile":
        ours = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(TRANSFORMS[name](ours)(D), TRANSFORMS[name](lambda D: torch.linalg.inv(D) @ b)(D))


def test_a_border_that_is_learnt() -> None:
    c = torch.tensor([[1.0, 0.0, 2.0]], dtype=F64)
    eye = sps.SparseMatrix.from_diagonal(torch.ones(3, dtype=F64))

    def ours(c: Tensor) -> Tensor:
        C = sps.SparseMatrix.from_dense(c)
        return sps.solve(sps.SparseMatrix.from_blocks([[eye, C.mT], [C, None]]), torch.arange(4.0, dtype=F64))

    def theirs(c: Tensor) -> Tensor:
        zero = torch.zeros(1, 1, dtype=F64)
        K = torch.cat([torch.cat([torch.eye(3, dtype=F64), c.mT], 1), torch.cat([c, zero], 1)])
        return torch.linalg.inv(K) @ torch.arange(4.0, dtype=F64)

    torch.testing.assert_close(jacrev(ours)(c), jacrev(theirs)(c))


def test_what_is_refused() -> None:
    A, i = sps.SparseMatrix(torch.ones(9), P), torch.tensor([0, 1])
    for attempt, error, match in (
        (lambda: A.submatrix([0, 1]), TypeError, "rows is a list; a one-dimensional tensor of indices, or a mask"),
        (lambda: A.submatrix(i, torch.tensor(1)), TypeError, "columns is"),
        (lambda: A.submatrix(i.double()), TypeError, "rows is"),
        (lambda: A.submatrix(EVEN), ValueError, "columns is a mask of 4 for 5"),
        (lambda: A.submatrix(i, torch.tensor([0, 5])), ValueError, r"columns has numbers outside of \[0, 5\)"),
        (lambda: A.submatrix(torch.tensor([1, -3])), ValueError, "rows has a number twice"),
        (lambda: A.to("meta").submatrix(i), TypeError, "Call submatrix outside"),
        (lambda: sps.SparseMatrix(torch.ones(8), P).submatrix(i), ValueError, r"values have shape \(8,\)"),
        (lambda: A[i], TypeError, r"A.submatrix\(rows, columns\)"),
        (lambda: sps.SparseMatrix.from_dense(torch.ones(3)), ValueError, r"D has shape \(3,\)"),
        (lambda: sps.SparseMatrix.from_dense([[1.0]]), TypeError, "D must be a torch.Tensor"),  # type: ignore[arg-type]
        (lambda: sps.SparseMatrix.from_dense(torch.eye(2).to_sparse()), TypeError, "D must be dense"),
        (
            lambda: sps.SparseMatrix.from_blocks([[A], [torch.ones(1, 5)]]),
            TypeError,
            r"Use SparseMatrix.from_dense\(x\)",
        ),  # type: ignore[list-item]
    ):
        with pytest.raises(error, match=match):
            attempt()
