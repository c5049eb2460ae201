"""Solves with an `Operator`: one more opaque op, whose rules are those of `solve` with the function in place of entries.

`A(θ) x = b` gives `Ȧ x + A ẋ = ḃ` with `Ȧ x` the derivative of `θ ↦ A(θ) x` along `θ̇`, so `ẋ = A⁻¹(ḃ − Ȧ x)`. With `λ = A⁻ᴴ x̄` it is
`⟨x̄, ẋ⟩ = ⟨λ, ḃ⟩ − ⟨λ, Ȧ x⟩`: the adjoints are `b̄ = λ` and `θ̄ = −(vjp of θ ↦ A(θ) x at λ)` (the implicit function theorem; Blondel et al.,
Efficient and modular implicit differentiation, 2022, section 2.1). For `Aᴴ x = b`, `λ = A⁻¹ x̄` and `⟨λ, Ȧᴴ x⟩ = ⟨Ȧ λ, x⟩`:
`θ̄ = −(vjp of θ ↦ A(θ) λ at x)`, the roles swapped. The rules call the op and the function only, so every order follows.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from .backends import device_module, solver_module
from .batch import REPORT, columns, located, relative_residual, whole
from .calculus import fold, lead, unfold
from .errors import SolveError, kind_of, sentence
from .iterative import Iterative
from .levels import in_trace, on_the_ground, one_level_out, without_hooks
from .operands import DTYPES, as_columns, guess, require_dense, uncast
from .operators import Operator, form_of, probed, product, require_linear
from .ops import opaque
from .registration import attach
from .result import Info, Solution
from .solvers import asked, cotangent, tangent
from .tickets import keep, redeem, ticket

__all__ = ["solve", "solve_with_info"]


def solve(A: Operator, b: Tensor, solver: Any, adjoint: bool, x0: Tensor | None) -> Tensor:
    """`A⁻¹ b` or `A⁻ᴴ b`, b `(n,)`, `(n, k)` or `(*batch, n, k)`."""
    x: Tensor = _call(A, b, solver, adjoint, x0, report=False)[0]
    return x


def solve_with_info(A: Operator, b: Tensor, solver: Any, adjoint: bool, x0: Tensor | None) -> Solution:
    """The same, and how it went."""
    x, report = _call(A, b, solver, adjoint, x0, report=True)
    return Solution(x, Info.of(report, b.dim() == 1))


@torch.compiler.disable(  # type: ignore[untyped-decorator]
    reason=sentence(
        "An Operator is inside of compiled code.",
        "Its function is called in each step of an iteration, which no graph can hold.",
        "Without fullgraph=True the graph is broken here; or use a SparseMatrix, which compiles.",
    )
)
def _call(A: Operator, b: Tensor, solver: Any, adjoint: bool, x0: Tensor | None, report: bool) -> tuple[Tensor, Tensor]:
    _require_iterative(solver)
    require_dense("b", b)
    b = uncast(b)
    if b.dtype not in DTYPES or b.dim() == 0:
        raise TypeError(
            sentence(
                f"b is a tensor of {b.dtype} with {b.dim()} dimensions; (n,), (n, k) or more, and float32, float64 or complex, are needed."
            )
        )
    right, restore, _ = as_columns(b)
    form, theta = form_of(A, b)
    form, dtype = probed(form, right, theta)
    start = None if x0 is None else as_columns(guess(x0, b, dtype))[0]
    op, operator = torch.ops.sparsolve.solve_operator.default, ticket(form)
    if in_trace():
        keep(operator)
    x, reports = op(theta, right.to(dtype), operator, solver.key, adjoint, report, start)
    return restore(x), restore(reports) if report else reports


def _require_iterative(solver: Any) -> None:
    if not isinstance(solver, Iterative):
        raise TypeError(
            sentence(
                f"solver is {kind_of(solver)}; A is an Operator, which has no entries to factorize, so the record of an iterative method is needed.",
                remedy="Use CG(), MINRES(), GMRES(), BiCGStab() or CGS().",
            )
        )


# ---- the op


class _Products:
    """`A @ X` for arrays, by the function."""

    def __init__(self, form: Any, theta: Tensor, on: Any, adjoint: bool) -> None:
        self.form, self.theta, self.on, self.adjoint = form, theta, on, adjoint

    def __matmul__(self, X: Any) -> Any:
        x = self.on.tensor(X)
        with on_the_ground():
            return self.on.array(product(self.form, self.theta, x, adjoint=self.adjoint).to(x.dtype))


@opaque("solve_operator")
def _solve_operator(
    theta: Tensor,
    b: Tensor,
    operator: str,
    solver: str,
    adjoint: bool,
    report: bool,
    x0: Optional[Tensor] = None,  # noqa: UP045 (what torch reads)
) -> tuple[Tensor, Tensor]:
    """`A(θ)⁻¹ b` or its adjoint, theta `(p,)`, b `(n, k)`, and a report as that of `solve`."""
    on, (record, _, purpose), form = device_module(b.device.type), asked(solver), redeem(operator)
    right, (n, k) = on.array(b), b.shape
    x, reports = on.empty((n, k), right), on.zeros((REPORT, k if report else 0))
    if n and k:
        if not purpose:
            with on_the_ground():
                require_linear(form, theta.detach(), b)
        products = {side: _Products(form, theta.detach(), on, side) for side in (False, True)}
        module = solver_module(type(record).__name__, b.device.type)
        factor = module.matrix_free(products, on.array(theta), record, n, right.dtype)
        start = None if x0 is None else on.array(x0)
        try:
            outcome = (columns if report else whole)(factor, right, adjoint, start)
        except SolveError as error:
            raise located(error, None, adjoint, purpose) from error.__cause__
        x[...] = outcome.x
        if report:
            reports[0], reports[1] = outcome.status, outcome.iterations
            reports[2] = relative_residual(on, products[adjoint].__matmul__, right, x)
    return on.tensor(x), on.tensor(reports)


@_solve_operator.register_fake  # type: ignore[untyped-decorator]
def _(
    theta: Tensor,
    b: Tensor,
    operator: str,
    solver: str,
    adjoint: bool,
    report: bool,
    x0: Optional[Tensor] = None,  # noqa: UP045
) -> tuple[Tensor, Tensor]:
    return b.new_empty(b.shape), b.new_empty((REPORT, b.shape[-1] if report else 0), dtype=torch.float64)


# ---- its rules


def _again(inputs: Any, b: Tensor, key: str, adjoint: bool) -> Tensor:
    """A solve of a derivative."""
    theta, _, operator, *_ = inputs
    return torch.ops.sparsolve.solve_operator.default(theta, b, operator, key, adjoint, False, None)[0]  # type: ignore[no-any-return]


def _backward(inputs: Any, x: Tensor, needs: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    theta, _, operator, solver, adjoint, *_ = inputs
    lam = _again(inputs, grad, cotangent(solver), not adjoint)
    d_theta = None
    if needs[0]:
        u, v = (lam, x) if adjoint else (x, lam)
        form = redeem(operator)
        with without_hooks():
            pull = torch.func.vjp(lambda theta: product(form, theta, u, adjoint=False), theta)[1]
            d_theta = -pull(v)[0]
    return d_theta, lam if needs[1] else None, None, None, None, None, None


def _jvp(inputs: Any, x: Tensor, tangents: Any) -> Tensor:
    theta, _, operator, solver, adjoint, *_ = inputs
    d_theta, d_b = tangents[:2]
    form, right = redeem(operator), torch.zeros_like(x) if d_b is None else d_b
    if d_theta is not None:

        def change(theta: Tensor, d_theta: Tensor, x: Tensor) -> Tensor:
            return _along(lambda theta: product(form, theta, x, adjoint=adjoint), theta, d_theta)

        right = right - one_level_out(change, theta, d_theta, x)
    return _again(inputs, right, tangent(solver), adjoint)


def _along(f: Any, theta: Tensor, d_theta: Tensor) -> Tensor:
    """The derivative of f along `d_theta`, as the vjp of its vjp: forward mode may be in use here, and cannot be entered twice."""
    with without_hooks():
        y, pull, *_ = torch.func.vjp(f, theta)
        pull_again = torch.func.vjp(lambda u: pull(u)[0], torch.zeros_like(y))[1]
        return pull_again(d_theta)[0]  # type: ignore[no-any-return]


def _vmap(
    info: Any,
    dims: Any,
    theta: Tensor,
    b: Tensor,
    operator: str,
    solver: str,
    adjoint: bool,
    report: bool,
    x0: Tensor | None = None,
) -> Any:
    op, size = torch.ops.sparsolve.solve_operator.default, info.batch_size
    at, at0 = dims[1], dims[6] if x0 is not None else None
    if dims[0] is None:  # more columns
        right = lead(b, at, size)
        start = None if x0 is None else fold(lead(x0, at0, size), 0)
        x, reports = op(theta, fold(right, 0), operator, solver, adjoint, report, start)
        k = right.shape[-1]
        return (unfold(x, size, k), unfold(reports, size, k if report else 0)), (0, 0)
    if size == 0:
        return _nothing(theta.movedim(dims[0], 0), b, at, report), (0, 0)
    found = []
    for i in range(size):
        parts = [t if d is None or t is None else t.select(d, i) for t, d in ((theta, dims[0]), (b, at), (x0, at0))]
        try:
            found.append(op(parts[0], parts[1], operator, solver, adjoint, report, parts[2]))
        except SolveError as error:
            raise type(error)(sentence(str(error), batch_index=i)) from error
    return tuple(torch.stack(parts) for parts in zip(*found, strict=True)), (0, 0)


def _nothing(theta: Tensor, b: Tensor, at: int | None, report: bool) -> tuple[Tensor, Tensor]:
    """The results for an empty batch, which derivatives follow."""
    b = lead(b, at, 0)
    x = b + theta.abs().sum(-1)[:, None, None].to(b.dtype)
    return x, x.new_empty((0, REPORT, b.shape[-1] if report else 0), dtype=torch.float64)


attach("solve_operator", backward=_backward, jvp=_jvp, vmap=_vmap, unread=(1, 6))  # b, x0
