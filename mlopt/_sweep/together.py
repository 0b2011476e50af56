"""A stack's members in a step: evaluated as one, pulled back as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._errors import GraphError
from .._evaluation.batched import NotStackable, evaluate_as_one
from .._evaluation.loss import split_loss
from .._evaluation.point import Point
from .._graph.node import Node
from .._graph.signal import Signal
from .._tensors import Tensors, grouped, negative
from ..hypergrad import OneStep
from ..hypergrad.derivatives import derivatives
from ..hypergrad.interface import gradient
from ..hypergrad.products import Differences, Exact
from .ascent import Ascent
from .records import Evaluation, Together

__all__ = ["evaluate_together", "pull_together"]

#: A node, the cotangent on its value, and the sources that cotangents pass to.
Asked = tuple[Node, Tensors, Sequence[Any]]


def evaluate_together(ascent: Ascent, operations: Sequence[Evaluation]) -> NotStackable | None:
    """The evaluations of a stack's members in one call.

    Args:
        ascent: takes the records.
        operations: one for each member.

    Returns:
        Why it could not be done, with nothing recorded; None if it was.
    """
    nodes = tuple(o.node for o in operations)
    try:
        if isinstance(nodes[0], Signal):
            _evaluate_signals(ascent, nodes, operations)
        else:
            _evaluate_problems(ascent, nodes, operations)
    except NotStackable as refused:
        return refused
    return None


def _evaluate_signals(
    ascent: Ascent, nodes: Sequence[Node], operations: Sequence[Evaluation]
) -> None:
    wanted = any(o.wanted for o in operations)
    read = [ascent.point(o.node, o.wanted, o.inner, apart=True) for o in operations]
    points = [point for point, _ in read]
    with torch.set_grad_enabled(wanted):
        values, written = evaluate_as_one(ascent.evaluator, nodes, points, owned=True)
    together = Together(tuple(nodes), points, [])
    for node, value, (_, inputs), buffers in zip(nodes, values, read, written, strict=True):
        ascent.note_signal(node, value, inputs, buffers)  # type: ignore[arg-type]
        ascent.together[node] = together


def _evaluate_problems(
    ascent: Ascent, nodes: Sequence[Node], operations: Sequence[Evaluation]
) -> None:
    bases = [
        ascent.prepare(o.node, o.wanted, o.pulled, o.inner, apart=True)  # type: ignore[arg-type]
        for o in operations
    ]
    keep = any(b.keep for b in bases)
    with torch.enable_grad():
        results, written = evaluate_as_one(
            ascent.evaluator,
            nodes,
            [b.at for b in bases],
            owned=True,
            twice=keep,
            wide=ascent.evaluator.precision.widens(bases[0].node),
        )
        split = [split_loss(r, b.node.name) for r, b in zip(results, bases, strict=True)]
        total = torch.stack([loss for loss, _ in split]).sum()
        # A problem that acts through lower ones alone has no gradient while those stand still.
        still = not total.requires_grad and all(ascent.graph.sweeps[b.node].nodes for b in bases)
        inputs = _numbered([b.inputs for b in bases])
        found = (
            {}
            if still
            else gradient(total, inputs, bases[0].node.name, create_graph=keep, sparse=True)
        )
    grads = _apart(found, len(bases))
    for base, (loss, metrics), own, buffers in zip(bases, split, grads, written, strict=True):
        ascent.note_problem(base, loss, metrics, own, buffers)
    together = Together(
        tuple(nodes), [b.point for b in bases], [ascent.problems[b.node].response for b in bases]
    )
    ascent.together.update(dict.fromkeys(nodes, together))


def pull_together(ascent: Ascent, together: Together, asked: Sequence[Asked]) -> list[Tensors]:
    """Cotangents on the values of nodes that were evaluated as one, to what they read.

    Args:
        ascent: holds the records.
        together: the nodes.
        asked: some of them, each once.

    Returns:
        For each of those asked, cotangents by key of what it reads.

    Raises:
        Exception: what a member's function raised where it is displaced. Where it stands they were
            evaluated as one, so it is no matter of that; one by one they would draw other numbers.
    """
    try:
        return _pull(ascent, together, asked)
    except NotStackable as refused:
        raise refused.__cause__ or GraphError(f"{together.nodes[0].name}: {refused}") from None


def _pull(ascent: Ascent, together: Together, asked: Sequence[Asked]) -> list[Tensors]:
    if isinstance(together.nodes[0], Signal):
        outputs: list[Tensor] = []
        inputs: list[Tensors] = []
        cotangents: list[Tensor] = []
        for node, cotangent, edges in asked:
            record = ascent.signals[node]  # type: ignore[index]
            of, by, along = record.terms(cotangent, edges)
            outputs, cotangents = outputs + of, cotangents + along
            inputs.append(by)
        found = derivatives(outputs, _numbered(inputs), cotangents, retain_graph=True)
        return _apart(found, len(asked))
    return _pull_problems(ascent, together, asked)


def _pull_problems(ascent: Ascent, together: Together, asked: Sequence[Asked]) -> list[Tensors]:
    """`OneStep.pullback` of several problems: the products are taken of all at once."""
    place = {node: i for i, node in enumerate(together.nodes)}
    passing: dict[int, int] = {}  # place among all -> place among those asked
    directions: dict[int, Tensors] = {}
    wanted: dict[int, list[Any]] = {}
    for j, (node, cotangent, edges) in enumerate(asked):
        k, method = place[node], ascent.graph.methods[node]  # type: ignore[index]
        response = together.responses[k]
        assert isinstance(method, OneStep), "a stack's members have a method that passes together"
        cotangent = {key: c for key, c in cotangent.items() if key in response.gradient}
        if cotangent:
            passing[k] = j
            directions[k] = method.direction(response, cotangent)
            wanted[k] = [key for key in response.arguments if key[0] in edges]
    out: list[Tensors] = [{} for _ in asked]
    if passing:
        product = ascent.graph.methods[asked[0][0]].product  # type: ignore[index, attr-defined]
        if isinstance(product, Differences):
            found = _by_differences(ascent, together, product, directions, wanted)
        else:
            found = _exact(together, product, directions, wanted)
        for k, mixed in found.items():
            out[passing[k]] = negative(mixed)
    return out


def _exact(
    together: Together,
    product: Exact,
    directions: dict[int, Tensors],
    wanted: dict[int, list[Any]],
) -> dict[int, Tensors]:
    """One double backward through the evaluation that they share."""
    outputs: list[Tensor] = []
    cotangents: list[Tensor] = []
    for k, direction in directions.items():
        of, along = product.terms(together.responses[k], direction)
        outputs, cotangents = outputs + of, cotangents + along
    count = len(together.nodes)
    inputs = [
        {key: together.responses[k].arguments[key] for key in wanted.get(k, ())}
        for k in range(count)
    ]
    found = _apart(derivatives(outputs, _numbered(inputs), cotangents, retain_graph=True), count)
    return {k: found[k] for k in directions}


def _by_differences(
    ascent: Ascent,
    together: Together,
    product: Differences,
    directions: dict[int, Tensors],
    wanted: dict[int, list[Any]],
) -> dict[int, Tensors]:
    """Every displaced evaluation is one of all nodes; those that are not asked stand still."""
    count = len(together.nodes)
    points, inverse = {}, {}
    for k, direction in directions.items():
        points[k], inverse[k] = product.points(together.responses[k], direction)
    evaluations = max(len(p) for p in points.values())
    answers: dict[int, list[Tensors]] = {k: [] for k in directions}
    inputs = [
        {key: together.responses[k].arguments[key] for key in wanted.get(k, ())}
        for k in range(count)
    ]
    for i in range(evaluations):
        moved = [
            _moved(together.points[k], points[k][i] if k in points else together.responses[k].value)
            for k in range(count)
        ]
        with torch.enable_grad():
            results, _ = evaluate_as_one(
                ascent.evaluator,
                together.nodes,
                moved,
                counted=[together.nodes[k] for k in directions],
                wide=True,
            )
            losses = [split_loss(results[k], together.nodes[k].name)[0] for k in directions]
            total = torch.stack(losses).sum()
            slopes = derivatives([total], _numbered(inputs)) if total.requires_grad else {}
            found = _apart(slopes, count)
        for k in directions:
            answers[k].append(found[k])
    return {
        k: product.combine(together.responses[k], wanted[k], answers[k], inverse[k])
        for k in directions
    }


def _moved(point: Point, value: Tensors) -> Point:
    """The same point with other values of some variables."""
    values = dict(point.values)
    for source, tensors in grouped(value).items():
        values[source] = {**values.get(source, {}), **tensors}
    return Point(values, point.signals, point.batch, point.seed)


def _numbered(each: Sequence[Tensors]) -> Tensors:
    """Several dictionaries as one: two nodes may read the same source."""
    return {(k, key): t for k, tensors in enumerate(each) for key, t in tensors.items()}  # type: ignore[misc]


def _apart(numbered: Tensors, count: int) -> list[Tensors]:
    """The inverse of `_numbered`."""
    out: list[Tensors] = [{} for _ in range(count)]
    for (k, key), tensor in numbered.items():
        out[k][key] = tensor  # type: ignore[index]
    return out
