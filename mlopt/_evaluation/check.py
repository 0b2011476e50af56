"""The first check: each function is called before the first step, to see what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.orders import moved_with, orders
from .._graph.problem import Problem
from .._graph.signal import Signal
from .capability import Lack
from .causes import Aloud
from .enclosed import Enclosed
from .holders import holders_of
from .layouts import check_copies
from .left import Left
from .node_check import NodeCheck
from .point import Evaluator
from .purity import Copies
from .unwritten import Unwritten

__all__ = ["check_again", "check_nodes"]


def check_nodes(
    graph: Graph,
    evaluator: Evaluator,
    batch: Callable[[Node], Any],
    seed: Callable[[Node, int], int],
    around: list[Left],
    hear: Aloud | None = None,
    first: bool = False,
) -> tuple[dict[Node, Lack], Enclosed] | None:
    """Evaluate each node with copies of what it reads, and look at what it does.

    Changes nothing of the user's: no buffer is committed, no gradient taken for an update. The
    evaluator learns which generators a function draws from, in which low precision it computes, and
    what is computed again in backward passes; the graph, what cannot be differentiated twice.

    Args:
        graph: the graph.
        evaluator: of the graph.
        batch: (node) -> a batch.
        seed: (node, inner step) -> the seed of the first evaluation.
        around: takes what is put back after all checks, see `put_back_after`.
        hear: where refusals and warnings go; by default they are raised and given.
        first: end at once where a function gives its modules other parts.

    Returns:
        The nodes that cannot be differentiated as often as nested levels may need, and why; and
        what is known of those inside of middle problems. None where the modules have to be looked
        at anew.

    Raises:
        GraphError: a hidden read, a given that is never touched, a value that is not a scalar, an
            objective that does not depend on its own variable, an argument written in place, state
            that an evaluation leaves behind, a buffer that cannot be copied, no first derivative.
    """
    for source, binding in evaluator.bindings.items():
        check_copies(source.name, binding.module)
    # What arrives as an argument has another identity than the variable's own tensors: whoever
    # touches those has gone past the arguments. A frozen one in several variables is nobody's own.
    holders = holders_of(graph)
    # Functions are given copies, and may get at the variables' own tensors past them.
    standing = Copies()
    for v in graph.variables:
        standing.remember([*v.named_parameters().values()], v.name)
    signals: dict[Signal, Any] = {}
    shallow: dict[Node, Lack] = {}
    often = orders(graph)
    nested = not all(map(graph.staged, graph.problems))
    deepest = max(often.values()) if nested else 1  # signals are gone back through with the levels
    hear = hear or Aloud()
    inside = {p: moved_with(graph, p) for p in graph.problems} if nested else {}
    enclosed = Enclosed(graph, evaluator, inside, hear)
    unwritten = Unwritten(graph, evaluator)
    for node in graph.nodes:
        if any(isinstance(r.source, Signal) and r.source not in signals for r in node.reads):
            continue  # of which nothing is known, as has been heard
        at = (signals, batch(node), seed(node, 0))
        check = NodeCheck(graph, evaluator, node, *at, hear, enclosed, holders)
        with standing.kept():
            check.run(often[node] if isinstance(node, Problem) else deepest, around, first)
        unwritten.note(node, check.written)
        if first and not evaluator.stands():
            return None
        if isinstance(node, Signal) and check.sound:
            signals[node] = check.result
            if evaluator.parts is not None:
                with hear("value", graph.labels[node]):
                    evaluator.parts.check_rows(evaluator, node, check.point, check.result)
        if check.shallow is not None:
            shallow[node] = check.shallow
        del check  # and what it has copied
    evaluator.release()
    unwritten.check(hear)
    return shallow, enclosed


def check_again(
    enclosed: Enclosed,
    batch: Callable[[Node], Any],
    seed: Callable[[Node, int], int],
    hear: Aloud,
) -> None:
    """Ask what differences need of the nodes below, where methods take them since these were asked.

    Args:
        enclosed: of the first check.
        batch: (node) -> a batch.
        seed: (node, inner step) -> the seed of the first evaluation.
        hear: where warnings go.
    """
    graph, evaluator = enclosed.graph, enclosed.evaluator
    signals: dict[Signal, Any] = {}
    asked, holders = enclosed.again(), holders_of(graph)
    for node in graph.nodes if asked else ():
        check = NodeCheck(
            graph, evaluator, node, signals, batch(node), seed(node, 0), hear, enclosed, holders
        )
        if node in asked:
            check.ask_again()
        if isinstance(node, Signal):
            signals[node] = check.result if node in asked else check.value()
    evaluator.release()
