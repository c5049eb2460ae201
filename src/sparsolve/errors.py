"""Exceptions, and the one shape their sentences take.

Every message says the fact, then the likely cause, then the remedy, then the numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "BackendUnavailableError",
    "ConvergenceError",
    "NotPositiveDefiniteError",
    "PatternError",
    "SingularMatrixError",
    "SolveError",
    "kind_of",
    "of_device",
    "sentence",
]


class SolveError(RuntimeError):
    """A solve that could not be completed; the base of the three below.

    Raised itself when the matrix or the right-hand side holds NaN or Inf.
    """


class SingularMatrixError(SolveError):
    """`A` is singular, exactly or to working precision, so `A x = b` has no unique solution."""


class NotPositiveDefiniteError(SolveError):
    """A method that needs a Hermitian positive definite `A` was given another one."""


class ConvergenceError(SolveError):
    """An iterative method stopped before `‖b − A x‖ <= max(rtol ‖b‖, atol)` held."""


class PatternError(ValueError):
    """The index arrays do not describe a sparse matrix, or are used where they cannot be."""


class BackendUnavailableError(RuntimeError):
    """The library that would solve on this device, or by this method, is not installed."""


def of_device(error: BaseException) -> bool:
    """Whether CUDA or one of its libraries says so, of this call or of earlier work: then the arguments at hand are not the cause."""
    told = isinstance(error, (torch.AcceleratorError, torch.OutOfMemoryError))
    return told or "cupy" in type(error).__module__.partition(".")[0]


def kind_of(thing: object) -> str:
    """What was given in place of something else, as a sentence names it: `a torch.strided tensor`, `the class LU`, `a list`."""
    if isinstance(thing, Tensor):
        return f"a {thing.layout} tensor"
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"a {type(thing).__name__}"


def sentence(fact: str, cause: str = "", remedy: str = "", **numbers: object) -> str:
    """Join the parts of a message: fact, likely cause, remedy, numbers (those that are not None)."""
    tail = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in numbers.items() if v is not None)
    parts = [p for p in (fact, cause, remedy) if p]
    return " ".join(parts) + (f" ({tail})" if tail else "")
