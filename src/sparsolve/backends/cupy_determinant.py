"""Determinants on CUDA: SuperLU works on the host there too, and so does all that reads its factors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..solvers import LU, Cholesky
from . import Remembered, dense_determinant, inverse_derivative
from .cupy_device import Structure
from .determinant import Determinant

__all__ = ["derivatives", "factorize", "together"]


def factorize(structure: Structure, values: Any, solver: LU | Cholesky, remembered: Remembered) -> Determinant:
    """The determinant of a matrix on the device; the values travel to the host once."""

    def make(values: Any) -> Determinant:
        found = Determinant(structure.host, values.get(), solver)
        found.worth_a_thread = False  # which would not be in torch's stream and memory, where the values are
        return found

    return remembered(make)  # type: ignore[no-any-return]


def derivatives(structure: Structure, values: Any, directions: Any, solver: LU | Cholesky) -> list[Any]:
    """As on the host, where all of it is done."""
    return inverse_derivative.derivatives(structure.host, values.get(), directions.get(), solver)


def together(
    structure: Structure, solver: LU | Cholesky
) -> tuple[int, Callable[[Any], dense_determinant.Small]] | None:
    """As on the host."""
    how = dense_determinant.together(structure.host, solver)
    if how is None:
        return None
    width, make = how
    return width, lambda values: make(values.get())
