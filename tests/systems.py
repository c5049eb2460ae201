"""The gallery: named systems `dtype -> (values, pattern)`, small and the same every time.

For a complex dtype the entries of a real model get random phases (or, where it must stay Hermitian, complex symmetric or singular, what
keeps it so). A lost conjugation then shows, and diagonal dominance, a matter of magnitudes, stays.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

import sparsolve as sps

Made = tuple[Tensor, sps.Pattern]
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def made(M, dtype: torch.dtype, phases: bool = True) -> Made:
    """Values and pattern of a SciPy matrix, entry by entry as it stores them."""
    M = M.tocoo()
    v = M.data.astype(complex)
    if phases:
        v = v * np.exp(1j * np.random.default_rng(1).uniform(-0.5, 0.5, v.size))
    if not dtype.is_complex:
        v = M.data.real
    row, col = (torch.as_tensor(np.ascontiguousarray(i), dtype=torch.int64) for i in (M.row, M.col))
    pattern, order = sps.Pattern.from_coo(row, col, M.shape)
    return torch.as_tensor(v)[order].to(dtype), pattern


def with_indices(pattern: sps.Pattern, dtype: torch.dtype) -> sps.Pattern:
    """The same pattern in int32 or int64."""
    return sps.Pattern(pattern.crow.to(dtype), pattern.col.to(dtype), pattern.shape)


def entries(row, col, v, n: int) -> sp.coo_matrix:
    return sp.coo_matrix((np.asarray(v, dtype=float), (row, col)), shape=(n, n))


def path(n: int) -> sp.csr_matrix:
    """The graph Laplacian of a path: the second difference with Neumann conditions."""
    D = sp.diags([-np.ones(n), np.ones(n)], [0, 1], shape=(n - 1, n))
    return (D.T @ D).tocsr()


def grid(*sizes: int) -> sp.csr_matrix:
    """The graph Laplacian of a grid in any number of dimensions."""
    total = sp.csr_matrix((1, 1))
    for m in sizes:
        total = sp.kron(total, sp.eye(m)) + sp.kron(sp.eye(total.shape[0]), path(m))
    return total.tocsr()


def random_graph(n: int, degree: int = 4) -> sp.csr_matrix:
    """The Laplacian of a connected random graph with weights between 0.5 and 1.5."""
    rng = np.random.default_rng(n)
    i = np.concatenate([np.arange(n - 1), rng.integers(0, n, degree * n // 2)])
    j = np.concatenate([np.arange(1, n), rng.integers(0, n, degree * n // 2)])
    w = rng.uniform(0.5, 1.5, i.size)
    keep = i != j
    W = entries(i[keep], j[keep], w[keep], n).tocsr()
    W = W + W.T
    return (sp.diags(np.asarray(W.sum(axis=1)).ravel()) - W).tocsr()


def poisson(*sizes: int) -> sp.csr_matrix:
    """`-Δ` with Dirichlet conditions on a grid."""
    total = sp.csr_matrix((1, 1))
    for m in sizes:
        T = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(m, m))
        total = sp.kron(total, sp.eye(m)) + sp.kron(sp.eye(total.shape[0]), T)
    return total.tocsr()


def one(dtype: torch.dtype) -> Made:
    return made(entries([0], [0], [-3.0], 1), dtype)


def diagonal(dtype: torch.dtype) -> Made:
    return made(sp.diags([[1.0, -2.0, 3.0, 0.5, 7.0]], [0]), dtype)


def convection_diffusion(dtype: torch.dtype, m: int = 5) -> Made:
    """Upwinded, strongly convective: unsymmetric."""
    D = sp.diags([-1.0, 1.0], [-1, 0], shape=(m, m))
    return made(poisson(m, m) + 10 * sp.kron(D, sp.eye(m)) + 4 * sp.kron(sp.eye(m), D), dtype)


def helmholtz(dtype: torch.dtype, m: int = 5) -> Made:
    """`-Δ - k² (1 + 0.3 i)`, complex symmetric and indefinite (real dtypes: without the absorption)."""
    k2 = 1.7 * (1 + 0.3j) if dtype.is_complex else 1.7
    return made(poisson(m, m) - k2 * sp.eye(m * m), dtype, phases=False)


def hermitian(dtype: torch.dtype, n: int = 14) -> Made:
    """Hermitian positive definite."""
    rng = np.random.default_rng(2)
    B = sp.random(n, n, 0.2, random_state=rng).tocoo()
    if dtype.is_complex:
        B = sp.coo_matrix((B.data * np.exp(6j * rng.random(B.nnz)), (B.row, B.col)), shape=(n, n))
    return made((B.conj().T @ B + sp.eye(n)).tocsr(), dtype, phases=False)


def saddle_point(dtype: torch.dtype, m: int = 8, constraints: int = 4) -> Made:
    """`[[H, Cᵀ], [C, 0]]`: a zero diagonal block."""
    C = sp.kron(sp.eye(constraints), [[1.0, 2.0]])
    return made(sp.bmat([[poisson(m), C.T], [C, None]]), dtype)


def power_law(dtype: torch.dtype, n: int = 30) -> Made:
    """A preferential-attachment graph's Laplacian + 0.1 I: a few rows nearly full."""
    rng = np.random.default_rng(3)
    i = np.arange(1, n)
    j = np.floor(rng.random(n - 1) ** 3 * i).astype(int)
    W = entries(i, j, np.ones(n - 1), n).tocsr()
    W = W + W.T
    return made(sp.diags(np.asarray(W.sum(axis=1)).ravel() + 0.1) - W, dtype)


def circuit(dtype: torch.dtype, n: int = 24) -> Made:
    """Conductances from 1e-6 to 1e3 and some controlled sources: unsymmetric, tiny and huge entries."""
    rng = np.random.default_rng(4)
    i, j = rng.integers(0, n, (2, 3 * n))
    g = 10.0 ** rng.uniform(-6, 3, 3 * n)
    off = entries(i[i != j], j[i != j], -g[i != j], n).tocsr()
    ground = 10.0 ** rng.uniform(-3, 1, n)
    return made(sp.diags(-np.asarray(off.sum(axis=1)).ravel() + ground) + off, dtype)


def duplicates(dtype: torch.dtype) -> Made:
    """Every entry of a 2-D Poisson matrix in three parts, shuffled."""
    M = poisson(4, 4).tocoo()
    order = np.random.default_rng(5).permutation(3 * M.nnz)
    row, col, v = np.tile(M.row, 3)[order], np.tile(M.col, 3)[order], np.repeat([0.25, 0.25, 0.5], M.nnz)
    return made(entries(row, col, (np.tile(M.data, 3) * v)[order], 16), dtype)


def unsorted(dtype: torch.dtype) -> Made:
    """Columns in decreasing order in every row."""
    M = (poisson(4, 4) + sp.diags([0.7], [1], shape=(16, 16))).tocoo()
    order = np.lexsort((-M.col, M.row))
    return made(entries(M.row[order], M.col[order], M.data[order], 16), dtype)


def stored_zeros(dtype: torch.dtype) -> Made:
    """A tridiagonal matrix on a pattern with two more bands of zeros."""
    n = 9
    M = sp.dia_array((np.array([[0.0] * n, [-1.0] * n, [3.0] * n, [-0.5] * n, [0.0] * n]), [-3, -1, 0, 1, 4]), (n, n))
    row, col = np.nonzero(np.abs(np.subtract.outer(np.arange(n), np.arange(n))) <= 4)
    return made(entries(row, col, M.toarray()[row, col], n), dtype)


def badly_scaled(dtype: torch.dtype, m: int = 5) -> Made:
    """Rows and columns of a 2-D Poisson matrix scaled by 1e-6 to 1e6 each, entries from 1e-12 to 1e12."""
    rng = np.random.default_rng(6)
    R, C = (sp.diags(10.0 ** rng.permutation(np.linspace(-6, 6, m * m))) for _ in range(2))
    return made(R @ poisson(m, m) @ C, dtype)


def banded(dtype: torch.dtype, n: int = 20) -> Made:
    """Three bands below and one above the diagonal."""
    return made(sp.diags([0.5, -1.0, 2.0, 4.0, 3.0], [-3, -2, -1, 0, 1], shape=(n, n)), dtype)


def permuted(dtype: torch.dtype, n: int = 12) -> Made:
    """A cyclic shift of a banded matrix: not one entry on the diagonal."""
    return made(sp.csr_matrix(np.roll(np.diag(np.full(n, 4.0)) + np.diag(np.ones(n - 1), 1), n // 2, axis=0)), dtype)


SYSTEMS: dict[str, Callable[[torch.dtype], Made]] = {
    "1x1": one,
    "diagonal": diagonal,
    "Poisson 1-D": lambda dtype: made(poisson(12), dtype),
    "Poisson 2-D": lambda dtype: made(poisson(5, 4), dtype),
    "Poisson 3-D": lambda dtype: made(poisson(3, 3, 3), dtype),
    "convection-diffusion": convection_diffusion,
    "Helmholtz": helmholtz,
    "Hermitian": hermitian,
    "saddle point": saddle_point,
    "power law": power_law,
    "circuit": circuit,
    "duplicates": duplicates,
    "unsorted": unsorted,
    "stored zeros": stored_zeros,
    "badly scaled": badly_scaled,
    "banded": banded,
    "permuted": permuted,
}


def empty_row(dtype: torch.dtype) -> Made:
    M = poisson(3, 3).tolil()
    M[4] = 0
    return made(M, dtype)


def empty_column(dtype: torch.dtype) -> Made:
    M = poisson(3, 3).tolil()
    M[:, 7] = 0
    return made(M, dtype)


def zero_row(dtype: torch.dtype) -> Made:
    """Row 5 is stored, as zeros."""
    values, pattern = made(poisson(3, 3), dtype)
    return torch.where(pattern.rows() == 5, 0, values), pattern


def zero(dtype: torch.dtype) -> Made:
    return made(sp.csr_matrix((4, 4)), dtype)


def structural(dtype: torch.dtype) -> Made:
    """Three unknowns that only two equations mention, and no empty row or column."""
    D = np.eye(6)
    D[:4, :3] = [[1, 1, 1], [1, 2, 3], [0, 0, 0], [0, 0, 0]]
    D[2, 3:], D[3, 3:] = [1, 2, 3], [3, 1, 1]
    return made(sp.csr_matrix(D), dtype)


def dependent(dtype: torch.dtype) -> Made:
    """Row 7 is row 2 plus row 3."""
    M = (poisson(10) + sp.diags([0.3], [2], shape=(10, 10))).toarray()
    M[7] = M[2] + M[3]
    return made(sp.csr_matrix(M), dtype, phases=False)


# name -> (system, what the message must say)
SINGULAR: dict[str, tuple[Callable[[torch.dtype], Made], str]] = {
    "empty row": (empty_row, r"Row 4 has no nonzero entry \(1 such row"),
    "empty column": (empty_column, r"Column 7 has no nonzero entry \(1 such column"),
    "zero row": (zero_row, r"Row 5 has no nonzero entry"),
    "zero matrix": (zero, r"Row 0 has no nonzero entry \(4 such rows\)"),
    "structural": (structural, r"structural rank is 5 of 6\. 3 unknowns, 0, 1, 2, are in 2 equations only, 0, 1\."),
    "dependent rows": (dependent, r"linearly dependent.*: rows 2, 3, 7 depend"),
    "path graph": (lambda dtype: made(path(50), dtype, phases=False), r"linearly dependent.*graph Laplacian"),
    "grid graph": (lambda dtype: made(grid(8, 9), dtype, phases=False), r"linearly dependent.*graph Laplacian"),
    "large path": (lambda dtype: made(path(10_000), dtype, phases=False), r"linearly dependent.*graph Laplacian"),
    "large grid": (lambda dtype: made(grid(100, 100), dtype, phases=False), r"linearly dependent.*graph Laplacian"),
}
