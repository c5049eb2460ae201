"""Preconditioners: how they are applied, on any device, and how they are made on the CPU, by NumPy and SciPy's SuperLU.

Multigrid, which needs an optional library, is a file of its own. Each is a fixed linear map made once from the canonical matrix (duplicates
added up), with its exact adjoint.
`A = L + D + U` is the strict lower triangle, the diagonal and the strict upper triangle.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from ..arrays import namespace
from ..errors import SolveError, sentence
from ..given import ApproximateInverse, Factored
from ..preconditioner_records import AMG, ILU, BlockJacobi, Jacobi, PreconditionerRecord, SymmetricGaussSeidel
from .decomposition import DecompositionError
from .diagnosis import require_finite, singular
from .given import given
from .host import Structure
from .ordering import TRIANGULAR
from .strategy import Matrix
from .superlu_memory import spilu, splu

__all__ = ["Blocks", "Diagonal", "Factors", "Preconditioner", "Sweeps", "build"]

_COLUMNS = 16  # right-hand sides of SuperLU at a time


class Preconditioner(Protocol):
    """An approximate inverse `M⁻¹` of one matrix."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""

    def apply(self, r: Any, *, adjoint: bool) -> Any:
        """`M⁻¹ r` or `M⁻ᴴ r`, a new array, for `r` of shape `(n, k)` and the dtype of the values."""


def build(record: PreconditionerRecord, structure: Structure, values: Any) -> Preconditioner:
    """The preconditioner that `record` names, for a square matrix; `SolveError` where `M` is singular or `values` are not finite."""
    require_finite("values", values)
    return _MAKERS[type(record)](record, structure, structure.csc(values))


class Diagonal:
    """`M⁻¹ = D⁻¹`, its numbers as `(n, 1)`."""

    def __init__(self, inverse: Any) -> None:
        self.inverse, self.nbytes = inverse, int(inverse.nbytes)

    def apply(self, r: Any, *, adjoint: bool) -> Any:
        return r * (self.inverse.conj() if adjoint else self.inverse)


class Blocks:
    """`M⁻¹ = diag(A₁₁⁻¹, A₂₂⁻¹, ...)`, its blocks as `(blocks, size, size)`; the last one is filled up with the identity."""

    def __init__(self, inverse: Any) -> None:
        self.inverse, self.nbytes = inverse, int(inverse.nbytes)

    def apply(self, r: Any, *, adjoint: bool) -> Any:
        (m, size), (n, k), xp = self.inverse.shape[:2], r.shape, namespace(r)
        padded = xp.zeros((m * size, k), dtype=r.dtype)
        padded[:n] = r.conj() if adjoint else r
        inverse = self.inverse.swapaxes(1, 2) if adjoint else self.inverse
        x = xp.matmul(inverse, padded.reshape(m, size, k)).reshape(m * size, k)[:n]
        return x.conj() if adjoint else x


class Factors:
    """`M⁻¹ = Q Ũ⁻¹ L̃⁻¹ P`, by what solves with it and its adjoint, `solve(r, adjoint=)`."""

    def __init__(self, lu: Any) -> None:
        self.lu, self.nbytes = lu, lu.nbytes

    def apply(self, r: Any, *, adjoint: bool) -> Any:
        return self.lu.solve(r, adjoint=adjoint)


class Sweeps:
    """`M⁻¹ = (D + U)⁻¹ D (D + L)⁻¹` and `M⁻ᴴ = (D + L)⁻ᴴ Dᴴ (D + U)⁻ᴴ`, by what solves with `D + L` and with `D + U`, and D as `(n, 1)`."""

    def __init__(self, lower: Any, diagonal: Any, upper: Any) -> None:
        self.lower, self.diagonal, self.upper = lower, diagonal, upper
        self.nbytes = lower.nbytes + upper.nbytes + int(diagonal.nbytes)

    def apply(self, r: Any, *, adjoint: bool) -> Any:
        if adjoint:
            return self.lower.solve(self.diagonal.conj() * self.upper.solve(r, adjoint=True), adjoint=True)
        return self.upper.solve(self.diagonal * self.lower.solve(r, adjoint=False), adjoint=False)


class _Substitution:
    """SuperLU's two triangular solves, some columns at a time; as many bytes as its own count of entries says."""

    def __init__(self, lu: Any, A: Any) -> None:
        self.lu, self.nbytes = lu, int(lu.nnz) * (int(A.data.itemsize) + 4)

    def solve(self, r: Any, *, adjoint: bool) -> Any:
        trans = "N" if not adjoint else "H" if np.iscomplexobj(r) else "T"
        parts = [self.lu.solve(r[:, j : j + _COLUMNS], trans) for j in range(0, max(r.shape[1], 1), _COLUMNS)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _jacobi(record: Jacobi, structure: Structure, A: Any) -> Diagonal:
    with np.errstate(all="ignore"):
        return Diagonal(1 / _diagonal("Jacobi", structure, A)[:, None])


def _block_jacobi(record: BlockJacobi, structure: Structure, A: Any) -> Blocks:
    n = structure.shape[0]
    size = max(1, min(record.size, n))
    blocks = np.zeros((max(1, -(-n // size)), size, size), dtype=A.dtype)
    filled = np.arange(n, blocks.shape[0] * size)
    blocks[-1, filled % size, filled % size] = 1
    row, column = A.indices, np.repeat(np.arange(n), np.diff(A.indptr))
    inside = row // size == column // size
    row, column = row[inside], column[inside]
    blocks[row // size, row % size, column % size] = A.data[inside]
    return Blocks(_inverses(blocks))


def _ilu(record: ILU, structure: Structure, A: Any) -> Factors:
    if structure.empty or Matrix.of(structure, A).unfit:
        raise singular(A, "ILU has no pivot to choose.")
    try:
        lu = spilu(A, drop_tol=record.drop_tol, fill_factor=record.fill_factor)
    except DecompositionError as error:
        raise singular(A, "ILU met an exactly zero pivot.") from error
    with np.errstate(all="ignore"):
        usable = np.isfinite(lu.solve(np.ones(A.shape[0], dtype=A.dtype))).all()
    if not usable:
        raise singular(A, "ILU found a factor that overflows.")
    return Factors(_Substitution(lu, A))


def _symmetric_gauss_seidel(record: SymmetricGaussSeidel, structure: Structure, A: Any) -> Sweeps:
    diagonal = _diagonal("SymmetricGaussSeidel", structure, A)[:, None]
    try:
        lower, upper = (_Substitution(splu(part(A, format="csc"), **TRIANGULAR), A) for part in (sp.tril, sp.triu))
    except DecompositionError as error:
        raise SolveError(sentence("SymmetricGaussSeidel found a factor that overflows.", n=A.shape[0])) from error
    return Sweeps(lower, diagonal, upper)


def _amg(record: AMG, structure: Structure, A: Any) -> Preconditioner:
    """The V-cycle; its file is imported here, and pyamg there, when first needed."""
    _diagonal("AMG", structure, A)  # its smoother divides by it
    cycle: Preconditioner = import_module(".amg", __package__).VCycle(record, A)
    return cycle


def _given(record: Any, structure: Structure, A: Any) -> Preconditioner:
    """One that does not depend on A."""
    made: Preconditioner = given(record, structure.shape[0], A.dtype)
    return made


_MAKERS: dict[type[PreconditionerRecord], Callable[..., Preconditioner]] = {
    Jacobi: _jacobi,
    BlockJacobi: _block_jacobi,
    ILU: _ilu,
    SymmetricGaussSeidel: _symmetric_gauss_seidel,
    AMG: _amg,
    ApproximateInverse: _given,
    Factored: _given,
}


def _diagonal(name: str, structure: Structure, A: Any) -> Any:
    """`(n,)`: the diagonal, all of it invertible."""
    diagonal = np.zeros(structure.shape[0], dtype=A.dtype)
    diagonal[A.indices[structure.diagonal]] = A.data[structure.diagonal]
    with np.errstate(all="ignore"):
        bad = np.flatnonzero(~np.isfinite(1 / diagonal))
    if len(bad):
        row = int(bad[0])
        raise SolveError(
            sentence(
                f"{name} divides by the diagonal, and A[{row}, {row}] is {diagonal[row]} ({len(bad)} such rows).",
                "Usually a constraint row (a saddle point), or equations that are not in the order of their unknowns.",
                "Use ILU(), which pivots, reorder the rows, or solve directly with LU().",
                n=structure.shape[0],
            )
        )
    return diagonal


def _inverses(blocks: Any) -> Any:
    """The inverse of each `(size, size)` block."""
    with np.errstate(all="ignore"):
        bad = np.flatnonzero(np.linalg.slogdet(blocks)[0] == 0)
        inverse = np.linalg.inv(blocks) if not len(bad) else blocks
    if not len(bad):
        bad = np.flatnonzero(~np.isfinite(inverse).all(axis=(1, 2)))
    if len(bad):
        first = int(bad[0]) * blocks.shape[1]
        raise SolveError(
            sentence(
                f"BlockJacobi inverts the diagonal blocks, and the one from row {first} on is singular ({len(bad)} such blocks).",
                "Usually a constraint row (a saddle point), or a size that does not fit the numbering of the unknowns.",
                "Choose the number of unknowns at each point as size, or use ILU(), which pivots.",
                size=blocks.shape[1],
            )
        )
    return inverse
