"""Determinants on CUDA: SuperLU works on the host there too, and so does all that reads its factors."""

from __future__ import annotations

from typing import Any

from ..solvers import LU, Cholesky
from . import Remembered
from .cupy_device import Structure
from .determinant import Determinant

__all__ = ["factorize"]


def factorize(structure: Structure, values: Any, solver: LU | Cholesky, remembered: Remembered) -> Determinant:
    """The determinant of a matrix on the device; the values travel to the host once."""
    return remembered(lambda values: Determinant(structure.host, values.get(), solver))  # type: ignore[no-any-return]
