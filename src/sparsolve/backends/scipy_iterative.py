"""SciPy's iterative methods by name, each solution judged by its true residual.

SciPy's own stopping tests look at recursive or preconditioned residuals, at an estimate relative to `‖A‖ ‖x‖` (minres) or, with
`maxiter=0`, at nothing. So each run solves for a correction, `A d = r` with `r = b − A x` scaled to norm about 1, and
runs follow each other until `‖r‖ <= max(rtol ‖b‖, atol)` holds (iterative refinement; Higham, Accuracy and Stability of
Numerical Algorithms, 2nd ed., chapter 12), in double precision always. The first run is the method started from `x0`: its
Krylov space is that of the residual.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
import scipy.sparse.linalg as sla
import torch
from torch import Tensor

from ..convert import t2c_csr
from ..errors import ConvergenceError, sentence
from .diagnosis import not_finite
from .host import array

__all__ = ["METHODS", "OWN", "SPARSE", "Iterative", "Kept", "stopped"]

METHODS = ("cg", "cgs", "minres", "gmres")
OWN: ContextVar[dict[str, Any]] = ContextVar("OWN", default={})  # x0 and callback of the call that is under way  # noqa: B039
_RTOL = 1e-5  # SciPy's default
_RUNS = 10
_MOST = 1e-12  # the reduction of a residual that one run can be asked for
SPARSE = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)
_CAUSES = {
    "cg": "CG needs a Hermitian positive definite A (and M)",
    "cgs": "CGS converges irregularly where A is far from normal",
    "minres": "MINRES needs a Hermitian A (and a positive definite M)",
    "gmres": "GMRES may stagnate, as it forgets at each restart what it has learnt",
}


class Kept:
    """A value compared by identity, so that arrays can stand in a hashable record."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kept) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


@dataclass(frozen=True, kw_only=True)
class Iterative:
    """A callable `(matrix, rhs) -> x` that runs one of `METHODS`; equal ones share an entry of the solver table.

    Attributes:
        method: a name from `METHODS`.
        rtol, atol: `‖b − A x‖ <= max(rtol ‖b‖, atol)` is reached, or `ConvergenceError` raised.
        maxiter: as in SciPy (for gmres it counts restart cycles); None is SciPy's default.
        restart: gmres only.
        M: approximates the inverse; an array, sparse matrix, LinearOperator or tensor.
        transposed: the matrices are adjoints of that which M was made for, and right-hand sides are gradients, whose
            size says nothing: no absolute tolerance (where rtol is 0, atol is taken relative to `‖b‖`), no x0, no callback.
        derivative: the same about right-hand sides, for a tangent or a higher derivative.
    """

    method: str
    rtol: float = _RTOL
    atol: float = 0.0
    maxiter: int | None = None
    restart: int | None = None
    M: Kept | None = None
    transposed: bool = False
    derivative: bool = False

    def relative(self) -> Iterative:
        """What a derivative solves with."""
        return replace(self, derivative=True)

    @property
    def __name__(self) -> str:
        return self.method

    def __call__(self, A: Any, b: Any) -> Any:
        """x for one `(n,)` right-hand side, where that is."""
        if not isinstance(b, np.ndarray):
            return import_module(".cupy_named", __package__).solution(self, A, b)
        with np.errstate(all="ignore"):  # NaN and Inf end in ConvergenceError
            return _Run(self, A, b).solution()

    def bound(self, size: float) -> float:
        """The residual allowed where `‖b‖` is `size`."""
        if self.transposed or self.derivative:
            return (self.rtol or min(self.atol, _RTOL)) * size
        return max(self.rtol * size, self.atol)


class _Run:
    """One solve: x so far, and the steps it took."""

    def __init__(self, how: Iterative, A: Any, b: Any) -> None:
        wide = np.complex128 if np.iscomplexobj(b) else np.float64
        self.how, self.A, self.b = how, A.astype(wide), b.astype(wide)
        self.size = _norm(self.b)
        self.bound = how.bound(self.size)
        own = {} if how.transposed or how.derivative else OWN.get()
        self.callback, x0 = own.get("callback"), own.get("x0")
        self.x = np.zeros_like(self.b) if x0 is None or self.size == 0 else x0.astype(wide)
        self.M = _preconditioner(how, self.b)
        self.steps = 0

    def solution(self) -> Any:
        """Corrections until the true residual is small enough, or does not fall any more."""
        r = self.b - self.A @ self.x
        size, harder, info = _norm(r), 1.0, 0
        self._require_finite(size)
        most = _MOST * (1e-4 if self.how.method == "minres" else 1.0)
        for _ in range(_RUNS):
            if size <= self.bound * (1 + 1e-6) or info > 0 or self._left() == 0:
                break
            target = max(self.bound / size / harder, most)
            x, before = self.x, size
            info = self._correct(r, size, min(target, 0.5))
            r = self.b - self.A @ self.x
            size = _norm(r)
            if not size < before:
                self.x, size = x, before
                break
            harder = max(harder, 2 * size / before / target)
        if size <= self.bound * (1 + 1e-6) or self._rounding(size):
            return self.x
        raise self._failure(size)

    def _require_finite(self, size: float) -> None:
        if math.isfinite(size):
            return
        for name, a in (("A.data", self.A.data), ("b", self.b), ("x0", self.x)):
            error = not_finite(name, a)
            if error is not None:
                raise error

    def _rounding(self, size: float) -> bool:
        """Whether a residual is no larger than the rounding errors of its own evaluation: no x is known to be better."""
        most = 2 * np.finfo(np.float64).eps * _norm(abs(self.A) @ abs(self.x) + abs(self.b))
        return bool(size <= most < math.inf)

    def _left(self) -> int | None:
        """What is left of maxiter."""
        if self.how.maxiter is None:
            return None
        cycle = min(self.how.restart or 20, len(self.b)) if self.how.method == "gmres" else 1
        return max(0, self.how.maxiter - -(-self.steps // cycle))

    def _correct(self, r: Any, size: float, target: float) -> int:
        """One run of SciPy's method for `A d = r`; returns its info."""
        scale = 2.0 ** math.floor(math.log2(size)) if 0 < size < math.inf else 1.0
        options: dict[str, Any] = {"rtol": target, "maxiter": self._left(), "M": self.M}
        options["callback"] = lambda state: self._step(state, scale, size)
        if self.how.method != "minres":
            options["atol"] = 0.0
        if self.how.method == "gmres":
            options |= {"restart": self.how.restart, "callback_type": "pr_norm"}
        run = _hermitian_minres if self.how.method == "minres" else getattr(sla, self.how.method)
        d, info = run(self.A, r / scale, **options)
        self.x = self.x + scale * d
        return int(info)

    def _step(self, state: Any, scale: float, size: float) -> None:
        """Count, and tell the user's callback x, or for gmres the preconditioned residual relative to b's."""
        self.steps += 1
        if self.callback is not None:
            self.callback(state * (size / self.size) if self.how.method == "gmres" else self.x + scale * state)

    def _failure(self, size: float) -> ConvergenceError:
        return stopped(self.how, size, self.bound, self.size, self.steps, len(self.b))


def stopped(how: Iterative, residual: float, bound: float, size: float, steps: int, n: int) -> ConvergenceError:
    """The error for a solve that ended before its residual was small; `size` is `‖b‖`."""
    return ConvergenceError(
        sentence(
            f"{how.method} stopped at ‖b − A x‖ = {residual:.2e}; {bound:.2e} was asked for.",
            f"{_CAUSES[how.method]}; or A is ill-conditioned, or maxiter or the tolerance too small.",
            "Give a preconditioner M or a larger maxiter, or solve directly with solve=None.",
            method=how.method,
            iterations=steps,
            relative_residual=f"{residual / size if size else residual:.2e}",
            n=n,
        )
    )


def _norm(a: Any) -> float:
    return float(np.linalg.norm(a))


def _preconditioner(how: Iterative, b: Any) -> Any:
    """M as an operator for this matrix; for the adjoint of an unsymmetric one M's adjoint, if it has one."""
    if how.M is None:
        return None
    M = how.M.value
    if isinstance(M, Tensor):
        M = array(M) if M.layout not in SPARSE else t2c_csr(M.detach().to_sparse_csr())
    M = sla.aslinearoperator(M)
    if not how.transposed or how.method in ("cg", "minres"):
        return M
    try:
        M.rmatvec(b)
    except NotImplementedError:
        return None
    return M.H


def _hermitian_minres(A: Any, b: Any, *, M: Any, callback: Any, **options: Any) -> Any:
    """SciPy's minres, which has no complex inner product: a Hermitian `A = S + iK` is taken as the symmetric `[[S, −K], [K, S]]`.

    The iterates are the same, since the Lanczos coefficients of a Hermitian matrix are real.
    """
    try:
        if not np.iscomplexobj(b):
            return sla.minres(A, b, M=M, callback=callback, **options)
        n = len(b)

        def real(z: Any) -> Any:
            return np.concatenate([z.real, z.imag])

        def wrapped(operator: Any) -> Any:
            apply = lambda v: real(operator @ (v.ravel()[:n] + 1j * v.ravel()[n:]))  # noqa: E731
            return sla.LinearOperator((2 * n, 2 * n), matvec=apply, dtype=np.float64)

        tell = lambda v: callback(v[:n] + 1j * v[n:])  # noqa: E731
        M = None if M is None else wrapped(M)
        d, info = sla.minres(wrapped(A), real(b), M=M, callback=tell, **options)
        return d[:n] + 1j * d[n:], info
    except ValueError as error:
        if str(error) in ("non-symmetric matrix", "indefinite preconditioner"):
            return np.zeros_like(b), -1
        raise
