"""`Joint`: a function that is put together from one of each part, with the graph of one at a time.

    y = sum_i f_i(x)        (or the f_i(x) one behind the other)

Its derivative is another such function, of x and of the cotangent c,

    x' = sum_i (df_i/dx)^T c        (or of the i-th piece of c)

and so on to any order: that is all there is to a batch in parts. Each is computed part by part, and
what autograd keeps of it is x and c, never what is between. A gradient that is computed with the
value costs what that of the joined batch costs; whatever is differentiated after that computes the
parts again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..hypergrad.derivatives import derivatives, is_differentiated_by, uncounted

__all__ = ["Joint", "Sum", "asked", "attached", "lone"]

#: None where a value depends on nothing.
Values = list[Tensor | None]


class Sum:
    """What is added up, or lined up, part by part.

    Args:
        lined: for each value the sizes of its pieces in dimension 0, where it is not a sum.
    """

    def __init__(self, lined: Sequence[Sequence[int] | None]) -> None:
        self._lined = lined
        self._sums: Values = [None] * len(lined)
        self._pieces: list[list[Tensor]] = [[] for _ in lined]
        self._own = [False] * len(lined)  # whether a sum's memory is nobody else's

    def add(self, values: Sequence[Tensor | None]) -> None:
        """The values of the next part, without their graph."""
        for i, value in enumerate(values):
            if value is None:
                continue
            value = value.detach()
            if self._lined[i] is not None:
                self._pieces[i].append(value)
                continue
            before = self._sums[i]
            if before is None:
                self._sums[i] = value
            elif self._own[i] and not (value.is_sparse or before.is_sparse):
                before.add_(value)
            else:
                self._sums[i], self._own[i] = before + value, True

    def values(self) -> Values:
        """What came together."""
        return [
            torch.cat(pieces) if pieces else total
            for pieces, total in zip(self._pieces, self._sums, strict=True)
        ]


@dataclass(frozen=True)
class Joint:
    """A function of some tensors in parts.

    Attributes:
        count: of parts.
        part: (index, tensors, how often its values will be differentiated) -> its values.
        lined: for each value the sizes of its pieces, where it is not a sum.
    """

    count: int
    part: Callable[[int, Sequence[Tensor], int], Sequence[Tensor | None]]
    lined: Sequence[Sequence[int] | None]

    def value(self, tensors: Sequence[Tensor]) -> Values:
        """Its values, without a graph.

        Args:
            tensors: where.

        Returns:
            The values.
        """
        total = Sum(self.lined)
        with torch.no_grad():
            for i in range(self.count):
                total.add(self.part(i, tensors, 0))
        return total.values()

    def pulled(self, by: Sequence[int], count: int, passed: Sequence[int]) -> Joint:
        """Its vector-Jacobian product, as a function of where it is taken and of the cotangents.

        Args:
            by: which of the tensors it is taken by.
            count: how many tensors it is a function of.
            passed: the values on which there are cotangents.

        Returns:
            The product, of the tensors and of the cotangents behind them; one value for each
            tensor.
        """

        def part(i: int, tensors: Sequence[Tensor], order: int) -> Sequence[Tensor | None]:
            at = [*tensors[:count]]
            with torch.enable_grad():
                for k in by:
                    at[k] = lone(at[k], connected=order > 0)
                values = self.part(i, at, order + 1)
                pairs = [
                    (value, self._piece(k, i, c))
                    for k, c in zip(passed, tensors[count:], strict=True)
                    if (value := values[k]) is not None and value.requires_grad
                ]
                outputs, along = [v for v, _ in pairs], [c for _, c in pairs]
                # A pass in parts counts as one; the last one has been counted by who asks.
                with uncounted(order == 0 or i > 0):
                    inputs = {(None, str(k)): at[k] for k in by}
                    found = derivatives(outputs, inputs, along, create_graph=order > 0)
            return [found.get((None, str(k))) for k in range(count)]

        return Joint(self.count, part, [None] * count)

    def _piece(self, k: int, i: int, cotangent: Tensor) -> Tensor:
        """What of a cotangent falls on the values of a part."""
        sizes = self.lined[k]
        if sizes is None:
            return cotangent
        return cotangent.narrow(0, sum(sizes[:i]), sizes[i])


def lone(tensor: Tensor, connected: bool) -> Tensor:
    """A tensor to differentiate by, of which nobody else's values are computed.

    Args:
        tensor: the value.
        connected: whether what is computed is differentiated by the tensor itself in its turn.

    Returns:
        An alias. A leaf where the tensor is one: a gradient that goes on from there is dense, and
        that of a leaf may be sparse.
    """
    if connected:
        return tensor.view_as(tensor)
    leaf = tensor.detach().requires_grad_()
    return leaf if tensor.is_leaf else leaf.view_as(leaf)


def attached(joint: Joint, known: Values, slopes: Values | None, tensors: Sequence[Tensor]) -> Any:
    """A value that has been computed, with its place in the graph of the tensors.

    Args:
        joint: the function.
        known: its values; None where there is none. Those that do not require gradients are
            constants.
        slopes: the gradient of its first value, if that has been computed as well.
        tensors: where; each requires gradients.

    Returns:
        The values.
    """
    return _Attached.apply(joint, known, slopes, *tensors)


class _Attached(torch.autograd.Function):
    """The values of a `Joint`."""

    @staticmethod
    def forward(ctx: Any, joint: Joint, known: Values, slopes: Values | None, *x: Tensor) -> Any:
        ctx.joint, ctx.slopes = joint, slopes
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*x)
        return tuple(known)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        x, nothing = ctx.saved_tensors, (None, None, None)
        passed = [k for k, c in enumerate(cotangents) if c is not None]
        along = [c for c in cotangents if c is not None]
        by = asked(ctx, x)
        if not passed or not by:
            return *nothing, *(None for _ in x)
        joint = ctx.joint.pulled(by, len(x), passed)
        found: Any
        with torch.no_grad():
            if ctx.slopes is None:
                found = joint.value((*x, *along))
            else:
                found = [None if g is None else g * along[0] for g in ctx.slopes]
        if torch.is_grad_enabled():
            found = attached(joint, found, None, (*x, *along))
        return *nothing, *found


def asked(ctx: Any, tensors: Sequence[Tensor]) -> list[int]:
    """The tensors that the pass which is under way goes on to, which torch tells no function.

    Args:
        ctx: of a function.
        tensors: its last arguments.

    Returns:
        Their places. Where it cannot be found out, a tensor is among them, and more is computed
        than is asked for.
    """
    behind = ctx.next_functions  # of the tensors alone; a new tuple each time that it is read
    needed = ctx.needs_input_grad[len(ctx.needs_input_grad) - len(tensors) :]
    return [
        k
        for k, (t, need) in enumerate(zip(tensors, needed, strict=True))
        if need and (is_differentiated_by(t) or _is_executed(behind[k][0]))
    ]


def _is_executed(node: Any) -> bool:
    try:
        return node is not None and torch._C._will_engine_execute_node(node)
    except (RuntimeError, AttributeError):  # so it says of a leaf by which is differentiated
        return True
