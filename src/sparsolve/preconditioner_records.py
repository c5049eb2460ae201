"""Preconditioner records: each names an approximate inverse `M⁻¹` of `A` for the iterative methods.

`A = L + D + U` below stands for the strict lower triangle, the diagonal and the strict upper triangle. A solve with `Aᴴ`
applies `M⁻ᴴ`. "Saad" is Y. Saad, Iterative Methods for Sparse Linear Systems, 2nd ed., SIAM 2003.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .errors import sentence
from .solvers import Solver, real, whole
from .vectors import Vectors

__all__ = ["AMG", "ILU", "BlockJacobi", "Jacobi", "PreconditionerRecord", "SymmetricGaussSeidel"]


@dataclass(frozen=True, kw_only=True)
class PreconditionerRecord(Solver):
    """Base of the records; not a preconditioner itself.

    Attributes:
        hermitian: of the class, no field: whether `M⁻¹` is Hermitian positive definite wherever `A` is, which
            `CG` and `MINRES` need. `GMRES`, `BiCGStab` and `CGS` take any of them.
    """

    hermitian = False


@dataclass(frozen=True, kw_only=True)
class Jacobi(PreconditionerRecord):
    """The diagonal: `M⁻¹ = D⁻¹`, for any method.

    Cheapest of all; it undoes a bad scaling of rows or unknowns, and little else. Needs a diagonal without zeros.

    Raises:
        SolveError: in a solve, where an entry of the diagonal is zero.

    Cost:
        `n` divisions to make it; `n` multiplications for each column and step.

    Source: Saad, section 4.1 and section 10.2.

    >>> Jacobi()
    Jacobi()
    >>> Jacobi.hermitian
    True
    """

    hermitian = True


@dataclass(frozen=True, kw_only=True)
class BlockJacobi(PreconditionerRecord):
    """The diagonal blocks: `M⁻¹ = diag(A₁₁⁻¹, A₂₂⁻¹, ...)`, for any method.

    For several unknowns at each point (displacements, species), numbered point by point. The blocks are inverted
    densely: `n * size` numbers are kept. Each block must be nonsingular.

    Args:
        size: rows of a block, at least 1; the last block is smaller where `size` does not divide `n`.

    Raises:
        ValueError: a size that is no whole number of at least 1. `SolveError` in a solve, where a block is singular.

    Cost:
        About `n * size ** 2` multiplications to make it; `n * size` for each column and step.

    Source: Saad, section 4.1.1.

    >>> BlockJacobi(size=3)
    BlockJacobi(size=3)
    """

    size: int

    hermitian = True

    def __post_init__(self) -> None:
        size = whole(self.size)
        if size is None or size < 1:
            raise _wrong(
                "BlockJacobi", "size", self.size, "an integer of at least 1", "size=3 for three unknowns a point"
            )
        object.__setattr__(self, "size", size)


@dataclass(frozen=True, kw_only=True)
class ILU(PreconditionerRecord):
    """Incomplete LU with threshold: `M⁻¹ = Q Ũ⁻¹ L̃⁻¹ P`, where `P A Q ≈ L̃ Ũ`; for `GMRES`, `BiCGStab` and `CGS`.

    The strongest of these for general matrices. It pivots, so zeros on the diagonal do no harm, but `M⁻¹` is not Hermitian even
    where `A` is: not for `CG` or `MINRES`.

    Args:
        drop_tol: entries smaller than `drop_tol` times their column's largest are dropped, from 0 (none are) to 1.
        fill_factor: at most this many times the entries of `A` are kept, at least 1.

    Raises:
        ValueError: a number out of its range. `SingularMatrixError` in a solve, where no pivot is left or a factor overflows.

    Cost:
        One incomplete factorization, of at most `fill_factor` times the entries of `A`; one pair of triangular solves for each column and step.

    Source: Saad, section 10.4; X. S. Li and M. Shao, A supernodal approach to incomplete LU factorization with partial
    pivoting, ACM Trans. Math. Softw. 37, 2011.

    >>> ILU(drop_tol=1e-3)
    ILU(drop_tol=0.001, fill_factor=10.0)
    """

    drop_tol: float = 1e-4
    fill_factor: float = 10.0

    def __post_init__(self) -> None:
        drop, fill = real(self.drop_tol), real(self.fill_factor)
        if drop is None or not 0 <= drop <= 1:
            raise _wrong(
                "ILU", "drop_tol", self.drop_tol, "a number from 0 to 1", "drop_tol=1e-4; a smaller one drops less"
            )
        if fill is None or not 1 <= fill < math.inf:
            raise _wrong("ILU", "fill_factor", self.fill_factor, "a finite number of at least 1", "fill_factor=10.0")
        # Python's own floats, so that equal records have equal keys, whatever numbers they were made with
        object.__setattr__(self, "drop_tol", drop)
        object.__setattr__(self, "fill_factor", fill)


@dataclass(frozen=True, kw_only=True)
class SymmetricGaussSeidel(PreconditionerRecord):
    """One forward and one backward sweep: `M⁻¹ = (D + U)⁻¹ D (D + L)⁻¹`, for any method.

    About twice the cost of a product with `A`, no setup to speak of, and for elliptic problems about half the iterations
    of `Jacobi`. Needs a diagonal without zeros.

    Raises:
        SolveError: in a solve, where an entry of the diagonal is zero.

    Cost:
        A copy of both triangles to make it; one pair of triangular solves, over the entries of `A`, for each column and step.

    Source: Saad, sections 4.1.2 and 10.2 (SSOR with `ω = 1`).

    >>> SymmetricGaussSeidel()
    SymmetricGaussSeidel()
    """

    hermitian = True


@dataclass(frozen=True, kw_only=True)
class AMG(PreconditionerRecord):
    """Algebraic multigrid: `M⁻¹` is one V-cycle, with a symmetric Gauss-Seidel sweep before and after each coarse correction.

    One level does `I − M⁻¹A = (I − S A)(I − P (R A P)⁻¹ R A)(I − S A)` with `S = (D + U)⁻¹ D (D + L)⁻¹`, the inverse in the
    middle being the next level. For `CG` on diffusion and its like: iterations that hardly grow with `n`. With several unknowns a point, as in elasticity, they grow with `√n`,
    unless `near_nullspace` is given. Not for waves (Helmholtz). Needs pyamg: `pip install 'sparsolve[amg]'`.

    Args:
        method: `"smoothed_aggregation"` (real or complex) or `"ruge_stuben"` (real only; the better one for M-matrices).
        near_nullspace: `(n, k)`, the vectors that `A` without its boundary conditions maps to zero, which the coarse levels then represent exactly, for
            `"smoothed_aggregation"`: rigid body modes, in elasticity. The constant vector where it is left out. Copied; not differentiated.

    Raises:
        TypeError: a near-nullspace that is no dense tensor or array of float or complex numbers.
        ValueError: another method; a near-nullspace of another shape, not finite, or with `"ruge_stuben"`. In a solve: `BackendUnavailableError` without pyamg;
            `SolveError` for a zero on the diagonal, or where `A` has no coarse form; `TypeError` for a complex `A` with `"ruge_stuben"`, or a complex near-nullspace
            with a real `A`.

    Cost:
        A hierarchy of coarser matrices, a small multiple of the entries of `A`, and twice that in an adjoint solve where `A` is not Hermitian;
        one V-cycle for each column and step: two symmetric sweeps and a residual on each level.

    Source: J. W. Ruge and K. Stüben, Algebraic multigrid, in Multigrid Methods, SIAM 1987; P. Vaněk, J. Mandel and
    M. Brezina, Algebraic multigrid by smoothed aggregation for second and fourth order elliptic problems, Computing 56, 1996.

    >>> AMG()
    AMG(method='smoothed_aggregation', near_nullspace=None)
    """

    method: str = "smoothed_aggregation"
    near_nullspace: Any = None

    hermitian = True

    def __post_init__(self) -> None:
        if self.method not in ("smoothed_aggregation", "ruge_stuben"):
            raise _wrong(
                "AMG", "method", self.method, '"smoothed_aggregation" or "ruge_stuben"', "the first where in doubt"
            )
        if self.near_nullspace is None:
            return
        if not isinstance(self.near_nullspace, Vectors):
            object.__setattr__(self, "near_nullspace", Vectors("AMG's near_nullspace", self.near_nullspace))
        if self.method == "ruge_stuben":
            raise ValueError(
                sentence(
                    "AMG(method='ruge_stuben') got a near_nullspace.",
                    "It interpolates by the entries of A alone.",
                    "Use method='smoothed_aggregation'.",
                )
            )


def _wrong(record: str, field: str, value: Any, meaning: str, example: str) -> ValueError:
    return ValueError(sentence(f"{record} got {field}={value!r}.", f"It is {meaning}.", f"Take {example}."))
