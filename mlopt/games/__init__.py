"""Plays: how the players of a `Game` move in one step, one file each.

Imports the ground and `_graph`. Start reading at `simultaneous.py`, then `_graph/game.py`.
"""

from .alternating import Alternating
from .extragradient import Extragradient
from .joint import Joint
from .simultaneous import Simultaneous

__all__ = ["Alternating", "Extragradient", "Joint", "Simultaneous"]
