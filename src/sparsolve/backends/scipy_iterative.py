"""SciPy's iterative methods by name, each solution judged by its true residual.

SciPy's own stopping tests look at recursive or preconditioned residuals, at an estimate relative to `‖A‖ ‖x‖` (minres) or, with
`maxiter=0`, at nothing. So each run solves for a correction, `A d = r` with `r = b − A x` scaled to norm about 1, and
runs follow each other until `‖r‖ <= max(rtol ‖b‖, atol)` holds (iterative refinement; Higham, Accuracy and Stability of
Numerical Algorithms, 2nd ed., chapter 12), in double precision always. The first run is the method started from `x0`: its
Krylov space is that of the residual.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse.linalg as sla
from torch import Tensor

from ..arrays import power_of_two
from ..convert import t2c_csr
from ..levels import outside_transforms
from .host import array
from .named import SPARSE, ByName, System, length

__all__ = ["solution"]

_RUNS = 10
_MOST = 1e-12  # the reduction of a residual that one run can be asked for


def solution(how: ByName, A: Any, b: Any) -> Any:
    """x for one `(n,)` right-hand side, in double precision."""
    run = _Run(how, A, b)
    return run.system.solved(run.x, run.descend)


class _Run:
    """One solve: x so far, and the steps it took."""

    def __init__(self, how: ByName, A: Any, b: Any) -> None:
        self.how, self.system = how, System(how, A, b)
        self.A, self.b, self.bound = self.system.A, self.system.b, self.system.bound
        own = how.own()
        self.callback = own.get("callback")
        self.x = self.system.start(own.get("x0"))
        self.M = self.system.preconditioner(_preconditioner(how, self.b))

    def descend(self, x: Any, steps: int) -> tuple[Any, float, int]:
        """Corrections until the true residual is small enough, or does not fall any more."""
        self.x, self.steps = x, steps
        r = self.b - self.A @ self.x
        size, harder, info = length(r), 1.0, 0
        most = _MOST * (1e-4 if self.how.method == "minres" else 1.0)
        for _ in range(_RUNS):
            if size <= self.bound * (1 + 1e-6) or info > 0 or self._left() == 0:
                break
            target = max(self.bound / size / harder, most)
            x, before = self.x, size
            info = self._correct(r, size, min(target, 0.5))
            r = self.b - self.A @ self.x
            size = length(r)
            if not size < before:
                self.x, size = x, before
                break
            harder = max(harder, 2 * size / before / target)
        return self.x, size, self.steps

    def _left(self) -> int | None:
        """What is left of maxiter."""
        if self.how.maxiter is None:
            return None
        return max(0, self.how.maxiter - -(-self.steps // self.how.cycle(len(self.b))))

    def _correct(self, r: Any, size: float, target: float) -> int:
        """One run of SciPy's method for `A d = r`; returns its info."""
        scale = float(power_of_two(np.float64(size)))
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
        if self.callback is not None and self.how.method == "gmres":
            self.callback(state * (size / self.system.size))
        elif self.callback is not None:
            self.callback(self.system.x(self.x + scale * state))


def _preconditioner(how: ByName, b: Any) -> Any:
    """M as an operator for this matrix, if there is one."""
    if how.M is None:
        return None
    M = how.M.value
    if isinstance(M, Tensor):
        with outside_transforms():
            M = array(M) if M.layout not in SPARSE else t2c_csr(M.detach().to_sparse_csr())
    return how.oriented(sla.aslinearoperator(M), b)


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
