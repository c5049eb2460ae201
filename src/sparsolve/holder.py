"""What a matrix is asked that tensors are asked too: its shape and dtype, copies of another dtype, elsewhere, or without derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from .errors import kind_of, sentence
from .hints import MATRIX, missing
from .operands import require_pattern
from .pattern import Pattern

__all__ = ["Holder"]

M = TypeVar("M", bound="Holder")


class Holder:
    """Values on a pattern."""

    __slots__ = ("pattern", "values")

    def __init__(self, values: Tensor, pattern: Pattern = None) -> None:  # type: ignore[assignment]
        if pattern is None:
            name = type(self).__name__
            raise TypeError(
                sentence(
                    f"{name} got {kind_of(values)} without a pattern; it takes the values of the entries and their Pattern.",
                    remedy=f"{name}.from_scipy, from_torch and from_dense convert a matrix.",
                )
            )
        self.values = values
        self.pattern = pattern

    def __getattr__(self, name: str) -> Any:
        raise missing(type(self).__name__, name, MATRIX)

    @classmethod
    def stack(cls: type[M], matrices: Sequence[M]) -> M:
        """The batch of matrices on one pattern, `(len(matrices), *batch, nnz)`, differentiably; the `collate_fn` of a `DataLoader`, for one.

        Args:
            matrices: one at least; their patterns are equal, and their batches; dtypes are promoted.

        Raises:
            TypeError, ValueError: other objects, none, or different patterns.

        >>> import torch, sparsolve as sps
        >>> A = sps.SparseMatrix.from_diagonal(torch.ones(3))
        >>> sps.SparseMatrix.stack([A, 2 * A]).values.shape
        torch.Size([2, 3])
        """
        matrices = list(matrices)
        for i, A in enumerate(matrices):
            if not isinstance(A, cls):
                remedy = "Where items of a data set are pairs, stack the matrices and the others one by one."
                raise TypeError(
                    sentence(f"matrices[{i}] is a {type(A).__name__}; a SparseMatrix is needed.", remedy=remedy)
                )
            if A.values.shape[:-1] != matrices[0].values.shape[:-1]:
                batches = [tuple(m.values.shape[:-1]) for m in (A, matrices[0])]
                raise ValueError(
                    sentence(f"matrices[{i}] is a batch of shape {batches[0]}, matrices[0] of {batches[1]}.")
                )
            if A.pattern != matrices[0].pattern:
                raise ValueError(
                    sentence(
                        f"matrices[{i}] has another pattern than matrices[0], {A.pattern} and {matrices[0].pattern}.",
                        "Entries that are zero in some of them were not stored, perhaps.",
                        "Store every entry that any of them has; or solve one after another.",
                    )
                )
        if not matrices:
            raise ValueError(sentence("There are no matrices to stack, so there is no pattern."))
        return cls(torch.stack([A.values for A in matrices]), matrices[0].pattern)

    @property
    def shape(self) -> tuple[int, int]:
        """`(rows, columns)`, without batch dimensions."""
        return require_pattern(self.pattern).shape

    @property
    def dtype(self) -> torch.dtype:
        """Of the values."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Of the values."""
        return self.values.device

    @property
    def nnz(self) -> int:
        """Number of stored entries of one matrix, stored zeros and duplicates included."""
        return self.pattern.nnz

    @property
    def ndim(self) -> int:
        """2: batch dimensions are those of the values, as in `shape`."""
        return 2

    @property
    def requires_grad(self) -> bool:
        """Whether the values do."""
        return self.values.requires_grad

    def size(self, dim: int | None = None) -> Any:
        """`shape`, or one number of it."""
        return torch.Size(self.shape) if dim is None else self.shape[dim]

    def is_complex(self) -> bool:
        """Whether the values are."""
        return self.values.is_complex()

    def to(self: M, *args: Any, **kwargs: Any) -> M:
        """The matrix with `values.to(...)`, as for a tensor: another dtype, device, or both; the pattern follows to the device.

        >>> import torch, sparsolve as sps
        >>> sps.SparseMatrix.from_diagonal(torch.ones(2)).to(torch.complex64)
        SparseMatrix(2 x 2, nnz=2, torch.complex64, cpu)
        """
        values = self.values.to(*args, **kwargs)
        return type(self)(values, require_pattern(self.pattern).to(values.device))

    def detach(self: M) -> M:
        """The same numbers, without derivatives.

        >>> import torch, sparsolve as sps
        >>> A = sps.SparseMatrix.from_diagonal(torch.ones(2)).requires_grad_()
        >>> A.values.requires_grad, A.detach().values.requires_grad
        (True, False)
        """
        return type(self)(self.values.detach(), self.pattern)

    def clone(self: M) -> M:
        """The matrix with values of their own memory, differentiably; the pattern is shared."""
        return type(self)(self.values.clone(), self.pattern)

    def requires_grad_(self: M, requires_grad: bool = True) -> M:
        """This matrix, after `values.requires_grad_()`: `backward` puts the gradient in `A.values.grad`."""
        self.values.requires_grad_(requires_grad)
        return self

    def cpu(self: M) -> M:
        """`A.to("cpu")`."""
        return self.to("cpu")

    def cuda(self: M, device: torch.device | int | str = "cuda") -> M:
        """`A.to("cuda")`, or to the CUDA device that is named."""
        return self.to(device)

    def float(self: M) -> M:
        """`A.to(torch.float32)`."""
        return self.to(torch.float32)

    def double(self: M) -> M:
        """`A.to(torch.float64)`."""
        return self.to(torch.float64)
