"""Who can solve `A x = b`: this package, the raw calls below it, and other packages by their documented entries.

A peer is prepared once for a pattern and then called with a factor of A's values, so that the values are new every time. With
`gradient` it computes the derivative of `gᵀ x` in the values and in b as well, the raw calls the adjoint solve alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse.linalg as sla
import torch
from scipy.linalg.lapack import get_lapack_funcs

import sparsolve as sps
from sparsolve.backends.host import Structure
from sparsolve.backends.strategy import Matrix

__all__ = [
    "COLAMD",
    "EXTRAS",
    "PEERS",
    "RAW",
    "SYMMETRIC",
    "Call",
    "Peer",
    "Problem",
    "Unsuitable",
    "ours",
    "torch_pattern",
]

SYMMETRIC = {
    "permc_spec": "MMD_AT_PLUS_A",
    "diag_pivot_thresh": 0.1,
    "panel_size": 8,
    "options": {"SymmetricMode": True},
}
COLAMD = {"permc_spec": "COLAMD"}
_WIDEST, _DENSE, _RTOL = 200, 2000, 1e-10  # entries beside the diagonal; unknowns; of iterations


class Unsuitable(Exception):  # noqa: N818
    """Why a peer is not asked."""


class Problem(NamedTuple):
    """`A x = b`, and the cotangent `g` of x; A is canonical CSR."""

    A: Any
    b: Any
    g: Any

    @classmethod
    def of(cls, A: Any) -> Problem:
        rng = np.random.default_rng(1)
        return cls(A, *(rng.standard_normal(A.shape[0]).astype(A.dtype) for _ in range(2)))


Call = Callable[[float], Any]  # the solution, or (solution, gradient in the values)
Peer = Callable[[Problem, bool], Call]


def torch_pattern(A: Any) -> sps.Pattern:
    return sps.Pattern(torch.from_numpy(A.indptr), torch.from_numpy(A.indices), A.shape)


def _differentiated(x: Any, v: Any, b: Any, g: Any) -> tuple[Any, Any]:
    x.backward(g)
    assert b.grad is not None
    grad = v.grad
    return x.detach().numpy(), (grad if grad.layout is torch.strided else grad.values()).numpy()


def ours(problem: Problem, gradient: bool, solver: Any = None) -> Call:
    A, b, g = problem
    pattern, values, rhs, cotangent = torch_pattern(A), *map(torch.from_numpy, (A.data, b, g))

    def call(scale: float) -> Any:
        v, c = (values * scale).requires_grad_(gradient), rhs.detach().requires_grad_(gradient)
        x = sps.solve(sps.SparseMatrix(v, pattern), c, sps.LU() if solver is None else solver)
        return _differentiated(x, v, c, cotangent) if gradient else x.numpy()

    return call


def our_cg(problem: Problem, gradient: bool) -> Call:
    _definite(problem.A)
    return ours(problem, gradient, sps.CG(rtol=_RTOL))


def _definite(A: Any) -> None:
    if np.iscomplexobj(A) or (A - A.T).nnz or (A.diagonal() <= 0).any():
        raise Unsuitable("Not symmetric positive definite.")


# ---- raw


def splu(options: dict[str, Any]) -> Peer:
    def prepared(problem: Problem, gradient: bool) -> Call:
        csc, (_, b, g) = problem.A.tocsc(), problem
        values, adjoint = csc.data.copy(), "H" if np.iscomplexobj(csc) else "T"

        def call(scale: float) -> Any:
            np.multiply(values, scale, out=csc.data)
            lu = sla.splu(csc, **options)
            x = lu.solve(b)
            return (x, lu.solve(g, adjoint)) if gradient else x

        return call

    return prepared


def lapack_band(problem: Problem, gradient: bool) -> Call:
    """`gttrf` or `gbtrf` and the solves that go with them, on places found beforehand."""
    A, b, g = problem
    below, above, fill = _band(A, pivoted=True)
    three = isinstance(fill(1.0), list)
    trf, trs = get_lapack_funcs(("gttrf", "gttrs") if three else ("gbtrf", "gbtrs"), (A.data,))
    adjoint = ("C" if three else 2) if np.iscomplexobj(A) else ("T" if three else 1)

    def call(scale: float) -> Any:
        if three:
            *factors, info = trf(*fill(scale), overwrite_dl=1, overwrite_d=1, overwrite_du=1)
            solve = lambda r, trans: trs(*factors, r, trans=trans)[0]  # noqa: E731
        else:
            lu, pivots, info = trf(fill(scale), below, above, overwrite_ab=1)
            solve = lambda r, trans: trs(lu, below, above, r, pivots, trans=trans)[0]  # noqa: E731
        assert info == 0
        x = solve(b, "N" if three else 0)
        return (x, solve(g, adjoint)) if gradient else x

    return call


def lapack_cholesky(problem: Problem, gradient: bool) -> Call:
    """`pttrf` or `pbtrf` likewise."""
    A, b, g = problem
    _definite(A)
    *_, fill = _band(A, pivoted=False)
    three = isinstance(fill(1.0), list)
    trf, trs = get_lapack_funcs(("pttrf", "pttrs") if three else ("pbtrf", "pbtrs"), (A.data,))

    def call(scale: float) -> Any:
        if three:
            lower, on = fill(scale)
            *factors, info = trf(on, lower, overwrite_d=1, overwrite_e=1)
            solve = lambda r: trs(*factors, r)[0]  # noqa: E731
        else:
            factor, info = trf(fill(scale), lower=1, overwrite_ab=1)
            solve = lambda r: trs(factor, r, lower=1)[0]  # noqa: E731
        assert info == 0
        x = solve(b)
        return (x, solve(g)) if gradient else x

    return call


def _band(A: Any, *, pivoted: bool) -> tuple[int, int, Callable[[float], Any]]:
    """Its width below and above the diagonal, and what fills LAPACK's storage with multiples of A.

    With room for pivots, or the lower half only; of three diagonals these, lowest first.
    """
    C = A.tocoo()
    below, above = int((C.row - C.col).max()), int((C.col - C.row).max())
    if below + above > _WIDEST:
        raise Unsuitable(f"The band is {below} + {above} wide.")
    if max(below, above) == 1 and A.nnz == 3 * A.shape[0] - 2:
        return below, above, lambda scale: [C.data[k::3] * scale for k in (2, 0, 1)[: 2 + pivoted]]
    kept = np.flatnonzero((C.row >= C.col) | pivoted)
    top = below + above if pivoted else 0
    width, data = top + below + 1, C.data[kept]
    places = C.col[kept].astype(np.int64) * width + (top + C.row - C.col)[kept]

    def fill(scale: float) -> Any:
        band = np.zeros(width * A.shape[0], dtype=A.dtype)
        band[places] = data * scale
        return band.reshape(-1, width).T

    return below, above, fill


def decomposition(name: str) -> Peer:
    """An optional library through the package's module, without checks; refactored where it can."""

    def prepared(problem: Problem, gradient: bool) -> Call:
        module = import_module(f"sparsolve.backends.{name}")
        if (why := module.missing()) is not None:
            raise Unsuitable(why)
        A, b, g = problem
        structure = Structure(A.indptr, A.indices, A.shape)
        csc = structure.csc(A.data)
        matrix, values, kept = Matrix.of(structure, csc), csc.data.copy(), []
        if name == "klu" and not any(c.suits(matrix) for c in module.CANDIDATES):
            raise Unsuitable("Too much fill.")  # minutes on a 3-D problem
        if name == "cholmod":
            _definite(A)
        adjoint = "H" if np.iscomplexobj(A) else "T"

        def call(scale: float) -> Any:
            made = module.decompose(
                type(csc)((values * scale, csc.indices, csc.indptr), csc.shape), structure, matrix.kind
            )
            kept[:] = [made]  # alive for the next refactorization, as the memo would have it
            x = made.solve(b, "N")
            return (x, made.solve(g, adjoint)) if gradient else x

        return call

    return prepared


# ---- other packages


def _imported(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(name)
    except ImportError as error:
        raise Unsuitable(f"Not installed: {error}.") from error


def _csr(problem: Problem, scale: float, gradient: bool) -> tuple[Any, Any]:
    A = problem.A
    T = torch.sparse_csr_tensor(*map(torch.from_numpy, (A.indptr, A.indices, A.data * scale)), A.shape)
    return T.requires_grad_(gradient), torch.from_numpy(problem.b).requires_grad_(gradient)


def tsgu_spsolve(problem: Problem, gradient: bool) -> Call:
    solve, g = _imported("torchsparsegradutils.cupy").sparse_solve_c4t, torch.from_numpy(problem.g)

    def call(scale: float) -> Any:
        T, c = _csr(problem, scale, gradient)
        c.grad = None
        x = solve(T, c)
        return _differentiated(x, T, c, g) if gradient else x.numpy()

    return call


def tsgu_cg(problem: Problem, gradient: bool) -> Call:
    solve, g = _imported("torchsparsegradutils").sparse_generic_solve, torch.from_numpy(problem.g)
    cg = _imported("torchsparsegradutils.utils.linear_cg")
    _definite(problem.A)
    settings = cg.LinearCGSettings(cg_tolerance=_RTOL, max_cg_iterations=10_000)

    def call(scale: float) -> Any:
        T, c = _csr(problem, scale, gradient)
        c.grad = None
        x = solve(T, c, solve=cg.linear_cg, transpose_solve=cg.linear_cg, settings=settings)
        return _differentiated(x, T, c, g) if gradient else x.numpy()

    return call


def torch_sla(problem: Problem, gradient: bool) -> Call:
    spsolve, C, g = _imported("torch_sla").spsolve, problem.A.tocoo(), torch.from_numpy(problem.g)
    row, col = (torch.from_numpy(i.astype(np.int64)) for i in (C.row, C.col))
    values, rhs = torch.from_numpy(C.data), torch.from_numpy(problem.b)

    def call(scale: float) -> Any:
        v, c = (values * scale).requires_grad_(gradient), rhs.detach().requires_grad_(gradient)
        x = spsolve(v, row, col, problem.A.shape, c)
        return _differentiated(x, v, c, g) if gradient else x.numpy()

    return call


def klujax(problem: Problem, gradient: bool) -> Call:
    jax = _imported("jax")
    jax.config.update("jax_enable_x64", True)
    solve, C = _imported("klujax").solve, problem.A.tocoo()
    row, col, values, b, g = map(
        jax.numpy.asarray, (C.row.astype(np.int32), C.col.astype(np.int32), C.data, problem.b, problem.g)
    )

    @jax.jit
    def both(v: Any, b: Any, g: Any) -> Any:
        x, pull = jax.vjp(lambda v, b: solve(row, col, v, b), v, b)
        return (x, *pull(g))

    value = jax.jit(lambda v: solve(row, col, v, b))

    def call(scale: float) -> Any:
        if not gradient:
            return np.asarray(value(values * scale))
        x, grad, _ = both(values * scale, b, g)
        return np.asarray(x), np.asarray(grad)

    return call


def dense(problem: Problem, gradient: bool) -> Call:
    A, b, g = problem
    if A.shape[0] > _DENSE:
        raise Unsuitable(f"More than {_DENSE} unknowns.")
    C = A.tocoo()
    full, rhs, cotangent = map(torch.from_numpy, (A.toarray(), b, g))

    def call(scale: float) -> Any:
        M, c = (full * scale).requires_grad_(gradient), rhs.detach().requires_grad_(gradient)
        x = torch.linalg.solve(M, c)
        if not gradient:
            return x.numpy()
        x, grad = _differentiated(x, M, c, cotangent)
        return x, grad[C.row, C.col]

    return call


RAW: dict[str, Peer] = {
    "SuperLU, symmetric mode": splu(SYMMETRIC),
    "SuperLU, COLAMD": splu(COLAMD),
    "LAPACK band": lapack_band,
    "LAPACK band, Cholesky": lapack_cholesky,
}
EXTRAS: dict[str, Peer] = {name: decomposition(name.lower()) for name in ("PARDISO", "KLU", "CHOLMOD")}
PEERS: dict[str, Peer] = {
    "torchsparsegradutils, spsolve": tsgu_spsolve,
    "torchsparsegradutils, CG": tsgu_cg,
    "sparsolve, CG": our_cg,
    "torch-sla": torch_sla,
    "jax + klujax": klujax,
    "torch.linalg.solve, dense": dense,
}
