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
from .preconditioners import Blocks, Diagonal, Factors, Preconditioner, Sweeps

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


def _jacobi(record: Jacobi, structure: Structure, values: Any) -> Diagonal:
    """Made on the device; where that cannot be, the host says why."""
    cp = cupy()
    diagonal = cp.zeros(structure.shape[0], dtype=values.dtype)
    rows, places = structure.diagonal
    diagonal[rows] = structure.ordered(values, adjoint=True)[places]
    inverse = 1 / diagonal[:, None]
    if not bool(cp.isfinite(inverse).all()):
        inverse = cp.asarray(_on_host(record, structure, values).inverse)
    return Diagonal(inverse)


def _block_jacobi(record: BlockJacobi, structure: Structure, values: Any) -> Blocks:
    return Blocks(cupy().asarray(_on_host(record, structure, values).inverse))


def _ilu(record: ILU, structure: Structure, values: Any) -> Factors:
    return Factors(Substitution(_on_host(record, structure, values).lu.lu))


def _symmetric_gauss_seidel(record: SymmetricGaussSeidel, structure: Structure, values: Any) -> Sweeps:
    made = _on_host(record, structure, values)
    return Sweeps(Substitution(made.lower.lu), cupy().asarray(made.diagonal), Substitution(made.upper.lu))


_MAKERS: dict[type[PreconditionerRecord], Callable[..., Preconditioner]] = {
    Jacobi: _jacobi,
    BlockJacobi: _block_jacobi,
    ILU: _ilu,
    SymmetricGaussSeidel: _symmetric_gauss_seidel,
}
