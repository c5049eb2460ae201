"""`sparse_solve_c4t`: solvers chosen by name, or two callables, one for `A` and one for its transpose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .backends import array_module
from .backends.named import OWN, ByIdentity, ByName
from .c4t_arguments import DIRECT, Selection, require_known, require_matrix, require_rhs
from .c4t_options import OWN_NAMES, checked_options
from .matrix import SparseMatrix
from .operands import uncast
from .pattern import unchecked
from .solve import solve as _solve
from .solvers import LU, Adapts, Function, Solver

__all__ = ["sparse_solve_c4t"]


def sparse_solve_c4t(
    A: Tensor, B: Tensor, solve: Selection = None, transpose_solve: Selection = None, **kwargs: Any
) -> Tensor:
    """Solve `A x = B` by a SciPy method chosen by name, or by callables; `transpose_solve` solves `Aᴴ y = g` for gradients.

    Args:
        A: `(n, n)` sparse COO or CSR tensor; float32, float64, complex64 or complex128.
        B: `(n,)`, or `(n, k)`, dense; the same dtypes.
        solve: None or `"spsolve"` (direct, one factorization, kept for later calls and derivatives); `"cg"` (Hermitian positive
            definite A), `"minres"` (Hermitian), `"cgs"`, `"gmres"` (any), each for one column; or a callable
            `solve(A, b, **kwargs) -> x`, which gets a SciPy CSR matrix and b of B's shape (`(n,)` for `(n, 1)` where the
            other side iterates), both of its own memory; on CUDA they are CuPy's.
        transpose_solve: the same for the transposed (complex: adjoint) system, which it is given; by default as `solve`.
        tol, rtol, atol: the iterative methods reach `‖b − A x‖ <= max(rtol ‖b‖, atol)` (1e-5 and 0 by default), computed
            in double, before x is rounded to its dtype; `tol` is another name of `rtol`. Where that is below 5e-13 ‖b‖, a residual
            that is rounding error is accepted. atol is in B's units, for `A x = B`; derivatives are relative to their own size
            (where rtol is 0, by atol, or 1e-12 if that is less).
        maxiter: as in SciPy; for gmres, restart cycles of `restart` steps (20 by default).
        M: an approximation of A⁻¹: array, sparse matrix, LinearOperator or tensor. For the transposed system cgs and gmres use its
            adjoint, if it has one.
        x0: a first guess. Where one is so large that rounding hides its residual, the method starts again from zero.
        callback: called with x after each step (gmres: with the relative preconditioned residual). The solves of derivatives use
            neither x0 nor callback.
        **kwargs: a callable gets all of them; for the transposed system all but x0, callback and M, for other derivatives
            all but x0 and callback. Direct methods ignore the names above.

    Returns:
        x: shape of B, dtype of A (its complex counterpart where only B is complex), device of A.

    Raises:
        ConvergenceError: an iterative method ended before the inequality held, here or in a derivative.
        SingularMatrixError: A is singular, for a direct method.
        SolveError: NaN or Inf, or an x beyond the range of its dtype.
        TypeError: layouts, dtypes, or keyword arguments that no chosen method knows.
        ValueError: shapes, names, tolerances; several columns with an iterative method.

    Transforms:
        Those of `sparsolve.solve`, for B and for the sparse tensor A; A's gradient is sparse, in its layout, on its pattern.

    Cost:
        Direct: as `sparsolve.solve`. Others: a solve, and a transposed one for a gradient, each on a copy of the matrix.

    >>> import torch, sparsolve as sps
    >>> A = torch.tensor([[4.0, 1.0], [1.0, 3.0]]).to_sparse_csr().requires_grad_()
    >>> x = sps.sparse_solve_c4t(A, torch.tensor([6.0, 7.0]), solve="cg", tol=1e-10)
    >>> x
    tensor([1., 2.], grad_fn=<...>)
    >>> x.sum().backward()
    >>> A.grad.to_dense()
    tensor([[-0.1818, -0.3636],
            [-0.2727, -0.5455]])
    """
    transpose_solve = solve if transpose_solve is None else transpose_solve
    require_known("solve", solve)
    require_known("transpose_solve", transpose_solve)
    require_matrix(A)
    B = uncast(B)
    require_rhs(A, B, solve, transpose_solve)
    options = checked_options(A, B, solve, transpose_solve, kwargs)
    dtype = torch.promote_types(A.dtype, torch.complex32) if B.is_complex() else A.dtype
    sides = _side(solve, options, kwargs, False), _side(transpose_solve, options, kwargs, True)
    given = {k: kwargs[k] for k in OWN_NAMES if k in kwargs}
    own = OWN.set({"x0": options.get("x0"), "callback": kwargs.get("callback"), "given": given})
    try:
        return _solve(A, B.to(dtype), _record(*sides, B.dim() == 1))
    finally:
        OWN.reset(own)


def _record(forward: Callable[..., Any], adjoint: Callable[..., Any], vector: bool) -> Solver:
    """Both sides as one record. Equal sides make equal records, so that repeated calls share one entry of the solver table."""
    if forward is _direct and adjoint is _direct:
        return LU()
    one = vector or isinstance(forward, ByName) or isinstance(adjoint, ByName)
    return Function(forward=forward, adjoint=adjoint, vector=one)


def _side(
    selection: Selection, options: Mapping[str, Any], kwargs: Mapping[str, Any], transposed: bool
) -> Callable[..., Any]:
    """The callable `(matrix, rhs) -> x` of a selection."""
    if selection in DIRECT:
        return _direct
    if isinstance(selection, str):
        names = ("rtol", "atol", "maxiter", *(("restart",) if selection == "gmres" else ()))
        chosen = {name: options[name] for name in names if options[name] is not None}
        M = None if options["M"] is None else ByIdentity(options["M"])
        return ByName(method=selection, M=M, transposed=transposed, **chosen)
    assert selection is not None
    dropped = (*OWN_NAMES, "M") if transposed else OWN_NAMES
    items = tuple((k, _comparable(v)) for k, v in kwargs.items() if k not in dropped)
    return _Given(selection, items, transposed)


def _comparable(value: Any) -> Any:
    """Plain values are compared by type and text (0.0 is not -0.0), everything else is the same only if it is the same object."""
    return (
        (type(value), repr(value), value)
        if isinstance(value, (bool, int, float, complex, str, type(None)))
        else ByIdentity(value)
    )


@dataclass(frozen=True)
class _Given(Adapts):
    """The user's callable with its keyword arguments; in a derivative neither x0 nor callback are its own."""

    function: Callable[..., Any]
    items: tuple[tuple[str, Any], ...]
    transposed: bool
    derivative: bool = False

    @property
    def __name__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def __call__(self, A: Any, b: Any) -> Any:
        kwargs = {k: v.value if isinstance(v, ByIdentity) else v[-1] for k, v in self.items}
        own = {} if self.transposed or self.derivative else OWN.get().get("given", {})
        return self.function(A, b, **kwargs, **own)


def _direct(A: Any, b: Any) -> Any:
    """The direct side of a mixed selection: `LU()` again, with its checks and its memo."""
    on = array_module(b)
    crow, col, values, rhs = (on.tensor(a) for a in (A.indptr, A.indices, A.data, b))
    return on.array(_solve(SparseMatrix(values, unchecked(crow, col, A.shape)), rhs))
