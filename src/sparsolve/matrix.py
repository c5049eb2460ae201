"""`SparseMatrix`: differentiable values on a constant pattern, a pytree whose only leaf is `values`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import optree
import torch
import torch.utils._pytree as torch_pytree
from torch import Tensor

from . import calculus
from .compressed import compressed, parts, require_sparse
from .convert import t2c_csr
from .errors import sentence
from .operands import plan, require_pattern
from .pattern import Pattern, check_places, pointers, unchecked

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
        shape = (T.shape[0], T.shape[1])
        if T.layout is torch.sparse_coo:
            return cls(*_of_coo(T, shape))
        values, outer, plain = parts(T)
        if T.layout is torch.sparse_csr:
            return cls(values, unchecked(outer, plain, shape))
        pattern, order = unchecked(outer, plain, (shape[1], shape[0])).adjoint()
        return cls(values[order], pattern)

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
        return t2c_csr(self.to_torch().detach().cpu()).copy()

    @property
    def mH(self) -> SparseMatrix:
        """The adjoint `Aᴴ`, differentiably."""
        pattern, order = require_pattern(self.pattern).adjoint()
        values = self.values[..., order]
        return SparseMatrix(values.conj() if values.is_complex() else values, pattern)

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

    def __matmul__(self, x: Any) -> Any:
        return multiply(self, x, adjoint=False) if isinstance(x, Tensor) else NotImplemented

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


def _of_coo(T: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Pattern]:
    """Values and pattern of a COO tensor; one that is called coalesced and is not loses the name, and is coalesced."""
    named = T.is_coalesced()
    if not named or not _canonical(T.indices()):
        row, col = T._indices().unbind()
        check_places(row, col, shape)  # before coalesce(), which takes them as right
        T = (T.t().t() if named else T).coalesce()
    row, col = T.indices().unbind()
    # cloned, for Dynamo fails at views of a sparse tensor
    return T.values().clone(), unchecked(pointers(row.contiguous(), shape[0]), col.clone(), shape)


def _canonical(indices: Tensor) -> bool:
    """Whether each entry comes after the one before it in row-major order; taken to be so where that cannot be read."""
    if torch.compiler.is_compiling():
        return True
    (row, col), (before, left) = indices[:, 1:].unbind(), indices[:, :-1].unbind()
    try:
        return bool(((row > before) | ((row == before) & (col > left))).all())
    except RuntimeError:
        return True


def _flatten(A: SparseMatrix) -> tuple[tuple[Any], Pattern]:
    return (A.values,), A.pattern


def _unflatten_torch(leaves: Any, pattern: Pattern) -> SparseMatrix:
    (values,) = leaves
    return SparseMatrix(values, pattern)


def _unflatten_optree(pattern: Pattern, leaves: Any) -> SparseMatrix:
    return _unflatten_torch(leaves, pattern)


def _pattern_to_json(pattern: Pattern) -> Any:
    return [str(pattern.col.dtype), pattern.crow.tolist(), pattern.col.tolist(), list(pattern.shape)]


def _pattern_from_json(data: Any) -> Pattern:
    dtype = torch.int32 if data[0] == "torch.int32" else torch.int64
    crow, col = (torch.tensor(a, dtype=dtype, device="cpu") for a in data[1:3])
    return Pattern(crow, col, tuple(data[3]))


torch_pytree.register_pytree_node(
    SparseMatrix,
    _flatten,  # type: ignore[arg-type]
    _unflatten_torch,
    serialized_type_name="sparsolve.SparseMatrix",
    to_dumpable_context=_pattern_to_json,
    from_dumpable_context=_pattern_from_json,
)
optree.register_pytree_node(
    SparseMatrix,  # type: ignore[arg-type]
    _flatten,  # type: ignore[arg-type]
    _unflatten_optree,  # type: ignore[arg-type]
    namespace=optree.registry.__GLOBAL_NAMESPACE,
)
