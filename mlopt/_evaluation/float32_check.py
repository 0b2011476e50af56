"""Can a node of low precision be computed in float32 where differences are taken?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .._errors import GraphError, exhausted
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .point import Evaluator
from .precision import takes_differences
from .watched import watched

__all__ = ["check_float32"]


def check_float32(
    graph: Graph,
    evaluator: Evaluator,
    node: Node,
    inside: Iterable[Problem],
    evaluate: Callable[[], tuple[Any, Any]],
) -> None:
    """Evaluate a node without autocast, once, if products by differences will do so.

    Where it computes in low precision all the same (weights of that dtype, autocast of its own),
    the evaluator learns it.

    Args:
        graph: the graph.
        evaluator: of the graph.
        node: a problem or signal.
        inside: the middle problems that it follows.
        evaluate: evaluates it by that evaluator.

    Raises:
        GraphError: it cannot be evaluated so.
        RuntimeError: memory is exhausted.
    """
    precision = evaluator.precision
    askers = [p for p in dict.fromkeys((*inside, node)) if isinstance(p, Problem)]
    askers = [p for p in askers if takes_differences(graph.methods[p])]
    if node not in precision.dtypes or not askers:
        return
    computed = evaluator.narrow.get(node)
    try:
        with precision.float32():
            watched(evaluator, node, evaluate, {})
    except RuntimeError as error:
        if exhausted(error):
            raise
        who = graph.labels[askers[0]]
        raise GraphError(
            f"{graph.labels[node]}: the differences of {who} are taken in float32, where it fails: "
            f"{str(error).strip().splitlines()[0].rstrip('.')}. Let it compute without autocast, "
            f"too (casts such as x.to(weight.dtype)), or give {who} product=Exact()."
        ) from error
    finally:
        own = evaluator.narrow.pop(node, None)
        if computed is not None:
            evaluator.narrow[node] = computed
    if own is not None:
        precision.stuck[node] = own
