"""The three opaque ops: what runs, and what their outputs look like.

Tensors in, tensors out; NumPy, SciPy and CuPy are inside, where no transform looks. Batch dimensions of values and
right-hand sides are equal here; `calculus.py` and `operands.py` see to that. Outputs are contiguous, real and fake alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, wraps
from types import ModuleType
from typing import Any, Optional

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from .backends import Factor, Outcome, device_module, solver_module
from .errors import ConvergenceError, NotPositiveDefiniteError, SingularMatrixError, SolveError, sentence
from .krylov_columns import namespace
from .memo import FACTORS
from .result import Status
from .retention import Source
from .solvers import Solver, asked
from .threads import each

__all__ = ["REPORT", "bodies", "columns", "located", "on_its_device", "relative_residual"]

REPORT = 4  # rows of a report: status, iterations, relative residual, strategy
_library = torch.library.Library("sparsolve", "FRAGMENT")
_TAGS = (torch.Tag.cudagraph_unsafe, torch.Tag.needs_exact_strides)


bodies: dict[str, Callable[..., Any]] = {}


def _opaque(name: str) -> Callable[[Callable[..., Any]], Any]:
    """`torch.library.custom_op`, with the function itself as the CPU kernel too: what torch wraps around it to look for aliased outputs,
    which these ops do not have, takes a tenth of the time of a small solve."""

    def define(body: Callable[..., Any]) -> Any:
        call = on_its_device(body)
        op = torch.library.custom_op(f"sparsolve::{name}", call, mutates_args=(), tags=_TAGS)
        _library.impl(name, torch.compiler.disable(call), "CPU")
        bodies[name] = call
        return op

    return define


def on_its_device(body: Callable[..., Any]) -> Callable[..., Any]:
    """Run an op's body as its tensors' device wants it: in its stream, in its memory."""

    @wraps(body)
    def run(*args: Any) -> Any:
        return device_module(args[0].device.type).run(body, args)

    return run


@_opaque("solve")
def solve(
    values: Tensor,
    crow: Tensor,
    col: Tensor,
    b: Tensor,
    solver: str,
    adjoint: bool,
    report: bool,
    x0: Optional[Tensor] = None,  # noqa: UP045 (what torch reads)
) -> tuple[Tensor, Tensor]:
    """`A⁻¹ b` or `A⁻ᴴ b`: values `(*batch, nnz)`, b `(*batch, n, k)`.

    With `report` a failure is a status, x is NaN there, and the second output is `(*batch, 4, k)`; without, it is raised.
    """
    on = device_module(values.device.type)
    n, k = b.shape[-2:]
    structure = on.structure_of(crow, col, (n, n))
    vs, bs = _flat(on.array(values), 1), _flat(on.array(b), 2)
    memory, offset = StorageWeakRef(values.untyped_storage()), int(values.storage_offset())
    starts = [None] * len(bs) if x0 is None else _flat(on.array(x0), 2)
    x, reports = on.empty(bs.shape, bs), on.zeros((len(bs), REPORT, k if report else 0))
    record, key, purpose = asked(solver)
    module = solver_module(type(record).__name__, values.device.type)

    def one(i: int) -> Factor | None:
        factor = None
        try:
            factor = _factor(key, record, module, structure, vs[i], Source(memory, offset + i))
            outcome = (columns if report else _whole)(factor, bs[i], adjoint, starts[i])
        except SolveError as error:
            if purpose == "cotangent" and not bs[i].any():  # no gradient is asked of a matrix that failed before
                outcome = Outcome(0.0)
            elif report:
                outcome = Outcome(math.nan, int(_status(error)))
            else:
                raise located(error, i if len(bs) > 1 else None, adjoint, purpose) from error
        x[i] = outcome.x
        if report:
            reports[i, 0], reports[i, 1], reports[i, 3] = outcome.status, outcome.iterations, outcome.strategy
            product = partial(on.multiply, on.matrix(structure, vs[i]), adjoint=adjoint)
            reports[i, 2] = relative_residual(on, product, bs[i], x[i])
        return factor

    if n and k and len(bs):
        first = one(0)  # what it finds out about the pattern, the others use, whichever thread is first
        if len(bs) > 1:
            each(lambda i: one(i + 1), len(bs) - 1, worthwhile=getattr(first, "worth_a_thread", False))
    return on.tensor(x.reshape(b.shape)), on.tensor(reports.reshape(*b.shape[:-2], *reports.shape[1:]))


@_opaque("matmul")
def matmul(values: Tensor, crow: Tensor, col: Tensor, x: Tensor, columns: int, adjoint: bool) -> Tensor:
    """`A x` or `Aᴴ x`: values `(*batch, nnz)`, x `(*batch, n, k)`."""
    on = device_module(values.device.type)
    rows, k = crow.shape[0] - 1, x.shape[-1]
    structure = on.structure_of(crow, col, (rows, columns))
    vs, xs = _flat(on.array(values), 1), _flat(on.array(x), 2)
    y = on.empty((len(xs), columns if adjoint else rows, k), xs)
    for i in range(len(xs)):
        y[i] = on.multiply(on.matrix(structure, vs[i]), xs[i], adjoint=adjoint)
    return on.tensor(y.reshape(*x.shape[:-2], *y.shape[1:]))  # type: ignore[no-any-return]


@_opaque("sample")
def sample(crow: Tensor, col: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """`(u vᴴ)` at the entries: u `(*batch, rows, k)`, v `(*batch, columns, k)`, out `(*batch, nnz)`."""
    on = device_module(u.device.type)
    structure = on.structure_of(crow, col, (u.shape[-2], v.shape[-2]))
    us, vs = _flat(on.array(u), 2), _flat(on.array(v), 2)
    out = on.empty((len(us), col.shape[0]), us)
    for i in range(len(us)):
        out[i] = on.sampled(structure, us[i], vs[i])
    return on.tensor(out.reshape(*u.shape[:-2], col.shape[0]))  # type: ignore[no-any-return]


@solve.register_fake  # type: ignore[untyped-decorator]
def _(
    values: Tensor,
    crow: Tensor,
    col: Tensor,
    b: Tensor,
    solver: str,
    adjoint: bool,
    report: bool,
    x0: Optional[Tensor] = None,  # noqa: UP045
) -> tuple[Tensor, Tensor]:
    return b.new_empty(b.shape), b.new_empty((*b.shape[:-2], REPORT, b.shape[-1] if report else 0), dtype=torch.float64)


@matmul.register_fake  # type: ignore[untyped-decorator]
def _(values: Tensor, crow: Tensor, col: Tensor, x: Tensor, columns: int, adjoint: bool) -> Tensor:
    return x.new_empty((*x.shape[:-2], columns if adjoint else crow.shape[0] - 1, x.shape[-1]))


@sample.register_fake  # type: ignore[untyped-decorator]
def _(crow: Tensor, col: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return u.new_empty((*u.shape[:-2], col.shape[0]))


def _flat(a: Any, core: int) -> Any:
    """All batch dimensions as one, before the last `core`."""
    return a[None] if a.ndim == core else a.reshape(math.prod(a.shape[:-core]), *a.shape[-core:])


def _factor(key: str, solver: Solver, module: ModuleType, structure: Any, values: Any, source: Source) -> Factor:
    """The factorization, made now or found again."""

    def remembered(make: Callable[[Any], Any], key: str = key) -> Any:
        return FACTORS.get((key, structure, values.dtype), (values,), make, source)

    return module.factorize(structure, values, solver, remembered)  # type: ignore[no-any-return]


def _whole(factor: Factor, b: Any, adjoint: bool, x0: Any) -> Outcome:
    """All columns at once; one that failed is an error."""
    outcome = factor.solve(b, adjoint=adjoint, x0=x0)
    if outcome.error is not None:
        raise outcome.error
    return outcome


def columns(factor: Factor, b: Any, adjoint: bool, x0: Any) -> Outcome:
    """All columns at once; where that fails, each by itself, so that one bad right-hand side does not take the others along."""
    try:
        return factor.solve(b, adjoint=adjoint, x0=x0)
    except SolveError as error:
        if b.shape[1] == 1:
            return Outcome(math.nan, int(_status(error)))
    parts = [slice(j, j + 1) for j in range(b.shape[1])]
    each = [columns(factor, b[:, j], adjoint, None if x0 is None else x0[:, j]) for j in parts]
    x = b * math.nan
    status, iterations, strategy = namespace(b).zeros((3, b.shape[1]), dtype=int)
    for j, outcome in zip(parts, each, strict=True):
        x[:, j], status[j], iterations[j], strategy[j] = outcome[:4]
    return Outcome(x, status, iterations, strategy)


def relative_residual(on: Any, product: Callable[[Any], Any], b: Any, x: Any) -> Any:
    """`‖b − A x‖₂ / ‖b‖₂` for each column, with `product(x) = A x`; scaled by the largest entry of b, so that no square overflows."""
    with on.quiet():
        largest = abs(b).max(axis=0)
        scale = largest + (largest == 0)
        b = b / scale
        r = b - product(x / scale)
        size, error = ((abs(a).astype("float64") ** 2).sum(axis=0) ** 0.5 for a in (b, r))
        return error / (size + (size == 0))


def _status(error: SolveError) -> int:
    if isinstance(error, SingularMatrixError):
        return Status.SINGULAR
    if isinstance(error, ConvergenceError):
        return Status.MAXITER
    return Status.NOT_POSITIVE_DEFINITE if isinstance(error, NotPositiveDefiniteError) else Status.BREAKDOWN


def located(error: SolveError, batch_index: int | None, adjoint: bool, purpose: str) -> SolveError:
    """The same error, saying which system it was, and what the solution was for."""
    fact = str(error)
    if purpose == "tangent":
        fact += " This was the solve for a tangent, as forward mode needs it."
    if purpose == "cotangent":
        fact += " This was the solve for a gradient."
    if adjoint:
        fact += " It was with the adjoint of A."
    return type(error)(sentence(fact, batch_index=batch_index))
