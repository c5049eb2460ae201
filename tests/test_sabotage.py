"""Known mistakes, each put into the source by one edit, and each noticed by the instruments that say so.

No single instrument notices all of them: that is what the others are for. `python tests/test_sabotage.py` prints the table.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vjp, vmap

import oracle
import sparsolve as sps
from sparsolve import (
    arithmetic,
    array_key,
    batch,
    calculus,
    compressed,
    determinants,
    log_determinant,
    ops,
    registration,
)
from sparsolve.backends import (
    backward_error,
    dense_determinant,
    determinant,
    direct,
    host,
    inverse_derivative,
    readable,
    structure,
    together,
)
from sparsolve.compressed import _Values
from sparsolve.coordinates import _Entries, _Placed
from sparsolve.operands import as_columns
from sparsolve.pattern import by_rows

# ---- one edit of a function, and its undoing


@contextlib.contextmanager
def edited(function: Any, old: str, new: str) -> Iterator[None]:
    """`function` with `old` (found exactly once) replaced by `new`, wherever it was captured: its code object is swapped."""
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{function.__qualname__} no longer has {old!r} once; mend the table"
    tree = ast.parse(source.replace(old, new))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    scope = dict(function.__globals__)
    exec(compile(tree, function.__qualname__, "exec"), scope)
    before = function.__code__
    sps.clear_memo()
    function.__code__ = scope[definition.name].__code__
    try:
        yield
    finally:
        function.__code__ = before
        sps.clear_memo()


# ---- one small system: unsorted, two places stored twice, nothing symmetric

N, K, M = 5, 2, 3
CROW, COL = [0, 3, 5, 8, 10, 13], [2, 0, 0, 1, 4, 2, 1, 2, 3, 0, 4, 2, 3]
NNZ = len(COL)


def _pattern() -> sps.Pattern:
    return sps.Pattern(torch.tensor(CROW), torch.tensor(COL), (N, N))


def _random(seed: int, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _values(dtype: torch.dtype, *batch: int) -> Tensor:
    diagonal = (_pattern().rows() == _pattern().col).to(dtype)
    return 0.4 * _random(1, dtype, *batch, NNZ) + (3 - (0.5j if dtype.is_complex else 0)) * diagonal


def _b(dtype: torch.dtype, *batch: int) -> Tensor:
    return _random(2, dtype, *batch, N, K)


def _close(got: Any, expected: Any) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


# ---- probes: what to compute of a function f(values, b), ours or the oracle's

F = Callable[[Tensor, Tensor], Tensor]


def value(f: F, dtype: torch.dtype) -> Any:
    return f(_values(dtype), _b(dtype))


def reverse(f: F, dtype: torch.dtype) -> Any:
    return vjp(f, _values(dtype), _b(dtype))[1](_random(3, dtype, N, K))


def forward(f: F, dtype: torch.dtype) -> Any:
    v, b, dv, db = _values(dtype), _b(dtype), _random(4, dtype, NNZ), _random(5, dtype, N, K)
    return [jvp(f, (v, b), (dv, db))[1], jvp(lambda v: f(v, b), (v,), (dv,))[1]]


def second(f: F, dtype: torch.dtype) -> Any:
    """Every mixture of two derivatives: reverse or forward outside, reverse or forward inside."""
    at, along = (_values(dtype), _b(dtype)), (_random(4, dtype, NNZ), _random(5, dtype, N, K))

    def loss(v: Tensor, b: Tensor) -> Tensor:
        return f(v, b).abs().pow(2).sum()

    def gradient(v: Tensor, b: Tensor) -> Any:
        return grad(loss, (0, 1))(v, b)

    def tangent(v: Tensor, b: Tensor) -> Any:
        return jvp(f, (v, b), along)[1]

    return [
        vjp(gradient, *at)[1](along),
        jvp(gradient, at, along)[1],
        vjp(tangent, *at)[1](_b(dtype)),
        jvp(tangent, at, along)[1],
    ]


def batched(f: F, dtype: torch.dtype) -> Any:
    """`vmap` over b, over the values, over both, nested, wherever the dimension is."""
    v, vs, b, bs = _values(dtype), _values(dtype, M), _b(dtype), _b(dtype, M)
    return [
        *(vmap(f, (None, d))(v, bs.movedim(0, d)) for d in range(3)),
        vmap(f, (None, 1))(v, bs[:, :, 0].T),
        *(vmap(f, (d, None))(vs.movedim(0, d), b) for d in range(2)),
        vmap(f, (1, 2))(vs.T, bs.movedim(0, 2)),
        vmap(vmap(f, (None, 0)), (0, None))(vs, bs),
        vmap(vmap(f, (0, None)), (None, 0))(vs, bs),
        vmap(lambda v, b: vjp(f, v, b)[1](b), (None, 2))(v, bs.movedim(0, 2)),
    ]


def native(f: F, dtype: torch.dtype) -> Any:
    """Leading batch dimensions of b, of the values, of both; a vector; and their gradients."""
    v, vs, b, bs = _values(dtype), _values(dtype, M), _b(dtype), _b(dtype, M)
    many = [(v, bs), (vs, b), (vs, bs), (v, _b(dtype, 2, M)), (v, b[:, 0]), (vs, bs[..., :1])]
    return [f(*args) for args in many] + [vjp(f, *args)[1](f(*args)) for args in many]


def jacobian(f: F, dtype: torch.dtype) -> Any:
    """Both ways; of a complex function with respect to real and imaginary parts, since these transforms take real numbers."""
    v, b = (torch.view_as_real(t) if dtype.is_complex else t for t in (_values(dtype), _b(dtype)))

    def real(v: Tensor, b: Tensor) -> Tensor:
        x = f(*(torch.view_as_complex(t) if dtype.is_complex else t for t in (v, b)))
        return torch.view_as_real(x) if dtype.is_complex else x

    return [j(real, (0, 1))(v, b) for j in (jacrev, jacfwd)]


def plain(f: F, dtype: torch.dtype) -> Any:
    """`torch.autograd.grad` where no transform is: backward in one step."""

    def gradients(v: Tensor, b: Tensor) -> Any:
        leaves = [v.clone().requires_grad_(), b.clone().requires_grad_()]
        x = f(*leaves)
        return torch.autograd.grad(x, leaves, _random(3, dtype, *x.shape))

    v, b = _values(dtype), _b(dtype)
    return [gradients(v, b), gradients(v, b[:, 0]), gradients(_values(dtype, M), _b(dtype, M))]


PROBES = [value, reverse, forward, second, batched, native, jacobian, plain]
KINDS = [(op, adjoint) for op in ("solve", "matmul") for adjoint in (False, True)]


def _function(op: str, adjoint: bool, *, dense: bool) -> F:
    if dense:
        return lambda v, b: getattr(oracle, op)(v, _pattern(), b, adjoint)
    return lambda v, b: getattr(sps, op)(sps.SparseMatrix(v, _pattern()), b, adjoint=adjoint)


@cache
def _expected(probe: Callable[..., Any], dtype: torch.dtype, op: str, adjoint: bool) -> Any:
    return probe(_function(op, adjoint, dense=True), dtype)


def compare(probe: Callable[..., Any], dtype: torch.dtype) -> None:
    for op, adjoint in KINDS:
        _close(probe(_function(op, adjoint, dense=False), dtype), _expected(probe, dtype, op, adjoint))


# ---- instruments that need no probe


def adjoint_identity() -> None:
    """`⟨u, A⁻¹ v⟩ = ⟨A⁻ᴴ u, v⟩` and `⟨u, A v⟩ = ⟨Aᴴ u, v⟩`: no oracle needed."""
    A, u, v = sps.SparseMatrix(_values(torch.complex128), _pattern()), *_b(torch.complex128, 2)
    for f in (sps.solve, sps.matmul):
        _close(torch.vdot(u.ravel(), f(A, v).ravel()), torch.vdot(f(A, u, adjoint=True).ravel(), v.ravel()))


def layouts() -> None:
    """Every way into a SparseMatrix and out of it, and `mH`, with second derivatives."""
    D = oracle.dense(_values(torch.complex128), _pattern())
    b = _b(torch.complex128)
    x = torch.linalg.inv(D) @ b
    expected = torch.linalg.inv(D.mH) @ b
    for T in (D.to_sparse(), D.to_sparse_csr(), D.to_sparse_csc()):
        _close(sps.solve(T, b), x)
        _close(sps.SparseMatrix.from_torch(T).mH.to_dense(), D.mH)
        _close(sps.solve(sps.SparseMatrix.from_torch(T).mH, b), expected)
        A = sps.SparseMatrix.from_torch(T)
        _close((A + A.mH).to_dense(), D + D.mH)
        _close((A - sps.SparseMatrix.from_diagonal(b[:, 0])).to_dense(), D - torch.diag(b[:, 0]))
        _close(A.diagonal(), D.diagonal())
        _close((torch.tensor(2.0) * A).to_dense(), 2 * D)
        _close(sps.SparseMatrix.from_torch(T).to_torch().to_dense(), D)
        _close(_gradient(T.detach().requires_grad_(), b, create_graph=False), 2 * (D @ b @ b.mH) * (D != 0))
    for T in (D.real.to_sparse(), D.real.to_sparse_csr(), D.real.to_sparse_csc()):
        expected = 2 * (D.real @ b.real @ b.real.T) * (D != 0)
        _close(_gradient(T.requires_grad_(), b.real, create_graph=True), expected)
        A = sps.SparseMatrix.from_torch(T.detach()).requires_grad_()
        expected = _second(lambda A: A, A, b.real)
        _close(_second(sps.SparseMatrix.to_torch, A, b.real), expected)
        _close(_second(lambda A: A.to_torch(torch.sparse_coo), A, b.real), expected)
    row = torch.tensor([3, 0, 4, 1, 2, 0])
    col = torch.tensor([0, 1, 2, 3, 4, 0])
    pattern, order = sps.Pattern.from_coo(row, col, (N, N))
    v = torch.arange(1.0, 7.0, dtype=torch.float64)
    D = torch.zeros(N, N, dtype=torch.float64).index_put((row, col), v)
    _close(sps.SparseMatrix(v[order], pattern).to_dense(), D)


def _second(form: Any, A: sps.SparseMatrix, b: Tensor) -> Tensor:
    """A second derivative in the values, by way of another form of the matrix."""
    loss = sps.matmul(form(A), b).pow(2).sum() + A.values.pow(2).sum()
    (g,) = torch.autograd.grad(loss, A.values, create_graph=True)
    return torch.autograd.grad(g.sum(), A.values)[0]


def _gradient(T: Tensor, b: Tensor, *, create_graph: bool) -> Tensor:
    (g,) = torch.autograd.grad(sps.matmul(T, b).abs().pow(2).sum(), T, create_graph=create_graph)
    assert g.requires_grad == create_graph
    assert g.layout == T.layout
    return g.to_dense()


def counts() -> None:
    """Factorizations: one for each different matrix."""
    v, b, pattern = _values(torch.float64), _b(torch.float64), _pattern()

    def made(run: Callable[[], Any]) -> int:
        sps.clear_memo()
        run()
        return sps.memo_info().factorizations

    def f(v: Tensor, b: Tensor, solver: Any = sps.LU()) -> Tensor:  # noqa: B008
        return sps.solve(sps.SparseMatrix(v, pattern), b, solver)

    def loss(v: Tensor) -> Tensor:
        return f(v, b).pow(2).sum()

    assert made(lambda: [f(v, b) for _ in range(5)]) == 1
    assert made(lambda: [loss(v), grad(loss)(v), jvp(grad(loss), (v,), (v,))]) == 1
    for solver in (sps.LU(), sps.LU(backend="superlu")):  # the last takes a block of columns at a time
        assert made(lambda s=solver: vmap(partial(f, solver=s), (None, 0))(v, _b(torch.float64, 20))) == 1
    assert made(lambda: vmap(f, (0, None))(_values(torch.float64, M), b)) == M
    assert sps.memo_info().analyses == 1


def wrong_hits() -> None:
    """Nothing remembered may serve another matrix, however alike the two are."""
    _one_changed_entry()
    _one_changed_entry_of_many()
    _another_pattern()
    _another_dtype()


def _solved(v: Tensor, pattern: sps.Pattern, b: Tensor) -> None:
    _close(sps.solve(sps.SparseMatrix(v, pattern), b), oracle.solve(v, pattern, b))


def _one_changed_entry() -> None:
    D = 9 * torch.eye(6, dtype=torch.float64) + _random(6, torch.float64, 6, 6)
    values, pattern = oracle.pattern_of(D)
    b = _random(7, torch.float64, 6)
    _solved(values, pattern, b)
    for e in range(len(values)):
        values[e] += 0.5
        _solved(values, pattern, b)
        values[e] -= 0.5
        _solved(values, pattern, b)
    copy = values.clone()
    values.mul_(2)
    _solved(copy, pattern, b)


def _one_changed_entry_of_many() -> None:
    """Between the entries that are looked at first, and in place."""
    n = 5000
    pattern = sps.Pattern(torch.arange(n + 1), torch.arange(n), (n, n))
    values = torch.full((n,), 2.0, dtype=torch.float64)
    ones, before = torch.ones(n, dtype=torch.float64), sps.memo_info().factorizations
    for e in (1, 7, n - 2):
        _close(sps.solve(sps.SparseMatrix(values, pattern), ones), 1 / values)
        values[e] = 4.0
    values[8], values[9] = 2.0, 8.0
    for _ in range(2):  # the same sum and the same samples
        _close(sps.solve(sps.SparseMatrix(values, pattern), ones), 1 / values)
        values[8:10] = values[8:10].flip(0)
    _close(sps.solve(sps.SparseMatrix(values, pattern), ones), 1 / values)
    assert sps.memo_info().factorizations - before == 5  # the check of a solution would mend a wrong hit, and hide it


def _another_pattern() -> None:
    """Equal values; then also equal columns, and equal row pointers."""
    v, b = torch.tensor([2.0, 1.0, 4.0, 8.0], dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for crow, col in (
        ([0, 2, 3, 4], [0, 1, 1, 2]),
        ([0, 1, 3, 4], [0, 1, 1, 2]),
        ([0, 2, 3, 4], [0, 2, 1, 2]),
    ):
        _solved(v, sps.Pattern(torch.tensor(crow), torch.tensor(col), (3, 3)), b)


def _another_dtype() -> None:
    """A float64 array and a complex64 one of the same bits."""
    pattern = sps.Pattern(torch.arange(4), torch.arange(3), (3, 3))
    v = torch.tensor([2.0, 4.0, 8.0], dtype=torch.float64)
    for values in (v, v.view(torch.complex64)):
        _close(sps.solve(sps.SparseMatrix(values, pattern), torch.ones(3, dtype=values.dtype)), 1 / values)


def lazy_bits() -> None:
    """Conjugate and negative bits reach an op's body where the keys that resolve them are excluded, as in a compiled graph."""
    v, b = _values(torch.complex128), _b(torch.complex128)
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.Conjugate).add(torch._C.DispatchKey.Negative)
    real = torch.complex(torch.zeros(N, K), -_b(torch.float32)).conj().imag  # carries the negative bit
    assert real.is_neg()
    pattern = _pattern()
    for values, rhs in ((v.conj(), b), (v, b.conj()), (v.real.contiguous().float(), real)):
        expected = oracle.matmul(values.resolve_conj(), pattern, rhs.resolve_conj().resolve_neg())
        with torch._C._ExcludeDispatchKeyGuard(keys):
            got = torch.ops.sparsolve.matmul(values, pattern.crow, pattern.col, rhs, N, False)
        torch.testing.assert_close(got, expected)


def report() -> None:
    """`solve_with_info` tells the truth about a good system, a singular one, and the residual itself."""
    A = sps.SparseMatrix(_values(torch.float64), _pattern())
    for adjoint in (False, True):
        info = sps.solve_with_info(A, _b(torch.float64), adjoint=adjoint).info
        assert (info.status == sps.Status.CONVERGED).all()
        assert (info.residual < 1e-12).all()
    zero = sps.solve_with_info(sps.SparseMatrix(0 * A.values, _pattern()), torch.ones(N, dtype=torch.float64))
    assert zero.info.status == sps.Status.SINGULAR
    assert zero.x.isnan().all()
    rough = sps.solve_with_info(A, _b(torch.float64), lambda matrix, rhs: rhs)  # not a solver
    expected = (_b(torch.float64) - sps.matmul(A, _b(torch.float64))).norm(dim=0) / _b(torch.float64).norm(dim=0)
    _close(rough.info.residual, expected)


def refusal() -> None:
    """A matrix singular to working precision has no solution: a pure Neumann problem, whose last pivot is roundoff."""
    D = torch.diag(torch.full((6,), 2.0)) - torch.diag(torch.ones(5), 1) - torch.diag(torch.ones(5), -1)
    D[0, 0] = D[-1, -1] = 1
    S = torch.diag(torch.tensor([0.1, 0.7, 0.3, 1.1, 0.9, 1.3], dtype=torch.float64))
    values, pattern = oracle.pattern_of(S @ D.double() @ S)
    for v in (values, torch.stack([values, 2 * values])):
        with pytest.raises(sps.SingularMatrixError):
            sps.solve(sps.SparseMatrix(v, pattern), torch.arange(6.0, dtype=torch.float64))
        with pytest.raises(sps.SingularMatrixError):
            sps.slogdet(sps.SparseMatrix(v.float(), pattern))


def wrong_factor() -> None:
    """Triangular solves that are a little off are refined to a right x; useless ones are an error, never an answer."""
    v, b, substitute = _values(torch.float64), _b(torch.float64), direct.DirectFactor._substitute

    def off(self: Any, stage: Any, b: Any, adjoint: bool) -> Any:
        return 1.001 * substitute(self, stage, b, adjoint)

    def useless(self: Any, stage: Any, b: Any, adjoint: bool) -> Any:
        return b

    for rhs in (b, b[:, 0]):
        with mock.patch.object(direct.DirectFactor, "_substitute", off):
            _solved(v, _pattern(), rhs)
        with mock.patch.object(direct.DirectFactor, "_substitute", useless), pytest.raises(sps.SolveError):
            _solved(v, _pattern(), rhs)


def log_determinant_of(real: bool, small: int = 0) -> None:
    """What is known of it where matrices up to this many unknowns have all their entries."""
    with mock.patch.object(dense_determinant, "_SMALL", small):
        sps.clear_memo()
        _log_determinant(real)


def _log_determinant(real: bool) -> None:
    """Value, sign, gradient, tangent and second derivatives of `slogdet`, of an odd permutation of rows, against dense code."""
    v, along, pattern = (
        f(torch.float64 if real else torch.complex128)
        for f in (_values, lambda d: _random(4, d, NNZ), lambda d: _pattern())
    )
    swapped, order = sps.Pattern.from_coo(
        (pattern.rows() + (pattern.rows() == 0).long() - (pattern.rows() == 1).long()), pattern.col, (N, N)
    )
    for P, at in ((pattern, v), (pattern, -v), (swapped, v[order])):
        D = oracle.dense(at, P)
        Z = torch.linalg.inv(D)
        _close(tuple(sps.slogdet(sps.SparseMatrix(at, P))), tuple(torch.linalg.slogdet(D)))

        def f(v: Tensor, P: sps.Pattern = P) -> Tensor:
            return sps.slogdet(sps.SparseMatrix(v, P)).logabsdet

        def gradient(v: Tensor, P: sps.Pattern = P) -> Tensor:
            return torch.linalg.inv(oracle.dense(v, P)).mH[P.rows(), P.col]

        _close(grad(f)(at), gradient(at))
        E = oracle.dense(along, P)
        _close(jvp(f, (at,), (along,))[1], (Z @ E).trace().real)
        _close(jvp(grad(f), (at,), (along,))[1], jvp(gradient, (at,), (along,))[1])
        _close(vjp(grad(f), at)[1](along), vjp(gradient, at)[1](along))


def inverse_derivative_of(real: bool) -> None:
    """First and second derivatives of the gradient of `slogdet`, as they are of large matrices."""
    with (
        mock.patch.object(determinants, "COLUMNS", 3),
        mock.patch.object(log_determinant, "COLUMNS", 3),
        mock.patch.object(inverse_derivative, "_FEW", 3),
        mock.patch.object(dense_determinant, "_SMALL", 0),
    ):
        v, w = (f(torch.float64 if real else torch.complex128) for f in (_values, lambda d: _random(4, d, NNZ)))
        P = _pattern()

        def gradient(v: Tensor) -> Tensor:
            return torch.linalg.inv(oracle.dense(v, P)).mH[P.rows(), P.col]

        def along(g: Any) -> Any:
            return lambda v: jvp(g, (v,), (w,))[1]

        own = grad(lambda v: sps.slogdet(sps.SparseMatrix(v, P)).logabsdet)
        _close(along(own)(v), along(gradient)(v))
        _close(along(along(own))(v), along(along(gradient))(v))
        _close(vjp(along(own), v)[1](w.flip(0)), vjp(along(gradient), v)[1](w.flip(0)))


INSTRUMENTS: dict[str, Callable[[], None]] = (
    {
        f"{probe.__name__} {name}": partial(compare, probe, dtype)
        for probe in PROBES
        for name, dtype in (("real", torch.float64), ("complex", torch.complex128))
    }
    | {f.__name__: f for f in (adjoint_identity, layouts, counts, wrong_hits, lazy_bits, report, refusal, wrong_factor)}
    | {f"log_determinant {name}": partial(log_determinant_of, name == "real") for name in ("real", "complex")}
    | {f"dense_determinant {name}": partial(log_determinant_of, name == "real", 100) for name in ("real", "complex")}
    | {f"inverse_derivative {name}": partial(inverse_derivative_of, name == "real") for name in ("real", "complex")}
)


# ---- the mistakes


class Mistake(NamedTuple):
    what: str
    function: Any
    old: str
    new: str
    noticed_by: str  # at least by these, separated by commas


MISTAKES = [
    # derivatives of solve
    Mistake(
        "backward solves with A in place of its adjoint",
        calculus._solve_backward,
        "(solver), not adjoint)",
        "(solver), adjoint)",
        "reverse real, reverse complex, second real, jacobian real",
    ),
    Mistake("Ā without its minus sign", calculus._solve_backward, "-_outer(", "_outer(", "reverse real, second real"),
    Mistake("Ā transposed", calculus._solve_backward, "lam, x, adjoint", "x, lam, adjoint", "reverse real"),
    Mistake(
        "Ā of the adjoint problem with the roles not swapped",
        calculus._outer,
        "sample(crow, col, v, u) if",
        "sample(crow, col, u, v) if",
        "reverse real, second real",
    ),
    Mistake("tangent without Ȧ", calculus._solve_jvp, "summed(d_b, change)", "summed(d_b)", "forward real"),
    Mistake("tangent without ḃ", calculus._solve_jvp, "summed(d_b, change)", "summed(change)", "forward real"),
    Mistake("Ȧ x with the wrong sign", calculus._solve_jvp, "-matmul(", "matmul(", "forward real, second real"),
    Mistake(
        "Ȧ x where Ȧᴴ x is due",
        calculus._solve_jvp,
        "X.shape[-2], adjoint)",
        "X.shape[-2], False)",
        "forward real, jacobian real",
    ),
    Mistake("only the last term of a tangent", calculus.summed, "total = total + t", "total = t", "forward real"),
    # derivatives of matmul and sample
    Mistake(
        "x̄ of a product with A in place of its adjoint",
        calculus._matmul_backward,
        "columns, not adjoint)",
        "columns, adjoint)",
        "reverse real",
    ),
    Mistake(
        "Ā of a product transposed", calculus._matmul_backward, "grad, x, adjoint", "x, grad, adjoint", "reverse real"
    ),
    Mistake(
        "product's tangent without Ȧ",
        calculus._matmul_jvp,
        "summed(by_values, by_x)",
        "summed(by_x)",
        "forward real",
    ),
    Mistake(
        "v̄ of sample with S̄ in place of its adjoint",
        calculus._sample_backward,
        "u, v.shape[-2], True)",
        "u, v.shape[-2], False)",
        "second real",
    ),
    Mistake("sample's tangent without v̇", calculus._sample_jvp, "summed(by_u, by_v)", "summed(by_u)", "second real"),
    Mistake(
        "sample's tangent with u and v̇ swapped",
        calculus._sample_jvp,
        "sample(crow, col, u, d_v)",
        "sample(crow, col, d_v, u)",
        "second real",
    ),
    # batching
    Mistake(
        "right-hand sides folded in the wrong order",
        calculus.fold,
        "b.movedim(dim, -2).flatten(-2)",
        "b.movedim(dim, -1).flatten(-2)",
        "batched real",
    ),
    Mistake(
        "right-hand sides folded without moving the dimension",
        calculus.fold,
        "b.movedim(dim, -2).flatten(-2)",
        "b.reshape(*b.shape[: b.dim() - 3], b.movedim(dim, 0).shape[-2], -1)",
        "batched real",
    ),
    Mistake(
        "columns unfolded in the wrong order",
        calculus.unfold,
        "x.reshape(*x.shape[:-1], size, k)",
        "x.reshape(*x.shape[:-1], k, size).mT",
        "batched real, jacobian real",
    ),
    Mistake(
        "batched operands reshaped, not moved",
        calculus.lead,
        "t.movedim(dim, 0)",
        "t.reshape(size, *t.movedim(dim, 0).shape[1:])",
        "batched real",
    ),
    Mistake(
        "a native batch of b folded without moving the rows",
        as_columns,
        "b.movedim(-2, 0).reshape(n",
        "b.reshape(n",
        "native real",
    ),
    Mistake(
        "a native batch unfolded into the wrong place",
        as_columns,
        "reshape(x.shape[0], *own, k).movedim(0, -2)",
        "reshape(*own, x.shape[0], k)",
        "native real",
    ),
    # registration
    Mistake(
        "outer levels' modes stay switched off",
        registration._for_outer_levels,
        "if _transforming()",
        "if False",
        "second real",
    ),
    Mistake(
        "tangent rule given dual numbers",
        registration._primal,
        "_unpack_dual(t, level=0)[0]",
        "t",
        "second real",
    ),
    # the backward in one step
    Mistake(
        "its sign lost", ops.solve_backward.__wrapped__, "-_flat(lam, 2)", "_flat(lam, 2)", "plain real, plain complex"
    ),
    Mistake(
        "its roles not swapped for the adjoint",
        ops.solve_backward.__wrapped__,
        "(structure, v, u) if adjoint",
        "(structure, u, v) if adjoint",
        "plain real, plain complex",
    ),
    Mistake(
        "its solve not with the adjoint",
        ops.solve_backward.__wrapped__,
        "(grad), 2)[0], solver, not adjoint)",
        "(grad), 2)[0], solver, adjoint)",
        "plain real, plain complex",
    ),
    Mistake(
        "a batch's solves not with the adjoint",
        ops.solve_backward.__wrapped__,
        "grad, solver, not adjoint, False",
        "grad, solver, adjoint, False",
        "plain real, plain complex",
    ),
    Mistake(
        "its b forgotten",
        calculus._solve_backward_at_once,
        "lam if needs[3] else None",
        "None",
        "plain real, plain complex",
    ),
    # products and solves on the CPU
    Mistake(
        "a conj lost in the adjoint product",
        host.Product.__call__,
        'adjoint and x.dtype.kind == "c"',
        "False",
        "value complex, forward complex, adjoint_identity",
    ),
    Mistake(
        "the adjoint product transposes nothing",
        host.Product.__call__,
        "x.conj(), True",
        "x.conj(), False",
        "adjoint_identity, second complex",
    ),
    Mistake(
        "the real adjoint product transposes nothing",
        host.Product.__call__,
        "self._csr, x, adjoint",
        "self._csr, x, False",
        "value real, second real",
    ),
    Mistake(
        "a conj lost in sample",
        host._sampled,
        "v.conj()",
        "v",
        "reverse complex, second complex, batched complex, jacobian complex",
    ),
    Mistake("a conj lost in sample, a batch", host.sampled, "0].conj()", "0]", "native complex"),
    Mistake(
        "row and column swapped in sample, one column",
        host._sampled,
        "rows, columns = structure.places",
        "columns, rows = structure.places",
        "native real, native complex",
    ),
    Mistake(
        "row and column swapped in sample, a batch",
        host.sampled,
        "rows, columns = structure.rows",
        "columns, rows = structure.rows",
        "native real, native complex",
    ),
    Mistake(
        "row and column swapped in sample, many columns",
        host._sampled,
        "gathered(u, rows[part]), gathered(v, columns[part])",
        "gathered(u, columns[part]), gathered(v, rows[part])",
        "reverse real",
    ),
    Mistake(
        "LU solves with the transpose for the adjoint",
        direct.DirectFactor._substitute,
        '"H" if',
        '"T" if',
        "value complex",
    ),
    Mistake(
        "LU solves with A for the adjoint",
        direct.DirectFactor._substitute,
        '"N" if not adjoint',
        '"N" if True',
        "value real",
    ),
    Mistake(
        "columns beyond a chunk solved again",
        direct.DirectFactor._substitute,
        "b[:, j : j + stage.columns]",
        "b[:, : stage.columns]",
        "counts",
    ),
    Mistake(
        "duplicates overwritten, not added",
        structure.Structure.canonical,
        "np.add.reduceat(ordered, self.starts)",
        "ordered[self.starts]",
        "value real",
    ),
    Mistake(
        "residual never looked at",
        backward_error.BackwardError._small,
        "return self._within(residual, x, self.norms(adjoint))",
        "return True",
        "wrong_factor",
    ),
    Mistake(
        "residual compared with no norm",
        backward_error.BackwardError._small,
        "<= self._tolerance * least * columns < math.inf",
        "< math.inf",
        "wrong_factor",
    ),
    Mistake("condition never looked at", direct.DirectFactor._judge, "found * eps < 1.0", "True", "refusal"),
    Mistake(
        "condition never looked at, a batch",
        together.Together._regular,
        "not doubtful(",
        "True or doubtful(",
        "refusal",
    ),
    Mistake("conjugate bit ignored", host.array, "a.conj() if conj else a", "a", "lazy_bits"),
    Mistake("negative bit ignored", host.array, "-a if neg else a", "a", "lazy_bits"),
    # determinants
    Mistake("Ā of log det without its conj", determinant.Determinant.inverse, ".conj()", "", "log_determinant complex"),
    Mistake(
        "tangent of log det conjugated",
        log_determinant._logdet_jvp,
        "vecdot(G,",
        "vecdot(G.conj(),",
        "log_determinant complex",
    ),
    Mistake(
        "A⁻ᴴ Wᴴ A⁻ᴴ without the adjoint of W",
        determinants.Determinants._solved,
        "unit, adjoint=False)",
        "unit, adjoint=True)",
        "log_determinant real",
    ),
    Mistake(
        "derivative of the inverse, solved for, without its minus sign",
        determinants.Determinants._solved,
        "total = total + on",
        "total = total - on",
        "log_determinant real, log_determinant complex, inverse_derivative complex",
    ),
    Mistake(
        "Ā of log det without its conj, a small matrix",
        dense_determinant.Small._at_entries,
        ".conj()",
        "",
        "dense_determinant complex",
    ),
    Mistake(
        "Ā of log det transposed, a small matrix",
        dense_determinant.Small._at_entries,
        "self._structure.indices, self._structure.rows",
        "self._structure.rows, self._structure.indices",
        "dense_determinant real, dense_determinant complex",
    ),
    Mistake(
        "derivative of the inverse without its minus sign, a small matrix",
        dense_determinant.Small.derivatives,
        "-self._at",
        "self._at",
        "dense_determinant real, dense_determinant complex",
    ),
    Mistake(
        "condition never looked at, a small determinant",
        dense_determinant._sure,
        "condition * eps < _BEYOND_DOUBT",
        "condition > 0",
        "refusal",
    ),
    Mistake(
        "derivative of the inverse's derivative by one half of it",
        log_determinant._second,
        "((w, c), (c, w))",
        "((w, c),)",
        "inverse_derivative real, inverse_derivative complex",
    ),
    Mistake(
        "derivative of the inverse's derivative without its adjoint",
        log_determinant._second,
        "u, n, True), True)",
        "u, n, False), True)",
        "inverse_derivative real, inverse_derivative complex",
    ),
    Mistake(
        "sign of the permutations lost",
        readable.ReadableFactor.determinant,
        "if not np.array_equal(*self._orders)",
        "if False",
        "log_determinant real, log_determinant complex",
    ),
    Mistake(
        "signs of the pivots lost",
        readable.ReadableFactor.determinant,
        "int(np.count_nonzero(pivots < 0))",
        "0",
        "log_determinant real",
    ),
    # the memo
    Mistake("memo that ignores values", array_key.key_of, "[a.tobytes()", '[b""', "wrong_hits"),
    Mistake("memo that compares samples", array_key._same, "(a == b).all()", "True", "wrong_hits"),
    Mistake(
        "memo that ignores the pattern",
        batch.Batch._key,
        "key, self.structure, self.values.dtype",
        "key, None, self.values.dtype",
        "wrong_hits",
    ),
    Mistake(
        "memo that ignores the dtype",
        batch.Batch._key,
        "self.structure, self.values.dtype",
        "self.structure, None",
        "wrong_hits",
    ),
    Mistake(
        "analysis that ignores row pointers",
        host.structure_of,
        "(pointers, columns), make",
        "(columns,), make",
        "wrong_hits",
    ),
    Mistake(
        "analysis that ignores columns",
        host.structure_of,
        "(pointers, columns), make",
        "(pointers,), make",
        "wrong_hits",
    ),
    Mistake("memo that keeps the caller's memory", array_key.ArrayKey.own, "a.copy()", "a", "wrong_hits"),
    Mistake(
        "memo that never finds",
        array_key._same,
        "(a == b).all()",
        "False",
        "wrong_hits",
    ),
    # reports and layouts
    Mistake(
        "residual of the wrong system",
        batch.Batch._enter,
        "adjoint=self.adjoint",
        "adjoint=not self.adjoint",
        "report",
    ),
    Mistake("residual with the wrong sign", batch.relative_residual, "b - product", "b + product", "report"),
    Mistake("residual not relative", batch.relative_residual, "error / (size + (size == 0))", "error", "report"),
    Mistake(
        "singular called something else", batch._status, "return Status.SINGULAR", "return Status.MAXITER", "report"
    ),
    Mistake("a conj lost in mH", sps.SparseMatrix.mH.fget, "A.values.conj()", "A.values", "layouts"),
    Mistake(
        "mH with the values in the old order",
        arithmetic.transposed,
        "ordered(values, *require_pattern(pattern).adjoint())",
        "(values, require_pattern(pattern).adjoint()[0])",
        "layouts",
    ),
    Mistake(
        "a sum with the values in the old order",
        arithmetic.added,
        "joined([t.to(dtype).expand(*batch, t.shape[-1]) for t in (a, b)], order)",
        "torch.cat([t.to(dtype).expand(*batch, t.shape[-1]) for t in (a, b)], dim=-1)",
        "layouts",
    ),
    Mistake("a shift onto other entries", arithmetic._onto, "places, d", "places.flip(0), d", "layouts"),
    Mistake(
        "a sum on the pattern of the first matrix",
        arithmetic.added,
        "pattern == other",
        "pattern.nnz == other.nnz",
        "layouts",
    ),
    Mistake("a diagonal of whole rows", arithmetic.diagonal, "row == pattern.col", "row == row", "layouts"),
    Mistake("a quotient for a product", sps.SparseMatrix.__mul__, "* require_scalar", "/ require_scalar", "layouts"),
    Mistake(
        "CSC read as CSR",
        compressed.entries,
        ".adjoint()",
        ", slice(None)",
        "layouts",
    ),
    Mistake(
        "from_coo with columns in the old order",
        by_rows,
        "col[order], shape",
        "col, shape",
        "layouts",
    ),
    Mistake(
        "gradient of a CSR tensor cut off from its graph",
        _Values.backward,
        "compressed(grad, ctx",
        "compressed(grad.detach(), ctx",
        "layouts",
    ),
    Mistake(
        "gradient of a COO tensor cut off from its graph",
        _Entries.backward,
        "coordinates(grad, row",
        "coordinates(grad.detach(), row",
        "layouts",
    ),
    Mistake("to_torch cut off from its graph", _Placed.backward, "_at(grad, ", "_at(grad.detach(), ", "layouts"),
]


def _notices(name: str) -> bool:
    sps.clear_memo()
    try:
        INSTRUMENTS[name]()
    except (Exception, pytest.fail.Exception):
        return True
    return False


def noticing(mistake: Mistake, instruments: Iterable[str]) -> set[str]:
    with edited(*mistake[1:4]):
        return {name for name in instruments if _notices(name)}


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_the_source_as_it_is_passes_every_instrument(name: str) -> None:
    sps.clear_memo()
    INSTRUMENTS[name]()


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.what)
def test_a_mistake_is_noticed(mistake: Mistake) -> None:
    names = mistake.noticed_by.split(", ")
    assert noticing(mistake, names) == set(names), f"noticed only by {sorted(noticing(mistake, INSTRUMENTS))}"


def test_every_instrument_is_named_and_none_is_enough() -> None:
    assert {name for mistake in MISTAKES for name in mistake.noticed_by.split(", ")} == set(INSTRUMENTS)
    of = {mistake.what: mistake for mistake in MISTAKES}
    few = ["a conj lost in mH", "memo that ignores values", "negative bit ignored", "residual never looked at"]
    assert not set.intersection(*(noticing(of[what], INSTRUMENTS) for what in few))


if __name__ == "__main__":
    for each in MISTAKES:
        sys.stdout.write(f"{each.what:58} {', '.join(sorted(noticing(each, INSTRUMENTS))) or 'NOT NOTICED'}\n")
