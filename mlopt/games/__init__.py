"""Plays: how the players of a `Game` move in one step, one file each."""

from .alternating import Alternating
from .extragradient import Extragradient
from .simultaneous import Simultaneous

__all__ = ["Alternating", "Extragradient", "Simultaneous"]
