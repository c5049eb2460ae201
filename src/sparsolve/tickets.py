"""Tickets: strings that stand for Python objects where an op takes tensors, numbers and strings only.

A table of this process knows the callables of the last 1024 tickets, and every `Constant` that is still alive: these may
be large, and whoever asks for a ticket keeps its own. A graph that will ask for one later holds the object itself (`hold`, `restore`), so that
its derivatives do not depend on how long ago the ticket was written.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch

from .errors import SolveError, sentence

__all__ = ["Constant", "has_tickets", "hold", "keep", "quoted", "redeem", "restore", "ticket"]

Held = tuple[tuple[str, Any], ...]

_MARK = "function:"
_FORM = re.compile(_MARK + r"[0-9a-f]+:\d+")
_THINGS: OrderedDict[str, Any] = OrderedDict()
_TICKETS: dict[Any, str] = {}
_MOST = 1024
_lock = threading.Lock()
_issued = 0
_process = os.urandom(8).hex()  # no other process's tickets are taken for one's own
_DYNAMO_GUARDS_IDS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)


class Constant:
    """Base of hashable objects without a text of their own; in a key they are tickets, as callables are.

    Attributes:
        first: an equal one whose ticket this one has, kept alive with it, since a compiled graph may hold the ticket alone.
    """

    first: Constant | None = None


_CONSTANTS: WeakValueDictionary[str, Constant] = WeakValueDictionary()
_NAMES: WeakKeyDictionary[Constant, str] = WeakKeyDictionary()


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
    remedy = "Make it an object with __call__, or a function at the top of a module."
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
    """The ticket of a thing, which is in its table from now on."""
    _require_hashable(thing)
    with _lock:
        return _of_constant(thing) if isinstance(thing, Constant) else _of_callable(thing)


def _of_constant(thing: Constant) -> str:
    """That of an equal one which is still alive, and which the thing keeps alive from now on; or a new one."""
    name = _NAMES.get(thing)
    first = None if name is None else _CONSTANTS.get(name)
    thing.first = None if first is thing else first
    if name is None or first is None:
        name = _NAMES[thing] = _new()
        _CONSTANTS[name] = thing
    return name


def _of_callable(thing: Any) -> str:
    """That of an equal one, or a new one."""
    name = _TICKETS.get(thing)
    if name is None:
        name = _TICKETS[thing] = _new()
    _enter(name, thing)
    return name


def _enter(name: str, thing: Any) -> None:
    """Make this the last of the things that are kept; the least recently used one leaves the table, never one of the last 1024."""
    _THINGS[name] = thing
    _THINGS.move_to_end(name)
    while len(_THINGS) > _MOST:  # `restore` may have entered several
        _TICKETS.pop(_THINGS.popitem(last=False)[1], None)


def keep(name: str) -> None:
    """Keep a `Constant` for a while, as a callable is: for a graph which holds its ticket alone."""
    with _lock:
        _enter(name, _CONSTANTS[name])


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


_constant: Callable[[Any], str] = torch.compiler.assume_constant_result(_entered)


def redeem(name: str) -> Any:
    """The object that a ticket stands for."""
    with _lock:
        constant = _CONSTANTS.get(name)
        if constant is not None:
            return constant
        if name not in _THINGS:
            raise SolveError(
                sentence(
                    f"The callable or preconditioner {name!r} is not in this process's table.",
                    "A graph that names it is all that was left of a record, more than a thousand other callables came since, or another process exported it.",
                    "Keep the record as long as the graph; define a callable once, outside the loop; export graphs with a record such as LU().",
                )
            )
        _THINGS.move_to_end(name)
        return _THINGS[name]


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
    """Enter what `hold` returned in the table again, if it is not there."""
    if not held:
        return
    with _lock:
        for name, thing in held:
            if isinstance(thing, Constant):
                _CONSTANTS[name] = thing
            elif _THINGS.setdefault(name, thing) is thing:
                _TICKETS.setdefault(thing, name)
