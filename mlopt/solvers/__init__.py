"""Solvers of A x = b by products with A: one file per method.

Imports the ground. Start reading at `_solver.py`, then `cg.py`.
"""

from ._solver import AbstractSolver, Operator, Solution
from .cg import CG
from .dense import Dense
from .gmres import GMRES
from .neumann import Neumann
from .nystrom import Nystrom

__all__ = [
    "CG",
    "GMRES",
    "AbstractSolver",
    "Dense",
    "Neumann",
    "Nystrom",
    "Operator",
    "Solution",
]
