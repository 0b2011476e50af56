"""`Holders`: whose the parameters of a graph are, by identity and by where they lie in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .._graph.graph import Graph
from .._variable import Variable
from .reads import begin

__all__ = ["Holders", "holders_of"]


class Holders(NamedTuple):
    """Whose parameters are.

    Attributes:
        own: those of one variable: it, and False, by identity.
        common: frozen ones that several hold: these, and True, by identity.
        memory: as `own`, by the address where one begins: who keeps `w.data`, or a view of it,
            reads the variable past its argument, too.
    """

    own: Mapping[int, tuple[Variable, bool]]
    common: Mapping[int, tuple[tuple[Variable, ...], bool]]
    memory: Mapping[int, tuple[Variable, bool]]


def holders_of(graph: Graph) -> Holders:
    """Find them."""
    held: dict[int, tuple[Variable, ...]] = {}
    places: dict[int, int] = {}
    for v in graph.variables:
        for p in v.parameters():
            held[id(p)] = (*held.get(id(p), ()), v)
            if at := begin(p.detach()):
                places[at] = id(p)
    own = {i: (of[0], False) for i, of in held.items() if len(of) == 1}
    common = {i: (of, True) for i, of in held.items() if len(of) > 1}
    return Holders(own, common, {at: own[i] for at, i in places.items() if i in own})
