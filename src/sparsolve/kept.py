"""What may run in place of an op, and what a graph keeps of its call.

The places of tensors, of strings and of everything else are read off the op's schema once, so that a call looks at none of its arguments: this is
a part of every solve that is differentiated, however small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .tickets import hold, restore

__all__ = ["Body", "Kept", "Rule"]

Rule = Callable[..., Any]


class Body(NamedTuple):
    """What runs in place of an op, on any device, where nobody would see the op.

    Attributes:
        run: the op's body, which applies no transforms.
        keep: the same, with None for outputs that nobody will look at; and what `at_once` may go on from.
        at_once: the rule `backward` in one step, without ops: `(inputs, output, needs, grad, found)`. Found is what `keep` returned, or None.
    """

    run: Rule
    keep: Rule | None = None
    at_once: Rule | None = None


class Kept:
    """The inputs and the first output of an op, as far as its rules read them.

    Args:
        schema: the op's.
        unread: inputs, by place, that no rule reads, and -1 for the first output.

    Attributes:
        tensors: the places of inputs that are tensors, or None.
        followed: of those that derivatives or transforms can follow: not of the pattern's.
        several: whether the op has other outputs than the first.
    """

    def __init__(self, schema: Any, unread: Sequence[int]) -> None:
        kinds = [str(a.type) for a in schema.arguments]
        self.tensors = [i for i, kind in enumerate(kinds) if "Tensor" in kind]
        self.followed = [i for i in self.tensors if schema.arguments[i].name not in ("crow", "col")]
        self._count, self.several = len(kinds), len(schema.returns) > 1
        self._read = [i for i in self.tensors if i not in unread]
        self._strings = [i for i, kind in enumerate(kinds) if kind == "str"]
        self._output = -1 not in unread

    def save(self, ctx: Any, inputs: Sequence[Any], output: Any, found: Any = None) -> None:
        """Into the graph's node, for both modes, with `found` for its gradient to go on from. Only the first output is differentiable."""
        if len(inputs) < self._count:  # those with a default, None
            inputs = [*inputs, *[None] * (self._count - len(inputs))]
        first = output
        if self.several:
            first, *rest = output
            ctx.mark_non_differentiable(*[t for t in rest if t is not None])
        tensors = [inputs[i] for i in self._read]
        if self._output:
            tensors.append(first)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.found = found
        others = [*inputs]
        for i in self.tensors:
            others[i] = None
        ctx.others = others
        ctx.held = [hold(inputs[i]) for i in self._strings]  # what the backward will ask for by tickets

    def read(self, ctx: Any, of: Callable[[Tensor], Tensor] | None = None) -> tuple[list[Any], Any, list[Any]]:
        """The inputs and the first output, None where no rule reads them; and those of them that can be followed.

        Args:
            of: what to take of each tensor in place of itself.
        """
        for held in ctx.held:
            restore(held)
        tensors = ctx.saved_tensors
        if of is not None:
            tensors = [None if t is None else of(t) for t in tensors]
        everything = [*ctx.others]
        for i, t in zip(self._read, tensors, strict=False):  # the output is one more
            everything[i] = t
        output = tensors[-1] if self._output else None
        return everything, output, [output, *[everything[i] for i in self.followed]]
