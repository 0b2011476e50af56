"""Equilibria of games: which of them a graph refuses."""

from __future__ import annotations

from .._errors import GraphError
from ..hypergrad.equilibrium import check_equilibrium
from .levels import Levels
from .problem import Problem

__all__ = ["check_game"]


def check_game(graph: Levels, player: Problem) -> None:
    """A player that is taken to be solved, among others that it reads or that read it.

    Args:
        graph: the graph.
        player: of a game, read by a higher problem.

    Raises:
        GraphError: their methods, or the levels above, allow no derivative of the equilibrium.
    """
    game, method = graph.games.get(player), graph.methods[player]
    if game is None or game.traced or not (method.at_solution and method.responds):
        return
    players = graph.coupled(player, [p for p in game.players if graph.methods[p].responds])
    if len(players) == 1:
        return
    names = [p.name for p in players]
    check_equilibrium(names, [graph.methods[p] for p in players])
    for top in graph.problems:
        for steering in graph.needed(top)[1:]:
            if (
                isinstance(steering, Problem)
                and steering in graph.follows(top)
                and (graph.methods[steering].responds or graph.methods[steering].traced)
                and not graph.follows(steering).isdisjoint(players)
            ):
                raise GraphError(
                    f"{' and '.join(names)}: their equilibrium would have to follow "
                    f"{steering.name}, which steers it and through which {top.name} "
                    "differentiates; its second derivative is not known here. Give the game a "
                    "play that takes the players' steps, such as mlopt.games.Extragradient(), or "
                    f"{steering.name} Frozen()."
                )
