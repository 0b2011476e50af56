"""What the evaluations of one step gave."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .._containers.containers import rebuilt
from .._evaluation.loss import split_loss
from .._evaluation.point import Evaluator, Point
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.signal import Signal, join, split
from .._tensors import Tensors, grouped
from .._variable import Variable
from ..hypergrad.interface import Response

__all__ = [
    "Base",
    "Evaluation",
    "ProblemRecord",
    "SignalRecord",
    "Together",
    "Update",
    "Values",
    "deferred",
    "detached",
    "objective_at",
    "on_ranks",
    "parts_of",
]

#: The tensors of a variable by name.
Values = dict[str, Tensor]


@dataclass
class Evaluation:
    """An evaluation that is asked for.

    Attributes:
        node: the problem or signal.
        inner: index of the inner step, for the seed.
        wanted: sources that cotangents will be pulled back to.
        pulled: whether a sweep passes through the node's own value.
    """

    node: Node
    inner: int
    wanted: list[Any] = field(default_factory=list)
    pulled: bool = False


@dataclass
class Together:
    """Nodes that were evaluated as one; what follows must be, too, to draw the same numbers.

    Attributes:
        nodes: in their order.
        points: of their evaluations, with leaves where gradients are asked for.
        responses: of problems.
    """

    nodes: tuple[Node, ...]
    points: list[Point]
    responses: list[Response]


@dataclass
class SignalRecord:
    """A signal's value at this point, and the graph behind it where cotangents will come back."""

    value: Any
    parts: dict[str, Tensor]
    leaves: dict[str, Tensor]
    inputs: Tensors
    written: dict[Any, list[Tensor]]

    def terms(
        self, cotangent: Tensors, edges: Collection[Any]
    ) -> tuple[list[Tensor], Tensors, list[Tensor]]:
        """What is differentiated where cotangents pass the signal.

        Args:
            cotangent: on its value, by key.
            edges: the sources that cotangents pass to.

        Returns:
            Outputs, inputs by key, and the outputs' cotangents.
        """
        inputs = {k: t for k, t in self.inputs.items() if k[0] in edges}
        outputs = {k: t for k, t in cotangent.items() if self.parts[k[1]].requires_grad}
        return [self.parts[k[1]] for k in outputs], inputs, list(outputs.values())


@dataclass
class ProblemRecord:
    """A problem's base evaluation at this point.

    Attributes:
        loss: detached.
        metrics: besides.
        response: for its method.
        written: the buffers of its variables, as the evaluation left them.
        gradient: by its own variables, as its optimizer takes it: sparse ones are still that.
        solution: what readers see of each variable; empty if they see the standing value.
        leaves: the same, as leaves.
        solve: finds what readers see of each variable, where that is not done yet.
    """

    loss: Tensor
    metrics: dict[str, Any]
    response: Response
    written: dict[Any, list[Tensor]]
    gradient: Tensors
    solution: dict[Variable, Values] = field(default_factory=dict)
    leaves: dict[Variable, Values] = field(default_factory=dict)
    solve: Callable[[], Tensors] | None = None

    def see(self) -> None:
        """Have it known what readers see of each variable."""
        if self.solve is not None:
            self.solution, self.solve = grouped(self.solve()), None
            self.leaves = {
                v: {name: t.detach().requires_grad_() for name, t in seen.items()}
                for v, seen in self.solution.items()
            }


@dataclass
class Update:
    """What a problem's own update takes from its evaluation at the standing values: no graph.

    Attributes:
        loss: detached.
        metrics: besides, likewise.
        gradient: total, by key.
        written: the buffers of its variables, as the evaluation left them.
    """

    loss: Tensor
    metrics: dict[str, Any]
    gradient: Tensors
    written: dict[Any, list[Tensor]]


@dataclass
class Base:
    """A problem's base evaluation before it is made.

    Attributes:
        node: the problem.
        point: with leaves for the wanted sources.
        at: where it is evaluated: `point`, or the same without leaves.
        arguments: the leaves by key.
        inputs: what the base evaluation is differentiated by.
        keep: whether its gradient is differentiated in its turn.
    """

    node: Problem
    point: Point
    at: Point
    arguments: Tensors
    inputs: Tensors
    keep: bool


def objective_at(evaluator: Evaluator, node: Problem, point: Point) -> Callable[..., Tensor]:
    """The objective of a problem around a point, as a `Response` has it.

    Args:
        evaluator: of the graph.
        node: the problem.
        point: of its base evaluation.

    Returns:
        (w, inner step, other arguments, kept) -> F.
    """

    def objective(
        value: Tensors, inner: int = 0, arguments: Tensors | None = None, kept: bool = False
    ) -> Tensor:
        """F at another w: same batch, same seed, buffers from the start of the step."""
        assert inner == 0, f"{node.name}: a staged problem is evaluated at one batch"
        values, signals = dict(point.values), dict(point.signals)
        for source, tensors in grouped({**value, **arguments} if arguments else value).items():
            if isinstance(source, Signal):
                parts = split(signals[source], source.name)
                signals[source] = join(signals[source], {**parts, **tensors})
            else:
                seen = values.get(source)
                values[source] = {**seen, **tensors} if seen else tensors
        at = Point(values, signals, point.batch, point.seed)
        rule = evaluator.precision
        wide = bool(rule.dtypes) and rule.widens(node, further=True)
        result, _ = evaluator.evaluate(node, at, keep=kept, twice=kept, wide=wide)
        return split_loss(result, node.name)[0]

    return objective


def parts_of(evaluator: Evaluator, node: Problem) -> Callable[[], Any] | None:
    """Where a problem is evaluated in parts, blocks of each of them, as a `Response` has it.

    Args:
        evaluator: of the graph.
        node: the problem, whose base evaluation has been made.

    Returns:
        () -> blocks; None where it is evaluated whole.
    """
    way = evaluator.ranks or evaluator.parts
    return None if way is None else way.one_by_one(node)


def on_ranks(evaluator: Evaluator, staged: bool = False) -> dict[str, Any]:
    """What a `Response` has besides where there are several ranks.

    Args:
        evaluator: of the graph.
        staged: whether its objective is one evaluation.

    Returns:
        Its fields by name.
    """
    ranks = evaluator.ranks
    if ranks is None:
        return {}
    own = {"total": ranks.total, "rows": ranks.place}
    return {**own, "together": ranks.together} if staged else own


def deferred(evaluator: Evaluator) -> AbstractContextManager[None]:
    """A block in which derivatives over ranks need not be there at once; see `Sums.deferred`."""
    return nullcontext() if evaluator.ranks is None else evaluator.ranks.sums.deferred()


def detached(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics without their graphs."""
    if not metrics:
        return {}
    return rebuilt(metrics, lambda m: m.detach() if isinstance(m, Tensor) else m)
