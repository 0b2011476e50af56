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
    read as they stand.

    Do not use it for zero-sum games whose players hold each other in balance: simultaneous steps
    turn around the solution, and away from it. `Extragradient` does not.

    Reference: Goodfellow et al., "Generative adversarial nets", NeurIPS 2014; the order of an
    iteration as in Mescheder, Nowozin, Geiger, "The numerics of GANs", NeurIPS 2017.
    """

    @property
    def traced(self) -> bool:
        return False
