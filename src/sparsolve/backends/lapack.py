"""Banded matrices by LAPACK: no ordering, no index arrays, and block operations where the band is wide.

`gttrf` for tridiagonal matrices, `gbtrf` for others, both with partial pivoting; `pttrf` and `pbtrf` for `Cholesky()`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np
from scipy.linalg.lapack import get_lapack_funcs

from ..result import Strategy
from .strategy import Candidate, Matrix

__all__ = ["CANDIDATES"]

_WORK = {"f": 3000, "d": 3000, "F": 750, "D": 750}  # flops of the band that take SuperLU's time for an entry
_FITS = 2**28  # numbers of a band, 2 GiB in double precision: what is done where it was asked for
_TRANS = {"N": 0, "T": 1, "H": 2}


@cache
def _lapack(char: str, *names: str) -> Any:
    return get_lapack_funcs(names, dtype=np.dtype(char))


def _succeeded(info: int, what: str) -> None:
    if info:
        raise RuntimeError(f"LAPACK's {what} returned {info}.")


def _is_tridiagonal(matrix: Matrix) -> str | None:
    n, (kl, ku) = matrix.structure.shape[0], matrix.structure.band
    return "it is tridiagonal" if kl <= 1 and ku <= 1 and n > 2 else None  # f2py has no gttrf for less


def _is_narrow(matrix: Matrix) -> str | None:
    """Where elimination inside the band takes less time than SuperLU does on the entries."""
    structure = matrix.structure
    (kl, ku), n = structure.band, structure.shape[0]
    work = 2 * n * (kl + 1) * (kl + ku + 1)
    band = f"{kl} below and {ku} above the diagonal"
    if work < _WORK[matrix.values.dtype.char] * len(structure.csc_indices):
        return f"its band is narrow, {band}"
    return f"its band fits, {band}" if matrix.pinned and n * (2 * kl + ku + 1) <= _FITS else None


def _bands(matrix: Matrix, kl: int, ku: int, spare: int = 0, order: Literal["C", "F"] = "F") -> Any:
    """LAPACK's band storage: `ab[spare + ku + i - j, j] = A[i, j]`, with `spare` rows above for the fill."""
    structure, width = matrix.structure, spare + kl + ku + 1
    by_column, by_row = (width, 1) if order == "F" else (1, structure.shape[0])
    key = (kl, ku, spare, order)
    if key not in structure.found:
        row, column = structure.rows, structure.indices.astype(np.int64)
        kept = (row - column <= kl) & (column - row <= ku)
        places = column * np.int64(by_column) + (spare + ku + row - column) * np.int64(by_row)
        structure.found[key] = (None, places) if kept.all() else (kept, places[kept])
    kept, places = structure.found[key]
    data = matrix.values
    ab = np.zeros(width * structure.shape[0], dtype=data.dtype)
    ab[places] = data if kept is None else data[kept]
    return ab.reshape(width, -1, order=order)


def _three(matrix: Matrix) -> tuple[Any, Any, Any]:
    """The diagonals below, on and above, of their own memory. Where none has a gap, row by row they are every third entry."""
    structure, data = matrix.structure, matrix.values
    n = structure.shape[0]
    if data.size == 3 * n - 2 and structure.sorted:
        return data[2::3].copy(), data[::3].copy(), data[1::3].copy()
    above, on, below = _bands(matrix, 1, 1, order="C")
    return below[:-1], on, above[1:]


class Tridiagonal:
    """`P A = L U` by `gttrf`."""

    def __init__(self, matrix: Matrix) -> None:
        trf, self._trs = _lapack(matrix.values.dtype.char, "gttrf", "gttrs")
        *self._factors, info = trf(*_three(matrix), overwrite_dl=1, overwrite_d=1, overwrite_du=1)
        _succeeded(info, "gttrf")
        self.nbytes = sum(int(f.nbytes) for f in self._factors)

    def solve(self, b: Any, trans: str = "N") -> Any:
        x, info = self._trs(*self._factors, b, trans="C" if trans == "H" else trans)
        _succeeded(info, "gttrs")
        return x


class Banded:
    """`P A = L U` by `gbtrf`."""

    def __init__(self, matrix: Matrix) -> None:
        self._kl, self._ku = kl, ku = matrix.structure.band
        trf, self._trs = _lapack(matrix.values.dtype.char, "gbtrf", "gbtrs")
        self._lu, self._pivots, info = trf(_bands(matrix, kl, ku, kl), kl, ku, overwrite_ab=1)
        _succeeded(info, "gbtrf")
        self.nbytes = int(self._lu.nbytes + self._pivots.nbytes)

    def solve(self, b: Any, trans: str = "N") -> Any:
        x, info = self._trs(self._lu, self._kl, self._ku, b, self._pivots, trans=_TRANS[trans])
        _succeeded(info, "gbtrs")
        return x


class BandedCholesky:
    """`A = L Lᴴ` by `pbtrf`, or `L D Lᴴ` by `pttrf`."""

    def __init__(self, matrix: Matrix) -> None:
        char, kl = matrix.values.dtype.char, matrix.structure.band[0]
        ab = _bands(matrix, kl, 0, order="C" if kl == 1 else "F")
        if kl == 1:
            trf, self._trs = _lapack(char, "pttrf", "pttrs")
            on, below = ab
            *self._factors, info = trf(on.real, below[:-1])
            self._options = {"lower": 1} if char in "FD" else {}
        else:
            trf, self._trs = _lapack(char, "pbtrf", "pbtrs")
            *self._factors, info = trf(ab, lower=1, overwrite_ab=1)
            self._options = {"lower": 1}
        _succeeded(info, "Cholesky")
        self.nbytes = sum(int(f.nbytes) for f in self._factors)

    def solve(self, b: Any, trans: str = "N") -> Any:
        conj = trans == "T" and np.iscomplexobj(b)  # Aᵀ = conj(A)
        x, info = self._trs(*self._factors, b.conj() if conj else b, **self._options)
        _succeeded(info, "Cholesky solve")
        return x.conj() if conj else x


CANDIDATES = (
    Candidate(Strategy.TRIDIAGONAL, _is_tridiagonal, Tridiagonal),
    Candidate(Strategy.BANDED, _is_narrow, Banded),
    Candidate(Strategy.BANDED_CHOLESKY, lambda m: _is_tridiagonal(m) or _is_narrow(m), BandedCholesky, definite=True),
)
