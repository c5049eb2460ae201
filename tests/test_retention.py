"""What the memo keeps: entries that a graph may still ask for, and only a few of those that nothing can."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch.func import grad, vmap

import sparsolve as sps
from sparsolve import retention
from sparsolve.memo import _OVERHEAD, FACTORS, Memo
from sparsolve.retention import Source
from systems import SYSTEMS

F64 = torch.float64
FEW = retention._FEW


@pytest.fixture(autouse=True)
def empty():
    sps.clear_memo()
    yield
    sps.set_memo_limit(2**31)
    sps.clear_memo()


class Memory:
    """A reference to memory that a test lets go of."""

    gone = False

    def __call__(self):
        return None if self.gone else self


class Thing:
    nbytes = 100_000 - _OVERHEAD - 24  # with its key and its objects 100 000

    def __init__(self, *arrays):
        pass


def put(memo, number, memory=None, place=0):
    return memo.get("", (np.full(3, float(number)),), Thing, None if memory is None else Source(memory, place))


def held(memo):
    """The numbers of the entries that are there."""
    return sorted(int(np.frombuffer(e.key.arrays[0])[0]) for e in memo._entries.values())


def settle(memo):
    """Let all sources be looked at."""
    for _ in range(len(memo)):
        memo._wanted.look()
    memo._shrink()


def test_entries_stay_while_their_memory_lives():
    memo = Memo(10**8)
    memories = [Memory() for _ in range(100)]
    for i, memory in enumerate(memories):
        put(memo, i, memory)
    settle(memo)
    assert held(memo) == list(range(100))
    for i, memory in enumerate(memories):
        put(memo, i, memory)
    assert (memo.made, memo.hits) == (100, 100)


def test_what_has_served_goes_when_its_memory_is_gone():
    memo = Memo(10**8)
    memories = [Memory() for _ in range(100)]
    for _ in range(2):
        for i, memory in enumerate(memories):
            put(memo, i, memory)
    for memory in memories[:90]:
        memory.gone = True
    settle(memo)
    assert len(memo) == 10 + 10**8 // 128 // 10**5
    assert held(memo)[-10:] == list(range(90, 100))


def test_what_has_not_served_stays_longer():
    """A compiled graph may compute the values anew for its backward: their first memory is gone by then."""
    memo = Memo(10**8)
    for i in range(200):
        memory = Memory()
        put(memo, i, memory)
        memory.gone = True
    settle(memo)
    assert held(memo) == list(range(200 - 10**8 // 8 // 10**5, 200)), "the longest idle went first"


def test_memory_that_holds_other_numbers_by_now():
    """As a parameter does that an optimizer updates in place."""
    memo, parameter = Memo(10**8), Memory()
    for i in range(100):
        for _ in range(2):
            put(memo, i, parameter)
    assert held(memo) == list(range(99 - 10**8 // 128 // 10**5, 100))


def test_places_of_one_memory_are_apart():
    memo, batch = Memo(10**8), Memory()
    for _ in range(2):
        for i in range(50):
            put(memo, i, batch, place=i)
    settle(memo)
    assert held(memo) == list(range(50))


def test_found_again_at_another_place_of_its_memory():
    memo, batch = Memo(10**8), Memory()
    put(memo, 0, batch, place=0)
    put(memo, 0, batch, place=1)
    put(memo, 1, batch, place=0)
    assert [entry.held is not None for entry in memo._entries.values()] == [True, True]


def test_found_again_by_other_memory():
    memo, first, second = Memo(10**8), Memory(), Memory()
    put(memo, 0, first)
    first.gone = True
    settle(memo)
    put(memo, 0, second)
    for i in range(1, 100):
        for _ in range(2):
            put(memo, i, other := Memory())
        other.gone = True
    settle(memo)
    assert 0 in held(memo), "its new memory lives"
    second.gone = True
    for i in range(100, 200):
        for _ in range(2):
            put(memo, i, other := Memory())
        other.gone = True
    settle(memo)
    assert 0 not in held(memo)


def test_idle_entries_go_before_those_that_are_wanted():
    memo, wanted = Memo(20 * 10**5), [Memory() for _ in range(10)]
    for i, memory in enumerate(wanted):
        put(memo, i, memory)
    for i in range(10, 100):
        put(memo, i, gone := Memory())
        gone.gone = True
    assert set(range(10)) <= set(held(memo))
    assert memo.nbytes <= memo.max_bytes


def test_the_bytes_of_all_kinds_add_up():
    memo, rng = Memo(3 * 10**6), np.random.default_rng(0)
    memories = [Memory() for _ in range(8)]
    for _ in range(500):
        at = int(rng.integers(8))
        if rng.random() < 0.2:
            memories[at].gone, memories[at] = True, Memory()
        put(memo, int(rng.integers(30)), memories[at] if rng.random() < 0.8 else None, int(rng.integers(3)))
        wanted = memo._wanted
        idle = {served: list(entries.values()) for served, entries in wanted._idle.items()}
        assert memo.nbytes == sum(e.nbytes for e in memo._entries.values()) <= memo.max_bytes
        assert all(wanted._bytes[served] == sum(e.nbytes for e in entries) for served, entries in idle.items())
        assert all(e.served is served and e.held is None for served, entries in idle.items() for e in entries)
        assert all(wanted._held[e.held] is e for e in memo._entries.values() if e.held is not None)
        assert {id(e) for e in wanted._held.values()} <= {id(e) for e in memo._entries.values()}


# ---- with tensors


@pytest.fixture
def system():
    values, pattern = SYSTEMS["banded"](F64)
    return values, pattern, torch.randn(len(pattern.crow) - 1, dtype=F64)


def solve(values, pattern, b, solver=sps.LU()):  # noqa: B008
    return sps.solve(sps.SparseMatrix(values, pattern), b, solver)


def small_shares(monkeypatch):
    """As if the factors of these small systems were large."""
    monkeypatch.setattr(retention, "_SHARES", dict.fromkeys(retention._SHARES, 0.0))


def test_a_training_loop_keeps_a_few_factors(system, monkeypatch):
    small_shares(monkeypatch)
    values, pattern, b = system
    for step in range(50):
        v = (values * (1 + 0.01 * step)).requires_grad_()
        solve(v, pattern, b).sum().backward()
        assert sps.memo_info().entries <= 2 * FEW + 3
    assert sps.memo_info().factorizations == 50


def test_a_parameter_that_an_optimizer_updates_keeps_a_few_factors(system, monkeypatch):
    small_shares(monkeypatch)
    values, pattern, b = system
    parameter = torch.nn.Parameter(values.clone())
    optimizer = torch.optim.SGD([parameter], lr=1e-3)
    for _ in range(50):
        optimizer.zero_grad()
        solve(parameter, pattern, b).sum().backward()
        optimizer.step()
        assert sps.memo_info().entries <= 2 * FEW + 3
    assert sps.memo_info().factorizations == 50


@pytest.mark.parametrize("backend", [None, "superlu"])
@pytest.mark.parametrize("transform", [lambda f: f, vmap], ids=["loop", "vmap"])
def test_a_graph_finds_all_of_its_factors(transform, backend, system, monkeypatch):
    """However many: time steps whose matrices all differ, and a batch, decomposed together or one by one."""
    small_shares(monkeypatch)
    solver = sps.LU(backend=backend)
    values, pattern, b = system
    many = torch.linspace(1, 2, 40, dtype=F64).unsqueeze(1) * values
    leaf = many.clone().requires_grad_()
    if transform is vmap:
        total = vmap(lambda v: solve(v, pattern, b, solver))(leaf).sum()
    else:
        x = b
        for v in leaf:
            x = solve(v, pattern, x, solver)
        total = x.sum()
    total.backward()
    info = sps.memo_info()
    assert (info.factorizations, info.factor_hits) == (40, 40)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_a_compiled_batch_finds_all_of_its_factors(backend, system):
    """Also where the backward computes the values again, in other memory."""
    values, pattern, b = system

    def loss(theta):
        many = torch.linspace(1, 2, 40, dtype=F64).unsqueeze(1) * torch.exp(theta) * values
        return vmap(lambda v: solve(v, pattern, b))(many).square().sum()

    compiled = torch.compile(grad(loss), fullgraph=True, backend=backend)
    theta = torch.zeros((), dtype=F64)
    for step in range(3):
        torch.testing.assert_close(compiled(theta + step), grad(loss)(theta + step))
    assert sps.memo_info().factorizations == 3 * 40


def test_nothing_of_the_users_is_kept_alive(system):
    values, pattern, b = system
    v = values.clone().requires_grad_()
    solve(v, pattern, b).sum().backward()
    watched = weakref.ref(v.untyped_storage())
    pointer = weakref.ref(v)
    del v
    gc.collect()
    assert pointer() is None
    assert watched() is None


def test_factors_go_with_the_analysis_that_their_keys_name():
    """An analysis made anew is another object: nothing could find them."""
    sps.set_memo_limit(200_000)
    for shift in range(1, 30):
        n = 100 + shift
        p = sps.Pattern(torch.arange(n + 1), torch.arange(n), (n, n))
        solve(torch.full((n,), 2.0, dtype=F64), p, torch.ones(n, dtype=F64))
        alive = {id(e.value) for e in sps.memo.ANALYSES._entries.values()}
        assert all(id(e.key.rest.structure) in alive for e in FACTORS._entries.values())
    assert 0 < sps.memo_info().entries < 29
