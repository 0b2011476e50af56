"""The values that one evaluation of a total objective sees, and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._graph.problem import Problem
from .._graph.signal import Signal, join, split
from .._tensors import Key, Tensors, grouped

if TYPE_CHECKING:
    from .total import TotalObjectives

__all__ = ["Attach", "Cut", "Scope"]


class Attach(torch.autograd.Function):
    """A solution as a node of the autograd graph: forward its value, backward its pullback."""

    @staticmethod
    def forward(ctx: Any, pullback: Any, values: Sequence[Tensor], *originals: Tensor) -> Any:
        ctx.pullback, ctx.count = pullback, len(originals)
        ctx.set_materialize_grads(False)
        outputs = tuple(v.detach() for v in values)
        ctx.save_for_backward(*outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        return None, None, *ctx.pullback(cotangents, ctx.saved_tensors)


class Cut:
    """What a problem's evaluations read from the scope of its reader.

    Args:
        scope: the reader's.
        mode: "leaf": as leaves; "alias": as tensors connected to the reader's, so that what is
            computed from them can be differentiated; "constant": without gradient.
    """

    def __init__(self, scope: Scope, mode: str) -> None:
        self.scope, self.mode = scope, mode
        self.arguments: Tensors = {}
        self.originals: Tensors = {}
        self._values: dict[Any, Any] = {}

    def value(self, source: Any) -> Any:
        if source not in self._values:
            value = self.scope.value(source)
            signal = isinstance(source, Signal)
            parts = split(value, source.name) if signal else value
            cut = {name: self._tensor((source, name), t) for name, t in parts.items()}
            self._values[source] = join(value, cut) if signal else cut
        return self._values[source]

    def moved(self, arguments: Tensors) -> Cut:
        """The same cut with other tensors for some of its arguments."""
        other = Cut(self.scope, self.mode)
        other._values = dict(self._values)
        for source, tensors in grouped(arguments).items():
            value = other._values[source]
            if isinstance(source, Signal):
                other._values[source] = join(value, {**split(value, source.name), **tensors})
            else:
                other._values[source] = {**value, **tensors}
        return other

    def _tensor(self, key: Key, tensor: Tensor) -> Tensor:
        if not tensor.requires_grad:
            return tensor
        if self.mode == "constant":
            return tensor.detach()
        self.originals[key] = tensor
        if self.mode == "leaf":
            tensor = tensor.detach().requires_grad_()
        elif self.mode == "alias":
            tensor = tensor.view_as(tensor)
        self.arguments[key] = tensor
        return tensor


class Scope:
    """The values that the evaluation of one problem's total objective sees.

    Args:
        total: the total objectives of the step.
        owner: the problem.
        own: its variables' tensors, by key.
        cut: towards the scope of the reader that asks for the problem's solution; None where the
            problem's own update is computed.
        differentiable: whether the gradient taken here will be differentiated.
        displaced: whether `own` is another value than the standing one.
        inner: index of the owner's inner step.
    """

    def __init__(
        self,
        total: TotalObjectives,
        owner: Problem,
        own: Tensors,
        cut: Cut | None = None,
        *,
        differentiable: bool = False,
        displaced: bool = False,
        inner: int = 0,
    ) -> None:
        self.total, self.owner, self.cut = total, owner, cut
        self.differentiable, self.displaced, self.inner = differentiable, displaced, inner
        self.follows = total.graph.follows(owner)
        # The players of a game see each other where the step began, or as `own` says.
        self._values: dict[Any, Any] = {v: total.constants(v) for v in total.graph.beside(owner)}
        for variable, tensors in grouped(own).items():
            self._values[variable] = {**self._values[variable], **tensors}

    @property
    def parent(self) -> Scope | None:
        """The reader's scope."""
        return None if self.cut is None else self.cut.scope

    def value(self, source: Any) -> Any:
        """A variable's tensors by name, or a signal's value, as this evaluation sees it."""
        if source not in self._values:
            if not self.resolves(source):
                assert self.cut is not None
                return self.cut.value(source)
            if isinstance(source, Signal):
                self._values[source], _ = self.total.evaluate(source, self)
            else:
                self._values.update(self.total.solve(self.total.graph.owner[source], self))
        return self._values[source]

    def resolves(self, source: Any) -> bool:
        """Whether a source is computed in this scope, and not taken from the reader's."""
        if self.cut is None:
            return True
        node = source if isinstance(source, Signal) else self.total.graph.owner[source]
        return node in self.follows
