"""The one algorithm, going up: each node is evaluated once. `_descent.py` is its way down."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._graph import Graph
from ._hypergrad import Response, gradient
from ._loss import split_loss
from ._node import Node
from ._point import Evaluator, Point
from ._problem import Problem
from ._signal import Signal, join, split
from ._tensors import Tensors, grouped
from ._variable import Variable

if TYPE_CHECKING:
    from ._together import Together

__all__ = ["Ascent", "ProblemRecord", "SignalRecord", "split_loss"]


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
    """A problem's base evaluation at this point."""

    loss: Tensor
    metrics: dict[str, Any]
    response: Response
    solution: Tensors = field(default_factory=dict)
    leaves: Tensors = field(default_factory=dict)
    written: dict[Any, list[Tensor]] = field(default_factory=dict)


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


class Ascent:
    """The values of one step: what each node gave, at one set of batches.

    Going up the list, a problem is evaluated at its own standing value; it reads lower nodes at
    their solutions, and equal or higher ones as they stand. That one base evaluation gives its
    update, its look-ahead, and what the products re-use.

    Args:
        graph: the graph.
        evaluator: of the graph.
        parameters: each problem's parameters by key.
        dormant: problems before their start, which are read as they stand.
        batch: (node) -> its batch.
        seed: (node, inner step) -> the seed of an evaluation.
    """

    def __init__(
        self,
        graph: Graph,
        evaluator: Evaluator,
        parameters: dict[Problem, Tensors],
        dormant: frozenset[Problem],
        batch: Callable[[Node], Any],
        seed: Callable[[Node, int], int],
    ) -> None:
        self.graph = graph
        self.evaluator = evaluator
        self.parameters = parameters
        self.dormant = dormant
        self.batch = batch
        self.seed = seed
        self.problems: dict[Problem, ProblemRecord] = {}
        self.signals: dict[Signal, SignalRecord] = {}
        #: those that were evaluated as one; a node that is not there was evaluated alone
        self.together: dict[Node, Together] = {}
        self._constants: dict[Variable, dict[str, Tensor]] = {}

    def forget(self, nodes: Iterable[Node]) -> None:
        """Drop what these nodes gave: something they read has changed."""
        for node in nodes:
            self.problems.pop(node, None)  # type: ignore[call-overload]
            self.signals.pop(node, None)  # type: ignore[call-overload]
            self.together.pop(node, None)

    # Going up.

    def evaluate_signal(self, node: Signal, wanted: Sequence[Any], inner: int) -> None:
        """Compute a signal; its graph is kept towards the wanted sources.

        Args:
            node: the signal.
            wanted: sources that cotangents will be pulled back to.
            inner: index of the inner step.
        """
        point, inputs = self.point(node, wanted, inner)
        with torch.set_grad_enabled(bool(wanted)):
            value, written = self.evaluator(node, point, owner=(node,), keep=bool(wanted))
        self.note_signal(node, value, inputs, written)

    def note_signal(
        self, node: Signal, value: Any, inputs: Tensors, written: dict[Any, list[Tensor]]
    ) -> None:
        """Keep what a signal gave.

        Args:
            node: the signal.
            value: of its function.
            inputs: the leaves that the value was computed from, by key.
            written: buffers of its memory.
        """
        parts = split(value, node.name)
        leaves = {
            k: t.detach().requires_grad_() if t.is_floating_point() else t for k, t in parts.items()
        }
        self.signals[node] = SignalRecord(value, parts, leaves, inputs, written)

    def evaluate_problem(
        self, node: Problem, wanted: Sequence[Any], pulled: bool, inner: int
    ) -> None:
        """The base evaluation of a problem.

        Args:
            node: the problem.
            wanted: sources that cotangents go to, from its objective (as the upper problem of a
                sweep) or from its solution (if `pulled`).
            pulled: whether a sweep passes through its solution.
            inner: index of the inner step.
        """
        base = self.prepare(node, wanted, pulled, inner)
        with torch.enable_grad():
            result, written = self.evaluator(node, base.at, owner=node.over, keep=base.keep)
            loss, metrics = split_loss(result, node.name)
            # A problem that acts through lower ones alone has no gradient while those stand still.
            still = not loss.requires_grad and self.graph.sweeps[node].nodes
            grads = {} if still else gradient(loss, base.inputs, node.name, create_graph=base.keep)
        self.note_problem(base, loss, metrics, grads, written)

    def prepare(
        self, node: Problem, wanted: Sequence[Any], pulled: bool, inner: int, apart: bool = False
    ) -> Base:
        """Where a problem's base evaluation is taken; see `evaluate_problem`.

        Args:
            node: the problem.
            wanted: sources that cotangents go to.
            pulled: whether a sweep passes through its solution.
            inner: index of the inner step.
            apart: take leaves that no other reader has.

        Returns:
            The evaluation, not made yet.
        """
        cost, own = self.graph.methods[node].cost, self.parameters[node]
        point, arguments = self.point(node, wanted, inner, apart)
        keep = pulled and cost.keeps_graph
        inputs, at = {**own, **arguments}, point
        if pulled and not cost.keeps_base:
            inputs = own
            if not keep:  # arguments without gradient: nothing is stored for their derivatives
                at, _ = self.point(node, (), inner)
        return Base(node, point, at, arguments, inputs, keep)

    def note_problem(
        self,
        base: Base,
        loss: Tensor,
        metrics: dict[str, Any],
        grads: Tensors,
        written: dict[Any, list[Tensor]],
    ) -> None:
        """Keep what a base evaluation gave, and the solution that it leads to.

        Args:
            base: the evaluation.
            loss: its value.
            metrics: besides.
            grads: its gradient, by key of `base.inputs`.
            written: the buffers of the problem's variables.
        """
        node, arguments, point = base.node, base.arguments, base.point
        method, own = self.graph.methods[node], self.parameters[node]
        response = Response(
            name=node.name,
            value={k: p.detach() for k, p in own.items()},
            leaves=own,
            gradient={k: g for k in own if (g := grads.get(k)) is not None},
            arguments=arguments,
            argument_gradient={k: g for k in arguments if (g := grads.get(k)) is not None},
            parameters=own,
            optimizer=node.optimizer,
            objective=self._objective(node, point),
            seed=point.seed,
        )
        record = ProblemRecord(loss.detach(), metrics, response, written=written)
        if method.moves and not method.traced and node not in self.dormant:
            with torch.no_grad():
                record.solution = method.solution(response)
            record.leaves = {k: t.detach().requires_grad_() for k, t in record.solution.items()}
        self.problems[node] = record

    def _objective(self, node: Problem, point: Point) -> Callable[..., Tensor]:
        def objective(value: Tensors, inner: int = 0, arguments: Tensors | None = None) -> Tensor:
            """F at another w: same batch, same seed, buffers from the start of the step."""
            assert inner == 0, f"{node.name}: a staged problem is evaluated at one batch"
            values, signals = dict(point.values), dict(point.signals)
            for source, tensors in grouped({**value, **(arguments or {})}).items():
                if isinstance(source, Signal):
                    parts = split(signals[source], source.name)
                    signals[source] = join(signals[source], {**parts, **tensors})
                else:
                    values[source] = {**values.get(source, {}), **tensors}
            moved = Point(values, signals, point.batch, point.seed)
            result, _ = self.evaluator(node, moved)
            return split_loss(result, node.name)[0]

        return objective

    def point(
        self, node: Node, wanted: Sequence[Any], inner: int, apart: bool = False
    ) -> tuple[Point, Tensors]:
        """What a node reads, and the leaves among it for the wanted sources.

        Args:
            node: a problem or signal.
            wanted: sources that cotangents go to.
            inner: index of the inner step.
            apart: take leaves that no other reader has.

        Returns:
            The point, and the leaves by key.
        """
        values: dict[Variable, dict[str, Tensor]] = {}
        signals: dict[Signal, Any] = {}
        leaves: Tensors = {}
        own = node.over if isinstance(node, Problem) else ()
        for source in (read.source for read in node.reads):
            if source in own:
                continue  # the module stands as it is: its parameters are the leaves
            if isinstance(source, Signal):
                record = self.signals[source]
                if source in wanted:
                    parts = _alone(record.leaves) if apart else record.leaves
                    leaves.update({(source, k): t for k, t in parts.items() if t.requires_grad})
                else:
                    parts = {k: t.detach() for k, t in record.parts.items()}
                signals[source] = join(record.value, parts)
            else:
                values[source] = self._read(node, source, wanted, leaves, apart)
        return Point(values, signals, self.batch(node), self.seed(node, inner)), leaves

    def _read(
        self,
        node: Node,
        variable: Variable,
        wanted: Sequence[Any],
        leaves: Tensors,
        apart: bool,
    ) -> dict[str, Tensor]:
        """The tensors of a variable as this node sees them."""
        below = self.graph.source_node(node, variable)
        if isinstance(below, Problem) and (moved := self.problems.get(below)) and moved.solution:
            chosen = moved.leaves if variable in wanted else moved.solution
        elif variable in wanted:
            chosen = self.parameters[self.graph.owner[variable]]
        else:
            return self._constant(variable)
        chosen = {key: tensor for key, tensor in chosen.items() if key[0] is variable}
        if variable in wanted:
            chosen = _alone(chosen) if apart else chosen
            leaves.update(chosen)
        seen = {name: tensor for (_, name), tensor in chosen.items()}
        if len(seen) < self.evaluator.size(variable):  # some are frozen, or not the optimizer's
            seen = {**self._constant(variable), **seen}
        return seen

    def _constant(self, variable: Variable) -> dict[str, Tensor]:
        """The standing value without gradient: nothing is stored for unasked derivatives."""
        if variable not in self._constants:
            self._constants[variable] = {
                name: p.detach()
                for name, p in self.evaluator.parameters(variable).items()
                if p.requires_grad
            }
        return self._constants[variable]


def _alone(tensors: dict[Any, Tensor]) -> dict[Any, Tensor]:
    """The same values as leaves of their own."""
    return {k: t.detach().requires_grad_(t.requires_grad) for k, t in tensors.items()}
