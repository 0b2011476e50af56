"""`Extragradient`: every player by its gradient where all would be a step later."""

from __future__ import annotations

from dataclasses import dataclass

from .._graph.game import AbstractPlay, Table

__all__ = ["Extragradient"]


@dataclass(frozen=True)
class Extragradient(AbstractPlay):
    """A look ahead by all players, then a step of each from the start by the gradient found there.

        v_i = w_i - lr dF_i/dw_i(w; r),    s_i(r) = w_i - lr dF_i/dw_i(v(r); r)

    Both by the players' optimizers and on the same batch; optimizers and buffers keep what the
    second leaves, made from what they held at the start. Unlike simultaneous steps it converges on
    bilinear games. A higher problem differentiates exactly through both.

    Do not use it where a gradient is dear and the players hardly act on each other: it takes two.

    Reference: Korpelevich, "The extragradient method for finding saddle points and other problems",
    1976; Gidel, Berard, Vignoud, Vincent, Lacoste-Julien, "A variational inequality perspective on
    generative adversarial networks", ICLR 2019.
    """

    @property
    def traced(self) -> bool:
        return True

    def run(self, table: Table) -> None:
        table.step(*table.players, at=table.ahead(*table.players))
