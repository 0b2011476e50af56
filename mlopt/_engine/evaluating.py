"""The evaluator of an engine: in which precision, in how many parts, on what it is checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._containers.containers import rebuilt
from .._errors import DataError
from .._evaluation.at_home import AtHome
from .._evaluation.devices import cuda_devices
from .._evaluation.in_parts import InParts
from .._evaluation.on_ranks import OnRanks
from .._evaluation.point import Evaluator
from .._evaluation.precision import Precisions
from .._graph.graph import Graph
from .._graph.homes import Home
from .._graph.moving import move
from .._graph.node import Node
from ..distributed.ranks import Ranks
from ..distributed.slices import EmptySlice

__all__ = ["checked_on", "evaluator_of", "on_ranks"]


def evaluator_of(
    graph: Graph,
    precision: str | None,
    device: torch.device | None,
    ranks: Ranks | None = None,
    homes: Mapping[Node, Home] | None = None,
) -> Evaluator:
    """What calls the functions of a graph in the steps of an engine.

    Args:
        graph: the graph.
        precision: of nodes that name none.
        device: where batches are.
        ranks: that take the steps, if there are several.
        homes: of nodes that are evaluated on some of them.

    Returns:
        The evaluator.
    """
    made = Evaluator(graph.nodes, graph.variables, cuda_devices(graph.variables, device))
    made.precision = Precisions(graph, precision, device)
    if graph.parts > 1 or ranks is not None:
        made.parts = InParts(graph)
    if ranks is not None:
        made.ranks = on_ranks(graph, ranks, made.parts, device, homes)
    return made


def on_ranks(
    graph: Graph,
    ranks: Ranks,
    parts: InParts | None,
    device: torch.device | None,
    homes: Mapping[Node, Home] | None = None,
) -> OnRanks:
    """What evaluates the nodes of a graph on several ranks.

    Args:
        graph: the graph.
        ranks: they.
        parts: takes the batches of a rank in parts, if it does.
        device: where batches are; by default the variables.
        homes: of nodes that are evaluated on some of them.

    Returns:
        It.
    """
    parts, device = parts or InParts(graph), device or _device(graph)
    if homes:
        return AtHome(graph, ranks, parts, device, homes)
    return OnRanks(graph, ranks, parts, device)


def _device(graph: Graph) -> torch.device:
    """Where the first variable is."""
    first = (p.device for v in graph.variables for p in v.parameters())
    return next(first, torch.device("cpu"))


def _of_first_rank(
    batch: Callable[[Node], Any], ranks: Ranks, device: torch.device | None
) -> Callable[[Node], Any]:
    """The batches of the first rank, on all, which ask for them at once."""

    def first(node: Node) -> Any:
        own = batch(node)
        if not node.streams:
            return own
        sent = rebuilt(own, _on_host) if ranks.rank == 0 else None
        found = ranks.collect(sent)[0]
        return own if ranks.rank == 0 else move(found, device)

    return first


def _on_host(held: Any) -> Any:
    return held.cpu() if isinstance(held, Tensor) else held


def checked_on(
    evaluator: Evaluator, batch: Callable[[Node], Any], device: torch.device | None = None
) -> Callable[[Node], Any]:
    """What functions are checked on: batches, or the first part of each.

    Args:
        evaluator: of the graph.
        batch: (node) -> its batch.
        device: where batches are.

    Returns:
        (node) -> what it is checked on; it raises a `DataError` where this rank has nothing.
    """
    parts = evaluator.parts
    if parts is None:
        return batch
    if evaluator.sharded:  # all ranks look at the same, for each needs the rows of the others
        batch = _of_first_rank(batch, evaluator.ranks.ranks, device)

    def first(node: Node) -> Any:
        found = batch(node)
        held = found if node.data_is_tuple else (found,)
        if any(isinstance(b, EmptySlice) for b in held):
            raise DataError(
                f"{node.name}: the first batch has fewer samples than there are ranks, and this "
                "one none, on which its function could be looked at. Give larger batches, or "
                "fewer ranks."
            )
        return parts.first(node, found)

    return first
