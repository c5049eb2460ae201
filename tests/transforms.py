"""Compositions of transforms as a dict of one-liners, each of a function `f(s, t)` of two real vectors.

`s` moves the entries of `A` and `t` the right-hand side, real and imaginary parts, so that Jacobians and Hessians exist
for complex systems too; `T` holds tangents, cotangents and batches of both. Everything that dense code survives is listed.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

F = Callable[[Tensor, Tensor], Tensor]


def loss(f: F) -> F:
    """A real number that no derivative of order three or less is zero of."""
    return lambda s, t: f(s, t).sin().sum()


def along(f: F, T: Any) -> F:
    """The derivative of `f` along (ds, dt), as a function of (s, t)."""
    return lambda s, t: jvp(f, (s, t), (T.ds, T.dt))[1]


def tensors(s: Tensor, t: Tensor, x: Tensor) -> Any:
    like = torch.randn_like
    return SimpleNamespace(
        s=s, t=t, ds=like(s), dt=like(t), dx=like(x),
        S=torch.stack([s, s + 0.1 * like(s), s + 0.1 * like(s)]), TT=torch.stack([t, t + like(t), t - like(t)]),
    )  # fmt: skip


COMPOSITIONS: dict[str, Callable[[F, Any], Any]] = {
    "value": lambda f, T: f(T.s, T.t),
    # one derivative
    "grad_A": lambda f, T: grad(loss(f))(T.s, T.t),
    "grad_b": lambda f, T: grad(loss(f), 1)(T.s, T.t),
    "grad_both": lambda f, T: grad(loss(f), (0, 1))(T.s, T.t),
    "vjp": lambda f, T: vjp(f, T.s, T.t)[1](T.dx),
    "jvp_A": lambda f, T: jvp(lambda s: f(s, T.t), (T.s,), (T.ds,)),
    "jvp_b": lambda f, T: jvp(lambda t: f(T.s, t), (T.t,), (T.dt,)),
    "jvp_both": lambda f, T: jvp(f, (T.s, T.t), (T.ds, T.dt)),
    "jacrev_A": lambda f, T: jacrev(f)(T.s, T.t),
    "jacrev_b": lambda f, T: jacrev(f, 1)(T.s, T.t),
    "jacfwd_A": lambda f, T: jacfwd(f)(T.s, T.t),
    "jacfwd_both": lambda f, T: jacfwd(f, (0, 1))(T.s, T.t),
    # two derivatives
    "hessian_A": lambda f, T: hessian(loss(f))(T.s, T.t),
    "hessian_mixed": lambda f, T: jacfwd(jacrev(loss(f), 0), 1)(T.s, T.t),
    "jacrev_jacrev": lambda f, T: jacrev(jacrev(loss(f)))(T.s, T.t),
    "jacfwd_jacfwd": lambda f, T: jacfwd(jacfwd(loss(f)))(T.s, T.t),
    "jacrev_jacfwd": lambda f, T: jacrev(jacfwd(loss(f)), 1)(T.s, T.t),
    "jvp_of_grad": lambda f, T: along(grad(loss(f)), T)(T.s, T.t),
    "grad_of_jvp": lambda f, T: grad(along(loss(f), T), (0, 1))(T.s, T.t),
    "vjp_of_jvp": lambda f, T: vjp(along(f, T), T.s, T.t)[1](T.dx),
    "vjp_of_vjp": lambda f, T: vjp(lambda s, t: vjp(f, s, t)[1](T.dx), T.s, T.t)[1]((T.ds, T.dt)),
    "jvp_of_jvp": lambda f, T: along(along(f, T), T)(T.s, T.t),
    "jvp_of_vjp": lambda f, T: jvp(lambda s, t: vjp(f, s, t)[1](T.dx), (T.s, T.t), (T.ds, T.dt)),
    # three derivatives
    "jvp_jvp_jvp": lambda f, T: along(along(along(f, T), T), T)(T.s, T.t),
    "jvp_grad_jvp": lambda f, T: along(grad(along(loss(f), T)), T)(T.s, T.t),
    "grad_jvp_jvp": lambda f, T: grad(along(along(loss(f), T), T))(T.s, T.t),
    "grad_grad_grad": lambda f, T: grad(lambda s, t: grad(lambda s, t: grad(loss(f))(s, t) @ T.ds)(s, t) @ T.ds)(T.s, T.t),
    "grad_of_hvp": lambda f, T: grad(lambda s, t: along(grad(loss(f)), T)(s, t) @ T.ds, 1)(T.s, T.t),
    # vmap
    "vmap_b": lambda f, T: vmap(f, (None, 0))(T.s, T.TT),
    "vmap_A": lambda f, T: vmap(f, (0, None))(T.S, T.t),
    "vmap_both": lambda f, T: vmap(f)(T.S, T.TT),
    "vmap_dims": lambda f, T: vmap(f, (1, -1), out_dims=-1)(T.S.mT, T.TT.movedim(0, -1)),
    "vmap_vmap": lambda f, T: vmap(vmap(f, (None, 0)), (0, None))(T.S, T.TT),
    "vmap_vmap_swapped": lambda f, T: vmap(vmap(f, (0, None)), (None, 0))(T.S, T.TT),
    "vmap_vmap_vmap": lambda f, T: vmap(vmap(vmap(f, (None, 0)), (0, None)), (0, 0))(torch.stack([T.S, T.S]), torch.stack([T.TT, -T.TT])),
    # vmap and derivatives
    "vmap_grad": lambda f, T: vmap(grad(loss(f), (0, 1)))(T.S, T.TT),
    "vmap_grad_b": lambda f, T: vmap(grad(loss(f), (0, 1)), (None, 0))(T.s, T.TT),
    "vmap_jvp": lambda f, T: vmap(along(f, T))(T.S, T.TT),
    "vmap_jacrev": lambda f, T: vmap(jacrev(f))(T.S, T.TT),
    "vmap_jacfwd": lambda f, T: vmap(jacfwd(f), (0, None))(T.S, T.t),
    "vmap_hvp": lambda f, T: vmap(along(grad(loss(f)), T))(T.S, T.TT),
    "vmap_tangents": lambda f, T: vmap(lambda ds: jvp(lambda s: f(s, T.t), (T.s,), (ds,))[1])(T.S),
    "vmap_cotangents": lambda f, T: vmap(vjp(f, T.s, T.t)[1])(torch.stack([T.dx, 2 * T.dx])),
    "grad_of_vmap": lambda f, T: grad(lambda S: vmap(loss(f), (0, None))(S, T.t).sum())(T.S),
    "grad_of_vmap_b": lambda f, T: grad(lambda s: vmap(loss(f), (None, 0))(s, T.TT).sum())(T.s),
    "jvp_of_vmap": lambda f, T: jvp(lambda S: vmap(f)(S, T.TT), (T.S,), (T.S,)),
    "jacrev_of_vmap": lambda f, T: jacrev(lambda s: vmap(f, (None, 0))(s, T.TT))(T.s),
    "hvp_of_vmap": lambda f, T: jvp(grad(lambda S: vmap(loss(f))(S, T.TT).sum()), (T.S,), (T.S,)),
}  # fmt: skip

# Dense code does not survive these inside torch.compile either (vmap of linearize fails for it even in eager mode).
EAGER_ONLY: dict[str, Callable[[F, Any], Any]] = {
    "jvp_jvp_grad": lambda f, T: along(along(grad(loss(f)), T), T)(T.s, T.t),
    "vmap_hessian": lambda f, T: vmap(hessian(loss(f)), (0, None))(T.S, T.t),
    "linearize": lambda f, T: linearize(f, T.s, T.t)[1](T.ds, T.dt),
}
