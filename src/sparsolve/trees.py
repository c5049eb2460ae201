"""`SparseMatrix` as a pytree, torch's and optree's, whose only leaf is `values`; and what a saved graph holds of its pattern."""

from __future__ import annotations

from typing import Any

import optree
import torch
import torch.utils._pytree as torch_pytree

from .matrix import SparseMatrix
from .pattern import Pattern


def _flatten(A: SparseMatrix) -> tuple[tuple[Any], Pattern]:
    return (A.values,), A.pattern


def _flatten_with_keys(A: SparseMatrix) -> tuple[tuple[tuple[Any, Any]], Pattern]:
    return ((torch_pytree.GetAttrKey("values"), A.values),), A.pattern


def _unflatten_torch(leaves: Any, pattern: Pattern) -> SparseMatrix:
    (values,) = leaves
    return SparseMatrix(values, pattern)


def _unflatten_optree(pattern: Pattern, leaves: Any) -> SparseMatrix:
    return _unflatten_torch(leaves, pattern)


def _to_json(pattern: Pattern) -> Any:
    """What a saved graph holds of a pattern."""
    return [str(pattern.col.dtype), pattern.crow.tolist(), pattern.col.tolist(), list(pattern.shape)]


def _from_json(data: Any) -> Pattern:
    """The pattern that `_to_json` wrote, checked."""
    dtype = torch.int32 if data[0] == "torch.int32" else torch.int64
    crow, col = (torch.tensor(a, dtype=dtype, device="cpu") for a in data[1:3])
    return Pattern(crow, col, data[3])


torch.serialization.add_safe_globals([Pattern, SparseMatrix])  # arrays, checked where a Pattern is made
torch_pytree.register_pytree_node(
    SparseMatrix,
    _flatten,  # type: ignore[arg-type]
    _unflatten_torch,
    serialized_type_name="sparsolve.SparseMatrix",
    to_dumpable_context=_to_json,
    from_dumpable_context=_from_json,
    flatten_with_keys_fn=_flatten_with_keys,  # type: ignore[arg-type]
)
optree.register_pytree_node(
    SparseMatrix,  # type: ignore[arg-type]
    _flatten,  # type: ignore[arg-type]
    _unflatten_optree,  # type: ignore[arg-type]
    namespace=optree.registry.__GLOBAL_NAMESPACE,
)
