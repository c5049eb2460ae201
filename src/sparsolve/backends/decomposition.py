"""The contract of the optional direct solvers `pardiso`, `klu`, `metis` and `cholmod`: they decompose and solve, and check nothing.

Each module has `missing()`, which is None or the sentence that says what to install, and `decompose(A, structure, kind)`, whose
result is a `strategy.Decomposition`. Where a library replaces pivots by larger ones it also has `perturbed`, how many: if that is not
0, only refinement makes solutions right. The caller checks the residual, since a library may return numbers of any size for a singular
matrix and call that success.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

__all__ = ["DecompositionError", "Kind", "NotPositive", "served"]

T = TypeVar("T", bound=Any)
Kind = Literal["general", "symmetric", "hermitian", "positive"]


class DecompositionError(RuntimeError):
    """The library could not decompose this matrix: singular, out of memory, too large."""


class NotPositive(DecompositionError):  # noqa: N818 - the fact, not the failure
    """A matrix that was to be Hermitian positive definite has a pivot that is not positive."""


def served(decompose: Callable[[], T], kind: Kind) -> T | None:
    """The decomposition on an analysis that an earlier one left; None where that does not serve these values, and a new one may.

    It does not if pivots are replaced, or where it fails, except for NotPositive: nothing there depends on values.
    """
    try:
        found = decompose()
    except DecompositionError:
        if kind == "positive":
            raise
        return None
    return None if found.perturbed else found
