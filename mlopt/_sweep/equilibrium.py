"""The solutions of players in equilibrium, found together and differentiated together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .._graph.problem import Problem
from .._tensors import Tensors
from ..hypergrad.equilibrium import pull_equilibrium
from ..hypergrad.interface import Response
from .attach import Attach
from .evaluations import Evaluations
from .scope import Cut, Scope

__all__ = ["in_equilibrium"]


def in_equilibrium(
    evaluations: Evaluations,
    players: Sequence[Problem],
    scope: Scope,
    respond: Callable[..., Response],
) -> Tensors:
    """The standing values of players that are solved together, as one node of the autograd graph.

    Args:
        evaluations: of the step.
        players: of one game.
        scope: the reader's; an equilibrium that would have to follow what is displaced there is
            refused when the graph is made.
        respond: (player, cut, value, leaves, displaced, the others' leaves) -> its response.

    Returns:
        Tensors by key.
    """
    assert not scope.frame.differentiable, "an equilibrium has a first derivative only"
    graph, parameters = evaluations.graph, evaluations.parameters
    cut = Cut(scope, graph.cuts(players[0], evaluations.dormant), "leaf")
    standing = {k: t for p in players for k, t in evaluations.standing(p).items()}
    if not cut.originals:
        return standing
    # The leaves are those of the players' own updates, which may take these evaluations.
    leaves = {k: t for p in players for k, t in parameters[p].items()}
    responses: list[Response] = []
    for p in players:
        others = {k: t for k, t in leaves.items() if k[0] not in p.over}
        value = evaluations.standing(p)
        responses.append(respond(p, cut, value, parameters[p], False, others))
    methods: list[Any] = [graph.methods[p] for p in players]
    keys, wanted = list(standing), list(cut.originals)

    def pullback(cotangents: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> list[Any]:
        del outputs
        cotangent = {k: c for k, c in zip(keys, cotangents, strict=True) if c is not None}
        known = [k for k in wanted if k in cut.arguments]
        found = pull_equilibrium(list(zip(methods, responses, strict=True)), cotangent, known)
        return [found.get(k) for k in wanted]

    outputs = Attach.apply(pullback, list(standing.values()), *cut.originals.values())
    return dict(zip(keys, outputs, strict=True))
