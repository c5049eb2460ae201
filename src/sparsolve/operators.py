"""`Operator`: a linear map that is a function of parameters, for solves without a matrix."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optree
import torch
from torch import Tensor

from .captured import Constants, constants_of
from .errors import sentence
from .levels import is_followed, numbers, outside_transforms, without_hooks
from .operands import DTYPES, as_columns, in_autocast, require_dense
from .tickets import Constant

__all__ = ["Form", "Operator", "apply", "form_of", "probed", "product", "require_linear"]


class Operator:
    """The linear map `x -> A(p) x = function(p, x)`, differentiable with respect to the pytree p and to x.

    A pytree node (torch's and optree's) whose children are `params`, so it goes through `grad`, `jvp` and `vmap` as an argument:
    gradients come in the form of `params`, and in `in_dims` numbers stand in their place, `Operator(function, 0)`.

    Args:
        function: `(params, x) -> A x` by torch functions, for one vector x `(n,)`, with a result of the same shape; linear in x, and
            whatever it is to be differentiated with respect to is in params. It is called under `torch.vmap` for several columns.
            Define it once, not anew for each call.
        params: a pytree of float or complex tensors, on one device.

    Raises:
        TypeError: in a solve, where params are something else, or the function uses a tensor that derivatives or vmap follow, and that is
            not in params.
        ValueError: in a solve, where the function's result is not of the shape of x, or is not linear in x.

    Cost:
        Nothing by itself. A solve calls the function three times to see what it is. Each step of a solve calls the function once for each product; an adjoint product is its `torch.func.vjp`.

    >>> import torch, sparsolve as sps
    >>> def laplacian(c, x):  # -(c x')' + x on a ring, never as a matrix
    ...     flux = c * (torch.roll(x, -1) - x)
    ...     return x - flux + torch.roll(flux, 1)
    >>> c = torch.ones(8, dtype=torch.float64)
    >>> b = torch.eye(8, dtype=torch.float64)[0]
    >>> x = sps.solve(sps.Operator(laplacian, c), b, sps.CG())
    >>> torch.allclose(laplacian(c, x), b)
    True
    >>> torch.func.grad(lambda A: sps.solve(A, b, sps.CG()).sum())(sps.Operator(laplacian, c)).params.shape
    torch.Size([8])
    """

    __slots__ = ("function", "params")
    __array_ufunc__ = None  # NumPy's arrays leave `@` to this class

    def __init__(self, function: Callable[[Any, Tensor], Tensor], params: Any) -> None:
        self.function = function
        self.params = params

    def __matmul__(self, x: Any) -> Tensor:
        return apply(self, x, adjoint=False) if isinstance(x, (Tensor, np.ndarray, list)) else NotImplemented

    def __repr__(self) -> str:
        return f"Operator({getattr(self.function, '__name__', self.function)!r}, {self.params!r})"


@dataclass(unsafe_hash=True)
class Form(Constant):
    """An operator without its numbers, as a function `(theta, x) -> A x` of one vector theta that holds all of them.

    `constants` are those that the function captures, made inside of transforms. A graph that will need the form keeps it, with all that the function
    captures, and nobody else does.
    """

    function: Callable[[Any, Tensor], Tensor]
    tree: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    constants: Constants | None = None

    def __call__(self, theta: Tensor, x: Tensor) -> Tensor:
        leaves, start = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            size = torch.Size(shape).numel()
            leaf = theta[start : start + size].reshape(shape)
            leaf = leaf.real if leaf.is_complex() and not dtype.is_complex else leaf
            leaves.append(leaf.to(dtype))
            start += size
        params = optree.tree_unflatten(self.tree, leaves)
        with contextlib.ExitStack() as around:
            if self.constants is not None:
                around.enter_context(self.constants)
            if in_autocast(x):  # half products would be those of another operator
                around.enter_context(torch.autocast(x.device.type, enabled=False))
            return self.function(params, x)


def form_of(A: Operator, b: Tensor) -> tuple[Form, Tensor]:
    """The operator's form, and its numbers as one vector, differentiably."""
    _require_function(A)
    leaves, tree = optree.tree_flatten(A.params)
    for leaf in leaves:
        if not isinstance(leaf, Tensor) or not (leaf.is_floating_point() or leaf.is_complex()):
            what = f"a tensor of {leaf.dtype}" if isinstance(leaf, Tensor) else f"a {type(leaf).__name__}"
            raise TypeError(
                sentence(
                    f"An operator's params hold {what}; float or complex tensors are needed.",
                    remedy="Constants such as indices and sizes belong into the function.",
                )
            )
        if leaf.device != b.device:
            raise ValueError(sentence(f"An operator's params are on {leaf.device} and b is on {b.device}."))
    form = Form(A.function, tree, tuple(tuple(t.shape) for t in leaves), tuple(t.dtype for t in leaves))
    dtype = b.dtype
    for i, leaf in enumerate(leaves):
        dtype = leaf.dtype if i == 0 else torch.promote_types(dtype, leaf.dtype)
    flat = [leaf.flatten().to(dtype) for leaf in leaves]
    return form, torch.cat(flat) if flat else b.new_zeros(0)


def _require_function(A: Operator) -> None:
    if not callable(A.function):
        what = type(A.function).__name__
        raise TypeError(sentence(f"An operator's function is a {what}; a callable (params, x) -> A x is needed."))


def probed(form: Form, b: Tensor, theta: Tensor) -> tuple[Form, torch.dtype]:
    """The form with the constants that its function captures, and the dtype of `A x`, from a product with the numbers of theta; refuses what a solve
    could not differentiate.

    The iteration runs in an opaque op, where a derivative of anything but params would be lost without a word.
    """
    with outside_transforms():
        x = torch.zeros(b.shape[:1], dtype=b.dtype, device=b.device)
    theta = numbers(theta)
    try:
        y, constants = constants_of(lambda: form(theta, x))
    except RuntimeError as error:
        if all(dtype == x.dtype for dtype in form.dtypes):
            raise
        raise TypeError(
            sentence(
                f"The operator's function failed for x of {x.dtype}: {error}.",
                f"x comes in the dtype of b, and params have {', '.join(sorted({str(d) for d in form.dtypes}))}.",
                "Convert params or b.",
            )
        ) from error
    if not isinstance(y, Tensor) or y.shape != x.shape:
        what = f"a tensor of shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
        raise ValueError(
            sentence(f"The operator's function returned {what} for x of shape {tuple(x.shape)}; it must be the same.")
        )
    if is_followed(y):
        raise TypeError(
            sentence(
                "The operator's function uses a tensor that is not in its params, and that derivatives or vmap follow.",
                "What it captures is a constant for the solve, so that its derivative would be lost.",
                "Put it into params, or capture it with .detach().",
            )
        )
    if y.dtype not in DTYPES:
        raise TypeError(sentence(f"The operator's function returned {y.dtype}; float32, float64 or complex is needed."))
    return replace(form, constants=constants), torch.promote_types(y.dtype, b.dtype)


def require_linear(form: Form, theta: Tensor, b: Tensor) -> None:
    """Compare `f(s x)` with `s f(x)` for any vector x like b's columns: equal but for rounding in sums, where s is a power of two, times i for complex x.

    Derivatives of a solve with what is not linear would be wrong without a word.
    """
    x = torch.arange(1, b.shape[0] + 1, device=b.device).cos().to(b.dtype)
    f: Callable[[Tensor], Tensor] = lambda x: product(form, theta, x, adjoint=False)  # noqa: E731
    s, name = (-2j, "-2i") if x.is_complex() else (-2.0, "-2")
    y, scaled = f(x), f(s * x)
    size, difference = (float(t.abs().max()) if t.numel() else 0.0 for t in (y, scaled - s * y))
    if not difference > torch.finfo(x.dtype).eps ** 0.5 * size or not math.isfinite(size):
        return
    at_zero = float(torch.linalg.vector_norm(f(0 * x)))
    cause, remedy = (
        "A nonlinear term, or random numbers, perhaps.",
        "A linearization is torch.func.jvp(f, (x0,), (x,))[1].",
    )
    if at_zero:
        cause = f"For x = 0 it returned a vector of norm {at_zero:.2g}: a source or boundary values are in it, perhaps."
        remedy = "Subtract function(params, 0) from b, and return the linear part."
    elif x.is_complex():
        cause = "A conjugate, a real part or a nonlinear term, perhaps."
    fact = f"The operator's function f is not linear in x: f({name} x) is not {name} f(x), by {difference / (2 * size or 1):.1g} of it."
    raise ValueError(sentence(fact, cause, remedy))


def apply(A: Operator, x: Any, *, adjoint: bool) -> Tensor:
    """`A x` or `Aᴴ x` for x `(n,)`, `(n, k)` or `(*batch, n, k)`."""
    _require_function(A)
    require_dense("x", x)
    if x.dim() == 0:
        raise ValueError(sentence("x is a number; (n,), (n, k) or (*batch, n, k) is needed."))
    columns, restore, _ = as_columns(x)
    return restore(product(lambda _, x: A.function(A.params, x), columns, columns, adjoint=adjoint))


def product(form: Callable[[Tensor, Tensor], Tensor], theta: Tensor, x: Tensor, *, adjoint: bool) -> Tensor:
    """`A x` or `Aᴴ x` for x `(n,)` or `(n, k)`: A is linear, so its vjp at any point, at 0 say, is `Aᴴ`.

    The function gets a vector of its own: it may write to it, or return it, and x is one that an iteration goes on with.
    """
    if x.dim() == 2 and x.shape[1] == 1:
        return product(form, theta, x[:, 0], adjoint=adjoint).unsqueeze(1)
    if x.dim() == 2:
        rows = x.mT.contiguous()  # each vector in one piece, as the function expects it
        return torch.vmap(lambda x: product(form, theta, x, adjoint=adjoint))(rows).mT
    x = x.clone()
    if not adjoint:
        return form(theta, x)
    with without_hooks():
        pull = torch.func.vjp(lambda z: form(theta, z.clone()), torch.zeros_like(x))[1]
        return pull(x)[0]  # type: ignore[no-any-return]
