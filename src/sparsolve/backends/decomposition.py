"""The contract of the optional direct solvers `pardiso`, `klu` and `metis`: they decompose and solve, and check nothing.

Each module has `missing()`, which is None or the sentence that says what to install, and
`decompose(A, structure, kind, fresh=False)`. The result is a `strategy.Decomposition` that also has `perturbed`, how many pivots the
library replaced by larger ones: where it is not 0, only refinement makes solutions right. The caller checks the residual, since a library
may return numbers of any size for a singular matrix and call that success.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["DecompositionError", "Kind", "NotPositive"]

Kind = Literal["general", "symmetric", "hermitian", "positive"]


class DecompositionError(RuntimeError):
    """The library could not decompose this matrix: singular, out of memory, too large."""


class NotPositive(DecompositionError):  # noqa: N818 - the fact, not the failure
    """A matrix that was to be Hermitian positive definite has a pivot that is not positive."""
