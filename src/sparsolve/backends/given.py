"""Given preconditioners on CPU: a matrix or a callable that is `M⁻¹`, and the factorization of another matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import numpy as np

from ..errors import SolveError, sentence
from ..given import ApproximateInverse, Factored, Numbers
from ..memo import FACTORS
from . import Factor, FactorKey, solver_module
from .host import Structure, array, matrix, multiply, structure_of

__all__ = ["given", "is_called", "returned"]

Linear = Callable[[Any], Any]


def given(record: ApproximateInverse | Factored, n: int, dtype: Any) -> Any:
    """The preconditioner that `record` names, for systems of n unknowns and this dtype."""
    if isinstance(record, Factored):
        return _Factored(record, n, dtype)
    return _Callable(record) if is_called(record) else _Product(record.inverse, n, dtype)


def is_called(record: Any) -> TypeGuard[ApproximateInverse]:
    """Whether it is a user's callable."""
    return isinstance(record, ApproximateInverse) and not isinstance(record.inverse, Numbers)


class _Product:
    """`M⁻¹ r`, with a matrix."""

    def __init__(self, inverse: Numbers, n: int, dtype: Any) -> None:
        structure, values = _read(inverse, n, dtype)
        self._matrix = matrix(structure, values)
        self.nbytes = int(values.nbytes)

    def apply(self, r: Any, *, adjoint: bool) -> Any:
        return _of_its_own_kind(self._matrix.dtype, r, lambda r: multiply(self._matrix, r, adjoint=adjoint))


class _Factored:
    """`A_old⁻¹ r`, through the factorization that the memo has, or that is made for it now."""

    def __init__(self, record: Factored, n: int, dtype: Any) -> None:
        structure, values = _read(record.matrix, n, dtype)
        solver, self._dtype = record.solver, values.dtype
        module = solver_module(type(solver).__name__, "cpu")

        def remembered(make: Callable[[Any], Any], key: str = solver.key) -> Any:
            return FACTORS.get(FactorKey(key, structure, values.dtype), (values,), make)

        self._factor: Factor = module.factorize(structure, values, solver, remembered)
        self.nbytes = int(self._factor.nbytes)

    def apply(self, r: Any, *, adjoint: bool) -> Any:
        return _of_its_own_kind(self._dtype, r, lambda r: self._solve(r, adjoint))

    def _solve(self, r: Any, adjoint: bool) -> Any:
        outcome = self._factor.solve(r, adjoint=adjoint, x0=None)
        if outcome.error is not None:
            raise outcome.error
        return outcome.x


class _Callable:
    """What a callable makes of r; it gets r read-only, and what it returns is copied, since it may use it again."""

    nbytes = 0

    def __init__(self, record: ApproximateInverse) -> None:
        self._record = record

    def apply(self, r: Any, *, adjoint: bool) -> Any:
        call = self._record.adjoint if adjoint else self._record.inverse
        if self._record.block:
            return self._checked(call, r)
        return np.stack([self._checked(call, column) for column in np.ascontiguousarray(r.T)], axis=1)

    def _checked(self, call: Any, r: Any) -> Any:
        r = r.view()
        r.setflags(write=False)
        name = getattr(call, "__name__", type(call).__name__)
        z = returned(call(r), f"The preconditioner {name!r}")
        if z.shape != r.shape or (z.dtype.kind == "c" and r.dtype.kind != "c"):
            raise SolveError(
                sentence(
                    f"The preconditioner {name!r} returned an array of {z.dtype} {z.shape} for one of {r.dtype} {r.shape}.",
                    remedy="It must return M⁻¹ r: of the shape of r, and real where r is.",
                )
            )
        return z.astype(r.dtype)


def returned(x: Any, who: str) -> Any:
    """What a user's callable returned, as an array of numbers."""
    try:
        array = np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SolveError(
            sentence(
                f"{who} returned a {type(x).__name__} that is no NumPy array: {error}",
                "A tensor that requires a gradient, or that is on another device, perhaps.",
                "Return x.detach().cpu(); derivatives do not go through it.",
            )
        ) from error
    if array.dtype.kind not in "biufc":
        raise SolveError(
            sentence(
                f"{who} returned a {type(x).__name__}, an array of {array.dtype}.",
                "It has no return statement, or returns an object that holds x.",
                "It must return an array of numbers, of the shape of its right-hand side.",
            )
        )
    return array


def _read(numbers: Numbers, n: int, dtype: Any) -> tuple[Structure, Any]:
    """The analysis and the values of a constant matrix that fits."""
    shape = numbers.pattern.shape
    if shape != (n, n):
        raise ValueError(sentence(f"The preconditioner's matrix has shape {shape}, and A has {(n, n)}."))
    if numbers.dtype.is_complex and np.dtype(dtype).kind != "c":
        raise TypeError(sentence("The preconditioner's matrix is complex, but A and b are real."))
    return structure_of(numbers.pattern.crow, numbers.pattern.col, shape), array(numbers.values)


def _of_its_own_kind(dtype: Any, r: Any, apply: Linear) -> Any:
    """Apply a linear map of another dtype: a real one to real and imaginary parts, one of single precision in single precision."""
    if np.iscomplexobj(r) and dtype.kind != "c":
        parts = np.ascontiguousarray(r).view(r.real.dtype)  # (n, 2 k)
        return np.ascontiguousarray(_of_its_own_kind(dtype, parts, apply)).view(r.dtype)
    return apply(r.astype(dtype, copy=False)).astype(r.dtype, copy=False)
