"""Value and gradient of a solve against the raw calls they cannot do without, and the memory that a gradient takes.

    python benchmarks/core.py [--repeat 15] [--json benchmarks/results/core.json]

The raw calls are one `splu` with the better of two orderings, one solve and one adjoint solve. Each pair is timed in
turn in one process (A B A B ..., one call each, so that neither finds the other's data in the cache); the figure is the
median of the pairs' ratios, which a drifting machine leaves alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy
import scipy.sparse.linalg as sla
import torch
from gallery import convection_diffusion, poisson, random_graph
from peers import COLAMD, SYMMETRIC

import sparsolve as sps

SYSTEMS: dict[str, Callable[[], Any]] = {
    "Poisson 2-D, n=100": lambda: poisson(10, 2),
    "convection-diffusion, n=100": lambda: convection_diffusion(10),
    "Poisson 3-D, n=125": lambda: poisson(5, 3),
    "random graph, n=100": lambda: random_graph(100),
    "Poisson 2-D, n=1024": lambda: poisson(32, 2),
    "Poisson 2-D, n=10 000": lambda: poisson(100, 2),
    "convection-diffusion, n=10 000": lambda: convection_diffusion(100),
    "Poisson 2-D, n=90 000": lambda: poisson(300, 2),
    "Poisson 3-D, n=10 648": lambda: poisson(22, 3),
    "Poisson 3-D, n=27 000": lambda: poisson(30, 3),
}


def seconds(call: Callable[[Any], Any], given: Any) -> float:
    start = time.perf_counter()
    call(given)
    return time.perf_counter() - start


def value_and_gradient(A: Any, repeat: int) -> dict[str, Any]:
    """Medians over interleaved pairs; every call is given values of its own, so that nothing is found in the memo."""
    n = A.shape[0]
    csc, b, g = A.tocsc(), np.random.default_rng(1).standard_normal(n), np.ones(n)

    def splu_seconds(options: dict[str, Any]) -> float:
        return median(seconds(lambda A: sla.splu(A, **options), csc) for _ in range(5))

    best = min((SYMMETRIC, COLAMD), key=splu_seconds)
    pattern = sps.Pattern(torch.from_numpy(A.indptr), torch.from_numpy(A.indices), A.shape)
    values, rhs, cotangent = torch.from_numpy(A.data), torch.from_numpy(b), torch.from_numpy(g)

    def another(i: int) -> tuple[Any, Any]:
        """The same matrix but for a small change, for each side."""
        M, v = csc.copy(), values.clone()
        M.data[0] += 1e-9 * (i + 1)
        v[0] += 1e-9 * (i + 1)
        return M, v.requires_grad_()

    def raw(M: Any) -> None:
        lu = sla.splu(M, **best)
        lu.solve(b)
        lu.solve(g, "T")

    def ours(v: Any) -> None:
        sps.solve(sps.SparseMatrix(v, pattern), rhs).backward(cotangent)

    calls = repeat * max(1, min(100, 20_000 // n)) + 1
    sps.clear_memo()
    pairs = []
    for i in range(calls):
        M, v = another(i)
        pairs.append((seconds(raw, M), seconds(ours, v)))
    pairs = pairs[1:]
    assert sps.memo_info().factorizations == calls, "each call makes one factorization"
    return {
        "n": n,
        "nnz": A.nnz,
        "raw_ms": 1e3 * median(r for r, _ in pairs),
        "ours_ms": 1e3 * median(o for _, o in pairs),
        "ratio": median(o / r for r, o in pairs),
    }


def gradient_memory(k: int) -> dict[str, Any]:
    """The largest temporary memory of a gradient with k columns, as a multiple of nnz k numbers."""
    A = poisson(64, 2)
    n = A.shape[0]
    pattern = sps.Pattern(torch.from_numpy(A.indptr), torch.from_numpy(A.indices), A.shape)
    B = torch.randn(n, k, dtype=torch.float64)
    v = torch.from_numpy(A.data.copy()).requires_grad_()
    x = sps.solve(sps.SparseMatrix(v, pattern), B)
    x.backward(B, retain_graph=True)
    tracemalloc.start()
    x.backward(B)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "k": k,
        "nnz": A.nnz,
        "n": n,
        "peak_over_nnz_k": peak / (8 * A.nnz * k),
        "peak_over_n_k": peak / (8 * n * k),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--only", default="", help="run the systems whose name contains this")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    print(f"{'system':34} {'raw ms':>9} {'ours ms':>9} {'ours/raw':>9}")
    for name, make in SYSTEMS.items():
        if options.only in name:
            row = rows[name] = value_and_gradient(make(), options.repeat)
            print(f"{name:34} {row['raw_ms']:9.3f} {row['ours_ms']:9.3f} {row['ratio']:9.2f}", flush=True)
    memory = [gradient_memory(k) for k in (16, 256)]
    for row in memory:
        print(
            f"gradient, {row['k']} columns: peak temporary memory {row['peak_over_nnz_k']:.2f} nnz·k, {row['peak_over_n_k']:.2f} n·k"
        )
    if options.json:
        machine = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "scipy": scipy.__version__,
            "machine": platform.machine(),
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(
            json.dumps({"machine": machine, "value_and_gradient": rows, "memory": memory}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
