"""`placed`: where the nodes of an engine are evaluated, by where it is said that variables live."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._arguments import shown
from .._containers.loaders import describe, shared
from .._errors import DataError, GraphError
from .._graph.graph import Graph
from .._graph.homes import Home, homes_of
from .._graph.node import Node
from ..distributed.ranks import Ranks

__all__ = ["placed"]


def placed(graph: Graph, places: Any, ranks: Ranks | None) -> Mapping[Node, Home]:
    """On which ranks the nodes of an engine are evaluated.

    Args:
        graph: of the engine.
        places: where variables live, as it was given.
        ranks: of the engine; None where it is alone.

    Returns:
        The home of each node that is not evaluated on all of them.

    Raises:
        GraphError: there is no such place, or nobody to live there.
        DataError: a loader gives a rank its share of a batch.
    """
    if places is None:
        return {}
    if not isinstance(places, Mapping) or not places:
        raise GraphError(
            f"Engine: places={shown(places)} must be a dict that says where variables live, such "
            "as {W: 0, V: (1, 2)}; leave it out where all live on all ranks."
        )
    if ranks is None:
        raise GraphError(
            "Engine: places= names ranks, and this process is alone. Start several (torchrun), and "
            "call torch.distributed.init_process_group() before; or leave places= out."
        )
    for stream in dict.fromkeys(s for node in graph.nodes for s in node.streams):
        if (found := shared(stream.loader)) is not None:
            raise DataError(
                f"Engine: with places= every rank draws whole batches, of which those that need "
                f"them take their part. But {describe(stream.loader)} gives a rank its share of "
                f"{found[1]}, by its {found[0]}. Leave out split(), or the sampler."
            )
    return homes_of(graph, places, ranks.size)
