"""The optional direct solvers: one contract for all that are installed here, and what those say that are not."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import sparsolve as sps
from sparsolve.backends.decomposition import DecompositionError, NotPositive
from sparsolve.backends.host import Structure
from systems import DTYPES, SINGULAR, SYSTEMS, poisson

EXTRAS = {"pardiso": "mkl", "metis": "metis", "klu": "klu"}
MODULES = (*EXTRAS, "cholmod")
KINDS = ("general", "symmetric", "hermitian", "positive")
ONLY = {"cholmod": ("positive",)}  # kinds that a library serves, where not all
TOLERANCE = {"f": 2e-3, "F": 2e-3, "d": 1e-9, "D": 1e-9}  # before any refinement


def module(name: str) -> Any:
    """The module, or a skip with its own reason."""
    found = import_module(f"sparsolve.backends.{name}")
    reason = found.missing()
    if reason is not None:
        pytest.skip(reason)
    return found


each_module = pytest.mark.parametrize("name", MODULES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_module_and_kind = pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in MODULES for kind in ONLY.get(name, KINDS)]
)


def made(M: Any) -> tuple[Any, Structure]:
    """A canonical matrix and its structure, in memory that a solver cannot write to."""
    M = sp.csr_matrix(M)
    M.sum_duplicates()
    structure = Structure(M.indptr, M.indices, M.shape)
    A = structure.csc(M.data)
    A.data.setflags(write=False)
    return A, structure


def usual(name: str, *sizes: int) -> tuple[Any, Structure, str]:
    """A matrix that this library decomposes, unsymmetric if it can be, and its kind."""
    M = poisson(*sizes)
    if name in ONLY:
        return *made(M), ONLY[name][0]
    return *made(M + sp.diags([0.3], [1], shape=M.shape)), "general"


def system(name: str, dtype: torch.dtype, kind: str) -> tuple[Any, Structure]:
    """A gallery matrix, made symmetric, Hermitian or positive definite where the kind asks for it."""
    values, pattern = SYSTEMS[name](dtype)
    M = sp.csr_matrix((values.numpy(), pattern.col.numpy(), pattern.crow.numpy()), shape=pattern.shape)
    eye = sp.eye(M.shape[0], dtype=M.dtype) * abs(M).max()
    if kind == "symmetric":
        M = M + M.T
    elif kind == "hermitian":
        M = M + M.conj().T
    elif kind == "positive":
        M = M + M.conj().T + sp.diags(np.asarray(abs(M + M.conj().T).sum(axis=1)).ravel()) + 0.1 * eye
    return made(M.astype(values.numpy().dtype))


def right(A: Any, shape: tuple[int, ...], order: str = "C", seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    b = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    b = np.asarray(b if A.dtype.kind == "c" else b.real, dtype=A.dtype, order=order)
    b.setflags(write=False)
    return b


def transposed(A: Any, trans: str) -> Any:
    return {"N": A, "T": A.T, "H": A.conj().T}[trans]


def error(A: Any, x: Any, b: Any, trans: str = "N") -> float:
    """The normwise backward error, the largest over columns; NaN counts as infinite."""
    M = transposed(A, trans).astype("D")
    size = abs(M).sum(axis=1).max() * np.abs(x).max(axis=0) + np.abs(b).max(axis=0)
    found = float((np.abs(b - M @ x).max(axis=0) / size).max())
    return found if np.isfinite(found) else np.inf


def check(A: Any, factor: Any, tolerance: float | None = None) -> None:
    n = A.shape[0]
    for shape, order in (((n,), "C"), ((n, 1), "C"), ((n, 3), "C"), ((n, 3), "F"), ((n, 0), "C")):
        b = right(A, shape, order)
        before = b.copy()
        for trans in "NTH":
            x = factor.solve(b, trans)
            assert x.shape == b.shape
            assert x.dtype == A.dtype
            assert not np.shares_memory(x, b)
            if b.size:
                assert error(A, x, b, trans) <= (tolerance or TOLERANCE[A.dtype.char]), (shape, order, trans)
        np.testing.assert_array_equal(b, before)
    real = np.ones(n, dtype=A.real.dtype)
    for trans in "NTH":
        assert error(A, factor.solve(real, trans), real, trans) <= (tolerance or TOLERANCE[A.dtype.char])


# ---- the contract


@each_module_and_kind
@each_dtype
@pytest.mark.parametrize("system_name", SYSTEMS)
def test_contract(name: str, dtype: torch.dtype, kind: str, system_name: str) -> None:
    A, structure = system(system_name, dtype, kind)
    dense = A.toarray().astype("D")
    scaled = dense / np.maximum(np.abs(dense).max(axis=1, keepdims=True), 1e-300)
    if np.linalg.cond(scaled) > 0.01 / np.finfo(A.dtype).eps:
        assert kind != "general" or system_name == "badly scaled", "the gallery's own are regular"
        return
    before = A.data.copy()
    factor = module(name).decompose(A, structure, kind)
    assert 0 < factor.nbytes < 1e8
    check(A, factor)
    np.testing.assert_array_equal(A.data, before)


@each_module_and_kind
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_new_values_on_an_old_pattern(name: str, dtype: torch.dtype, kind: str) -> None:
    """More factors at a time than one analysis of PARDISO holds, all alive, each with its own answers."""
    decompose = module(name).decompose
    A, structure = system("Poisson 3-D", dtype, kind)
    matrices = [A * s for s in np.linspace(1, 3, 70)]
    factors = [decompose(M, structure, kind) for M in matrices]
    assert len(structure.found) == 1
    analysis = next(iter(structure.found.values()))
    for M, factor in zip(matrices[::7], factors[::7], strict=True):
        check(M, factor)
    again = decompose(matrices[0], structure, kind)
    assert next(iter(structure.found.values())) is analysis
    check(matrices[0], again)
    structure.found.clear()
    check(matrices[0], decompose(matrices[0], structure, kind))
    check(matrices[3], factors[3])  # what others do to the analysis does not matter


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ONLY])
def test_very_different_values_on_an_old_pattern(name: str) -> None:
    """Pivots, scaling and matching of the first values do not serve the others; after a fresh start refinement may assume them to."""
    decompose = module(name).decompose
    rng = np.random.default_rng(0)
    n = 60
    M = (sp.random(n, n, 0.05, random_state=rng) + sp.eye(n).tocsr()[rng.permutation(n)] + 1e-3 * sp.eye(n)).tocsr()
    A, structure = made(M)
    decompose(A, structure, "general")
    for _ in range(5):
        B = A.copy()
        B.data = rng.standard_normal(A.nnz) * 10.0 ** rng.uniform(-3, 3, A.nnz)
        structure.found.clear()
        check(B, decompose(B, structure, "general"), 1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_klu_uses_pivots_again_and_not_too_long(dtype: torch.dtype) -> None:
    """The copy of a factor takes new values; where its pivots have become tiny, new ones are chosen, and both stay right."""
    klu = module("klu")
    A, structure = system("circuit", dtype, "general")
    n = A.shape[0]
    first = klu.decompose(A, structure, "general")
    follows, again = klu.KLUDecomposition._follows, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(klu.KLUDecomposition, "_follows", lambda *a: again.append(follows(*a)) or again[-1])
        second = klu.decompose(A * 2, structure, "general")
        B = A.copy()
        B.data[:] = 1 + np.random.default_rng(0).random(A.nnz)
        B.data[np.flatnonzero(B.indices == np.repeat(np.arange(n), np.diff(B.indptr)))] = 1e-9
        third = klu.decompose(B, structure, "general")
        assert again == [True, False]
    for M, factor in ((A, first), (A * 2, second), (B, third)):
        check(M, factor, 1e-10)
    del first, second
    gc.collect()
    check(B, third, 1e-10)


@each_module
def test_threads(name: str) -> None:
    """One factor in four threads, and four factors of one pattern."""
    decompose = module(name).decompose
    A, structure, kind = usual(name, 12, 12)
    factor = decompose(A, structure, kind)
    rhs = [right(A, (144, 2), seed=seed) for seed in range(40)]
    expected = [factor.solve(b, trans) for b in rhs for trans in "NT"]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda job: factor.solve(*job), [(b, trans) for b in rhs for trans in "NT"]))
        for x, y in zip(got, expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)
        scales = np.linspace(1, 2, 40)
        many = list(pool.map(lambda s: decompose(A * s, structure, kind).solve(rhs[0], "N"), scales))
    for s, x in zip(scales, many, strict=True):
        np.testing.assert_allclose(x * s, expected[0], rtol=1e-10, atol=1e-12)


@each_module
def test_memory_is_released(name: str) -> None:
    """Of 200 factorizations: in use stays what a few of them need, whether their owner drops them at once or in a cycle."""
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    decompose = module(name).decompose
    A, structure, kind = usual(name, 14, 14, 14)
    factor = decompose(A, structure, kind)

    def resident() -> float:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def run(times: int) -> None:
        for i in range(times):
            B = A * (1 + i / times)
            if i % 10 == 0:
                structure.found.clear()
            cycle: list[Any] = [decompose(B, structure, kind)]
            cycle.append(cycle)
            if i % 10 == 0:
                gc.collect()

    run(40)
    before = resident()
    run(200)
    assert resident() - before < 25 * factor.nbytes
    check(A, factor)


def python(code: str) -> subprocess.CompletedProcess[str]:
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent / "src")])}
    code = textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)


PREAMBLE = """
import gc, os, signal, warnings
import torch
from importlib import import_module
from test_direct_backends import check, usual
M = import_module("sparsolve.backends.{name}")
torch.set_num_threads({threads})
A, structure, kind = usual("{name}", 20, 20, 20)
"""


@each_module
@pytest.mark.parametrize("threads", [1, 2])
def test_fork_and_exit(name: str, threads: int) -> None:
    """A child solves with its parent's factor, factorizes, drops what is not its own; the parent's stays right, and both end quietly."""
    module(name)
    code = """
    torch.randn(1000000).sin()  # starts torch's threads
    factor = M.decompose(A, structure, kind)
    check(A, factor)
    warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads is what is tested
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        check(A, factor)
        other = M.decompose(A * 2, structure, kind)
        check(A * 2, other)
        del factor, other, structure
        gc.collect()
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    check(A, factor)
    check(A * 3, M.decompose(A * 3, structure, kind))
    """
    done = python(PREAMBLE.format(name=name, threads=threads) + textwrap.dedent(code))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@each_module
def test_the_number_of_threads_may_change(name: str) -> None:
    """PARDISO crashes if it changes between its phases, so there it stays what it was."""
    module(name)
    code = """
    factor = M.decompose(A, structure, kind)
    for n in (1, 2, 3, 1, 2):
        torch.set_num_threads(n)
        check(A, factor)
        if n == 3:
            structure.found.clear()
        check(A * n, M.decompose(A * n, structure, kind))
        torch.linalg.solve(torch.eye(300) + 0.001, torch.ones(300))
    """
    done = python(PREAMBLE.format(name=name, threads=2) + textwrap.dedent(code))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("before", "outcome"),
    [
        ("", "None 2"),
        ("os.environ.update(MKL_THREADING_LAYER='TBB', MKL_INTERFACE_LAYER='ILP64')", "None 2"),
        ("set_layers(0, 0)", "None 1"),  # Intel's: one thread is safe
        ("set_layers(4, 0)", "TBB threads already"),
        ("set_layers(3, 1)", "64-bit integers already"),
    ],
)
def test_how_this_process_uses_mkl_already(before: str, outcome: str) -> None:
    """Environment variables are overruled; what cannot be changed is lived with, or said."""
    module("pardiso")
    code = f"""
    import ctypes, os
    import torch
    from sparsolve.backends import mkl
    from test_direct_backends import check, made, poisson
    torch.set_num_threads(2)
    def set_layers(threading, integers):
        place = next(mkl._places())
        if threading == 4:
            ctypes.CDLL(str(place.parent / "libtbb.so.12"), ctypes.RTLD_GLOBAL)
        library = ctypes.CDLL(str(place))
        library.MKL_Set_Threading_Layer(threading), library.MKL_Set_Interface_Layer(integers)
        library.MKL_Get_Max_Threads()
    {before}
    print(mkl.missing(), mkl.threads())
    if mkl.missing() is None:
        from sparsolve.backends.pardiso import decompose
        A, structure = made(poisson(20, 20, 20))
        check(A, decompose(A, structure, "general"))
    """
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")
    assert outcome in done.stdout


# ---- failures


def test_small_pivots_of_a_hermitian_matrix_are_no_crash() -> None:
    """MKL 2026.2 looks for another pivot in a row that it has not set, where the last one of a supernode is small."""
    module("pardiso")
    code = """
    import numpy as np
    from sparsolve.backends import pardiso
    from sparsolve.backends.host import Structure
    rng = np.random.default_rng(0)
    for n in 400 * [1, 2, 3]:
        A = rng.standard_normal((n, n)) + 1j * np.tril(rng.standard_normal((n, n)), -1)
        A = 10.0 ** rng.uniform(-16, 0) * (np.tril(A) + np.tril(A, -1).conj().T)
        structure = Structure(np.arange(0, n * n + 1, n), np.tile(np.arange(n), n), (n, n))
        pardiso.decompose(structure.csc(A.ravel()), structure, "hermitian")
    """
    assert python(code).returncode == 0


@each_module_and_kind
@pytest.mark.parametrize("singular", ["zero row", "zero matrix", "structural", "dependent rows", "grid graph"])
def test_a_singular_matrix_is_a_sentence_or_shows(name: str, singular: str, kind: str) -> None:
    """A plain error, or numbers that a caller can tell: perturbed pivots, a large residual, or a large solution."""
    decompose = module(name).decompose
    values, pattern = SINGULAR[singular][0](torch.float64)
    M = sp.csr_matrix((values.numpy(), pattern.col.numpy(), pattern.crow.numpy()), shape=pattern.shape)
    A, structure = made(M if kind == "general" else M.T @ M)
    try:
        factor = decompose(A, structure, kind)
    except DecompositionError as raised:
        assert str(raised)[0].isupper()  # noqa: PT017 - either outcome is right
        return
    b = right(A, (A.shape[0],))
    x = factor.solve(b, "N")
    assert getattr(factor, "perturbed", 0) or error(A, x, b) > 1e-6 or np.abs(x).max() > 1e8


@pytest.mark.parametrize("name", EXTRAS)
def test_a_singular_matrix_leaves_nothing_to_the_next(name: str, fresh: Any) -> None:
    """Its scaling and matching would be those of all later matrices on its pattern."""
    module(name)
    n, rng = 120, np.random.default_rng(0)
    i, zeros = torch.arange(n), torch.zeros(n - 1, dtype=torch.long)
    pattern, order = sps.Pattern.from_coo(torch.cat([i, zeros, i[1:]]), torch.cat([i, i[1:], zeros]), (n, n))

    def status(diagonal: float) -> int:
        values = torch.tensor(rng.standard_normal(3 * n - 2))
        values[:n] = diagonal + values[:n] if diagonal else 0
        A, b = sps.SparseMatrix(values[order], pattern), torch.ones(n, dtype=torch.float64)
        return int(sps.solve_with_info(A, b, sps.LU(backend=name)).info.status)

    assert [status(d) == sps.Status.CONVERGED for d in (0.0, 10.0, 0.0, 10.0)] == [False, True, False, True]


@each_module
@each_dtype
def test_not_positive(name: str, dtype: torch.dtype) -> None:
    """Says so where the library can tell, and the factors of other values on the same analysis stay right."""
    decompose = module(name).decompose
    A, structure = system("Poisson 2-D", dtype, "positive")
    first, second = decompose(A, structure, "positive"), decompose(A * 2, structure, "positive")
    if name in ("pardiso", "cholmod"):
        with pytest.raises(NotPositive, match="not positive"):
            decompose(-A, structure, "positive")
    check(A, first)
    check(A * 2, second)
    check(A * 3, decompose(A * 3, structure, "positive"))
    check(A, first)


@each_dtype
@pytest.mark.parametrize("name", MODULES)
def test_positive_matrices_of_any_size_of_numbers(name: str, dtype: torch.dtype) -> None:
    """MKL's Cholesky called numbers below 1e-18 negative."""
    decompose = module(name).decompose
    A, structure = system("Poisson 2-D", dtype, "positive")
    largest = 30 if A.real.dtype == np.float32 else 300
    for exponent in (-largest, -20, 20, largest):
        scaled = A * A.dtype.type(10.0**exponent)
        check(scaled, decompose(scaled, structure, "positive"))


# ---- without the library


@pytest.mark.parametrize("name", EXTRAS)
def test_the_reason_names_the_extra(name: str) -> None:
    """In a process where the library cannot be found."""
    code = f"""
    import ctypes, ctypes.util, importlib.metadata as metadata, os, sys
    from sparsolve.backends import {name}
    for key in ("MKLROOT", "CONDA_PREFIX"):
        os.environ.pop(key, None)
    def absent(*_):
        raise metadata.PackageNotFoundError
    def cannot(*_):
        raise OSError
    metadata.files, ctypes.CDLL, sys.prefix = absent, cannot, "/nowhere"
    sys.modules["pymetis"] = sys.modules["klujax_cpp"] = None
    print({name}.missing())
    assert {name}.missing() is {name}.missing()
    """
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f'pip install "sparsolve[{EXTRAS[name]}]" installs it.\n')


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("None", "scikit-sparse is not installed."),
        ("type(sys)('sksparse.cholmod')", "scikit-sparse is of a version that is not known."),
    ],
)
def test_cholmod_says_how_it_is_got(there: str, said: str) -> None:
    """No extra installs it."""
    code = f"""
    import sys
    sys.modules["sksparse"], sys.modules["sksparse.cholmod"] = type(sys)("sksparse"), {there}
    from sparsolve.backends import cholmod
    print(cholmod.missing())
    """
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(said)
    assert "conda install -c conda-forge scikit-sparse" in done.stdout


@pytest.mark.parametrize("kind", ["general", "symmetric", "hermitian"])
def test_cholmod_refuses_other_kinds(kind: str) -> None:
    A, structure = made(poisson(3, 3))
    with pytest.raises(DecompositionError, match="positive definite matrices only"):
        module("cholmod").decompose(A, structure, kind)
