"""Running a plan: one step, or one hypergradient."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .._evaluation.point import Evaluator
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.signal import split
from .._graph.stacking import dissolve
from .._graph.stream import Stream
from .._sweep.ascent import Ascent
from .._sweep.descent import total_gradients
from .._sweep.together import evaluate_together
from .._sweep.total import TotalObjectives
from .._tensors import Tensors, grad_mode, norm, stacked
from ..hypergrad.derivatives import backward_passes
from .batches import Batches
from .closing import Closing
from .operations import (
    Anew,
    Commit,
    Decide,
    Draw,
    Evaluate,
    Iterate,
    Nest,
    Settled,
    Total,
    beside,
    nests_from,
)
from .outcome import Outcome
from .plan import Plan
from .seeds import in_round
from .transaction import Transaction
from .watch import Care, Watch
from .waves import Ahead

__all__ = ["Step"]


class Step:
    """One step at one set of batches.

    Args:
        graph: the graph.
        evaluator: of the graph.
        parameters: that each problem updates, by key.
        plan: what to do.
        dormant: problems before their start.
        draw: (stream) -> its next batch.
        seed: (node, inner step) -> the seed of an evaluation.
        transaction: takes what is committed.
        care: where the quick way of looking does not do; what is learned is noted.
    """

    def __init__(
        self,
        graph: Graph,
        evaluator: Evaluator,
        parameters: dict[Problem, Tensors],
        plan: Plan,
        dormant: frozenset[Problem],
        draw: Callable[[Stream], Any],
        seed: Callable[[Node, int], int],
        transaction: Transaction,
        care: Care,
    ) -> None:
        self.graph, self.plan, self.evaluator = graph, plan, evaluator
        self.parameters, self.dormant, self.seed = parameters, dormant, seed
        # Nothing in here refers back to the step: what it held is freed with it, at once.
        self.batches = Batches(graph, draw)
        self.transaction, self.care = transaction, care
        self.outcome, self.watch = Outcome(), Watch()
        self.closing = Closing(graph, transaction, self.watch, self.outcome, care)
        self.solved = self.closing.residuals.note
        self.ascent = Ascent(
            graph, evaluator, self.parameters, dormant, self.batches, seed, self.solved
        )
        self._ahead = Ahead(self.ascent)
        self._total_objectives: TotalObjectives | None = None
        self._rounds: Mapping[Node, int] = {}
        self._norms: dict[Problem, Tensor] = {}
        self._waiting: list[Total] = []  # of problems below which there is nothing
        self._placing: dict[Problem, Any] = {}
        self._written: dict[Node, dict[Any, list[Tensor]]] = {}

    @property
    def totals(self) -> TotalObjectives:
        """What has followed so far; it begins anew after an early commit or a draw."""
        if self._total_objectives is None:
            self._total_objectives = TotalObjectives(
                self.graph,
                self.evaluator,
                self.parameters,
                self.dormant,
                self.batches.inside,
                functools.cache(in_round(self.graph, self.seed, self._rounds)),
                self.solved,
            )
        return self._total_objectives

    def run(self) -> Outcome:
        """Carry out the plan's operations in order.

        Returns:
            The outcome; if something was not finite, nothing has been committed.
        """
        operations, at, last = self.plan.operations, 0, False
        try:
            while at < len(operations) and self.outcome.failed is None:
                operation = operations[at]
                if isinstance(operation, Commit):
                    if not (operation.early or last):
                        last = True
                        self.closing.begin(operations[at:], self._written)
                    self._commit(operation)
                    at += 1
                elif isinstance(operation, Decide):
                    self._arrive()
                    self.closing.decide(self._written)
                    at += 1
                else:
                    # Optimizers have the caller's grad mode and generators, evaluations their own.
                    with grad_mode(False), self.evaluator.generators:
                        at = self._compute(at)
            if self.outcome.failed is None:
                self.closing.write_signals(self._written)
            else:
                self.transaction.undo()
        except BaseException as error:
            if self._total_objectives is not None:
                self._watch_noted()
            explained = self.closing.explains(error)
            self.transaction.undo()
            if not explained:
                raise
        finally:
            self.evaluator.release()
        self.outcome.updated = self.transaction.updated
        return self.outcome

    def _compute(self, at: int) -> int:
        """Carry out operations up to the next commit or decision; where it stands, or the end."""
        operations = self.plan.operations
        while at < len(operations):
            operation = operations[at]
            if isinstance(operation, Evaluate):
                self._ahead.look(operations, at)
                self._evaluate(operation)
            elif isinstance(operation, Total):
                totals = beside(self.graph, operations, at)
                self._total(totals)
                at += len(totals) - 1
            elif isinstance(operation, Commit | Decide):
                break
            elif isinstance(operation, Nest):
                self._nest(at)
            elif isinstance(operation, Iterate):
                self._rounds = operation.rounds
                with self._counted(operation):
                    self._iterate(operation.problem)
            elif isinstance(operation, Anew):
                if operation.commits:
                    self._arrive()
                self._begin_anew()
            elif isinstance(operation, Draw):
                self._redraw(operation)
            elif isinstance(operation, Settled) and self._settled(operation):
                return operation.end
            at += 1
        return at

    def _evaluate(self, operation: Evaluate) -> None:
        stack = operation.together
        if not stack:
            self._evaluate_alone(operation)
        elif operation is stack[0]:
            self._evaluate_stack(stack)

    def _evaluate_stack(self, stack: Sequence[Evaluate]) -> None:
        refused = None
        if stack[0].node in self.graph.stacks:
            refused = evaluate_together(self.ascent, stack)
            if refused is None:
                for operation in stack:
                    self._note(operation.node)
                return
        for operation in stack:
            self._evaluate_alone(operation)
        if refused is not None and refused.lasting:  # and not an error of the function itself
            dissolve(self.graph, stack[0].node, str(refused))

    def _evaluate_alone(self, operation: Evaluate) -> None:
        self._ahead.evaluate(operation)
        self._note(operation.node)

    def _note(self, node: Node) -> None:
        """Report what an evaluation gave."""
        if isinstance(node, Problem):
            record = self.ascent.problems[node]
            self._report(node, record.loss, record.metrics)
        else:
            record = self.ascent.signals[node]  # type: ignore[index]
            self._show(node, record.parts)
        self._written[node] = record.written

    @contextmanager
    def _counted(self, operation: Nest | Iterate) -> Iterator[None]:
        """Note what an operation took, whose cost no plan can know before."""
        calls, passes = self.evaluator.count.copy(), backward_passes()
        yield
        operation.calls = self.evaluator.count - calls
        operation.backwards = backward_passes() - passes

    def _report(self, problem: Problem, loss: Tensor, metrics: dict[str, Any]) -> None:
        self.watch.note(problem, "loss", loss)
        self.outcome.report(problem, self.graph.labels[problem], loss, metrics)

    def _show(self, signal: Node, parts: dict[str, Tensor]) -> None:
        parts = {k: t.detach() for k, t in parts.items()}
        self.outcome.signals[self.graph.labels[signal]] = parts[""] if [*parts] == [""] else parts

    def _total(self, operations: Sequence[Total]) -> None:
        if self.evaluator.ranks is not None and not any(o.sweep.nodes for o in operations):
            self._waiting += operations  # what other ranks add may still be on its way
            self.outcome.metrics |= {self._norm_of(o.problem): None for o in operations}
            return
        found = total_gradients(self.ascent, [o.sweep for o in operations])
        for operation, gradient in zip(operations, found, strict=True):
            self._keep(operation.problem, gradient)

    def _nest(self, at: int) -> None:
        """The update of a nested problem; at the first one, those of all up to the next commit.

        They are evaluated from the highest down: what a reader evaluates where it stands serves a
        lower problem's own update. They are reported from the lowest up, as everything is.
        """
        first: Any = self.plan.operations[at]
        problem, self._rounds = first.problem, first.rounds
        if problem not in self.totals.known:
            nests = nests_from(self.plan.operations, at)
            # Nested ones first: they evaluate the others.
            nests.sort(key=lambda o: self.graph.staged(o.problem, self.dormant))
            for operation in nests:
                with self._counted(operation):
                    self.totals.update(operation.problem)
            self._watch_noted()
            # Those that are evaluated for their readers alone are reported as a sweep reports them.
            own = {operation.problem for operation in nests}
            for other in self.graph.problems:
                if other in self.totals.known and other not in own:
                    update = self.totals.update(other)
                    self._report(other, update.loss, update.metrics)
        update = self.totals.update(problem)
        self._written[problem] = update.written
        self._report(problem, update.loss, update.metrics)
        self._note_signals()
        self._keep(problem, update.gradient)

    def _iterate(self, problem: Problem) -> None:
        self._placing[problem] = trajectory = self.totals.trajectory(problem)
        self._watch_noted()
        self._note_signals()
        self._report(problem, trajectory.losses[0], trajectory.metrics)
        if not self.transaction.copies:
            self.watch.note(problem, "value", norm(trajectory.numbers, self.care.norms))

    def _note_signals(self) -> None:
        """What the total objectives computed, before an early commit makes them begin anew."""
        for signal, value in self.totals.signals.items():
            self._show(signal, split(value, signal.name))
            self._written[signal] = self.totals.written[signal]

    def _keep(self, problem: Problem, gradient: Tensors) -> None:
        self.outcome.gradients[problem] = gradient
        self._norms[problem] = length = norm(gradient, self.care.norms)
        self.watch.note(problem, "gradient", length)
        self.outcome.metrics[self._norm_of(problem)] = length

    def _norm_of(self, problem: Problem) -> str:
        return f"{self.graph.labels[problem]}/gradient_norm"

    def _commit(self, operation: Commit) -> None:
        self._arrive()
        problem = operation.problem
        if self.graph.methods[problem].traced:
            if problem not in self._placing:  # all players, before one of them has moved
                for player in self.graph.moving(problem):
                    self._placing[player] = self.totals.trajectory(player)
            trajectory = self._placing.pop(problem)
            self.transaction.place(problem, self.parameters[problem], trajectory)
            self.outcome.count(problem, trajectory.losses[1:])
        else:
            self.transaction.update(
                problem,
                self.parameters[problem],
                self.outcome.gradients[problem],
                self._norms[problem],
                self._written[problem],
            )
            self.outcome.count(problem)
        self.ascent.forget(operation.forget)
        if operation.early:
            self._begin_anew()

    def _arrive(self) -> None:
        """Before a commit or a decision all is what it is over all ranks."""
        self.ascent.arrive()
        waiting, self._waiting = self._waiting, []
        for operation in waiting:
            self._keep(operation.problem, *total_gradients(self.ascent, [operation.sweep]))
        self.closing.settle()

    def _begin_anew(self) -> None:
        """Nothing that has followed is known any longer: a commit has come between."""
        self._total_objectives = None
        self.batches.begin_anew()

    def _settled(self, operation: Settled) -> bool:
        """Whether a turn has come to its end: one host synchronisation a round."""
        self._arrive()
        norms = [self._norms[p] for p in operation.problems]
        done = bool(torch.linalg.vector_norm(stacked(norms)) <= operation.tol)
        for problem in operation.problems:
            label = f"{self.graph.labels[problem]}/rounds"
            self.outcome.metrics[label] = self.outcome.metrics.get(label, 0) + (not done)
        return done

    def _watch_noted(self) -> None:
        """Watch the losses of total objectives, in the order in which they were evaluated."""
        while self.totals.noted:
            problem, loss = self.totals.noted.pop(0)
            self.watch.note(problem, "loss", loss)

    def _redraw(self, operation: Draw) -> None:
        self._arrive()
        self.batches.redraw(operation.streams, operation.readers)
        self.ascent.forget(operation.forget)
        self._total_objectives = None
