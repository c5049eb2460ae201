"""What is measured: each function takes a system's name and matrix and returns rows of figures, ready for JSON.

Calls that are compared are timed in turn in one process (A B C A B C ...), with values new in each; a ratio is the median of the
rounds' ratios, which a drifting machine leaves alone.
"""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import scipy.sparse.linalg as sla
import torch
from peers import COLAMD, EXTRAS, PEERS, RAW, SYMMETRIC, Call, Problem, Unsuitable, ours, torch_pattern

import sparsolve as sps
from sparsolve.errors import SolveError

__all__ = ["MEASURES", "WIDTHS"]

WIDTHS = (1, 4, 16, 64, 256)
_BATCH, _ENOUGH = 64, 3  # matrices; rounds that are wanted even if they take longer
_SMALL = 200  # unknowns, up to which a dense batch is tried
_scales = (1.0 + 1e-3 * i for i in itertools.count())  # never the same twice, so that nothing is in the memo

Row = dict[str, Any]


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def rounds(calls: dict[str, Call], budget: float, most: int = 25) -> dict[str, list[tuple[float, float]]]:
    """All calls in turn, again and again until the budget (seconds) is spent, and some rounds more if these are slow, after one that does not count."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    start = time.perf_counter()
    for i in range(most + 1):
        for name, call in calls.items():
            scale = next(_scales)
            found[name].append(timed(lambda call=call, scale=scale: call(scale)))
        if i > 0 and time.perf_counter() - start > (budget if i >= _ENOUGH else 5 * budget):
            break
    return {name: times[1:] for name, times in found.items()}


def ratio(over: list[tuple[float, float]], under: list[tuple[float, float]], which: int = 0) -> float:
    return median(a[which] / max(b[which], 1e-9) for a, b in zip(over, under, strict=True))


def milliseconds(times: list[tuple[float, float]], which: int = 0) -> float:
    return 1e3 * median(t[which] for t in times)


def backward_error(A: Any, x: Any, b: Any) -> float:
    """`‖b - A x‖ / (‖A‖ ‖x‖ + ‖b‖)` in the largest norm (Higham, Accuracy and Stability, 2nd ed., theorem 7.1)."""
    size = float(abs(A).sum(axis=1).max())
    return float(np.abs(b - A @ x).max() / (size * np.abs(x).max() + np.abs(b).max()))


def about(name: str, A: Any) -> Row:
    return {"system": name, "n": A.shape[0], "nnz": int(A.nnz)}


def strategy(A: Any, b: Any) -> str:
    matrix = sps.SparseMatrix(torch.from_numpy(A.data), torch_pattern(A))
    return sps.Strategy(int(sps.solve_with_info(matrix, torch.from_numpy(b)).info.strategy)).name


def best_raw(problem: Problem, candidates: dict[str, Any]) -> tuple[str | None, dict[str, float | str]]:
    """The fastest of some raw ways for value and adjoint, and what each took or why it did not."""
    took: dict[str, float | str] = {}
    for name, peer in candidates.items():
        try:
            call = peer(problem, True)
            first = timed(lambda call=call: call(1.0))[0]
            again = [timed(lambda call=call: call(1.0))[0] for _ in range(4 if first < 0.1 else 0)]
            took[name] = 1e3 * min([first, *again])
        except (Unsuitable, RuntimeError) as error:
            took[name] = str(error)
    known = {name: t for name, t in took.items() if isinstance(t, float)}
    return min(known, key=known.__getitem__) if known else None, took


def classes(name: str, A: Any, budget: float, extras: bool) -> list[Row]:
    """Value, value + gradient, and the same on a pattern seen for the first time, against the fastest raw way and the extra ones."""
    problem = Problem.of(A)
    best, took = best_raw(problem, RAW)
    assert best is not None
    extra, took_extra = best_raw(problem, EXTRAS) if extras else (None, {})
    value, gradient = (ours(problem, g) for g in (False, True))
    counts = []

    def first(scale: float) -> None:
        sps.clear_memo()
        gradient(scale)
        counts.append(sps.memo_info())

    calls: dict[str, Call] = {
        "raw value": RAW[best](problem, False),
        "value": value,
        "raw gradient": RAW[best](problem, True),
        "gradient": gradient,
    }
    if extra is not None:
        calls["extra gradient"] = EXTRAS[extra](problem, True)
    times = rounds(calls, budget)
    # apart: where the memo is cleared, memory goes back to the system, and the calls that follow would pay for fresh pages
    anew = {
        "anew raw gradient": calls["raw gradient"],
        "first": first,
        "second": gradient,
    }  # second: optional solvers analyse
    times |= rounds(anew, budget)
    x, _ = gradient(next(_scales) - 1e-12)
    row = about(name, A) | {
        "raw": best,
        "raw_ways_ms": took | took_extra,
        "extra": extra,
        "strategy": strategy(A, problem.b),
        "rounds": len(times["value"]),
        "ms": {call: milliseconds(t) for call, t in times.items()},
        "cpu_ms": {call: milliseconds(t, 1) for call, t in times.items()},
        "value": ratio(times["value"], times["raw value"]),
        "gradient": ratio(times["gradient"], times["raw gradient"]),
        "gradient_cpu": ratio(times["gradient"], times["raw gradient"], 1),
        "first": ratio(times["first"], times["anew raw gradient"]),
        "second": ratio(times["second"], times["anew raw gradient"]),
        "factorizations": counts[-1].factorizations,
        "analyses": counts[-1].analyses,
        "backward_error": backward_error(A, ours(problem, False)(1.0), problem.b),
    }
    assert np.isfinite(x).all()
    if extra is not None:
        row["gradient_over_extra"] = ratio(times["gradient"], times["extra gradient"])
    return [row]


def peer(name: str, A: Any, budget: float, who: str) -> list[Row]:
    """Value + gradient of one peer against ours; how far its solution and its gradient can be believed."""
    row = about(name, A) | {"peer": who}
    problem = Problem.of(A)
    try:
        call = PEERS[who](problem, True)
    except Unsuitable as reason:
        return [row | {"skipped": str(reason)}]
    mine = ours(problem, True)
    (_, grad), (x, theirs) = mine(1.0), call(1.0)
    times = rounds({"peer": call, "ours": mine}, budget)
    return [
        row
        | {
            "ms": milliseconds(times["peer"]),
            "ours_ms": milliseconds(times["ours"]),
            "ratio": ratio(times["peer"], times["ours"]),
            "cpu_ratio": ratio(times["peer"], times["ours"], 1),
            "rounds": len(times["ours"]),
            "backward_error": backward_error(A, x, problem.b),
            "gradient_difference": float(np.abs(theirs - grad).max() / np.abs(grad).max()),
        }
    ]


def batch(name: str, A: Any, budget: float, threads: int) -> list[Row]:
    """Value + gradient of 64 matrices on one pattern under vmap, against as many raw calls one after another, and torch's dense batch."""
    torch.set_num_threads(threads)
    problem = Problem.of(A)
    best, _ = best_raw(problem, RAW)
    assert best is not None
    raw, pattern = RAW[best](problem, True), torch_pattern(A)
    values, b, g = map(torch.from_numpy, (A.data, problem.b, problem.g))
    spread = torch.linspace(1, 1.0005, _BATCH, dtype=torch.float64).unsqueeze(1)
    solve = torch.vmap(lambda v: sps.solve(sps.SparseMatrix(v, pattern), b))

    def mine(scale: float) -> None:
        many = (values * (scale * spread)).requires_grad_()
        solve(many).backward(g.expand(_BATCH, -1))

    def dense(scale: float) -> None:
        many = (values * (scale * spread)).requires_grad_()
        full = torch.zeros(_BATCH, *A.shape, dtype=torch.float64).index_put((every, pattern.rows(), pattern.col), many)
        torch.linalg.solve(full, b.expand(_BATCH, -1)).backward(g.expand(_BATCH, -1))

    every = torch.arange(_BATCH).unsqueeze(1)
    calls: dict[str, Call] = {"raw": lambda s: [raw(s) for _ in range(_BATCH)], "ours": mine}
    times = rounds(calls | ({"dense": dense} if A.shape[0] <= _SMALL else {}), budget)
    row = {"batch": _BATCH, "threads": threads, "raw": best, "rounds": len(times["ours"])}
    row |= {"raw_ms": milliseconds(times["raw"]), "ours_ms": milliseconds(times["ours"])}
    row |= {"dense_ms": milliseconds(times["dense"])} if "dense" in times else {}
    return [about(name, A) | row | {"ratio": ratio(times["ours"], times["raw"])}]


def vmap(name: str, A: Any, budget: float) -> list[Row]:
    """Right-hand sides under vmap with one matrix, which the memo holds, against a raw factor's solve of the block."""
    best, _ = best_raw(Problem.of(A), {k: RAW[k] for k in RAW if k.startswith("SuperLU")})
    lu = sla.splu(A.tocsc(), **(COLAMD if best == "SuperLU, COLAMD" else SYMMETRIC))
    matrix = sps.SparseMatrix(torch.from_numpy(A.data), torch_pattern(A))
    solve = torch.vmap(lambda b: sps.solve(matrix, b))
    rows = []
    for k in WIDTHS:
        B = np.random.default_rng(k).standard_normal((k, A.shape[0])).astype(A.dtype)
        blocked, rhs = np.asfortranarray(B.T), torch.from_numpy(B)
        times = rounds(
            {"raw": lambda s, X=blocked: lu.solve(X), "ours": lambda s, X=rhs: solve(X)}, budget / len(WIDTHS)
        )
        raw_ms, ours_ms = (milliseconds(times[w]) / k for w in ("raw", "ours"))
        found = {"k": k, "raw_ms_a_column": raw_ms, "ours_ms_a_column": ours_ms}
        rows.append(about(name, A) | found | {"ratio": ratio(times["ours"], times["raw"])})
    return rows


def memory(name: str, A: Any, budget: float, who: str) -> list[Row]:
    """How far value + gradient raises the peak of the process's memory; it needs a process of its own."""
    small, problem = Problem.of(type(A)(np.diag([2.0, 3.0, 4.0]))), Problem.of(A)
    make = {"ours": ours, **RAW}[who]
    make(small, True)(1.0)
    call = make(problem, True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call(1.0)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return [about(name, A) | {"who": who, "mib": (after - before) / 1024}]


def answer(name: str, A: Any, budget: float) -> list[Row]:
    """Whether a matrix is solved, how well, and what is said where it is not."""
    b = np.ones(A.shape[0], dtype=A.dtype)
    row = about(name, A)
    matrix = sps.SparseMatrix(torch.from_numpy(A.data), torch_pattern(A))
    try:
        x, info = sps.solve_with_info(matrix, torch.from_numpy(b))
        if int(info.status) == sps.Status.CONVERGED:
            used = sps.Strategy(int(info.strategy)).name
            return [row | {"strategy": used, "backward_error": backward_error(A, x.numpy(), b)}]
        sps.solve(matrix, torch.from_numpy(b))
    except SolveError as error:
        return [row | {"error": type(error).__name__, "says": str(error).partition(". ")[0] + "."}]
    raise AssertionError("a status of failure, and no error")


MEASURES: dict[str, Callable[..., list[Row]]] = {
    "classes": classes,
    "peers": peer,
    "batch": batch,
    "vmap": vmap,
    "memory": memory,
    "answers": answer,
}
