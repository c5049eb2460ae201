"""Banded and small matrices by LAPACK: no ordering, no index arrays, and block operations where there is much to do.

`gttrf` for tridiagonal matrices, `gbtrf` for bands, `getrf` where all entries, the zeros too, take less time than an ordering: each with
partial pivoting. `pttrf`, `pbtrf` and `potrf` for `Cholesky()`.

`getrs` and `gbtrs` get a copy of the pivots: SciPy adds one to each, in place, for the time of the call, and `getrs` lets other threads run then.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np
from scipy.linalg.lapack import get_lapack_funcs

from ..result import Strategy
from .strategy import Candidate, Matrix, usable

__all__ = ["CANDIDATES"]

_WORK = {"f": 3000, "d": 3000, "F": 750, "D": 750}  # flops of LAPACK that take SuperLU's time for an entry
_FULL = {
    "f": 0.3,
    "d": 0.4,
    "F": 0.45,
    "D": 0.6,
}  # share of all places in SuperLU's factors from which on LAPACK is faster
_FITS = 2**28  # numbers held, 2 GiB in double precision: what is done where it was asked for
_SMALL = 300  # rows, for the reason that is given
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
    (kl, ku), n = matrix.structure.band, matrix.structure.shape[0]
    band = f"{kl} below and {ku} above the diagonal"
    if _pays(matrix, _band_work(matrix)):
        return f"its band is narrow, {band}"
    return f"its band fits, {band}" if matrix.pinned and n * (2 * kl + ku + 1) <= _FITS else None


def _is_small(matrix: Matrix) -> str | None:
    """Where elimination in all of the matrix takes less time than that in its band, and than SuperLU does on what it fills in."""
    n = matrix.structure.shape[0]
    work = 2 * n**3 / 3
    if work >= _band_work(matrix):
        return None
    if _pays(matrix, work):
        return "it is small" if n < _SMALL else "much of it is nonzero"
    if n * n <= _FITS and _is_full(matrix):
        return "its factors are nearly full"
    return "it fits" if matrix.pinned and n * n <= _FITS else None


def _is_full(matrix: Matrix) -> bool:
    """Whether SuperLU's factors have most places filled in, as the first ones tell: LAPACK computes all of them in a quarter to a half of the time.

    PARDISO works in blocks as well, and on what is filled in only.
    """
    n = matrix.structure.shape[0]
    return matrix.filled >= _FULL[matrix.values.dtype.char] * n * n and not usable("pardiso")


def _band_work(matrix: Matrix) -> int:
    """Flops inside the band, with the fill of pivoting."""
    kl, ku = matrix.structure.band
    return 2 * matrix.structure.shape[0] * (kl + 1) * (kl + ku + 1)


def _pays(matrix: Matrix, work: float) -> bool:
    return work < _WORK[matrix.values.dtype.char] * len(matrix.structure.csc_indices)


def _bands(matrix: Matrix, kl: int, ku: int, spare: int = 0, order: Literal["C", "F"] = "F") -> Any:
    """LAPACK's band storage: `ab[spare + ku + i - j, j] = A[i, j]`, with `spare` rows above for the fill.

    Of several matrices, values `(matrices, nnz)`, the bands are side by side.
    """
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
    ab = np.zeros((*data.shape[:-1], width * structure.shape[0]), dtype=data.dtype)
    if kept is None and data.ndim == 1:
        ab[places] = data  # in half of the time
    else:
        ab[..., places] = data if kept is None else data[..., kept]
    if order == "F":
        return ab.reshape(-1, width).T
    return ab.reshape(-1, width, structure.shape[0]).swapaxes(0, 1).reshape(width, -1)


def _three(matrix: Matrix) -> tuple[Any, Any, Any]:
    """The diagonals below, on and above, of their own memory. Where none has a gap, row by row they are every third entry."""
    structure, data = matrix.structure, matrix.values
    n = structure.shape[0]
    if data.shape == (3 * n - 2,) and structure.sorted:
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
        x, info = self._trs(self._lu, self._kl, self._ku, b, self._pivots.copy(), trans=_TRANS[trans])
        _succeeded(info, "gbtrs")
        return x


def _full(matrix: Matrix) -> Any:
    """All entries, `(n, n)`, by columns."""
    structure, n = matrix.structure, matrix.structure.shape[0]
    if "full" not in structure.found:
        structure.found["full"] = structure.indices.astype(np.int64) * n + structure.rows
    a = np.zeros(n * n, dtype=matrix.values.dtype)
    a[structure.found["full"]] = matrix.values
    return a.reshape(n, n).T


class Dense:
    """`P A = L U` by `getrf`."""

    columns = 1 << 20

    def __init__(self, matrix: Matrix) -> None:
        trf, self._trs = _lapack(matrix.values.dtype.char, "getrf", "getrs")
        self._lu, self._pivots, info = trf(_full(matrix), overwrite_a=1)
        _succeeded(info, "getrf")
        self.nbytes = int(self._lu.nbytes + self._pivots.nbytes)

    def solve(self, b: Any, trans: str = "N") -> Any:
        x, info = self._trs(self._lu, self._pivots.copy(), b, trans=_TRANS[trans])
        _succeeded(info, "getrs")
        return x


class _Cholesky:
    """What solves with a Cholesky factor have in common: `_trs(*_factors, b, **_options)`."""

    _trs: Any
    _factors: Any
    _options: dict[str, int]

    @property
    def nbytes(self) -> int:
        return sum(int(f.nbytes) for f in self._factors)

    def solve(self, b: Any, trans: str = "N") -> Any:
        conj = trans == "T" and np.iscomplexobj(b)  # Aᵀ = conj(A)
        x, info = self._trs(*self._factors, b.conj() if conj else b, **self._options)
        _succeeded(info, "Cholesky solve")
        return x.conj() if conj else x


class BandedCholesky(_Cholesky):
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


class DenseCholesky(_Cholesky):
    """`A = L Lᴴ` by `potrf`."""

    columns = 1 << 20

    def __init__(self, matrix: Matrix) -> None:
        self._options = {"lower": 1}
        trf, self._trs = _lapack(matrix.values.dtype.char, "potrf", "potrs")
        *self._factors, info = trf(_full(matrix), lower=1, clean=0, overwrite_a=1)
        _succeeded(info, "Cholesky")


CANDIDATES = (
    Candidate(Strategy.TRIDIAGONAL, _is_tridiagonal, Tridiagonal),
    Candidate(Strategy.DENSE, _is_small, Dense),
    Candidate(Strategy.BANDED, _is_narrow, Banded),
    Candidate(
        Strategy.DENSE_CHOLESKY,
        lambda m: _is_small(m) if not _is_tridiagonal(m) else None,
        DenseCholesky,
        definite=True,
    ),
    Candidate(Strategy.BANDED_CHOLESKY, lambda m: _is_tridiagonal(m) or _is_narrow(m), BandedCholesky, definite=True),
)
