"""Who solves what: one table, one module for each row, imported when first needed.

A device row names the module that moves tensors in and out, analyses patterns and multiplies. A solver row names the
module whose `factorize(structure, values, solver, remembered) -> Factor` serves that record there, or, for `slogdet`, returns a determinant.
`remembered(make)` is `make(values)`,
or what that returned before for this pattern, these values and this solver; `remembered(make, key)` takes key in place of the solver's
own, where less than the whole record matters. A new backend is one row and one module.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..errors import BackendUnavailableError, SolveError, sentence

__all__ = [
    "Factor",
    "FactorKey",
    "Outcome",
    "Remembered",
    "array_module",
    "available",
    "device_module",
    "solver_module",
]


class Outcome(NamedTuple):
    """What a solve of `(n, k)` right-hand sides came to.

    Attributes:
        x: `(n, k)`; where a column failed, the best that was found, or NaN.
        status: of each column, or of all, integers of `result.Status`.
        iterations: of each column, or of all.
        strategy: of each column, or of all, integers of `result.Strategy`.
        error: for the caller to raise, if a column failed and statuses are not wanted.
    """

    x: Any
    status: Any = 0
    iterations: Any = 0
    strategy: Any = 0
    error: SolveError | None = None


class Factor(Protocol):
    """One matrix, made ready to solve with."""

    nbytes: int

    def solve(self, b: Any, *, adjoint: bool, x0: Any) -> Outcome:
        """`A⁻¹ b` or `A⁻ᴴ b` for `b` of shape `(n, k)`; `x0` of the same shape, or None, is where an iteration starts."""


class FactorKey(NamedTuple):
    """What a factorization is remembered by beside its matrix's values, whoever asks for it; it goes where the analysis goes."""

    solver: str
    structure: Any
    dtype: Any
    what: str = ""


Remembered = Callable[..., Any]

_DEVICES = {"cpu": "host", "cuda": "cupy_device"}
_KRYLOV = ("CG", "CGS", "BiCGStab", "GMRES", "MINRES")
_SOLVERS = {
    ("LU", "cpu"): "direct",
    ("Cholesky", "cpu"): "direct",
    ("slogdet", "cpu"): "determinant",
    ("Function", "cpu"): "function",
    **{(method, "cpu"): "iterative" for method in _KRYLOV},
    ("LU", "cuda"): "cupy_lu",
    ("Cholesky", "cuda"): "cupy_lu",
    ("slogdet", "cuda"): "cupy_determinant",
    ("Function", "cuda"): "cupy_function",
    **{(method, "cuda"): "cupy_iterative" for method in _KRYLOV},
}


@cache
def device_module(device: str) -> ModuleType:
    """The module that handles tensors of this device type."""
    if device not in _DEVICES:
        raise BackendUnavailableError(
            sentence(
                f"sparsolve has no backend for {device} tensors in this version.",
                remedy="Move the matrix and the right-hand side to the CPU: values.cpu(), b.cpu().",
            )
        )
    return import_module(f".{_DEVICES[device]}", __name__)


def array_module(a: Any) -> ModuleType:
    """The module that handles arrays such as this one."""
    return device_module("cpu" if isinstance(a, np.ndarray) else "cuda")


@cache
def solver_module(solver: str, device: str) -> ModuleType:
    """The module that serves this solver record on this device type."""
    if (solver, device) not in _SOLVERS:
        raise BackendUnavailableError(sentence(f"{solver} has no backend for {device} tensors in this version."))
    return import_module(f".{_SOLVERS[solver, device]}", __name__)


def available() -> dict[str, dict[str, str]]:
    """What this machine can do, for people and bug reports; `python -m sparsolve` prints it.

    Returns:
        `versions` of what is installed; `devices` whose tensors can be solved; `solvers`, which library serves each record on each of these devices;
        `missing`, what cannot be used here and how it is installed. Names to sentences.

    Cost:
        The first call imports CuPy, if it is installed.

    >>> import sparsolve.backends
    >>> sparsolve.backends.available()["solvers"]["LU on cpu"]
    'the first that suits: entries, lapack, ...superlu'
    """
    found: dict[str, dict[str, str]] = import_module(".capabilities", __name__).available()
    return found
