"""Solves among the rest of what a training program has: what is lent and not kept, conversions inside of transforms, files, mixed precision."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vmap
from torch.utils.data import DataLoader

import sparsolve as sps

F64 = torch.float64
n = 6
M = sp.diags([1.0, 4.0, 0.5], [-1, 0, 1], shape=(n, n)).tocsr()


def matrix() -> sps.SparseMatrix:
    return sps.SparseMatrix.from_scipy(M).clone()


b = torch.arange(1.0, n + 1, dtype=F64)
INVERSE = torch.linalg.inv(torch.from_numpy(M.toarray()))
x = INVERSE @ b
TENSOR = matrix().to_torch()
COO = TENSOR.to_sparse_coo()
VALUES, PATTERN = matrix().values, matrix().pattern
OPTIONS = {"CSR M": INVERSE.to_sparse_csr(), "COO M": INVERSE.to_sparse_coo(), "dense M": INVERSE}
numpy_2_1 = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="NumPy has no writable arrays of DLPack before 2.1"
)


# ---- what is lent


@numpy_2_1
@pytest.mark.parametrize(
    "call",
    [
        lambda A, b: sps.solve(A, b),
        lambda A, b: sps.solve(A, b, sps.GMRES(preconditioner=sps.ILU())),
        lambda A, b: sps.solve(A, b, adjoint=True).sum().backward(),
        lambda A, b: sps.matmul(A, b),
        lambda A, b: sps.slogdet(A),
        lambda A, b: sps.sparse_solve_c4t(A.detach().to_torch(), b, solve="gmres", x0=b, M=torch.eye(n, dtype=F64)),
    ],
    ids=["solve", "iterative", "backward", "matmul", "slogdet", "c4t"],
)
def test_tensors_can_be_resized_afterwards(call: Callable[..., Any]) -> None:
    """As FSDP does with parameters: `Tensor.numpy` would forbid it for ever."""
    A, right = matrix().requires_grad_(), b.clone()
    call(A, right)
    assert right.untyped_storage().resizable()
    assert A.values.untyped_storage().resizable()
    right.resize_(2 * n)


def test_modules_of_one_matrix_are_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "examples")
    A, SparseSolve = matrix(), importlib.import_module("pattern_in_module").SparseSolve
    one, other = SparseSolve(A), SparseSolve(A)
    before = other(b)
    one.load_state_dict({"crow": A.pattern.crow + 0, "col": 0 * A.pattern.col, "values": 2 * A.values})
    assert torch.equal(other(b), before)
    assert torch.equal(sps.solve(A, b), before)


# ---- conversions and options inside of transforms and compiled code


CONVERSIONS: dict[str, Callable[[], Tensor]] = {
    "c2t_csr": lambda: sps.solve(sps.c2t_csr(M), b),
    "c2t_coo": lambda: sps.solve(sps.c2t_coo(M.tocoo()), b),
    "t2c_csr": lambda: sps.solve(sps.SparseMatrix.from_scipy(sps.t2c_csr(TENSOR)), b),
    "t2c_coo": lambda: sps.solve(sps.SparseMatrix.from_scipy(sps.t2c_coo(COO)), b),
    "to_scipy": lambda: sps.solve(sps.SparseMatrix.from_scipy(sps.SparseMatrix(VALUES, PATTERN).to_scipy()), b),
}


@pytest.mark.parametrize("name", CONVERSIONS)
@pytest.mark.parametrize("transform", ["grad", "jvp", "grad of grad", "vmap"])
def test_conversions_of_constants_inside_of_transforms(name: str, transform: str) -> None:
    f = lambda s: (s * CONVERSIONS[name]()).sum()  # noqa: E731
    s = torch.tensor(2.0, dtype=F64)
    found = {
        "grad": lambda: grad(f)(s),
        "jvp": lambda: jvp(f, (s,), (torch.ones_like(s),))[1],
        "grad of grad": lambda: grad(lambda s: grad(lambda t: f(t) * t)(s) / 4)(s) * 2,
        "vmap": lambda: vmap(f)(torch.ones(3, dtype=F64))[2],
    }[transform]()
    torch.testing.assert_close(found, x.sum())


@pytest.mark.parametrize("name", ["t2c_csr", "t2c_coo", "to_scipy"])
def test_conversions_break_a_graph(name: str) -> None:
    def call(s: Tensor) -> tuple[Tensor, Any]:
        A = sps.SparseMatrix(s * VALUES, PATTERN)
        y = sps.solve(A, b)
        convert = {
            "t2c_csr": lambda: sps.t2c_csr(TENSOR),
            "t2c_coo": lambda: sps.t2c_coo(COO),
            "to_scipy": lambda: A.to_scipy(),
        }
        return 2 * y, convert[name]()

    y, converted = torch.compile(call, backend="aot_eager")(torch.tensor(2.0, dtype=F64))
    torch.testing.assert_close(y, x)
    scale = 2 if name == "to_scipy" else 1
    np.testing.assert_allclose(converted.toarray(), scale * M.toarray())
    torch._dynamo.reset()


@pytest.mark.parametrize("options", ["x0", "x0 of the transform", *OPTIONS])
@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap", "grad of grad"])
def test_options_of_c4t_inside_of_transforms(options: str, transform: str) -> None:
    def f(s: Tensor) -> Tensor:
        given: dict[str, Tensor] = {"M": OPTIONS[options]} if options in OPTIONS else {"x0": 0.9 * x}
        if options == "x0 of the transform" and transform != "vmap":
            given = {"x0": s.detach() * x}
        return sps.sparse_solve_c4t(TENSOR, s * b, solve="gmres", rtol=1e-12, **given).sum()

    s = torch.tensor(2.0, dtype=F64)
    found = {
        "grad": lambda: grad(f)(s),
        "jvp": lambda: jvp(f, (s,), (torch.ones_like(s),))[1],
        "vmap": lambda: vmap(f)(torch.ones(3, dtype=F64))[2],
        "grad of grad": lambda: grad(lambda s: grad(lambda t: f(t) * t)(s) / 2)(s),
    }[transform]()
    torch.testing.assert_close(found, x.sum())


def test_batched_options_of_c4t_are_refused() -> None:
    with pytest.raises(TypeError, match="x0 is batched by vmap"):
        vmap(lambda x0: sps.sparse_solve_c4t(TENSOR, b, solve="cg", x0=x0))(torch.stack([b, b]))
    with pytest.raises(TypeError, match="M is batched by vmap"):
        vmap(lambda M: sps.sparse_solve_c4t(TENSOR, b, solve="cg", M=M))(torch.eye(n, dtype=F64).repeat(2, 1, 1))


# ---- mixed precision


def test_half_tensors_inside_of_autocast() -> None:
    A = matrix().float()
    half = sps.SparseMatrix(A.values.bfloat16(), A.pattern)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        right = b.bfloat16()
        for solve in ("gmres", "spsolve"):
            y = sps.sparse_solve_c4t(A.to_torch(), right, solve=solve)
            torch.testing.assert_close(y, x.float(), rtol=1e-4, atol=1e-4)
        y = sps.solve(A, right, sps.GMRES(preconditioner=sps.Factored(half)))
        torch.testing.assert_close(y, x.float(), rtol=1e-4, atol=1e-4)
        assert str(sps.explain(half)) == str(sps.explain(A))


# ---- files and batches


def test_results_and_records_in_files() -> None:
    solution = sps.solve_with_info(matrix(), b)
    held = {
        "solution": solution,
        "logdet": sps.slogdet(matrix()),
        "records": [
            sps.LU(),
            sps.Cholesky(),
            sps.CG(rtol=1e-9, preconditioner=sps.Jacobi()),
            sps.GMRES(preconditioner=sps.ILU(drop_tol=1e-3)),
            sps.MINRES(preconditioner=sps.AMG()),
            sps.BiCGStab(preconditioner=sps.BlockJacobi(size=2)),
            sps.CGS(preconditioner=sps.SymmetricGaussSeidel()),
        ],
        "status": [sps.Status.CONVERGED, sps.Strategy.DENSE],
    }
    file = io.BytesIO()
    torch.save(held, file)
    file.seek(0)
    found = torch.load(file)
    assert torch.equal(found["solution"].x, solution.x)
    assert torch.equal(found["solution"].info.status, solution.info.status)
    assert (found["records"], found["status"]) == (held["records"], held["status"])
    assert torch.equal(sps.solve(matrix(), b, found["records"][0]), solution.x)


def test_stacked() -> None:
    A = matrix().requires_grad_()
    items = [(s * A, s * b) for s in (1.0, 2.0, 3.0)]

    def collate(parts: Any) -> Any:
        matrices, sides = zip(*parts, strict=True)
        return sps.SparseMatrix.stack(matrices), torch.stack(sides)

    ((batch, sides),) = DataLoader(items, batch_size=3, collate_fn=collate)
    assert batch.values.shape == (3, A.nnz)
    found = sps.solve(batch, sides.unsqueeze(-1))
    torch.testing.assert_close(found.squeeze(-1), x.expand(3, -1))
    batch.values.sum().backward()
    assert torch.equal(A.values.grad, torch.full_like(A.values, 6.0))  # type: ignore[arg-type]


def test_what_cannot_be_stacked() -> None:
    with pytest.raises(ValueError, match=r"matrices\[1\] has another pattern"):
        sps.SparseMatrix.stack([matrix(), sps.SparseMatrix.from_diagonal(b)])
    A = matrix()
    with pytest.raises(ValueError, match=r"matrices\[1\] is a batch of shape \(2,\)"):
        sps.SparseMatrix.stack([A, sps.SparseMatrix(A.values.expand(2, -1), A.pattern)])
    with pytest.raises(TypeError, match=r"matrices\[1\] is a Tensor"):
        sps.SparseMatrix.stack([matrix(), b])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"matrices\[0\] is a tuple.*stack the matrices and the others one by one"):
        sps.SparseMatrix.stack([(matrix(), b)])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="no matrices"):
        sps.SparseMatrix.stack([])


def test_what_tensors_are_asked_too() -> None:
    A = matrix()
    assert (A.ndim, A.size(), A.size(0), A.requires_grad, A.is_complex()) == (2, torch.Size([n, n]), n, False, False)
    assert A.requires_grad_().requires_grad
    assert nn.Parameter(A.values).is_leaf


def test_explained_words_end_in_one_period() -> None:
    bad = M.copy()
    bad.indices = bad.indices + 1
    with pytest.raises(sps.PatternError) as caught:
        sps.c2t_csr(bad)
    assert ".." not in str(caught.value)
    assert "strides" not in str(caught.value)
