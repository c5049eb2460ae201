"""The memo: factorization counts as a contract, counted where SciPy factorizes; bounds; and that it never changes an answer."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import weakref
from functools import partial

import numpy as np
import pytest
import scipy.sparse.linalg as sla
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import oracle
import sparsolve as sps
from sparsolve import memo as remembered
from sparsolve import tickets
from sparsolve.array_key import ArrayKey
from sparsolve.batch import Found
from sparsolve.memo import Memo
from systems import SINGULAR, SYSTEMS, with_indices

F64, C128 = torch.float64, torch.complex128
N = 20
solve = partial(sps.solve, solver=sps.LU(backend="superlu"))  # small systems have cheaper ways


@pytest.fixture
def splu(monkeypatch):
    """A list that grows by one with every call of SciPy's `splu`."""
    calls, true = [], sla.splu

    def counted(*args, **kwargs):
        calls.append(args[0])
        return true(*args, **kwargs)

    monkeypatch.setattr(sla, "splu", counted)
    return calls


@pytest.fixture
def system():
    values, pattern = SYSTEMS["banded"](F64)
    return values, pattern, torch.randn(N, dtype=F64)


def loss(pattern, b):
    return lambda v: solve(sps.SparseMatrix(v, pattern), b).pow(3).sum()


# ---- the contract


def test_value_gradient_and_hessian_vector_product(splu, system):
    values, pattern, b = system
    f = loss(pattern, b)
    f(values)
    grad(f)(values)
    jvp(grad(f), (values,), (torch.randn_like(values),))
    v = values.clone().requires_grad_()
    (g,) = torch.autograd.grad(f(v), v, create_graph=True)
    torch.autograd.grad(g.sum(), v)
    assert len(splu) == 1
    assert sps.memo_info().factorizations == 1
    assert sps.memo_info().analyses == 1


@pytest.mark.parametrize("transform", [jacrev, jacfwd, hessian])
def test_jacobians(transform, splu, system):
    values, pattern, b = system
    transform(lambda v: solve(sps.SparseMatrix(v, pattern), b))(values)
    assert len(splu) == 1


def test_vmap_over_right_hand_sides(splu, system):
    values, pattern, _ = system
    vmap(lambda b: solve(sps.SparseMatrix(values, pattern), b))(torch.randn(100, N, dtype=F64))
    assert len(splu) == 1


def test_batch_of_right_hand_sides(splu, system):
    values, pattern, _ = system
    solve(sps.SparseMatrix(values, pattern), torch.randn(5, 4, N, 2, dtype=F64))
    assert len(splu) == 1


def test_vmap_over_matrices(splu, system):
    values, pattern, b = system
    batch = torch.stack([values * (1 + i) for i in range(7)])
    vmap(grad(loss(pattern, b)))(batch)
    assert len(splu) == 7
    assert sps.memo_info().analyses == 1


def test_the_same_matrix_in_a_batch(splu, system):
    values, pattern, b = system
    solve(sps.SparseMatrix(values.expand(6, -1), pattern), b)
    assert len(splu) == 1


def test_five_solves_and_the_adjoint(splu, system):
    values, pattern, _ = system
    for i in range(5):
        solve(sps.SparseMatrix(values.clone(), pattern), torch.randn(N, 1 + i, dtype=F64))
    solve(sps.SparseMatrix(values, pattern), torch.randn(N, dtype=F64), adjoint=True)
    assert len(splu) == 1
    assert sps.memo_info().factor_hits == 5


def test_pytree(splu, system):
    values, pattern, b = system
    solve(sps.SparseMatrix(values, pattern), {"u": b, "v": [b, b.unsqueeze(-1)]})
    assert len(splu) == 1


def test_sparse_tensor_and_its_gradient(splu, system):
    values, pattern, b = system
    A = torch.sparse_csr_tensor(
        pattern.crow, pattern.col, values, pattern.shape, check_invariants=True
    ).requires_grad_()
    for _ in range(2):
        solve(A, b).sum().backward()
    assert len(splu) == 1
    assert sps.memo_info().analyses == 1


def test_newton_loop(splu, system):
    """`A(u) u = b` with `A`'s values depending on u: one analysis, one factorization a step."""
    values, pattern, b = system
    row, u, steps = pattern.rows(), torch.zeros(N, dtype=F64), 6
    for _ in range(steps):
        v = torch.where(row == pattern.col, values + 0.1 * u[row].cos(), values)
        u = solve(sps.SparseMatrix(v, pattern), b)
    assert len(splu) == steps
    assert sps.memo_info().analyses == 1


# ---- what must not be found again


@pytest.mark.parametrize("change", [lambda v: torch.nextafter(v, v + 1), lambda v: v.nextafter(v - 1), torch.neg])
@pytest.mark.parametrize("entry", [0, 13, -1])
def test_one_changed_value_factorizes_again(change, entry, splu, system):
    """In every place: the sampled entries pick a bucket only."""
    values, pattern, b = system
    solve(sps.SparseMatrix(values, pattern), b)
    changed = values.clone()
    changed[entry] = change(values[entry])
    solve(sps.SparseMatrix(changed, pattern), b)
    assert len(splu) == 2


def test_negative_zero_is_another_value(splu):
    values, pattern = SYSTEMS["stored zeros"](F64)
    b = torch.randn(9, dtype=F64)
    solve(sps.SparseMatrix(values, pattern), b)
    assert (values == 0).any()
    solve(sps.SparseMatrix(torch.where(values == 0, -0.0, values), pattern), b)
    assert len(splu) == 2


def test_same_values_on_another_pattern(splu, system):
    values, pattern, b = system
    adjoint, _ = pattern.adjoint()
    ones = torch.ones_like(values) + torch.where(pattern.rows() == pattern.col, 9, 0)
    solve(sps.SparseMatrix(ones, pattern), b)
    x = solve(sps.SparseMatrix(ones, adjoint), b)
    torch.testing.assert_close(x, oracle.solve(ones, adjoint, b))
    assert len(splu) == 2


def test_same_bits_in_another_dtype(splu):
    """Two float32 numbers have the bits of one complex64."""
    pattern = sps.Pattern(torch.tensor([0, 1, 2]), torch.tensor([0, 1]), (2, 2))
    z = torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex64)
    w = torch.view_as_real(z).reshape(-1).view(F64).clone()
    b = torch.ones(2, dtype=torch.complex64)
    torch.testing.assert_close(solve(sps.SparseMatrix(z, pattern), b), b / z)
    solve(sps.SparseMatrix(w, pattern), torch.ones(2, dtype=F64))
    assert len(splu) == 2


def test_in_place_change_is_noticed(splu, system):
    values, pattern, b = system
    A = sps.SparseMatrix(values, pattern)
    solve(A, b)
    with torch.no_grad():
        values.mul_(2)
    torch.testing.assert_close(solve(A, b), oracle.solve(values, pattern, b))
    assert len(splu) == 2


def test_in_place_change_behind_torchs_back(system):
    """NumPy bumps no version counter."""
    values, pattern, b = system
    A = sps.SparseMatrix(values, pattern)
    solve(A, b)
    values.numpy()[3] += 1
    torch.testing.assert_close(solve(A, b), oracle.solve(values, pattern, b))


def test_in_place_change_of_the_pattern(system):
    _, _, b = system
    col = torch.arange(N)
    pattern = sps.Pattern(torch.arange(N + 1), col, (N, N))
    v = torch.arange(1.0, N + 1, dtype=F64)
    solve(sps.SparseMatrix(v, pattern), b)
    col.copy_(torch.arange(N).flip(0))
    torch.testing.assert_close(solve(sps.SparseMatrix(v, pattern), b), (b / v).flip(0))


def test_int32_and_int64_patterns_share_no_mistakes(splu, system):
    values, pattern, b = system
    x, y = (solve(sps.SparseMatrix(values, with_indices(pattern, i)), b) for i in (torch.int32, torch.int64))
    assert torch.equal(x, y)


def test_a_singular_matrix_is_factorized_once_and_the_error_comes_again(splu):
    values, pattern = SINGULAR["grid graph"][0](F64)
    for i in range(2):
        with pytest.raises(sps.SingularMatrixError, match="linearly dependent"):
            solve(sps.SparseMatrix(values, pattern), torch.ones(72, dtype=F64))
        assert len(splu) == 2 + (
            1 + i
        )  # the second with partial pivoting; one for each error, to say which unknowns it is
    shifted = torch.where(pattern.rows() == pattern.col, values + 1, values)
    torch.testing.assert_close(
        solve(sps.SparseMatrix(shifted, pattern), torch.ones(72, dtype=F64)), torch.ones(72, dtype=F64)
    )


# ---- bounds


def run(values, pattern, b):
    """Two matrices, their gradients and adjoint solves, in turns."""
    out = []
    for scale in (1.0, 2.0, 1.0, 3.0, 2.0):
        v = (scale * values).clone().requires_grad_()
        x = solve(sps.SparseMatrix(v, pattern), b)
        out += [x.detach(), torch.autograd.grad(x.square().sum(), v)[0]]
    return out


@pytest.mark.parametrize("limit", [0, 1, 4, 100, 20_000])
def test_results_do_not_depend_on_the_limit(limit, system):
    expected = run(*system)
    sps.clear_memo()
    sps.set_memo_limit(limit)
    for got, wanted in zip(run(*system), expected, strict=True):
        assert torch.equal(got, wanted)


def test_limit_zero_keeps_nothing(splu, system):
    values, pattern, b = system
    sps.set_memo_limit(0)
    for _ in range(3):
        solve(sps.SparseMatrix(values, pattern), b)
    assert len(splu) == 3
    info = sps.memo_info()
    assert (info.entries, info.nbytes, info.max_bytes) == (0, 0, 0)


def test_newest_is_kept_for_its_gradient_however_large(splu, system):
    values, pattern, b = system
    sps.set_memo_limit(4)  # one byte for analyses, three for factorizations
    values.requires_grad_()
    solve(sps.SparseMatrix(values, pattern), b).sum().backward()
    assert len(splu) == 1
    assert sps.memo_info().entries == 1


def test_limit_is_respected_and_the_least_recently_used_goes(splu, system):
    values, pattern, b = system
    scaled = lambda scale: solve(sps.SparseMatrix(scale * values, pattern), b)  # noqa: E731
    scaled(1)
    alone = sps.memo_info().nbytes
    one = sum(e.nbytes for e in sps.memo.FACTORS._entries.values())
    assert 0 < one < alone
    sps.set_memo_limit(4 * (4 * one))  # a quarter is for analyses, so there is room for 12
    for scale in range(2, 40):
        scaled(scale)
        assert sps.memo_info().nbytes <= sps.memo_info().max_bytes
        scaled(1)
    assert 2 < sps.memo_info().entries <= 12
    assert len(splu) == 39  # scaled(1) was used each time and never left
    scaled(2)
    assert len(splu) == 40
    sps.set_memo_limit(0)
    assert sps.memo_info().nbytes == 0


def test_negative_limit():
    with pytest.raises(ValueError, match="max_bytes is -1"):
        sps.set_memo_limit(-1)
    with pytest.raises(TypeError, match=r"max_bytes is 1000000000\.0; a whole number is needed.*int\(1e9\)"):
        sps.set_memo_limit(1e9)


def test_estimated_bytes_are_not_fewer_than_the_factors_numbers(splu):
    values, pattern = SYSTEMS["Poisson 3-D"](C128)
    solve(sps.SparseMatrix(values, pattern), torch.ones(27, dtype=C128))
    lu = sla.splu(splu[0])
    assert sps.memo_info().nbytes > lu.nnz / 4 * 16 + 2 * values.nbytes


def test_clear(splu, system):
    values, pattern, b = system
    for _ in range(2):
        solve(sps.SparseMatrix(values, pattern), b)
        sps.clear_memo()
        assert sps.memo_info()[:6] == (0, 0, 0, 0, 0, 0)
    assert len(splu) == 2


# ---- what a gradient goes on from


def test_a_gradient_looks_for_nothing(system):
    """It uses again what the forward found, and that counts as a hit."""
    values, pattern, b = system
    sps.clear_memo()
    x = solve(sps.SparseMatrix(values.clone().requires_grad_(), pattern), b)
    x.sum().backward()
    found = sps.memo_info()
    assert (found.factorizations, found.factor_hits, found.analyses, found.analysis_hits) == (1, 1, 1, 0)


def test_a_gradient_after_the_memo_was_emptied(splu, system):
    values, pattern, b = system
    v = values.clone().requires_grad_()
    x = solve(sps.SparseMatrix(v, pattern), b)
    sps.clear_memo()
    (got,) = torch.autograd.grad(x.sum(), v)
    w = values.clone().requires_grad_()
    torch.testing.assert_close(got, torch.autograd.grad(oracle.solve(w, pattern, b).sum(), w)[0])
    assert len(splu) == 2


def test_a_graph_holds_no_factorization(system):
    """The memo's bound is a bound, however many graphs are alive."""
    values, pattern, b = system
    x = solve(sps.SparseMatrix(values.clone().requires_grad_(), pattern), b)
    memos = remembered.FACTORS, remembered.ANALYSES
    factor, analysis = [weakref.ref(entry.value) for memo in memos for entry in memo._entries.values()]
    assert factor() is not None
    assert analysis() is not None
    sps.clear_memo()
    assert factor() is None
    gc.collect()  # an analysis without duplicates knows itself
    assert analysis() is None
    x.sum().backward()


def test_a_change_behind_torchs_back_before_the_gradient(system):
    """NumPy bumps no version counter; the gradient is still that of what was solved."""
    values, pattern, b = system
    v = values.clone().requires_grad_()
    x = solve(sps.SparseMatrix(v, pattern), b)
    v.detach().numpy()[3] += 1
    (got,) = torch.autograd.grad(x.sum(), v)
    w = values.clone().requires_grad_()
    torch.testing.assert_close(got, torch.autograd.grad(oracle.solve(w, pattern, b).sum(), w)[0])


def test_other_entries_between_a_solve_and_its_gradient(splu, system):
    values, pattern, b = system
    vs = [(values * (1 + i)).requires_grad_() for i in range(3)]
    xs = [solve(sps.SparseMatrix(v, pattern), b) for v in vs]
    for x, v in zip(xs, vs, strict=True):
        (got,) = torch.autograd.grad(x.sum(), v)
        torch.testing.assert_close(got, torch.autograd.grad(oracle.solve(v, pattern, b).sum(), v)[0])
    assert len(splu) == 3
    newest = [entry.value._values for entry in remembered.FACTORS._entries.values()]
    np.testing.assert_array_equal(newest[-1], vs[-1].detach().numpy())
    assert remembered.FACTORS._newest.value._values is newest[-1]


def test_an_entry_that_was_let_go_of_is_not_used_again():
    """Though somebody still has it, as another thread may."""
    memo = Memo(10**6)
    entry = memo.entry("", (np.ones(3),), lambda a: 2 * a)
    assert memo.again(entry) is entry.value
    memo.get("", (np.zeros(3),), lambda a: a)
    assert memo.again(entry) is entry.value
    memo.clear()
    memo.get("", (np.zeros(3),), lambda a: a)
    assert memo.again(entry) is None
    assert (memo.made, memo.hits) == (1, 0)


def test_a_gradient_of_another_solver_goes_on_from_nothing(system):
    values, pattern, b = system
    sps.clear_memo()
    solve(sps.SparseMatrix(values, pattern), b)
    (entry,) = remembered.FACTORS._entries.values()
    found = Found(solve.keywords["solver"].key, weakref.ref(entry))
    assert found.solve(b.numpy()[:, None], "LU()", False) is None
    structure, x = found.solve(b.numpy()[:, None], solve.keywords["solver"].key, False)
    assert structure.shape == pattern.shape
    np.testing.assert_allclose(x[:, 0], oracle.solve(values, pattern, b))


def test_gradients_of_a_batch_of_factorizations(splu, system):
    """Each matrix has its own; in one step they are found again one by one."""
    values, pattern, b = system
    v = torch.stack([values, 2 * values]).requires_grad_()
    (got,) = torch.autograd.grad(solve(sps.SparseMatrix(v, pattern), b).square().sum(), v)
    w = v.detach().requires_grad_()
    torch.testing.assert_close(
        got, torch.autograd.grad(sum(oracle.solve(u, pattern, b).square().sum() for u in w), w)[0]
    )
    assert len(splu) == 2


def test_a_callable_is_called_every_time(system):
    values, pattern, b = system
    calls = []

    def solver(matrix, rhs):
        calls.append(1)
        return sla.spsolve(matrix.tocsc(), rhs)

    for _ in range(3):
        sps.solve(sps.SparseMatrix(values, pattern), b, solver)
    assert len(calls) == 3
    assert sps.memo_info().entries == 0


# ---- the class


class Thing:
    nbytes = 1000

    def __init__(self, *arrays):
        self.arrays = arrays


def test_memo_compares_bits():
    memo = Memo(10**6)
    a = np.array([1.0, np.nan, 0.0])
    first = memo.get("k", (a,), Thing)
    assert memo.get("k", (a.copy(),), Thing) is first
    assert memo.get("other", (a,), Thing) is not first
    assert memo.get("k", (np.array([1.0, np.nan, -0.0]),), Thing) is not first
    assert memo.get("k", (a[:2],), Thing) is not first
    a[0] = 2.0
    assert memo.get("k", (a,), Thing) is not first
    assert (memo.made, memo.hits) == (5, 1)


def test_memo_finds_changes_between_the_samples():
    memo, a = Memo(10**6), np.arange(1000.0)
    first = memo.get("k", (a,), Thing)
    for i in range(1000):
        b = a.copy()
        b[i] += 0.5
        assert memo.get("k", (b,), Thing) is not first


def test_memo_forgets_a_failure():
    memo = Memo(10**6)

    def fail(a):
        raise KeyError("x")

    for _ in range(2):
        with pytest.raises(KeyError):
            memo.get("k", (np.zeros(2),), fail)
        assert len(memo) == 0
    assert isinstance(memo.get("k", (np.zeros(2),), Thing), Thing)
    assert memo.made == 1


ENTRY = 1000 + 8 + remembered._OVERHEAD


def test_memo_order_of_leaving():
    memo = Memo(3 * ENTRY + 500)
    a, b, c, d = (np.full(1, float(i)) for i in range(4))
    things = [memo.get("k", (x,), Thing) for x in (a, b, c)]
    assert memo.get("k", (a,), Thing) is things[0]
    memo.get("k", (d,), Thing)  # b leaves
    assert memo.get("k", (a,), Thing) is things[0]
    assert memo.get("k", (c,), Thing) is things[2]
    assert memo.get("k", (b,), Thing) is not things[1]
    assert memo.nbytes == 3 * ENTRY


def test_concurrent_gets_of_one_key_make_it_once():
    memo, made, barrier = Memo(10**6), [], threading.Barrier(8)
    got = []

    def make(a):
        time.sleep(0.05)
        made.append(1)
        return Thing()

    def work():
        barrier.wait()
        got.append(memo.get("k", (np.arange(5.0),), make))

    threads = [threading.Thread(target=work) for _ in range(8)]
    [t.start() for t in threads]
    [t.join(10) for t in threads]
    assert len(made) == 1
    assert len(got) == 8
    assert len(set(map(id, got))) == 1
    assert memo.hits == 7


def test_concurrent_gets_of_different_keys_do_not_wait_for_each_other():
    memo, both = Memo(10**6), threading.Barrier(2, timeout=10)
    threads = [
        threading.Thread(target=memo.get, args=(i, (np.zeros(1),), lambda a: (both.wait(), Thing())[1]))
        for i in range(2)
    ]
    [t.start() for t in threads]
    [t.join(10) for t in threads]
    assert memo.made == 2


def test_a_waiting_thread_makes_what_the_first_failed_to_make():
    memo, started, got = Memo(10**6), threading.Event(), []

    def fail(a):
        started.set()
        time.sleep(0.05)
        raise KeyError("x")

    def first():
        with pytest.raises(KeyError):
            memo.get("k", (np.zeros(1),), fail)

    threads = [threading.Thread(target=first)]
    threads[0].start()
    started.wait(10)
    threads.append(threading.Thread(target=lambda: got.append(memo.get("k", (np.zeros(1),), Thing))))
    threads[1].start()
    [t.join(10) for t in threads]
    assert len(got) == 1
    assert memo.made == 1


def test_clear_while_one_is_being_made():
    memo, started, go, got = Memo(10**6), threading.Event(), threading.Event(), []

    def make(a):
        started.set()
        go.wait(10)
        return Thing()

    thread = threading.Thread(target=lambda: got.append(memo.get("k", (np.zeros(1),), make)))
    thread.start()
    started.wait(10)
    memo.clear()
    go.set()
    thread.join(10)
    assert len(got) == 1
    assert (len(memo), memo.nbytes) == (0, 0)


def test_many_matrices_that_differ_in_one_entry_do_not_share_a_hash():
    """Else each lookup compares with all of them."""
    values = np.ones(5000)
    hashes = set()
    for e in range(1, 200):
        values[e] += 1.0
        hashes.add(hash(ArrayKey("one", (values,), True)))
    assert len(hashes) == 199


def test_a_small_entry_is_charged_for_its_objects():
    memo = Memo(10**6)
    for i in range(300):
        memo.get("k", (np.array([float(i)]),), lambda a: object())
    assert len(memo) <= 10**6 // 8192


def test_a_failed_or_interrupted_make_leaves_nothing_locked():
    memo, key = Memo(10**6), (np.ones(3),)

    def interrupted(a):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        memo.get("k", key, interrupted)
    assert memo.get("k", key, lambda a: "made") == "made"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_while_a_thread_factorizes_is_not_stuck():
    remembered.ANALYSES.clear()
    started, release = threading.Event(), threading.Event()

    def slow(a) -> str:
        started.set()
        release.wait(20)
        return "parent"

    thread = threading.Thread(target=lambda: remembered.FACTORS.get("slow", (np.ones(3),), slow))
    thread.start()
    started.wait(20)
    child = os.fork()
    if child == 0:  # the child has no such thread; it must make the value itself
        os._exit(0 if remembered.FACTORS.get("slow", (np.ones(3),), lambda a: "child") == "child" else 1)
    release.set()
    thread.join()
    assert ended(child) == 0


def ended(child: int) -> int:
    """The code with which a child ends; it is killed where it hangs."""
    deadline = time.monotonic() + 20
    while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    if done[0] == 0:
        os.kill(child, signal.SIGKILL)
        done = os.waitpid(child, 0)
    return done[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    "whose", [remembered.ANALYSES, remembered.FACTORS, tickets], ids=["analyses", "factors", "tickets"]
)
def test_a_child_forked_while_a_thread_holds_a_lock_is_not_stuck(whose):
    """The thread that would let go of it does not exist there."""
    values, pattern = SYSTEMS["Poisson 2-D"](F64)
    A, b = sps.SparseMatrix(values, pattern), torch.ones(pattern.shape[0], dtype=F64)
    callable = lambda M, r: sla.spsolve(M.tocsc(), r)  # noqa: E731
    with whose._lock:
        before, child = tickets._process, os.fork()
        if child == 0:
            right = torch.allclose(A @ sps.solve(A, b, callable), b) and torch.allclose(A @ sps.solve(A, b), b)
            os._exit(0 if right and tickets._process != before else 1)
    assert ended(child) == 0


@pytest.mark.parametrize("limit", [float("nan"), float("inf"), "1"])
def test_the_limit_is_a_whole_number(limit):
    with pytest.raises(TypeError):
        sps.set_memo_limit(limit)


@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("name", ["Poisson 2-D", "convection-diffusion", "saddle point", "duplicates", "permuted"])
def test_new_values_on_an_old_pattern_use_its_ordering(name, dtype, monkeypatch):
    """Only the first factorization looks for one; the others are right all the same, for A and for its adjoint."""
    values, pattern = SYSTEMS[name](dtype)
    found, true = [], sla.splu
    monkeypatch.setattr(sla, "splu", lambda *a, **k: found.append(k["permc_spec"]) or true(*a, **k))
    B = torch.randn(pattern.shape[0], 20, dtype=dtype)
    for scale in (1.0, 2.0, 3.0):
        v = values * (scale + 0.1 * torch.rand(values.shape, dtype=F64))
        for adjoint in (False, True):
            for b in (B, B[:, 0]):
                x = solve(sps.SparseMatrix(v, pattern), b, adjoint=adjoint)
                torch.testing.assert_close(x, oracle.solve(v, pattern, b, adjoint), rtol=1e-7, atol=1e-7)
    assert found[0] != "NATURAL"
    assert found[1:] == ["NATURAL", "NATURAL"]


def test_a_hit_compares_the_arrays_once():
    """And what is let go of for its memory is made again, with the counts going on."""
    memo, compared = Memo(2**20), []

    class Counted(np.ndarray):
        def __eq__(self, other):
            compared.append(1)
            return np.asarray(self) == np.asarray(other)

    a = np.arange(10_000.0).view(Counted)
    memo.get("", (a,), lambda a: 1)
    compared.clear()
    assert memo.get("", (a,), lambda a: 2) == 1
    assert len(compared) == 1
    memo.release()
    assert (memo.made, memo.hits, memo.nbytes, len(memo)) == (1, 1, 0, 0)
    assert memo.get("", (a,), lambda a: 2) == 2
