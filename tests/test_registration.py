"""The three ops as torch sees them, and the private names of torch that their registration rests on."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_structure
from torch.utils.checkpoint import checkpoint

import oracle
import sparsolve as sps
from sparsolve import levels, registration
from sparsolve.result import Status

OPS = ["solve", "matmul", "sample"]
each_op = pytest.mark.parametrize("name", OPS)

# module, name, what it is for, what to look for when a torch release moves it
PRIVATE = [
    (
        "torch._C",
        "_are_functorch_transforms_active",
        "tells whether outer functorch levels need grad and forward-grad mode back on",
        "whatever torch.autograd.Function.apply asks before it goes to custom_function_call",
    ),
    (
        "torch._C",
        "_AutoDispatchBelowAutograd",
        "lets the kernel call its own op below autograd",
        "the guard that the kernels of torch/_library/autograd.py use",
    ),
    (
        "torch._C._autograd",
        "_top_saved_tensors_default_hooks",
        "looks at hooks for saved tensors, with which torch.func.vjp refuses to begin",
        "what torch.autograd.graph.saved_tensors_hooks calls, and torch/_functorch/_aot_autograd/utils.py asks",
    ),
    (
        "torch._C._autograd",
        "_pop_saved_tensors_default_hooks",
        "takes away hooks for saved tensors, with which torch.func.vjp refuses to begin",
        "what torch.autograd.graph.saved_tensors_hooks calls, and torch/_functorch/_aot_autograd/utils.py asks",
    ),
    (
        "torch._C._autograd",
        "_push_saved_tensors_default_hooks",
        "puts back hooks for saved tensors, with which torch.func.vjp refuses to begin",
        "what torch.autograd.graph.saved_tensors_hooks calls, and torch/_functorch/_aot_autograd/utils.py asks",
    ),
    (
        "torch.fx.experimental.proxy_tensor",
        "get_proxy_mode",
        "tells whether make_fx or torch.func.linearize makes a graph, which will hold a ticket alone",
        "what torch/fx/experimental/proxy_tensor.py has for the mode that is active",
    ),
    (
        "torch._C._functorch",
        "get_unwrapped",
        "goes from a tensor of one level to that of the level below",
        "what torch/_functorch/pyfunctorch.py unwraps with",
    ),
    (
        "torch._C._functorch",
        "is_batchedtensor",
        "tells whether vmap follows a tensor",
        "what torch/_functorch/vmap.py or autograd_function.py ask",
    ),
    (
        "torch._C._functorch",
        "maybe_current_level",
        "is the level of the innermost transform",
        "what torch/_functorch/pyfunctorch.py says of its interpreters",
    ),
    (
        "torch._C._functorch",
        "maybe_get_level",
        "is the level that a tensor belongs to",
        "what torch/_tensor_str.py prints of a wrapped tensor",
    ),
    (
        "torch._C._functorch",
        "maybe_get_bdim",
        "says which dimension of a tensor is vmap's",
        "what torch/_tensor_str.py or torch/_functorch ask of a batched tensor",
    ),
    (
        "torch._C",
        "_ForceDispatchKeyGuard",
        "dispatches as in the user's code where rules and bodies apply transforms",
        "the guard that torch/_higher_order_ops or torch/_subclasses use for dispatch keys",
    ),
    (
        "torch._C",
        "_dispatch_tls_local_include_set",
        "is how operators are dispatched in the user's code",
        "what torch/_higher_order_ops reads before it forces dispatch keys",
    ),
    (
        "torch._C",
        "_dispatch_tls_local_exclude_set",
        "is how operators are dispatched in the user's code",
        "what torch/_higher_order_ops reads before it forces dispatch keys",
    ),
    (
        "torch._C._functorch",
        "_set_dynamic_layer_keys_included",
        "lets functorch sort calls by levels again",
        "what torch/_functorch/pyfunctorch.py uses around its interpreters",
    ),
    (
        "torch._C._functorch",
        "_wrap_for_grad",
        "puts what was computed one level out back into its level",
        "what torch/_functorch/eager_transforms.py wraps inputs with",
    ),
    (
        "torch._C",
        "_dispatch_tls_is_dispatch_key_excluded",
        "tells whether the code is below autograd, where nothing is recorded",
        "what torch/_library or torch/_higher_order_ops ask of dispatch keys",
    ),
    (
        "torch._C",
        "_has_storage",
        "tells tensors with memory from a transform's wrappers, which need the dispatcher",
        "what torch/_tensor.py or torch/_subclasses ask before they look at a tensor's storage",
    ),
    (
        "torch._C",
        "_len_torch_function_stack",
        "tells whether a TorchFunctionMode is active, so that ops must be called through the dispatcher",
        "what torch/overrides.py asks",
    ),
    (
        "torch._C._dynamo.eval_frame",
        "get_eval_frame_callback",
        "tells whether Dynamo compiles what is called now, so that it must see an op, not its body",
        "what torch/_dynamo/eval_frame.py asks for its callback",
    ),
    (
        "torch.autograd.profiler",
        "_is_profiler_enabled",
        "tells whether a profiler records calls, so that ops must be called through the dispatcher",
        "what torch/optim/optimizer.py or torch/_ops.py ask",
    ),
    (
        "torch._functorch.utils",
        "enable_single_level_autograd_function",
        "lets a single-level Function be applied while transforms are active",
        "the context manager in which torch/_functorch/autograd_function.py runs a single-level Function",
    ),
    (
        "torch._functorch.pyfunctorch",
        "temporarily_clear_interpreter_stack",
        "takes a CSR tensor apart as if no transform were active, since none can wrap it",
        "what torch/_functorch/pyfunctorch.py uses to leave all levels for a while",
    ),
    (
        "torch._functorch.pyfunctorch",
        "temporarily_pop_interpreter_stack",
        "asks at the next level whether it follows a tensor",
        "what torch/_functorch/pyfunctorch.py uses to leave one level for a while",
    ),
    (
        "torch._VF",
        "_unpack_dual",
        "takes the primal of a saved tensor at the level of the rule, or its tangent",
        "what torch.autograd.forward_ad.unpack_dual calls",
    ),
    (
        "torch.autograd.forward_ad",
        "_current_level",
        "tells whether a dual level is open, so that a call may have a tangent to record",
        "what torch.autograd.forward_ad.enter_dual_level counts",
    ),
    (
        "torch.autograd.forward_ad",
        "_set_fwd_grad_enabled",
        "switches forward-grad mode back on for outer levels",
        "what torch._functorch.pyfunctorch or autograd_function.py use for that mode",
    ),
    (
        "torch.autograd.function",
        "_SingleLevelFunction",
        "is a Function without functorch's own treatment, as built-in ops have it",
        "the base class of torch.autograd.Function",
    ),
]


@pytest.mark.parametrize(("module", "name", "purpose", "then"), PRIVATE, ids=[row[1] for row in PRIVATE])
def test_private_name(module: str, name: str, purpose: str, then: str) -> None:
    there = hasattr(import_module(module), name)
    assert there, (
        f"torch {torch.__version__} has no {module}.{name}. It {purpose}. Look for {then}; change registration.py or levels.py."
    )
    source = inspect.getsource(registration) + inspect.getsource(levels)
    used = f"{module} import {name}" in source or f"{module.rpartition('.')[2]}.{name}" in source
    assert used, "no longer used: take it out of this table"


def test_the_table_of_private_names_is_complete() -> None:
    source = inspect.getsource(registration) + inspect.getsource(levels)
    lines = [line for line in source.splitlines() if line.startswith("from torch")]
    imported = {(line.split()[1], line.split()[3]) for line in lines if line != "from torch import Tensor"}
    of_modules = {"_current_level", "_is_profiler_enabled"}
    assert imported - {("torch.autograd", "forward_ad"), ("torch.autograd", "profiler")} == {
        row[:2] for row in PRIVATE if row[1] not in of_modules
    }


# ---- tags and schemas


@each_op
def test_tags(name: str) -> None:
    """CPU solvers cannot be captured by CUDA graphs, and their inputs are read by strides."""
    tags = getattr(torch.ops.sparsolve, name).default.tags
    assert torch.Tag.cudagraph_unsafe in tags
    assert torch.Tag.needs_exact_strides in tags
    assert torch.Tag.pt2_compliant_tag in tags


@each_op
def test_nothing_is_mutated_or_aliased(name: str) -> None:
    schema = getattr(torch.ops.sparsolve, name).default._schema
    assert not schema.is_mutable
    assert all(a.alias_info is None for a in [*schema.arguments, *schema.returns])


# ---- opcheck

N, K = 4, 2
CROW, COL = torch.tensor([0, 3, 4, 6, 8]), torch.tensor([2, 0, 0, 1, 2, 1, 0, 3])


def values_of(dtype: torch.dtype, *batch: int) -> Tensor:
    rows = torch.repeat_interleave(torch.arange(N), CROW.diff())
    return 0.4 * torch.randn(*batch, len(COL), dtype=dtype) + 2 * (rows == COL)


def tensors(dtype: torch.dtype, batch: tuple[int, ...], index: torch.dtype, grad: bool) -> dict[str, Tensor]:
    made = {"values": values_of(dtype, *batch)} | {k: torch.randn(*batch, N, K, dtype=dtype) for k in "buv"}
    made = {k: t.requires_grad_(grad) for k, t in made.items()}
    return made | {"crow": CROW.to(index), "col": COL.to(index)}


def arguments(name: str, t: dict[str, Tensor], adjoint: bool, report: bool = False) -> tuple[Any, ...]:
    matrix = (t["crow"], t["col"])
    return {
        "solve": (t["values"], *matrix, t["b"], "LU()", adjoint, report),
        "matmul": (t["values"], *matrix, t["b"], N, adjoint),
        "sample": (*matrix, t["u"], t["v"]),
    }[name]


SAMPLES: dict[str, dict[str, Any]] = {
    "real": {},
    "complex": {"dtype": torch.complex128},
    "single, int32": {"dtype": torch.complex64, "index": torch.int32},
    "batched": {"batch": (3,)},
    "batched twice, complex": {"batch": (2, 1), "dtype": torch.complex128},
    "no batch": {"batch": (0,)},
    "adjoint": {"adjoint": True, "dtype": torch.complex128},
    "report": {"report": True},
    "report of a batch": {"report": True, "batch": (3,), "adjoint": True},
    "constants": {"grad": False},
}


@each_op
@pytest.mark.parametrize("sample", SAMPLES)
def test_opcheck(name: str, sample: str) -> None:
    """Schema, autograd registration, fake kernel, and AOT dispatch with dynamic shapes: all of torch's own checks."""
    given = {"dtype": torch.float64, "batch": (), "index": torch.int64, "grad": True, "adjoint": False, "report": False}
    given |= SAMPLES[sample]
    t = tensors(given["dtype"], given["batch"], given["index"], given["grad"])
    torch.library.opcheck(
        getattr(torch.ops.sparsolve, name).default, arguments(name, t, given["adjoint"], given["report"])
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("adjoint", "report"), [(False, False), (True, False), (True, True)])
def test_opcheck_of_solve_with_a_vector(dtype: torch.dtype, adjoint: bool, report: bool) -> None:
    """As `solve` calls it, for one matrix and one vector; here with a first guess and a report too."""
    b = torch.randn(N, dtype=dtype, requires_grad=True)
    args = (values_of(dtype).requires_grad_(), CROW, COL, b, "LU()", adjoint, report, torch.zeros_like(b))
    torch.library.opcheck(torch.ops.sparsolve.solve.default, args)
    x, reports = torch.ops.sparsolve.solve(*args)
    assert x.shape == b.shape
    assert reports.shape == (4, int(report))
    by_columns = torch.ops.sparsolve.solve(*args[:3], b.unsqueeze(-1), *args[4:7], None)
    torch.testing.assert_close(x, by_columns[0].squeeze(-1))
    torch.testing.assert_close(reports, by_columns[1])


@pytest.mark.parametrize("values_too", [False, True])
def test_vmap_of_the_op_with_vectors_and_first_guesses(values_too: bool) -> None:
    values, bs = values_of(torch.float64, 3), torch.randn(3, N, dtype=torch.float64)

    def one(v: Tensor, b: Tensor, x0: Tensor) -> Tensor:
        return torch.ops.sparsolve.solve(v, CROW, COL, b, "GMRES(rtol=1e-12)", False, False, x0)[0]  # type: ignore[no-any-return]

    v = values if values_too else values[0]
    got = torch.vmap(one, (0 if values_too else None, 1, 0))(v, bs.T, bs)
    expected = [oracle.solve(values[i if values_too else 0], pattern(), bs[i]) for i in range(3)]
    torch.testing.assert_close(got, torch.stack(expected))


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("report", [False, True])
def test_fake_outputs_are_like_real_ones(batch: tuple[int, ...], report: bool) -> None:
    """Shape, dtype and strides, also where the inputs are not contiguous."""
    t = {
        k: (s.mT.contiguous().mT if s.is_floating_point() and s.dim() > 1 else s)
        for k, s in tensors(torch.float64, batch, torch.int64, False).items()
    }
    for name in OPS:
        op, args = getattr(torch.ops.sparsolve, name), arguments(name, t, True, report)
        with torch._subclasses.FakeTensorMode() as mode:
            fake = op(*(mode.from_tensor(a) if isinstance(a, Tensor) else a for a in args))
        real = op(*args)
        for f, r in zip(*(o if isinstance(o, tuple) else (o,) for o in (fake, real)), strict=True):
            assert (f.shape, f.dtype) == (r.shape, r.dtype)
            assert r.numel() == 0 or f.stride() == r.stride()
            assert r.is_contiguous()


# ---- no tangent is silently zero


def pattern() -> sps.Pattern:
    return sps.Pattern(CROW, COL, (N, N))


def dense(name: str, adjoint: bool) -> Callable[..., Tensor]:
    """The op by the oracle, as a function of its two differentiable arguments."""
    if name == "sample":
        rows = torch.repeat_interleave(torch.arange(N), CROW.diff())
        return lambda u, v: (u @ v.mH)[rows, COL]
    return lambda values, b: getattr(oracle, name)(values, pattern(), b, adjoint)


def opaque(name: str, adjoint: bool) -> Callable[..., Tensor]:
    def f(first: Tensor, second: Tensor) -> Tensor:
        keys = ("u", "v") if name == "sample" else ("values", "b")
        given = {"values": first, "b": first, "u": first, "v": first} | dict(zip(keys, (first, second), strict=True))
        out = getattr(torch.ops.sparsolve, name)(*arguments(name, given | {"crow": CROW, "col": COL}, adjoint))
        return out[0] if isinstance(out, tuple) else out

    return f


@each_op
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("mode", ["torch.func.jvp", "torch.autograd.forward_ad"])
def test_tangents(name: str, adjoint: bool, dtype: torch.dtype, mode: str) -> None:
    """With respect to either argument and to both: right, and not zero."""
    t = tensors(dtype, (), torch.int64, False)
    at = (t["u"], t["v"]) if name == "sample" else (t["values"], t["b"])
    along = tuple(torch.randn_like(a) for a in at)
    for moving in ((0,), (1,), (0, 1)):
        got, expected = (_tangent(f(name, adjoint), at, along, moving, mode) for f in (opaque, dense))
        assert got.abs().max() > 1e-3
        torch.testing.assert_close(got, expected)


def _tangent(f: Callable[..., Tensor], at: Any, along: Any, moving: tuple[int, ...], mode: str) -> Tensor:
    def some(*moved: Tensor) -> Tensor:
        args = list(at)
        for i, a in zip(moving, moved, strict=True):
            args[i] = a
        return f(*args)

    primals, tangents = [at[i] for i in moving], [along[i] for i in moving]
    if mode == "torch.func.jvp":
        return torch.func.jvp(some, tuple(primals), tuple(tangents))[1]
    forward_ad = torch.autograd.forward_ad
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(p, d) for p, d in zip(primals, tangents, strict=True)]
        tangent = forward_ad.unpack_dual(some(*duals)).tangent
    assert tangent is not None
    return tangent


def test_the_report_has_no_derivative() -> None:
    t = tensors(torch.float64, (), torch.int64, True)
    x, report = torch.ops.sparsolve.solve(*arguments("solve", t, False, True))
    assert x.requires_grad
    assert not report.requires_grad
    assert report.shape == (4, K)
    assert (report[0] == Status.CONVERGED).all()


def test_a_constant_input_costs_no_derivative() -> None:
    """Nothing requires a gradient: no graph is kept."""
    t = tensors(torch.float64, (), torch.int64, False)
    for name in OPS:
        out = getattr(torch.ops.sparsolve, name)(*arguments(name, t, False))
        assert (out[0] if isinstance(out, tuple) else out).grad_fn is None


# ---- without the dispatcher

Solve = Callable[..., Tensor]


def _pulled(f: Solve, v: Tensor, **kwargs: Any) -> Tensor:
    v = v.detach().clone().requires_grad_()
    return torch.autograd.grad(f(v, **kwargs).pow(2).sum(), v)[0]


def _batched_gradients(f: Solve, v: Tensor) -> Any:
    v = v.clone().requires_grad_()
    return torch.autograd.grad(f(v), v, torch.eye(N, dtype=v.dtype), is_grads_batched=True)


def _dual(f: Solve, v: Tensor, along: Tensor) -> Any:
    with torch.autograd.forward_ad.dual_level():
        return tuple(torch.autograd.forward_ad.unpack_dual(f(torch.autograd.forward_ad.make_dual(v, along))))


def _below_autograd(f: Solve, v: Tensor) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        x = f(v.clone().requires_grad_())
    return x, x.requires_grad


def _in_inference_mode(f: Solve, v: Tensor) -> Any:
    with torch.inference_mode():
        x = f(v)
    return x, x.is_inference()


def _kept_for_backward(f: Solve, v: Tensor) -> Any:
    shapes: list[Any] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (shapes.append(t.shape), t)[1], lambda t: t):
        return _pulled(f, v), shapes


def _overwritten(f: Solve, v: Tensor) -> Any:
    v = v.clone().requires_grad_()
    x = f(v)
    with torch.no_grad():
        v.add_(1)
    try:
        return torch.autograd.grad(x.sum(), v)
    except RuntimeError as error:
        return str(error)[:80]


def _calls_of_the_solver(f: Solve, v: Tensor) -> Any:
    """By a callable that computes with a module's parameters, and differentiates something itself."""
    eye, states = torch.nn.Parameter(torch.eye(N, dtype=v.dtype)), []

    def solver(A: Any, b: Any) -> Any:
        x = torch.linalg.solve(eye @ torch.from_numpy(A.toarray()), torch.from_numpy(b))
        states.append((x.requires_grad, torch.is_inference_mode_enabled()))
        return x.numpy()

    return f(v, solver=solver), _pulled(f, v, solver=solver), states


def _profiled(f: Solve, v: Tensor) -> Any:
    """With all threads."""
    config = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], experimental_config=config
    ) as profile:
        threads = [Thread(target=f, args=(v,)) for _ in range(2)]
        for thread in threads:
            thread.start()
            thread.join()
        _pulled(f, v)
    return sorted((e.key, e.count) for e in profile.key_averages() if e.key.startswith("sparsolve"))


def _modes(f: Solve, v: Tensor) -> Any:
    seen: list[str] = []

    class Dispatch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    class Function(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Dispatch():
        _pulled(f, v)
    with Function():
        f(v)
    return [name for name in seen if "sparsolve" in name]


def _traced(pre_dispatch: bool) -> Callable[[Solve, Tensor], str]:
    def pulled(f: Solve, v: Tensor) -> str:
        step = lambda v: torch.autograd.grad(f(v.requires_grad_()).sum(), v)  # noqa: E731
        return make_fx(step, pre_dispatch=pre_dispatch)(v.clone()).code  # type: ignore[no-any-return]

    return pulled


SITUATIONS: dict[str, Callable[[Solve, Tensor], Any]] = {
    "gradient": _pulled,
    "batched gradients": _batched_gradients,
    "Jacobian, forward mode": lambda f, v: torch.autograd.functional.jacobian(f, v, vectorize=True, strategy="forward-mode"),
    "Hessian, vectorized": lambda f, v: torch.autograd.functional.hessian(lambda v: f(v).sin().sum(), v, vectorize=True),
    "vmap of grad of jvp": lambda f, v: torch.vmap(torch.func.grad(lambda v: torch.func.jvp(f, (v,), (v,))[1].sum()))(torch.stack([v, 2 * v])),
    "dual number": lambda f, v: _dual(f, v, v.sin()),
    "tangent without memory": lambda f, v: _dual(f, v, torch._efficientzerotensor(v.shape, dtype=v.dtype)),
    "b without memory": lambda f, v: f(v, b=torch._efficientzerotensor(N, dtype=v.dtype)),
    "below autograd": _below_autograd,
    "inference mode": _in_inference_mode,
    "saved tensors": _kept_for_backward,
    "saved tensor overwritten": _overwritten,
    "checkpoint": lambda f, v: _pulled(partial(checkpoint, f, use_reentrant=False), v),
    "callable": _calls_of_the_solver,
    "adjoint is True": lambda f, v: [f(v, adjoint=yes) for yes in (True, np.True_)],
    "adjoint is False": lambda f, v: [f(v, adjoint=no) for no in (False, np.False_)],
    "profiler": _profiled,
    "modes": _modes,
    "make_fx": _traced(pre_dispatch=False),
    "make_fx before dispatch": _traced(pre_dispatch=True),
    "functionalize": lambda f, v: make_fx(torch.func.functionalize(lambda v: f(v)))(v).code,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*torch.jit.script", "ignore:.*Profiler clears events")
@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_dispatcher_would_do_the_same(situation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right, fixed = torch.randn(N, dtype=torch.float64), pattern()

    def f(v: Tensor, b: Tensor = right, **kwargs: Any) -> Tensor:
        return sps.solve(sps.SparseMatrix(v, fixed), b, **kwargs)  # type: ignore[no-any-return]

    v = values_of(torch.float64)
    got = SITUATIONS[situation](f, v)
    monkeypatch.setattr(registration, "_at_rest", lambda args: False)
    expected = SITUATIONS[situation](f, v)
    assert tree_structure(got) == tree_structure(expected)
    for ours, theirs in zip(tree_leaves(got), tree_leaves(expected), strict=True):
        assert torch.equal(ours, theirs) if isinstance(ours, Tensor) else ours == theirs


def test_dynamo_never_enters_a_body() -> None:
    """Nor where it skips what calls the op, as when a backend fails for that: NumPy is not what it can trace."""
    traced: list[str] = []

    def backend(graph: Any, inputs: Any) -> Any:
        traced.append(graph.code)
        raise NotImplementedError

    @torch.compile(backend=backend)
    def f(v: Tensor) -> Tensor:
        return sps.solve(sps.SparseMatrix(v, pattern()), torch.ones(N, dtype=v.dtype))  # type: ignore[no-any-return]

    v = values_of(torch.float64)
    torch.compiler.reset()
    with torch._dynamo.config.patch(suppress_errors=True):
        torch.testing.assert_close(f(v), oracle.solve(v, pattern(), torch.ones(N, dtype=v.dtype)))
    assert any("sparsolve" in code for code in traced)
    assert not any("wrapped_" in code for code in traced)  # as Dynamo calls NumPy's functions


@pytest.mark.parametrize("inside", ["torch.vmap(found)(torch.ones(2))", "with FakeTensorMode(): found()"])
def test_a_first_import_inside_of_a_transform_or_a_mode(inside: str) -> None:
    """The usual state of the dispatcher is not that of the import."""
    code = f"""
import torch
from torch._subclasses import FakeTensorMode
def found(x=None):
    import sparsolve
    return x
{inside}
import sparsolve as sps
from sparsolve import registration
D, b = torch.eye(3) + 0.1, torch.ones(3)
f = lambda D: sps.solve(sps.Operator(torch.mv, D), b, sps.CG(rtol=1e-6)).sum()
torch.testing.assert_close(torch.func.grad(f)(D), torch.func.grad(lambda D: (torch.linalg.inv(D) @ b).sum())(D))
assert registration._at_rest((D, b))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# ---- warnings


def test_replacing_the_kernel_warns_nobody() -> None:
    """torch warns once in a process that a kernel is replaced: not on import, and not later in the user's own code."""
    code = """
import warnings
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import torch
    import sparsolve as sps
    A = sps.SparseMatrix(torch.ones(2), sps.Pattern(torch.arange(3), torch.arange(2), (2, 2)))
    torch.func.jvp(lambda v: sps.solve(sps.SparseMatrix(v, A.pattern), torch.ones(2)), (A.values,), (A.values,))
    torch.func.grad(lambda v: sps.solve(sps.SparseMatrix(v, A.pattern), torch.ones(2)).sum())(A.values)
ours = [str(w.message) for w in seen if "kernel" in str(w.message) or "sparsolve" in str(w.filename)]
assert not ours, ours
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_import_leaves_the_warning_filters_alone() -> None:
    code = """
import warnings, torch._dynamo, scipy.sparse.linalg, optree
before = list(warnings.filters)
import sparsolve
assert warnings.filters == before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
