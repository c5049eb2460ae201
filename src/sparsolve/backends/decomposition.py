"""The contract of the optional direct solvers `pardiso`, `klu`, `metis` and `cholmod`: they decompose and solve, and check nothing.

Each module has `missing()`, which is None or the sentence that says what to install, and `decompose(A, structure, kind)`, whose
result is a `strategy.Decomposition`. Where a library replaces pivots by larger ones it also has `perturbed`, how many: if that is not
0, only refinement makes solutions right. The caller checks the residual, since a library may return numbers of any size for a singular
matrix and call that success.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar

__all__ = ["DecompositionError", "Kind", "NotPositive", "places", "served"]

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


def places(wheel: str, variable: str, folders: Sequence[str], wanted: Callable[[str], bool]) -> Iterator[Path]:
    """Files of wanted names, where a library may be: the wheel of this environment, `variable`, conda's environment, and beside Python."""
    try:
        files = metadata.files(wheel) or []
    except metadata.PackageNotFoundError:
        files = []
    recorded = (Path(str(f.locate())).resolve() for f in files if wanted(f.name))
    yield from (p for p in recorded if p.exists())  # conda keeps them elsewhere
    roots = [os.environ.get(variable), os.environ.get("CONDA_PREFIX"), sys.prefix]
    for root in dict.fromkeys(r for r in roots if r):
        for folder in folders:
            yield from sorted((p for p in Path(root, folder).glob("*") if wanted(p.name)), reverse=True)
