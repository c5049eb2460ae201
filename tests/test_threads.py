"""Eight threads at once: the same numbers as one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import sparsolve as sps
from sparsolve.backends import direct, superlu_memory
from sparsolve.caching import cached_property
from sparsolve.threads import by_blocks
from systems import SYSTEMS

THREADS, ROUNDS = 8, 2
NAMES = ("banded", "saddle point", "duplicates", "Helmholtz")


def test_a_switch_of_threads_anywhere_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread waits at each line of batch.py, as a debugger, a profiler or an interpreter without a lock may have it."""
    monkeypatch.setattr(direct, "_WORTH_A_THREAD", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    values, pattern = SYSTEMS["saddle point"](torch.float64)
    batch = values * torch.linspace(1, 2, 16, dtype=values.dtype)[:, None]
    b = torch.ones(pattern.shape[0], dtype=values.dtype)
    expected = [sps.solve(sps.SparseMatrix(v, pattern), b) for v in batch]
    sps.clear_memo()
    waits = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal waits
        if not frame.f_code.co_filename.endswith("batch.py"):
            return None
        if event == "line":
            waits += 1
            time.sleep(2e-4)
        return trace

    threading.settrace(trace)
    try:
        x = sps.solve(sps.SparseMatrix(batch, pattern), b, sps.LU(backend="superlu"))
    finally:
        threading.settrace(None)  # type: ignore[arg-type]
    assert waits > 100
    torch.testing.assert_close(x, torch.stack(expected))


def work(seed: int) -> list[torch.Tensor]:
    """Values, gradients and second derivatives: of matrices that only this seed has, and of some that all have."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for name in NAMES:
        for scale in (1.0, 1.0 + seed):
            values, pattern = SYSTEMS[name](torch.complex128)
            v = (scale * values).requires_grad_()
            b = torch.randn(pattern.shape[0], 3, dtype=v.dtype, generator=generator).requires_grad_()
            for adjoint in (False, True):
                x = sps.solve(sps.SparseMatrix(v, pattern), b, adjoint=adjoint)
                first = torch.autograd.grad(x.abs().square().sum(), (v, b), create_graph=True)
                second = torch.autograd.grad(first[0].abs().square().sum(), (v, b))
                out += [x.detach(), *(g.detach() for g in (*first, *second))]
    return out


@pytest.mark.parametrize("limit", [2**31, 10_000, 1, 0])
def test_threads_agree_with_one_after_the_other(limit):
    sps.set_memo_limit(limit)
    expected = [work(seed) for seed in range(THREADS)]
    sps.clear_memo()
    with ThreadPoolExecutor(THREADS) as pool:
        jobs = [pool.submit(work, seed) for _ in range(ROUNDS) for seed in range(THREADS)]
        results = [job.result(timeout=60) for job in jobs]
    for i, result in enumerate(results):
        for got, wanted in zip(result, expected[i % THREADS], strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12 * wanted.abs().max().item())


def test_each_matrix_is_factorized_once():
    values, pattern = SYSTEMS["Poisson 3-D"](torch.float64)
    b = torch.randn(27, dtype=torch.float64)

    def solve(scale: int) -> torch.Tensor:
        return sps.solve(sps.SparseMatrix(scale * values, pattern), b)

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(solve, [1, 2, 3, 4] * 20))
    assert sps.memo_info().factorizations == 4
    assert sps.memo_info().analyses == 1
    for i, x in enumerate(results):
        assert torch.equal(x, solve(1 + i % 4))


def test_one_threads_failure_is_its_own():
    values, pattern = SYSTEMS["banded"](torch.float64)
    b = torch.ones(20, dtype=torch.float64)
    expected = sps.solve(sps.SparseMatrix(values, pattern), b)
    sps.clear_memo()

    def solve(scale: int) -> torch.Tensor | str:
        try:
            return sps.solve(sps.SparseMatrix(scale * values, pattern), b)
        except sps.SingularMatrixError:
            return "singular"

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(solve, [0, 1] * 30))
    assert results[::2] == ["singular"] * 30
    assert all(torch.equal(x, expected) for x in results[1::2])


def test_the_first_block_is_done_before_the_others_begin():
    """What it finds out, they use."""
    b, found, met = np.arange(10.0)[None], [], []

    def call(part):
        met.append((part[0, 0], bool(found)))
        time.sleep(0.01)
        found.append(part[0, 0])
        return -part

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert np.array_equal(by_blocks(call, b, 3, worthwhile=True), -b)
    finally:
        torch.set_num_threads(before)
    assert sorted(met) == [(0.0, False), (3.0, True), (6.0, True), (9.0, True)]


LEAK = """
import gc, threading, torch
import scipy.sparse as sp
import sparsolve as sps

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

def whole(call):
    call()

def alone(call):
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()

torch.set_num_threads(2)
sps.set_memo_limit(2**25)
T = sp.diags([-1.0, 2.5, -1.0], [-1, 0, 1], shape=(70, 70))
A = sps.SparseMatrix.from_scipy(sp.kronsum(T, T).tocsr())
b = torch.ones(4900, 1, dtype=torch.float64)

def batch(function):
    values = A.values * (1 + torch.rand(4, 1, dtype=torch.float64))
    function(sps.SparseMatrix(values, A.pattern))

def one(function):
    function(A * (1 + float(torch.rand(()))))

solve = lambda A: sps.solve(A, b)
ilu = lambda A: sps.solve(A, b, sps.GMRES(preconditioner=sps.ILU(), rtol=1e-6))
for run, calls, function in (
    (whole, batch, solve), (whole, batch, sps.slogdet), (alone, one, solve), (alone, one, ilu), (alone, one, sps.slogdet)
):
    held = []
    for i in range(45):
        run(lambda: calls(function))
        if i % 15 == 14:
            gc.collect()
            held.append(resident())
    print(round(held[2] - held[1]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_factors_of_other_threads_give_their_memory_back():
    """SciPy keeps a list of SuperLU's memory for each thread; what goes in another one would never be freed: 30 to 120 MiB here."""
    done = subprocess.run([sys.executable, "-c", LEAK], capture_output=True, text=True, check=True)
    assert all(int(growth) < 20 for growth in done.stdout.split()), done.stdout


def test_makers_go_on_after_an_error_and_hold_nothing():
    def fails():
        raise RuntimeError("Factor is exactly singular")

    def elsewhere(call):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(call).result()

    matrix = sp.eye(5, format="csc")
    with pytest.raises(RuntimeError, match="exactly singular"):
        elsewhere(lambda: superlu_memory._makers.make(fails))
    found = elsewhere(lambda: superlu_memory.splu(matrix))
    assert np.array_equal(found.solve(np.arange(5.0), "T"), np.arange(5.0))
    assert (found.nnz, found.shape) == (10, (5, 5))
    box = found.box
    del found
    for _ in range(200):
        if not box:
            break
        time.sleep(0.01)
    assert box == []
    held = superlu_memory.splu(matrix)
    box, boxes = held.box, [held]
    del held
    elsewhere(boxes.clear)  # let go of in another thread
    assert len(box) == 1
    superlu_memory.splu(matrix)
    assert box == []


def test_a_property_of_one_object_waits_for_no_other():
    """As it did with the lock that functools has in Python before 3.12."""
    inside, go_on = threading.Event(), threading.Event()

    class Thing:
        def __init__(self, slow):
            self.slow, self.found = slow, 0

        @cached_property
        def value(self):
            """Its doc."""
            self.found += 1
            if self.slow:
                inside.set()
                assert go_on.wait(30)
            return self.slow

    slow, quick = Thing(True), Thing(False)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(lambda: slow.value)
        assert inside.wait(30)
        assert pool.submit(lambda: quick.value).result(timeout=30) is False
        go_on.set()
        assert waiting.result(timeout=30) is True
    assert (quick.value, quick.found, Thing.value.__doc__) == (False, 1, "Its doc.")


AFTER_A_FORK = """
import os, threading, torch, sparsolve as sps
A = sps.SparseMatrix.from_coo(torch.arange(1.0, 51), torch.arange(50), torch.arange(50), (50, 50))
A = A + sps.SparseMatrix.from_coo(torch.ones(50), torch.arange(50), torch.arange(50).roll(7), (50, 50))
def run():
    sps.solve(A, torch.ones(50), sps.LU(backend="superlu"))
thread = threading.Thread(target=run); thread.start(); thread.join()
assert len(threading.enumerate()) > 1  # the one that holds SciPy's memory
child = os.fork()
if child == 0:
    alone = [t.name for t in threading.enumerate()] == ["MainThread"]
    os._exit(0 if alone else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""

AT_EXIT = """
import atexit, torch, sparsolve as sps
from sparsolve.threads import each
torch.set_num_threads(2)
atexit.register(lambda: print(each(lambda i: i * i, 4, worthwhile=True)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_knows_its_threads_after_a_solve_in_a_thread() -> None:
    """SciPy's memory of a thread that is gone breaks Python's own hook off."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", AFTER_A_FORK], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_work_for_threads_is_done_without_them_when_the_interpreter_ends() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", AT_EXIT], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[0, 1, 4, 9]", done.stderr


def test_a_thread_that_cannot_be_started_is_no_singular_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """SuperLU's objects are made in threads of their own; what the system says of these is no word about the matrix."""

    def refused(self: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(superlu_memory._Maker, "start", refused)
    monkeypatch.setattr(superlu_memory, "_makers", superlu_memory._Makers())
    values, pattern = SYSTEMS["saddle point"](torch.float64)
    A, b = sps.SparseMatrix(values, pattern), torch.ones(pattern.shape[0], dtype=torch.float64)
    sps.clear_memo()
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="can't start new thread"):
        pool.submit(lambda: sps.solve(A, b, sps.LU(backend="superlu"))).result()
