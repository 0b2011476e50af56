"""A whole run of a program that searches: search, derive, retrain, test, report.

Start with runs.py. learners.py is what becomes of what a search found, folders.py opens the run
folder, command.py is the program's command line, ends.py how any program ends, program.py lets the
small ones go on where they were interrupted, proof.py shows that a search can be resumed.

May import: ranks, settings, data, networks, results, retraining, search.
"""

from .command import main
from .ends import ending
from .folders import open_run, remove_checkpoints
from .learners import derive_all, save_learners
from .program import parsed, program, saved
from .proof import verify
from .runs import run, run_beside_base

__all__ = [
    "derive_all",
    "ending",
    "main",
    "open_run",
    "parsed",
    "program",
    "remove_checkpoints",
    "run",
    "run_beside_base",
    "save_learners",
    "saved",
    "verify",
]
