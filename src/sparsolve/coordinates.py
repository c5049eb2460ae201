"""COO tensors taken apart and put together, differentiably, any number of times.

torch's own constructor loses the second derivative without a word, and `values()` the third. The two Functions here are each
other's backward: in the space of matrices the adjoint of reading the entries at some places is to put numbers there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from .errors import of_device, sentence
from .indices import check_places, pointers, rising
from .pattern import Pattern, unchecked

__all__ = ["coordinates", "no_tangent", "of_coo", "refused"]


F = TypeVar("F", bound=Callable[..., Any])


def _eager(f: F) -> F:
    """Outside of compiled code, for no graph holds a sparse tensor, and Dynamo compiles the pieces of this, where indices cannot be read."""
    return torch.compiler.disable(f)  # type: ignore[no-any-return]


@_eager
def of_coo(T: Tensor) -> tuple[Tensor, Pattern]:
    """Values and pattern of a COO tensor; one that is called coalesced and is not loses the name, and is coalesced."""
    shape = (T.shape[0], T.shape[1])
    values, row, col = _Entries.apply(T)  # type: ignore[no-untyped-call]
    return values, unchecked(pointers(row, shape[0]), col, shape)


@_eager
def coordinates(values: Tensor, row: Tensor, col: Tensor, shape: tuple[int, int]) -> Tensor:
    """The coalesced COO tensor of entries in any order, in memory of its own; duplicates add up."""
    return _Placed.apply(values, row, col, shape)  # type: ignore[no-any-return, no-untyped-call]


def refused(asked: str) -> TypeError:
    """What is wrong with a sparse tensor where torch has none."""
    return TypeError(
        sentence(
            f"A sparse tensor was asked for {asked}; torch has none there.",
            "to_torch() asks for one, and so does a gradient with respect to one.",
            "Use SparseMatrix(values, pattern) in its place, which every transform takes.",
        )
    )


def no_tangent(*_: Any) -> NoReturn:
    """The tangent rule of what makes sparse tensors."""
    raise refused("with a tangent (jvp, jacfwd, hessian, forward_ad)")


def _no_batch(*_: Any) -> NoReturn:
    raise refused("in a batch (vmap, jacrev, hessian)")


def _canonical(indices: Tensor, *, unread: bool) -> bool:
    """Whether each entry comes after the one before it in row-major order; `unread` where that cannot be read."""
    if torch.compiler.is_compiling():
        return unread
    try:
        return bool(rising(*indices.unbind()).all())
    except RuntimeError as error:
        if of_device(error):
            raise
        return unread


def _at(T: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """The entries of a matrix at these places, zero where it stores none."""
    if T.layout is not torch.sparse_coo:
        dense = T if T.layout is torch.strided else T.to_dense()
        return dense[row, col]
    values, stored_row, stored_col = _Entries.apply(T)  # type: ignore[no-untyped-call]
    if torch.equal(row, stored_row) and torch.equal(col, stored_col):
        return values  # type: ignore[no-any-return]
    stored, wanted = stored_row * T.shape[1] + stored_col, row * T.shape[1] + col
    place = torch.searchsorted(stored, wanted)
    found = torch.cat([stored, stored.new_full((1,), -1)])[place] == wanted
    return torch.where(found, torch.cat([values, values.new_zeros(1)])[place], 0)


class _Entries(torch.autograd.Function):
    """Values, rows and columns of a COO tensor, coalesced."""

    @staticmethod
    def forward(T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        named = T.is_coalesced()
        if not named or not _canonical(T.indices(), unread=True):
            row, col = T._indices().unbind()
            check_places(row, col, (T.shape[0], T.shape[1]))  # before coalesce(), which takes them as right
            T = (T.t().t() if named else T).coalesce()
        row, col = T.indices().unbind()
        return T.values().clone(), row.clone(), col.clone()  # Dynamo fails at views of a sparse tensor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])
        ctx.shape = (inputs[0].shape[0], inputs[0].shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Tensor:
        row, col = ctx.saved_tensors
        return coordinates(grad, row, col, ctx.shape)

    vmap = staticmethod(_no_batch)
    jvp = staticmethod(no_tangent)  # type: ignore[assignment]


class _Placed(torch.autograd.Function):
    """The COO tensor of values, rows and columns."""

    @staticmethod
    def forward(values: Tensor, row: Tensor, col: Tensor, shape: tuple[int, int]) -> Tensor:
        indices, copy = torch.stack([row, col]), values.clone()  # which applies lazy bits
        make, canonical = torch.sparse_coo_tensor, _canonical(indices, unread=False)
        T = make(indices, copy, shape, device=copy.device, check_invariants=True, is_coalesced=canonical)
        return T.coalesce()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:3])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _at(grad, *ctx.saved_tensors), None, None, None

    vmap = staticmethod(_no_batch)
    jvp = staticmethod(no_tangent)  # type: ignore[assignment]
