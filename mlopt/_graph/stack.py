"""`Stack`: problems or signals of one shape, evaluated as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .._errors import GraphError
from .group import Group
from .node import Node
from .problem import Problem
from .signal import Signal

__all__ = ["Stack"]


class Stack(Group):
    """The same function of variables of the same shape, many times: one batched evaluation.

        F(w_1; r_1), ..., F(w_K; r_K)   by one call of F on stacked tensors (`torch.func.vmap`)

    It stands in the engine's list where its members would, one after another, and changes nothing
    but how they are evaluated: each keeps its optimizer, method, commits, buffers and metrics, and
    the numbers are those of the list without it, to rounding. Random numbers inside are the
    exception: each member draws its own, but not those that it would draw alone.

    What all members read in common (a variable, a batch, a signal) is not copied, unless a gradient
    to it is asked of each member. Methods that are not `OneStep`, `Frozen` or `StopGradient` of
    these, and nested levels, evaluate the members one by one.

    Do not use it for large networks: those fill the machine one at a time, and their convolutions
    become grouped ones, which can be slower. Measure: `benchmarks/stacked_learners.py`.

    Args:
        members: problems, or signals, none of which reads another. They are declared alike: the
            same arguments with tensors of the same names and shapes, the same start, every, repeat
            and method; all read the same stream, or each its own.

    Raises:
        GraphError: they are not declared alike; the message says what differs. At the first step:
            a member's function does not give, evaluated with the others, what it gives alone.

    Examples:
        >>> import torch, mlopt
        >>> W = [mlopt.Variable(torch.nn.Parameter(torch.full((), x)), "w") for x in (1.0, 2.0)]
        >>> def learner(w):
        ...     @mlopt.problem(over=w, optimizer=torch.optim.SGD(w.parameters(), lr=0.5))
        ...     def square(w):
        ...         return w**2 / 2
        ...     return square
        >>> mlopt.Engine([mlopt.Stack([learner(w) for w in W])]).run(steps=1, progress=False)
        >>> [w.value.item() for w in W]
        [0.5, 1.0]
    """

    def __init__(self, members: Sequence[Node]) -> None:
        super().__init__(members, least=1)
        self._check_options()
        self._check_streams()

    def _check_options(self) -> None:
        first = self.members[0]
        for other in self.members[1:]:
            for what, a, b in zip(_WHAT, _declared(first), _declared(other), strict=True):
                if a != b:
                    raise GraphError(
                        f"Stack: {first.name} and {other.name} differ in {what}: {a} and {b}. "
                        "Declare them alike, or list them without a stack."
                    )

    @property
    def names(self) -> str:
        """The members, for messages."""
        return ", ".join(m.name for m in self.members)

    def _check_streams(self) -> None:
        for streams in zip(*(m.streams for m in self.members), strict=True):
            if len(set(streams)) not in (1, len(streams)):
                raise GraphError(
                    f"Stack: some of {self.names} share a stream and others do not. Give "
                    "all the same one, or each its own."
                )


_WHAT = (
    "kind", "start", "every", "repeat", "having an optimizer", "precision", "arguments", "data",
    "state",
)  # fmt: skip


def _declared(node: Node) -> tuple[Any, ...]:
    """What must be equal, in the order of `_WHAT`."""
    own: tuple[Any, ...] = ("signal", 0, 1, 1, False)
    if isinstance(node, Problem):
        own = ("problem", node.start, node.every, node.repeat, node.optimizer is not None)
    arguments = [
        [("list" if a.is_list else "one", [_shape(r.source, r.stopped) for r in a.reads])]
        for a in node.arguments
    ]
    data = (len(node.streams), "tuple" if node.data_is_tuple else "one")
    state = node.state if isinstance(node, Signal) else None
    return (*own, node.precision, arguments, data, None if state is None else _tensors(state))


def _shape(source: Any, stopped: bool) -> tuple[Any, ...]:
    mark = ("stopped",) if stopped else ()
    if isinstance(source, Node):
        return ("signal", *mark)
    value = source.value
    if isinstance(value, Tensor):
        return ("tensor", tuple(value.shape), value.dtype, *mark)
    return (type(value).__name__, _tensors(value), *mark)


def _tensors(module: Any) -> dict[str, Any]:
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: (tuple(t.shape), t.dtype) for name, t in named}
