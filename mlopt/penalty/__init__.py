"""First-order penalty methods: two problems in, single-level problems for the engine out.

Imports the ground, `hypergrad`, `_graph`, `_evaluation` and `_engine`. Start reading at `f2sa.py`.
"""

from ._pair import Penalty
from .bome import bome
from .f2sa import Growing, f2sa

__all__ = ["Growing", "Penalty", "bome", "f2sa"]
