"""`AMG` on CPU: one V-cycle of pyamg, made deterministic and with its exact adjoint."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from ..errors import BackendUnavailableError, SolveError, sentence
from ..given import is_hermitian
from ..preconditioner_records import AMG

__all__ = ["VCycle"]


class VCycle:
    """One V-cycle of pyamg, a column at a time.

    For a non-Hermitian matrix the restriction is made from `Aᴴ`. The adjoint of the cycle is the cycle of the adjoint
    hierarchy: `Aᴴ` on each level, with `Rᴴ` to prolong and `Pᴴ` to restrict, for the adjoint of a symmetric
    Gauss-Seidel sweep of `A` is the one of `Aᴴ`.
    """

    def __init__(self, record: AMG, A: Any) -> None:
        self._pyamg, self._n = _pyamg(), A.shape[0]
        if record.method == "ruge_stuben" and np.iscomplexobj(A.data):
            raise TypeError(
                sentence(
                    f"AMG(method='ruge_stuben') got a {A.dtype} matrix.",
                    "Its splitting into coarse and fine unknowns goes by signs, which complex entries do not have.",
                    "Use AMG(method='smoothed_aggregation').",
                )
            )
        rows, B = A.tocsr(), _near_nullspace(record, A)
        self._hermitian = is_hermitian(rows)
        hierarchy = self._made(lambda: self._hierarchy(record.method, rows, B))
        self._levels = hierarchy.levels
        self._cycles = {False: self._made(lambda: _cycle(hierarchy))}
        held = [M for level in self._levels for M in (level.A, getattr(level, "P", None), getattr(level, "R", None))]
        once = sum(M.data.nbytes + M.indices.nbytes + M.indptr.nbytes for M in held if M is not None)
        self.nbytes = int(once) * (1 if self._hermitian else 2)

    def apply(self, r: Any, *, adjoint: bool) -> Any:
        adjoint = adjoint and not self._hermitian
        if adjoint and True not in self._cycles:
            self._cycles[True] = self._made(lambda: _cycle(self._adjoint()))
        cycle, x = self._cycles[adjoint], np.empty_like(r)
        for j in range(r.shape[1]):
            x[:, j] = cycle.matvec(np.ascontiguousarray(r[:, j]))
        return x

    def _hierarchy(self, method: str, A: Any, B: Any) -> Any:
        """Local weights, for pyamg's other ones come from random vectors: `M⁻¹` must be the same every time."""
        if method == "ruge_stuben":
            return self._pyamg.ruge_stuben_solver(A)
        symmetry = "hermitian" if self._hermitian else "nonsymmetric"
        smooth = ("jacobi", {"omega": 4 / 3, "weighting": "local"})
        return self._pyamg.smoothed_aggregation_solver(A, B=B, symmetry=symmetry, smooth=smooth)

    def _made(self, make: Callable[[], Any]) -> Any:
        """What pyamg makes of A, or a `SolveError`."""
        try:
            with np.errstate(all="ignore"):
                return make()
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            raise SolveError(
                sentence(
                    f"AMG could not coarsen A: {error}.",
                    "It is made for elliptic problems; other matrices may have no coarse form.",
                    "Use ILU() with GMRES, or LU().",
                    n=self._n,
                )
            ) from error

    def _adjoint(self) -> Any:
        levels = []
        for level in self._levels:
            levels.append(self._pyamg.multilevel.MultilevelSolver.Level())
            levels[-1].A = level.A.conj().T.tocsr()
            if hasattr(level, "P"):
                levels[-1].P, levels[-1].R = level.R.conj().T.tocsr(), level.P.conj().T.tocsr()
        hierarchy = self._pyamg.multilevel.MultilevelSolver(levels)
        sweep = ("gauss_seidel", {"sweep": "symmetric"})
        self._pyamg.relaxation.smoothing.change_smoothers(hierarchy, sweep, sweep)
        return hierarchy


def _near_nullspace(record: AMG, A: Any) -> Any:
    """The vectors that the record has for A, in A's dtype."""
    if record.near_nullspace is None:
        return None
    B = record.near_nullspace.columns
    if len(B) != A.shape[0]:
        fact = f"AMG's near_nullspace has shape {B.shape}; A is {A.shape[0]} x {A.shape[0]}, and each column has a number for each unknown."
        raise ValueError(sentence(fact))
    if np.iscomplexobj(B) and not np.iscomplexobj(A.data):
        raise TypeError(sentence("AMG's near_nullspace is complex, and A is real.", remedy="Give real vectors."))
    return B.astype(A.dtype)


def _cycle(hierarchy: Any) -> Any:
    """A V-cycle, run once, since its first run makes the coarsest inverse."""
    cycle = hierarchy.aspreconditioner(cycle="V")
    A = hierarchy.levels[0].A
    cycle.matvec(np.zeros(A.shape[0], dtype=A.dtype))
    return cycle


def _pyamg() -> Any:
    try:
        return import_module("pyamg")
    except ImportError as error:
        raise BackendUnavailableError(
            sentence(
                "AMG needs pyamg, and it cannot be imported.",
                remedy="Install it with: pip install 'sparsolve[amg]'. SymmetricGaussSeidel() needs nothing more.",
            )
        ) from error
