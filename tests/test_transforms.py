"""`solve` and `matmul` under every composition of transforms, eager and compiled, against dense code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import oracle
import sparsolve as sps
from transforms import COMPOSITIONS, EAGER_ONLY, tensors

DTYPES = [torch.float64, torch.complex128]
SHAPES = [(), (2,)]
PAIRS = {"solve": (sps.solve, oracle.solve), "matmul": (sps.matmul, oracle.matmul)}


def case(name: str, dtype: torch.dtype, columns: tuple[int, ...], adjoint: bool) -> tuple[Any, Any, Any]:
    """`f(s, t)` through sparsolve, the same through dense code, and tensors to apply both to."""
    torch.manual_seed(3)
    D = torch.tensor([[4, 1, 0, 0], [0, 3, 2, 0], [1, 0, 5, 1], [0, 2, 0, 4]], dtype=dtype)
    D = torch.where(D != 0, D + 0.3 * torch.randn(4, 4, dtype=dtype), D)
    values, pattern = oracle.pattern_of(D)
    b = torch.randn(4, *columns, dtype=dtype)
    ours, dense = PAIRS[name]

    def real(x: Tensor) -> Tensor:
        x = torch.view_as_real(x) if x.is_complex() else x
        return x if name == "solve" else x.sin()  # a product alone has no third derivative

    def f(s: Tensor, t: Tensor) -> Tensor:
        return real(ours(sps.SparseMatrix(moved(values, s), pattern), moved(b, t), adjoint=adjoint))

    def g(s: Tensor, t: Tensor) -> Tensor:
        return real(dense(moved(values, s), pattern, moved(b, t), adjoint=adjoint))

    s = 0.1 * torch.randn(values.shape, dtype=torch.float64)
    t = 0.1 * torch.randn(b.shape, dtype=torch.float64)
    return f, g, tensors(s, t, g(s, t))


def moved(a: Tensor, by: Tensor) -> Tensor:
    """Added, not multiplied: torch cannot compile a nested jvp of the product with a constant."""
    return a + (torch.complex(by, by.flip(0)) if a.is_complex() else by)


def agree(compiled: Callable[..., Any], f: Any, g: Any, T: Any, transform: Callable[..., Any]) -> None:
    expected = transform(g, T)
    assert all(e.abs().max() > 1e-6 for e in torch.utils._pytree.tree_leaves(expected)), "the oracle shows nothing"
    torch.testing.assert_close(compiled(lambda: transform(f, T))(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")  # torch.func.linearize, of dense code too
@pytest.mark.parametrize("adjoint", [False, True], ids=["plain", "adjoint"])
@pytest.mark.parametrize("columns", SHAPES, ids=["vector", "matrix"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("transform", [*COMPOSITIONS, *EAGER_ONLY])
@pytest.mark.parametrize("name", PAIRS)
def test_eager(
    name: str,
    transform: str,
    dtype: torch.dtype,
    columns: tuple[int, ...],
    adjoint: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if transform == "linearize":  # torch traces it with whatever is in memory as tangents; a NaN there is an error here
        monkeypatch.setattr(Tensor, "new_empty", Tensor.new_zeros)
    f, g, T = case(name, dtype, columns, adjoint)
    agree(lambda call: call, f, g, T, {**COMPOSITIONS, **EAGER_ONLY}[transform])


OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12)
TORCH_2_11 = pytest.mark.xfail(
    OLD, strict=True, reason="torch 2.11 cannot compile jacfwd in two arguments, of dense code either"
)
COMPILED = [pytest.param(name, marks=TORCH_2_11 if name == "jacfwd_both" else ()) for name in COMPOSITIONS]


def aot(call: Callable[[], Any]) -> Callable[[], Any]:
    torch.compiler.reset()
    return torch.compile(call, fullgraph=True, backend="aot_eager")


@pytest.mark.parametrize("adjoint", [False, True], ids=["plain", "adjoint"])
@pytest.mark.parametrize("columns", SHAPES, ids=["vector", "matrix"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("transform", COMPILED)
def test_compiled(transform: str, dtype: torch.dtype, columns: tuple[int, ...], adjoint: bool) -> None:
    f, g, T = case("solve", dtype, columns, adjoint)
    agree(aot, f, g, T, COMPOSITIONS[transform])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("transform", COMPILED)
def test_compiled_matmul(transform: str, dtype: torch.dtype) -> None:
    f, g, T = case("matmul", dtype, (2,), True)
    agree(aot, f, g, T, COMPOSITIONS[transform])


INDUCTOR = [
    "value",
    "grad_both",
    "jvp_both",
    "jacrev_A",
    "hessian_A",
    "vjp_of_jvp",
    "vmap_both",
    "vmap_grad",
    "vmap_hvp",
    "grad_of_vmap",
]


def inductor(call: Callable[[], Any]) -> Callable[[], Any]:
    torch.compiler.reset()
    return torch.compile(call, fullgraph=True)


@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex operators")
@pytest.mark.filterwarnings("ignore:.torch._prims_common.check. is deprecated:FutureWarning")  # Inductor's own
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("transform", INDUCTOR)
def test_inductor(transform: str, dtype: torch.dtype) -> None:
    f, g, T = case("solve", dtype, (), dtype.is_complex)
    agree(inductor, f, g, T, COMPOSITIONS[transform])
