"""What a direct solver may do with a matrix: the strategies, in the order in which they are tried.

Each module of `solvers.BACKENDS` lists its strategies with what they suit and how they decompose. The first that suits is taken; the
next follows where it fails or its solutions cannot be believed. The last one is LU with partial pivoting, which decides.
A new one is a name there, another in `result.Strategy`, and a module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from ..caching import cached_property
from ..errors import BackendUnavailableError, sentence
from ..result import Strategy
from ..solvers import BACKENDS
from .decomposition import Kind, NotPositive
from .host import Structure, gathered
from .matching import structural_rank
from .ordering import Ordering

__all__ = ["BACKENDS", "Candidate", "Decomposition", "Matrix", "Suits", "candidates", "cholesky", "missing", "usable"]

_STRONG = 0.99  # share of nonzero diagonal entries
_AT_FIRST = 64  # entries compared before the rest


class Decomposition(Protocol):
    """A matrix, decomposed.

    Optional attributes: `columns`, how many right-hand sides are best solved at a time; `apart`, whether two take twice as long as one;
    `threads`, whether `solve` releases the GIL, so that threads can solve side by side; `perturbed`, how many pivots were replaced; and
    where it proves something, `condition`, in the norm of row sums at most, with `least`, which no row's norm is below.
    """

    @property
    def nbytes(self) -> int:
        """Bytes held."""

    def solve(self, b: Any, trans: str = "N") -> Any:
        """`A⁻¹ b`, `A⁻ᵀ b` (`"T"`) or `A⁻ᴴ b` (`"H"`), a new array, for `b` `(n,)` or `(n, k)`; `b` is left alone."""


class Matrix:
    """A square matrix, and what strategies ask about it, found out once.

    Attributes:
        structure: the analysis of its pattern, without duplicates; `structure.found` is there for what strategies find out.
        values: its entries as given, read-only.
        pinned: whether the user chose the backend; then whatever is possible suits, whether it pays or not.
    """

    def __init__(self, structure: Structure, values: Any, pinned: bool = False) -> None:
        self.structure, self.values, self.pinned = structure, values, pinned

    @classmethod
    def of(cls, structure: Structure, A: Any) -> Matrix:
        """Of a canonical SciPy CSC matrix, which is at hand."""
        matrix = cls(structure, None)
        matrix.A = A
        return matrix

    @cached_property
    def A(self) -> Any:
        """Canonical SciPy CSC matrix; its arrays are not to be written to."""
        return self.structure.csc(self.values)

    @cached_property
    def diagonal(self) -> Any:
        """The diagonal entries that are stored."""
        return self.A.data[self.structure.diagonal]

    @cached_property
    def strong_diagonal(self) -> bool:
        """Whether at least 99% of the diagonal is nonzero."""
        return bool(np.count_nonzero(self.diagonal) >= _STRONG * self.structure.shape[0])

    @cached_property
    def structurally_singular(self) -> bool:
        """Whether the places of its nonzeros alone make it singular: no n of them are in different rows and columns.

        (Davis, Direct Methods for Sparse Linear Systems, section 7.2.) SuperLU runs out of rows there. The rank is found once, and
        again where other entries are zero.
        """
        n, found = self.structure.shape[0], self.structure.found
        if np.count_nonzero(self.diagonal) == n:
            return False
        nonzero = self.A.data != 0
        before, rank = found.get("structural rank", (None, 0))
        if before is None or not np.array_equal(before, nonzero):
            nonzeros = self.A.copy()
            nonzeros.eliminate_zeros()
            rank = structural_rank(nonzeros)
            found["structural rank"] = nonzero, rank
        return bool(rank < n)

    @cached_property
    def unfit(self) -> bool:
        """Whether SuperLU must not see it: where it finds no number to divide by, it may write outside of its memory."""
        return not np.isfinite(self.A.data).all() or self.structurally_singular

    @cached_property
    def positive_diagonal(self) -> bool:
        """Whether all of the diagonal is real and positive, as it is where A is Hermitian positive definite."""
        d = self.diagonal
        if len(d) < self.structure.shape[0] or not (d.real > 0).all():
            return False
        return d.dtype.kind != "c" or not d.imag.any()

    @cached_property
    def symmetric(self) -> bool:
        """`A = Aᵀ`, exactly."""
        return self._is_its(lambda data: data)

    @cached_property
    def hermitian(self) -> bool:
        """`A = Aᴴ`, exactly."""
        return self._is_its(np.conjugate) if self._numbers.dtype.kind == "c" else self.symmetric

    @property
    def known_hermitian(self) -> bool:
        """Whether somebody has asked, and it is."""
        return "hermitian" in vars(self) and self.hermitian

    def found_indefinite(self) -> None:
        """Nobody is to guess again on this pattern in this precision, if these numbers tell anything of others."""
        if np.isfinite(self._numbers).all():
            self.structure.found["indefinite", self._numbers.dtype.char] = True

    @property
    def unlikely_positive(self) -> bool:
        """Whether another matrix on its pattern has been found to be indefinite."""
        return ("indefinite", self._numbers.dtype.char) in self.structure.found

    @property
    def _numbers(self) -> Any:
        return self.A.data if self.values is None else self.values

    def _is_its(self, of: Callable[[Any], Any]) -> bool:
        """Whether A is its transpose, or that conjugated. An entry that only one of them stores has to be zero."""
        structure, values = self.structure, self.values
        if structure.mirror is None:
            own = self.A.data
            return not own.all() and not (structure.filled(of(own)).T.tocsc() != self.A).nnz
        if values is None or not structure.sorted:
            own = self.A.data
            return bool((gathered(own, structure.mirror) == of(own)).all())
        # row by row the values are those of Aᵀ column by column; most that are not equal differ at once
        few = structure.order[:_AT_FIRST]
        return bool((values[few] == of(values[:_AT_FIRST])).all() and (self.A.data == of(values)).all())

    @property
    def filled(self) -> float:
        """Entries of the factors, as far as they are known: those of an earlier factorization of the pattern, or the matrix's own."""
        found = list(self.structure.found.values())  # at once: another thread may add to it
        fills = [f.fill for f in found if isinstance(f, Ordering) and f.fill > 0]
        return min(fills) * self.structure.shape[0] if fills else len(self.structure.csc_indices)

    @property
    def came_before(self) -> bool:
        """Whether other values on this pattern have been decomposed."""
        return "decomposed" in self.structure.found

    @cached_property
    def kind(self) -> Kind:
        """What the matrix is known to be; "positive" is a guess that a factorization has to prove."""
        if self.hermitian:
            return "positive" if self.positive_diagonal else "hermitian"
        return "symmetric" if self.symmetric else "general"


Suits: TypeAlias = Callable[[Matrix], str | None]


class Candidate(NamedTuple):
    """One strategy.

    Attributes:
        strategy: its name.
        suits: why it is right for this matrix, in a clause; None where it is not.
        decompose: decompose the matrix; raises `DecompositionError` where it cannot.
        definite: whether it finds out by itself that a matrix is not positive definite, as `Cholesky()` wants.
    """

    strategy: Strategy
    suits: Suits
    decompose: Callable[[Matrix], Decomposition]
    definite: bool = False


def cholesky(
    strategy: Strategy, pays: Suits, decompose: Callable[[Matrix], Decomposition]
) -> tuple[Candidate, Candidate]:
    """Cholesky of what may be positive definite, for `LU()`: not again on a pattern where it was not; and for `Cholesky()`."""

    def suits(matrix: Matrix) -> str | None:
        why = pays(matrix)
        return f"it is positive perhaps, and {why}" if why is not None and matrix.kind == "positive" else None

    def hopeful(matrix: Matrix) -> str | None:
        hopeless = matrix.unlikely_positive or matrix.structure.mirror is None
        return None if hopeless and not matrix.pinned else suits(matrix)

    def proven(matrix: Matrix) -> Decomposition:
        try:
            return decompose(matrix)
        except NotPositive:
            matrix.found_indefinite()
            raise

    return Candidate(strategy, hopeful, proven), Candidate(strategy, suits, proven, definite=True)


def candidates(matrix: Matrix, backend: str | None, *, definite: bool) -> Iterator[tuple[Candidate, str]]:
    """The strategies that suit, best first, and why.

    Args:
        matrix: to be decomposed.
        backend: one of `BACKENDS`, to have its strategies only.
        definite: those for `Cholesky()`, or those for `LU()`.
    """
    for module in _modules(backend):
        for candidate in module.CANDIDATES:
            if candidate.definite == definite and (why := candidate.suits(matrix)) is not None:
                yield candidate, why


@cache
def _modules(backend: str | None) -> tuple[ModuleType, ...]:
    """The modules that can be used here."""
    if backend == "cudss":
        raise BackendUnavailableError(
            sentence(
                "cuDSS solves CUDA tensors, and A and b are on the CPU.", remedy="Leave backend out, or move A and b."
            )
        )
    found = []
    for name in BACKENDS if backend is None else (backend,):
        module = import_module(f".{name}", __package__)
        why = module.missing() if hasattr(module, "missing") else None
        if why is None:
            found.append(module)
        elif backend is not None:
            raise BackendUnavailableError(why)
    return tuple(found)


def usable(backend: str) -> bool:
    """Whether it takes part in the choice."""
    return any(module.__name__.endswith(f".{backend}") for module in _modules(None))


def missing() -> dict[str, str]:
    """The backends that cannot be used here, with the reason and the remedy."""
    named = {name: import_module(f".{name}", __package__) for name in BACKENDS}
    return {name: why for name, module in named.items() if hasattr(module, "missing") and (why := module.missing())}
