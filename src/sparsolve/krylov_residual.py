"""The two Krylov methods that minimise the residual: GMRES for any A, MINRES for a Hermitian one.

"Saad" is Iterative Methods for Sparse Linear Systems, 2nd ed.
"""

from __future__ import annotations

from typing import Any

from .arrays import namespace
from .krylov_columns import Columns, dot

__all__ = ["gmres", "minres"]

_ROUNDING = 16  # units of roundoff of `‖A‖ ‖b‖` that `‖A r‖` has at a least-squares solution, or a few less
_SPARE = 1000  # times the rounding error `eps ‖A‖ ‖step‖` that a step makes of the residual is less than the residual


def gmres(s: Columns) -> None:
    """One cycle of GMRES: Saad, Algorithm 6.9, with M from the right (Algorithm 9.5), so that `‖b − A x‖` itself is minimised.

    The basis V is `(k, m + 1, n)`, orthogonalised by classical Gram-Schmidt done twice (as stable as modified, in two
    products of matrices). `H = Qᴴ R` is kept up to date by one rotation a step (section 6.5.3), Q being held as a matrix.
    """
    xp, m, n, dtype = s.xp, s.most, s.r.shape[0], s.r.dtype
    V, R = xp.zeros((s.k, m + 1, n), dtype=dtype), xp.zeros((s.k, m, m), dtype=dtype)
    Q = xp.zeros((s.k, m + 1, m + 1), dtype=dtype) + xp.eye(m + 1, dtype=dtype)
    beta = xp.sqrt(dot(s.r, s.r).real)  # 6.9, line 1
    V[:, 0] = (s.r / beta).T
    for j in range(m):
        w = s.multiply(s.precondition(V[:, j].T)).T[:, :, None]  # 9.5, line 3; from here (k, n, 1)
        whole = _length(w)
        h, w = _orthogonalised(V[:, : j + 1], w)  # 6.9, lines 4-7
        length = _length(w)  # line 8
        fit = length > s.eps * whole  # else the Krylov space is exhausted
        length = s.where(fit, length)
        V[:, j + 1] = w[:, :, 0] * s.where(fit, 1 / length)[:, None]  # line 9
        R[:, : j + 1, j] = xp.matmul(Q[:, : j + 1, : j + 1], h)[:, :, 0]
        R[:, j, j] = _rotate(s, Q[:, j], Q[:, j + 1], R[:, j, j], length, s.eps * whole)
        size2 = (beta * abs(Q[:, j + 1, 0])) ** 2  # the last entry of Q beta e1
        if s.ended(size2, fit):
            s.store(_correction(s, j + 1, *s.gone(beta, V, R, Q)))  # lines 11-12
            beta, V, R, Q = s.keep(beta, V, R, Q)
            if not s.k:
                return


def _length(w: Any) -> Any:
    """`‖w‖₂` of each `(n, 1)`."""
    return dot(w[:, :, 0].T, w[:, :, 0].T).real ** 0.5


def _orthogonalised(V: Any, w: Any) -> tuple[Any, Any]:
    """`h` and `w − Vᵀ h`, orthogonal to the rows of V, `(k, j, n)`; w is `(k, n, 1)`."""
    h = _projected(V, w)
    w = w - _combined(V, h)
    more = _projected(V, w)
    return h + more, w - _combined(V, more)


# Neither makes a copy of V in NumPy, as its conjugate would be; CuPy makes one of stacks that are not contiguous, as V is where k > 1.


def _projected(V: Any, w: Any) -> Any:
    """`V̄ w`, `(k, j, 1)`."""
    return namespace(V).matmul(V, w.conj()).conj()


def _combined(V: Any, y: Any) -> Any:
    """`Vᵀ y`, `(k, n, 1)`."""
    return namespace(V).matmul(y.swapaxes(1, 2), V).swapaxes(1, 2)


def _rotate(s: Columns, upper: Any, lower: Any, a: Any, b: Any, least: Any) -> Any:
    """Apply to two rows of Q the rotation `[c̄ s; −s c]` that takes `(a, b)` to `(size, 0)`; size is 0 if it is not above `least`."""
    size = s.xp.hypot(abs(a), b)
    fit = size > least
    c = s.where(fit, a / size)[:, None]
    sine = s.xp.where(fit, b / size, 1)[:, None]
    rows = c.conj() * upper + sine * lower, c * lower - sine * upper
    upper[...], lower[...] = rows
    return s.where(fit, size)


def _correction(s: Columns, j: int, beta: Any, V: Any, R: Any, Q: Any) -> Any:
    """`M V y` with `R y = Q beta e1`; an entry of y whose pivot is 0 is 0."""
    R, g = R[:, :j, :j].copy(), beta[:, None] * Q[:, :j, 0]
    pivot = s.xp.einsum("kii->ki", R)
    g = s.where(pivot != 0, g)
    R = R + (pivot == 0)[:, :, None] * s.xp.eye(j, dtype=R.dtype)
    y = s.xp.linalg.solve(R, g[:, :, None])  # triangular: elimination finds nothing to do
    return s.precondition(_combined(V[:, :j], y)[:, :, 0].T)


def minres(s: Columns) -> None:
    """MINRES: Paige and Saunders, SIAM J. Numer. Anal. 12 (1975), section 6: Lanczos, and a QR factorization of its tridiagonal matrix.

    With M the Lanczos vectors are M-orthonormal and `‖r‖_M` is minimised; the residual itself follows by the recursion
    `r = s² r − c phi v` (Choi, Paige and Saunders, SIAM J. Sci. Comput. 33 (2011)). Breaks down where A is singular and the least-squares
    residual is reached: `‖A r‖` is rounding error of `‖A‖ ‖b‖`, or a step so long that its rounding error would be all of the residual.
    """
    xp, r, v = s.xp, s.r, s.r.copy("K")  # v: the Lanczos vector times beta
    x, w, past_w, past_v = s.start(), *(xp.zeros_like(r) for _ in range(3))
    y, beta = _lanczos_length(s, v)
    zero = xp.zeros_like(beta)
    phi, past_beta, most, whole = beta, zero, zero, beta
    qr: Any = (-1 + zero, zero, zero, zero)
    while s.k:
        z = y.copy("K")
        z /= xp.where(beta > 0, beta, 1)  # 0 where M is not positive definite; M may not be given what is not finite
        q = s.multiply(z)
        s.subtract(q, s.where(past_beta > 0, beta / past_beta), past_v)
        alpha = s.dot(z, q).real
        s.subtract(q, s.where(beta > 0, alpha / beta), v)
        past_v, v, past_beta = v, q, beta
        y, beta = _lanczos_length(s, v)
        above = past_beta if s.step else zero  # the first beta is ‖r‖, not an entry of the tridiagonal matrix
        most = xp.maximum(most, xp.hypot(alpha, xp.hypot(beta, above)))  # of the order of ‖A‖
        qr, column, rest = _next_rotation(xp, qr, alpha, beta)
        # rest is ‖A r‖ / ‖r‖ before this step
        fit = (past_beta > 0) & (column[2] > s.eps * most) & (rest * phi > _ROUNDING * s.eps * most * whole)
        c, sine = qr[:2]
        past_w, w = w, _direction(s, z, w, past_w, *column)
        if s.M is None:  # else these norms are of different spaces
            fit &= _SPARE * s.eps * most * abs(c) * s.dot(w, w).real ** 0.5 < 1
        s.add(x, s.where(fit, c * phi), w)
        phi = s.where(fit, sine) * phi + s.where(~fit, phi)
        if s.M is None:
            size2 = phi**2
        else:
            r *= sine**2
            s.subtract(r, s.where(beta > 0, c * phi / beta), v)
            size2 = s.dot(r, r).real
        if s.ended(size2, fit):
            x, r, v, y, w, past_w, past_v = s.leave(x, r, v, y, w, past_w, past_v)
            beta, phi, past_beta, most, whole, *qr = s.keep(beta, phi, past_beta, most, whole, *qr)


def _lanczos_length(s: Columns, v: Any) -> tuple[Any, Any]:
    """`y = M v` and `(vᴴ y)^½`, 0 where that is no number: such a claim to have converged does not stand."""
    y = s.precondition(v)
    square = s.dot(v, y).real
    return y, s.where(square > 0, square) ** 0.5


def _next_rotation(xp: Any, qr: Any, alpha: Any, beta: Any) -> tuple[Any, Any, Any]:
    """Apply two rotations `[c s; s −c]` to the next column of the tridiagonal matrix; the new one takes beta to 0.

    Returns the state for the next column, the three entries of R in this one from the top, and `‖A r‖ / ‖r‖` before.
    """
    c, sine, delta, epsilon = qr
    top, across, gamma = epsilon, c * delta + sine * alpha, sine * delta - c * alpha
    epsilon, delta = sine * beta, -c * beta
    rest = xp.hypot(gamma, delta)
    size = xp.hypot(gamma, beta)
    return (gamma / size, beta / size, delta, epsilon), (top, across, size), rest


def _direction(s: Columns, z: Any, w: Any, past_w: Any, top: Any, across: Any, gamma: Any) -> Any:
    """`w = (z − top past_w − across w) / gamma`, written over `past_w`."""
    past_w *= -top
    s.subtract(past_w, across, w)
    past_w += z
    past_w /= gamma
    return past_w
