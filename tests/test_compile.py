"""What else compiled code does: capture, arguments, training steps, dynamic shapes, export, fake tensors."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.func import hessian, jacfwd, jacrev, jvp
from torch.fx.experimental.proxy_tensor import make_fx

import oracle
import sparsolve as sps
from sparsolve import tickets, trees
from systems import SYSTEMS, made, poisson

F64 = torch.float64


def problem(n: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, sps.Pattern, Tensor]:
    torch.manual_seed(n)
    D = torch.diag(torch.full((n,), 4.0)) + torch.diag(torch.ones(n - 1), 1) - torch.diag(torch.ones(n - 1), -1)
    values, pattern = oracle.pattern_of(D.to(dtype))
    return values, pattern, torch.randn(n, dtype=dtype)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch.compiler.reset()


def compiled(f: Any, backend: str = "aot_eager", **kwargs: Any) -> Any:
    return torch.compile(f, fullgraph=True, backend=backend, **kwargs)


def test_training_step_matches_eager() -> None:
    values, pattern, b = problem()

    def loss(v: Tensor) -> Tensor:
        return (sps.solve(sps.SparseMatrix(v, pattern), b) ** 2).sum()

    losses: list[list[float]] = []
    for f in (loss, compiled(loss, "inductor")):
        v = values.clone().requires_grad_()
        optimizer = torch.optim.SGD([v], lr=0.1)
        losses.append([])
        for _ in range(4):
            optimizer.zero_grad()
            out = f(v)
            out.backward()
            optimizer.step()
            losses[-1].append(out.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert losses[0][-1] < losses[0][0]


def test_matrix_as_argument_and_result() -> None:
    values, pattern, b = problem()

    def f(A: sps.SparseMatrix, b: Tensor) -> tuple[sps.SparseMatrix, Tensor]:
        return A.mH, sps.matmul(A, sps.solve(A, b)) + A.to_dense() @ b

    A = sps.SparseMatrix(values, pattern)
    adjoint, y = compiled(f)(A, b)
    torch.testing.assert_close(y, b + oracle.dense(values, pattern) @ b)
    torch.testing.assert_close(adjoint.to_dense(), oracle.dense(values, pattern).mH)


@pytest.mark.xfail(
    strict=True,
    raises=torch._dynamo.exc.Unsupported,
    reason="Dynamo looks up @ on the tensor, never on the object left of it; sps.matmul(A, x) compiles",
)
def test_matmul_operator() -> None:
    values, pattern, b = problem()
    y = compiled(lambda v, b: sps.SparseMatrix(v, pattern) @ b)(values, b)
    torch.testing.assert_close(y, oracle.matmul(values, pattern, b))


def test_pattern_made_inside() -> None:
    values, pattern, b = problem()

    def f(v: Tensor, crow: Tensor, col: Tensor, b: Tensor) -> Tensor:
        return sps.solve(sps.SparseMatrix(v, sps.Pattern(crow, col, (5, 5))), b)

    torch.testing.assert_close(compiled(f)(values, pattern.crow, pattern.col, b), oracle.solve(values, pattern, b))
    bad = pattern.col.clone()
    bad[3] = 7
    with pytest.raises(sps.PatternError, match=r"Entry 3 \(row 1\) is in column 7"):
        compiled(f)(values, pattern.crow, bad, b)


def test_pattern_from_coo_made_inside() -> None:
    values, pattern, b = problem()
    row, col = pattern.rows().flip(0), pattern.col.flip(0)

    def f(v: Tensor, row: Tensor, col: Tensor, b: Tensor) -> Tensor:
        pattern, order = sps.Pattern.from_coo(row, col, (5, 5))
        return sps.solve(sps.SparseMatrix(v[order], pattern), b)

    torch.testing.assert_close(compiled(f)(values.flip(0), row, col, b), oracle.solve(values, pattern, b))


def test_vmap_over_matrices() -> None:
    values, pattern, b = problem()
    batch, bs = torch.stack([values, 2 * values]), torch.stack([b, b + 1])

    def f(A: sps.SparseMatrix, b: Tensor) -> Tensor:
        return torch.vmap(sps.solve, in_dims=(sps.SparseMatrix(0, pattern), 0))(A, b)

    expected = torch.stack([oracle.solve(v, pattern, r) for v, r in zip(batch, bs, strict=True)])
    torch.testing.assert_close(f(sps.SparseMatrix(batch, pattern), bs), expected)
    torch.testing.assert_close(compiled(f)(sps.SparseMatrix(batch, pattern), bs), expected)


def test_gradient_with_respect_to_a_matrix() -> None:
    values, pattern, b = problem()

    def loss(A: sps.SparseMatrix) -> Tensor:
        return sps.solve(A, b).sin().sum()

    expected = torch.func.grad(lambda v: oracle.solve(v, pattern, b).sin().sum())(values)
    for g in (torch.func.grad(loss), compiled(torch.func.grad(loss))):
        gradient = g(sps.SparseMatrix(values, pattern))
        assert isinstance(gradient, sps.SparseMatrix)
        torch.testing.assert_close(gradient.values, expected)


def test_pytree_of_right_hand_sides() -> None:
    values, pattern, b = problem()
    tree = {"one": b, "two": (b.unsqueeze(1), [2 * b])}

    def f(v: Tensor, tree: Any) -> Any:
        return sps.solve(sps.SparseMatrix(v, pattern), tree)

    torch.testing.assert_close(compiled(f)(values, tree), f(values, tree))


def test_info() -> None:
    values, pattern, b = problem()

    def f(v: Tensor, b: Tensor) -> sps.Solution:
        return sps.solve_with_info(sps.SparseMatrix(v, pattern), b)

    x, info = compiled(f)(values, b)
    torch.testing.assert_close(x, oracle.solve(values, pattern, b))
    assert info.status == sps.Status.CONVERGED
    assert info.residual < 1e-14
    assert compiled(f)(0 * values, b).info.status == sps.Status.SINGULAR
    many = torch.vmap(f, (0, None))(torch.stack([values, 0 * values, values]), b)
    assert many.info.status.tolist() == [0, 1, 0]
    assert torch.isnan(many.x[1]).all()
    assert not torch.isnan(many.x[0]).any()


def test_record_made_inside() -> None:
    values, pattern, b = problem()
    f = compiled(lambda v, b: sps.solve(sps.SparseMatrix(v, pattern), b, sps.LU(), adjoint=True))
    torch.testing.assert_close(f(values, b), oracle.solve(values, pattern, b, adjoint=True))


def test_callable_solver() -> None:
    values, pattern, b = problem()

    def through_numpy(A: Any, b: Any) -> Any:
        return np.linalg.solve(A.toarray(), b)

    f = compiled(torch.func.grad(lambda v, b: sps.solve(sps.SparseMatrix(v, pattern), b, through_numpy).sin().sum()))
    expected = torch.func.grad(lambda v: oracle.solve(v, pattern, b).sin().sum())(values)
    torch.testing.assert_close(f(values, b), expected)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo does so itself
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_backward_of_a_users_function(dtype: torch.dtype) -> None:
    """There Dynamo refuses some questions about a tensor."""
    values, pattern, b = problem(dtype=dtype)

    class Equilibrium(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, v: Tensor, b: Tensor) -> Tensor:
            ctx.save_for_backward(v)
            return sps.solve(sps.SparseMatrix(v, pattern), b)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
            (v,) = ctx.saved_tensors
            A = 2.0 * sps.SparseMatrix(v, sps.Pattern(pattern.crow, pattern.col, pattern.shape))
            return None, sps.solve(A, 2 * sps.matmul(A, sps.solve(A.mH, 2 * grad)))

    right = b.requires_grad_()
    (got,) = torch.autograd.grad(compiled(lambda v, b: Equilibrium.apply(v, b))(values, right).abs().sum(), right)
    (expected,) = torch.autograd.grad(Equilibrium.apply(values, right).abs().sum(), right)
    torch.testing.assert_close(got, expected)


def test_a_sparse_right_hand_side_is_refused_where_the_graph_may_break() -> None:
    values, pattern, b = problem()
    f = torch.compile(lambda v, b: sps.solve(sps.SparseMatrix(v, pattern), b), backend="aot_eager")
    with pytest.raises(TypeError, match=r"b must be dense, not torch\.sparse_coo"):
        f(values, b.to_sparse())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", ["solve", "matmul"])
def test_a_dual_number_inside(name: str, backend: str, dtype: torch.dtype) -> None:
    """Compiled code opens its level where Python's count of them does not see it; no tangent may be lost."""
    values, pattern, b = problem(dtype=dtype)
    forward_ad = torch.autograd.forward_ad

    def tangent(f: Any, v: Tensor, b: Tensor) -> Any:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(f(forward_ad.make_dual(v, v.sin()), b)).tangent

    ours = partial(tangent, lambda v, b: getattr(sps, name)(sps.SparseMatrix(v, pattern), b))
    expected = tangent(lambda v, b: getattr(oracle, name)(v, pattern, b), values, b)
    torch.testing.assert_close(compiled(lambda v, b: ours(v, b), backend)(values, b), expected)


def test_failure_is_the_same_error() -> None:
    values, pattern, b = problem()
    f = compiled(lambda v, b: sps.solve(sps.SparseMatrix(v, pattern), b))
    with pytest.raises(sps.SingularMatrixError, match="Row 0 has no nonzero entry"):
        f(0 * values, b)


def test_dynamic_shapes_compile_once() -> None:
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def f(v: Tensor, crow: Tensor, col: Tensor, b: Tensor) -> Tensor:
        n = b.shape[0]
        return sps.solve(sps.SparseMatrix(v, sps.Pattern(crow, col, (n, n))), b)

    g = torch.compile(f, fullgraph=True, backend=counter, dynamic=True)
    for n in (5, 8, 13):
        values, pattern, b = problem(n)
        torch.testing.assert_close(g(values, pattern.crow, pattern.col, b), oracle.solve(values, pattern, b))
    assert counter.frame_count == 1


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        values, pattern, _ = problem()
        self.values = torch.nn.Parameter(values)
        self.register_buffer("crow", pattern.crow)
        self.register_buffer("col", pattern.col)

    def forward(self, b: Tensor) -> Tensor:
        n = b.shape[0]
        return sps.solve(sps.SparseMatrix(self.values, sps.Pattern(self.crow, self.col, (n, n))), b)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch.export.load of 2.11
def test_export_and_reload(tmp_path: Path) -> None:
    model, (values, pattern, b) = Model(), problem()
    program = torch.export.export(model, (b,))
    torch.export.save(program, tmp_path / "model.pt2")
    again = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(again(b), oracle.solve(values, pattern, b))


class OfMatrix(torch.nn.Module):
    def forward(self, A: sps.SparseMatrix, b: Tensor) -> Tensor:
        return sps.solve(A, b)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch.export.load of 2.11
@pytest.mark.parametrize("strict", [False, True])
def test_export_of_a_matrix_as_argument(strict: bool, tmp_path: Path) -> None:
    values, pattern, b = problem()
    program = torch.export.export(OfMatrix(), (sps.SparseMatrix(values, pattern), b), strict=strict)
    torch.export.save(program, tmp_path / "model.pt2")
    again = torch.export.load(tmp_path / "model.pt2").module()
    same = sps.Pattern(pattern.crow.clone(), pattern.col.clone(), pattern.shape)
    torch.testing.assert_close(again(sps.SparseMatrix(2 * values, same), b), oracle.solve(2 * values, pattern, b))
    other = sps.Pattern(pattern.crow, pattern.col.flip(0), pattern.shape)
    with pytest.raises(ValueError, match="tree spec"):
        again(sps.SparseMatrix(values, other), b)


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
def test_what_a_saved_graph_holds_of_a_pattern(index: torch.dtype) -> None:
    _, pattern, _ = problem()
    pattern = sps.Pattern(pattern.crow.to(index), pattern.col.to(index), pattern.shape)
    held = trees._to_json(pattern)
    again = trees._from_json(json.loads(json.dumps(held)))
    assert again == pattern
    assert again.col.dtype is index
    assert held[-1] == "cpu"
    assert (
        trees._from_json([*held[:-1], "meta"]).device.type == "meta"
    )  # a graph on a device is called with patterns there


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # torch's own, of its fake inputs
def test_compiled_autograd() -> None:
    """A graph around the rules, which run as they are: other ones for the adjoint, and for another solver."""
    values, pattern, b = problem()

    def gradient(f: Any, compiled: bool) -> Tensor:
        v = values.clone().requires_grad_()
        loss = f(sps.SparseMatrix(v, pattern)).sin().sum()
        if compiled:
            with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
                loss.backward()
        else:
            loss.backward()
        assert v.grad is not None
        return v.grad

    for solver in (sps.LU(), sps.GMRES(rtol=1e-12), lambda A, b: np.linalg.solve(A.toarray(), b)):
        for adjoint in (False, True, False):
            f = partial(sps.solve, b=b, solver=solver, adjoint=adjoint)
            torch.testing.assert_close(gradient(f, True), gradient(f, False))
            f = partial(sps.matmul, x=b, adjoint=adjoint)
            torch.testing.assert_close(gradient(f, True), gradient(f, False))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_fake_tensors(device: str) -> None:
    with FakeTensorMode():
        values = torch.empty(4, 13, device=device, dtype=torch.complex64, requires_grad=device == "cpu")
        crow, col = torch.empty(6, dtype=torch.int32, device=device), torch.empty(13, dtype=torch.int32, device=device)
        A = sps.SparseMatrix(values, sps.Pattern(crow, col, (5, 5)))
        b = torch.empty(5, 3, device=device)
        x = sps.solve(A, b)
        assert (x.shape, x.dtype, x.device.type) == ((4, 5, 3), torch.complex64, device)
        if device == "cpu":  # torch without CUDA aborts in autograd on a fake CUDA tensor
            x.abs().sum().backward()
            assert values.grad is not None
            assert values.grad.shape == (4, 13)
        assert sps.matmul(A, x, adjoint=True).shape == (4, 5, 3)


def test_make_fx_shows_one_op() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    values, pattern, b = problem()
    graph = make_fx(lambda v, b: sps.solve(sps.SparseMatrix(v, pattern), b))(values, b).graph
    assert [str(n.target) for n in graph.nodes if "sparsolve" in str(n.target)] == ["sparsolve.solve.default"]


@pytest.mark.skipif(not tickets._DYNAMO_GUARDS_IDS, reason="closures are refused instead")
def test_another_closure_in_the_same_place_is_noticed() -> None:
    values, pattern, b = problem()

    def off_by(k: float) -> Any:
        return lambda A, rhs: np.linalg.solve(A.toarray(), rhs) + k

    f = compiled(lambda v, b, solver: sps.solve(sps.SparseMatrix(v, pattern), b, solver))
    for k in (1.0, 2.0, 1.0):
        torch.testing.assert_close(f(values, b, off_by(k)), oracle.solve(values, pattern, b) + k)


@pytest.mark.skipif(tickets._DYNAMO_GUARDS_IDS, reason="Dynamo guards on identity")
def test_closures_are_refused_where_dynamo_cannot_tell_them_apart() -> None:
    values, pattern, b = problem()
    k = 1.0
    f = compiled(lambda v, b: sps.solve(sps.SparseMatrix(v, pattern), b, lambda A, rhs: rhs + k))
    with pytest.raises(Exception, match="free variables"):
        f(values, b)


@pytest.mark.skipif(tickets._DYNAMO_GUARDS_IDS, reason="Dynamo guards on identity")
@pytest.mark.parametrize("kind", ["matrix", "vectors"])
def test_records_with_matrices_are_refused_there_too(kind: str) -> None:
    values, pattern, b = problem()
    A = sps.SparseMatrix(values, pattern)
    record = sps.Factored(A) if kind == "matrix" else sps.AMG(near_nullspace=b)
    solver = sps.GMRES(preconditioner=record)
    f = lambda v: sps.solve(sps.SparseMatrix(v, pattern), b, solver)  # noqa: E731
    with pytest.raises(Exception, match="holds a matrix, or vectors"):
        compiled(f)(values)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(f, backend="aot_eager")(values), f(values))


@pytest.mark.parametrize(
    ("make", "numbers"),
    [
        (lambda t: sps.GMRES(rtol=t), (1e-3, 1e-5, 1e-7)),
        (lambda t: sps.GMRES(maxiter=t), (50, 60, 70)),
        (lambda t: sps.GMRES(preconditioner=sps.BlockJacobi(size=t)), (1, 2, 3)),
    ],
    ids=["rtol", "maxiter", "size"],
)
@pytest.mark.parametrize("dynamic", [None, True])
def test_numbers_of_a_record_that_change_between_calls(make: Any, numbers: Any, dynamic: bool | None) -> None:
    """As the tolerance of an inexact Newton's method does; Dynamo makes them symbols."""
    values, pattern = SYSTEMS["banded"](F64)
    b = torch.randn(len(pattern.crow) - 1, dtype=F64)

    def f(v: Tensor, t: Any) -> Tensor:
        return sps.solve(sps.SparseMatrix(v, pattern), b, make(t))

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for t in numbers:
        torch.testing.assert_close(compiled(values, t), f(values, t))


@pytest.mark.parametrize("transform", [jacfwd, hessian, jacrev], ids=lambda t: t.__name__)
@pytest.mark.parametrize("dynamic", [None, True])
def test_jacobians_with_symbolic_sizes(transform: Any, dynamic: bool | None) -> None:
    scalar = transform is hessian

    def f(v: Tensor, crow: Tensor, col: Tensor, b: Tensor) -> Tensor:
        def of_values(v: Tensor) -> Tensor:
            x = sps.solve(sps.SparseMatrix(v, sps.Pattern(crow, col, (b.shape[0], b.shape[0]))), b)
            return x.sin().sum() if scalar else x

        return transform(of_values)(v)

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for n in (4, 5, 6):
        values, pattern = made(poisson(n), F64)
        b = torch.randn(n, dtype=F64)
        arguments = values, pattern.crow, pattern.col, b
        torch.testing.assert_close(compiled(*arguments), f(*arguments))


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_a_symbolic_batch(strict: bool) -> None:
    values, pattern = SYSTEMS["banded"](F64)
    n = len(pattern.crow) - 1

    class Module(torch.nn.Module):
        def forward(self, v: Tensor, b: Tensor) -> Tensor:
            return sps.solve(sps.SparseMatrix(v, pattern), b)

    batch = torch.export.Dim("batch", min=2)
    many, b, B = torch.stack([values, 2 * values]), torch.randn(n, dtype=F64), torch.randn(2, n, 3, dtype=F64)
    for arguments, dims in (((many, b), ({0: batch}, None)), ((values, B), (None, {0: batch}))):
        program = torch.export.export(Module(), arguments, dynamic_shapes=dims, strict=strict)
        larger = tuple(torch.cat([a, a, a]) if d else a for a, d in zip(arguments, dims, strict=True))
        torch.testing.assert_close(program.module()(*larger), Module()(*larger))


# ---- second derivatives by Inductor, which cannot differentiate index operations twice


A44 = sps.SparseMatrix.from_torch(
    (torch.eye(4) + torch.eye(4).roll(1, 0) + torch.eye(4).roll(2, 1)).double().to_sparse()
)
C44 = sps.SparseMatrix.from_torch((2 * torch.eye(4) + torch.ones(4, 4).tril()).double().to_sparse())
TURNED = torch.arange(A44.nnz - 1, -1, -1)
ROW, COL = A44.pattern.rows()[TURNED], A44.pattern.col[TURNED]
ORDERED = {
    "sum": lambda A: sps.matmul(A + C44, sps.matmul(A + C44, b4)),
    "transpose": lambda A: sps.matmul(A.mT, sps.matmul(A, b4)),
    "diagonal": lambda A: A.diagonal() ** 3,
    "entries": lambda A: sps.matmul(sps.SparseMatrix.from_coo(A.values.sin(), ROW, COL, (4, 4)), sps.matmul(A, b4)),
    "blocks": lambda A: sps.matmul(
        sps.SparseMatrix.from_blocks([[A, C44], [None, sps.SparseMatrix(A.values.sin(), A.pattern)]]), b8
    ),
    "inverse": lambda A: sps.inverse_entries(A + C44).values,
}
b4, b8 = torch.arange(1.0, 5.0, dtype=torch.float64), torch.arange(8.0, dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:.torch._prims_common.check. is deprecated:FutureWarning")  # Inductor's own
@pytest.mark.parametrize("second", ["hessian", "jvp of jvp"])
@pytest.mark.parametrize("name", ORDERED)
def test_second_derivatives_of_other_orders_by_inductor(name: str, second: str) -> None:
    """Torch's own `values[order]`, `index_add` and `cat` are wrong there, or end the process."""

    def loss(v: Tensor) -> Tensor:
        return ORDERED[name](sps.SparseMatrix(v, A44.pattern)).sin().sum()

    v = torch.linspace(1, 2, A44.nnz, dtype=torch.float64)
    along = {"hessian": hessian(loss), "jvp of jvp": lambda v: jvp(lambda v: jvp(loss, (v,), (U,))[1], (v,), (V,))[1]}[
        second
    ]
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(along, fullgraph=True)(v), along(v), rtol=1e-10, atol=1e-10)


U, V = torch.linspace(-1, 1, A44.nnz, dtype=torch.float64), torch.linspace(2, 0, A44.nnz, dtype=torch.float64)


# ---- the same, of sizes and dtypes that a trace leaves open

PARTS = {
    "transpose": lambda A: A.mT.values,
    "diagonal": lambda A: A.diagonal(),
    "sum": lambda A: (A + C44.to(A.dtype)).values,
    "blocks": lambda A: sps.SparseMatrix.from_blocks([[A, C44.to(A.dtype)]]).values,
    "entries": lambda A: sps.SparseMatrix.from_coo(A.values, ROW, COL, (4, 4)).values,
}
each_part = pytest.mark.parametrize("name", PARTS)


@each_part
@pytest.mark.parametrize("strict", [False, True])
def test_exported_with_any_batch(name: str, strict: bool) -> None:
    class Module(torch.nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            return PARTS[name](sps.SparseMatrix(v, A44.pattern))

    many = torch.rand(3, A44.nnz, dtype=torch.float64)
    made_of = torch.export.export(Module(), (many,), dynamic_shapes=({0: torch.export.Dim("B")},), strict=strict)
    more = torch.rand(5, A44.nnz, dtype=torch.float64)
    torch.testing.assert_close(made_of.module()(more), Module()(more))


def test_gradients_are_exported_by_way_of_make_fx() -> None:
    values, pattern, b = problem()
    gradient = torch.func.grad(lambda v: sps.solve(sps.SparseMatrix(v, pattern), b).sin().sum())

    class Inside(torch.nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            return gradient(v)

    exported = torch.export.export(make_fx(gradient)(values), (values,))
    torch.testing.assert_close(exported.module()(2 * values), gradient(2 * values))
    # when this passes, mend docs/transforms.md
    with pytest.raises(RuntimeError, match=r"not supported with torch\.export"):
        torch.export.export(Inside(), (values,))


def test_linearize_in_deterministic_mode() -> None:
    """Torch traces it with memory that this mode fills with NaN, unless it is told not to."""
    values, pattern, b = problem()
    f = lambda v: sps.solve(sps.SparseMatrix(v, pattern), b).sin().sum()  # noqa: E731
    fill = torch.utils.deterministic.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True)
        with pytest.raises(sps.SolveError, match="nan"):
            torch.func.linearize(f, values)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = fill


@each_part
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64], ids=str)
def test_compiled_with_any_dtype(name: str, dtype: torch.dtype) -> None:
    v = torch.linspace(1, 2, A44.nnz, dtype=torch.float64).to(dtype)
    f = lambda v: PARTS[name](sps.SparseMatrix(v, A44.pattern))  # noqa: E731
    found = compiled(f)(v)
    assert found.dtype == dtype
    torch.testing.assert_close(found, f(v))


def test_an_error_is_caught_outside_of_compiled_code() -> None:
    """As that of `torch.linalg.solve`: the `except` is not entered in there."""
    pattern, b = sps.Pattern(torch.tensor([0, 2, 4]), torch.tensor([0, 1, 0, 1]), (2, 2)), torch.ones(2)

    def solved(values: Tensor) -> Tensor:
        try:
            return sps.solve(sps.SparseMatrix(values, pattern), b)
        except sps.SolveError:
            return 0 * b

    assert torch.equal(solved(torch.ones(4)), 0 * b)
    with pytest.raises(sps.SingularMatrixError):
        compiled(solved)(torch.ones(4))
    assert compiled(lambda v: sps.solve_with_info(sps.SparseMatrix(v, pattern), b).info.status)(torch.ones(4)) == 1
