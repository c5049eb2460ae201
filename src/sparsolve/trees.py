"""`SparseMatrix` and `Operator` as pytrees, torch's and optree's, and what a saved graph holds of a pattern."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optree
import torch
import torch.utils._pytree as torch_pytree

from .iterative import CG, CGS, GMRES, MINRES, BiCGStab
from .log_determinant import SLogDet
from .matrix import SparseMatrix
from .operators import Operator
from .pattern import Pattern
from .preconditioner_records import AMG, ILU, BlockJacobi, Jacobi, SymmetricGaussSeidel
from .result import Info, Solution, Status, Strategy
from .solvers import LU, Cholesky
from .vectors import Vectors


def _to_json(pattern: Pattern) -> Any:
    """What a saved graph holds of a pattern."""
    numbers = pattern.crow.tolist(), pattern.col.tolist(), list(pattern.shape)
    return [str(pattern.col.dtype), *numbers, str(pattern.device)]


def _from_json(data: Any) -> Pattern:
    """The pattern that `_to_json` wrote, checked; on its device, where the graph's own constants are."""
    dtype = torch.int32 if data[0] == "torch.int32" else torch.int64
    crow, col = (torch.tensor(a, dtype=dtype, device=data[4]) for a in data[1:3])
    return Pattern(crow, col, data[3])


def _register(cls: type[Any], child: str, constant: str, make: Callable[..., Any], **options: Any) -> None:
    """Enter a class of one child and one constant in both tables."""
    key = torch_pytree.GetAttrKey(child)

    def apart(A: Any) -> tuple[Any, Any]:
        return (getattr(A, child),), getattr(A, constant)

    def with_keys(A: Any) -> tuple[Any, Any]:
        return ((key, getattr(A, child)),), getattr(A, constant)

    def together(children: Any, constant: Any) -> Any:
        return make(*children, constant)

    def together_again(constant: Any, children: Any) -> Any:
        return make(*children, constant)

    torch_pytree.register_pytree_node(
        cls,
        apart,
        together,
        serialized_type_name=f"sparsolve.{cls.__name__}",
        flatten_with_keys_fn=with_keys,
        **options,
    )
    everywhere = optree.registry.__GLOBAL_NAMESPACE  # which has no public name
    optree.register_pytree_node(cls, apart, together_again, namespace=everywhere)


# what `torch.load` may make of a file: arrays, checked where a Pattern is made, and numbers
_RECORDS = [LU, Cholesky, CG, CGS, BiCGStab, GMRES, MINRES, Jacobi, BlockJacobi, ILU, SymmetricGaussSeidel, AMG]
torch.serialization.add_safe_globals(
    [Pattern, SparseMatrix, Info, SLogDet, Solution, Status, Strategy, Vectors, *_RECORDS]
)
_register(
    SparseMatrix, "values", "pattern", SparseMatrix, to_dumpable_context=_to_json, from_dumpable_context=_from_json
)
_register(Operator, "params", "function", lambda params, function: Operator(function, params))
