"""The edges: scales at which numbers end, functions that write to what they are given, numbers of NumPy in records, equal records."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg as sla
import torch
from torch import Tensor

import sparsolve as sps
from sparsolve import Strategy, loops, solvers, tickets
from systems import SYSTEMS

F32, F64, C64, C128 = torch.float32, torch.float64, torch.complex64, torch.complex128
METHODS = (sps.CG(), sps.MINRES(), sps.GMRES(), sps.BiCGStab(), sps.CGS())
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
CHAIN = torch.tensor([[4.0, 1, 0], [1, 4, 1], [0, 1, 4]], dtype=F64)
RIGHT = torch.tensor([1.0, 2, 3], dtype=F64)


def sparse(M: Tensor) -> sps.SparseMatrix:
    return sps.SparseMatrix.from_torch(M.to_sparse())


# ---- SciPy without its compiled loops, which are not public


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
def test_without_scipys_loops(dtype: torch.dtype, adjoint: bool, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products, solves and their gradients are the same."""
    v, pattern = SYSTEMS["banded"](dtype)
    b = torch.randn(20, k, dtype=dtype).squeeze(-1)

    def found() -> list[Tensor]:
        sps.clear_memo()
        leaf = v.clone().requires_grad_()
        A = sps.SparseMatrix(leaf, pattern)
        x, y = sps.solve(A, b, adjoint=adjoint), sps.matmul(A, b, adjoint=adjoint)
        return [x, y, *(torch.autograd.grad(t.abs().square().sum(), leaf)[0] for t in (x, y))]

    expected = found()
    monkeypatch.setattr(loops, "_loops", None)
    torch.testing.assert_close(found(), expected)


# ---- scales


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("solver", [sps.LU(), sps.LU(factor_dtype=F32), sps.LU(backend="superlu")], ids=str)
def test_small_rows_are_as_accurate_as_large_ones(solver: Any, dtype: torch.dtype, adjoint: bool) -> None:
    """As where a penalty of 2^40 in one equation fixes an unknown: the others must not be solved to 7 digits only."""
    n = 40
    M = torch.diag(torch.full((n,), 4.0, dtype=dtype)) + torch.diag(torch.rand(n - 1, dtype=dtype), 1)
    M = M + torch.diag(torch.rand(n - 1, dtype=dtype), -1)
    M[0] = 2.0**40 * torch.eye(n, dtype=dtype)[0]
    x = torch.rand(n, 3, dtype=dtype) + 1
    x[0] = 1
    A = M.mH if adjoint else M
    assert torch.allclose(sps.solve(sparse(A), M @ x, solver, adjoint=adjoint), x, rtol=1e-13, atol=0)


@pytest.mark.parametrize("decades", [6, 12, 60])
def test_pivots_of_other_rows_are_refined(decades: int) -> None:
    """Elimination prefers the large row; what it loses in the small ones, refinement gets back."""
    i, j = np.indices((40, 40))
    for seed in (10, 11, 16, 19):
        rng = np.random.default_rng(seed)
        M = np.where(abs(i - j) <= 2, rng.standard_normal((40, 40)), 0)
        A = torch.as_tensor(10.0 ** rng.uniform(-decades, decades, (40, 1)) * (M + M.T + 8 * np.eye(40)))
        x = torch.as_tensor(rng.uniform(1, 2, 40))
        assert torch.allclose(sps.solve(sparse(A), A @ x), x, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [F32, F64, C64, C128], ids=str)
@pytest.mark.parametrize("solver", [sps.LU(), sps.LU(backend="superlu"), sps.Cholesky()], ids=str)
def test_entries_next_to_the_largest_number(solver: Any, dtype: torch.dtype) -> None:
    """Their sums overflow."""
    large, M, b = 0.2 * torch.finfo(dtype).max, CHAIN.to(dtype), RIGHT.to(dtype)
    x = sps.solve(sparse(large * M), large * b, solver)
    assert torch.allclose(x, torch.linalg.inv(M) @ b, rtol=1e-5)


@pytest.mark.parametrize("solver", [sps.LU(), sps.LU(backend="superlu"), sps.Cholesky()], ids=str)
def test_a_solution_that_overflows_is_not_the_matrix_s_fault(solver: Any) -> None:
    A = sparse(1e-5 * CHAIN)
    with pytest.raises(sps.SolveError, match="larger than the largest number of its dtype") as caught:
        sps.solve(A, RIGHT * 5e307, solver)
    assert type(caught.value) is sps.SolveError
    _, info = sps.solve_with_info(A, torch.stack([RIGHT * 5e307, RIGHT], 1), solver)
    assert info.status.tolist() == [sps.Status.BREAKDOWN, sps.Status.CONVERGED]
    assert torch.allclose(sps.solve(A, RIGHT, solver), torch.linalg.inv(1e-5 * CHAIN) @ RIGHT)


def test_one_of_eight_threads_has_an_overflowing_right_hand_side() -> None:
    A, wrong = sparse(1e-5 * CHAIN), []
    x = torch.linalg.inv(1e-5 * CHAIN) @ RIGHT

    def run(i: int) -> None:
        try:
            if not torch.allclose(sps.solve(A, RIGHT * (5e307 if i == 3 else 1)), x):
                wrong.append(i)
        except sps.SolveError as error:
            if i != 3 or isinstance(error, sps.SingularMatrixError):
                wrong.append(error)

    for _ in range(20):
        sps.clear_memo()
        threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert not wrong


# ---- operators


def written(c: Tensor, x: Tensor) -> Tensor:
    return x.mul_(c)


def itself(_: Tensor, x: Tensor) -> Tensor:
    return x


@each_method
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 2)], ids=str)
@pytest.mark.parametrize(("function", "factor"), [(written, 0.5), (itself, 1.0)])
def test_functions_that_write_to_x_or_return_it(
    function: Any, factor: float, shape: tuple[int, ...], adjoint: bool, method: Any
) -> None:
    c = torch.tensor(2.0, dtype=F64)
    b = (RIGHT if len(shape) == 1 else RIGHT[:, None] * torch.arange(1, 1 + shape[1])).clone()
    A, right = sps.Operator(function, c), b.clone()
    assert torch.allclose(sps.solve(A, b, method, adjoint=adjoint), factor * b, rtol=1e-9)
    A @ b
    assert torch.equal(b, right)


@pytest.mark.parametrize(
    ("attempt", "error", "match"),
    [
        (lambda: sps.solve(sps.Operator(3, RIGHT), RIGHT, sps.CG()), TypeError, "function is a int; a callable"),  # type: ignore[arg-type]
        (
            lambda: sps.solve(sps.Operator(itself, RIGHT), RIGHT, sps.CG(), x0=np.ones(3)),
            TypeError,
            "x0 must be a torch.Tensor",
        ),
    ],
)
def test_operator_refusals(attempt: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        attempt()


# ---- records


@pytest.mark.parametrize(
    "solver",
    [
        sps.CG(rtol=np.float64(1e-9), atol=np.float32(0), maxiter=np.int64(50)),  # type: ignore[arg-type]
        sps.GMRES(rtol=torch.tensor(1e-9, dtype=F64), restart=np.int32(5)),  # type: ignore[arg-type]
        sps.BiCGStab(atol=0, rtol=np.asarray(1e-9)),  # type: ignore[arg-type]
    ],
    ids=lambda s: type(s).__name__,
)
def test_numbers_of_other_libraries(solver: Any) -> None:
    assert torch.allclose(sps.solve(sparse(CHAIN), RIGHT, solver), torch.linalg.inv(CHAIN) @ RIGHT)
    assert (solver.rtol, type(solver.rtol), type(solver.atol)) == (1e-9, float, float)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: sps.CG(rtol=float("inf")), ValueError, "rtol=inf.*finite"),
        (lambda: sps.CG(rtol=float("nan")), ValueError, "rtol=nan.*at least 0"),
        (lambda: sps.CG(rtol=True), ValueError, "rtol=True.*at least 0"),
        (lambda: sps.GMRES(atol=np.bool_(False)), ValueError, "atol=.*at least 0"),
        (lambda: sps.CG(rtol="1e-8"), ValueError, "rtol='1e-8'"),  # type: ignore[arg-type]
        (lambda: sps.CG(atol=None), ValueError, "atol=None"),  # type: ignore[arg-type]
        (lambda: sps.CG(maxiter=10.5), TypeError, "maxiter=10.5.*whole number"),  # type: ignore[arg-type]
        (lambda: sps.CG(maxiter=-1), ValueError, "maxiter=-1.*at least 0"),
        (lambda: sps.GMRES(restart=2.5), TypeError, "restart=2.5.*whole number"),  # type: ignore[arg-type]
        (lambda: sps.GMRES(restart=0), ValueError, "restart=0.*at least 1"),
        (lambda: sps.LU(backend=["superlu"]), TypeError, "one name is needed"),  # type: ignore[arg-type]
        (lambda: sps.Cholesky(backend=3), TypeError, "one name is needed"),  # type: ignore[arg-type]
    ],
)
def test_records_refuse(make: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("QR()", "'QR'"),
        ("tangent of QR()", "'QR'"),
        ("LU(backend=None, pivots=3)", "'LU' with pivots"),
        ("CG(preconditioner=Deflation(size=3))", "'Deflation'"),
        ("CG(preconditioner=BlockJacobi())", "'BlockJacobi' as it is written there"),
        ("3", "'3'"),
    ],
)
def test_a_graph_of_another_version(key: str, what: str) -> None:
    A, columns = sparse(CHAIN), RIGHT.unsqueeze(-1)
    for call in (
        lambda: solvers.decode(key),
        lambda: solvers.cotangent(key),
        lambda: torch.ops.sparsolve.solve(A.values, A.pattern.crow, A.pattern.col, columns, key, False, False),
    ):
        with pytest.raises(sps.SolveError, match=rf"has no solver {what}. The graph was exported by another version."):
            call()


@dataclass
class Unhashable:
    """A callable as a dataclass makes it."""

    factor: float = 0.25

    def __call__(self, *args: Any) -> Any:
        return self.factor * args[-1]


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: sps.solve(sparse(CHAIN), RIGHT, Unhashable()),
        lambda: sps.solve(sparse(CHAIN), RIGHT, sps.CG(preconditioner=Unhashable())),
        lambda: sps.solve(sps.Operator(Unhashable(), RIGHT), RIGHT, sps.CG()),
    ],
)
def test_callables_that_cannot_be_hashed(attempt: Any) -> None:
    with pytest.raises(TypeError, match=r"type Unhashable cannot be hashed.*__hash__"):
        attempt()


@pytest.mark.xfail(
    not tickets._DYNAMO_GUARDS_IDS, reason="before torch 2.13 Dynamo takes no matrix in a record", strict=True
)
def test_a_compiled_graph_outlives_an_equal_record() -> None:
    """Both records have the ticket of the first, which the graph holds as text; the second is alive."""
    A = sparse(CHAIN)
    first, second = (sps.GMRES(preconditioner=sps.Factored(A)) for _ in range(2))
    sps.solve(A, RIGHT, first)

    @torch.compile(fullgraph=True, backend="eager")
    def solve(values: Tensor) -> Tensor:
        return sps.solve(sps.SparseMatrix(values, A.pattern), RIGHT, second)

    x = solve(A.values)
    del first
    gc.collect()
    assert torch.equal(solve(A.values), x)


@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr", "to_sparse_csc"])
def test_values_of_a_sparse_tensor_go_into_compiled_code(layout: str) -> None:
    A = sps.SparseMatrix.from_torch(getattr(CHAIN, layout)())
    solve = torch.compile(lambda A, b: sps.solve(A, b), fullgraph=True, backend="eager")
    assert torch.equal(solve(A, RIGHT), sps.solve(A, RIGHT))


def test_callables_that_cannot_be_held_weakly_are_kept_for_a_while() -> None:
    class Slots:
        __slots__ = ("i",)

        def __init__(self, i: int) -> None:
            self.i = i

        def __call__(self, r: Any) -> Any:
            return r / 4

    callables = [Slots(i) for i in range(tickets._MOST + 100)]
    names = [tickets.ticket(c) for c in callables]
    assert len(tickets._KEPT) == tickets._MOST
    assert tickets.redeem(names[-1]) is callables[-1]
    assert tickets.ticket(callables[-1]) == names[-1]
    held = [(name, c) for name, c in zip(names, callables, strict=True)]
    tickets.restore(tuple(held))
    assert len(tickets._KEPT) == tickets._MOST
    A = sparse(CHAIN).requires_grad_()
    sps.solve(A, RIGHT, sps.CG(preconditioner=callables[0])).sum().backward()


def test_one_ticket_for_equal_callables_is_good_as_long_as_one_of_them_lives() -> None:
    class Equal:
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

        def __hash__(self) -> int:
            return 1

    one, other = Equal(), Equal()
    name = tickets.ticket(one)
    assert tickets.ticket(other) == name
    del one
    gc.collect()
    assert tickets.redeem(name) is other
    del other
    gc.collect()
    with pytest.raises(sps.SolveError, match="not in this process's table"):
        tickets.redeem(name)


EXIT = """
import torch, sparsolve as sps
A = sps.SparseMatrix.from_diagonal(torch.ones(3, dtype=torch.float64))
b = torch.ones(3, dtype=torch.float64)
class Itself:
    def __call__(self, r):
        return r
f = Itself()
f.itself, f.table = f, sps.tickets
torch.compile(lambda v: sps.solve(sps.SparseMatrix(v, A.pattern), b, sps.CG(preconditioner=f)), backend="eager")(A.values)
sps.tickets._alone(lambda r: r)
"""


def test_callables_that_are_there_at_exit() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", EXIT], capture_output=True, text=True, check=True)
    assert done.stderr == ""


class Captured:
    """What a callable captures, large perhaps."""


USES = {
    "preconditioner": lambda A, c: sps.solve(A, RIGHT, sps.CG(preconditioner=lambda r: (c, r / 4)[1])),
    "adjoint": lambda A, c: sps.solve(
        A, RIGHT, sps.GMRES(preconditioner=sps.ApproximateInverse(lambda r: (c, r)[1], lambda r: (c, r)[1]))
    ),
    "callback": lambda A, c: sps.solve(A, RIGHT, sps.CG(callback=lambda i, r: c)),
    "solver": lambda A, c: sps.solve(A, RIGHT, lambda M, b: (c, np.linalg.solve(M.toarray(), b))[1]),
    "operator": lambda A, c: sps.solve(sps.Operator(lambda v, x: (c, v[0] * x)[1], A.values), RIGHT, sps.CG()),
    "c4t": lambda A, c: sps.sparse_solve_c4t(A.to_torch(), RIGHT, lambda M, b: (c, np.linalg.solve(M.toarray(), b))[1]),
    "c4t, M": lambda A, c: sps.sparse_solve_c4t(
        A.to_torch(), RIGHT, "cg", M=sla.LinearOperator(A.shape, lambda r: (c, r / 4)[1], dtype=np.float64)
    ),
}


@pytest.mark.parametrize("use", USES)
def test_what_a_callable_captures_goes_with_it(use: str) -> None:
    """Such as a new incomplete factorization for each step: no table, and no memo, holds it after its gradient."""
    captured = []
    for i in range(5):
        c = Captured()
        captured.append(weakref.ref(c))
        A = sparse(CHAIN + i * torch.eye(len(CHAIN), dtype=CHAIN.dtype)).requires_grad_()
        USES[use](A, c).sum().backward()
        assert A.values.grad is not None
        del c, A
    gc.collect()
    assert [c() for c in captured] == [None] * 5


# ---- explain


def test_explain_tells_what_cannot_be_solved() -> None:
    n = 20_000  # all of it would take 3.2 GB
    corners = torch.tensor([[0, n - 1, *range(n)], [n - 1, 0, *range(n)]])
    wide = torch.sparse_coo_tensor(corners, torch.full((n + 2,), 2.0, dtype=F64), (n, n))
    for A, solver in (
        (wide, sps.LU(backend="lapack")),
        (sparse(CHAIN.triu()), sps.Cholesky()),
        (sparse(CHAIN), sps.LU(backend="entries")),
    ):
        explanation = sps.explain(A, solver)
        assert explanation.choices == ()
        assert "No strategy suits" in str(explanation)
        with pytest.raises(sps.SolveError):
            sps.solve(A, torch.ones(A.shape[0], dtype=F64), solver)
    assert sps.explain(sparse(CHAIN), sps.Cholesky()).choices[0][0] == Strategy.BANDED_CHOLESKY


PATTERN = sparse(CHAIN).pattern
VALUES = sparse(CHAIN).values


def looked_at(values: Any) -> Tensor:
    sps.explain(sps.SparseMatrix(values, PATTERN))
    return values.sum()


@pytest.mark.parametrize(
    ("attempt", "error", "match"),
    [
        (lambda: looked_at(VALUES.half()), TypeError, "float16"),
        (lambda: looked_at(VALUES[:3]), ValueError, r"\(\*batch, 7\)"),
        (lambda: looked_at([1.0] * 7), TypeError, "A's values must be a torch.Tensor, not a list"),
        (lambda: looked_at(3), TypeError, "A's values must be a torch.Tensor, not a int"),
        (lambda: looked_at(np.ones(7)), TypeError, r"not a ndarray. Use torch.as_tensor"),
        (lambda: looked_at(torch.ones(0, 7)), ValueError, r"values have shape \(0, 7\): a batch of matrices"),
        (lambda: looked_at(torch.ones(2, 7)), ValueError, r"values have shape \(2, 7\): a batch.*Choose one"),
        (lambda: looked_at(torch.tensor(1.0)), ValueError, r"values have shape \(\); the pattern has 7"),
        (lambda: sps.explain(torch.ones(2, 3).to_sparse()), ValueError, r"A has shape \(2, 3\); one square matrix"),
        (lambda: sps.explain([[1.0]]), TypeError, "A is a list"),  # type: ignore[arg-type]
        (
            lambda: sps.explain(sps.Operator(lambda p, x: x, VALUES)),
            TypeError,
            "A is an Operator, which has no entries",
        ),  # type: ignore[arg-type]
        (lambda: sps.explain(torch.eye(2).to_sparse(), sps.LU), TypeError, "solver is the class LU"),  # type: ignore[arg-type]
        (lambda: sps.explain(sps.SparseMatrix(PATTERN, VALUES)), TypeError, "Swapped arguments"),  # type: ignore[arg-type]
        (lambda: torch.func.grad(looked_at)(VALUES), TypeError, "no numbers yet"),
        (lambda: torch.func.vmap(looked_at)(VALUES[None]), TypeError, "no numbers yet"),
        (lambda: torch.compile(looked_at, fullgraph=True, backend="eager")(VALUES), Exception, "no numbers yet"),
    ],
)
def test_explain_refuses(attempt: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        attempt()
