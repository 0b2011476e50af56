"""`first_check`: before anything is changed, what the functions of a graph do is looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._evaluation.causes import Aloud
from .._evaluation.check import check_again, check_nodes
from .._evaluation.left import put_back_after
from .._evaluation.point import Evaluator
from .._evaluation.stack_check import compare_stacks
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .deep import mend_nested

__all__ = ["first_check"]


def first_check(
    graph: Graph,
    evaluator: Evaluator,
    batch: Callable[[Node], Any],
    seed: Callable[[Node, int], int],
    attempt: Callable[[Problem], None],
    hear: Aloud,
    first: bool,
) -> bool:
    """Look at the functions one by one, at stacks, and at whole gradients of nested levels.

    What the functions leave behind is put back. It ends early where something is refused.

    Args:
        graph: the graph.
        evaluator: of the graph.
        batch: (node) -> a batch.
        seed: (node, inner step) -> the seed of the first evaluation.
        attempt: takes the whole gradient of a problem.
        hear: where refusals and warnings go.
        first: end at once where a function gives its modules other parts.

    Returns:
        Whether it has come to its end; if not, the modules have to be looked at anew.
    """
    with put_back_after() as around:
        found = check_nodes(graph, evaluator, batch, seed, around, hear, first)
        if found is None:
            return False
        shallow, enclosed = found
        if hear.refused:
            return True
        with hear("reads", ""):
            compare_stacks(graph, evaluator, batch, seed)
        with hear("derivatives", ""):
            mend_nested(graph, evaluator, shallow, attempt)
        if not hear.refused:
            check_again(enclosed, batch, seed, hear)
    return True
