"""The opaque ops of a sparse matrix: what runs, and what their outputs look like.

Tensors in, tensors out; NumPy, SciPy and CuPy are inside, where no transform looks. Batch dimensions of values and
right-hand sides are equal here; `calculus.py` and `operands.py` see to that. Outputs are contiguous, real and fake alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Optional
from weakref import ref

import numpy as np
import torch
from torch import Tensor

from .arrays import namespace
from .backends import device_module
from .batch import REPORT, Batch, Found
from .determinants import Determinants
from .retention import Source

__all__ = ["bodies", "opaque", "solve_and_keep", "solve_backward"]

_library = torch.library.Library("sparsolve", "FRAGMENT")
_TAGS = (torch.Tag.cudagraph_unsafe, torch.Tag.needs_exact_strides)


bodies: dict[str, Callable[..., Any]] = {}


def opaque(name: str) -> Callable[[Callable[..., Any]], Any]:
    """`torch.library.custom_op`, with the function itself as the CPU kernel too: what torch wraps around it to look for aliased outputs,
    which these ops do not have, takes a tenth of the time of a small solve."""

    def define(body: Callable[..., Any]) -> Any:
        call = _on_its_device(body)
        op = torch.library.custom_op(f"sparsolve::{name}", call, mutates_args=(), tags=_TAGS)
        _library.impl(name, torch.compiler.disable(call), "CPU")
        bodies[name] = call
        return op

    return define


def _on_its_device(body: Callable[..., Any]) -> Callable[..., Any]:
    """Run an op's body as its tensors' device wants it: in its stream, in its memory."""

    @wraps(body)
    def run(*args: Any) -> Any:
        return device_module(_device(args[0])).run(body, args)

    return run


def _device(t: Tensor) -> str:
    """`t.device.type`, in a sixth of the time."""
    return "cpu" if t.is_cpu else t.device.type


@opaque("solve")
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
    """`A⁻¹ b` or `A⁻ᴴ b`: values `(*batch, nnz)`, b `(*batch, n, k)`; or `(nnz,)` and `(n,)`.

    With `report` a failure is a status, x is NaN there, and the second output is `(*batch, 4, k)`; without, it is raised.
    """
    batch = _solved(values, crow, col, b, solver, adjoint, report, x0)
    reports = batch.reports
    if reports is None:
        reports = batch.on.zeros((len(batch.b), REPORT, 0))
    return _x(batch, b), batch.on.tensor(reports.reshape(*b.shape[:-2], *reports.shape[1:]))


@_on_its_device
def solve_and_keep(
    values: Tensor, crow: Tensor, col: Tensor, b: Tensor, solver: str, adjoint: bool, report: bool, x0: Tensor | None
) -> tuple[tuple[Tensor, Tensor | None], Found | None]:
    """`solve`, with None for a report that nobody wants; and what its gradient can go on from."""
    if report:
        return bodies["solve"](values, crow, col, b, solver, adjoint, report, x0), None
    batch = _solved(values, crow, col, b, solver, adjoint, report, x0)
    return (_x(batch, b), None), batch.found


def _solved(
    values: Tensor, crow: Tensor, col: Tensor, b: Tensor, solver: str, adjoint: bool, report: bool, x0: Tensor | None
) -> Batch:
    """The systems, solved."""
    device, on, structure, vs = _square(values, crow, col)
    bs, x0s = _flat(on.array(b), 2), None if x0 is None else _flat(on.array(x0), 2)
    batch = Batch(device, structure, vs, bs, x0s, solver, _source(values), adjoint=adjoint, report=report)
    batch.solve(distinct=len(vs) > 1 and _all_differ(values))
    return batch


def _square(values: Tensor, crow: Tensor, col: Tensor) -> tuple[str, Any, Any, Any]:
    """Of square matrices: their device, its module, the analysis, and the values as `(matrices, nnz)`."""
    device, n = _device(values), crow.shape[0] - 1
    on = device_module(device)
    return device, on, on.structure_of(crow, col, (n, n)), _flat(on.array(values), 1)


def _x(batch: Batch, b: Tensor) -> Tensor:
    return batch.on.tensor(batch.x.reshape(b.shape))  # type: ignore[no-any-return]


@_on_its_device
def solve_backward(
    x: Tensor, grad: Tensor, found: Found | None, inputs: Sequence[Any], solver: str, entries: bool
) -> tuple[Tensor, Tensor | None]:
    """What `solve` and `sample` are asked for by the gradient of `solve(*inputs)`, at once: `λ`, and `−λ xᴴ` or `−x λᴴ` at the entries."""
    values, crow, col, _, _, adjoint, *_ = inputs
    on = device_module(_device(values))
    again = None if found is None else found.solve(_flat(on.array(grad), 2)[0], solver, not adjoint)
    if again is None:
        batch = _solved(values, crow, col, grad, solver, not adjoint, False, None)
        again = batch.structure, batch.x
    structure, lam = again
    if not entries:
        return on.tensor(lam.reshape(grad.shape)), None
    u, v = -_flat(lam, 2), _flat(on.array(x), 2)  # n numbers to negate, and not nnz
    sampled = on.sampled(structure, v, u) if adjoint else on.sampled(structure, u, v)
    return on.tensor(lam.reshape(grad.shape)), on.tensor(sampled.reshape(values.shape))


@opaque("matmul")
def matmul(values: Tensor, crow: Tensor, col: Tensor, x: Tensor, columns: int, adjoint: bool) -> Tensor:
    """`A x` or `Aᴴ x`: values `(*batch, nnz)`, x `(*batch, n, k)`."""
    on = device_module(_device(values))
    rows, k = crow.shape[0] - 1, x.shape[-1]
    structure = on.structure_of(crow, col, (rows, columns))
    vs, xs = _flat(on.array(values), 1), _flat(on.array(x), 2)
    y = on.empty((len(xs), columns if adjoint else rows, k), xs)
    for i in range(len(xs)):
        y[i] = on.multiply(on.matrix(structure, vs[i]), xs[i], adjoint=adjoint)
    return on.tensor(y.reshape(*x.shape[:-2], *y.shape[1:]))  # type: ignore[no-any-return]


@opaque("sample")
def sample(crow: Tensor, col: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """`(u vᴴ)` at the entries: u `(*batch, rows, k)`, v `(*batch, columns, k)`, out `(*batch, nnz)`."""
    on = device_module(_device(u))
    structure = on.structure_of(crow, col, (u.shape[-2], v.shape[-2]))
    us, vs = _flat(on.array(u), 2), _flat(on.array(v), 2)
    out = on.sampled(structure, us, vs)
    return on.tensor(out.reshape(*u.shape[:-2], col.shape[0]))  # type: ignore[no-any-return]


@opaque("logdet")
def logdet(values: Tensor, crow: Tensor, col: Tensor, solver: str) -> tuple[Tensor, Tensor]:
    """`log |det A|` and its sign; of complex matrices `log det A` and 1. Values `(*batch, nnz)`, out `(*batch,)`."""
    on, vs, which = _determinants(values, crow, col, solver)
    found = which.found()
    to, batch = namespace(vs), values.shape[:-1]
    log = to.asarray(np.array([d.log for d in found], dtype=vs.dtype))
    sign = to.asarray(np.array([d.sign for d in found], dtype=vs.real.dtype))
    log, sign = (on.tensor(a).reshape(batch).clone() for a in (log, sign))  # views could not be written to
    return log, sign


@opaque("inverse_entries")
def inverse_entries(values: Tensor, crow: Tensor, col: Tensor, solver: str) -> Tensor:
    """`A⁻ᴴ` at A's entries: values and out `(*batch, nnz)`."""
    on, vs, which = _determinants(values, crow, col, solver)
    out = on.empty(vs.shape, vs)
    for i, d in enumerate(which.found()):
        out[i] = namespace(vs).asarray(d.inverse())
    return on.tensor(out.reshape(values.shape))  # type: ignore[no-any-return]


@opaque("inverse_derivative")
def inverse_derivative(values: Tensor, w: Tensor, crow: Tensor, col: Tensor, solver: str) -> Tensor:
    """`−(A⁻ᴴ Wᴴ A⁻ᴴ)` at A's entries, for W with the entries w: values, w and out `(*batch, nnz)`."""
    on, _, which = _determinants(values, crow, col, solver)
    return on.tensor(which.derivatives(_flat(on.array(w), 1)).reshape(values.shape))  # type: ignore[no-any-return]


def _determinants(values: Tensor, crow: Tensor, col: Tensor, solver: str) -> tuple[Any, Any, Determinants]:
    """The device's module, the values as arrays, and their determinants."""
    device, on, structure, vs = _square(values, crow, col)
    return on, vs, Determinants(device, structure, vs, solver, _source(values), distinct=_all_differ(values))


def _source(values: Tensor) -> Source:
    """Where the first matrix came from."""
    return Source(ref(values.untyped_storage()), int(values.storage_offset()))


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
    k = 0 if not report else 1 if b.dim() == 1 else b.shape[-1]
    return b.new_empty(b.shape), b.new_empty((*b.shape[:-2], REPORT, k), dtype=torch.float64)


@matmul.register_fake  # type: ignore[untyped-decorator]
def _(values: Tensor, crow: Tensor, col: Tensor, x: Tensor, columns: int, adjoint: bool) -> Tensor:
    return x.new_empty((*x.shape[:-2], columns if adjoint else crow.shape[0] - 1, x.shape[-1]))


@sample.register_fake  # type: ignore[untyped-decorator]
def _(crow: Tensor, col: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return u.new_empty((*u.shape[:-2], col.shape[0]))


@logdet.register_fake  # type: ignore[untyped-decorator]
def _(values: Tensor, crow: Tensor, col: Tensor, solver: str) -> tuple[Tensor, Tensor]:
    batch = values.shape[:-1]
    return values.new_empty(batch), values.new_empty(batch, dtype=values.dtype.to_real())


@inverse_entries.register_fake  # type: ignore[untyped-decorator]
def _(values: Tensor, crow: Tensor, col: Tensor, solver: str) -> Tensor:
    return values.new_empty(values.shape)


@inverse_derivative.register_fake  # type: ignore[untyped-decorator]
def _(values: Tensor, w: Tensor, crow: Tensor, col: Tensor, solver: str) -> Tensor:
    return values.new_empty(values.shape)


def _all_differ(values: Tensor) -> bool:
    """Whether no matrix of a batch is another one by expansion; of such there is one factorization."""
    return all(stride or size == 1 for size, stride in zip(values.shape[:-1], values.stride()[:-1], strict=True))


def _flat(a: Any, core: int) -> Any:
    """All batch dimensions as one, before the last `core`; a vector for two is one column."""
    if a.ndim < core:
        return a.reshape(1, -1, 1)
    return a[None] if a.ndim == core else a.reshape(math.prod(a.shape[:-core]), *a.shape[-core:])
