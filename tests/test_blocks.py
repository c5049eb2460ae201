"""Matrices of blocks: against the same of dense blocks, under every transform."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacrev, jvp, vmap

import sparsolve as sps

F64, C128 = torch.float64, torch.complex128
REAL = ("jacrev", "hessian")  # torch has these for real numbers only
H = sps.Pattern(torch.tensor([0, 2, 3, 5, 6]), torch.tensor([0, 1, 1, 2, 0, 3]), (4, 4))
B = sps.Pattern(torch.tensor([0, 3, 5], dtype=torch.int32), torch.tensor([3, 0, 0, 2, 1], dtype=torch.int32), (2, 4))
TRANSFORMS = {
    "plain": lambda f: f,
    "jacrev": lambda f: jacrev(f, argnums=(0, 1)),
    "jvp": lambda f: lambda h, b: jvp(f, (h, b), (b.new_ones(h.shape), b))[1],
    "hessian": lambda f: hessian(lambda h, b: f(h, b).pow(2).sum(), argnums=(0, 1)),
    "vmap": lambda f: vmap(f, (0, None)),
    "grad of vmap": lambda f: grad(lambda h, b: vmap(f, (0, None))(torch.stack([h, 2 * h]), b).abs().pow(2).sum()),
    "compile": lambda f: torch.compile(f, fullgraph=True, backend="aot_eager"),
}


def dense(h: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    def one(values: Tensor, pattern: sps.Pattern) -> Tensor:
        zero = values.new_zeros(*values.shape[:-1], pattern.shape[0] * pattern.shape[1])
        return zero.index_add(-1, pattern.rows() * pattern.shape[1] + pattern.col, values).unflatten(-1, pattern.shape)

    return one(h, H), one(b, B)


def ours(h: Tensor, b: Tensor) -> sps.SparseMatrix:
    K, G = sps.SparseMatrix(h, H), sps.SparseMatrix(b, B)
    return sps.SparseMatrix.from_blocks([[K, G.mT], [G, None]])


def theirs(h: Tensor, b: Tensor) -> Tensor:
    K, G = dense(h, b)
    zero = torch.zeros(*K.shape[:-2], 2, 2, dtype=G.dtype)
    G = G.expand(*K.shape[:-2], *G.shape[-2:])
    return torch.cat([torch.cat([K, G.mT], -1), torch.cat([G, zero], -1)], -2)


@pytest.mark.parametrize(
    ("name", "dtype"), [(n, d) for n in TRANSFORMS for d in (F64, C128) if d is F64 or n not in REAL], ids=str
)
def test_a_saddle_point(name: str, dtype: torch.dtype) -> None:
    h, b = torch.randn(*(3,) * (name == "vmap"), 6, dtype=dtype), torch.randn(5, dtype=dtype)
    right = torch.randn(6, dtype=dtype)
    for f, g in (
        (lambda h, b: ours(h, b).to_dense(), theirs),
        (lambda h, b: sps.solve(ours(h, b), right), lambda h, b: torch.linalg.inv(theirs(h, b)) @ right),
    ):
        got, expected = TRANSFORMS[name](f)(h, b), TRANSFORMS[name](g)(h, b)
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_batches_and_dtypes() -> None:
    h, b = torch.randn(3, 1, 6, dtype=torch.float32), torch.randn(2, 5, dtype=C128)
    A = ours(h, b)
    assert A.dtype == C128
    assert A.values.shape == (3, 2, 16)
    assert A.pattern.nnz == 16
    torch.testing.assert_close(A.to_dense()[2, 1], theirs(h[2, 0].to(C128), b[1]))


def test_zeros_of_a_size_and_one_block() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    zero = sps.SparseMatrix.from_coo(torch.zeros(0, dtype=F64), none, none, (3, 4))
    A = sps.SparseMatrix(torch.randn(6, dtype=F64), H)
    assert sps.SparseMatrix.from_blocks([[A], [zero]]).shape == (7, 4)
    assert torch.equal(sps.SparseMatrix.from_blocks([[A], [zero]]).to_dense()[:4], A.to_dense())
    assert torch.equal(sps.SparseMatrix.from_blocks(((A,),)).to_dense(), A.to_dense())
    assert torch.equal(A.to_dense(), sps.SparseMatrix.from_blocks([[None, A], [A, None]]).to_dense()[:4, 4:])


def test_indices_of_a_large_matrix_do_not_wrap() -> None:
    one = torch.zeros(1, dtype=torch.int32)
    A = sps.SparseMatrix.from_coo(torch.ones(1), one, one + 5, (1, 2**30))
    made = sps.SparseMatrix.from_blocks([[A, A, A]])
    assert made.pattern.col.tolist() == [5, 2**30 + 5, 2**31 + 5]
    assert sps.SparseMatrix.from_blocks([[A]]).pattern.col.dtype == torch.int32


def test_one_factorization() -> None:
    """Equal blocks make an equal matrix, which the memo finds again, though its pattern is another object."""
    h, b = torch.randn(6, dtype=F64), torch.randn(5, dtype=F64)
    sps.clear_memo()
    for _ in range(3):
        sps.solve(ours(h, b), torch.ones(6, dtype=F64))
    assert sps.memo_info().factorizations == 1
    assert sps.memo_info().analyses == 1


A4, A2 = sps.SparseMatrix(torch.ones(6), H), sps.SparseMatrix(torch.ones(5), B)
WRONG: list[tuple[Any, type[Exception], str]] = [
    ([], ValueError, "rows of equal length"),
    ([[]], ValueError, "rows of equal length"),
    ([[A4, None], [A4]], ValueError, "rows of equal length"),
    (A4, ValueError, "rows of equal length"),
    ([A4, A4], ValueError, "rows of equal length"),
    ([[A4, A2]], ValueError, r"Block \(0, 1\) has 2 rows, and another in its row of blocks 4"),
    ([[A4], [A2.mT]], ValueError, r"Block \(1, 0\) has 2 columns, and another in its column of blocks 4"),
    ([[A4, None], [A2, None]], ValueError, "Column 1 of blocks has no matrix.*how many columns.*from_coo"),
    ([[None, None], [A4, A4]], ValueError, "Row 0 of blocks has no matrix.*how many rows"),
    ([[A4, 0]], TypeError, r"Block \(0, 1\) is a int; a SparseMatrix, or None"),
    ([[A4, torch.ones(4, 4)]], TypeError, r"Block \(0, 1\) is a Tensor.*from_dense"),
    ([[A4, sps.SparseMatrix(torch.ones(7), H)]], ValueError, "the pattern has 6 entries"),
    ([[A4, A4.to("meta")]], ValueError, r"Block \(0, 1\) is on meta, the blocks before on cpu"),
    (
        [[sps.SparseMatrix(torch.ones(3, 6), H), A4, sps.SparseMatrix(torch.ones(2, 6), H)]],
        ValueError,
        r"\(3,\) of the blocks before and \(2,\) of block \(0, 2\) do not broadcast",
    ),
]


@pytest.mark.parametrize(("blocks", "kind", "message"), WRONG, ids=range(len(WRONG)))
def test_errors(blocks: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        sps.SparseMatrix.from_blocks(blocks)
