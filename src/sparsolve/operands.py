"""Operands brought into the primitives' form, and results back: plan, then execute."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .errors import is_dense, sentence
from .pattern import Pattern

__all__ = [
    "DTYPES",
    "as_columns",
    "guess",
    "in_autocast",
    "is_vector",
    "plan",
    "require_batches",
    "require_dense",
    "require_dtype",
    "require_length",
    "require_pattern",
    "uncast",
]

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def plan(
    values: Tensor, pattern: Pattern, b: Tensor, rows: int, name: str = "b"
) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor], bool]:
    """Values `(*batch, nnz)` and b `(*batch, rows, k)` of one dtype with equal batch dimensions.

    A vector becomes one column. A batch of right-hand sides of one matrix becomes columns; otherwise batch dimensions broadcast.
    `name` is what errors call b.

    Returns:
        values, b, what undoes the change on a result `(*batch, rows', k)`, and whether b was a vector.

    Raises:
        TypeError: not tensors, not dense, or a dtype without a solver.
        ValueError: shapes or devices that do not fit.
    """
    if is_vector(values, pattern, b, rows):
        return values, b.unsqueeze(-1), _column, True
    values, b = uncast(values), uncast(b)
    dtype = _dtype(values, pattern, b, name)
    _fit(values, pattern, b, rows, name)
    values, b, vector = values.to(dtype), b.to(dtype), b.dim() == 1
    batch = values.shape[:-1]
    if len(batch) == 0:
        return values, *as_columns(b)
    b = b.unsqueeze(-1) if vector else b
    own = b.shape[:-2]
    if batch != own:
        common = torch.broadcast_shapes(batch, own)
        values, b = values.expand(*common, values.shape[-1]), b.expand(*common, *b.shape[-2:])
    return values, b, (_column if vector else _same), vector


def as_columns(b: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor], bool]:
    """`(n,)`, `(n, k)` or `(*batch, n, k)` as columns `(n, k')`, what undoes that on a result, and whether b was a vector."""
    if b.dim() == 1:
        return b.unsqueeze(-1), _column, True
    own, (n, k) = b.shape[:-2], b.shape[-2:]
    if len(own) == 0:
        return b, _same, False

    def unfold(x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], *own, k).movedim(0, -2).contiguous()

    return b.movedim(-2, 0).reshape(n, math.prod(own) * k), unfold, False


def guess(x0: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Where an iteration for b starts, in its dtype and without derivatives."""
    require_dense("x0", x0)
    if x0.shape != b.shape or x0.device != b.device:
        raise ValueError(sentence(f"x0 is {tuple(x0.shape)} on {x0.device}, and b is {tuple(b.shape)} on {b.device}."))
    if x0.is_complex() and not dtype.is_complex:
        raise ValueError(sentence("x0 is complex, but A and b are real.", remedy="x is real then: give x0.real."))
    return x0.detach().to(dtype)


def require_pattern(pattern: Pattern) -> Pattern:
    """Refuse what is not a `Pattern`."""
    if not isinstance(pattern, Pattern):
        cause, remedy = "Swapped arguments, perhaps.", "Use SparseMatrix(values, pattern)."
        if isinstance(pattern, tuple) and pattern and isinstance(pattern[0], Pattern):
            cause = "Pattern.from_coo returns a pattern, and the order that values go in."
            remedy = "Use pattern, order = Pattern.from_coo(...) and SparseMatrix(values[order], pattern)."
        fact = f"A's pattern is a {type(pattern).__name__}; a sparsolve.Pattern is needed."
        raise TypeError(sentence(fact, cause, remedy))
    return pattern


def require_dense(name: str, t: Tensor) -> None:
    """Refuse what is not a dense tensor."""
    if not isinstance(t, Tensor):
        raise TypeError(
            sentence(f"{name} must be a torch.Tensor, not a {type(t).__name__}.", remedy="Use torch.as_tensor.")
        )
    if not is_dense(t):
        raise TypeError(sentence(f"{name} must be dense, not {t.layout}.", remedy="Use .to_dense()."))


def require_dtype(name: str, t: Tensor) -> None:
    """Refuse a dtype that has no solver; name one that holds what this one holds."""
    if t.dtype not in DTYPES:
        real = torch.float32 if t.dtype.is_floating_point else torch.float64
        raise TypeError(
            sentence(
                f"{name} has dtype {t.dtype}; sparse solvers work in float32, float64, complex64 or complex128.",
                "Nothing is cast without being asked.",
                f"Use {name if name.isidentifier() else ''}.to({torch.complex64 if t.dtype.is_complex else real}).",
            )
        )


def require_length(values: Tensor, pattern: Pattern) -> None:
    """Refuse what is not one number, or one batch of numbers, for each entry."""
    _require_values(values)
    if values.dim() == 0 or values.shape[-1] != pattern.nnz:
        raise ValueError(
            sentence(
                f"values have shape {tuple(values.shape)}; the pattern has {pattern.nnz} entries, so (*batch, {pattern.nnz}) is needed."
            )
        )


def _require_values(values: Tensor) -> None:
    if isinstance(values, Tensor) and not is_dense(values):
        fact = f"A's values are a tensor of {values.layout}; one number for each entry of the pattern is needed."
        raise TypeError(
            sentence(fact, remedy="A sparse tensor T has a pattern of its own: SparseMatrix.from_torch(T).")
        )
    require_dense("A's values", values)


def is_vector(values: Tensor, pattern: Pattern, b: Tensor, rows: int) -> bool:
    """Whether these are one matrix and one vector that fit as they are: most calls, for which all of `plan` would be half of the overhead."""
    if not (isinstance(values, Tensor) and isinstance(b, Tensor) and is_dense(values) and is_dense(b)):
        return False
    dtype, device = values.dtype, values.device
    return (
        dtype in DTYPES
        and b.dtype is dtype
        and b.device == device == pattern.device
        and b.dim() == values.dim() == 1  # first: shapes that are compared guard a compiled batch
        and b.shape[0] == rows
        and values.shape[0] == pattern.nnz
    )


def uncast(t: Tensor) -> Tensor:
    """Inside torch.autocast a half tensor is float32 again, as for torch.linalg: it was not the user who asked for half."""
    half = isinstance(t, Tensor) and t.dtype in (torch.float16, torch.bfloat16)
    return t.float() if half and in_autocast(t) else t


def in_autocast(t: Tensor) -> bool:
    """Whether torch.autocast is active for a tensor's device; torch refuses to say so of one that has none, as meta.

    Of these there are more that solve nothing here; to ask torch whether a device has it is what Dynamo of torch 2.11 cannot trace.
    """
    device = t.device.type
    return device in ("cpu", "cuda") and torch.is_autocast_enabled(device)


def _same(x: Tensor) -> Tensor:
    return x


def _column(x: Tensor) -> Tensor:
    return x.squeeze(-1)


def _dtype(values: Tensor, pattern: Pattern, b: Tensor, name: str) -> torch.dtype:
    """The dtype of the result, or why there is none."""
    _require_values(values)
    require_dense(name, b)
    require_dtype("A", values)
    require_dtype(name, b)
    if values.device != b.device or values.device != pattern.device:
        raise ValueError(
            sentence(
                f"A's values are on {values.device}, its pattern on {pattern.device} and {name} on {b.device}; all must be on one device.",
                remedy="Use .to(device) on each (Pattern.to for the pattern).",
            )
        )
    return torch.promote_types(values.dtype, b.dtype)


def _fit(values: Tensor, pattern: Pattern, b: Tensor, rows: int, name: str) -> None:
    """Shapes."""
    require_length(values, pattern)
    if b.dim() == 0:
        raise ValueError(sentence(f"{name} is a number; (n,), (n, k) or (*batch, n, k) with n = {rows} is needed."))
    at = b.shape[0] if b.dim() == 1 else b.shape[-2]
    if at != rows:
        hint = (
            f"A batch of vectors (*batch, n) is {name}.unsqueeze(-1), or a torch.vmap over it."
            if b.dim() > 1 and b.shape[-1] == rows
            else ""
        )
        raise ValueError(
            sentence(
                f"{name} has shape {tuple(b.shape)}; with A of shape {pattern.shape} it must be ({rows},), ({rows}, k) or (*batch, {rows}, k).",
                remedy=hint,
            )
        )
    require_batches(values.shape[:-1], b.shape[:-2], name)


def require_batches(batch: torch.Size, own: torch.Size, name: str, first: str = "A") -> None:
    """Batch dimensions that broadcast, of `first` and of `name`."""
    if any(p != q and p != 1 and q != 1 for p, q in zip(reversed(batch), reversed(own), strict=False)):
        raise ValueError(
            sentence(f"The batch dimensions {tuple(batch)} of {first} and {tuple(own)} of {name} do not broadcast.")
        )
