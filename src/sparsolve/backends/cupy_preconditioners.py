"""Preconditioners on CUDA. Those that need more than the diagonal are made on the host, by the same code, and applied on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import BackendUnavailableError, sentence
from ..preconditioner_records import ILU, BlockJacobi, Jacobi, PreconditionerRecord, SymmetricGaussSeidel
from . import preconditioners
from .cupy_device import Structure
from .cupy_lu import Substitution
from .cupy_runtime import cupy
from .preconditioners import Preconditioner

__all__ = ["build"]


def build(record: PreconditionerRecord, structure: Structure, values: Any) -> Preconditioner:
    """The preconditioner that `record` names, for a square matrix; `SolveError` where `M` is singular or `values` are not finite."""
    if type(record) not in _MAKERS:
        raise BackendUnavailableError(
            sentence(
                f"{type(record).__name__} has no backend for CUDA tensors in this version.",
                "Its library works on the CPU.",
                "Use SymmetricGaussSeidel(), ILU() or Jacobi(), or move A and b to the CPU.",
            )
        )
    return _MAKERS[type(record)](record, structure, values)


def _on_host(record: PreconditionerRecord, structure: Structure, values: Any) -> Any:
    """The same preconditioner on the CPU, with all its checks."""
    return preconditioners.build(record, structure.host, values.get())


class _Jacobi:
    """`M⁻¹ = D⁻¹`, made on the device; where that cannot be, the host says why."""

    def __init__(self, record: Jacobi, structure: Structure, values: Any) -> None:
        cp = cupy()
        diagonal = cp.zeros(structure.shape[0], dtype=values.dtype)
        rows, places = structure.diagonal
        diagonal[rows] = structure.ordered(values, adjoint=True)[places]
        self._inverse = 1 / diagonal[:, None]
        if not bool(cp.isfinite(self._inverse).all()):
            self._inverse = cp.asarray(_on_host(record, structure, values).inverse)
        self.nbytes = int(self._inverse.nbytes)

    def apply(self, r: Any, *, adjoint: bool) -> Any:
        return r * (self._inverse.conj() if adjoint else self._inverse)


class _BlockJacobi:
    """`M⁻¹ = diag(A₁₁⁻¹, A₂₂⁻¹, ...)`; the last block is filled up with the identity."""

    def __init__(self, record: BlockJacobi, structure: Structure, values: Any) -> None:
        self._inverse = cupy().asarray(_on_host(record, structure, values).inverse)
        self.nbytes = int(self._inverse.nbytes)

    def apply(self, r: Any, *, adjoint: bool) -> Any:
        (m, size), (n, k) = self._inverse.shape[:2], r.shape
        padded = cupy().zeros((m * size, k), dtype=r.dtype)
        padded[:n] = r
        inverse = self._inverse.conj().swapaxes(1, 2) if adjoint else self._inverse
        return cupy().matmul(inverse, padded.reshape(m, size, k)).reshape(m * size, k)[:n]


class _ILU:
    """`M⁻¹ = Q Ũ⁻¹ L̃⁻¹ P`, by SuperLU on the host; triangular solves on the device."""

    def __init__(self, record: ILU, structure: Structure, values: Any) -> None:
        self._lu = Substitution(_on_host(record, structure, values).lu)
        self.nbytes = self._lu.nbytes

    def apply(self, r: Any, *, adjoint: bool) -> Any:
        return self._lu.solve(r, adjoint=adjoint)


class _SymmetricGaussSeidel:
    """`M⁻¹ = (D + U)⁻¹ D (D + L)⁻¹` and `M⁻ᴴ = (D + L)⁻ᴴ Dᴴ (D + U)⁻ᴴ`."""

    def __init__(self, record: SymmetricGaussSeidel, structure: Structure, values: Any) -> None:
        made = _on_host(record, structure, values)
        self._diagonal = cupy().asarray(made.diagonal)
        self._lower, self._upper = Substitution(made.lower), Substitution(made.upper)
        self.nbytes = self._lower.nbytes + self._upper.nbytes + int(self._diagonal.nbytes)

    def apply(self, r: Any, *, adjoint: bool) -> Any:
        if adjoint:
            return self._lower.solve(self._diagonal.conj() * self._upper.solve(r, adjoint=True), adjoint=True)
        return self._upper.solve(self._diagonal * self._lower.solve(r, adjoint=False), adjoint=False)


_MAKERS: dict[type[PreconditionerRecord], Callable[..., Preconditioner]] = {
    Jacobi: _Jacobi,
    BlockJacobi: _BlockJacobi,
    ILU: _ILU,
    SymmetricGaussSeidel: _SymmetricGaussSeidel,
}
