"""torch.autograd's own modes: gradcheck with every flag, double backward, dual numbers, batched gradients, checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

import oracle
import sparsolve as sps

DTYPES = [torch.float64, torch.complex128]
FUNCTIONS: dict[str, Callable[..., Tensor]] = {"solve": sps.solve, "matmul": sps.matmul}
both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
both_sides = pytest.mark.parametrize("adjoint", [False, True], ids=["plain", "adjoint"])
both_functions = pytest.mark.parametrize("name", FUNCTIONS)


def problem(
    dtype: torch.dtype, shape: tuple[int, ...] = (3,), batch: tuple[int, ...] = ()
) -> tuple[Tensor, sps.Pattern, Tensor]:
    torch.manual_seed(5)
    D = torch.tensor([[4, 1, 0], [0, 3, 2], [1, 0, 5]], dtype=dtype)
    values, pattern = oracle.pattern_of(D)
    values = values + 0.3 * torch.randn(*batch, *values.shape, dtype=dtype)
    return values.requires_grad_(), pattern, torch.randn(shape, dtype=dtype).requires_grad_()


@pytest.mark.parametrize(
    ("shape", "batch"), [((3,), ()), ((3, 2), ()), ((2, 3, 2), ()), ((2, 3, 2), (2,)), ((3,), (2,))]
)
@both_sides
@both_dtypes
@both_functions
def test_gradcheck(
    name: str, dtype: torch.dtype, adjoint: bool, shape: tuple[int, ...], batch: tuple[int, ...]
) -> None:
    values, pattern, b = problem(dtype, shape, batch)

    def f(values: Tensor, b: Tensor) -> Tensor:
        return FUNCTIONS[name](sps.SparseMatrix(values, pattern), b, adjoint=adjoint)

    flags = {"check_batched_grad": True}
    assert gradcheck(f, (values, b), check_forward_ad=True, check_batched_forward_grad=True, **flags)
    assert gradgradcheck(f, (values, b), check_fwd_over_rev=True, check_rev_over_rev=True, **flags)


@both_dtypes
@pytest.mark.parametrize("layout", ["coo", "csr", "values"])
def test_gradient_of_only_one_input(dtype: torch.dtype, layout: str) -> None:
    values, pattern, b = problem(dtype)
    for needs_values in (False, True):
        v, r = values.detach().clone().requires_grad_(needs_values), b.detach().clone().requires_grad_(not needs_values)
        sps.solve(sps.SparseMatrix(v, pattern), r).abs().sum().backward()
        assert (v.grad is not None) == needs_values
        assert (r.grad is not None) != needs_values


@both_sides
@both_dtypes
def test_dual_numbers(dtype: torch.dtype, adjoint: bool) -> None:
    values, pattern, b = problem(dtype)
    dv, db = torch.randn_like(values), torch.randn_like(b)
    tangents = []
    for f in (sps.solve, lambda A, b, adjoint: oracle.solve(A.values, A.pattern, b, adjoint)):
        with forward_ad.dual_level():
            A = sps.SparseMatrix(forward_ad.make_dual(values, dv), pattern)
            tangents.append(forward_ad.unpack_dual(f(A, forward_ad.make_dual(b, db), adjoint=adjoint)).tangent)
    torch.testing.assert_close(*tangents)


@both_dtypes
def test_backward_of_dual_numbers(dtype: torch.dtype) -> None:
    values, pattern, b = problem(dtype)
    dv = torch.randn_like(values)
    grads = []
    for f in (sps.solve, lambda A, b: oracle.solve(A.values, A.pattern, b)):
        with forward_ad.dual_level():
            x = f(sps.SparseMatrix(forward_ad.make_dual(values, dv), pattern), b)
            tangent = forward_ad.unpack_dual(x).tangent
            grads.append(torch.autograd.grad(tangent.abs().sum(), (values, b)))
    torch.testing.assert_close(*grads)


@both_dtypes
def test_double_backward_and_batched_gradients(dtype: torch.dtype) -> None:
    values, pattern, b = problem(dtype)
    results = []
    for f in (sps.solve, lambda A, b: oracle.solve(A.values, A.pattern, b)):
        x = f(sps.SparseMatrix(values, pattern), b)
        first = torch.autograd.grad((x.abs() ** 2).sum(), (values, b), create_graph=True)
        second = torch.autograd.grad(sum((g.abs() ** 2).sum() for g in first), (values, b), retain_graph=True)
        eye = torch.eye(len(b), dtype=dtype)
        batched = torch.autograd.grad(x, (values, b), eye, is_grads_batched=True)
        results.append((first, second, batched))
    torch.testing.assert_close(*results)


@both_dtypes
def test_checkpoint(dtype: torch.dtype) -> None:
    values, pattern, b = problem(dtype)

    def f(values: Tensor, b: Tensor) -> Tensor:
        return (sps.solve(sps.SparseMatrix(values, pattern), b).abs() ** 2).sum()

    expected = torch.autograd.grad(f(values, b), (values, b))
    got = torch.autograd.grad(checkpoint(f, values, b, use_reentrant=False), (values, b))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@both_sides
@both_dtypes
@both_functions
def test_no_grad_around_transforms_and_inside_of_them(name: str, dtype: torch.dtype, adjoint: bool) -> None:
    """What is not recorded does not require a gradient: the mode is that of the user at every level."""
    values, pattern, b = problem(dtype)
    oracles = {"solve": oracle.solve, "matmul": oracle.matmul}

    def states(f: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        def constant(w: Tensor) -> Tensor:
            with torch.no_grad():
                x = f(values, b)
            return (w * x).sum().real

        with torch.no_grad():
            out = [*torch.func.jvp(f, (values, b), (values.detach(), b.detach()))]
            batch = torch.stack([values, 2 * values]).requires_grad_()
            out += torch.func.jvp(lambda v: torch.vmap(f, (0, None))(v, b), (batch,), (batch.detach(),))
        return [*out, torch.func.grad(constant)(b.detach())]

    ours = states(lambda v, b: FUNCTIONS[name](sps.SparseMatrix(v, pattern), b, adjoint=adjoint))
    dense = states(lambda v, b: oracles[name](v, pattern, b, adjoint))
    for x, expected in zip(ours, dense, strict=True):
        assert not x.requires_grad
        assert not expected.requires_grad
        torch.testing.assert_close(x, expected)


def views(t: Tensor) -> dict[str, Tensor]:
    """The same numbers with lazy bits, or with other strides."""
    spread = torch.stack([t, t + 1], dim=-1)[..., 0]
    out = {"strided": spread, "expanded": t.expand(2, *t.shape)[1], "neg": torch._neg_view(-t)}
    if t.is_complex():
        out["conj"] = t.conj().resolve_conj().conj()
        out["neg_conj"] = torch._neg_view(-t.conj().resolve_conj()).conj()
    return out


@pytest.mark.parametrize("backend", [None, "aot_eager", "inductor"])
@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex operators")
@both_dtypes
@both_functions
def test_lazy_bits_and_strides(name: str, dtype: torch.dtype, backend: str | None) -> None:
    values, pattern, b = problem(dtype, (3, 3))
    values, b = values.detach(), b.detach()

    def f(v: Tensor, r: Tensor) -> tuple[Tensor, Any]:
        x = FUNCTIONS[name](sps.SparseMatrix(v, pattern), r)
        return x, torch.func.vjp(lambda v, r: FUNCTIONS[name](sps.SparseMatrix(v, pattern), r), v, r)[1](r)

    call = torch.compile(f, fullgraph=True, backend=backend) if backend else f
    expected = f(values, b)
    for v, r in zip(views(values).values(), views(b).values(), strict=True):
        torch.compiler.reset()  # or the limit of recompilations is met
        torch.testing.assert_close(call(v, r), expected)
    torch.testing.assert_close(call(values, b.mT.clone().mT), expected)  # column-major
    x = FUNCTIONS[name](sps.SparseMatrix(values, pattern), b.mT.clone().mT)
    assert x.is_contiguous()


@both_dtypes
def test_lazy_bits_made_inside_a_compiled_function(dtype: torch.dtype) -> None:
    values, pattern, b = problem(dtype)

    def f(v: Tensor, r: Tensor, solve: Callable[..., Tensor]) -> Tensor:
        return solve(v.conj(), -r.conj()).conj()

    ours = lambda v, r: sps.solve(sps.SparseMatrix(v, pattern), r)  # noqa: E731
    expected = f(values, b, lambda v, r: oracle.solve(v, pattern, r))
    got = torch.compile(lambda v, r: f(v, r, ours), fullgraph=True, backend="aot_eager")(values, b)
    torch.testing.assert_close(got, expected)


@both_functions
def test_what_no_derivative_reads_may_be_written_to(name: str) -> None:
    """A right-hand side in `solve`, a result of `matmul`: as for dense products, they are not held for the backward."""
    gradients = []
    for write in (False, True):
        values, pattern, b = problem(torch.float64)
        b = b.detach()
        y = FUNCTIONS[name](sps.SparseMatrix(values, pattern), b)
        weights = torch.arange(1.0, 4.0, dtype=y.dtype)
        if write:
            (b if name == "solve" else y).add_(1)
        (weights * y).sum().backward()
        gradients.append(values.grad)
    assert torch.equal(*gradients)


def test_what_derivatives_read_must_not_be_written_to() -> None:
    values, pattern, b = problem(torch.float64)
    x = sps.solve(sps.SparseMatrix(values, pattern), b)
    with torch.no_grad():
        values.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        x.sum().backward()
