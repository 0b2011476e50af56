"""First-order penalty methods: two problems in, single-level problems for the engine out."""

from ._pair import Penalty
from .bome import bome
from .f2sa import Growing, f2sa

__all__ = ["Growing", "Penalty", "bome", "f2sa"]
