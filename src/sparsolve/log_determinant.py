"""`slogdet`, `inverse_entries`: three more primitives, and their rules.

Let `P` be the pattern, and `f = log det A`: for complex A any branch, for real A `log |det A|`. By Jacobi's formula `ḟ = tr(A⁻¹ Ȧ)`, which
reads the entries of `A⁻¹` only where `Aᵀ` has its own. With `G = A⁻ᴴ` on P this is `ḟ = Σ conj(G) Ȧ`, and the adjoint is
`Ā = f̄ G` (Giles, 2008, section 2.2.4).

**inverse_entries.** `G = A⁻ᴴ` on P has the tangent `Ġ = D(Ȧ)` with `D(W) = −(A⁻ᴴ Wᴴ A⁻ᴴ)` on P. Since `⟨Ḡ, D(Ȧ)⟩ = −Re tr(Ḡᴴ A⁻ᴴ Ȧᴴ A⁻ᴴ)
= ⟨D(Ḡ), Ȧ⟩`, the adjoint is the same function of Ḡ.

**inverse_derivative.** `D(W) = −Σ_k u_k v_kᴴ` on P with `u_k = A⁻ᴴ e_k`, `v_k = A⁻¹ W e_k`. It is an op, since there is a faster way for real
matrices than 2n solves (`backends/inverse_derivative.py`), with

    Ḋ = D(Ẇ) + E(W, Ȧ),  W̄ = D(D̄),  Ā = E(W, D̄)    with E(W, C) = A⁻ᴴ Wᴴ A⁻ᴴ Cᴴ A⁻ᴴ + A⁻ᴴ Cᴴ A⁻ᴴ Wᴴ A⁻ᴴ on P

by the product rule and `⟨D̄, A⁻ᴴ Ȧᴴ Y⟩ = ⟨Y D̄ᴴ A⁻ᴴ, Ȧ⟩`. E is `Σ_k` of `(A⁻ᴴ Wᴴ A⁻ᴴ e_k) (A⁻¹ C e_k)ᴴ`, and the same with W and C exchanged:
solves, products and samples, from which all further derivatives follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .calculus import attached, constant_pattern, lead, matmul, sample, summed
from .calculus import solve as solve_columns
from .determinants import COLUMNS
from .errors import kind_of, sentence
from .matrix import SparseMatrix
from .operands import require_dtype, require_length, require_pattern, uncast
from .operators import Operator
from .pattern import Pattern
from .selection import scaled
from .solvers import LU, Cholesky

__all__ = ["SLogDet", "inverse_entries", "slogdet"]

Tangents = Sequence[Tensor | None]

_DEFAULT = LU()


class SLogDet(NamedTuple):
    """`det A = sign · exp(logabsdet)`.

    Attributes:
        sign: `(*batch,)`, 1 or -1; of a complex matrix a number of size one.
        logabsdet: `(*batch,)`, real.

    >>> import torch, sparsolve as sps
    >>> sps.slogdet(torch.tensor([[0.0, 1.0], [1.0, 0.0]]).to_sparse())
    SLogDet(sign=tensor(-1.), logabsdet=tensor(0.))
    """

    sign: Tensor
    logabsdet: Tensor


def slogdet(A: SparseMatrix | Tensor, solver: LU | Cholesky = _DEFAULT) -> SLogDet:
    """The determinant of a sparse square `A`, as `torch.linalg.slogdet`: `det A = sign · exp(logabsdet)`.

    Args:
        A: `(n, n)`, as for `solve`: a `SparseMatrix` with values `(*batch, nnz)`, or a sparse COO, CSR or CSC tensor.
        solver: `LU()`, or `Cholesky()` for an error where `A` is not Hermitian positive definite; `backend` may be `"superlu"`, or `"metis"` of `LU`.

    Returns:
        `SLogDet(sign, logabsdet)`, each `(*batch,)`, on the device of `A`.

    Raises:
        SingularMatrixError: `A` is singular, exactly or to working precision: there is no logarithm, and no gradient.
        NotPositiveDefiniteError: `A` is not Hermitian positive definite, with `Cholesky()`.
        SolveError: NaN or Inf in `A`.
        PatternError: indices that do not describe a matrix.
        TypeError, ValueError: as for `solve`; or another solver, since L and U of SuperLU are read.

    Transforms:
        Those of `solve`. The gradient of `logabsdet` is `A⁻ᴴ` on `A`'s pattern (Jacobi's formula), entries of the inverse that are computed
        from the factors without the others (Takahashi, Fagan and Chen, 1973; Erisman and Tinney, 1975).

    Cost:
        One factorization by SuperLU, kept apart from those of `solve`; for the gradient of each `A` two to three times its flops, once. Where the
        patterns of L and U are very unlike, the gradient takes n solves instead. A second derivative in one direction takes a complex
        factorization and the same flops with it (Squire and Trapp, 1998); 2n solves where A is complex. Third ones take 5n solves.
        Up to 100 unknowns it is one inverse with all entries instead, for the value, the gradient and second derivatives, of many matrices at once.

    >>> import torch, sparsolve as sps
    >>> A = torch.tensor([[4.0, 1.0], [0.0, 2.0]], dtype=torch.float64).to_sparse().requires_grad_()
    >>> sps.slogdet(A).logabsdet.exp()
    tensor(8.0000, dtype=torch.float64, grad_fn=<...>)
    >>> sps.slogdet(A).logabsdet.backward()
    >>> A.grad.to_dense()
    tensor([[0.2500, 0.0000],
            [0.0000, 0.5000]], dtype=torch.float64)
    """
    values, pattern = _square(A, solver, "determinant")
    log, sign = _logdet(values, pattern.crow, pattern.col, solver.key)
    if values.dtype.is_complex:
        return SLogDet(torch.complex(log.imag.cos(), log.imag.sin()), log.real.clone())
    return SLogDet(sign, log)


def inverse_entries(A: SparseMatrix | Tensor, solver: LU | Cholesky = _DEFAULT) -> SparseMatrix:
    """The entries of `A⁻¹` at the places of `Aᴴ`, which are those of `A` where its pattern is symmetric: of a precision matrix the variance of each
    unknown, and the covariances of neighbours.

    Args:
        A, solver: as for `slogdet`.

    Returns:
        A `SparseMatrix` with values `(*batch, nnz)` on the pattern of `A.mH`. Where several entries of `A` share a place, each has its part, so that
        `diagonal()` and `to_dense()` show the inverse's numbers.

    Raises:
        As `slogdet`.

    Transforms:
        Those of `slogdet`, whose gradient has the same numbers (Takahashi, Fagan and Chen, 1973).

    Cost:
        One factorization, shared with `slogdet`, and two to three times its flops; derivatives as second derivatives of `slogdet`.

    >>> import torch, sparsolve as sps
    >>> A = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 4.0]], dtype=torch.float64).to_sparse()
    >>> sps.inverse_entries(A).diagonal()
    tensor([0.6667, 0.6667, 0.2500], dtype=torch.float64)
    """
    values, pattern = _square(A, solver, "inverse")
    entries = _inverse_entries(values, pattern.crow, pattern.col, solver.key)
    place = pattern.rows().long() * pattern.shape[1] + pattern.col
    places = place.sort().values
    shared = torch.searchsorted(places, place, right=True) - torch.searchsorted(places, place)
    return SparseMatrix(scaled(entries, 1 / shared.to(entries.dtype)), pattern).mH


def _square(A: SparseMatrix | Tensor, solver: Any, what: str) -> tuple[Tensor, Pattern]:
    """Values and pattern of a square matrix, and a solver whose factors can be read."""
    if isinstance(A, Operator):
        raise TypeError(sentence(f"A is an Operator, which has no entries to factorize, so it has no {what} here."))
    if isinstance(A, Tensor) and A.layout is torch.strided:
        dense = {"determinant": "torch.linalg.slogdet", "inverse": "torch.linalg.inv"}[what]
        raise TypeError(sentence("A is a dense tensor.", remedy=f"Use {dense}, or A.to_sparse_csr()."))
    A = A if isinstance(A, SparseMatrix) else SparseMatrix.from_torch(A)
    if A.shape[0] != A.shape[1]:
        raise ValueError(sentence(f"A has shape {A.shape}; only a square matrix has a determinant and an inverse."))
    _require_factors(solver)
    values = uncast(A.values)
    require_length(values, require_pattern(A.pattern))
    require_dtype("A", values)
    if values.device != A.pattern.device:
        raise ValueError(
            sentence(
                f"A's values are on {values.device}, and its pattern on {A.pattern.device}.",
                remedy="Use .to(device) on each.",
            )
        )
    return values, A.pattern


def _require_factors(solver: Any) -> None:
    """Refuse all but records whose factors can be read."""
    if not isinstance(solver, (LU, Cholesky)):
        raise TypeError(sentence(f"solver is {kind_of(solver)}; a determinant needs LU() or Cholesky()."))
    readable = (None, "superlu", "metis") if isinstance(solver, LU) else (None, "superlu")
    if solver.backend not in readable or getattr(solver, "factor_dtype", None) is not None:
        raise ValueError(
            sentence(
                f"solver is {solver}; a determinant is read from SuperLU's factors, in the precision of A.",
                remedy=f"Use {type(solver).__name__}().",
            )
        )


# ---- logdet: ḟ = Σ conj(G) Ȧ;  Ā = f̄ G


def _logdet_backward(inputs: Sequence[Any], f: None, needs: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
    return grad.unsqueeze(-1) * _inverse_entries(*inputs), None, None, None


def _logdet_jvp(inputs: Sequence[Any], f: None, tangents: Tangents) -> Tensor:
    assert tangents[0] is not None
    G = _inverse_entries(*inputs)
    # a product and a sum, of dense code too, do not compile in three nested jvp; autocast would have this in half precision
    with torch.autocast(G.device.type, enabled=False):
        return torch.linalg.vecdot(G, tangents[0])  # type: ignore[no-any-return]


def _logdet_vmap(info: Any, dims: Sequence[int | None], values: Tensor, crow: Tensor, col: Tensor, solver: str) -> Any:
    constant_pattern(dims[1:3])
    return _logdet(lead(values, dims[0], info.batch_size), crow, col, solver), (0, 0)


# ---- inverse_entries: Ġ = D(Ȧ);  Ā = D(Ḡ)


def _entries_backward(inputs: Sequence[Any], G: None, needs: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
    values, *rest = inputs
    return _inverse_derivative(values, grad, *rest), None, None, None


def _entries_jvp(inputs: Sequence[Any], G: None, tangents: Tangents) -> Tensor:
    values, *rest = inputs
    return _inverse_derivative(values, tangents[0], *rest)  # type: ignore[no-any-return]


def _entries_vmap(info: Any, dims: Sequence[int | None], values: Tensor, crow: Tensor, col: Tensor, solver: str) -> Any:
    constant_pattern(dims[1:3])
    return _inverse_entries(lead(values, dims[0], info.batch_size), crow, col, solver), 0


# ---- inverse_derivative: Ḋ = D(Ẇ) + E(W, Ȧ);  W̄ = D(D̄),  Ā = E(W, D̄)


def _second(w: Tensor, c: Tensor, values: Tensor, crow: Tensor, col: Tensor, solver: str) -> Tensor:
    """`E(W, C) = (A⁻ᴴ Wᴴ A⁻ᴴ Cᴴ A⁻ᴴ + A⁻ᴴ Cᴴ A⁻ᴴ Wᴴ A⁻ᴴ)` on the pattern, some columns of the identity at a time."""
    n, total = crow.shape[0] - 1, torch.zeros_like(w)

    def solved(b: Tensor, adjoint: bool) -> Tensor:
        return solve_columns(values, crow, col, b, solver, adjoint)[0]

    for start in range(0, n, COLUMNS):
        width = min(COLUMNS, n - start)
        unit = torch.eye(n, width, dtype=values.dtype, device=values.device).roll(start, 0)
        unit = unit.expand(*values.shape[:-1], n, width)
        u = solved(unit, True)
        for one, other in ((w, c), (c, w)):
            left = solved(matmul(one, crow, col, u, n, True), True)
            total = total + sample(crow, col, left, solved(matmul(other, crow, col, unit, n, False), False))
    return total


def _derivative_backward(
    inputs: Sequence[Any], D: None, needs: Sequence[bool], grad: Tensor
) -> tuple[Tensor | None, ...]:
    values, w, *rest = inputs
    d_values = _second(w, grad, values, *rest) if needs[0] else None
    d_w = _inverse_derivative(values, grad, *rest) if needs[1] else None
    return d_values, d_w, None, None, None


def _derivative_jvp(inputs: Sequence[Any], D: None, tangents: Tangents) -> Tensor:
    values, w, *rest = inputs
    by_values = None if tangents[0] is None else _second(w, tangents[0], values, *rest)
    by_w = None if tangents[1] is None else _inverse_derivative(values, tangents[1], *rest)
    return summed(by_values, by_w)


def _derivative_vmap(
    info: Any, dims: Sequence[int | None], values: Tensor, w: Tensor, crow: Tensor, col: Tensor, solver: str
) -> Any:
    constant_pattern(dims[2:4])
    values, w = (lead(t, d, info.batch_size) for t, d in zip((values, w), dims, strict=False))
    return _inverse_derivative(values, w, crow, col, solver), 0


# no rule reads the output, -1
_logdet = attached("logdet", _logdet_backward, _logdet_jvp, _logdet_vmap, -1)
_inverse_entries = attached("inverse_entries", _entries_backward, _entries_jvp, _entries_vmap, -1)
_inverse_derivative = attached("inverse_derivative", _derivative_backward, _derivative_jvp, _derivative_vmap, -1)
