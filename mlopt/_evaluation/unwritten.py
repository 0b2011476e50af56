"""`Unwritten`: buffers that only readers write, whose writes are not kept."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .._errors import CapabilityWarning
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .._variable import Variable
from .causes import Aloud
from .layouts import same
from .point import Evaluator

__all__ = ["Unwritten"]


class Unwritten:
    """Which nodes' evaluations have written which buffers of variables.

    Args:
        graph: the graph.
        evaluator: of the graph.
    """

    def __init__(self, graph: Graph, evaluator: Evaluator) -> None:
        self._graph, self._evaluator = graph, evaluator
        self._writers: dict[Variable, dict[int, list[Node]]] = {}

    def note(self, node: Node, written: Mapping[Any, list[Tensor]]) -> None:
        """Compare what an evaluation left in buffers with what the modules hold.

        Args:
            node: whose evaluation it was.
            written: by the variables that it reads.
        """
        for source, tensors in written.items():
            held = self._evaluator.bindings[source].held()
            if isinstance(source, Variable) and len(tensors) == len(held):
                writers = self._writers.setdefault(source, {})
                for i, (now, before) in enumerate(zip(tensors, held, strict=True)):
                    if now is not before and (
                        now is None or before is None or not same(now.to(before.device), before)
                    ):
                        writers.setdefault(i, []).append(node)

    def check(self, hear: Aloud) -> None:
        """Say of which variables no evaluation of their own problem writes what readers' do."""
        for variable, writers in self._writers.items():
            owner = self._graph.owner[variable]
            lost = {i: nodes for i, nodes in writers.items() if owner not in nodes}
            if lost:
                with hear("writes", self._graph.labels[owner]):
                    self._say(variable, owner, lost)

    def _say(self, variable: Variable, owner: Problem, lost: dict[int, list[Node]]) -> None:
        names = [
            f"{path}.{key}" if path else key  # in the order of a binding
            for path, part in self._evaluator.bindings[variable].module.named_modules()
            for key in part._buffers
        ]
        held = [names[i] for i in lost]
        more = f" and {len(held) - 3} more" if len(held) > 3 else ""
        readers = dict.fromkeys(node.name for nodes in lost.values() for node in nodes)
        verb = "reads" if len(readers) == 1 else "read"
        warnings.warn(
            f"{owner.name}: buffers of {variable.name} ({', '.join(held[:3])}{more}) are written "
            f"only where {' and '.join(readers)} {verb} it, and kept is what the objective of "
            f"{owner.name} writes: they stay as they are. Put these parts into eval mode, give "
            f"them no running statistics (track_running_stats=False), or let {owner.name} call "
            f"{variable.name} in its own objective, in training mode.",
            CapabilityWarning,
            stacklevel=2,
        )
