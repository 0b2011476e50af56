"""The one algorithm, going up: each node is evaluated once. `_descent.py` is its way down."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from .._evaluation.loss import split_loss
from .._evaluation.point import Evaluator, Point
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.signal import Signal, join, split
from .._tensors import Tensors, continuous, dense, grad_mode
from .._variable import Variable
from ..hypergrad.interface import Response, gradient
from .records import (
    Base,
    Evaluation,
    ProblemRecord,
    SignalRecord,
    Together,
    Values,
    deferred,
    objective_at,
    on_ranks,
    parts_of,
)

__all__ = ["Ascent"]


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
        solved: (problem, relative residual, solver) -> None, of each linear system.
    """

    def __init__(
        self,
        graph: Graph,
        evaluator: Evaluator,
        parameters: dict[Problem, Tensors],
        dormant: frozenset[Problem],
        batch: Callable[[Node], Any],
        seed: Callable[[Node, int], int],
        solved: Callable[[Problem, float, str], None],
    ) -> None:
        self.solved = solved
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
        self._constants: dict[Variable, Values] = {}
        #: of systems that this rank has solved, which the others are to hear of
        self.residuals: list[tuple[int, float, str]] = []

    def forget(self, nodes: Iterable[Node]) -> None:
        """Drop what these nodes gave: something they read has changed."""
        for node in nodes:
            self.problems.pop(node, None)  # type: ignore[call-overload]
            self.signals.pop(node, None)  # type: ignore[call-overload]
            self.together.pop(node, None)

    # Going up.

    def evaluate(self, evaluation: Evaluation) -> None:
        """Evaluate a problem or signal.

        Args:
            evaluation: which is asked for.
        """
        node, wanted = evaluation.node, evaluation.wanted
        if isinstance(node, Problem):
            self.evaluate_problem(node, wanted, evaluation.pulled, evaluation.inner)
        else:
            assert isinstance(node, Signal)
            self.evaluate_signal(node, wanted, evaluation.inner)

    def evaluate_signal(self, node: Signal, wanted: Sequence[Any], inner: int) -> None:
        """Compute a signal; its graph is kept towards the wanted sources.

        Args:
            node: the signal.
            wanted: sources that cotangents will be pulled back to.
            inner: index of the inner step.
        """
        point, inputs = self.point(node, wanted, inner)
        with grad_mode(bool(wanted)):
            value, written = self.evaluator.evaluate(node, point, owner=(node,), keep=bool(wanted))
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
        leaves = {k: t.detach().requires_grad_() if continuous(t) else t for k, t in parts.items()}
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
        rule = self.evaluator.precision
        with grad_mode(True):
            result, written = self.evaluator.evaluate(
                node,
                base.at,
                owner=node.over,
                keep=base.keep,
                twice=base.keep,
                wide=bool(rule.dtypes) and rule.widens(node),
            )
            loss, metrics = split_loss(result, node.name)
            # A problem that acts through lower ones alone has no gradient while those stand still.
            still = not loss.requires_grad and self.graph.sweeps[node].nodes
            grads: Tensors = {}
            if not still:
                with deferred(self.evaluator):
                    grads = gradient(
                        loss, base.inputs, node.name, create_graph=base.keep, sparse=True
                    )
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
        if not pulled or cost.keeps_base:
            inputs = {**own, **arguments} if arguments else own
            return Base(node, point, point, arguments, inputs, pulled and cost.keeps_graph)
        if cost.keeps_graph:
            return Base(node, point, point, arguments, own, keep=True)
        # arguments without gradient: nothing is stored for their derivatives
        return Base(node, point, self._still(node, point, wanted), arguments, own, keep=False)

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
        mine = {k: g for k in own if (g := grads.get(k)) is not None}
        others = {k: g for k in arguments if (g := grads.get(k)) is not None} if arguments else {}
        response = Response(
            name=node.name,
            value={k: p.detach() for k, p in own.items()},
            leaves=own,
            gradient=dense(mine),
            arguments=arguments,
            argument_gradient=dense(others) if others else others,
            parameters=own,
            optimizer=node.optimizer,
            objective=objective_at(self.evaluator, node, point),
            seed=point.seed,
            solved=self._told(node),
            parts=parts_of(self.evaluator, node),
            **on_ranks(self.evaluator, staged=True),
        )
        record = ProblemRecord(loss.detach(), metrics, response, written, mine)
        if method.moves and not method.traced and node not in self.dormant:
            record.solve = functools.partial(method.solution, response)
            if self.evaluator.ranks is None:
                record.see()
        self.problems[node] = record

    def record(self, node: Problem) -> ProblemRecord:
        """What a problem gave, all of which is there.

        Args:
            node: a problem that was evaluated.

        Returns:
            The record.
        """
        self.arrive()
        return self.problems[node]

    def arrive(self) -> None:
        """Before a gradient is read: what other ranks add to those of all problems is there."""
        if self.evaluator.ranks is not None:
            self.evaluator.ranks.sums.arrive()
            for record in self.problems.values():
                record.see()

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
        values: dict[Variable, Values] = {}
        signals: dict[Signal, Any] = {}
        leaves: Tensors = {}
        own = node.over if isinstance(node, Problem) else ()
        for read in node.reads:
            source = read.source
            if source in own:
                continue  # the module stands as it is: its parameters are the leaves
            if isinstance(source, Signal):
                signals[source] = self._heard(node, source, source in wanted, leaves, apart)
            else:
                values[source] = self._read(node, source, source in wanted, leaves, apart)
        return Point(values, signals, self.batch(node), self.seed(node, inner)), leaves

    def _still(self, node: Node, point: Point, sources: Sequence[Any]) -> Point:
        """The same point with these sources as constants."""
        values, signals = dict(point.values), dict(point.signals)
        for source in sources:
            if isinstance(source, Signal):
                signals[source] = self._heard(node, source, False, {}, False)
            else:
                values[source] = self._read(node, source, False, {}, False)
        return Point(values, signals, point.batch, point.seed)

    def _heard(self, node: Node, signal: Signal, wanted: bool, leaves: Tensors, apart: bool) -> Any:
        """The value of a signal; its parts are among the leaves if it is wanted."""
        record = self.signals[signal]
        if wanted:
            parts = self._brought(node, signal, record.leaves)
            parts = _alone(parts) if apart else parts
            leaves.update({(signal, k): t for k, t in parts.items() if t.requires_grad})
        else:
            parts = {k: t.detach() for k, t in record.parts.items()}
        return join(record.value, parts)

    def _read(
        self, node: Node, variable: Variable, wanted: bool, leaves: Tensors, apart: bool
    ) -> Values:
        """The tensors of a variable as this node sees them; among the leaves if it is wanted."""
        below = self.graph.source_node(node, variable)
        record = self.problems.get(below) if below is not None else None  # type: ignore[call-overload]
        if record is not None and record.solve is not None:
            self.arrive()
        if record is not None and record.solution:
            seen = (record.leaves if wanted else record.solution).get(variable, {})
        elif wanted:
            own = self.parameters[self.graph.owner[variable]]
            seen = {name: t for (v, name), t in own.items() if v is variable}
        else:
            return self._constant(variable)
        if wanted:
            seen = self._brought(node, variable, seen)
            seen = _alone(seen) if apart else seen
            leaves.update({(variable, name): t for name, t in seen.items()})
        if len(seen) < self.evaluator.size(variable):  # some are frozen, or not the optimizer's
            seen = {**self._constant(variable), **seen}
        return seen

    def _told(self, node: Problem) -> Any:
        """Who hears of a system that is solved: with no way back to this, or nothing is freed."""
        if self.evaluator.ranks is not None and self.evaluator.ranks.homes:
            return functools.partial(_note, self.residuals, self.graph.place[node])
        return functools.partial(self.solved, node)

    def _brought(self, node: Node, source: Any, leaves: Values) -> Values:
        """Leaves on the device of a node that reads them."""
        devices = self.evaluator.devices
        return leaves if devices is None else devices.leaves(node, source, leaves)

    def _constant(self, variable: Variable) -> Values:
        """The standing value without gradient: nothing is stored for unasked derivatives."""
        if variable not in self._constants:
            self._constants[variable] = self.evaluator.constants(variable)
        return self._constants[variable]


def _alone(tensors: dict[Any, Tensor]) -> dict[Any, Tensor]:
    """The same values as leaves of their own."""
    return {k: t.detach().requires_grad_(t.requires_grad) for k, t in tensors.items()}


def _note(held: list[tuple[int, float, str]], place: int, residual: float, solver: str) -> None:
    held.append((place, residual, solver))
