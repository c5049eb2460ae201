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
    "is_dense",
    "kind_of",
    "of_device",
    "sentence",
]


class SolveError(RuntimeError):
    """A solve could not be completed; the base of the three below.

    Raised itself for NaN or Inf in `A` or `b`, for a solution beyond the range of its dtype, and for a callable that returns no solution.
    """


class SingularMatrixError(SolveError):
    """`A` is singular, exactly or to working precision, so `A x = b` has no unique solution."""


class NotPositiveDefiniteError(SolveError):
    """`Cholesky()` was given a matrix that is not Hermitian positive definite."""


class ConvergenceError(SolveError):
    """An iterative method stopped before `‖b − A x‖ <= max(rtol ‖b‖, atol)` held."""


class PatternError(ValueError):
    """The index arrays do not describe a sparse matrix, describe one too large for the solvers, or are batched by `vmap`."""


class BackendUnavailableError(RuntimeError):
    """No backend for this device or method: there is none, or the library that it needs is not installed."""


def of_device(error: BaseException) -> bool:
    """Whether CUDA or one of its libraries says so, of this call or of earlier work: then the arguments at hand are not the cause."""
    told = isinstance(error, (torch.AcceleratorError, torch.OutOfMemoryError))
    return told or "cupy" in type(error).__module__.partition(".")[0]


def is_dense(t: Tensor) -> bool:
    """Whether a tensor is dense. In the backward of a user's Function Dynamo refuses `layout`; it has dense tensors only, if it looks at all."""
    return not t.is_sparse if torch.compiler.is_dynamo_compiling() else t.layout is torch.strided


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
