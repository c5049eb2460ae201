"""Eight threads at once: the same numbers as one after the other."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import sparsolve as sps
from sparsolve.threads import by_blocks
from systems import SYSTEMS

THREADS, ROUNDS = 8, 2
NAMES = ("banded", "saddle point", "duplicates", "Helmholtz")


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
