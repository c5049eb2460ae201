"""Tickets: strings that stand for Python objects where an op takes tensors, numbers and strings only.

The table holds them weakly, since they may be large: whoever asks for a ticket keeps the object for as long as its call takes, and a graph that
will ask for one later holds the object itself (`hold`, `restore`). Compiled code and traces hold strings alone, so the last 1024 callables
that they name are kept, and those that cannot be held weakly. A `Constant` that compiled code names is its record's to keep.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch

from .errors import SolveError, sentence
from .levels import in_trace

__all__ = ["Constant", "has_tickets", "hold", "keep", "quoted", "redeem", "restore", "ticket"]

Held = tuple[tuple[str, Any], ...]

_MARK = "function:"
_FORM = re.compile(_MARK + r"[0-9a-f]+:\d+")
_ALIVE: dict[str, dict[int, ref[Any]]] = {}  # equal objects have one ticket, which is good as long as one of them lives
_NAMES: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
_EMPTY: deque[str] = deque()  # tickets whose objects have gone, perhaps
_KEPT: OrderedDict[str, Any] = OrderedDict()
_MOST = 1024
_lock = threading.Lock()
_issued = 0
_process = os.urandom(8).hex()  # no other process's tickets are taken for one's own
_DYNAMO_GUARDS_IDS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)


class Constant:
    """Base of hashable objects without a text of their own; in a key they are tickets, as callables are."""


def _after_fork() -> None:
    global _lock, _process
    _lock, _process = threading.Lock(), os.urandom(8).hex()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def ticket(thing: Any) -> str:
    """The ticket of a hashable object; equal objects have the same one.

    In compiled code it is a constant, and where another object comes the code is compiled again.
    """
    if not torch.compiler.is_compiling():
        return _entered(thing)
    if not _DYNAMO_GUARDS_IDS:
        _require_noticed(thing)
    id(thing)  # Dynamo guards on it; on a function's code alone otherwise, which closures share
    return _constant(thing)


def _require_noticed(thing: Any) -> None:
    """Before torch 2.13: what Dynamo would take for a constant, and not look at again."""
    of_matrix = isinstance(thing, Constant)
    if not of_matrix and getattr(thing, "__closure__", None) is None:
        return
    fact = "a matrix, or vectors" if of_matrix else "a function with free variables"
    remedy = "Make it a function at the top of a module."
    if of_matrix:
        remedy = "Solve with it outside of compiled code, or take torch 2.13."
    raise TypeError(
        sentence(
            f"A solver or its record holds {fact}, inside torch.compile.",
            f"Dynamo of torch {torch.__version__} does not notice when another one takes its place.",
            remedy,
        )
    )


def _entered(thing: Any) -> str:
    """The ticket of a thing that its caller keeps for as long as it is asked for, or the graph that is being made."""
    return _written_down(thing, alone=in_trace())


def _written_down(thing: Any, *, alone: bool) -> str:
    """The ticket of a thing; `alone` where nothing but the ticket may be left, as in compiled code."""
    _require_hashable(thing)
    with _lock:
        name = _name_of(thing) or _new()
        if not _held_weakly(name, thing) or (alone and not isinstance(thing, Constant)):
            _keep(name, thing)
        return name


def _name_of(thing: Any) -> str | None:
    """That of an equal one, while there is one."""
    try:
        name = _NAMES.get(thing)
    except TypeError:  # it cannot be held weakly
        return next((name for name, kept in _KEPT.items() if kept is thing), None)
    return name if name is not None and _ALIVE.get(name) else None


def _held_weakly(name: str, thing: Any) -> bool:
    """Enter it in the table, if that can be."""
    things = _ALIVE.get(name, {})
    if id(thing) in things:
        return True
    try:
        things[id(thing)] = ref(thing, partial(_gone, name, things, id(thing)))
    except TypeError:
        return False
    _ALIVE[name] = things
    _NAMES.setdefault(thing, name)
    while _EMPTY:
        other = _EMPTY.popleft()
        if not _ALIVE.get(other):
            _ALIVE.pop(other, None)
    return True


def _gone(
    name: str, things: dict[int, ref[Any]], which: int, _: Any, empty: Callable[[str], None] = _EMPTY.append
) -> None:
    """When an object has gone, which may be at any time: so this takes no lock, and what is empty is looked at by who has it. (A default is there at
    exit, too, when the module's names are not.)"""
    things.pop(which, None)
    empty(name)


def _keep(name: str, thing: Any) -> None:
    """Make this the last of the things that are kept."""
    _KEPT[name] = thing
    _KEPT.move_to_end(name)
    while len(_KEPT) > _MOST:
        _KEPT.popitem(last=False)


def keep(name: str) -> None:
    """Keep a `Constant` for a while, as a callable is: for a graph which holds its ticket alone."""
    thing = redeem(name)
    with _lock:
        _keep(name, thing)


def _new() -> str:
    global _issued
    _issued += 1
    return f"{_MARK}{_process}:{_issued}"


def _require_hashable(thing: Any) -> None:
    """Refuse what cannot be in a table."""
    try:
        hash(thing)
    except TypeError as error:
        raise TypeError(
            sentence(
                f"A callable of type {type(getattr(thing, 'function', thing)).__name__} cannot be hashed, and it has to be found again by the op.",
                "It defines __eq__ without __hash__, as a dataclass does.",
                "Use dataclass(eq=False) or frozen=True, or __hash__ = object.__hash__.",
            )
        ) from error


def _alone(thing: Any) -> str:
    return _written_down(thing, alone=True)


_constant: Callable[[Any], str] = torch.compiler.assume_constant_result(_alone)


def redeem(name: str) -> Any:
    """The object that a ticket stands for."""
    with _lock:
        if name in _KEPT:
            _KEPT.move_to_end(name)
            return _KEPT[name]
        for held in list(_ALIVE.get(name, {}).values()):
            thing = held()
            if thing is not None:
                return thing
    raise SolveError(
        sentence(
            f"The callable or preconditioner {name!r} is not in this process's table.",
            "A graph that names it is all that was left of a record, more than a thousand other callables came since, or another process exported it.",
            "Keep the record as long as the graph; define a callable once, outside the loop; export graphs with a record such as LU().",
        )
    )


def has_tickets(key: str) -> bool:
    """Whether a key is good in this process only."""
    return _MARK in key and _FORM.search(key) is not None


def quoted(key: str) -> str:
    """The key with its tickets as string literals."""
    return re.sub(rf"'?({_FORM.pattern})'?", r"'\1'", key)


def hold(key: str) -> Held:
    """What makes the tickets in a key good again after they have left the table, for whoever will use it later."""
    return tuple((name, redeem(name)) for name in _FORM.findall(key)) if has_tickets(key) else ()


def restore(held: Held) -> None:
    """Make the tickets of what `hold` returned good again."""
    if not held:
        return
    with _lock:
        for name, thing in held:
            if not _held_weakly(name, thing):
                _keep(name, thing)
