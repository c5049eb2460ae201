"""`Product`: the product of two sparse matrices whose patterns stay, for compiled code and for loops.

    (A B)_ij = Σ_k A_ik B_kj,    values  c = S ((P a) ∘ (Q b))

P and Q take the entries that meet, S adds up those for one place: three sparse matrices of ones, which the patterns alone decide. So this is two sparse
products, a product of numbers and one more sparse product, whose derivatives are of the same kind.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import kind_of, sentence
from .indices import pointers
from .levels import constant
from .matrix import SparseMatrix
from .operands import require_batches, require_dtype, require_length, require_pattern, uncast
from .pattern import Pattern
from .products import look, terms
from .selection import Ones, times

__all__ = ["Product"]


class Product:
    """`C = A B` for matrices on two patterns: made once, called with any values, in compiled code too.

    Args:
        left: pattern of A, `(rows, m)`; a SparseMatrix stands for its own.
        right: pattern of B, `(m, columns)`.

    Attributes:
        pattern: of C, one entry for each place, sorted.

    Raises:
        TypeError, ValueError: other objects; sizes or devices that do not fit. `PatternError`: indices that describe no matrix.

    Transforms:
        All, and compiled code, in the values of A and B.

    Cost:
        Making it sorts the pairs of entries that meet. A call takes a few passes over these pairs, where `A @ B` sorts them each time.

    >>> import torch, sparsolve as sps
    >>> B = sps.SparseMatrix.from_torch(torch.tensor([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]]).to_sparse())  # of edges
    >>> weighted = sps.Product(B.mT, B)
    >>> weighted(B.mT, B).to_dense()
    tensor([[ 1., -1.,  0.],
            [-1.,  2., -1.],
            [ 0., -1.,  1.]])
    """

    __slots__ = ("_left", "_right", "_sums", "_take_left", "_take_right", "pattern")

    def __init__(self, left: Pattern | SparseMatrix, right: Pattern | SparseMatrix) -> None:
        if torch.compiler.is_compiling():
            fact = "A Product is made inside of compiled code, where indices have no numbers."
            raise TypeError(sentence(fact, remedy="Make it outside, and call it inside."))
        self._left, self._right = _pattern(left), _pattern(right)
        self._take_left, self._take_right, self._sums, self.pattern = _ones(self._left, self._right)

    def __call__(self, A: SparseMatrix, B: SparseMatrix) -> SparseMatrix:
        """`A B`, with values `(*batch, nnz)` for batches that broadcast.

        Args:
            A, B: on the two patterns.

        Raises:
            TypeError, ValueError: other objects, a matrix on another pattern, batches that do not broadcast.
        """
        a, b = self._values("A", A, self._left), self._values("B", B, self._right)
        require_batches(a.shape[:-1], b.shape[:-1], "B")
        dtype = torch.promote_types(a.dtype, b.dtype)
        met = times(self._take_left, a.to(dtype)) * times(self._take_right, b.to(dtype))
        return SparseMatrix(times(self._sums, met), self.pattern)

    def __repr__(self) -> str:
        return f"Product({self._left!r}, {self._right!r})"

    def _values(self, name: str, A: SparseMatrix, pattern: Pattern) -> Tensor:
        """Those of a matrix on the pattern that is meant."""
        if not isinstance(A, SparseMatrix):
            raise TypeError(sentence(f"{name} is {kind_of(A)}; a SparseMatrix is needed."))
        # of traced indices there are no numbers to compare
        same = torch.compiler.is_compiling() or A.pattern == pattern
        if not same or (A.shape, A.nnz) != (pattern.shape, pattern.nnz):
            raise ValueError(
                sentence(
                    f"{name} is on another pattern than this product's, {A.pattern} and {pattern}.",
                    "Entries in another order, or A and B in each other's place, perhaps.",
                    "Make a Product of the two that are multiplied.",
                )
            )
        values = uncast(A.values)
        require_length(values, pattern)
        require_dtype(name, values)
        return values


def _pattern(given: Pattern | SparseMatrix) -> Pattern:
    """One whose indices have been looked at."""
    pattern = require_pattern(given.pattern if isinstance(given, SparseMatrix) else given)
    look(pattern)
    return pattern


@constant
def _ones(left: Pattern, right: Pattern) -> tuple[Ones, Ones, Ones, Pattern]:
    """P, Q and S, the pairs in the order of the places that they go to; and C's pattern."""
    p, q, pattern, order, place = terms(left, right)
    p, q, count = p[order], q[order], len(order)
    each = torch.arange(count + 1, device=p.device)
    sums = pointers(place, pattern.nnz)
    return Ones(each, p, left.nnz), Ones(each, q, right.nnz), Ones(sums, each[:-1], count), pattern
