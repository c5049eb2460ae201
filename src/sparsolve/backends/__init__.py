"""Who solves what: one table, one module for each row, imported when first needed.

A device row names the module that moves tensors in and out, analyses patterns and multiplies. A solver row names the
module whose `factorize(structure, values, solver) -> Factor` serves that record there. A new backend is one row and one module.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

from ..errors import BackendUnavailableError, sentence

__all__ = ["Factor", "device_module", "solver_module"]


class Factor(Protocol):
    """A factorization, or an approximate one, of one matrix."""

    nbytes: int

    def solve(self, b: Any, *, adjoint: bool) -> Any:
        """`A⁻¹ b` or `A⁻ᴴ b` for `b` of shape `(n, k)`."""


_DEVICES = {"cpu": "host"}
_SOLVERS = {("LU", "cpu"): "superlu", ("Function", "cpu"): "function"}


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


@cache
def solver_module(solver: str, device: str) -> ModuleType:
    """The module that serves this solver record on this device type."""
    if (solver, device) not in _SOLVERS:
        raise BackendUnavailableError(sentence(f"{solver} has no backend for {device} tensors in this version."))
    return import_module(f".{_SOLVERS[solver, device]}", __name__)
