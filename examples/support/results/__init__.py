"""What comes of a run: rows with test errors, beside baselines.

Start with rows.py. baselines.py has the rows that others are compared with, saving.py writes
result.json, table.py is what people read, loggers.py where rows go besides the run folder.

May import: settings.
"""

from .baselines import BASELINES, baseline_rows
from .loggers import begin_services, log_report, logging_to
from .rows import Row, over_seeds, standard_error
from .saving import save_result
from .table import cost, result_table

__all__ = [
    "BASELINES",
    "Row",
    "baseline_rows",
    "begin_services",
    "cost",
    "log_report",
    "logging_to",
    "over_seeds",
    "result_table",
    "save_result",
    "standard_error",
]
