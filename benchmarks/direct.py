"""Raw comparison of the direct solvers: decompose, solve, adjoint solve, against SuperLU in the better of two orderings.

    python benchmarks/direct.py [--only pardiso] [--systems Poisson]

Once on a new pattern, and once with new values on the old one. Figures are the reference's time over the solver's (above 1:
the solver is faster), medians of interleaved runs. The largest backward error of both solves is beside them, before any refinement.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib import import_module
from statistics import median
from typing import Any

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as sla
import torch
from core import COLAMD, SYMMETRIC, poisson, random_graph

from sparsolve.backends.host import Structure

SOLVERS = {"PARDISO": "pardiso", "METIS + SuperLU": "metis", "KLU": "klu"}


def elasticity(m: int) -> Any:
    """Three unknowns a node, coupled with all 26 neighbours: the pattern of linear elasticity on a grid of bricks."""
    T = sp.diags([-1.0, 4.0, -1.0], [-1, 0, 1], shape=(m, m))
    K = sp.kron(sp.kron(T, T), T)
    C = np.array([[2.0, 0.3, 0.3], [0.3, 2.0, 0.3], [0.3, 0.3, 2.0]])
    M = sp.kron(K, C).tocsr()
    return M + sp.diags(np.asarray(abs(M).sum(axis=1)).ravel() - M.diagonal())


def power_law(n: int) -> Any:
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


def kkt(m: int) -> Any:
    """`[[H, Cᵀ], [C, 0]]`."""
    H = poisson(m, 2)
    n = H.shape[0]
    C = sp.random(n // 4, n, 3 / n, random_state=np.random.default_rng(5)) + sp.eye(n // 4, n)
    return sp.bmat([[H, C.T], [C, None]])


SYSTEMS: dict[str, tuple[Callable[[], Any], str]] = {
    "Poisson 2-D, n=90 000": (lambda: poisson(300, 2), "positive"),
    "Poisson 3-D, n=15 625": (lambda: poisson(25, 3), "positive"),
    "elasticity, n=6 591": (lambda: elasticity(13), "positive"),
    "power law, n=3 000": (lambda: power_law(3000), "positive"),
    "random graph, n=2 000": (lambda: random_graph(2000), "positive"),
    "circuit, n=50 000": (lambda: circuit(50_000), "general"),
    "KKT, n=12 500": (lambda: kkt(100), "symmetric"),
}


def made(M: Any) -> tuple[Any, Structure]:
    M = sp.csr_matrix(M)
    M.sum_duplicates()
    structure = Structure(M.indptr, M.indices, M.shape)
    return structure.csc(M.data), structure


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def backward_error(A: Any, decomposition: Any, b: Any) -> float:
    size = abs(A).sum(axis=1).max()
    worst = 0.0
    for M, trans in ((A, "N"), (A.T, "T")):
        x = decomposition.solve(b, trans)
        worst = max(worst, float(np.abs(b - M @ x).max() / (size * np.abs(x).max() + np.abs(b).max())))
    return worst


def both(decomposition: Any, b: Any) -> None:
    decomposition.solve(b, "N")
    decomposition.solve(b, "T")


def compare(M: Any, kind: str, module: Any, repeat: int) -> str:
    """Ratios of one solver, one-shot and refactored, and its error."""
    A, structure = made(M)
    b = np.random.default_rng(1).standard_normal(A.shape[0])
    options = min((SYMMETRIC, COLAMD), key=lambda o: timed(lambda: both(sla.splu(A, **o), b)))
    keep, ratios = [], []
    for i in range(repeat):
        B = A * (1 + 0.1 * i)
        reference = timed(lambda B=B: both(sla.splu(B, **options), b))
        first = timed(lambda B=B: both(module.decompose(B, structure, kind, fresh=True), b))
        keep.append(module.decompose(B, structure, kind))  # alive, as the memo would have it
        again = timed(lambda B=B: both(module.decompose(B, structure, kind), b))
        ratios.append((reference / first, reference / again))
    once, again = (median(r[i] for r in ratios) for i in (0, 1))
    return f"{once:7.2f} {again:9.2f}  {backward_error(A, module.decompose(A, structure, kind), b):8.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="", help="the solvers whose module contains this")
    parser.add_argument("--systems", default="", help="the systems whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'system':24} {'solver':18} {'kind':9} {'once':>7} {'again':>9}  {'error':>8}")
    for label, name in SOLVERS.items():
        module = import_module(f"sparsolve.backends.{name}")
        if options.only not in name:
            continue
        if module.missing() is not None:
            print(module.missing())
            continue
        for system, (make, special) in SYSTEMS.items():
            if options.systems not in system or (name == "metis" and special == "symmetric"):
                continue
            for kind in dict.fromkeys(("general", special)) if name == "pardiso" else ("general",):
                print(f"{system:24} {label:18} {kind:9} {compare(make(), kind, module, options.repeat)}", flush=True)


if __name__ == "__main__":
    main()
