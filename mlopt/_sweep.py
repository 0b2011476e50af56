"""The one algorithm: each node evaluated once, going up; cotangents pulled back, going down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ._derivatives import derivatives
from ._errors import GraphError
from ._graph import Graph, Sweep
from ._hypergrad import Response, gradient
from ._node import Node
from ._point import Evaluator, Point
from ._problem import Problem
from ._signal import Signal, join, split
from ._tensors import Tensors, accumulate
from ._variable import Variable

__all__ = ["Ascent", "split_loss"]


@dataclass
class SignalRecord:
    """A signal's value at this point, and the graph behind it where cotangents will come back."""

    value: Any
    parts: dict[str, Tensor]
    leaves: dict[str, Tensor]
    inputs: Tensors
    written: dict[Any, list[Tensor]]


@dataclass
class ProblemRecord:
    """A problem's base evaluation at this point."""

    loss: Tensor
    metrics: dict[str, Any]
    response: Response
    solution: Tensors = field(default_factory=dict)
    leaves: Tensors = field(default_factory=dict)
    written: dict[Any, list[Tensor]] = field(default_factory=dict)


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
        self._constants: dict[Variable, dict[str, Tensor]] = {}

    def forget(self, nodes: Iterable[Node]) -> None:
        """Drop what these nodes gave: something they read has changed."""
        for node in nodes:
            self.problems.pop(node, None)  # type: ignore[call-overload]
            self.signals.pop(node, None)  # type: ignore[call-overload]

    # Going up.

    def evaluate_signal(self, node: Signal, wanted: Sequence[Any], inner: int) -> None:
        """Compute a signal; its graph is kept towards the wanted sources.

        Args:
            node: the signal.
            wanted: sources that cotangents will be pulled back to.
            inner: index of the inner step.
        """
        point, inputs = self._point(node, wanted, inner)
        with torch.set_grad_enabled(bool(wanted)):
            value, written = self.evaluator(node, point, owner=(node,), keep=bool(wanted))
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
        method, own = self.graph.methods[node], self.parameters[node]
        cost = method.cost
        point, arguments = self._point(node, wanted, inner)
        keep_graph = pulled and cost.keeps_graph
        inputs, base = {**own, **arguments}, point
        if pulled and not cost.keeps_base:
            inputs = own
            if (
                not keep_graph
            ):  # arguments without gradient: nothing is stored for their derivatives
                base, _ = self._point(node, (), inner)
        with torch.enable_grad():
            result, written = self.evaluator(node, base, owner=node.over, keep=keep_graph)
            loss, metrics = split_loss(result, node.name)
            # A problem that acts through lower ones alone has no gradient while those stand still.
            still = not loss.requires_grad and self.graph.sweeps[node].nodes
            grads = {} if still else gradient(loss, inputs, node.name, create_graph=keep_graph)
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
            for (source, name), tensor in {**value, **(arguments or {})}.items():
                if isinstance(source, Signal):
                    parts = split(signals[source], source.name)
                    signals[source] = join(signals[source], {**parts, name: tensor})
                else:
                    values[source] = {**values.get(source, {}), name: tensor}
            moved = Point(values, signals, point.batch, point.seed)
            result, _ = self.evaluator(node, moved)
            return split_loss(result, node.name)[0]

        return objective

    def _point(self, node: Node, wanted: Sequence[Any], inner: int) -> tuple[Point, Tensors]:
        """What a node reads, and the leaves among it for the wanted sources."""
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
                    leaves.update(
                        {(source, k): t for k, t in record.leaves.items() if t.requires_grad}
                    )
                    parts = record.leaves
                else:
                    parts = {k: t.detach() for k, t in record.parts.items()}
                signals[source] = join(record.value, parts)
            else:
                values[source] = self._read(node, source, wanted, leaves)
        return Point(values, signals, self.batch(node), self.seed(node, inner)), leaves

    def _read(
        self, node: Node, variable: Variable, wanted: Sequence[Any], leaves: Tensors
    ) -> dict[str, Tensor]:
        """The tensors of a variable as this node sees them."""
        below = self.graph.source_node(node, variable)
        seen = dict(self._constant(variable))
        if isinstance(below, Problem) and (moved := self.problems.get(below)) and moved.solution:
            chosen = moved.leaves if variable in wanted else moved.solution
        elif variable in wanted:
            chosen = self.parameters[self.graph.owner[variable]]
        else:
            return seen
        for (v, name), tensor in chosen.items():
            if v is variable:
                seen[name] = tensor
                if variable in wanted:
                    leaves[(v, name)] = tensor
        return seen

    def _constant(self, variable: Variable) -> dict[str, Tensor]:
        """The standing value without gradient: nothing is stored for unasked derivatives."""
        if variable not in self._constants:
            self._constants[variable] = {
                name: p.detach()
                for name, p in variable.named_parameters().items()
                if p.requires_grad
            }
        return self._constants[variable]

    # Going down.

    def total_gradient(self, sweep: Sweep) -> Tensors:
        """The hypergradient of a problem whose base evaluation stands: the reverse sweep.

        Each anticipated node is visited once, with the sum of all cotangents on its value.

        Args:
            sweep: the problem's walk.

        Returns:
            Its gradient by key; parameters that nothing depends on are absent.
        """
        record = self.problems[sweep.upper]
        total = {k: g.detach() for k, g in record.response.gradient.items()}
        if not sweep.nodes:
            return total
        cotangents: dict[Node, Tensors] = {}
        self._distribute(sweep, sweep.upper, record.response.argument_gradient, total, cotangents)
        for node in sweep.nodes:
            cotangent = cotangents.pop(node, None)
            if cotangent:
                passed = self._pullback(node, cotangent, sweep.edges[node])
                self._distribute(sweep, node, passed, total, cotangents)
        return total

    def _distribute(
        self,
        sweep: Sweep,
        node: Node,
        passed: Tensors,
        total: Tensors,
        cotangents: dict[Node, Tensors],
    ) -> None:
        """Add what arrives at each source to that source's sum."""
        for key, tensor in passed.items():
            if key[0] in sweep.upper.over:
                accumulate(total, {key: tensor})
            else:
                below = self.graph.source_node(node, key[0])
                assert below is not None
                accumulate(cotangents.setdefault(below, {}), {key: tensor})

    def _pullback(self, node: Node, cotangent: Tensors, edges: Sequence[Any]) -> Tensors:
        if isinstance(node, Signal):
            record = self.signals[node]
            inputs = {k: t for k, t in record.inputs.items() if k[0] in edges}
            outputs = {k: t for k, t in cotangent.items() if record.parts[k[1]].requires_grad}
            return derivatives(
                [record.parts[k[1]] for k in outputs],
                inputs,
                list(outputs.values()),
                retain_graph=True,
            )
        assert isinstance(node, Problem)
        response = self.problems[node].response
        wanted = [k for k in response.arguments if k[0] in edges]
        with torch.no_grad():
            return self.graph.methods[node].pullback(response, cotangent, wanted)


def split_loss(result: Any, name: str) -> tuple[Tensor, dict[str, Any]]:
    """An objective's return value as a scalar and its metrics."""
    loss, metrics = result if isinstance(result, tuple) and len(result) == 2 else (result, {})
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        got = (
            f"a tensor of shape {tuple(loss.shape)}"
            if isinstance(loss, Tensor)
            else type(loss).__name__
        )
        raise GraphError(
            f"{name} returned {got}; an objective returns a scalar tensor, or (scalar, metrics). "
            "Is a .mean() missing?"
        )
    if not isinstance(metrics, dict):
        raise GraphError(f"{name} returned (scalar, {type(metrics).__name__}); metrics are a dict.")
    for taken in ("loss", "gradient_norm"):
        if taken in metrics:
            raise GraphError(f"{name}: the metric {taken!r} is the engine's own; rename yours.")
    return loss, metrics
