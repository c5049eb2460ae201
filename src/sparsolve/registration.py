"""The rules' attachment to an op: this file and `levels.py` alone touch torch's dispatcher internals.

Why not `register_autograd` alone: the Function that torch generates from it has no `jvp`, so a
forward-mode derivative of a custom op is a zero tangent without an error, and no `setup_context`,
so `torch.func.grad` of it raises. Why not `torch.autograd.Function` around the op: Dynamo rejects
or drops its `jvp`, and functorch runs its forward with the outer levels' modes switched off.

What works is what torch's built-in ops have: **one kernel at the op's `Autograd` dispatch key**. There the
interpreter of the current functorch level is already peeled off, so a plain single-level Function is exactly
right, and Dynamo sees an op, never a Function. Three details make it whole:

- `Function.apply` switches grad mode and forward-grad mode off while `forward` runs. Levels further out still
  need them when functorch transforms are active, so grad mode is as it was, and the other one on again (`_for_outer_levels`).
- Saved tensors stay dual, or forward-over-reverse loses a term; the tangent rule must see primals, so it
  takes the primal of each at its own level.
- The same tensors are saved for backward and for forward mode.

`register_autograd` stays: it is what `opcheck` and other tools look up. If a torch release moves one of the private names
below, the import of these files fails with its name; `tests/test_registration.py` then says what each is for.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active as _transforming
from torch._C import _AutoDispatchBelowAutograd
from torch._C import _dispatch_tls_is_dispatch_key_excluded as _is_excluded
from torch._C import _dispatch_tls_local_include_set as _included
from torch._C import _has_storage as _has_memory
from torch._C import _len_torch_function_stack as _function_modes
from torch._C._dynamo.eval_frame import get_eval_frame_callback as _compiler
from torch._functorch.utils import enable_single_level_autograd_function
from torch._VF import _unpack_dual
from torch.autograd import forward_ad
from torch.autograd import profiler as _profiler
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.autograd.function import _SingleLevelFunction

from .kept import Body, Kept, Rule
from .levels import EAGER

__all__ = ["attach"]

_NOTHING = contextlib.nullcontext()
_PLAIN = frozenset({Tensor, torch.nn.Parameter})
_AUTOGRAD = torch._C.DispatchKey.AutogradFunctionality
_library = torch.library.Library("sparsolve", "FRAGMENT")


def _for_outer_levels(grad: bool) -> contextlib.AbstractContextManager[Any]:
    return _both_grad_modes(grad) if _transforming() else _NOTHING


@contextlib.contextmanager
def _both_grad_modes(grad: bool) -> Iterator[None]:
    with torch.set_grad_enabled(grad), _set_fwd_grad_enabled(True):
        yield


def _primal(t: Tensor) -> Tensor:
    return _unpack_dual(t, level=0)[0]


def _nothing_to_record(tensors: Sequence[Any]) -> bool:
    """No transform, no dual level, and no input that wants a gradient: most calls, such as a first-order backward."""
    if _transforming() or forward_ad._current_level >= 0:
        return False
    if torch.is_grad_enabled():
        for t in tensors:
            if t is not None and t.requires_grad:
                return False
    return True


def _at_rest(tensors: Sequence[Any]) -> bool:
    """Whether the dispatcher would go straight to the op's rules and its body: plain tensors with memory, and nobody who changes, traces or
    records calls. (Function modes are Python's, and the dispatcher knows nothing of profilers and of Dynamo, which would compile the body.)

    Its conversions of arguments, there and back for each key, take a third of the time of a small solve.
    """
    if _included().raw_repr() not in EAGER or _function_modes() or _profiler._is_profiler_enabled or _compiler():
        return False
    for t in tensors:
        if t is None or (type(t) in _PLAIN and (t.is_cpu or t.is_cuda) and _has_memory(t) and not t._is_zerotensor()):
            continue
        return False
    return True


def _function_of(name: str, forward: Rule, rules: dict[str, Rule]) -> Any:
    """A single-level Function of this forward and these rules."""
    rules = {**rules, "forward": forward}
    rules["_compiled_autograd_key"] = torch.autograd.Function._compiled_autograd_key  # which the single-level one lacks
    return type(name, (_SingleLevelFunction,), {k: staticmethod(f) for k, f in rules.items()})


def _rules(kept: Kept, backward: Rule, jvp: Rule, at_once: Rule | None) -> tuple[Rule, Rule]:
    """`backward` and `jvp` of a Function whose first output is differentiable."""

    def pull(ctx: Any, *grads: Tensor) -> Any:
        inputs, output, tensors = kept.read(ctx)
        if at_once is not None and not torch.compiler.is_compiling():
            tensors.append(grads[0])
            if _at_rest(tensors) and _nothing_to_record(tensors):
                with _AutoDispatchBelowAutograd():
                    return at_once(inputs, output, ctx.needs_input_grad, grads[0], ctx.found)
        return backward(inputs, output, ctx.needs_input_grad, grads[0])

    def push(ctx: Any, *tangents: Tensor | None) -> Any:
        with _for_outer_levels(torch.is_grad_enabled()):
            inputs, output, _ = kept.read(ctx, _primal if _transforming() else None)
            tangent = jvp(inputs, output, tangents)
            return (tangent, None) if kept.several else tangent

    return pull, push


def _disabled(pull: Rule) -> Rule:
    """`torch.compiler.disable(pull)`, whose way through Dynamo is spared where Dynamo is not at work."""
    disabled = torch.compiler.disable(pull)

    def call(*args: Any) -> Any:
        return disabled(*args) if _compiler() else pull(*args)

    return torch.compiler.disable(call, recursive=False)  # type: ignore[no-any-return]


def attach(
    name: str, *, backward: Rule, jvp: Rule, vmap: Rule, unread: tuple[int, ...] = (), body: Body | None = None
) -> Callable[..., Any]:
    """Give the op `sparsolve::name` its rules, under every transform.

    Args:
        name: an opaque op whose outputs are a tensor, or a tuple whose first entry alone is differentiable.
        backward: `(inputs, output, needs, grad) -> one gradient or None per input`.
        jvp: `(inputs, output, tangents) -> tangent of the output`, `tangents` None where there is none.
        vmap: the rule as `torch.library.register_vmap` takes it.
        unread: inputs, by place, that `backward` and `jvp` do not read, and -1 for the output. They get None there: what a graph does
            not hold costs no memory, and may be written to before the backward.
        body: what may run in its place.

    Returns:
        What calls the op: with a body, without the dispatcher where that has nothing to do.
    """
    op = getattr(torch.ops.sparsolve, name).default
    kept = Kept(op._schema, unread)
    pull, push = _rules(kept, backward, jvp, body and body.at_once)
    rules = {"backward": _disabled(pull), "jvp": push}

    def below(*args: Any) -> Any:
        with _AutoDispatchBelowAutograd():
            return op(*args)

    def forward(grad: bool, *args: Any) -> Any:
        with _for_outer_levels(grad):
            return below(*args)

    saved = {**rules, "setup_context": kept.save}
    recorded = {grad: _function_of(name, partial(forward, grad), saved) for grad in (False, True)}

    def kernel(keyset: Any, *args: Any) -> Any:
        # also where nothing seems to be recorded: of a dual level that compiled code has opened, only torch's C++ knows
        with enable_single_level_autograd_function():
            return recorded[torch.is_grad_enabled()].apply(*args)

    torch.library.register_autograd(f"sparsolve::{name}", pull, setup_context=kept.save)
    torch.library.register_vmap(f"sparsolve::{name}", vmap)
    with warnings.catch_warnings():  # torch warns once that register_autograd's kernel is replaced, which is the point
        warnings.simplefilter("ignore", UserWarning)
        _library.impl(name, kernel, "Autograd", with_keyset=True, allow_override=True)
    return op if body is None else _directly(name, op, body, rules, kept)


def _directly(name: str, op: Any, body: Body, rules: dict[str, Rule], kept: Kept) -> Callable[..., Any]:
    """What calls the op without the dispatcher, where that has nothing to do."""
    keep = body.keep or (lambda *args: (body.run(*args), None))

    def below(*args: Any) -> Any:
        # as by the dispatcher: nothing that a user's callable does in it is recorded
        with _AutoDispatchBelowAutograd():
            return keep(*args)[0]

    def forward(ctx: Any, *args: Any) -> Any:
        with _AutoDispatchBelowAutograd():
            output, found = keep(*args)
        kept.save(ctx, args, output, found)
        return output

    recorded = _function_of(name, forward, rules)

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling():
            return op(*args)
        tensors = [args[i] for i in kept.followed]
        if not _at_rest(tensors):
            return op(*args)
        if _nothing_to_record(tensors):
            return below(*args)
        return op(*args) if _is_excluded(_AUTOGRAD) else recorded.apply(*args)

    return call
