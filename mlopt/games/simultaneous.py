"""`Simultaneous`: every player from where the step began."""

from __future__ import annotations

from dataclasses import dataclass

from .._graph.game import AbstractPlay

__all__ = ["Simultaneous"]


@dataclass(frozen=True)
class Simultaneous(AbstractPlay):
    """Each player by its own method and its own update, at the others' standing values.

        s_i(r) = s_i(w_i; w_others, r)       with the method of player i, OneStep() for example

    All methods and products can be used, a different one for each player; `Frozen()` players are
    read as they stand. Players that read each other and are all `Implicit` are in equilibrium, and
    what moves one of them moves all:

        dF_i/dw_i(w; r) = 0  for every i,    J_ij = d/dw_j dF_i/dw_i
        pullback to r:  - d/dr sum_i < dF_i/dw_i , q_i >,    J' q = c

    J is not symmetric: their solver, the same one for all, is `GMRES`, `Dense` or `Neumann`.

    Do not use it for zero-sum games whose players hold each other in balance: simultaneous steps
    turn around the solution, and away from it. `Extragradient` does not.

    Reference: Goodfellow et al., "Generative adversarial nets", NeurIPS 2014; the order of an
    iteration as in Mescheder, Nowozin, Geiger, "The numerics of GANs", NeurIPS 2017.
    """

    @property
    def traced(self) -> bool:
        return False
