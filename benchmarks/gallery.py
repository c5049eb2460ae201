"""The gallery: matrix classes that sparse solvers meet, each as large as wanted, the same every time; and files of real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.io
import scipy.sparse as sp

__all__ = ["GALLERY", "QUICK", "TINY", "System", "canonical", "read"]


class System(NamedTuple):
    """A class of matrices and a member of it: `make(size)`."""

    family: str
    make: Callable[[int], Any]
    size: int

    def matrix(self) -> Any:
        return canonical(self.make(self.size))


def canonical(M: Any) -> Any:
    """CSR with sorted indices, no duplicates, 32-bit indices."""
    A = sp.csr_matrix(M)
    A.sum_duplicates()
    A.indices, A.indptr = A.indices.astype(np.int32), A.indptr.astype(np.int32)
    return A


def read(folder: Path) -> dict[str, Any]:
    """The square matrices among the Matrix Market files of a folder."""
    found = {path.stem: canonical(scipy.io.mmread(path)) for path in sorted(folder.glob("*.mtx"))}
    return {name: A for name, A in found.items() if A.shape[0] == A.shape[1]}


def laplacian(m: int) -> Any:
    return sp.diags_array([-np.ones(m - 1), 2 * np.ones(m), -np.ones(m - 1)], offsets=[-1, 0, 1])


def poisson(m: int, dimensions: int) -> Any:
    A: Any = sp.csr_array((1, 1))
    for _ in range(dimensions):
        A = sp.kronsum(laplacian(m), A) if A.shape[0] > 1 else laplacian(m)
    return sp.csr_matrix(A)


def banded(n: int) -> Any:
    """Three entries below and two above a dominant diagonal, unsymmetric."""
    rng = np.random.default_rng(6)
    places = (-3, -2, -1, 1, 2)
    A = sp.diags([rng.uniform(-1, 1, n - abs(k)) for k in places], places)
    return A + sp.diags(np.asarray(abs(A).sum(axis=1)).ravel() + 0.1)


def convection_diffusion(m: int) -> Any:
    wind = sp.diags_array([-0.4 * np.ones(m - 1), 0.4 * np.ones(m - 1)], offsets=[-1, 1])
    return sp.csr_matrix(poisson(m, 2) + sp.kron(sp.eye_array(m), wind))


def helmholtz(m: int) -> Any:
    """`-Δ - k² (1 + 0.1 i)` with about ten points a wavelength: complex symmetric, indefinite."""
    return poisson(m, 2) - 0.4 * (1 + 0.1j) * sp.eye(m * m)


def random_graph(n: int) -> Any:
    rng = np.random.default_rng(0)
    G = sp.coo_matrix((rng.random(3 * n), rng.integers(0, n, (2, 3 * n))), shape=(n, n)).tocsr()
    G = G + G.T
    return sp.csr_matrix(sp.diags_array(np.asarray(G.sum(axis=1)).ravel() + 1) - G)


def elasticity(m: int) -> Any:
    """Three unknowns a node, coupled with all 26 neighbours: the pattern of linear elasticity on a grid of bricks."""
    T = sp.diags([-1.0, 4.0, -1.0], [-1, 0, 1], shape=(m, m))
    K = sp.kron(sp.kron(T, T), T)
    C = np.array([[2.0, 0.3, 0.3], [0.3, 2.0, 0.3], [0.3, 0.3, 2.0]])
    M = sp.kron(K, C).tocsr()
    return M + sp.diags(np.asarray(abs(M).sum(axis=1)).ravel() - M.diagonal())


def power_law(n: int) -> Any:
    """The Laplacian of a graph where a few nodes have most of the edges."""
    rng = np.random.default_rng(3)
    i = np.repeat(np.arange(1, n), 3)
    j = np.floor(rng.random(len(i)) ** 2 * i).astype(int)
    W = sp.coo_matrix((rng.random(len(i)) + 0.5, (i, j)), shape=(n, n)).tocsr()
    W = W + W.T
    return sp.diags(np.asarray(W.sum(axis=1)).ravel() + 0.1) - W


def circuit(n: int) -> Any:
    """Conductances over six decades between near nodes, some controlled sources, one node that many touch."""
    rng = np.random.default_rng(4)
    i = rng.integers(0, n, n)
    j = np.clip(i + np.abs(rng.normal(0, 30, n)).astype(int) + 1, 0, n - 1)
    G = sp.coo_matrix((10.0 ** rng.uniform(-3, 3, n), (i, j)), shape=(n, n)).tocsr()
    G = G + 0.5 * G.T + sp.diags([1.0, 1.0], [1, -1], shape=(n, n))
    hub = sp.coo_matrix(
        (np.ones(n // 100), (np.arange(0, n - 1, 100)[: n // 100], np.full(n // 100, n - 1))), shape=(n, n)
    )
    G = (G + hub + hub.T).tolil()
    G.setdiag(0)
    G = G.tocsr()
    return sp.diags(np.asarray(G.sum(axis=1)).ravel() + 1e-3) - G


def saddle_point(m: int) -> Any:
    """`[[H, Cᵀ], [C, 0]]` with a constraint for every fourth node and its neighbours, as in flow or contact; a fifth of the diagonal is zero."""
    H = poisson(m, 2)
    n = H.shape[0]
    i = np.arange(0, n - m - 1, 4)
    C = sp.csr_matrix(
        (np.tile([1.0, -0.6, 0.8], (len(i), 1)).ravel(), np.add.outer(i, [0, 1, m]).ravel(), 3 * np.arange(len(i) + 1)),
        shape=(len(i), n),
    )
    return sp.bmat([[H, C.T], [C, None]])


def kkt(m: int) -> Any:
    """The same with constraints between far nodes, which fill the factors."""
    H = poisson(m, 2)
    n = H.shape[0]
    C = sp.random(n // 4, n, 3 / n, random_state=np.random.default_rng(5)) + sp.eye(n // 4, n)
    return sp.bmat([[H, C.T], [C, None]])


def chemical(units: int) -> Any:
    """A cascade of units in counter-current, with recycles: equations and unknowns in no common order, so that hardly a diagonal entry is there.

    Each unit has eight unknowns, coupled among themselves and with those of the next and the previous unit, over six decades.
    """
    rng, k = np.random.default_rng(7), 8
    n = k * units
    inner = sp.block_diag([sp.random(k, k, 0.3, random_state=rng) for _ in range(units)])
    i = rng.integers(0, n, 2 * n)
    j = np.clip(i + k * rng.choice([-1, 1], 2 * n) + rng.integers(-2, 3, 2 * n), 0, n - 1)
    recycled = sp.coo_matrix((rng.random(n // 50), rng.integers(0, n, (2, n // 50))), shape=(n, n))
    A = inner + sp.coo_matrix((rng.uniform(-1, 1, 2 * n), (i, j)), shape=(n, n)) + recycled
    A = A + sp.diags(3 + rng.random(n))
    A = sp.diags(10.0 ** rng.uniform(-3, 3, n)) @ A
    shift = np.arange(n).reshape(units, k)[:, np.roll(np.arange(k), 3)].ravel()  # another unknown first in each unit
    return sp.csr_matrix(A)[shift]


GALLERY: dict[str, System] = {
    "tridiagonal": System("tridiagonal", laplacian, 100_000),
    "banded": System("banded", banded, 50_000),
    "Poisson 2-D, small": System("Poisson 2-D", lambda m: poisson(m, 2), 32),
    "Poisson 2-D, medium": System("Poisson 2-D", lambda m: poisson(m, 2), 100),
    "Poisson 2-D, large": System("Poisson 2-D", lambda m: poisson(m, 2), 316),
    "convection-diffusion 2-D": System("convection-diffusion 2-D", convection_diffusion, 100),
    "complex Helmholtz": System("complex Helmholtz", helmholtz, 100),
    "Poisson 3-D, small": System("Poisson 3-D", lambda m: poisson(m, 3), 10),
    "Poisson 3-D, medium": System("Poisson 3-D", lambda m: poisson(m, 3), 20),
    "Poisson 3-D, large": System("Poisson 3-D", lambda m: poisson(m, 3), 30),
    "elasticity": System("elasticity", elasticity, 13),
    "power-law graph": System("power-law graph", power_law, 3000),
    "random graph": System("random graph", random_graph, 2000),
    "circuit": System("circuit", circuit, 50_000),
    "KKT": System("KKT", saddle_point, 100),
    "chemical plant": System("chemical plant", chemical, 1500),
}

TINY: dict[str, System] = {
    "tridiagonal, tiny": System("tridiagonal", laplacian, 100),
    "Poisson 2-D, tiny": System("Poisson 2-D", lambda m: poisson(m, 2), 10),
    "random graph, tiny": System("random graph", random_graph, 100),
}

QUICK: dict[str, System] = {
    "Poisson 2-D, small": System("Poisson 2-D", lambda m: poisson(m, 2), 6),
    "KKT": System("KKT", saddle_point, 5),
}
