"""Where the cells of a table are run: in this process, in several, as tasks of a Ray cluster.

Start with launch.py: what a launcher is, and how cells go through one. in_turn.py, processes.py
and on_ray.py have one each, options.py chooses one on the command line.

May import: tables.
"""

from .in_turn import InTurn
from .launch import Ended, Launcher, launched
from .on_ray import OnRay
from .options import add_options, launcher_of
from .processes import Processes, run_child

__all__ = [
    "Ended",
    "InTurn",
    "Launcher",
    "OnRay",
    "Processes",
    "add_options",
    "launched",
    "launcher_of",
    "run_child",
]
