"""`+ - * /`, diagonals, transposes and moves of a `SparseMatrix`: against the same on dense matrices, under every transform."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import oracle
import sparsolve as sps
from systems import SYSTEMS

F64, C128 = torch.float64, torch.complex128
DTYPES = pytest.mark.parametrize("dtype", [F64, C128], ids=str)
PATTERNS = pytest.mark.parametrize("name", ["duplicates", "unsorted", "circuit"])
SCALE = torch.tensor(1.5, dtype=F64)


def other(pattern: sps.Pattern, dtype: torch.dtype) -> tuple[Tensor, sps.Pattern]:
    """Another pattern of that shape: two entries a row, both at one place in the first."""
    n = pattern.shape[0]
    col = torch.stack([torch.arange(n), torch.arange(n).roll(1)], dim=1)
    col[0, 1] = 0
    return torch.randn(2 * n, dtype=dtype), sps.Pattern(2 * torch.arange(n + 1), col.flatten().clone(), pattern.shape)


def diagonal(D: Tensor) -> Tensor:
    return D.diagonal(dim1=-2, dim2=-1)


# Each with a matrix, another one on the same pattern, and one on another pattern.
OPERATIONS: dict[str, Any] = {
    "A + B": lambda A, B, C: A + B,
    "A + C": lambda A, B, C: A + C,
    "A - C": lambda A, B, C: A - C,
    "-A": lambda A, B, C: -A,
    "A * 2": lambda A, B, C: A * 2,
    "s * A": lambda A, B, C: SCALE * A,
    "A * s": lambda A, B, C: A * SCALE,
    "1j * A": lambda A, B, C: 1j * A,
    "A / s": lambda A, B, C: A / SCALE,
    "A / 3": lambda A, B, C: A / 3,
    "sum": lambda A, B, C: sum([A, 2 * B, C]),
    "A.mT": lambda A, B, C: A.mT,
    "A.mH + B": lambda A, B, C: A.mH + B,
}


def run(operation: Any, pattern: sps.Pattern, others: sps.Pattern, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return operation(sps.SparseMatrix(a, pattern), sps.SparseMatrix(b, pattern), sps.SparseMatrix(c, others)).to_dense()


def expect(operation: Any, pattern: sps.Pattern, others: sps.Pattern, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return operation(oracle.dense(a, pattern), oracle.dense(b, pattern), oracle.dense(c, others))


EACH = pytest.mark.parametrize("key", OPERATIONS)


@DTYPES
@PATTERNS
@EACH
def test_numbers_gradients_tangents(key: str, name: str, dtype: torch.dtype) -> None:
    a, pattern = SYSTEMS[name](dtype)
    c, others = other(pattern, dtype)
    primals = (a, torch.randn_like(a), c)
    tangents = tuple(torch.randn_like(t) for t in primals)
    results = []
    for f in (run, expect):
        call = lambda *x, f=f: f(OPERATIONS[key], pattern, others, *x)  # noqa: E731
        y, dy = torch.func.jvp(call, primals, tangents)
        loss = lambda *x, call=call: call(*x).abs().square().sum()  # noqa: E731
        results.append((y, dy, torch.func.grad(loss, argnums=(0, 1, 2))(*primals)))
    torch.testing.assert_close(*results)


@EACH
def test_batches_and_compiled(key: str) -> None:
    """`vmap` over one operand, a batch by hand, and all of it compiled."""
    a, pattern = SYSTEMS["duplicates"](F64)
    c, others = other(pattern, F64)
    batch, b = torch.stack([a, 2 * a, a.sin()]), torch.randn_like(a)

    def f(batch: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        mapped = torch.vmap(lambda a: run(OPERATIONS[key], pattern, others, a, b, c))(batch)
        return mapped, run(OPERATIONS[key], pattern, others, batch, b, c)

    expected = torch.stack([expect(OPERATIONS[key], pattern, others, a, b, c) for a in batch])
    torch.compiler.reset()
    for g in (f, torch.compile(f, fullgraph=True, backend="aot_eager")):
        for result in g(batch, b, c):
            torch.testing.assert_close(result, expected)


@DTYPES
@PATTERNS
def test_diagonal(name: str, dtype: torch.dtype) -> None:
    values, pattern = SYSTEMS[name](dtype)
    ours = lambda v: sps.SparseMatrix(v, pattern).diagonal()  # noqa: E731
    dense = lambda v: diagonal(oracle.dense(v, pattern))  # noqa: E731
    torch.testing.assert_close(ours(values), dense(values))
    batch, seed = torch.stack([values, values.sin()]), torch.randn(pattern.shape[0], dtype=dtype)
    torch.testing.assert_close(torch.vmap(ours)(batch), dense(batch))
    torch.testing.assert_close(ours(batch), dense(batch))
    torch.testing.assert_close(torch.func.vjp(ours, values)[1](seed), torch.func.vjp(dense, values)[1](seed))
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(ours, fullgraph=True, backend="aot_eager")(values), dense(values))


@pytest.mark.parametrize("shape", [(2, 4), (4, 2)])
def test_diagonal_of_a_rectangle(shape: tuple[int, int]) -> None:
    D = torch.arange(8.0).reshape(shape) + 1
    D[1, 1] = 0
    assert torch.equal(sps.SparseMatrix.from_torch(D.to_sparse_csr()).diagonal(), D.diagonal())


def test_a_shift_may_meet_duplicates_and_empty_places() -> None:
    """`values + where(row == col, d[row], 0)` would add it to every duplicate, and nowhere where nothing is stored."""
    values, pattern = SYSTEMS["duplicates"](F64)
    d = torch.rand(pattern.shape[0], dtype=F64)

    def solved(d: Tensor) -> Tensor:
        A = sps.SparseMatrix(values, pattern) + sps.SparseMatrix.from_diagonal(d)
        return sps.solve(A, torch.ones_like(d))

    def dense(d: Tensor) -> Tensor:
        return torch.linalg.inv(oracle.dense(values, pattern) + torch.diag_embed(d)) @ torch.ones_like(d)

    torch.testing.assert_close(torch.func.jacrev(solved)(d), torch.func.jacrev(dense)(d))
    torch.testing.assert_close(torch.vmap(solved)(torch.stack([d, 2 * d])), torch.stack([dense(d), dense(2 * d)]))


def test_one_pattern_is_kept() -> None:
    a, pattern = SYSTEMS["unsorted"](F64)
    A, B = sps.SparseMatrix(a, pattern), sps.SparseMatrix(a, pattern)
    equal = sps.SparseMatrix(a, sps.Pattern(pattern.crow.clone(), pattern.col.clone(), pattern.shape))
    for C in (A + B, A - B, A + equal, 2 * A, A / 2, -A, A.detach(), A.to(torch.float32)):
        assert C.pattern is pattern


def test_rounding_is_symmetrized_away() -> None:
    """What the error of `Cholesky` says to do."""
    a, pattern = SYSTEMS["banded"](F64)
    D = oracle.dense(a, pattern)
    D = D @ D.mT + torch.eye(len(D), dtype=F64)
    b = torch.ones(len(D), dtype=F64)
    D[1, 0] *= 1 + 1e-15
    A = sps.SparseMatrix.from_torch(D.to_sparse_csr())
    for adjoint in (False, True):
        expected = torch.linalg.solve(D.T if adjoint else D, b)
        torch.testing.assert_close(sps.solve(A, b, sps.Cholesky(), adjoint=adjoint), expected)
    torch.testing.assert_close(sps.slogdet(A, sps.Cholesky()).logabsdet, torch.logdet(D))
    assert "CHOLESKY" in str(sps.explain(A, sps.Cholesky()))
    D[1, 0] *= 1 + 1e-9
    A = sps.SparseMatrix.from_torch(D.to_sparse_csr())
    with pytest.raises(sps.NotPositiveDefiniteError, match=r"A\[\d, \d\] = .* differ by .*\(A \+ A\.mH\) / 2"):
        sps.solve(A, b, sps.Cholesky())
    torch.testing.assert_close(sps.solve((A + A.mH) / 2, b, sps.Cholesky()), torch.linalg.inv(D) @ b)
    D[1, 0] *= 1.01
    near = sps.SparseMatrix.from_torch(D.to_sparse_csr())
    with pytest.raises(ValueError, match=r"Factored is not one. Its matrix is not Hermitian. Give \(M \+ M.mH\) / 2"):
        sps.CG(preconditioner=sps.Factored(near))
    for M in (near, A):
        fast = sps.CG(preconditioner=sps.Factored((M + M.mH) / 2))
        assert sps.solve_with_info((A + A.mH) / 2, b, fast).info.iterations <= 5


def test_complex_scalars_promote() -> None:
    a, pattern = SYSTEMS["circuit"](F64)
    A = sps.SparseMatrix(a, pattern)
    omega = torch.tensor(3.0, dtype=F64)
    assert (A + 1j * omega * A).dtype == C128
    assert (A.to(torch.float32) * omega).dtype == torch.float32  # a tensor of no dimensions, as for tensors
    assert (np.float64(2) * A).values.equal(2 * a)
    for two in (np.float32(2), np.int64(2), Fraction(4, 2), Decimal(2)):
        torch.testing.assert_close((two * A).values, 2 * a, rtol=0, atol=0)  # of A's dtype
        torch.testing.assert_close((A / two).values, a / 2, rtol=0, atol=0)
    for z in (np.complex64(1 + 2j), np.complex128(1 + 2j)):  # torch alone would drop the imaginary part of the first
        assert (z * A).values.equal((1 + 2j) * a)
        assert (A / z).values.equal(a / (1 + 2j))


@pytest.mark.parametrize("dtype", [torch.float32, F64, C128], ids=str)
def test_duplicates_of_a_hermitian_matrix_come_in_any_order(dtype: torch.dtype) -> None:
    """Their sums differ by rounding on the two sides of the diagonal, of `(A + A.mH) / 2` as well."""
    torch.manual_seed(0)
    n, (i, j) = 20, torch.randint(0, 20, (2, 400))
    w, node = torch.randn(400, dtype=dtype), torch.arange(n)
    row, col = torch.cat([i, j, node]), torch.cat([j, i, node])
    A = sps.SparseMatrix.from_coo(torch.cat([w, w.conj(), torch.full((n,), 200, dtype=dtype)]), row, col, (n, n))
    assert not torch.equal(A.to_dense(), A.to_dense().mH)
    b = torch.ones(n, dtype=dtype)
    for M in (A, (A + A.mH) / 2):
        assert torch.allclose(sps.solve(M, b, sps.Cholesky()), torch.linalg.solve(A.to_dense(), b), rtol=1e-4)
        assert "CHOLESKY" in str(sps.explain(M, sps.Cholesky()))
    off = torch.where(A.pattern.rows() < A.pattern.col, 1 + 1e-3, 1.0).to(dtype)  # more than rounding
    with pytest.raises(sps.NotPositiveDefiniteError, match="not Hermitian"):
        sps.solve(sps.SparseMatrix(A.values * off, A.pattern), b, sps.Cholesky())


def test_what_operators_refuse() -> None:
    a, pattern = SYSTEMS["circuit"](F64)
    A, d = sps.SparseMatrix(a, pattern), torch.ones(pattern.shape[0], dtype=F64)
    small = sps.SparseMatrix.from_diagonal(torch.ones(2))
    stack = lambda m: sps.SparseMatrix(a.expand(m, -1), pattern)  # noqa: E731
    shift = lambda m: sps.SparseMatrix.from_diagonal(d.expand(m, -1))  # noqa: E731
    for attempt, error, match in (
        (lambda: A * d, TypeError, r"tensor of shape \(\d+,\).*A.pattern.rows\(\)"),
        (lambda: d * A, TypeError, r"tensor of shape \(\d+,\)"),
        (lambda: np.ones(3) * A, TypeError, "a ndarray"),
        (lambda: A / d, TypeError, r"tensor of shape"),
        (lambda: A * A, TypeError, "a SparseMatrix"),
        (lambda: A * "2", TypeError, "a str"),
        (lambda: A + A.to("meta"), ValueError, "A is on cpu and B on meta"),
        (lambda: stack(2) + stack(3), ValueError, r"batch dimensions \(2,\) of A and \(3,\) of B do not broadcast"),
        (lambda: stack(2) + shift(3), ValueError, r"batch dimensions \(2,\) of A and \(3,\) of B do not broadcast"),
        (lambda: sps.SparseMatrix.from_diagonal(torch.tensor(1.0)), ValueError, r"d is a number; .*\(\*batch, n\)"),
        (lambda: sps.SparseMatrix.from_diagonal([1.0]), TypeError, "d must be a torch.Tensor, not a list"),  # type: ignore[arg-type]
        (lambda: A + small, ValueError, r"A has shape .* and B \(2, 2\)"),
        (lambda: 1 + A, TypeError, "is a int; a SparseMatrix is needed.*from_diagonal"),
        (lambda: A + 1, TypeError, "is a int; a SparseMatrix is needed.*from_diagonal"),
        (lambda: A - d, TypeError, "is a Tensor; a SparseMatrix is needed.*from_torch"),
        (lambda: d @ A, TypeError, r"x @ A.*sparsolve.matmul\(A.mT, x\)"),
        (lambda: np.ones(3) @ A, TypeError, r"x @ A, with x of type ndarray"),
        (lambda: sps.Operator(lambda p, x: x, a) @ A, TypeError, r"x @ A, with x of type Operator"),
        (lambda: A @ np.ones(3), TypeError, r"x is a ndarray.*torch.as_tensor"),
        (
            lambda: A @ A.to_scipy(),
            TypeError,
            r"A @ M: M is a csr_matrix, not a SparseMatrix. Use SparseMatrix.from_scipy\(M\)",
        ),
        (lambda: A @ "x", TypeError, "unsupported operand"),
        (lambda: A[1:, 1:], TypeError, r"is not indexed. .*A.pattern.rows\(\)"),
        (lambda: list(A), TypeError, "is not indexed"),  # type: ignore[call-overload]
        (lambda: 1 / A, TypeError, "unsupported operand"),
        (
            lambda: torch.matmul(A, d),
            TypeError,
            r"torch's matmul does not take a SparseMatrix.*sparsolve.matmul\(A, x\)",
        ),
        (lambda: torch.linalg.solve(A, d), TypeError, "linalg_solve does not take a SparseMatrix"),
    ):
        with pytest.raises(error, match=match):
            attempt()


def test_dynamo_swaps_operands() -> None:
    """It hands `A / s` over as `s / A` backwards, and `s / A` as a division; one is right and the other refused."""
    a, pattern = SYSTEMS["circuit"](F64)
    f = lambda a, s: (sps.SparseMatrix(a, pattern) / s).values  # noqa: E731
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(f, fullgraph=True, backend="eager")(a, SCALE), a / SCALE)
    for wrong in (lambda a, s: s / sps.SparseMatrix(a, pattern), lambda a, s: a[:1] @ sps.SparseMatrix(a, pattern)):
        with pytest.raises(Exception, match="does not take a SparseMatrix"):
            torch.compile(wrong, fullgraph=True, backend="eager")(a, SCALE)
        with pytest.raises(TypeError, match=r"unsupported operand|from the left"):
            torch.compile(wrong, backend="eager")(a, SCALE)
    times = torch.compile(lambda a, x: sps.SparseMatrix(a, pattern) @ x, backend="eager")  # the graph is broken there
    x = torch.randn(pattern.shape[0], dtype=F64)
    torch.testing.assert_close(times(a, x), oracle.matmul(a, pattern, x))


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    a, pattern = SYSTEMS["circuit"](F64)
    x = torch.randn(pattern.shape[0], dtype=F64)

    class Module(torch.nn.Module):
        def forward(self, a: Tensor, s: Tensor, x: Tensor) -> Tensor:
            return (s * sps.SparseMatrix(a, pattern) / (2 * s)) @ x

    program = torch.export.export(Module(), (a, SCALE, x), strict=strict).module()
    torch.testing.assert_close(program(a, SCALE, x), oracle.matmul(a, pattern, x) / 2)


WRONG_LENGTHS: dict[str, Any] = {
    "from_coo": lambda W: sps.SparseMatrix.from_coo(W.values, W.pattern.rows(), W.pattern.col, W.shape),
    "mT": lambda W: W.mT,
    "mH": lambda W: W.mH,
    "diagonal": lambda W: W.diagonal(),
    "A + B": lambda W: sps.SparseMatrix(torch.ones(6), W.pattern) + W,
    "A - B": lambda W: W - sps.SparseMatrix(torch.ones(6), W.pattern),
    "A + D": lambda W: W + sps.SparseMatrix.from_diagonal(torch.ones(3)),
}


@pytest.mark.parametrize("name", WRONG_LENGTHS)
@pytest.mark.parametrize("length", [(1,), (5,), (7,), (2, 7), ()], ids=str)
def test_values_of_another_length_than_the_pattern(name: str, length: tuple[int, ...]) -> None:
    """They were dropped, moved to other places, or repeated, without a word; in any mode."""
    pattern = sps.Pattern(torch.tensor([0, 2, 4, 6]), torch.tensor([0, 1, 1, 2, 0, 2]), (3, 3))

    def attempt(values: Tensor) -> Any:
        made = WRONG_LENGTHS[name](sps.SparseMatrix(values, pattern))
        return made if isinstance(made, Tensor) else made.values

    values = torch.ones(length)
    match = r"values have shape \(.*; the pattern has 6 entries"
    with pytest.raises(ValueError, match=match):
        attempt(values)
    with pytest.raises(ValueError, match=match):
        torch.func.vmap(attempt)(values.expand(2, *length))
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(ValueError, match=match):
        attempt(torch.ones(length))
    torch.compiler.reset()
    with pytest.raises(Exception, match="the pattern has 6 entries"):
        torch.compile(attempt, fullgraph=True, backend="eager")(values)


def test_values_that_are_no_tensor() -> None:
    """As in an in_dims tree, which is built, and never computed with."""
    tree = sps.SparseMatrix(0, SYSTEMS["circuit"](F64)[1])  # type: ignore[arg-type]
    for attempt in (lambda: tree.mT, lambda: tree + tree, lambda: tree.diagonal()):
        with pytest.raises(TypeError, match=r"A's values must be a torch.Tensor, not a int"):
            attempt()


# ---- moves


def test_what_a_tensor_has_too() -> None:
    a, pattern = SYSTEMS["circuit"](C128)
    A = sps.SparseMatrix(a.clone(), pattern)
    B = A.clone()
    B.values.zero_()
    assert torch.equal(A.values, a)
    assert A.requires_grad_() is A
    assert A.values.requires_grad
    (A @ torch.ones(pattern.shape[0], dtype=C128)).real.sum().backward()
    assert A.values.grad is not None
    assert not A.requires_grad_(False).values.requires_grad
    assert A.cpu().pattern is pattern
    assert sps.SparseMatrix(a.real, pattern).float().dtype == torch.float32
    assert sps.SparseMatrix(a.real.float(), pattern).double().dtype == F64
    assert torch.equal(A.T.to_dense(), A.to_dense().mT)
    assert torch.equal(A.H.to_dense(), A.to_dense().mH)
    batch = sps.SparseMatrix(torch.stack([a, 2 * a]), pattern)
    assert torch.equal(batch.T.to_dense(), batch.to_dense().mT)


@pytest.mark.skipif(torch.cuda.is_available(), reason="it has a device to go to")
def test_cuda_goes_there() -> None:
    with pytest.raises((RuntimeError, AssertionError), match=r"CUDA|NVIDIA"):
        sps.SparseMatrix.from_diagonal(torch.ones(2)).cuda()


def test_to() -> None:
    a, pattern = SYSTEMS["circuit"](F64)
    A = sps.SparseMatrix(a.clone().requires_grad_(), pattern)
    for B in (A.to(torch.float32), A.to("cpu", torch.float32), A.to(dtype=torch.float32), A.to(torch.ones(1))):
        assert B.dtype == torch.float32
        assert B.device.type == "cpu"
    (gradient,) = torch.autograd.grad(A.to(C128).values.real.sum(), A.values)
    assert torch.equal(gradient, torch.ones_like(a))
    meta = A.to("meta")
    assert meta.device == meta.pattern.device == torch.device("meta")
    assert not A.detach().values.requires_grad
    assert pattern.to("cpu") is pattern


def test_from_coo() -> None:
    """In any order, for a batch, under a gradient, and compiled."""
    values, pattern = SYSTEMS["duplicates"](C128)
    shuffled = torch.randperm(pattern.nnz)
    row, col = pattern.rows()[shuffled], pattern.col[shuffled]

    def made(v: Tensor) -> Tensor:
        return sps.SparseMatrix.from_coo(v, row, col, pattern.shape).to_dense()

    batch = torch.stack([values, 1j * values])
    for f in (made, torch.vmap(made), torch.compile(made, fullgraph=True, backend="aot_eager")):
        torch.testing.assert_close(f(batch[..., shuffled]), oracle.dense(batch, pattern))
    seed = torch.randn(pattern.shape, dtype=C128)
    got = torch.func.vjp(made, values[shuffled])[1](seed)[0]
    torch.testing.assert_close(got, torch.func.vjp(lambda v: oracle.dense(v, pattern), values)[1](seed)[0][shuffled])
    with pytest.raises(sps.PatternError, match="Entry 0 is in row 99"):
        sps.SparseMatrix.from_coo(torch.ones(1), torch.tensor([99]), torch.tensor([0]), (2, 2))


@pytest.mark.parametrize("format", ["csr", "csc", "coo", "bsr", "dia", "dok", "lil"])
@pytest.mark.parametrize("array", [False, True])
def test_from_scipy(format: str, array: bool) -> None:
    a, pattern = SYSTEMS["circuit"](C128)
    made = sps.SparseMatrix(a, pattern).to_scipy()
    M = (sp.csr_array(made) if array else made).asformat(format)
    A = sps.SparseMatrix.from_scipy(M)
    torch.testing.assert_close(A.to_dense(), oracle.dense(a, pattern))
    A.values.zero_()
    A.pattern.col.zero_()
    np.testing.assert_array_equal(M.toarray(), made.toarray())  # of its own memory


def test_from_scipy_keeps_indices_and_adds_up() -> None:
    row, col, data = np.array([0, 0, 1]), np.array([1, 1, 0]), np.array([1.0, 2.0, 3.0], dtype=np.float32)
    A = sps.SparseMatrix.from_scipy(sp.coo_matrix((data, (row, col)), shape=(2, 2)))
    assert (A.nnz, A.dtype, A.pattern.col.dtype) == (2, torch.float32, torch.int32)
    assert torch.equal(A.to_dense(), torch.tensor([[0.0, 3.0], [3.0, 0.0]]))


def test_from_scipy_refuses() -> None:
    wrong = sp.csr_matrix(np.eye(3))
    wrong.indices[1] = 7
    for M, error, match in (
        (np.eye(2), TypeError, "M is a ndarray"),
        (scipy.sparse.linalg.aslinearoperator(np.eye(2)), TypeError, "It has no entries: sparsolve.Operator"),
        (torch.eye(2).to_sparse(), TypeError, "M is a Tensor"),
        (sp.coo_array(np.ones(3)), ValueError, "2-D"),
        (wrong, sps.PatternError, "column 7"),
        (sp.csr_matrix(np.eye(2, dtype=np.longdouble)), TypeError, "which torch does not have"),
    ):
        with pytest.raises(error, match=match):
            sps.SparseMatrix.from_scipy(M)


@pytest.mark.parametrize(
    ("format", "edit", "match"),
    [
        ("csc", lambda M: M.indices.__setitem__(1, 7), r"entry 1 is in row 7, outside \[0, 4\)"),
        ("csc", lambda M: M.indices.__setitem__(1, -1), r"entry 1 is in row -1"),
        ("csc", lambda M: M.indptr.__setitem__(2, 0), r"indptr must start at 0 and never decrease"),
        ("csc", lambda M: M.indptr.__setitem__(4, 10**6), r"indptr ends at 1000000, of 4 indices and 4 values"),
        ("csc", lambda M: setattr(M, "indptr", M.indptr[:3]), r"indptr has 3 entries, and 5 are needed"),
        ("csc", lambda M: setattr(M, "data", M.data[:2]), r"indptr ends at 4, of 4 indices and 2 values"),
        ("csr", lambda M: M.indptr.__setitem__(4, 9), r"indptr ends at 9, of 4 indices and 4 values"),
        ("csr", lambda M: M.indices.__setitem__(1, 7), r"column 7, outside \[0, 4\)"),
        ("bsr", lambda M: M.indices.__setitem__(1, 10**6), r"entry 1 is in block column 1000000, outside \[0, 2\)"),
        ("bsr", lambda M: M.indptr.__setitem__(0, 1), r"indptr must start at 0"),
        ("coo", lambda M: M.row.__setitem__(1, 4), r"entry 1 is in row 4, outside \[0, 4\)"),
        ("coo", lambda M: M.col.__setitem__(0, -3), r"entry 0 is in column -3, outside \[0, 4\)"),
        ("coo", lambda M: setattr(M, "data", M.data[:2]), r"there are 4 rows, 4 columns and 2 values"),
    ],
)
@pytest.mark.parametrize("array", [False, True])
def test_from_scipy_of_indices_written_by_hand(array: bool, format: str, edit: Any, match: str) -> None:
    """SciPy's own conversion of these writes outside of its memory, or drops entries."""
    made = sp.csr_array(np.eye(4)) if array else sp.csr_matrix(np.eye(4))
    M = made.tobsr((2, 2)) if format == "bsr" else made.asformat(format)
    edit(M)
    with pytest.raises(sps.PatternError, match=match):
        sps.SparseMatrix.from_scipy(M)


def test_from_scipy_of_arrays_longer_than_needed() -> None:
    M = sp.csc_matrix(np.eye(3))
    M.indices, M.data = np.append(M.indices, 99), np.append(M.data, 5.0)
    assert torch.equal(sps.SparseMatrix.from_scipy(M).to_dense(), torch.eye(3, dtype=F64))


def test_conversions_do_not_warn() -> None:
    """torch warns of CSR tensors, and nobody asked for one."""
    code = "import torch, sparsolve as sps; sps.SparseMatrix.from_scipy(sps.SparseMatrix.from_diagonal(torch.ones(2)).to_scipy())"
    torch_2_11 = "ignore:Sparse invariant checks are implicitly disabled:UserWarning"  # whatever check_invariants says
    flags = ["-W", "error", "-W", torch_2_11]
    done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_saved_and_loaded() -> None:
    a, pattern = SYSTEMS["circuit"](C128)
    file = io.BytesIO()
    torch.save({"A": sps.SparseMatrix(a, pattern)}, file)
    file.seek(0)
    A = torch.load(file)["A"]
    assert A.pattern == pattern
    assert torch.equal(A.values, a)


# ---- what else people write first


@pytest.mark.parametrize(
    ("attempt", "match"),
    [
        (lambda A, b: sps.solve(A.to_scipy(), b), r"A is a csr_matrix.*SparseMatrix.from_scipy\(A\)"),
        (lambda A, b: sps.solve(lambda x: x, b), r"A is a function.*Operator\(function, params\)"),
        (lambda A, b: sps.solve(A, b, "bicgstab"), r"solver is a str.*Use sparsolve.BiCGStab\(\)"),
        (lambda A, b: sps.solve(A, b, "spsolve"), r"solver is a str.*sparse_solve_c4t"),
        (lambda A, b: sps.solve(A, b, sps.CG), r"the class CG.*Use sparsolve.CG\(\)"),
        (lambda A, b: sps.solve(A, b, None), r"solver is a NoneType"),
    ],
)
def test_errors_name_what_was_meant(attempt: Any, match: str) -> None:
    A = sps.SparseMatrix.from_diagonal(torch.ones(2))
    with pytest.raises(TypeError, match=match):
        attempt(A, torch.ones(2))


def test_a_loop_of_sums_is_analysed_once() -> None:
    """Each `A + D` has a new pattern, equal to the one before."""
    a, pattern = SYSTEMS["circuit"](F64)
    A, b = sps.SparseMatrix(a, pattern), torch.ones(pattern.shape[0], dtype=F64)
    sps.clear_memo()
    for k in range(4):
        sps.solve(A + sps.SparseMatrix.from_diagonal(k + b), b)
    assert (sps.memo_info().factorizations, sps.memo_info().analyses) == (4, 1)


def test_a_shift_stays_on_the_pattern() -> None:
    """Where it stores its diagonal, once, in whatever order; elsewhere the entries of both are there."""
    crow = torch.tensor([0, 2, 5, 6], dtype=torch.int32)
    whole = sps.Pattern(crow, torch.tensor([1, 0, 0, 2, 1, 2], dtype=torch.int32), (3, 3))  # neither row is sorted
    lacking = sps.Pattern(crow, torch.tensor([1, 0, 0, 2, 0, 2], dtype=torch.int32), (3, 3))
    twice = sps.Pattern(crow, torch.tensor([0, 0, 1, 2, 0, 2], dtype=torch.int32), (3, 3))
    v, d = torch.randn(2, 1, 6, dtype=F64), torch.randn(5, 3, dtype=C128)
    for pattern, stays in ((whole, True), (lacking, False), (twice, False)):
        A, D = sps.SparseMatrix(v, pattern), sps.SparseMatrix.from_diagonal(d)
        for sum_ in (A + D, D + A):
            assert (sum_.pattern is pattern) == stays
            assert sum_.nnz == 6 + 3 * (not stays)
            assert sum_.dtype == C128
            expected = oracle.dense(v, pattern) + torch.diag_embed(d)
            torch.testing.assert_close(sum_.to_dense(), expected)
        torch.testing.assert_close((D - A).to_dense(), -oracle.dense(v, pattern) + torch.diag_embed(d))
    other = sps.SparseMatrix.from_coo(torch.ones(3, dtype=F64), torch.arange(3), torch.tensor([1, 0, 2]), (3, 3))
    assert (sps.SparseMatrix(v, whole) + other).nnz == 9  # a permutation is no diagonal
    values, shift = v[0, 0].clone().requires_grad_(), d[0].real.clone().requires_grad_()

    def shifted(values: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return (sps.SparseMatrix(values, whole) + sps.SparseMatrix.from_diagonal(shift)).to_dense()

    assert torch.autograd.gradcheck(shifted, (values, shift), check_forward_ad=True, check_batched_grad=True)


MADE_INSIDE: dict[str, Any] = {
    "A + A.mT": lambda A: A + A.mT,
    "A.mT + A.mT": lambda A: A.mT + A.mT,
    "A + D": lambda A: A + sps.SparseMatrix.from_diagonal(torch.ones(A.shape[0], dtype=F64)),
    "blocks": lambda A: sps.SparseMatrix.from_blocks([[A, A.mH], [None, A]]),
    "A @ A.mT": lambda A: A @ A.mT,
    "coalesce": lambda A: (A + A.mT).coalesce(),
    "submatrix": lambda A: A.submatrix(torch.arange(9)),
    "from_dense": lambda A: sps.SparseMatrix.from_dense(torch.ones(2, 2, dtype=F64) * A.values.sum()),
    "Pattern": lambda A: sps.SparseMatrix(A.values[:3], sps.Pattern(torch.arange(4), torch.arange(3), (3, 3))),
    "from_coo": lambda A: sps.SparseMatrix.from_coo(A.values, A.pattern.rows(), A.pattern.col, A.shape),
    "by name": lambda A: sps.SparseMatrix(
        A.values[:3], sps.Pattern.from_coo(row=torch.arange(3), col=torch.arange(3), shape=(3, 3))[0]
    ),
}


@pytest.mark.parametrize("name", MADE_INSIDE)
def test_a_pattern_made_inside_of_a_transform_outlives_it(name: str) -> None:
    """Its indices are constant, so that no level has wrapped them: the matrix can be copied, saved and solved with."""
    a, pattern = SYSTEMS["circuit"](F64)
    made = MADE_INSIDE[name]

    def with_aux(values: Tensor) -> Any:
        M = made(sps.SparseMatrix(values, pattern))
        return M.to_dense().sum(), M

    expected = made(sps.SparseMatrix(a, pattern))
    _, from_grad = torch.func.grad(with_aux, has_aux=True)(a)
    _, _, from_jvp = torch.func.jvp(with_aux, (a,), (a,), has_aux=True)
    nested: list[sps.Pattern] = []

    def inner(values: Tensor) -> Tensor:
        M = made(sps.SparseMatrix(values, pattern))
        nested.append(M.pattern)
        return M.to_dense().sum()

    torch.func.grad(lambda a: torch.func.jvp(inner, (a,), (a,))[1])(a)
    for found in (from_grad.pattern, from_jvp.pattern, nested[0]):
        assert found == expected.pattern
        assert type(found.col) is Tensor
        assert copy.deepcopy(found) == found
        torch.save(found, io.BytesIO())
    functional = torch.func.functionalize(lambda values: with_aux(values)[1])(a)
    assert functional.pattern == expected.pattern
    torch.testing.assert_close(functional.to_dense(), expected.to_dense())


@pytest.mark.parametrize("name", ["A + A.mT", "A.mT + A.mT", "A + D", "blocks"])
@pytest.mark.filterwarnings("ignore:.*get_attr Node")
def test_traces_of_sums(name: str) -> None:
    """A trace keeps the numbers of indices made in it to itself: there they are not compared."""
    a, pattern = SYSTEMS["circuit"](F64)

    def f(values: Tensor) -> Tensor:
        M = MADE_INSIDE[name](sps.SparseMatrix(values, pattern))
        return sps.solve(M, torch.ones(M.shape[0], dtype=F64))

    torch.testing.assert_close(make_fx(f)(a)(a), f(a))
    torch.testing.assert_close(torch.func.linearize(f, a)[1](a), torch.func.jvp(f, (a,), (a,))[1])
