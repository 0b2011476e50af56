"""The functions of a graph, evaluated with what they read as a scope sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from .._evaluation.point import Evaluator, Point
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.signal import Signal, join, split
from .._tensors import Tensors, grouped
from .._variable import Variable
from .records import Values
from .scope import Cut, Find, Frame, Scope

__all__ = ["Evaluations", "detached_signal"]


class Evaluations:
    """The evaluations of one step, at its batches and seeds.

    What is kept here has no graph: the callbacks of autograd refer to this object.

    Args:
        graph: the graph.
        evaluator: of the graph.
        parameters: each problem's parameters by key.
        dormant: problems before their start, which are read as they stand.
        batch: (node, inner loops as (problem, index), innermost first) -> its batch.
        seed: (node, inner step) -> the seed of an evaluation.
        solved: (problem, relative residual, solver) -> None, of each linear system.

    Attributes:
        signals: as the first evaluation of the step gave them, detached.
        written: the buffers of their memories, likewise.
    """

    def __init__(
        self,
        graph: Graph,
        evaluator: Evaluator,
        parameters: Mapping[Problem, Tensors],
        dormant: frozenset[Problem],
        batch: Callable[[Node, Sequence[tuple[Problem, int]]], Any],
        seed: Callable[[Node, int], int],
        solved: Callable[[Problem, float, str], None],
    ) -> None:
        self.solved = solved
        self.graph, self.evaluator, self.parameters = graph, evaluator, parameters
        self.dormant, self.batch, self.seed = dormant, batch, seed
        self.signals: dict[Signal, Any] = {}
        self.written: dict[Signal, dict[Any, list[Tensor]]] = {}
        #: Losses at the standing values and in steps, in the order in which they are evaluated.
        self.noted: list[tuple[Problem, Tensor]] = []
        self._constants: dict[Variable, Values] = {}

    def frame(self, owner: Problem, **options: Any) -> Frame:
        """The frame of a problem's own update.

        Args:
            owner: the problem.
            **options: as of `Frame`.

        Returns:
            The frame.
        """
        return Frame(self.graph, self.dormant, owner, **options)

    def scope(self, frame: Frame, own: Tensors, find: Find, cut: Cut | None = None) -> Scope:
        """What an evaluation of the frame's owner sees.

        Args:
            frame: where it stands.
            own: the owner's tensors by key, and those of other players if they moved.
            find: resolves what follows the owner.
            cut: everything else.

        Returns:
            The scope.
        """
        # The players of a game see each other where the step began, or as `own` says.
        values: dict[Any, Any] = {v: self.constants(v) for v in self.graph.beside(frame.owner)}
        for variable, tensors in grouped(own).items():
            values[variable] = {**values[variable], **tensors}
        return Scope(frame, values, find, cut)

    def evaluate(
        self,
        node: Node,
        scope: Scope,
        owner: Sequence[Any] = (),
        start: Mapping[Any, list[Tensor]] | None = None,
    ) -> tuple[Any, dict[Any, list[Tensor]]]:
        """Call a function of the graph.

        Args:
            node: a problem or signal.
            scope: what it reads.
            owner: variables whose buffers this evaluation writes for good.
            start: buffers to begin with, where they are not those that the modules hold.

        Returns:
            What the function returned, and for each owner with buffers those that it wrote.
        """
        values: dict[Variable, Values] = {}
        signals: dict[Signal, Any] = {}
        for read in node.reads:
            value = scope.value(read.source)
            if isinstance(read.source, Signal):
                heard = detached_signal(value, read.source) if read.stopped else value
                signals[read.source] = heard
            else:
                stopped = {k: t.detach() for k, t in value.items()} if read.stopped else value
                values[read.source] = stopped
        frame = scope.frame
        point = Point(values, signals, self.batch(node, frame.loops), self.seed(node, frame.inner))
        # A signal is remembered as the first evaluation of a step gave it, at the highest scope.
        remember = isinstance(node, Signal) and node not in self.signals
        result, written = self.evaluator.evaluate(
            node,
            point,
            owner=(node,) if remember else owner,
            keep=True,
            twice=True,  # also since torch compiles for leaves, and solutions in here are none
            start=start,
            wide=frame.wide,
        )
        if isinstance(node, Signal) and remember:
            self.signals[node], self.written[node] = detached_signal(result, node), written
        return result, written

    def constants(self, variable: Variable) -> Values:
        """A variable's standing value, without gradient."""
        if variable not in self._constants:
            self._constants[variable] = self.evaluator.constants(variable)
        return self._constants[variable]

    def standing(self, problem: Problem) -> Tensors:
        """A problem's standing value, without gradient."""
        return {k: p.detach() for k, p in self.parameters[problem].items()}


def detached_signal(value: Any, signal: Signal) -> Any:
    """A signal's value without its graph."""
    return join(value, {k: t.detach() for k, t in split(value, signal.name).items()})
