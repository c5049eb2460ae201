"""Why a factorization failed, found out after the fact, so that a good matrix never pays for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import structural_rank

from ..errors import SingularMatrixError, SolveError, sentence
from .host import Structure

__all__ = ["not_finite", "singular"]


def not_finite(name: str, a: Any) -> SolveError | None:
    """The error for NaN or Inf in `a`, or None."""
    bad = np.argwhere(~np.isfinite(a))
    if not len(bad):
        return None
    place = tuple(int(i) for i in bad[0])
    where = place[0] if len(place) == 1 else place
    return SolveError(
        sentence(
            f"{name}[{where}] is {a[place]}; {len(bad)} of {a.size} numbers are not finite.",
            "An overflow, or a division by zero upstream, is the usual cause.",
            "torch.autograd.detect_anomaly finds where it came from.",
        )
    )


def singular(structure: Structure, values: Any, fact: str, condition: float | None = None) -> SolveError:
    """The error for a matrix that could not be factorized, with the most telling cause that can be found."""
    error = not_finite("values", values)
    if error is not None:
        return error
    cause, remedy = _cause(structure, values)
    estimate = f"at least {condition:.1e}" if condition is not None and np.isfinite(condition) else None
    return SingularMatrixError(
        sentence(fact, cause, remedy, n=structure.shape[0], dtype=values.dtype, scaled_condition=estimate)
    )


def _cause(structure: Structure, values: Any) -> tuple[str, str]:
    matrix = structure.csc(values).copy()
    matrix.eliminate_zeros()
    n = structure.shape[0]
    for name, empty in (
        ("row", np.bincount(matrix.indices, minlength=n) == 0),
        ("column", np.diff(matrix.indptr) == 0),
    ):
        if empty.any():
            return (
                f"{name.capitalize()} {int(np.argmax(empty))} has no nonzero entry ({int(empty.sum())} such {name}s).",
                "Usually an unknown that no equation mentions, or a missing boundary condition: give each unknown an equation, or remove it.",
            )
    rank = int(structural_rank(sp.csr_matrix(matrix)))
    if rank < n:
        return (
            f"No choice of values on this pattern is nonsingular: its structural rank is {rank} of {n}.",
            "Some equations share too few unknowns: look for a missing diagonal block or coupling.",
        )
    return (
        "The rows are linearly dependent to working precision: usually a missing boundary condition or an unfixed constant "
        "(a graph Laplacian, a pure Neumann problem, a floating node of a circuit).",
        "Fix one unknown, add a small multiple of the identity, or solve in float64 where this was float32.",
    )
