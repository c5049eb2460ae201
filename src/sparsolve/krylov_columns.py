"""The columns of one run of a Krylov method: all of them at once, and those that end leave, so that they cost nothing more.

Arrays are `(n, k)` in the order of the products `A @ X`: C for SciPy, Fortran for CuPy. All that the methods hold is in
that order (`ordered`, `columns`, `copy("K")`, updates in place): mixing the two costs a factor of 2. Everything is written with
functions that NumPy and CuPy share; a step waits for the device once, to learn whether a column ends.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.linalg.blas import get_blas_funcs

from .arrays import divided, namespace, power_of_two
from .loops import add_product

_FUSED = 4096  # numbers from which on one pass by torch, `y + alpha x`, or by BLAS, `aᵀ b`, is faster than NumPy's way
_TENSORS = 8  # arrays kept as tensors too; some methods have new ones in each step
# between these a sum of squares has lost nothing to overflow or underflow
_SQUARES = {c: (float(f.tiny) / float(f.eps) ** 2, float(f.max)) for c in "fd" for f in [np.finfo(c)]}

__all__ = [
    "Columns",
    "columns",
    "dot",
    "norm",
    "ordered",
    "put",
]


class Columns:
    """`A d = r` for the columns of r, from `d = 0`; `norm(r)` between 1 and 2 in each.

    Attributes:
        k: columns at work.
        r: residuals to start from, `(n, k)`; the method may overwrite them.
        target: the norm of residuals to reach, `(k,)`.
        left: steps that each column may take, `(k,)`, at least 1.
        x: the correction of the columns at work, if the method has one at each step, for whoever watches.
        d, steps, claimed, broken: what has come of all columns: corrections, steps taken, whether `target` was met as far as the method
            knows, whether it broke down.
    """

    def __init__(self, A: Any, M: Callable[[Any], Any] | None, r: Any, target: Any, left: Any) -> None:
        self.xp = xp = namespace(r)
        self.A, self.M, self.r = A, M, r
        self.k = r.shape[1]
        self.eps, self._real = float(xp.finfo(r.dtype).eps), r.dtype.kind == "f"
        self.target2, self.left = target**2, left
        self._least, self.most = int(left.min()), int(left.max())
        self.step, self.x = 0, None
        # of the only column, where a look at single numbers is the fastest: on a device each is a wait
        self._first = float(self.target2[0]) if self.k == 1 and xp is np else None
        self._zero = xp.zeros((), dtype=r.real.dtype)
        self.d = xp.zeros_like(r)
        self.steps = xp.zeros_like(left)
        self.claimed, self.broken = xp.zeros((2, self.k), dtype=bool)
        self.index = self._kept = self._gone = xp.arange(self.k)
        self.tell: Callable[[Any, Any], None] | None = None
        self._scratch, self._ones = xp.empty_like(r), np.ones(len(r), dtype=r.dtype)
        self._axpy = get_blas_funcs("axpy", dtype=r.dtype) if self.k == 1 and xp is np else None
        self._times, self._many = _compiled(A, r), self._is_many()
        self._tensors: dict[int, Any] = {}

    def start(self) -> Any:
        """The correction of the columns at work, 0 yet, which the method is to update in place."""
        self.x = self.xp.zeros_like(self.r)
        return self.x

    def multiply(self, p: Any, out: Any = None) -> Any:
        """`A p`, a new array, or written to `out` where that is of its shape."""
        if self._times is None:
            return ordered(self.A @ p)
        q = np.empty(p.shape, dtype=p.dtype) if out is None or out.shape != p.shape else out
        q.fill(0)
        self._times(p, q)
        return q

    def precondition(self, r: Any) -> Any:
        """`M r`, or r itself: not to be written to."""
        return r if self.M is None or not self.k else ordered(self.M(r))

    def dot(self, a: Any, b: Any) -> Any:
        """`aᴴ b` for each column, `(k,)`; of many numbers as one product and `(1 ... 1)` times it, in two thirds of `einsum`'s time."""
        if not self._many:
            return self.xp.vdot(a, b).reshape(1) if self.k == 1 else dot(a, b)
        room = self._room(a)
        return self._ones @ (np.square(a, out=room) if a is b and self._real else np.multiply(a.conj(), b, out=room))

    def _room(self, like: Any) -> Any:
        """An array of the same shape, overwritten by the next call that needs one."""
        if self._scratch.shape != like.shape:
            self._scratch = self.xp.empty_like(like)
        return self._scratch

    def add(self, y: Any, alpha: Any, x: Any, sign: int = 1) -> None:
        """`y += sign alpha x`, one alpha for each column."""
        if self._axpy is not None and self.k:
            self._axpy(x[:, 0], y[:, 0], a=sign * alpha[0])
        elif self._many:
            self._tensor(y).addcmul_(self._tensor(x), _of(alpha, x), value=sign)
        else:
            y += self.xp.multiply(sign * alpha, x, out=self._room(x))

    def subtract(self, y: Any, alpha: Any, x: Any) -> None:
        """`y -= alpha x`, one alpha for each column."""
        self.add(y, alpha, x, -1)

    def advance(self, p: Any, beta: Any, z: Any) -> None:
        """`p = z + beta p`, one beta for each column."""
        if self._many:
            torch.addcmul(self._tensor(z), into := self._tensor(p), _of(beta, p), out=into)
        else:
            p *= beta.astype(p.dtype, copy=False)
            p += z

    def _tensor(self, a: Any) -> Any:
        """The array as a tensor; without a preconditioner the arrays are the same in each step, and so are these."""
        if self.M is not None:
            return torch.from_numpy(a)
        t = self._tensors.get(id(a))
        if t is None:
            if len(self._tensors) >= _TENSORS:
                self._tensors.clear()
            t = self._tensors[id(a)] = torch.from_numpy(a)  # which keeps the array, so that no other has its id
        return t

    def _is_many(self) -> bool:
        """Whether the columns at work are NumPy's, and enough numbers to leave them to torch and BLAS."""
        return self.xp is np and self.k > 1 and self.k * len(self.r) >= _FUSED

    def where(self, fit: Any, quotient: Any) -> Any:
        """The quotient where it makes sense, else 0: the column's iterate then stays as it is."""
        return self.xp.where(fit, quotient, self._zero)

    def ended(self, size2: Any, fit: Any) -> bool:
        """Count one step that left residuals of squared norm `size2`; whether any column ends with it.

        A column ends where the target is met, its steps are used up, `fit` is false (a breakdown) or anything is NaN.
        """
        self.step += 1
        if self._first is not None and self.step < self._least and fit[0] and size2[0] > self._first and not self.tell:
            return False
        going = size2 > self.target2
        going &= fit
        if self.tell is not None:
            self.tell(self.index, size2)
        if self.step < self._least and (going if self.k == 1 else going.all()):
            return False
        going &= self.left > self.step
        self._kept, self._gone = self.xp.flatnonzero(going), self.xp.flatnonzero(~going)
        home = self.index[self._gone]
        self.steps[home] = self.step
        self.claimed[home] = (size2 <= self.target2)[self._gone]
        self.broken[home] = (~fit & (size2 == size2))[self._gone]
        return True

    def gone(self, *arrays: Any) -> tuple[Any, ...]:
        """The part of the arrays that belongs to the columns that end now, as a tuple."""
        return tuple(columns(a, self._gone) for a in arrays)

    def store(self, d: Any) -> None:
        """Take the corrections of those that end now, and go on without them."""
        put(self.d, self.index[self._gone], d)
        self.index, self.target2, self.left = self.keep(self.index, self.target2, self.left)
        self.k = len(self.index)
        self._many = self._is_many()
        self._tensors.clear()
        self._least = int(self.left.min()) if self.k else 0
        self._first = float(self.target2[0]) if self.k == 1 and self.xp is np else None

    def keep(self, *arrays: Any) -> tuple[Any, ...]:
        """The part of the arrays that belongs to the columns that go on."""
        return tuple(columns(a, self._kept) for a in arrays)

    def leave(self, d: Any, *arrays: Any) -> tuple[Any, ...]:
        """`store` the ended columns of d, `keep` the others of d and of the arrays."""
        self.store(columns(d, self._gone))
        self.x, *kept = self.keep(d, *arrays)
        return self.x, *kept


def _of(alpha: Any, x: Any) -> Any:
    """Numbers of x's dtype, as a tensor."""
    return torch.from_numpy(alpha if alpha.dtype is x.dtype else alpha.astype(x.dtype))


def _compiled(A: Any, r: Any) -> Callable[[Any, Any], None] | None:
    """`q += A p` without SciPy's checks, for a CSR matrix of the dtype of r."""
    if not (sp.issparse(A) and A.format == "csr" and A.dtype == r.dtype and A.indices.dtype == A.indptr.dtype):
        return None
    return partial(add_product, A.shape, (A.indptr, A.indices, A.data))


def ordered(a: Any) -> Any:
    """An `(n, k)` array in the order of the products; itself where it is so."""
    xp = namespace(a)
    return xp.ascontiguousarray(a) if xp is np else xp.asfortranarray(a)


def columns(a: Any, index: Any) -> Any:
    """Some columns of `(n, k)`, in order, or what is theirs in an array of other rank, whose first axis counts them.

    It may be the array itself, where all columns are meant.
    """
    if len(index) == a.shape[1 if a.ndim == 2 else 0]:
        return a
    if a.ndim != 2:
        return a[index]
    return a.take(index, axis=1) if namespace(a) is np else a.T[index].T


def put(a: Any, index: Any, values: Any) -> None:
    """Write some columns of `(n, k)`, in order."""
    if len(index) == a.shape[1]:
        a[...] = values
    else:
        a[:, index] = values


def dot(a: Any, b: Any) -> Any:
    """`aᴴ b` for each column, `(k,)`."""
    xp = namespace(a)
    if a.shape[1] == 1:
        return xp.vdot(a, b).reshape(1)
    return xp.einsum("ij,ij->j", a.conj(), b)


def norm(a: Any) -> Any:
    """`‖a‖₂` of each column, `(k,)`, without overflow or underflow."""
    xp = namespace(a)
    if xp is np:
        square = dot(a, a).real
        low, high = _SQUARES[square.dtype.char]
        if ((square > low) & (square < high)).all():
            return np.sqrt(square)
    scale = power_of_two(abs(a).max(axis=0))
    a = divided(a, scale)
    return scale * xp.sqrt(dot(a, a).real)
