"""Numbers that a record keeps: copied when it is made, equal where their bits are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .errors import sentence
from .levels import outside_transforms
from .operands import DTYPES
from .tickets import Constant

__all__ = ["Vectors", "copied"]


def copied(name: str, what: str, t: torch.Tensor) -> Any:
    """A tensor's numbers as an array of its own."""
    inside = sentence(
        f"{name} got {what} whose values have no numbers yet.",
        "It is made inside of vmap or of compiled code.",
        "A preconditioner is a constant: make its record outside.",
    )
    if torch.compiler.is_compiling():
        raise TypeError(inside)
    try:
        with outside_transforms():
            return np.array(t.detach().resolve_conj().resolve_neg().cpu().numpy())
    except (RuntimeError, TypeError) as error:
        raise TypeError(inside) from error


class Vectors(Constant):
    """A few vectors, one in each column.

    Attributes:
        columns: `(n, k)`.
    """

    def __init__(self, name: str, vectors: Any) -> None:
        t = vectors
        if isinstance(vectors, np.ndarray) and vectors.dtype.kind in "fc":  # of any order of bytes and axes
            t = torch.from_numpy(np.array(vectors, dtype=vectors.dtype.newbyteorder("="), order="C"))
        if not isinstance(t, torch.Tensor) or t.layout is not torch.strided or t.dtype not in DTYPES:
            what = f"a {t.layout} tensor of {t.dtype}" if isinstance(t, torch.Tensor) else f"a {type(t).__name__}"
            raise TypeError(sentence(f"{name} is {what}; a dense tensor (n, k) of float or complex numbers is needed."))
        if t.dim() not in (1, 2) or not t.numel():
            raise ValueError(sentence(f"{name} has shape {tuple(t.shape)}; (n, k) is needed, a vector in each column."))
        self.columns = copied(name, "vectors", t).reshape(t.shape[0], -1)
        if not np.isfinite(self.columns).all():
            raise ValueError(sentence(f"{name} holds NaN or Inf."))

    def __reduce__(self) -> tuple[Any, ...]:
        return Vectors, ("near_nullspace", torch.from_numpy(self.columns))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vectors):
            return False
        a, b = self.columns, other.columns
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())

    def __hash__(self) -> int:
        return hash((self.columns.shape, self.columns[:8].tobytes()))

    def __repr__(self) -> str:
        n, k = self.columns.shape
        return f"Vectors({n} x {k}, {self.columns.dtype})"
