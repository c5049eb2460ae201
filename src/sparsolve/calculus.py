"""The derivative and batching rules of the three primitives.

Let `A` have the entries `values` on a fixed pattern. The inner product is `⟨a, b⟩ = Re(aᴴ b)`, and torch's gradient `x̄` of a
real loss `L` is the one with `dL = ⟨x̄, dx⟩` (for complex `x` this is its convention, the conjugate Wirtinger derivative).

**solve.** `A x = b` gives `Ȧ x + A ẋ = ḃ`, so the tangent is `ẋ = A⁻¹(ḃ − Ȧ x)`. Then `⟨x̄, ẋ⟩ = ⟨A⁻ᴴ x̄, ḃ − Ȧ x⟩`, so with `λ = A⁻ᴴ x̄`
the adjoints are `b̄ = λ` and `Ā = −λ xᴴ`, of which only the pattern's entries are wanted (Giles, "Collected matrix derivative
results for forward and reverse mode algorithmic differentiation", 2008, section 2.3). For `Aᴴ x = b` the tangent is
`ẋ = A⁻ᴴ(ḃ − Ȧᴴ x)`, `λ = A⁻¹ x̄`, and `⟨λ, Ȧᴴ x⟩ = ⟨x λᴴ, Ȧ⟩`: `Ā = −x λᴴ`, the roles swapped.

**matmul.** `y = A x` gives `ẏ = Ȧ x + A ẋ`, `x̄ = Aᴴ ȳ`, `Ā = ȳ xᴴ`; for `y = Aᴴ x` it is `Ā = x ȳᴴ`.

**sample.** `s = (u vᴴ)` on the pattern `P`. Its tangent is `(u̇ vᴴ + u v̇ᴴ)` on `P`. With `S̄` the sparse matrix of values `s̄`,
`⟨s̄, u̇ vᴴ⟩ = ⟨S̄ v, u̇⟩` and `⟨s̄, u v̇ᴴ⟩ = ⟨S̄ᴴ u, v̇⟩`: `ū = S̄ v`, `v̄ = S̄ᴴ u`.

Each rule calls the three primitives only, so every order and mixture of derivatives follows from these.

**vmap.** Batched values become one more leading dimension. Right-hand sides batched over one matrix become columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import ops
from .errors import PatternError, sentence
from .kept import Body
from .registration import attach
from .solvers import cotangent, tangent

__all__ = ["attached", "constant_pattern", "fold", "lead", "matmul", "sample", "solve", "summed", "unfold"]

Tangents = Sequence[Tensor | None]
Dims = Sequence[int | None]


def solve(
    values: Tensor,
    crow: Tensor,
    col: Tensor,
    b: Tensor,
    solver: str,
    adjoint: bool,
    report: bool = False,
    x0: Tensor | None = None,
) -> tuple[Tensor, Any]:
    """`A⁻¹ b` or `A⁻ᴴ b`, and the report, if it is wanted: values `(*batch, nnz)`, b and the first guess x0 `(*batch, n, k)`; or `(nnz,)` and `(n,)`."""
    return _solve(values, crow, col, b, solver, bool(adjoint), report, x0)  # type: ignore[no-any-return]


def matmul(values: Tensor, crow: Tensor, col: Tensor, x: Tensor, columns: int, adjoint: bool) -> Tensor:
    """`A x` or `Aᴴ x`: values `(*batch, nnz)`, x `(*batch, n, k)`."""
    return _matmul(values, crow, col, x, columns, bool(adjoint))  # type: ignore[no-any-return]


def sample(crow: Tensor, col: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """`(u vᴴ)` at the pattern's entries: u `(*batch, rows, k)`, v `(*batch, columns, k)`."""
    return _sample(crow, col, u, v)  # type: ignore[no-any-return]


def _outer(crow: Tensor, col: Tensor, u: Tensor, v: Tensor, adjoint: bool) -> Tensor:
    """`u vᴴ` on the pattern, or `v uᴴ` for the adjoint problem."""
    if u.dim() == 1:
        u, v = u.unsqueeze(-1), v.unsqueeze(-1)
    return sample(crow, col, v, u) if adjoint else sample(crow, col, u, v)


def summed(*terms: Tensor | None) -> Tensor:
    """The terms that there are, one at least, added up."""
    total, *rest = [t for t in terms if t is not None]
    for t in rest:
        total = total + t
    return total


# ---- solve: ẋ = A⁻¹(ḃ − Ȧ x);  λ = A⁻ᴴ x̄,  b̄ = λ,  Ā = −λ xᴴ


def _solve_backward(inputs: Sequence[Any], x: Tensor, needs: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
    values, crow, col, _, solver, adjoint, report, *_ = inputs
    lam, _ = solve(values, crow, col, grad, cotangent(solver), not adjoint)
    if report:  # a column that failed is NaN, and does no harm where no gradient of it is asked for
        x = torch.where((lam == 0).all(dim=-min(2, x.dim()), keepdim=True), 0.0, x)
    d_values = -_outer(crow, col, lam, x, adjoint) if needs[0] else None
    return d_values, None, None, lam if needs[3] else None, None, None, None, None


def _solve_backward_at_once(
    inputs: Sequence[Any], x: Tensor, needs: Sequence[bool], grad: Tensor, found: Any
) -> tuple[Tensor | None, ...]:
    """The same in one step, where no other derivative or transform is to see its two."""
    _, _, _, _, solver, _, report, *_ = inputs
    if report:
        return _solve_backward(inputs, x, needs, grad)
    lam, d_values = ops.solve_backward(x, grad, found, inputs, cotangent(solver), needs[0])
    return d_values, None, None, lam if needs[3] else None, None, None, None, None


def _solve_jvp(inputs: Sequence[Any], x: Tensor, tangents: Tangents) -> Tensor:
    values, crow, col, _, solver, adjoint, *_ = inputs
    d_values, d_b = tangents[0], tangents[3]
    change = None
    if d_values is not None:
        X = x.unsqueeze(-1) if x.dim() == 1 else x
        change = -matmul(d_values, crow, col, X, X.shape[-2], adjoint).view_as(x)
    return solve(values, crow, col, summed(d_b, change), tangent(solver), adjoint)[0]


def _solve_vmap(
    info: Any,
    dims: Dims,
    values: Tensor,
    crow: Tensor,
    col: Tensor,
    b: Tensor,
    solver: str,
    adjoint: bool,
    report: bool,
    x0: Tensor | None = None,
) -> Any:
    constant_pattern(dims[1:3])
    size, at, at0 = info.batch_size, dims[3], dims[7] if x0 is not None else None
    if b.dim() == (1 if at is None else 2):  # vectors, as columns
        x0 = None if x0 is None else x0.unsqueeze(-1)
        (x, reports), _ = _solve_vmap(info, dims, values, crow, col, b.unsqueeze(-1), solver, adjoint, report, x0)
        return (x.squeeze(-1), reports), (0, 0)
    if dims[0] is not None:
        values, b = lead(values, dims[0], size), lead(b, at, size)
        x0 = None if x0 is None else lead(x0, at0, size)
        return solve(values, crow, col, b, solver, adjoint, report, x0), (0, 0)
    if x0 is not None:
        b, x0, at = lead(b, at, size), fold(lead(x0, at0, size), 0), 0
    k = _columns(b, at)
    x, reports = solve(values, crow, col, fold(b, at), solver, adjoint, report, x0)
    return (unfold(x, size, k), unfold(reports, size, k if report else 0)), (0, 0)


# ---- matmul: ẏ = Ȧ x + A ẋ;  x̄ = Aᴴ ȳ,  Ā = ȳ xᴴ


def _matmul_backward(inputs: Sequence[Any], y: None, needs: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
    values, crow, col, x, columns, adjoint = inputs
    d_values = _outer(crow, col, grad, x, adjoint) if needs[0] else None
    d_x = matmul(values, crow, col, grad, columns, not adjoint) if needs[3] else None
    return d_values, None, None, d_x, None, None


def _matmul_jvp(inputs: Sequence[Any], y: None, tangents: Tangents) -> Tensor:
    values, crow, col, x, columns, adjoint = inputs
    d_values, d_x = tangents[0], tangents[3]
    by_values = None if d_values is None else matmul(d_values, crow, col, x, columns, adjoint)
    by_x = None if d_x is None else matmul(values, crow, col, d_x, columns, adjoint)
    return summed(by_values, by_x)


def _matmul_vmap(
    info: Any, dims: Dims, values: Tensor, crow: Tensor, col: Tensor, x: Tensor, columns: int, adjoint: bool
) -> Any:
    constant_pattern(dims[1:3])
    if dims[0] is not None:
        values, x = lead(values, dims[0], info.batch_size), lead(x, dims[3], info.batch_size)
        return matmul(values, crow, col, x, columns, adjoint), 0
    y = matmul(values, crow, col, fold(x, dims[3]), columns, adjoint)
    return unfold(y, info.batch_size, _columns(x, dims[3])), 0


# ---- sample: ṡ = u̇ vᴴ + u v̇ᴴ on the pattern;  ū = S̄ v,  v̄ = S̄ᴴ u


def _sample_backward(inputs: Sequence[Any], s: None, needs: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
    crow, col, u, v = inputs
    d_u = matmul(grad, crow, col, v, v.shape[-2], False) if needs[2] else None
    d_v = matmul(grad, crow, col, u, v.shape[-2], True) if needs[3] else None
    return None, None, d_u, d_v


def _sample_jvp(inputs: Sequence[Any], s: None, tangents: Tangents) -> Tensor:
    crow, col, u, v = inputs
    d_u, d_v = tangents[2], tangents[3]
    by_u = None if d_u is None else sample(crow, col, d_u, v)
    by_v = None if d_v is None else sample(crow, col, u, d_v)
    return summed(by_u, by_v)


def _sample_vmap(info: Any, dims: Dims, crow: Tensor, col: Tensor, u: Tensor, v: Tensor) -> Any:
    constant_pattern(dims[:2])
    return sample(crow, col, lead(u, dims[2], info.batch_size), lead(v, dims[3], info.batch_size)), 0


# ---- the moves of a batch dimension


def constant_pattern(dims: Dims) -> None:
    """Refuse batch dimensions of index tensors."""
    if any(d is not None for d in dims):
        raise PatternError(
            sentence(
                "vmap batches the pattern's index tensors.",
                "A pattern is shared by a whole batch.",
                "Give it in_dims=None (SparseMatrix(0, pattern) in in_dims), or put the matrices into one block-diagonal matrix.",
            )
        )


def lead(t: Tensor, dim: int | None, size: int) -> Tensor:
    """The batch dimension first, repeated where there is none."""
    return t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)


def fold(b: Tensor, dim: int | None) -> Tensor:
    """`(*batch, n, k)` with a dimension of size m at `dim` -> `(*batch, n, m k)`."""
    assert dim is not None
    return b.movedim(dim, -2).flatten(-2)


def _columns(b: Tensor, dim: int | None) -> int:
    """The k of `(*batch, n, k)` with one more dimension at `dim`; of a folded b it cannot be told where that dimension is empty."""
    return b.shape[-2 if dim in (-1, b.dim() - 1) else -1]


def unfold(x: Tensor, size: int, k: int) -> Tensor:
    """`(*batch, n, m k)` -> `(m, *batch, n, k)`, contiguous, as each by itself would be: strides of another order are
    more than forward mode can follow where sizes are symbols."""
    return x.reshape(*x.shape[:-1], size, k).movedim(-2, 0).contiguous()


def attached(name: str, backward: Any, jvp: Any, vmap: Any, *unread: int, **more: Any) -> Any:
    """What calls the op of `ops.py` with these rules; `unread` as for `attach`, `more` as for `Body`."""
    body = Body(ops.bodies[name], **more)
    return attach(name, backward=backward, jvp=jvp, vmap=vmap, unread=unread, body=body)


_solve = attached(
    "solve", _solve_backward, _solve_jvp, _solve_vmap, 3, 7, keep=ops.solve_and_keep, at_once=_solve_backward_at_once
)  # b, x0
_matmul = attached("matmul", _matmul_backward, _matmul_jvp, _matmul_vmap, -1)  # y
_sample = attached("sample", _sample_backward, _sample_jvp, _sample_vmap, -1)  # s
