"""`Plan`: a step before it runs, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .._evaluation.layouts import size
from .._graph.brief import brief
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.picture import paragraphs, table
from .._graph.problem import Problem
from ..distributed.traffic import Traffic
from .operations import Commit, Evaluate, Iterate, Nest, Operation, Total
from .reach import reach
from .transaction import resting

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """A step before it runs: what is evaluated, in which order, and how often.

    Attributes:
        operations: in order.
        evaluations: calls of objectives and signals, forward; one in parts of a batch counts once.
            For a solver that stops by itself,
            the most; for nested levels and for steps of several, as counted in a trial.
        backwards: backward passes; those of nested levels stand at the problem whose gradient they
            are for.
        undo: whether what is committed is copied before, so that it can be undone.
        copies: bytes of these copies: parameters, states of optimizers and buffers as they are.
        precision: which nodes are computed in which precision, in words.
        ranks: by how many processes.
        traffic: what goes between them in a step, by purpose: collectives, and the bytes that a
            rank gives to them. What is asked for once, or now and then, is left out.
    """

    graph: Graph
    operations: tuple[Operation, ...]
    undo: bool = True
    precision: tuple[str, ...] = ()
    ranks: int = 1
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def per_node(self) -> dict[Node, tuple[int, int]]:
        """(evaluations, backward passes) of each node, in the order of the list."""
        count: dict[Node, list[int]] = {n: [0, 0] for n in self.graph.nodes}
        for operation in self.operations:
            if isinstance(operation, Evaluate):
                count[operation.node][0] += 1
                count[operation.node][1] += isinstance(operation.node, Problem)
            elif isinstance(operation, Total):
                for node in operation.sweep.nodes:
                    if isinstance(node, Problem):
                        cost = self.graph.methods[node].cost_of(node.size)
                        more = cost.again if node in self.graph.in_parts else (0, 0)
                        count[node][0] += cost.evaluations + more[0]
                        count[node][1] += cost.backwards + more[1]
                    else:
                        count[node][0] += node in self.graph.in_parts
                        count[node][1] += 1
            elif isinstance(operation, Nest | Iterate) and operation.calls is not None:
                for node, calls in operation.calls.items():
                    count[node][0] += calls
                count[operation.problem][1] += operation.backwards
        return {n: (f, b) for n, (f, b) in count.items()}

    @property
    def evaluations(self) -> int:
        """Calls of objectives and signals in the step."""
        return sum(f for f, _ in self.per_node.values())

    @property
    def backwards(self) -> int:
        """Backward passes in the step."""
        return sum(b for _, b in self.per_node.values())

    @property
    def copies(self) -> int:
        """Bytes that are copied, so that the step can be undone."""
        known: dict[int, Any] = {}
        tensors: list[Tensor] = []
        for problem in {o.problem for o in self.operations if isinstance(o, Commit) and self.undo}:
            tensors += reach(problem.optimizer, "", known).tensors
            still = resting(problem, self.graph.methods[problem])
            tensors += reach([*still.values()], "", known).tensors
            modules = [v.value for v in problem.over if isinstance(v.value, nn.Module)]
            tensors += reach([b for m in modules for b in m.buffers()], "", known).tensors
        memories = [s.state for s in self.graph.signals if s.state is not None] if tensors else []
        tensors += reach([b for m in memories for b in m.buffers()], "", known).tensors
        return sum(map(size, tensors))

    def __str__(self) -> str:
        width = max(len("total"), *(len(label) for label in self.graph.labels.values()))
        lines = [f"{'':{width}}  evaluations  backward passes"]
        reasons = self._reasons()
        for node, (forward, backward) in self.per_node.items():
            numbers = f"{self.graph.labels[node]:{width}}  {forward:11}  {backward:15}"
            lines.append(f"{numbers}  {reasons.get(node, '')}".rstrip())
        lines.append(f"{'total':{width}}  {self.evaluations:11}  {self.backwards:15}")
        return "\n".join([*lines, *self._notes()])

    def _repr_html_(self) -> str:
        reasons = self._reasons()
        rows: list[tuple[object, ...]] = [
            (self.graph.labels[node], *numbers, reasons.get(node, ""))
            for node, numbers in self.per_node.items()
        ]
        rows.append(("total", self.evaluations, self.backwards, ""))
        head = "", "evaluations", "backward passes", ""
        return table(head, rows) + paragraphs(self._notes())

    def _notes(self) -> list[str]:
        """What stands below the table."""
        lines = self._stacking() + self._parts() + self._between()
        lines += [f"{self.graph.labels[p]}: {note}" for p, note in self.graph.notes.items()]
        lines += self.precision
        if any(isinstance(o, Commit) for o in self.operations):
            lines.append(
                f"copies, to undo a step that fails: {_size(self.copies)}"
                if self.undo
                else "no copies: what a step has committed when it fails cannot be undone"
            )
        return lines

    def _stacking(self) -> list[str]:
        """How the members of stacks are evaluated, a line each."""

        def listed(nodes: Iterable[Node]) -> str:
            return ", ".join(self.graph.labels[n] for n in nodes)

        planned = [o.together for o in self.operations if isinstance(o, Evaluate) and o.together]
        as_one = dict.fromkeys(tuple(e.node for e in together) for together in planned)
        lines = [f"evaluated as one: {listed(nodes)}" for nodes in as_one]
        stacked = {node for nodes in as_one for node in nodes}
        for stack in dict.fromkeys(self.graph.stacks.values()):
            if len(stack.members) > 1 and stacked.isdisjoint(stack.members):
                lines.append(f"evaluated one by one: {listed(stack.members)}")
        nested = {
            node
            for o in self.operations
            if isinstance(o, Nest | Iterate)
            for node in self.graph.needed(o.problem)
            if node in stacked
        }
        if nested:
            also = listed(n for n in self.graph.nodes if n in nested)
            lines.append(f"one by one where they follow: {also}")
        return lines

    def _parts(self) -> list[str]:
        """What parts of batches cost and keep, in a line."""
        graph = self.graph
        if not graph.in_parts:
            return []
        planned = {o.node for o in self.operations if isinstance(o, Evaluate)}
        nodes = ", ".join(graph.labels[n] for n in graph.nodes if n in graph.in_parts)
        again = sum(
            graph.methods[n].cost_of(n.size).again[0] if isinstance(n, Problem) else 1
            for o in self.operations
            if isinstance(o, Total)
            for n in o.sweep.nodes
            if n in graph.in_parts
        )
        own = [v for n in planned & graph.in_parts if isinstance(n, Problem) for v in n.over]
        kept = sum(size(p) for v in own for p in v.parameters() if p.requires_grad)
        return [
            f"in {graph.parts} parts of their batches, with the graph of one at a time: {nodes}",
            f"computed again for that: {again} evaluations (those of nested levels are counted "
            f"above); kept: sums of gradients, {_size(kept)}, and the values of signals",
        ]

    def _between(self) -> list[str]:
        """What goes between ranks, or devices, in a line."""
        found = self.traffic.per_purpose
        if not found:
            return []
        words = [f"{what} {count} of {_size(size)}" for what, (count, size) in found.items()]
        total = sum(count for count, _ in found.values()), sum(size for _, size in found.values())
        if self.ranks == 1:
            return [f"between devices: {total[0]} tensors of {_size(total[1])}: {', '.join(words)}"]
        return [
            f"between {self.ranks} ranks: {total[0]} collectives, to which each gives "
            f"{_size(total[1])}: {', '.join(words)}"
        ]

    def _reasons(self) -> dict[Node, str]:
        """Why each node is evaluated, and how gradients pass it, in words."""
        uppers: dict[Node, list[str]] = {}
        follows: dict[Node, list[str]] = {}
        for o in self.operations:
            if isinstance(o, Total | Nest):
                for_whom, nodes = (
                    (uppers, o.sweep.nodes)
                    if isinstance(o, Total)
                    else (follows, self.graph.needed(o.problem)[1:])
                )
                for node in nodes:
                    for_whom.setdefault(node, []).append(self.graph.labels[o.problem])
        reasons: dict[Node, str] = {}
        for node in {**uppers, **follows}:
            why = [f"pulled back for {', '.join(uppers[node])}"] if node in uppers else []
            why += [f"follows, for {', '.join(follows[node])}"] if node in follows else []
            how = f" by {brief(self.graph.methods[node])}" if isinstance(node, Problem) else ""
            reasons[node] = "; ".join(why) + how
        return reasons


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**19 else f"{count / 2**10:.1f} KiB"
