"""The determinant of a balanced matrix, and the entries of the inverse that its gradient needs, from one factorization.

SciPy's copies of L and U are let go of as soon as the inverse is there.
"""

from __future__ import annotations

import math
import threading
from typing import Any

from ..solvers import LU, Cholesky
from . import Remembered
from .balance import balanced, scaled
from .dense_determinant import together
from .host import Structure
from .inverse_derivative import derivatives
from .readable import ReadableFactor, entry_of

__all__ = ["Determinant", "derivatives", "factorize", "together"]


def factorize(structure: Structure, values: Any, solver: LU | Cholesky, remembered: Remembered) -> Determinant:
    """The determinant of a matrix; raises as `direct.factorize` does."""
    return remembered(lambda values: Determinant(structure, values, solver))  # type: ignore[no-any-return]


class Determinant:
    """Of one matrix.

    Args:
        structure, values: of the matrix.
        solver: `Cholesky()` for an error where A is not Hermitian positive definite.

    Attributes:
        log: `log |det A|`; of a complex matrix `log det A`, whose imaginary part is between -π and π.
        sign: of a real one, 1.0 or -1.0.
        nbytes: of the factors and of SciPy's copy of them, which the inverse replaces.
        worth_a_thread: whether another matrix like this one is.
    """

    def __init__(self, structure: Structure, values: Any, solver: LU | Cholesky) -> None:
        self._structure, self._lock, self._inverse = structure, threading.Lock(), None
        self._factor: ReadableFactor | None = None
        self.log, self.sign, self.nbytes, self.worth_a_thread = 0.0, 1.0, 0, False
        if structure.shape[0]:
            balance = balanced(structure.unique, structure.merged(values))
            self._factor = factor = ReadableFactor(structure.unique, balance.values, solver)
            log, self.sign = factor.determinant()
            self.log, self._powers = log + math.log(2) * balance.total, balance.powers
            self.nbytes, self.worth_a_thread = 2 * factor.nbytes, factor.worth_a_thread

    def inverse(self) -> Any:
        """`A⁻ᴴ` at the entries of A as given, `(nnz,)`: found once."""
        with self._lock:
            if self._factor is not None:
                inverse = scaled(self._factor.inverse(), -self._powers)
                self._inverse = inverse.conj()[entry_of(self._structure)]
                self._factor = None
            return self._inverse
