"""Random systems, in every form that a caller may give them, under a random transform, against the dense oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vjp, vmap

import oracle
import sparsolve as sps

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]
TOLERANCE = {torch.float32: 2e-3, torch.complex64: 2e-3, torch.float64: 1e-8, torch.complex128: 1e-8}
F = Callable[[Tensor, Tensor], Tensor]


class System(NamedTuple):
    pattern: sps.Pattern
    values: Tensor
    b: Tensor
    adjoint: bool
    random: torch.Generator

    def like(self, t: Tensor, *batch: int) -> Tensor:
        """Random numbers of `t`'s shape after more batch dimensions."""
        return torch.randn(*batch, *t.shape, dtype=t.dtype, generator=self.random)


@st.composite
def systems(draw: st.DrawFn, batched: bool = True) -> System:
    """Unsorted entries, duplicates, any density; one strong entry in each row, on the diagonal or a permutation of it."""
    n, density = draw(st.integers(1, 8)), draw(st.sampled_from([0.0, 0.2, 0.5, 1.0]))
    dtype, index = draw(st.sampled_from(DTYPES)), draw(st.sampled_from([torch.int32, torch.int64]))
    strong = torch.tensor(draw(st.one_of(st.just(list(range(n))), st.permutations(range(n)))))
    batch = draw(st.sampled_from([(), (), (2,), (2, 1)])) if batched else ()
    shape = draw(st.sampled_from([(n,), (n, 1), (n, 3), (2, n, 2), (3, 2, n, 1)]))
    if batch and len(shape) == 4:
        shape = (2, n, 3)
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    weak = torch.rand(n, n, generator=random).lt(density).nonzero()
    again = weak[: draw(st.integers(0, 3))]
    mixed = torch.randperm(n + len(weak) + len(again), generator=random)
    row, col = (t[mixed] for t in torch.cat([torch.stack([torch.arange(n), strong], 1), weak, again]).T)
    size = torch.tensor([float(n)] * n + [0.4] * (len(mixed) - n))[mixed]
    by_row = torch.argsort(row, stable=True)  # within a row still unsorted
    crow = torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(row, minlength=n).cumsum(0)])
    phases = torch.polar(torch.ones(len(mixed)), 6.3 * torch.rand(*batch, len(mixed), generator=random))
    values = (phases if dtype.is_complex else phases.real.sign() * (0.6 + 0.4 * phases.real.abs())).to(dtype)
    values = (values * size)[..., by_row]
    b = torch.randn(shape, dtype=draw(st.sampled_from([dtype, dtype, dtype.to_real()])), generator=random)
    pattern = sps.Pattern(crow.to(index), col[by_row].to(index), (n, n))
    return System(pattern, values, b, draw(st.booleans()), random)


# ---- transforms of f(values, b)


def value(f: F, s: System) -> Any:
    return f(s.values, s.b)


def reverse(f: F, s: System) -> Any:
    x, pull = vjp(f, s.values, s.b)
    return pull(x)


def forward(f: F, s: System) -> Any:
    return jvp(f, (s.values, s.b), (s.values.flip(-1), s.b.flip(-1)))[1]


def over_b(f: F, s: System) -> Any:
    return vmap(f, (None, -1))(s.values, torch.stack([s.b, 2 * s.b.flip(-1)], -1))


def over_values(f: F, s: System) -> Any:
    return vmap(f, (0, None))(torch.stack([s.values, 2 * s.values]), s.b)


def over_values_of_gradient(f: F, s: System) -> Any:
    return vmap(lambda v: vjp(f, v, s.b)[1](f(v, s.b)))(torch.stack([s.values, 2 * s.values]))


def _real(f: F, s: System) -> tuple[F, Tensor, Tensor]:
    """The same function between real numbers: jacobians of complex ones do not exist in torch."""
    into = [torch.view_as_complex if t.is_complex() else lambda t: t for t in (s.values, s.b)]

    def real(v: Tensor, b: Tensor) -> Tensor:
        x = f(into[0](v), into[1](b))
        return torch.view_as_real(x) if x.is_complex() else x

    v, b = (torch.view_as_real(t) if t.is_complex() else t for t in (s.values, s.b))
    return real, v, b


def reverse_jacobian(f: F, s: System) -> Any:
    real, *at = _real(f, s)
    return jacrev(real, (0, 1))(*at)


def forward_jacobian(f: F, s: System) -> Any:
    real, *at = _real(f, s)
    return jacfwd(real, (0, 1))(*at)


def hessian_vector(f: F, s: System) -> Any:
    at, along = (s.values, s.b), (s.values.flip(-1), s.b.flip(-1))
    gradient = grad(lambda v, b: f(v, b).abs().pow(2).sum(), (0, 1))
    return [jvp(gradient, at, along)[1], vjp(gradient, *at)[1](along)]


TRANSFORMS = [
    value,
    reverse,
    forward,
    over_b,
    over_values,
    over_values_of_gradient,
    reverse_jacobian,
    forward_jacobian,
    hessian_vector,
]

COMMON = settings(derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


def close(got: Any, expected: Any, dtype: torch.dtype) -> None:
    for a, b in zip(torch.utils._pytree.tree_leaves(got), torch.utils._pytree.tree_leaves(expected), strict=True):
        size = max(1.0, float(b.detach().abs().max())) if b.numel() else 1.0
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE[dtype] * size)


@settings(COMMON, max_examples=300)
@given(systems(), st.sampled_from(TRANSFORMS), st.sampled_from(["solve", "matmul"]))
def test_sparse_matrix(s: System, transform: Callable[[F, System], Any], op: str) -> None:
    def ours(v: Tensor, b: Tensor) -> Tensor:
        return getattr(sps, op)(sps.SparseMatrix(v, s.pattern), b, adjoint=s.adjoint)

    def dense(v: Tensor, b: Tensor) -> Tensor:
        dtype = torch.promote_types(v.dtype, b.dtype)
        return getattr(oracle, op)(v.to(dtype), s.pattern, b.to(dtype), s.adjoint)

    close(transform(ours, s), transform(dense, s), s.values.dtype)


# ---- sparse tensors


def coo(s: System, values: Tensor) -> Tensor:
    indices = torch.stack([s.pattern.rows(), s.pattern.col])
    return torch.sparse_coo_tensor(indices, values, s.pattern.shape, check_invariants=True)


def csr(s: System, values: Tensor) -> Tensor:
    T = coo(s, values).coalesce()
    row, col = T.indices()
    crow = torch.cat([row.new_zeros(1), torch.bincount(row, minlength=T.shape[0]).cumsum(0)]).to(s.pattern.col.dtype)
    return torch.sparse_csr_tensor(crow, col.to(crow.dtype), T.values(), T.shape, check_invariants=True)


LAYOUTS: dict[str, Callable[[System, Tensor], Tensor]] = {
    "uncoalesced COO": coo,
    "COO": lambda s, values: coo(s, values).coalesce(),
    "CSR": csr,
    "CSC": lambda s, values: csr(s, values).to_sparse_csc(),
}


@settings(COMMON, max_examples=150)
@given(systems(batched=False), st.sampled_from(list(LAYOUTS)))
def test_sparse_tensor(s: System, layout: str) -> None:
    """x, and its gradient with respect to the sparse tensor: sparse, in its layout, on its pattern."""
    T = LAYOUTS[layout](s, s.values).detach().requires_grad_()
    b = s.b.clone().requires_grad_()
    x = sps.solve(T, b, adjoint=s.adjoint)
    D = T.detach().to_dense().requires_grad_()
    full = D.to(torch.promote_types(D.dtype, b.dtype))
    expected = torch.linalg.inv(full.mH if s.adjoint else full) @ b.to(full.dtype)
    close(x, expected, D.dtype)
    cotangent = s.like(x)
    grad_T, grad_b = torch.autograd.grad(x, (T, b), cotangent)
    grad_D, dense_b = torch.autograd.grad(expected, (D, b), cotangent)
    on_pattern = torch.zeros(D.shape).index_put((s.pattern.rows().long(), s.pattern.col.long()), torch.tensor(1.0))
    assert grad_T.layout == T.layout
    close(grad_T.to_dense(), grad_D * on_pattern, D.dtype)
    close(grad_b, dense_b, D.dtype)
