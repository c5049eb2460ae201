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
from gallery import circuit, elasticity, kkt, poisson, power_law, random_graph
from peers import COLAMD, SYMMETRIC

from sparsolve.backends.host import Structure

SOLVERS = {"PARDISO": "pardiso", "METIS + SuperLU": "metis", "KLU": "klu", "CHOLMOD": "cholmod"}
KINDS: dict[str, Callable[[str], list[str]]] = {
    "pardiso": lambda special: list(dict.fromkeys(("general", special))),
    "cholmod": lambda special: ["positive"] if special == "positive" else [],
}


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
        anew = made(M)[1]  # nothing is known of it
        first = timed(lambda B=B, anew=anew: both(module.decompose(B, anew, kind), b))
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
            for kind in KINDS.get(name, lambda special: ["general"])(special):
                print(f"{system:24} {label:18} {kind:9} {compare(make(), kind, module, options.repeat)}", flush=True)


if __name__ == "__main__":
    main()
