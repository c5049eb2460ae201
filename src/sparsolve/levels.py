"""The levels of torch.func at which a call is: what follows a tensor there, and how to leave them.

A rule or a body that applies transforms itself, as those of an operator's function do, has to be where the user's code was: below a level's own
dispatch no new level can begin.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active as _transforming
from torch._C import _dispatch_tls_local_exclude_set as _excluded
from torch._C import _dispatch_tls_local_include_set as _included
from torch._C import _ForceDispatchKeyGuard as _dispatching
from torch._C._autograd import _pop_saved_tensors_default_hooks as _pop_hooks
from torch._C._autograd import _push_saved_tensors_default_hooks as _push_hooks
from torch._C._autograd import _top_saved_tensors_default_hooks as _top_hooks
from torch._C._functorch import _set_dynamic_layer_keys_included as _set_transforming
from torch._C._functorch import _wrap_for_grad
from torch._C._functorch import get_unwrapped as _get_unwrapped
from torch._C._functorch import is_batchedtensor as _is_batched
from torch._C._functorch import maybe_current_level as _level
from torch._C._functorch import maybe_get_bdim as _batch_dimension
from torch._C._functorch import maybe_get_level as _level_of
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._functorch.pyfunctorch import temporarily_pop_interpreter_stack as _left
from torch._VF import _unpack_dual
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode

__all__ = [
    "EAGER",
    "constant",
    "in_trace",
    "in_transforms",
    "is_followed",
    "is_wrapped",
    "numbers",
    "on_the_ground",
    "one_level_out",
    "outside_transforms",
    "unwrapped",
    "without_hooks",
]


P = ParamSpec("P")
R = TypeVar("R")


@contextlib.contextmanager
def outside_transforms() -> Iterator[None]:
    """As if no functorch transform were active: for tensors that none of them can wrap."""
    if not _transforming():
        yield
        return
    with temporarily_clear_interpreter_stack():
        yield


def constant(f: Callable[P, R]) -> Callable[P, R]:
    """`f` of index tensors and of patterns, as if no transform were active, unless vmap has batched one of them.

    What is made inside of a level is wrapped by it, constant or not: it could not be copied afterwards, nor used one level further out.
    """

    @wraps(f)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling() or not _transforming():
            return f(*args, **kwargs)
        plain: Any = [unwrapped(a) if isinstance(a, Tensor) else a for a in args]
        named: Any = {name: unwrapped(a) if isinstance(a, Tensor) else a for name, a in kwargs.items()}
        if any(map(_has_wrapped, [*plain, *named.values()])):
            return f(*args, **kwargs)
        with temporarily_clear_interpreter_stack():
            return f(*plain, **named)

    return call


def unwrapped(t: Tensor) -> Tensor:
    """A tensor of indices without the wrappers of levels that do not batch it: itself, mostly."""
    while not torch.compiler.is_compiling() and is_wrapped(t) and not _is_batched(t):
        t = _get_unwrapped(t)
    return t


def _has_wrapped(indices: Any) -> bool:
    parts = [indices] if isinstance(indices, Tensor) else [getattr(indices, name, None) for name in ("crow", "col")]
    return any(isinstance(t, Tensor) and is_wrapped(t) for t in parts)


def _states() -> tuple[Any, Any, frozenset[int]]:
    """The keys that are included and excluded where no transform, mode or trace is active, and the former as numbers, in inference mode too."""
    included, excluded = _included(), _excluded()
    with torch.inference_mode():
        return included, excluded, frozenset({included.raw_repr(), _included().raw_repr()})


# keys are a thread's, and this file may be imported inside of a transform or a mode
with ThreadPoolExecutor(1) as _elsewhere:
    *_USUAL, EAGER = _elsewhere.submit(_states).result()


@contextlib.contextmanager
def on_the_ground() -> Iterator[None]:
    """For the body of an op that applies transforms itself: operators are dispatched as in code outside of all transforms."""
    with _dispatching(*_USUAL), temporarily_clear_interpreter_stack(), without_hooks():
        yield


@contextlib.contextmanager
def without_hooks() -> Iterator[None]:
    """As if no hooks for saved tensors were in use, as checkpoints have them: `torch.func.vjp` refuses to begin where one is."""
    hooks = []
    while (hook := _top_hooks(False)) is not None:
        hooks.append(hook)
        _pop_hooks()
    try:
        yield
    finally:
        for hook in reversed(hooks):
            _push_hooks(*hook)


def one_level_out(rule: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`rule(*tensors)` for a tangent rule that applies transforms itself, as if called where the transform was.

    The kernel runs in the middle of its level's dispatch, where no new level can begin. So the level is left for a while, and
    operators are dispatched as in the user's code.
    """
    if not _transforming():
        return rule(*tensors)
    level = _level() or 0
    inner = [_get_unwrapped(t) if _level_of(t) == level else t for t in tensors]
    with _dispatching(*_USUAL), _left():
        _set_transforming(_level() is not None)
        result = rule(*inner)
    return _wrap_for_grad(result, level)


def in_transforms() -> bool:
    """Whether a transform of torch.func is active."""
    return bool(_transforming())


def in_trace() -> bool:
    """Whether a graph is being made of what is called, by `make_fx` or `torch.func.linearize`."""
    return get_proxy_mode() is not None


def is_wrapped(t: Tensor) -> bool:
    """Whether a transform of torch.func has wrapped this tensor, so that its numbers cannot be read."""
    return _transforming() and (_level_of(t) or 0) > 0


def is_followed(t: Tensor) -> bool:
    """Whether a derivative or vmap follows this tensor, at any level."""
    inside = _transforming()
    if not inside or _level_of(t) == _level():
        if t.requires_grad or (inside and _is_batched(t)):
            return True
        if (inside or forward_ad._current_level >= 0) and _unpack_dual(t, level=0)[1] is not None:
            return True
    if not inside:
        return False
    t = _get_unwrapped(t) if _level_of(t) == _level() else t
    with _left():
        return is_followed(t)


def numbers(t: Tensor) -> Tensor:
    """What is inside of all wrappers of torch.func, and nothing follows: of a batch the first, of an empty one some numbers."""
    while is_wrapped(t):
        at, t = _batch_dimension(t) if _is_batched(t) else None, _get_unwrapped(t)
        if at is not None:
            t = t.select(at, 0) if t.shape[at] else _some_numbers(t.movedim(at, 0))
    with outside_transforms():
        return t.detach()


def _some_numbers(t: Tensor) -> Tensor:
    """Of the shape of `t[0]`, which is not there: no small matrix of them is singular."""
    shape = t.shape[1:]
    return torch.arange(1, shape.numel() + 1, dtype=t.dtype, device=t.device).sqrt().reshape(shape)
