"""A whole run of a program that searches: search, derive, retrain, test, report.

Start with runs.py. learners.py is what becomes of what a search found, command.py the program's
command line.

May import: settings, data, networks, results, retraining, search.
"""

from .command import main
from .learners import derive_all, save_learners
from .runs import run, run_beside_base

__all__ = ["derive_all", "main", "run", "run_beside_base", "save_learners"]
