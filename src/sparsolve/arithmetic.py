"""Sums, multiples and diagonals of values on patterns: compositions of torch operations, right under every transform."""

from __future__ import annotations

import operator
from numbers import Complex, Number, Real
from typing import Any, TypeVar

import torch
from torch import Tensor

from .errors import is_dense, sentence
from .holder import Holder
from .indices import equal, readable
from .levels import constant
from .operands import require_batches, require_dense, require_length, require_pattern
from .pattern import Pattern, by_rows, unchecked
from .selection import added_up, joined, taken

__all__ = [
    "Arithmetic",
    "diagonal",
    "diagonal_pattern",
    "from_the_left",
    "no_part",
    "no_product",
    "no_sum",
    "ordered",
    "transposed",
]


M = TypeVar("M", bound="Arithmetic")


class Arithmetic(Holder):
    """Values on a pattern, with `+`, `-`, and `*` and `/` by scalars, differentiably."""

    __slots__ = ()
    __array_ufunc__ = None  # NumPy's scalars and arrays leave the operators to this class

    def __add__(self: M, other: Any) -> M:
        if not isinstance(other, Arithmetic):
            raise no_sum(other)
        return type(self)(*added(self.values, self.pattern, other.values, other.pattern))

    def __radd__(self: M, other: Any) -> M:
        if isinstance(other, int) and other == 0:  # what `sum` begins with
            return self
        raise no_sum(other)

    def __sub__(self: M, other: Any) -> M:
        if not isinstance(other, Arithmetic):
            raise no_sum(other)
        return self + -other

    def __neg__(self: M) -> M:
        return type(self)(-self.values, self.pattern)

    def __mul__(self: M, s: Any) -> M:
        return type(self)(self.values * require_scalar(s), self.pattern)

    __rmul__ = __mul__

    def __truediv__(self: M, s: Any) -> M:
        return type(self)(self.values / require_scalar(s), self.pattern)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return by_tensor(function, args)


def added(a: Tensor, pattern: Pattern, b: Tensor, other: Pattern) -> tuple[Tensor, Pattern]:
    """`A + B`: value by value on one pattern; a diagonal matrix onto the diagonal of the other, where that one stores it; else the entries of
    both, row by row, which add up where they share a place.

    Compiled code cannot compare indices, so one pattern is one object there, and a diagonal is not known.
    """
    require_length(a, require_pattern(pattern))
    require_length(b, require_pattern(other))
    if pattern.shape != other.shape:
        raise ValueError(sentence(f"A has shape {pattern.shape} and B {other.shape}; a sum needs equal ones."))
    if a.device != b.device:
        raise ValueError(sentence(f"A is on {a.device} and B on {b.device}.", remedy="Use A.to(device)."))
    require_batches(a.shape[:-1], b.shape[:-1], "B")
    if pattern is other:
        return a + b, pattern
    if readable(pattern.crow, pattern.col, other.crow, other.col):
        if pattern == other:
            return a + b, pattern
        for onto, form, d, diagonal in ((a, pattern, b, other), (b, other, a, pattern)):
            if _is_diagonal(diagonal) and (places := _diagonal_places(form)) is not None:
                return _onto(onto, places, d), form
    batch = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    dtype = torch.promote_types(a.dtype, b.dtype)
    form, order = _side_by_side(pattern, other)
    return joined([t.to(dtype).expand(*batch, t.shape[-1]) for t in (a, b)], order), form


@constant
def _side_by_side(pattern: Pattern, other: Pattern) -> tuple[Pattern, Tensor]:
    """The entries of both, and their order."""
    row, col = torch.cat([pattern.rows(), other.rows()]), torch.cat([pattern.col, other.col])
    return by_rows(row, col, pattern.shape)


@constant
def _is_diagonal(pattern: Pattern) -> bool:
    n = pattern.nnz
    if pattern.shape != (n, n):
        return False
    ends = torch.arange(n + 1, device=pattern.device, dtype=pattern.col.dtype)
    return equal(pattern.crow, ends) and equal(pattern.col, ends[:-1])


@constant
def _diagonal_places(pattern: Pattern) -> Tensor | None:
    """Where the entries of the diagonal are, if each is stored, once."""
    places = (pattern.rows() == pattern.col).nonzero()[:, 0]
    n = pattern.shape[0]
    each = torch.arange(n, device=pattern.device, dtype=pattern.col.dtype)
    return places if len(places) == n and equal(pattern.col[places], each) else None


def _onto(values: Tensor, places: Tensor, d: Tensor) -> Tensor:
    """`values[..., places] += d`, as a new tensor."""
    dtype = torch.promote_types(values.dtype, d.dtype)
    batch = torch.broadcast_shapes(values.shape[:-1], d.shape[:-1])
    values, d = (t.to(dtype).expand(*batch, t.shape[-1]) for t in (values, d))
    return values.index_add(-1, places, d)


def ordered(values: Tensor, pattern: Pattern, order: Tensor) -> tuple[Tensor, Pattern]:
    """Values given in another order of the entries than the pattern's."""
    require_length(values, pattern)
    return taken(values, order), pattern


def transposed(values: Tensor, pattern: Pattern) -> tuple[Tensor, Pattern]:
    """The entries of `Aᵀ`."""
    return ordered(values, *require_pattern(pattern).adjoint())


def diagonal(values: Tensor, pattern: Pattern) -> Tensor:
    """`A_ii`, `(*batch, min(rows, columns))`: duplicates add up, and what is not stored is zero."""
    require_length(values, require_pattern(pattern))
    row = pattern.rows()
    own = torch.where(row == pattern.col, values, 0)
    return added_up(own, pattern.crow, row)[..., : pattern.shape[1]]


def diagonal_pattern(d: Tensor) -> Pattern:
    """Of the diagonal matrix of `d`."""
    require_dense("d", d)
    if d.dim() == 0:
        raise ValueError(sentence("d is a number; a diagonal (*batch, n) is needed.", remedy="Use d.expand(n)."))
    return _diagonal_of(d.shape[-1], d.device)


@constant
def _diagonal_of(n: int, device: torch.device) -> Pattern:
    ends = torch.arange(n + 1, device=device)
    return unchecked(ends, ends[:-1].clone(), (n, n))


def require_scalar(s: Any) -> Any:
    """A number, or a tensor of no dimensions: of a vector nobody knows whether it scales rows, columns or a batch."""
    if isinstance(s, Tensor) and s.dim() == 0 and is_dense(s):
        return s
    if isinstance(s, (int, float, complex)):
        return s
    if isinstance(s, Number):  # torch drops the imaginary part of NumPy's complex64, and knows no Fraction
        number: complex = complex(s)  # type: ignore[call-overload]
        return number if isinstance(s, Complex) and not isinstance(s, Real) else number.real
    what = f"a tensor of shape {tuple(s.shape)}" if isinstance(s, Tensor) else f"a {type(s).__name__}"
    raise TypeError(
        sentence(
            f"A is multiplied or divided by {what}; a number, or a tensor of no dimensions, is needed.",
            "To scale rows or columns, or to make a batch, perhaps.",
            "Scale the values: A.values * d[A.pattern.rows()] for rows, * d[A.pattern.col] for columns, * s[:, None] for a batch.",
        )
    )


def no_product(x: Any) -> TypeError:
    """What is wrong with `A @ x`, where x is no tensor."""
    if hasattr(x, "tocsr"):
        remedy = "Use SparseMatrix.from_scipy(M)."
        return TypeError(sentence(f"A @ M: M is a {type(x).__name__}, not a SparseMatrix.", remedy=remedy))
    return TypeError(sentence(f"A @ x: x is a {type(x).__name__}, not a torch.Tensor.", remedy="Use torch.as_tensor."))


def no_part() -> TypeError:
    """What is wrong with `A[i, j]`."""
    remedy = "A.submatrix(rows, columns) takes indices or masks; A.values with A.pattern.rows() and A.pattern.col are the entries."
    return TypeError(sentence("A[...]: a SparseMatrix is not indexed.", remedy=remedy))


def no_sum(x: Any) -> TypeError:
    """What is wrong with `A + x` and `A - x`, where x is no `SparseMatrix`."""
    return TypeError(
        sentence(
            f"x in A + x or A - x is a {type(x).__name__}; a SparseMatrix is needed.",
            "A shift of the diagonal, or a matrix of torch's or SciPy's, perhaps.",
            "Add SparseMatrix.from_diagonal(d), SparseMatrix.from_torch(x) or SparseMatrix.from_scipy(x).",
        )
    )


def from_the_left(x: Any) -> TypeError:
    """What is wrong with `x @ A`."""
    remedy = "Use sparsolve.matmul(A.mT, x) for a vector x, and (A.mT @ X.mT).mT for a matrix X."
    return TypeError(
        sentence(
            f"x @ A, with x of type {type(x).__name__}: nothing multiplies a SparseMatrix from the left.", "", remedy
        )
    )


def by_tensor(function: Any, args: Any) -> Any:
    """`s * A` with a tensor s; in compiled code also `A * s` and `A / s`, which Dynamo looks up on the tensor, operands swapped.

    So it has one name for `A @ x` and `x @ A`, and neither is answered. A strict export has the operators as they were written.
    """
    if function in (torch.Tensor.mul, operator.mul):
        s, A = args if isinstance(args[0], Tensor) else args[::-1]
        return A.__mul__(s)
    if function is torch.Tensor.__rdiv__ and torch.compiler.is_compiling():
        return args[1].__truediv__(args[0])
    if function in (operator.truediv, operator.matmul) and not isinstance(args[0], Tensor):
        return args[0].__truediv__(args[1]) if function is operator.truediv else args[0].__matmul__(args[1])
    raise TypeError(
        sentence(
            f"torch's {getattr(function, '__name__', function)} does not take a SparseMatrix.",
            "Dynamo takes A @ x for it." if torch.compiler.is_compiling() else "",
            "Use sparsolve.matmul(A, x) or solve(A, b), compute with A.values, or use A.to_dense().",
        )
    )
