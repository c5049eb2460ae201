"""`SparseMatrix`: differentiable values on a constant pattern, a pytree whose only leaf is `values`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import calculus
from .arithmetic import added, by_tensor, diagonal, diagonal_pattern, require_scalar, transposed
from .compressed import compressed, of_coo, parts, require_sparse
from .convert import c2t_csr, csr_parts, t2c_coo
from .convert_checks import is_cupy, require_matrix
from .errors import sentence
from .operands import plan, require_pattern
from .pattern import Pattern, pointers, unchecked

if TYPE_CHECKING:
    import scipy.sparse

__all__ = ["SparseMatrix"]


class SparseMatrix:
    """`values` at the entries of `pattern`; one matrix, or a batch that shares the pattern.

    It is a pytree node (torch's and optree's), so it goes through `grad`, `vmap` and `torch.compile` as an argument.
    In `in_dims` a number stands in place of the values: `SparseMatrix(0, pattern)`. Building one checks nothing.

    Args:
        values: `(*batch, nnz)`, float32, float64, complex64 or complex128.
        pattern: where the entries are.

    >>> import torch, sparsolve as sps
    >>> pattern = sps.Pattern(torch.tensor([0, 1, 2]), torch.tensor([0, 1]), (2, 2))
    >>> A = sps.SparseMatrix(torch.tensor([2.0, 4.0]), pattern)
    >>> A @ torch.ones(2)
    tensor([2., 4.])
    >>> sps.solve(A, torch.ones(2))
    tensor([0.5000, 0.2500])
    """

    __slots__ = ("pattern", "values")
    __array_ufunc__ = None  # NumPy's scalars and arrays leave the operators to this class

    def __init__(self, values: Tensor, pattern: Pattern) -> None:
        self.values = values
        self.pattern = pattern

    @classmethod
    def from_torch(cls, T: Tensor) -> SparseMatrix:
        """The values and pattern of a COO (coalesced or not), CSR or CSC tensor, differentiably.

        A COO tensor is coalesced first. Index tensors of a CSR tensor are shared, not copied.

        Args:
            T: a 2-D sparse tensor.

        Raises:
            PatternError: an entry of an uncoalesced tensor is outside of the matrix. All else is checked by the first solve.
            TypeError: another layout, or dense or batch dimensions.

        >>> import torch, sparsolve as sps
        >>> sps.SparseMatrix.from_torch(torch.eye(3).to_sparse_csr())
        SparseMatrix(3 x 3, nnz=3, torch.float32, cpu)
        """
        require_sparse(T)
        if T.layout is torch.sparse_coo:
            return cls(*of_coo(T))
        shape = (T.shape[0], T.shape[1])
        values, outer, plain = parts(T)
        if T.layout is torch.sparse_csr:
            return cls(values, unchecked(outer, plain, shape))
        pattern, order = unchecked(outer, plain, (shape[1], shape[0])).adjoint()
        return cls(values[order], pattern)

    @classmethod
    def from_coo(cls, values: Tensor, row: Tensor, col: Tensor, shape: tuple[int, int]) -> SparseMatrix:
        """The matrix with `values[..., e]` at `(row[e], col[e])`, in any order, duplicates kept, differentiably.

        It sorts. A loop over values calls `Pattern.from_coo` once instead, and puts each in its order.

        Args:
            values: `(*batch, nnz)`; row, col, shape: as for `Pattern.from_coo`, which raises what is wrong with them.

        >>> import torch, sparsolve as sps
        >>> row, col = torch.tensor([1, 0, 1]), torch.tensor([1, 0, 1])
        >>> sps.SparseMatrix.from_coo(torch.tensor([1.0, 2.0, 3.0]), row, col, (2, 2)).diagonal()
        tensor([2., 4.])
        """
        pattern, order = Pattern.from_coo(row, col, shape)
        return cls(values[..., order], pattern)

    @classmethod
    def from_scipy(cls, M: Any) -> SparseMatrix:
        """The values and pattern of a SciPy matrix of any format (on CUDA: of CuPy's), in memory of their own; its index dtype is kept.

        Args:
            M: `(rows, columns)`. Duplicates are added up.

        Raises:
            TypeError: not a sparse matrix, or a dtype that torch lacks.
            ValueError: not 2-D, or indices that do not describe a matrix.

        >>> import scipy.sparse, sparsolve as sps
        >>> sps.SparseMatrix.from_scipy(scipy.sparse.eye(3, format="csc"))
        SparseMatrix(3 x 3, nnz=3, torch.float64, cpu)
        """
        M = M.tocsr() if hasattr(M, "tocsr") else M
        require_matrix(M, "csr")
        if is_cupy(M):
            return cls.from_torch(c2t_csr(M))
        crow, col, values = csr_parts(M)
        return cls(values, Pattern(crow, col, M.shape))

    @classmethod
    def from_diagonal(cls, d: Tensor) -> SparseMatrix:
        """The diagonal matrix of `d`, differentiably; `A + SparseMatrix.from_diagonal(d)` shifts a matrix.

        Args:
            d: `(*batch, n)`.

        >>> import torch, sparsolve as sps
        >>> A = sps.SparseMatrix.from_torch(torch.ones(2, 2).to_sparse())
        >>> (A + sps.SparseMatrix.from_diagonal(torch.tensor([3.0, 4.0]))).diagonal()
        tensor([4., 5.])
        """
        return cls(d, diagonal_pattern(d.shape[-1], d.device))

    def to_torch(self, layout: torch.layout = torch.sparse_csr) -> Tensor:
        """The same matrix as a torch sparse tensor; duplicates are added up and columns sorted.

        Args:
            layout: `torch.sparse_csr` or `torch.sparse_coo`.

        >>> import torch, sparsolve as sps
        >>> sps.SparseMatrix.from_torch(torch.eye(2).to_sparse()).to_torch().layout
        torch.sparse_csr
        """
        if self.values.dim() != 1:
            raise TypeError(
                sentence(
                    f"values have shape {tuple(self.values.shape)}; a batch has no torch sparse tensor.",
                    remedy="Convert one matrix at a time.",
                )
            )
        indices = torch.stack([self.pattern.rows(), self.pattern.col])
        coo = torch.sparse_coo_tensor(
            indices, self.values, self.shape, device=self.device, check_invariants=True
        ).coalesce()
        if layout is torch.sparse_coo:
            return coo
        if layout is not torch.sparse_csr:
            raise TypeError(sentence(f"layout is {layout}; to_torch makes torch.sparse_csr or torch.sparse_coo."))
        row, col = coo.indices().unbind()
        return compressed(coo.values(), pointers(row.contiguous(), self.shape[0]), col, self.shape, layout)

    def to_dense(self) -> Tensor:
        """`(*batch, rows, columns)`, as `A @ I`: differentiable, and right under every transform."""
        return multiply(self, torch.eye(self.shape[1], dtype=self.dtype, device=self.device), adjoint=False)

    def to_scipy(self) -> scipy.sparse.csr_matrix:
        """A SciPy CSR matrix of its own memory, duplicates added up; values are detached."""
        return t2c_coo(self.to_torch(torch.sparse_coo).detach().cpu()).tocsr()

    def to(self, *args: Any, **kwargs: Any) -> SparseMatrix:
        """The matrix with `values.to(...)`, as for a tensor: another dtype, device, or both; the pattern follows to the device.

        >>> import torch, sparsolve as sps
        >>> sps.SparseMatrix.from_diagonal(torch.ones(2)).to(torch.complex64)
        SparseMatrix(2 x 2, nnz=2, torch.complex64, cpu)
        """
        values = self.values.to(*args, **kwargs)
        return SparseMatrix(values, require_pattern(self.pattern).to(values.device))

    def detach(self) -> SparseMatrix:
        """The same numbers, without derivatives."""
        return SparseMatrix(self.values.detach(), self.pattern)

    def diagonal(self) -> Tensor:
        """`A_ii`, `(*batch, min(rows, columns))`, differentiably; zero where nothing is stored."""
        return diagonal(self.values, require_pattern(self.pattern))

    @property
    def mT(self) -> SparseMatrix:
        """The transpose `Aᵀ`, differentiably."""
        return SparseMatrix(*transposed(self.values, require_pattern(self.pattern)))

    @property
    def mH(self) -> SparseMatrix:
        """The adjoint `Aᴴ`, differentiably; `solve(A, b, adjoint=True)` needs no factorization of its own, `solve(A.mH, b)` does."""
        A = self.mT
        return SparseMatrix(A.values.conj(), A.pattern) if A.values.is_complex() else A

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

    def __reduce__(self) -> tuple[Any, ...]:
        return SparseMatrix, (self.values, self.pattern)

    def __matmul__(self, x: Any) -> Any:
        return multiply(self, x, adjoint=False) if isinstance(x, Tensor) else NotImplemented

    def __add__(self, other: Any) -> SparseMatrix:
        if not isinstance(other, SparseMatrix):
            return NotImplemented
        return SparseMatrix(*added(self.values, self.pattern, other.values, other.pattern))

    def __sub__(self, other: Any) -> SparseMatrix:
        return self + -other if isinstance(other, SparseMatrix) else NotImplemented

    def __neg__(self) -> SparseMatrix:
        return SparseMatrix(-self.values, self.pattern)

    def __mul__(self, s: Any) -> SparseMatrix:
        return SparseMatrix(self.values * require_scalar(s), self.pattern)

    __rmul__ = __mul__

    def __truediv__(self, s: Any) -> SparseMatrix:
        return SparseMatrix(self.values / require_scalar(s), self.pattern)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return by_tensor(function, args)

    def __repr__(self) -> str:
        if not isinstance(self.values, Tensor):  # an in_dims tree
            return f"SparseMatrix({self.values!r}, {self.pattern!r})"
        batch = "".join(f"{m} x " for m in self.values.shape[:-1])
        batch = f"batch {batch[:-3]}, " if batch else ""
        grad = ", requires_grad" if self.values.requires_grad else ""
        return (
            f"SparseMatrix({batch}{self.shape[0]} x {self.shape[1]}, nnz={self.nnz}, {self.dtype}, {self.device}{grad})"
        )


def multiply(A: SparseMatrix, x: Tensor, *, adjoint: bool) -> Tensor:
    """`A x` or `Aᴴ x`, with batch dimensions."""
    rows, columns = A.shape
    values, x, restore, _ = plan(A.values, A.pattern, x, rows if adjoint else columns)
    return restore(calculus.matmul(values, A.pattern.crow, A.pattern.col, x, columns, adjoint))
