"""SuperLU in an order of METIS: nested dissection (Karypis and Kumar, SIAM J. Sci. Comput. 20, 1998), through `pymetis`.

On 3-D and finite-element patterns it leaves 2 to 4 times less work than minimum degree. Rows are permuted like columns, and pivots are
sought on the diagonal first, so this serves matrices whose diagonal is strong.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..result import Strategy
from .decomposition import Kind
from .host import Structure
from .ordering import Ordering, Reordered, SuperLUFactor
from .strategy import Candidate, Matrix
from .superlu_memory import splu

__all__ = ["CANDIDATES", "decompose", "missing"]

_OPTIONS = {"permc_spec": "NATURAL", "diag_pivot_thresh": 0.1, "panel_size": 8, "options": {"SymmetricMode": True}}
_LEAST, _LARGE = 2_000, 50_000  # unknowns of a 3-D pattern, of any
_DENSE, _HUB = 6.3, 10  # entries a row of a 3-D pattern; times the average is a hub


def missing() -> str | None:
    """None if `pymetis` can be used here, else why not and what to install."""
    return _loaded()[1]


@cache
def _loaded() -> tuple[Any, str | None]:
    remedy = 'pip install "sparsolve[metis]" installs it.'
    try:
        return import_module("pymetis"), None
    except ModuleNotFoundError:
        return None, f"pymetis is not installed. {remedy}"
    except ImportError as error:
        return None, f"pymetis cannot be imported: {error}. {remedy}"


def decompose(A: Any, structure: Structure, kind: Kind) -> SuperLUFactor:
    """Factorize a canonical CSC matrix in the order of its pattern; METIS is asked once a pattern.

    Args:
        A: `(n, n)`, float32, float64, complex64 or complex128, most of its diagonal nonzero.
        structure: of its pattern.
        kind: makes no difference.

    Raises:
        DecompositionError: a zero pivot.
    """
    ordering = structure.found.get(__name__)
    if ordering is None:
        order = _order(A)
        ordering = structure.found[__name__] = Ordering(A, order, order)
    return SuperLUFactor(Reordered(splu(ordering.matrix(A.data), **_OPTIONS), ordering), A)


def _order(A: Any) -> Any:
    """The order of rows and columns, by nested dissection of the graph of `A + Aᵀ` without its diagonal."""
    n = A.shape[0]
    ones = sp.csc_matrix((np.ones(A.nnz, dtype=np.int8), A.indices, A.indptr), shape=A.shape)
    graph = (ones + ones.T).tocsr()
    graph.setdiag(0)
    graph.eliminate_zeros()
    if graph.nnz == 0:
        return np.arange(n)
    pymetis = _loaded()[0]
    adjacency = pymetis.CSRAdjacency(graph.indptr, graph.indices)
    return np.asarray(pymetis.nested_dissection(adjacency=adjacency)[0])


def _suits(matrix: Matrix) -> str | None:
    """On patterns of three dimensions or of elements, without hubs; ordering takes as long as one factorization saves, so it waits for the second."""
    if matrix.pinned:
        return None if matrix.unfit else "it was asked for"
    n, nnz = matrix.A.shape[0], len(matrix.A.data)
    pays = n >= _LARGE or (n >= _LEAST and nnz > _DENSE * n)
    if not (pays and matrix.strong_diagonal and matrix.structure.densest * n <= _HUB * nnz):
        return None
    if matrix.unfit:
        return None
    return "its pattern came before" if __name__ in matrix.structure.found or matrix.came_before else None


CANDIDATES = (Candidate(Strategy.METIS, _suits, lambda m: decompose(m.A, m.structure, m.kind)),)
