"""Banded and small matrices by LAPACK: no ordering, no index arrays, and block operations where there is much to do.

`gttrf` for tridiagonal matrices, `gbtrf` for bands, `getrf` where all entries, the zeros too, take less time than an ordering: each with
partial pivoting. `pttrf`, `pbtrf` and `potrf` for `Cholesky()`, and for `LU()` where a matrix is Hermitian with a positive diagonal: half of the work,
a third of the memory of a band, and no pivots, which make a solve take twice as long. If such a matrix is indefinite, they find out.

`getrs` and `gbtrs` get a copy of the pivots: SciPy adds one to each, in place, for the time of the call, and `getrs` lets other threads run then.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from scipy.linalg.lapack import get_lapack_funcs

from ..result import Strategy
from .decomposition import DecompositionError, NotPositive
from .host import largest_size, quiet
from .storage import bands, diagonals, full
from .strategy import Candidate, Decomposition, Matrix, Suits, cholesky, usable

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
_BAND, _DENSE = 300, 150  # rows, from which on Cholesky is worth asking whether a matrix is Hermitian
# of the work with pivots, what Cholesky's counts for; beside PARDISO (True), which has so many rows at least and is faster still, more
_SHARE, _RIVAL = {False: 0.4, True: 1.5}, 1000
_TRANS = {"N": 0, "T": 1, "H": 2}


@cache
def _lapack(char: str, *names: str) -> Any:
    return get_lapack_funcs(names, dtype=np.dtype(char))


def _succeeded(info: int, what: str) -> None:
    if info:
        raise DecompositionError(f"LAPACK's {what} returned {info}.")


def _has_positive_pivots(info: int) -> None:
    if info > 0:
        raise NotPositive(f"LAPACK's Cholesky returned {info}.")


def _is_tridiagonal(matrix: Matrix) -> str | None:
    n, (kl, ku) = matrix.structure.shape[0], matrix.structure.band
    return "it is tridiagonal" if kl <= 1 and ku <= 1 and n > 2 else None  # f2py has no gttrf for less


def _is_narrow(matrix: Matrix, share: float = 1.0) -> str | None:
    """Where elimination inside the band, or a share of its work, takes less time than SuperLU does on the entries."""
    (kl, ku), n = matrix.structure.band, matrix.structure.shape[0]
    band = f"{kl} below and {ku} above the diagonal"
    if _pays(matrix, share * _band_work(matrix)):
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


class Banded:
    """`P A = L U` by `gbtrf`."""

    def __init__(self, matrix: Matrix) -> None:
        self._kl, self._ku = kl, ku = matrix.structure.band
        trf, self._trs = _lapack(matrix.values.dtype.char, "gbtrf", "gbtrs")
        self._lu, self._pivots, info = trf(bands(matrix, kl, ku, kl), kl, ku, overwrite_ab=1)
        _succeeded(info, "gbtrf")
        self.nbytes = int(self._lu.nbytes + self._pivots.nbytes)

    def solve(self, b: Any, trans: str = "N") -> Any:
        x, info = self._trs(self._lu, self._kl, self._ku, b, self._pivots.copy(), trans=_TRANS[trans])
        _succeeded(info, "gbtrs")
        return x


class Dense:
    """`P A = L U` by `getrf`."""

    columns = 1 << 20

    def __init__(self, matrix: Matrix) -> None:
        trf, self._trs = _lapack(matrix.values.dtype.char, "getrf", "getrs")
        self._lu, self._pivots, info = trf(full(matrix), overwrite_a=1)
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


class TridiagonalCholesky(_Cholesky):
    """`A = L D Lᴴ` by `pttrf`, of a Hermitian matrix.

    Where no entry of L is larger than 1, as in a matrix with a dominant diagonal, none of `L⁻¹` is, since these are products of those of L. Then
    no entry of `A⁻¹ = L⁻ᴴ D⁻¹ L⁻¹` is larger than the sum of `1 / d`, and the condition `‖A‖ ‖A⁻¹‖`, in the norm of row sums, at most 3 n times the
    largest entry of A times that sum. Computed factors are those of a matrix that differs by `n u ‖A‖` at most, for which the limit on what is proven leaves room.
    """

    apart = True

    def __init__(self, below: Any, on: Any) -> None:
        on, (trf, self._trs) = on.real, _lapack(below.dtype.char, "pttrf", "pttrs")
        self._options = {"lower": 1} if below.dtype.kind == "c" else {}
        self.least, most = on.item(on.argmin()), on.item(on.argmax())  # of all entries, if the matrix is positive
        d, e, info = trf(on, below, overwrite_d=1, overwrite_e=1)
        _has_positive_pivots(info)
        self._factors = d, e
        with quiet():  # of tiny pivots the sum is infinite
            total = float(np.reciprocal(d, dtype=np.float64).sum())
        self.condition = 3.0 * len(d) * most * total if largest_size(e) <= 1.0 else math.inf


class Tridiagonal:
    """`P A = L U` by `gttrf`."""

    apart = True

    def __init__(self, below: Any, on: Any, above: Any) -> None:
        trf, self._trs = _lapack(on.dtype.char, "gttrf", "gttrs")
        *self._factors, info = trf(below, on, above, overwrite_dl=1, overwrite_d=1, overwrite_du=1)
        _succeeded(info, "gttrf")
        self.nbytes = sum(int(f.nbytes) for f in self._factors)

    def solve(self, b: Any, trans: str = "N") -> Any:
        x, info = self._trs(*self._factors, b, trans="C" if trans == "H" else trans)
        _succeeded(info, "gttrs")
        return x


class BandedCholesky(_Cholesky):
    """`A = L Lᴴ` by `pbtrf`."""

    apart = True

    def __init__(self, matrix: Matrix) -> None:
        kl, self._options = matrix.structure.band[0], {"lower": 1}
        trf, self._trs = _lapack(matrix.values.dtype.char, "pbtrf", "pbtrs")
        *self._factors, info = trf(bands(matrix, kl, 0), lower=1, overwrite_ab=1)
        _has_positive_pivots(info)


class DenseCholesky(_Cholesky):
    """`A = L Lᴴ` by `potrf`."""

    columns = 1 << 20

    def __init__(self, matrix: Matrix) -> None:
        self._options = {"lower": 1}
        trf, self._trs = _lapack(matrix.values.dtype.char, "potrf", "potrs")
        *self._factors, info = trf(full(matrix), lower=1, clean=0, overwrite_a=1)
        _has_positive_pivots(info)


def _tridiagonal(matrix: Matrix) -> Decomposition:
    """By `pttrf` where that may do; an indefinite matrix, or one of a batch, finds out, and its pattern is not tried again."""
    below, on, above = diagonals(matrix)
    if matrix.unlikely_positive or not _may_be_positive(below, on, above):
        return Tridiagonal(below, on, above)
    matrix.hermitian = True
    try:
        return TridiagonalCholesky(below, on)
    except NotPositive:
        matrix.found_indefinite()
        return Tridiagonal(*diagonals(matrix))  # those were written to


def _may_be_positive(below: Any, on: Any, above: Any) -> bool:
    """Whether a tridiagonal matrix is Hermitian, with a positive diagonal: `Matrix.kind`, without its order of all entries."""
    if on.dtype.kind == "c":
        return bool((below == above.conj()).all() and (on.real > 0).all() and not on.imag.any())
    return bool((below == above).all() and (on > 0).all())


def _banded_cholesky(matrix: Matrix) -> Decomposition:
    return TridiagonalCholesky(*diagonals(matrix)[:2]) if _is_tridiagonal(matrix) else BandedCholesky(matrix)


def _is_narrow_for_cholesky(matrix: Matrix) -> str | None:
    """Where Cholesky in the band takes less time, than PARDISO's too where that has no analysis to make."""
    rival = matrix.structure.shape[0] >= _RIVAL and matrix.came_before and usable("pardiso")
    return _is_narrow(matrix, _SHARE[rival])


def _is_small_dense(matrix: Matrix) -> str | None:
    """Where Cholesky of all of the matrix does."""
    return None if _is_tridiagonal(matrix) else _is_small(matrix)


def _from(least: int, suits: Suits) -> Suits:
    return lambda matrix: suits(matrix) if matrix.structure.shape[0] >= least else None


CANDIDATES = (
    cholesky(Strategy.DENSE_CHOLESKY, _from(_DENSE, _is_small_dense), DenseCholesky)[0],
    Candidate(Strategy.TRIDIAGONAL, _is_tridiagonal, _tridiagonal),
    cholesky(Strategy.BANDED_CHOLESKY, _from(_BAND, _is_narrow_for_cholesky), BandedCholesky)[0],
    Candidate(Strategy.DENSE, _is_small, Dense),
    Candidate(Strategy.BANDED, _is_narrow, Banded),
    Candidate(Strategy.DENSE_CHOLESKY, _is_small_dense, DenseCholesky, definite=True),
    Candidate(
        Strategy.BANDED_CHOLESKY,
        lambda m: _is_tridiagonal(m) or _is_narrow_for_cholesky(m),
        _banded_cholesky,
        definite=True,
    ),
)
