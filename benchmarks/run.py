"""All measures on the gallery, each case in a process of its own, into one file of figures.

    python benchmarks/run.py --json benchmarks/results/plain.json
    python benchmarks/run.py --extras --only classes peers --json benchmarks/results/extras.json
    python benchmarks/run.py --matrices FOLDER --only answers        (a folder with .mtx files besides the gallery)
    python benchmarks/report.py benchmarks/results/*.json            (the page and its plots)

Without `--extras` the optional direct solvers are left out, installed or not. `--only` and `--systems` choose; figures of
the others that the file holds already are kept. A case that takes longer than `--limit` seconds, or crashes, is a row that says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gallery import GALLERY, QUICK, TINY, read

__all__ = ["main"]

PARTS = ("classes", "peers", "batch", "vmap", "memory", "answers")
NAMES = ("torchsparsegradutils, spsolve", "torch-sla", "jax + klujax", "torchsparsegradutils, CG", "sparsolve, CG")
DENSE = "torch.linalg.solve, dense"
COMPARED = (
    "Poisson 3-D, large",
    "Poisson 2-D, large",
    "KKT",
    "circuit",
    "power-law graph",
    "chemical plant",
    "Poisson 2-D, small",
    "Poisson 2-D, medium",
    "Poisson 3-D, small",
    "Poisson 3-D, medium",
)
BATCHED = (*TINY, "Poisson 2-D, small", "Poisson 2-D, medium")
VMAPPED = ("Poisson 2-D, medium", "Poisson 3-D, medium")
WEIGHED = ("Poisson 2-D, large", "Poisson 3-D, medium", "elasticity", "circuit")
NEEDED = ("torch", "numpy", "scipy")
PACKAGES = (*NEEDED, "torchsparsegradutils", "torch-sla", "jax", "klujax", "mkl", "pymetis", "scikit-sparse")
Case = dict[str, Any]


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """What is to be measured; a case without an `argument` has none."""
    systems = QUICK if options.quick else GALLERY
    few = lambda names: names if not options.quick else tuple(QUICK)  # noqa: E731
    if "classes" in options.only:
        yield from ({"part": "classes", "system": s, "argument": options.extras} for s in systems)
    if "peers" in options.only:
        peers = (DENSE, NAMES[0]) if options.quick else (*NAMES, DENSE)
        yield from ({"part": "peers", "system": s, "argument": p} for s in few(COMPARED) for p in peers)
    if "batch" in options.only:
        yield from ({"part": "batch", "system": s, "argument": t} for s in few(BATCHED) for t in (1, 2))
    if "vmap" in options.only:
        yield from ({"part": "vmap", "system": s} for s in few(VMAPPED))
    if "memory" in options.only:
        whos = ("ours", "SuperLU, symmetric mode", "SuperLU, COLAMD")
        yield from ({"part": "memory", "system": s, "argument": w} for s in few(WEIGHED) for w in whos)
    if "answers" in options.only:
        yield from ({"part": "answers", "system": s} for s in systems)
        folder = options.matrices
        yield from ({"part": "answers", "system": s, "folder": str(folder)} for s in (read(folder) if folder else ()))


def chosen(system: str, options: argparse.Namespace) -> bool:
    return not options.systems or any(part in system for part in options.systems)


def measured(case: Case, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One case, in this process."""
    import torch
    from measures import MEASURES

    from sparsolve.backends import strategy

    torch.set_num_threads(1)
    if not options.extras:
        strategy.BACKENDS = tuple(b for b in strategy.BACKENDS if b in ("entries", "lapack", "superlu"))
    systems = QUICK if options.quick else GALLERY | TINY
    name = case["system"]
    A = read(Path(case["folder"]))[name] if "folder" in case else systems[name].matrix()
    family = "file" if "folder" in case else systems[name].family
    argument = () if "argument" not in case else (case["argument"],)
    rows = MEASURES[case["part"]](name, A, options.budget, *argument)
    return [{"part": case["part"], "family": family, **row} for row in rows]


def apart(case: Case, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One case, in a process of its own."""
    flags = ["--budget", str(options.budget), *(["--extras"] * options.extras), *(["--quick"] * options.quick)]
    command = [sys.executable, "-W", "ignore", __file__, "--case", json.dumps(case), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "2" if case["part"] == "batch" else "1"}
    failed = {k: case[k] for k in ("part", "system")} | ({"peer": case["argument"]} if case["part"] == "peers" else {})
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.limit, env=environment)
    except subprocess.TimeoutExpired:
        return [failed | {"failed": f"It took longer than {options.limit:g} s."}]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"It ended with code {done.returncode}."])[-1]
        return [failed | {"failed": last[:200]}]
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def machine() -> dict[str, Any]:
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def summary(row: dict[str, Any]) -> str:
    figures = {k: v for k, v in row.items() if not isinstance(v, dict) and k not in ("part", "system", "family", "nnz")}
    said = "  ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in figures.items())
    return f"{row['part']:8} {row['system']:26} {said}"


def saved(path: Path, options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write the rows beside those of other parts that are there."""
    before = json.loads(path.read_text())["rows"] if path.exists() else []
    kept = [r for r in before if r["part"] not in options.only or not chosen(r["system"], options)]
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine(), "extras": options.extras, "quick": options.quick}
    lines = ",\n".join(json.dumps(row) for row in [*kept, *rows])
    path.write_text(json.dumps(document)[:-1] + f', "rows": [\n{lines}\n]}}\n')


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts; all by default")
    parser.add_argument("--systems", nargs="+", help="those systems whose names contain one of these")
    parser.add_argument("--extras", action="store_true", help="with the optional direct solvers that are installed")
    parser.add_argument("--quick", action="store_true", help="two tiny systems, to see that it runs")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds of repetitions a case")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds after which a case is given up")
    parser.add_argument("--matrices", type=Path, help="a folder with .mtx files")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.case is not None:
        print(json.dumps(measured(options.case, options)))
        return 0
    options.budget = 0.05 if options.quick else options.budget
    start, rows = time.perf_counter(), []
    for case in (c for c in cases(options) if chosen(c["system"], options)):
        found = measured(case, options) if options.quick else apart(case, options)
        for row in found:
            print(summary(row), flush=True)
        rows += found
        if options.json:
            saved(options.json, options, rows)
    print(f"{time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
