"""A user's callable as a solver on CUDA: it is given a CuPy matrix and a CuPy right-hand side, and returns a CuPy array."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import SolveError, sentence
from ..solvers import Function
from . import Remembered
from .cupy_device import Structure
from .cupy_runtime import aligned, array, cupy, now
from .function import FunctionFactor

__all__ = ["DeviceFunctionFactor", "factorize"]


def factorize(structure: Structure, values: Any, solver: Function, remembered: Remembered) -> DeviceFunctionFactor:
    """Nothing to factorize, and nothing to remember: the callable does as it likes."""
    return DeviceFunctionFactor(structure, values, solver)


class DeviceFunctionFactor(FunctionFactor):
    """Hands the callable a matrix and a right-hand side of its own memory on the device, and checks what comes back."""

    def own(self, adjoint: bool) -> Any:
        """The matrix of the system, to be read only."""
        return self._structure.csr(self._values, adjoint=adjoint)

    def matrix(self, adjoint: bool) -> Any:
        """The matrix of the system, compressed rows in their order, of its own memory, the indices too."""
        return self.own(adjoint).copy()

    def array(self, x: Any, name: str) -> Any:
        """What the callable returned: a CuPy array, or what lies on the device and says so, as a tensor does."""
        if isinstance(x, Tensor) and x.device == now().device and x.layout is torch.strided:
            x = array(x)
        if isinstance(x, cupy().ndarray) or (not isinstance(x, Tensor) and hasattr(x, "__cuda_array_interface__")):
            return aligned(cupy().asarray(x))
        raise SolveError(
            sentence(
                f"The solver {name!r} returned a {type(x).__name__}, which is not an array on the device.",
                "A NumPy array, a tuple (x, info), or no return statement, perhaps.",
                "It must return x, a CuPy array of the shape of b; cupy.asarray moves a NumPy array.",
            )
        )
