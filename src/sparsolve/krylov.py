"""Krylov methods for `A x = b`, many right-hand sides at once, each judged by its true residual.

A run of a method solves `A d = r` for the true residual `r = b − A x`, scaled to norm 1 or so, from `d = 0` (its Krylov space is
that of the method started from x). Its own residual comes from a recursion, which rounding lets drift away from the true one. So
`‖b − A x‖₂` is computed afterwards, and where it is too large still the method goes on from there (iterative
refinement; Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., chapter 12) as long as that helps.

Inner products conjugate their first argument. "Saad" is Iterative Methods for Sparse Linear Systems, 2nd ed., and
"Templates" is Barrett et al., Templates for the Solution of Linear Systems.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .arrays import divided, namespace, power_of_two
from .krylov_columns import Columns, columns, norm, ordered, put
from .krylov_residual import gmres, minres

__all__ = ["METHODS", "KrylovResult", "iterate"]

_MARGIN = 0.99  # of the bound is what runs aim at, so that rounding seldom makes another one necessary
_CACHED = 1 << 16  # numbers of a block of columns that are iterated together on CPU
_ALONE = 5000  # rows from which on each column is iterated alone: its vectors fill the cache
# a smaller ‖b‖ is iterated as one near 1
_TINY = {c: float(f.tiny) / float(f.eps) ** 2 for c in "fd" for f in [np.finfo(c)]}
_STAGNATION = 1 - 1e-4  # a run that reduces the true residual by less is the last


class KrylovResult(NamedTuple):
    """How `iterate` ended, column by column.

    Attributes:
        x: `(n, k)`; where the method did not converge, what it has come to, if the true residual is smaller there than at the start, or
            the method is cg, which makes another norm of the error smaller.
        converged: `‖b − A x‖₂ <= bound`, `(k,)`, bool.
        iterations: steps taken, `(k,)`, int.
        residual: the true `‖b − A x‖₂`, `(k,)`.
        bound: `max(rtol ‖b‖₂, atol)`, `(k,)`.
        broken: whether the method could not go on, as its function below says, `(k,)`, bool.
    """

    x: Any
    converged: Any
    iterations: Any
    residual: Any
    bound: Any
    broken: Any


def iterate(
    method: str,
    A: Any,
    b: Any,
    *,
    rtol: float,
    atol: Any,
    maxiter: int | None,
    M: Callable[[Any], Any] | None = None,
    x0: Any = None,
    restart: int | None = None,
    callback: Callable[[int, Any], None] | None = None,
    watch: Callable[[Any], None] | None = None,
    together: bool = False,
) -> KrylovResult:
    """Solve `A x = b` until `‖b − A x‖₂ <= max(rtol ‖b‖₂, atol)` in every column.

    Args:
        method: `"cg"` (A Hermitian positive definite), `"minres"` (A Hermitian), `"cgs"`, `"bicgstab"` or `"gmres"`.
        A: anything square with `A @ X` for `(n, k)`; may be real where b is complex.
        b: `(n, k)`, floating or complex, in the dtype of the result.
        atol: a number, or one for each column.
        maxiter: most steps of a column, inner ones for gmres; None is `10 n`. A step of cgs and bicgstab takes two products.
        M: applies an approximate inverse, `(n, k) -> (n, k)` for any k up to b's; Hermitian positive definite for cg and minres.
        x0: where to start, `(n, k)`; None is 0. A column of b that is 0 has the solution 0 in any case.
        restart: steps after which gmres starts again; None is `min(20, n)`. Its memory is `restart` arrays like b.
        callback: called after each step with its number and the residual norms `(k,)` as the recursion has them.
        watch: called after each step with x, `(n, k)`, of its own memory; not by gmres, which has none until a cycle ends.
        together: iterate all columns at once, whatever the size, since M or A gains by it. So it is with a callback, and on a GPU.

    Cost: a product and an application of M per step and column (cgs, bicgstab: two), and a product per run.
    """
    if method not in METHODS:
        raise ValueError(f"no Krylov method {method!r}; there are {sorted(METHODS)}")
    xp, n = namespace(b), b.shape[0]
    if b.size == 0:
        none = xp.zeros(b.shape[1], dtype=b.real.dtype)
        return KrylovResult(xp.zeros_like(b), none == 0, xp.zeros(b.shape[1], dtype=int), none, none, none != 0)
    width = b.shape[1] if together or callback is not None or watch is not None or xp is not np else _width(n)
    if width < b.shape[1]:
        options: dict[str, Any] = {"rtol": rtol, "atol": atol, "maxiter": maxiter, "M": M, "restart": restart}
        return _in_parts(width, method, A, b, x0, options)
    with np.errstate(all="ignore"):
        size = norm(b)
        if bool(((size > 0) & (size < _TINY[size.dtype.char])).any()):
            scale = power_of_two(size)
            options = {"rtol": rtol, "maxiter": maxiter, "M": M, "restart": restart}
            return _of_size_one(scale, method, A, b, x0, atol, callback, watch, options)
        state = _State(A, M, ordered(b), xp.maximum(rtol * size, atol), callback, watch)
        state.start(x0, size)
        most = 10 * n if maxiter is None else maxiter
        while most > 0 and len(index := xp.flatnonzero(state.active)):
            left = most - state.iterations[index]
            if method == "gmres":
                left = xp.minimum(left, min(20 if restart is None else restart, n))
            state.run(method, index, left)
            state.active &= state.iterations < most
        return state.outcome()


def _of_size_one(
    scale: Any, method: str, A: Any, b: Any, x0: Any, atol: Any, callback: Any, watch: Any, options: dict[str, Any]
) -> KrylovResult:
    """The same with each column divided by a power of two: `rtol ‖b‖`, and the numbers of a run, would underflow."""
    found = iterate(
        method,
        A,
        divided(b, scale),
        x0=None if x0 is None else divided(x0, scale),
        atol=atol / scale,
        callback=None if callback is None else lambda i, residual: callback(i, residual * scale),
        watch=None if watch is None else lambda x: watch(x * scale),
        together=True,
        **options,
    )
    return found._replace(x=found.x * scale, residual=found.residual * scale, bound=found.bound * scale)


def _in_parts(width: int, method: str, A: Any, b: Any, x0: Any, options: dict[str, Any]) -> KrylovResult:
    """So many columns at a time."""
    parts = [slice(j, j + width) for j in range(0, b.shape[1], width)]
    each = [iterate(method, A, b[:, j], x0=None if x0 is None else x0[:, j], together=True, **options) for j in parts]
    return KrylovResult(*(np.concatenate(fields, axis=-1) for fields in zip(*each, strict=True)))


def _width(n: int) -> int:
    """How many columns are iterated together."""
    return 1 if n > _ALONE else max(1, _CACHED // n)


class _State:
    """All columns, between runs: x, its true residual r and that one's norm."""

    def __init__(self, A: Any, M: Any, b: Any, bound: Any, callback: Any, watch: Any) -> None:
        self.A, self.M, self.b, self.bound, self.callback, self.watch = A, M, b, bound, callback, watch
        self.xp, self.steps = namespace(b), 0

    def start(self, x0: Any, size: Any) -> None:
        """From x0, or from 0 where b is 0."""
        xp, b = self.xp, self.b
        self.x, self.r, self.size = xp.zeros_like(b), b, size
        if x0 is not None:
            self.x[...] = xp.where(size == 0, 0, x0)
            self.r = ordered(b - self.A @ self.x)
            self.size = xp.where(xp.isfinite(self.x).all(axis=0), norm(self.r), np.nan)
        self.shown = self.size.copy()
        self.iterations = xp.zeros(b.shape[1], dtype=int)
        self.broken = self.iterations != 0
        self.active = ~(self.size <= self.bound) & xp.isfinite(self.size)

    def run(self, method: str, index: Any, left: Any) -> None:
        """Run the method on some columns, and take its x where the true residual is smaller; of the first run of cg in any case."""
        xp, size, bound = self.xp, self.size[index], self.bound[index]
        scale = power_of_two(size)
        eps = float(xp.finfo(size.dtype).eps)  # a run cannot reduce the true residual by more
        r = ordered(divided(columns(self.r, index), scale))
        work = Columns(self.A, self.M, r, xp.maximum(_MARGIN * bound, eps * size) / scale, left)
        if self.callback is not None or self.watch is not None:
            work.tell = lambda at, size2: self._tell(index[at], scale[at] * xp.sqrt(size2), scale[at], work.x)
        METHODS[method](work)
        x = columns(self.x, index) + scale * work.d
        r = ordered(columns(self.b, index) - self.A @ x)
        new = norm(r)
        self.iterations[index] += work.steps
        self.broken[index] = work.broken
        better = new < size
        if method == "cg":  # what it makes smaller in each step is ‖x − x*‖_A, while the residual may rise for long
            better |= (self.iterations[index] == work.steps) & ~work.claimed & (new < size / eps**0.5)
        better = xp.flatnonzero(better & xp.isfinite(x).all(axis=0))
        at = index[better]
        put(self.x, at, columns(x, better))
        self.size[at] = new[better]
        if self.r is self.b:
            self.r = self.b.copy("K")
        put(self.r, at, columns(r, better))
        again = work.claimed | (method != "cg")  # where that breaks down, it would again
        self.active[index] = again & (new < _STAGNATION * size) & (new > bound)

    def _tell(self, at: Any, size: Any, scale: Any, d: Any) -> None:
        self.steps += 1
        if self.callback is not None:
            self.shown[at] = size
            self.callback(self.steps, self.shown.copy())
        if self.watch is not None and d is not None:
            x = self.x.copy("K")
            x[:, at] += scale * d
            self.watch(x)

    def outcome(self) -> KrylovResult:
        """NaN and Inf are never converged; x is finite where the size of its residual is."""
        converged = (self.size <= self.bound) & self.xp.isfinite(self.size)
        return KrylovResult(self.x, converged, self.iterations, self.size, self.bound, self.broken & ~converged)


def cg(s: Columns) -> None:
    """Conjugate gradients: Saad, Algorithms 6.18 and (with M) 9.1. Breaks down where `pᴴ A p <= 0`: A is not positive definite."""
    r, x = s.r, s.start()
    z = s.precondition(r)
    p, rho, q = z.copy("K"), s.dot(r, z).real, None
    while s.k:
        q = s.multiply(p, out=q)
        mu = s.dot(p, q).real
        alpha = s.where(mu > 0, rho / mu)  # 9.1, line 3
        s.add(x, alpha, p)  # line 4
        s.subtract(r, alpha, q)  # line 5
        size2 = s.dot(r, r).real
        if s.ended(size2, alpha > 0):
            x, r, p, rho, size2 = s.leave(x, r, p, rho, size2)
        z = s.precondition(r)  # line 6
        rho, before = size2 if s.M is None else s.dot(r, z).real, rho
        beta = rho / before  # line 7
        s.advance(p, beta, z)  # line 8


def cgs(s: Columns) -> None:
    """Conjugate gradients squared: Saad, Algorithm 7.6, with M from the right (Templates, figure 2.8). Breaks down where `r*ᴴ r = 0`."""
    r, x = s.r, s.start()
    shadow, u, p, rho = r.copy("K"), r.copy("K"), r.copy("K"), s.dot(r, r)  # r*, and lines 1-2
    shadow2 = rho.real
    while s.k:
        v = s.multiply(s.precondition(p))
        sigma = s.dot(shadow, v)
        alpha = s.where(sigma != 0, rho / sigma)  # line 4
        q = u.copy("K")
        s.subtract(q, alpha, v)  # line 5
        u += q
        w = s.precondition(u)
        s.add(x, alpha, w)  # line 6
        s.subtract(r, alpha, s.multiply(w))  # line 7
        size2, rho, before = s.dot(r, r).real, s.dot(shadow, r), rho
        if s.ended(size2, (alpha != 0) & _distinct(rho, size2, shadow2, s.eps)):
            x, r, shadow, shadow2, p, q, rho, before = s.leave(x, r, shadow, shadow2, p, q, rho, before)
        beta = rho / before  # line 8
        u = r.copy("K")
        s.add(u, beta, q)  # line 9
        s.advance(p, beta, q)
        s.advance(p, beta, u)  # line 10


def bicgstab(s: Columns) -> None:
    """BiCGStab: Saad, Algorithm 7.7, with M from the right (Templates, figure 2.10). Breaks down where `r*ᴴ r = 0` or `omega = 0`."""
    r, x = s.r, s.start()
    shadow, p, rho = r.copy("K"), r.copy("K"), s.dot(r, r)  # r*, and lines 1-2
    shadow2 = rho.real
    while s.k:
        y = s.precondition(p)
        v = s.multiply(y)
        sigma = s.dot(shadow, v)
        alpha = s.where(sigma != 0, rho / sigma)  # line 4
        s.add(x, alpha, y)
        s.subtract(r, alpha, v)  # line 5: r is s now
        z = s.precondition(r)
        t = s.multiply(z)
        tt = s.dot(t, t).real
        omega = s.where(tt > 0, s.dot(t, r) / tt)  # line 6
        s.add(x, omega, z)  # line 7
        s.subtract(r, omega, t)  # line 8
        size2, rho, before = s.dot(r, r).real, s.dot(shadow, r), rho
        fit = (alpha != 0) & (omega != 0) & _distinct(rho, size2, shadow2, s.eps)
        beta = (rho / before) * (alpha / omega)  # line 9
        if s.ended(size2, fit):
            x, r, shadow, shadow2, p, v, rho, beta, omega = s.leave(x, r, shadow, shadow2, p, v, rho, beta, omega)
        s.subtract(p, omega, v)
        s.advance(p, beta, r)  # line 10


def _distinct(rho: Any, size2: Any, shadow2: Any, eps: float) -> Any:
    """Whether `rho = r*ᴴ r` is more than the rounding error of that inner product."""
    return abs(rho) > eps * (size2 * shadow2) ** 0.5


METHODS: dict[str, Callable[[Columns], None]] = {
    "cg": cg,
    "cgs": cgs,
    "bicgstab": bicgstab,
    "gmres": gmres,
    "minres": minres,
}
