"""Conjugate gradients against SciPy's, one column and sixteen, and multigrid against a factorization.

    python benchmarks/krylov.py [--repeat 9] [--poisson 1000] [--json benchmarks/results/krylov.json]

The system is the 5-point Laplacian. Each pair is timed in turn in one process (A B A B ...); the figure is the median of the
pairs' ratios. SciPy solves the sixteen columns one after another, as it can do nothing else. Both are asked for the same relative
residual; ours is checked once more, with the true one. Time and peak memory of the large system are those of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy
import scipy.sparse as sp
import scipy.sparse.linalg as sla
import torch

import sparsolve as sps
from sparsolve.krylov import iterate

# grid, columns, relative residual, pairs per `repeat`
CASES = [
    (32, 1, 1e-8, 8),
    (100, 1, 1e-8, 2),
    (316, 1, 1e-6, 1),
    (32, 16, 1e-8, 2),
    (100, 16, 1e-8, 1),
    (316, 16, 1e-3, 1),
]
METHODS = {"amg": lambda: sps.CG(rtol=1e-8, preconditioner=sps.AMG()), "lu": sps.LU}


def poisson(m: int) -> Any:
    T = sp.diags_array([-np.ones(m - 1), 2 * np.ones(m), -np.ones(m - 1)], offsets=[-1, 0, 1])
    return sp.csr_matrix(sp.kronsum(T, T))


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def against_scipy(m: int, k: int, rtol: float, repeat: int) -> dict[str, Any]:
    """Medians over interleaved pairs, after one that does not count; `solve` is the same through the public function."""
    A = poisson(m)
    B = np.random.default_rng(0).standard_normal((m * m, k))
    matrix = sps.SparseMatrix(
        *(torch.from_numpy(A.data), sps.Pattern(*map(torch.from_numpy, (A.indptr, A.indices)), A.shape))
    )
    b, solver = torch.from_numpy(B), sps.CG(rtol=rtol)

    def theirs() -> None:
        assert all(sla.cg(A, B[:, j], rtol=rtol, maxiter=10_000)[1] == 0 for j in range(k))

    def ours() -> None:
        assert iterate("cg", A, B, rtol=rtol, atol=0.0, maxiter=None).converged.all()

    sps.solve(matrix, b, solver)
    rows = [(seconds(theirs), seconds(ours), seconds(lambda: sps.solve(matrix, b, solver))) for _ in range(repeat + 1)][
        1:
    ]
    return {
        "n": m * m,
        "columns": k,
        "rtol": rtol,
        "scipy_ms": 1e3 * median(r[0] for r in rows),
        "ours_ms": 1e3 * median(r[1] for r in rows),
        "ratio": median(r[1] / r[0] for r in rows),
        "solve_ratio": median(r[2] / r[0] for r in rows),
    }


def large(name: str, m: int) -> dict[str, Any]:
    """One solve with everything that it takes, in this process."""
    A = poisson(m)
    pattern = sps.Pattern(*map(torch.from_numpy, (A.indptr, A.indices)), A.shape)
    matrix, b = sps.SparseMatrix(torch.from_numpy(A.data), pattern), torch.ones(m * m, dtype=torch.float64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    info = sps.solve_with_info(matrix, b, METHODS[name]()).info
    end = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "n": m * m,
        "seconds": end - start,
        "peak_mib": (peak - before) / 1024,
        "iterations": int(info.iterations),
        "residual": float(info.residual),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--poisson", type=int, default=1000, help="grid of the large system; 0 leaves it out")
    parser.add_argument("--large", choices=METHODS, help="solve the large system by this method, and print the figures")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.large:
        print(json.dumps(large(options.large, options.poisson)))
        return
    rows, systems = [], {}
    print(f"{'n':>7} {'columns':>8} {'scipy ms':>9} {'ours ms':>9} {'ours/scipy':>11} {'solve/scipy':>12}")
    for m, k, rtol, pairs in CASES:
        row = against_scipy(m, k, rtol, pairs * options.repeat if m < 300 else max(1, options.repeat // 3))
        rows.append(row)
        print(
            f"{row['n']:7} {k:8} {row['scipy_ms']:9.2f} {row['ours_ms']:9.2f} {row['ratio']:11.2f} {row['solve_ratio']:12.2f}",
            flush=True,
        )
    for name in METHODS if options.poisson else ():
        again = [sys.executable, __file__, "--large", name, "--poisson", str(options.poisson)]
        systems[name] = json.loads(subprocess.run(again, capture_output=True, text=True, check=True).stdout)
        print(name, systems[name], flush=True)
    if options.json:
        machine = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "scipy": scipy.__version__,
            "machine": platform.machine(),
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"machine": machine, "cg": rows, "poisson": systems}, indent=1) + "\n")


if __name__ == "__main__":
    main()
