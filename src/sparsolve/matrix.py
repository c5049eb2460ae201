"""`SparseMatrix`: differentiable values on a constant pattern, a pytree whose only leaf is `values`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, overload

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from . import calculus
from .arithmetic import Arithmetic, diagonal, diagonal_pattern, from_the_left, no_part, no_product, ordered, transposed
from .blocks import assembled, of_dense
from .compressed import entries, of_entries
from .convert import c2t_csr, csr_parts, t2c_coo
from .convert_checks import is_cupy, require_described, require_matrix
from .operands import plan, require_length, require_pattern
from .pattern import Pattern
from .products import coalesced, product

__all__ = ["SparseMatrix", "multiply"]


class SparseMatrix(Arithmetic):
    """`values` at the entries of `pattern`; one matrix, or a batch that shares the pattern.

    It is a pytree node (torch's and optree's), so it goes through `grad`, `vmap` and `torch.compile` as an argument.
    In `in_dims` a number stands in place of the values: `SparseMatrix(0, pattern)`. Making one checks nothing; `solve` and `matmul` do.

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

    __slots__ = ()

    @classmethod
    def from_torch(cls, T: Tensor) -> SparseMatrix:
        """The matrix of a COO (coalesced or not), CSR or CSC tensor, differentiably.

        A COO tensor is coalesced first. Index tensors of a CSR tensor are shared, not copied.

        Args:
            T: a 2-D sparse tensor.

        Raises:
            PatternError: an entry of an uncoalesced or CSC tensor is outside the matrix. The first solve checks everything else.
            TypeError: another layout, or dense or batch dimensions.

        >>> import torch, sparsolve as sps
        >>> sps.SparseMatrix.from_torch(torch.eye(3).to_sparse_csr())
        SparseMatrix(3 x 3, nnz=3, torch.float32, cpu)
        """
        return cls(*entries(T))

    @classmethod
    def from_coo(cls, values: Tensor, row: Tensor, col: Tensor, shape: tuple[int, int]) -> SparseMatrix:
        """The matrix with `values[..., e]` at `(row[e], col[e])`, in any order, duplicates kept, differentiably.

        Each call sorts the entries. In a loop over values, call `Pattern.from_coo` once and put the values in the order that it returns.

        Args:
            values: `(*batch, nnz)`.
            row, col, shape: as for `Pattern.from_coo`, with its errors.

        >>> import torch, sparsolve as sps
        >>> row, col = torch.tensor([1, 0, 1]), torch.tensor([1, 0, 1])
        >>> sps.SparseMatrix.from_coo(torch.tensor([1.0, 2.0, 3.0]), row, col, (2, 2)).diagonal()
        tensor([2., 4.])
        """
        return cls(*ordered(values, *Pattern.from_coo(row, col, shape)))

    @classmethod
    def from_scipy(cls, M: Any) -> SparseMatrix:
        """A copy of a SciPy (CuPy) matrix of any format; its index dtype is kept.

        Args:
            M: `(rows, columns)`. Duplicates are added up.

        Raises:
            TypeError: not a sparse matrix, or a dtype that torch lacks.
            ValueError: not 2-D, or indices that do not describe a matrix (`PatternError`).

        >>> import scipy.sparse, sparsolve as sps
        >>> sps.SparseMatrix.from_scipy(scipy.sparse.eye(3, format="csc"))
        SparseMatrix(3 x 3, nnz=3, torch.float64, cpu)
        """
        if hasattr(M, "tocsr") and len(M.shape) == 2 and M.format != "csr":
            if scipy.sparse.issparse(M):
                require_described(M)
            M = M.tocsr()
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
        return cls(d, diagonal_pattern(d))

    @classmethod
    def from_dense(cls, D: Tensor) -> SparseMatrix:
        """The matrix that stores every entry of `D`, zeros too, differentiably: a border of constraints, a block.

        Args:
            D: `(*batch, rows, columns)`. Where most of it is zero and stays so, use `from_torch(D.to_sparse_csr())`.

        Raises:
            TypeError, ValueError: not a dense tensor, or of less than two dimensions.

        >>> import torch, sparsolve as sps
        >>> sps.SparseMatrix.from_dense(torch.tensor([[0.0, 1.0]]))
        SparseMatrix(1 x 2, nnz=2, torch.float32, cpu)
        """
        return cls(*of_dense(D))

    @classmethod
    def from_blocks(cls, blocks: Sequence[Sequence[SparseMatrix | None]]) -> SparseMatrix:
        """The matrix of blocks, None for zeros, differentiably; each call sorts the entries by rows.

        Args:
            blocks: rows of equal length; one `(rows, columns)` at least in each, and in each column. Batches broadcast, dtypes are promoted.

        Raises:
            TypeError, ValueError: other objects; sizes, devices or batches that do not fit.

        >>> import torch, sparsolve as sps
        >>> I = sps.SparseMatrix.from_diagonal(torch.ones(1))
        >>> sps.SparseMatrix.from_blocks([[2 * I, I], [I, None]]).to_dense()
        tensor([[2., 1.],
                [1., 0.]])
        """
        return cls(*assembled(blocks))

    def to_torch(self, layout: torch.layout = torch.sparse_csr) -> Tensor:
        """The same matrix as a torch sparse tensor; duplicates are added up and columns sorted. A CSR tensor keeps the index dtype.

        Args:
            layout: `torch.sparse_csr` or `torch.sparse_coo`.

        >>> import torch, sparsolve as sps
        >>> sps.SparseMatrix.from_torch(torch.eye(2).to_sparse()).to_torch().layout
        torch.sparse_csr
        """
        return of_entries(self.values, require_pattern(self.pattern), layout)

    def to_dense(self) -> Tensor:
        """`(*batch, rows, columns)`, as `A @ I`: differentiable, and right under every transform.

        >>> import torch, sparsolve as sps
        >>> sps.SparseMatrix.from_diagonal(torch.tensor([2.0, 3.0])).to_dense()
        tensor([[2., 0.],
                [0., 3.]])
        """
        return multiply(self, torch.eye(self.shape[1], dtype=self.dtype, device=self.device), adjoint=False)

    def to_scipy(self) -> scipy.sparse.csr_matrix:
        """A SciPy CSR matrix of its own memory, duplicates added up; values are detached.

        >>> import torch, sparsolve as sps
        >>> sps.SparseMatrix.from_diagonal(torch.tensor([2.0, 3.0])).to_scipy().toarray().tolist()
        [[2.0, 0.0], [0.0, 3.0]]
        """
        return t2c_coo(self.to_torch(torch.sparse_coo).detach().cpu()).tocsr()

    def diagonal(self) -> Tensor:
        """`A_ii`, `(*batch, min(rows, columns))`, differentiably; zero where nothing is stored.

        >>> import torch, sparsolve as sps
        >>> sps.SparseMatrix.from_torch(torch.tensor([[2.0, 1.0], [3.0, 0.0]]).to_sparse()).diagonal()
        tensor([2., 0.])
        """
        return diagonal(self.values, self.pattern)

    def coalesce(self) -> SparseMatrix:
        """The same matrix with one entry for each place, in the order of rows and columns, differentiably; on the same pattern where it is like that.

        Sorts the entries in each call. Not in compiled code, and on the meta device a TypeError, since how many there will be depends on numbers.

        >>> import torch, sparsolve as sps
        >>> twice = torch.tensor([0, 0])
        >>> sps.SparseMatrix.from_coo(torch.tensor([1.0, 2.0]), twice, twice, (1, 1)).coalesce().values
        tensor([3.])
        """
        return SparseMatrix(*coalesced(self.values, self.pattern))

    def submatrix(self, rows: Tensor, columns: Tensor | None = None) -> SparseMatrix:
        """`A[rows][:, columns]`, differentiably; sorts in each call, and is not for compiled code: see `Pattern.submatrix`.

        Args:
            rows: `(m,)` indices, each once, or a mask.
            columns: `(n,)`, likewise; None is the same as rows.

        Raises:
            TypeError, ValueError: of what are no indices, out of range, or come twice.

        >>> import torch, sparsolve as sps
        >>> A = sps.SparseMatrix.from_torch(torch.tensor([[2.0, 1.0], [3.0, 0.0]]).to_sparse())
        >>> A.submatrix(torch.tensor([True, False]), torch.tensor([1, 0])).to_dense()
        tensor([[1., 2.]])
        """
        require_length(self.values, require_pattern(self.pattern))
        pattern, entries = self.pattern.submatrix(rows, columns)
        return SparseMatrix(self.values[..., entries], pattern)

    @property
    def mT(self) -> SparseMatrix:
        """The transpose `Aᵀ`, differentiably.

        >>> import torch, sparsolve as sps
        >>> sps.SparseMatrix.from_torch(torch.tensor([[2.0, 1.0], [3.0, 0.0]]).to_sparse()).mT.to_dense()
        tensor([[2., 3.],
                [1., 0.]])
        """
        return SparseMatrix(*transposed(self.values, self.pattern))

    @property
    def mH(self) -> SparseMatrix:
        """The adjoint `Aᴴ`, differentiably; `solve(A, b, adjoint=True)` needs no factorization of its own, `solve(A.mH, b)` does.

        >>> import torch, sparsolve as sps
        >>> sps.SparseMatrix.from_diagonal(torch.tensor([1 + 2j])).mH.to_dense()
        tensor([[1.-2.j]])
        """
        A = self.mT
        return SparseMatrix(A.values.conj(), A.pattern) if A.values.is_complex() else A

    T, H = mT, mH  # as for a 2-D tensor: shape leaves batch dimensions out

    def __reduce__(self) -> tuple[Any, ...]:
        return SparseMatrix, (self.values, self.pattern)

    @overload
    def __matmul__(self, x: Tensor) -> Tensor: ...

    @overload
    def __matmul__(self, x: SparseMatrix) -> SparseMatrix: ...

    def __matmul__(self, x: Any) -> Any:
        """`A x` with a tensor, as `sparsolve.matmul`; with a `SparseMatrix` the product of both, sparse and coalesced, differentiably.

        >>> import torch, sparsolve as sps
        >>> B = sps.SparseMatrix.from_torch(torch.tensor([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]]).to_sparse())  # of edges
        >>> (B.mT @ B).to_dense()
        tensor([[ 1., -1.,  0.],
                [-1.,  2., -1.],
                [ 0., -1.,  1.]])
        """
        if isinstance(x, Tensor):
            return multiply(self, x, adjoint=False)
        if isinstance(x, SparseMatrix):
            return SparseMatrix(*product(self.values, self.pattern, x.values, x.pattern))
        if isinstance(x, (np.ndarray, list)) or scipy.sparse.issparse(x):
            raise no_product(x)
        return NotImplemented

    def __getitem__(self, index: Any) -> NoReturn:
        raise no_part()

    def __rmatmul__(self, x: Any) -> Any:
        raise from_the_left(x)

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
    values, x, restore, _ = plan(A.values, A.pattern, x, rows if adjoint else columns, "x")
    return restore(calculus.matmul(values, A.pattern.crow, A.pattern.col, x, columns, adjoint))
