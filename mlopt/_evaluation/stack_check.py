"""The check of stacks before the first step: do members give as one what they give alone?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .._errors import GraphError
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.signal import Signal
from .._graph.stacking import dissolve, members
from .batched import NotStackable, evaluate_as_one
from .loss import split_loss
from .point import Evaluator, Point

__all__ = ["compare_stacks"]

Values = list[Tensor]
Derived = tuple[Values, Values, Values]  # what a function returned, its gradient, its buffers

# Rounding that a network enlarges stays below these powers of the machine epsilon, relative.
VALUE, GRADIENT = 1 / 2, 1 / 3
SPREAD = 8  # of rounding from one member to another: each number is one draw of it


class Relative(NamedTuple):
    """Relative differences."""

    value: float
    gradient: float
    whole: float  # of whole numbers, say predictions: how many; 0 for none


def compare_stacks(
    graph: Graph,
    evaluator: Evaluator,
    batch: Callable[[Node], Any],
    seed: Callable[[Node, int], int],
) -> None:
    """Evaluate each stack as one and its members alone, at the standing values; compare.

    All draw the same random numbers for once, as far as torch can make them. Changes nothing. A
    stack that torch cannot run as one is dissolved, with a `CapabilityWarning`.

    Args:
        graph: the graph.
        evaluator: of the graph.
        batch: (node) -> a batch.
        seed: (node, inner step) -> the seed of the first evaluation.

    Raises:
        GraphError: a member gives something else than alone.
    """
    signals: dict[Signal, Any] = {}

    def point(node: Node) -> Point:
        values = {
            v: {
                k: p.detach().requires_grad_(p.requires_grad and v in _over(node))
                for k, p in evaluator.parameters(v).items()
            }
            for v in (r.source for r in node.reads)
            if not isinstance(v, Signal)
        }
        return Point(values, signals, batch(node), seed(node, 0))

    for stack in dict.fromkeys(graph.stacks.values()):
        if evaluator.recomputing.intersection(stack.members):
            dissolve(graph, stack.members[0], "parts of it are computed again in backward passes.")
            continue
        below = graph.nodes[: graph.nodes.index(stack.members[0])]
        for node in below:
            if isinstance(node, Signal) and node not in signals:
                with torch.no_grad():
                    signals[node], _ = evaluator(node, point(node))
        if len(members(graph, stack.members[0])) > 1:
            _compare(graph, evaluator, stack.members, [point(m) for m in stack.members])
    evaluator.release()


def _compare(
    graph: Graph, evaluator: Evaluator, nodes: Sequence[Node], points: Sequence[Point]
) -> None:
    points = [replace(p, seed=points[0].seed) for p in points]
    with torch.enable_grad():
        alone = [
            _derived(n, p, *evaluator(n, p, owner=_over(n) or (n,)))
            for n, p in zip(nodes, points, strict=True)
        ]
    try:
        with torch.enable_grad():
            results, written = evaluate_as_one(
                evaluator, nodes, points, owned=True, randomness="same"
            )
    except NotStackable as reason:
        if reason.lasting:
            dissolve(graph, nodes[0], str(reason))
        return
    allowed = _by_its_own_function(_precision(points))
    for node, at, result, buffers, expected in zip(
        nodes, points, results, written, alone, strict=True
    ):
        found = _derived(node, at, result, buffers)
        what = _difference(found, expected, allowed)
        if node is nodes[0]:
            if what and _draws(evaluator, node, at, expected):
                return  # it differs from itself: torch has not repeated the numbers
            allowed = _by_anothers(_precision(points), _noise(found, expected))
        if what:
            first = nodes[0].name
            raise GraphError(
                f"Stack: {node.name} is evaluated by the function of {first}, and {what}. The "
                "functions differ, or use something that differs from member to member past their "
                "arguments: an index, a constant, a network, train() and eval(). Make it an "
                "argument, or list them without a stack."
            )


def _derived(node: Node, point: Point, result: Any, written: dict[Any, list[Any]]) -> Derived:
    """What a function returned, a problem's gradient by its own variables, and what it wrote."""
    values = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
    gradient: Values = []
    if isinstance(node, Problem):
        loss, _ = split_loss(result, node.name)
        own = [t for v in node.over for t in point.values[v].values() if t.requires_grad]
        if loss.requires_grad and own:
            found = torch.autograd.grad(loss, own, allow_unused=True, retain_graph=True)
            gradient = [
                torch.zeros_like(t) if g is None else g.to_dense() if g.is_sparse else g
                for t, g in zip(own, found, strict=True)
            ]
    buffers = [t.detach() for t in tree_leaves([*written.values()]) if isinstance(t, Tensor)]
    return [v.detach() for v in values], gradient, buffers


def _precision(points: Sequence[Point]) -> float:
    """The machine epsilon of what is given to the members, the coarsest."""
    given = tree_leaves([(list(p.values.values()), p.batch, p.signals) for p in points])
    dtypes = {t.dtype for t in given if isinstance(t, Tensor) and t.is_floating_point()}
    return max((torch.finfo(d).eps for d in dtypes), default=0.0)


def _by_its_own_function(eps: float) -> Relative:
    """What the first member may differ by from itself: rounding."""
    # Of float32 torch computes much in fewer bits: convolutions on a GPU in TF32, and whole
    # networks in bfloat16 or float16 under autocast. Of float64 it does not.
    if eps <= torch.finfo(torch.float64).eps:
        return Relative(eps**VALUE, eps**GRADIENT, 0.0)
    coarse = torch.finfo(torch.bfloat16).eps
    return Relative(coarse**VALUE, coarse**GRADIENT, coarse**GRADIENT)


def _by_anothers(eps: float, noise: Relative) -> Relative:
    """What the other members may differ by: rounding, as coarse as the first one has shown it."""
    # A value may come out the same by chance; a gradient has too many numbers for that.
    value = max(eps**VALUE, SPREAD * noise.value, noise.gradient)
    gradient = max(eps**GRADIENT, SPREAD * noise.gradient)
    fewer_bits = max(noise) > eps**VALUE
    return Relative(value, gradient, max(gradient, SPREAD * noise.whole) if fewer_bits else 0.0)


def _noise(found: Derived, expected: Derived) -> Relative:
    pairs = [(a.is_floating_point(), _distance(a, b))
             for a, b in zip(found[0], expected[0], strict=True)]  # fmt: skip
    value = max((d for real, d in pairs if real), default=0.0)
    whole = max((d for real, d in pairs if not real), default=0.0)
    return Relative(value, max(value, _distance(_flat(found[1]), _flat(expected[1]))), whole)


def _difference(found: Derived, expected: Derived, allowed: Relative) -> str:
    """What differs by more than is allowed, in words; empty if nothing does."""
    for i, (a, b) in enumerate(zip(found[0], expected[0], strict=True)):
        if a.is_floating_point():
            differs = _distance(a, b) > allowed.value
        else:  # where rounding decides at all, it may decide one of few
            slack = 1 / max(_size(b), 1.0) if allowed.whole else 0.0
            differs = _distance(a, b) > allowed.whole + slack
        if differs:
            if b.numel() == 1:
                shown = f"{a.item():.6g} where it gives {b.item():.6g} alone"
            else:
                shown = f"a tensor of shape {tuple(a.shape)} that differs from its own"
            return f"gives {shown}" if i == 0 else f"what it returns at place {i} is {shown}"
    if _distance(_flat(found[1]), _flat(expected[1])) > allowed.gradient:
        return "has another gradient than alone"
    if any(_distance(a, b) > allowed.value for a, b in zip(found[2], expected[2], strict=True)):
        return "writes other numbers into its buffers than alone"
    return ""


def _flat(tensors: Values) -> Tensor:
    return torch.cat([t.flatten() for t in tensors]) if tensors else torch.zeros(0)


def _distance(a: Tensor, b: Tensor) -> float:
    """Relative to the size; of several whole numbers, how many differ."""
    if a.shape != b.shape:
        return math.inf
    size, error = b.double().norm(), (a.double() - b.double()).norm()
    if not torch.isfinite(size):  # the step itself will say that
        return 0.0
    if not a.is_floating_point():
        moved = error.item() if a.numel() == 1 else (a != b).sum().item()
        return moved / max(_size(b), 1.0)
    error = error - 100 * torch.finfo(a.dtype).eps  # of what is zero, and rounding
    return (error / size).item() if error > 0 else 0.0


def _size(whole: Tensor) -> float:
    """Of a whole number, or how many they are."""
    return abs(whole.item()) if whole.numel() == 1 else whole.numel()


def _draws(evaluator: Evaluator, node: Node, point: Point, expected: Derived) -> bool:
    """Whether something in it is random."""
    with torch.enable_grad():
        other, _ = evaluator(node, replace(point, seed=point.seed + 1))
    values = [x.detach() for x in tree_leaves(other) if isinstance(x, Tensor)]
    return any(not torch.equal(a, b) for a, b in zip(values, expected[0], strict=True))


def _over(node: Node) -> tuple[Any, ...]:
    return node.over if isinstance(node, Problem) else ()
