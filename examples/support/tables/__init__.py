"""Tables of papers: a run for every row and seed, and what comes of them all.

Start with table.py: a row of a table. reading.py reads the tables of `experiments/`; cell.py is one
run of one row, which files.py keeps from the processes beside it; experiment.py is a table with its
cells, which report.py, chart.py and page.py show.

May import: settings, results.
"""

from .cell import Cell, Runner
from .experiment import Experiment, Line
from .page import write_page
from .reading import PRESETS, read_table, table_names
from .report import write
from .table import RUNNABLE

__all__ = [
    "PRESETS",
    "RUNNABLE",
    "Cell",
    "Experiment",
    "Line",
    "Runner",
    "read_table",
    "table_names",
    "write",
    "write_page",
]
