"""Elimination as a tree of small dense matrices: which unknowns are eliminated together, and which others each group touches.

With pivots from the diagonal, eliminating `j` joins all that are left of its neighbours; the first of these is its parent in the elimination
tree, and its other neighbours are neighbours of the parent too (Davis, Direct Methods for Sparse Linear Systems, sections 4.1 and 4.3).
So unknowns `J` that follow one another, with the rows `R` that they touch, form a front `F = J ∪ R`, and R is a part of the parent's front.
Small subtrees are one front, and so are a child and its parent where that adds few zeros: dense loops over these cost less than
another turn of Python (Ashcraft and Grimes, ACM Trans. Math. Softw. 15 (1989), "relaxed supernodes").
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

__all__ = ["Fronts", "TooMuchFill"]

_TWIGS = 24  # unknowns of a subtree that is one front
_ZEROS = 0.25  # of a front's entries, that may be there for the sake of a larger front
_NARROW = 16  # unknowns, up to which a front grows whatever zeros that adds


class TooMuchFill(Exception):  # noqa: N818 - the fact, not the failure
    """More entries than the caller wants to have."""


class Fronts:
    """The fronts of a matrix, the children before their parents.

    Args:
        B: `(n, n)` CSC matrix in the order of elimination; its pattern, and that of its transpose.
        most: entries in all fronts together.

    Attributes:
        n: unknowns.
        position: `(n,)` the place of each unknown in a postorder of the tree, which numbers what follows.
        first, widths, heights: of each front, its first unknown, and how many J and F have.
        parents: the front that R is a part of, -1 for none.
        inside: where R is in the parent's F; a slice where it can be.
        starts: where each front's `(height, width)` entries begin, in an array of all.

    Raises:
        TooMuchFill: beyond `most`.
    """

    def __init__(self, B: Any, most: int) -> None:
        n = B.shape[0]
        S = sp.csc_matrix((np.ones(B.nnz, dtype=np.int8), B.indices, B.indptr), shape=B.shape)
        S = (S + S.T).tocsc()
        parent = _parents(S)
        position, sizes = _postorder(parent)
        self.position = position[:n]
        order = np.argsort(self.position)
        S = sp.tril(S[order][:, order], format="csc")
        S.sort_indices()
        rows = _rows(S, position[parent[order]], sizes[order], most)
        self.n = n
        self.first = np.array([f for f, _ in rows], dtype=np.int64)
        self.widths = np.diff(np.append(self.first, n))
        self.heights = self.widths + np.array([len(r) for _, r in rows], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.heights * self.widths)])
        self._front_of = np.repeat(np.arange(len(rows)), self.widths)
        self._begins = np.concatenate([[0], np.cumsum(self.heights)])
        whole = [np.append(np.arange(f, f + w), r) for (f, r), w in zip(rows, self.widths, strict=True)]
        fronts = np.arange(len(rows), dtype=np.int64)
        self._keys = np.repeat(fronts * n, self.heights) + np.concatenate([fronts[:0], *whole])
        self.parents = np.array([self._front_of[r[0]] if len(r) else -1 for _, r in rows], dtype=np.int64)
        self.inside = [_places(whole[p], r) if p >= 0 else None for (_, r), p in zip(rows, self.parents, strict=True)]

    def places(self, rows: Any, columns: Any) -> tuple[Any, Any]:
        """Where entries are, for unknowns as numbered in B: in the array of all lower triangles, or, where the second array says so, in that of
        the upper ones, as entries of the transpose."""
        upper = self.position[rows] < self.position[columns]
        return self.lower(np.where(upper, columns, rows), np.where(upper, rows, columns)), upper

    def lower(self, rows: Any, columns: Any) -> Any:
        """Where entries on and below the diagonal are in an array of all fronts."""
        i, j = self.position[rows], self.position[columns]
        front = self._front_of[j]
        row = np.searchsorted(self._keys, front * np.int64(self.n) + i) - self._begins[front]
        return self.starts[front] + row * self.widths[front] + (j - self.first[front])


def _parents(S: Any) -> Any:
    """The elimination tree of a symmetric pattern; n for a root (Liu's algorithm, with path compression; Davis, section 4.1)."""
    n = S.shape[0]
    parent, ancestor = [n] * n, [n] * n
    upper = sp.triu(S, 1, format="csc")
    indptr, indices = upper.indptr.tolist(), upper.indices.tolist()
    for k in range(n):
        for i in indices[indptr[k] : indptr[k + 1]]:
            while i < k:
                above, ancestor[i] = ancestor[i], k
                if above == n:
                    parent[i] = k
                i = above
    return np.array(parent, dtype=np.int64)


def _postorder(parent: Any) -> tuple[Any, Any]:
    """Where each node is in an order that has each subtree together, its root last; and how many are in each subtree."""
    n, above = len(parent), parent.tolist()
    sizes = [1] * n + [0]
    for j in range(n):
        sizes[above[j]] += sizes[j]
    position, free = [0] * n, [0] * n + [n]
    for j in range(n - 1, -1, -1):
        position[j] = free[j] = free[above[j]] - 1
        free[above[j]] -= sizes[j]
    return np.array([*position, n], dtype=np.int64), np.array(sizes[:n], dtype=np.int64)


def _rows(S: Any, parent: Any, sizes: Any, most: int) -> list[tuple[int, Any]]:
    """The first unknown and the R of each front, of a lower triangle in postorder."""
    n, twigs, indptr = S.shape[0], _twigs(S, parent, sizes), S.indptr.tolist()
    made: list[tuple[int, Any]] = []
    waiting: dict[int, list[Any]] = {}  # R of fronts, by their parents
    entries = zeros = j = 0
    while j < n:
        first, after, added = j, j + 1, None
        if j in twigs:
            after, r = twigs[j]
            if made and not len(r) and not len(made[-1][1]) and after - made[-1][0] <= _TWIGS:
                added = 0  # two whole trees, as of a diagonal matrix, where each unknown is one
        else:
            r = _union([S.indices[indptr[j] : indptr[j + 1]], *waiting.pop(j, ())], j)
            added = _zeros(made[-1], j, r, zeros) if made else None
        if added is None:
            entries, zeros = entries + (_size(made[-1], j) if made else 0), 0
        else:
            first, zeros = made.pop()[0], added
        made.append((first, r))
        if len(r):
            waiting.setdefault(int(r[0]), []).append(r)
        if entries + _size(made[-1], after) > most:
            raise TooMuchFill
        j = after
    return made


def _size(front: tuple[int, Any], after: int) -> int:
    """Entries of a front that ends before `after`."""
    width = after - front[0]
    return width * (width + len(front[1]))


def _zeros(front: tuple[int, Any], j: int, r: Any, zeros: int) -> int | None:
    """How many zeros a front has if it takes in its parent j, which has the rows r; None if j is not, or should stay apart."""
    first, before = front
    if not len(before) or before[0] != j:
        return None
    width, more = j - first, len(r) + 1 - len(before)
    zeros += width * more
    worthwhile = more == 0 or width < _NARROW or zeros <= _ZEROS * (width + 1) * (width + 1 + len(r))
    return zeros if worthwhile else None


def _union(parts: list[Any], j: int) -> Any:
    """The numbers beyond j that are in any part, sorted."""
    all_of = np.concatenate(parts)
    all_of.sort()
    all_of = all_of[all_of.searchsorted(j + 1) :]
    new = np.ones(len(all_of), dtype=bool)
    np.not_equal(all_of[1:], all_of[:-1], out=new[1:])
    return all_of[new]


def _twigs(S: Any, parent: Any, sizes: Any) -> dict[int, tuple[int, Any]]:
    """The largest subtrees of at most `_TWIGS` unknowns: by the first unknown of each, where the next one is, and R."""
    n = S.shape[0]
    last = np.flatnonzero((sizes <= _TWIGS) & (np.append(sizes, n + _TWIGS)[parent] > _TWIGS))
    first, count = last - sizes[last] + 1, sizes[last]
    end = np.full(n, n)  # of the twig that an unknown is in
    end[np.repeat(first - np.cumsum(count) + count, count) + np.arange(count.sum())] = np.repeat(last, count)
    end = end[np.repeat(np.arange(n), np.diff(S.indptr))]
    outside = S.indices > end
    pairs = np.unique(end[outside] * np.int64(n) + S.indices[outside])
    begins = np.searchsorted(pairs, np.append(last, n) * np.int64(n))
    bounds = zip(first, last, begins[:-1], begins[1:], strict=True)
    return {int(f): (int(root) + 1, pairs[a:b] % n) for f, root, a, b in bounds}


def _places(whole: Any, part: Any) -> Any:
    """Where `part` is in the sorted `whole`: a slice if that is in one piece."""
    found = np.searchsorted(whole, part)
    a, b = int(found[0]), int(found[-1]) + 1
    return slice(a, b) if b - a == len(part) else found
