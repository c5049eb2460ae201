"""CSR and CSC tensors taken apart and put together, differentiably, any number of times.

torch's own `values()` of a CSR tensor loses the second derivative without a word, its constructor has no gradient for complex
values, and neither works on a tensor that a transform's function has captured. The two Functions here are each other's backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .coordinates import coordinates, no_tangent, of_coo, refused
from .errors import PatternError, kind_of, sentence
from .indices import rows
from .levels import is_wrapped, outside_transforms
from .pattern import Pattern, unchecked

__all__ = ["compressed", "dense_dimensions", "entries", "of_entries", "parts", "require_sparse"]

_INSIDE = "in the layout CSR or CSC inside a transform of torch.func"


def require_sparse(T: Tensor) -> None:
    """Refuse what is not one 2-D sparse COO, CSR or CSC tensor."""
    layouts = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)
    if not isinstance(T, Tensor) or T.layout not in layouts:
        raise TypeError(
            sentence(
                f"A is {kind_of(T)}; a sparse COO, CSR or CSC tensor, or a SparseMatrix, is needed.",
                remedy=_instead(T),
            )
        )
    dense = dense_dimensions(T)
    if T.dim() != 2 or dense != 0:
        raise TypeError(
            sentence(
                f"A has shape {tuple(T.shape)} with {dense} dense dimensions; one 2-D sparse matrix is needed.",
                "A batch that shares one pattern is SparseMatrix(values, pattern) with values (*batch, nnz).",
                "Matrices with patterns of their own go into one block-diagonal matrix.",
            )
        )


def _instead(T: Any) -> str:
    """What to use in place of what is no sparse tensor."""
    if isinstance(T, Tensor) and T.layout is torch.strided:
        return "For a dense A use torch.linalg.solve, or A.to_sparse_csr() if most of it is zero."
    if isinstance(T, Tensor):
        return "Use A.to_sparse_csr()."
    if hasattr(T, "tocsr"):
        return "SparseMatrix.from_scipy(A) takes a SciPy matrix."
    if any(isinstance(t, Pattern) for t in (T if isinstance(T, tuple) else (T,))):
        return "A pattern and its values are a matrix: SparseMatrix(values, pattern)."
    if callable(T):
        return "Operator(function, params) is solved with a function (params, x) -> A x."
    return "For a dense A use torch.linalg.solve, or torch.as_tensor(A).to_sparse_csr() if most of it is zero."


def dense_dimensions(T: Tensor) -> int:
    """`T.dense_dim()`, which a transform refuses to answer for a CSR or CSC tensor."""
    if T.layout is torch.sparse_coo:
        return T.dense_dim()
    with outside_transforms():
        return T.dense_dim()


def entries(T: Tensor) -> tuple[Tensor, Pattern]:
    """Values and pattern of a COO, CSR or CSC tensor."""
    require_sparse(T)
    if T.layout is torch.sparse_coo:
        return of_coo(T)
    shape = (T.shape[0], T.shape[1])
    values, outer, plain = parts(T)
    if T.layout is torch.sparse_csr:
        return values, unchecked(outer, plain, shape)
    try:
        pattern, order = Pattern(outer, plain, (shape[1], shape[0])).adjoint()
    except PatternError as error:
        raise PatternError(f"The CSC tensor's columns, read as rows of its transpose: {error}") from error
    return values[order], pattern


def parts(T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values, row (column) pointers and column (row) indices of a CSR (CSC) tensor.

    No transform can wrap such a tensor, so it is a constant of all that are active and is taken apart outside of them.
    """
    with outside_transforms():
        return _Values.apply(T), *_indices(T)  # type: ignore[no-untyped-call]


def compressed(values: Tensor, outer: Tensor, plain: Tensor, shape: tuple[int, int], layout: torch.layout) -> Tensor:
    """The CSR or CSC tensor of these parts; its indices are known to be right."""
    if is_wrapped(values):
        raise refused(_INSIDE)
    return _Compressed.apply(values, outer, plain, shape, layout)  # type: ignore[no-any-return, no-untyped-call]


def of_entries(values: Tensor, pattern: Pattern, layout: torch.layout) -> Tensor:
    """The CSR or COO tensor of one matrix's values on a pattern, duplicates added up."""
    if values.dim() != 1:
        raise TypeError(
            sentence(
                f"values have shape {tuple(values.shape)}; a batch is no torch tensor, and no SciPy matrix.",
                remedy="Convert one at a time, SparseMatrix(A.values[k], A.pattern).",
            )
        )
    if layout is torch.sparse_coo:
        return coordinates(values, pattern.rows().long(), pattern.col.long(), pattern.shape)
    if layout is not torch.sparse_csr:
        raise TypeError(sentence(f"layout is {layout}; to_torch makes torch.sparse_csr or torch.sparse_coo."))
    if any(map(is_wrapped, (values, pattern.crow, pattern.col))):
        raise refused(_INSIDE)
    with outside_transforms():
        values, summed = of_coo(of_entries(values, pattern, torch.sparse_coo))
        index = pattern.col.dtype  # a COO tensor's are int64
        return compressed(values, summed.crow.to(index), summed.col.to(index), pattern.shape, layout)


def _indices(T: Tensor) -> tuple[Tensor, Tensor]:
    if T.layout is torch.sparse_csr:
        return T.crow_indices(), T.col_indices()
    return T.ccol_indices(), T.row_indices()


class _Values(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, T: Tensor) -> Tensor:
        ctx.outer, ctx.plain = _indices(T)
        ctx.shape, ctx.layout = T.shape, T.layout
        return T.values().clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return compressed(grad, ctx.outer, ctx.plain, ctx.shape, ctx.layout)


class _Compressed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, outer: Tensor, plain: Tensor, shape: tuple[int, int], layout: torch.layout
    ) -> Tensor:
        ctx.outer, ctx.plain, ctx.layout = outer, plain, layout
        make = torch.sparse_csr_tensor if layout is torch.sparse_csr else torch.sparse_csc_tensor
        return make(outer, plain, values.detach(), shape, device=values.device, check_invariants=False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if grad.layout is ctx.layout and all(map(torch.equal, _indices(grad), (ctx.outer, ctx.plain))):
            return _Values.apply(grad), None, None, None, None  # type: ignore[no-untyped-call]
        dense = grad if grad.layout is torch.strided else grad.to_dense()
        outer = rows(ctx.outer, ctx.plain.shape[0])
        at = (outer, ctx.plain) if ctx.layout is torch.sparse_csr else (ctx.plain, outer)
        return dense[at], None, None, None, None

    jvp = staticmethod(no_tangent)  # type: ignore[assignment]
