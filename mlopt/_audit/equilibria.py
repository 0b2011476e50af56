"""The conditions of an equilibrium, by plain autograd."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .._graph.problem import Problem
from .._tensors import Tensors
from .values import Frame, Values

__all__ = ["conditions", "solved_with"]


def solved_with(values: Values, problem: Problem) -> tuple[Problem, ...]:
    """The problems whose optimum is one with this one's: the players of an equilibrium."""
    if values.graph.methods[problem].traced:  # players that a play moves
        return (problem,)
    return values.graph.solved_with(problem, values.depends.dormant)


def conditions(
    values: Values, players: Sequence[Problem], w: Tensors, frame: Frame | None, order: int
) -> tuple[Tensors, Tensors]:
    """Each player's dF_p/dw_p as a function of the variables of all, and of the frame.

    Args:
        values: of the graph.
        players: those that are solved together.
        w: where, by key.
        frame: of the reader.
        order: how often it will be differentiated.

    Returns:
        w as it can be differentiated by, and the gradients by key.
    """
    leaves = {
        k: t.view_as(t) if order and t.requires_grad else t.detach().requires_grad_()
        for k, t in w.items()
    }
    found: Tensors = {}
    for p in players:
        own = {k: t for k, t in leaves.items() if k[0] in p.over}
        others = {k: t for k, t in leaves.items() if k not in own}
        with torch.enable_grad():
            found.update(values.slope(p, own, frame, order, others=others)[1])
    return leaves, found
