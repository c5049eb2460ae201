"""Why a factorization failed, found out after the fact, so that a good matrix never pays for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import namespace, on_host
from ..errors import NotPositiveDefiniteError, SingularMatrixError, SolveError, sentence
from .matching import shortage
from .nullspace import dependence, listed, null_space

__all__ = [
    "entry_not_finite",
    "no_pivot",
    "not_definite",
    "not_finite",
    "overflow",
    "require_finite",
    "require_positive",
    "singular",
]


def not_finite(name: str, a: Any) -> SolveError | None:
    """The error for NaN or Inf in `a`, or None."""
    if bool(namespace(a).isfinite(a).all()):
        return None
    a = on_host(a)
    bad = np.argwhere(~np.isfinite(a))
    place = tuple(int(i) for i in bad[0])
    return _not_finite(f"{name}[{', '.join(map(str, place))}]", a[place], len(bad), a.size)


def require_finite(name: str, a: Any) -> None:
    """Refuse NaN and Inf in `a`."""
    error = not_finite(name, a)
    if error is not None:
        raise error


def _not_finite(place: str, value: Any, bad: int, total: int) -> SolveError:
    return SolveError(
        sentence(
            f"{place} is {value}; {bad} of {total} numbers are not finite.",
            "An overflow, or a division by zero upstream, is the usual cause.",
            "torch.autograd.detect_anomaly finds where it came from.",
        )
    )


def singular(A: Any, fact: str, condition: float | None = None) -> SolveError:
    """The error for a matrix that could not be factorized, with the most telling cause that can be found."""
    error = entry_not_finite(A)
    if error is not None:
        return error
    cause, remedy = _cause(A)
    estimate = f"at least {condition:.1e}" if condition is not None and np.isfinite(condition) else None
    return SingularMatrixError(sentence(fact, cause, remedy, n=A.shape[0], dtype=A.dtype, scaled_condition=estimate))


def indefinite(fact: str, A: Any, cause: str = "", remedy: str = "") -> NotPositiveDefiniteError:
    """The error of `Cholesky()` for a matrix that has no such factor; by default for one that looks positive definite and is not."""
    return NotPositiveDefiniteError(
        sentence(
            f"Cholesky needs a Hermitian positive definite A. {fact}",
            cause or "A wrong sign, a missing boundary condition or an unfixed constant, perhaps.",
            remedy
            or "Use LU(), which needs no such A; add a small multiple of the identity to one that is nearly singular.",
            n=A.shape[0],
            dtype=A.dtype,
        )
    )


def no_pivot(A: Any, *, definite: bool) -> SolveError:
    """The error for a matrix with a row or column without entries."""
    if definite:
        return entry_not_finite(A) or indefinite("A has a row or column without entries.", A, *_cause(A))
    return singular(A, "LU has no pivot to choose.")


def not_definite(fact: str, A: Any) -> SolveError:
    """The error of `Cholesky()` for a Hermitian matrix with a positive diagonal that could not be factorized."""
    if (error := entry_not_finite(A)) is not None:
        return error
    stored = A.copy()
    stored.eliminate_zeros()
    found = null_space(stored) if np.diff(stored.indptr).all() else None
    if found is None:
        return indefinite(fact, A)
    return indefinite(fact, A, f"A is singular: {found[0]}", found[1])


def require_positive(matrix: Any) -> None:
    """Refuse what cannot be positive definite, before any factorization: of some libraries LDLᴴ is all there is for an indefinite matrix.

    Args:
        matrix: a `strategy.Matrix`.
    """
    if matrix.kind == "positive":
        return
    raise entry_not_finite(matrix.A) or (_not_positive(matrix.A) if matrix.hermitian else _not_hermitian(matrix))


def _not_hermitian(matrix: Any) -> NotPositiveDefiniteError:
    symmetric = (
        ", or a complex symmetric matrix, as of waves, damping or impedances" if matrix.A.dtype.kind == "c" else ""
    )
    return indefinite(
        f"A is not Hermitian{_where(matrix)}.",
        matrix.A,
        f"A boundary condition that is applied to rows and not to columns, one triangle stored for both{symmetric}, perhaps.",
        "Use LU(); (A + A.mH) / 2 where only rounding is in the way.",
    )


def _not_positive(A: Any) -> NotPositiveDefiniteError:
    """Of a Hermitian matrix, by its diagonal."""
    d = A.diagonal()
    i = int(d.real.argmin())
    fact = f"A diagonal entry is missing or not positive: A[{i}, {i}] is {d[i].real:.6g} ({int((d.real <= 0).sum())} such)."
    if (d.real < 0).all():
        return indefinite(fact, A, "A wrong sign, perhaps.", "Use LU(), or solve with -A and -b.")
    return indefinite(fact, A, "A saddle point, as constraints make one, or a wrong sign.", "Use LU().")


def _where(matrix: Any) -> str:
    """The two entries that are furthest from each other's conjugate."""
    mirror, A = matrix.structure.mirror, matrix.A
    if mirror is None:
        return ": an entry has no counterpart on the other side of the diagonal"
    with np.errstate(all="ignore"):
        apart = np.abs(A.data - A.data[mirror.numpy()].conj())
    k = int(np.argmax(apart))
    i, j = int(A.indices[k]), int(np.searchsorted(A.indptr, k, side="right")) - 1
    if i == j:
        return f": A[{i}, {i}] = {A.data[k]:.6g} is on the diagonal, and not real"
    return f": A[{i}, {j}] = {A.data[k]:.6g} and A[{j}, {i}] = {A.data[int(mirror[k])]:.6g} differ by {apart[k]:.1e}"


def overflow() -> SolveError:
    """The error for a solution that is too large to be written down; the matrix is not at fault."""
    return SolveError(
        sentence(
            "The solution is larger than the largest number of its dtype.",
            "A is not singular, but b is too large for it.",
            "Divide b by a constant, and x is divided.",
        )
    )


def entry_not_finite(A: Any) -> SolveError | None:
    """The error for a NaN or Inf of a canonical CSC matrix, by its place."""
    bad = np.flatnonzero(~np.isfinite(A.data))
    if not len(bad):
        return None
    row, column = int(A.indices[bad[0]]), int(np.searchsorted(A.indptr, bad[0], side="right")) - 1
    return _not_finite(f"A[{row}, {column}]", A.data[bad[0]], len(bad), A.nnz)


def _cause(A: Any) -> tuple[str, str]:
    """What is wrong with a singular matrix, and what to do."""
    matrix = A.copy()  # eliminate_zeros works in place
    matrix.eliminate_zeros()
    n = A.shape[0]
    for name, empty in (
        ("row", np.bincount(matrix.indices, minlength=n) == 0),
        ("column", np.diff(matrix.indptr) == 0),
    ):
        if empty.any():
            return (
                f"{name.capitalize()} {int(np.argmax(empty))} has no nonzero entry ({int(empty.sum())} such {name}s).",
                "Usually an unknown that no equation mentions, or a missing boundary condition: give each unknown an equation, or remove it.",
            )
    rank, columns, rows = shortage(matrix.tocsc())
    if rank < n:
        return (
            f"No choice of values on this pattern is nonsingular: its structural rank is {rank} of {n}. "
            f"{len(columns)} unknowns, {listed(columns)}, are in {len(rows)} equations only, {listed(rows)}.",
            "Look for a missing diagonal block or coupling there.",
        )
    clause, remedy = dependence(matrix)
    return f"The rows are linearly dependent to working precision: {clause}", remedy
