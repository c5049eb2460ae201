"""Value, gradient and second derivatives of `slogdet` against one factorization, n solves, and dense torch.

    python benchmarks/determinant.py [--only Poisson] [--json benchmarks/results/determinant.json]

*Solves* are what the exact gradient takes without the selected inverse: SuperLU's, 64 columns of the identity at a time, unchecked. Of large
systems some columns are timed, and multiplied. New values on one pattern each time, one thread, medians of rounds in turn.

A second table has batches of small matrices, value and gradient, against dense torch.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as sla
import torch
from gallery import GALLERY
from measures import timed
from peers import COLAMD, SYMMETRIC, torch_pattern

import sparsolve as sps

_COLUMNS, _BLOCKS = 64, 4  # of the identity at a time; how many of these are timed
_DENSE = 2000  # unknowns, up to which dense torch is
_BATCH, _SMALL = 200, (8, 32, 100, 200)  # matrices, and their unknowns


def calls(A: Any, rounds: int) -> dict[str, float]:
    """Milliseconds of each."""
    n, csc, pattern = A.shape[0], A.tocsc(), torch_pattern(A)
    options = min((SYMMETRIC, COLAMD), key=lambda o: min(timed(lambda: sla.splu(csc, **o))[0] for _ in range(3)))
    row, column = (torch.from_numpy(i.astype(np.int64)) for i in A.nonzero())
    times: dict[str, list[float]] = {}

    def take(name: str, call: Callable[[], Any]) -> Any:
        result: list[Any] = []
        times.setdefault(name, []).append(timed(lambda: result.append(call()))[0])
        return result[0]

    for i in range(rounds + 1):
        scale = 1 + 1e-3 * i
        lu = take("factorization", lambda scale=scale: sla.splu(scale * csc, **options))
        v = torch.from_numpy(scale * A.data).requires_grad_()
        y = take("value", lambda v=v: sps.slogdet(sps.SparseMatrix(v, pattern)).logabsdet)
        take("gradient", lambda y=y: y.backward())
        if not v.is_complex():  # else it is 2n solves
            at, along = (v.detach(), pattern.crow, pattern.col, sps.LU().key), torch.randn_like(v)
            take("second", lambda a=at, w=along: torch.ops.sparsolve.inverse_derivative(a[0], w, *a[1:]))
        unit = np.asfortranarray(np.eye(n, min(_COLUMNS, n)))
        for _ in range(_BLOCKS):
            take("solves", lambda lu=lu, unit=unit: lu.solve(unit))
        if n <= _DENSE:
            d = torch.zeros(n, n, dtype=torch.float64).index_put((row, column), v.detach()).requires_grad_()
            take("dense", lambda d=d: torch.linalg.slogdet(d).logabsdet.backward())
            torch.testing.assert_close(v.grad, d.grad[row, column])
    found = {name: 1e3 * median(t[1:]) for name, t in times.items()}
    found["solves"] *= n / min(_COLUMNS, n)
    return found


def small(n: int, rounds: int) -> dict[str, float]:
    """Microseconds for each of a batch of tridiagonal matrices."""
    A = sp.diags([1.0, 4.0, 1.0], [-1, 0, 1], shape=(n, n)).tocsr()
    pattern = torch_pattern(A)
    row, column = (torch.from_numpy(i.astype(np.int64)) for i in A.nonzero())
    times: dict[str, list[float]] = {"ours": [], "dense": []}
    for _ in range(rounds + 1):
        v = (torch.from_numpy(A.data) * (1 + 0.1 * torch.rand(_BATCH, 1, dtype=torch.float64))).requires_grad_()
        ours = lambda v=v: sps.slogdet(sps.SparseMatrix(v, pattern)).logabsdet.sum().backward()  # noqa: E731
        times["ours"].append(timed(ours)[0])
        zero = torch.zeros(_BATCH, n, n, dtype=torch.float64)
        d = zero.index_put((torch.arange(_BATCH)[:, None], row, column), v.detach()).requires_grad_()
        times["dense"].append(timed(lambda d=d: torch.linalg.slogdet(d).logabsdet.sum().backward())[0])
        torch.testing.assert_close(v.grad, d.grad[:, row, column])
    return {name: 1e6 * median(t[1:]) / _BATCH for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="the systems whose name contains this")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(
        "| system | n | factorization, ms | value / it | value + gradient / it | second / it | n solves, ms | dense torch, ms |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, system in GALLERY.items():
        if options.only in name:
            A = system.matrix()
            ms = calls(A, options.rounds)
            rows.append({"system": name, "n": A.shape[0], "nnz": int(A.nnz), "ms": ms})
            one, both = ms["value"], ms["value"] + ms["gradient"]
            dense = f"{ms['dense']:.0f}" if "dense" in ms else "–"
            second = f"{ms['second'] / ms['factorization']:.2g}" if "second" in ms else "–"
            print(
                f"| {name} | {A.shape[0]} | {ms['factorization']:.3g} | {one / ms['factorization']:.2g} "
                f"| {both / ms['factorization']:.2g} | {second} | {ms['solves']:.3g} | {dense} |",
                flush=True,
            )
    print("\n| n | of a batch of 200: value + gradient, us | dense torch, us |\n|---|---|---|")
    few = [{"n": n, "us": small(n, options.rounds)} for n in _SMALL]
    for case in few:
        print(f"| {case['n']} | {case['us']['ours']:.3g} | {case['us']['dense']:.3g} |")
    if options.json:
        lines = ",\n".join(json.dumps(row) for row in rows)
        options.json.write_text(
            f'{{"torch": "{torch.__version__}", "rows": [\n{lines}\n], "batches": {json.dumps(few)}}}\n'
        )


if __name__ == "__main__":
    main()
