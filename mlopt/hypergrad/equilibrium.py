"""Equilibria: the players of a game, each solved where the others are, differentiated together."""

from __future__ import annotations

from collections.abc import Sequence

from .._errors import GraphError
from .._tensors import Key, Tensors, accumulate, scale
from .curvature import Hessian
from .implicit import Implicit, solved
from .interface import AbstractHypergradient, Response

__all__ = ["check_equilibrium", "pull_equilibrium"]


def pull_equilibrium(
    players: Sequence[tuple[Implicit, Response]], cotangent: Tensors, wanted: Sequence[Key]
) -> Tensors:
    """Turn a cotangent on an equilibrium into cotangents on what its players read from outside.

        dF_p/dw_p(w; r) = 0  for every player p,    J_pq = d/dw_q dF_p/dw_p
        pullback to r:  - d/dr sum_p < dF_p/dw_p , q_p >,    (J + damping)' q = c

    J is not symmetric, so the solver is one that is `general`. A product with J' is one product of
    each player, by that player's own way of taking it.

    Args:
        players: each one's method, and its response at the equilibrium: the other players'
            variables are among its arguments.
        cotangent: by key of the players' variables; absent keys are zero.
        wanted: keys of arguments that are none of theirs.

    Returns:
        Tensors by wanted key; absent keys are zero.
    """
    own = {k: r.value[k] for _, r in players for k in r.gradient}
    # A parameter that no player uses is no part of the conditions.
    b = {k: cotangent[k] if k in cotangent else t.new_zeros(t.shape) for k, t in own.items()}
    if not any(k in cotangent for k in own):
        return {}

    def mixed(q: Tensors, keys: Sequence[Key]) -> Tensors:
        total: Tensors = {}
        for method, response in players:
            direction = {k: q[k] for k in response.gradient}
            known = [k for k in keys if k in response.gradient or k in response.arguments]
            accumulate(total, method.product.mixed(response, direction, known))
        return total

    def transposed(q: Tensors) -> Tensors:
        total = mixed(q, list(own))
        for method, response in players:
            if method.damping:
                accumulate(total, scale({k: q[k] for k in response.gradient}, method.damping))
        return total

    q = solved(players[0][0].solver, transposed, b, *(r for _, r in players))
    return scale(mixed(q, wanted), -1.0)


def check_equilibrium(names: Sequence[str], methods: Sequence[AbstractHypergradient]) -> None:
    """Refuse players of a game whose equilibrium their methods cannot differentiate.

    Args:
        names: of the players that read each other.
        methods: of each, none of which reads it as a constant.

    Raises:
        GraphError: they are not all `Implicit`, or not by one solver that takes their matrix.
    """
    who = " and ".join(names)
    for name, method in zip(names, methods, strict=True):
        if not isinstance(method, Implicit):
            others = [n for n, m in zip(names, methods, strict=True) if isinstance(m, Implicit)]
            raise GraphError(
                f"{' and '.join(others)}: Implicit takes the players of a game to be in "
                f"equilibrium, and {name}, which is read with it, has "
                f"hypergrad={type(method).__name__}(...). Give all of {who} Implicit, or none; "
                "Frozen() or StopGradient(...) makes a player a constant to the others."
            )
        if not isinstance(method.curvature, Hessian):
            raise GraphError(
                f"{name}: {type(method.curvature).__name__}() is a curvature of one objective, and "
                f"the equilibrium of {who} is differentiated by all of theirs. Use Hessian()."
            )
    solvers = [m.solver for m in methods if isinstance(m, Implicit)]
    if not solvers[0].general:
        raise GraphError(
            f"{who}: {type(solvers[0]).__name__} takes symmetric systems, and the equilibrium of "
            "players that read each other is none. Use Implicit(GMRES()), Implicit(Dense()) or "
            "Implicit(Neumann())."
        )
    if any(s != solvers[0] for s in solvers):
        raise GraphError(
            f"{who} are solved as one system; give all of them the same solver, not "
            f"{' and '.join(dict.fromkeys(map(repr, solvers)))}."
        )
