"""The determinants of one call: of each matrix of a batch, several at once, on threads, or one after another; and derivatives of their inverses.

Arrays in, arrays out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .arrays import namespace, on_host
from .backends import FactorKey, device_module, solver_module
from .batch import Batch, located
from .errors import SolveError
from .memo import FACTORS
from .retention import Source
from .solvers import asked
from .threads import each_after_the_first

__all__ = ["COLUMNS", "Determinants"]

COLUMNS = 128  # of the identity at a time, where the entries of an inverse are solved for


class Determinants:
    """Of several matrices on one pattern, each found once for its value and its gradients.

    Args:
        device: where the arrays are.
        structure: the device module's analysis of the pattern.
        values: `(matrices, nnz)`.
        solver: the string that an op calls it.
        source: where the first matrix came from.
        distinct: whether no matrix is there twice, as far as is known.
    """

    def __init__(
        self, device: str, structure: Any, values: Any, solver: str, source: Source, *, distinct: bool
    ) -> None:
        self._device, self._structure, self._solver = device, structure, solver
        self._values, self._source = values, source
        self._on, self._module = device_module(device), solver_module("slogdet", device)
        (self._record, self._key, _), self._distinct = asked(solver), distinct

    def found(self) -> list[Any]:
        """What is known of each, as `Determinant` has it."""
        known: list[Any] = []
        for some in self._together():
            known += some.each
        known += [None] * (len(self._values) - len(known))
        left = [i for i, one in enumerate(known) if one is None]
        others = each_after_the_first(
            lambda i: self._one(left[i]), len(left), worthwhile=lambda first: first.worth_a_thread
        )
        for i, one in zip(left, others, strict=True):
            known[i] = one
        return known

    def derivatives(self, directions: Any) -> Any:
        """`−(A⁻ᴴ Wᴴ A⁻ᴴ)` at the entries of each, for W with entries `(matrices, nnz)`."""
        out, left = self._on.empty(self._values.shape, self._values), list(range(len(self._values)))
        start = 0
        for some in self._together():
            known = [start + i for i, one in enumerate(some.each) if one is not None]
            part = slice(start, start + len(some.each))
            if known:
                out[part] = namespace(out).asarray(some.derivatives(on_host(directions[part])))
                left = sorted(set(left) - set(known))
            start = part.stop
        if left:
            at = slice(None) if len(left) == len(out) else namespace(out).asarray(left)
            found = self._module.derivatives(self._structure, self._values[at], directions[at], self._record)
            for i, one in zip(left, found, strict=True):
                out[i] = -self._solved(i, directions[i]) if one is None else namespace(out).asarray(one)
        return out

    def _together(self) -> Iterator[Any]:
        """Several at once, where the module does that."""
        how = self._module.together(self._structure, self._record) if self._distinct else None
        if how is None:
            return
        width, make = how
        for i in range(0, len(self._values), width):
            yield FACTORS.get(self._whole("determinants"), (self._values[i : i + width],), make, self._source.at(i))

    def _one(self, i: int) -> Any:
        """One by itself."""

        def remembered(make: Callable[[Any], Any]) -> Any:
            return FACTORS.get(self._whole(), (self._values[i],), make, self._source.at(i))

        try:
            return self._module.factorize(self._structure, self._values[i], self._record, remembered)
        except SolveError as error:
            place = i if len(self._values) > 1 else None
            raise located(error, place, False, "") from error.__cause__

    def _solved(self, i: int, w: Any) -> Any:
        """`(A⁻ᴴ Wᴴ A⁻ᴴ)` on the pattern, `Σ_k (A⁻ᴴ e_k) (A⁻¹ W e_k)ᴴ`, some columns of the identity at a time."""
        on, v, n = self._on, self._values[i : i + 1], self._structure.shape[0]
        W, total, xp = on.matrix(self._structure, w), 0, namespace(v)

        def solved(b: Any, adjoint: bool) -> Any:
            batch = Batch(
                self._device,
                self._structure,
                v,
                b[None],
                None,
                self._solver,
                self._source.at(i),
                adjoint=adjoint,
                report=False,
            )
            batch.solve(distinct=False)
            return batch.x

        for start in range(0, n, COLUMNS):
            places = xp.arange(min(COLUMNS, n - start))
            unit = xp.zeros((n, len(places)), dtype=v.dtype)
            unit[start + places, places] = 1
            right = solved(on.multiply(W, unit, adjoint=False), False)
            total = total + on.sampled(self._structure, solved(unit, True), right)[0]
        return total

    def _whole(self, what: str = "determinant") -> FactorKey:
        return FactorKey(self._key, self._structure, self._values.dtype, what)
