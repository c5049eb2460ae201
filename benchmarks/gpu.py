"""CUDA: direct solves (by the strategy that is chosen, by cuDSS, if it is installed, and by SuperLU) against SuperLU on the CPU, Krylov methods against CuPy's and torch's, value and
value + gradient.

    python benchmarks/gpu.py [--sizes 10000 100000 1000000] [--json benchmarks/results/gpu.json]

Each figure is the median of several calls, with values that are new in each (a factorization, or a preconditioner, is made in each), and
the device waited for before and after. What fails (a lack of memory, for one) is said, and the others are measured; the file is written after each size.
Without a GPU, or without CuPy, it says so and ends with exit code 2.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as sla
import torch

import sparsolve as sps
from sparsolve.backends import available, cudss_library

RTOL = 1e-8


def poisson(n: int) -> Any:
    """2-D, about n unknowns, shifted so that CG needs no preconditioner to finish."""
    m = round(n**0.5)
    D = sp.diags_array([-np.ones(m - 1), 2 * np.ones(m), -np.ones(m - 1)], offsets=[-1, 0, 1])
    return sp.csr_array(sp.kronsum(D, D) + 0.01 * sp.eye_array(m * m))


def milliseconds(call: Callable[[int], Any], device: str, repeat: int) -> float:
    """The median, after one call that does not count."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    taken = []
    for i in range(repeat + 1):
        wait()
        start = time.perf_counter()
        call(i)
        wait()
        taken.append(1e3 * (time.perf_counter() - start))
    return median(taken[1:])


def ours(A: Any, solver: Any, device: str, gradient: bool) -> Callable[[int], Any]:
    pattern = sps.Pattern(torch.from_numpy(A.indptr), torch.from_numpy(A.indices), A.shape).to(device)
    values = torch.from_numpy(A.data).to(device)
    b = torch.ones(A.shape[0], dtype=torch.float64, device=device)

    def call(i: int) -> Any:
        v = (values * (1 + 1e-9 * i)).requires_grad_(gradient)
        x = sps.solve(sps.SparseMatrix(v, pattern), b, solver)
        return torch.autograd.grad(x.square().sum(), v) if gradient else x

    return call


def superlu(A: Any) -> Callable[[int], Any]:
    csc, b = A.tocsc(), np.ones(A.shape[0])
    options = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.1, "options": {"SymmetricMode": True}}
    return lambda i: sla.splu(csc, **options).solve(b)


def cupy_cg(A: Any) -> Callable[[int], Any]:
    import cupy
    import cupyx.scipy.sparse as csp
    from cupyx.scipy.sparse.linalg import cg

    M, b = csp.csr_matrix(sp.csr_matrix(A)), cupy.ones(A.shape[0])
    return lambda i: cg(M, b, rtol=RTOL)


def torch_cg(A: Any, device: str) -> Callable[[int], Any]:
    """CG in a few lines over torch's product of a CSR tensor and a vector."""
    parts = (torch.from_numpy(a).to(device) for a in (A.indptr, A.indices, A.data))
    M = torch.sparse_csr_tensor(*parts, size=A.shape)
    b = torch.ones(A.shape[0], dtype=torch.float64, device=device)

    def call(i: int) -> Any:
        x, r = torch.zeros_like(b), b.clone()
        p, rho = r.clone(), r @ r
        least = (RTOL * b.norm()) ** 2
        while rho > least:
            q = M @ p
            alpha = rho / (p @ q)
            x += alpha * p
            r -= alpha * q
            rho, before = r @ r, rho
            p = r + (rho / before) * p
        return x

    return call


def cases(A: Any, device: str) -> dict[str, Callable[[int], Any]]:
    cg = sps.CG(rtol=RTOL)
    found = {
        "SuperLU on the CPU: value": superlu(A),
        "LU: value": ours(A, sps.LU(), device, False),
        "LU, SuperLU: value": ours(A, sps.LU(backend="superlu"), device, False),
        "LU: value + gradient": ours(A, sps.LU(), device, True),
        "CG: value": ours(A, cg, device, False),
        "CG: value + gradient": ours(A, cg, device, True),
        "CG, Jacobi: value": ours(A, sps.CG(rtol=RTOL, preconditioner=sps.Jacobi()), device, False),
        "torch's products, CG: value": torch_cg(A, device),
    }
    if device == "cuda":
        found["CuPy's CG: value"] = cupy_cg(A)
        if cudss_library.missing() is None:
            found["LU, cuDSS: value"] = ours(A, sps.LU(backend="cudss"), device, False)
            found["LU, cuDSS: value + gradient"] = ours(A, sps.LU(backend="cudss"), device, True)
    return found


def measured(name: str, call: Callable[[int], Any], device: str, repeat: int) -> float | None:
    """Milliseconds, or None where the call fails."""
    sps.clear_memo()
    try:
        return milliseconds(call, device, repeat)
    except Exception as error:  # a run on a GPU is rare: the other figures are wanted in any case
        print(f"{name}: {type(error).__name__}: {error}", flush=True)
        return None


def written(file: Path, found: dict[str, Any], rows: dict[str, dict[str, float | None]]) -> None:
    where = {"machine": platform.machine(), "devices": found["devices"], "versions": found["versions"]}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"where": where, "milliseconds": rows}, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--cpu", action="store_true", help="run it on the CPU, to see that it runs")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = available()
    device = "cpu" if options.cpu else "cuda"
    if not options.cpu and "cuda" in found["missing"]:
        print(f"There is no GPU to measure. {found['missing']['cuda']}")
        return 2
    rows: dict[str, dict[str, float | None]] = {}
    for n in options.sizes:
        A = poisson(n)
        for name, call in cases(A, device).items():
            taken = measured(name, call, device, options.repeat)
            rows.setdefault(name, {})[str(A.shape[0])] = taken
            if taken is not None:
                print(f"{name:32} n={A.shape[0]:<9} {taken:10.2f} ms", flush=True)
        if options.json:
            written(options.json, found, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
