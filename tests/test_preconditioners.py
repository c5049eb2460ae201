"""The preconditioners: each `M⁻¹` against its dense formula, its adjoint, definiteness, use, and what it refuses."""

from __future__ import annotations

import contextlib
import io
import math
import pickle
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla
import torch
from torch.func import vmap

import sparsolve as sps
from sparsolve import CG, GMRES, Pattern, SparseMatrix, solve, tickets
from sparsolve.backends import host
from sparsolve.backends.preconditioners import Preconditioner, build
from sparsolve.errors import BackendUnavailableError, SingularMatrixError, SolveError
from sparsolve.preconditioner_records import (
    AMG,
    ILU,
    BlockJacobi,
    Jacobi,
    PreconditionerRecord,
    SymmetricGaussSeidel,
)
from systems import DTYPES, convection_diffusion, entries, hermitian, made, poisson, saddle_point

RECORDS = {
    "jacobi": Jacobi(),
    "blocks": BlockJacobi(size=3),
    "ilu": ILU(drop_tol=1e-2, fill_factor=2.0),
    "sgs": SymmetricGaussSeidel(),
    "aggregation": AMG(),
    "ruge_stuben": AMG(method="ruge_stuben"),
}
each_record = pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS.keys())
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_side = pytest.mark.parametrize("adjoint", [False, True])


@pytest.fixture(autouse=True)
def needs_pyamg(request: pytest.FixtureRequest) -> None:
    spec = getattr(request.node, "callspec", None)
    if spec is not None and isinstance(spec.params.get("record"), AMG):
        pytest.importorskip("pyamg")


def prepared(
    record: PreconditionerRecord, M: Any, dtype=torch.float64, phases: bool = True
) -> tuple[Preconditioner, Any]:
    """The preconditioner of a SciPy matrix, and the dense matrix itself; skips a combination that is refused."""
    if dtype.is_complex and record == AMG(method="ruge_stuben"):
        pytest.skip("real only")
    values, pattern = made(M, dtype, phases)
    structure = host.structure_of(pattern.crow, pattern.col, pattern.shape)
    given = values.numpy().copy()
    made_of = build(record, structure, values.numpy())
    np.testing.assert_array_equal(values.numpy(), given)
    return made_of, structure.csc(values.numpy()).toarray()


def unsymmetric(m: int = 5) -> Any:
    values, pattern = convection_diffusion(torch.float64, m)
    return sp.csr_matrix((values.numpy(), pattern.col.numpy(), pattern.crow.numpy()), shape=pattern.shape)


def dense(M: Preconditioner, A: Any, adjoint: bool = False) -> Any:
    """`M⁻¹` column by column, all at once."""
    unit = np.array(0.6 + 0.8j if A.dtype.kind == "c" else 1, dtype=A.dtype)  # a map that conjugates is not linear
    return M.apply(unit * np.eye(len(A), dtype=A.dtype), adjoint=adjoint) / unit


def close(x: Any, y: Any) -> None:
    assert x.dtype == y.dtype
    np.testing.assert_allclose(x, y, atol=2e3 * np.finfo(x.dtype).eps * np.abs(y).max(), rtol=0)


# ---- the dense formulas


def blocks_of(A: Any, size: int) -> Any:
    row = np.arange(len(A)) // size
    return np.linalg.inv(np.where(row[:, None] == row, A, 0))


def sweep(A: Any) -> Any:
    return np.linalg.inv(np.triu(A)) @ np.diag(np.diag(A)) @ np.linalg.inv(np.tril(A))


FORMULAS: dict[str, tuple[PreconditionerRecord, Callable[[Any], Any]]] = {
    "jacobi": (Jacobi(), lambda A: np.diag(1 / np.diag(A))),
    "blocks of one": (BlockJacobi(size=1), lambda A: np.diag(1 / np.diag(A))),
    "blocks that do not divide n": (BlockJacobi(size=3), lambda A: blocks_of(A, 3)),
    "blocks that divide n": (BlockJacobi(size=5), lambda A: blocks_of(A, 5)),
    "one block": (BlockJacobi(size=1000), np.linalg.inv),
    "sgs": (SymmetricGaussSeidel(), sweep),
    "complete lu": (ILU(drop_tol=0, fill_factor=1000), np.linalg.inv),
}


@each_dtype
@each_side
@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name: str, dtype: torch.dtype, adjoint: bool) -> None:
    record, formula = FORMULAS[name]
    M, A = prepared(record, unsymmetric(), dtype)
    expected = formula(A)
    close(dense(M, A, adjoint), expected.conj().T if adjoint else expected)


@each_side
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_formula_of_two_levels(dtype: torch.dtype, adjoint: bool) -> None:
    pytest.importorskip("pyamg")
    M, A = prepared(AMG(), unsymmetric(7), dtype)
    fine, *coarse = M._levels  # type: ignore[attr-defined]
    assert len(coarse) == 1
    P, R, one = fine.P.toarray(), fine.R.toarray(), np.eye(len(A))
    smooth = one - sweep(A) @ A
    error = smooth @ (one - P @ np.linalg.inv(R @ A @ P) @ R @ A) @ smooth
    expected = (one - error) @ np.linalg.inv(A)
    close(dense(M, A, adjoint), (expected.conj().T if adjoint else expected).astype(A.dtype))


@each_record
def test_many_columns_of_any_layout(record: PreconditionerRecord) -> None:
    M, A = prepared(record, unsymmetric(), torch.float64)
    whole = dense(M, A)
    r = np.random.default_rng(0).standard_normal((37, len(A)))
    given = r.copy()
    for view in (r.T, r.T[:, ::2], r.T[:, :1], r.T.copy()):
        view.setflags(write=False)
        x = M.apply(view, adjoint=False)
        assert x.shape == view.shape
        close(x, whole @ view)
    np.testing.assert_array_equal(r, given)


def test_duplicates_are_added_up() -> None:
    structure = host.Structure(np.array([0, 3, 4]), np.array([0, 0, 1, 1]), (2, 2))
    M = build(Jacobi(), structure, np.array([1.0, 3.0, 7.0, 2.0]))
    np.testing.assert_array_equal(dense(M, np.eye(2)), np.diag([0.25, 0.5]))


# ---- laws


@each_record
@each_dtype
def test_adjoint_identity(record: PreconditionerRecord, dtype: torch.dtype) -> None:
    """`⟨u, M⁻¹ v⟩ = ⟨M⁻ᴴ u, v⟩`, unsymmetric and, of three levels, for multigrid."""
    M, A = prepared(record, unsymmetric(11), dtype)
    close(dense(M, A, adjoint=True), dense(M, A).conj().T)


@each_record
@each_dtype
def test_hermitian_positive_definite(record: PreconditionerRecord, dtype: torch.dtype) -> None:
    values, pattern = hermitian(dtype)
    A = sp.csr_matrix((values.numpy(), pattern.col.numpy(), pattern.crow.numpy()), shape=pattern.shape)
    phase = sp.diags(np.exp(1j * np.arange(121)) if dtype.is_complex else np.ones(121))
    for H in (A, phase @ poisson(11, 11) @ phase.conj()):
        if not record.hermitian or (dtype.is_complex and record == AMG(method="ruge_stuben")):
            continue
        coo = H.tocoo()
        structure = host.Structure(H.tocsr().indptr, H.tocsr().indices, coo.shape)
        M = build(record, structure, H.tocsr().data.astype(values.numpy().dtype))
        inverse = dense(M, np.empty(coo.shape, values.numpy().dtype))
        close(inverse, inverse.conj().T)
        assert np.linalg.eigvalsh(inverse).min() > 0


@each_record
def test_the_same_every_time(record: PreconditionerRecord) -> None:
    """And the random numbers of the user are left alone."""
    np.random.seed(0)
    before = np.random.get_state()[1]
    first, second = (dense(*prepared(record, unsymmetric(11))) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(before, np.random.get_state()[1])
    assert prepared(record, unsymmetric())[0].nbytes > 0


# ---- use


def iterations(method: Any, A: Any, M: Preconditioner | None, adjoint: bool = False) -> int:
    count = 0

    def step(_: Any) -> None:
        nonlocal count
        count += 1

    n = A.shape[0]
    inverse = M and sla.LinearOperator(
        A.shape, dtype=A.dtype, matvec=lambda r: M.apply(r.reshape(n, 1), adjoint=adjoint).ravel()
    )
    extra = {"callback_type": "pr_norm", "restart": 40} if method is sla.gmres else {}
    b = np.random.default_rng(0).standard_normal(n)
    x, info = method(A, b, M=inverse, rtol=1e-8, maxiter=400, callback=step, **extra)
    assert info == 0
    assert np.linalg.norm(b - A @ x) < 1e-5 * np.linalg.norm(b)
    return count


@pytest.mark.parametrize(
    ("record", "most"),
    [(BlockJacobi(size=24), 0.9), (SymmetricGaussSeidel(), 0.5), (AMG(), 0.2), (AMG(method="ruge_stuben"), 0.2)],
    ids=lambda v: getattr(v, "key", ""),
)
def test_cg_needs_fewer_iterations_on_poisson(record: PreconditionerRecord, most: float) -> None:
    A = poisson(24, 24)
    assert iterations(sla.cg, A, prepared(record, A)[0]) <= most * iterations(sla.cg, A, None)


def test_cg_needs_fewer_iterations_where_rows_are_badly_scaled() -> None:
    scale = sp.diags(np.logspace(0, 1.5, 144))
    A = (scale @ poisson(12, 12) @ scale).tocsr()
    assert iterations(sla.cg, A, prepared(Jacobi(), A)[0]) <= 0.5 * iterations(sla.cg, A, None)


@each_side
@pytest.mark.parametrize("record", [ILU(), SymmetricGaussSeidel(), AMG()], ids=lambda r: r.key)
def test_gmres_needs_fewer_iterations_on_convection_diffusion(record: PreconditionerRecord, adjoint: bool) -> None:
    A = unsymmetric(24)
    M = prepared(record, A)[0]
    A = A.T.tocsr() if adjoint else A
    assert iterations(sla.gmres, A, M, adjoint) <= 0.4 * iterations(sla.gmres, A, None)


def test_ilu_pivots_where_the_diagonal_is_zero() -> None:
    values, pattern = saddle_point(torch.float64)
    A = sp.csr_matrix((values.numpy(), pattern.col.numpy(), pattern.crow.numpy()), shape=pattern.shape)
    M, matrix = prepared(ILU(drop_tol=0, fill_factor=100), A)
    close(dense(M, matrix), np.linalg.inv(matrix))


@each_record
def test_one_by_one(record: PreconditionerRecord) -> None:
    M, A = prepared(record, entries([0], [0], [-4.0], 1))
    close(dense(M, A), np.array([[-0.25]]))


@each_record
@pytest.mark.parametrize(("n", "k"), [(0, 1), (3, 0)])
def test_nothing_to_do(record: PreconditionerRecord, n: int, k: int) -> None:
    M = build(record, host.Structure(np.arange(n + 1), np.arange(n), (n, n)), np.ones(n))
    assert M.apply(np.ones((n, k)), adjoint=True).shape == (n, k)


# ---- what is refused


def test_amg_of_a_matrix_whose_coarse_form_overflows() -> None:
    """pyamg inverts it in its first cycle."""
    A = torch.eye(40) - torch.tril(torch.ones(40, 40), -1)
    A[:, -1] = 1
    with pytest.raises(SolveError, match="AMG could not coarsen A"):
        solve(SparseMatrix.from_torch(A.to_sparse_csr()), torch.ones(40), GMRES(preconditioner=AMG()))


@pytest.mark.parametrize("size", [1e-310, 1e-300, 1e300])
@pytest.mark.parametrize("record", [None, Jacobi(), ILU()], ids=str)
def test_numbers_at_the_ends_warn_of_nothing(record: PreconditionerRecord | None, size: float) -> None:
    values, pattern = torch.tensor([size, 1.0], dtype=torch.float64), Pattern(torch.arange(3), torch.arange(2), (2, 2))
    with contextlib.suppress(SolveError):
        x0 = torch.full((2,), 1e300, dtype=torch.float64)
        solve(SparseMatrix(values, pattern), torch.ones(2, dtype=torch.float64), GMRES(preconditioner=record), x0=x0)


@pytest.mark.parametrize("record", [Jacobi(), SymmetricGaussSeidel(), AMG()], ids=lambda r: r.key)
@pytest.mark.parametrize("stored", [True, False])
@each_dtype
def test_zero_on_the_diagonal(record: PreconditionerRecord, stored: bool, dtype: torch.dtype) -> None:
    row, col, v = [0, 1, 1, 2, 2, 2], [0, 0, 2, 1, 2, 1], [1.0, 1, 1, 1, 1, 0]
    A = entries([*row, 1] if stored else row, [*col, 1] if stored else col, [*v, 0] if stored else v, 3)
    with pytest.raises(SolveError, match=r"divides by the diagonal, and A\[1, 1\] is .* \(1 such rows\)"):
        prepared(record, A, dtype)


def test_a_diagonal_too_small_to_invert() -> None:
    with pytest.raises(SolveError, match=r"A\[1, 1\] is 1e-310"):
        prepared(Jacobi(), sp.diags([[1.0, 1e-310]], [0]))


@pytest.mark.parametrize("block", [[[1.0, 2], [2, 4]], [[1e-310, 0], [0, 1]]], ids=["singular", "tiny"])
def test_singular_block(block: Any) -> None:
    A = sp.block_diag([np.eye(2), block])
    with pytest.raises(SolveError, match="the one from row 2 on is singular"):
        prepared(BlockJacobi(size=2), A)


@pytest.mark.parametrize(
    "A",
    [entries([0, 1], [0, 0], [1.0, 1.0], 2), entries([0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1], 2)],
    ids=["column", "rank"],
)
def test_ilu_of_a_singular_matrix(A: Any) -> None:
    with pytest.raises(SingularMatrixError, match="ILU"):
        prepared(ILU(drop_tol=0), A)


@pytest.mark.parametrize("stored", [False, True], ids=["by its pattern", "by its zeros"])
def test_ilu_of_a_structurally_singular_matrix(stored: bool) -> None:
    """SuperLU is not asked: where it finds no number to divide by, it may write outside its memory."""
    row, col, v = [0, 0, 0, 1, 2], [0, 1, 2, 0, 0], [1.0, 2, 3, 4, 5]
    zeros = ([1, 2], [1, 2], [0.0, 0]) if stored else ([], [], [])
    A = entries(row + zeros[0], col + zeros[1], v + zeros[2], 3)
    with pytest.raises(SingularMatrixError, match=r"ILU has no pivot to choose\..*structural rank is 2 of 3"):
        prepared(ILU(), A)


def test_ilu_of_a_pivot_whose_reciprocal_overflows() -> None:
    with pytest.raises(SingularMatrixError, match="ILU found a factor that overflows"):
        prepared(ILU(), entries([0, 1], [0, 1], [1e-310, 1.0], 2))


@each_record
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite(record: PreconditionerRecord, bad: float) -> None:
    with pytest.raises(SolveError, match="not finite"):
        prepared(record, entries([0, 1], [0, 1], [1.0, bad], 2))


def test_ruge_stuben_is_real() -> None:
    pytest.importorskip("pyamg")
    structure = host.Structure(np.arange(3), np.arange(2), (2, 2))
    with pytest.raises(TypeError, match="smoothed_aggregation"):
        build(AMG(method="ruge_stuben"), structure, np.ones(2, complex))


def test_without_pyamg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyamg", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'sparsolve\[amg\]'"):
        prepared(AMG(), poisson(4))


def test_a_hierarchy_that_pyamg_cannot_build(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ValueError("no coarse points")

    monkeypatch.setattr(pytest.importorskip("pyamg"), "smoothed_aggregation_solver", fails)
    with pytest.raises(SolveError, match="could not coarsen A: no coarse points"):
        prepared(AMG(), poisson(4))


# ---- near-nullspaces


def elastic(m: int, dtype: torch.dtype = torch.float64) -> tuple[SparseMatrix, Any]:
    """Displacements of an m x m grid, held at its boundary, point by point; and its rigid body modes."""
    gallery = pytest.importorskip("pyamg").gallery
    A, modes = gallery.linear_elasticity((m, m))
    return SparseMatrix.from_scipy(A.tocsr().astype(str(dtype).split(".")[1])), modes


def steps(A: SparseMatrix, record: AMG) -> int:
    b = torch.ones(A.shape[0], dtype=A.dtype)
    return int(sps.solve_with_info(A, b, CG(rtol=1e-8, preconditioner=record)).info.iterations)


def test_rigid_body_modes() -> None:
    A, modes = elastic(40)
    with_modes = AMG(near_nullspace=torch.from_numpy(modes))
    assert steps(A, with_modes) < 15
    assert steps(A, with_modes) < steps(A, AMG()) / 2
    assert steps(A.to(torch.complex128), AMG(near_nullspace=modes + 0j)) < 15


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128], ids=str)
def test_the_adjoint_with_modes(dtype: torch.dtype) -> None:
    A, modes = elastic(7)
    skew = 1 + 0.1 * torch.sin(torch.arange(A.nnz, dtype=torch.float64))
    B = modes.astype(np.float32) if dtype is torch.float32 else modes * (1 + 0.5j)
    structure = host.structure_of(A.pattern.crow, A.pattern.col, A.shape)
    M = build(AMG(near_nullspace=B), structure, (A.values * skew).to(dtype).numpy())
    D = structure.csc((A.values * skew).to(dtype).numpy()).toarray()
    close(dense(M, D, True), dense(M, D).conj().T)


def test_modes_have_no_derivatives_and_are_copied() -> None:
    A, modes = elastic(8)
    B, b = torch.from_numpy(modes).requires_grad_(), torch.ones(A.shape[0], dtype=A.dtype)
    record = AMG(near_nullspace=B)
    expected = sps.solve(A, b)
    with torch.no_grad():
        B.zero_()
    f = lambda v: sps.solve(SparseMatrix(v, A.pattern), b, CG(rtol=1e-12, preconditioner=record)).sum()  # noqa: E731
    torch.testing.assert_close(f(A.values), expected.sum())
    dense_gradient = torch.func.grad(lambda v: sps.solve(SparseMatrix(v, A.pattern), b).sum())(A.values)
    torch.testing.assert_close(torch.func.grad(f)(A.values), dense_gradient, rtol=1e-8, atol=1e-8)


@pytest.mark.xfail(
    not tickets._DYNAMO_GUARDS_IDS, reason="before torch 2.13 Dynamo takes no vectors in a record", strict=True
)
def test_modes_in_compiled_code() -> None:
    A, modes = elastic(8)
    b, solver = torch.ones(A.shape[0], dtype=A.dtype), CG(rtol=1e-12, preconditioner=AMG(near_nullspace=modes))
    compiled = torch.compile(
        lambda v: sps.solve(SparseMatrix(v, A.pattern), b, solver), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(A.values), sps.solve(A, b))


def test_modes_that_are_equal() -> None:
    _, modes = elastic(4)
    one, same = AMG(near_nullspace=modes), AMG(near_nullspace=torch.from_numpy(modes.copy()))
    other = AMG(near_nullspace=2 * modes)
    assert (one == same, one == other, hash(one) == hash(same)) == (True, False, True)
    assert (one.key == same.key, one.key == other.key) == (True, False)
    assert repr(one) == "AMG(method='smoothed_aggregation', near_nullspace=Vectors(32 x 3, float64))"
    assert pickle.loads(pickle.dumps(one)) == one
    turned = modes[::-1].astype(">f8")
    assert AMG(near_nullspace=turned) == AMG(near_nullspace=np.ascontiguousarray(modes[::-1]))
    file = io.BytesIO()
    torch.save(CG(preconditioner=one), file)
    file.seek(0)
    assert torch.load(file) == CG(preconditioner=one)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: AMG(near_nullspace="rigid"), TypeError, "near_nullspace is a str; a dense tensor"),
        (lambda: AMG(near_nullspace=torch.ones(3, 2).long()), TypeError, "tensor of torch.int64"),
        (lambda: AMG(near_nullspace=torch.eye(3).to_sparse()), TypeError, "a torch.sparse_coo tensor"),
        (lambda: AMG(near_nullspace=torch.ones(2, 3, 1)), ValueError, r"has shape \(2, 3, 1\)"),
        (lambda: AMG(near_nullspace=torch.ones(3, 0)), ValueError, r"has shape \(3, 0\)"),
        (lambda: AMG(near_nullspace=torch.full((3,), torch.nan)), ValueError, "NaN or Inf"),
        (lambda: AMG(method="ruge_stuben", near_nullspace=torch.ones(3)), ValueError, "got a near_nullspace"),
        (
            lambda: vmap(lambda B: AMG(near_nullspace=B).method and B)(torch.ones(2, 3)),
            TypeError,
            "made inside of vmap",
        ),
        (lambda: steps(elastic(4)[0], AMG(near_nullspace=torch.ones(3))), ValueError, "A is 32 x 32"),
        (lambda: steps(elastic(4)[0], AMG(near_nullspace=1j * torch.ones(32))), TypeError, "complex, and A is real"),
    ],
)
def test_modes_that_are_refused(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


# ---- the records


KEYS = {
    "Jacobi()": Jacobi(),
    "BlockJacobi(size=4)": BlockJacobi(size=4),
    "ILU(drop_tol=0.0001, fill_factor=10.0)": ILU(),
    "ILU(drop_tol=0.0, fill_factor=20.0)": ILU(drop_tol=0, fill_factor=np.float64(20)),
    "SymmetricGaussSeidel()": SymmetricGaussSeidel(),
    "AMG(method='smoothed_aggregation', near_nullspace=None)": AMG(),
}


@pytest.mark.parametrize("key", KEYS)
def test_key(key: str) -> None:
    assert KEYS[key].key == key


def test_which_stay_hermitian() -> None:
    assert [r.hermitian for r in RECORDS.values()] == [True, True, False, True, True, True]
    assert not PreconditionerRecord.hermitian


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        (BlockJacobi, {"size": 0}),
        (BlockJacobi, {"size": 2.0}),
        (BlockJacobi, {"size": True}),
        (ILU, {"drop_tol": -1e-3}),
        (ILU, {"drop_tol": 1.5}),
        (ILU, {"drop_tol": math.nan}),
        (ILU, {"drop_tol": "1e-3"}),
        (ILU, {"drop_tol": True}),
        (ILU, {"drop_tol": np.bool_(True)}),
        (ILU, {"fill_factor": 10**400}),
        (ILU, {"fill_factor": 0.5}),
        (ILU, {"fill_factor": math.inf}),
        (AMG, {"method": "geometric"}),
    ],
)
def test_fields_that_are_refused(record: Any, fields: dict[str, Any]) -> None:
    ((field, value),) = fields.items()
    with pytest.raises(ValueError, match=rf"{record.__name__} got {field}={re.escape(repr(value))}\. It is .*\. Take "):
        record(**fields)


@pytest.mark.parametrize("number", [np.float32, np.float64, np.int64, torch.tensor], ids=lambda number: number.__name__)
def test_fields_may_be_numbers_of_other_kinds(number: Any) -> None:
    """A key is text, which only Python's own numbers have."""
    record = ILU(drop_tol=number(1), fill_factor=number(2))
    assert record.key == ILU(drop_tol=1.0, fill_factor=2.0).key == "ILU(drop_tol=1.0, fill_factor=2.0)"
    for whole in (np.int64(3), torch.tensor(3)):
        assert BlockJacobi(size=whole).key == "BlockJacobi(size=3)"


def test_a_record_is_made_inside_a_compiled_function() -> None:
    @torch.compile(fullgraph=True, backend="eager")
    def f(x: torch.Tensor) -> torch.Tensor:
        return x * len(ILU(drop_tol=1e-3).key) + len(BlockJacobi(size=3).key) + len(AMG().key)

    total = len(ILU(drop_tol=1e-3).key) + len(BlockJacobi(size=3).key) + len(AMG().key)
    assert f(torch.ones(())).item() == total
