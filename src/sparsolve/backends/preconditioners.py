"""Preconditioners on CPU, by NumPy and SciPy's SuperLU; multigrid, which needs an optional library, is a file of its own.

Each is a fixed linear map made once from the canonical matrix (duplicates added up), with its exact adjoint.
`A = L + D + U` is the strict lower triangle, the diagonal and the strict upper triangle.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from ..errors import SolveError, sentence
from ..given import ApproximateInverse, Factored
from ..preconditioner_records import AMG, ILU, BlockJacobi, Jacobi, PreconditionerRecord, SymmetricGaussSeidel
from .diagnosis import not_finite, singular
from .given import given
from .host import Structure
from .ordering import TRIANGULAR
from .strategy import Matrix
from .superlu_memory import spilu, splu

__all__ = ["Preconditioner", "build"]

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
    error = not_finite("values", values)
    if error is not None:
        raise error
    return _MAKERS[type(record)](record, structure, structure.csc(values))


class _Jacobi:
    """`M⁻¹ = D⁻¹`."""

    def __init__(self, record: Jacobi, structure: Structure, A: Any) -> None:
        with np.errstate(all="ignore"):
            self.inverse = 1 / _diagonal("Jacobi", structure, A)[:, None]
        self.nbytes = int(self.inverse.nbytes)

    def apply(self, r: Any, *, adjoint: bool) -> Any:
        return r * (self.inverse.conj() if adjoint else self.inverse)


class _BlockJacobi:
    """`M⁻¹ = diag(A₁₁⁻¹, A₂₂⁻¹, ...)`; the last block is filled up with the identity."""

    def __init__(self, record: BlockJacobi, structure: Structure, A: Any) -> None:
        n = structure.shape[0]
        self._size = size = max(1, min(record.size, n))
        blocks = np.zeros((max(1, -(-n // size)), size, size), dtype=A.dtype)
        filled = np.arange(n, blocks.shape[0] * size)
        blocks[-1, filled % size, filled % size] = 1
        row, column = A.indices, np.repeat(np.arange(n), np.diff(A.indptr))
        inside = row // size == column // size
        row, column = row[inside], column[inside]
        blocks[row // size, row % size, column % size] = A.data[inside]
        self.inverse = _inverses(blocks)
        self.nbytes = int(self.inverse.nbytes)

    def apply(self, r: Any, *, adjoint: bool) -> Any:
        m, size, (n, k) = self.inverse.shape[0], self._size, r.shape
        padded = np.zeros((m * size, k), dtype=r.dtype)
        padded[:n] = r.conj() if adjoint else r
        inverse = self.inverse.swapaxes(1, 2) if adjoint else self.inverse
        x = (inverse @ padded.reshape(m, size, k)).reshape(m * size, k)[:n]
        return x.conj() if adjoint else x


class _ILU:
    """`M⁻¹ = Q Ũ⁻¹ L̃⁻¹ P`, by SuperLU."""

    def __init__(self, record: ILU, structure: Structure, A: Any) -> None:
        if structure.empty or Matrix.of(structure, A).unfit:
            raise singular(A, "ILU has no pivot to choose.")
        try:
            self.lu = spilu(A, drop_tol=record.drop_tol, fill_factor=record.fill_factor)
        except RuntimeError as error:  # SciPy: "Factor is exactly singular"
            raise singular(A, "ILU met an exactly zero pivot.") from error
        with np.errstate(all="ignore"):
            usable = np.isfinite(self.lu.solve(np.ones(A.shape[0], dtype=A.dtype))).all()
        if not usable:
            raise singular(A, "ILU found a factor that overflows.")
        self.nbytes = _factor_bytes(self.lu, A)

    def apply(self, r: Any, *, adjoint: bool) -> Any:
        return _solve(self.lu, r, adjoint)


class _SymmetricGaussSeidel:
    """`M⁻¹ = (D + U)⁻¹ D (D + L)⁻¹` and `M⁻ᴴ = (D + L)⁻ᴴ Dᴴ (D + U)⁻ᴴ`."""

    def __init__(self, record: SymmetricGaussSeidel, structure: Structure, A: Any) -> None:
        self.diagonal = _diagonal("SymmetricGaussSeidel", structure, A)[:, None]
        try:
            self.lower, self.upper = (splu(part(A, format="csc"), **TRIANGULAR) for part in (sp.tril, sp.triu))
        except RuntimeError as error:  # SciPy: "Factor is exactly singular"
            raise SolveError(sentence("SymmetricGaussSeidel found a factor that overflows.", n=A.shape[0])) from error
        self.nbytes = sum(_factor_bytes(f, A) for f in (self.lower, self.upper)) + int(self.diagonal.nbytes)

    def apply(self, r: Any, *, adjoint: bool) -> Any:
        if adjoint:
            return _solve(self.lower, self.diagonal.conj() * _solve(self.upper, r, adjoint), adjoint)
        return _solve(self.upper, self.diagonal * _solve(self.lower, r, adjoint), adjoint)


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
    Jacobi: _Jacobi,
    BlockJacobi: _BlockJacobi,
    ILU: _ILU,
    SymmetricGaussSeidel: _SymmetricGaussSeidel,
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


def _solve(lu: Any, r: Any, adjoint: bool) -> Any:
    """SuperLU's two triangular solves, some columns at a time."""
    trans = "N" if not adjoint else "H" if np.iscomplexobj(r) else "T"
    parts = [lu.solve(r[:, j : j + _COLUMNS], trans) for j in range(0, max(r.shape[1], 1), _COLUMNS)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _factor_bytes(lu: Any, A: Any) -> int:
    """From SuperLU's own count of entries."""
    return int(lu.nnz) * (int(A.data.itemsize) + 4)
