"""`check_differences`: are a method's differences those of the function that trains?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from .._graph.problem import Problem
from .._tensors import Tensors
from .enclosed import Enclosed
from .point import Point
from .slope import check_precision, check_slope
from .symmetry import check_symmetry

__all__ = ["check_differences"]


def check_differences(
    enclosed: Enclosed,
    node: Problem,
    point: Point,
    wanted: Tensors,
    gradient: Tensors,
    ways: Sequence[str],
    hear: Callable[[str], AbstractContextManager[None]],
) -> None:
    """Warn once where they are not: by low precision, or by a backward that is not their slope.

    Args:
        enclosed: of middle problems, what is inside of them; it notes of whom it has been said.
        node: whose method takes differences.
        point: where.
        wanted: the leaves that the problem is differentiated by.
        gradient: the gradient by them.
        ways: in which it leaves autograd, in words.
        hear: (kind) -> a block of such checks.
    """
    graph, moving = enclosed.graph, enclosed.moving(node)
    at = (graph, enclosed.evaluator, node, point, wanted, gradient, moving)
    with hear("precision"):
        if check_precision(graph, node, wanted, gradient, moving, enclosed.narrow(node)):
            enclosed.said.add(node)
            return
    with hear("backward"):
        if check_slope(*at) or check_symmetry(*at, ways):
            enclosed.said.add(node)
